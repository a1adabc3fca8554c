//! The values that the golden bytes stand for.

use crate::journal::{
    BlockMapHeader, ChainPoint, ChunkHeader, ConsumerSlot, ConsumerState, CopyState, Place, Record,
    RecordKind, Role, Superblock, Totals,
};
use uuid::Uuid;

const JOURNAL: Uuid = Uuid::from_u128(0xa0a1_a2a3_a4a5_a6a7_a8a9_aaab_acad_aeaf);
const VOLUME: Uuid = Uuid::from_u128(0xb0b1_b2b3_b4b5_b6b7_b8b9_babb_bcbd_bebf);
const SENDER: Uuid = Uuid::from_u128(0xc0c1_c2c3_c4c5_c6c7_c8c9_cacb_cccd_cecf);

const HEAD: ChainPoint = ChainPoint {
    address: 0x50_3000,
    sequence: 0x2a,
    record: 0x64,
    epoch: 3,
    sealed_at_us: 0x0006_1203_0405_0800,
    checksum: 0xdead_beef,
    blocks: 0x1f4,
    bytes: 0x1f_4000,
};
const TAIL: ChainPoint = ChainPoint {
    address: 0x40_1000,
    sequence: 0x20,
    record: 0x50,
    epoch: 2,
    sealed_at_us: 0x0006_1203_0405_0700,
    checksum: 0xcafe_0001,
    blocks: 0x190,
    bytes: 0x19_0000,
};
const MIRRORED: ChainPoint = ChainPoint {
    address: 0x40_2000,
    sequence: 0x21,
    record: 0x51,
    epoch: 2,
    sealed_at_us: 0x0006_1203_0405_0701,
    checksum: 0xcafe_0002,
    blocks: 0x191,
    bytes: 0x19_1000,
};

/// What `golden::SUPERBLOCK` says.
pub(super) fn superblock() -> Superblock {
    let consumer = |name: &str, state, acked, copy_id| ConsumerSlot {
        name: name.to_owned(),
        state,
        acked,
        copy_id,
    };
    Superblock {
        role: Role::Replica,
        clean: true,
        generation: 0x1122,
        journal: JOURNAL,
        volume: VOLUME,
        volume_bytes: 0x4000_0000,
        segment_bytes: 0x40_0000,
        segment_count: 0x7f,
        window_segments: 0x1f,
        created_at_us: 0x0006_1203_0405_0607,
        epoch: 3,
        starts: 9,
        remembers: false,
        confirms: false,
        history_line: 0,
        head: HEAD,
        tail: TAIL,
        mirrored: MIRRORED,
        copy: CopyState::Copying,
        copy_id: 0xC0FF_EE01,
        copy_offset: 0x2000_0000,
        consistent_from: 0x60,
        name: "disk0".to_owned(),
        source: SENDER,
        totals: Totals {
            written: 0x1000,
            sent: 0x2000,
            received: 0x3000,
        },
        consumers: vec![
            consumer("far", ConsumerState::Attached, TAIL, 0),
            consumer(
                "off-site_2.example",
                ConsumerState::Copying,
                MIRRORED,
                0x0BAD_CAFE,
            ),
        ],
    }
}

/// The payload of the chunk that `golden::WHAT` describes.
pub(super) fn payload() -> Vec<u8> {
    (0..=255).chain(0..=255).collect()
}

/// What `golden::WHAT` says.
pub(super) fn chunk() -> (ChunkHeader, Vec<Record>) {
    let header = ChunkHeader {
        volume: VOLUME,
        epoch: 3,
        sequence: 0x2b,
        first_record: 0x65,
        sealed_at_us: 0x0006_1203_0405_0900,
        previous_checksum: HEAD.checksum,
        blocks_before: HEAD.blocks,
        bytes_before: HEAD.bytes,
    };
    let record = |offset, length, checksum, age_us, kind| Record {
        offset,
        length,
        checksum,
        age_us,
        kind,
    };
    let records = vec![
        record(0x2000, 512, 0xae10_ee5a, 0x64, RecordKind::Write),
        record(0x10_0000, 0x1_0000, 0, 0x32, RecordKind::Trim),
        record(0x20_0000, 0x1000, 0, 0x19, RecordKind::Zero { allocate: false }),
        record(0x30_0000, 0x2000, 0, 1, RecordKind::Zero { allocate: true }),
        record(0, 0, 0, 0, RecordKind::Mark(0x102)),
    ];
    (header, records)
}

/// What `golden::PLACE` says.
pub(super) fn place() -> Place {
    Place {
        journal: JOURNAL,
        address: 0x50_3000,
        sequence: 0x2b,
        what_checksum: 0xa36c_1655,
        tail: 0x50,
        mirrored: 0x51,
        durable: 0x64,
        acked: 0x52,
    }
}

/// What `golden::BLOCK_MAP` says.
pub(super) fn block_map() -> BlockMapHeader {
    BlockMapHeader {
        volume: VOLUME,
        block_bytes: 0x1_0000,
        bits: 0x4000,
    }
}
