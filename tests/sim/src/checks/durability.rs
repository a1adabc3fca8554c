//! A flush is answered when everything that was acknowledged before it is durable on the journal's disk.

use crate::local::Site;

/// A flush was answered; `promised` is the highest record acknowledged to any host when it was asked for.
///
/// # Panics
/// When a power loss now could lose it.
pub fn flushed(site: &Site, promised: u64) {
    let mut history = site.history.lock();
    assert!(
        promised <= history.durable(),
        "{}: a flush was answered that covers record {promised}; durable on the disk is {}",
        site.name,
        history.durable()
    );
    history.flushed = history.flushed.max(promised);
}
