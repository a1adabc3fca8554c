//! Positions stay in order and only rise, and what the product says of them is true of the disks.

use crate::local::Site;
use crate::world::World;
use farside_protocol::journal::ConsumerState;
use farside_storage::Points;
use std::collections::BTreeMap;

/// The positions seen last, by volume or replica and process.
pub type Seen = BTreeMap<String, Points>;

/// Looks at all stores in service.
///
/// # Panics
/// When a position is out of order, went back, or claims what the disk does not hold.
pub fn check(world: &World, seen: &mut Seen) {
    for site in world.sites() {
        let Some(volume) = site.volume.borrow().clone() else {
            continue;
        };
        let store = volume.store();
        let points = store.points();
        let epoch = store.opened().epoch;
        ordered(&format!("{} in epoch {epoch}", site.name), points, seen);
        claims(&site, &points);
        for remote in site.remotes.borrow().iter() {
            if let Some(consumer) = store.consumer(remote) {
                let is_held = consumer.state != ConsumerState::NeedsCopy;
                let held = !is_held || consumer.acked.record >= points.tail.record;
                assert!(
                    held,
                    "{}: the tail passed {remote}, which is still followed",
                    site.name
                );
                assert!(
                    !is_held || consumer.acked.record <= points.durable.record,
                    "{}: {remote} confirmed what is not durable",
                    site.name
                );
            }
        }
    }
}

fn ordered(name: &str, points: Points, seen: &mut Seen) {
    let order = [
        points.tail,
        points.mirrored,
        points.applied,
        points.durable,
        points.journaled,
    ];
    assert!(
        order.is_sorted_by_key(|point| point.record),
        "{name}: out of order: {points:?}"
    );
    if let Some(before) = seen.insert(name.to_owned(), points) {
        let rose = before.tail.record <= points.tail.record
            && before.mirrored.record <= points.mirrored.record
            && before.applied.record <= points.applied.record
            && before.durable.record <= points.durable.record
            && before.journaled.record <= points.journaled.record;
        assert!(rose, "{name}: a position went back: {before:?}, then {points:?}");
    }
}

fn claims(site: &Site, points: &Points) {
    let history = site.history.lock();
    assert!(
        points.durable.record <= history.durable(),
        "{}: says that record {} is durable; the disk has {}",
        site.name,
        points.durable.record,
        history.durable()
    );
    assert!(
        points.journaled.record <= history.last(),
        "{}: journaled more than there is",
        site.name
    );
}
