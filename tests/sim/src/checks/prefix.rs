//! An image between two steps is exactly a state the volume had: the mirror, and every replica that is complete.

use crate::world::World;
use farside_protocol::journal::CopyState;
use std::sync::atomic::Ordering;

/// Compares the images that nobody is writing with the history.
///
/// # Panics
/// When one is no state, or not the one its position says.
pub fn check(world: &World) {
    for site in world.sites() {
        if let Some(volume) = site.volume.borrow().clone()
            && !volume.store().under_way().draining
            && volume.store().failure().is_none()
        {
            let applied = volume.store().points().applied.record;
            if applied < volume.store().opened().recovered.head.record {
                // It holds parts of what was brought there before the last end, until that is done again.
                continue;
            }
            let expected = site.history.lock().state_after(applied);
            compare(
                &format!("the mirror of {}", site.name),
                &site.image.content(),
                &expected,
                applied,
            );
        }
        for remote in world.remotes() {
            let (Some(home), Some(replica)) = (remote.home(&site.name), remote.replica(&site.name)) else {
                continue;
            };
            let store = replica.store();
            let busy = store.under_way();
            let complete = store.copy_progress().state == CopyState::Complete;
            if !complete
                || busy.draining
                || busy.recording
                || store.failure().is_some()
                || home.hurt.load(Ordering::Relaxed)
            {
                continue;
            }
            let applied = store.points().applied.record;
            if applied < store.opened().recovered.head.record {
                continue;
            }
            let history = site.history.lock();
            if world.is_another_branch(&site) {
                continue;
            }
            assert!(
                applied <= history.durable(),
                "the replica of {} on {} applied record {applied}; the volume has {} durable",
                site.name,
                remote.name,
                history.durable()
            );
            assert!(
                history.is_chunk_end(applied),
                "the replica of {} stands inside a chunk",
                site.name
            );
            let expected = history.state_after(applied);
            drop(history);
            let name = format!("the replica of {} on {}", site.name, remote.name);
            compare(&name, &home.image.content(), &expected, applied);
        }
    }
}

/// # Panics
/// When they differ.
pub fn compare(name: &str, found: &[u8], expected: &[u8], record: u64) {
    if let Some(at) = found
        .iter()
        .zip(expected)
        .position(|(found, expected)| found != expected)
    {
        panic!("{name} differs at byte {at} from the volume after record {record}");
    }
}
