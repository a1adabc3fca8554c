//! Arbitrary values survive the way to bytes and back; arbitrary bytes are refused or mean exactly themselves.

use super::golden;
use super::identity::block_with_place;
use crate::journal::limits::{
    BLOCK_BYTES, MAX_CHUNK_DATA_BYTES, MAX_CONSUMERS, MAX_POSITION, MAX_RECORDS, MAX_VOLUME_BYTES,
    WHERE_OFFSET,
};
use crate::journal::{
    BlockMapHeader, ChainPoint, ChunkHeader, ConsumerSlot, ConsumerState, CopyState, Place, Record,
    RecordKind, Role, Superblock, Totals, What, encode_merged, encode_what,
};
use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

fn uuid() -> impl Strategy<Value = Uuid> {
    any::<u128>().prop_map(Uuid::from_u128)
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_][A-Za-z0-9._-]{0,31}"
}

/// Three points in order, of a ring of `ring_bytes`.
fn points(ring_bytes: u64) -> impl Strategy<Value = [ChainPoint; 3]> {
    let steps = [0..=ring_bytes / 8192, 0..=ring_bytes / 8192];
    (0_u64..1 << 40, steps, any::<[u64; 7]>(), any::<[u32; 3]>()).prop_map(
        |(address, steps, other, checksums)| {
            let at = |steps: u64, checksum| ChainPoint {
                address: (address + steps) * 4096,
                sequence: (other[0] >> 4) + steps,
                record: (other[0] >> 4) + steps * 3 + (other[1] >> 8),
                epoch: other[2] >> 3,
                sealed_at_us: other[3],
                checksum,
                blocks: other[4],
                bytes: other[5],
            };
            let mirrored = steps[0];
            [
                at(0, checksums[0]),
                at(mirrored, checksums[1]),
                at(mirrored + steps[1], checksums[2]),
            ]
        },
    )
}

fn consumers() -> impl Strategy<Value = Vec<ConsumerSlot>> {
    let states = prop_oneof![
        Just(ConsumerState::NeedsCopy),
        Just(ConsumerState::Copying),
        Just(ConsumerState::Attached)
    ];
    vec((name(), states, points(1 << 20)), 0..=MAX_CONSUMERS).prop_map(|slots| {
        let mut slots: Vec<_> = slots
            .into_iter()
            .map(|(name, state, [_, acked, _])| ConsumerSlot {
                name,
                state,
                acked,
                copy_id: acked.checksum,
            })
            .collect();
        slots.sort_by(|a, b| a.name.cmp(&b.name));
        slots.dedup_by(|a, b| a.name == b.name);
        slots
    })
}

prop_compose! {
    fn superblock()(
        flags in any::<[bool; 3]>(), uuids in [uuid(), uuid(), uuid()], name in name(), consumers in consumers(),
        copy in prop_oneof![Just(CopyState::Empty), Just(CopyState::Copying), Just(CopyState::Complete)],
        (shift, segments) in (14_u32..=26, 4_u32..100_000), volume_bytes in 1..=MAX_VOLUME_BYTES,
        numbers in any::<[u64; 6]>(), window in any::<u32>(),
    )(
        points in points(u64::from(segments) << shift), flags in Just(flags), uuids in Just(uuids),
        name in Just(name), consumers in Just(consumers), copy in Just(copy), shift in Just(shift),
        segments in Just(segments), volume_bytes in Just(volume_bytes), numbers in Just(numbers),
        window in Just(window),
    ) -> Superblock {
        let [tail, mirrored, head] = points;
        Superblock {
            role: if flags[0] { Role::Volume } else { Role::Replica },
            remembers: flags[0], confirms: flags[2], history_line: window.reverse_bits(),
            clean: flags[1], generation: numbers[0] >> 3, journal: uuids[0], volume: uuids[1], volume_bytes,
            segment_bytes: 1 << shift, segment_count: segments, window_segments: window % segments + 1,
            created_at_us: numbers[1], epoch: (numbers[2] >> 4) + 1, starts: numbers[3] >> 3, head, tail, mirrored,
            copy, copy_id: window, copy_offset: numbers[4] % volume_bytes, consistent_from: numbers[5], name, source: uuids[2],
            totals: Totals { written: numbers[1], sent: numbers[2], received: numbers[3] }, consumers,
        }
    }
}

fn record() -> impl Strategy<Value = Record> {
    let kinds = prop_oneof![
        Just(RecordKind::Write),
        Just(RecordKind::Trim),
        any::<bool>().prop_map(|allocate| RecordKind::Zero { allocate }),
        any::<u16>().prop_map(RecordKind::Mark)
    ];
    (any::<[u64; 2]>(), any::<[u32; 2]>(), kinds).prop_map(|(offset, other, kind)| {
        let length = match kind {
            RecordKind::Mark(_) => 0,
            // As many as there can be still fit one chunk.
            RecordKind::Write => u32::try_from(offset[1] % 6500).unwrap() + 1,
            RecordKind::Trim | RecordKind::Zero { .. } => u32::try_from(offset[1] >> 32).unwrap().max(1),
        };
        let checksum = if kind == RecordKind::Write { other[0] } else { 0 };
        Record {
            offset: offset[0] >> 1,
            length,
            checksum,
            age_us: other[1],
            kind,
        }
    })
}

