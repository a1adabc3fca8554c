//! The past of a replica: moments that can be viewed, bookmarks, views.

use serde::{Deserialize, Serialize};

/// A state that the volume once had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MomentStatus {
    /// The last record included.
    pub sequence: u64,
    /// When it was sealed (RFC 3339).
    pub time: String,
}

/// How much of its past a replica keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistorySummary {
    /// Size of the history in bytes; 0 if none is kept.
    pub size_bytes: u64,
    /// Bytes of it in use.
    pub used_bytes: u64,
    /// The oldest moment that can be viewed.
    pub oldest: Option<MomentStatus>,
    /// The newest.
    pub newest: Option<MomentStatus>,
    /// Moments with a name.
    pub bookmarks: u64,
    /// Why nothing is kept although something should be, and what to do.
    pub problem: Option<String>,
}

/// A moment with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookmarkStatus {
    /// Its name.
    pub name: String,
    /// The last record included.
    pub sequence: u64,
    /// When it was sealed (RFC 3339).
    pub time: String,
    /// Whether the moment can still be viewed: not so once the history was full of what came after it.
    pub kept: bool,
}

/// The past of a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryStatus {
    /// Name of the volume.
    pub volume: String,
    /// How much is kept.
    #[serde(flatten)]
    pub summary: HistorySummary,
    /// Moments with a name, oldest first.
    pub named: Vec<BookmarkStatus>,
    /// The newest moments asked for, newest first.
    pub moments: Vec<MomentStatus>,
}

/// A range of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedRange {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

/// What was overwritten between two moments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesStatus {
    /// The earlier moment.
    pub from: MomentStatus,
    /// The later one.
    pub to: MomentStatus,
    /// Bytes in all.
    pub bytes: u64,
    /// The ranges, in order.
    pub ranges: Vec<ChangedRange>,
}

/// Asks for moments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskHistory {
    /// Moments at most.
    #[serde(default)]
    pub limit: Option<u32>,
    /// The newest of them: a time, record or bookmark.
    #[serde(default)]
    pub until: Option<String>,
}

/// Asks what was overwritten between two moments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskChanges {
    /// The earlier moment: a time, record or bookmark.
    pub from: String,
    /// The later one; now if absent.
    #[serde(default)]
    pub to: Option<String>,
}

/// A moment to be named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddBookmark {
    /// Its name.
    pub name: String,
    /// Which moment: a time, record or bookmark; what has been received now, if absent.
    #[serde(default)]
    pub at: Option<String>,
}

/// A moment to be attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenView {
    /// Which moment: a time, record or bookmark.
    pub at: String,
    /// Where NBD clients attach: the path of a unix socket that is made for it.
    pub nbd_socket: String,
    /// It can be written; what was written is forgotten at the end.
    #[serde(default)]
    pub scratch: bool,
}

/// A moment to be copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreFile {
    /// Which moment: a time, record or bookmark.
    pub at: String,
    /// The file that is made for it.
    pub file: String,
}

/// A replica to be handed over as it was at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetachAt {
    /// Which moment: a time, record or bookmark.
    pub at: String,
}

/// An image of a volume, to be written or read by the unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedFile {
    /// Its path, absolute.
    pub file: String,
}

/// What long work says while it lasts, a line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Progress {
    /// The view can be attached.
    Ready {
        /// The moment.
        moment: MomentStatus,
        /// Its size.
        size_bytes: u64,
    },
    /// So much is done.
    Copied {
        /// Bytes dealt with.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// It is done.
    Done {
        /// A sentence for people.
        message: String,
    },
    /// It ended without having been told to.
    Failed {
        /// Why, and what to do.
        message: String,
    },
}
