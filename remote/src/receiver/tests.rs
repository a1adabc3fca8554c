//! What the receiver's core refuses, and that nothing of it counts.

use super::agreement::negotiate;
use super::core::{Action, ReceiverCore};
use super::refusals::refuse_frame;
use crate::sink::SinkState;
use farside_protocol::journal::{
    ChainPoint, ChunkHeader, CopyState, Merged, Record, RecordKind, What, encode_merged, encode_what,
};
use farside_protocol::link::limits::FEATURE_MERGE;
use farside_protocol::link::{
    BeginCopy, CopyData, CopyEnd, CopyHoles, Heartbeat, Hello, LinkError, Message, Refusal, RefuseCode,
    Verify,
};
use uuid::Uuid;

const VOLUME_BYTES: u64 = 1 << 20;

fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 2,
        segment_bytes: 4 << 20,
        features: 0,
        unit: Uuid::from_u128(1),
        instance: Uuid::from_u128(2),
        volume: Uuid::from_u128(3),
        volume_bytes: VOLUME_BYTES,
        epoch: 2,
        head: base(),
        tail: ChainPoint::default(),
        unit_name: "local".into(),
        volume_name: "disk0".into(),
        remote_name: "far".into(),
    }
}

fn base() -> ChainPoint {
    ChainPoint {
        address: 0,
        sequence: 4,
        record: 10,
        epoch: 2,
        sealed_at_us: 5,
        checksum: 77,
        ..ChainPoint::default()
    }
}

fn core(copy: CopyState) -> ReceiverCore {
    core_taking(copy, 0)
}

/// One that takes merged batches of so many bytes, if that is not 0.
fn core_taking(copy: CopyState, batch_bytes: u64) -> ReceiverCore {
    let state = SinkState {
        history_bytes: 5 << 20,
        batch_bytes,
        synced: base(),
        unconfirmed_bytes: 0,
        copy_id: 0,
        copy,
        received: base(),
        applied: 10,
        copy_offset: 0,
        consistent_from: 0,
    };
    let hello = Hello {
        features: FEATURE_MERGE,
        ..hello()
    };
    ReceiverCore::new(&hello, &state)
}

fn header() -> ChunkHeader {
    ChunkHeader {
        volume: Uuid::from_u128(3),
        epoch: 2,
        sequence: 5,
        first_record: 11,
        sealed_at_us: 6,
        previous_checksum: 77,
        blocks_before: 0,
        bytes_before: 0,
    }
}

fn write(offset: u64, payload: &[u8]) -> Record {
    Record {
        offset,
        length: u32::try_from(payload.len()).unwrap(),
        checksum: crc(payload),
        age_us: 0,
        kind: RecordKind::Write,
    }
}

/// crc32c of short test payloads, bit by bit, so that the test has its own.
fn crc(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| (sum >> 1) ^ if sum & 1 == 1 { 0x82F6_3B78 } else { 0 };
    !bytes
        .iter()
        .fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}

fn sealed(header: &ChunkHeader, records: &[Record]) -> Vec<u8> {
    let mut block = vec![0; 4096];
    let (length, _) = encode_what(&mut block, header, records);
    block.truncate(length);
    block
}

fn offer(core: &mut ReceiverCore, what: &[u8], data: &[u8]) -> Result<bool, Refusal> {
    let message = Message::Chunk(What::decode(what).unwrap());
    core.message(&message, data)
        .map(|action| matches!(action, Action::Append { .. }))
}

/// The chunks of a merged batch of three, which ends at chunk 20, record 99.
fn batch(payload: &[u8]) -> Vec<Vec<u8>> {
    let (mut header, mut chunks) = (header(), Vec::new());
    for at in 0..3 {
        let end = ChainPoint {
            sequence: 20,
            record: 99,
            checksum: 1234,
            ..ChainPoint::default()
        };
        let merged = if at < 2 { Merged::More } else { Merged::End(end) };
        let mut block = vec![0; 4096];
        let (length, checksum) = encode_merged(&mut block, &header, &[write(0, payload)], merged);
        block.truncate(length);
        chunks.push(block);
        (header.sequence, header.previous_checksum) = (header.sequence + 1, checksum);
    }
    chunks
}

