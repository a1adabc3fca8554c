//! Frames from and to a socket, with the limits on silence.

use super::inflow::{Heard, Inflow};
use super::life::Life;
use super::session::SessionError;
use crate::limits::LINGER_MS;
use farside_protocol::link::limits::{FRAME_TIMEOUT_MS, SILENCE_LIMIT_MS};
use farside_protocol::link::{Assembler, Compression, Message, Refusal};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

/// Takes frames from a socket, one at a time.
#[derive(Debug)]
pub(super) struct FrameStream<R> {
    from: Inflow<R>,
    frame: Assembler,
    heard: Arc<Heard>,
}

impl<R: AsyncRead + Unpin> FrameStream<R> {
    pub(super) fn new(from: R) -> Self {
        let (from, heard) = Inflow::new(from);
        Self {
            from,
            frame: Assembler::default(),
            heard,
        }
    }

    /// Notes from now on when something was heard: every byte counts, a long frame may take its time.
    pub(super) fn tell(&self, life: Arc<Life>) {
        self.heard.tell(life);
    }

    /// From the next frame on everything is compressed like this.
    pub(super) fn decompress(&mut self, compression: Compression) {
        self.from.decompress(compression);
    }

    /// Waits until the next frame is complete. Look at it with [`message`](Self::message). Safe to drop and
    /// call again.
    pub(super) async fn receive(&mut self) -> Result<(), SessionError> {
        if self.frame.space().is_empty() {
            self.frame.clear();
        }
        let mut deadline = None;
        loop {
            let count = self.some(deadline).await?;
            if count == 0 {
                return Err(SessionError::Closed);
            }
            deadline.get_or_insert_with(|| Instant::now() + Duration::from_millis(FRAME_TIMEOUT_MS));
            if self.frame.advance(count).map_err(SessionError::Frame)? {
                return Ok(());
            }
        }
    }

    /// Some bytes of the frame. Whatever comes over the socket breaks the silence, although a decoder may not have enough yet.
    async fn some(&mut self, deadline: Option<Instant>) -> Result<usize, SessionError> {
        let limit = Duration::from_millis(SILENCE_LIMIT_MS);
        let mut last = Instant::now();
        loop {
            let until = deadline.map_or(last + limit, |deadline| deadline.min(last + limit));
            match timeout_at(until, self.from.read(self.frame.space())).await {
                Ok(read) => return read.map_err(lost),
                Err(_) => match self.heard.after(last) {
                    Some(heard) if deadline.is_none_or(|deadline| Instant::now() < deadline) => last = heard,
                    _ => return Err(SessionError::Silence),
                },
            }
        }
    }

    pub(super) fn message(&self) -> Result<(Message<'_>, &[u8]), SessionError> {
        self.frame.message().map_err(SessionError::Frame)
    }

    /// Reads on for a moment after a refusal was sent: closing with unread bytes would reset the connection
    /// and could throw the refusal away.
    pub(super) async fn drain(&mut self) {
        let mut scrap = vec![0; 4096];
        let all = async { while matches!(self.from.read(&mut scrap).await, Ok(count) if count > 0) {} };
        let _ = timeout(Duration::from_millis(LINGER_MS), all).await;
    }
}

/// TLS that ends without saying so ended all the same: whether a frame is missing its rest shows without that.
fn lost(error: std::io::Error) -> SessionError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => SessionError::Closed,
        _ => SessionError::Socket(error),
    }
}

/// Writes a message that has no body.
pub(super) async fn send<W: AsyncWrite + Unpin>(
    to: &mut W,
    message: &Message<'_>,
) -> Result<(), SessionError> {
    let frame = message.to_frame();
    let write = async {
        to.write_all(&frame).await?;
        to.flush().await
    };
    let written = timeout(Duration::from_millis(SILENCE_LIMIT_MS), write).await;
    written
        .map_err(|_| SessionError::Silence)?
        .map_err(SessionError::Socket)
}

/// Says why, as far as the peer still listens, and ends the writing side.
pub(super) async fn refuse<W: AsyncWrite + Unpin>(to: &mut W, refusal: Refusal) {
    let say = async {
        let _ = send(to, &Message::Refuse(refusal)).await;
        let _ = to.shutdown().await;
    };
    let _ = timeout(Duration::from_millis(LINGER_MS), say).await;
}
