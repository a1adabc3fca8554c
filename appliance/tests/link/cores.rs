//! The promises of the two cores together, step by step and seed by seed.

use crate::volume::{VOLUME_BYTES, Volume};
use crate::world::World;
use farside::link::events::{Stage, Verdict};
use farside::link::{CloseReason, Source};
use farside_protocol::journal::CopyState;
use farside_remote::Sink;

fn prepared(seed: u64, chunks: u64) -> World {
    let mut world = World::new(seed);
    for _ in 0..chunks {
        let World { volume, random, .. } = &mut world;
        volume.write(random);
    }
    world.volume.settle();
    world
}

fn sound(world: &World) {
    let session = world.session.as_ref();
    let refused = session.and_then(|session| session.refused.as_ref());
    assert!(refused.is_none(), "refused: {refused:?}");
    let closed = session.and_then(|session| session.closed.as_ref());
    assert!(closed.is_none(), "closed: {closed:?}");
}

#[test]
fn a_new_remote_becomes_equal_under_live_writes() {
    for seed in 1..60 {
        let mut world = prepared(seed, 20);
        world.connect();
        for _ in 0..1500 {
            world.step(true);
            sound(&world);
        }
        world.run_to_the_end();
        sound(&world);
        assert_eq!(world.replica.inner().begun, 1, "seed {seed}");
        assert_eq!(world.volume.state().copies_started, 1, "seed {seed}");
    }
}

#[test]
fn a_link_that_is_held_sends_nothing_and_begins_no_copy() {
    for seed in 1..40 {
        let mut world = prepared(seed, 20);
        world.connect();
        world.hold(true);
        for _ in 0..400 {
            world.step(true);
            sound(&world);
        }
        {
            let inner = world.replica.inner();
            assert_eq!((inner.begun, inner.appends), (0, 0), "seed {seed}");
        }
        world.hold(false);
        for _ in 0..200 {
            world.step(true);
        }
        // In the middle of the copy, or after it.
        world.hold(true);
        for _ in 0..400 {
            world.step(false);
        }
        let before = world.replica.inner().appends;
        for _ in 0..300 {
            world.step(true);
            sound(&world);
        }
        assert_eq!(world.replica.inner().appends, before, "seed {seed}");
        world.hold(false);
        world.run_to_the_end();
        sound(&world);
        assert_eq!(world.replica.inner().begun, 1, "seed {seed}");
    }
}

#[test]
fn a_cut_after_any_frame_loses_and_repeats_nothing() {
    let frames = {
        let mut world = prepared(5, 12);
        world.connect();
        for _ in 0..1200 {
            world.step(true);
        }
        world.run_to_the_end();
        world.delivered
    };
    assert!(frames > 40, "a run of {frames} frames cuts at too few places");
    for cut_after in 0..frames {
        let mut world = prepared(5, 12);
        world.connect();
        for _ in 0..1200 {
            if world.delivered == cut_after && world.session.is_some() && world.random.one_in(2) {
                world.cut();
                world.delivered += 1;
                world.connect();
            }
            world.step(true);
            sound(&world);
        }
        world.run_to_the_end();
        let begun = world.replica.inner().begun;
        // Cut before the remote carried the first one out, a copy is begun again; never after.
        let most = world.volume.state().copies_started;
        assert!(
            begun == 1 && most <= 2,
            "cut after {cut_after}: begun {begun} of {most}"
        );
    }
}

#[test]
fn power_loss_on_either_side_at_any_moment_keeps_the_replica_a_prefix() {
    for seed in 1..100 {
        let mut world = prepared(seed, 8);
        world.connect();
        for _ in 0..2500 {
            world.step(true);
            sound(&world);
            if !world.random.one_in(150) {
                continue;
            }
            match world.random.below(4) {
                0 => {
                    world.volume.crash();
                }
                1 => world.replica.crash(true),
                2 => world.replica.crash(false),
                _ => {}
            }
            world.cut();
            world.connect();
        }
        world.run_to_the_end();
        let begun = world.replica.inner().begun;
        assert!(
            begun >= 1 && begun <= world.volume.state().copies_started,
            "seed {seed}"
        );
    }
}

