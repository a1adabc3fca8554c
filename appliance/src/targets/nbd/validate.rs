//! Decides whether a request may be carried out; no sockets, no disk.
//!
//! Rules: NBD spec, sections "Command flags", "Request types", "Error values" and "Size constraints".

use super::limits::{MAX_PAYLOAD_BYTES, STATUS_PAYLOADS};
use super::negotiation::Terms;
use crate::targets::DiskGeometry;
use farside_protocol::nbd::{Command, CommandFlags, Errno, MessageStyle, Request};

/// What a valid request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Return data.
    Read,
    /// Store the payload.
    Write,
    /// Give space back.
    Trim,
    /// Write zeroes.
    Zero {
        /// Keep the space reserved.
        allocate: bool,
    },
    /// Tell which parts are allocated.
    BlockStatus {
        /// One extent only.
        one: bool,
    },
    /// Wait until what is completed is durable.
    Flush,
    /// Nothing to do but to say so: cache hints and changes of zero length.
    Nothing,
    /// End the connection.
    Disconnect,
}

/// Checks `request` against the disk as it is now.
///
/// # Errors
/// The value to answer with.
pub(super) fn validate(request: &Request, geometry: DiskGeometry, terms: Terms) -> Result<Task, Errno> {
    check_flags(request, terms.style)?;
    match request.command {
        Command::Disconnect => Ok(Task::Disconnect),
        Command::Unknown(_) => Err(Errno::Inval),
        Command::Flush if request.offset != 0 || request.length != 0 => Err(Errno::Inval),
        Command::Flush => Ok(Task::Flush),
        Command::Read => {
            check_range(request, geometry, Errno::Inval)?;
            check_read_length(request, terms.style)?;
            Ok(Task::Read)
        }
        Command::Cache => check_range(request, geometry, Errno::Inval).map(|()| Task::Nothing),
        Command::Write if !request.has_payload => Err(Errno::Inval),
        Command::Write => {
            if request.length > u64::from(MAX_PAYLOAD_BYTES) {
                return Err(Errno::Inval);
            }
            check_change(request, geometry, Errno::NoSpc, Task::Write)
        }
        Command::Trim => check_change(request, geometry, Errno::Inval, Task::Trim),
        Command::WriteZeroes => {
            let allocate = request.has(CommandFlags::NO_HOLE);
            check_change(request, geometry, Errno::NoSpc, Task::Zero { allocate })
        }
        Command::BlockStatus => check_block_status(request, geometry, terms),
    }
}

/// FUA is accepted with every command, because clients are known to set it anywhere; the others only where they
/// are defined. A zeroing is one record however long it is: always fast.
fn check_flags(request: &Request, style: MessageStyle) -> Result<(), Errno> {
    let extended = style == MessageStyle::Extended;
    let payload = if extended { CommandFlags::PAYLOAD_LEN } else { 0 };
    let special = match request.command {
        Command::Disconnect => return Ok(()),
        Command::Read if style.has_chunks() => CommandFlags::DF,
        Command::Write => payload,
        Command::WriteZeroes => CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO,
        Command::BlockStatus => CommandFlags::REQ_ONE | payload,
        _ => 0,
    };
    if request.flags & !(CommandFlags::FUA | special) == 0 {
        Ok(())
    } else {
        Err(Errno::Inval)
    }
}

/// With a payload the range is not known yet.
fn check_block_status(request: &Request, geometry: DiskGeometry, terms: Terms) -> Result<Task, Errno> {
    let one = request.has(CommandFlags::REQ_ONE);
    if !terms.block_status || request.length == 0 {
        return Err(Errno::Inval);
    }
    if request.has_payload {
        return if STATUS_PAYLOADS.contains(&request.length) {
            Ok(Task::BlockStatus { one })
        } else {
            Err(Errno::Inval)
        };
    }
    check_range(request, geometry, Errno::Inval)?;
    Ok(Task::BlockStatus { one })
}

fn check_change(request: &Request, geometry: DiskGeometry, beyond: Errno, task: Task) -> Result<Task, Errno> {
    if geometry.read_only {
        return Err(Errno::Perm);
    }
    check_range(request, geometry, beyond)?;
    Ok(if request.length == 0 { Task::Nothing } else { task })
}

fn check_range(request: &Request, geometry: DiskGeometry, beyond: Errno) -> Result<(), Errno> {
    match request.offset.checked_add(request.length) {
        Some(end) if end <= geometry.size_bytes => Ok(()),
        _ => Err(beyond),
    }
}

/// "Too large" may be said only to clients that know unfragmented reads ("Error values").
fn check_read_length(request: &Request, style: MessageStyle) -> Result<(), Errno> {
    match (request.length <= u64::from(MAX_PAYLOAD_BYTES), style) {
        (true, _) => Ok(()),
        (false, MessageStyle::Structured | MessageStyle::Extended) => Err(Errno::Overflow),
        (false, MessageStyle::Simple) => Err(Errno::Inval),
    }
}
