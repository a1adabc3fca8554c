//! Command descriptor blocks, decoded.

use super::Operation;

/// Blocks of a logical unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first block.
    pub lba: u64,
    /// How many. What 0 means depends on the command.
    pub blocks: u32,
}

/// What a verification compares with (SBC-3, VERIFY: BYTCHK).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareMode {
    /// Nothing: the blocks only have to be readable.
    Nothing,
    /// The data sent, block by block.
    Data,
    /// Every block with the one block sent.
    OneBlock,
}

/// A command that is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields have the names that the standards give them"
)]
pub enum Cdb {
    TestUnitReady,
    RequestSense {
        descriptor: bool,
        allocation: u32,
    },
    Inquiry {
        page: Option<u8>,
        allocation: u32,
    },
    ReadCapacity10,
    ReadCapacity16 {
        allocation: u32,
    },
    Read {
        extent: Extent,
        force: bool,
    },
    Write {
        extent: Extent,
        force: bool,
    },
    WriteAndVerify {
        extent: Extent,
        compare: CompareMode,
    },
    Verify {
        extent: Extent,
        compare: CompareMode,
    },
    CompareAndWrite {
        extent: Extent,
        force: bool,
    },
    OrWrite {
        extent: Extent,
        force: bool,
    },
    PreFetch {
        extent: Extent,
    },
    SynchronizeCache {
        extent: Extent,
        immediate: bool,
    },
    WriteSame {
        extent: Extent,
        unmap: bool,
        anchor: bool,
        no_data: bool,
    },
    Unmap {
        anchor: bool,
        parameter_bytes: u32,
    },
    GetLbaStatus {
        lba: u64,
        allocation: u32,
    },
    ModeSense {
        long: bool,
        no_descriptor: bool,
        control: u8,
        page: u8,
        subpage: u8,
        allocation: u32,
    },
    ModeSelect {
        long: bool,
        page_format: bool,
        save: bool,
        parameter_bytes: u32,
    },
    Reserve,
    Release,
    PersistentReserveIn {
        action: u8,
        allocation: u32,
    },
    PersistentReserveOut {
        action: u8,
        scope: u8,
        kind: u8,
        parameter_bytes: u32,
    },
    StartStop {
        power_condition: u8,
        load_eject: bool,
        start: bool,
    },
    PreventAllow {
        prevent: u8,
    },
    ReportLuns {
        select: u8,
        allocation: u32,
    },
    ReportOperations {
        timeouts: bool,
        option: u8,
        opcode: u8,
        action: u16,
        allocation: u32,
    },
    ReportTaskFunctions {
        extended: bool,
        allocation: u32,
    },
}

/// Why a command is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CdbError {
    /// There is no such command, or this disk does not have it.
    #[error("unknown operation code")]
    Operation,
    /// A bit is set, or a value given, that the command does not have: the byte, and the highest bit that is wrong.
    #[error("invalid field: byte {byte}, bit {bit}")]
    Field {
        /// Byte of the block.
        byte: u16,
        /// Bit in it.
        bit: u8,
    },
}

/// The whole of this byte is wrong.
const fn wrong(byte: u16) -> CdbError {
    CdbError::Field { byte, bit: 7 }
}

impl Cdb {
    /// Reads a block.
    ///
    /// # Errors
    /// [`CdbError`] when the command is not known, or something in it is not.
    pub fn decode(block: &[u8; 16]) -> Result<Self, CdbError> {
        let [opcode, flags, ..] = *block;
        let Some(operation) = Operation::find(opcode, flags & 0x1f) else {
            let known = super::OPERATIONS.iter().any(|known| known.opcode == opcode);
            return Err(if known {
                CdbError::Field { byte: 1, bit: 4 }
            } else {
                CdbError::Operation
            });
        };
        check_bits(block, operation.usage)?;
        match opcode >> 5 {
            0 => Self::of_six(block),
            1 | 2 => Self::of_ten(block),
            5 => Self::of_twelve(block),
            _ => Self::of_sixteen(block),
        }
    }

    fn of_six(block: &[u8; 16]) -> Result<Self, CdbError> {
        let [opcode, b1, b2, b3, b4, ..] = *block;
        let allocation = u32::from(b4);
        let extent = Extent {
            lba: u64::from(u32::from_be_bytes([0, b1, b2, b3])),
            blocks: if b4 == 0 { 256 } else { allocation },
        };
        Ok(match opcode {
            0x00 => Self::TestUnitReady,
            0x03 => Self::RequestSense {
                descriptor: b1 & 1 != 0,
                allocation,
            },
            0x08 => Self::Read { extent, force: false },
            0x0a => Self::Write { extent, force: false },
            0x12 if b1 & 1 == 0 && b2 != 0 => return Err(wrong(2)),
            0x12 => Self::Inquiry {
                page: (b1 & 1 != 0).then_some(b2),
                allocation: u32::from(u16::from_be_bytes([b3, b4])),
            },
            0x15 => Self::ModeSelect {
                long: false,
                page_format: b1 & 0x10 != 0,
                save: b1 & 1 != 0,
                parameter_bytes: allocation,
            },
            0x16 => Self::Reserve,
            0x17 => Self::Release,
            0x1a => mode_sense(false, [b1, b2, b3], allocation),
            0x1b => Self::StartStop {
                power_condition: b4 >> 4,
                load_eject: b4 & 2 != 0,
                start: b4 & 1 != 0,
            },
            _ => Self::PreventAllow { prevent: b4 & 3 },
        })
    }

