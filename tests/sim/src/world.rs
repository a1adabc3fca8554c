//! One world: a local unit with its volumes and hosts, remotes, a network between them, and everything that can go wrong.
//!
//! First things go wrong, in an order that the seed decides; then nothing does any more, and everything has to
//! catch up.

use crate::checks::{self, positions::Seen, prefix::Compared};
use crate::disk::{Fault, Platter};
use crate::local::{self, Local, Site};
use crate::net::{Net, Weather};
use crate::process::{Death, Process};
use crate::remote::{self, Remote};
use crate::schedule::Schedule;
use crate::stats::Stats;
use crate::time::{SimClock, pause_us};
use farside_protocol::journal::limits::RING_OFFSET;
use farside_tests::random::Random;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// In this time everything has to catch up once nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_secs(240);

/// What may go wrong in a world besides crashes and the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Plain,
    /// Calls to disks fail.
    Faults,
    /// Bits flip in journals.
    Flips,
    /// Disks are exchanged for old copies of themselves.
    OldCopies,
}

/// Everything there is.
#[derive(Debug)]
pub struct World {
    /// What may go wrong.
    pub kind: Kind,
    /// Choices of the world's own.
    pub random: RefCell<Random>,
    /// What happened so far.
    pub stats: Arc<Stats>,
    /// The network.
    pub net: Arc<Net>,
    /// The local unit's clock.
    pub local_clock: Arc<SimClock>,
    /// Identity of the local unit.
    pub local_uuid: Uuid,
    /// The local unit.
    pub local: RefCell<Local>,
    /// Hosts in front of each volume.
    pub hosts: u64,
    /// Longest pause of a host between two requests, in microseconds.
    pub think_us: u64,
    sites: RefCell<Vec<Rc<Site>>>,
    remotes: Vec<Rc<Remote>>,
    goes_on: Cell<bool>,
    instances: Cell<u128>,
    /// When a unit that is down starts again, by name.
    restarts: RefCell<BTreeMap<String, Instant>>,
    seen: RefCell<Seen>,
    compared: RefCell<Compared>,
    backups: RefCell<BTreeMap<String, Vec<(Arc<Platter>, Arc<Platter>)>>>,
}

/// What a world came to.
#[derive(Debug)]
pub struct Outcome {
    /// What was counted.
    pub counts: BTreeMap<&'static str, u64>,
    /// Operations whose outcome was checked.
    pub operations: u64,
    /// Simulated time.
    pub lasted: Duration,
}

/// Runs the world of a seed to its end.
///
/// # Panics
/// When a promise is broken.
#[must_use]
pub fn run(seed: u64, traced: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O can always be made");
    runtime.block_on(async {
        let mut random = Random::new(seed);
        let interrupts = *random.pick(&[0, 20, 100, 300]);
        let stats = Arc::new(Stats::new(traced));
        let begun = Instant::now();
        let ((), interrupted) = Schedule::run(seed, interrupts, async {
            let world = World::make(seed, &mut random, stats.clone());
            world.live().await;
        })
        .await;
        let (mut counts, operations) = stats.totals();
        counts.insert("calls to disks interrupted", interrupted);
        Outcome {
            counts,
            operations,
            lasted: begun.elapsed(),
        }
    })
}

