//! What is shown of real files, whole, damaged and foreign.

use super::{InspectError, Options, run};
use bytes::Bytes;
use farside_protocol::journal::{RecordKind, Role};
use farside_storage::{
    Change, OpenMode, Store, StoreFiles, StoreParameters, SystemClock, create_files, open_files, open_map,
};
use serde_json::Value;
use std::collections::VecDeque;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// A volume of which twelve chunks are not in the image yet.
struct World {
    directory: tempfile::TempDir,
    files: StoreFiles,
    store: Option<Store>,
}

fn change(offset: u64, kind: RecordKind) -> Change {
    let data = match kind {
        RecordKind::Write => Bytes::from(vec![7; 4096]),
        _ => Bytes::new(),
    };
    Change {
        offset,
        length: 4096,
        kind,
        data,
        arrived_us: 0,
    }
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let files = StoreFiles {
            journal: path("journal"),
            image: path("mirror.img"),
            maps: directory.path().to_owned(),
        };
        let parameters = StoreParameters {
            role: Role::Volume,
            name: "disk0".to_owned(),
            volume: Uuid::from_u128(7),
            journal: Uuid::from_u128(8),
            volume_bytes: 1 << 20,
            journal_bytes: 2 << 20,
            segment_bytes: Some(64 << 10),
            source: Uuid::nil(),
        };
        create_files(&files, &parameters, OpenMode::Careful, 1_700_000_000_000_000).unwrap();
        let devices = open_files(&files).unwrap().devices;
        let store = Store::open(devices, Arc::new(SystemClock::new())).unwrap();
        let map = open_map(&files, "far", &store.superblock()).unwrap();
        store.add_consumer("far", map).unwrap();
        for n in 0..12 {
            let kind = if n % 4 == 3 {
                RecordKind::Trim
            } else {
                RecordKind::Write
            };
            store
                .append(&mut VecDeque::from([change(n * 4096, kind)]))
                .unwrap();
            store.sync().unwrap();
        }
        Self {
            directory,
            files,
            store: Some(store),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn shown(&self, path: &Path, options: Options) -> (String, Result<(), InspectError>) {
        let mut out = Vec::new();
        let result = run(path, options, &mut out);
        (String::from_utf8(out).unwrap(), result)
    }

    fn json(&self, path: &Path) -> (Value, Result<(), InspectError>) {
        let json = Options {
            json: true,
            ..Options::default()
        };
        let (out, result) = self.shown(path, json);
        (serde_json::from_str(&out).unwrap(), result)
    }

    fn flip(&self, offset: u64) {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&self.files.journal)
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    }
}

#[test]
fn a_journal_in_use_is_shown_as_it_is() {
    let world = World::new();
    let (text, result) = world.shown(&world.files.journal, Options::default());
    result.unwrap();
    for words in [
        "journal of volume disk0",
        "12 chunks, 12 records",
        "recovers     to record 12",
        "remote       far: needs-copy",
        "in force",
        "never written",
        "intact",
    ] {
        assert!(text.contains(words), "no '{words}' in\n{text}");
    }
    let (json, result) = world.json(&world.files.journal);
    result.unwrap();
    assert_eq!((&json["schema"], &json["kind"]), (&1.into(), &"journal".into()));
    assert_eq!(
        (&json["verdict"], &json["first_damage"]),
        (&"intact".into(), &Value::Null)
    );
    assert_eq!(json["chain"]["recovered_record"], 12);
    assert_eq!(json["superblock"]["tail"]["record"], 0);
    assert_eq!(json["superblock"]["created_at"], "2023-11-14T22:13:20Z");
    assert_eq!(json["changed_meanwhile"], false);
    // Nothing was changed or locked: the unit goes on, and ends cleanly.
    world.store.as_ref().unwrap().shut_down().unwrap();
    let (json, result) = world.json(&world.files.journal);
    result.unwrap();
    assert_eq!(json["superblock"]["clean"], true);
    assert_eq!(json["chain"]["chunks"], 0);
    assert!(json["ring"]["segments_with_chunks"].as_u64().unwrap() > 0);
}

#[test]
fn a_journal_under_load_is_never_called_damaged() {
    let world = World::new();
    let store = world.store.as_ref().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                if stop.load(std::sync::atomic::Ordering::SeqCst) {
                    break;
                }
                let kind = RecordKind::Write;
                let mut pending: VecDeque<_> =
                    (0..n % 9 + 1).map(|block| change(block * 4096, kind)).collect();
                store.append(&mut pending).unwrap();
                store.sync().unwrap();
                store.drain().unwrap();
                store.relieve().unwrap();
            }
        });
        for round in 0..150 {
            let (text, result) = world.shown(&world.files.journal, Options::default());
            if result.is_err() {
                stop.store(true, std::sync::atomic::Ordering::SeqCst);
                panic!("round {round}: {result:?}\n{text}");
            }
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
    });
}

#[test]
fn chunks_and_records_are_listed_from_the_tail_on() {
    let world = World::new();
    let records = Options {
        chunks: true,
        records: true,
        json: true,
    };
    let (out, result) = world.shown(&world.files.journal, records);
    result.unwrap();
    let lines: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 13);
    for (number, line) in (1..=12_u64).zip(&lines) {
        let chunk = &line["chunk"];
        assert_eq!(
            (&chunk["sequence"], &chunk["first_record"]),
            (&number.into(), &number.into())
        );
        assert_eq!(chunk["intact"], true);
        assert_eq!(chunk["table"][0]["offset"], (number - 1) * 4096);
    }
    assert_eq!(lines[3]["chunk"]["table"][0]["kind"], "trim");
    assert_eq!(lines[0]["chunk"]["offset"], 64 << 10);
    assert_eq!(lines[12]["kind"], "journal");
    let text = Options {
        json: false,
        ..records
    };
    let (text, _) = world.shown(&world.files.journal, text);
    assert!(text.contains("chunk 1  epoch 1  1 records 1..1"), "{text}");
    assert!(text.contains("record 4  trim  4096 bytes at 12288"), "{text}");
}