    fn of_ten(block: &[u8; 16]) -> Result<Self, CdbError> {
        let [opcode, b1, b2, b3, b4, b5, b6, b7, b8, ..] = *block;
        let lba = u64::from(u32::from_be_bytes([b2, b3, b4, b5]));
        let length = u32::from(u16::from_be_bytes([b7, b8]));
        let extent = Extent { lba, blocks: length };
        Ok(match opcode {
            0x25 if b8 & 1 == 0 && lba != 0 => return Err(wrong(2)),
            0x25 => Self::ReadCapacity10,
            0x34 => Self::PreFetch { extent },
            0x35 => synchronize(extent, b1),
            0x41 => Self::WriteSame {
                extent,
                unmap: b1 & 8 != 0,
                anchor: b1 & 0x10 != 0,
                no_data: false,
            },
            0x42 => Self::Unmap {
                anchor: b1 & 1 != 0,
                parameter_bytes: length,
            },
            0x55 => Self::ModeSelect {
                long: true,
                page_format: b1 & 0x10 != 0,
                save: b1 & 1 != 0,
                parameter_bytes: length,
            },
            0x56 => Self::Reserve,
            0x57 => Self::Release,
            0x5a => mode_sense(true, [b1, b2, b3], length),
            0x5e => Self::PersistentReserveIn {
                action: b1 & 0x1f,
                allocation: length,
            },
            0x5f => Self::PersistentReserveOut {
                action: b1 & 0x1f,
                scope: b2 >> 4,
                kind: b2 & 0xf,
                parameter_bytes: u32::from_be_bytes([b5, b6, b7, b8]),
            },
            _ => return transfer(opcode & 0x1f, extent, b1),
        })
    }

    fn of_twelve(block: &[u8; 16]) -> Result<Self, CdbError> {
        let [opcode, b1, b2, b3, b4, b5, b6, b7, b8, b9, ..] = *block;
        let length = u32::from_be_bytes([b6, b7, b8, b9]);
        let extent = Extent {
            lba: u64::from(u32::from_be_bytes([b2, b3, b4, b5])),
            blocks: length,
        };
        Ok(match (opcode, b1 & 0x1f) {
            (0xa0, _) => Self::ReportLuns {
                select: b2,
                allocation: length,
            },
            (0xa3, 0x0c) => Self::ReportOperations {
                timeouts: b2 & 0x80 != 0,
                option: b2 & 7,
                opcode: b3,
                action: u16::from_be_bytes([b4, b5]),
                allocation: length,
            },
            (0xa3, _) => Self::ReportTaskFunctions {
                extended: b2 & 0x80 != 0,
                allocation: length,
            },
            _ => return transfer(opcode & 0x1f, extent, b1),
        })
    }

    fn of_sixteen(block: &[u8; 16]) -> Result<Self, CdbError> {
        let [opcode, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12, b13, ..] = *block;
        let lba = u64::from_be_bytes([b2, b3, b4, b5, b6, b7, b8, b9]);
        let length = u32::from_be_bytes([b10, b11, b12, b13]);
        let extent = Extent { lba, blocks: length };
        let force = b1 & 8 != 0;
        Ok(match (opcode, b1 & 0x1f) {
            (0x89, _) => Self::CompareAndWrite {
                extent: Extent {
                    lba,
                    blocks: u32::from(b13),
                },
                force,
            },
            (0x8b, _) => Self::OrWrite { extent, force },
            (0x90, _) => Self::PreFetch { extent },
            (0x91, _) => synchronize(extent, b1),
            (0x93, _) => Self::WriteSame {
                extent,
                unmap: b1 & 8 != 0,
                anchor: b1 & 0x10 != 0,
                no_data: b1 & 1 != 0,
            },
            (0x9e, 0x10) => Self::ReadCapacity16 { allocation: length },
            (0x9e, _) => Self::GetLbaStatus {
                lba,
                allocation: length,
            },
            _ => return transfer(opcode & 0x1f, extent, b1),
        })
    }
}

/// The commands that come in several lengths, told by the lower bits of their operation code.
fn transfer(low: u8, extent: Extent, flags: u8) -> Result<Cdb, CdbError> {
    let force = flags & 8 != 0;
    let compare = match (flags >> 1) & 3 {
        0 => Some(CompareMode::Nothing),
        1 => Some(CompareMode::Data),
        3 => Some(CompareMode::OneBlock),
        _ => None,
    };
    const BYTCHK: CdbError = CdbError::Field { byte: 1, bit: 2 };
    match (low, compare) {
        (0x08, _) => Ok(Cdb::Read { extent, force }),
        (0x0a, _) => Ok(Cdb::Write { extent, force }),
        (0x0e, Some(CompareMode::OneBlock) | None) | (0x0f, None) => Err(BYTCHK),
        (0x0e, Some(compare)) => Ok(Cdb::WriteAndVerify { extent, compare }),
        (0x0f, Some(compare)) => Ok(Cdb::Verify { extent, compare }),
        _ => Err(CdbError::Operation),
    }
}

fn synchronize(extent: Extent, flags: u8) -> Cdb {
    Cdb::SynchronizeCache {
        extent,
        immediate: flags & 2 != 0,
    }
}

fn mode_sense(long: bool, [flags, page, subpage]: [u8; 3], allocation: u32) -> Cdb {
    Cdb::ModeSense {
        long,
        no_descriptor: flags & 8 != 0,
        control: page >> 6,
        page: page & 0x3f,
        subpage,
        allocation,
    }
}

/// Refuses bits that the command does not have.
fn check_bits(block: &[u8; 16], usage: &[u8]) -> Result<(), CdbError> {
    for (byte, (found, known)) in (0..).zip(block.iter().zip(usage)).skip(1) {
        let unknown = found & !known;
        if unknown != 0 {
            let bit = u8::try_from(unknown.ilog2()).unwrap_or(7);
            return Err(CdbError::Field { byte, bit });
        }
    }
    Ok(())
}
