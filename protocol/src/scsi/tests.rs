//! Blocks as initiators send them, and sense data byte by byte.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests index what they built"
)]

use super::*;
use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

fn block(bytes: &[u8]) -> [u8; 16] {
    let mut block = [0; 16];
    block[..bytes.len()].copy_from_slice(bytes);
    block
}

fn decode(bytes: &[u8]) -> Result<Cdb, CdbError> {
    Cdb::decode(&block(bytes))
}

#[test]
fn reads_and_writes_of_all_lengths_are_the_same_command() {
    let extent = Extent {
        lba: 0x01_0203,
        blocks: 4,
    };
    let (six, ten) = ([0, 1, 2, 3, 4, 0], [0, 0, 0, 1, 2, 3, 0, 0, 4, 0]);
    let (twelve, sixteen) = (
        [0, 0, 0, 1, 2, 3, 0, 0, 0, 4, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 4, 0, 0],
    );
    let with = |opcode: u8, flags: u8, rest: &[u8]| {
        let mut bytes = rest.to_vec();
        (bytes[0], bytes[1]) = (opcode, bytes[1] | flags);
        decode(&bytes)
    };
    for (read, rest) in [(0x08, &six[..]), (0x28, &ten), (0xa8, &twelve), (0x88, &sixteen)] {
        assert_eq!(
            with(read, 0, rest),
            Ok(Cdb::Read { extent, force: false }),
            "{read:x}"
        );
        let write = Cdb::Write { extent, force: false };
        assert_eq!(with(read + 2, 0, rest), Ok(write), "{read:x}");
    }
    for (read, rest) in [(0x28, &ten[..]), (0xa8, &twelve), (0x88, &sixteen)] {
        assert_eq!(with(read, 0x18, rest), Ok(Cdb::Read { extent, force: true }));
        for protection in [0x20, 0x40, 0x80] {
            let refused = with(read, protection, rest);
            assert!(
                matches!(refused, Err(CdbError::Field { byte: 1, .. })),
                "{refused:?}"
            );
        }
        let (verify, write_and_verify) = (read + 7, read + 6);
        let compare = CompareMode::Data;
        assert_eq!(with(verify, 2, rest), Ok(Cdb::Verify { extent, compare }));
        assert_eq!(
            with(write_and_verify, 2, rest),
            Ok(Cdb::WriteAndVerify { extent, compare })
        );
        assert_eq!(with(verify, 4, rest), Err(CdbError::Field { byte: 1, bit: 2 }));
        assert_eq!(
            with(write_and_verify, 6, rest),
            Err(CdbError::Field { byte: 1, bit: 2 })
        );
    }
    let many = Extent { lba: 0, blocks: 256 };
    assert_eq!(
        decode(&[0x08]),
        Ok(Cdb::Read {
            extent: many,
            force: false
        })
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn other_commands_are_read_from_their_bytes() {
    assert_eq!(decode(&[0; 6]), Ok(Cdb::TestUnitReady));
    let allocation = 0x0102;
    assert_eq!(
        decode(&[0x12, 0, 0, 1, 2, 0]),
        Ok(Cdb::Inquiry {
            page: None,
            allocation
        })
    );
    let page = Some(0x83);
    assert_eq!(
        decode(&[0x12, 1, 0x83, 1, 2, 0]),
        Ok(Cdb::Inquiry { page, allocation })
    );
    assert_eq!(
        decode(&[0x12, 0, 0x83, 1, 2, 0]),
        Err(CdbError::Field { byte: 2, bit: 7 }),
        "a page without EVPD"
    );
    assert_eq!(
        decode(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32]),
        Ok(Cdb::ReadCapacity16 { allocation: 32 })
    );
    assert_eq!(
        decode(&[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 32]),
        Ok(Cdb::GetLbaStatus {
            lba: 9,
            allocation: 32
        })
    );
    let extent = Extent { lba: 5, blocks: 1 };
    assert_eq!(
        decode(&[0x89, 8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1]),
        Ok(Cdb::CompareAndWrite { extent, force: true })
    );
    assert_eq!(
        decode(&[0x93, 0x09, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1]),
        Ok(Cdb::WriteSame {
            extent,
            unmap: true,
            anchor: false,
            no_data: true
        })
    );
    assert_eq!(
        decode(&[0x5f, 1, 0x05, 0, 0, 0, 0, 0, 24]),
        Ok(Cdb::PersistentReserveOut {
            action: 1,
            scope: 0,
            kind: 5,
            parameter_bytes: 24
        })
    );
    assert_eq!(
        decode(&[0x1a, 8, 0x88, 0, 255]),
        Ok(Cdb::ModeSense {
            long: false,
            no_descriptor: true,
            control: 2,
            page: 8,
            subpage: 0,
            allocation: 255
        })
    );
    assert_eq!(
        decode(&[0xa3, 0x0c, 0x82, 0x9e, 0, 0x10, 0, 0, 1, 0]),
        Ok(Cdb::ReportOperations {
            timeouts: true,
            option: 2,
            opcode: 0x9e,
            action: 0x10,
            allocation: 256
        })
    );
}

#[test]
fn what_is_not_known_is_told_from_what_is_wrong() {
    for unknown in [0x01, 0x04, 0x4d, 0x7f, 0x83, 0xc0, 0xff] {
        assert_eq!(decode(&[unknown]), Err(CdbError::Operation), "{unknown:x}");
    }
    assert_eq!(decode(&[0x9e, 0x1f]), Err(CdbError::Field { byte: 1, bit: 4 }));
    assert_eq!(
        decode(&[0, 0, 0, 0, 0, 4]),
        Err(CdbError::Field { byte: 5, bit: 2 }),
        "NACA"
    );
}

#[test]
fn the_table_is_in_order_and_every_command_of_it_is_read() {
    let keys: Vec<_> = OPERATIONS
        .iter()
        .map(|known| (known.opcode, known.action))
        .collect();
    assert!(keys.is_sorted() && keys.windows(2).all(|pair| pair[0] != pair[1]));
    for operation in OPERATIONS {
        let wanted = match operation.opcode >> 5 {
            0 => 6,
            1 | 2 => 10,
            5 => 12,
            _ => 16,
        };
        assert_eq!(operation.usage.len(), wanted, "{operation:x?}");
        let decoded = decode(&[operation.opcode, operation.action.unwrap_or(0)]);
        assert!(decoded.is_ok(), "{operation:x?}: {decoded:?}");
    }
}

#[test]
fn sense_data_has_its_golden_bytes() {
    let wrong = Sense::in_command(1, Some(4));
    assert_eq!(
        wrong.fixed(),
        [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcc, 0, 1]
    );
    assert_eq!(
        wrong.descriptors(),
        [0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xcc, 0, 1, 0]
    );
    let differs = Sense {
        information: Some(513),
        ..Sense::new(SenseKey::Miscompare, Additional::MiscompareDuringVerify)
    };
    assert_eq!(
        differs.fixed(),
        [0xf0, 0, 0xe, 0, 0, 2, 1, 10, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0]
    );
    assert_eq!(
        differs.descriptors(),
        [
            0x72, 0xe, 0x1d, 0, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 0, 0, 0, 2, 1
        ]
    );
    assert_eq!(Sense::in_parameters(300, None).fixed()[15..], [0x80, 1, 44]);
}

proptest! {
    #[test]
    fn any_block_is_read_or_refused_by_a_bit_that_is_set(bytes: [u8; 16]) {
        match Cdb::decode(&bytes) {
            Ok(_) => prop_assert!(Operation::find(bytes[0], bytes[1] & 0x1f).is_some()),
            Err(CdbError::Operation) => {
                prop_assert!(OPERATIONS.iter().all(|known| known.opcode != bytes[0]));
            }
            Err(CdbError::Field { byte, .. }) => prop_assert!(byte > 0 && byte < 16),
        }
        if let Err(CdbError::Operation) = Cdb::decode(&bytes) {
            prop_assert_eq!(Operation::find(bytes[0], bytes[1] & 0x1f), None);
        }
    }
}
