//! `farside journal`: whether records are kept for remotes, and whether they are sent.

use super::client::Client;
use super::exit::{CliError, Exit};
use super::output;
use crate::config::is_name;
use farside_protocol::control::{SetFlow, Status};

/// What can be done with the queue of a volume. It stays so through restarts: the configuration file says it.
#[derive(Debug, clap::Subcommand)]
pub(super) enum JournalCommand {
    /// Send nothing more; the journal keeps everything as long as there is room
    StopSend(WhichArgs),
    /// Send again, from where it was stopped
    StartSend(WhichArgs),
    /// Keep nothing more in the journal; what is queued is still sent
    StopQueue(WhichArgs),
    /// Keep records again; a remote that missed some gets what changed first
    StartQueue(WhichArgs),
    /// Give up what is queued: only what it changed is sent, once, as it is by then
    Discard(WhichArgs),
}

/// For which remotes.
#[derive(Debug, clap::Args)]
pub(super) struct WhichArgs {
    /// The volume; can be left away if there is only one
    #[arg(long, value_name = "NAME")]
    volume: Option<String>,
    /// This remote only, instead of all of the volume
    #[arg(long, value_name = "NAME")]
    remote: Option<String>,
}

/// Carries out a journal command.
pub(super) async fn journal(client: &Client, command: JournalCommand) -> Result<(), CliError> {
    let (which, send, queue) = match command {
        JournalCommand::Discard(which) => return discard(client, which).await,
        JournalCommand::StopSend(which) => (which, Some(false), None),
        JournalCommand::StartSend(which) => (which, Some(true), None),
        JournalCommand::StopQueue(which) => (which, None, Some(false)),
        JournalCommand::StartQueue(which) => (which, None, Some(true)),
    };
    let volume = volume_or_only(client, which.volume).await?;
    let flow = SetFlow {
        volume,
        remote: which.remote,
        send,
        queue,
    };
    let reply = client.set_flow(&flow).await?;
    output::print(&format!("{}\n", reply.message))
}

async fn discard(client: &Client, which: WhichArgs) -> Result<(), CliError> {
    let volume = volume_or_only(client, which.volume).await?;
    if let Some(remote) = which.remote.as_ref().filter(|remote| !is_name(remote)) {
        let message = format!("'{}' cannot be the name of a remote", remote.escape_default());
        return Err(CliError::new(Exit::Usage, message));
    }
    let reply = client.discard_queue(&volume, which.remote.as_deref()).await?;
    output::print(&format!("{}\n", reply.message))
}

/// The volume named, or the only one there is.
pub(super) async fn volume_or_only(client: &Client, named: Option<String>) -> Result<String, CliError> {
    match named {
        Some(name) if is_name(&name) => Ok(name),
        Some(name) => {
            let message = format!("'{}' cannot be the name of a volume", name.escape_default());
            Err(CliError::new(Exit::Usage, message))
        }
        None => only_volume(&client.status().await?),
    }
}

fn only_volume(status: &Status) -> Result<String, CliError> {
    match status.volumes.as_slice() {
        [one] => Ok(one.name.clone()),
        [] => Err(CliError::failure("this unit has no volume")),
        several => {
            let names: Vec<_> = several.iter().map(|volume| volume.name.as_str()).collect();
            let text = format!("name one of the volumes with --volume: {}", names.join(", "));
            Err(CliError::new(Exit::Usage, text))
        }
    }
}
