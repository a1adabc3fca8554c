//! Target: a chunk: both parts of its meta-data block, its table of records, its payloads.
//!
//! Promises: no panic; what is accepted encodes to the same bytes; records lie within what 64 bits can address; the
//! data are called intact only if they are as long as the records say and every payload has its checksum.

use crate::allocation::measured;
use crate::draw::Draw;
use crate::{golden, seal};
use farside_protocol::journal::limits::{
    BLOCK_BYTES, MAX_CHUNK_DATA_BYTES, MAX_POSITION, MAX_RECORDS, MERGED_BYTES, WHERE_BYTES, WHERE_OFFSET,
};
use farside_protocol::journal::{
    Merged, Place, RecordKind, What, encode_merged, encode_what, stored_bytes, what_bytes,
};

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    let (repairs, what_length) = (draw.u8(), usize::from(draw.u16()) % (WHERE_OFFSET + 1));
    let mut block = draw.bytes(what_length).to_vec();
    let place = draw.bytes(WHERE_BYTES);
    let data = draw.rest();
    if repairs & 16 == 0 {
        block.resize(WHERE_OFFSET, 0);
        block.extend_from_slice(place);
    }
    if repairs & 1 != 0 {
        seal::table(&mut block, data);
    }
    if repairs & 2 != 0 {
        seal::what(&mut block);
    }
    if repairs & 4 != 0 {
        seal::block(&mut block);
    }
    let ((what, place), held) = measured(|| (What::decode(&block), Place::decode(&block)));
    assert_eq!(held, 0, "decoding a block takes no memory");
    if let Ok(place) = place {
        check_place(&place, &block);
    }
    what.as_ref().inspect(|what| check_what(what, data)).is_ok()
}

fn check_place(place: &Place, block: &[u8]) {
    let mut again = vec![0; BLOCK_BYTES];
    place.encode(&mut again);
    assert_eq!(again[WHERE_OFFSET..], block[WHERE_OFFSET..BLOCK_BYTES]);
    assert!(place.tail <= place.mirrored && place.mirrored <= place.durable);
    assert!(place.address <= MAX_POSITION);
}

fn check_what(what: &What<'_>, data: &[u8]) {
    let records: Vec<_> = what.records().collect();
    assert_eq!(records.len(), what.record_count());
    assert!((1..=MAX_RECORDS).contains(&records.len()));
    let mut block = [0; BLOCK_BYTES];
    let (length, checksum) = match what.merged() {
        None => encode_what(&mut block, &what.header, &records),
        Some(merged) => encode_merged(&mut block, &what.header, &records, merged),
    };
    assert_eq!((&block[..length], checksum), (what.as_bytes(), what.checksum));
    let between = if what.merged().is_some() { MERGED_BYTES } else { 0 };
    assert_eq!(length, what_bytes(records.len()) + between);
    let mut sum = 0_u64;
    for record in &records {
        assert_eq!(
            record.offset.checked_add(u64::from(record.length)),
            Some(record.end())
        );
        assert_eq!(record.length == 0, matches!(record.kind, RecordKind::Mark(_)));
        assert!(record.blocks() <= u64::from(record.length) / 4096 + 2);
        sum += u64::from(record.payload_bytes());
    }
    assert_eq!(sum, u64::from(what.data_bytes));
    assert!(what.data_bytes <= MAX_CHUNK_DATA_BYTES && what.last_record() <= MAX_POSITION);
    let counted = what.last_record() + 1 - what.header.first_record;
    match what.merged() {
        None => assert_eq!(counted, records.len() as u64),
        Some(Merged::More) => assert_eq!(counted, 0),
        Some(Merged::End(end)) => {
            assert!(counted > 0 && end.sequence >= what.header.sequence);
            assert_eq!(what.point_after(), end);
        }
    }
    assert_eq!(what.stored_bytes(), stored_bytes(what.data_bytes));
    assert!(what.stored_bytes() >= sum + 4096 && what.stored_bytes().is_multiple_of(4096));
    assert_eq!(what.data_is_intact(data), data_fits(what, data));
}

/// The promise in its simplest form.
fn data_fits(what: &What<'_>, mut data: &[u8]) -> bool {
    for record in what.records().filter(|record| record.kind == RecordKind::Write) {
        let Some((payload, rest)) = data.split_at_checked(record.length as usize) else {
            return false;
        };
        if crc32c::crc32c(payload) != record.checksum {
            return false;
        }
        data = rest;
    }
    data.is_empty()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (what, place) = (golden::what(), golden::place());
    let with = |what: &[u8], repairs: u8, data: &[u8]| {
        let length = u16::try_from(what.len()).unwrap_or(0).to_be_bytes();
        [&[repairs], length.as_slice(), what, &place, data].concat()
    };
    let seed = |repairs, data: &[u8]| with(&what, repairs, data);
    vec![
        with(&golden::merged(), 6, &[]),
        seed(0, &[]),
        seed(7, &[]),
        seed(7, &[0xA5; 512]),
        seed(2, &[1; 512]),
        seed(16, &[]),
    ]
}
