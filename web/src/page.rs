//! The page of the console: one screen, drawn here, no script.

use crate::limits::PAGE_REFRESH_SECONDS;
use farside_protocol::control::{
    CopyProgress, RemoteState, RemoteStatus, ReplicaStatus, Status, VersionInfo, VolumeStatus, copy_risk,
    damage_text, human_bytes,
};
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");

/// Draws the state of the unit as HTML. All text that came from outside is escaped.
pub(crate) fn render(status: &Status) -> String {
    let mut body = String::new();
    banner(&mut body, status);
    for volume in &status.volumes {
        volume_card(&mut body, volume);
    }
    for replica in &status.replicas {
        replica_card(&mut body, replica);
    }
    if status.volumes.is_empty() && status.replicas.is_empty() {
        body.push_str("<section><p class=quiet>No volumes and no replicas yet. Make a volume with ");
        body.push_str("<code>farside volume create NAME --size 1G</code>.</p></section>");
    }
    let version = VersionInfo::current();
    format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <meta name=color-scheme content='light dark'><meta http-equiv=refresh content={PAGE_REFRESH_SECONDS}>\
         <title>{name} · Farside</title><style>{STYLE}</style></head><body><main>{body}</main>\
         <footer>Farside {} · {} · <a href=/api/v1/status>status as JSON</a> · <a href=/health>health</a></footer>\
         </body></html>",
        escape(&version.version),
        escape(&version.copyright),
        name = escape(&status.unit.name),
    )
}

fn banner(out: &mut String, status: &Status) {
    let health = status.health();
    let (class, word) = if health.healthy {
        ("good", "healthy")
    } else {
        ("bad", "needs attention")
    };
    let unit = &status.unit;
    add(
        out,
        format_args!(
            "<header><h1>{}</h1><span class='pill {class}'>{word}</span>",
            escape(&unit.name)
        ),
    );
    add(
        out,
        format_args!(
            "<p class=quiet>running since {}</p></header>",
            escape(&unit.started_at)
        ),
    );
    for problem in &health.problems {
        add(out, format_args!("<p class=problem>{}</p>", escape(problem)));
    }
    for key in &unit.pending_restart {
        add(
            out,
            format_args!("<p class=notice>{} changes at the next start</p>", escape(key)),
        );
    }
    out.push_str("<section><dl>");
    pair(out, "NBD", &unit.nbd_listen.join(", "));
    if !unit.iscsi_listen.is_empty() {
        pair(out, "iSCSI", &unit.iscsi_listen.join(", "));
    }
    pair(out, "Link", &unit.link_listen.join(", "));
    pair(
        out,
        "Configuration",
        unit.config_file.as_deref().unwrap_or("none"),
    );
    pair(out, "Unit", &unit.uuid);
    out.push_str("</dl></section>");
}

fn volume_card(out: &mut String, volume: &VolumeStatus) {
    let class = if volume.state.is_faulty() { "bad" } else { "good" };
    heading(out, "Volume", &volume.name, class, &word(volume.state));
    problem(out, volume.problem.as_deref());
    out.push_str("<dl>");
    pair(out, "Size", &human_bytes(volume.size_bytes));
    pair(out, "Mirror", &volume.mirror.path);
    pair(out, "Journal", &volume.journal.path);
    if volume.read_only {
        pair(out, "Hosts", "can read only");
    }
    pair(out, "Connections", &volume.connections.to_string());
    pair(
        out,
        "In buffer",
        &format!(
            "{} blocks ({})",
            volume.buffer.blocks,
            human_bytes(volume.buffer.bytes)
        ),
    );
    pair(out, "Epoch", &volume.epoch.to_string());
    let clean = if volume.clean_start { "clean" } else { "not clean" };
    pair(out, "Last shutdown", clean);
    out.push_str("</dl>");
    meter(
        out,
        "Journal in use",
        volume.journal.used_bytes,
        volume.journal.size_bytes,
    );
    positions(out, volume);
    for remote in &volume.remotes {
        remote_block(out, remote);
    }
    out.push_str("</section>");
}

fn positions(out: &mut String, volume: &VolumeStatus) {
    let at = &volume.positions;
    out.push_str("<table><tr><th>tail<th>acked<th>sent<th>durable<th>journaled<th>mirrored</tr>");
    add(
        out,
        format_args!(
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr></table>",
            at.tail, at.acked, at.sent, at.durable, at.journaled, at.mirrored
        ),
    );
}

