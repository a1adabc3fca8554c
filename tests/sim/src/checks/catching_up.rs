//! When nothing goes wrong any more, everything catches up: every remote holds the whole volume, soon.

use super::prefix::compare;
use crate::local::Site;
use crate::remote::Remote;
use crate::world::World;
use farside_protocol::journal::{ConsumerState, CopyState};
use std::sync::atomic::Ordering;

/// What is still missing; `None` when everything has caught up.
#[must_use]
pub fn missing(world: &World) -> Option<String> {
    let remotes = world.remotes();
    let down = remotes.iter().find(|remote| remote.running().is_none());
    let local = world.local.borrow().process.clone();
    if local.is_none_or(|process| process.is_dead()) {
        return Some("the local unit is down".to_owned());
    }
    down.map(|remote| format!("{} is down", remote.name))
        .or_else(|| world.sites().iter().find_map(|site| missing_of(world, site)))
}

fn missing_of(world: &World, site: &Site) -> Option<String> {
    if site.is_hurt() {
        return None;
    }
    let Some(volume) = site.volume.borrow().clone() else {
        return Some(format!(
            "{} is not in service: {:?}",
            site.name,
            site.broken.borrow()
        ));
    };
    if let Some(failure) = volume.store().failure() {
        return Some(format!("{} is degraded: {failure}", site.name));
    }
    if !site.waiting.borrow().is_empty() {
        return Some(format!("{}: a host waits for an answer", site.name));
    }
    let points = volume.store().points();
    if points.applied != points.journaled {
        return Some(format!(
            "{}: the mirror has {} of {}",
            site.name, points.applied.record, points.journaled.record
        ));
    }
    for name in site.remotes.borrow().iter() {
        let remote = world.remote(name)?;
        if remote
            .home(&site.name)
            .is_some_and(|home| home.hurt.load(Ordering::Relaxed))
            || world.is_another_branch(site, name)
        {
            continue;
        }
        let consumer = volume.store().consumer(name);
        let acked = consumer
            .as_ref()
            .map(|consumer| (consumer.state, consumer.acked.record));
        if acked != Some((ConsumerState::Attached, points.journaled.record)) {
            let last = site.refusals.borrow().get(name).cloned();
            return Some(format!(
                "{}: {name} is {acked:?} of {}; its link said last: {last:?}",
                site.name, points.journaled.record
            ));
        }
        let replica = remote.replica(&site.name);
        let applied = replica.map(|replica| {
            let store = replica.store();
            (store.copy_progress().state, store.points().applied.record)
        });
        if applied != Some((CopyState::Complete, points.journaled.record)) {
            return Some(format!(
                "{}: {name} applied {applied:?} of {}",
                site.name, points.journaled.record
            ));
        }
    }
    None
}

/// Compares all images in the end.
///
/// # Panics
/// When one differs.
pub fn check_equal(world: &World) {
    for site in world.sites().iter().filter(|site| !site.is_hurt()) {
        let history = site.history.lock();
        let (last, expected) = (history.last(), history.state_after(history.last()));
        drop(history);
        compare(
            &format!("in the end the mirror of {}", site.name),
            &site.image.content(),
            &expected,
            last,
        );
        for name in site.remotes.borrow().iter() {
            let Some(home) = world
                .remote(name)
                .and_then(|remote: std::rc::Rc<Remote>| remote.home(&site.name))
            else {
                continue;
            };
            if home.hurt.load(Ordering::Relaxed) || world.is_another_branch(site, name) {
                continue;
            }
            compare(
                &format!("in the end the replica of {} on {name}", site.name),
                &home.image.content(),
                &expected,
                last,
            );
        }
    }
}
