//! What goes out to a remote, compressed if both ends agreed on that, and how many bytes it was before and after.

use async_compression::Level;
use async_compression::tokio::write::{Lz4Encoder, ZstdEncoder};
use async_compression::zstd::CParameter;
use farside_protocol::link::Compression;
use farside_protocol::link::limits::ZSTD_WINDOW_LOG;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Counts what goes to the socket.
#[derive(Debug)]
struct Counted<W> {
    to: W,
    bytes: u64,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Counted<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.to).poll_write(context, from))?;
        self.bytes = self.bytes.saturating_add(length(count));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_shutdown(context)
    }
}

/// One direction of a connection.
#[derive(Debug)]
enum Stream<W> {
    Plain(W),
    Lz4(Box<Lz4Encoder<Counted<W>>>),
    Zstd(Box<ZstdEncoder<Counted<W>>>),
    /// While one becomes another.
    Gone,
}

/// What the sender writes to.
#[derive(Debug)]
pub(super) struct Outlet<W> {
    stream: Stream<W>,
    /// Bytes that were given to be compressed.
    given: u64,
}

impl<W: AsyncWrite + Unpin> Outlet<W> {
    pub(super) fn new(to: W) -> Self {
        Self {
            stream: Stream::Plain(to),
            given: 0,
        }
    }

    /// Everything from here on is compressed. To be called between two frames.
    pub(super) fn compress(&mut self, compression: Compression) {
        self.stream = match (std::mem::replace(&mut self.stream, Stream::Gone), compression) {
            (Stream::Plain(to), Compression::Lz4) => {
                Stream::Lz4(Box::new(Lz4Encoder::new(Counted { to, bytes: 0 })))
            }
            (Stream::Plain(to), Compression::Zstd) => {
                let window = [CParameter::window_log(ZSTD_WINDOW_LOG)];
                let to = Counted { to, bytes: 0 };
                Stream::Zstd(Box::new(ZstdEncoder::with_quality_and_params(
                    to,
                    Level::Default,
                    &window,
                )))
            }
            (as_it_is, _) => as_it_is,
        };
    }

    /// Bytes before and after compression, if there is any.
    pub(super) fn compressed(&self) -> Option<(u64, u64)> {
        match &self.stream {
            Stream::Plain(_) | Stream::Gone => None,
            Stream::Lz4(encoder) => Some((self.given, encoder.get_ref().bytes)),
            Stream::Zstd(encoder) => Some((self.given, encoder.get_ref().bytes)),
        }
    }

    fn note(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let count = ready!(written)?;
        self.given = self.given.saturating_add(length(count));
        Poll::Ready(Ok(count))
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

fn length(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Outlet<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.stream {
            Stream::Plain(to) => Pin::new(to).poll_write(context, from),
            Stream::Lz4(to) => Pin::new(to).poll_write(context, from),
            Stream::Zstd(to) => Pin::new(to).poll_write(context, from),
            Stream::Gone => Poll::Ready(Err(gone())),
        };
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Stream::Plain(to) = &mut self.stream {
            return Pin::new(to).poll_write_vectored(context, from);
        }
        let first = from.iter().find(|piece| !piece.is_empty());
        first.map_or(Poll::Ready(Ok(0)), |piece| self.poll_write(context, piece))
    }

    fn is_write_vectored(&self) -> bool {
        matches!(&self.stream, Stream::Plain(to) if to.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(to) => Pin::new(to).poll_flush(context),
            Stream::Lz4(to) => Pin::new(to).poll_flush(context),
            Stream::Zstd(to) => Pin::new(to).poll_flush(context),
            Stream::Gone => Poll::Ready(Err(gone())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(to) => Pin::new(to).poll_shutdown(context),
            Stream::Lz4(to) => Pin::new(to).poll_shutdown(context),
            Stream::Zstd(to) => Pin::new(to).poll_shutdown(context),
            Stream::Gone => Poll::Ready(Err(gone())),
        }
    }
}
