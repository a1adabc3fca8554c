//! What comes in, as it was before it was compressed, and when something came last.

use super::life::Life;
use crate::limits::READ_BUFFER_BYTES;
use async_compression::tokio::bufread::{Lz4Decoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use farside_protocol::link::Compression;
use farside_protocol::link::limits::ZSTD_WINDOW_LOG;
use parking_lot::Mutex;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader, ReadBuf};
use tokio::time::Instant;

/// When bytes came last, whether they were of use already or not: a decoder may have to wait for more of them.
#[derive(Debug, Default)]
pub(super) struct Heard {
    last: Mutex<Option<Instant>>,
    life: Mutex<Option<Arc<Life>>>,
}

impl Heard {
    /// Whether something came after `time`.
    pub(super) fn after(&self, time: Instant) -> Option<Instant> {
        self.last.lock().filter(|last| *last > time)
    }

    /// Notes it there, too, from now on.
    pub(super) fn tell(&self, life: Arc<Life>) {
        life.heard();
        *self.life.lock() = Some(life);
    }

    fn now(&self) {
        *self.last.lock() = Some(Instant::now());
        if let Some(life) = &*self.life.lock() {
            life.heard();
        }
    }
}

/// Notes when something comes.
#[derive(Debug)]
pub(super) struct Listening<R> {
    from: R,
    heard: Arc<Heard>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Listening<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        ready!(Pin::new(&mut self.from).poll_read(context, to))?;
        if to.filled().len() > before {
            self.heard.now();
        }
        Poll::Ready(Ok(()))
    }
}

type Plain<R> = BufReader<Listening<R>>;

/// One direction of a connection.
#[derive(Debug)]
pub(super) enum Inflow<R> {
    /// As it comes.
    Plain(Plain<R>),
    /// Compressed with LZ4.
    Lz4(BufReader<Lz4Decoder<Plain<R>>>),
    /// Compressed with Zstandard.
    Zstd(BufReader<ZstdDecoder<Plain<R>>>),
    /// While one becomes another.
    Gone,
}

impl<R: AsyncRead + Unpin> Inflow<R> {
    pub(super) fn new(from: R) -> (Self, Arc<Heard>) {
        let heard = Arc::new(Heard::default());
        let listening = Listening {
            from,
            heard: Arc::clone(&heard),
        };
        (
            Self::Plain(BufReader::with_capacity(READ_BUFFER_BYTES, listening)),
            heard,
        )
    }

    /// Everything that was not read yet is compressed like this.
    pub(super) fn decompress(&mut self, compression: Compression) {
        *self = match (std::mem::replace(self, Self::Gone), compression) {
            (Self::Plain(plain), Compression::Lz4) => Self::Lz4(BufReader::with_capacity(
                READ_BUFFER_BYTES,
                Lz4Decoder::new(plain),
            )),
            (Self::Plain(plain), Compression::Zstd) => {
                // So that a sender cannot make this side hold more.
                let window = [DParameter::window_log_max(ZSTD_WINDOW_LOG)];
                let decoder = ZstdDecoder::with_params(plain, &window);
                Self::Zstd(BufReader::with_capacity(READ_BUFFER_BYTES, decoder))
            }
            (as_it_is, _) => as_it_is,
        };
    }

    pub(super) async fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(from) => from.read(to).await,
            Self::Lz4(from) => from.read(to).await,
            Self::Zstd(from) => from.read(to).await,
            Self::Gone => Ok(0),
        }
    }
}
