//! Keeps one remote connected: finds its addresses, dials, runs a session, waits, dials again.

use super::backoff::Backoff;
use super::error::CloseReason;
use super::limits::{
    CONNECT_TIMEOUT_MS, DEFAULT_WINDOW_BYTES, KEEPALIVE_MS, MAX_ADDRESSES, MIN_WINDOW_BYTES,
    RESOLVE_TIMEOUT_MS,
};
use super::session::{SessionSetup, run_session};
use super::source::Source;
use super::status::{LinkState, LinkStatus, StatusCell};
use super::verification::Verification;
use farside_protocol::journal::ConsumerState;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// Where and how a volume is sent.
#[derive(Debug, Clone)]
pub struct SenderConfig {
    /// Name under which the remote is known here; the journal keeps its position by it.
    pub remote_name: String,
    /// Its `host:port`.
    pub address: String,
    /// Random for each start of the process.
    pub instance: Uuid,
    /// Most bytes sent and not confirmed; raised to a minimum of 2 MiB.
    pub window_bytes: u64,
    /// Most bytes sent in a second, in the mean.
    pub bytes_per_second: Option<u64>,
    /// Dial addresses that are not on this machine, without encryption.
    pub allow_beyond_loopback: bool,
    /// What is to be compared with the remote, which lasts longer than a connection.
    pub verification: Arc<Verification>,
}

impl SenderConfig {
    /// A sender to a remote on this machine, with the default window.
    #[must_use]
    pub fn new(remote_name: &str, address: &str, instance: Uuid) -> Self {
        Self {
            remote_name: remote_name.to_owned(),
            address: address.to_owned(),
            instance,
            window_bytes: DEFAULT_WINDOW_BYTES,
            bytes_per_second: None,
            allow_beyond_loopback: false,
            verification: Arc::default(),
        }
    }
}

