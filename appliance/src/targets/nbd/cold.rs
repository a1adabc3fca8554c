//! Answers that have to wait for a disk: they run beside the connection and are sent out of order, as the
//! NBD spec ("Transmission") allows.

use super::limits::{ALLOCATION_CONTEXT, EXTENTS, SPARSE_READ_BYTES};
use super::negotiation::Fault;
use crate::targets::limits::{COLD_READ_BYTES, COLD_READS};
use crate::targets::output::Output;
use crate::targets::{Disk, DiskError};
use farside_protocol::nbd::{
    BlockStatus, CommandFlags, MessageStyle, ReplyTo, Request, block_status_bytes, chunk_bytes,
    put_block_status, put_data_header, put_hole, put_read_header, read_header_bytes,
};
use farside_storage::{Allocation, Stretch};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::task::JoinSet;

/// A whole reply.
type Answer = Result<Vec<u8>, DiskError>;

/// The waiting reads and queries of one connection. Dropping it abandons them.
#[derive(Debug, Default)]
pub(super) struct ColdReads {
    reads: JoinSet<(ReplyTo, u64, Answer)>,
    waiting_bytes: u64,
}

impl ColdReads {
    pub(super) fn len(&self) -> usize {
        self.reads.len()
    }

    pub(super) fn has_room(&self) -> bool {
        self.reads.len() < COLD_READS && self.waiting_bytes < COLD_READ_BYTES
    }

    /// Starts the read `request`, which is valid: its length fits.
    pub(super) fn read<D: Disk>(&mut self, disk: &Arc<D>, request: Request, style: MessageStyle) {
        let length = u32::try_from(request.length).unwrap_or(u32::MAX);
        let fragmented = style.has_chunks() && !request.has(CommandFlags::DF) && length >= SPARSE_READ_BYTES;
        let (disk, to) = (Arc::clone(disk), request.reply_to());
        self.start(to, request.length, async move {
            if fragmented {
                sparse(disk, to, length, style).await
            } else {
                dense(disk, to, length, style).await
            }
        });
    }

    /// Starts the valid query of the block status `request`; with `one` for a single extent.
    pub(super) fn block_status<D: Disk>(
        &mut self,
        disk: &Arc<D>,
        request: Request,
        one: bool,
        style: MessageStyle,
    ) {
        let (disk, to) = (Arc::clone(disk), request.reply_to());
        let most = if one { 1 } else { EXTENTS };
        self.start(to, 0, async move {
            let found = disk.allocation(request.offset, request.length, most).await?;
            let extents: Vec<BlockStatus> = found.into_iter().map(block_status).collect();
            let count = u32::try_from(extents.len()).unwrap_or(u32::MAX);
            let mut reply = Vec::with_capacity(block_status_bytes(style, count));
            put_block_status(&mut reply, style, to, ALLOCATION_CONTEXT, &extents);
            Ok(reply)
        });
    }

    fn start(&mut self, to: ReplyTo, bytes: u64, answer: impl Future<Output = Answer> + Send + 'static) {
        self.waiting_bytes += bytes;
        self.reads.spawn(async move { (to, bytes, answer.await) });
    }

    /// Moves finished replies to `output`; the error of a failed one goes to `failed`.
    ///
    /// # Errors
    /// [`Fault::ReadLost`] when a read panicked: its cookie is lost with it, so its client has to reconnect.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        output: &mut Output,
        mut failed: impl FnMut(&mut Output, ReplyTo, DiskError),
    ) -> Result<(), Fault> {
        while let Poll::Ready(Some(joined)) = self.reads.poll_join_next(context) {
            let (to, bytes, answer) = joined.map_err(|_| Fault::ReadLost)?;
            self.waiting_bytes -= bytes;
            match answer {
                Ok(reply) => output.push(reply),
                Err(error) => failed(output, to, error),
            }
        }
        Ok(())
    }
}