prop_compose! {
    fn chunk()(
        volume in uuid(), numbers in any::<[u64; 6]>(), previous_checksum in any::<u32>(),
        records in vec(record(), 1..=MAX_RECORDS),
    ) -> (ChunkHeader, Vec<Record>) {
        (ChunkHeader {
            volume, epoch: (numbers[0] >> 4) + 1, sequence: (numbers[1] >> 4) + 1,
            first_record: (numbers[2] >> 4) + 1, sealed_at_us: numbers[3], previous_checksum,
            blocks_before: numbers[4], bytes_before: numbers[5],
        }, records)
    }
}

/// What every decoder promises about whatever bytes it is given.
fn check_any(bytes: &[u8]) {
    if let Ok(superblock) = Superblock::decode(bytes) {
        assert_eq!(superblock.encode().as_slice(), &bytes[..BLOCK_BYTES]);
    }
    if let Ok(what) = What::decode(bytes) {
        let records: Vec<_> = what.records().collect();
        assert_eq!(records.len(), what.record_count());
        assert!(what.data_bytes <= MAX_CHUNK_DATA_BYTES && what.last_record() <= MAX_POSITION);
        let mut block = [0; BLOCK_BYTES];
        let (length, checksum) = match what.merged() {
            None => encode_what(&mut block, &what.header, &records),
            Some(merged) => encode_merged(&mut block, &what.header, &records, merged),
        };
        assert_eq!((&block[..length], checksum), (what.as_bytes(), what.checksum));
        assert!(!what.data_is_intact(bytes) || what.data_bytes as usize == bytes.len());
    }
    if let Ok(place) = Place::decode(bytes) {
        let mut block = vec![0; BLOCK_BYTES];
        place.encode(&mut block);
        assert_eq!(block[WHERE_OFFSET..], bytes[WHERE_OFFSET..BLOCK_BYTES]);
    }
    if let Ok(header) = BlockMapHeader::decode(bytes) {
        assert_eq!(header.encode(), bytes[..header.encode().len()]);
    }
}

/// Golden bytes with some changed, sealed anew so that the fields behind the checksum are reached too.
fn mutated(fields: &[golden::Field], changes: &[(usize, u8)], checksum_at: Option<usize>) -> Vec<u8> {
    let mut bytes = golden::bytes(fields);
    let length = bytes.len();
    for (at, value) in changes {
        bytes[at % length] = *value;
    }
    let at = checksum_at.unwrap_or(length - 4);
    let after = bytes.get(at + 4..).unwrap_or_default();
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..at]), after);
    bytes[at..at + 4].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

proptest! {
    #[test]
    fn any_superblock_comes_back_as_it_was(superblock in superblock()) {
        prop_assert_eq!(Superblock::decode(superblock.encode().as_slice()), Ok(superblock));
    }

    #[test]
    fn any_chunk_comes_back_as_it_was((header, records) in chunk()) {
        let mut block = [0; BLOCK_BYTES];
        let (length, checksum) = encode_what(&mut block, &header, &records);
        let what = What::decode(&block).unwrap();
        prop_assert_eq!((what.header, what.checksum, what.as_bytes().len()), (header, checksum, length));
        prop_assert_eq!(what.records().collect::<Vec<_>>(), records);
    }

    #[test]
    fn any_place_comes_back_as_it_was(
        journal in uuid(), numbers in any::<[u64; 5]>(), what_checksum in any::<u32>(),
    ) {
        let tail = numbers[0] >> 2;
        let place = Place {
            journal, address: numbers[1] >> 3, sequence: numbers[2], what_checksum, tail,
            mirrored: tail + (numbers[3] >> 2), durable: tail + (numbers[3] >> 1), acked: numbers[4],
        };
        let mut block = vec![0; BLOCK_BYTES];
        place.encode(&mut block);
        prop_assert_eq!(Place::decode(&block), Ok(place));
    }

    #[test]
    fn any_block_map_header_comes_back_as_it_was(
        volume in uuid(), (shift, bits) in (0_u32..30, 1_u64..1 << 20),
    ) {
        let header = BlockMapHeader { volume, block_bytes: 1 << shift, bits };
        prop_assert_eq!(BlockMapHeader::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..5000)) {
        check_any(&bytes);
    }

    #[test]
    fn mutated_structures_never_panic_and_mean_themselves_if_accepted(
        changes in vec((any::<usize>(), prop_oneof![any::<u8>(), Just(0), Just(1), Just(0xff)]), 1..6),
    ) {
        check_any(&mutated(golden::SUPERBLOCK, &changes, None));
        check_any(&mutated(golden::WHAT, &changes, Some(72)));
        check_any(&block_with_place(&mutated(golden::PLACE, &changes, None)));
        check_any(&mutated(golden::BLOCK_MAP, &changes, None));
    }
}