#[test]
fn an_overflow_in_any_state_ends_in_a_new_copy() {
    for seed in 1..60 {
        let mut world = prepared(seed, 10);
        world.connect();
        for step in 0..2000 {
            world.step(true);
            let over = world
                .session
                .as_ref()
                .is_some_and(|session| session.closed.is_some());
            if over {
                world.connect();
            }
            if step == seed * 30 {
                world.volume.overflow();
            }
        }
        world.run_to_the_end();
        assert!(world.volume.state().copies_started >= 1);
    }
    // One that was streaming for certain.
    let mut world = prepared(3, 10);
    world.run_to_the_end();
    world.volume.overflow();
    let (points, consumer) = (world.volume.points(), world.volume.consumer("far").0);
    world.input(farside::link::events::Input::Changed(points, consumer));
    let closed = world.session.as_ref().and_then(|session| session.closed.as_ref());
    assert!(matches!(closed, Some(CloseReason::CutLoose)), "{closed:?}");
    world.run_to_the_end();
    assert_eq!(world.replica.inner().begun, 2);
}

#[test]
fn a_complete_replica_that_is_ahead_or_on_another_branch_is_never_touched() {
    let mut world = prepared(9, 10);
    world.run_to_the_end();
    let image = world.replica.inner().image.clone();
    // The same volume, restored from an old backup, lived on otherwise.
    for (chunks, seed) in [(3, 9), (30, 1234)] {
        world.volume = Volume::new();
        let mut random = crate::random::Random::new(seed + 1);
        for _ in 0..chunks {
            world.volume.write(&mut random);
        }
        world.volume.settle();
        world.volume.start_copy_now("far", true);
        world.connect();
        for _ in 0..500 {
            let world = &mut world;
            if world
                .session
                .as_ref()
                .is_some_and(|session| session.closed.is_some())
            {
                break;
            }
            step_link_only(world);
        }
        let closed = world.session.as_ref().and_then(|session| session.closed.as_ref());
        assert!(matches!(closed, Some(CloseReason::Diverged(_))), "{closed:?}");
        assert_eq!(world.replica.inner().image, image);
        assert_eq!(world.replica.state().copy, CopyState::Complete);
    }
}

/// The oracle knows one history only, so these steps do without it.
fn step_link_only(world: &mut World) {
    world.exchange();
}

#[test]
fn a_repeated_chunk_is_ignored_and_a_skipped_or_reordered_one_refused() {
    for (name, expect_refusal) in [("repeat", false), ("skip", true), ("swap", true)] {
        let mut world = prepared(4, 6);
        world.run_to_the_end();
        for _ in 0..4 {
            let World { volume, random, .. } = &mut world;
            volume.write(random);
        }
        world.volume.sync();
        let (points, consumer) = (world.volume.points(), world.volume.consumer("far").0);
        world.input(farside::link::events::Input::Changed(points, consumer));
        let before = world.replica.inner().appends;
        for _ in 0..20 {
            world.exchange_sender();
        }
        let queue = &mut world.session.as_mut().unwrap().to_receiver;
        queue.retain(|frame| frame[4] == farside_protocol::link::FrameKind::Chunk.code());
        assert_eq!(queue.len(), 4);
        match name {
            "repeat" => {
                let first = queue[0].clone();
                queue.insert(1, first.clone());
                queue.push_back(first);
            }
            "skip" => {
                queue.pop_front();
            }
            _ => queue.swap(1, 2),
        }
        while world
            .session
            .as_ref()
            .is_some_and(|s| !s.to_receiver.is_empty() && s.refused.is_none())
        {
            world.deliver();
        }
        let refused = world.session.as_ref().unwrap().refused.clone();
        assert_eq!(refused.is_some(), expect_refusal, "{name}: {refused:?}");
        if !expect_refusal {
            assert_eq!(world.replica.inner().appends, before + 4, "each once");
        }
        world.run_to_the_end();
    }
}

