//! Target: SCSI command descriptor blocks, decoded alone, and sense data.
//!
//! Promises: no panic and no memory; what is accepted is in the table of operations, with no bit that the table does not
//! have; a refusal names a bit that is set; where blocks are and how many is what the block says, read a second way; sense
//! data is as long as it says and names its reason.

use crate::allocation::measured;
use crate::draw::Draw;
use farside_protocol::scsi::{
    Additional, Cdb, CdbError, CompareMode, Extent, OPERATIONS, Operation, Sense, SenseKey,
};

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    if draw.u8() == 255 {
        sense(&mut draw);
        return false;
    }
    let mut block = [0; 16];
    let taken = draw.bytes(16);
    block[..taken.len()].copy_from_slice(taken);
    let (decoded, held) = measured(|| Cdb::decode(&block));
    assert_eq!(held, 0, "decoding a command takes no memory");
    let [opcode, flags, ..] = block;
    let operation = Operation::find(opcode, flags & 0x1f);
    match decoded {
        Err(CdbError::Operation) => {
            assert!(OPERATIONS.iter().all(|known| known.opcode != opcode));
            false
        }
        Err(CdbError::Field { byte, bit }) => {
            assert!(byte < 16 && bit < 8, "inside the block");
            assert!(OPERATIONS.iter().any(|known| known.opcode == opcode));
            let is_table_s = operation.is_some_and(|operation| {
                let unknown = |(found, known): (&u8, &u8)| found & !known != 0;
                block.iter().zip(operation.usage).skip(1).any(unknown)
            });
            assert!(
                !is_table_s || block[usize::from(byte)] & (1 << bit) != 0,
                "a bit that is set"
            );
            false
        }
        Ok(cdb) => {
            let operation = operation.expect("what is accepted is in the table");
            for (found, known) in block.iter().zip(operation.usage).skip(1) {
                assert_eq!(
                    found & !known,
                    0,
                    "{cdb:?} has a bit that its table does not have"
                );
            }
            if let Some(extent) = extent(&cdb) {
                assert_eq!(extent, read_again(&block), "{cdb:?}");
            }
            true
        }
    }
}

fn extent(cdb: &Cdb) -> Option<Extent> {
    match *cdb {
        Cdb::Read { extent, .. }
        | Cdb::Write { extent, .. }
        | Cdb::WriteAndVerify { extent, .. }
        | Cdb::Verify { extent, .. }
        | Cdb::OrWrite { extent, .. }
        | Cdb::CompareAndWrite { extent, .. }
        | Cdb::WriteSame { extent, .. }
        | Cdb::PreFetch { extent }
        | Cdb::SynchronizeCache { extent, .. } => Some(extent),
        _ => None,
    }
}

/// The same by the length of the block, as SPC-4, section 4.2.5 has it.
fn read_again(block: &[u8; 16]) -> Extent {
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    let (lba, blocks) = match block[0] >> 5 {
        0 => (number(&block[1..4]) & 0x1f_ffff, u64::from(block[4])),
        1 | 2 => (number(&block[2..6]), number(&block[7..9])),
        5 => (number(&block[2..6]), number(&block[6..10])),
        _ if block[0] == 0x89 => (number(&block[2..10]), u64::from(block[13])),
        _ => (number(&block[2..10]), number(&block[10..14])),
    };
    let blocks = if block[0] >> 5 == 0 && blocks == 0 {
        256
    } else {
        blocks
    };
    Extent {
        lba,
        blocks: u32::try_from(blocks).expect("32 bits"),
    }
}

fn sense(draw: &mut Draw<'_>) {
    let field = (draw.u8() & 1 != 0).then(|| (draw.u8() & 1 != 0, draw.u16(), Some(draw.u8())));
    let sense = Sense {
        field,
        information: (draw.u8() & 1 != 0).then(|| draw.u64()),
        ..Sense::new(SenseKey::IllegalRequest, Additional::InvalidFieldInCdb)
    };
    let (fixed, described) = (sense.fixed(), sense.descriptors());
    assert_eq!((fixed[0] & 0x7f, described[0]), (0x70, 0x72));
    assert_eq!(fixed.len(), 8 + usize::from(fixed[7]));
    assert_eq!(described.len(), 8 + usize::from(described[7]));
    assert_eq!((fixed[2], described[1]), (5, 5));
    assert_eq!(fixed[12..14], described[2..4]);
    let fits = sense.information.and_then(|value| u32::try_from(value).ok());
    assert_eq!(fixed[0] & 0x80 != 0, fits.is_some());
    assert_eq!(fixed[15] & 0x80 != 0, field.is_some());
    let mut rest = described.split_at(8).1;
    while let [_, length, ..] = rest {
        rest = rest.split_at(2 + usize::from(*length)).1;
    }
    assert!(rest.is_empty(), "descriptors fill what they say");
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for operation in OPERATIONS {
        let mut seed = vec![0; 17];
        seed[1] = operation.opcode;
        seed[2] = operation.action.unwrap_or(0);
        // INQUIRY with a page.
        seed.resize(17, 0);
        seeds.push(seed);
    }
    let compare = [CompareMode::Data, CompareMode::OneBlock];
    for (mode, _) in [2, 6].into_iter().zip(compare) {
        seeds.push([&[0, 0x8f, mode], [0; 14].as_slice()].concat());
    }
    seeds.push(vec![0, 0x12, 1, 0x83, 0, 255, 0]);
    seeds.push(vec![0, 0x28, 8, 0, 0, 1, 0, 0, 0, 8]);
    seeds.push(vec![0, 0x88, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9]);
    seeds
}
