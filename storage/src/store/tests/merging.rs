//! A backlog that is sent merged: the replica is a state of the volume all the same, after whatever happens in the middle.

use super::*;
use crate::store::{MergePlan, MergedBatch};
use farside_protocol::journal::{ChunkHeader, Merged, Record, encode_merged, encode_what};

/// A chain that a replica follows, and all of which is still in its journal.
fn backlog(random: &mut Random) -> World {
    let mut world = World::new(Role::Volume);
    while world.store.points().journaled.address < 200 << 10 {
        let mut pending = world.random_changes(random);
        // Some blocks are written again and again.
        for change in &mut pending {
            if random.below(2) == 0 {
                change.offset %= 16 << 10;
            }
        }
        while !pending.is_empty() {
            world.append(&mut pending);
        }
        world.store.sync().unwrap();
    }
    world
}

/// Chunks as they travel: *what* part and payloads.
type Chunks = Vec<(Vec<u8>, Vec<u8>)>;

fn split(buffer: &[u8], spans: &[crate::ChunkSpan]) -> Chunks {
    let both = |span: &crate::ChunkSpan| {
        (
            buffer[span.what.clone()].to_vec(),
            buffer[span.data.clone()].to_vec(),
        )
    };
    spans.iter().map(both).collect()
}

fn counted(what: &[u8]) -> u64 {
    let what = What::decode(what).unwrap();
    let erased = what.records().filter(|record| record.payload_bytes() == 0);
    what.stored_bytes() + erased.map(|record| u64::from(record.length)).sum::<u64>()
}

/// What is sent next: a batch if that is worth it, else a few chunks as they are. True: a batch.
fn next(near: &World, from: &ChainPoint, limit: &ChainPoint, random: &mut Random) -> (Chunks, bool) {
    let (most, mut buffer) = (near.store.batch_bytes(), Vec::new());
    let mut chunks = Chunks::new();
    if random.below(4) > 0
        && let Some(MergePlan::Batch(mut batch)) = near.store.plan_merge(from, limit, (most, 1000)).unwrap()
    {
        assert!(batch.saved_bytes() > 0);
        read_all(near, &mut batch, random, &mut chunks);
        // What is trimmed and zeroed counts as well: it costs the history as much.
        let counted: u64 = chunks.iter().map(|(what, _)| counted(what)).sum();
        assert!(counted <= most, "{counted} bytes");
        return (chunks, true);
    }
    let spans = near.store.read_chunks(from, limit, 8 << 10, &mut buffer).unwrap();
    (split(&buffer, &spans), false)
}

fn read_all(near: &World, batch: &mut MergedBatch, random: &mut Random, chunks: &mut Chunks) {
    let mut buffer = Vec::new();
    while !batch.is_done() {
        let most = usize::try_from(random.below(20 << 10)).unwrap();
        let spans = near.store.read_merged(batch, most, &mut buffer).unwrap();
        assert!(!spans.is_empty());
        chunks.extend(split(&buffer, &spans));
    }
}

fn receive(far: &World, (what, data): &(Vec<u8>, Vec<u8>)) {
    let what = What::decode(what).unwrap();
    assert!(what.data_is_intact(data));
    when_there_is_room(&far.store, || far.store.append_sealed(&what, data));
}

/// The image is what the volume was after the record that it is said to be after.
fn check(near: &World, far: &World) {
    let applied = far.store.points().applied.record;
    assert!(
        far.image.bytes() == near.state_after(applied),
        "after record {applied}"
    );
}

fn point_at(near: &World, record: u64) -> ChainPoint {
    let found = near
        .store
        .locate(record)
        .unwrap()
        .expect("a batch ends at a point of the chain");
    assert_eq!(found.record, record);
    found
}

