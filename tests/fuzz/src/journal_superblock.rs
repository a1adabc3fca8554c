//! Target: a superblock.
//!
//! Promises: no panic; what is accepted encodes to the same block; its points are in order and its geometry is one
//! that a ring can have, so that arithmetic on it cannot overflow; its names can be file names.

use crate::allocation::measured;
use crate::draw::Draw;
use crate::{golden, seal};
use farside_protocol::journal::Superblock;
use farside_protocol::journal::limits::{BLOCK_BYTES, MAX_CONSUMERS, MAX_POSITION, NAME_BYTES};
use farside_protocol::link::name_is_valid;
use farside_storage::Layout;

/// Names and slots of the consumers.
const MOST_BYTES: usize = 4 << 10;

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    let sealed = draw.u8() & 1 != 0;
    let mut block = draw.rest().to_vec();
    if sealed {
        block.resize(BLOCK_BYTES, 0);
        seal::superblock(&mut block);
    }
    let claimed = Superblock::claimed_version(&block);
    let (decoded, held) = measured(|| Superblock::decode(&block));
    assert!(held <= MOST_BYTES, "{held} bytes for a superblock");
    let Ok(superblock) = decoded else { return false };
    assert_eq!(claimed, Some(1));
    assert_eq!(superblock.encode().as_slice(), &block[..BLOCK_BYTES]);
    check(&superblock);
    true
}

fn check(superblock: &Superblock) {
    let Superblock {
        tail, mirrored, head, ..
    } = superblock;
    for (before, after) in [(tail, mirrored), (mirrored, head)] {
        assert!(before.address <= after.address && before.record <= after.record);
        assert!(before.sequence <= after.sequence);
    }
    assert!(head.address - tail.address <= superblock.ring_bytes());
    assert!(superblock.journal_bytes() > superblock.ring_bytes());
    assert!(superblock.epoch <= MAX_POSITION && superblock.copy_offset <= superblock.volume_bytes);
    assert!(superblock.consumers.len() <= MAX_CONSUMERS);
    let names = superblock
        .consumers
        .iter()
        .map(|slot| &slot.name)
        .chain([&superblock.name]);
    for name in names {
        assert!(name_is_valid(name) && name.len() <= NAME_BYTES && !name.contains(['/', '\0', '@']));
    }
    let layout = Layout::of(superblock);
    for point in [tail, mirrored, head]
        .into_iter()
        .chain(superblock.consumers.iter().map(|slot| &slot.acked))
    {
        let end = layout.segment_end(point.address);
        assert!(point.address < end && end - point.address <= layout.segment_bytes);
        assert!(layout.file_offset(point.address) < superblock.journal_bytes());
        assert!(layout.place(point.address, 8192) >= point.address);
    }
    assert!(layout.window_bytes() <= layout.ring_bytes());
    assert!(layout.max_data_bytes() > 0);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let golden = golden::superblock();
    let used = golden
        .iter()
        .rposition(|byte| *byte != 0 && *byte != golden[BLOCK_BYTES - 1])
        .unwrap_or(0);
    vec![
        [&[0], golden.as_slice()].concat(),
        [&[1], &golden[..used.min(BLOCK_BYTES - 4)]].concat(),
    ]
}
