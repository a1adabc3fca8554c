//! The local unit: volumes with their disks, hosts in front of them and a link to each remote behind them.

use crate::checks;
use crate::checks::chunks::Chunks;
use crate::checks::full_copies::Copies;
use crate::checks::tail::DurableTail;
use crate::disk::SimDisk;
use crate::history::History;
use crate::host;
use crate::nbd_host;
use crate::platter::{Platter, is_any_faulty};
use crate::process::{Death, Process};
use crate::schedule::{Needs, spawn};
use crate::taps::{ImageTap, JournalTap};
use crate::workers::{APPENDING_FREE, SimWorkers};
use crate::world::World;
use farside::link::backoff::Backoff;
use farside::link::{CloseReason, SessionSetup, StatusCell, run_session};
use farside::volume::{LinkSource, Volume};
use farside_protocol::journal::Role;
use farside_storage::{BlockMap, Clock, Store, StoreDevices, StoreParameters, load_superblock};
use farside_tests::random::Random;
use parking_lot::Mutex;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

/// Most bytes sent and not confirmed.
pub const WINDOW_BYTES: u64 = 64 << 10;

/// A volume's disks and what is known of it, whichever process serves it.
#[derive(Debug)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// Its size.
    pub volume_bytes: u64,
    /// Its journal's disk.
    pub journal: Arc<Platter>,
    /// Its mirror's disk.
    pub image: Arc<Platter>,
    /// The disks of its dirty-block maps, by remote.
    pub maps: RefCell<BTreeMap<String, Arc<Platter>>>,
    /// What really happened to it.
    pub history: Arc<Mutex<History>>,
    /// What is known of its chunks.
    pub chunks: Arc<Mutex<Chunks>>,
    /// What its superblocks and those of its replicas say of copies.
    pub copies: Arc<Mutex<Copies>>,
    /// Remotes that are configured.
    pub remotes: RefCell<Vec<String>>,
    /// The highest record each remote was believed to hold.
    pub confirmed: RefCell<BTreeMap<String, u64>>,
    /// Bits of its journal that were flipped: it may end in an error, never in wrong content.
    pub flips: Cell<u32>,
    /// It came up without records that had been durable, because their chunks were damaged: its mirror may hold more
    /// than its journal knows, and remotes another branch of its history.
    pub lost_its_end: Cell<bool>,
    /// Old copies of its disks, and its history at that time.
    pub backups: RefCell<Vec<Backup>>,
    /// Replicas ahead of the old copy that was put back: nothing of them may be lost.
    pub left_ahead: RefCell<BTreeMap<String, LeftAhead>>,
    /// A disk of it met a fault: it may be degraded until the unit is started again.
    pub faulty: Cell<bool>,
    /// The volume, while it is in service.
    pub volume: RefCell<Option<Arc<Volume>>>,
    /// Why it is not, if opening it failed.
    pub broken: RefCell<Option<String>>,
    /// Where its links stand.
    pub links: RefCell<BTreeMap<String, Arc<StatusCell>>>,
    /// What its links said last.
    pub refusals: RefCell<BTreeMap<String, String>>,
    /// Since when hosts wait for an answer.
    pub waiting: RefCell<BTreeMap<u64, Instant>>,
    /// What its superblocks say durably of its tail.
    pub(crate) tail: Arc<DurableTail>,
}

/// An old copy of a volume's disks.
#[derive(Debug)]
pub struct Backup {
    journal: Arc<Platter>,
    image: Arc<Platter>,
    maps: BTreeMap<String, Arc<Platter>>,
    history: History,
    remotes: Vec<String>,
}

/// What a remote held when its volume went back in time.
#[derive(Debug)]
pub struct LeftAhead {
    /// Its last record.
    pub record: u64,
    /// The volume after that.
    pub state: Vec<u8>,
}

/// What becomes of a process after its death.
#[derive(Debug, Default)]
pub struct Local {
    /// Its life now.
    pub process: Option<Arc<Process>>,
    /// Tells its links to stop.
    pub stop: Option<watch::Sender<bool>>,
}

