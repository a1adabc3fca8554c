//! Comparing a volume with its remotes.

use super::history::ChangedRange;
use super::text::human_bytes;
use serde::{Deserialize, Serialize};

/// Asks for a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartVerify {
    /// Name of the remote; all of the volume if absent.
    #[serde(default)]
    pub remote: Option<String>,
    /// Write once more what differs, so that the remotes get it.
    #[serde(default)]
    pub repair: bool,
}

/// What a comparison is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyPhase {
    /// None was begun since the unit was started.
    #[default]
    Never,
    /// Under way, or waiting for the link.
    Running,
    /// Everything was looked at.
    Done,
    /// Ended before its end.
    Stopped,
}

impl VerifyPhase {
    /// The word for people and programs, as in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Running => "running",
            Self::Done => "done",
            Self::Stopped => "stopped",
        }
    }
}

/// The comparison with one remote: the newest since the unit was started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RemoteVerify {
    /// Name of the remote.
    pub remote: String,
    /// What it is doing.
    pub state: VerifyPhase,
    /// Why it waits, if it does.
    pub detail: Option<String>,
    /// Whether all of it was compared and is the same now. `None`: it has not ended.
    pub identical: Option<bool>,
    /// When it began (RFC 3339).
    pub began: Option<String>,
    /// When it ended (RFC 3339).
    pub ended: Option<String>,
    /// Bytes it is about.
    pub total_bytes: u64,
    /// Bytes compared.
    pub compared_bytes: u64,
    /// Mean speed.
    pub bytes_per_second: u64,
    /// The record after which the first range was compared on both sides.
    pub first_record: Option<u64>,
    /// The record after which the last one was.
    pub last_record: Option<u64>,
    /// Bytes that differed, in whole blocks of 4 KiB.
    pub differing_bytes: u64,
    /// Where, in order; not all of it if it is in too many places.
    pub differing: Vec<ChangedRange>,
    /// Bytes of them that are the same since they were written once more.
    pub repaired_bytes: u64,
}

/// How far comparing in the background is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundsStatus {
    /// In how many seconds all of the volume is to be compared.
    pub every_seconds: u64,
    /// Every part of it was compared since then (RFC 3339); absent until that is so.
    pub all_since: Option<String>,
    /// When the present round began, or the last one.
    pub began: Option<String>,
    /// Bytes of it that were compared.
    pub compared_bytes: u64,
    /// Bytes it is about.
    pub total_bytes: u64,
    /// Bytes that differed in it.
    pub differing_bytes: u64,
}

impl RoundsStatus {
    /// In a line for people.
    #[must_use]
    pub fn text(&self) -> String {
        let since = match &self.all_since {
            Some(since) => format!("all of it since {since}"),
            None => "not all of it yet".to_owned(),
        };
        let percent = (self.compared_bytes.saturating_mul(100))
            .checked_div(self.total_bytes)
            .unwrap_or(100);
        let found = match self.differing_bytes {
            0 => String::new(),
            some => format!("; {} DIFFER, see 'farside verify'", human_bytes(some)),
        };
        format!("{since}; this round {percent} %{found}")
    }
}

/// The comparisons of a volume with its remotes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VerifyStatus {
    /// Name of the volume.
    pub volume: String,
    /// Whether all remotes asked about are the same. `None`: not all have ended.
    pub identical: Option<bool>,
    /// Its remotes, by name.
    pub remotes: Vec<RemoteVerify>,
}
