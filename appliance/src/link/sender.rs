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
use super::windows::SendWindows;
use crate::pairing::{Pairing, Way};
use farside_protocol::journal::ConsumerState;
use farside_protocol::link::Compression;
use farside_remote::Notice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
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
    /// Others, which are tried after it, in this order.
    pub other_addresses: Vec<String>,
    /// Random for each start of the process.
    pub instance: Uuid,
    /// Most bytes sent and not confirmed; raised to a minimum of 2 MiB.
    pub window_bytes: u64,
    /// Most bytes sent in a second, in the mean.
    pub bytes_per_second: Option<u64>,
    /// How what is sent is compressed, if the remote can do that.
    pub compression: Compression,
    /// Whether backlogs may be merged, if the remote can do that.
    pub merge: bool,
    /// Whether what the remote holds has to be compared with what was sent before it counts.
    pub confirm: bool,
    /// When it is sent; always if absent.
    pub windows: Option<SendWindows>,
    /// The units that are known, and this one's key. Without it nothing is encrypted.
    pub pairing: Option<Arc<Pairing>>,
    /// The paired unit that has to be there; the one that was paired at the address if absent.
    pub peer: Option<String>,
    /// Dial addresses that are not on this machine although nobody is paired there, without encryption.
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
            other_addresses: Vec::new(),
            instance,
            window_bytes: DEFAULT_WINDOW_BYTES,
            bytes_per_second: None,
            compression: Compression::None,
            merge: false,
            confirm: false,
            windows: None,
            pairing: None,
            peer: None,
            allow_beyond_loopback: false,
            verification: Arc::default(),
        }
    }
}

impl SenderConfig {
    /// One of its addresses, the first for those that are not there.
    fn target(&self, index: usize) -> &str {
        let other = index
            .checked_sub(1)
            .and_then(|other| self.other_addresses.get(other));
        other.unwrap_or(&self.address)
    }
}

