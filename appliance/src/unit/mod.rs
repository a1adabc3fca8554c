//! The unit: the one place that wires configuration, targets, volumes, links and the control interface.
//!
//! Guarantees: one unit per directory; everything is bound before any data file is opened; a volume that
//! cannot be opened does not keep the others from service; a wrong configuration never stops a running unit.
//! Order of shutdown: targets, links, volumes, then the control interface, so that status shows the rest.

mod limits;
mod reload;
mod lock;
mod identity;
mod listeners;
mod parts;
mod shared;
mod applying;
mod commands;
mod peers;
mod control;
mod signals;
mod error;
pub mod logging;

pub use error::UnitError;
pub(crate) use error::remedy;
pub use identity::FILE as IDENTITY_FILE;
pub use reload::{Changes, changes, in_force_after};

use crate::config::{Config, Overrides};
use crate::pairing::Pairing;
use control::UnitControl;
use farside_protocol::control::Status;
use farside_web::{Control, console_router, control_router, serve_tcp, serve_unix};
use listeners::{Listeners, NbdListeners, OwnedUnixListener, SocketFile};
use lock::DirectoryLock;
use parking_lot::RwLock;
use parts::{Parts, Surroundings};
use shared::{Listening, Shared, Slot, View};
use signals::{Request, Signals};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a unit is started with.
#[derive(Debug, Clone)]
pub struct Start {
    /// The configuration, valid, with the overrides in it.
    pub config: Config,
    /// Where it was read, absolute; commands and SIGHUP read it there again.
    pub config_path: PathBuf,
    /// What is put over the file at every reading.
    pub overrides: Overrides,
}

/// A running unit.
#[derive(Debug)]
pub struct Unit {
    shared: Arc<Shared>,
    signals: Signals,
    control: ControlServers,
    _lock: DirectoryLock,
}

impl Unit {
    /// Starts a unit: lock, identity, listeners, control interface, links, volumes, targets.
    ///
    /// # Errors
    /// [`UnitError`]; a volume that cannot be opened is no error, but a state in [`status`](Self::status).
    pub async fn start(start: Start) -> Result<Self, UnitError> {
        let Start {
            mut config,
            config_path,
            overrides,
        } = start;
        let data_dir = config.unit.data_dir.clone();
        let lock = DirectoryLock::take(&data_dir)?;
        let signals = Signals::listen().map_err(|error| UnitError::Part(format!("no signals: {error}")))?;
        let uuid = identity::load_or_create(&data_dir)?;
        let pairing = Pairing::open(&data_dir, uuid, &config.unit.name);
        let pairing = Arc::new(pairing.map_err(|error| UnitError::Part(error.to_string()))?);
        let listeners = Listeners::bind(&config).await?;
        let listening = Listening::of(&listeners);
        let Listeners {
            control,
            nbd,
            iscsi,
            link,
            console,
        } = listeners;
        listening.settle(&mut config);
        let parts = Parts::new(Surroundings {
            config: config.clone(),
            uuid,
            pairing: Arc::clone(&pairing),
        });
        let started_at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let view = RwLock::new(first_view(config));
        let turn = tokio::sync::Mutex::new(());
        let shared = Arc::new(Shared {
            config_path,
            overrides,
            uuid,
            pairing,
            started_at,
            listening,
            parts,
            turn,
            view,
        });
        let control = ControlServers::start(&shared, control, console);
        let mut unit = Self {
            shared,
            signals,
            control,
            _lock: lock,
        };
        unit.start_parts(link, (nbd, iscsi)).await?;
        Ok(unit)
    }

    /// Starts what serves data. Recovery can take its time, so a signal to stop is heeded here too.
    async fn start_parts(&mut self, link: Vec<TcpListener>, targets: Targets) -> Result<(), UnitError> {
        let Self {
            shared,
            signals,
            control,
            ..
        } = self;
        tokio::select! {
            started = start_parts(shared, link, targets) => return started,
            () = signals.stop() => {}
        }
        tracing::info!("told to stop while starting");
        let clean = tokio::select! {
            clean = shut_down(shared, control) => clean,
            () = signals.stop() => false,
        };
        Err(UnitError::Stopped { clean })
    }

