//! What becomes of a command.

use crate::targets::{DiskError, Position, Update};
use farside_protocol::scsi::{Additional, Sense, SenseKey, Status};
use std::fmt;
use std::future::Future;
use std::pin::Pin;

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// How it went.
    pub(crate) status: Status,
    /// Why it was not carried out.
    pub(crate) sense: Option<Sense>,
    /// What the initiator asked for.
    pub(crate) data: Vec<u8>,
    /// True only once the journal is durable up to here.
    pub(crate) durable: Option<Position>,
}

/// The rest of a command.
pub(crate) type Later = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// What has to be done for a command.
pub(crate) enum Plan {
    /// Nothing more.
    Answered(Answer),
    /// A range is read, in bytes.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Changes are journaled, and with `forced` durable before the answer.
    Change {
        /// In their order.
        updates: Vec<Update>,
        /// See above.
        forced: bool,
    },
    /// Everything journaled has to be durable.
    Flush,
    /// The rest takes its time, and changes no block.
    Ask(Later),
    /// The rest takes its time, and changes blocks: it has to [enter](super::LogicalUnit::enter) before, and be seen through.
    Alter(Later),
}

impl fmt::Debug for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(answer) => write!(formatter, "Answered({answer:?})"),
            Self::Read { offset, length } => write!(formatter, "Read({offset}+{length})"),
            Self::Change { updates, forced } => write!(formatter, "Change({}, {forced})", updates.len()),
            Self::Flush => formatter.write_str("Flush"),
            Self::Ask(_) => formatter.write_str("Ask"),
            Self::Alter(_) => formatter.write_str("Alter"),
        }
    }
}

impl Plan {
    pub(super) fn asks(rest: impl Future<Output = Answer> + Send + 'static) -> Self {
        Self::Ask(Box::pin(rest))
    }

    pub(super) fn alters(rest: impl Future<Output = Answer> + Send + 'static) -> Self {
        Self::Alter(Box::pin(rest))
    }
}

impl Answer {
    /// Done.
    pub(crate) fn good() -> Self {
        Self::with(Vec::new())
    }

    /// Done, with this data.
    pub(crate) fn with(data: Vec<u8>) -> Self {
        Self {
            status: Status::Good,
            sense: None,
            data,
            durable: None,
        }
    }

    /// Done, with as much of the data as the command allows.
    pub(super) fn cut(mut data: Vec<u8>, allocation: u32) -> Self {
        data.truncate(usize::try_from(allocation).unwrap_or(usize::MAX));
        Self::with(data)
    }

    /// Not done, with no reason but the status.
    pub(crate) fn status(status: Status) -> Self {
        Self {
            status,
            ..Self::good()
        }
    }

    /// Not done, and why.
    pub(crate) fn check(sense: Sense) -> Self {
        Self {
            sense: Some(sense),
            ..Self::status(Status::CheckCondition)
        }
    }

    /// What a disk's error means to a host.
    pub(crate) fn failed(error: DiskError, writing: bool) -> Self {
        match error {
            DiskError::Io if writing => {
                Self::check(Sense::new(SenseKey::MediumError, Additional::WriteError))
            }
            DiskError::Io => Self::check(Sense::new(
                SenseKey::MediumError,
                Additional::UnrecoveredReadError,
            )),
            DiskError::NoSpace => Self::check(Sense::new(
                SenseKey::DataProtect,
                Additional::SpaceAllocationFailed,
            )),
            DiskError::ReadOnly => Self::check(Sense::new(SenseKey::DataProtect, Additional::WriteProtected)),
            DiskError::ShuttingDown => Self::status(Status::Busy),
        }
    }
}