impl Site {
    /// Makes a volume: formats its journal.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn make(world: &World, number: u128) -> Rc<Self> {
        let mut random = world.random.borrow_mut();
        let name = format!("v{number}");
        let whole_pages = random.chance(30);
        let volume_bytes = 4096 * random.between(8, 32);
        let segment_bytes: u32 = *random.pick(&[16 << 10, 16 << 10, 32 << 10]);
        let journal_bytes = (64 << 10) + u64::from(segment_bytes) * *random.pick(&[4, 4, 4, 5, 6, 8, 12]);
        drop(random);
        let site = Self {
            uuid: Uuid::from_u128(0xd15c_0000 + number),
            volume_bytes,
            journal: Platter::new(&format!("{name}/journal"), journal_bytes, whole_pages),
            image: Platter::new(&format!("{name}/mirror"), volume_bytes, whole_pages),
            maps: RefCell::default(),
            history: Arc::new(Mutex::new(History::new(volume_bytes))),
            chunks: Arc::default(),
            copies: Copies::new(),
            remotes: RefCell::default(),
            confirmed: RefCell::default(),
            flips: Cell::new(0),
            lost_its_end: Cell::new(false),
            backups: RefCell::default(),
            left_ahead: RefCell::default(),
            faulty: Cell::new(false),
            volume: RefCell::default(),
            broken: RefCell::default(),
            links: RefCell::default(),
            refusals: RefCell::default(),
            waiting: RefCell::default(),
            tail: Arc::default(),
            name,
        };
        let parameters = StoreParameters {
            role: Role::Volume,
            name: site.name.clone(),
            volume: site.uuid,
            journal: Uuid::from_u128(0x10c0_0000 + number),
            volume_bytes,
            journal_bytes,
            segment_bytes: Some(segment_bytes),
            source: Uuid::nil(),
        };
        let disk = SimDisk::quietly(&site.journal);
        Store::format(&*disk, &parameters, world.local_clock.wall_us()).expect("a healthy disk is formatted");
        site.journal.watch(JournalTap::new(&site, &world.stats));
        site.image.watch(ImageTap::new(&site.history, None));
        Rc::new(site)
    }

    fn map(&self, remote: &str) -> Arc<Platter> {
        let mut maps = self.maps.borrow_mut();
        let map = maps.entry(remote.to_owned()).or_insert_with(|| {
            let bytes = BlockMap::file_bytes(&BlockMap::header_for(self.uuid, self.volume_bytes));
            Platter::new(
                &format!("{}/{remote}.map", self.name),
                bytes,
                self.journal.has_whole_pages(),
            )
        });
        map.clone()
    }

    /// Keeps a copy of its disks, as they are while nobody uses them.
    pub fn back_up(&self, random: &mut Random) {
        let maps = self.maps.borrow();
        let backup = Backup {
            journal: self.journal.fork(false, random),
            image: self.image.fork(false, random),
            maps: maps
                .iter()
                .map(|(name, map)| (name.clone(), map.fork(false, random)))
                .collect(),
            history: self.history.lock().clone(),
            remotes: self.remotes.borrow().clone(),
        };
        self.backups.borrow_mut().push(backup);
    }

    /// Puts the copy back that was made last. Which replicas were ahead of it is known by `held`.
    pub fn go_back(&self, held: impl Fn(&str) -> Option<LeftAhead>) {
        let backups = self.backups.borrow();
        let Some(backup) = backups.last() else { return };
        let mut left_ahead = self.left_ahead.borrow_mut();
        for remote in self.remotes.borrow().iter() {
            let ahead = held(remote).filter(|held| held.record > backup.history.last());
            if let Some(ahead) = ahead.filter(|_| !left_ahead.contains_key(remote)) {
                left_ahead.insert(remote.clone(), ahead);
            }
        }
        self.journal.restore(&backup.journal);
        self.tail.forget();
        self.image.restore(&backup.image);
        for (name, map) in &backup.maps {
            self.map(name).restore(map);
        }
        self.remotes.borrow_mut().clone_from(&backup.remotes);
        let mut history = backup.history.clone();
        let mut now = self.history.lock();
        history.went_back_from(&now);
        *now = history;
        drop(now);
        self.confirmed.borrow_mut().clear();
        self.copies.lock().forgive();
    }

    /// Whether its journal was damaged.
    #[must_use]
    pub fn is_hurt(&self) -> bool {
        self.flips.get() > 0
    }

    /// Every disk of the volume.
    #[must_use]
    pub fn platters(&self) -> Vec<Arc<Platter>> {
        let mut all = vec![self.journal.clone(), self.image.clone()];
        all.extend(self.maps.borrow().values().cloned());
        all
    }

    /// Its devices, as `open` gives them.
    ///
    /// # Errors
    /// When the superblock cannot be read.
    pub fn devices(
        &self,
        open: impl Fn(&Arc<Platter>) -> Arc<SimDisk>,
    ) -> Result<StoreDevices, farside_storage::StorageError> {
        let journal = open(&self.journal);
        let superblock = load_superblock(&*journal)?;
        let maps = superblock
            .consumers
            .iter()
            .map(|slot| open(&self.map(&slot.name)) as Arc<_>);
        Ok(StoreDevices {
            maps: maps.collect(),
            image: open(&self.image),
            journal,
        })
    }
}

