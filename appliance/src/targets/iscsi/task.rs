//! Commands under way.

use crate::targets::scsi::{Answer, MOST_DATA_OUT_BYTES, Seat, data_out_bytes};
use farside_protocol::iscsi::{Command, Residual};
use farside_protocol::scsi::Cdb;
use std::sync::Arc;

/// What is known of a command until it is answered.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) tag: u32,
    /// The unit, as its initiator writes its number, and as [`lun_bytes`] does.
    pub(super) address: u64,
    /// See `address`.
    pub(super) lun: u64,
    /// Where its initiator stands with the unit, and how often its tasks had been aborted when this one came.
    pub(super) seat: Option<(Arc<Seat>, u64)>,
    /// Bytes that the initiator takes and has.
    expected_in: u32,
    expected_out: u32,
    /// Bytes that the command takes, if it takes any.
    pub(super) takes: u32,
    /// Messages of data and requests for data so far.
    pub(super) sequences: u32,
    /// It is counted in the command window.
    pub(super) counted: bool,
    /// Bytes that it holds beyond what came unasked.
    pub(super) held: u64,
}

impl Task {
    pub(super) fn new(tag: u32, address: u64, command: &Command, cdb: Option<&Cdb>, counted: bool) -> Self {
        let expected = |used: bool| if used { command.expected_bytes } else { 0 };
        Self {
            tag,
            address,
            lun: canonical(address),
            seat: None,
            // Of a command with data both ways the expected length is that of what goes out.
            expected_in: expected(command.reads && !command.writes),
            expected_out: expected(command.writes),
            takes: cdb.map_or(0, |cdb| u32::try_from(data_out_bytes(cdb)).unwrap_or(u32::MAX)),
            sequences: 0,
            counted,
            held: 0,
        }
    }

    /// Bytes that are going to be taken from the initiator.
    pub(super) fn wanted(&self) -> u32 {
        // No command that is carried out takes more.
        let most = u32::try_from(MOST_DATA_OUT_BYTES).unwrap_or(u32::MAX);
        self.takes.min(self.expected_out).min(most)
    }

    /// Whether the initiator sends another amount than the command takes, of a command whose data makes sense as a whole only.
    pub(super) fn is_misfit(&self, cdb: &Cdb) -> bool {
        let is_whole = matches!(
            cdb,
            Cdb::CompareAndWrite { .. } | Cdb::WriteSame { no_data: false, .. }
        );
        is_whole && self.takes != self.expected_out
    }

    /// Resolves when [`is_aborted`](Self::is_aborted).
    pub(super) fn aborted(&self) -> impl Future<Output = ()> + Send + use<> {
        let seat = self.seat.clone();
        async move {
            match seat {
                Some((seat, aborted)) => seat.aborted_after(aborted).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Whether all tasks of its initiator in the unit were aborted since it came.
    pub(super) fn is_aborted(&self) -> bool {
        self.seat
            .as_ref()
            .is_some_and(|(seat, aborted)| seat.aborted() != *aborted)
    }

    /// How much of this data goes out.
    pub(super) fn fits(&self, data_bytes: usize) -> usize {
        data_bytes.min(self.expected_in as usize)
    }

    /// By how much the transfer differs from what was expected (section 11.4.5).
    pub(super) fn residual(&self, answer: &Answer) -> Residual {
        let moves = if self.expected_out > 0 || self.takes > 0 {
            (u64::from(self.takes), self.expected_out)
        } else {
            (answer.data.len() as u64, self.expected_in)
        };
        residual(moves)
    }

    /// The same for so many bytes that go to the initiator.
    pub(super) fn residual_of_read(&self, bytes: u32) -> Residual {
        residual((u64::from(bytes), self.expected_in))
    }
}

fn residual((moves, expected): (u64, u32)) -> Residual {
    let count = |difference: u64| u32::try_from(difference).unwrap_or(u32::MAX);
    match moves.cmp(&u64::from(expected)) {
        std::cmp::Ordering::Equal => Residual::None,
        std::cmp::Ordering::Greater => Residual::Overflow(count(moves - u64::from(expected))),
        std::cmp::Ordering::Less => Residual::Underflow(count(u64::from(expected) - moves)),
    }
}

/// The number in a logical unit number, of one level, by peripheral or flat addressing (SAM-5, section 4.7).
pub(super) fn lun_number(lun: u64) -> Option<u16> {
    let [b0, b1, rest @ ..] = lun.to_be_bytes();
    match (b0 >> 6, b0 & 0x3f) {
        _ if rest != [0; 6] => None,
        (0, 0) => Some(u16::from(b1)),
        (1, high) => Some(u16::from_be_bytes([high, b1])),
        _ => None,
    }
}

/// The same the other way.
pub(super) fn lun_bytes(number: u16) -> u64 {
    let flat = if number > 255 { 1 << 62 } else { 0 };
    (u64::from(number) << 48) | flat
}

/// One address for each unit, of all that initiators have for it.
pub(super) fn canonical(lun: u64) -> u64 {
    lun_number(lun).map_or(lun, lun_bytes)
}
