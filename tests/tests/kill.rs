//! `kill -9` at random moments: nothing acknowledged is lost, hosts go on, the replica is always a state the disk had.

use anyhow::{Context as _, Result, ensure};
use farside_tests::BlockClient as _;
use farside_tests::clock::{Seen, wait_until};
use farside_tests::fio::{expect_fio_success, reconnecting_fio};
use farside_tests::nbd::Endpoint;
use farside_tests::pattern::{Demand, History, Writer, WriterOptions};
use farside_tests::ports::free_address;
use farside_tests::proxy::Way;
use farside_tests::status::{number, text};
use farside_tests::tools::{Tool, need};
use farside_tests::units::{Pair, Protocol, Sizes, TwoUnits, VOLUME};
use farside_tests::{Random, World, images, limits, promise, soak};
use std::sync::Arc;
use std::time::Duration;

/// The journal holds what is written while one side is away, so that a full copy is never needed.
const SIZES: Sizes = Sizes {
    disk_mib: 64,
    journal_mib: 128,
};

fn rounds() -> u32 {
    soak(5, 100)
}

/// A writer over the whole disk, and its history; both go on over every kill.
fn writer(world: &World, endpoint: Endpoint) -> (Arc<History>, Writer) {
    let history = Arc::new(History::new(world.seed()));
    let mut options = WriterOptions::new(endpoint, VOLUME, SIZES.disk_bytes(), world.seed());
    options.per_second = soak(150, 100);
    let writer = Writer::start(&history, &options);
    (history, writer)
}

fn pause(random: &mut Random) {
    std::thread::sleep(Duration::from_millis(random.between(20, 700)));
}

/// The volume as a host reads it, to a file.
fn read_volume(world: &World, endpoint: &Endpoint) -> Result<std::path::PathBuf> {
    let copy = world.file("volume.img");
    Tool::new("nbdcopy")
        .args([endpoint.uri(VOLUME)])
        .path(&copy)
        .ok()?;
    Ok(copy)
}

/// The remote has recovered by itself, whatever the local unit does.
fn wait_replica_recovered(units: &TwoUnits<'_>) -> Result<()> {
    wait_until("the remote to finish its recovery", limits::START, || {
        let status = units.remote.status()?;
        let replica = status.replica(VOLUME)?;
        let done = text(replica, &["state"])? == "consistent"
            && number(replica, &["applied"])? == number(replica, &["received"])?;
        Ok(Seen::when(done, || format!("{replica}")))
    })
}

#[test]
fn acked_writes_survive_kills_of_the_local_unit() {
    survive_kills_of_the_local_unit(Protocol::Nbd);
}

#[test]
fn acked_writes_over_iscsi_survive_kills_of_the_local_unit() {
    survive_kills_of_the_local_unit(Protocol::Iscsi);
}

fn survive_kills_of_the_local_unit(protocol: Protocol) {
    promise(|world| {
        let units = TwoUnits::start(world, SIZES)?;
        let mut random = Random::new(world.seed());
        let (history, writer) = writer(world, units.endpoint_over(protocol));
        let mut journaled = 0;
        for round in 0..rounds() {
            writer.wait_progress(50)?;
            pause(&mut random);
            units.local.kill9()?;
            units.local.start().with_context(|| format!("round {round}"))?;
            let positions = units.local.positions()?;
            ensure!(
                positions.durable >= journaled,
                "round {round}: durable went back from {journaled}: {positions:?}"
            );
            journaled = positions.durable;
        }
        writer.stop()?;
        let copy = read_volume(world, &units.endpoint())?;
        images::expect_state(
            "the volume after the kills",
            &copy,
            &history,
            Demand::Acknowledged,
        )?;
        units.expect_same_on_both_sides()?;
        images::expect_state("the replica", &units.replica(), &history, Demand::Acknowledged)?;
        Ok(())
    });
}

#[test]
fn acked_writes_are_there_right_after_a_kill() {
    are_there_right_after_a_kill(Protocol::Nbd);
}

#[test]
fn acked_writes_over_iscsi_are_there_right_after_a_kill() {
    are_there_right_after_a_kill(Protocol::Iscsi);
}

fn are_there_right_after_a_kill(protocol: Protocol) {
    promise(|world| {
        let units = TwoUnits::start(world, SIZES)?;
        let mut random = Random::new(world.seed());
        let mut history = None;
        for round in 0..soak(3, 30) {
            // The host dies with the unit: what it was told is all that counts.
            let history = history.get_or_insert_with(|| Arc::new(History::new(world.seed())));
            let seed = world.seed() + round;
            let endpoint = units.endpoint_over(protocol);
            let options = WriterOptions::new(endpoint, VOLUME, SIZES.disk_bytes(), seed);
            let writer = Writer::start(history, &options);
            writer.wait_progress(200)?;
            pause(&mut random);
            units.local.kill9()?;
            writer.abandon()?;
            units.local.start()?;
            let copy = read_volume(world, &units.endpoint())?;
            let what = format!("the volume after kill {round}");
            images::expect_state(&what, &copy, history, Demand::Acknowledged)?;
        }
        Ok(())
    });
}

