//! What becomes of a journal and a remote if things go on as they do.

use serde::{Deserialize, Serialize};

/// If hosts go on writing, and the link carrying, as in the last minutes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// Bytes of the journal that hosts fill.
    pub write_bytes_per_second: u64,
    /// Bytes of the journal that the remote confirms; 0 while it is not connected.
    pub confirm_bytes_per_second: u64,
    /// How long the remote can be away from now on until the journal is full and lets it go. `None`: nothing is written.
    pub covers_seconds: Option<u64>,
    /// When the remote has caught up. `None`: it has, or it does not.
    pub drains_seconds: Option<u64>,
    /// When the journal is full and lets the remote go. `None`: not as things are.
    pub full_seconds: Option<u64>,
    /// The same as a time (RFC 3339).
    pub full_at: Option<String>,
}

impl Forecast {
    /// The forecast in words.
    pub fn text(&self) -> String {
        let mut parts = Vec::new();
        if let Some(seconds) = self.full_seconds {
            let at = self
                .full_at
                .as_ref()
                .map_or_else(String::new, |at| format!(", at {at}"));
            parts.push(format!("journal full in {}{at}", human_seconds(seconds)));
        }
        if let Some(seconds) = self.drains_seconds {
            parts.push(format!("caught up in {}", human_seconds(seconds)));
        }
        match self.covers_seconds {
            Some(_) if self.full_seconds.is_some() => {}
            Some(seconds) => parts.push(format!("covers {} at this rate", human_seconds(seconds))),
            None => parts.push("nothing is written".to_owned()),
        }
        parts.join("; ")
    }
}

/// A time for people, in its two largest units (`7 h 20 min`).
pub fn human_seconds(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: u64, unit: &str, small: u64, of: &str| match small {
        0 => format!("{large} {unit}"),
        _ => format!("{large} {unit} {small} {of}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => two(minutes, "min", seconds % 60, "s"),
        (0, _, _) => two(hours, "h", minutes % 60, "min"),
        (1..1000, _, _) => two(days, "d", hours % 24, "h"),
        _ => "more than 1000 d".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_two_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min 59 s"),
            (26_400, "7 h 20 min"),
            (7200, "2 h"),
            (90_000, "1 d 1 h"),
            (u64::MAX, "more than 1000 d"),
        ] {
            assert_eq!(human_seconds(seconds), text);
        }
    }

    #[test]
    fn what_comes_first_is_said_first() {
        let mut forecast = Forecast::default();
        assert_eq!(forecast.text(), "nothing is written");
        forecast.covers_seconds = Some(26_400);
        assert_eq!(forecast.text(), "covers 7 h 20 min at this rate");
        forecast.drains_seconds = Some(10_800);
        assert_eq!(
            forecast.text(),
            "caught up in 3 h; covers 7 h 20 min at this rate"
        );
        forecast.drains_seconds = None;
        forecast.full_seconds = Some(300);
        forecast.full_at = Some("2026-01-02T02:40:00Z".to_owned());
        assert_eq!(forecast.text(), "journal full in 5 min, at 2026-01-02T02:40:00Z");
    }
}