/// Starts the local unit: recovers its volumes and takes them into service.
pub fn start(world: &Rc<World>) {
    let process = Process::new("local");
    let (stop, told) = watch::channel(false);
    *world.local.borrow_mut() = Local {
        process: Some(process.clone()),
        stop: Some(stop),
    };
    world.stats.trace("local", || "starts".to_owned());
    let world = world.clone();
    spawn(&process.clone(), Needs::Everything, async move {
        let instance = Uuid::from_u128(world.next_instance());
        for site in world.sites() {
            open(&world, &process, &site, (instance, &told));
        }
    });
}

fn open(
    world: &Rc<World>,
    process: &Arc<Process>,
    site: &Rc<Site>,
    (instance, told): (Uuid, &watch::Receiver<bool>),
) {
    if process.is_dead() {
        return;
    }
    site.links.borrow_mut().clear();
    // Whoever fails from here on has to have met a fault from here on.
    site.faulty.set(is_any_faulty(&site.platters()));
    let expected = checks::recovery::local_before_start(world, site);
    if let Ok(superblock) = load_superblock(&*SimDisk::quietly(&site.journal)) {
        site.copies.lock().volume_starts(&superblock);
    }
    let devices = site.devices(|platter| SimDisk::open(platter, process));
    let opened = devices.and_then(|devices| Store::open(devices, world.local_clock.clone()));
    if process.is_dead() {
        return;
    }
    let store = match opened {
        Ok(store) => store,
        Err(error) => {
            assert!(
                site.is_hurt() || site.faulty.get(),
                "{} was not opened: {error}",
                site.name
            );
            world.stats.trace(&site.name, || format!("not opened: {error}"));
            *site.broken.borrow_mut() = Some(error.to_string());
            return;
        }
    };
    checks::recovery::local_started(world, site, &store, expected);
    site.broken.take();
    for slot in &store.superblock().consumers {
        if !site.remotes.borrow().contains(&slot.name) && store.remove_consumer(&slot.name).is_err() {
            *site.broken.borrow_mut() = Some("a remote cannot be forgotten".to_owned());
            return;
        }
    }
    let workers = Arc::new(SimWorkers::new(process));
    let volume = Volume::start(store, workers).expect("simulated threads start");
    *site.volume.borrow_mut() = Some(volume.clone());
    for remote in site.remotes.borrow().iter() {
        start_link(world, process, (site, &volume), (remote, instance, told));
    }
    if world.hosts_speak_nbd {
        nbd_host::start(world, process, site, &volume);
    } else {
        host::start(world, process, site, &volume);
    }
}

/// Begins to send a volume to a remote.
pub fn start_link(
    world: &Rc<World>,
    process: &Arc<Process>,
    (site, volume): (&Rc<Site>, &Arc<Volume>),
    (remote, instance, told): (&str, Uuid, &watch::Receiver<bool>),
) {
    let unit = (world.local_uuid, "local".to_owned());
    let map = |_: &_| Ok(SimDisk::open(&site.map(remote), process) as Arc<_>);
    let source = match LinkSource::new(volume.clone(), unit, remote, map) {
        Ok(source) => Arc::new(source),
        Err(error) => {
            let excused = process.is_dead() || site.faulty.get() || site.is_hurt();
            assert!(excused, "{} has no link to {remote}: {error}", site.name);
            // The operator sees that, and starts the unit again.
            *site.broken.borrow_mut() = Some(format!("no link to {remote}: {error}"));
            return;
        }
    };
    let status = Arc::new(StatusCell::default());
    site.links.borrow_mut().insert(remote.to_owned(), status.clone());
    let setup = SessionSetup {
        source,
        remote_name: remote.to_owned(),
        instance,
        window_bytes: WINDOW_BYTES,
        status,
    };
    let link = keep_link(world.clone(), process.clone(), site.clone(), setup, told.clone());
    spawn(process, Needs::Nothing, link);
}

