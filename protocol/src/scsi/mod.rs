//! SCSI commands as a disk understands them: command descriptor blocks are decoded, sense data is encoded.
//!
//! Rules come from the standards of T10: SPC-4 (all devices) and SBC-3 (disks); the comments name the command. Guarantees: a
//! decoded command has no bit set that its standard or this disk does not know. Never here: what a command does.

mod cdb;
mod operations;
mod sense;
#[cfg(test)]
mod tests;

pub use cdb::{Cdb, CdbError, CompareMode, Extent};
pub use operations::{OPERATIONS, Operation};
pub use sense::{Additional, Sense, SenseKey};

/// Status codes (SAM-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// It was done.
    Good = 0x00,
    /// Sense data says what is wrong.
    CheckCondition = 0x02,
    /// The comparison of a command that stops at a match matched; never sent here.
    ConditionMet = 0x04,
    /// Try again later.
    Busy = 0x08,
    /// Another initiator holds a reservation.
    ReservationConflict = 0x18,
    /// There are as many tasks as the device can hold.
    TaskSetFull = 0x28,
    /// It was aborted by another initiator.
    TaskAborted = 0x40,
}
