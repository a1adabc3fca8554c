//! The link is cut, silent, slow, corrupted, refused: hosts notice nothing, and the replica is whole afterwards.

use anyhow::{Result, ensure};
use farside_tests::BlockClient as _;
use farside_tests::clock::{Seen, wait_until};
use farside_tests::pattern::{Demand, History, Writer, WriterOptions};
use farside_tests::ports::free_address;
use farside_tests::proxy::Way;
use farside_tests::status::{flag, number, text};
use farside_tests::units::{Sizes, TwoUnits, VOLUME, local_unit, volume_toml};
use farside_tests::{Random, World, images, limits, promise, soak};
use std::sync::Arc;
use std::time::Duration;

/// The journal holds whatever a short cut keeps back.
const ROOMY: Sizes = Sizes {
    disk_mib: 64,
    journal_mib: 128,
};
const MIB: u64 = 1 << 20;

fn writer(world: &World, units: &TwoUnits<'_>) -> (Arc<History>, Writer) {
    let history = Arc::new(History::new(world.seed()));
    let mut options = WriterOptions::new(units.endpoint(), VOLUME, ROOMY.disk_bytes(), world.seed());
    options.per_second = soak(150, 60);
    let writer = Writer::start(&history, &options);
    (history, writer)
}

/// Writing stops, both sides become equal, and hold what the history says.
fn settle(units: &TwoUnits<'_>, history: &History, writer: Writer) -> Result<()> {
    let totals = writer.stop()?;
    ensure!(
        totals.reconnects == 0,
        "hosts lost their connection because of the link: {totals:?}"
    );
    units.expect_same_on_both_sides()?;
    images::expect_state("the replica", &units.replica(), history, Demand::Acknowledged)?;
    Ok(())
}

fn fill(units: &TwoUnits<'_>, random: &mut Random, mib: u64) -> Result<()> {
    let mut client = units.connect()?;
    for at in 0..mib {
        client.write((at % ROOMY.disk_mib) * MIB, &random.bytes(1 << 20))?;
    }
    Ok(client.flush()?)
}

fn wait_new_connection(units: &TwoUnits<'_>, before: u64) -> Result<()> {
    wait_until("a new connection of the link", limits::CATCH_UP, || {
        let now = units.proxy.connections();
        Ok(Seen::when(now > before, || format!("{now} connections so far")))
    })
}

#[test]
fn a_link_cut_again_and_again_under_load_loses_nothing() {
    promise(|world| {
        let units = TwoUnits::start(world, ROOMY)?;
        let mut random = Random::new(world.seed());
        let (history, writer) = writer(world, &units);
        let before = units.proxy.passed_bytes(Way::Out);
        for _ in 0..soak(10, 50) {
            let connections = units.proxy.connections();
            units.proxy.cut();
            writer.wait_progress(30)?;
            std::thread::sleep(Duration::from_millis(random.between(0, 300)));
            units.proxy.restore();
            wait_new_connection(&units, connections)?;
            writer.wait_progress(30)?;
        }
        units.local.wait_remote_state("streaming", limits::CATCH_UP)?;
        settle(&units, &history, writer)?;
        let sent = units.proxy.passed_bytes(Way::Out) - before;
        ensure!(sent > 0, "nothing was sent");
        Ok(())
    });
}

#[test]
fn a_link_cut_inside_frames_loses_nothing() {
    promise(|world| {
        let units = TwoUnits::start(world, ROOMY)?;
        let mut random = Random::new(world.seed());
        let (history, writer) = writer(world, &units);
        for round in 0..soak(12, 200) {
            let way = if round % 4 == 3 { Way::Back } else { Way::Out };
            // Inside the handshake, inside a chunk's head, inside its data.
            let bytes = match round % 3 {
                0 => random.below(400),
                1 => random.below(10_000),
                _ => random.below(1_000_000),
            };
            let bytes = if way == Way::Back { bytes.min(500) } else { bytes };
            let (cuts, connections) = (units.proxy.cuts(), units.proxy.connections());
            if round % 3 == 0 {
                units.proxy.drop_connections();
            }
            units.proxy.cut_after(way, u32::try_from(bytes)?);
            wait_until("the cut", limits::CATCH_UP, || {
                Ok(Seen::when(units.proxy.cuts() > cuts, || "none yet".into()))
            })?;
            wait_new_connection(&units, connections)?;
        }
        settle(&units, &history, writer)
    });
}