#[test]
fn a_merged_batch_is_taken_whole_and_as_long_as_agreed_and_nothing_comes_between() {
    let payload = [7; 512];
    let chunks = batch(&payload);
    // Each takes two blocks.
    let taking = |blocks: u64| core_taking(CopyState::Complete, blocks << 12);
    let mut core = taking(6);
    for (count, chunk) in chunks.iter().enumerate() {
        assert_eq!(offer(&mut core, chunk, &payload), Ok(true));
        let record = if count < 2 { 10 } else { 99 };
        assert_eq!(core.accepted().record, record);
    }
    assert_eq!((core.accepted().sequence, core.accepted().checksum), (20, 1234));
    let next = ChunkHeader {
        sequence: 21,
        first_record: 100,
        previous_checksum: 1234,
        ..header()
    };
    let next = sealed(&next, &[write(0, &payload)]);
    assert_eq!(offer(&mut core, &next, &payload), Ok(true), "the chain goes on");

    for (blocks, taken) in [(0, 0), (1, 0), (3, 1), (5, 2)] {
        let mut core = taking(blocks);
        let refused = chunks
            .iter()
            .find_map(|chunk| offer(&mut core, chunk, &payload).err());
        let refusal = refused.expect("it is too long");
        assert_eq!(refusal.code, RefuseCode::Protocol, "{refusal}");
        assert_eq!(core.accepted().sequence, 4 + taken, "{blocks} blocks");
    }
    let begun = || {
        let mut core = taking(6);
        assert_eq!(offer(&mut core, &chunks[0], &payload), Ok(true));
        core
    };
    let heartbeat = Message::Heartbeat(Heartbeat {
        durable: 1,
        journaled: 1,
        time_us: 1,
    });
    assert_eq!(begun().message(&heartbeat, &[]), Ok(Action::None));
    let plain = ChunkHeader {
        sequence: 6,
        previous_checksum: What::decode(&chunks[0]).unwrap().checksum,
        ..header()
    };
    let plain = sealed(&plain, &[write(0, &payload)]);
    let verify = Verify::new(10, (0, 4096), &[0; 8]);
    let end = CopyEnd {
        consistent_from: 1,
        volume_bytes: VOLUME_BYTES,
    };
    let refusals = [
        offer(&mut begun(), &plain, &payload).err(),
        begun().message(&Message::Verify(verify), &[0; 8]).err(),
        begun().message(&Message::CopyEnd(end), &[]).err(),
    ];
    for refusal in refusals {
        let refusal = refusal.expect("the batch has not ended");
        assert!(
            refusal.to_string().contains("before the end of a merged batch"),
            "{refusal}"
        );
    }
}

#[test]
fn only_the_chunk_that_continues_the_chain_is_taken() {
    type Change = fn(&mut ChunkHeader);
    let wrong: [(Change, RefuseCode); 6] = [
        (
            |header| header.volume = Uuid::from_u128(9),
            RefuseCode::ForeignVolume,
        ),
        (|header| header.sequence = 6, RefuseCode::Gap),
        (|header| header.first_record = 12, RefuseCode::Gap),
        (|header| header.previous_checksum = 78, RefuseCode::Gap),
        (|header| header.epoch = 1, RefuseCode::Gap),
        (|header| header.sequence = 4, RefuseCode::Diverged),
    ];
    let payload = [7; 512];
    for (change, code) in wrong {
        let (mut core, mut header) = (core(CopyState::Complete), header());
        change(&mut header);
        let refusal = offer(&mut core, &sealed(&header, &[write(0, &payload)]), &payload).unwrap_err();
        assert_eq!(
            (refusal.code, refusal.about),
            (code, header.sequence),
            "{refusal}"
        );
        assert_eq!(core.accepted(), base(), "nothing of it counts");
    }
    let mut core = core(CopyState::Complete);
    let right = sealed(&header(), &[write(0, &payload)]);
    assert_eq!(offer(&mut core, &right, &payload), Ok(true));
    assert_eq!((core.accepted().sequence, core.accepted().record), (5, 11));
    assert_eq!(
        offer(&mut core, &right, &payload),
        Ok(false),
        "a repeat is ignored"
    );
}

#[test]
fn a_newer_epoch_is_taken_and_an_empty_replica_takes_no_chunk() {
    let payload = [7; 512];
    let newer = ChunkHeader { epoch: 3, ..header() };
    let what = sealed(&newer, &[write(0, &payload)]);
    assert_eq!(offer(&mut core(CopyState::Complete), &what, &payload), Ok(true));
    let refusal = offer(&mut core(CopyState::Empty), &what, &payload).unwrap_err();
    assert_eq!(refusal.code, RefuseCode::Gap);
}

#[test]
fn a_record_outside_the_volume_is_refused() {
    let payload = [7; 512];
    let mut beyond = core(CopyState::Complete);
    let what = sealed(&header(), &[write(VOLUME_BYTES - 511, &payload)]);
    let refusal = offer(&mut beyond, &what, &payload).unwrap_err();
    assert_eq!((refusal.code, refusal.about), (RefuseCode::Damaged, 5));
    assert_eq!(beyond.accepted(), base());
    let mut core = core(CopyState::Complete);
    let last = sealed(&header(), &[write(VOLUME_BYTES - 512, &payload)]);
    assert_eq!(
        offer(&mut core, &last, &payload),
        Ok(true),
        "the last bytes are inside"
    );
}

