//! The data of a writing command as it arrives (RFC 7143, sections 4.2.4.2, 11.7 and 11.8). No sockets.

use super::limits::MAX_BURST_BYTES;
use bytes::{Bytes, BytesMut};
use farside_protocol::iscsi::DataOut;
use farside_protocol::scsi::{Additional, Sense, SenseKey};

/// A command's data on its way.
#[derive(Debug)]
pub(super) struct Transfer {
    /// Data in one piece, as long as that is all.
    whole: Option<Bytes>,
    buffer: BytesMut,
    /// Bytes that the command takes of what the initiator has.
    wanted: u32,
    /// Bytes that have arrived, also those that nobody wants.
    arrived: u32,
    /// The number that the next message of the sequence has to have.
    number: u32,
    phase: Phase,
    /// What was wrong first; the command fails once its sequence is over.
    failure: Option<Sense>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Data comes unasked for, so much of it at most.
    Unsolicited { most: u32 },
    /// Nothing is expected until it is asked for.
    Idle,
    /// Data up to this byte was asked for under this tag.
    Solicited { tag: u32, end: u32 },
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// More comes by itself.
    Wait,
    /// Ask for more.
    Ask,
    /// Nothing: that was all, or all there will be.
    Done,
}

const fn aborted(additional: Additional) -> Sense {
    Sense::new(SenseKey::AbortedCommand, additional)
}

impl Transfer {
    /// Data that came with the command; with `more` unasked for data follows, `most` in all.
    pub(super) fn new(immediate: Bytes, wanted: u32, more: bool, most: u32) -> Self {
        let arrived = u32::try_from(immediate.len()).unwrap_or(u32::MAX);
        let failure = (arrived > most).then_some(aborted(Additional::UnexpectedUnsolicitedData));
        let phase = if more {
            Phase::Unsolicited { most }
        } else {
            Phase::Idle
        };
        let mut transfer = Self {
            whole: None,
            buffer: BytesMut::new(),
            wanted,
            arrived: 0,
            number: 0,
            phase,
            failure,
        };
        transfer.keep(immediate);
        transfer
    }

    fn keep(&mut self, mut data: Bytes) {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let room = self.wanted.saturating_sub(self.arrived);
        let is_first = self.arrived == 0;
        self.arrived = self.arrived.saturating_add(length);
        data.truncate(room as usize);
        if is_first {
            self.whole = Some(data);
            return;
        }
        if let Some(first) = self.whole.take() {
            self.buffer
                .reserve((self.wanted as usize).min(MAX_BURST_BYTES as usize));
            self.buffer.extend_from_slice(&first);
        }
        self.buffer.extend_from_slice(&data);
    }

    /// Whether something was wrong with the data.
    pub(super) fn failure(&self) -> Option<Sense> {
        self.failure
    }

    /// Data was damaged on its way: the command fails, and nothing of it is written.
    pub(super) fn damaged(&mut self) {
        self.failure
            .get_or_insert(aborted(Additional::ProtocolServiceCrcError));
    }

    /// The command is not carried out: none of its data is wanted any more.
    pub(super) fn refuse(&mut self) {
        self.wanted = 0;
        (self.whole, self.buffer) = (None, BytesMut::new());
    }

    /// What is to be done now.
    pub(super) fn next(&self) -> Next {
        match self.phase {
            Phase::Unsolicited { .. } | Phase::Solicited { .. } => Next::Wait,
            Phase::Idle if self.failure.is_some() || self.arrived >= self.wanted => Next::Done,
            Phase::Idle => Next::Ask,
        }
    }

    /// Asks for the next part under this tag: its offset and length.
    pub(super) fn ask(&mut self, tag: u32, most: u32) -> (u32, u32) {
        let length = self.missing().min(most);
        let end = self.arrived + length;
        self.phase = Phase::Solicited { tag, end };
        self.number = 0;
        (self.arrived, length)
    }

    /// Bytes that are still to be asked for.
    pub(super) fn missing(&self) -> u32 {
        self.wanted.saturating_sub(self.arrived)
    }

    /// Takes a message of data; false if it belongs to nothing that was asked for.
    pub(super) fn take(&mut self, message: &DataOut, data: Bytes, tag_of_none: u32) -> bool {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let end = self.arrived.saturating_add(length);
        let (belongs, fits) = match self.phase {
            Phase::Idle => return false,
            Phase::Unsolicited { most } => (message.transfer_tag == tag_of_none, end <= most),
            Phase::Solicited { tag, end: last } => (message.transfer_tag == tag, end <= last),
        };
        if !belongs {
            return false;
        }
        if message.number != self.number || message.offset != self.arrived || !fits {
            self.failure
                .get_or_insert(aborted(Additional::IncorrectAmountOfData));
        }
        self.number = self.number.wrapping_add(1);
        if self.failure.is_none() {
            self.keep(data);
        }
        if message.is_final {
            if matches!(self.phase, Phase::Solicited { end, .. } if self.arrived != end) {
                self.failure
                    .get_or_insert(aborted(Additional::IncorrectAmountOfData));
            }
            self.phase = Phase::Idle;
        }
        true
    }

    /// What has arrived.
    pub(super) fn data(self) -> Bytes {
        self.whole.unwrap_or_else(|| self.buffer.freeze())
    }
}
