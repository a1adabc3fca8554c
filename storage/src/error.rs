//! The error of the storage layer: what was done, to which file, where, why, and what helps.

use farside_protocol::journal::FormatError;
use std::io;

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Opening or creating a file.
    Open,
    /// Reserving space.
    Allocate,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Zeroing or punching a hole.
    Zero,
    /// Making durable.
    Sync,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Open => "open",
            Self::Allocate => "reserve space in",
            Self::Read => "read",
            Self::Write => "write",
            Self::Zero => "zero a range of",
            Self::Sync => "make durable",
        })
    }
}

/// Why storage cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused.
    #[error("cannot {operation} {name} at byte {offset}: {source}")]
    Io {
        /// What was tried.
        operation: Operation,
        /// The file or device.
        name: String,
        /// Byte offset in it.
        offset: u64,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file is not what it should be. The text says what and what to do.
    #[error("{name}: {problem}")]
    Refused {
        /// The file or device.
        name: String,
        /// What is wrong and what helps.
        problem: String,
    },
    /// A file that a store needs is gone, cut, or something else. Besides putting the right one back only a new
    /// store helps, and how to get one is known to whoever owns this one.
    #[error("{name}: {problem}")]
    Lost {
        /// The file or device.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A structure in a file is damaged.
    #[error("{name} at byte {offset}: {problem}")]
    Damaged {
        /// The file or device.
        name: String,
        /// Byte offset of the structure.
        offset: u64,
        /// What is wrong and what helps.
        problem: String,
    },
    /// An earlier write or sync failed; nothing is acknowledged until an operator has cleared it.
    #[error("{name} is degraded since an earlier failure: {problem}")]
    Failed {
        /// The file or device.
        name: String,
        /// The earlier failure.
        problem: String,
    },
}

impl StorageError {
    pub(crate) fn io(operation: Operation, name: &str, offset: u64, source: io::Error) -> Self {
        Self::Io {
            operation,
            name: name.to_owned(),
            offset,
            source,
        }
    }

    pub(crate) fn refused(name: &str, problem: impl Into<String>) -> Self {
        Self::Refused {
            name: name.to_owned(),
            problem: problem.into(),
        }
    }

    pub(crate) fn lost(name: &str, problem: impl Into<String>) -> Self {
        Self::Lost {
            name: name.to_owned(),
            problem: problem.into(),
        }
    }

    pub(crate) fn damaged(name: &str, offset: u64, problem: impl Into<String>) -> Self {
        Self::Damaged {
            name: name.to_owned(),
            offset,
            problem: problem.into(),
        }
    }

    pub(crate) fn format(name: &str, offset: u64, error: FormatError) -> Self {
        Self::damaged(name, offset, error.to_string())
    }

    /// Whether what the store holds cannot be used as it is, and only the right files or a new store help.
    #[must_use]
    pub fn is_lost_content(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Damaged { .. })
    }

    /// Whether a file was to become larger than its file system can have it.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::FileTooLarge)
    }

    /// Whether the file system or device is out of space.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}