#[test]
fn a_silent_link_is_noticed_and_hosts_go_on() {
    promise(|world| {
        let units = TwoUnits::start(world, ROOMY)?;
        let (history, writer) = writer(world, &units);
        for ways in [&[Way::Out, Way::Back][..], &[Way::Back], &[Way::Out]] {
            writer.wait_progress(100)?;
            let connections = units.proxy.connections();
            ways.iter().for_each(|way| units.proxy.stall(*way, true));
            wait_until("the silence to be noticed", limits::CATCH_UP, || {
                let status = units.local.status()?;
                let state = text(status.remote(VOLUME)?, &["state"])?;
                let given_up = state != "streaming" || units.proxy.connections() > connections;
                Ok(Seen::when(given_up, || state.to_owned()))
            })?;
            writer.wait_progress(100)?;
            units.proxy.restore();
            units.local.wait_remote_state("streaming", limits::CATCH_UP)?;
        }
        settle(&units, &history, writer)
    });
}

#[test]
fn a_corrupt_byte_is_refused_and_sent_again() {
    promise(|world| {
        let units = TwoUnits::start(world, ROOMY)?;
        let mut random = Random::new(world.seed());
        let (history, writer) = writer(world, &units);
        for round in 0..soak(8, 60) {
            let way = if round % 4 == 3 { Way::Back } else { Way::Out };
            let (corrupted, connections) = (units.proxy.corrupted(), units.proxy.connections());
            let reach = if way == Way::Out { 300_000 } else { 400 };
            units
                .proxy
                .corrupt_after(way, u32::try_from(random.below(reach))?);
            wait_until("the corruption", limits::CATCH_UP, || {
                Ok(Seen::when(units.proxy.corrupted() > corrupted, || {
                    "no byte passed there yet".into()
                }))
            })?;
            // Whoever finds it ends the connection; nothing of it is believed.
            wait_new_connection(&units, connections)?;
        }
        settle(&units, &history, writer)
    });
}

#[test]
fn a_slow_link_delivers_everything_byte_by_byte() {
    promise(|world| {
        let units = TwoUnits::start(world, ROOMY)?;
        units.proxy.limit_step(1);
        units.proxy.drop_connections();
        let mut client = units.connect()?;
        let mut random = Random::new(world.seed());
        for at in 0..8_u64 {
            client.write(at * 100_000, &random.bytes(5000))?;
        }
        units.expect_same_on_both_sides()?;
        units.proxy.restore();
        units.proxy.delay(Duration::from_millis(40));
        client.write(MIB, &random.bytes(200_000))?;
        units.expect_same_on_both_sides()
    });
}

