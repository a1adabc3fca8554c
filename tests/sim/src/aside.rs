//! Replicas that are set aside: handed over and taken back while everything goes on, and seeds that are brought.
//!
//! The steps between the product's own are those of `ReplicaSet`: who claims a replica, who waits for whom.

use crate::checks::{self, handed_over};
use crate::platter::{PAGE, Platter, is_any_faulty};
use crate::process::{Death, Process};
use crate::remote::{Home, Remote, SimReplicas};
use crate::schedule::{Needs, spawn};
use crate::site::Site;
use crate::stats::happened;
use crate::time::pause_us;
use crate::world::World;
use farside_protocol::journal::CopyState;
use farside_protocol::link::{Hello, Refusal, RefuseCode};
use farside_remote::Replica;
use farside_remote::aside::{Aside, Left, Taken, leave, take_back};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What the first line of a seed's file says that was brought.
const SEED: (&str, &[u8]) = ("seed", b"farside seed 1\n");
/// How long those who use a replica may take to let go of it, as in the product.
const LET_GO_TRIES: u32 = 1_000;
const LET_GO_PAUSE_US: u64 = 10_000;

/// Why a replica is not in service.
#[derive(Debug, Clone, Copy)]
pub enum Slot {
    /// It is being made, detached or taken back.
    Busy,
    /// It is set aside.
    Aside(Aside),
}

impl Slot {
    /// Whether a sender gets what is there, to make it its replica.
    ///
    /// # Errors
    /// What it is told otherwise.
    pub fn admits(&self, hello: &Hello) -> Result<(), Refusal> {
        let (code, text) = match self {
            Self::Busy => (RefuseCode::Busy, "is being made or recovered"),
            Self::Aside(Aside::Detached(_)) => (RefuseCode::NotAccepted, "is detached"),
            Self::Aside(Aside::Seeded(owner)) if owner.is_none_or(|owner| owner.admits(hello)) => {
                return Ok(());
            }
            Self::Aside(Aside::Seeded(_)) => (RefuseCode::ForeignVolume, "is another volume's, or larger"),
        };
        Err(Refusal::new(code, 0, text))
    }
}

impl SimReplicas {
    fn slot(&self, name: &str) -> Option<Slot> {
        self.aside.lock().get(name).copied()
    }

    fn set(&self, name: &str, slot: Slot) {
        self.aside.lock().insert(name.to_owned(), slot);
    }

    /// A replica that may be detached; nobody else is given it any more.
    fn claim_open(&self, name: &str) -> Option<Arc<Replica>> {
        let mut open = self.open.lock();
        let replica = open.get(name)?.clone().ok()?;
        let store = replica.store();
        let fits = store.failure().is_none() && store.copy_progress().state == CopyState::Complete;
        if !fits || self.slot(name).is_some() {
            return None;
        }
        open.remove(name);
        self.set(name, Slot::Busy);
        Some(replica)
    }

    fn settle(&self, name: &str, opened: Result<Arc<Replica>, String>) {
        self.open.lock().insert(name.to_owned(), opened);
        self.aside.lock().remove(name);
    }
}

/// A unit that starts looks what is set aside of a replica.
pub fn find(
    world: &Rc<World>,
    remote: &Rc<Remote>,
    site: &Rc<Site>,
    (process, replicas): (&Arc<Process>, &Arc<SimReplicas>),
) {
    let had_journal = remote.home(&site.name).is_some();
    replicas.find_aside(&site.name);
    if process.is_dead() {
        return;
    }
    let directory = remote.directory(&site.name);
    match replicas.slot(&site.name) {
        Some(Slot::Aside(Aside::Detached(left))) => {
            handed_over::is_found(world, remote, site, &left);
        }
        Some(Slot::Aside(Aside::Seeded(_))) => {
            directory.takes_back();
            if had_journal {
                world.give_up(site, remote);
            }
        }
        Some(Slot::Busy) | None => {
            if had_journal {
                handed_over::is_a_replica_again(remote, site);
            }
            directory.takes_back();
        }
    }
}

impl World {
    /// A replica is not what it was any more: what was expected of it does not hold.
    pub(crate) fn give_up(&self, site: &Site, remote: &Remote) {
        site.left_ahead.borrow_mut().remove(&remote.name);
        site.confirmed.borrow_mut().remove(&remote.name);
        let name = format!("{}/{}", remote.name, site.name);
        self.backups.borrow_mut().remove(&name);
    }