#[test]
fn silence_is_noticed_within_the_limit_and_idle_links_beat() {
    let mut world = prepared(2, 3);
    world.run_to_the_end();
    let beats_before = world.session.as_ref().unwrap().to_receiver.len();
    let start = world.now_ms;
    while world.session.as_ref().unwrap().closed.is_none() {
        world.now_ms += 250;
        world.input(farside::link::events::Input::Tick);
        world.exchange_sender();
        assert!(world.now_ms - start <= 10_000, "not noticed");
    }
    let session = world.session.as_ref().unwrap();
    assert!(matches!(session.closed, Some(CloseReason::Silence)));
    assert_eq!(*session.core.stage(), Stage::Closed);
    assert!(
        session.to_receiver.len() - beats_before >= 6,
        "a heartbeat every second"
    );
}

#[test]
fn a_sender_that_lost_power_during_a_copy_never_puts_old_bytes_over_new_ones() {
    let mut lost_in_copies = 0;
    for seed in 1..100 {
        let mut world = prepared(seed, 4);
        world.connect();
        let mut losses = 0;
        for _ in 0..3000 {
            world.step(true);
            sound(&world);
            let copying = world
                .session
                .as_ref()
                .is_some_and(|s| *s.core.stage() == Stage::Copying);
            if copying && losses < 5 && world.random.one_in(100) {
                losses += 1;
                world.volume.crash();
                world.cut();
                world.connect();
            }
        }
        lost_in_copies += losses;
        world.run_to_the_end();
    }
    assert!(lost_in_copies > 100, "power was lost only {lost_in_copies} times");
}

#[test]
fn a_hostile_remote_cannot_make_the_sender_panic_or_believe_it() {
    use farside::link::events::Input;
    use farside_protocol::journal::ChainPoint;
    use farside_protocol::link::Ack;
    let (mut refused, mut runs) = (0, 0);
    for seed in 1..200 {
        let mut world = prepared(seed, 6);
        world.connect();
        for _ in 0..400 {
            world.step(true);
            if !world.random.one_in(60) {
                continue;
            }
            let durable = world.volume.points().durable;
            let mut received = if world.random.one_in(2) {
                world
                    .volume
                    .state()
                    .chunks
                    .last()
                    .map_or(durable, |chunk| chunk.after)
            } else {
                world.replica.state().received
            };
            match world.random.below(4) {
                0 => received.checksum ^= 1,
                1 => {
                    received = ChainPoint {
                        sequence: u64::MAX,
                        record: u64::MAX,
                        ..received
                    }
                }
                2 => received = ChainPoint::default(),
                _ => {}
            }
            let ack = Ack {
                received,
                applied: world.random.below(3) * (u64::MAX / 4),
                copy_offset: world.random.below(200 << 10),
                copy: [CopyState::Empty, CopyState::Copying, CopyState::Complete]
                    [world.random.below(3) as usize],
                begun: world.random.one_in(2),
            };
            world.input(Input::Ack(ack));
        }
        runs += 1;
        let session = world.session.as_ref();
        if matches!(
            session.and_then(|s| s.closed.as_ref()),
            Some(CloseReason::Protocol(_))
        ) {
            refused += 1;
        }
    }
    assert!(refused * 2 > runs, "only {refused} of {runs} were noticed");
}

#[test]
fn damage_on_the_wire_is_refused_and_healed_by_reconnecting() {
    for seed in 1..80 {
        let mut world = prepared(seed, 6);
        world.connect();
        let (mut damaged, mut noticed) = (0, 0);
        for _ in 0..2500 {
            if world.random.one_in(60) {
                let World { session, random, .. } = &mut world;
                let front = session
                    .as_mut()
                    .and_then(|session| session.to_receiver.front_mut());
                if let Some(frame) = front {
                    let at = random.below(frame.len() as u64) as usize;
                    frame[at] ^= 1 << random.below(8);
                    damaged += 1;
                    world.deliver();
                }
            }
            let session = world.session.as_ref();
            if session.is_some_and(|session| session.refused.is_some() || session.closed.is_some()) {
                noticed += 1;
                world.connect();
            }
            world.step(true);
        }
        assert_eq!(damaged, noticed, "seed {seed}");
        world.run_to_the_end();
    }
}

