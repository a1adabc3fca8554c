//! Power cuts of virtual machines under load: what was flushed is there, nothing else than what was written is there,
//! the replica is a state the disk had, and both sides come together again.
//!
//! Units run in machines on file systems on disks that lose, keep and tear what was not flushed (`src/power`). The host
//! that writes ends with the local machine, as a host does whose disk loses acknowledged writes.

use anyhow::{Context as _, Result, ensure};
use farside_tests::clock::now;
use farside_tests::nbd::NbdClient;
use farside_tests::pattern::{Demand, History, Writer, WriterOptions};
use farside_tests::power::{Fate, Survived};
use farside_tests::proxy::Way;
use farside_tests::status::number;
use farside_tests::units::{Sizes, VOLUME};
use farside_tests::vm::{Cut, FileSystem, PowerPair};
use farside_tests::{Random, World, images, promise, soak};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Small, because images leave an emulated machine slowly; the journal holds what is written while one side is away.
const SIZES: Sizes = Sizes {
    disk_mib: 16,
    journal_mib: 32,
};
/// The local unit on one, the remote on the other.
const MIXED: [FileSystem; 2] = [FileSystem::Ext4, FileSystem::Xfs];

/// One test at a time: two machines keep two processors busy.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A host that writes until the end of its life or the test's.
struct Host {
    history: Arc<History>,
    writer: Writer,
}

impl Host {
    fn start(pair: &PowerPair<'_>, random: &mut Random) -> Self {
        let history = Arc::new(History::new(random.next_u64()));
        let mut options = WriterOptions::new(pair.endpoint(), VOLUME, SIZES.disk_bytes(), random.next_u64());
        options.per_second = 60;
        options.shape.flush_every = random.between(8, 64);
        let writer = Writer::start(&history, &options);
        Self { history, writer }
    }

    fn work(&self, random: &mut Random) -> Result<()> {
        self.writer.wait_progress(random.between(30, 400))
    }
}

/// Adds up, to see at the end that power cuts did some harm.
fn add(total: &mut Survived, one: Survived) {
    total.unflushed += one.unflushed;
    total.kept += one.kept;
}

fn expect_harm(total: Survived) -> Result<()> {
    ensure!(
        total.kept < total.unflushed,
        "no power cut lost anything, so nothing was tried: {total:?}"
    );
    Ok(())
}

/// The remote, for itself: it has what it confirmed, and its image is a state of the disk. Returns the moment up to
/// which that image has everything.
fn expect_prefix_on_the_remote(pair: &PowerPair<'_>, history: &History, confirmed: u64) -> Result<u64> {
    let received = pair.wait_replica_recovered()?;
    ensure!(
        received >= confirmed,
        "the remote had confirmed {confirmed} records and has {received}"
    );
    let replica = pair.copy_replica()?;
    let report = images::expect_state("the replica", &replica, history, Demand::AnyPrefix)?;
    Ok(report.horizon)
}

/// The volume after a recovery has all that was flushed, and all that the remote has; then the remote gets the rest,
/// and no more than that.
fn expect_whole_volume(pair: &PowerPair<'_>, history: &History, horizon: u64) -> Result<()> {
    let volume = pair.read_volume()?;
    images::expect_state("the volume", &volume, history, Demand::Durable)?;
    images::expect_state("the volume beside its replica", &volume, history, Demand::Before(horizon))?;
    let lag = number(pair.local.status()?.remote(VOLUME)?, &["lag", "bytes"])?;
    let before = pair.proxy.passed_bytes(Way::Out);
    pair.proxy.restore();
    pair.expect_same_on_both_sides()?;
    images::expect_equal(&volume, &pair.copy_mirror()?)?;
    let passed = pair.proxy.passed_bytes(Way::Out) - before;
    println!("lag {lag} passed {passed}");
    Ok(())
}

/// A few more cuts, in the middle of the recovery from the cut before.
fn cut_recoveries(pair: &PowerPair<'_>, cut: Cut, chance: u64, random: &mut Random) -> Result<()> {
    while random.chance(chance) {
        let station = match cut {
            Cut::Local => &pair.local,
            Cut::Remote => &pair.remote,
            Cut::Both if random.chance(50) => &pair.local,
            Cut::Both => &pair.remote,
        };
        station.start_and_lose_power(random.between(1, 60), Fate::any(random), random)?;
    }
    Ok(())
}