#[test]
fn a_merged_backlog_is_a_state_of_the_volume_through_cuts_and_power_losses() {
    let (mut batches, mut cut, mut lost, mut chunks_of_batches) = (0, 0, 0, 0);
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let near = backlog(&mut random);
        let mut far = World::complete_replica();
        let head = near.store.points().durable;
        while far.store.points().journaled.record < head.record {
            let from = point_at(&near, far.store.points().journaled.record);
            assert_eq!(far.store.points().journaled.checksum, from.checksum);
            let (chunks, merged) = next(&near, &from, &head, &mut random);
            let arrive = match random.below(3) {
                0 => usize::try_from(random.below(chunks.len() as u64)).unwrap(),
                _ => chunks.len(),
            };
            for (count, chunk) in chunks.iter().enumerate().take(arrive) {
                let before = far.store.points().journaled;
                receive(&far, chunk);
                let counts = !merged || count + 1 == chunks.len();
                assert_eq!(far.store.points().journaled != before, counts);
            }
            batches += usize::from(merged && arrive == chunks.len());
            chunks_of_batches += if merged { chunks.len() } else { 0 };
            cut += usize::from(merged && arrive < chunks.len());
            match random.below(6) {
                0 => drop(far.store.sync().unwrap()),
                1 | 2 => {
                    far.store.sync().unwrap();
                    while far.store.drain().unwrap() {
                        check(&near, &far);
                    }
                }
                3 => {
                    let durable = far.store.points().durable;
                    let keep = random.below(4);
                    let journal = Arc::new(far.journal.crash(&mut random, keep));
                    let image = Arc::new(far.image.crash(&mut random, keep));
                    let map = far.map.clone();
                    far.store = open(&journal, &image, &map).unwrap();
                    (far.journal, far.image) = (journal, image);
                    lost += 1;
                    let head = far.store.points().journaled;
                    assert!(head.record >= durable.record);
                    point_at(&near, head.record);
                    let superblock = load_superblock(far.journal.as_ref()).unwrap();
                    assert_eq!(
                        scan_all(far.journal.as_ref(), &superblock).unwrap().record,
                        head.record
                    );
                    while far.store.drain().unwrap() {}
                    check(&near, &far);
                }
                _ => {}
            }
        }
        far.store.sync().unwrap();
        while far.store.drain().unwrap() {}
        check(&near, &far);
        assert_eq!(far.store.points().applied.record, head.record);
    }
    assert!(batches > 150 && cut > 30 && lost > 100, "{batches} {cut} {lost}");
    assert!(
        chunks_of_batches > batches + 100,
        "{chunks_of_batches} chunks of {batches}"
    );
}

/// A chunk of one record that follows `head`.
fn made(head: &ChainPoint, length: usize, merged: Option<Merged>) -> (Vec<u8>, Vec<u8>) {
    let data = vec![head.sequence.to_be_bytes()[7] + 1; length];
    let header = ChunkHeader {
        volume: Uuid::from_u128(7),
        epoch: 1,
        sequence: head.sequence + 1,
        first_record: head.record + 1,
        sealed_at_us: 1,
        previous_checksum: head.checksum,
        blocks_before: head.blocks,
        bytes_before: head.bytes,
    };
    let record = Record {
        offset: 0,
        length: u32::try_from(length).unwrap(),
        checksum: crc32c::crc32c(&data),
        age_us: 0,
        kind: RecordKind::Write,
    };
    let mut block = vec![0; 4096];
    let (length, _) = match merged {
        None => encode_what(&mut block, &header, &[record]),
        Some(merged) => encode_merged(&mut block, &header, &[record], merged),
    };
    block.truncate(length);
    (block, data)
}

#[test]
fn a_batch_that_is_given_up_does_not_stand_in_the_way_of_a_chunk_that_goes_to_the_next_segment() {
    let far = World::complete_replica();
    let head = || far.store.points().journaled;
    // What is left of the segment takes the first chunk of a batch, and not the chunk that comes instead of it.
    receive(&far, &made(&head(), 100, None));
    receive(&far, &made(&head(), 4096, Some(Merged::More)));
    let before = head();
    receive(&far, &made(&before, 8192, None));
    assert_eq!(head().record, before.record + 1);
    assert_eq!(head().address / (16 << 10), before.address / (16 << 10) + 1);
    far.store.sync().unwrap();
    while far.store.drain().unwrap() {}
    assert_eq!(far.store.points().applied, head());
    let byte = before.sequence.to_be_bytes()[7] + 1;
    assert_eq!(far.image.bytes()[..8192], vec![byte; 8192]);
    // And so it is found after a power loss.
    let far_head = head();
    let mut random = Random::new(1);
    let journal = Arc::new(far.journal.crash(&mut random, 0));
    let image = Arc::new(far.image.crash(&mut random, 0));
    let again = open(&journal, &image, &far.map).unwrap();
    assert_eq!(again.points().journaled.record, far_head.record);
}

/// what decodes as the end of a batch must not make the replica's journal one that cannot be opened.
fn reopens_after(sequence: u64, record: u64) {
    let far = World::complete_replica();
    let end = ChainPoint {
        sequence,
        record,
        ..ChainPoint::default()
    };
    let (what, data) = made(&far.store.points().journaled, 4096, Some(Merged::End(end)));
    let Ok(what) = What::decode(&what) else { return };
    if far.store.append_sealed(&what, &data).is_err() {
        return;
    }
    far.store.sync().unwrap();
    while far.store.drain().unwrap() {}
    far.store.shut_down().unwrap();
    drop(far.store);
    let opened = open(&far.journal, &far.image, &far.map);
    assert!(opened.is_ok(), "{}", opened.err().unwrap());
}

#[test]
fn an_end_of_a_batch_with_more_chunks_than_records_does_no_harm() {
    reopens_after(50, 11);
}

#[test]
fn an_end_of_a_batch_at_the_end_of_all_numbers_does_no_harm() {
    use farside_protocol::journal::limits::MAX_POSITION;
    reopens_after(MAX_POSITION, MAX_POSITION);
}

