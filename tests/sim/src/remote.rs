//! A remote unit: its replicas with their disks, and the receiver that feeds them.

use crate::aside::{self, Slot};
use crate::checks::full_copies::Copies;
use crate::checks::senders::{Sender, Senders};
use crate::checks::{self, views};
use crate::directory::Directory;
use crate::disk::SimDisk;
use crate::history::History;
pub use crate::home::{Home, Homes};
use crate::local::Site;
use crate::platter::{Platter, index, is_any_faulty};
use crate::process::{Death, Process};
use crate::schedule::{self, Needs, spawn};
use crate::stats::happened;
use crate::taps::{ImageTap, ReplicaTap};
use crate::time::SimClock;
use crate::workers::SimWorkers;
use crate::world::World;
use farside_protocol::journal::Role;
use farside_protocol::journal::limits::{MIN_SEGMENTS, RING_OFFSET};
use farside_protocol::link::{Hello, Refusal, RefuseCode};
use farside_remote::aside::{found, taken_up};
use farside_remote::{Past, Receiver, ReceiverConfig, Replica, Replicas};
use farside_storage::{
    Clock, StorageError, Store, StoreFiles, StoreParameters, done_elsewhere, load_superblock,
};
use farside_tests::random::Random;
use parking_lot::Mutex;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uuid::Uuid;

/// A remote unit, whichever process serves it.
#[derive(Debug)]
pub struct Remote {
    /// Its name.
    pub name: String,
    uuid: Uuid,
    number: u64,
    /// Its clock.
    pub clock: Arc<SimClock>,
    /// Its replicas' disks, by volume.
    pub homes: Homes,
    directories: RefCell<BTreeMap<String, Arc<Directory>>>,
    life: RefCell<Option<Life>>,
    lives: Cell<u64>,
}

#[derive(Debug, Clone)]
struct Life {
    process: Arc<Process>,
    receiver: Rc<Receiver<SimReplicas>>,
    replicas: Arc<SimReplicas>,
    ready: Rc<Cell<bool>>,
}

/// The replicas of one life of a remote unit.
#[derive(Debug)]
pub struct SimReplicas {
    process: Arc<Process>,
    clock: Arc<SimClock>,
    number: u64,
    homes: Homes,
    pub(crate) directories: BTreeMap<String, Arc<Directory>>,
    histories: BTreeMap<String, Arc<Mutex<History>>>,
    copies: BTreeMap<String, Arc<Mutex<Copies>>>,
    journal_bytes: u64,
    pub(crate) open: Mutex<BTreeMap<String, Result<Arc<Replica>, String>>>,
    pub(crate) aside: Mutex<BTreeMap<String, Slot>>,
    senders: Senders,
}

impl Replicas for SimReplicas {
    type Sink = Sender;

    async fn open_or_create(&self, hello: &Hello) -> Result<Arc<Sender>, Refusal> {
        let aside = self.aside.lock().get(&hello.volume_name).copied();
        aside.map_or(Ok(()), |slot| slot.admits(hello))?;
        let known = self.open.lock().get(&hello.volume_name).cloned();
        let replica = known.unwrap_or_else(|| self.make_alone(hello).map_err(|error| error.to_string()));
        let replica = replica.map_err(|problem| Refusal::new(RefuseCode::Degraded, 0, &problem))?;
        self.grow(&replica, hello.volume_bytes).await?;
        let confirmed = self.homes.lock()[&hello.volume_name].confirmed.clone();
        Ok(self.senders.admit(&hello.volume_name, replica, confirmed))
    }
}

impl SimReplicas {
    /// A replica follows its volume.
    async fn grow(&self, replica: &Arc<Replica>, volume_bytes: u64) -> Result<(), Refusal> {
        let size = replica.store().volume_bytes();
        if volume_bytes < size {
            return Err(Refusal::new(RefuseCode::SizeDiffers, 0, "the replica is larger"));
        }
        if volume_bytes == size {
            return Ok(());
        }
        let (workers, store) = (SimWorkers::new(&self.process), replica.store().clone());
        let grown = done_elsewhere(&workers, move || {
            store.make_room(volume_bytes)?;
            store.grow(volume_bytes, &[])?;
            happened("replicas that grew");
            Ok::<(), StorageError>(())
        });
        match grown.await {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(Refusal::new(RefuseCode::Degraded, 0, &error.to_string())),
            None => Err(Refusal::new(RefuseCode::ShuttingDown, 0, "the unit ends")),
        }
    }

