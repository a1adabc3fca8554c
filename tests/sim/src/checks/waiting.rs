//! A host never waits for the link: whatever remotes do, it is answered in about the time its own disks take.

use crate::local::Site;
use std::time::Duration;

/// Simulated disks take no time and the simulated threads of a store pause for less than a tenth of this.
const LONGEST: Duration = Duration::from_secs(2);

/// A host was answered.
///
/// # Panics
/// When that took too long.
pub fn answered(site: &Site, took: Duration) {
    assert!(took <= LONGEST, "{}: a host waited {took:?}", site.name);
}
