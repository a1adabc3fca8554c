//! Out to the socket: tells the sender where the replica stands, whenever that changes and every second.

use super::confirming::Unanswered;
use super::copy_log::CopyLog;
use super::pacing::{Pacing, ack};
use super::refusals::damaged;
use super::session::{SessionError, refused};
use super::stream::send;
use crate::sink::Sink;
use farside_protocol::journal::CopyState;
use farside_protocol::link::{Held, Message, Signature, Verified};
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
    (log, begun, unanswered): (&CopyLog, &AtomicBool, Option<&Unanswered>),
    mut verified: mpsc::Receiver<Verified>,
    stop: impl Future<Output = ()>,
) -> SessionError {
    let (started, mut pacing) = (Instant::now(), Pacing::default());
    let now_ms = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (mut changed, mut signature) = (sink.changed(), Signature::default());
    tokio::pin!(stop);
    loop {
        // The flags first: set, they promise that the state read after them is that of the new copy.
        let flag = begun.load(Ordering::Acquire);
        changed.mark_unchanged();
        if sink.is_closing() {
            return SessionError::ShuttingDown;
        }
        let told = match unanswered {
            Some(unanswered) => tell_held(to, sink, unanswered, &mut signature).await,
            None => Ok(false),
        };
        match told {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => return error,
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

/// Reads back what was synced and not yet told, and tells it. False: there is nothing.
async fn tell_held<W: AsyncWrite + Unpin, S: Sink>(
    to: &mut W,
    sink: &S,
    unanswered: &Unanswered,
    signature: &mut Signature,
) -> Result<bool, SessionError> {
    // In this order: a point leaves those that wait only when it counts.
    let Some(newest) = unanswered.newest() else {
        return Ok(false);
    };
    let state = sink.state();
    let from = newest.unwrap_or(state.received);
    if state.synced.sequence <= from.sequence {
        return Ok(false);
    }
    let read = sink.read_back(from).await.map_err(refused)?;
    let read = read.ok_or_else(|| SessionError::Refused(damaged(from.sequence)))?;
    if read.point.sequence <= from.sequence {
        // Given up meanwhile: the replica goes out of service.
        return Ok(false);
    }
    for digest in &read.chunks {
        signature.take(digest);
    }
    unanswered.told(read.point);
    let (point, signature) = (read.point, *signature);
    send(to, &Message::Held(Held { point, signature })).await?;
    Ok(true)
}
