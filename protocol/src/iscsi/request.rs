//! What an initiator sends, section 11.

use super::{HEADER_BYTES, Words, padding};

/// What all headers have in common, section 11.2.1: how long the message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of additional header segments.
    pub additional_bytes: usize,
    /// Bytes of data, without what follows it to fill a word.
    pub data_bytes: usize,
}

impl Header {
    /// Reads the lengths in a header.
    #[must_use]
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [_, _, _, _, ahs, d0, d1, d2, ..] = *bytes;
        Self {
            additional_bytes: usize::from(ahs).saturating_mul(4),
            data_bytes: u32::from_be_bytes([0, d0, d1, d2]) as usize,
        }
    }

    /// Bytes of the data with what fills its last word.
    #[must_use]
    pub fn padded_data_bytes(&self) -> usize {
        self.data_bytes.saturating_add(padding(self.data_bytes))
    }
}

/// A message of an initiator without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Delivered at once, and not counted (section 11.2.1.1).
    pub immediate: bool,
    /// Logical unit, as SAM encodes it.
    pub lun: u64,
    /// Chosen by the initiator.
    pub task_tag: u32,
    /// Its number among the commands (section 4.2.2.1); a data-out has none.
    pub command_number: u32,
    /// The number of the status that the initiator expects next.
    pub expected_status: u32,
    /// What it is.
    pub kind: RequestKind,
}

/// The kinds of messages, section 11.2.1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// NOP-Out; the tag of the NOP-In it answers, or none.
    Nop {
        /// Target transfer tag.
        transfer_tag: u32,
    },
    /// SCSI command.
    Command(Command),
    /// Task management function request.
    Task(TaskManagement),
    /// Login request.
    Login(Login),
    /// Text request.
    Text(Text),
    /// SCSI data-out.
    DataOut(DataOut),
    /// Logout request.
    Logout {
        /// What is to end.
        reason: LogoutReason,
        /// The connection that is to be closed or removed.
        connection: u16,
    },
    /// SNACK request: only with error recovery levels above 0.
    Snack,
    /// An opcode that only targets use, or that does not exist.
    Unknown(u8),
}

/// SCSI command, section 11.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// No unsolicited data-out follows.
    pub is_final: bool,
    /// Data is expected from the target.
    pub reads: bool,
    /// Data goes to the target.
    pub writes: bool,
    /// Task attribute: 0 untagged, 1 simple, 2 ordered, 3 head of queue, 4 ACA.
    pub attribute: u8,
    /// Bytes that the initiator will send or take.
    pub expected_bytes: u32,
    /// The command descriptor block, its first sixteen bytes.
    pub cdb: [u8; 16],
}

/// Task management function request, section 11.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskManagement {
    /// What to do.
    pub function: TaskFunction,
    /// The task that is meant.
    pub referenced_tag: u32,
    /// Its command number.
    pub referenced_number: u32,
}

/// Functions of section 11.5.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskFunction {
    /// One task.
    AbortTask,
    /// All tasks of the session on the logical unit.
    AbortTaskSet,
    /// An auto contingent allegiance, which this target never establishes.
    ClearAca,
    /// All tasks on the logical unit.
    ClearTaskSet,
    /// Reset of the logical unit.
    LogicalUnitReset,
    /// Reset of the target.
    TargetWarmReset,
    /// Reset of the target; its connections end.
    TargetColdReset,
    /// Only with error recovery level 2.
    TaskReassign,
    /// Anything else.
    Unknown(u8),
}

/// Login request, section 11.12.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Login {
    /// The initiator is ready for the next stage.
    pub transit: bool,
    /// The text goes on in the next request.
    pub continues: bool,
    /// The present stage.
    pub current: Stage,
    /// The stage wanted next, if `transit`.
    pub next: Stage,
    /// The highest and the lowest version spoken; 0 is the only one.
    pub versions: (u8, u8),
    /// The initiator's part of the session's identity.
    pub isid: [u8; 6],
    /// The target's part; 0 for a new session.
    pub tsih: u16,
    /// The connection in the session.
    pub connection: u16,
}

/// Stages of a login, section 11.12.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Who is there.
    Security,
    /// What is spoken.
    Operational,
    /// The login is over.
    FullFeature,
    /// There is no such stage.
    Reserved,
}

/// Text request, section 11.10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    /// The initiator has nothing more to say.
    pub is_final: bool,
    /// The text goes on in the next request.
    pub continues: bool,
    /// The tag of the answer that this goes on from, or none.
    pub transfer_tag: u32,
}

