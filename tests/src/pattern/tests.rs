//! The checker on histories made by hand: what it must accept, and what it must catch.

use super::cell::{fill, to_index};
use super::history::{History, Kind, Operation, OperationId, Snapshot};
use super::report::{Because, Violation};
use super::shape::Shape;
use super::{Checker, Demand, read_cell};
use crate::random::Random;

const SEED: u64 = 77;
const SIZE: usize = 1 << 20;

/// A disk that does what it is told, and a history of it.
struct World {
    history: History,
    image: Vec<u8>,
    states: Vec<Vec<u8>>,
}

impl World {
    fn new() -> Self {
        Self {
            history: History::new(SEED),
            image: vec![0; SIZE],
            states: vec![vec![0; SIZE]],
        }
    }

    fn submit(&self, kind: Kind, offset: u64, length: u32) -> Operation {
        self.history.submit(kind, offset, length, false).unwrap()
    }

    fn apply(&mut self, operation: &Operation) {
        apply(&mut self.image, operation);
        self.states.push(self.image.clone());
    }

    /// Submitted, in effect, acknowledged.
    fn write(&mut self, offset: u64, length: u32) -> OperationId {
        let operation = self.submit(Kind::Write, offset, length);
        self.apply(&operation);
        self.history.acknowledge(operation.id);
        operation.id
    }

    fn check(&self, image: &[u8], demand: Demand) -> super::Report {
        let snapshot: Snapshot = self.history.snapshot();
        Checker::new(&snapshot, image).check(demand)
    }
}

fn apply(image: &mut [u8], operation: &Operation) {
    let data = match operation.kind {
        Kind::Write => fill(SEED, operation.id, operation.offset, operation.length),
        Kind::Zero | Kind::Trim => vec![0; operation.length as usize],
    };
    image[to_index(operation.offset)..to_index(operation.end())].copy_from_slice(&data);
}

#[test]
fn cells_name_their_operation_and_only_at_their_place() {
    let bytes = fill(SEED, 9, 64, 64);
    assert_eq!(read_cell(SEED, 2, &bytes[..32]), Some(9));
    assert_eq!(read_cell(SEED, 3, &bytes[32..]), Some(9));
    assert_eq!(read_cell(SEED, 3, &bytes[..32]), None);
    assert_eq!(read_cell(SEED + 1, 2, &bytes[..32]), None);
    assert_eq!(fill(SEED, 9, 70, 10), bytes[6..16]);
}

#[test]
fn every_state_of_a_serial_history_is_accepted() {
    let mut world = World::new();
    let mut random = Random::new(1);
    let shape = Shape {
        flush_every: 0,
        ..Shape::whole(SIZE as u64)
    };
    for _ in 0..300 {
        let (kind, offset, length, _) = shape.next(&mut random);
        let operation = world.submit(kind, offset, length);
        world.apply(&operation);
        world.history.acknowledge(operation.id);
    }
    for state in world.states.iter().step_by(5) {
        world
            .check(state, Demand::AnyPrefix)
            .expect_prefix("a state")
            .unwrap();
    }
    world
        .check(&world.image, Demand::Acknowledged)
        .expect_prefix("the last state")
        .unwrap();
}

#[test]
fn every_state_of_a_history_with_many_requests_in_flight_is_accepted() {
    for seed in 0..8 {
        let mut world = World::new();
        let mut random = Random::new(seed);
        let shape = Shape {
            flush_every: 0,
            ..Shape::whole(SIZE as u64)
        };
        let mut submitted: Vec<Operation> = Vec::new();
        let mut applied: Vec<Operation> = Vec::new();
        for _ in 0..600 {
            match random.below(3) {
                0 if submitted.len() < 16 => {
                    let (kind, offset, length, _) = shape.next(&mut random);
                    submitted.push(world.submit(kind, offset, length));
                }
                1 if !submitted.is_empty() => {
                    let operation = submitted.swap_remove(to_index(random.below(submitted.len() as u64)));
                    world.apply(&operation);
                    applied.push(operation);
                }
                _ if !applied.is_empty() => {
                    let operation = applied.swap_remove(to_index(random.below(applied.len() as u64)));
                    world.history.acknowledge(operation.id);
                }
                _ => {}
            }
        }
        for state in world.states.iter().step_by(13) {
            world
                .check(state, Demand::AnyPrefix)
                .expect_prefix("a state")
                .unwrap();
        }
        world
            .check(&world.image, Demand::Acknowledged)
            .expect_prefix("the last state")
            .unwrap();
    }
}

