//! The golden bytes are what is written, and mean what was meant.

use super::{golden, values};
use crate::journal::limits::{BLOCK_BYTES, WHERE_BYTES, WHERE_OFFSET};
use crate::journal::{
    BlockMapHeader, ChainPoint, Merged, Place, Superblock, What, encode_merged, encode_what,
};

/// A meta-data block with the *where* part in its place.
pub(super) fn block_with_place(part: &[u8]) -> Vec<u8> {
    let mut block = vec![0; WHERE_OFFSET];
    block.extend_from_slice(part);
    block
}

#[test]
fn superblock_is_golden_both_ways() {
    let golden = golden::bytes(golden::SUPERBLOCK);
    assert_eq!(values::superblock().encode().as_slice(), golden);
    assert_eq!(Superblock::decode(&golden).unwrap(), values::superblock());
    assert_eq!(Superblock::claimed_version(&golden), Some(1));
}

#[test]
fn what_part_with_every_kind_of_record_is_golden_both_ways() {
    let golden = golden::bytes(golden::WHAT);
    let (header, records) = values::chunk();
    let mut block = [0; BLOCK_BYTES];
    let (length, checksum) = encode_what(&mut block, &header, &records);
    assert_eq!(&block[..length], golden);
    assert!(block[length..].iter().all(|byte| *byte == 0));
    let what = What::decode(&golden).unwrap();
    assert_eq!((what.header, what.checksum), (header, checksum));
    assert_eq!(what.records().collect::<Vec<_>>(), records);
    assert_eq!((what.record_count(), what.last_record()), (5, 0x69));
    assert_eq!((what.data_bytes, what.stored_bytes()), (512, 8192));
    assert_eq!(what.as_bytes(), golden);
}

#[test]
fn the_end_of_a_merged_batch_is_golden_both_ways_and_nothing_else_is_one() {
    let golden = golden::bytes(golden::MERGED);
    let (header, records) = values::chunk();
    let end = ChainPoint {
        address: 0,
        sequence: 0x4d,
        record: 0x123,
        epoch: header.epoch,
        sealed_at_us: header.sealed_at_us,
        checksum: 0xcafe_0123,
        blocks: 0x555,
        bytes: 0x77_7777,
    };
    let encoded = |merged| {
        let mut block = [0; BLOCK_BYTES];
        let (length, _) = encode_merged(&mut block, &header, &records, merged);
        assert_eq!(length, 136 + 5 * 24);
        block
    };
    let last = encoded(Merged::End(end));
    assert_eq!(last[8..12], [0, 2, 1, 0]);
    assert_eq!(last[96..136], golden);
    let what = What::decode(&last).unwrap();
    assert_eq!(
        (what.merged(), what.has_more(), what.last_record()),
        (Some(Merged::End(end)), false, 0x123)
    );
    assert_eq!((what.point_after(), what.record_count()), (end, 5));
    assert_eq!(what.records().collect::<Vec<_>>(), records);

    let more = encoded(Merged::More);
    assert_eq!(more[96..136], [0; 40]);
    let what = What::decode(&more).unwrap();
    // It is in the chain, and nothing of it counts.
    let point = what.point_after();
    assert_eq!((what.has_more(), what.last_record()), (true, 0x64));
    assert_eq!(
        (point.sequence, point.record, point.checksum),
        (0x2b, 0x64, what.checksum)
    );

    let ends_at = |sequence, record| {
        What::decode(&encoded(Merged::End(ChainPoint {
            sequence,
            record,
            ..end
        })))
        .is_ok()
    };
    assert!(ends_at(0x2b, 0x65));
    assert!(!ends_at(0x2a, 0x65), "fewer chunks than it is made of");
    assert!(!ends_at(0x2b, 0x64), "no record");
    assert!(!ends_at(0, 0x123), "half of nothing");
    assert!(!ends_at(u64::MAX, 0x123) && !ends_at(0x4d, u64::MAX));
}

#[test]
fn where_part_is_golden_both_ways() {
    let golden = golden::bytes(golden::PLACE);
    assert_eq!(golden.len(), WHERE_BYTES);
    let mut block = vec![0; BLOCK_BYTES];
    values::place().encode(&mut block);
    assert_eq!(block, block_with_place(&golden));
    assert_eq!(Place::decode(&block).unwrap(), values::place());
}

#[test]
fn block_map_header_is_golden_both_ways() {
    let golden = golden::bytes(golden::BLOCK_MAP);
    assert_eq!(values::block_map().encode().as_slice(), golden);
    assert_eq!(BlockMapHeader::decode(&golden).unwrap(), values::block_map());
}

#[test]
fn payload_is_intact_only_whole_and_unchanged() {
    let golden = golden::bytes(golden::WHAT);
    let what = What::decode(&golden).unwrap();
    let payload = values::payload();
    assert!(what.data_is_intact(&payload));
    for bit in 0..payload.len() * 8 {
        let mut damaged = payload.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(!what.data_is_intact(&damaged), "bit {bit}");
    }
    assert!(!what.data_is_intact(&payload[1..]));
    assert!(!what.data_is_intact(&[payload.as_slice(), &[0]].concat()));
}
