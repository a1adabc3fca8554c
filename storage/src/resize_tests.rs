//! Journals that get another size, on real files: what they held is there, at the same addresses.

use crate::error::StorageError;
use crate::files::StoreFiles;
use crate::map_files::open_map;
use crate::resize::Resized;
use crate::store::{Change, Store};
use crate::test_disk::Random;
use crate::test_store::{files_in, open_in, parameters, when_there_is_room};
use farside_protocol::journal::{ChainPoint, RecordKind};
use std::collections::VecDeque;
use std::path::Path;

const VOLUME_BYTES: u64 = 1 << 20;
const MIB: u64 = 1 << 20;

/// True: the journal has the size now; false: it had it.
fn resize_journal(path: &Path, volume: &str, bytes: u64) -> Result<bool, StorageError> {
    match crate::resize::resize_journal(path, volume, bytes)? {
        Resized::Done => Ok(true),
        Resized::AsItWas => Ok(false),
        Resized::Refused(error) => Err(error),
    }
}

fn made(directory: &tempfile::TempDir) -> StoreFiles {
    files_in(directory.path(), &parameters(VOLUME_BYTES, 2 * MIB))
}

/// Writes so many blocks, of which a remote that is away lets none go, and gives the chunks that are held for it.
fn write(store: &Store, random: &mut Random, count: u64, content: &mut [u8]) {
    for _ in 0..count {
        let block = random.below(VOLUME_BYTES >> 12);
        let fill = u8::try_from(random.below(255)).unwrap() + 1;
        let from = usize::try_from(block << 12).unwrap();
        content[from..from + 4096].fill(fill);
        let mut pending = VecDeque::from([Change {
            offset: block << 12,
            length: 4096,
            kind: RecordKind::Write,
            data: vec![fill; 4096].into(),
            arrived_us: 0,
        }]);
        when_there_is_room(store, || store.append(&mut pending));
    }
    store.sync().unwrap();
}

fn held(store: &Store) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), Vec::new());
    let (mut point, limit) = (store.consumer("far").unwrap().acked, store.points().durable);
    loop {
        let spans = store.read_chunks(&point, &limit, 1 << 20, &mut buffer).unwrap();
        let Some(last) = spans.last() else { return all };
        point = last.after;
        for span in &spans {
            all.extend_from_slice(&buffer[span.what.clone()]);
            all.extend_from_slice(&buffer[span.data.clone()]);
        }
    }
}

/// A remote that has everything up to now, and then goes away.
fn follow(store: &Store, files: &StoreFiles) {
    if store.consumer("far").is_none() {
        let map = open_map(files, "far", &store.superblock()).unwrap();
        store.add_consumer("far", map).unwrap();
        store.begin_consumer_copy("far", true).unwrap();
    }
    while store.drain().unwrap() {}
    let now = store.points().durable;
    store.acknowledge("far", now, true).unwrap();
    store.checkpoint().unwrap();
}

#[test]
fn a_journal_grows_and_shrinks_and_keeps_what_it_holds_wherever_the_ring_stands() {
    for seed in 0..12 {
        let directory = tempfile::tempdir().unwrap();
        let files = made(&directory);
        let (mut random, mut content) = (Random::new(seed), vec![0; usize::try_from(VOLUME_BYTES).unwrap()]);
        let mut sizes = [2 * MIB, 5 * MIB, 3 * MIB, 16 * MIB, 2 * MIB].into_iter().cycle();
        for _ in 0..6 {
            let store = open_in(&files);
            // Somewhere in some lap.
            follow(&store, &files);
            for _ in 0..random.below(20) {
                write(&store, &mut random, 47, &mut content);
                follow(&store, &files);
            }
            let kept = random.below(100);
            write(&store, &mut random, kept, &mut content);
            let (chunks, head) = (held(&store), store.points().durable);
            if seed % 2 == 0 {
                store.shut_down().unwrap();
            }
            drop(store);
            let size = sizes.next().unwrap();
            let was = std::fs::metadata(&files.journal).unwrap().len();
            let changed = resize_journal(&files.journal, "disk0", size).unwrap();
            let is = std::fs::metadata(&files.journal).unwrap().len();
            assert_eq!(changed, is != was);
            assert!(is <= size && is > size - (512 << 10), "{is} of {size}");
            assert!(
                !resize_journal(&files.journal, "disk0", size).unwrap(),
                "once is enough"
            );

            let store = open_in(&files);
            let key = |point: &ChainPoint| (point.address, point.sequence, point.record, point.checksum);
            assert_eq!(key(&store.points().durable), key(&head));
            assert!(held(&store) == chunks, "what is held for the remote");
            while store.drain().unwrap() {}
            let mut found = vec![0; content.len()];
            store.read(0, &mut found).unwrap();
            assert!(found == content, "the disk");
            drop(store);
        }
        let names = std::fs::read_dir(directory.path()).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["dirty-disk0@far.map", "journal", "mirror.img"]);
    }
}