    /// Somebody takes the disk of a replica away.
    pub(crate) fn hand_over(self: &Rc<Self>) {
        let (site, remote) = (self.pick(&self.sites()), self.pick(&self.remotes()));
        let Some((process, replicas)) = remote.replicas() else {
            return;
        };
        self.endanger_steps(&process, 10);
        let world = self.clone();
        spawn(&process.clone(), Needs::Everything, async move {
            detach(&world, &remote, &site, (&process, &replicas)).await;
        });
    }

    /// A few writes, and dangerous ones.
    fn endanger_steps(&self, process: &Process, writes: u64) {
        if !self.is_calm() && self.chance(40) {
            let how = self.pick(&[Death::Killed, Death::PowerLost]);
            process.dies_in_write(1 + self.draw(writes), how);
        }
    }

    /// What is away is changed, or comes back.
    pub(crate) fn go_on_with_what_is_aside(self: &Rc<Self>) {
        for remote in self.remotes() {
            let Some((process, replicas)) = remote.replicas() else {
                continue;
            };
            for site in self.sites() {
                match replicas.slot(&site.name) {
                    Some(Slot::Aside(Aside::Detached(_))) if self.is_calm() || self.chance(10) => {
                        self.endanger_steps(&process, 4);
                        attach(self, &remote, &site, (&process, &replicas));
                    }
                    Some(Slot::Aside(Aside::Detached(_))) if self.chance(10) => {
                        self.change_what_is_away(&remote, &site);
                    }
                    Some(Slot::Aside(Aside::Seeded(Some(owner)))) if owner.bytes > site.volume_bytes() => {
                        // The volume went back in time. Its operator is told, and moves the directory away.
                        remote.directory(&site.name).lay_down(None);
                        replicas.aside.lock().remove(&site.name);
                    }
                    _ => {}
                }
            }
        }
    }

    /// What would be left of what was handed over if this remote lost its power now?
    pub(crate) fn look_at_what_is_aside(&self, remote: &Remote) {
        let Some((_, replicas)) = remote.replicas() else {
            return;
        };
        for site in self.sites() {
            if let Some(Slot::Aside(Aside::Detached(left))) = replicas.slot(&site.name) {
                handed_over::is_durable(self, remote, &site, &left);
            }
        }
    }

    fn change_what_is_away(&self, remote: &Remote, site: &Site) {
        self.stats.count("disks changed while they were away");
        let mut random = self.random.borrow_mut();
        let block = random.below(site.volume_bytes() / PAGE as u64);
        let length = usize::try_from(random.between(1, PAGE as u64)).unwrap_or(1);
        let bytes = random.bytes(length);
        let directory = remote.directory(&site.name);
        directory.is_changed_by_a_stranger(block * PAGE as u64, &bytes);
    }

    /// The directory of a replica, which nobody has open, holds nothing but a seed from now on.
    pub(crate) fn bring_a_seed(&self, site: &Site, remote: &Remote) {
        self.stats.count("seeds brought");
        let history = site.history.lock();
        let last = history.last();
        let mut content = history.state_after(self.draw(last + 1));
        drop(history);
        let rot = self.pick(&[0, 5, 30, 100]);
        let mut random = self.random.borrow_mut();
        for block in content.chunks_mut(PAGE) {
            if random.chance(rot) {
                let length = block.len();
                block.copy_from_slice(&random.bytes(length));
            }
        }
        let name = format!("{}/{}/seed", remote.name, site.name);
        let (carried, image) = (
            Platter::new(&name, site.capacity, false),
            Platter::new(&name, site.capacity, random.chance(30)),
        );
        carried.scribble(0, &content);
        image.restore(&carried);
        let directory = remote.directory(&site.name);
        directory.lay_down(Some(image));
        directory.says(SEED.0, SEED.1);
    }

    /// The operator of a remote gives a replica up, and brings what he has.
    pub(crate) async fn replace_by_a_seed(self: &Rc<Self>) {
        let (site, remote) = (self.pick(&self.sites()), self.pick(&self.remotes()));
        crate::remote::shut_down(self, &remote).await;
        if remote.process().is_some() {
            return;
        }
        remote.homes.lock().remove(&site.name);
        self.give_up(&site, &remote);
        self.bring_a_seed(&site, &remote);
        self.plan_restart(&remote.name);
    }
}

