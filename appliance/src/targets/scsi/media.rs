//! Commands that read and change blocks (SBC-3, section 5).

use super::answer::{Answer, Plan};
use super::limits::{BLOCK_BYTES, PIECE_BYTES, TRANSFER_BLOCKS};
use crate::targets::{Disk, DiskError, Update};
use bytes::Bytes;
use farside_protocol::scsi::{Additional, CompareMode, Extent, Sense, SenseKey};
use std::sync::Arc;

/// Offset and length in bytes.
pub(super) fn bytes_of(extent: Extent) -> (u64, u64) {
    let block = u64::from(BLOCK_BYTES);
    (extent.lba * block, u64::from(extent.blocks) * block)
}

/// Refuses what is beyond the end, or longer than one command may be.
pub(super) fn check_extent(extent: Extent, blocks: u64, most: u32) -> Result<(), Sense> {
    let end = extent.lba.checked_add(u64::from(extent.blocks));
    if end.is_none_or(|end| end > blocks) {
        return Err(Sense::illegal(Additional::LbaOutOfRange));
    }
    if extent.blocks > most {
        return Err(Sense::illegal(Additional::InvalidFieldInCdb));
    }
    Ok(())
}

pub(super) fn read(extent: Extent) -> Plan {
    let (offset, length) = bytes_of(extent);
    match u32::try_from(length) {
        Ok(0) => Plan::Answered(Answer::good()),
        Ok(length) => Plan::Read { offset, length },
        Err(_) => Plan::Answered(Answer::check(Sense::illegal(Additional::InvalidFieldInCdb))),
    }
}

/// What arrived is written, which is less than the extent if the initiator said that it would send less.
pub(super) fn write(extent: Extent, data: Bytes, forced: bool) -> Plan {
    let (offset, _) = bytes_of(extent);
    if data.is_empty() {
        return Plan::Answered(Answer::good());
    }
    Plan::Change {
        updates: vec![Update::Write { offset, data }],
        forced,
    }
}

fn miscompare(at: usize) -> Answer {
    Answer::check(Sense {
        information: u64::try_from(at).ok(),
        ..Sense::new(SenseKey::Miscompare, Additional::MiscompareDuringVerify)
    })
}

/// Reads a range in pieces and compares each with `expected`, which gives the bytes of a part of it.
async fn compare<D: Disk>(
    disk: &Arc<D>,
    (offset, length): (u64, u64),
    expected: impl Fn(usize, &[u8]) -> Option<usize> + Send,
) -> Result<(), Answer> {
    let mut done = 0;
    while done < length {
        let piece = u32::try_from(length - done).unwrap_or(u32::MAX).min(PIECE_BYTES);
        let found = disk
            .read(offset + done, piece, Vec::new())
            .await
            .map_err(|error| Answer::failed(error, false))?;
        let at = usize::try_from(done).unwrap_or(usize::MAX);
        if let Some(differs) = expected(at, &found) {
            return Err(miscompare(at + differs));
        }
        done += u64::from(piece);
    }
    Ok(())
}

/// The first byte in which two differ.
fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    one.iter().zip(other).position(|(one, other)| one != other)
}

fn difference(mode: CompareMode, data: &Bytes) -> impl Fn(usize, &[u8]) -> Option<usize> + Send + use<> {
    let data = data.clone();
    move |at, found| match mode {
        CompareMode::Nothing => None,
        CompareMode::Data => first_difference(data.get(at..).unwrap_or_default(), found),
        CompareMode::OneBlock => {
            found
                .chunks(BLOCK_BYTES as usize)
                .enumerate()
                .find_map(|(number, block)| {
                    first_difference(&data, block).map(|byte| number * BLOCK_BYTES as usize + byte)
                })
        }
    }
}

/// VERIFY: what is there can be read, and is what was sent.
pub(super) fn verify<D: Disk>(disk: &Arc<D>, extent: Extent, mode: CompareMode, data: &Bytes) -> Plan {
    let (disk, range, differs) = (Arc::clone(disk), bytes_of(extent), difference(mode, data));
    Plan::asks(async move {
        let compared = compare(&disk, range, differs).await;
        compared.map_or_else(|failed| failed, |()| Answer::good())
    })
}

/// WRITE AND VERIFY: written durably, then verified.
pub(super) fn write_and_verify<D: Disk>(
    disk: &Arc<D>,
    extent: Extent,
    mode: CompareMode,
    data: Bytes,
) -> Plan {
    let (disk, (offset, _)) = (Arc::clone(disk), bytes_of(extent));
    if data.is_empty() {
        return Plan::Answered(Answer::good());
    }
    Plan::alters(async move {
        let range = (offset, data.len() as u64);
        let differs = difference(mode, &data);
        let position = match disk.update(&mut vec![Update::Write { offset, data }]).await {
            Ok(position) => position,
            Err(error) => return Answer::failed(error, true),
        };
        match compare(&disk, range, differs).await {
            Ok(()) => Answer {
                durable: Some(position),
                ..Answer::good()
            },
            Err(failed) => failed,
        }
    })
}

/// COMPARE AND WRITE: if the extent holds the first half of the data, the second takes its place; nothing comes between.
pub(super) fn compare_and_write<D: Disk>(disk: &Arc<D>, extent: Extent, data: Bytes, forced: bool) -> Plan {
    let (disk, (offset, length)) = (Arc::clone(disk), bytes_of(extent));
    let half = usize::try_from(length).unwrap_or(usize::MAX);
    if data.len() != half.saturating_mul(2) {
        return Plan::Answered(Answer::check(Sense::illegal(Additional::InvalidFieldInCdb)));
    }
    if data.is_empty() {
        return Plan::Answered(Answer::good());
    }
    Plan::alters(async move {
        let (expected, new) = (data.slice(..half), data.slice(half..));
        let mut differs = None;
        let judge = |found: &[u8]| {
            differs = first_difference(&expected, found);
            differs.is_none().then_some(new)
        };
        let modified = disk.modify(offset, length, judge).await;
        settled(modified, forced, differs)
    })
}

/// ORWRITE: every bit of the data is set where the extent had it or the data has it; nothing comes between.
pub(super) fn or_write<D: Disk>(disk: &Arc<D>, extent: Extent, data: Bytes, forced: bool) -> Plan {
    let (disk, (offset, _)) = (Arc::clone(disk), bytes_of(extent));
    if data.is_empty() {
        return Plan::Answered(Answer::good());
    }
    Plan::alters(async move {
        let judge = |found: &[u8]| {
            let joined: Vec<u8> = found.iter().zip(&data).map(|(old, new)| old | new).collect();
            Some(Bytes::from(joined))
        };
        let modified = disk.modify(offset, data.len() as u64, judge).await;
        settled(modified, forced, None)
    })
}

fn settled(modified: Result<Option<u64>, DiskError>, forced: bool, differs: Option<usize>) -> Answer {
    match modified {
        Err(error) => Answer::failed(error, true),
        Ok(None) => miscompare(differs.unwrap_or(0)),
        Ok(position) => Answer {
            durable: position.filter(|_| forced),
            ..Answer::good()
        },
    }
}

const _: () = assert!(
    TRANSFER_BLOCKS as u64 * BLOCK_BYTES as u64 <= u32::MAX as u64,
    "the longest transfer has a length of 32 bits"
);
