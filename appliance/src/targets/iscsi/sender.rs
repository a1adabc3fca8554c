//! Messages on their way out: numbers, padding and digests.

use super::limits::COMMANDS;
use super::parameters::Parameters;
use super::receiver::wire_digest;
use crate::targets::output::Output;
use crc32c::crc32c;
use farside_protocol::iscsi::{DIGEST_BYTES, HEADER_BYTES, Residual, Response, Serial, data_in, padding};

/// What a connection sends.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) output: Output,
    header_digest: bool,
    data_digest: bool,
    segment_bytes: usize,
    burst_bytes: usize,
    /// The number of the next status.
    status: u32,
    /// The number of the command that comes next.
    pub(super) expected: u32,
    /// Commands under way.
    pub(super) outstanding: u32,
}

impl Sender {
    /// As every connection begins, with the number of the login as the next command's.
    pub(super) fn new(expected: u32) -> Self {
        Self {
            output: Output::default(),
            header_digest: false,
            data_digest: false,
            segment_bytes: 8192,
            burst_bytes: 8192,
            status: 1,
            expected,
            outstanding: 0,
        }
    }

    /// As it was negotiated.
    pub(super) fn agree(&mut self, parameters: &Parameters) {
        (self.header_digest, self.data_digest) = (parameters.header_digest, parameters.data_digest);
        self.segment_bytes = parameters.initiator_segment_bytes as usize;
        self.burst_bytes = parameters.max_burst_bytes as usize;
    }

    /// The longest data segment that the initiator takes.
    pub(super) fn segment_bytes(&self) -> usize {
        self.segment_bytes
    }

    /// The initiator takes other segments from now on.
    pub(super) fn set_segment_bytes(&mut self, bytes: u32) {
        self.segment_bytes = bytes as usize;
    }

    /// The last command that is taken now. It never goes back: a command that is taken counts once as expected no longer and
    /// once as under way.
    fn last_command(&self) -> u32 {
        self.expected.wrapping_add(self.command_room()).wrapping_sub(1)
    }

    /// How many more commands are taken now.
    pub(super) fn command_room(&self) -> u32 {
        COMMANDS.saturating_sub(self.outstanding)
    }

    /// The numbers of a message that is no status.
    pub(super) fn serial(&self) -> Serial {
        Serial {
            status: self.status,
            expected_command: self.expected,
            max_command: self.last_command(),
        }
    }

    /// The numbers of a status.
    pub(super) fn status(&mut self) -> Serial {
        let serial = self.serial();
        self.status = self.status.wrapping_add(1);
        serial
    }

    /// Room for a message with so much data: its header and digests are in place but for that of the data.
    fn room(&mut self, response: Response, data_bytes: usize) -> &mut [u8] {
        let header = response.with_data(data_bytes).bytes();
        let header_digest = if self.header_digest { DIGEST_BYTES } else { 0 };
        let padded = data_bytes + padding(data_bytes);
        let data_digest = if self.data_digest && padded > 0 {
            DIGEST_BYTES
        } else {
            0
        };
        let whole = self
            .output
            .room(HEADER_BYTES + header_digest + padded + data_digest);
        let (head, rest) = whole.split_at_mut(HEADER_BYTES);
        head.copy_from_slice(&header);
        let (digest, rest) = rest.split_at_mut(header_digest);
        if header_digest > 0 {
            digest.copy_from_slice(&wire_digest(crc32c(&header)));
        }
        // The room holds bytes of earlier messages.
        rest[data_bytes..].fill(0);
        rest
    }

    /// Sends a message.
    pub(super) fn put(&mut self, response: Response, data: &[u8]) {
        self.put_with(response, data.len(), |room| {
            room.copy_from_slice(data);
            true
        });
    }

    /// Sends a message whose data `fill` puts in its place; nothing if that does not succeed.
    pub(super) fn put_with(
        &mut self,
        response: Response,
        data_bytes: usize,
        fill: impl FnOnce(&mut [u8]) -> bool,
    ) -> bool {
        let before = self.output.len();
        let data_digest = self.data_digest;
        let rest = self.room(response, data_bytes);
        let filled = fill(&mut rest[..data_bytes]);
        if filled && data_digest && data_bytes > 0 {
            let (padded, digest) = rest.split_at_mut(data_bytes + padding(data_bytes));
            digest.copy_from_slice(&wire_digest(crc32c(padded)));
        }
        if !filled {
            let taken = self.output.len() - before;
            self.output.give_back(taken);
        }
        filled
    }

    /// Sends the data of a command, and with `residual` its good status along with the last of it. Gives the number of
    /// messages.
    pub(super) fn put_data(&mut self, tag: u32, data: &[u8], residual: Option<Residual>) -> u32 {
        let mut number = 0;
        let mut at = 0;
        while at < data.len() {
            let burst_left = self.burst_bytes - at % self.burst_bytes;
            let piece = (data.len() - at).min(self.segment_bytes).min(burst_left);
            let end = at + piece;
            let is_last = end == data.len();
            let is_final = is_last || end.is_multiple_of(self.burst_bytes);
            let good = residual.filter(|_| is_last).map(|residual| (0, residual));
            let serial = if good.is_some() {
                self.status()
            } else {
                self.serial()
            };
            let offset = u32::try_from(at).unwrap_or(u32::MAX);
            let response = data_in(tag, (number, offset), is_final, good, serial);
            self.put(response, &data[at..end]);
            number += 1;
            at = end;
        }
        number
    }

    /// Sends data that `fill` puts in its place, with a good status, in one message.
    pub(super) fn put_read(
        &mut self,
        tag: u32,
        bytes: usize,
        residual: Residual,
        fill: impl FnOnce(&mut [u8]) -> bool,
    ) -> bool {
        let response = data_in(tag, (0, 0), true, Some((0, residual)), self.serial());
        let sent = self.put_with(response, bytes, fill);
        if sent {
            self.status = self.status.wrapping_add(1);
        }
        sent
    }
}