#[test]
fn a_larger_journal_holds_more_and_one_too_small_for_what_is_held_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let files = made(&directory);
    let (mut random, mut content) = (Random::new(7), vec![0; usize::try_from(VOLUME_BYTES).unwrap()]);
    let store = open_in(&files);
    follow(&store, &files);
    store.shut_down().unwrap();
    drop(store);
    assert!(resize_journal(&files.journal, "disk0", 16 * MIB).unwrap());
    // A file that an attempt left goes.
    std::fs::write(directory.path().join("journal.resized"), "half of one").unwrap();
    let store = open_in(&files);
    write(&store, &mut random, 1500, &mut content);
    assert!(
        held(&store).len() as u64 > 5 * MIB,
        "more than the old one had room for"
    );
    let chunks = held(&store);
    drop(store);
    let refused = resize_journal(&files.journal, "disk0", 8 * MIB)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("keeps its size: it holds"), "{refused}");
    assert!(!directory.path().join("journal.resized").exists());
    // The size that is named suffices.
    let least = refused.split("to have ").nth(1).unwrap();
    let least: u64 = least.split(' ').next().unwrap().parse().unwrap();
    assert!((12 * MIB..15 * MIB).contains(&least), "{least}");
    assert!(resize_journal(&files.journal, "disk0", least).unwrap());
    let store = open_in(&files);
    assert!(held(&store) == chunks);
    assert!(!resize_journal(&files.journal, "another", 32 * MIB).unwrap_or(false));
}

/// sizes up and down at unclean starts, laps in between.
#[test]
fn sizes_go_up_and_down_at_unclean_starts() {
    let (mut grown, mut shrunk) = (0, 0);
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let directory = tempfile::tempdir().unwrap();
        let files = made(&directory);
        let mut content = vec![0; usize::try_from(VOLUME_BYTES).unwrap()];
        let mut bytes = 2 * MIB;
        for _ in 0..12 {
            let store = open_in(&files);
            let mut found = vec![1; content.len()];
            store.read(0, &mut found).unwrap();
            assert!(found == content, "seed {seed}");
            for _ in 0..random.below(4) {
                write(&store, &mut random, 50, &mut content);
                match random.below(4) {
                    0 => drop(store.sync().unwrap()),
                    1 => {
                        store.sync().unwrap();
                        while store.drain().unwrap() {}
                    }
                    2 => {
                        store.sync().unwrap();
                        store.drain().unwrap();
                        store.checkpoint().unwrap();
                    }
                    _ => {}
                }
            }
            if random.below(3) == 0 {
                store.shut_down().unwrap();
            }
            drop(store);
            let wanted = MIB + random.below(6 * 16) * (64 << 10);
            match resize_journal(&files.journal, "disk0", wanted) {
                Ok(true) if wanted > bytes => (grown, bytes) = (grown + 1, wanted),
                Ok(true) => (shrunk, bytes) = (shrunk + 1, wanted),
                _ => {}
            }
        }
    }
    assert!(grown > 50 && shrunk > 50, "{grown} {shrunk}");
}

#[test]
fn a_journal_that_a_link_leads_to_stays_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let files = made(&directory);
    std::fs::create_dir(directory.path().join("fast")).unwrap();
    let real = directory.path().join("fast/journal");
    std::fs::rename(&files.journal, &real).unwrap();
    std::os::unix::fs::symlink(&real, &files.journal).unwrap();
    assert!(resize_journal(&files.journal, "disk0", 8 * MIB).unwrap());
    assert!(files.journal.is_symlink() && std::fs::metadata(&real).unwrap().len() > 7 * MIB);
    assert_eq!(
        std::fs::read_dir(directory.path().join("fast")).unwrap().count(),
        1
    );
}
