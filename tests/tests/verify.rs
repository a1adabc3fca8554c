//! Both sides are compared while they are in use, and what differs is named and repaired.

use anyhow::{Context, Result, ensure};
use farside_tests::clock::{Seen, wait_until};
use farside_tests::status::{flag, number, text};
use farside_tests::tools::Done;
use farside_tests::units::{Sizes, TwoUnits, VOLUME};
use farside_tests::{BlockClient as _, Random, limits, promise};
use serde_json::Value;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

const SIZES: Sizes = Sizes {
    disk_mib: 64,
    journal_mib: 32,
};
const DIFFERS: i32 = 8;

fn verify(two: &TwoUnits, more: &[&str]) -> Result<(Value, Done)> {
    let args: Vec<&str> = ["verify", "--volume", VOLUME, "--json"]
        .into_iter()
        .chain(more.iter().copied())
        .collect();
    let done = two.local.command(&args)?;
    let found = serde_json::from_str(&done.stdout).with_context(|| done.output())?;
    Ok((found, done))
}

fn ranges(found: &Value) -> Vec<(u64, u64)> {
    let listed = found["remotes"][0]["differing"].as_array();
    let range = |range: &Value| {
        (
            range["offset"].as_u64().unwrap_or(u64::MAX),
            range["length"].as_u64().unwrap_or(0),
        )
    };
    listed.into_iter().flatten().map(range).collect()
}

/// Bytes of the replica change by themselves.
fn rot(two: &TwoUnits, places: &[u64]) -> Result<()> {
    let image = OpenOptions::new().read(true).write(true).open(two.replica())?;
    for place in places {
        let mut byte = [0];
        image.read_exact_at(&mut byte, *place)?;
        image.write_all_at(&[byte[0] ^ 0x40], *place)?;
    }
    Ok(())
}

fn fill(two: &TwoUnits, random: &mut Random) -> Result<()> {
    let mut host = two.connect()?;
    for number in 0..16 {
        host.write(number << 22, &random.bytes(1 << 20))?;
    }
    host.flush()?;
    host.disconnect()?;
    two.local.wait_applied()
}

#[test]
fn what_differs_is_named_and_repaired_and_what_does_not_is_not() {
    promise(|world| {
        let two = TwoUnits::start(world, SIZES)?;
        fill(&two, &mut Random::new(world.seed()))?;
        let (found, done) = verify(&two, &[])?;
        ensure!(done.code == 0 && flag(&found, &["identical"])?, "{found}");
        ensure!(
            number(&found["remotes"][0], &["compared_bytes"])? == 64 << 20,
            "{found}"
        );
        // In data, in the same block, in the next one, in a hole, and the very last byte.
        rot(&two, &[5000, 6000, 8192, 3 << 20, (64 << 20) - 1])?;
        let (found, done) = verify(&two, &[])?;
        ensure!(done.code == DIFFERS && !flag(&found, &["identical"])?, "{found}");
        let expected = [(4096, 8192), (3 << 20, 4096), ((64 << 20) - 4096, 4096)];
        ensure!(ranges(&found) == expected, "{found}");
        // It is remembered, and nothing was changed by looking.
        let (again, done) = verify(&two, &["--status"])?;
        ensure!(done.code == DIFFERS && ranges(&again) == expected, "{again}");
        let shown = two.local.command(&["verify", "--status"])?.stdout;
        ensure!(
            shown.contains("DIFFER in 16.0 KiB") && shown.contains("3145728"),
            "{shown}"
        );
        let (found, done) = verify(&two, &["--repair"])?;
        ensure!(done.code == 0 && flag(&found, &["identical"])?, "{found}");
        ensure!(
            number(&found["remotes"][0], &["repaired_bytes"])? == 4 * 4096,
            "{found}"
        );
        two.expect_same_on_both_sides()?;
        let (found, done) = verify(&two, &["--remote", "remote"])?;
        ensure!(done.code == 0 && ranges(&found).is_empty(), "{found}");
        Ok(())
    });
}

