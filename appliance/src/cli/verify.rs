//! `farside verify`: compares a volume with its remotes.

use super::client::Client;
use super::exit::{CliError, Exit};
use super::journal::volume_or_only;
use super::{limits, output, run};
use crate::config::is_name;
use farside_protocol::control::{RemoteVerify, StartVerify, VerifyPhase, VerifyStatus, human_bytes};
use std::fmt::Write;
use std::io::IsTerminal;

/// Options of `farside verify`. It waits for the end, and ends the comparison when it is interrupted.
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// The volume; can be left away if there is only one
    #[arg(long, value_name = "NAME")]
    volume: Option<String>,
    /// Compare with this remote only
    #[arg(long, value_name = "NAME")]
    remote: Option<String>,
    /// Send again what differs: the volume is right, the remote is not
    #[arg(long, conflicts_with_all = ["status", "stop"])]
    repair: bool,
    /// Begin nothing; show what is under way, or what the last comparison found
    #[arg(long)]
    status: bool,
    /// End a comparison that is under way
    #[arg(long, conflicts_with = "status")]
    stop: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Carries it out.
pub(super) async fn verify(client: &Client, args: &VerifyArgs) -> Result<(), CliError> {
    let volume = volume_or_only(client, args.volume.clone()).await?;
    let remote = args.remote.as_deref();
    if let Some(name) = remote.filter(|name| !is_name(name)) {
        let message = format!("'{}' cannot be the name of a remote", name.escape_default());
        return Err(CliError::new(Exit::Usage, message));
    }
    let found = if args.stop {
        client.stop_verify(&volume, remote).await?
    } else if args.status {
        client.verify_status(&volume, remote).await?
    } else {
        let start = StartVerify {
            remote: args.remote.clone(),
            repair: args.repair,
        };
        let begun = client.start_verify(&volume, &start).await?;
        until_the_end(client, &begun, remote).await?
    };
    if args.json {
        output::print_json(&found)?;
    } else {
        output::print(&table(&found))?;
    }
    if args.stop {
        return Ok(());
    }
    // What differs was printed.
    if found.remotes.iter().any(|remote| remote.identical == Some(false)) {
        return Err(CliError::new(Exit::Differs, ""));
    }
    let stopped = |remote: &&RemoteVerify| remote.state == VerifyPhase::Stopped;
    match found.remotes.iter().find(stopped) {
        Some(remote) if !args.status => Err(CliError::failure(format!(
            "the comparison with remote {} was stopped, by 'farside verify --stop' or because its link was set up anew; begin \
             again",
            remote.remote
        ))),
        _ => Ok(()),
    }
}

async fn until_the_end(
    client: &Client,
    begun: &VerifyStatus,
    remote: Option<&str>,
) -> Result<VerifyStatus, CliError> {
    let mut interrupted = std::pin::pin!(run::told_to_stop());
    let (volume, shows) = (&begun.volume, std::io::stderr().is_terminal());
    loop {
        tokio::select! {
            () = tokio::time::sleep(limits::VERIFY_INTERVAL) => {}
            told = &mut interrupted => {
                told?;
                client.stop_verify(volume, remote).await?;
                return Err(CliError::failure("interrupted; the comparison was ended"));
            }
        }
        let found = client.verify_status(volume, remote).await?;
        if shows {
            show(&format!("\r\x1b[K{}", progress(&found)));
        }
        // One that is gone, or that nothing is known of any more, was not compared.
        let lost = begun.remotes.iter().find(|one| {
            let now = found.remotes.iter().find(|now| now.remote == one.remote);
            now.is_none_or(|now| now.state == VerifyPhase::Never)
        });
        if let Some(lost) = lost {
            return Err(CliError::failure(format!(
                "the comparison with remote {} was ended: the remote was taken out; begin again",
                lost.remote
            )));
        }
        if found
            .remotes
            .iter()
            .all(|remote| remote.state != VerifyPhase::Running)
        {
            if shows {
                show("\r\x1b[K");
            }
            return Ok(found);
        }
    }
}

fn show(text: &str) {
    std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).ok();
}

fn percent(remote: &RemoteVerify) -> u64 {
    remote.compared_bytes.saturating_mul(100) / remote.total_bytes.max(1)
}

fn progress(found: &VerifyStatus) -> String {
    let each = found.remotes.iter().map(|remote| {
        let mut text = format!(
            "{}: {} % of {}, {}/s",
            remote.remote,
            percent(remote),
            human_bytes(remote.total_bytes),
            human_bytes(remote.bytes_per_second)
        );
        if remote.differing_bytes > 0 {
            write!(text, ", {} differ", human_bytes(remote.differing_bytes))
                .expect("a String takes everything");
        }
        if let Some(detail) = &remote.detail {
            write!(text, ", {detail}").expect("a String takes everything");
        }
        text
    });
    each.collect::<Vec<_>>().join("; ")
}

fn table(found: &VerifyStatus) -> String {
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("a String takes everything");
    for remote in &found.remotes {
        let name = format!("{} and remote {}", found.volume, remote.remote);
        match remote.state {
            VerifyPhase::Never => line(format!("{name}: not compared since the unit was started")),
            VerifyPhase::Running | VerifyPhase::Stopped => line(format!(
                "{name}: {}, {} % of {} compared, {} differ{}",
                if remote.state == VerifyPhase::Running {
                    "under way"
                } else {
                    "stopped"
                },
                percent(remote),
                human_bytes(remote.total_bytes),
                human_bytes(remote.differing_bytes),
                remote
                    .detail
                    .as_ref()
                    .map_or_else(String::new, |detail| format!("; {detail}")),
            )),
            VerifyPhase::Done => line(done(&name, remote)),
        }
        if !remote.differing.is_empty() {
            line("          OFFSET       LENGTH".to_owned());
        }
        for range in &remote.differing {
            line(format!("{:>16} {:>12}", range.offset, range.length));
        }
        let listed: u64 = remote.differing.iter().map(|range| range.length).sum();
        if listed < remote.differing_bytes {
            line(format!(
                "and {} more in other places",
                human_bytes(remote.differing_bytes - listed)
            ));
        }
    }
    text
}

fn done(name: &str, remote: &RemoteVerify) -> String {
    let records = match (remote.first_record, remote.last_record) {
        (Some(first), Some(last)) if first != last => format!(" between records {first} and {last}"),
        (Some(record), _) => format!(" at record {record}"),
        _ => String::new(),
    };
    let compared = format!("{} compared{records}", human_bytes(remote.compared_bytes));
    let repaired = human_bytes(remote.repaired_bytes);
    match (remote.identical == Some(true), remote.differing_bytes) {
        (true, 0) => format!("{name} are the same: {compared}"),
        (true, _) => format!("{name} are the same again: {compared}, {repaired} differed and were repaired"),
        (false, differing) => format!(
            "{name} DIFFER in {}: {compared}, {repaired} repaired; 'farside verify --repair' sends again what differs",
            human_bytes(differing)
        ),
    }
}