async fn keep_link(
    world: Rc<World>,
    process: Arc<Process>,
    site: Rc<Site>,
    setup: SessionSetup<LinkSource>,
    mut told: watch::Receiver<bool>,
) {
    let mut backoff = Backoff::default();
    let name = setup.remote_name.clone();
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    loop {
        if *told.borrow() || !site.remotes.borrow().contains(&name) {
            return;
        }
        let random = u32::try_from(crate::schedule::draw(1 << 32)).unwrap_or(0);
        let mut pause_ms = 0;
        let connected = world.remote(&name).and_then(|remote| {
            let (far, receiver) = remote.running()?;
            let (here, there) = world.net.connect(&process, &far)?;
            site.copies.lock().connected(&name);
            let (line, at) = (here.0.line(), (world.clone(), site.clone(), name.clone()));
            spawn(&far, APPENDING_FREE, async move {
                let line = there.0.line();
                let error = receiver.serve(address, there.0, there.1).await;
                checks::links::served((&at.0, &at.1, &at.2), &line, &error);
            });
            Some((here, line))
        });
        if let Some((here, line)) = connected {
            let (reason, gain) = run_session(&setup, here, told.clone()).await;
            if process.is_dead() {
                return;
            }
            world
                .stats
                .trace(&site.name, || format!("link to {name} ended: {reason}"));
            backoff.session(gain);
            site.refusals
                .borrow_mut()
                .insert(name.clone(), reason.to_string());
            checks::links::ended(&world, &site, &name, &reason);
            checks::links::understood((&world, &site, &name), &line, &reason);
            if matches!(reason, CloseReason::Stopped) {
                return;
            }
            if reason.is_lasting() {
                pause_ms = Backoff::refused_ms(random);
            }
        }
        if pause_ms == 0 {
            pause_ms = backoff.next_ms(random);
        }
        tokio::select! {
            biased;
            _ = told.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(std::time::Duration::from_millis(pause_ms)) => {}
        }
    }
}

/// Buries a local unit that died: its tasks, its connections, what its disks had not synced.
pub fn bury(world: &Rc<World>, process: &Arc<Process>) {
    let how = process.how_it_died();
    world.stats.trace("local", || format!("died: {how:?}"));
    crate::schedule::current().end_tasks_of(process);
    for site in world.sites() {
        checks::links::note_confirmed(&site);
        if let Some(volume) = site.volume.take() {
            // What it left with the runtime ends, too.
            volume.begin_stop();
        }
        site.history.lock().nobody_waits();
        if how == Some(Death::PowerLost) {
            for platter in site.platters() {
                platter.lose_power(&mut world.random.borrow_mut());
            }
            site.history.lock().power_was_lost = true;
        }
    }
    world.net.gone(process, how == Some(Death::PowerLost));
    world.host_net.gone(process, false);
    world.local.borrow_mut().process = None;
}

/// Shuts the local unit down as its operator would.
///
/// # Panics
/// When that fails though nothing is wrong.
pub async fn shut_down(world: &Rc<World>) {
    let (process, stop) = {
        let mut local = world.local.borrow_mut();
        (local.process.clone(), local.stop.take())
    };
    let Some(process) = process.filter(|process| !process.is_dead()) else {
        return;
    };
    world.stats.trace("local", || "is shut down".to_owned());
    if let Some(stop) = stop {
        stop.send_replace(true);
    }
    let volumes: Vec<_> = world
        .sites()
        .iter()
        .filter_map(|site| site.volume.borrow().clone())
        .collect();
    for volume in &volumes {
        volume.begin_stop();
    }
    // Hosts and links get their answers.
    crate::time::pause_us(2_000_000).await;
    for site in world.sites() {
        let volume = site.volume.borrow().clone();
        let Some(volume) = volume else { continue };
        if process.is_dead() {
            return;
        }
        checks::links::note_confirmed(&site);
        if let Err(error) = volume.shut_down() {
            let excused = process.is_dead() || site.faulty.get() || site.is_hurt();
            assert!(excused, "{} was not shut down: {error}", site.name);
        }
    }
    if process.is_dead() {
        return;
    }
    crate::schedule::current().end_tasks_of(&process);
    for site in world.sites() {
        site.volume.take();
        site.history.lock().nobody_waits();
    }
    world.net.gone(&process, false);
    world.host_net.gone(&process, false);
    process.leave();
    world.local.borrow_mut().process = None;
}
