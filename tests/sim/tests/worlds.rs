//! Worlds by the thousand keep every promise, and one seed is one world.

use farside_sim::run;

/// Worlds of an ordinary test run; many more are `make sim SEEDS=n`.
const WORLDS: u64 = 2_000;

fn worlds() -> u64 {
    std::env::var("FARSIDE_WORLDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(WORLDS)
}

#[test]
fn no_world_sees_a_promise_broken() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let totals = run::many(1..worlds() + 1, threads, 5, &|_, _| {});
    let broken: Vec<String> = totals
        .broken
        .iter()
        .map(|broken| format!("{}\n  see it: make sim SEED={}", broken.text, broken.seed))
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    println!(
        "{} worlds, {} operations checked: {:?}",
        totals.worlds, totals.operations, totals.counts
    );
    // A world in which nothing happens keeps every promise, too.
    assert_eq!(totals.worlds, worlds());
    assert!(
        totals.operations > 50 * totals.worlds,
        "hosts did next to nothing"
    );
    for what in [
        "local units killed or without power",
        "remote units killed or without power",
        "deaths inside a call to a disk",
        "calls to disks interrupted",
        "calls to disks that hang",
        "connections cut",
        "connections half open",
        "pieces corrupted",
        "pieces doubled",
        "pieces truncated",
        "chunks missed",
        "chunks repeated",
        "reads that failed",
        "writes that failed",
        "writes without space",
        "syncs that failed",
        "calls that met a fault that lasts",
        "reads that have to wait for a disk",
        "flushes on the thread that asks",
        "stores of remotes that were slow",
        "laps of a ring",
        "rings without room",
        "remotes let go",
        "full copies begun",
        "full copies completed",
        "full copies that went on after a connection was lost",
        "replicas that went on after a connection was lost",
        "volumes that went back in time",
        "bits flipped",
        "old copies put back",
        "recoveries of volumes checked",
        "recoveries of replicas checked",
        "recoveries of copies checked",
    ] {
        assert!(
            totals.counts.get(what).is_some_and(|count| *count > 0),
            "no world had: {what}"
        );
    }
}

#[test]
fn a_seed_is_always_the_same_world() {
    for seed in 1..=20 {
        let (one, other) = (run::single(seed), run::single(seed));
        assert_eq!(one.counts, other.counts, "seed {seed}");
        assert_eq!(one.operations, other.operations, "seed {seed}");
        assert!((one.simulated_s - other.simulated_s).abs() < 1e-9, "seed {seed}");
    }
}