async fn detach(
    world: &Rc<World>,
    remote: &Rc<Remote>,
    site: &Rc<Site>,
    (process, replicas): (&Arc<Process>, &Arc<SimReplicas>),
) {
    let (Some(replica), Some(home)) = (replicas.claim_open(&site.name), remote.home(&site.name)) else {
        return;
    };
    world
        .stats
        .trace(&remote.name, || format!("hands {} over", site.name));
    let closed = close(remote, &home, replica, process).await;
    if process.is_dead() {
        return;
    }
    if let Some(left) = closed {
        happened("replicas handed over");
        replicas.set(&site.name, Slot::Aside(Aside::Detached(left)));
        handed_over::is_a_plain_disk(world, remote, site, &left);
        return;
    }
    remote.directory(&site.name).takes_back();
    let again = replicas.start(&home);
    if !process.is_dead() {
        replicas.settle(&site.name, again.map_err(|error| error.to_string()));
    }
}

/// As in the product: brings everything received into the image, ends every use of it, and notes how it is left.
async fn close(
    remote: &Rc<Remote>,
    home: &Home,
    replica: Arc<Replica>,
    process: &Arc<Process>,
) -> Option<Left> {
    let excused = || {
        let faulty = home.hurt.load(Ordering::Relaxed) || home.faulty.load(Ordering::Relaxed);
        faulty || process.is_dead()
    };
    if let Err(error) = replica.shut_down() {
        assert!(excused(), "{} is not handed over: {error}", home.name);
        return None;
    }
    let mut tries = 0;
    while Arc::strong_count(&replica) > 1 && !process.is_dead() {
        tries += 1;
        assert!(tries < LET_GO_TRIES, "somebody does not let go of {}", home.name);
        pause_us(LET_GO_PAUSE_US).await;
    }
    let (applied, store) = (replica.store().points().applied, replica.store().clone());
    drop(replica);
    if process.is_dead() || store.copy_progress().state != CopyState::Complete {
        return None;
    }
    let directory = remote.directory(&home.name);
    directory.hands_over();
    leave(&directory.held_by(process), &applied, store.volume_bytes()).ok()
}

fn attach(
    world: &Rc<World>,
    remote: &Rc<Remote>,
    site: &Rc<Site>,
    (process, replicas): (&Arc<Process>, &Arc<SimReplicas>),
) {
    let (Some(Slot::Aside(Aside::Detached(mut left))), Some(home)) =
        (replicas.slot(&site.name), remote.home(&site.name))
    else {
        return;
    };
    replicas.set(&site.name, Slot::Busy);
    world
        .stats
        .trace(&remote.name, || format!("takes {} back", site.name));
    let directory = remote.directory(&site.name);
    handed_over::is_a_plain_disk(world, remote, site, &left);
    if is_any_faulty(&home.platters()) {
        home.faulty.store(true, Ordering::Relaxed);
    }
    let (was, mut expected) = (directory.handed_over(), None);
    let taken = take_back(&site.name, &directory.held_by(process), &mut left, || {
        handed_over::is_taken_as_it_was(site, was);
        expected = checks::recovery::remote_before_start(world, remote, &home);
        replicas.start(&home)
    });
    if process.is_dead() {
        return;
    }
    match taken {
        Ok(Taken::AsItWas(replica)) => {
            if let Some(expected) = expected {
                checks::recovery::remote_started(remote, &home, replica.store(), &expected);
            }
            directory.takes_back();
            replicas.settle(&site.name, Ok(replica));
        }
        Ok(Taken::Changed(owner)) => {
            handed_over::is_taken_as_changed(site, was);
            directory.takes_back();
            world.give_up(site, remote);
            replicas.set(&site.name, Slot::Aside(Aside::Seeded(Some(owner))));
        }
        Err(error) => {
            let excused = home.hurt.load(Ordering::Relaxed) || home.faulty.load(Ordering::Relaxed);
            assert!(excused, "{} is not taken back: {error}", site.name);
            replicas.set(&site.name, Slot::Aside(Aside::Detached(left)));
        }
    }
}
