//! Memory is bounded: what a store and a link keep stays below what their limits say.

use crate::local::{Site, WINDOW_BYTES};
use crate::world::World;
use farside_protocol::journal::limits::MAX_RECORDS;

/// Bytes of the smallest chunk.
const CHUNK_BYTES: u64 = 4096;

/// Looks at everything that could grow.
///
/// # Panics
/// When something has.
pub fn check(world: &World) {
    for site in world.sites() {
        let Some(volume) = site.volume.borrow().clone() else {
            continue;
        };
        links(&site, u64::from(volume.opened_as().segment_bytes));
        let (used, ring) = volume.store().ring_use();
        assert!(
            used <= ring,
            "{}: {used} bytes in use of a ring of {ring}",
            site.name
        );
        // Every record cuts at most two ranges in three.
        let most = usize::try_from(ring / CHUNK_BYTES).unwrap_or(usize::MAX) * MAX_RECORDS * 2 + 1;
        let pending = volume.store().pending_pieces();
        assert!(pending <= most, "{}: {pending} ranges pending", site.name);
        if pending > 0 && volume.store().points().applied == volume.store().points().journaled {
            panic!(
                "{}: {pending} ranges wait for the mirror, which has everything",
                site.name
            );
        }
    }
}

/// What was sent and not confirmed fits the window; at its end as much is read as the largest chunk may take.
fn links(site: &Site, largest: u64) {
    let merging = site.merging.borrow();
    // What is merged takes less on the link than in the journal, in one that merges its window is not seen from outside.
    let others = site.links.borrow();
    for (remote, link) in others.iter().filter(|(remote, _)| !merging.contains(*remote)) {
        let status = link.snapshot();
        let (received, sent) = (status.received_record, status.sent_record);
        let bytes = site.chunks.lock().wire_bytes(received, sent);
        assert!(
            bytes <= WINDOW_BYTES + largest,
            "{}: {bytes} bytes were sent to {remote} and not confirmed, records {received}..={sent}; its window is {WINDOW_BYTES}",
            site.name
        );
    }
}