    /// Makes a replica; nobody else does meanwhile.
    fn make_alone(&self, hello: &Hello) -> Result<Arc<Replica>, StorageError> {
        let name = &hello.volume_name;
        let before = self.aside.lock().insert(name.clone(), Slot::Busy);
        let made = self.make(hello, before.is_some());
        match &made {
            Ok(_) => _ = self.aside.lock().remove(name),
            Err(_) => self.find_aside(name),
        }
        made
    }

    /// What of a directory is set aside.
    pub(crate) fn find_aside(&self, name: &str) {
        let found = found(&self.directories[name].held_by(&self.process));
        match found {
            Some(Ok(aside)) => _ = self.aside.lock().insert(name.to_owned(), Slot::Aside(aside)),
            Some(Err(problem)) => _ = self.open.lock().insert(name.to_owned(), Err(problem)),
            None => _ = self.aside.lock().remove(name),
        }
    }

    fn make(&self, hello: &Hello, seeded: bool) -> Result<Arc<Replica>, StorageError> {
        let history = &self.histories[&hello.volume_name];
        let smallest = u64::from(hello.segment_bytes) * u64::from(MIN_SEGMENTS) * 2 + RING_OFFSET;
        let journal_bytes = self.journal_bytes.max(smallest);
        let at = |what: &str| format!("far{}/{}/{what}", self.number, hello.volume_name);
        let whole_pages = schedule::draw(100) < 30;
        let past_bytes = [256 << 10, 1 << 20][index(schedule::draw(2))];
        let directory = &self.directories[&hello.volume_name];
        let image = match directory.image().filter(|_| seeded) {
            Some(image) => {
                image.cut(hello.volume_bytes);
                image
            }
            None => Platter::new(&at("replica"), history.lock().capacity(), whole_pages),
        };
        if !seeded {
            directory.lay_down(Some(image.clone()));
        }
        let home = Home::new(
            (&hello.volume_name, history),
            Platter::new(&at("journal"), journal_bytes, whole_pages),
            image,
            Platter::new(&at("history"), past_bytes, whole_pages),
        );
        home.faulty
            .store(is_any_faulty(&home.platters()), Ordering::Relaxed);
        let parameters = StoreParameters {
            role: Role::Replica,
            name: hello.volume_name.clone(),
            volume: hello.volume,
            journal: Uuid::from_u128((u128::from(self.number) << 64) + 0xfa),
            volume_bytes: hello.volume_bytes,
            journal_bytes,
            segment_bytes: Some(hello.segment_bytes),
            source: hello.unit,
        };
        let disk = SimDisk::open(&home.journal, &self.process);
        // Its files take their place whole: nothing is left of a making that was cut short.
        Store::format(&*disk, &parameters, self.clock.wall_us())?;
        let copies = &self.copies[&home.name];
        copies.lock().is_due(self.process.name());
        home.journal
            .watch(ReplicaTap::new(&home, copies, self.process.name()));
        home.image
            .watch(ImageTap::new(history, Some(&home.is_off_branch)));
        self.homes.lock().insert(home.name.clone(), home.clone());
        if seeded {
            taken_up(&directory.held_by(&self.process))?;
        }
        let replica = self.start(&home)?;
        self.open.lock().insert(home.name.clone(), Ok(replica.clone()));
        Ok(replica)
    }

    pub(crate) fn start(&self, home: &Home) -> Result<Arc<Replica>, StorageError> {
        self.directories[&home.name].opens();
        if let Ok(superblock) = load_superblock(&*SimDisk::quietly(&home.journal)) {
            let mut copies = self.copies[&home.name].lock();
            copies.replica_starts(self.process.name(), &superblock);
            if home.went_back.load(Ordering::Relaxed) {
                copies.is_due(self.process.name());
            }
        }
        let devices = home.devices(|platter| SimDisk::open(platter, &self.process));
        let store = Store::open(devices, self.clock.clone())?;
        views::keep(&store, &home.past, |past| SimDisk::open(past, &self.process));
        let files = StoreFiles {
            journal: home.journal.name().into(),
            image: home.image.name().into(),
            maps: home.name.as_str().into(),
        };
        let workers = Arc::new(SimWorkers::new(&self.process));
        Ok(Replica::start((store, Past::default()), files, workers).expect("simulated threads start"))
    }
}