fn remote_block(out: &mut String, remote: &RemoteStatus) {
    let class = match remote.state {
        RemoteState::Streaming => "good",
        RemoteState::Refused => "bad",
        _ => "busy",
    };
    add(
        out,
        format_args!(
            "<h3>→ {} <span class=quiet>{}</span> <span class='pill {class}'>{}</span></h3>",
            escape(&remote.name),
            escape(&remote.address),
            word(remote.state)
        ),
    );
    problem(out, remote.detail.as_deref());
    if remote.state == RemoteState::NeedsCopy {
        let room = remote.history_room_bytes.unwrap_or(u64::MAX);
        problem(out, copy_risk(remote.dirty_bytes, room).as_deref());
    }
    out.push_str("<dl>");
    let lag = &remote.lag;
    pair(
        out,
        "Lag",
        &format!(
            "{} blocks, {}, {:.1} s",
            lag.blocks,
            human_bytes(lag.bytes),
            lag.seconds
        ),
    );
    if let Some(unit) = &remote.paired_with {
        pair(out, "Link", &format!("encrypted, unit {unit}"));
    }
    if let Some(rounds) = &remote.rounds {
        pair(out, "Compared", &rounds.text());
    }
    if remote.merged_bytes > 0 {
        pair(
            out,
            "Merged",
            &format!("{} not sent", human_bytes(remote.merged_bytes)),
        );
    }
    if remote.damaged > 0 {
        pair(out, "Damaged", &damage_text(remote.damaged));
    }
    if let Some(compression) = &remote.compression {
        pair(out, "Compression", &compression.text());
    }
    pair(out, "Behind", &remote.likely_behind);
    if let Some(forecast) = &remote.forecast {
        pair(out, "Forecast", &forecast.text());
    }
    pair(
        out,
        "Consistent up to",
        consistency(remote.consistent, remote.consistent_up_to.as_deref()),
    );
    pair(
        out,
        "Sent / received / applied",
        &format!("{} / {} / {}", remote.sent, remote.received, remote.applied),
    );
    out.push_str("</dl>");
    copy(out, remote.copy.as_ref());
}

fn replica_card(out: &mut String, replica: &ReplicaStatus) {
    let class = if replica.state.is_faulty() { "bad" } else { "good" };
    heading(out, "Replica", &replica.name, class, &word(replica.state));
    problem(out, replica.problem.as_deref());
    out.push_str("<dl>");
    pair(out, "Size", &human_bytes(replica.size_bytes));
    pair(out, "Image", &replica.image.path);
    if let Some(aside) = replica.aside() {
        pair(out, "Detail", &aside);
        out.push_str("</dl></section>");
        return;
    }
    let source = replica.source.as_ref();
    let source = source.map_or("nobody yet".to_owned(), |from| {
        format!("{} ({})", from.unit, from.address)
    });
    pair(out, "Source", &source);
    pair(
        out,
        "Link",
        &match replica.source.as_ref().and_then(|from| from.paired_with.as_ref()) {
            Some(unit) => format!("encrypted, unit {unit}"),
            None if replica.connected => "connected".to_owned(),
            None => "not connected".to_owned(),
        },
    );
    pair(
        out,
        "Consistent up to",
        consistency(replica.consistent, replica.consistent_up_to.as_deref()),
    );
    pair(
        out,
        "Received / applied",
        &format!("{} / {}", replica.received, replica.applied),
    );
    if let Some(oldest) = &replica.history.oldest {
        pair(out, "History back to", &oldest.time);
    }
    if let Some(problem) = &replica.history.problem {
        pair(out, "History", problem);
    }
    out.push_str("</dl>");
    meter(
        out,
        "Journal in use",
        replica.journal.used_bytes,
        replica.journal.size_bytes,
    );
    copy(out, replica.copy.as_ref());
    for remote in &replica.remotes {
        remote_block(out, remote);
    }
    out.push_str("</section>");
}

fn consistency(consistent: bool, up_to: Option<&str>) -> &str {
    if consistent {
        up_to.unwrap_or("the start")
    } else {
        "not consistent yet"
    }
}

fn heading(out: &mut String, kind: &str, name: &str, class: &str, state: &str) {
    let name = escape(name);
    add(
        out,
        format_args!("<section><h2>{kind} {name} <span class='pill {class}'>{state}</span></h2>"),
    );
}

fn problem(out: &mut String, text: Option<&str>) {
    if let Some(text) = text {
        add(out, format_args!("<p class=problem>{}</p>", escape(text)));
    }
}

fn copy(out: &mut String, progress: Option<&CopyProgress>) {
    if let Some(copy) = progress {
        meter(out, "Copy", copy.done_bytes, copy.total_bytes);
    }
}

fn meter(out: &mut String, label: &str, part: u64, whole: u64) {
    let (part_text, whole_text) = (human_bytes(part), human_bytes(whole));
    let top = whole.max(1);
    add(
        out,
        format_args!(
            "<p class=meter><span>{label}</span><progress max={top} value={part}></progress>\
             <span>{part_text} of {whole_text}</span></p>"
        ),
    );
}

fn pair(out: &mut String, label: &str, value: &str) {
    let value = if value.is_empty() {
        "–".to_owned()
    } else {
        escape(value)
    };
    add(out, format_args!("<div><dt>{label}</dt><dd>{value}</dd></div>"));
}

/// The word for a state, as it stands in the JSON.
fn word(state: impl serde::Serialize) -> String {
    match serde_json::to_value(state) {
        Ok(serde_json::Value::String(text)) => escape(&text.replace('_', " ")),
        _ => String::new(),
    }
}

fn add(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text)
        .expect("a String takes everything that is written to it");
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}
