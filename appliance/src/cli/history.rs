//! `farside history`: the past of a replica.

use super::client::Client;
use super::exit::{CliError, Exit};
use super::lasting::until_done;
use super::{output, run};
use crate::config::is_name;
use farside_protocol::control::{
    AddBookmark, AskChanges, AskHistory, HistoryStatus, MomentStatus, OpenView, Progress, RestoreFile,
    Status, human_bytes,
};
use std::fmt::Write;
use std::path::PathBuf;

/// How a moment is named on the command line.
const MOMENT: &str = "a record number, a bookmark, a time (2026-11-22T14:03:05Z, or '2026-11-22 14:03:05' of this \
                      machine's zone), a while ('10m ago'), or now";

/// What can be done with the past of a replica. All of it is asked of the unit that keeps the replica.
#[derive(Debug, clap::Subcommand)]
pub(super) enum HistoryCommand {
    /// Show which moments can be viewed, and the bookmarks
    List {
        #[command(flatten)]
        replica: ReplicaArgs,
        /// Show so many of the newest moments [default: 20]
        #[arg(long)]
        limit: Option<u32>,
        /// Show moments up to this one
        #[arg(long, value_name = "MOMENT", help = until_help())]
        until: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let NBD clients attach the disk as it was, read-only, until interrupted
    View {
        #[command(flatten)]
        replica: ReplicaArgs,
        /// Which moment
        #[arg(long, value_name = "MOMENT", help = at_help())]
        at: String,
        /// Where clients attach: the path of a unix socket that is made for it
        #[arg(long, value_name = "PATH")]
        nbd_socket: PathBuf,
        /// Clients can write; what they wrote is forgotten at the end
        #[arg(long)]
        scratch: bool,
    },
    /// Give a moment a name and keep it for as long as there is room for what comes after it
    Bookmark {
        /// The name: A-Z a-z 0-9 . _ -, not digits only
        name: String,
        #[command(flatten)]
        replica: ReplicaArgs,
        /// Which moment; what has been received now, if left away
        #[arg(long, value_name = "MOMENT", help = bookmark_help())]
        at: Option<String>,
        /// Take the name away instead
        #[arg(long, conflicts_with = "at")]
        remove: bool,
    },
    /// Show what was overwritten between two moments
    Diff {
        #[command(flatten)]
        replica: ReplicaArgs,
        /// The earlier moment
        #[arg(long, value_name = "MOMENT", help = from_help())]
        from: String,
        /// The later moment [default: now]
        #[arg(long, value_name = "MOMENT")]
        to: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Copy the disk as it was into a new file
    Restore {
        #[command(flatten)]
        replica: ReplicaArgs,
        /// Which moment
        #[arg(long, value_name = "MOMENT", help = at_help())]
        at: String,
        /// The file that is made
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
}

fn at_help() -> String {
    format!("Which moment: {MOMENT}")
}

fn until_help() -> String {
    format!("Show moments up to this one: {MOMENT}")
}

fn from_help() -> String {
    format!("The earlier moment: {MOMENT}")
}

fn bookmark_help() -> String {
    format!("Which moment: {MOMENT} [default: what has been received now]")
}

/// Whose past.
#[derive(Debug, clap::Args)]
pub(super) struct ReplicaArgs {
    /// Name of the volume, which is that of its replica; can be left away if the unit keeps only one
    #[arg(long, value_name = "NAME")]
    volume: Option<String>,
}

/// Carries out a history command.
pub(super) async fn history(client: &Client, command: HistoryCommand) -> Result<(), CliError> {
    match command {
        HistoryCommand::List {
            replica,
            limit,
            until,
            json,
        } => {
            let name = replica.name(client).await?;
            let history = client.history(&name, &AskHistory { limit, until }).await?;
            if json {
                output::print_json(&history)
            } else {
                output::print(&list(&history))
            }
        }
        HistoryCommand::View {
            replica,
            at,
            nbd_socket,
            scratch,
        } => {
            let name = replica.name(client).await?;
            let open = OpenView {
                at,
                nbd_socket: path_text(&nbd_socket)?,
                scratch,
            };
            view(client, &name, &open).await
        }
        HistoryCommand::Bookmark {
            name,
            replica,
            at,
            remove,
        } => {
            let volume = replica.name(client).await?;
            let reply = if remove {
                check_name(&name)?;
                client.remove_bookmark(&volume, &name).await?
            } else {
                client.add_bookmark(&volume, &AddBookmark { name, at }).await?
            };
            output::print(&format!("{}\n", reply.message))
        }
        HistoryCommand::Diff {
            replica,
            from,
            to,
            json,
        } => {
            let name = replica.name(client).await?;
            diff(client, &name, &AskChanges { from, to }, json).await
        }
        HistoryCommand::Restore { replica, at, output } => {
            let name = replica.name(client).await?;
            let file = path_text(&output)?;
            restore(client, &name, &RestoreFile { at, file }).await
        }
    }
}

async fn diff(client: &Client, name: &str, ask: &AskChanges, json: bool) -> Result<(), CliError> {
    let changes = client.changes(name, ask).await?;
    if json {
        return output::print_json(&changes);
    }
    let mut text = format!(
        "{} overwritten from {} to {}\n",
        human_bytes(changes.bytes),
        moment(&changes.from),
        moment(&changes.to)
    );
    if !changes.ranges.is_empty() {
        text.push_str("          OFFSET       LENGTH\n");
    }
    for range in &changes.ranges {
        writeln!(text, "{:>16} {:>12}", range.offset, range.length).expect("a String takes everything");
    }
    output::print(&text)
}

impl ReplicaArgs {
    async fn name(&self, client: &Client) -> Result<String, CliError> {
        if let Some(name) = &self.volume {
            check_name(name)?;
            return Ok(name.clone());
        }
        only_replica(&client.status().await?)
    }
}

fn only_replica(status: &Status) -> Result<String, CliError> {
    match status.replicas.as_slice() {
        [one] => Ok(one.name.clone()),
        [] => Err(CliError::failure(
            "this unit keeps no replica; ask the unit that does, with --socket",
        )),
        several => {
            let names: Vec<_> = several.iter().map(|replica| replica.name.as_str()).collect();
            let text = format!("name one of the replicas with --volume: {}", names.join(", "));
            Err(CliError::new(Exit::Usage, text))
        }
    }
}

pub(super) fn check_name(name: &str) -> Result<(), CliError> {
    if is_name(name) {
        return Ok(());
    }
    let message = format!("'{}' cannot be a name here", name.escape_default());
    Err(CliError::new(Exit::Usage, message))
}

pub(super) fn path_text(path: &std::path::Path) -> Result<String, CliError> {
    let absolute = run::absolute(path)?;
    let text = absolute.to_str().map(str::to_owned);
    text.ok_or_else(|| CliError::new(Exit::Usage, format!("{} is not UTF-8", path.display())))
}

fn moment(moment: &MomentStatus) -> String {
    format!("record {} ({})", moment.sequence, moment.time)
}

fn list(history: &HistoryStatus) -> String {
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("a String takes everything");
    let summary = &history.summary;
    line(format!(
        "history of {}: {} of {} used",
        history.volume,
        human_bytes(summary.used_bytes),
        human_bytes(summary.size_bytes)
    ));
    if let Some(problem) = &summary.problem {
        line(format!("  PROBLEM  {problem}"));
    }
    for (word, found) in [("oldest", &summary.oldest), ("newest", &summary.newest)] {
        let shown = found.as_ref().map_or_else(|| "none".to_owned(), moment);
        line(format!("  {word}   {shown}"));
    }
    if !history.named.is_empty() {
        line("\nBOOKMARK                             RECORD  TIME".to_owned());
    }
    for bookmark in &history.named {
        let lost = if bookmark.kept {
            ""
        } else {
            "  LOST: the history was full"
        };
        line(format!(
            "{:<32} {:>10}  {}{lost}",
            bookmark.name, bookmark.sequence, bookmark.time
        ));
    }
    if !history.moments.is_empty() {
        line("\n    RECORD  TIME".to_owned());
    }
    for moment in &history.moments {
        line(format!("{:>10}  {}", moment.sequence, moment.time));
    }
    text
}

async fn view(client: &Client, name: &str, open: &OpenView) -> Result<(), CliError> {
    let mut interrupted = std::pin::pin!(run::told_to_stop());
    let mut said = tokio::select! {
        said = client.open_view(name, open) => said?,
        told = &mut interrupted => return told,
    };
    loop {
        let next = tokio::select! {
            next = said.next() => next?,
            told = &mut interrupted => return told,
        };
        match next {
            Some(Progress::Ready {
                moment: at,
                size_bytes,
            }) => {
                let socket = output::shell_word(std::path::Path::new(&open.nbd_socket));
                output::print(&format!(
                    "{name} as of {}, {}, {}\nattach: nbd+unix:///{name}?socket={socket}\nCtrl-C ends it\n",
                    moment(&at),
                    human_bytes(size_bytes),
                    if open.scratch {
                        "what is written is forgotten at the end"
                    } else {
                        "read-only"
                    },
                ))?;
            }
            Some(Progress::Failed { message }) => return Err(CliError::failure(message)),
            Some(Progress::Copied { .. } | Progress::Done { .. }) => {}
            None => return Err(CliError::failure("the unit has ended the view; look at its log")),
        }
    }
}

async fn restore(client: &Client, name: &str, restore: &RestoreFile) -> Result<(), CliError> {
    until_done(client.restore(name, restore).await?).await
}
