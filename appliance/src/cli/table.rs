//! The status for people: a few lines per volume, remote and replica.

use farside_protocol::control::{
    CopyProgress, HistorySummary, RemoteState, RemoteStatus, ReplicaStatus, Status, VolumeStatus, copy_risk,
    counted, damage_text, human_bytes,
};
use std::fmt::Write;

const BAR_CELLS: u64 = 20;

/// How to draw: with colours and block letters on a terminal, in plain ASCII elsewhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) terminal: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    Good,
    Busy,
    Bad,
}

/// Draws a status.
pub(super) fn draw(status: &Status, style: Style) -> String {
    let mut out = String::new();
    let unit = &status.unit;
    line(
        &mut out,
        format_args!(
            "unit {}  (farside {}, since {})",
            unit.name, status.version, unit.started_at
        ),
    );
    row(&mut out, "nbd", &unit.nbd_listen.join("  "));
    if !unit.iscsi_listen.is_empty() {
        row(&mut out, "iscsi", &unit.iscsi_listen.join("  "));
    }
    if !unit.link_listen.is_empty() {
        row(&mut out, "link", &unit.link_listen.join("  "));
    }
    if let Some(console) = &unit.console_listen {
        row(&mut out, "console", &format!("http://{console}/"));
    }
    if let Some(error) = &unit.config_error {
        row(&mut out, &style.word("WRONG CONFIGURATION", Tone::Bad), error);
    }
    if !unit.pending_restart.is_empty() {
        row(&mut out, "at restart", &unit.pending_restart.join(", "));
    }
    for volume in &status.volumes {
        draw_volume(&mut out, volume, style);
    }
    for replica in &status.replicas {
        draw_replica(&mut out, replica, style);
    }
    out
}

fn draw_volume(out: &mut String, volume: &VolumeStatus, style: Style) {
    let tone = if volume.state.is_faulty() {
        Tone::Bad
    } else {
        Tone::Good
    };
    let state = style.word(&json_word(volume.state), tone);
    let size = human_bytes(volume.size_bytes);
    line(
        out,
        format_args!(
            "\nvolume {}  {state}  {size}  {}{}",
            volume.name,
            if volume.read_only { "read only  " } else { "" },
            counted(volume.connections.into(), "connection")
        ),
    );
    if let Some(problem) = &volume.problem {
        row(out, "problem", problem);
    }
    row(
        out,
        "journal",
        &style.meter(volume.journal.used_bytes, volume.journal.size_bytes),
    );
    let at = &volume.positions;
    let positions = format!(
        "tail {}  acked {}  sent {}  durable {}  journaled {}  mirrored {}",
        at.tail, at.acked, at.sent, at.durable, at.journaled, at.mirrored
    );
    row(out, "records", &positions);
    let total = &volume.counters.since_start;
    let work = format!(
        "{} written  {} read  {} flushes  blocks: {} in buffer  {} sent  {} received",
        human_bytes(total.host_write_bytes),
        human_bytes(total.host_read_bytes),
        total.host_flushes,
        volume.buffer.blocks,
        total.blocks_sent,
        total.blocks_received
    );
    row(out, "work", &work);
    for remote in &volume.remotes {
        draw_remote(out, remote, style);
    }
}

fn draw_remote(out: &mut String, remote: &RemoteStatus, style: Style) {
    let tone = match remote.state {
        RemoteState::Streaming => Tone::Good,
        RemoteState::Refused => Tone::Bad,
        _ => Tone::Busy,
    };
    let state = style.word(&json_word(remote.state), tone);
    line(
        out,
        format_args!(
            "  remote {}  {state}  {}{}",
            remote.name,
            remote.address,
            encrypted(&remote.paired_with)
        ),
    );
    if let Some(detail) = &remote.detail {
        row(out, "  detail", detail);
    }
    let lag = &remote.lag;
    let text = format!(
        "{} records  {} blocks  {}  {:.1} s",
        lag.records,
        lag.blocks,
        human_bytes(lag.bytes),
        lag.seconds
    );
    row(out, "  lag", &text);
    let text = format!(
        "sent {}  received {}  applied {}",
        remote.sent, remote.received, remote.applied
    );
    row(out, "  records", &text);
    // Before a copy begins, while something can be done about it.
    if remote.state == RemoteState::NeedsCopy
        && let Some(risk) = copy_risk(remote.dirty_bytes, remote.history_room_bytes.unwrap_or(u64::MAX))
    {
        row(out, "  warning", &risk);
    }
    row(out, "  behind", &remote.likely_behind);
    if let Some(forecast) = &remote.forecast {
        row(out, "  forecast", &forecast.text());
    }
    row(
        out,
        "  consistent",
        consistency(remote.consistent, remote.consistent_up_to.as_deref()),
    );
    if let Some(rounds) = &remote.rounds {
        row(out, "  compared", &rounds.text());
    }
    if remote.merged_bytes > 0 {
        let saved = human_bytes(remote.merged_bytes);
        row(out, "  merged", &format!("{saved} did not have to be sent"));
    }
    if remote.damaged > 0 {
        row(out, "  damaged", &damage_text(remote.damaged));
    }
    if let Some(compression) = &remote.compression {
        row(out, "  compression", &compression.text());
    }
    draw_copy(out, remote.copy.as_ref(), style);
}

