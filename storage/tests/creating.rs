//! Two who make the same files at the same time.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

use farside_protocol::journal::Role;
use farside_storage::{OpenMode, StoreFiles, StoreParameters, create_files, open_files};
use std::sync::Barrier;
use uuid::Uuid;

fn parameters(number: u128) -> StoreParameters {
    StoreParameters {
        role: Role::Volume,
        name: "disk0".to_owned(),
        volume: Uuid::from_u128(number),
        journal: Uuid::from_u128(number + 100),
        volume_bytes: 1 << 20,
        journal_bytes: 2 << 20,
        segment_bytes: None,
        source: Uuid::nil(),
    }
}

#[test]
fn of_two_who_make_the_same_files_one_has_them_and_they_belong_together() {
    for _ in 0..60 {
        let directory = tempfile::tempdir().unwrap();
        let files = StoreFiles {
            journal: directory.path().join("journal"),
            image: directory.path().join("image"),
            maps: directory.path().to_owned(),
        };
        let start = Barrier::new(2);
        let made: Vec<_> = std::thread::scope(|scope| {
            let (files, start) = (&files, &start);
            let make = |number| {
                scope.spawn(move || {
                    start.wait();
                    create_files(files, &parameters(number), OpenMode::Careful, 1)
                })
            };
            let both = [make(1), make(2)];
            both.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winner = made.iter().position(Result::is_ok).unwrap();
        assert!(made.iter().any(Result::is_err), "both have them");
        let set = open_files(&files).unwrap();
        assert_eq!(set.superblock.volume, parameters(winner as u128 + 1).volume);
    }
}
