//! The product's threads as tasks of the world: they wake after pauses that the seed decides.

use crate::process::Process;
use crate::schedule::{self, Needs, spawn};
use farside_storage::{ImageSteps, Keeper, Store, StoreObserver, SyncSteps, UnderWay, Work, Workers};
use std::sync::Arc;
use std::time::Duration;

/// All steps of a store have to be free.
pub const ALL_FREE: Needs = Needs::Free(UnderWay {
    appending: true,
    syncing: true,
    draining: true,
    recording: true,
});
/// No chunk is being appended.
pub const APPENDING_FREE: Needs = Needs::Free(UnderWay {
    appending: true,
    syncing: false,
    draining: false,
    recording: false,
});
/// The journal is not being synced.
const SYNCING_FREE: Needs = Needs::Free(UnderWay {
    appending: false,
    syncing: true,
    draining: false,
    recording: false,
});

/// The image is not being written.
const DRAINING_FREE: Needs = Needs::Free(UnderWay {
    appending: false,
    syncing: false,
    draining: true,
    recording: false,
});

/// Longest pause of a thread that finds nothing to do, in microseconds.
const LONGEST_PAUSE_US: u64 = 64_000;

/// Longest pauses, in microseconds, of the threads that do what may wait for a disk: some come late all their life, so
/// that copies are seen in the middle.
const ELSEWHERE_US: [u64; 3] = [500, 500, 150_000];

/// The threads of one process.
#[derive(Debug)]
pub struct SimWorkers {
    process: Arc<Process>,
    elsewhere_us: u64,
}

impl SimWorkers {
    /// The threads of this process for one of its stores.
    #[must_use]
    pub fn new(process: &Arc<Process>) -> Self {
        Self {
            process: process.clone(),
            elsewhere_us: one_of(&ELSEWHERE_US),
        }
    }
}

fn one_of(pauses_us: &[u64]) -> u64 {
    let at = schedule::draw(pauses_us.len() as u64);
    pauses_us[usize::try_from(at).unwrap_or(0)]
}

impl Workers for SimWorkers {
    fn keep(
        &self,
        store: Arc<Store>,
        observer: Arc<dyn StoreObserver>,
        sync_interval: Duration,
    ) -> std::io::Result<Arc<Keeper>> {
        self.process.holds(&store);
        let (keeper, sync, image) = Keeper::apart(store.clone(), observer, sync_interval);
        spawn(&self.process, SYNCING_FREE, keep_durable(sync));
        spawn(&self.process, ALL_FREE, keep_image(image));
        if schedule::draw(2) == 0 {
            spawn(&self.process, DRAINING_FREE, drain_beside(store));
        }
        Ok(Arc::new(keeper))
    }

    fn run(&self, work: Work) {
        let pause = schedule::draw(self.elsewhere_us);
        spawn(&self.process, ALL_FREE, async move {
            schedule::rest(Duration::from_micros(pause)).await;
            work();
        });
    }
}

/// A pause that is short while there is something to do.
async fn rest(longest_us: &mut u64, busy_us: Option<u64>) {
    *longest_us = busy_us.unwrap_or((*longest_us * 2).min(LONGEST_PAUSE_US));
    let pause_us = 1 + schedule::draw(*longest_us);
    schedule::rest(Duration::from_micros(pause_us)).await;
}

/// Longest pause of a thread that has something to do: some come late all their life.
fn slowness_us() -> u64 {
    one_of(&[2_000, 2_000, LONGEST_PAUSE_US])
}

/// Steps only when the real thread would: a thread that nobody tells of its work is a bug to be seen.
async fn keep_durable(mut steps: SyncSteps) {
    let (mut longest_us, slowness_us) = (1_000, slowness_us());
    loop {
        rest(&mut longest_us, steps.has_work().then_some(slowness_us)).await;
        if steps.is_over() || (steps.has_work() && !steps.step()) {
            return;
        }
    }
}

async fn keep_image(mut steps: ImageSteps) {
    let (mut longest_us, slowness_us) = (1_000, slowness_us());
    loop {
        rest(&mut longest_us, steps.has_work().then_some(slowness_us)).await;
        if steps.is_over() || (steps.has_work() && !steps.step()) {
            return;
        }
    }
}

/// Brings the image forward also while somebody else records positions, which the thread of the image, doing both,
/// is never seen to do here: others record positions, too, when a copy begins or a remote is added.
async fn drain_beside(store: Arc<Store>) {
    loop {
        let pause_us = 1 + schedule::draw(LONGEST_PAUSE_US);
        schedule::rest(Duration::from_micros(pause_us)).await;
        if store.drain().is_err() {
            return;
        }
    }
}
