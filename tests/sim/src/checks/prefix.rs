//! An image between two steps is exactly a state the volume had: the mirror, and every replica that is complete.

use crate::local::Site;
use crate::platter::Platter;
use crate::remote::Remote;
use crate::world::World;
use farside_protocol::journal::CopyState;
use farside_storage::Store;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// What was compared last: record and version of the image, by its name.
pub type Compared = BTreeMap<String, (u64, u64)>;

/// Compares the images that nobody is writing with the history.
///
/// # Panics
/// When one is no state, or not the one its position says.
pub fn check(world: &World, compared: &mut Compared) {
    for site in world.sites() {
        if let Some(volume) = site.volume.borrow().clone() {
            mirror(&site, volume.store(), compared);
        }
        for remote in world.remotes() {
            if !world.is_another_branch(&site, &remote.name) {
                replica(&site, &remote, compared);
            }
        }
    }
}

/// The record whose state the image has, if it can be known now: not while it is written, and not before what an earlier
/// process brought there is brought there again.
fn shown(store: &Store) -> Option<u64> {
    let applied = store.points().applied.record;
    let replayed = applied >= store.opened().recovered.head.record;
    let busy = store.under_way();
    (replayed && !busy.draining && !busy.recording && store.failure().is_none()).then_some(applied)
}

fn mirror(site: &Site, store: &Store, compared: &mut Compared) {
    if let Some(applied) = shown(store).filter(|_| !site.lost_its_end.get()) {
        compare_once(site, &site.image, ("the mirror", applied), compared);
    }
}

fn replica(site: &Site, remote: &Remote, compared: &mut Compared) {
    let (Some(home), Some(replica)) = (remote.home(&site.name), remote.replica(&site.name)) else {
        return;
    };
    let store = replica.store();
    let complete = store.copy_progress().state == CopyState::Complete;
    let Some(applied) = shown(store).filter(|_| complete && !home.hurt.load(Ordering::Relaxed)) else {
        return;
    };
    let history = site.history.lock();
    assert!(
        applied <= history.durable_at_most(),
        "the replica of {} on {} applied record {applied}; the volume has {} durable",
        site.name,
        remote.name,
        history.durable()
    );
    assert!(
        history.is_chunk_end(applied),
        "the replica of {} stands at record {applied}, inside a chunk",
        site.name
    );
    drop(history);
    compare_once(site, &home.image, (&remote.name, applied), compared);
}

fn compare_once(site: &Site, image: &Platter, (whose, applied): (&str, u64), compared: &mut Compared) {
    let now = (applied, image.version());
    if compared.insert(image.name().to_owned(), now) != Some(now) {
        let expected = site.history.lock().state_after(applied);
        compare(
            &format!("the image of {} at {whose}", site.name),
            &image.content(),
            &expected,
            applied,
        );
    }
}

/// Compares an image with a state.
///
/// # Panics
/// When they differ.
pub fn compare(name: &str, found: &[u8], expected: &[u8], record: u64) {
    // What is beyond the end of a volume was never written; it may have been smaller then, or be smaller now.
    let both = found.len().min(expected.len());
    let beyond = found[both..].iter().chain(&expected[both..]);
    if found[..both] == expected[..both] && beyond.copied().all(|byte| byte == 0) {
        return;
    }
    let at = found
        .iter()
        .zip(expected)
        .position(|(found, expected)| found != expected);
    panic!("{name} differs at byte {at:?} from the volume after record {record}");
}