#[test]
fn a_full_journal_never_stops_the_host_and_the_remote_gets_a_copy() {
    promise(|world| {
        let units = TwoUnits::start(world, Sizes::SMALL)?;
        let mut random = Random::new(world.seed());
        fill(&units, &mut random, 8)?;
        units.local.wait_applied()?;
        units.proxy.cut();
        // Three times the journal; every request is answered without an error.
        fill(&units, &mut random, 3 * Sizes::SMALL.journal_mib)?;
        wait_until("the remote to be marked", limits::START, || {
            let status = units.local.status()?;
            let remote = status.remote(VOLUME)?;
            let marked = text(remote, &["state"])? == "needs_copy" && number(remote, &["dirty_bytes"])? > 0;
            Ok(Seen::when(marked, || remote.to_string()))
        })?;
        units.proxy.restore();
        // The host writes on during the copy.
        let history = Arc::new(History::new(world.seed()));
        let mut options = WriterOptions::new(units.endpoint(), VOLUME, 8 * MIB, world.seed());
        options.per_second = 50;
        let writer = Writer::start(&history, &options);
        writer.wait_progress(100)?;
        units.local.wait_remote_state("streaming", limits::CATCH_UP)?;
        writer.stop()?;
        units.expect_same_on_both_sides()?;
        let status = units.local.status()?;
        ensure!(flag(status.remote(VOLUME)?, &["consistent"])?, "{}", status.0);
        ensure!(
            number(status.remote(VOLUME)?, &["dirty_bytes"])? == 0,
            "{}",
            status.0
        );
        ensure!(
            flag(units.remote.status()?.replica(VOLUME)?, &["consistent"])?,
            "the remote itself denies it"
        );
        Ok(())
    });
}

#[test]
fn a_need_for_a_copy_survives_a_kill() {
    promise(|world| {
        let units = TwoUnits::start(world, Sizes::SMALL)?;
        let mut random = Random::new(world.seed());
        units.proxy.cut();
        fill(&units, &mut random, 3 * Sizes::SMALL.journal_mib)?;
        units.local.wait_remote_state("needs_copy", limits::START)?;
        units.local.kill9()?;
        units.local.start()?;
        units.local.wait_remote_state("needs_copy", limits::START)?;
        units.proxy.restore();
        units.local.wait_remote_state("streaming", limits::CATCH_UP)?;
        units.expect_same_on_both_sides()
    });
}