/// One power cut that ends the host's life too.
fn lose_power_of_the_host(pair: &PowerPair<'_>, cut: Cut, random: &mut Random) -> Result<Survived> {
    let t = now();
    pair.wipe()?;
    let host = Host::start(pair, random);
    host.work(random)?;
    println!("worked {:?}", t.elapsed());
    let confirmed = pair.confirmed()?;
    let survived = pair.lose_power(cut, random)?;
    println!("cut {:?} {survived:?} {:?}", t.elapsed(), host.history.counts());
    let Host { history, writer } = host;
    writer.abandon()?;
    pair.proxy.cut();
    cut_recoveries(pair, cut, soak(25, 30), random)?;
    match cut {
        Cut::Both => pair.start_both()?,
        Cut::Local | Cut::Remote => pair.local.start()?,
    }
    println!("started {:?}", t.elapsed());
    let horizon = expect_prefix_on_the_remote(pair, &history, confirmed)?;
    println!("remote ok {:?}", t.elapsed());
    expect_whole_volume(pair, &history, horizon)?;
    println!("all ok {:?}", t.elapsed());
    Ok(survived)
}

fn rounds_of(cut: Cut, world: &World, systems: [FileSystem; 2], rounds: u32) -> Result<()> {
    let pair = PowerPair::start(world, SIZES, systems)?;
    let mut random = Random::new(world.seed());
    let mut total = Survived::default();
    for round in 0..rounds {
        let survived = lose_power_of_the_host(&pair, cut, &mut random);
        add(&mut total, survived.with_context(|| format!("round {round}"))?);
    }
    expect_harm(total)
}

#[test]
fn flushed_writes_survive_power_cuts_of_both_units() {
    let _turn = turn();
    promise(|world| rounds_of(Cut::Both, world, MIXED, soak(3, 60)));
}

#[test]
fn flushed_writes_survive_power_cuts_of_the_local_unit() {
    let _turn = turn();
    promise(|world| {
        let [one, other] = MIXED;
        rounds_of(Cut::Local, world, [other, one], soak(1, 60))
    });
}

#[test]
fn the_replica_is_a_prefix_after_power_cuts_of_the_remote_unit() {
    let _turn = turn();
    promise(|world| {
        let pair = PowerPair::start(world, SIZES, MIXED)?;
        let mut random = Random::new(world.seed());
        let host = Host::start(&pair, &mut random);
        let (mut horizon, mut total) = (0, Survived::default());
        for round in 0..soak(2, 60) {
            host.work(&mut random)?;
            let confirmed = pair.confirmed()?;
            add(&mut total, pair.lose_power(Cut::Remote, &mut random)?);
            pair.proxy.cut();
            cut_recoveries(&pair, Cut::Remote, soak(0, 30), &mut random)?;
            pair.remote.start().with_context(|| format!("round {round}"))?;
            let now = expect_prefix_on_the_remote(&pair, &host.history, confirmed)?;
            ensure!(now >= horizon, "round {round}: the replica went back from {horizon} to {now}");
            horizon = now;
            pair.proxy.restore();
            pair.local.wait_applied()?;
        }
        ensure!(horizon > 0, "nothing had ever reached the replica");
        let Host { history, writer } = host;
        writer.stop()?;
        pair.expect_same_on_both_sides()?;
        images::expect_state("the replica", &pair.copy_replica()?, &history, Demand::Acknowledged)?;
        expect_harm(total)
    });
}

/// The proof of the proof: with a disk that lies, the same checks fail.
#[test]
fn a_disk_that_forgets_flushed_writes_is_noticed() {
    let _turn = turn();
    promise(|world| {
        let pair = PowerPair::start(world, SIZES, MIXED)?;
        let mut random = Random::new(world.seed());
        pair.local.machine.disk().lie_about_flushes();
        let history = History::new(world.seed());
        let mut host = NbdClient::connect(&pair.endpoint(), VOLUME)?;
        let write = history.submit(farside_tests::pattern::Kind::Write, 0, 65536, true)?;
        host.write_fua(0, &farside_tests::pattern::fill(history.seed(), write.id, 0, 65536))?;
        history.acknowledge(write.id);
        pair.local.machine.lose_power(Fate::Nothing, &mut random)?;
        pair.proxy.cut();
        pair.local.start()?;
        let volume = pair.read_volume()?;
        let found = images::expect_state("the volume", &volume, &history, Demand::Durable);
        ensure!(found.is_err(), "a lost FUA write was not noticed");
        Ok(())
    });
}
