//! Why a session ends, in words, and what a chunk takes on the wire.

use super::super::decide::LocalView;
use super::super::error::CloseReason;
use super::super::source::SourceError;
use farside_protocol::link::limits::HEADER_BYTES;
use farside_protocol::link::{Refusal, RefuseCode, Welcome};

pub(super) fn wire_bytes(what: usize, data: usize) -> u64 {
    u64::try_from(HEADER_BYTES.saturating_add(what).saturating_add(data)).unwrap_or(u64::MAX)
}

pub(super) fn protocol(text: &str) -> CloseReason {
    CloseReason::Protocol(format!("{text}; the link starts over"))
}

pub(super) fn storage(text: &str) -> CloseReason {
    CloseReason::Source(SourceError::Storage(text.to_owned()))
}

pub(super) fn diverged(how: &str, welcome: &Welcome, local: &LocalView) -> Refusal {
    let remote = &welcome.received;
    let text = format!(
        "{how}: remote '{}' holds record {} of epoch {}, this volume is at record {} of epoch {}; nothing was \
         overwritten. Decide which side is right; to give up the replica, remove it on the remote",
        welcome.unit_name, remote.record, remote.epoch, local.durable_record, local.epoch
    );
    Refusal::new(RefuseCode::Diverged, remote.record, &text)
}
