//! A disk as SCSI sees it: commands are decided here, one logical unit for each volume, whatever carries the commands.
//!
//! Rules come from SPC-4 and SBC-3. A command is [decided](LogicalUnit::decide) at once as far as that needs no disk; what does
//! is told as something to do, so that the transport can gather changes into batches. Guarantees: the order of what is
//! checked is the standards' (unit attention, reservation, command); nothing is changed by a command that is refused. Never
//! here: sessions, sequence numbers, buffers.

mod limits;
mod answer;
mod reservations;
mod persistent;
mod guard;
mod inquiry;
mod modes;
mod capacity;
mod reports;
mod media;
mod unmap;
mod seat;
mod unit;

pub(super) use answer::{Answer, Later, Plan};
pub(super) use inquiry::inquire_nothing;
pub(super) use limits::BLOCK_BYTES;
pub(super) use reports::report_luns;
pub(super) use seat::Seat;
pub(super) use unit::{Caller, LogicalUnit, Sweep};

use farside_protocol::scsi::{Cdb, CompareMode};
use limits::{COMPARE_BLOCKS, TRANSFER_BLOCKS};

/// Bytes that a command takes from the initiator.
pub(super) fn data_out_bytes(cdb: &Cdb) -> u64 {
    let blocks = match cdb {
        Cdb::Write { extent, .. }
        | Cdb::WriteAndVerify { extent, .. }
        | Cdb::OrWrite { extent, .. }
        | Cdb::Verify {
            extent,
            compare: CompareMode::Data,
        } => u64::from(extent.blocks),
        Cdb::Verify {
            extent,
            compare: CompareMode::OneBlock,
        } => u64::from(extent.blocks.min(1)),
        Cdb::CompareAndWrite { extent, .. } => u64::from(extent.blocks) * 2,
        Cdb::WriteSame { no_data: false, .. } => 1,
        Cdb::Unmap { parameter_bytes, .. }
        | Cdb::ModeSelect { parameter_bytes, .. }
        | Cdb::PersistentReserveOut { parameter_bytes, .. } => return u64::from(*parameter_bytes),
        _ => 0,
    };
    blocks * u64::from(BLOCK_BYTES)
}

/// Most bytes that any command takes: what a transport has to have room for.
pub(super) const MOST_DATA_OUT_BYTES: u64 = TRANSFER_BLOCKS as u64 * BLOCK_BYTES as u64;

const _: () = assert!(
    COMPARE_BLOCKS as u64 * 2 * (BLOCK_BYTES as u64) < MOST_DATA_OUT_BYTES,
    "a comparison takes less than the longest transfer"
);