#[test]
fn the_replica_is_a_prefix_after_every_kill_of_the_remote() {
    promise(|world| {
        let units = TwoUnits::start(world, SIZES)?;
        let mut random = Random::new(world.seed());
        let (history, writer) = writer(world, units.endpoint());
        let (mut horizon, mut received) = (0, 0);
        for round in 0..rounds() {
            writer.wait_progress(50)?;
            pause(&mut random);
            // What the remote had confirmed before it dies must be there when it has recovered alone.
            let confirmed = number(units.local.status()?.remote(VOLUME)?, &["received"])?;
            units.remote.kill9()?;
            units.proxy.cut();
            units.remote.start().with_context(|| format!("round {round}"))?;
            wait_replica_recovered(&units)?;
            let status = units.remote.status()?;
            let now = number(status.replica(VOLUME)?, &["received"])?;
            ensure!(
                now >= confirmed.max(received),
                "round {round}: {confirmed} was confirmed, {now} is there"
            );
            received = now;
            let what = format!("the replica after kill {round}");
            let report = images::expect_state(&what, &units.replica(), &history, Demand::Before(horizon))?;
            horizon = horizon.max(report.horizon);
            units.proxy.restore();
        }
        writer.stop()?;
        ensure!(horizon > 0, "nothing had ever reached the replica");
        units.expect_same_on_both_sides()
    });
}

#[test]
fn both_units_survive_being_killed_together() {
    promise(|world| {
        let units = TwoUnits::start(world, SIZES)?;
        let mut random = Random::new(world.seed());
        let (history, writer) = writer(world, units.endpoint());
        let mut horizon = 0;
        for round in 0..rounds() {
            writer.wait_progress(50)?;
            pause(&mut random);
            units.local.kill9()?;
            units.remote.kill9()?;
            units.remote.start().with_context(|| format!("round {round}"))?;
            wait_replica_recovered(&units)?;
            let what = format!("the replica after round {round}");
            let report = images::expect_state(&what, &units.replica(), &history, Demand::Before(horizon))?;
            horizon = horizon.max(report.horizon);
            units.local.start().with_context(|| format!("round {round}"))?;
        }
        writer.stop()?;
        units.expect_same_on_both_sides()?;
        images::expect_state("the replica", &units.replica(), &history, Demand::Acknowledged)?;
        Ok(())
    });
}

#[test]
fn a_pair_in_one_process_survives_kills() {
    promise(|world| {
        let pair = Pair::start(world, SIZES)?;
        let mut random = Random::new(world.seed());
        let (history, writer) = writer(world, pair.endpoint());
        for _ in 0..rounds() {
            writer.wait_progress(50)?;
            pause(&mut random);
            pair.unit.kill9()?;
            pair.unit.start()?;
        }
        writer.stop()?;
        pair.expect_same_on_both_sides()?;
        images::expect_state("the mirror", &pair.mirror(), &history, Demand::Acknowledged)?;
        Ok(())
    });
}

/// The bytes on the link say it without trusting any counter: resuming costs what was written, not what the disk holds.
#[test]
fn no_kill_leads_to_a_full_copy() {
    promise(|world| {
        let units = TwoUnits::start(world, SIZES)?;
        let mut client = units.connect()?;
        let mut random = Random::new(world.seed());
        for mib in 0..SIZES.disk_mib {
            client.write(mib << 20, &random.bytes(1 << 20))?;
        }
        client.flush()?;
        units.local.wait_applied()?;
        let before = units.proxy.passed_bytes(Way::Out);
        for round in 0..rounds() {
            units
                .connect()?
                .write(u64::from(round) * 4096, &random.bytes(4096))?;
            if round % 2 == 0 {
                units.local.kill9()?
            } else {
                units.remote.kill9()?
            }
            let killed = if round % 2 == 0 {
                &units.local
            } else {
                &units.remote
            };
            killed.start()?;
            units.local.wait_applied()?;
        }
        let passed = units.proxy.passed_bytes(Way::Out) - before;
        let allowed = u64::from(rounds()) * (2 << 20);
        ensure!(
            passed < allowed,
            "{passed} bytes went over the link for {} small writes",
            rounds()
        );
        units.expect_same_on_both_sides()
    });
}

#[test]
fn fio_verifies_through_kills_by_a_reconnecting_client() {
    promise(|world| {
        need("fio")?;
        let units = TwoUnits::start(world, SIZES)?;
        let mut random = Random::new(world.seed());
        let fio = reconnecting_fio(
            world,
            &units.endpoint(),
            &Endpoint::Tcp(free_address()?),
            soak(12, 300),
        )?;
        let mut kills = 0;
        while fio.exit_status()?.is_none() {
            std::thread::sleep(Duration::from_millis(random.between(1500, 3000)));
            if fio.exit_status()?.is_none() && kills < soak(3, 60) {
                units.local.kill9()?;
                units.local.start()?;
                kills += 1;
            }
        }
        expect_fio_success(&fio, limits::POLL).with_context(|| format!("after {kills} kills"))?;
        ensure!(kills > 0, "fio was over before the first kill");
        units.expect_same_on_both_sides()
    });
}
