//! Frames from and to a socket. Time limits are the core's.

use super::error::CloseReason;
use super::events::{ChunkDigest, Input, Outgoing};
use super::limits::READ_BUFFER_BYTES;
use super::source::{ChunkSpan, Extent};
use farside_protocol::link::limits::HEADER_BYTES;
use farside_protocol::link::{
    Assembler, CopyData, CopyHoles, CopySkip, FrameKind, Heartbeat, Message, chunk_digest, seal,
};
use std::io::{self, IoSlice};
use std::ops::Range;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

/// Takes frames of a remote from a socket.
#[derive(Debug)]
pub(super) struct FrameStream<R> {
    from: BufReader<R>,
    frame: Assembler,
}

impl<R: AsyncRead + Unpin> FrameStream<R> {
    pub(super) fn new(from: R) -> Self {
        Self {
            from: BufReader::with_capacity(READ_BUFFER_BYTES, from),
            frame: Assembler::default(),
        }
    }

    /// The next message as an event. Safe to drop and call again.
    pub(super) async fn receive(&mut self) -> Result<Input, CloseReason> {
        if self.frame.space().is_empty() {
            self.frame.clear();
        }
        loop {
            let count = self.from.read(self.frame.space()).await.map_err(lost)?;
            if count == 0 {
                return Err(CloseReason::Closed);
            }
            if self.frame.advance(count).map_err(CloseReason::Frame)? {
                break;
            }
        }
        match self.frame.message().map_err(CloseReason::Frame)?.0 {
            Message::Welcome(welcome) => Ok(Input::Welcome(welcome)),
            Message::Ack(ack) => Ok(Input::Ack(ack)),
            Message::Held(held) => Ok(Input::Held(held)),
            Message::Verified(answer) => Ok(Input::Verified(answer)),
            Message::Refuse(refusal) => Ok(Input::Refuse(refusal)),
            other => Err(CloseReason::Protocol(format!(
                "the remote sent {:?}",
                other.kind()
            ))),
        }
    }

    /// Reads on after a farewell, so that closing does not reset the connection before it is read.
    pub(super) async fn drain(&mut self) {
        let mut scrap = vec![0; 4096];
        while matches!(self.from.read(&mut scrap).await, Ok(count) if count > 0) {}
    }
}

/// TLS that ends without saying so ended all the same: whether a frame is missing its rest shows without that.
fn lost(error: io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => CloseReason::Closed,
        _ => CloseReason::Socket(error),
    }
}

/// What was read last from the volume: chunks or a piece of the image.
#[derive(Debug, Default)]
pub(super) struct Bulk {
    pub(super) bytes: Vec<u8>,
    pub(super) spans: Vec<ChunkSpan>,
}

impl Bulk {
    /// What the chunks are at this moment, for their signature.
    pub(super) fn digests(&self) -> Vec<ChunkDigest> {
        let part = |range: &Range<usize>| self.bytes.get(range.clone()).unwrap_or_default();
        let digest = |span: &ChunkSpan| chunk_digest(part(&span.what), part(&span.data));
        self.spans.iter().map(digest).collect()
    }
}

/// Writes one item of the stream to its end.
pub(super) async fn write<W: AsyncWrite + Unpin>(
    to: &mut W,
    item: Outgoing,
    bulk: &Bulk,
    now_us: u64,
) -> io::Result<()> {
    match item {
        Outgoing::Message(message) => to.write_all(&message.to_frame()).await?,
        Outgoing::Heartbeat { durable, journaled } => {
            let beat = Heartbeat {
                durable,
                journaled,
                time_us: now_us,
            };
            to.write_all(&Message::Heartbeat(beat).to_frame()).await?;
        }
        Outgoing::Verify(question, digests) => {
            let frame = Message::Verify(question).to_frame();
            write_pieces(to, &mut [IoSlice::new(&frame), IoSlice::new(&digests)]).await?;
        }
        Outgoing::Chunks => write_chunks(to, bulk).await?,
        Outgoing::Extent(Extent::Data { offset, length }) => {
            let data = bulk.bytes.get(..length as usize);
            let data = data.ok_or_else(|| io::Error::other("a piece of the image is not all there"))?;
            let checksum = crc32c::crc32c(data);
            let copy = CopyData {
                offset,
                length,
                checksum,
            };
            let frame = Message::CopyData(copy).to_frame();
            write_pieces(to, &mut [IoSlice::new(&frame), IoSlice::new(data)]).await?;
        }
        Outgoing::Extent(Extent::Hole { offset, length }) => {
            let frame = Message::CopyHoles(CopyHoles { offset, length }).to_frame();
            to.write_all(&frame).await?;
        }
        Outgoing::Extent(Extent::Same { offset, length }) => {
            let frame = Message::CopySkip(CopySkip { offset, length }).to_frame();
            to.write_all(&frame).await?;
        }
        Outgoing::Extent(Extent::End) => {}
    }
    to.flush().await
}

/// All chunks of a batch with as few system calls as the socket allows.
async fn write_chunks<W: AsyncWrite + Unpin>(to: &mut W, bulk: &Bulk) -> io::Result<()> {
    let torn = || io::Error::other("the journal reader named bytes outside its buffer");
    let mut parts: Vec<(&[u8], &[u8], [u8; HEADER_BYTES])> = Vec::with_capacity(bulk.spans.len());
    for span in &bulk.spans {
        let what = bulk.bytes.get(span.what.clone()).ok_or_else(torn)?;
        let data = bulk.bytes.get(span.data.clone()).ok_or_else(torn)?;
        let kind = FrameKind::Chunk;
        let data_bytes = u32::try_from(data.len()).map_err(|_| torn())?;
        if !kind.head_bytes().contains(&what.len()) || !kind.body_bytes().contains(&data_bytes) {
            return Err(torn());
        }
        parts.push((what, data, seal(kind, what, data_bytes)));
    }
    let mut pieces: Vec<IoSlice<'_>> = parts
        .iter()
        .flat_map(|(what, data, header)| [header.as_slice(), what, data])
        .filter(|piece| !piece.is_empty())
        .map(IoSlice::new)
        .collect();
    write_pieces(to, &mut pieces).await
}

async fn write_pieces<W: AsyncWrite + Unpin>(to: &mut W, pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
    let mut rest = pieces;
    while !rest.is_empty() {
        let count = to.write_vectored(rest).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut rest, count);
    }
    Ok(())
}
