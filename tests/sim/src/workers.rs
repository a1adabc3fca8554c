//! The product's threads as tasks of the world: they wake after pauses that the seed decides.

use crate::process::Process;
use crate::schedule::{self, Needs, spawn};
use crate::stats::happened;
use farside_storage::limits::COPY_CHECKPOINT_INTERVAL;
use farside_storage::{ImageSteps, Keeper, Store, StoreObserver, SyncSteps, UnderWay, Work, Workers};
use std::sync::Arc;
use std::time::Duration;

/// All steps of a store have to be free.
pub const ALL_FREE: Needs = Needs::Free(UnderWay {
    appending: true,
    syncing: true,
    draining: true,
    recording: true,
    remembering: true,
});
/// No chunk is being appended, and nothing put into a history: what a session does.
pub const SESSION_FREE: Needs = Needs::Free(UnderWay {
    appending: true,
    syncing: false,
    draining: false,
    recording: false,
    remembering: true,
});
/// The journal is not being synced.
const SYNCING_FREE: Needs = Needs::Free(UnderWay {
    appending: false,
    syncing: true,
    draining: false,
    recording: false,
    remembering: false,
});

/// The image is not being written.
const DRAINING_FREE: Needs = Needs::Free(UnderWay {
    appending: false,
    syncing: false,
    draining: true,
    recording: false,
    remembering: true,
});

/// The same, and no positions are being recorded.
const REMEMBERING_FREE: Needs = Needs::Free(UnderWay {
    appending: false,
    syncing: false,
    draining: true,
    recording: true,
    remembering: true,
});

/// Longest pause of a thread that finds nothing to do, in microseconds.
const LONGEST_PAUSE_US: u64 = 64_000;

/// Of so many stores of remotes one is very slow now and then: once in so many steps, and for so long at most.
const HANGING_STORES: u64 = 6;
const HANGS: u64 = 10;
const LONGEST_HANG_US: u64 = 3_000_000;

/// The process whose disks hosts wait for.
const LOCAL: &str = "local";

/// Of so many images one is brought forward only when the ring gets full, to a part of so much, or nothing is written: else
/// hardly anything but remotes would ever hold the ring.
const LAZY_IMAGES: u64 = 2;
const LAZY_PART: u64 = 6;

/// Bytes of the ring that a write of one block takes.
const SMALLEST_WRITE: u64 = 8192;

/// Longest pauses, in microseconds, of the threads that do what may wait for a disk: some come late all their life, so
/// that copies are seen in the middle.
const ELSEWHERE_US: [u64; 3] = [500, 500, 150_000];

/// The threads of one process.
#[derive(Debug)]
pub struct SimWorkers {
    process: Arc<Process>,
    elsewhere_us: u64,
    held_up: bool,
}

impl SimWorkers {
    /// The threads of this process for one of its stores.
    #[must_use]
    pub fn new(process: &Arc<Process>) -> Self {
        Self {
            process: process.clone(),
            elsewhere_us: one_of(&ELSEWHERE_US),
            held_up: schedule::draw(2) == 0,
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
        spawn(
            &self.process,
            SYNCING_FREE,
            keep_durable(sync, Pace::new(&self.process)),
        );
        spawn(
            &self.process,
            ALL_FREE,
            keep_image(store.clone(), image, Pace::new(&self.process)),
        );
        if schedule::draw(2) == 0 {
            // The end of a history is recorded before the image goes on without it.
            let needs = if store.history().is_some() || store.has_past_to_heed() {
                REMEMBERING_FREE
            } else {
                DRAINING_FREE
            };
            spawn(&self.process, needs, drain_beside(store));
        }
        Ok(Arc::new(keeper))
    }

    fn run(&self, work: Work) {
        let (pause, held_up) = (schedule::draw(self.elsewhere_us), self.held_up);
        spawn(&self.process, ALL_FREE, async move {
            schedule::rest(Duration::from_micros(pause)).await;
            if held_up { schedule::held_up(work) } else { work() }
        });
    }

    fn do_here(&self, work: &mut dyn FnMut()) {
        if schedule::draw(2) == 0 {
            happened("flushes on the thread that asks");
            work();
        }
    }
}

/// How a thread takes its time: some come late all their life.
struct Pace {
    /// Longest pause while there is something to do.
    slowness_us: u64,
    /// The same while there is nothing.
    idle_us: u64,
    /// Its disk is very slow now and then.
    hangs: bool,
}

impl Pace {
    fn new(process: &Process) -> Self {
        // Hosts wait for the disks of the local unit, and are promised not to wait for long.
        let is_remote = process.name() != LOCAL;
        Self {
            slowness_us: one_of(&[2_000, 2_000, LONGEST_PAUSE_US]),
            idle_us: 1_000,
            hangs: is_remote && schedule::draw(HANGING_STORES) == 0,
        }
    }

    /// A pause that is short while there is something to do.
    async fn rest(&mut self, is_busy: bool) {
        let longest_us = if !is_busy {
            self.idle_us = (self.idle_us * 2).min(LONGEST_PAUSE_US);
            self.idle_us
        } else if self.hangs && schedule::draw(HANGS) == 0 {
            happened("stores of remotes that were slow");
            LONGEST_HANG_US
        } else {
            self.idle_us = self.slowness_us;
            self.slowness_us
        };
        let pause_us = 1 + schedule::draw(longest_us);
        schedule::rest(Duration::from_micros(pause_us)).await;
    }
}

/// Steps only when the real thread would find work: a thread that nobody tells of its work is a bug to be seen. That the
/// real one is also woken is tried beside the keeper.
async fn keep_durable(mut steps: SyncSteps, mut pace: Pace) {
    loop {
        pace.rest(steps.has_work()).await;
        if steps.is_over() || (steps.has_work() && !steps.step()) {
            return;
        }
    }
}

async fn keep_image(store: Arc<Store>, mut steps: ImageSteps, mut pace: Pace) {
    let now = || store.clock().monotonic();
    let mut stepped = now();
    // It looks by itself, too, after so long a sleep.
    let wakes = |steps: &ImageSteps, stepped| {
        steps.has_work() || now().saturating_sub(stepped) >= COPY_CHECKPOINT_INTERVAL
    };
    let (is_lazy, mut seen) = (schedule::draw(LAZY_IMAGES) == 0, 0);
    loop {
        pace.rest(wakes(&steps, stepped)).await;
        let (used, ring) = store.ring_use();
        let fills = std::mem::replace(&mut seen, used) < used;
        if is_lazy && fills && ring - used > ring / LAZY_PART && !steps.is_over() {
            continue;
        }
        if ring - used < SMALLEST_WRITE {
            happened("rings without room");
        }
        if steps.is_over() {
            return;
        }
        if wakes(&steps, stepped) {
            if !steps.step() {
                return;
            }
            stepped = now();
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
