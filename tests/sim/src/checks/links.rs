//! Links end for reasons that pass: nothing but a copy from another branch of history may stop one for good. And the two
//! ends find fault with each other only when the network changed what they said: a link that comes back by itself after
//! that would hide that one of them does not go by the books.

use crate::local::Site;
use crate::net::Line;
use crate::world::World;
use farside::link::CloseReason;
use farside_protocol::journal::ConsumerState;
use farside_protocol::link::{Refusal, RefuseCode};
use farside_remote::SessionError;
use std::sync::atomic::Ordering;

/// What the sender of a session says of its end, to whoever made the connection.
///
/// # Panics
/// When it found fault with a remote whose words arrived as they were said.
pub fn understood(link: (&World, &Site, &str), line: &Line, reason: &CloseReason) {
    let found_fault = match reason {
        CloseReason::Protocol(_) | CloseReason::Frame(_) => true,
        CloseReason::Refused(refusal) => is_fault(refusal),
        _ => false,
    };
    check_understood(link, line, found_fault, reason);
}

/// What the receiver of a session says of its end.
///
/// # Panics
/// When it found fault with a sender whose words arrived as they were said.
pub fn served(link: (&World, &Site, &str), line: &Line, error: &SessionError) {
    let found_fault = match error {
        SessionError::Frame(_) => true,
        SessionError::Refused(refusal) | SessionError::RefusedByPeer(refusal) => is_fault(refusal),
        _ => false,
    };
    check_understood(link, line, found_fault, error);
}

fn is_fault(refusal: &Refusal) -> bool {
    use RefuseCode::{Damaged, Gap, Protocol};
    matches!(refusal.code, Damaged | Gap | Protocol)
}

fn check_understood(
    (world, site, remote): (&World, &Site, &str),
    line: &Line,
    found_fault: bool,
    why: &dyn std::fmt::Display,
) {
    assert!(
        !found_fault || !line.is_faithful() || is_excused(world, site, remote),
        "{}: on a connection that carried everything as it was sent the link to {remote} ended: {why}",
        site.name
    );
}

/// Whether its disks give a link reason to end.
fn is_excused(world: &World, site: &Site, remote: &str) -> bool {
    let home = world.remote(remote).and_then(|remote| remote.home(&site.name));
    let hurt =
        home.is_some_and(|home| home.hurt.load(Ordering::Relaxed) || home.faulty.load(Ordering::Relaxed));
    site.is_hurt() || site.faulty.get() || hurt || world.is_another_branch(site, remote)
}

/// A session ended.
///
/// # Panics
/// When its reason needs an operator though nothing happened that would.
pub fn ended(world: &World, site: &Site, remote: &str, reason: &CloseReason) {
    if !reason.is_lasting() || is_for_a_while(reason) || is_excused(world, site, remote) {
        return;
    }
    assert!(
        is_beyond_proof(world, site, remote),
        "{}: the link to {remote} was refused for good: {reason}",
        site.name
    );
    // From now on it counts as off its branch.
    if let Some(home) = world.remote(remote).and_then(|remote| remote.home(&site.name)) {
        home.is_off_branch.store(true, Ordering::Relaxed);
    }
}

/// Whether a volume that went back in time forgot that the remote ever confirmed what it holds, and its journal does not
/// reach back to there: the replica may be on its branch, but nothing shows it.
fn is_beyond_proof(world: &World, site: &Site, remote: &str) -> bool {
    let known = world.remote(remote);
    let (Some(volume), Some(known)) = (site.volume.borrow().clone(), known) else {
        return false;
    };
    let Some(replica) = known.replica(&site.name) else {
        return false;
    };
    let held = replica.store().points().durable.record;
    let confirmed = volume
        .store()
        .consumer(remote)
        .map_or(0, |consumer| consumer.acked.record);
    site.history.lock().has_branches() && held < volume.store().points().tail.record && confirmed <= held
}

/// A unit that lost its power is taken for a second copy of itself until its old connection is given up; a replica that was
/// handed over, or is kept for a larger volume, waits for its operator, who comes.
fn is_for_a_while(reason: &CloseReason) -> bool {
    use RefuseCode::{ForeignVolume, NotAccepted, SecondSender};
    matches!(reason, CloseReason::Refused(refusal) if matches!(refusal.code, SecondSender | NotAccepted | ForeignVolume))
}

/// Takes down what each remote is believed to hold.
pub fn note_confirmed(site: &Site) {
    let Some(volume) = site.volume.borrow().clone() else {
        return;
    };
    for remote in site.remotes.borrow().iter() {
        if let Some(consumer) = volume.store().consumer(remote)
            && consumer.state == ConsumerState::Attached
        {
            let mut confirmed = site.confirmed.borrow_mut();
            let known = confirmed.entry(remote.clone()).or_default();
            *known = consumer.acked.record.max(*known);
        }
    }
}
