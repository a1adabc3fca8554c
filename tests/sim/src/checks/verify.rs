//! A comparison of both sides while everything goes on: it never finds a difference where there is none.

use super::views::is_judged;
use crate::process::Process;
use crate::schedule::{self, Needs, spawn};
use crate::site::Site;
use crate::stats::happened;
use crate::world::World;
use farside::link::{Verification, VerifyState};
use farside::volume::Volume;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What one link compares, again and again in some worlds, as long as its process lives.
pub fn begin(
    (world, process, site): (&Rc<World>, &Arc<Process>, &Rc<Site>),
    remote: &str,
    volume: Arc<Volume>,
) -> Arc<Verification> {
    let verification = Arc::new(Verification::default());
    if schedule::draw(3) == 0 {
        let compared = compare(
            (world.clone(), process.clone(), site.clone()),
            remote.to_owned(),
            volume,
            verification.clone(),
        );
        spawn(process, Needs::Nothing, compared);
    }
    verification
}

async fn compare(
    (world, process, site): (Rc<World>, Arc<Process>, Rc<Site>),
    remote: String,
    volume: Arc<Volume>,
    verification: Arc<Verification>,
) {
    loop {
        tokio::time::sleep(Duration::from_millis(schedule::draw(2_000))).await;
        let bytes = volume.store().volume_bytes();
        if verification.start(bytes, false, 0).is_err() {
            return;
        }
        let mut changed = verification.changed();
        while !verification.finish(1) {
            if changed.changed().await.is_err() || process.is_dead() {
                return;
            }
        }
        let found = verification.progress();
        let home = world.remote(&remote).and_then(|remote| remote.home(&site.name));
        // What a disk that fails cannot read is said to differ.
        let judged = home.is_some_and(|home| {
            !home.faulty.load(Ordering::Relaxed) && is_judged(&world, &site, &home, &remote)
        });
        if !judged || site.is_hurt() || site.faulty.get() || process.is_dead() {
            return;
        }
        assert!(
            found.state == VerifyState::Done && found.is_identical(),
            "{} and {remote} are said to differ: {found:?}",
            site.name
        );
        happened("comparisons of both sides");
    }
}