#[test]
fn the_first_damage_is_named_with_its_place() {
    // Payload, meta-data and table of the third chunk.
    for offset in [2 * 8192 + 5000, 2 * 8192 + 40, 2 * 8192 + 100, 2 * 8192 + 4000] {
        let world = World::new();
        world.flip((64 << 10) + offset);
        let (json, result) = world.json(&world.files.journal);
        let at = (64 << 10) + 2 * 8192;
        match result {
            Err(InspectError::Damaged { offset, .. }) => assert_eq!(offset, at),
            other => panic!("{other:?}"),
        }
        assert_eq!(json["verdict"], "damaged");
        assert_eq!(json["first_damage"]["offset"], at);
    }
}

#[test]
fn a_torn_end_that_was_never_durable_is_no_damage() {
    let world = World::new();
    let store = world.store.as_ref().unwrap();
    let before = store.points().journaled.address;
    store
        .append(&mut VecDeque::from([change(0, RecordKind::Write)]))
        .unwrap();
    world.flip((64 << 10) + before + 4096 + 9);
    let (text, result) = world.shown(&world.files.journal, Options::default());
    result.unwrap();
    assert!(text.contains("recovers     to record 12"), "{text}");
}

#[test]
fn one_bad_superblock_is_shown_and_two_are_damage() {
    let world = World::new();
    world.flip(200);
    let (text, result) = world.shown(&world.files.journal, Options::default());
    assert!(
        text.contains("at byte 0: UNREADABLE: checksum mismatch"),
        "{text}"
    );
    assert!(result.is_ok() || matches!(result, Err(InspectError::Damaged { .. })));
    world.flip((32 << 10) + 200);
    let (_, result) = world.json(&world.files.journal);
    assert!(
        matches!(result, Err(InspectError::Damaged { offset: 0, .. })),
        "{result:?}"
    );
}

#[test]
fn a_truncated_journal_is_damaged_where_it_ends() {
    let world = World::new();
    let file = std::fs::File::options()
        .write(true)
        .open(&world.files.journal)
        .unwrap();
    for length in [1 << 20, 64 << 10, 5000] {
        file.set_len(length).unwrap();
        let (_, result) = world.shown(&world.files.journal, Options::default());
        match result {
            Err(InspectError::Damaged { offset, problem, .. }) => {
                assert!(offset == length || offset == 0, "{offset}: {problem}");
            }
            other => panic!("{length}: {other:?}"),
        }
    }
}

#[test]
fn a_newer_journal_is_not_recognised_and_says_its_version() {
    let world = World::new();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&world.files.journal)
        .unwrap();
    for copy in [0, 32 << 10] {
        let mut block = [0; 4096];
        file.read_exact_at(&mut block, copy).unwrap();
        block[9] = 2;
        let checksum = crc32c::crc32c(&block[..4092]).to_be_bytes();
        block[4092..].copy_from_slice(&checksum);
        file.write_all_at(&block, copy).unwrap();
    }
    let (_, result) = world.shown(&world.files.journal, Options::default());
    let said = result.unwrap_err();
    assert!(matches!(said, InspectError::Unrecognised { .. }));
    assert!(said.to_string().contains("format version 2"), "{said}");
}

#[test]
fn a_dirty_block_map_shows_how_much_is_marked() {
    let world = World::new();
    let (json, result) = world.json(&world.path("dirty-disk0@far.map"));
    result.unwrap();
    assert_eq!(
        (&json["kind"], &json["bits"]),
        (&"dirty-block-map".into(), &256.into())
    );
    assert_eq!(json["marked_bytes"], 1 << 20);
    let file = std::fs::File::options()
        .write(true)
        .open(world.path("dirty-disk0@far.map"))
        .unwrap();
    file.write_all_at(b"x", 20).unwrap();
    let (_, result) = world.shown(&world.path("dirty-disk0@far.map"), Options::default());
    assert!(
        matches!(result, Err(InspectError::Damaged { offset: 0, .. })),
        "{result:?}"
    );
}

#[test]
fn any_other_file_is_told_what_it_is_not() {
    let world = World::new();
    std::fs::write(world.path("letter"), "Dear reader").unwrap();
    std::fs::write(world.path("empty"), "").unwrap();
    std::fs::write(world.path("zeroes"), vec![0; 100_000]).unwrap();
    let cases = [
        ("letter", "neither a journal nor a dirty-block map"),
        ("empty", "it is empty"),
        ("zeroes", "begins with zeroes"),
        (
            "mirror.img",
            "marked 00000000-0000-0000-0000-000000000007/mirror/",
        ),
        ("", "neither a regular file"),
    ];
    for (name, words) in cases {
        let (out, result) = world.shown(&world.path(name), Options::default());
        let said = result.unwrap_err();
        assert!(
            matches!(said, InspectError::Unrecognised { .. }),
            "{name}: {said:?}"
        );
        assert!(
            said.to_string().contains(words) && out.is_empty(),
            "{name}: {said}"
        );
    }
    let (_, result) = world.shown(&world.path("none"), Options::default());
    assert!(matches!(result, Err(InspectError::Read { .. })), "{result:?}");
}