/// All data in one piece.
async fn dense<D: Disk>(disk: Arc<D>, to: ReplyTo, length: u32, style: MessageStyle) -> Answer {
    let header_bytes = read_header_bytes(style, length);
    let mut reply = Vec::with_capacity(header_bytes + length as usize);
    put_read_header(&mut reply, style, to, length);
    append(&disk, (to.offset, length), reply).await
}

/// Zeroes that need no reading are told, the rest is sent.
async fn sparse<D: Disk>(disk: Arc<D>, to: ReplyTo, length: u32, style: MessageStyle) -> Answer {
    let found = disk.allocation(to.offset, u64::from(length), EXTENTS).await?;
    let pieces = pieces(to.offset, length, &found);
    if pieces.iter().all(|piece| !piece.zero) {
        return dense(disk, to, length, style).await;
    }
    let data_bytes: usize = pieces
        .iter()
        .map(|piece| if piece.zero { 0 } else { piece.length as usize })
        .sum();
    let mut reply = Vec::with_capacity(data_bytes + pieces.len() * chunk_bytes(style, 12));
    for (index, piece) in pieces.iter().enumerate() {
        let last = index + 1 == pieces.len();
        let range = (piece.offset, piece.length);
        if piece.zero {
            put_hole(&mut reply, style, to, range, last);
        } else {
            put_data_header(&mut reply, style, to, range, last);
            reply = append(&disk, range, reply).await?;
        }
    }
    Ok(reply)
}

/// Appends the content of a range, all of it.
async fn append<D: Disk>(disk: &Arc<D>, (offset, length): (u64, u32), reply: Vec<u8>) -> Answer {
    let whole = reply.len() + length as usize;
    let reply = disk.read(offset, length, reply).await?;
    debug_assert!(reply.len() == whole, "read of another length");
    if reply.len() == whole {
        Ok(reply)
    } else {
        Err(DiskError::Io)
    }
}

/// One part of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ReadPiece {
    offset: u64,
    length: u32,
    zero: bool,
}

/// The parts of a read in order, as large as possible. What is not known may hold anything.
fn pieces(offset: u64, length: u32, found: &[Stretch]) -> Vec<ReadPiece> {
    let mut pieces: Vec<ReadPiece> = Vec::new();
    let mut left = length;
    let known = found
        .iter()
        .map(|stretch| (stretch.length, stretch.allocation != Allocation::Data));
    for (bytes, zero) in known.chain([(u64::MAX, false)]) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(left);
        match pieces.last_mut() {
            _ if bytes == 0 => continue,
            Some(last) if last.zero == zero => last.length += bytes,
            _ => pieces.push(ReadPiece {
                offset: offset + u64::from(length - left),
                length: bytes,
                zero,
            }),
        }
        left -= bytes;
    }
    pieces
}

fn block_status(stretch: Stretch) -> BlockStatus {
    BlockStatus {
        length: stretch.length,
        hole: stretch.allocation == Allocation::Hole,
        zero: stretch.allocation != Allocation::Data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_cut_where_zeroes_begin_and_end() {
        let stretch = |length, allocation| Stretch { length, allocation };
        let cut = |found: &[Stretch]| -> Vec<(u64, u32, bool)> {
            pieces(100, 50, found)
                .iter()
                .map(|piece| (piece.offset, piece.length, piece.zero))
                .collect()
        };
        assert_eq!(cut(&[]), [(100, 50, false)]);
        assert_eq!(cut(&[stretch(u64::MAX, Allocation::Hole)]), [(100, 50, true)]);
        assert_eq!(
            cut(&[
                stretch(10, Allocation::Data),
                stretch(5, Allocation::Hole),
                stretch(5, Allocation::Zero),
            ]),
            [(100, 10, false), (110, 10, true), (120, 30, false)]
        );
        assert_eq!(
            cut(&[stretch(20, Allocation::Zero), stretch(900, Allocation::Data)]),
            [(100, 20, true), (120, 30, false)]
        );
    }
}
