//! Target: a journal that was damaged, or forged, behind the back of the store; and any bytes as a journal.
//!
//! Promises. Whatever the bytes: no panic, no endless search, memory within what recovery may take. With damage that
//! no checksum covers up: once everything is in the image, what is read is a state the volume once had, as a whole; and
//! if the store can be used to its end, it opens again, clean, with the same content. Without damage, the search for
//! the head finds what a full scan finds.

use crate::allocation::measured;
use crate::draw::Draw;
use crate::history::{History, VOLUME_BYTES, read, seed};
use crate::memory::{Counter, Memory};
use crate::seal;
use bytes::Bytes;
use farside_protocol::journal::limits::{BLOCK_BYTES, RING_OFFSET, SUPERBLOCK_OFFSETS};
use farside_protocol::journal::{ChainPoint, RecordKind, Role, Superblock};
use farside_storage::{
    Change, Scan, Store, StoreDevices, StoreParameters, load_superblock, recover, scan_all,
};
use std::collections::VecDeque;
use std::sync::Arc;
use uuid::Uuid;

/// What opening may hold at once: a batch for the image, a segment, and as many maps as there can be.
const MOST_BYTES: usize = 64 << 20;
/// Most changes to the bytes of a journal.
const MOST_CHANGES: u8 = 12;

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    if draw.u8() & 7 == 7 {
        return any_bytes(&mut draw);
    }
    let mut history = History::of(&mut draw);
    history.kill();
    let damage = tamper(&mut draw, &history.journal);
    let devices = history.devices();
    let (opened, held) = measured(|| look(&devices, &damage));
    assert!(held < MOST_BYTES, "{held} bytes to open a journal");
    let Some(store) = opened else { return false };
    // Payloads are compared with their checksums on their way into the image, so what is read is judged after that.
    let drained = damage == Damage::None || drain(&store);
    if damage != Damage::Forged
        && drained
        && let Ok(content) = read(&store)
    {
        let head = store.opened().recovered.head.record;
        let known = history.allows(&content, head, history.applied);
        assert!(known, "what is read was never written, or not at one time");
    }
    use_it(store, devices, damage);
    true
}

/// What was done to a journal.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Damage {
    None,
    /// Checksums do not fit any more.
    Plain,
    /// Checksums were put right afterwards.
    Forged,
}

/// Changes bytes of a journal as `draw` decides.
pub(crate) fn tamper(draw: &mut Draw<'_>, journal: &Memory) -> Damage {
    let (count, forge) = (draw.u8() % MOST_CHANGES, draw.u8() & 1 != 0);
    let mut damage = Damage::None;
    journal.change(|bytes| {
        for _ in 0..count {
            let block = block_to_change(draw, bytes.len());
            let at = block + usize::from(draw.u16()) % BLOCK_BYTES;
            let Some(byte) = bytes.get_mut(at) else { continue };
            let value = draw.u8();
            if value == 0 {
                continue;
            }
            *byte ^= value;
            damage = Damage::Plain;
            if forge {
                damage = Damage::Forged;
                forge_block(&mut bytes[block..block + BLOCK_BYTES]);
            }
        }
    });
    damage
}

/// A superblock, or a block of the ring: those that begin a chunk are what matters.
fn block_to_change(draw: &mut Draw<'_>, bytes: usize) -> usize {
    let which = draw.u8();
    let ring = usize::try_from(RING_OFFSET).unwrap_or(0);
    let blocks = (bytes - ring) / BLOCK_BYTES;
    match which {
        0..=23 => usize::try_from(SUPERBLOCK_OFFSETS[usize::from(which & 1)]).unwrap_or(0),
        _ => ring + usize::from(which) % blocks * BLOCK_BYTES,
    }
}

fn forge_block(block: &mut [u8]) {
    if block.starts_with(b"FARSIDEJ") {
        seal::superblock(block);
    } else {
        seal::block(block);
    }
}

/// Every way of looking at a journal; the store, if it opens.
fn look(devices: &StoreDevices, damage: &Damage) -> Option<Store> {
    let journal = devices.journal.as_ref();
    let superblock = load_superblock(journal).ok()?;
    let scanned = scan_all(journal, &superblock);
    let recovered = recover(journal, &superblock);
    if *damage == Damage::None {
        let (scanned, recovered) = (scanned.expect("intact"), recovered.expect("intact"));
        assert_eq!(recovered.head, scanned, "the search finds what a full scan finds");
    }
    if let Ok(mut scan) = Scan::new(devices.journal.clone()) {
        while let Ok(Some(chunk)) = scan.next_chunk() {
            assert!(chunk.place.sequence == chunk.what.header.sequence);
            assert!(chunk.file_offset >= RING_OFFSET);
        }
        let _survey = scan.survey();
        let _ends = scan.end();
    }
    Store::open(devices.clone(), Arc::new(Counter::default())).ok()
}

