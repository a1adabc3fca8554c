//! In from the socket: takes frames, lets the core decide, carries out what it says, one after the other.

use super::confirming::Unanswered;
use super::copy_log::CopyLog;
use super::core::{Action, ReceiverCore};
use super::life::Life;
use super::refusals::unknown;
use super::session::{SessionError, refused};
use super::stream::FrameStream;
use crate::sink::Sink;
use farside_protocol::journal::CopyState;
use farside_protocol::link::{Refusal, RefuseCode, Verified, Verify};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

/// What the reader tells the replier.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) log: &'a CopyLog,
    /// A copy was begun by this connection.
    pub(super) begun: &'a AtomicBool,
    /// What differs of ranges that were asked about.
    pub(super) verified: &'a mpsc::Sender<Verified>,
    /// What was told of the journal and waits for the sender's word.
    pub(super) unanswered: &'a Unanswered,
}

/// Receives until the connection ends. Never ends inside an operation on the replica.
pub(super) async fn run<R: AsyncRead + Unpin, S: Sink>(
    stream: &mut FrameStream<R>,
    core: &mut ReceiverCore,
    (sink, life): (&S, &Life),
    copy: Told<'_>,
    stop: impl Future<Output = SessionError>,
) -> SessionError {
    tokio::pin!(stop);
    loop {
        let received = tokio::select! {
            biased;
            reason = &mut stop => return reason,
            received = stream.receive() => received,
        };
        let handled = match received {
            Ok(()) => {
                life.busy();
                let handled = handle(stream, core, sink, copy).await;
                life.heard();
                handled
            }
            Err(error) => Err(error),
        };
        if let Err(error) = handled {
            return error;
        }
    }
}

async fn handle<R: AsyncRead + Unpin, S: Sink>(
    stream: &FrameStream<R>,
    core: &mut ReceiverCore,
    sink: &S,
    told: Told<'_>,
) -> Result<(), SessionError> {
    let (message, body) = stream.message()?;
    let action = core.message(&message, body).map_err(SessionError::Refused)?;
    match action {
        Action::WriteCopy { offset, .. }
        | Action::ZeroCopy { offset, .. }
        | Action::SkipCopy { offset, .. } => {
            told.log.goes_on(offset);
        }
        Action::EndCopy(_) => told.log.goes_on(sink.state().copy_offset),
        _ => {}
    }
    let done = match action {
        Action::None => Ok(()),
        Action::Append { what, data } => sink.append(what, data).await,
        Action::WriteCopy { offset, data } => sink.write_copy(offset, data).await,
        Action::ZeroCopy { offset, length } => sink.zero_copy(offset, length).await,
        Action::SkipCopy { offset, length } => sink.skip_copy(offset, length).await,
        Action::EndCopy(consistent_from) => sink.end_copy(consistent_from).await,
        Action::Confirm(named) => {
            let point = told.unanswered.find(&named);
            let point = point.ok_or_else(|| SessionError::Refused(unknown(&named)))?;
            sink.confirm(point).await.map_err(refused)?;
            // Only now: what is read back next follows what waits, or else what counts.
            told.unanswered.answered(&point);
            core.confirmed(point.sequence);
            Ok(())
        }
        Action::Verify(verify) => {
            compare(&verify, (body, false), sink, told).await?;
            return Ok(());
        }
        Action::Compare(verify) => {
            let answer = compare(&verify, (body, true), sink, told).await?;
            core.compared(&answer);
            return Ok(());
        }
        Action::BeginCopy(base, copy_id) => {
            let done = sink.begin_copy(base, copy_id).await;
            told.begun.store(done.is_ok(), Ordering::Release);
            if done.is_ok() {
                told.log.began();
            }
            done
        }
        Action::RefusedByPeer => {
            let farside_protocol::link::Message::Refuse(refusal) = message else {
                return Err(SessionError::Closed);
            };
            return Err(SessionError::RefusedByPeer(refusal));
        }
    };
    done.map_err(refused)
}

/// Compares a range, with everything that was received or as it lies there, and has the answer sent.
async fn compare<S: Sink>(
    verify: &Verify,
    (digests, as_it_lies): (&[u8], bool),
    sink: &S,
    told: Told<'_>,
) -> Result<Verified, SessionError> {
    if !as_it_lies && sink.state().copy != CopyState::Complete {
        let text = "asked to compare a replica that is not complete; reconnect";
        return Err(SessionError::Refused(Refusal::new(RefuseCode::Protocol, 0, text)));
    }
    let read = sink.read(verify.offset, verify.length, as_it_lies).await;
    let data = read.map_err(refused)?;
    let answer = verify.answer(digests, data.as_deref());
    // It fails when the replier has ended, which says why.
    told.verified
        .send(answer)
        .await
        .map_err(|_| SessionError::Closed)?;
    Ok(answer)
}
