//! What a receiver agrees on with a sender before anything is sent.

use crate::sink::SinkState;
use farside_protocol::link::limits::{
    FEATURE_COMPARE, FEATURE_CONFIRM, FEATURE_MERGE, HIGHEST_VERSION, LOWEST_VERSION, MAX_BATCH_LOG2,
};
use farside_protocol::link::{Compression, Hello, Refusal, RefuseCode, Welcome};
use uuid::Uuid;

/// The version both speak.
///
/// # Errors
/// A refusal that names both ranges.
pub fn negotiate(hello: &Hello) -> Result<u16, Refusal> {
    let version = hello.version_max.min(HIGHEST_VERSION);
    if version >= hello.version_min.max(LOWEST_VERSION) {
        return Ok(version);
    }
    let text = format!(
        "no common link version: this unit speaks {LOWEST_VERSION} to {HIGHEST_VERSION}, the sender {} to {}; \
         update the older of the two units",
        hello.version_min, hello.version_max
    );
    Err(Refusal::new(RefuseCode::UnsupportedVersion, 0, &text))
}

/// What the link is to have of what was offered, for a replica whose image may hold something already, or not.
#[must_use]
pub fn choose_features(hello: &Hello, has_content: bool, state: &SinkState) -> u64 {
    let compare = if has_content { FEATURE_COMPARE } else { 0 };
    let merge = if log2(state.batch_bytes) > 0 {
        FEATURE_MERGE
    } else {
        0
    };
    let confirm = if unconfirmed_limit(hello, state).is_some() {
        FEATURE_CONFIRM
    } else {
        0
    };
    Compression::choose(hello.features).feature() | hello.features & (compare | merge | confirm)
}

/// How many bytes of chunks may wait to be confirmed, if the sender wants to confirm and the journal has room for its chunks.
#[must_use]
pub fn unconfirmed_limit(hello: &Hello, state: &SinkState) -> Option<u64> {
    let wanted = hello.features & FEATURE_CONFIRM != 0;
    let limit = 1_u64 << log2(state.unconfirmed_bytes);
    (wanted && limit >= u64::from(hello.segment_bytes)).then_some(limit)
}

/// As a power of two.
fn log2(bytes: u64) -> u32 {
    bytes.checked_ilog2().unwrap_or(0).min(MAX_BATCH_LOG2)
}

fn told_log2(bytes: u64, is_in_force: bool) -> u8 {
    match is_in_force {
        false => 0,
        true => u8::try_from(log2(bytes)).unwrap_or(0),
    }
}

/// The answer to a hello, once the replica is open and settled.
#[must_use]
pub fn welcome(
    (version, features): (u16, u64),
    state: &SinkState,
    (unit, unit_name): (Uuid, &str),
) -> Welcome {
    Welcome {
        version,
        features,
        copy: state.copy,
        copy_id: state.copy_id,
        unit,
        received: state.received,
        applied: state.applied.min(state.received.record),
        copy_offset: state.copy_offset,
        consistent_from: state.consistent_from,
        unit_name: unit_name.to_owned(),
        history_mib: u32::try_from(state.history_bytes >> 20).unwrap_or(u32::MAX),
        batch_log2: told_log2(state.batch_bytes, features & FEATURE_MERGE != 0),
        unconfirmed_log2: told_log2(state.unconfirmed_bytes, features & FEATURE_CONFIRM != 0),
    }
}
