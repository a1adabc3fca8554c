//! What a receiver agrees on with a sender before anything is sent.

use crate::sink::SinkState;
use farside_protocol::link::limits::{
    FEATURE_COMPARE, FEATURE_MERGE, HIGHEST_VERSION, LOWEST_VERSION, MAX_BATCH_LOG2,
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
pub fn choose_features(offered: u64, has_content: bool, state: &SinkState) -> u64 {
    let compare = if has_content { FEATURE_COMPARE } else { 0 };
    let merge = if batch_log2(state) > 0 { FEATURE_MERGE } else { 0 };
    Compression::choose(offered).feature() | offered & (compare | merge)
}

/// The largest merged batch, as a power of two.
fn batch_log2(state: &SinkState) -> u32 {
    let log2 = state.batch_bytes.checked_ilog2().unwrap_or(0);
    log2.min(MAX_BATCH_LOG2)
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
        batch_log2: match features & FEATURE_MERGE {
            0 => 0,
            _ => u8::try_from(batch_log2(state)).unwrap_or(0),
        },
    }
}
