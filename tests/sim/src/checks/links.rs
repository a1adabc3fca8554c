//! Links end for reasons that pass: nothing but a copy from another branch of history may stop one for good.

use crate::local::Site;
use crate::world::World;
use farside::link::CloseReason;
use farside_protocol::journal::ConsumerState;
use farside_protocol::link::RefuseCode;
use std::sync::atomic::Ordering;

/// A session ended.
///
/// # Panics
/// When its reason needs an operator though nothing happened that would.
pub fn ended(world: &World, site: &Site, remote: &str, reason: &CloseReason) {
    if !reason.is_lasting() || is_for_a_while(reason) {
        return;
    }
    let home = world.remote(remote).and_then(|remote| remote.home(&site.name));
    let hurt =
        home.is_some_and(|home| home.hurt.load(Ordering::Relaxed) || home.faulty.load(Ordering::Relaxed));
    let excused = site.hurt.get() || site.faulty.get() || hurt || world.is_another_branch(site);
    assert!(
        excused,
        "{}: the link to {remote} was refused for good: {reason}",
        site.name
    );
}

/// A unit that lost its power is taken for a second copy of itself until its old connection is given up.
fn is_for_a_while(reason: &CloseReason) -> bool {
    matches!(reason, CloseReason::Refused(refusal) if refusal.code == RefuseCode::SecondSender)
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
