//! How far a command, or a session, is.

use super::task::Task;
use super::transfer::Transfer;
use crate::targets::scsi::Answer;
use farside_protocol::scsi::Cdb;
use std::fmt;

/// Why a connection takes no more messages; what it has taken is still answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The initiator logged out, or closed its side.
    Initiator,
    /// The unit is being shut down.
    Shutdown,
    /// Another session takes its place, or the target was reset.
    Replaced,
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Initiator => "initiator logged out",
            Self::Shutdown => "unit is shutting down",
            Self::Replaced => "session was replaced or reset",
        })
    }
}

/// Something that took its time.
pub(super) enum Finished {
    /// A command.
    Command(Box<Task>, Answer),
    /// What a task management function waits for in the units.
    Managed { tag: u32 },
    /// Tasks of the session in a unit were aborted, by whomever.
    Swept(u64),
    /// The disk behind a logical unit goes away.
    Gone(u64),
}

/// A command that is not answered yet.
pub(super) enum Progress {
    /// Its data arrives. With an answer it was refused already, and what was sent unasked is thrown away.
    Receiving {
        task: Box<Task>,
        cdb: Option<Cdb>,
        transfer: Box<Transfer>,
        refused: Option<Answer>,
    },
    /// It is being carried out. If it is aborted by itself it is not answered.
    Running { lun: u64, aborted: bool },
}

impl Progress {
    /// The unit of the command.
    pub(super) fn lun(&self) -> u64 {
        match self {
            Self::Receiving { task, .. } => task.lun,
            Self::Running { lun, .. } => *lun,
        }
    }
}
