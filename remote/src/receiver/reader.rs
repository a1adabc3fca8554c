//! In from the socket: takes frames, lets the core decide, carries out what it says, one after the other.

use super::copy_log::CopyLog;
use super::core::{Action, ReceiverCore, refuse_sink};
use super::life::Life;
use super::session::SessionError;
use super::stream::FrameStream;
use crate::sink::Sink;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::AsyncRead;

/// Receives until the connection ends. Never ends inside an operation on the replica.
pub(super) async fn run<R: AsyncRead + Unpin, S: Sink>(
    stream: &mut FrameStream<R>,
    core: &mut ReceiverCore,
    (sink, life): (&S, &Life),
    copy: (&CopyLog, &AtomicBool),
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
    (log, begun): (&CopyLog, &AtomicBool),
) -> Result<(), SessionError> {
    let (message, body) = stream.message()?;
    let action = core.message(&message, body).map_err(SessionError::Refused)?;
    match action {
        Action::WriteCopy { offset, .. } | Action::ZeroCopy { offset, .. } => log.goes_on(offset),
        Action::EndCopy(_) => log.goes_on(sink.state().copy_offset),
        _ => {}
    }
    let done = match action {
        Action::None => Ok(()),
        Action::Append { what, data } => sink.append(what, data).await,
        Action::WriteCopy { offset, data } => sink.write_copy(offset, data).await,
        Action::ZeroCopy { offset, length } => sink.zero_copy(offset, length).await,
        Action::EndCopy(consistent_from) => sink.end_copy(consistent_from).await,
        Action::BeginCopy(base) => {
            let done = sink.begin_copy(base).await;
            begun.store(done.is_ok(), Ordering::Release);
            if done.is_ok() {
                log.began();
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
    done.map_err(|error| SessionError::Refused(refuse_sink(&error)))
}
