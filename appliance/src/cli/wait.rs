//! `farside wait`: returns once everything journaled at the time of the call is safe where it was asked to be.

use super::client::Client;
use super::exit::{CliError, Exit};
use super::limits;
use farside_protocol::control::{RemoteStatus, VolumeState, VolumeStatus};
use std::time::Duration;
use tokio::time::Instant;

/// What `farside wait` is given.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("until").required(true).args(["applied", "received", "durable"]))]
pub(super) struct WaitArgs {
    /// The volume
    #[arg(long)]
    volume: String,
    /// Until the remotes have it in their image, which is then consistent
    #[arg(long)]
    applied: bool,
    /// Until the remotes have it on stable storage
    #[arg(long)]
    received: bool,
    /// Until this unit has it on stable storage
    #[arg(long)]
    durable: bool,
    /// This remote only, instead of all
    #[arg(long, conflicts_with = "durable")]
    remote: Option<String>,
    /// How long to wait: 500ms, 60s, 5m, 1h
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
}

/// Waits, or says where it stands when the time is up.
pub(super) async fn wait(client: &Client, args: &WaitArgs) -> Result<(), CliError> {
    let deadline = Instant::now() + args.timeout;
    let mut target = None;
    let mut stands = "the volume is still starting".to_owned();
    loop {
        match look(client, &args.volume).await {
            Ok(volume) => {
                if let Some(target) = goal(&mut target, &volume)? {
                    match behind(args, &volume, target)? {
                        None => return Ok(()),
                        Some(text) => stands = text,
                    }
                }
            }
            // A unit that restarts meanwhile has forgotten nothing; one that never answered is an error at once.
            Err(error) if error.exit == Exit::Unreachable && target.is_some() => stands = error.message,
            Err(error) => return Err(error),
        }
        if Instant::now() >= deadline {
            let message = format!("not within {:?}: {stands}", args.timeout);
            return Err(CliError::new(Exit::Timeout, message));
        }
        tokio::time::sleep(limits::WAIT_INTERVAL).await;
    }
}

async fn look(client: &Client, name: &str) -> Result<VolumeStatus, CliError> {
    let volumes = client.status().await?.volumes;
    let names = volumes
        .iter()
        .map(|volume| volume.name.clone())
        .collect::<Vec<_>>()
        .join(", ");
    volumes
        .into_iter()
        .find(|volume| volume.name == name)
        .ok_or_else(|| {
            CliError::failure(format!(
                "there is no volume '{}' here; there are: {names}",
                name.escape_default()
            ))
        })
}

/// Decides once what to wait for; `None` while the volume cannot say yet.
fn goal(target: &mut Option<u64>, volume: &VolumeStatus) -> Result<Option<u64>, CliError> {
    match volume.state {
        VolumeState::Failed => {
            let problem = volume.problem.as_deref().unwrap_or("see the unit's log");
            Err(CliError::failure(format!(
                "volume {} is not in service: {problem}",
                volume.name
            )))
        }
        VolumeState::Starting => Ok(*target),
        _ => Ok(Some(*target.get_or_insert(volume.positions.journaled))),
    }
}

/// Where it stands, or `None` if there is nothing left to wait for.
fn behind(args: &WaitArgs, volume: &VolumeStatus, target: u64) -> Result<Option<String>, CliError> {
    if args.durable {
        let at = volume.positions.durable;
        return Ok((at < target).then(|| format!("durable up to record {at} of {target}")));
    }
    let wanted = |remote: &&RemoteStatus| args.remote.as_ref().is_none_or(|name| *name == remote.name);
    let remotes: Vec<_> = volume.remotes.iter().filter(wanted).collect();
    if remotes.is_empty() {
        let which = args
            .remote
            .as_ref()
            .map_or("no remotes".to_owned(), |name| format!("no remote '{name}'"));
        return Err(CliError::failure(format!("volume {} has {which}", volume.name)));
    }
    let texts: Vec<_> = remotes
        .iter()
        .filter_map(|remote| remote_behind(args.applied, remote, target))
        .collect();
    Ok((!texts.is_empty()).then(|| texts.join("; ")))
}

fn remote_behind(applied: bool, remote: &RemoteStatus, target: u64) -> Option<String> {
    let (word, at) = if applied {
        ("applied", remote.applied)
    } else {
        ("received", remote.received)
    };
    // During a copy the image runs ahead of its meaning: only a consistent one counts as applied.
    if at >= target && (remote.consistent || !applied) {
        return None;
    }
    let state = remote.state.word();
    let detail = remote
        .detail
        .as_ref()
        .map(|text| format!(", {text}"))
        .unwrap_or_default();
    let copying = if remote.consistent || !applied {
        ""
    } else {
        ", not consistent yet"
    };
    // What a remote has applied is not kept across a restart of this unit: only the remote can say.
    let stands = if applied && at == 0 && !remote.state.is_connected() {
        format!("its applied position is unknown since this start, wanted is record {target}")
    } else {
        format!("has {word} record {at} of {target}{copying}")
    };
    Some(format!("remote {} ({state}{detail}) {stands}", remote.name))
}

