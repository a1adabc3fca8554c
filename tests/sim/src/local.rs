//! The local unit: volumes with their disks, hosts in front of them and a link to each remote behind them.

use crate::checks;
use crate::disk::SimDisk;
use crate::growth;
use crate::host;
use crate::nbd_host;
use crate::platter::is_any_faulty;
use crate::process::{Death, Process};
use crate::schedule::{self, Needs, spawn};
pub use crate::site::{LeftAhead, Site};
use crate::workers::{SESSION_FREE, SimWorkers};
use crate::world::World;
use farside::link::backoff::Backoff;
use farside::link::{CloseReason, SessionSetup, StatusCell, run_session};
use farside::volume::{LinkSource, Volume};
use farside_protocol::link::Compression;
use farside_storage::{Store, load_superblock};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::watch;
use uuid::Uuid;

/// Most bytes sent and not confirmed.
pub const WINDOW_BYTES: u64 = 128 << 10;

/// What becomes of a process after its death.
#[derive(Debug, Default)]
pub struct Local {
    /// Its life now.
    pub process: Option<Arc<Process>>,
    /// Who it is, to remotes.
    pub instance: Uuid,
    /// It is being shut down: no link begins any more.
    pub stopping: bool,
}

/// Starts the local unit: recovers its volumes and takes them into service.
pub fn start(world: &Rc<World>) {
    let process = Process::new("local");
    let instance = Uuid::from_u128(world.next_instance());
    *world.local.borrow_mut() = Local {
        process: Some(process.clone()),
        instance,
        stopping: false,
    };
    world.stats.trace("local", || "starts".to_owned());
    let world = world.clone();
    spawn(&process.clone(), Needs::Everything, async move {
        for site in world.sites() {
            open(&world, &process, &site, instance);
        }
    });
}

fn open(world: &Rc<World>, process: &Arc<Process>, site: &Rc<Site>, instance: Uuid) {
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
    site.settle_maps();
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
    if let Err(error) = growth::carry_out(site, process, &store) {
        let excused = process.is_dead() || site.is_hurt() || site.faulty.get();
        assert!(excused, "{} does not grow: {error}", site.name);
        *site.broken.borrow_mut() = Some(error.to_string());
        return;
    }
    for slot in &store.superblock().consumers {
        if !site.remotes.borrow().contains(&slot.name) && store.remove_consumer(&slot.name).is_err() {
            *site.broken.borrow_mut() = Some("a remote cannot be forgotten".to_owned());
            return;
        }
    }
    let workers = Arc::new(SimWorkers::new(process));
    let volume = Volume::start(store, workers).expect("simulated threads start");
    // The operator may have changed his mind meanwhile.
    volume.set_skip_unchanged(site.history.lock().leaves_out && schedule::draw(8) > 0);
    *site.volume.borrow_mut() = Some(volume.clone());
    start_links(world, process, (site, &volume), instance);
    if world.hosts_speak_nbd {
        nbd_host::start(world, process, site, &volume);
    } else {
        host::start(world, process, site, &volume);
    }
}

/// Begins to send a volume to its remotes.
pub fn start_links(
    world: &Rc<World>,
    process: &Arc<Process>,
    (site, volume): (&Rc<Site>, &Arc<Volume>),
    instance: Uuid,
) {
    let (stop, told) = watch::channel(world.local.borrow().stopping);
    *site.stop.borrow_mut() = Some(stop);
    for remote in site.remotes.borrow().iter() {
        start_link(world, process, (site, volume), (remote, instance, &told));
    }
}

fn start_link(
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
    let merge = schedule::draw(2) == 0;
    if merge {
        site.merging.borrow_mut().insert(remote.to_owned());
    } else {
        site.merging.borrow_mut().remove(remote);
    }
    let setup = SessionSetup {
        source,
        remote_name: remote.to_owned(),
        instance,
        window_bytes: WINDOW_BYTES,
        bytes_per_second: (schedule::draw(4) == 0).then(|| 20_000 + schedule::draw(400_000)),
        compression: [Compression::None, Compression::Lz4, Compression::Zstd]
            [usize::try_from(schedule::draw(3)).unwrap_or(0)],
        merge,
        confirm: schedule::draw(4) == 0,
        windows: None,
        status,
        verification: checks::verify::begin((world, process, site), remote, volume.clone()),
    };
    let link = keep_link(world.clone(), process.clone(), site.clone(), setup, told.clone());
    spawn(process, Needs::Nothing, link);
}

async fn keep_link(
    world: Rc<World>,
    process: Arc<Process>,
    site: Rc<Site>,
    mut setup: SessionSetup<LinkSource>,
    mut told: watch::Receiver<bool>,
) {
    let _running = site.links_running.clone();
    let mut backoff = Backoff::default();
    let name = setup.remote_name.clone();
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    loop {
        if *told.borrow() || !site.remotes.borrow().contains(&name) {
            return;
        }
        let random = u32::try_from(schedule::draw(1 << 32)).unwrap_or(0);
        let mut pause_ms = 0;
        let connected = world.remote(&name).and_then(|remote| {
            let (far, receiver) = remote.running()?;
            let (here, there) = world.net.connect(&process, &far)?;
            site.copies.lock().connected(&name);
            let (line, at) = (here.0.line(), (world.clone(), site.clone(), name.clone()));
            spawn(&far, SESSION_FREE, async move {
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
            if matches!(reason, CloseReason::CannotConfirm) {
                // The operator takes back what the journal there is too small for.
                setup.confirm = false;
                continue;
            }
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
    schedule::current().end_tasks_of(process);
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
    let process = world.local.borrow().process.clone();
    let Some(process) = process.filter(|process| !process.is_dead()) else {
        return;
    };
    world.stats.trace("local", || "is shut down".to_owned());
    world.local.borrow_mut().stopping = true;
    for site in world.sites() {
        if let Some(stop) = site.stop.take() {
            stop.send_replace(true);
        }
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
    schedule::current().end_tasks_of(&process);
    for site in world.sites() {
        site.volume.take();
        site.history.lock().nobody_waits();
    }
    world.net.gone(&process, false);
    world.host_net.gone(&process, false);
    process.leave();
    world.local.borrow_mut().process = None;
}
