//! The fixed workloads, each aimed at another part of the store. Rings are small: most of them wrap several times.

use crate::history::VOLUME_BYTES;
use crate::replica::{Replica, Source, Stage};
use crate::volume::{Volume, Wanted, formatted};
use farside_protocol::journal::{CopyState, RecordKind, Role};
use std::sync::Arc;

const WRITE: RecordKind = RecordKind::Write;
const TRIM: RecordKind = RecordKind::Trim;
const ZERO: RecordKind = RecordKind::Zero { allocate: false };
const RESERVE: RecordKind = RecordKind::Zero { allocate: true };

/// Aligned writes; every step of the store in turn, over three laps.
pub(crate) fn laps() -> Volume {
    let mut volume = Volume::new(4, 0);
    for round in 0..28_u64 {
        volume.write(round * 5 % 50 * 4096, 4096);
        volume.write(round * 7 % 48 * 4096, if round % 3 == 0 { 8192 } else { 4096 });
        match round % 4 {
            0 => volume.sync(),
            1 => volume.drain(),
            2 => volume.checkpoint(),
            _ => drop(volume.relieve()),
        }
    }
    volume
}

/// Groups of unaligned and overlapping writes, trims and zeroes.
pub(crate) fn mixed() -> Volume {
    let mut volume = Volume::new(4, 0);
    for round in 0..20_u64 {
        let at = round * 9973 % 150_000;
        let group: [Wanted; 4] = [
            (WRITE, at, 700 + round * 13),
            (
                [TRIM, ZERO, RESERVE][usize::from(round % 3 == 1) + usize::from(round % 3 == 2) * 2],
                at + 300,
                9000,
            ),
            (WRITE, at + 1000, 5000),
            (WRITE, at + 511, 2),
        ];
        volume.group(&group);
        volume.group(&[(TRIM, at + 20_000, 30_001)]);
        if round % 3 == 0 {
            volume.sync();
        }
        if round % 4 == 1 {
            volume.drain();
        }
        if round % 5 == 4 {
            volume.checkpoint();
        }
    }
    volume
}

/// Writes larger than a chunk, and chunks with tables of many records.
pub(crate) fn large() -> Volume {
    let mut volume = Volume::new(4, 0);
    for round in 0..7_u64 {
        volume.write(round * 20_000, 30_000);
        let many: Vec<Wanted> = (0..45).map(|n| (WRITE, 3000 * n + round * 64, 97 + n)).collect();
        volume.group(&many);
        if round % 2 == 0 {
            volume.sync();
            volume.drain();
        }
    }
    volume.checkpoint();
    volume
}

/// A ring that is always full, and a window that always is: appends make room themselves.
pub(crate) fn full() -> Volume {
    let mut volume = Volume::new(4, 0);
    for round in 0..40_u64 {
        volume.write(round * 11 % 40 * 4096 + 100, 4000 + round % 3 * 4096);
    }
    volume
}

/// A window of two segments.
pub(crate) fn window() -> Volume {
    let mut volume = Volume::new(8, 0);
    for round in 0..24_u64 {
        volume.write(round * 13 % 45 * 4096, 12 << 10);
        volume.write(round * 17 % 45 * 4096 + 512, 1024);
        if round % 6 == 5 {
            volume.drain();
            volume.relieve();
        }
    }
    volume
}

/// Consumers that are added, copied to, follow, fall behind and are cut loose.
pub(crate) fn consumers() -> Volume {
    let mut volume = Volume::new(4, 2);
    volume.write(0, 4096);
    volume.add_consumer("near");
    volume.write(70_000, 4096);
    volume.sync();
    volume.drain();
    volume.begin_copy("near");
    volume.write(8192, 3000);
    volume.acknowledge("near", 1, true);
    volume.add_consumer("far");
    for round in 0..8_u64 {
        volume.write(round * 20_000, 4096);
        volume.sync();
        volume.acknowledge("near", round % 2, false);
        if round == 3 {
            volume.drain();
            volume.begin_copy("far");
        }
    }
    volume.checkpoint();
    // Neither confirms anything more.
    let mut cut = Vec::new();
    for round in 0..20_u64 {
        volume.write(131_072 + round % 3 * 4096, 4096);
        volume.sync();
        volume.drain();
        cut.extend(volume.relieve());
    }
    assert_eq!(cut.len(), 2, "both are cut loose: {cut:?}");
    volume.begin_copy("far");
    volume.write(40_000, 8192);
    volume.sync();
    volume.acknowledge("far", 0, true);
    volume.write(0, 512);
    volume.checkpoint();
    volume
}

