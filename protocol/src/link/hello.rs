//! The handshake: `Hello` and `Welcome`. Their layouts never change; versions and features are inside them.
//!
//! Names are a length and 32 bytes; points are sequence, record, epoch, sealing time (8 bytes each), *what*
//! checksum (4), zero (4). Both tables are in `docs/link-protocol.md`.

use super::error::LinkError;
use super::limits::{HELLO_BYTES, MAX_BATCH_LOG2, WELCOME_BYTES};
use super::shared::{copy_code, put_name, put_point, take_copy_state, take_name, take_point, take_zeroes};
use crate::fields::{Reader, Writer};
use crate::journal::{ChainPoint, CopyState};
use uuid::Uuid;

/// What a sender says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Lowest version of the stream it speaks.
    pub version_min: u16,
    /// Highest version of the stream it speaks.
    pub version_max: u16,
    /// Segment size of its journal: no chunk is larger.
    pub segment_bytes: u32,
    /// Feature bits it offers.
    pub features: u64,
    /// Identity of the sending unit.
    pub unit: Uuid,
    /// Random for each start of its process.
    pub instance: Uuid,
    /// The volume whose history follows.
    pub volume: Uuid,
    /// Size of the volume.
    pub volume_bytes: u64,
    /// Its present epoch.
    pub epoch: u64,
    /// Newest durable chunk.
    pub head: ChainPoint,
    /// Oldest point its journal can continue from.
    pub tail: ChainPoint,
    /// Name of the sending unit.
    pub unit_name: String,
    /// Name of the volume, and of its replica.
    pub volume_name: String,
    /// Name under which the sender knows the receiver.
    pub remote_name: String,
}

impl Hello {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut head = vec![0; HELLO_BYTES];
        let mut to = Writer::new(&mut head);
        to.u16(self.version_min)
            .u16(self.version_max)
            .u32(self.segment_bytes)
            .u64(self.features);
        to.uuid(self.unit)
            .uuid(self.instance)
            .uuid(self.volume)
            .u64(self.volume_bytes);
        to.u64(self.epoch);
        put_point(&mut to, &self.head);
        put_point(&mut to, &self.tail);
        put_name(&mut to, &self.unit_name);
        put_name(&mut to, &self.volume_name);
        put_name(&mut to, &self.remote_name);
        head
    }

    pub(super) fn decode(head: &[u8]) -> Result<Self, LinkError> {
        let mut from = Reader::new(head);
        let hello = Self {
            version_min: from.u16()?,
            version_max: from.u16()?,
            segment_bytes: from.u32()?,
            features: from.u64()?,
            unit: from.uuid()?,
            instance: from.uuid()?,
            volume: from.uuid()?,
            volume_bytes: from.u64()?,
            epoch: from.u64()?,
            head: take_point(&mut from)?,
            tail: take_point(&mut from)?,
            unit_name: take_name(&mut from)?,
            volume_name: take_name(&mut from)?,
            remote_name: take_name(&mut from)?,
        };
        take_zeroes(&mut from, 5)?;
        if hello.version_min > hello.version_max {
            return Err(LinkError::Field("versions"));
        }
        if hello.volume_bytes == 0 || hello.epoch == 0 {
            return Err(LinkError::Field("size or epoch"));
        }
        if hello.tail.record > hello.head.record {
            return Err(LinkError::Field("positions"));
        }
        Ok(hello)
    }
}

/// What a receiver answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Version of the stream from here on.
    pub version: u16,
    /// Whether its replica is empty, being copied or complete.
    pub copy: CopyState,
    /// Names the copy that the replica had last, as its sender did; 0 if none.
    pub copy_id: u32,
    /// Feature bits in force.
    pub features: u64,
    /// Identity of the receiving unit.
    pub unit: Uuid,
    /// Newest chunk that is durable in its journal.
    pub received: ChainPoint,
    /// Last record in its image.
    pub applied: u64,
    /// Bytes of the image that are copied durably.
    pub copy_offset: u64,
    /// The replica is consistent once this record is applied.
    pub consistent_from: u64,
    /// Name of the receiving unit.
    pub unit_name: String,
    /// MiB that its history can keep of what is overwritten; 0 if it keeps none.
    pub history_mib: u32,
    /// Bytes that the chunks of a merged batch may take together, as a power of two; 0 if it takes none.
    pub batch_log2: u8,
    /// Bytes that chunks which wait to be confirmed may take together, as a power of two; 0 if nothing is confirmed.
    pub unconfirmed_log2: u8,
}

impl Welcome {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut head = vec![0; WELCOME_BYTES];
        let mut to = Writer::new(&mut head);
        to.u16(self.version)
            .u8(copy_code(self.copy))
            .zeroes(1)
            .u32(self.copy_id);
        to.u64(self.features).uuid(self.unit);
        put_point(&mut to, &self.received);
        to.u64(self.applied)
            .u64(self.copy_offset)
            .u64(self.consistent_from);
        put_name(&mut to, &self.unit_name);
        to.u32(self.history_mib)
            .u8(self.batch_log2)
            .u8(self.unconfirmed_log2);
        head
    }

    pub(super) fn decode(head: &[u8]) -> Result<Self, LinkError> {
        let mut from = Reader::new(head);
        let (version, copy) = (from.u16()?, take_copy_state(&mut from)?);
        take_zeroes(&mut from, 1)?;
        let copy_id = from.u32()?;
        let welcome = Self {
            version,
            copy,
            copy_id,
            features: from.u64()?,
            unit: from.uuid()?,
            received: take_point(&mut from)?,
            applied: from.u64()?,
            copy_offset: from.u64()?,
            consistent_from: from.u64()?,
            unit_name: take_name(&mut from)?,
            history_mib: from.u32()?,
            batch_log2: from.u8()?,
            unconfirmed_log2: from.u8()?,
        };
        take_zeroes(&mut from, 1)?;
        if u32::from(welcome.batch_log2) > MAX_BATCH_LOG2 {
            return Err(LinkError::Field("size of a merged batch"));
        }
        if u32::from(welcome.unconfirmed_log2) > MAX_BATCH_LOG2 {
            return Err(LinkError::Field("how much may wait to be confirmed"));
        }
        if welcome.applied > welcome.received.record {
            return Err(LinkError::Field("positions"));
        }
        Ok(welcome)
    }
}