#[test]
fn a_comparison_under_load_finds_what_differs_and_nothing_else() {
    promise(|world| {
        let two = TwoUnits::start(world, SIZES)?;
        let mut random = Random::new(world.seed());
        fill(&two, &mut random)?;
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            // The same few blocks again and again, among others, from two hosts.
            let hosts: Vec<_> = (0..2_u64)
                .map(|host| {
                    let (two, over) = (&two, &over);
                    let mut random = Random::new(world.seed() + host);
                    scope.spawn(move || -> Result<u64> {
                        let mut client = two.connect()?;
                        let mut writes = 0;
                        while !over.load(Ordering::Relaxed) {
                            let block = if random.chance(50) {
                                host
                            } else {
                                random.below(8 << 8)
                            };
                            client.write(block << 12, &random.bytes(4096))?;
                            writes += 1;
                            if random.chance(5) {
                                client.flush()?;
                            }
                        }
                        Ok(writes)
                    })
                })
                .collect();
            let work = || -> Result<()> {
                for _ in 0..3 {
                    let (found, done) = verify(&two, &[])?;
                    ensure!(done.code == 0 && flag(&found, &["identical"])?, "{found}");
                }
                // Where no host writes.
                rot(&two, &[40 << 20])?;
                let (found, done) = verify(&two, &[])?;
                ensure!(done.code == DIFFERS, "{found}");
                ensure!(ranges(&found) == [(40 << 20, 4096)], "{found}");
                let (found, _) = verify(&two, &["--repair"])?;
                ensure!(flag(&found, &["identical"])?, "{found}");
                Ok(())
            };
            let worked = work();
            over.store(true, Ordering::Relaxed);
            for host in hosts {
                let writes = host.join().expect("a host does not panic")?;
                ensure!(writes > 100, "{writes} writes are no load");
            }
            worked
        })?;
        two.expect_same_on_both_sides()
    });
}

/// What is wrong on the command line, or names nothing, is refused with what is wrong.
fn refused_lines(two: &TwoUnits) -> Result<()> {
    for (line, code, words) in [
        ("--stop", 5, "no verify"),
        ("--remote absent", 1, "no remote 'absent'"),
        ("--volume absent", 1, "no volume 'absent'"),
        ("--volume ../x", 2, "cannot be the name"),
        ("--stop --status", 2, "cannot be used with"),
    ] {
        let all: Vec<&str> = std::iter::once("verify").chain(line.split(' ')).collect();
        let refused = two.local.command(&all)?.failure()?;
        let said = refused.code == code && refused.stderr.contains(words);
        ensure!(said, "{line}: {}", refused.output());
    }
    let absent = two
        .local
        .command(&["verify", "--status", "--remote", "absent"])?
        .failure()?;
    ensure!(
        absent.code == 1 && absent.stderr.contains("no remote 'absent'"),
        "{}",
        absent.output()
    );
    Ok(())
}

