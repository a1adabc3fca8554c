//! `farside volume`.

use super::client::Client;
use super::exit::{CliError, Exit};
use super::{output, run, table};
use crate::config::{is_name, size};
use farside_protocol::control::{CreateVolume, RemoteAddress, RemoveVolume, VolumeStatus, human_bytes};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Least width of the names in a list; longer ones widen it.
const NAME_COLUMNS: usize = 20;

/// What can be done with volumes.
#[derive(Debug, clap::Subcommand)]
pub(super) enum VolumeCommand {
    /// Create a volume in the running unit and in its configuration file
    Create(CreateArgs),
    /// List the volumes
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a volume larger while hosts use it; what is new reads as zeroes, also at its remotes
    Resize {
        /// Name of the volume
        name: String,
        /// New size of the disk, as in 40G
        #[arg(long, value_parser = size::parse_size)]
        size: u64,
    },
    /// Take a volume out of service and out of the configuration file
    Remove {
        /// Name of the volume
        name: String,
        /// Delete mirror and journal too; without it they stay, and the answer says where
        #[arg(long)]
        delete_data: bool,
        /// Detach hosts that are connected
        #[arg(long)]
        force: bool,
    },
}

/// What a new volume is to be.
#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    /// Name, and name of the export: A-Z a-z 0-9 . _ -
    name: String,
    /// Size of the disk, as in 20G; with --adopt by default that of what is adopted
    #[arg(long, value_parser = size::parse_size, required_unless_present = "adopt")]
    size: Option<u64>,
    /// Size of the journal [default: 512M]
    #[arg(long, value_parser = size::parse_size)]
    journal: Option<u64>,
    /// Mirror file or block device, instead of a file in the volumes directory
    #[arg(long, value_name = "PATH")]
    mirror: Option<PathBuf>,
    /// Journal file or block device, instead of a file in the volumes directory
    #[arg(long, value_name = "PATH")]
    journal_path: Option<PathBuf>,
    /// Where to send it; may be given several times
    #[arg(long, value_name = "NAME=HOST:PORT", value_parser = parse_remote)]
    remote: Vec<RemoteAddress>,
    /// Take files that hold data which is not Farside's; it is overwritten
    #[arg(long)]
    force: bool,
    /// Begin with what the mirror holds already, in place: an existing disk or image
    #[arg(long, conflicts_with = "force")]
    adopt: bool,
}

/// Carries out a volume command.
pub(super) async fn volume(client: &Client, command: VolumeCommand) -> Result<(), CliError> {
    match command {
        VolumeCommand::Create(args) => {
            let reply = client.create(&create_command(args)?).await?;
            output::print(&format!("{}\n", reply.message))
        }
        VolumeCommand::List { json } => {
            let volumes = client.status().await?.volumes;
            if json {
                output::print_json(&volumes)
            } else {
                output::print(&list(&volumes))
            }
        }
        VolumeCommand::Resize { name, size } => {
            check_name(&name)?;
            let reply = client.resize(&name, size).await?;
            output::print(&format!("{}\n", reply.message))
        }
        VolumeCommand::Remove {
            name,
            delete_data,
            force,
        } => {
            check_name(&name)?;
            let reply = client
                .remove(&RemoveVolume {
                    name,
                    delete_data,
                    force,
                })
                .await?;
            output::print(&format!("{}\n", reply.message))
        }
    }
}

fn check_name(name: &str) -> Result<(), CliError> {
    if is_name(name) {
        return Ok(());
    }
    let message = format!("'{}' cannot be the name of a volume", name.escape_default());
    Err(CliError::new(Exit::Usage, message))
}

fn create_command(args: CreateArgs) -> Result<CreateVolume, CliError> {
    // The unit runs elsewhere: a path means what it means here.
    let path = |path: Option<PathBuf>| path.map(|path| path_text(&path)).transpose();
    Ok(CreateVolume {
        name: args.name,
        size: args.size.map(size::format_size).unwrap_or_default(),
        journal_size: args.journal.map(size::format_size),
        mirror: path(args.mirror)?,
        journal: path(args.journal_path)?,
        remotes: args.remote,
        force: args.force,
        adopt: args.adopt,
    })
}

fn path_text(path: &Path) -> Result<String, CliError> {
    let absolute = run::absolute(path)?;
    absolute.to_str().map(str::to_owned).ok_or_else(|| {
        CliError::new(
            Exit::Usage,
            format!(
                "{} is not UTF-8 and cannot stand in the configuration",
                path.display()
            ),
        )
    })
}

fn parse_remote(text: &str) -> Result<RemoteAddress, String> {
    let parts = text
        .split_once('=')
        .filter(|(name, address)| !name.is_empty() && !address.is_empty());
    let (name, address) = parts.ok_or("write NAME=HOST:PORT, as in far=127.0.0.1:10900")?;
    Ok(RemoteAddress {
        name: name.to_owned(),
        address: address.to_owned(),
    })
}

fn list(volumes: &[VolumeStatus]) -> String {
    let names = volumes.iter().map(|volume| volume.name.len());
    let width = names.chain([NAME_COLUMNS]).max().unwrap_or(NAME_COLUMNS);
    let mut text = format!(
        "{:<width$} {:>10} {:>10}  {:<10} REMOTES\n",
        "NAME", "SIZE", "JOURNAL", "STATE"
    );
    for volume in volumes {
        let remotes: Vec<_> = volume.remotes.iter().map(|remote| remote.name.as_str()).collect();
        writeln!(
            text,
            "{:<width$} {:>10} {:>10}  {:<10} {}",
            volume.name,
            human_bytes(volume.size_bytes),
            human_bytes(volume.journal.size_bytes),
            table::json_word(volume.state),
            if remotes.is_empty() {
                "-".to_owned()
            } else {
                remotes.join(", ")
            }
        )
        .expect("a String takes everything that is written to it");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stay_in_line_whatever_the_names_are() {
        let long = "n".repeat(32);
        let volumes = ["a", long.as_str()].map(|name| VolumeStatus::out_of_service(name, 1 << 30, None));
        let text = list(&volumes);
        let states: Vec<_> = text.lines().skip(1).map(|line| line.find("starting")).collect();
        assert_eq!(states[0], text.lines().next().and_then(|head| head.find("STATE")));
        assert_eq!(states[0], states[1], "{text}");
    }
}
