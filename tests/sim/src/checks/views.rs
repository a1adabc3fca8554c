//! A moment reads as the volume was then: on a replica in service while it goes on, and on what a loss of power leaves of one.

use crate::disk::SimDisk;
use crate::local::Site;
use crate::platter::Platter;
use crate::process::Process;
use crate::remote::{Home, Remote};
use crate::schedule;
use crate::stats::happened;
use crate::time::pause_us;
use crate::world::World;
use farside_storage::{Device, History, Moment, StorageError, Store, format_history};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Moments that are looked at on what is left of a replica.
const MOMENTS: usize = 6;

/// Keeps what the image of a replica holds before, as its unit does when it opens one.
pub fn keep(store: &Store, past: &Arc<Platter>, open: impl Fn(&Arc<Platter>) -> Arc<SimDisk>) {
    let opened = || {
        let device: Arc<dyn Device> = open(past);
        History::open(device, &store.superblock(), &store.points())
    };
    let history = opened().or_else(|error| {
        if !error.is_lost_content() {
            return Err(error);
        }
        let now_us = store.clock().wall_us();
        format_history(&*open(past), &store.superblock(), past.bytes, now_us)?;
        opened()
    });
    if history
        .and_then(|history| store.keep_history(Arc::new(history)))
        .is_err()
    {
        happened("starts without a history");
    }
}

/// Somebody looks at moments of the replicas of a unit for as long as it lives.
pub async fn go_on(world: &Rc<World>, remote: &Rc<Remote>, process: &Arc<Process>) {
    while !process.is_dead() {
        pause_us(1 + schedule::draw(400_000)).await;
        for site in world.sites() {
            let (Some(home), Some(replica)) = (remote.home(&site.name), remote.replica(&site.name)) else {
                continue;
            };
            if process.is_dead() || !is_judged(world, &site, &home, &remote.name) {
                continue;
            }
            let name = format!("the replica of {} on {}", site.name, remote.name);
            one(&name, (&site, &home), replica.store(), process);
        }
    }
}

/// Whether what a remote holds can be told to be right or wrong.
pub(super) fn is_judged(world: &World, site: &Site, home: &Home, remote: &str) -> bool {
    let branches = site.history.lock().has_branches();
    !branches && !home.hurt.load(Ordering::Relaxed) && !world.is_another_branch(site, remote)
}

/// A part of one moment, while everything goes on.
fn one(name: &str, (site, home): (&Site, &Home), store: &Store, process: &Process) {
    let Some(moment) = any(store) else { return };
    let Some(view) = store.view(&moment) else { return };
    let start = schedule::draw(view.bytes() / 512) * 512;
    let length = (512 * (1 + schedule::draw(64))).min(view.bytes() - start);
    let mut found = vec![0; usize::try_from(length).unwrap_or(0)];
    let read = view.read(start, &mut found);
    if process.is_dead() || home.hurt.load(Ordering::Relaxed) {
        return;
    }
    judge(name, (site, home), (&moment, store), start, read.map(|()| found));
}

fn any(store: &Store) -> Option<Moment> {
    let moments = store.history()?.newest(None, usize::MAX);
    let count = moments.len() as u64;
    (count > 0).then(|| moments[usize::try_from(schedule::draw(count)).unwrap_or(0)])
}

fn judge(
    name: &str,
    (site, home): (&Site, &Home),
    (moment, store): (&Moment, &Store),
    start: u64,
    read: Result<Vec<u8>, StorageError>,
) {
    match read {
        Ok(found) => {
            let from = usize::try_from(start).unwrap_or(usize::MAX);
            let expected = site
                .history
                .lock()
                .range_after(moment.record, from..from + found.len());
            let differs = found
                .iter()
                .zip(&expected)
                .position(|(found, expected)| found != expected);
            if differs.is_some() && home.past_is_damaged.load(Ordering::Relaxed) {
                return happened("views of damaged histories");
            }
            assert!(
                differs.is_none(),
                "{name}: a view of record {} differs at byte {} from the volume then",
                moment.record,
                from + differs.unwrap_or(0)
            );
            happened("views checked");
        }
        // What left the ring is gone; what is damaged is refused.
        Err(error) => {
            let excused = home.past_is_ill.load(Ordering::Relaxed)
                || home.faulty.load(Ordering::Relaxed)
                || store.view(moment).is_none();
            assert!(
                excused,
                "{name}: record {} cannot be viewed: {error}",
                moment.record
            );
            happened("views refused");
        }
    }
}

/// Moments of what is left of a replica, once everything that it journaled is in its image again.
///
/// # Panics
/// When one is not as the volume was.
pub fn all(world: &World, name: &str, (site, home): (&Site, &Home), store: &Store) {
    if site.history.lock().has_branches() || store.history().is_none() {
        return;
    }
    for _ in 0..MOMENTS {
        let Some(moment) = any_of(world, store) else {
            return;
        };
        let Some(view) = store.view(&moment) else { continue };
        let mut found = vec![0; usize::try_from(view.bytes()).unwrap_or(0)];
        let read = view.read(0, &mut found);
        judge(name, (site, home), (&moment, store), 0, read.map(|()| found));
    }
}

fn any_of(world: &World, store: &Store) -> Option<Moment> {
    let moments = store.history()?.newest(None, usize::MAX);
    (!moments.is_empty()).then(|| world.pick(&moments))
}

/// In the middle of a copy the states before it can be viewed.
///
/// # Panics
/// When one is not as the volume was.
pub fn kept_throughout(world: &World, name: &str, of: (&Site, &Home), store: &Store) {
    // What was journaled since belongs to no state, and nothing of it may be left in a view.
    while store
        .drain()
        .expect("a recovered journal is brought into the image")
    {}
    if any_of(world, store).is_some() {
        world.stats.count("copies with views checked");
    }
    all(world, name, of, store);
}
