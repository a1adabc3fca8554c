//! Single frames over a stream, as long as two units only greet each other.

use farside_protocol::link::limits::HELLO_TIMEOUT_MS;
use farside_protocol::link::{Assembler, LinkError, Message, Refusal};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// How long a greeting may take in all.
pub(super) const PATIENCE: Duration = Duration::from_millis(HELLO_TIMEOUT_MS);
/// How long a connection is read on after a refusal, so that the refusal is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);

/// Reads one frame into `frame`.
pub(super) async fn receive<R: AsyncRead + Unpin>(from: &mut R, frame: &mut Assembler) -> io::Result<()> {
    loop {
        let count = from.read(frame.space()).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let complete = frame.advance(count);
        if complete.map_err(|error: LinkError| io::Error::new(io::ErrorKind::InvalidData, error))? {
            return Ok(());
        }
    }
}

/// Writes one frame.
pub(super) async fn send<W: AsyncWrite + Unpin>(to: &mut W, message: &Message<'_>) -> io::Result<()> {
    to.write_all(&message.to_frame()).await?;
    to.flush().await
}

/// Says why not, and waits a moment for it to be read.
pub(super) async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, refusal: Refusal) {
    let say = async {
        let _ = send(stream, &Message::Refuse(refusal)).await;
        let _ = stream.shutdown().await;
        let mut scrap = [0; 512];
        while matches!(stream.read(&mut scrap).await, Ok(count) if count > 0) {}
    };
    let _ = timeout(LINGER, say).await;
}
