//! Moments of a replica, found by what people call them.

use super::error::PartError;
use super::status::moment_status;
use farside_protocol::control::ErrorCode;
use farside_remote::Replica;
use farside_storage::{Moment, View};

/// An error that names the replica.
pub(super) fn refuse(replica: &Replica, code: ErrorCode, problem: impl std::fmt::Display) -> PartError {
    PartError {
        code,
        message: format!("replica {}: {problem}", replica.store().name()),
    }
}

/// The moment that people mean: a record, a bookmark, a time, a time ago, or `now`.
pub(super) fn find(replica: &Replica, text: &str) -> Result<Moment, PartError> {
    let Some(history) = replica.store().history() else {
        let why = replica.past().problem().unwrap_or("link.history_size is 0");
        let text = format!("keeps no history: {why}");
        return Err(refuse(replica, ErrorCode::Conflict, text));
    };
    let state = history.state();
    let (Some(oldest), Some(newest)) = (state.oldest, state.newest) else {
        let why = state
            .failure
            .unwrap_or_else(|| "it has no complete copy yet".to_owned());
        let text = format!("there is no moment to be had: {why}");
        return Err(refuse(replica, ErrorCode::Conflict, text));
    };
    if text == "now" {
        return Ok(newest);
    }
    if let Some(bookmark) = replica.past().bookmark(text) {
        let gone = || format!("the moment of bookmark {text} is lost; the history was full");
        return bookmark
            .moment
            .ok_or_else(|| refuse(replica, ErrorCode::NotFound, gone()));
    }
    let found = if let Ok(record) = text.parse::<u64>() {
        if record > newest.record {
            let text = format!(
                "record {record} is not applied here yet; the newest is {}",
                newest.record
            );
            return Err(refuse(replica, ErrorCode::NotFound, text));
        }
        history.at_record(record)
    } else {
        let time_us = time(text).ok_or_else(|| {
            let text = text.escape_default();
            let text = format!(
                "'{text}' is neither a bookmark nor a moment; write a record number, a time such as \
                 2026-11-22T14:03:05Z or '2026-11-22 14:03:05' (of this machine's zone), a while such as '10m ago', \
                 or now"
            );
            refuse(replica, ErrorCode::BadRequest, text)
        })?;
        if time_us > replica.store().clock().wall_us().max(newest.time_us) {
            let text = "that time has not come yet";
            return Err(refuse(replica, ErrorCode::BadRequest, text));
        }
        history.at_time(time_us)
    };
    found.ok_or_else(|| {
        let oldest = moment_status(&oldest);
        let text = format!(
            "that is before the oldest moment kept, record {} of {}",
            oldest.sequence, oldest.time
        );
        refuse(replica, ErrorCode::NotFound, text)
    })
}

/// The disk as it was then.
pub(super) fn view(replica: &Replica, text: &str) -> Result<View, PartError> {
    let moment = find(replica, text)?;
    let gone = "that moment has just left the history";
    let view = replica.store().view(&moment);
    view.ok_or_else(|| refuse(replica, ErrorCode::NotFound, gone))
}

/// Whether what people call a moment means the same whenever they say it, as a record or a bookmark does.
pub(super) fn is_fixed(replica: &Replica, text: &str) -> bool {
    text.parse::<u64>().is_ok() || replica.past().bookmark(text).is_some()
}

/// A point in time, in microseconds since 1970: RFC 3339, a civil time of this machine's zone, or a while ago.
fn time(text: &str) -> Option<u64> {
    let ago = text.strip_suffix(" ago").or_else(|| text.strip_prefix('-'));
    let at = if let Some(span) = ago {
        let span: jiff::SignedDuration = span.trim().parse().ok()?;
        jiff::Timestamp::now().checked_sub(span).ok()?
    } else if let Ok(at) = text.parse::<jiff::Timestamp>() {
        at
    } else {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        civil.to_zoned(jiff::tz::TimeZone::system()).ok()?.timestamp()
    };
    u64::try_from(at.as_microsecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_read_as_people_write_them() {
        let second = 1_000_000;
        let at = 1_763_820_185 * second;
        assert_eq!(time("2025-11-22T14:03:05Z"), Some(at));
        assert_eq!(time("2025-11-22T14:03:05.000042Z"), Some(at + 42));
        assert_eq!(time("2025-11-22T15:03:05+01:00"), Some(at));
        assert!(time("2025-11-22 14:03:05").is_some() && time("2025-11-22").is_some());
        let now = u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap();
        for text in ["10m ago", "-10m", "1h 5m ago", "90s ago"] {
            let ago = now - time(text).unwrap();
            assert!(ago > 80 * second && ago < 2 * 3600 * second, "{text}: {ago}");
        }
        for text in ["", "yesterday", "10m", "ago", "1e9"] {
            assert_eq!(time(text), None, "{text}");
        }
    }
}