impl World {
    fn make(seed: u64, random: &mut Random, stats: Arc<Stats>) -> Rc<Self> {
        let kind = *random.pick(&[
            Kind::Plain,
            Kind::Plain,
            Kind::Plain,
            Kind::Plain,
            Kind::Plain,
            Kind::Plain,
            Kind::Faults,
            Kind::Faults,
            Kind::Flips,
            Kind::OldCopies,
        ]);
        let remotes = (1..=random.between(1, 2))
            .map(|number| Rc::new(Remote::new(number)))
            .collect();
        let volumes = u128::from(random.between(1, 5) / 5 + 1);
        let world = Rc::new(Self {
            kind,
            net: Net::new(seed, stats.clone()),
            stats,
            local_clock: Arc::new(SimClock::new()),
            local_uuid: Uuid::from_u128(0x10ca1),
            local: RefCell::default(),
            hosts: random.between(1, 3),
            think_us: *random.pick(&[2_000, 20_000, 60_000]),
            sites: RefCell::default(),
            remotes,
            goes_on: Cell::new(true),
            instances: Cell::new(0),
            restarts: RefCell::default(),
            seen: RefCell::default(),
            compared: RefCell::default(),
            backups: RefCell::default(),
            random: RefCell::new(random.clone()),
        });
        for number in 1..=volumes {
            let site = Site::make(&world, number);
            let names = world.remotes.iter().map(|remote| remote.name.clone());
            site.remotes.borrow_mut().extend(names);
            world.sites.borrow_mut().push(site);
        }
        world.stats.trace("world", || {
            format!(
                "seed {seed}: {:?}, {} remotes, {volumes} volumes",
                world.kind,
                world.remotes.len()
            )
        });
        world
    }

    /// The volumes.
    #[must_use]
    pub fn sites(&self) -> Vec<Rc<Site>> {
        self.sites.borrow().clone()
    }

    /// The remotes.
    #[must_use]
    pub fn remotes(&self) -> Vec<Rc<Remote>> {
        self.remotes.clone()
    }

    /// The remote of this name.
    #[must_use]
    pub fn remote(&self, name: &str) -> Option<Rc<Remote>> {
        self.remotes.iter().find(|remote| remote.name == name).cloned()
    }

    /// Whether hosts go on asking.
    #[must_use]
    pub fn hosts_go_on(&self) -> bool {
        self.goes_on.get()
    }

    /// A number for each start of the local unit.
    pub fn next_instance(&self) -> u128 {
        self.instances.set(self.instances.get() + 1);
        0x1257_0000 + self.instances.get()
    }

    /// Whether the volume went back in time: remotes that went on are not to be judged by it.
    #[must_use]
    pub fn is_another_branch(&self, site: &Site) -> bool {
        // A journal that was damaged may end early, too.
        site.branched.get() || site.hurt.get()
    }

    fn pick<T: Clone>(&self, from: &[T]) -> T {
        self.random.borrow_mut().pick(from).clone()
    }

