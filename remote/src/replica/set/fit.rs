//! Whether what greets fits what is here: the volume and the unit behind a name, sizes, the geometry of journals.

use crate::replica::Replica;
use farside_protocol::journal::limits::{
    BLOCK_BYTES_U64, MAX_CHUNK_DATA_BYTES, MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES,
};
use farside_protocol::link::{Hello, Refusal, RefuseCode};
use farside_storage::grow_store;

/// Whether a journal can be made for chunks of the sender's: what it says decides what is allocated here.
pub(super) fn check_geometry(hello: &Hello) -> Result<(), Refusal> {
    let segment = hello.segment_bytes;
    if segment.is_power_of_two() && (MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&segment) {
        return Ok(());
    }
    let text = format!(
        "volume {} names segments of {segment} bytes; a power of two from {MIN_SEGMENT_BYTES} to {MAX_SEGMENT_BYTES} \
         is possible",
        hello.volume_name
    );
    Err(Refusal::new(RefuseCode::Protocol, 0, &text))
}

/// A volume that became larger makes its replica larger, before the first record that could lie beyond the old end. Only its
/// one sender comes here.
pub(super) fn grow(replica: &Replica, hello: &Hello) -> Result<(), Refusal> {
    let (name, old) = (&hello.volume_name, replica.store().volume_bytes());
    grow_store(replica.store(), replica.files(), hello.volume_bytes).map_err(|error| {
        let text = format!("replica {name} cannot grow to the volume's size: {error}");
        tracing::error!(replica = name.as_str(), "{text}");
        Refusal::new(RefuseCode::Degraded, 0, &text)
    })?;
    if old != hello.volume_bytes {
        tracing::info!(
            replica = name.as_str(),
            from = old,
            bytes = hello.volume_bytes,
            "the replica grew with its volume"
        );
    }
    Ok(())
}

/// Whether the sender may send to this replica.
pub(super) fn check(replica: &Replica, hello: &Hello, way_out: &str) -> Result<(), Refusal> {
    let (superblock, name) = (replica.opened_as(), &hello.volume_name);
    let refuse = |code, text: String| Err(Refusal::new(code, 0, &text));
    if superblock.volume != hello.volume {
        let text = format!(
            "replica {name} belongs to volume {}, not to {}; rename the volume, or, {way_out}",
            superblock.volume, hello.volume
        );
        return refuse(RefuseCode::ForeignVolume, text);
    }
    if superblock.source != hello.unit {
        let text = format!(
            "replica {name} is fed by unit {}, not by {} ({}); if the change is meant, {way_out}",
            superblock.source, hello.unit_name, hello.unit
        );
        return refuse(RefuseCode::ForeignVolume, text);
    }
    let size = replica.store().volume_bytes();
    if hello.volume_bytes < size {
        let text = format!(
            "replica {name} has {size} bytes, the volume only {}; to have it made anew, {way_out}",
            hello.volume_bytes
        );
        return refuse(RefuseCode::SizeDiffers, text);
    }
    let largest = u64::from(hello.segment_bytes).min(u64::from(MAX_CHUNK_DATA_BYTES) + BLOCK_BYTES_U64);
    if u64::from(superblock.segment_bytes) < largest {
        let text = format!(
            "replica {name} keeps chunks of up to {} bytes, the volume's may have {largest}; to have it made \
             anew, {way_out}",
            superblock.segment_bytes
        );
        return refuse(RefuseCode::SegmentTooLarge, text);
    }
    Ok(())
}