    /// The state of the unit now.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// Runs until SIGTERM or SIGINT, then shuts down cleanly. Returns whether it was clean; a second signal
    /// ends the wait, and the next start recovers as after a crash.
    pub async fn run(mut self) -> bool {
        loop {
            match self.signals.next().await {
                Request::Stop => break,
                // Beside, so that a signal to stop is heard meanwhile.
                Request::Reload => drop(tokio::spawn(reload(self.shared.clone()))),
            }
        }
        tracing::info!("shutting down; a second signal ends the wait");
        tokio::select! {
            clean = shut_down(&self.shared, &self.control) => {
                if clean {
                    tracing::info!("shut down cleanly");
                } else {
                    tracing::warn!("shut down, not cleanly; the next start recovers");
                }
                clean
            }
            () = self.signals.stop() => {
                tracing::warn!("second signal: not shut down cleanly; the next start recovers");
                false
            }
        }
    }
}

async fn reload(shared: Arc<Shared>) {
    let _turn = shared.turn.lock().await;
    // The outcome is in the log and in the status; nobody waits for an answer to a signal.
    if shared.refuse_while_stopping().is_ok() {
        applying::reload(&shared).await.ok();
    }
}

/// Where hosts attach: over NBD and over iSCSI.
type Targets = (NbdListeners, Vec<TcpListener>);

async fn start_parts(
    shared: &Arc<Shared>,
    link: Vec<TcpListener>,
    (nbd, iscsi): Targets,
) -> Result<(), UnitError> {
    let refused = |error: parts::PartError| UnitError::Part(error.to_string());
    let turn = shared.turn.lock().await;
    shared.parts.start_link(link).await.map_err(refused)?;
    let volumes = shared.view.read().config.volumes.clone();
    for volume in &volumes {
        shared.open(volume).await;
    }
    shared.parts.start_targets(nbd, iscsi).await.map_err(refused)?;
    drop(turn);
    // What was made larger in the file while the unit was away: beside, because it can take long.
    if shared.has_to_grow() {
        tokio::spawn(reload(Arc::clone(shared)));
    }
    Ok(())
}

fn first_view(config: Config) -> View {
    let volumes = config
        .volumes
        .iter()
        .map(|volume| (volume.name.clone(), Slot::Starting))
        .collect();
    View {
        config,
        config_error: None,
        pending_restart: Vec::new(),
        volumes,
        stopping: false,
        has_to_grow: false,
    }
}

/// Ends everything in its order; false if the next start will have to recover.
async fn shut_down(shared: &Shared, control: &ControlServers) -> bool {
    {
        let mut view = shared.view.write();
        view.stopping = true;
        for slot in view.volumes.values() {
            if let Slot::Open(volume) = slot {
                volume.give_up_growth();
            }
        }
    }
    // A command under way is finished first, so that it is never half done.
    let _turn = shared.turn.lock().await;
    shared.parts.stop_targets().await;
    shared.parts.stop_link().await;
    let volumes: BTreeMap<String, Slot> = shared.view.read().volumes.clone();
    let mut clean = true;
    for (name, slot) in volumes {
        if let Slot::Open(volume) = slot {
            clean &= volume.close().await;
            tracing::info!(volume = name, "volume closed");
        }
    }
    control.stop().await;
    clean
}

/// The control socket and the console, which outlive everything else.
#[derive(Debug)]
struct ControlServers {
    stop: CancellationToken,
    tasks: TaskTracker,
    _socket: SocketFile,
}

impl ControlServers {
    fn start(shared: &Arc<Shared>, socket: OwnedUnixListener, console: Option<TcpListener>) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let control: Arc<dyn Control> = Arc::new(UnitControl(Arc::clone(shared)));
        if let Some(listener) = console {
            let router = console_router(Arc::clone(&control));
            tasks.spawn(serve_tcp(listener, router, stop.clone().cancelled_owned()));
        }
        tasks.spawn(serve_unix(
            socket.listener,
            control_router(control),
            stop.clone().cancelled_owned(),
        ));
        tasks.close();
        Self {
            stop,
            tasks,
            _socket: socket.file,
        }
    }

    async fn stop(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}
