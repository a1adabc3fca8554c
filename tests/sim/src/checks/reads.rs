//! Reads linearise: each sector shows the volume at some moment between the read's beginning and its end.

use crate::local::Site;
use farside::targets::Disk;
use farside::volume::Volume;

/// A read begins: the oldest state it may show.
#[must_use]
pub fn begun(site: &Site, volume: &Volume) -> u64 {
    site.history.lock().acknowledged.max(volume.journaled())
}

/// A read is answered.
///
/// # Panics
/// When a sector shows no state of that time.
pub fn ended(site: &Site, offset: u64, found: &[u8], from: u64) {
    if site.lost_its_end.get() {
        return;
    }
    let history = site.history.lock();
    let to = history.last();
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    if let Err(at) = history.explains(start, found, from, to) {
        // Bytes that wait for the mirror are read from the journal as they lie there, like those of any disk.
        if history.explains_nearly(start, found, (from, to), site.flips.get()) {
            return;
        }
        let older = history.explains(start, found, 0, from);
        panic!(
            "{}: a read of {} bytes at {offset} shows at {at} what the volume did not hold after any of the records {from}..={to} \
             (any older state explains it: {})",
            site.name,
            found.len(),
            older.is_ok()
        );
    }
}