    fn draw(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    fn chance(&self, percent: u64) -> bool {
        self.random.borrow_mut().chance(percent)
    }

    async fn live(self: &Rc<Self>) {
        local::start(self);
        for remote in &self.remotes {
            remote::start(self, remote);
        }
        let steps = self.random.borrow_mut().between(10, 40);
        for _ in 0..steps {
            pause_us(1 + self.draw(300_000)).await;
            self.look();
            self.bury_and_revive();
            if self.chance(60) {
                self.misfortune().await;
            }
        }
        self.calm_down();
        let begun = Instant::now();
        loop {
            pause_us(100_000).await;
            self.look();
            self.bury_and_revive();
            let Some(missing) = checks::catching_up::missing(self) else {
                break;
            };
            assert!(begun.elapsed() < PATIENCE, "does not catch up: {missing}");
        }
        checks::catching_up::check_equal(self);
        self.end_cleanly().await;
    }

    /// Looks at everything that has to be true at any moment.
    fn look(&self) {
        checks::positions::check(self, &mut self.seen.borrow_mut());
        checks::prefix::check(self, &mut self.compared.borrow_mut());
        checks::bounds::check(self);
        for site in self.sites() {
            checks::links::note_confirmed(&site);
        }
    }

    /// Units that died are buried, and those whose time has come start again.
    fn bury_and_revive(self: &Rc<Self>) {
        let process = self.local.borrow().process.clone();
        match process {
            Some(process) if process.is_dead() => {
                local::bury(self, &process);
                self.plan_restart("local");
            }
            Some(process) => self.replace_degraded(&process),
            None if self.is_due("local") => local::start(self),
            None => {}
        }
        for remote in self.remotes() {
            match remote.process() {
                Some(process) if process.is_dead() => {
                    remote::bury(self, &remote, &process);
                    self.plan_restart(&remote.name);
                }
                Some(process) => self.replace_degraded_replica(&remote, &process),
                None if self.is_due(&remote.name) => remote::start(self, &remote),
                None => {}
            }
        }
    }

    fn plan_restart(&self, name: &str) {
        let pause = Duration::from_micros(self.draw(2_000_000));
        self.restarts
            .borrow_mut()
            .insert(name.to_owned(), Instant::now() + pause);
    }

    fn is_due(&self, name: &str) -> bool {
        self.restarts
            .borrow()
            .get(name)
            .is_none_or(|at| *at <= Instant::now())
    }

    /// A volume that is degraded, or could not be opened, is started again by its operator, with healthy disks.
    fn replace_degraded(&self, process: &Arc<Process>) {
        let degraded = self.sites().iter().any(|site| {
            let volume = site.volume.borrow();
            let failed = volume
                .as_ref()
                .is_some_and(|volume| volume.store().failure().is_some());
            (failed || site.broken.borrow().is_some()) && !site.hurt.get()
        });
        if degraded && (!self.goes_on.get() || self.chance(30)) {
            self.sites()
                .iter()
                .flat_map(|site| site.platters())
                .for_each(|platter| platter.heal());
            process.die(Death::Killed);
        }
    }

    fn replace_degraded_replica(&self, remote: &Remote, process: &Arc<Process>) {
        let homes: Vec<_> = remote.homes.lock().values().cloned().collect();
        let degraded = homes.iter().any(|home| {
            let failed = remote
                .replica(&home.name)
                .is_some_and(|replica| replica.store().failure().is_some());
            (failed || remote.broken(&home.name).is_some()) && !home.hurt.load(Ordering::Relaxed)
        });
        if degraded && (!self.goes_on.get() || self.chance(30)) {
            homes
                .iter()
                .flat_map(|home| home.platters())
                .for_each(|platter| platter.heal());
            process.die(Death::Killed);
        }
    }

    async fn misfortune(self: &Rc<Self>) {
        let kinds = if self.kind == Kind::Plain { 20 } else { 26 };
        match self.draw(kinds) {
            0..3 => self.kill_local(),
            3..6 => self.kill_remote(),
            6 => self.net.cut(),
            7 => self.net.freeze(),
            8 => self.net.corrupt(usize::from(self.chance(50))),
            9 => self.net.double(usize::from(self.chance(50))),
            10 => self.net.leave_out(usize::from(self.chance(50))),
            11 => self.change_weather(),
            12 => self.jump_clock(),
            13 => self.look_at_a_lonely_remote(),
            14 => self.outage().await,
            15 => self.restart_cleanly().await,
            16 => self.change_remotes().await,
            17 => self.arm(),
            _ => self.mishap_of_its_kind().await,
        }
    }

    fn death(&self) -> Death {
        if self.chance(50) {
            Death::Killed
        } else {
            Death::PowerLost
        }
    }

    fn kill_local(&self) {
        self.stats.count("local units killed or without power");
        let how = self.death();
        if let Some(process) = &self.local.borrow().process {
            process.die(how);
        }
    }

    fn a_remote(&self) -> Rc<Remote> {
        self.pick(&self.remotes)
    }

    fn kill_remote(&self) {
        self.stats.count("remote units killed or without power");
        let how = self.death();
        if let Some(process) = self.a_remote().process() {
            process.die(how);
        }
    }

    /// A unit is going to die in the middle of some call to a disk.
    fn arm(&self) {
        self.stats.count("deaths inside a call to a disk");
        let (calls, how) = (1 + self.draw(60), self.death());
        let process = if self.chance(50) {
            self.local.borrow().process.clone()
        } else {
            self.a_remote().process()
        };
        if let Some(process) = process {
            process.dies_after(calls, how);
        }
    }

    fn change_weather(&self) {
        self.stats.count("changes of the network's weather");
        let weather = Weather {
            up: self.chance(70),
            delay_us: self.pick(&[50, 5_000, 100_000]),
            jitter_us: self.pick(&[100, 20_000]),
        };
        self.net.set_weather(weather);
    }

    fn jump_clock(&self) {
        self.stats.count("clocks that jump");
        let hours = i64::try_from(self.draw(200)).unwrap_or(0) - 100;
        let clock = if self.chance(50) {
            self.local_clock.clone()
        } else {
            self.a_remote().clock.clone()
        };
        clock.jump(hours * 3_600_000_000);
    }

    /// The local unit is gone for ever, say: what would this remote come up with?
    fn look_at_a_lonely_remote(&self) {
        let remote = self.a_remote();
        let homes: Vec<_> = remote.homes.lock().values().cloned().collect();
        for home in homes {
            checks::recovery::remote_now(self, &remote, &home);
        }
    }

    /// Nothing connects for a while, so that journals overflow.
    async fn outage(&self) {
        self.stats.count("outages");
        let before = self.net.weather();
        self.net.set_weather(Weather { up: false, ..before });
        if self.chance(50) {
            self.net.cut();
        } else {
            self.net.freeze();
        }
        pause_us(self.draw(5_000_000)).await;
        self.net.set_weather(Weather { up: true, ..before });
    }

    async fn restart_cleanly(self: &Rc<Self>) {
        self.stats.count("clean restarts");
        if self.chance(50) {
            local::shut_down(self).await;
            self.plan_restart("local");
        } else {
            let remote = self.a_remote();
            remote::shut_down(self, &remote).await;
            self.plan_restart(&remote.name);
        }
    }

    /// A remote is taken out of the configuration, or put back; it takes effect when the unit starts again. What the
    /// volume knew of it is forgotten then, so its operator gives up its replica.
    async fn change_remotes(self: &Rc<Self>) {
        self.stats.count("changes of configured remotes");
        let (site, remote) = (self.pick(&self.sites()), self.a_remote());
        let known = site
            .remotes
            .borrow()
            .iter()
            .position(|known| *known == remote.name);
        if let Some(at) = known {
            site.remotes.borrow_mut().remove(at);
            site.maps.borrow_mut().remove(&remote.name);
        } else {
            remote::shut_down(self, &remote).await;
            if remote.process().is_some_and(|process| !process.is_dead()) {
                return;
            }
            remote.homes.lock().remove(&site.name);
            site.left_ahead.borrow_mut().remove(&remote.name);
            site.confirmed.borrow_mut().remove(&remote.name);
            site.remotes.borrow_mut().push(remote.name.clone());
            self.plan_restart(&remote.name);
        }
        if let Some(process) = &self.local.borrow().process {
            process.die(Death::Killed);
        }
    }

    async fn mishap_of_its_kind(self: &Rc<Self>) {
        match self.kind {
            Kind::Plain => self.kill_local(),
            Kind::Faults => self.plan_fault(),
            Kind::Flips => self.flip(),
            Kind::OldCopies if self.chance(40) => self.old_copy_of_the_volume().await,
            Kind::OldCopies => self.old_copy().await,
        }
    }

    fn plan_fault(&self) {
        let fault = self.pick(&[
            Fault::Read,
            Fault::Write,
            Fault::NoSpace,
            Fault::Sync,
            Fault::Sync,
        ]);
        self.stats.count(match fault {
            Fault::Read => "reads that fail",
            Fault::Write => "writes that fail",
            Fault::NoSpace => "writes without space",
            Fault::Sync => "syncs that fail",
        });
        let calls = self.draw(30);
        if self.chance(50) {
            let site = self.pick(&self.sites());
            site.faulty.set(true);
            self.pick(&site.platters()).plan(fault, calls);
        } else {
            let homes: Vec<_> = self.a_remote().homes.lock().values().cloned().collect();
            if let Some(home) = homes.first() {
                home.faulty.store(true, Ordering::Relaxed);
                self.pick(&home.platters()).plan(fault, calls);
            }
        }
    }

    fn flip(&self) {
        self.stats.count("bits flipped");
        let mut random = self.random.borrow_mut();
        let range = RING_OFFSET..RING_OFFSET + (64 << 10);
        if random.chance(50) {
            let site = random.pick(&self.sites()).clone();
            if site.journal.flip_bit(&mut random, range) {
                site.hurt.set(true);
                site.history.lock().damaged = true;
            }
        } else {
            let homes: Vec<_> = random
                .pick(&self.remotes)
                .homes
                .lock()
                .values()
                .cloned()
                .collect();
            if let Some(home) = homes.first()
                && home.journal.flip_bit(&mut random, range)
            {
                home.hurt.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Takes a copy of a unit's disks while it is down, or puts one back.
    async fn old_copy(self: &Rc<Self>) {
        let remote = self.a_remote();
        let homes: Vec<_> = remote.homes.lock().values().cloned().collect();
        let Some(home) = homes.first().cloned() else {
            return;
        };
        remote::shut_down(self, &remote).await;
        if remote.process().is_some() {
            return;
        }
        let mut backups = self.backups.borrow_mut();
        let copies = backups
            .entry(format!("{}/{}", remote.name, home.name))
            .or_default();
        let restore = !copies.is_empty() && self.chance(60);
        if restore {
            self.stats.count("old copies put back");
            let (journal, image) = self.pick(copies);
            home.journal.restore(&journal);
            home.image.restore(&image);
            home.reached.store(0, Ordering::Relaxed);
            home.went_back.store(true, Ordering::Relaxed);
            for site in self.sites().iter().filter(|site| site.name == home.name) {
                site.confirmed.borrow_mut().remove(&remote.name);
            }
        } else {
            let mut random = self.random.borrow_mut();
            copies.push((
                home.journal.fork(false, &mut random),
                home.image.fork(false, &mut random),
            ));
        }
        drop(backups);
        self.plan_restart(&remote.name);
    }

    /// Takes a copy of the volumes' disks while nobody uses them, or puts one back: the volume goes back in time.
    async fn old_copy_of_the_volume(self: &Rc<Self>) {
        local::shut_down(self).await;
        if self.local.borrow().process.is_some() {
            return;
        }
        let site = self.pick(&self.sites());
        let restore = !site.backups.borrow().is_empty() && self.chance(60);
        if restore {
            self.stats.count("volumes that went back in time");
            site.go_back(|remote| {
                let home = self.remote(remote)?.home(&site.name)?;
                checks::recovery::held_by(&home)
            });
            // An old copy that was left cleanly goes on in its epoch.
            self.seen.borrow_mut().clear();
        } else {
            site.back_up(&mut self.random.borrow_mut());
        }
        self.plan_restart("local");
    }

    /// From now on nothing goes wrong.
    fn calm_down(&self) {
        self.stats.trace("world", || "calms down".to_owned());
        self.goes_on.set(false);
        self.net.set_weather(Weather {
            up: true,
            delay_us: 50,
            jitter_us: 100,
        });
        for site in self.sites() {
            site.platters().iter().for_each(|platter| platter.heal());
        }
        for remote in &self.remotes {
            for home in remote.homes.lock().values() {
                home.platters().iter().for_each(|platter| platter.heal());
            }
            if let Some(process) = remote.process() {
                process.spare();
            }
        }
        if let Some(process) = &self.local.borrow().process {
            process.spare();
        }
    }

    /// Everything is shut down; what is left are clean journals and equal images.
    async fn end_cleanly(self: &Rc<Self>) {
        local::shut_down(self).await;
        for remote in self.remotes() {
            remote::shut_down(self, &remote).await;
        }
        checks::catching_up::check_equal(self);
        for site in self.sites() {
            checks::recovery::local_before_start(self, &site);
        }
        for remote in self.remotes() {
            let homes: Vec<_> = remote.homes.lock().values().cloned().collect();
            for home in homes {
                checks::recovery::remote_before_start(self, &remote, &home);
            }
            for site in self.sites() {
                checks::recovery::still_ahead(&site, &remote);
            }
        }
    }
}
