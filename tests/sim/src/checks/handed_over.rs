//! A replica that was handed over is a disk like any other, at the record that its unit says. When it is taken back, what
//! nobody changed goes on, and what may have been changed is compared.

use super::prefix::compare;
use crate::directory::HandedOver;
use crate::platter::Platter;
use crate::remote::Remote;
use crate::site::Site;
use crate::stats::happened;
use crate::world::World;
use farside_remote::aside::Left;
use farside_tests::random::Random;
use std::sync::atomic::Ordering;

/// The image is the volume after the record that was noted, until somebody changes it.
///
/// # Panics
/// When it is not.
pub fn is_a_plain_disk(world: &World, remote: &Remote, site: &Site, left: &Left) {
    if let Some(image) = remote.directory(&site.name).image() {
        shows((world, remote, site), &image, left);
    }
}

/// The same if its machine lost power now.
///
/// # Panics
/// As above.
pub fn is_durable(world: &World, remote: &Remote, site: &Site, left: &Left) {
    if let Some(image) = remote.directory(&site.name).image() {
        let random = world.random.borrow_mut().next_u64();
        let lost = image.fork(true, &mut Random::new(random));
        shows((world, remote, site), &lost, left);
    }
}

fn shows((world, remote, site): (&World, &Remote, &Site), image: &Platter, left: &Left) {
    let directory = remote.directory(&site.name);
    let (Some(home), Some(handed_over)) = (remote.home(&site.name), directory.handed_over()) else {
        return;
    };
    let is_judged = !handed_over.was_changed
        && !home.hurt.load(Ordering::Relaxed)
        && !world.is_another_branch(site, &remote.name);
    if !is_judged {
        return;
    }
    let history = site.history.lock();
    let name = format!("the disk of {} that {} handed over", site.name, remote.name);
    assert!(
        history.is_chunk_end(left.record) && left.record <= history.durable_at_most(),
        "{name} is said to be of record {}",
        left.record
    );
    let expected = history.state_after(left.record);
    drop(history);
    compare(&name, &image.content(), &expected, left.record);
    happened("disks handed over that were compared");
}

/// A unit that starts finds the word that a replica was handed over.
///
/// # Panics
/// When it had been taken back, or the image is not what the word says.
pub fn is_found(world: &World, remote: &Remote, site: &Site, left: &Left) {
    assert!(
        remote.directory(&site.name).handed_over().is_some(),
        "{}: {} says that the replica was handed over, which was taken back and has gone on since",
        site.name,
        remote.name
    );
    is_a_plain_disk(world, remote, site, left);
}

/// A unit that starts takes what is there for a replica in service.
///
/// # Panics
/// When somebody has changed it.
pub fn is_a_replica_again(remote: &Remote, site: &Site) {
    is_unchanged(site, remote.directory(&site.name).handed_over());
}

/// A replica is taken for what it was when it was handed over.
///
/// # Panics
/// When somebody has changed it.
pub fn is_taken_as_it_was(site: &Site, handed_over: Option<HandedOver>) {
    is_unchanged(site, handed_over);
    happened("replicas taken back as they were");
}

fn is_unchanged(site: &Site, handed_over: Option<HandedOver>) {
    assert!(
        handed_over.is_none_or(|known| !known.was_changed),
        "{}: a disk that was changed while it was handed over is taken for the replica that it was",
        site.name
    );
}

/// A replica is taken for one that may have been changed.
///
/// # Panics
/// When it cannot have been.
pub fn is_taken_as_changed(site: &Site, handed_over: Option<HandedOver>) {
    assert!(
        handed_over.is_none_or(|known| known.was_changed || known.lost_power),
        "{}: a disk that nobody changed while it was handed over is copied anew",
        site.name
    );
    happened("replicas taken back that may have been changed");
}
