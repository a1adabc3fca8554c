//! Decides whether a request may be carried out; no sockets, no disk.
//!
//! Rules: NBD spec, sections "Command flags", "Request types", "Error values" and "Size constraints".

use super::limits::MAX_PAYLOAD_BYTES;
use crate::targets::DiskGeometry;
use farside_protocol::nbd::{Command, CommandFlags, Errno, ReplyStyle, Request};

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
pub(super) fn validate(request: &Request, geometry: DiskGeometry, style: ReplyStyle) -> Result<Task, Errno> {
    check_flags(request, style)?;
    match request.command {
        Command::Disconnect => Ok(Task::Disconnect),
        Command::Unknown(_) => Err(Errno::Inval),
        Command::Flush if request.offset != 0 || request.length != 0 => Err(Errno::Inval),
        Command::Flush => Ok(Task::Flush),
        Command::Read => {
            check_range(request, geometry, Errno::Inval)?;
            check_read_length(request, style)?;
            Ok(Task::Read)
        }
        Command::Cache => check_range(request, geometry, Errno::Inval).map(|()| Task::Nothing),
        Command::Write => {
            if request.length > MAX_PAYLOAD_BYTES {
                return Err(Errno::Inval);
            }
            check_change(request, geometry, Errno::NoSpc, Task::Write)
        }
        Command::Trim => check_change(request, geometry, Errno::Inval, Task::Trim),
        Command::WriteZeroes => {
            let allocate = request.has(CommandFlags::NO_HOLE);
            check_change(request, geometry, Errno::NoSpc, Task::Zero { allocate })
        }
    }
}

/// FUA is accepted with every command, because clients are known to set it anywhere; the others only where they
/// are defined. Fast zero is never offered and so never valid.
fn check_flags(request: &Request, style: ReplyStyle) -> Result<(), Errno> {
    let special = match request.command {
        Command::Disconnect => return Ok(()),
        Command::Read if style == ReplyStyle::Structured => CommandFlags::DF,
        Command::WriteZeroes => CommandFlags::NO_HOLE,
        _ => 0,
    };
    if request.flags & !(CommandFlags::FUA | special) == 0 {
        Ok(())
    } else {
        Err(Errno::Inval)
    }
}

fn check_change(request: &Request, geometry: DiskGeometry, beyond: Errno, task: Task) -> Result<Task, Errno> {
    if geometry.read_only {
        return Err(Errno::Perm);
    }
    check_range(request, geometry, beyond)?;
    Ok(if request.length == 0 { Task::Nothing } else { task })
}

fn check_range(request: &Request, geometry: DiskGeometry, beyond: Errno) -> Result<(), Errno> {
    match request.offset.checked_add(u64::from(request.length)) {
        Some(end) if end <= geometry.size_bytes => Ok(()),
        _ => Err(beyond),
    }
}

/// "Too large" may be said only to clients that know unfragmented reads ("Error values").
fn check_read_length(request: &Request, style: ReplyStyle) -> Result<(), Errno> {
    match (request.length <= MAX_PAYLOAD_BYTES, style) {
        (true, _) => Ok(()),
        (false, ReplyStyle::Structured) => Err(Errno::Overflow),
        (false, ReplyStyle::Simple) => Err(Errno::Inval),
    }
}
