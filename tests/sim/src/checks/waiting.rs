//! A host never waits for the link: whatever remotes do, it is answered in about the time its own disks take.

use crate::local::Site;
use crate::world::World;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// Simulated disks take no time and the simulated threads of a store pause for less than a tenth of this.
const LONGEST: Duration = Duration::from_secs(2);

/// A host was answered.
///
/// # Panics
/// When that took too long.
pub fn answered(site: &Site, took: Duration) {
    assert!(took <= LONGEST, "{}: a host waited {took:?}", site.name);
}

/// A question that is not answered yet, until it is dropped.
#[derive(Debug)]
pub struct Waiting {
    site: Rc<Site>,
    number: u64,
}

impl Waiting {
    /// A host asks.
    #[must_use]
    pub fn new(site: &Rc<Site>) -> Self {
        let mut waiting = site.waiting.borrow_mut();
        let number = waiting.last_key_value().map_or(0, |(last, _)| last + 1);
        waiting.insert(number, Instant::now());
        Self {
            site: site.clone(),
            number,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.site.waiting.borrow_mut().remove(&self.number);
    }
}

/// Looks at everybody who waits.
///
/// # Panics
/// When somebody has waited too long.
pub fn check(world: &World) {
    if world
        .local
        .borrow()
        .process
        .as_ref()
        .is_none_or(|process| process.is_dead())
    {
        return;
    }
    for site in world.sites() {
        for since in site.waiting.borrow().values() {
            answered(&site, since.elapsed());
        }
    }
}
