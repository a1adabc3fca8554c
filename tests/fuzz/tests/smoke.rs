//! A short, repeatable run of every fuzz target without libFuzzer: the seeds, and a fixed set of their mutations.
//!
//! `FARSIDE_FUZZ_RUNS=n` tries n times as many; `FARSIDE_FUZZ_INPUT=FILE` tries one input, on the target that the test's
//! name says.

use farside_fuzz::mutate::{Random, mutation};
use farside_fuzz::{TARGETS, Target};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Panics of this thread, those included that a task of the product kept to itself.
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            before(info);
        }));
    });
}

/// Tries one input; a broken promise names it in full.
fn attempt(target: &Target, input: &[u8]) -> bool {
    let before = PANICS.get();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if outcome.is_err() || PANICS.get() != before {
        let path = std::env::temp_dir().join(format!("farside-fuzz-{}-{}", target.name, std::process::id()));
        std::fs::write(&path, input).expect("the directory for temporary files can be written to");
        panic!(
            "{} broke a promise (above); repeat it with: FARSIDE_FUZZ_INPUT={} cargo test -p farside-fuzz {}",
            target.name,
            path.display(),
            target.name
        );
    }
    outcome.unwrap_or(false)
}

fn smoke(name: &str) {
    count_panics();
    let target = TARGETS
        .iter()
        .find(|target| target.name == name)
        .expect("the list has every test's name");
    if let Some(path) = std::env::var_os("FARSIDE_FUZZ_INPUT") {
        attempt(target, &std::fs::read(path).expect("the input can be read"));
        return;
    }
    let times = std::env::var("FARSIDE_FUZZ_RUNS")
        .ok()
        .and_then(|times| times.parse().ok())
        .unwrap_or(1);
    let seeds = (target.seeds)();
    for (number, seed) in seeds.iter().enumerate() {
        assert!(
            attempt(target, seed),
            "seed {number} of {name} is no longer accepted: make it anew"
        );
    }
    let mut random = Random::new(0x0fa2_51de);
    attempt(target, &[]);
    for _ in 0..target.smoke_runs.saturating_mul(times) {
        attempt(target, &mutation(&seeds, &mut random));
    }
}

macro_rules! smoke_tests {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            smoke(stringify!($name));
        })*

        #[test]
        fn every_target_has_its_test_and_its_entry_for_libfuzzer() {
            let tests = [$(stringify!($name)),*];
            let targets: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(tests.as_slice(), targets);
            for name in tests {
                let entry = format!("{}/fuzz_targets/{name}.rs", env!("CARGO_MANIFEST_DIR"));
                let text = std::fs::read_to_string(&entry).expect("each target has its file");
                assert!(text.contains(&format!("\"{name}\"")), "{entry} runs another target");
            }
        }
    };
}

smoke_tests! {
    nbd_messages nbd_server iscsi_messages iscsi_login scsi_commands iscsi_server reservations_file
    journal_superblock journal_chunk journal_map journal_file replica_file map_file inspect image_mark
    link_frame link_stream link_sender link_receiver control_json config pairing
}