#[test]
fn an_end_of_copy_from_before_a_cut_does_not_vouch_for_ranges_sent_after_it() {
    let mut cuts_after_end = 0;
    for seed in 1..150 {
        let mut world = prepared(seed, 4);
        world.connect();
        let mut cuts = 0;
        for _ in 0..2500 {
            world.step(true);
            sound(&world);
            if cuts < 6 && world.replica.end_is_open() && world.random.one_in(8) {
                cuts += 1;
                world.cut();
                world.connect();
            }
        }
        cuts_after_end += cuts;
        world.run_to_the_end();
    }
    assert!(cuts_after_end > 100, "only {cuts_after_end} cuts");
}

#[test]
fn ranges_compared_under_live_writes_differ_only_where_the_replica_is_wrong() {
    let (mut compared, mut changed) = (0, 0);
    for seed in 1..100 {
        let mut world = prepared(seed, 10);
        world.connect();
        for _ in 0..3000 {
            world.step(true);
            world.want_comparison();
            sound(&world);
        }
        for verdict in &world.verdicts {
            match verdict {
                Verdict::Changed => changed += 1,
                Verdict::Compared { differing, .. } => {
                    assert!(differing.is_empty(), "seed {seed}: {verdict:?}");
                    compared += 1;
                }
            }
        }
        world.verdicts.clear();
        // One byte rots where nobody writes any more.
        world.run_to_the_end();
        let at = world.replica.rot(seed);
        for _ in 0..100 {
            world.exchange();
        }
        world.verdicts.clear();
        world.compare(0, VOLUME_BYTES);
        for _ in 0..1000 {
            if world.verdicts.is_empty() {
                world.exchange();
            }
        }
        sound(&world);
        let [Verdict::Compared { differing, .. }] = world.verdicts.as_slice() else {
            panic!("seed {seed}: {:?} {:?}", world.verdicts, world.session);
        };
        let block = at / 4096 * 4096;
        assert_eq!(differing.len(), 1, "seed {seed}");
        assert_eq!(differing[0], block..block + 4096, "seed {seed}: byte {at}");
    }
    assert!(
        compared > 100 && changed > 5,
        "{compared} compared, {changed} changed"
    );
}

#[test]
fn a_link_with_a_rate_keeps_it_and_loses_nothing() {
    for seed in 1..20 {
        let mut world = prepared(seed, 20);
        world.bytes_per_second = Some(60_000);
        world.connect();
        for _ in 0..2500 {
            let before = world.now_ms;
            world.step(true);
            sound(&world);
            assert!(world.now_ms >= before);
        }
        let session = world.session.as_ref().unwrap();
        let sent = session.core.progress().sent_bytes;
        // What is free at the start, and the batch that takes more than there is.
        let most = world.now_ms * 60 + 15_000 + (70 << 10);
        assert!(
            sent > 0 && sent <= most,
            "seed {seed}: {sent} bytes in {} ms",
            world.now_ms
        );
        world.bytes_per_second = None;
        world.cut();
        world.connect();
        world.run_to_the_end();
    }
}

/// The image was brought there on a disk; the journal overflows while the first copy compares. The copy that begins anew
/// has to compare again: nothing else makes a seed worth its while on a slow line.
#[test]
fn a_first_copy_that_overflowed_compares_when_it_begins_anew() {
    let mut world = prepared(7, 20);
    let content = world.volume.state().content.clone();
    world.replica.inner().image = content;
    world.connect();
    let progress = |world: &World| world.session.as_ref().unwrap().core.progress();
    while progress(&world).same_bytes == 0 {
        world.step(false);
        sound(&world);
    }
    assert_eq!(*world.session.as_ref().unwrap().core.stage(), Stage::Copying);
    let first = progress(&world);
    world.volume.overflow();
    world.run_to_the_end();
    let second = progress(&world);
    assert!(
        second.same_bytes > 0,
        "first: {:?} resync {} same {} sent {}; second: {:?} resync {} same {} sent {}",
        first.copy_reason,
        first.resync,
        first.same_bytes,
        first.sent_bytes,
        second.copy_reason,
        second.resync,
        second.same_bytes,
        second.sent_bytes
    );
}
