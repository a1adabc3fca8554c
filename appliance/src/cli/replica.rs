//! `farside replica`: the replicas of a unit, handed over and taken back.

use super::client::Client;
use super::exit::CliError;
use super::history::check_name;
use super::lasting::until_done;
use super::{output, table};
use farside_protocol::control::{DetachAt, ReplicaStatus, human_bytes};
use std::fmt::Write;

/// What can be done with a replica.
#[derive(Debug, clap::Subcommand)]
pub(super) enum ReplicaCommand {
    /// List the replicas
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop using the disk of a replica, so that another host can have it; the volume's unit keeps what is written meanwhile
    Detach {
        /// Name of the replica, which is that of its volume
        name: String,
        /// As it was then: a time, a record or a bookmark, as 'farside history list' shows; what changed since is put back
        #[arg(long, value_name = "MOMENT")]
        at: Option<String>,
    },
    /// Take the disk of a replica back; what was changed on it meanwhile is overwritten with what the volume has
    Attach {
        /// Name of the replica
        name: String,
    },
    /// Begin the replica of a volume with what its image holds already, before the volume's first greeting
    Adopt {
        /// Name of the volume
        name: String,
    },
}

/// Carries it out.
pub(super) async fn replica(client: &Client, command: ReplicaCommand) -> Result<(), CliError> {
    let (name, order) = match command {
        ReplicaCommand::List { json } => {
            let replicas = client.status().await?.replicas;
            return if json {
                output::print_json(&replicas)
            } else {
                output::print(&list(&replicas))
            };
        }
        ReplicaCommand::Detach { name, at: Some(at) } => {
            check_name(&name)?;
            return until_done(client.detach_at(&name, &DetachAt { at }).await?).await;
        }
        ReplicaCommand::Detach { name, at: None } => (name, "detach"),
        ReplicaCommand::Attach { name } => (name, "attach"),
        ReplicaCommand::Adopt { name } => (name, "adopt"),
    };
    check_name(&name)?;
    let reply = client.replica(&name, order).await?;
    output::print(&format!("{}\n", reply.message))
}

fn list(replicas: &[ReplicaStatus]) -> String {
    let names = replicas.iter().map(|replica| replica.name.len());
    let width = names.chain([8]).max().unwrap_or(8);
    let mut text = format!("{:<width$} {:>10}  {:<10} IMAGE\n", "NAME", "SIZE", "STATE");
    for replica in replicas {
        writeln!(
            text,
            "{:<width$} {:>10}  {:<10} {}",
            replica.name,
            human_bytes(replica.size_bytes),
            table::json_word(replica.state),
            replica.image.path
        )
        .expect("a String takes everything");
    }
    text
}
