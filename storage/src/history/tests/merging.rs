//! What is kept of the past while merged batches are applied, in several runs, with failures and losses of power between them.

use super::*;
use crate::store::MergePlan;
use crate::test_faults::FaultDisk;
use farside_protocol::journal::What;
use std::sync::atomic::Ordering;

/// Chunks as they travel: *what* part and payloads.
type Chunks = Vec<(Vec<u8>, Vec<u8>)>;

/// A volume with a backlog, and every state that it had.
fn backlog(bytes: u64, random: &mut Random) -> (Store, Model) {
    let near = Disks::new(Role::Volume, 768 << 10).open_without();
    let mut model = Model::new();
    while near.points().journaled.address < bytes {
        if model.append(&near, random).is_err() {
            near.sync().unwrap();
        }
    }
    near.sync().unwrap();
    (near, model)
}

fn make_complete(far: &Store) {
    far.begin_copy(&ChainPoint::default(), Uuid::nil(), 1).unwrap();
    far.zero_copy(0, VOLUME_BYTES).unwrap();
    far.end_copy(0).unwrap();
    far.checkpoint().unwrap();
    while far.drain().unwrap() {}
}

/// With a history, and an image that can fail.
fn open_faulty(disks: &Disks) -> (Store, Arc<FaultDisk>) {
    let image = FaultDisk::new(disks.image.clone());
    let devices = StoreDevices {
        journal: disks.journal.clone(),
        image: image.clone(),
        maps: Vec::new(),
    };
    let store = Store::open(devices, Arc::new(SystemClock::new())).unwrap();
    let history = History::open(disks.ring.clone(), &store.superblock(), &store.points()).unwrap();
    store.keep_history(Arc::new(history)).unwrap();
    (store, image)
}

/// What is sent after a point: a batch, if that is wanted and there is one to be had, else a few chunks.
fn next_chunks(near: &Store, from: &ChainPoint, most: u64, wants_batch: bool) -> (Chunks, bool) {
    let (head, mut buffer, mut chunks) = (near.points().durable, Vec::new(), Chunks::new());
    let mut keep = |buffer: &[u8], spans: Vec<crate::ChunkSpan>| {
        let both = |span: crate::ChunkSpan| (buffer[span.what].to_vec(), buffer[span.data].to_vec());
        chunks.extend(spans.into_iter().map(both));
    };
    let plan = near.plan_merge(from, &head, (most, 16_000)).unwrap();
    if let Some(MergePlan::Batch(mut batch)) = plan
        && wants_batch
    {
        while !batch.is_done() {
            let spans = near.read_merged(&mut batch, 30_000, &mut buffer).unwrap();
            keep(&buffer, spans);
        }
        return (chunks, true);
    }
    let spans = near.read_chunks(from, &head, 20_000, &mut buffer).unwrap();
    keep(&buffer, spans);
    (chunks, false)
}

fn receive(far: &Store, (what, data): &(Vec<u8>, Vec<u8>)) {
    let what = What::decode(what).unwrap();
    when_there_is_room(far, || far.append_sealed(&what, data));
}

/// Applies some of what is there, or all of it; false if the image failed.
fn drain_some(far: &Store, random: &mut Random) -> bool {
    loop {
        match far.drain() {
            Ok(true) if random.below(3) > 0 => {}
            Ok(_) => return true,
            Err(_) => return false,
        }
    }
}

#[test]
fn moments_are_right_through_merged_batches() {
    let (mut batches, mut failures, mut checked) = (0, 0, 0);
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let (near, model) = backlog(400 << 10, &mut random);
        let ring = if random.below(3) == 0 { 300 << 10 } else { 1 << 20 };
        let mut disks = Disks::new(Role::Replica, ring);
        let (mut far, mut image) = open_faulty(&disks);
        make_complete(&far);
        while far.points().journaled.record < near.points().durable.record {
            let from = near.locate(far.points().journaled.record).unwrap().unwrap();
            let (chunks, merged) = next_chunks(&near, &from, far.batch_bytes(), random.below(5) > 0);
            batches += usize::from(merged);
            let arrive = match random.below(3) {
                0 => usize::try_from(random.below(chunks.len() as u64)).unwrap(),
                _ => chunks.len(),
            };
            chunks.iter().take(arrive).for_each(|chunk| receive(&far, chunk));
            if random.below(3) > 0 {
                far.sync().unwrap();
            }
            if random.below(2) == 0 {
                image.fail_write.store(1 + random.below(60), Ordering::SeqCst);
            }
            let works = drain_some(&far, &mut random);
            failures += usize::from(!works);
            if works && random.below(4) == 0 {
                far.checkpoint().unwrap();
            }
            checked += model.check(&far, &mut random, &format!("seed {seed}, works: {works}"));
            image.fail_write.store(0, Ordering::SeqCst);
            if !works || random.below(4) == 0 {
                drop(far);
                disks.crash(&mut random);
                (far, image) = open_faulty(&disks);
                checked += model.check(&far, &mut random, &format!("seed {seed}, opened"));
            }
        }
        far.sync().unwrap();
        while far.drain().unwrap() {}
        checked += model.check(&far, &mut random, &format!("seed {seed}, end"));
        assert!(disks.image.bytes() == model.states[&far.points().applied.record]);
    }
    assert!(
        batches > 40 && failures > 10 && checked > 3000,
        "{batches} {failures} {checked}"
    );
}

#[test]
fn a_chunk_that_rots_leaves_the_image_at_a_state() {
    let mut tried = 0;
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let (near, model) = backlog(300 << 10, &mut random);
        let disks = Disks::new(Role::Replica, 768 << 10);
        let far = disks.open_without();
        make_complete(&far);
        let from = near.locate(0).unwrap().unwrap();
        let (chunks, merged) = next_chunks(&near, &from, far.batch_bytes(), true);
        chunks.iter().for_each(|chunk| receive(&far, chunk));
        far.sync().unwrap();
        // The end of it is in another run than its beginning.
        let (end, data) = (
            far.points().durable.address,
            chunks.last().unwrap().1.len() as u64,
        );
        let at = (end - data.next_multiple_of(4096)) % (JOURNAL_BYTES - (64 << 10));
        if !merged || chunks.len() < 2 || data == 0 {
            continue;
        }
        disks.journal.flip(usize::try_from((64 << 10) + at).unwrap());
        while far.drain().is_ok_and(|more| more) {}
        assert!(far.failure().is_some());
        let image = disks.image.bytes();
        assert!(
            model.states.values().any(|state| *state == image),
            "seed {seed}: the image is no state of the volume"
        );
        tried += 1;
    }
    assert!(tried > 4, "{tried}");
}
