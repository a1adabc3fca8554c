//! Power cuts of virtual machines under load: what was flushed is there, nothing else than what was written is there,
//! the replica is a state the disk had, and both sides come together again.
//!
//! Units run in machines on file systems on disks that lose, keep and tear what was not flushed (`src/power`). The host
//! that writes ends with the local machine, as a host does whose disk loses acknowledged writes.

use anyhow::{Context as _, Result, ensure};
use farside_tests::BlockClient as _;
use farside_tests::nbd::NbdClient;
use farside_tests::pattern::{Demand, History, Kind, Writer, WriterOptions, fill};
use farside_tests::power::{Fate, Survived};
use farside_tests::units::{Sizes, VOLUME};
use farside_tests::vm::{Cut, FileSystem, PowerPair, Station};
use farside_tests::{Random, World, images, promise, soak};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Small, because images leave an emulated machine slowly, and because the journal shall wrap.
const SIZES: Sizes = Sizes {
    disk_mib: 8,
    journal_mib: 32,
};
/// The same with a journal that holds what is written while the remote is away for two minutes.
const LASTING: Sizes = Sizes {
    journal_mib: 160,
    ..SIZES
};
/// Operations a second on each connection: with the host's end near, and with a remote that will be away.
const BUSY: u32 = 60;
const STEADY: u32 = 25;
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
    fn start(pair: &PowerPair<'_>, per_second: u32, random: &mut Random) -> Self {
        let history = Arc::new(History::new(random.next_u64()));
        let mut options = WriterOptions::new(pair.endpoint(), VOLUME, SIZES.disk_bytes(), random.next_u64());
        options.per_second = per_second;
        options.shape.flush_every = random.between(8, 64);
        let writer = Writer::start(&history, &options);
        Self { history, writer }
    }

    fn work(&self, random: &mut Random) -> Result<()> {
        self.writer.wait_progress(random.between(30, 400))
    }
}

/// What all power cuts of a test left.
#[derive(Default)]
struct Harm {
    cuts: u32,
    total: Survived,
}

impl Harm {
    fn add(&mut self, one: Survived) {
        self.cuts += 1;
        self.total.unflushed += one.unflushed;
        self.total.kept += one.kept;
    }

    /// Many power cuts that lose nothing would mean that nothing was tried; a few can be lucky.
    fn expect_some(&self) -> Result<()> {
        let lost = self.total.kept < self.total.unflushed;
        ensure!(
            lost || self.cuts < 10,
            "{} cuts lost nothing: {:?}",
            self.cuts,
            self.total
        );
        Ok(())
    }
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

/// The volume after a recovery has all that was flushed, and all that the remote has; then the remote gets the rest.
fn expect_whole_volume(pair: &PowerPair<'_>, history: &History, horizon: u64) -> Result<()> {
    let volume = pair.read_volume()?;
    images::expect_state("the volume", &volume, history, Demand::Durable)?;
    images::expect_state(
        "the volume beside its replica",
        &volume,
        history,
        Demand::Before(horizon),
    )?;
    pair.proxy.restore();
    let image = pair.expect_same_on_both_sides()?;
    images::expect_equal(&volume, &image)
}

/// Neither side gave up on the other and took a new copy of everything: that would hide what a recovery got wrong.
fn expect_no_full_copy(station: &Station<'_>) -> Result<()> {
    let log = station.machine.log_text();
    ensure!(
        !log.contains("full copy begins"),
        "a power cut led to a full copy:\n{log}"
    );
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
    pair.wipe()?;
    let host = Host::start(pair, BUSY, random);
    host.work(random)?;
    let confirmed = pair.confirmed()?;
    let survived = pair.lose_power(cut, random)?;
    let Host { history, writer } = host;
    writer.abandon()?;
    pair.proxy.cut();
    cut_recoveries(pair, cut, soak(15, 30), random)?;
    match cut {
        Cut::Both => pair.start_both()?,
        Cut::Local | Cut::Remote => pair.local.start()?,
    }
    let horizon = expect_prefix_on_the_remote(pair, &history, confirmed)?;
    expect_whole_volume(pair, &history, horizon)?;
    expect_no_full_copy(&pair.local)?;
    Ok(survived)
}

fn rounds_of(cut: Cut, world: &World, systems: [FileSystem; 2], rounds: u32) -> Result<()> {
    let pair = PowerPair::start(world, SIZES, systems)?;
    let mut random = Random::new(world.seed());
    let mut harm = Harm::default();
    for round in 0..rounds {
        let survived = lose_power_of_the_host(&pair, cut, &mut random);
        harm.add(survived.with_context(|| format!("round {round}"))?);
    }
    harm.expect_some()
}

#[test]
fn flushed_writes_survive_power_cuts_of_both_units() {
    let _turn = turn();
    promise(|world| rounds_of(Cut::Both, world, MIXED, soak(2, 60)));
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
        let pair = PowerPair::start(world, LASTING, MIXED)?;
        let mut random = Random::new(world.seed());
        let host = Host::start(&pair, STEADY, &mut random);
        let (mut horizon, mut harm) = (0, Harm::default());
        for round in 0..soak(2, 60) {
            host.writer.wait_progress(random.between(30, 150))?;
            let confirmed = pair.confirmed()?;
            harm.add(pair.lose_power(Cut::Remote, &mut random)?);
            pair.proxy.cut();
            cut_recoveries(&pair, Cut::Remote, soak(0, 30), &mut random)?;
            pair.remote.start().with_context(|| format!("round {round}"))?;
            let now = expect_prefix_on_the_remote(&pair, &host.history, confirmed)?;
            ensure!(
                now >= horizon,
                "round {round}: the replica went back from {horizon} to {now}"
            );
            horizon = now;
            pair.proxy.restore();
            pair.local.wait_applied()?;
            expect_no_full_copy(&pair.remote)?;
        }
        ensure!(horizon > 0, "nothing had ever reached the replica");
        let Host { history, writer } = host;
        writer.stop()?;
        let image = pair.expect_same_on_both_sides()?;
        images::expect_state("the replica", &image, &history, Demand::Acknowledged)?;
        harm.expect_some()
    });
}

/// The proof of the proof: with a disk that lies, the same checks fail.
#[test]
fn a_disk_that_forgets_flushed_writes_is_noticed() {
    let _turn = turn();
    promise(|world| {
        let pair = PowerPair::prepare(world, SIZES, MIXED)?;
        pair.local.start()?;
        let mut random = Random::new(world.seed());
        pair.local.machine.disk().lie_about_flushes();
        let history = History::new(world.seed());
        let mut host = NbdClient::connect(&pair.endpoint(), VOLUME)?;
        let write = history.submit(Kind::Write, 0, 65536, true)?;
        host.write_fua(0, &fill(history.seed(), write.id, 0, 65536))?;
        history.acknowledge(write.id);
        pair.local.machine.lose_power(Fate::Nothing, &mut random)?;
        pair.local.start()?;
        let volume = pair.read_volume()?;
        let found = images::expect_state("the volume", &volume, &history, Demand::Durable);
        let error = found.err().context("a lost FUA write was not noticed")?;
        ensure!(
            error.to_string().contains("is missing"),
            "noticed as something else: {error:#}"
        );
        Ok(())
    });
}