fn draw_replica(out: &mut String, replica: &ReplicaStatus, style: Style) {
    let tone = if replica.state.is_faulty() {
        Tone::Bad
    } else {
        Tone::Good
    };
    let state = style.word(&json_word(replica.state), tone);
    let attached = match replica.connections {
        0 => String::new(),
        some => format!("  {}", counted(some.into(), "connection")),
    };
    line(
        out,
        format_args!(
            "\nreplica {}  {state}  {}{attached}",
            replica.name,
            human_bytes(replica.size_bytes)
        ),
    );
    if let Some(problem) = &replica.problem {
        row(out, "problem", problem);
    }
    if let Some(aside) = replica.aside() {
        row(out, "image", &replica.image.path);
        row(out, "detail", &aside);
        return;
    }
    let link = if replica.connected {
        "connected"
    } else {
        "not connected"
    };
    let source = replica.source.as_ref();
    let source = source.map_or("nobody yet".to_owned(), |from| {
        format!(
            "{} at {}{}",
            from.unit,
            from.address,
            encrypted(&from.paired_with)
        )
    });
    row(out, "source", &format!("{source}, {link}"));
    row(
        out,
        "journal",
        &style.meter(replica.journal.used_bytes, replica.journal.size_bytes),
    );
    row(
        out,
        "records",
        &format!("received {}  applied {}", replica.received, replica.applied),
    );
    row(
        out,
        "consistent",
        consistency(replica.consistent, replica.consistent_up_to.as_deref()),
    );
    draw_copy(out, replica.copy.as_ref(), style);
    draw_history(out, &replica.history, style);
    for remote in &replica.remotes {
        draw_remote(out, remote, style);
    }
}

/// What is said of a link to or from a unit that proved who it is.
fn encrypted(paired_with: &Option<String>) -> String {
    match paired_with {
        Some(unit) => format!("  encrypted, unit {unit}"),
        None => String::new(),
    }
}

fn draw_history(out: &mut String, history: &HistorySummary, style: Style) {
    if let Some(problem) = &history.problem {
        row(out, "history", &format!("none: {problem}"));
    } else if history.size_bytes > 0 {
        let back_to = history
            .oldest
            .as_ref()
            .map_or("nothing yet", |oldest| oldest.time.as_str());
        let used = style.meter(history.used_bytes, history.size_bytes);
        row(out, "history", &format!("{used}  back to {back_to}"));
    }
}

fn draw_copy(out: &mut String, copy: Option<&CopyProgress>, style: Style) {
    if let Some(copy) = copy {
        let speed = human_bytes(copy.bytes_per_second);
        row(
            out,
            "  copy",
            &format!("{}  {speed}/s", style.meter(copy.done_bytes, copy.total_bytes)),
        );
    }
}

fn consistency(consistent: bool, up_to: Option<&str>) -> &str {
    match (consistent, up_to) {
        (true, Some(time)) => time,
        (true, None) => "yes",
        (false, _) => "not yet",
    }
}

impl Style {
    fn word(self, word: &str, tone: Tone) -> String {
        let colour = match tone {
            Tone::Good => 32,
            Tone::Busy => 33,
            Tone::Bad => 31,
        };
        if self.terminal {
            format!("\x1b[{colour}m{word}\x1b[0m")
        } else {
            word.to_owned()
        }
    }

    /// A bar, a percentage, and the figures it is made of.
    fn meter(self, part: u64, whole: u64) -> String {
        let (full, empty) = if self.terminal { ("█", "░") } else { ("#", ".") };
        let share = |of: u64| {
            (u128::from(part.min(whole)) * u128::from(of))
                .checked_div(u128::from(whole))
                .unwrap_or(0)
        };
        let cells = usize::try_from(share(BAR_CELLS)).unwrap_or(0);
        let rest = usize::try_from(BAR_CELLS).unwrap_or(0).saturating_sub(cells);
        let (bar, percent) = (full.repeat(cells) + &empty.repeat(rest), share(100));
        format!(
            "[{bar}] {percent:>3} %  {} of {}",
            human_bytes(part),
            human_bytes(whole)
        )
    }
}

fn row(out: &mut String, label: &str, text: &str) {
    line(out, format_args!("  {label:<12} {text}"));
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a String takes everything that is written to it");
}

/// The word for a state as the JSON has it.
pub(super) fn json_word(state: impl serde::Serialize) -> String {
    match serde_json::to_value(state) {
        Ok(serde_json::Value::String(text)) => text.replace('_', " "),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meters_are_right_at_both_ends_and_never_overflow() {
        let plain = Style { terminal: false };
        assert_eq!(plain.meter(0, 0), "[....................]   0 %  0 B of 0 B");
        assert_eq!(
            plain.meter(1 << 29, 1 << 30),
            "[##########..........]  50 %  512 MiB of 1.00 GiB"
        );
        assert!(
            plain
                .meter(u64::MAX, u64::MAX)
                .starts_with("[####################] 100 %")
        );
        assert!(plain.meter(9, 3).contains("100 %"));
    }

    #[test]
    fn nothing_but_text_goes_to_a_pipe() {
        let mut volume = VolumeStatus::out_of_service("disk0", 1 << 30, Some("gone".into()));
        volume.journal.size_bytes = 1 << 20;
        let mut text = String::new();
        draw_volume(&mut text, &volume, Style { terminal: false });
        assert!(
            text.is_ascii() && !text.contains('\x1b') && text.contains("volume disk0  failed  1.00 GiB"),
            "{text}"
        );
    }
}