#[test]
fn a_lost_write_is_caught() {
    let mut world = World::new();
    let lost = world.write(4096, 4096);
    world.write(65536, 512);
    let mut image = world.image.clone();
    image[4096..8192].fill(0);
    let report = world.check(&image, Demand::AnyPrefix);
    let [
        Violation::Missing {
            operation,
            because: Because::OlderThanVisible(2),
            ..
        },
    ] = &report.violations[..]
    else {
        panic!("{report:?}")
    };
    assert_eq!(operation.id, lost);
}

#[test]
fn a_missing_last_write_is_a_prefix_but_not_all_that_was_acknowledged() {
    let mut world = World::new();
    world.write(0, 4096);
    let moment = world.history.now();
    world.write(8192, 4096);
    let before = world.states[1].clone();
    assert!(world.check(&before, Demand::AnyPrefix).is_prefix());
    assert!(world.check(&before, Demand::Before(moment)).is_prefix());
    let report = world.check(&before, Demand::Acknowledged);
    assert!(
        matches!(
            report.violations[..],
            [Violation::Missing {
                because: Because::Demanded,
                ..
            }]
        ),
        "{report:?}"
    );
}

#[test]
fn an_unanswered_write_may_be_there_or_not() {
    let mut world = World::new();
    world.write(0, 4096);
    let unanswered = world.submit(Kind::Write, 0, 8192);
    assert!(world.check(&world.image, Demand::Acknowledged).is_prefix());
    world.apply(&unanswered);
    assert!(world.check(&world.image, Demand::Acknowledged).is_prefix());
}

#[test]
fn a_torn_write_is_caught_also_when_nobody_waited_for_it() {
    let mut world = World::new();
    world.write(0, 65536);
    let torn = world.submit(Kind::Write, 4096, 8192);
    let mut image = world.image.clone();
    apply(&mut image, &torn);
    image[8192..12288].copy_from_slice(&world.image[8192..12288]);
    let report = world.check(&image, Demand::AnyPrefix);
    assert!(
        matches!(
            report.violations[..],
            [Violation::Missing {
                because: Because::PartIsVisible,
                offset: 8192,
                ..
            }]
        ),
        "{report:?}"
    );
}

#[test]
fn a_write_torn_inside_a_sector_is_caught() {
    let mut world = World::new();
    world.write(0, 4096);
    world.write(100, 1000);
    let mut image = world.image.clone();
    image[700..1100].copy_from_slice(&world.states[1][700..1100]);
    assert!(!world.check(&image, Demand::AnyPrefix).is_prefix());
}

#[test]
fn reordered_writes_are_caught() {
    let world = World::new();
    let first = world.submit(Kind::Write, 0, 4096);
    world.history.acknowledge(first.id);
    let second = world.submit(Kind::Write, 2048, 4096);
    world.history.acknowledge(second.id);
    let mut image = vec![0; SIZE];
    apply(&mut image, &second);
    apply(&mut image, &first);
    let report = world.check(&image, Demand::AnyPrefix);
    assert!(
        matches!(report.violations[..], [Violation::Missing { instead: 1, .. }]),
        "{report:?}"
    );
}

#[test]
fn two_overlapping_writes_each_over_the_other_are_caught() {
    let world = World::new();
    let one = world.submit(Kind::Write, 0, 8192);
    let other = world.submit(Kind::Write, 0, 8192);
    let mut image = vec![0; SIZE];
    apply(&mut image, &one);
    let mut second = vec![0; SIZE];
    apply(&mut second, &other);
    assert!(world.check(&image, Demand::AnyPrefix).is_prefix());
    image[4096..8192].copy_from_slice(&second[4096..8192]);
    let report = world.check(&image, Demand::AnyPrefix);
    assert!(
        matches!(report.violations[..], [Violation::Interleaved { .. }]),
        "{report:?}"
    );
}

#[test]
fn a_write_that_was_undone_is_caught() {
    let mut world = World::new();
    world.write(0, 4096);
    world.write(0, 4096);
    world.write(8192, 4096);
    let mut image = world.image.clone();
    image[..4096].copy_from_slice(&world.states[1][..4096]);
    assert!(!world.check(&image, Demand::AnyPrefix).is_prefix());
}

