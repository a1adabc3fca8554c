//! Every crash point: fixed workloads are recorded write by write and sync by sync, stopped at every one of them,
//! and each state that a loss of power or the death of the process can leave is opened and checked.
//!
//! Uses only what the storage crate offers to everybody. Checked is a sample that fits into a test run;
//! `FARSIDE_SOAK=1` goes through all of them. `docs/testing.md` says how to read and repeat a failure.

#![expect(clippy::print_stdout, reason = "the figures are part of what the test is for")]

mod disk;
mod machine;
mod recorder;
mod subsets;
mod explore;
mod history;
mod promise;
mod consumers;
mod run;
mod volume;
mod replica;
mod replica_run;
mod workloads;

use explore::{Counts, Place, Subject, explore};
use recorder::Tape;
use subsets::Effort;
use volume::Volume;

/// Names one state to check alone: `WORKLOAD/SECTOR/EVENT/power|kill/SUBSET`.
const POINT: &str = "FARSIDE_CRASH_POINT";

fn soaking() -> bool {
    std::env::var_os("FARSIDE_SOAK").is_some()
}

/// How thoroughly crashes are enumerated, and second crashes after each of them that is followed.
fn efforts() -> (Effort, Effort) {
    let soak = soaking();
    let first = Effort {
        exhaustive_units: if soak { 10 } else { 3 },
        structured: soak,
        random: if soak { 64 } else { 1 },
        one_in: 1,
        deep_every: if soak { 50 } else { 40 },
    };
    let second = Effort {
        exhaustive_units: if soak { 5 } else { 2 },
        random: if soak { 4 } else { 1 },
        one_in: if soak { 4 } else { 16 },
        structured: false,
        deep_every: 0,
    };
    (first, second)
}

/// The state to check alone, if it is one of this workload with such sectors; `None` for another one.
fn chosen(name: &str, sector_bytes: usize) -> Option<Option<Place>> {
    let Ok(point) = std::env::var(POINT) else {
        return Some(None);
    };
    let rest = point.strip_prefix(&format!("{name}/{sector_bytes}/"))?;
    Some(Some(rest.parse().expect(POINT)))
}

fn check(name: &str, tape: &Tape, subject: &dyn Subject) {
    let mut total = Counts::default();
    for sector_bytes in [512, 4096] {
        let Some(only) = chosen(name, sector_bytes) else {
            continue;
        };
        let tape = Tape {
            start: tape.start.with_sectors(sector_bytes),
            events: tape.events.clone(),
        };
        match explore(&tape, subject, efforts().0, only) {
            Ok(counts) => total.add(&counts),
            Err(failure) => panic!(
                "workload {name}, sectors of {sector_bytes} bytes, {failure}
again: {POINT}={name}/{sector_bytes}/{} cargo \
                 test -p farside-storage --test crash_points",
                failure.place
            ),
        }
    }
    println!(
        "{name}: {} events; {} states after loss of power, {} after the death of the process; {} followed, {} states \
         after a second crash",
        tape.events.len(),
        total.power,
        total.kill,
        total.deep,
        total.second
    );
}

fn check_volume(name: &str, volume: Volume) {
    let (tape, run) = volume.finish(efforts().1);
    check(name, &tape, &run);
}

#[test]
fn laps_survive_every_crash() {
    check_volume("laps", workloads::laps());
}

#[test]
fn mixed_changes_survive_every_crash() {
    check_volume("mixed", workloads::mixed());
}

#[test]
fn large_changes_survive_every_crash() {
    check_volume("large", workloads::large());
}

#[test]
fn a_full_ring_survives_every_crash() {
    check_volume("full", workloads::full());
}

#[test]
fn a_wide_window_survives_every_crash() {
    check_volume("window", workloads::window());
}

#[test]
fn consumers_miss_nothing_after_any_crash() {
    check_volume("consumers", workloads::consumers());
}

#[test]
fn consumers_cut_loose_miss_nothing_after_any_crash() {
    check_volume("loose", workloads::loose());
}

#[test]
fn restarts_survive_every_crash() {
    check_volume("restarts", workloads::restarts());
}

#[test]
fn a_replica_is_a_state_of_its_volume_after_any_crash() {
    let (tape, run) = workloads::replica().finish_run(efforts().1);
    check("replica", &tape, &run);
}

#[test]
fn a_replica_that_is_replaced_is_never_half_of_each_after_any_crash() {
    let (tape, run) = workloads::replaced().finish_run(efforts().1);
    check("replaced", &tape, &run);
}