/// An attached consumer that is cut loose, once between other writes and once by a write that needs room.
pub(crate) fn loose() -> Volume {
    let mut volume = Volume::new(4, 1);
    volume.add_consumer("far");
    for lap in 0..2_u64 {
        volume.drain();
        volume.begin_copy("far");
        volume.acknowledge("far", 0, true);
        volume.write(lap * 4096, 4096);
        volume.write(0, 4096);
        volume.sync();
        volume.acknowledge("far", 1, false);
        for round in 0..9_u64 {
            volume.write(66_000 + lap * 66_000 + round, 7000);
            if lap == 0 {
                volume.sync();
                volume.drain();
                volume.relieve();
            }
        }
    }
    volume.checkpoint();
    volume
}

/// Clean and unclean ends, with something pending at each stage.
pub(crate) fn restarts() -> Volume {
    let mut volume = Volume::new(4, 0);
    for round in 0..8_u64 {
        volume.write(round * 9000, 5000);
        if round % 3 == 0 {
            volume.sync();
        }
        volume.write(round * 4096, 4096);
        if round % 3 == 1 {
            volume.sync();
            volume.drain();
        }
        volume.group(&[(TRIM, round * 10_000, 5000), (WRITE, round * 10_000 + 2000, 100)]);
        if round % 2 == 0 {
            volume.die_and_open();
        } else {
            volume.shut_down_and_open();
        }
    }
    volume.shut_down_and_open();
    volume
}

/// A volume whose chunks are sent: of two epochs, in a ring that holds all of them.
pub(crate) fn source() -> Arc<Source> {
    let mut volume = Volume::new(64, 0);
    for round in 0..30_u64 {
        volume.write(round * 7 % 45 * 4096, 4096);
        volume.group(&[
            (WRITE, round * 6000 + 77, 3000),
            (TRIM, round * 3000, 2000 + round * 10),
            (RESERVE, round * 5000 + 50, 700),
        ]);
        if round == 11 {
            volume.die_and_open();
        }
        if round % 4 == 0 {
            volume.sync();
        }
    }
    Arc::new(Source::new(volume))
}

/// A replica that is copied to in pieces with interruptions, becomes complete, and follows over laps of its ring.
pub(crate) fn replica() -> Replica {
    let mut replica = Replica::resume(formatted(Role::Replica, 4, 0), &source(), vec![Stage::empty()]);
    replica.begin(4);
    replica.copy(60_000, 4);
    replica.ship(7);
    replica.checkpoint();
    replica.copy(100_000, 9);
    replica.rewind();
    replica.sync();
    replica.copy(VOLUME_BYTES - 4096, 10);
    replica.ship(12);
    replica.drain();
    replica.checkpoint();
    replica.reopen(false);
    replica.copy(VOLUME_BYTES, 14);
    replica.end(14);
    replica.checkpoint();
    replica.ship(15);
    replica.sync();
    replica.drain();
    replica.checkpoint();
    assert_eq!(replica.store.copy_progress().state, CopyState::Complete);
    for sequence in 16..=40 {
        replica.ship(sequence);
        match sequence % 5 {
            0 => replica.sync(),
            2 => replica.drain(),
            _ => {}
        }
    }
    replica
}

/// A complete replica that was cut loose, and is copied to once more. Its window is two segments.
pub(crate) fn replaced() -> Replica {
    let mut replica = Replica::resume(formatted(Role::Replica, 8, 0), &source(), vec![Stage::empty()]);
    replica.begin(0);
    replica.copy(VOLUME_BYTES, 0);
    replica.end(0);
    replica.checkpoint();
    replica.ship(6);
    replica.sync();
    replica.drain();
    replica.ship(9);
    replica.reopen(true);
    replica.ship(11);
    replica.begin(20);
    replica.copy(90_000, 20);
    replica.ship(23);
    replica.sync();
    replica.drain();
    replica.reopen(false);
    replica.copy(VOLUME_BYTES, 26);
    replica.end(26);
    replica.ship(30);
    replica.sync();
    replica.drain();
    replica.checkpoint();
    replica.ship(36);
    replica.reopen(false);
    replica.ship(40);
    replica.sync();
    replica
}
