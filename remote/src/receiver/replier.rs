//! Out to the socket: tells the sender where the replica stands, whenever that changes and every second.

use super::copy_log::CopyLog;
use super::pacing::{Pacing, ack};
use super::session::SessionError;
use super::stream::send;
use crate::sink::Sink;
use farside_protocol::journal::CopyState;
use farside_protocol::link::{Message, Verified};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Answers until the socket fails; the session ends it otherwise. A write is never left half done: whoever
/// stops this task waits on `stop`, which is looked at between writes only.
pub(super) async fn run<W: AsyncWrite + Unpin, S: Sink>(
    to: &mut W,
    sink: &S,
    (log, begun): (&CopyLog, &AtomicBool),
    mut verified: mpsc::Receiver<Verified>,
    stop: impl Future<Output = ()>,
) -> SessionError {
    let (started, mut pacing) = (Instant::now(), Pacing::default());
    let now_ms = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut changed = sink.changed();
    tokio::pin!(stop);
    loop {
        // The flags first: set, they promise that the state read after them is that of the new copy.
        let flag = begun.load(Ordering::Acquire);
        changed.mark_unchanged();
        if sink.is_closing() {
            return SessionError::ShuttingDown;
        }
        let copying = log.is_under_way();
        let next = ack(&sink.state(), flag);
        if copying && next.copy == CopyState::Complete {
            log.complete();
        }
        let wait_ms = pacing.wait_ms(&next, now_ms());
        if wait_ms == 0 {
            if let Err(error) = send(to, &Message::Ack(next)).await {
                return error;
            }
            pacing.sent(next, now_ms());
            continue;
        }
        tokio::select! {
            biased;
            () = &mut stop => return SessionError::Closed,
            Some(answer) = verified.recv() => {
                if let Err(error) = send(to, &Message::Verified(answer)).await {
                    return error;
                }
            }
            fired = timeout(Duration::from_millis(wait_ms), changed.changed()) => {
                if matches!(fired, Ok(Err(_))) {
                    return SessionError::Closed;
                }
            }
        }
    }
}
