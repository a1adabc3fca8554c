//! What recovery owes: acknowledged writes after the death of the process, flushed ones after a power loss, and a
//! replica that is alone is exactly a state of the volume that covers all it ever confirmed.
//!
//! Before a unit starts again its disks are copied and the copies recovered, to the end: image and journal together
//! have to give the volume. Then the unit itself starts on the originals and has to come to the same point.

use super::prefix::compare;
use crate::disk::SimDisk;
use crate::history::History;
use crate::local::{LeftAhead, Site};
use crate::platter::Platter;
use crate::remote::{Home, Remote};
use crate::stats::happened;
use crate::time::SimClock;
use crate::world::World;
use farside_protocol::journal::{ChainPoint, CopyState};
use farside_storage::{StorageError, Store, StoreDevices, load_superblock};
use farside_tests::random::Random;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The last chunk and the image of a replica that is complete, as it would come up on its disks.
#[must_use]
pub fn held_by(home: &Home) -> Option<LeftAhead> {
    let (store, _) = recover(Ok(home.devices(copied))).ok()?;
    let usable = !home.hurt.load(Ordering::Relaxed) && !home.went_back.load(Ordering::Relaxed);
    if !usable || store.superblock().copy != CopyState::Complete {
        return None;
    }
    let state = image_in_the_end(&store).ok()?;
    let point = store.points().journaled;
    Some(LeftAhead { point, state })
}

/// Whether a replica is a state that its volume, having gone back in time, still knows of.
#[must_use]
pub fn is_on_branch(home: &Home, history: &History) -> bool {
    let recovered = recover(Ok(home.devices(copied)));
    recovered.is_ok_and(|(store, _)| {
        store.superblock().copy == CopyState::Complete && history.holds(&store.points().journaled)
    })
}

/// A replica that was ahead when its volume went back in time may lose what was not durable then.
pub fn lost_power(world: &World, remote: &str, home: &Home) {
    for site in world.sites().iter().filter(|site| site.name == home.name) {
        let mut left_ahead = site.left_ahead.borrow_mut();
        if let (Some(left), Some(held)) = (left_ahead.get_mut(remote), held_by(home))
            && held.point.record < left.point.record
        {
            *left = held;
        }
    }
}

/// A replica that was ahead when its volume went back in time still is what it was, or what it came to with chunks that
/// were on their way to it then.
///
/// # Panics
/// When anything of it was lost, or anything else was written.
pub fn still_ahead(site: &Site, remote: &Remote) {
    let left_ahead = site.left_ahead.borrow();
    let (Some(left), Some(home)) = (left_ahead.get(&remote.name), remote.home(&site.name)) else {
        return;
    };
    if home.hurt.load(Ordering::Relaxed) || home.went_back.load(Ordering::Relaxed) {
        return;
    }
    let name = format!("the replica of {} on {}", site.name, remote.name);
    let (store, head) = recover(Ok(home.devices(copied))).expect("a replica that nobody wrote comes up");
    let (before, found) = (left.point.record, store.points().journaled);
    // A unit that is killed has sent what it has sent. Only the branch that the replica is on had such chunks: what the
    // volume wrote since then never follows them.
    let branches = site.branches_left.borrow();
    let went_on = branches
        .iter()
        .find(|branch| head > before && branch.holds(&left.point) && branch.holds(&found));
    assert!(
        head == before || went_on.is_some(),
        "{name} was ahead of its volume at record {before}, and was written nevertheless: it holds {head}"
    );
    let image = image_in_the_end(&store).expect("a recovered journal is brought into the image");
    let expected = went_on.map(|branch| branch.state_after(head));
    if expected.is_some() {
        happened("replicas ahead that took what was on its way");
    }
    compare(&name, &image, expected.as_ref().unwrap_or(&left.state), head);
}

fn copied(platter: &Arc<Platter>) -> Arc<SimDisk> {
    SimDisk::quietly(&platter.fork(false, &mut Random::new(0)))
}

/// Recovers a copy to the end; its last record and its image.
fn recover(devices: Result<StoreDevices, StorageError>) -> Result<(Store, u64), StorageError> {
    let store = Store::open(devices?, Arc::new(SimClock::new()))?;
    let head = store.points().journaled.record;
    Ok((store, head))
}