#[test]
fn a_comparison_waits_for_the_link_is_stopped_and_refused_where_there_is_nothing_to_compare() {
    promise(|world| {
        let two = TwoUnits::start(world, SIZES)?;
        fill(&two, &mut Random::new(world.seed()))?;
        two.remote.kill9()?;
        two.local.wait_remote_state("waiting", limits::STATUS)?;
        let waiting = std::thread::scope(|scope| -> Result<Done> {
            let waiting = scope.spawn(|| two.local.command(&["verify"]));
            farside_tests::clock::wait_until("the comparison to wait", limits::STATUS, || {
                let (found, _) = verify(&two, &["--status"])?;
                let remote = &found["remotes"][0];
                let waits = text(remote, &["state"])? == "running" && remote["detail"].is_string();
                Ok(farside_tests::clock::Seen::when(waits, || remote.to_string()))
            })?;
            let second = two.local.command(&["verify"])?.failure()?;
            ensure!(
                second.code == 5 && second.stderr.contains("--stop"),
                "{}",
                second.output()
            );
            two.local.command(&["verify", "--stop"])?.success()?;
            waiting.join().expect("a command does not panic")
        })?;
        ensure!(
            waiting.code == 1 && waiting.stderr.contains("stopped"),
            "{}",
            waiting.output()
        );
        refused_lines(&two)?;
        // A link that is set up anew ends it, and nobody is told that both sides are the same.
        let ended = std::thread::scope(|scope| -> Result<Done> {
            let waiting = scope.spawn(|| two.local.command(&["verify", "--json"]));
            farside_tests::clock::wait_until("the comparison to begin", limits::STATUS, || {
                let (found, _) = verify(&two, &["--status"])?;
                let state = text(&found["remotes"][0], &["state"])?.to_owned();
                Ok(farside_tests::clock::Seen::when(state == "running", || state))
            })?;
            two.local
                .command(&["volume", "resize", VOLUME, "--size", "80M"])?
                .success()?;
            waiting.join().expect("a command does not panic")
        })?;
        ensure!(
            ended.code == 1 && ended.stderr.contains("set up anew"),
            "{}",
            ended.output()
        );
        // One that is under way goes on when the remote is back.
        two.remote.start()?;
        let (found, done) = verify(&two, &[])?;
        ensure!(done.code == 0 && flag(&found, &["identical"])?, "{found}");
        two.local.command(&["journal", "stop-send"])?.success()?;
        let held = two.local.command(&["verify"])?.failure()?;
        ensure!(
            held.code == 5 && held.stderr.contains("start-send"),
            "{}",
            held.output()
        );
        Ok(())
    });
}

#[test]
fn all_of_it_is_compared_in_the_background_again_and_again_also_by_the_next_start() {
    promise(|world| {
        let two = TwoUnits::prepare(world, SIZES)?;
        let file = world.file("local.toml");
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(&file, format!("{text}verify_every = \"10s\"\n"))?;
        two.remote.start()?;
        two.local.start()?;
        two.local.wait_remote_state("streaming", limits::CATCH_UP)?;
        fill(&two, &mut Random::new(world.seed()))?;
        let rounds = || -> Result<Value> { Ok(two.local.status()?.remote(VOLUME)?["rounds"].clone()) };
        let wait = |what: &str, is: &dyn Fn(&Value) -> bool| -> Result<Value> {
            let mut found = Value::Null;
            wait_until(what, limits::CATCH_UP, || {
                found = rounds()?;
                Ok(Seen::when(is(&found), || found.to_string()))
            })?;
            Ok(found)
        };
        // At an even pace.
        let found = wait("a round to begin", &|found| {
            found["compared_bytes"].as_u64() > Some(0)
        })?;
        ensure!(
            found["all_since"].is_null() && found["every_seconds"] == 10,
            "{found}"
        );
        ensure!(found["compared_bytes"].as_u64() < Some(64 << 20), "{found}");
        let first = wait("a round to end", &|found| !found["all_since"].is_null())?;
        ensure!(first["differing_bytes"] == 0, "{first}");
        // One that somebody asks for comes first, and the round goes on after it.
        let (found, done) = verify(&two, &[])?;
        ensure!(done.code == 0 && flag(&found, &["identical"])?, "{found}");

        two.local.kill9()?;
        two.local.start()?;
        two.local.wait_remote_state("streaming", limits::CATCH_UP)?;
        let again = rounds()?;
        ensure!(again["all_since"] == first["all_since"], "{again} after {first}");
        rot(&two, &[5000, 40 << 20])?;
        wait("what differs to be found", &|found| {
            found["differing_bytes"] == 8192
        })?;
        let log = two.local.process()?.log_text();
        ensure!(
            log.contains("compared in the background: the sides differ"),
            "{log}"
        );
        let table = two.local.command(&["status"])?.success()?.stdout;
        ensure!(table.contains("DIFFER, see 'farside verify'"), "{table}");
        let (found, _) = verify(&two, &["--repair"])?;
        ensure!(found["remotes"][0]["repaired_bytes"] == 8192, "{found}");
        wait("a round without a difference", &|found| {
            found["differing_bytes"] == 0 && found["compared_bytes"] == 64 << 20
        })?;
        let kept = two.mirror().with_file_name("compared-disk0@remote.json");
        ensure!(kept.exists(), "{}", kept.display());
        Ok(())
    });
}