#[test]
fn a_lost_zeroing_is_caught() {
    let mut world = World::new();
    world.write(0, 65536);
    for (kind, offset) in [(Kind::Zero, 4096), (Kind::Trim, 20480)] {
        let zeroed = world.submit(kind, offset, 4096);
        world.history.acknowledge(zeroed.id);
        let mut image = world.image.clone();
        assert!(!world.check(&image, Demand::Acknowledged).is_prefix());
        apply(&mut image, &zeroed);
        assert!(world.check(&image, Demand::Acknowledged).is_prefix());
        world.apply(&zeroed);
    }
}

#[test]
fn foreign_misplaced_and_future_content_is_caught() {
    let mut world = World::new();
    world.write(0, 4096);
    let cases = [
        ("garbage", vec![0xA5; 512]),
        ("another disk's write", fill(SEED + 1, 1, 8192, 512)),
        ("a write at the wrong place", fill(SEED, 1, 0, 512)),
        ("a write nobody made yet", fill(SEED, 2, 8192, 512)),
        ("one wrong byte", vec![0, 0, 0, 1]),
    ];
    for (what, content) in cases {
        let mut image = world.image.clone();
        image[8192..8192 + content.len()].copy_from_slice(&content);
        let report = world.check(&image, Demand::AnyPrefix);
        assert!(
            matches!(
                report.violations.first(),
                Some(Violation::Foreign { offset: 8192, .. })
            ),
            "{what}: {report:?}"
        );
    }
}

#[test]
fn a_single_flipped_bit_is_caught_wherever_it_is() {
    let mut world = World::new();
    world.write(4096, 4096);
    for at in (4096..8192).step_by(61) {
        let mut image = world.image.clone();
        image[at] ^= 1;
        assert!(!world.check(&image, Demand::AnyPrefix).is_prefix(), "byte {at}");
    }
}

#[test]
fn a_sent_again_write_counts_from_its_first_sending() {
    let mut world = World::new();
    let again = world.submit(Kind::Write, 0, 4096);
    world.apply(&again);
    // The server died; another connection's write got through before the first was sent again.
    world.write(2048, 4096);
    world.apply(&again);
    world.history.acknowledge(again.id);
    for state in &world.states {
        world
            .check(state, Demand::AnyPrefix)
            .expect_prefix("a state")
            .unwrap();
    }
    world
        .check(&world.image, Demand::Acknowledged)
        .expect_prefix("the end")
        .unwrap();
}

#[test]
fn the_horizon_never_goes_back_along_a_history() {
    let mut world = World::new();
    for at in 0..50 {
        world.write(at * 700, 600);
    }
    let horizons: Vec<_> = world
        .states
        .iter()
        .map(|state| world.check(state, Demand::AnyPrefix).horizon)
        .collect();
    assert!(horizons.is_sorted());
    assert!(
        !world
            .check(&world.states[10], Demand::Before(horizons[40]))
            .is_prefix()
    );
}

#[test]
fn a_random_hole_in_a_busy_image_is_caught() {
    let mut world = World::new();
    let mut random = Random::new(5);
    let shape = Shape {
        flush_every: 0,
        zero_percent: 0,
        ..Shape::whole(SIZE as u64)
    };
    for _ in 0..200 {
        let (kind, offset, length, _) = shape.next(&mut random);
        let operation = world.submit(kind, offset, length);
        world.apply(&operation);
        world.history.acknowledge(operation.id);
    }
    let mut caught = 0;
    for _ in 0..50 {
        // One operation of the middle is left out of a replay.
        let skipped = 50 + random.below(100);
        let mut image = vec![0; SIZE];
        for operation in world
            .history
            .snapshot()
            .operations
            .iter()
            .filter(|operation| operation.id != skipped)
        {
            apply(&mut image, operation);
        }
        // Covered by later writes altogether, it cannot be missed.
        if image != world.image {
            assert!(
                !world.check(&image, Demand::AnyPrefix).is_prefix(),
                "operation {skipped} left out"
            );
            caught += 1;
        }
    }
    assert!(caught > 10, "only {caught} holes were visible");
}
