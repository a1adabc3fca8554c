//! Reads that have to wait for a disk: they run beside the connection and are answered out of order, as the
//! NBD spec ("Transmission") allows.

use super::limits::{COLD_READ_BYTES, COLD_READS};
use super::negotiation::Fault;
use super::output::Output;
use crate::targets::{Disk, DiskError};
use farside_protocol::nbd::{ReplyStyle, Request, put_read_header, read_header_bytes};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::task::JoinSet;

/// The waiting reads of one connection. Dropping it abandons them.
#[derive(Debug, Default)]
pub(super) struct ColdReads {
    reads: JoinSet<(Request, Result<Vec<u8>, DiskError>)>,
    waiting_bytes: u64,
}

impl ColdReads {
    pub(super) fn len(&self) -> usize {
        self.reads.len()
    }

    pub(super) fn has_room(&self) -> bool {
        self.reads.len() < COLD_READS && self.waiting_bytes < COLD_READ_BYTES
    }

    /// Starts `request`, which is valid.
    pub(super) fn start<D: Disk>(&mut self, disk: &Arc<D>, request: Request, style: ReplyStyle) {
        self.waiting_bytes += u64::from(request.length);
        let disk = Arc::clone(disk);
        self.reads.spawn(async move {
            let header_bytes = read_header_bytes(style, request.length);
            let mut reply = Vec::with_capacity(header_bytes + request.length as usize);
            put_read_header(&mut reply, style, request.cookie, request.offset, request.length);
            let result = disk.read(request.offset, request.length, reply).await;
            let whole = header_bytes + request.length as usize;
            debug_assert!(
                result.as_ref().map_or(true, |reply| reply.len() == whole),
                "read of another length"
            );
            (
                request,
                result.and_then(|reply| {
                    if reply.len() == whole {
                        Ok(reply)
                    } else {
                        Err(DiskError::Io)
                    }
                }),
            )
        });
    }

    /// Moves the replies of finished reads to `output`; a failed read's error goes to `failed`.
    ///
    /// # Errors
    /// [`Fault::ReadLost`] when a read panicked: its cookie is lost with it, so its client has to reconnect.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        output: &mut Output,
        mut failed: impl FnMut(&mut Output, u64, DiskError),
    ) -> Result<(), Fault> {
        while let Poll::Ready(Some(joined)) = self.reads.poll_join_next(context) {
            let (request, result) = joined.map_err(|_| Fault::ReadLost)?;
            self.waiting_bytes -= u64::from(request.length);
            match result {
                Ok(reply) => output.push(reply),
                Err(error) => failed(output, request.cookie, error),
            }
        }
        Ok(())
    }
}