/// A journal that was closed in good order says so, and its next start is no recovery.
///
/// # Panics
/// When it does not.
pub fn ended_cleanly(name: &str, journal: &Arc<Platter>) {
    let superblock = load_superblock(&*SimDisk::quietly(journal)).expect("a healthy disk is read");
    assert!(
        superblock.clean,
        "{name} was shut down, and its journal is not marked clean"
    );
}

/// The volume as it would come up on these disks: its last record, if it does. What the journal does not give back is no
/// part of its history from now on: a start may erase it, also one that fails later.
///
/// # Panics
/// When it would not be a state of its history that holds everything promised.
pub fn local_before_start(world: &World, site: &Site) -> Option<u64> {
    let power_lost = site.history.lock().power_was_lost;
    let head = volume_alone(world, site, site.devices(copied), power_lost)?;
    let mut history = site.history.lock();
    if head.record < history.durable() {
        site.lost_its_end.set(true);
        history.lost_its_end = true;
    }
    history.truncate(head.record, head.sequence);
    history.power_was_lost = false;
    Some(head.record)
}

/// The same at any moment, as if the unit died now, or lost its power.
///
/// # Panics
/// As above.
pub fn local_now(world: &World, site: &Site) {
    if site.volume.borrow().is_none() {
        return;
    }
    let power_lost = world.chance(50);
    let random = RefCell::new(Random::new(world.random.borrow_mut().next_u64()));
    let devices =
        site.devices(|platter| SimDisk::quietly(&platter.fork(power_lost, &mut random.borrow_mut())));
    volume_alone(world, site, devices, power_lost);
}

fn volume_alone(
    world: &World,
    site: &Site,
    devices: Result<StoreDevices, StorageError>,
    power_lost: bool,
) -> Option<ChainPoint> {
    let (store, head) = match recover(devices) {
        Ok(recovered) => recovered,
        Err(error) => {
            assert!(site.is_hurt(), "{} cannot be recovered: {error}", site.name);
            return None;
        }
    };
    let history = site.history.lock();
    let found = store.points().journaled;
    owed_is_there(site, &history, head, power_lost);
    let expected = history.state_after(head);
    // What was durable and is damaged now may have reached the mirror before.
    if site.lost_its_end.get() || head < history.durable() {
        return Some(found);
    }
    drop(history);
    if !site.is_hurt() {
        let mut content = vec![0; expected.len()];
        store.read(0, &mut content).expect("a healthy disk is read");
        compare(
            &format!("{} after recovery", site.name),
            &content,
            &expected,
            head,
        );
    }
    match image_in_the_end(&store) {
        Ok(image) => {
            let name = format!("the mirror of {} after recovery", site.name);
            compare(&name, &image, &expected, head);
            world.stats.count("recoveries of volumes checked");
        }
        Err(error) => assert!(site.is_hurt(), "{}: the mirror stays behind: {error}", site.name),
    }
    Some(found)
}

/// Checks that a recovery ends at a chunk's end and covers everything promised.
fn owed_is_there(site: &Site, history: &History, head: u64, power_lost: bool) {
    let (owed, what) = if power_lost {
        (history.flushed, "flushed")
    } else {
        (history.acknowledged, "acknowledged")
    };
    assert!(
        head >= owed || site.is_hurt(),
        "{}: recovered up to record {head}; {owed} was promised ({what})",
        site.name
    );
    assert!(
        head >= history.durable() || site.is_hurt(),
        "{}: recovered up to record {head}; the disk holds {} for sure",
        site.name,
        history.durable()
    );
    assert!(
        head <= history.last(),
        "{}: recovered record {head} of {}",
        site.name,
        history.last()
    );
    assert!(
        history.is_chunk_end(head),
        "{}: recovered to the middle of a chunk",
        site.name
    );
}

/// Brings a recovered journal into the image, to its end.
fn image_in_the_end(store: &Store) -> Result<Vec<u8>, StorageError> {
    while store.drain()? {}
    let mut image = vec![0; usize::try_from(store.volume_bytes()).unwrap_or(0)];
    store.image().read_at(&mut image, 0)?;
    Ok(image)
}