/// What an interrupted first copy costs, told by the bytes on the link.
fn copy_with_interruptions(
    world: &World,
    mut interrupt: impl FnMut(&TwoUnits<'_>) -> Result<()>,
) -> Result<()> {
    let units = TwoUnits::prepare(world, ROOMY)?;
    units.proxy.cut();
    units.remote.start()?;
    units.local.start()?;
    let mut random = Random::new(world.seed());
    fill(&units, &mut random, 2 * ROOMY.disk_mib)?;
    fill(&units, &mut random, ROOMY.disk_mib)?;
    let before = units.proxy.passed_bytes(Way::Out);
    units.proxy.restore();
    for third in 1..3_u64 {
        wait_until("a third of the copy", limits::CATCH_UP, || {
            let passed = units.proxy.passed_bytes(Way::Out) - before;
            Ok(Seen::when(passed > third * 18 * MIB, || {
                format!("{passed} bytes")
            }))
        })?;
        let status = units.remote.status()?;
        if let Ok(replica) = status.replica(VOLUME) {
            let early = flag(replica, &["consistent"])?;
            let over = number(replica, &["applied"])? > 0 && text(replica, &["state"])? == "consistent";
            ensure!(
                !early || over,
                "called consistent in the middle of a copy: {replica}"
            );
        }
        interrupt(&units)?;
    }
    units.local.wait_remote_state("streaming", limits::CATCH_UP)?;
    units.expect_same_on_both_sides()?;
    let passed = units.proxy.passed_bytes(Way::Out) - before;
    // From the start twice more would be 64 + 18 + 36 MiB and above.
    let allowed = (ROOMY.disk_mib + 40) * MIB;
    ensure!(
        passed < allowed,
        "{passed} bytes for a copy of {} MiB: it began anew",
        ROOMY.disk_mib
    );
    Ok(())
}

#[test]
fn a_full_copy_that_is_cut_goes_on_where_it_stopped() {
    promise(|world| {
        copy_with_interruptions(world, |units| {
            units.proxy.drop_connections();
            Ok(())
        })
    });
}

#[test]
fn a_full_copy_goes_on_after_a_kill_of_either_side() {
    promise(|world| {
        let mut round = 0;
        copy_with_interruptions(world, |units| {
            round += 1;
            let killed = if round == 1 { &units.remote } else { &units.local };
            killed.kill9()?;
            killed.start()
        })
    });
}

#[test]
fn a_second_sender_is_refused_by_name() {
    promise(|world| {
        let units = TwoUnits::start(world, ROOMY)?;
        units.connect()?.write_fua(0, b"the one and only")?;
        units.local.wait_applied()?;
        units.local.shut_down()?;
        // The same volume at another unit: what a restored backup of the whole machine would be.
        let directory = world.file("second");
        let volumes = directory.join("volumes");
        std::fs::create_dir_all(&volumes)?;
        let from = units.local_directory.join("volumes").join(VOLUME);
        farside_tests::tools::Tool::new("cp")
            .args(["-a", "--sparse=always"])
            .path(&from)
            .path(&volumes)
            .ok()?;
        units.local.start()?;
        units.local.wait_remote_state("streaming", limits::CATCH_UP)?;
        let second = local_unit(
            world,
            "second",
            &directory,
            free_address()?,
            &volume_toml(ROOMY, units.link),
        )?;
        second.start()?;
        second.wait_remote_state("refused", limits::CATCH_UP)?;
        let status = second.status()?;
        let detail = text(status.remote(VOLUME)?, &["detail"])?;
        ensure!(
            detail.contains("local"),
            "the refusal does not name who sends already: {detail}"
        );
        units.connect()?.write(4096, b"goes on")?;
        units.expect_same_on_both_sides()
    });
}

#[test]
fn a_replica_ahead_of_a_restored_unit_is_never_overwritten() {
    promise(|world| {
        let units = TwoUnits::start(
            world,
            Sizes {
                disk_mib: 64,
                journal_mib: 4,
            },
        )?;
        units.connect()?.write_fua(0, b"before the backup")?;
        units.local.wait_applied()?;
        units.local.shut_down()?;
        let backup = world.file("backup");
        let copy = |from: &std::path::Path, to: &std::path::Path| {
            farside_tests::tools::Tool::new("cp")
                .args(["-a", "--sparse=always"])
                .path(from)
                .path(to)
                .ok()
        };
        copy(&units.local_directory, &backup)?;
        units.local.start()?;
        units.connect()?.write_fua(8192, b"after the backup")?;
        units.local.wait_applied()?;
        units.local.shut_down()?;
        std::fs::rename(&units.local_directory, world.file("lost"))?;
        copy(&backup, &units.local_directory)?;
        units.local.start()?;
        units.local.wait_remote_state("refused", limits::CATCH_UP)?;
        // Enough to push everything the remote holds out of the journal.
        let mut host = units.connect()?;
        for round in 0..12_u64 {
            host.write_fua(round << 20, &vec![7; 1 << 20])?;
        }
        std::thread::sleep(std::time::Duration::from_secs(12));
        units.local.wait_remote_state("refused", limits::CATCH_UP)?;
        let mut kept = vec![0; 16];
        std::os::unix::fs::FileExt::read_exact_at(&std::fs::File::open(units.replica())?, &mut kept, 8192)?;
        ensure!(
            kept == b"after the backup",
            "the replica was overwritten: {kept:?}"
        );
        Ok(())
    });
}

#[test]
fn another_volume_of_the_same_name_is_refused() {
    promise(|world| {
        let units = TwoUnits::start(world, ROOMY)?;
        units.connect()?.write_fua(0, b"mine")?;
        units.expect_same_on_both_sides()?;
        units.local.shut_down()?;
        let other = local_unit(
            world,
            "other",
            &world.file("other"),
            free_address()?,
            &volume_toml(ROOMY, units.link),
        )?;
        other.start()?;
        other.wait_remote_state("refused", limits::CATCH_UP)?;
        images::expect_equal(&units.mirror(), &units.replica())
    });
}
