//! The accept loop: one task per connection, a bounded number of them, and an orderly end.
//!
//! No client and no failed accept ends the loop; only the shutdown token does.

use super::limits::{ACCEPT_PAUSE, Settings};
use super::{Counters, Listener};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

/// Who accepts connections.
#[derive(Debug)]
pub(super) struct House {
    /// What is spoken, for the log.
    pub(super) protocol: &'static str,
    /// Limits.
    pub(super) settings: Settings,
    /// Where connections are counted.
    pub(super) counters: Arc<Counters>,
}

/// Accepts connections and has each attended by a task of its own, until `shutdown` is cancelled. Those that are open
/// then have until [`Settings::drain`] to end.
pub(super) async fn accept_all<L: Listener, F: Future<Output = ()> + Send + 'static>(
    listener: L,
    house: House,
    shutdown: CancellationToken,
    attend: impl Fn(L::Stream, String) -> F,
) {
    let mut connections = JoinSet::new();
    let mut pause = ACCEPT_PAUSE.0;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => report_panic(ended, house.protocol),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    pause = ACCEPT_PAUSE.0;
                    if has_room(&mut connections, &house, &peer) {
                        connections.spawn(attend(stream, peer));
                    }
                }
                Err(failure) => pause = pause_after(&failure, house.protocol, pause, &shutdown).await,
            },
        }
    }
    drop(listener);
    drain(connections, &house).await;
}

/// Whether one more connection may be there.
fn has_room(connections: &mut JoinSet<()>, house: &House, peer: &str) -> bool {
    while let Some(ended) = connections.try_join_next() {
        report_panic(ended, house.protocol);
    }
    let room = connections.len() < house.settings.connections;
    if !room {
        house.counters.count_refused();
        debug!(
            peer,
            protocol = house.protocol,
            "connection closed: there are already as many as the limit allows"
        );
    }
    room
}

/// Waits after a failed accept; too many open files pass only when something is closed.
async fn pause_after(
    failure: &io::Error,
    protocol: &str,
    pause: Duration,
    shutdown: &CancellationToken,
) -> Duration {
    if failure.kind() == io::ErrorKind::ConnectionAborted {
        return pause;
    }
    warn!(%failure, protocol, pause_ms = pause.as_millis(), "accepting a connection failed; trying again");
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = sleep(pause) => {}
    }
    pause.saturating_mul(2).min(ACCEPT_PAUSE.1)
}

async fn drain(mut connections: JoinSet<()>, house: &House) {
    let all = async {
        while let Some(ended) = connections.join_next().await {
            report_panic(ended, house.protocol);
        }
    };
    if timeout(house.settings.drain, all).await.is_err() {
        warn!(
            open = connections.len(),
            protocol = house.protocol,
            "connections did not finish in time and are cut"
        );
        // Not waited for: one may be inside a call to a disk that does not return.
        connections.abort_all();
        connections.detach_all();
    }
}

/// A panic is our own mistake; it ends its connection alone, and is said aloud.
fn report_panic(ended: Result<(), JoinError>, protocol: &str) {
    if let Err(failure) = ended
        && failure.is_panic()
    {
        error!(%failure, protocol, "a connection ended by a defect; its client has to connect again");
    }
}