/// A running sender. Dropping it ends the link without a farewell.
#[derive(Debug)]
pub struct Sender {
    status: Arc<StatusCell>,
    verification: Arc<Verification>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Sender {
    /// Starts sending on the present runtime.
    pub fn spawn<S: Source>(source: Arc<S>, config: SenderConfig) -> Self {
        let status = Arc::new(StatusCell::default());
        // What was confirmed before the start was sent then.
        let (state, confirmed) = source.consumer(&config.remote_name);
        if state != ConsumerState::NeedsCopy {
            status.update(|status| status.received_record = confirmed.record);
        }
        let (stop, told) = watch::channel(false);
        let setup = SessionSetup {
            source,
            remote_name: config.remote_name.clone(),
            instance: config.instance,
            window_bytes: config.window_bytes.max(MIN_WINDOW_BYTES),
            bytes_per_second: config.bytes_per_second,
            status: Arc::clone(&status),
            verification: Arc::clone(&config.verification),
        };
        let verification = Arc::clone(&config.verification);
        let task = tokio::spawn(dial_for_ever(setup, config, told));
        Self {
            status,
            verification,
            stop,
            task,
        }
    }

    /// The status now.
    #[must_use]
    pub fn status(&self) -> LinkStatus {
        self.status.snapshot()
    }

    /// What is compared with the remote.
    #[must_use]
    pub fn verification(&self) -> &Arc<Verification> {
        &self.verification
    }

    /// Ends the link and waits until it has.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let _ = (&mut self.task).await;
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn dial_for_ever<S: Source>(setup: SessionSetup<S>, config: SenderConfig, stop: watch::Receiver<bool>) {
    let mut backoff = Backoff::default();
    let mut told = stop.clone();
    loop {
        let pause = tokio::select! {
            pause = attempt(&setup, &config, &stop, &mut backoff) => pause,
            // A session ends itself and says so; only dialling is cut short here.
            () = stopped_while_dialling(&setup.status, told.clone()) => return,
        };
        let Some(pause_ms) = pause else {
            return;
        };
        tokio::select! {
            () = sleep(Duration::from_millis(pause_ms)) => {}
            _ = told.wait_for(|set| *set) => return,
        }
    }
}

async fn stopped_while_dialling(status: &StatusCell, mut told: watch::Receiver<bool>) {
    let _ = told.wait_for(|set| *set).await;
    if status.snapshot().peer_address.is_some() {
        std::future::pending::<()>().await;
    }
}

/// One connection and what came of it: how long to wait before the next, or `None` to end.
async fn attempt<S: Source>(
    setup: &SessionSetup<S>,
    config: &SenderConfig,
    stop: &watch::Receiver<bool>,
    backoff: &mut Backoff,
) -> Option<u64> {
    setup.status.update(|status| {
        status.state = LinkState::Connecting;
        status.detail = format!("dialling {}", config.address);
    });
    let (socket, address) = match dial(config).await {
        Ok(connected) => connected,
        Err(text) => {
            let pause_ms = backoff.next_ms(random());
            show_waiting(setup, &text);
            return Some(pause_ms);
        }
    };
    setup.status.update(|status| {
        status.peer_address = Some(address);
        status.peer_name = None;
        status.connections = status.connections.saturating_add(1);
    });
    let (reason, gain) = run_session(setup, socket.into_split(), stop.clone()).await;
    setup.status.update(|status| status.peer_address = None);
    backoff.session(gain);
    after_session(setup, config, &reason, backoff)
}

fn after_session<S: Source>(
    setup: &SessionSetup<S>,
    config: &SenderConfig,
    reason: &CloseReason,
    backoff: &mut Backoff,
) -> Option<u64> {
    if matches!(reason, CloseReason::Stopped) {
        tracing::debug!(remote = %config.remote_name, "link stopped");
        show_waiting(setup, "stopped");
        return None;
    }
    tracing::warn!(remote = %config.remote_name, address = %config.address, "link ended: {reason}");
    if reason.is_lasting() {
        setup.status.update(|status| {
            status.state = LinkState::Refused;
            status.detail = reason.to_string();
        });
        return Some(Backoff::refused_ms(random()));
    }
    show_waiting(setup, &reason.to_string());
    Some(backoff.next_ms(random()))
}

fn show_waiting<S: Source>(setup: &SessionSetup<S>, detail: &str) {
    let needs_copy = setup.source.consumer(&setup.remote_name).0 == ConsumerState::NeedsCopy;
    setup.status.update(|status| {
        status.state = if needs_copy {
            LinkState::NeedsCopy
        } else {
            LinkState::Waiting
        };
        detail.clone_into(&mut status.detail);
    });
}

/// Tries the addresses of the remote in their order.
async fn dial(config: &SenderConfig) -> Result<(TcpStream, SocketAddr), String> {
    let target = &config.address;
    let found = timeout(
        Duration::from_millis(RESOLVE_TIMEOUT_MS),
        lookup_host(target.as_str()),
    )
    .await;
    let addresses = found
        .map_err(|_| format!("the name in '{target}' was not resolved in time; check the name service"))?
        .map_err(|error| {
            format!("'{target}' is no address that can be found: {error}; write it as host:port")
        })?;
    let mut failure = format!("'{target}' has no address");
    for address in addresses.take(MAX_ADDRESSES) {
        if !config.allow_beyond_loopback && !address.ip().is_loopback() {
            failure = format!(
                "{address} is not on this machine and links are not encrypted yet; set the remote to trust its \
                 network in the configuration"
            );
            continue;
        }
        let connect = TcpStream::connect(address);
        match timeout(Duration::from_millis(CONNECT_TIMEOUT_MS), connect).await {
            Ok(Ok(socket)) => {
                prepare(&socket);
                return Ok((socket, address));
            }
            Ok(Err(error)) => failure = format!("{address}: {error}; is the remote unit running?"),
            Err(_) => failure = format!("{address} did not answer in time; is the network up?"),
        }
    }
    Err(failure)
}

/// Failing to set these costs speed or an earlier notice, nothing else.
fn prepare(socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_millis(KEEPALIVE_MS));
    let _ = socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive);
}

/// Spreads pauses; if the system has no randomness, they are not spread.
fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}