/// The volume has come up.
///
/// # Panics
/// When it forgot to begin a new epoch, or is not at the record that a copy of its disks, read without faults, came to.
pub fn local_started(world: &World, site: &Site, store: &Store, expected: Option<u64>) {
    let opened = store.opened();
    let head = opened.recovered.head;
    world.stats.trace(&site.name, || {
        format!(
            "opened at record {} in epoch {}, clean: {}",
            head.record, opened.epoch, opened.clean
        )
    });
    assert!(
        expected.is_none_or(|expected| expected == head.record),
        "{} came up at record {}, a copy of it at {expected:?}",
        site.name,
        head.record
    );
    assert!(
        opened.clean || opened.epoch > head.epoch,
        "{}: opened after an unclean end in epoch {}, its last chunk is of {}",
        site.name,
        opened.epoch,
        head.epoch
    );
}

/// What a replica came up with on a copy of its disks.
#[derive(Debug)]
pub struct Alone {
    head: u64,
    /// It is a state of the volume.
    is_complete: bool,
}

/// The replica has come up.
///
/// # Panics
/// When it is not at the record that a copy of its disks, read without faults, came to.
pub fn remote_started(remote: &Remote, home: &Home, store: &Store, expected: &Alone) {
    let head = store.opened().recovered.head.record;
    assert_eq!(
        head, expected.head,
        "the replica of {} on {} came up at another record than a copy of it",
        home.name, remote.name
    );
    if expected.is_complete {
        home.reached.store(head, Ordering::Relaxed);
    }
}

/// The replica as it would come up on these disks, its volume gone for ever.
///
/// # Panics
/// When it would not be a state of the volume that covers what it confirmed.
pub fn remote_before_start(world: &World, remote: &Remote, home: &Home) -> Option<Alone> {
    alone(world, remote, home, (home.devices(copied), copied(&home.past)))
}

/// The same at any moment, as if the remote lost its power now.
///
/// # Panics
/// As above.
pub fn remote_now(world: &World, remote: &Remote, home: &Home) {
    let random = RefCell::new(Random::new(world.random.borrow_mut().next_u64()));
    let without_power =
        |platter: &Arc<Platter>| SimDisk::quietly(&platter.fork(true, &mut random.borrow_mut()));
    let devices = (home.devices(without_power), without_power(&home.past));
    alone(world, remote, home, devices);
}

fn alone(
    world: &World,
    remote: &Remote,
    home: &Home,
    (devices, past): (StoreDevices, Arc<SimDisk>),
) -> Option<Alone> {
    let hurt = home.hurt.load(Ordering::Relaxed);
    let name = format!("the replica of {} on {}", home.name, remote.name);
    let (store, head) = match recover(Ok(devices)) {
        Ok(recovered) => recovered,
        Err(error) => {
            assert!(hurt, "{name} cannot be recovered: {error}");
            return None;
        }
    };
    let not_judged = Alone {
        head,
        is_complete: false,
    };
    let Some(site) = world.sites().into_iter().find(|site| site.name == home.name) else {
        return Some(not_judged);
    };
    let copy = store.superblock().copy;
    if hurt || copy == CopyState::Empty || world.is_another_branch(&site, &remote.name) {
        return Some(not_judged);
    }
    super::views::keep(&store, &home.past, |_| past.clone());
    if copy == CopyState::Copying {
        super::views::kept_throughout(world, &name, (&site, home), &store);
        super::copies::goes_on_at_what_is_durable(&name, &store, &site.history.lock());
        world.stats.count("recoveries of copies checked");
        return Some(not_judged);
    }
    let confirmed = site.confirmed.borrow().get(&remote.name).copied().unwrap_or(0);
    assert!(
        head >= confirmed || home.went_back.load(Ordering::Relaxed),
        "{name} recovers to record {head}; it had confirmed {confirmed}"
    );
    let before = home.reached.load(Ordering::Relaxed);
    assert!(
        head >= before,
        "{name} recovers to record {head}; it had recovered to {before} before"
    );
    let history = site.history.lock();
    assert!(
        head <= history.durable(),
        "{name} holds record {head}; the volume has {} durable",
        history.durable()
    );
    assert!(
        history.is_chunk_end(head),
        "{name} recovers to the middle of a chunk"
    );
    let expected = history.state_after(head);
    drop(history);
    let image = image_in_the_end(&store).expect("a recovered journal is brought into the image");
    compare(&format!("{name} after recovery"), &image, &expected, head);
    super::views::all(world, &name, (&site, home), &store);
    world.stats.count("recoveries of replicas checked");
    Some(Alone {
        head,
        is_complete: true,
    })
}
