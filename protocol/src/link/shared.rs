//! Fields that several messages have: names and chain points.

use super::error::LinkError;
use crate::fields::{Reader, Writer};
use crate::journal::limits::NAME_BYTES;
use crate::journal::{ChainPoint, CopyState};

/// Whether `name` can name a unit, volume or remote. Names become directory names on another unit, so they
/// are 1 to 32 bytes of ASCII letters, digits, `.`, `_` and `-`, and do not begin with `.` or `-`.
#[must_use]
pub fn name_is_valid(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=NAME_BYTES).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with(['.', '-'])
}

/// Writes a name. Names are checked when a configuration is read; one that is not valid arrives as refused.
pub(super) fn put_name(to: &mut Writer<'_>, name: &str) {
    let bytes = name.as_bytes().get(..name.len().min(NAME_BYTES)).unwrap_or(&[]);
    to.u8(u8::try_from(bytes.len()).unwrap_or(0)).bytes(bytes);
    to.zeroes(NAME_BYTES.saturating_sub(bytes.len()));
}

pub(super) fn take_name(from: &mut Reader<'_>) -> Result<String, LinkError> {
    let length = usize::from(from.u8()?);
    let (name, rest) = from
        .bytes(NAME_BYTES)?
        .split_at_checked(length)
        .ok_or(LinkError::Field("name"))?;
    let name = std::str::from_utf8(name).map_err(|_| LinkError::Field("name"))?;
    if name_is_valid(name) && rest.iter().all(|byte| *byte == 0) {
        Ok(name.to_owned())
    } else {
        Err(LinkError::Field("name"))
    }
}

pub(super) fn put_point(to: &mut Writer<'_>, point: &ChainPoint) {
    to.u64(point.sequence).u64(point.record).u64(point.epoch);
    to.u64(point.sealed_at_us).u32(point.checksum).u32(0);
}

/// The address is left 0: it means something in the journal of the sender of the message only.
pub(super) fn take_point(from: &mut Reader<'_>) -> Result<ChainPoint, LinkError> {
    let point = ChainPoint {
        address: 0,
        sequence: from.u64()?,
        record: from.u64()?,
        epoch: from.u64()?,
        sealed_at_us: from.u64()?,
        checksum: from.u32()?,
        ..ChainPoint::default()
    };
    take_zeroes(from, 4)?;
    if (point.sequence == 0) == (point.record == 0) {
        Ok(point)
    } else {
        Err(LinkError::Field("chain point"))
    }
}

pub(super) fn take_zeroes(from: &mut Reader<'_>, count: usize) -> Result<(), LinkError> {
    if from.bytes(count)?.iter().all(|byte| *byte == 0) {
        Ok(())
    } else {
        Err(LinkError::Field("reserved"))
    }
}

pub(super) fn copy_code(state: CopyState) -> u8 {
    match state {
        CopyState::Empty => 0,
        CopyState::Copying => 1,
        CopyState::Complete => 2,
    }
}

pub(super) fn take_copy_state(from: &mut Reader<'_>) -> Result<CopyState, LinkError> {
    match from.u8()? {
        0 => Ok(CopyState::Empty),
        1 => Ok(CopyState::Copying),
        2 => Ok(CopyState::Complete),
        _ => Err(LinkError::Field("copy state")),
    }
}

/// Whether two points are the same place of the same history, whatever their addresses.
#[must_use]
pub fn same_place(one: &ChainPoint, other: &ChainPoint) -> bool {
    let key = |point: &ChainPoint| (point.sequence, point.record, point.epoch, point.checksum);
    key(one) == key(other)
}
