//! What `farside inspect --json` prints. Fields are only ever added; `schema` rises when one changes its meaning.

use farside_protocol::journal::{ChainPoint, ConsumerState, CopyState, Record, RecordKind, Role, Superblock};
use serde::Serialize;

/// Version of what is printed.
pub(super) const SCHEMA: u32 = 1;

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) schema: u32,
    pub(super) file: String,
    pub(super) size_bytes: u64,
    /// `intact` or `damaged`.
    pub(super) verdict: &'static str,
    pub(super) first_damage: Option<Damage>,
    #[serde(flatten)]
    pub(super) body: Body,
}

/// What kind of file it is, and what it holds.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(super) enum Body {
    Journal(Box<JournalReport>),
    DirtyBlockMap(MapReport),
}

/// The first thing that is wrong.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Damage {
    /// Byte offset in the file.
    pub(super) offset: u64,
    pub(super) problem: String,
}

#[derive(Debug, Serialize)]
pub(super) struct MapReport {
    pub(super) volume: String,
    pub(super) bytes_per_bit: u64,
    pub(super) bits: u64,
    pub(super) marked_bits: u64,
    pub(super) marked_bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct JournalReport {
    /// Both copies, in the order of their place in the file.
    pub(super) superblocks: Vec<CopyReport>,
    /// The copy in force; absent when neither can be read.
    pub(super) superblock: Option<SuperblockReport>,
    pub(super) chain: ChainReport,
    /// What stands at the starts of all segments, needed or not.
    pub(super) ring: RingReport,
    /// The journal was written to while it was read.
    pub(super) changed_meanwhile: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct CopyReport {
    pub(super) offset: u64,
    /// `None` when it cannot be read.
    pub(super) generation: Option<u64>,
    pub(super) problem: Option<String>,
    pub(super) in_force: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct SuperblockReport {
    /// `volume` or `replica`.
    pub(super) role: &'static str,
    pub(super) name: String,
    pub(super) volume: String,
    pub(super) journal: String,
    /// Unit that feeds a replica.
    pub(super) sender: Option<String>,
    pub(super) created_at: String,
    pub(super) clean: bool,
    pub(super) epoch: u64,
    pub(super) starts: u64,
    pub(super) volume_bytes: u64,
    pub(super) segment_bytes: u32,
    pub(super) segments: u32,
    pub(super) window_segments: u32,
    pub(super) head: PointReport,
    pub(super) tail: PointReport,
    pub(super) mirrored: PointReport,
    /// `empty`, `copying` or `complete`.
    pub(super) copy: &'static str,
    pub(super) copied_bytes: u64,
    pub(super) consumers: Vec<ConsumerReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct PointReport {
    pub(super) address: u64,
    pub(super) sequence: u64,
    pub(super) record: u64,
    pub(super) epoch: u64,
    pub(super) sealed_at: String,
}

#[derive(Debug, Serialize)]
pub(super) struct ConsumerReport {
    pub(super) name: String,
    /// `needs-copy`, `copying` or `attached`.
    pub(super) state: &'static str,
    pub(super) acked: PointReport,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct ChainReport {
    pub(super) chunks: u64,
    pub(super) records: u64,
    /// Bytes of the ring the chunks take.
    pub(super) bytes: u64,
    pub(super) first_record: Option<u64>,
    pub(super) last_record: Option<u64>,
    /// The last record that a start would recover.
    pub(super) recovered_record: Option<u64>,
    /// Where the next chunk would stand, and what is there.
    pub(super) end: Vec<EndReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct EndReport {
    pub(super) offset: u64,
    pub(super) found: String,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct RingReport {
    pub(super) segments_with_chunks: u64,
    pub(super) segments_empty: u64,
    pub(super) segments_unknown: u64,
    pub(super) oldest_sequence: Option<u64>,
    pub(super) newest_sequence: Option<u64>,
}

/// One line of `--chunks --json`.
#[derive(Debug, Serialize)]
pub(super) struct ChunkLine {
    pub(super) chunk: ChunkReport,
}

#[derive(Debug, Serialize)]
pub(super) struct ChunkReport {
    pub(super) sequence: u64,
    pub(super) epoch: u64,
    pub(super) records: usize,
    pub(super) first_record: u64,
    pub(super) last_record: u64,
    pub(super) sealed_at: String,
    pub(super) offset: u64,
    /// Bytes in the file, padding included.
    pub(super) bytes: u64,
    pub(super) data_bytes: u32,
    pub(super) intact: bool,
    /// With `--records`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) table: Option<Vec<RecordReport>>,
}

#[derive(Debug, Serialize)]
pub(super) struct RecordReport {
    pub(super) record: u64,
    /// `write`, `trim`, `zero`, `zero-allocated` or `mark`.
    pub(super) kind: &'static str,
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) age_us: u32,
}

/// A time for people.
pub(super) fn time(at_us: u64) -> String {
    let at = i64::try_from(at_us)
        .ok()
        .and_then(|at| jiff::Timestamp::from_microsecond(at).ok());
    at.map_or_else(|| format!("{at_us} us"), |at| at.to_string())
}

impl From<&ChainPoint> for PointReport {
    fn from(point: &ChainPoint) -> Self {
        Self {
            address: point.address,
            sequence: point.sequence,
            record: point.record,
            epoch: point.epoch,
            sealed_at: time(point.sealed_at_us),
        }
    }
}

impl From<&Superblock> for SuperblockReport {
    fn from(found: &Superblock) -> Self {
        Self {
            role: match found.role {
                Role::Volume => "volume",
                Role::Replica => "replica",
                Role::History => "history",
            },
            name: found.name.clone(),
            volume: found.volume.to_string(),
            journal: found.journal.to_string(),
            sender: (!found.source.is_nil()).then(|| found.source.to_string()),
            created_at: time(found.created_at_us),
            clean: found.clean,
            epoch: found.epoch,
            starts: found.starts,
            volume_bytes: found.volume_bytes,
            segment_bytes: found.segment_bytes,
            segments: found.segment_count,
            window_segments: found.window_segments,
            head: (&found.head).into(),
            tail: (&found.tail).into(),
            mirrored: (&found.mirrored).into(),
            copy: match found.copy {
                CopyState::Empty => "empty",
                CopyState::Copying => "copying",
                CopyState::Complete => "complete",
            },
            copied_bytes: found.copy_offset,
            consumers: found.consumers.iter().map(consumer).collect(),
        }
    }
}

fn consumer(slot: &farside_protocol::journal::ConsumerSlot) -> ConsumerReport {
    ConsumerReport {
        name: slot.name.clone(),
        state: match slot.state {
            ConsumerState::NeedsCopy => "needs-copy",
            ConsumerState::Copying => "copying",
            ConsumerState::Attached => "attached",
        },
        acked: (&slot.acked).into(),
    }
}

impl RecordReport {
    pub(super) fn new(number: u64, record: &Record) -> Self {
        Self {
            record: number,
            kind: match record.kind {
                RecordKind::Write => "write",
                RecordKind::Trim => "trim",
                RecordKind::Zero { allocate: false } => "zero",
                RecordKind::Zero { allocate: true } => "zero-allocated",
                RecordKind::Mark(_) => "mark",
            },
            offset: record.offset,
            length: record.length,
            age_us: record.age_us,
        }
    }
}