impl Remote {
    /// A unit without replicas that is not running.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self {
            name: format!("far{number}"),
            uuid: Uuid::from_u128(0xfa50_0000 + u128::from(number)),
            number,
            clock: Arc::new(SimClock::new()),
            homes: Arc::default(),
            directories: RefCell::default(),
            life: RefCell::default(),
            lives: Cell::new(0),
        }
    }

    /// Its process, if it lives.
    #[must_use]
    pub fn process(&self) -> Option<Arc<Process>> {
        self.life.borrow().as_ref().map(|life| life.process.clone())
    }

    /// Its process and receiver, once it takes connections.
    #[must_use]
    pub fn running(&self) -> Option<(Arc<Process>, Rc<Receiver<SimReplicas>>)> {
        let life = self.life.borrow();
        let life = life
            .as_ref()
            .filter(|life| life.ready.get() && !life.process.is_dead())?;
        Some((life.process.clone(), life.receiver.clone()))
    }

    /// A replica, while it is in service.
    #[must_use]
    pub fn replica(&self, volume: &str) -> Option<Arc<Replica>> {
        let life = self.life.borrow();
        let life = life.as_ref().filter(|life| !life.process.is_dead())?;
        life.replicas.open.lock().get(volume).cloned()?.ok()
    }

    /// Why a replica is not in service.
    #[must_use]
    pub fn broken(&self, volume: &str) -> Option<String> {
        let life = self.life.borrow();
        life.as_ref()?.replicas.open.lock().get(volume).cloned()?.err()
    }

    /// What of its replicas is set aside, and its process, once it takes connections.
    #[must_use]
    pub fn replicas(&self) -> Option<(Arc<Process>, Arc<SimReplicas>)> {
        let (process, _) = self.running()?;
        let life = self.life.borrow();
        life.as_ref().map(|life| (process, life.replicas.clone()))
    }

    /// The directory of a replica.
    #[must_use]
    pub fn directory(&self, volume: &str) -> Arc<Directory> {
        let mut directories = self.directories.borrow_mut();
        let directory = directories.entry(volume.to_owned());
        directory
            .or_insert_with(|| Directory::new(volume, &self.homes))
            .clone()
    }

    /// Nothing is wrong with its disks any more.
    pub fn heal(&self) {
        self.homes.lock().values().for_each(|home| home.heal());
        let directories = self.directories.borrow();
        let images = directories.values().filter_map(|directory| directory.image());
        images.for_each(|image| image.heal());
    }

    /// A replica's disks.
    #[must_use]
    pub fn home(&self, volume: &str) -> Option<Arc<Home>> {
        self.homes.lock().get(volume).cloned()
    }
}

/// Starts a remote unit: recovers its replicas and takes connections.
pub fn start(world: &Rc<World>, remote: &Rc<Remote>) {
    let process = Process::new(&remote.name);
    remote.lives.set(remote.lives.get() + 1);
    let histories = world
        .sites()
        .iter()
        .map(|site| (site.name.clone(), site.history.clone()))
        .collect();
    let copies = world
        .sites()
        .iter()
        .map(|site| (site.name.clone(), site.copies.clone()))
        .collect();
    let replicas = Arc::new(SimReplicas {
        process: process.clone(),
        clock: remote.clock.clone(),
        number: remote.number * 1000 + remote.lives.get(),
        homes: remote.homes.clone(),
        directories: world
            .sites()
            .iter()
            .map(|site| (site.name.clone(), remote.directory(&site.name)))
            .collect(),
        histories,
        copies,
        journal_bytes: (64 << 10) + ring_bytes(&mut world.random.borrow_mut()),
        open: Mutex::default(),
        aside: Mutex::default(),
        senders: Senders::default(),
    });
    let config = ReceiverConfig {
        unit: remote.uuid,
        unit_name: remote.name.clone(),
    };
    let life = Life {
        process: process.clone(),
        receiver: Rc::new(Receiver::new(replicas.clone(), config)),
        replicas: replicas.clone(),
        ready: Rc::default(),
    };
    let ready = life.ready.clone();
    *remote.life.borrow_mut() = Some(life);
    world.stats.trace(&remote.name, || "starts".to_owned());
    let (world, remote) = (world.clone(), remote.clone());
    spawn(&process.clone(), Needs::Everything, async move {
        for site in world.sites() {
            open(&world, &remote, &site, (&process, &replicas));
            if process.is_dead() {
                return;
            }
        }
        ready.set(true);
        views::go_on(&world, &remote, &process).await;
    });
}

