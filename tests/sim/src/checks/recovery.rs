//! What recovery owes: acknowledged writes after the death of the process, flushed ones after a power loss, and a
//! replica that is alone is exactly a state of the volume that covers all it ever confirmed.
//!
//! Before a unit starts again its disks are copied and the copies recovered, to the end: image and journal together
//! have to give the volume. Then the unit itself starts on the originals and has to come to the same point.

use super::prefix::compare;
use crate::disk::SimDisk;
use crate::local::{LeftAhead, Site};
use crate::platter::Platter;
use crate::remote::{Home, Remote};
use crate::time::SimClock;
use crate::world::World;
use farside_protocol::journal::CopyState;
use farside_storage::{StorageError, Store};
use farside_tests::random::Random;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The last record and the image of a replica that is complete, as it would come up on its disks.
#[must_use]
pub fn held_by(home: &Home) -> Option<LeftAhead> {
    let (store, record) = recover(Ok(home.devices(copied))).ok()?;
    let usable = !home.hurt.load(Ordering::Relaxed) && !home.went_back.load(Ordering::Relaxed);
    if !usable || store.superblock().copy != CopyState::Complete {
        return None;
    }
    while store.drain().ok()? {}
    let mut state = vec![0; usize::try_from(store.volume_bytes()).ok()?];
    store.image().read_at(&mut state, 0).ok()?;
    Some(LeftAhead { record, state })
}

/// A replica that was ahead when its volume went back in time still is what it was.
///
/// # Panics
/// When anything of it was lost.
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
    assert_eq!(
        head, left.record,
        "{name} was ahead of its volume, and was written nevertheless"
    );
    while store
        .drain()
        .expect("a recovered journal is brought into the image")
    {}
    let mut image = vec![0; left.state.len()];
    store
        .image()
        .read_at(&mut image, 0)
        .expect("a healthy disk is read");
    compare(&name, &image, &left.state, head);
}

fn copied(platter: &Arc<Platter>) -> Arc<SimDisk> {
    SimDisk::quietly(&platter.fork(false, &mut Random::new(0)))
}

/// Recovers a copy to the end; its last record and its image.
fn recover(
    devices: Result<farside_storage::StoreDevices, StorageError>,
) -> Result<(Store, u64), StorageError> {
    let store = Store::open(devices?, Arc::new(SimClock::new()))?;
    let head = store.points().journaled.record;
    Ok((store, head))
}

/// The volume as it would come up on these disks.
///
/// # Panics
/// When it would not be a state of its history that holds everything promised.
pub fn local_before_start(world: &World, site: &Site) {
    let (store, head) = match recover(site.devices(copied)) {
        Ok(recovered) => recovered,
        Err(error) => {
            let excused = site.hurt.get() || site.faulty.get();
            assert!(excused, "{} cannot be recovered: {error}", site.name);
            return;
        }
    };
    let history = site.history.lock();
    if site.hurt.get() {
        return;
    }
    let owed = if history.power_was_lost {
        history.flushed
    } else {
        history.acknowledged.max(history.flushed)
    };
    assert!(
        head >= owed,
        "{}: recovered up to record {head}; {owed} was promised ({})",
        site.name,
        if history.power_was_lost {
            "flushed"
        } else {
            "acknowledged"
        }
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
    let expected = history.state_after(head);
    drop(history);
    let mut found = vec![0; expected.len()];
    store.read(0, &mut found).expect("a healthy disk is read");
    compare(&format!("{} after recovery", site.name), &found, &expected, head);
    while store
        .drain()
        .expect("a recovered journal is brought into the image")
    {}
    let mut image = vec![0; expected.len()];
    store
        .image()
        .read_at(&mut image, 0)
        .expect("a healthy disk is read");
    compare(
        &format!("the mirror of {} after recovery", site.name),
        &image,
        &expected,
        head,
    );
    world.stats.count("recoveries of volumes checked");
}

/// The volume has come up.
///
/// # Panics
/// When it forgot to begin a new epoch.
pub fn local_started(world: &World, site: &Site, store: &Store) {
    let opened = store.opened();
    let head = opened.recovered.head;
    world.stats.trace(&site.name, || {
        format!(
            "opened at record {} in epoch {}, clean: {}",
            head.record, opened.epoch, opened.clean
        )
    });
    assert!(
        opened.clean || opened.epoch > head.epoch,
        "{}: opened after an unclean end in epoch {}, its last chunk is of {}",
        site.name,
        opened.epoch,
        head.epoch
    );
    let mut history = site.history.lock();
    history.truncate(head.record, head.sequence);
    history.power_was_lost = false;
}

/// The replica as it would come up on these disks, its volume gone for ever.
///
/// # Panics
/// When it would not be a state of the volume that covers what it confirmed.
pub fn remote_before_start(world: &World, remote: &Remote, home: &Home) -> Option<u64> {
    alone(world, remote, home, home.devices(copied))
}

/// The same at any moment, as if the remote lost its power now.
///
/// # Panics
/// As above.
pub fn remote_now(world: &World, remote: &Remote, home: &Home) {
    let mut random = Random::new(world.random.borrow_mut().next_u64());
    let random = std::cell::RefCell::new(&mut random);
    let devices = home.devices(|platter| SimDisk::quietly(&platter.fork(true, &mut random.borrow_mut())));
    alone(world, remote, home, devices);
}

fn alone(world: &World, remote: &Remote, home: &Home, devices: farside_storage::StoreDevices) -> Option<u64> {
    let hurt = home.hurt.load(Ordering::Relaxed);
    let name = format!("the replica of {} on {}", home.name, remote.name);
    let (store, head) = match recover(Ok(devices)) {
        Ok(recovered) => recovered,
        Err(error) => {
            assert!(
                hurt || home.faulty.load(Ordering::Relaxed),
                "{name} cannot be recovered: {error}"
            );
            return None;
        }
    };
    let site = world.sites().into_iter().find(|site| site.name == home.name)?;
    let copy = store.superblock().copy;
    if hurt || copy == CopyState::Empty || world.is_another_branch(&site) {
        return None;
    }
    if copy == CopyState::Copying {
        super::copies::goes_on_at_what_is_durable(&name, &store, &site.history.lock());
        world.stats.count("recoveries of copies checked");
        return None;
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
    while store
        .drain()
        .expect("a recovered journal is brought into the image")
    {}
    let mut image = vec![0; expected.len()];
    store
        .image()
        .read_at(&mut image, 0)
        .expect("a healthy disk is read");
    compare(&format!("{name} after recovery"), &image, &expected, head);
    world.stats.count("recoveries of replicas checked");
    Some(head)
}