/// Reads `500ms`, `60s`, `5m`, `1h`; a bare number is seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused = || {
        format!(
            "'{}' is not a time: write a number and ms, s, m or h, as in 60s",
            text.escape_debug()
        )
    };
    let end = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: u64 = number.parse().map_err(|_| refused())?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" | "" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(refused()),
    };
    // A year is as good as for ever, and keeps the arithmetic of clocks out of trouble.
    let year = 365 * 24 * 3_600_000;
    Ok(Duration::from_millis(
        number.saturating_mul(milliseconds).min(year),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use farside_protocol::control::{Lag, RemoteState};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        wait: WaitArgs,
    }

    fn args(line: &[&str]) -> WaitArgs {
        Line::try_parse_from([&["wait", "--volume", "d"], line].concat())
            .ok()
            .unwrap()
            .wait
    }

    fn volume(received: u64, applied: u64, consistent: bool) -> VolumeStatus {
        let mut volume = VolumeStatus::out_of_service("d", 4096, None);
        volume.state = VolumeState::Healthy;
        volume.positions.journaled = 10;
        volume.positions.durable = 9;
        volume.remotes = vec![RemoteStatus {
            name: "r".into(),
            address: "127.0.0.1:1".into(),
            paired_with: None,
            state: RemoteState::Copying,
            detail: None,
            rounds: None,
            merged_bytes: 0,
            damaged: 0,
            compression: None,
            sent: received,
            received,
            applied,
            lag: Lag::default(),
            consistent_up_to: None,
            consistent,
            likely_behind: String::new(),
            copy: None,
            dirty_bytes: 0,
            history_room_bytes: None,
            forecast: None,
        }];
        volume
    }

    #[test]
    fn each_goal_is_reached_at_its_own_position_and_not_before() {
        let done = |line: &[&str], volume: &VolumeStatus| behind(&args(line), volume, 10).unwrap().is_none();
        assert!(done(&["--applied"], &volume(10, 10, true)));
        assert!(!done(&["--applied"], &volume(10, 9, true)));
        assert!(
            !done(&["--applied"], &volume(10, 10, false)),
            "an image in the middle of a copy is no state"
        );
        assert!(done(&["--received"], &volume(10, 2, false)));
        assert!(!done(&["--received"], &volume(9, 9, true)));
        assert!(!done(&["--durable"], &volume(10, 10, true)));
        assert!(done(&["--applied", "--remote", "r"], &volume(10, 10, true)));
        assert!(behind(&args(&["--applied", "--remote", "x"]), &volume(10, 10, true), 10).is_err());
    }

    #[test]
    fn a_position_nobody_has_told_yet_is_called_unknown() {
        let mut away = volume(10, 0, true);
        away.remotes[0].state = RemoteState::Waiting;
        let applied = behind(&args(&["--applied"]), &away, 10).unwrap().unwrap();
        assert!(applied.contains("unknown since this start"), "{applied}");
        away.remotes[0].received = 3;
        let received = behind(&args(&["--received"]), &away, 10).unwrap().unwrap();
        assert!(received.contains("received record 3 of 10"), "{received}");
        let told = behind(&args(&["--applied"]), &volume(10, 0, true), 10)
            .unwrap()
            .unwrap();
        assert!(told.contains("applied record 0 of 10"), "{told}");
    }

    #[test]
    fn a_volume_that_is_starting_is_never_taken_for_an_empty_one() {
        let mut starting = volume(0, 0, true);
        starting.state = VolumeState::Starting;
        starting.positions.journaled = 0;
        let mut target = None;
        assert_eq!(goal(&mut target, &starting).unwrap(), None);
        assert_eq!(goal(&mut target, &volume(0, 0, true)).unwrap(), Some(10));
        assert_eq!(goal(&mut target, &starting).unwrap(), Some(10));
        starting.state = VolumeState::Failed;
        assert!(goal(&mut target, &starting).is_err());
    }

    #[test]
    fn times_people_write_are_understood_and_others_refused() {
        for (text, milliseconds) in [
            ("500ms", 500),
            ("60s", 60_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("7", 7000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)));
        }
        for text in ["", "s", "-1s", "1.5s", "1 s", "1d", "99999999999999999999s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