/// Recovers the replica of one volume, unless it is set aside.
fn open(
    world: &Rc<World>,
    remote: &Rc<Remote>,
    site: &Rc<Site>,
    (process, replicas): (&Arc<Process>, &Arc<SimReplicas>),
) {
    aside::find(world, remote, site, (process, replicas));
    let is_aside =
        replicas.aside.lock().contains_key(&site.name) || replicas.open.lock().contains_key(&site.name);
    let Some(home) = remote
        .home(&site.name)
        .filter(|_| !is_aside && !process.is_dead())
    else {
        return;
    };
    home.faulty
        .store(is_any_faulty(&home.platters()), Ordering::Relaxed);
    let expected = checks::recovery::remote_before_start(world, remote, &home);
    let opened = replicas.start(&home);
    if process.is_dead() {
        return;
    }
    if let Err(error) = &opened {
        let excused = home.hurt.load(Ordering::Relaxed) || home.faulty.load(Ordering::Relaxed);
        assert!(
            excused,
            "replica {} on {} was not opened: {error}",
            home.name, remote.name
        );
    }
    if let (Ok(replica), Some(expected)) = (&opened, expected) {
        checks::recovery::remote_started(remote, &home, replica.store(), &expected);
    }
    let opened = opened.map_err(|error| error.to_string());
    replicas.open.lock().insert(home.name.clone(), opened);
}

/// Buries a remote unit that died.
pub fn bury(world: &Rc<World>, remote: &Rc<Remote>, process: &Arc<Process>) {
    let how = process.how_it_died();
    world.stats.trace(&remote.name, || format!("died: {how:?}"));
    crate::schedule::current().end_tasks_of(process);
    world
        .sites()
        .iter()
        .for_each(|site: &Rc<Site>| checks::links::note_confirmed(site));
    if how == Some(Death::PowerLost) {
        for home in remote.homes.lock().values() {
            for platter in home.platters().iter().chain([&home.past]) {
                platter.lose_power(&mut world.random.borrow_mut());
            }
            checks::recovery::lost_power(world, &remote.name, home);
        }
        for directory in remote.directories.borrow().values() {
            directory.lose_power(&mut world.random.borrow_mut());
        }
    }
    world.net.gone(process, how == Some(Death::PowerLost));
    remote.life.take();
}

/// Shuts a remote unit down as its operator would.
///
/// # Panics
/// When that fails though nothing is wrong.
pub async fn shut_down(world: &Rc<World>, remote: &Rc<Remote>) {
    let life = remote.life.borrow().clone();
    let Some(life) = life.filter(|life| !life.process.is_dead()) else {
        return;
    };
    world.stats.trace(&remote.name, || "is shut down".to_owned());
    life.ready.set(false);
    life.receiver.shut_down();
    crate::time::pause_us(3_000_000).await;
    world
        .sites()
        .iter()
        .for_each(|site| checks::links::note_confirmed(site));
    let replicas: Vec<_> = life
        .replicas
        .open
        .lock()
        .values()
        .filter_map(|open| open.clone().ok())
        .collect();
    for replica in replicas {
        if life.process.is_dead() {
            return;
        }
        if let Err(error) = replica.shut_down() {
            let home = remote.home(replica.store().name());
            let excused = home
                .is_none_or(|home| home.hurt.load(Ordering::Relaxed) || home.faulty.load(Ordering::Relaxed));
            assert!(
                excused || life.process.is_dead(),
                "{} was not shut down: {error}",
                remote.name
            );
        }
    }
    if life.process.is_dead() {
        return;
    }
    crate::schedule::current().end_tasks_of(&life.process);
    world.net.gone(&life.process, false);
    life.process.leave();
    remote.life.take();
}

/// A ring that is soon full, or one with room for merged batches of many chunks.
fn ring_bytes(random: &mut Random) -> u64 {
    match random.below(3) {
        0 => random.between(1 << 20, 3 << 20),
        _ => random.between(64 << 10, 384 << 10),
    }
}