/// SCSI data-out, section 11.7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataOut {
    /// The last of its sequence.
    pub is_final: bool,
    /// The tag of the R2T that asked for it; none for unsolicited data.
    pub transfer_tag: u32,
    /// Its number in the sequence.
    pub number: u32,
    /// Where its data belongs in the data of the command.
    pub offset: u32,
}

/// Reasons of section 11.14.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogoutReason {
    /// The session.
    CloseSession,
    /// One connection.
    CloseConnection,
    /// A connection, for recovery.
    RemoveConnection,
    /// Anything else.
    Unknown(u8),
}

/// Sixty-four bits of two words.
fn wide([a, b, c, d]: [u8; 4], [e, f, g, h]: [u8; 4]) -> u64 {
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

impl Request {
    /// Reads a message from its header.
    #[must_use]
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Self {
        let words: &Words = bytes
            .as_chunks::<4>()
            .0
            .try_into()
            .expect("48 bytes are 12 words");
        let [
            [opcode, flags, ..],
            _,
            lun_high,
            lun_low,
            task_tag,
            _,
            number,
            status,
            ..,
        ] = *words;
        Self {
            immediate: opcode & 0x40 != 0,
            lun: wide(lun_high, lun_low),
            task_tag: u32::from_be_bytes(task_tag),
            command_number: u32::from_be_bytes(number),
            expected_status: u32::from_be_bytes(status),
            kind: RequestKind::decode(opcode & 0x3f, flags, words),
        }
    }
}

impl RequestKind {
    fn decode(opcode: u8, flags: u8, words: &Words) -> Self {
        let [w0, _, w2, w3, _, w5, _, _, w8, w9, w10, w11] = *words;
        let transfer_tag = u32::from_be_bytes(w5);
        let (is_final, continues) = (flags & 0x80 != 0, flags & 0x40 != 0);
        let [c0, c1, ..] = w5;
        let connection = u16::from_be_bytes([c0, c1]);
        match opcode {
            0x00 => Self::Nop { transfer_tag },
            0x01 => {
                let mut cdb = [0; 16];
                for (part, word) in cdb.as_chunks_mut::<4>().0.iter_mut().zip([w8, w9, w10, w11]) {
                    *part = word;
                }
                Self::Command(Command {
                    is_final,
                    reads: flags & 0x40 != 0,
                    writes: flags & 0x20 != 0,
                    attribute: flags & 7,
                    expected_bytes: transfer_tag,
                    cdb,
                })
            }
            0x02 => Self::Task(TaskManagement {
                function: TaskFunction::decode(flags & 0x7f),
                referenced_tag: transfer_tag,
                referenced_number: u32::from_be_bytes(w8),
            }),
            0x03 => {
                let [i0, i1, i2, i3] = w2;
                let [i4, i5, t0, t1] = w3;
                let [_, _, max, min] = w0;
                Self::Login(Login {
                    transit: is_final,
                    continues,
                    current: Stage::decode(flags >> 2),
                    next: Stage::decode(flags),
                    versions: (max, min),
                    isid: [i0, i1, i2, i3, i4, i5],
                    tsih: u16::from_be_bytes([t0, t1]),
                    connection,
                })
            }
            0x04 => Self::Text(Text {
                is_final,
                continues,
                transfer_tag,
            }),
            0x05 => Self::DataOut(DataOut {
                is_final,
                transfer_tag,
                number: u32::from_be_bytes(w9),
                offset: u32::from_be_bytes(w10),
            }),
            0x06 => Self::Logout {
                reason: LogoutReason::decode(flags & 0x7f),
                connection,
            },
            0x10 => Self::Snack,
            other => Self::Unknown(other),
        }
    }
}

impl TaskFunction {
    const fn decode(code: u8) -> Self {
        match code {
            1 => Self::AbortTask,
            2 => Self::AbortTaskSet,
            3 => Self::ClearAca,
            4 => Self::ClearTaskSet,
            5 => Self::LogicalUnitReset,
            6 => Self::TargetWarmReset,
            7 => Self::TargetColdReset,
            8 => Self::TaskReassign,
            other => Self::Unknown(other),
        }
    }
}

impl Stage {
    const fn decode(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Security,
            1 => Self::Operational,
            3 => Self::FullFeature,
            _ => Self::Reserved,
        }
    }

    /// Its number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Security => 0,
            Self::Operational => 1,
            Self::Reserved => 2,
            Self::FullFeature => 3,
        }
    }
}

impl LogoutReason {
    const fn decode(code: u8) -> Self {
        match code {
            0 => Self::CloseSession,
            1 => Self::CloseConnection,
            2 => Self::RemoveConnection,
            other => Self::Unknown(other),
        }
    }
}