/// Brings everything into the image. False: not everything could be read.
fn drain(store: &Store) -> bool {
    loop {
        match store.drain() {
            Ok(true) => {}
            Ok(false) => return true,
            Err(_) => return false,
        }
    }
}

/// Uses a store that opened, to its end and once more.
fn use_it(store: Store, devices: StoreDevices, damage: Damage) {
    let before = read(&store);
    let points = store.points();
    let (mut buffer, mut from) = (Vec::new(), points.tail);
    while let Ok(spans) = store.read_chunks(&from, &points.durable, 64 << 10, &mut buffer) {
        let Some(last) = spans.last() else { break };
        assert!(last.after.record > from.record && last.after.address > from.address);
        from = last.after;
    }
    for record in [points.tail.record, points.mirrored.record, points.durable.record] {
        let _found = store.locate(record);
    }
    let change = Change {
        offset: 512,
        length: 512,
        kind: RecordKind::Write,
        data: Bytes::from_static(&[0xEE; 512]),
        arrived_us: 9,
    };
    let appended = store.append(&mut VecDeque::from([change])).is_ok();
    let _freed = store.relieve();
    let _drained = drain(&store);
    if store.shut_down().is_err() {
        return;
    }
    drop(store);
    let opened = Store::open(devices, Arc::new(Counter::default()));
    // A forged point may have become the tail; nothing can tell but that the chain does not go on from it.
    if damage == Damage::Forged {
        return;
    }
    let store = opened.expect("it was shut down cleanly");
    assert!(store.opened().clean, "a clean shutdown is found to be one");
    let after = read(&store).expect("everything is in the image");
    if let Ok(mut expected) = before {
        if appended {
            expected[512..1024].fill(0xEE);
        }
        assert_eq!(after, expected, "content changed by a restart");
    }
}

/// The rest of the input as superblocks and the beginning of a ring.
fn any_bytes(draw: &mut Draw<'_>) -> bool {
    let (sealed, size) = (draw.u8() & 1 != 0, usize::from(draw.u8()) * 1024);
    let mut bytes = vec![0; 65536 + size];
    for offset in SUPERBLOCK_OFFSETS {
        let at = usize::try_from(offset).unwrap_or(0);
        let part = draw.bytes(1536);
        bytes[at..at + part.len()].copy_from_slice(part);
        if sealed {
            seal::superblock(&mut bytes[at..at + BLOCK_BYTES]);
        }
    }
    let rest = draw.rest();
    let count = rest.len().min(size);
    bytes[65536..65536 + count].copy_from_slice(&rest[..count]);
    let maps = (0..8).map(|_| Memory::new(vec![0; 1 << 20]) as Arc<dyn farside_storage::Device>);
    let devices = StoreDevices {
        journal: Memory::new(bytes),
        image: Memory::new(vec![0; 1 << 16]),
        maps: maps.collect(),
    };
    let (opened, held) = measured(|| look(&devices, &Damage::Forged));
    assert!(held < MOST_BYTES, "{held} bytes to open a journal");
    let Some(store) = opened else { return false };
    use_it(store, devices, Damage::Forged);
    true
}

/// A journal as a volume of `VOLUME_BYTES` may begin, after so many chunks.
fn superblock(position: u64) -> Vec<u8> {
    let parameters = StoreParameters {
        role: Role::Volume,
        name: "disk0".to_owned(),
        volume: Uuid::from_u128(3),
        journal: Uuid::from_u128(4),
        volume_bytes: VOLUME_BYTES,
        journal_bytes: RING_OFFSET + 4 * (16 << 10),
        segment_bytes: Some(16 << 10),
        source: Uuid::nil(),
    };
    let point = ChainPoint {
        sequence: position,
        record: position,
        epoch: 1,
        ..ChainPoint::default()
    };
    let superblock = Superblock {
        generation: 1,
        head: point,
        tail: point,
        mirrored: point,
        ..parameters.superblock(1)
    };
    superblock.encode().to_vec()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let past = [&[0], seed().as_slice()].concat();
    let bare = |position| [&[7, 1, 64], &superblock(position)[..1536]].concat();
    vec![
        past.clone(),
        [past.as_slice(), &[1, 0, 0, 0, 90, 1]].concat(),
        [past.as_slice(), &[1, 1, 1, 0, 250, 0]].concat(),
        vec![0],
        [past.as_slice(), &[2, 1, 40, 0, 47, 0, 41, 0, 47, 0]].concat(),
        bare(0),
        bare(1 << 40),
    ]
}