fn data(offset: u64, length: u32) -> Message<'static> {
    Message::CopyData(CopyData {
        offset,
        length,
        checksum: 0,
    })
}

#[test]
fn copied_ranges_ascend_without_gaps_and_end_where_the_volume_does() {
    let begin = Message::BeginCopy(BeginCopy {
        copy_id: 1,
        base: base(),
        volume_bytes: VOLUME_BYTES,
    });
    let end = Message::CopyEnd(CopyEnd {
        consistent_from: 12,
        volume_bytes: VOLUME_BYTES,
    });
    let holes = |offset, length| Message::CopyHoles(CopyHoles { offset, length });
    let mut core = core(CopyState::Complete);
    assert!(core.message(&data(0, 4), b"data").is_err(), "no copy was begun");
    assert_eq!(core.message(&begin, &[]), Ok(Action::BeginCopy(base(), 1)));
    for wrong in [data(1, 4), holes(4, 4), holes(0, VOLUME_BYTES + 1), end.clone()] {
        assert_eq!(
            core.message(&wrong, b"data").unwrap_err().code,
            RefuseCode::Gap,
            "{wrong:?}"
        );
    }
    assert!(matches!(
        core.message(&data(0, 4), b"data"),
        Ok(Action::WriteCopy { offset: 0, .. })
    ));
    assert!(core.message(&data(0, 4), b"data").is_err(), "not twice");
    let length = VOLUME_BYTES - 4;
    assert_eq!(
        core.message(&holes(4, length), &[]),
        Ok(Action::ZeroCopy { offset: 4, length })
    );
    assert_eq!(core.message(&end, &[]), Ok(Action::EndCopy(12)));
    let other_size = Message::BeginCopy(BeginCopy {
        copy_id: 1,
        base: base(),
        volume_bytes: 5,
    });
    assert_eq!(
        core.message(&other_size, &[]).unwrap_err().code,
        RefuseCode::SizeDiffers
    );
}

#[test]
fn a_complete_replica_that_is_newer_than_its_sender_is_not_reset() {
    let begin = Message::BeginCopy(BeginCopy {
        copy_id: 1,
        base: ChainPoint::default(),
        volume_bytes: VOLUME_BYTES,
    });
    let payload = [7; 512];
    let mut ahead = core(CopyState::Complete);
    let mut epoch = ReceiverCore::new(
        &Hello { epoch: 1, ..hello() },
        &SinkState {
            copy_id: 0,
            copy: CopyState::Complete,
            received: base(),
            applied: 10,
            copy_offset: 0,
            consistent_from: 0,
            history_bytes: 0,
            batch_bytes: 0,
            synced: base(),
            unconfirmed_bytes: 0,
        },
    );
    assert_eq!(
        offer(&mut ahead, &sealed(&header(), &[write(0, &payload)]), &payload),
        Ok(true)
    );
    for core in [&mut ahead, &mut epoch] {
        let before = core.accepted();
        assert_eq!(core.message(&begin, &[]).unwrap_err().code, RefuseCode::Diverged);
        assert_eq!(core.accepted(), before);
    }
    assert!(
        core(CopyState::Copying).message(&begin, &[]).is_ok(),
        "an unfinished copy may start over"
    );
}

#[test]
fn versions_are_negotiated_and_the_refusal_names_both_ranges() {
    let with = |min, max| Hello {
        version_min: min,
        version_max: max,
        ..hello()
    };
    assert_eq!(negotiate(&with(1, 9)), Ok(2));
    let refusal = negotiate(&with(3, 9)).unwrap_err();
    assert_eq!(refusal.code, RefuseCode::UnsupportedVersion);
    assert!(
        refusal.text().contains("2 to 2") && refusal.text().contains("3 to 9"),
        "{refusal}"
    );
}

#[test]
fn damage_on_the_way_is_called_damage_and_names_the_chunk_before() {
    let refusal = refuse_frame(&LinkError::Payload, 41);
    assert_eq!((refusal.code, refusal.about), (RefuseCode::Damaged, 41));
    assert!(refusal.text().contains("41"));
}

/// an end that no superblock can name is taken from the link.
#[test]
fn an_end_of_a_batch_that_no_journal_can_have_is_refused() {
    let payload = [7; 512];
    let most = farside_protocol::journal::limits::MAX_POSITION;
    for (sequence, record) in [(1000, 11), (most, most)] {
        let end = ChainPoint {
            sequence,
            record,
            ..ChainPoint::default()
        };
        let mut block = vec![0; 4096];
        let (length, _) = encode_merged(&mut block, &header(), &[write(0, &payload)], Merged::End(end));
        block.truncate(length);
        if What::decode(&block).is_err() {
            continue;
        }
        let mut core = core_taking(CopyState::Complete, 1 << 20);
        assert!(
            offer(&mut core, &block, &payload).is_err(),
            "chunk {sequence} record {record}"
        );
    }
}
