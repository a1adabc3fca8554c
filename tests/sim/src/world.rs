//! One world: a local unit with its volumes and hosts, remotes, a network between them, and everything that can go wrong.
//!
//! First things go wrong, in an order that the seed decides; then nothing does any more, and everything has to
//! catch up.

use crate::checks::{self, positions::Seen, prefix::Compared};
use crate::local::{self, Local, Site};
use crate::net::{Net, Weather};
use crate::platter::Platter;
use crate::process::{Death, Process};
use crate::remote::{self, Remote};
use crate::schedule::Schedule;
use crate::stats::Stats;
use crate::time::{SimClock, pause_us};
use farside_tests::random::Random;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
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

/// Old copies of a replica's journal and image.
type OldCopies = Vec<(Arc<Platter>, Arc<Platter>)>;

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
    /// The links between the units do not hold for long.
    is_flapping: bool,
    /// The local unit's clock.
    pub local_clock: Arc<SimClock>,
    /// Identity of the local unit.
    pub local_uuid: Uuid,
    /// The local unit.
    pub local: RefCell<Local>,
    /// Hosts in front of each volume.
    pub hosts: u64,
    /// They go through the NBD target.
    pub hosts_speak_nbd: bool,
    /// The network they are on.
    pub host_net: Arc<Net>,
    /// The machine they run on, which never fails.
    pub hosts_machine: Arc<Process>,
    /// Longest pause of a host between two requests, in microseconds.
    pub think_us: u64,
    sites: RefCell<Vec<Rc<Site>>>,
    pub(crate) remotes: Vec<Rc<Remote>>,
    goes_on: Cell<bool>,
    is_calm: Cell<bool>,
    /// When the network comes back.
    pub(crate) outage_ends: Cell<Option<Instant>>,
    instances: Cell<u128>,
    /// When a unit that is down starts again, by name.
    restarts: RefCell<BTreeMap<String, Instant>>,
    /// Units that a disk failed, until they start again.
    pub(crate) troubled: RefCell<BTreeSet<String>>,
    pub(crate) seen: RefCell<Seen>,
    compared: RefCell<Compared>,
    pub(crate) backups: RefCell<BTreeMap<String, OldCopies>>,
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
        let hangs = *random.pick(&[0, 0, 0, 20]);
        let stats = Arc::new(Stats::new(traced));
        let begun = Instant::now();
        let ((), (interrupted, hung)) = Schedule::run(seed, (interrupts, hangs), async {
            let world = World::make(seed, &mut random, stats.clone());
            world.live().await;
        })
        .await;
        let (mut counts, operations) = stats.totals();
        counts.insert("calls to disks interrupted", interrupted);
        counts.insert("calls to disks that hang", hung);
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
            is_flapping: random.chance(15),
            stats: stats.clone(),
            local_clock: Arc::new(SimClock::new()),
            local_uuid: Uuid::from_u128(0x10ca1),
            local: RefCell::default(),
            hosts: random.between(1, 3),
            hosts_speak_nbd: random.chance(40),
            host_net: Net::new(seed ^ 0x4057, stats.clone()),
            hosts_machine: Process::new("hosts"),
            think_us: *random.pick(&[2_000, 20_000, 60_000]),
            sites: RefCell::default(),
            remotes,
            goes_on: Cell::new(true),
            is_calm: Cell::new(false),
            outage_ends: Cell::default(),
            instances: Cell::new(0),
            restarts: RefCell::default(),
            troubled: RefCell::default(),
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
        for remote in &world.remotes {
            for site in world.sites().iter().filter(|_| world.chance(20)) {
                world.bring_a_seed(site, remote);
            }
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

    /// Whether nothing goes wrong any more.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.is_calm.get()
    }

    /// A number for each start of the local unit.
    pub fn next_instance(&self) -> u128 {
        self.instances.set(self.instances.get() + 1);
        0x1257_0000 + self.instances.get()
    }

    /// Whether a replica may hold what its volume does not know any more: it is not to be judged by that.
    #[must_use]
    pub fn is_another_branch(&self, site: &Site, remote: &str) -> bool {
        let home = self.remote(remote).and_then(|remote| remote.home(&site.name));
        site.lost_its_end.get() || home.is_some_and(|home| home.is_off_branch.load(Ordering::Relaxed))
    }

    /// A volume went back in time: some replicas did not.
    pub(crate) fn tell_branches_apart(&self, site: &Site) {
        if !site.history.lock().has_branches() {
            return;
        }
        for remote in &self.remotes {
            if let Some(home) = remote.home(&site.name) {
                let is_on = checks::recovery::is_on_branch(&home, &site.history.lock());
                home.is_off_branch.store(!is_on, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn pick<T: Clone>(&self, from: &[T]) -> T {
        self.random.borrow_mut().pick(from).clone()
    }

    pub(crate) fn draw(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    pub(crate) fn chance(&self, percent: u64) -> bool {
        self.random.borrow_mut().chance(percent)
    }

    async fn live(self: &Rc<Self>) {
        local::start(self);
        for remote in &self.remotes {
            remote::start(self, remote);
        }
        // Some live long enough for positions to be recorded because it is time, and not for want of room.
        let steps = if self.chance(3) {
            120
        } else {
            self.random.borrow_mut().between(10, 40)
        };
        for _ in 0..steps {
            self.step(300_000).await;
            if self.is_flapping && self.chance(60) {
                self.net.cut();
            }
            if self.chance(60) {
                self.misfortune().await;
            }
        }
        self.calm_down();
        // Remotes catch up while hosts go on, too.
        for _ in 0..self.draw(20) {
            self.step(100_000).await;
        }
        self.goes_on.set(false);
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

    /// Time passes, at most so much, and everybody does what he does anyway.
    async fn step(self: &Rc<Self>, longest_us: u64) {
        pause_us(1 + self.draw(longest_us)).await;
        self.look();
        self.bury_and_revive();
        self.end_outage(false);
    }

    /// Looks at everything that has to be true at any moment.
    fn look(&self) {
        checks::positions::check(self, &mut self.seen.borrow_mut());
        checks::prefix::check(self, &mut self.compared.borrow_mut());
        checks::bounds::check(self);
        checks::waiting::check(self);
        for site in self.sites() {
            checks::links::note_confirmed(&site);
        }
    }

    /// Units that died are buried, those whose time has come start again, and what is set aside comes back.
    fn bury_and_revive(self: &Rc<Self>) {
        self.go_on_with_what_is_aside();
        let process = self.local.borrow().process.clone();
        match process {
            Some(process) if process.is_dead() => {
                local::bury(self, &process);
                self.plan_restart("local");
            }
            Some(process) => self.replace_degraded(&process),
            None if self.is_due("local") => {
                let disks = self.sites().iter().map(|site| site.journal.clone()).collect();
                self.endanger_start(disks);
                local::start(self);
                let process = self.local.borrow().process.clone();
                self.endanger(process);
            }
            None => {}
        }
        for remote in self.remotes() {
            match remote.process() {
                Some(process) if process.is_dead() => {
                    remote::bury(self, &remote, &process);
                    self.plan_restart(&remote.name);
                }
                Some(process) => self.replace_degraded_replica(&remote, &process),
                None if self.is_due(&remote.name) => {
                    let homes = remote.homes.lock().values().cloned().collect::<Vec<_>>();
                    self.endanger_start(homes.iter().map(|home| home.journal.clone()).collect());
                    remote::start(self, &remote);
                    self.endanger(remote.process());
                }
                None => {}
            }
        }
    }

    pub(crate) fn plan_restart(&self, name: &str) {
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
            (failed || site.broken.borrow().is_some()) && !site.is_hurt()
        });
        if degraded && (self.is_calm.get() || self.chance(30)) {
            self.sites()
                .iter()
                .flat_map(|site| site.platters())
                .for_each(|platter| platter.heal());
            self.troubled.borrow_mut().insert(process.name().to_owned());
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
        if degraded && (self.is_calm.get() || self.chance(30)) {
            homes.iter().for_each(|home| home.heal());
            self.troubled.borrow_mut().insert(process.name().to_owned());
            process.die(Death::Killed);
        }
    }

    /// From now on nothing goes wrong.
    fn calm_down(&self) {
        self.stats.trace("world", || "calms down".to_owned());
        self.is_calm.set(true);
        self.end_outage(true);
        self.net.set_weather(Weather {
            up: true,
            delay_us: 50,
            jitter_us: 100,
            noise_permille: 0,
        });
        self.net.heal();
        for site in self.sites() {
            site.platters().iter().for_each(|platter| platter.heal());
        }
        for remote in &self.remotes {
            remote.heal();
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
            if !site.is_hurt() {
                checks::recovery::ended_cleanly(&site.name, &site.journal);
            }
            checks::recovery::local_before_start(self, &site);
        }
        for remote in self.remotes() {
            let homes: Vec<_> = remote.homes.lock().values().cloned().collect();
            for home in homes {
                if !home.hurt.load(Ordering::Relaxed) {
                    checks::recovery::ended_cleanly(home.journal.name(), &home.journal);
                }
                checks::recovery::remote_before_start(self, &remote, &home);
            }
            for site in self.sites() {
                checks::recovery::still_ahead(&site, &remote);
            }
        }
    }
}