/// A running sender. Dropping it ends the link without a farewell.
#[derive(Debug)]
pub struct Sender {
    status: Arc<StatusCell>,
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
            compression: config.compression,
            merge: config.merge,
            confirm: config.confirm,
            windows: config.windows.clone(),
            status: Arc::clone(&status),
            verification: Arc::clone(&config.verification),
        };
        let task = tokio::spawn(dial_for_ever(setup, config, told));
        Self { status, stop, task }
    }

    /// The status now.
    #[must_use]
    pub fn status(&self) -> LinkStatus {
        self.status.snapshot()
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
    let (mut backoff, mut first) = (Backoff::default(), 0);
    let mut told = stop.clone();
    loop {
        let pause = tokio::select! {
            pause = attempt(&setup, &config, &stop, (&mut backoff, &mut first)) => pause,
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

/// One connection and what came of it: how long to wait before the next, or `None` to end. `first` is which address is
/// tried first: one where somebody answered and did not let this unit in comes last the next time.
async fn attempt<S: Source>(
    setup: &SessionSetup<S>,
    config: &SenderConfig,
    stop: &watch::Receiver<bool>,
    (backoff, first): (&mut Backoff, &mut usize),
) -> Option<u64> {
    let mut dialled = match dial(setup, config, *first).await {
        Ok(dialled) => dialled,
        Err(text) => {
            let pause_ms = backoff.next_ms(random());
            show_waiting(setup, &text);
            return Some(pause_ms);
        }
    };
    let paired = dialled.paired.as_ref().map(|(name, _)| name.clone());
    setup.status.update(|status| {
        status.peer_address = Some(dialled.address);
        status.paired_with = paired;
        status.peer_name = None;
        status.connections = status.connections.saturating_add(1);
    });
    let target = config.target(dialled.index).to_owned();
    let streams = (dialled.read, dialled.write);
    let (end, told) = watch::channel(false);
    let mut why = None;
    let (reason, gain) = {
        let mut session = std::pin::pin!(run_session(setup, streams, told));
        tokio::select! {
            biased;
            ended = &mut session => ended,
            reason = to_end(stop.clone(), config, (&target, dialled.paired.as_mut())) => {
                why = Some(reason);
                end.send_replace(true);
                session.await
            }
        }
    };
    let reason = match (reason, why) {
        // It knows only that it was told to.
        (CloseReason::Stopped, Some(why)) => why,
        (reason, _) => reason,
    };
    setup.status.update(|status| {
        (status.peer_address, status.paired_with, status.compressed) = (None, None, None);
    });
    backoff.session(gain);
    let was_let_in = setup.status.snapshot().peer_name.is_some() && !reason.is_lasting();
    *first = if was_let_in { 0 } else { dialled.index + 1 };
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
    let address = setup.status.snapshot().dialled.unwrap_or_default();
    tracing::warn!(remote = %config.remote_name, address, "link ended: {reason}");
    if reason.is_damage() {
        setup
            .status
            .update(|status| status.damaged = status.damaged.saturating_add(1));
    }
    if reason.is_lasting() {
        setup.status.update(|status| {
            status.state = LinkState::Refused;
            status.detail = reason.to_string();
        });
        // Another address may do.
        let pause_ms = if config.other_addresses.is_empty() {
            Backoff::refused_ms(random())
        } else {
            backoff.next_ms(random())
        };
        return Some(pause_ms);
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

/// Resolves when the connection has to end: the sender stops, or because of who is at the other end, or who this unit is.
async fn to_end(
    mut stop: watch::Receiver<bool>,
    config: &SenderConfig,
    (target, paired): (&str, Option<&mut (String, watch::Receiver<Notice>)>),
) -> CloseReason {
    let noticed = async {
        match (paired, &config.pairing) {
            (Some((_, notices)), _) => {
                if let Ok(notice) = notices.wait_for(|notice| *notice != Notice::None).await {
                    return match *notice {
                        Notice::Renewed => CloseReason::Renewed,
                        _ => CloseReason::Revoked,
                    };
                }
            }
            (None, Some(pairing)) => {
                pairing.until_paired(target, config.peer.as_deref()).await;
                return CloseReason::Paired;
            }
            (None, None) => {}
        }
        std::future::pending().await
    };
    tokio::select! {
        biased;
        _ = stop.wait_for(|set| *set) => CloseReason::Stopped,
        reason = noticed => reason,
    }
}

/// A connection to the remote.
struct Dialled {
    read: Box<dyn AsyncRead + Send + Unpin>,
    write: Box<dyn AsyncWrite + Send + Unpin>,
    address: SocketAddr,
    /// Which of the configured addresses led to it.
    index: usize,
    /// The name of the unit at the other end, if it proved to be that, and what ends the connection.
    paired: Option<(String, watch::Receiver<Notice>)>,
}

/// Tries the addresses of the remote in their order, from one of them on.
async fn dial<S: Source>(
    setup: &SessionSetup<S>,
    config: &SenderConfig,
    first: usize,
) -> Result<Dialled, String> {
    let mut failures = Vec::new();
    for step in 0..=config.other_addresses.len() {
        let index = (first + step) % (config.other_addresses.len() + 1);
        let target = config.target(index);
        setup.status.update(|status| {
            status.state = LinkState::Connecting;
            status.detail = format!("dialling {target}");
            status.dialled = Some(target.to_owned());
        });
        match dial_target(config, target).await {
            Ok(dialled) => return Ok(Dialled { index, ..dialled }),
            Err(text) => failures.push(text),
        }
    }
    Err(failures.join("; "))
}

/// Tries all that a name resolves to.
async fn dial_target(config: &SenderConfig, target: &str) -> Result<Dialled, String> {
    let found = timeout(Duration::from_millis(RESOLVE_TIMEOUT_MS), lookup_host(target)).await;
    let addresses = found
        .map_err(|_| format!("the name in '{target}' was not resolved in time; check the name service"))?
        .map_err(|error| {
            format!("'{target}' is no address that can be found: {error}; write it as host:port")
        })?;
    let mut failure = format!("'{target}' has no address");
    for address in addresses.take(MAX_ADDRESSES) {
        match dial_one(config, target, address).await {
            Ok(dialled) => return Ok(dialled),
            Err(text) => failure = text,
        }
    }
    Err(failure)
}

async fn dial_one(config: &SenderConfig, target: &str, address: SocketAddr) -> Result<Dialled, String> {
    let way = match &config.pairing {
        Some(pairing) => {
            let mut way = pairing.way_to(target, config.peer.as_deref());
            if matches!(way, Ok(Way::Unknown)) {
                // All addresses lead to the same unit.
                way = pairing.way_to(&config.address, None);
            }
            way.map_err(|error| error.to_string())?
        }
        None => Way::Unknown,
    };
    if matches!(way, Way::Unknown) && !config.allow_beyond_loopback && !address.ip().is_loopback() {
        return Err(format!(
            "no unit is paired at {target}, which is another machine: run 'farside pair invite' there, and 'farside pair \
             with {target}' here"
        ));
    }
    let limit = Duration::from_millis(CONNECT_TIMEOUT_MS);
    let socket = match timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return Err(format!("{address}: {error}; is the remote unit running?")),
        Err(_) => return Err(format!("{address} did not answer in time; is the network up?")),
    };
    prepare(&socket);
    match (way, &config.pairing) {
        (Way::Paired(way), Some(pairing)) => {
            let connected = timeout(limit, way.connect(pairing, socket)).await;
            let link = connected
                .map_err(|_| format!("{address} did not answer in time; does a Farside unit listen there?"))?
                .map_err(|text| format!("{address}: {text}"))?;
            Ok(Dialled {
                read: link.read,
                write: link.write,
                address,
                index: 0,
                paired: Some((link.peer, link.notices)),
            })
        }
        _ => {
            let (read, write) = socket.into_split();
            Ok(Dialled {
                read: Box::new(read),
                write: Box::new(write),
                address,
                index: 0,
                paired: None,
            })
        }
    }
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