/// A volume with a long journal, and room for a map.
fn large() -> (Store, Arc<TestDisk>) {
    let bytes: u64 = (64 << 10) + (256 << 20);
    let (journal, image) = (
        Arc::new(TestDisk::new(bytes)),
        Arc::new(TestDisk::new(VOLUME_BYTES)),
    );
    let map = Arc::new(TestDisk::new(1 << 20));
    let mut given = parameters(Role::Volume, Uuid::from_u128(7));
    (given.journal_bytes, given.segment_bytes) = (bytes, Some(4 << 20));
    Store::format(journal.as_ref(), &given, 1).unwrap();
    let devices = StoreDevices {
        journal: journal.clone(),
        image: image.clone(),
        maps: vec![],
    };
    (Store::open(devices, Arc::new(SystemClock::new())).unwrap(), map)
}

/// One block is written over and over: a batch of one chunk could stand for any number of them.
#[test]
fn the_end_of_a_batch_is_on_the_trail_of_a_remote_that_is_let_go() {
    use farside_protocol::journal::MAX_TRAIL_POINTS;
    let (store, map) = large();
    let write = |kind, offset| {
        let data = if kind == RecordKind::Write {
            vec![5; 512]
        } else {
            vec![]
        };
        let mut pending = VecDeque::from([Change {
            offset,
            length: 512,
            kind,
            data: data.into(),
            arrived_us: 0,
        }]);
        while !pending.is_empty() {
            if store.append(&mut pending).is_err() {
                store.sync().unwrap();
            }
        }
    };
    store.add_consumer("far", map).unwrap();
    let (base, _) = store.begin_consumer_copy("far", true).unwrap();
    write(RecordKind::Write, 0);
    store.sync().unwrap();
    let acked = store.points().durable;
    store.acknowledge("far", acked, true).unwrap();
    assert_eq!(base.record, 0);
    // The same place is written over and over, one record in a chunk.
    for _ in 0..MAX_TRAIL_POINTS + 100 {
        write(RecordKind::Write, 4096);
    }
    store.sync().unwrap();
    let limit = store.points().durable;
    let Some(MergePlan::Batch(mut batch)) = store
        .plan_merge(&acked, &limit, (6 << 20, MAX_TRAIL_POINTS as u64 - 257))
        .unwrap()
    else {
        panic!("not merged")
    };
    let mut buffer = Vec::new();
    while !batch.is_done() {
        store.read_merged(&mut batch, 1 << 20, &mut buffer).unwrap();
    }
    let end = *batch.at();
    // Sent, and received; the connection is cut before that is acknowledged. The queue is discarded, or the journal is full.
    store.let_go("far").unwrap();
    while store.drain().unwrap() {}
    store.checkpoint().unwrap();
    assert!(store.points().tail.record >= end.record);
    write(RecordKind::Write, 8192);
    store.sync().unwrap();
    while store.drain().unwrap() {}
    store.checkpoint().unwrap();
    let found = store
        .locate(end.record)
        .unwrap()
        .or(store.trail_point("far", end.record));
    assert!(
        found.is_some(),
        "record {} is neither in the journal nor on the trail (confirmed {}): decide() says Diverged",
        end.record,
        store.consumer("far").unwrap().acked.record
    );
}

/// (older than the merged batches) a chunk longer than a segment, from a sender that named small segments.
#[test]
fn a_chunk_longer_than_a_segment_is_refused() {
    use farside_protocol::journal::{ChunkHeader, Record, encode_what};
    let far = World::complete_replica();
    let at = far.store.points().journaled;
    let data = vec![7_u8; 64 << 10];
    let header = ChunkHeader {
        volume: Uuid::from_u128(7),
        epoch: 1,
        sequence: at.sequence + 1,
        first_record: at.record + 1,
        sealed_at_us: 1,
        previous_checksum: at.checksum,
        blocks_before: 0,
        bytes_before: 0,
    };
    let records = [Record {
        offset: 0,
        length: 64 << 10,
        checksum: crc32c::crc32c(&data),
        age_us: 0,
        kind: RecordKind::Write,
    }];
    let mut block = vec![0; 4096];
    let (length, _) = encode_what(&mut block, &header, &records);
    let what = What::decode(&block[..length]).unwrap();
    if far.store.append_sealed(&what, &data).is_err() {
        return;
    }
    far.store.sync().unwrap();
    assert!(far.store.drain().is_ok(), "{:?}", far.store.drain());
}

/// (older than the merged batches) the base of a copy that the next start refuses.
#[test]
fn a_base_at_the_end_of_all_numbers_is_refused() {
    use farside_protocol::journal::limits::MAX_POSITION;
    let far = World::new(Role::Replica);
    let base = ChainPoint {
        sequence: 1,
        record: MAX_POSITION / 2 + 1,
        epoch: 1,
        ..ChainPoint::default()
    };
    if far.store.begin_copy(&base, Uuid::nil(), 1).is_err() {
        return;
    }
    drop(far.store);
    let opened = open(&far.journal, &far.image, &far.map);
    assert!(opened.is_ok(), "{}", opened.err().unwrap());
}
