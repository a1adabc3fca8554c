//! Fields that stand in a superblock more than once, and the numbers of its states.

use super::super::error::{FormatError, take_zeroes};
use super::super::limits::NAME_BYTES;
use super::{CONSUMER_PAD, ChainPoint, ConsumerSlot, ConsumerState, CopyState, Role};
use crate::fields::{Reader, Writer};
use crate::link::name_is_valid;

pub(super) fn put_point(to: &mut Writer<'_>, point: &ChainPoint) {
    to.u64(point.address)
        .u64(point.sequence)
        .u64(point.record)
        .u64(point.epoch);
    to.u64(point.sealed_at_us)
        .u32(point.checksum)
        .u32(0)
        .u64(point.blocks)
        .u64(point.bytes);
}

pub(super) fn take_point(from: &mut Reader<'_>) -> Result<ChainPoint, FormatError> {
    let (address, sequence, record, epoch) = (from.u64()?, from.u64()?, from.u64()?, from.u64()?);
    let (sealed_at_us, checksum) = (from.u64()?, from.u32()?);
    take_zeroes(from, 4)?;
    let (blocks, bytes) = (from.u64()?, from.u64()?);
    Ok(ChainPoint {
        address,
        sequence,
        record,
        epoch,
        sealed_at_us,
        checksum,
        blocks,
        bytes,
    })
}

pub(super) fn put_name(to: &mut Writer<'_>, name: &str) {
    assert!(name.len() <= NAME_BYTES, "names have at most {NAME_BYTES} bytes");
    to.u8(u8::try_from(name.len()).unwrap_or(0))
        .bytes(name.as_bytes());
    to.zeroes(NAME_BYTES.saturating_sub(name.len()));
}

pub(super) fn take_name(from: &mut Reader<'_>) -> Result<String, FormatError> {
    let length = usize::from(from.u8()?);
    let field = from.bytes(NAME_BYTES)?;
    let (name, rest) = field.split_at_checked(length).ok_or(FormatError::Field("name"))?;
    let name = std::str::from_utf8(name).map_err(|_| FormatError::Field("name"))?;
    // Names become file names.
    if !name_is_valid(name) || rest.iter().any(|byte| *byte != 0) {
        return Err(FormatError::Field("name"));
    }
    Ok(name.to_owned())
}

pub(super) fn take_consumer(from: &mut Reader<'_>) -> Result<ConsumerSlot, FormatError> {
    let name = take_name(from)?;
    take_zeroes(from, CONSUMER_PAD)?;
    let (state, copy_id) = (from.u32()?, from.u32()?);
    let state = match state {
        0 => ConsumerState::NeedsCopy,
        1 => ConsumerState::Copying,
        2 => ConsumerState::Attached,
        _ => return Err(FormatError::Field("consumer state")),
    };
    Ok(ConsumerSlot {
        name,
        state,
        acked: take_point(from)?,
        copy_id,
    })
}

pub(super) fn consumer_code(state: ConsumerState) -> u32 {
    match state {
        ConsumerState::NeedsCopy => 0,
        ConsumerState::Copying => 1,
        ConsumerState::Attached => 2,
    }
}

pub(super) fn role_code(role: Role) -> u16 {
    match role {
        Role::Volume => 1,
        Role::Replica => 2,
        Role::History => 3,
    }
}

pub(super) fn decode_role(code: u16) -> Result<Role, FormatError> {
    match code {
        1 => Ok(Role::Volume),
        2 => Ok(Role::Replica),
        3 => Ok(Role::History),
        _ => Err(FormatError::Field("role")),
    }
}

pub(super) fn copy_code(state: CopyState) -> u32 {
    match state {
        CopyState::Empty => 0,
        CopyState::Copying => 1,
        CopyState::Complete => 2,
    }
}

pub(super) fn decode_copy(code: u32) -> Result<CopyState, FormatError> {
    match code {
        0 => Ok(CopyState::Empty),
        1 => Ok(CopyState::Copying),
        2 => Ok(CopyState::Complete),
        _ => Err(FormatError::Field("copy state")),
    }
}
