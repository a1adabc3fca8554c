//! A replica that is handed over as it was at a moment of its past.

use anyhow::{Result, ensure};
use farside_tests::clock::{Seen, wait_until};
use farside_tests::status::{number, text};
use farside_tests::units::{Sizes, TwoUnits, VOLUME};
use farside_tests::{BlockClient as _, Random, World, images, limits, promise, soak};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SIZES: Sizes = Sizes {
    disk_mib: 64,
    journal_mib: 256,
};

/// Writes, trims and zeroes all over the disk.
fn change(two: &TwoUnits<'_>, random: &mut Random) -> Result<()> {
    let mut host = two.connect()?;
    for _ in 0..300 {
        let at = random.below(63 << 8) << 12;
        let bytes = usize::try_from(random.between(1, 64))? << 12;
        match random.below(5) {
            0 => host.trim(at, u32::try_from(bytes)?)?,
            _ => host.write(at, &random.bytes(bytes))?,
        }
    }
    host.flush()?;
    host.disconnect()?;
    two.local.wait_applied()
}

/// Gives the present state a name, and keeps a copy of it.
fn remember(world: &World, two: &TwoUnits<'_>, name: &str) -> Result<(PathBuf, u64)> {
    let bookmark = ["history", "bookmark", name, "--volume", VOLUME];
    two.remote.command(&bookmark)?.success()?;
    let copy = world.file(&format!("{name}.img"));
    std::fs::copy(two.replica(), &copy)?;
    Ok((copy, two.applied()?))
}

fn state(two: &TwoUnits<'_>) -> Result<String> {
    let status = two.remote.status()?;
    Ok(text(status.replica(VOLUME)?, &["state"])?.to_owned())
}

fn wait_detached(two: &TwoUnits<'_>) -> Result<()> {
    wait_until("the replica to be detached", limits::CATCH_UP, || {
        let state = state(two)?;
        Ok(Seen::when(state == "detached", || state))
    })
}

#[test]
fn a_replica_is_handed_over_as_it_was_and_taken_back() {
    promise(|world| {
        let two = TwoUnits::start(world, SIZES)?;
        let mut random = Random::new(world.seed());
        change(&two, &mut random)?;
        let (good, record) = remember(world, &two, "good")?;
        change(&two, &mut random)?;
        for (at, says) in [
            ("absent", "neither a bookmark nor a moment"),
            ("999999999", "is not applied here yet"),
        ] {
            let refused = two
                .remote
                .command(&["replica", "detach", VOLUME, "--at", at])?
                .failure()?;
            ensure!(refused.output().contains(says), "{}", refused.output());
            ensure!(state(&two)? == "consistent", "{}", state(&two)?);
        }
        let said = two
            .remote
            .command(&["replica", "detach", VOLUME, "--at", "good"])?
            .success()?
            .stdout;
        ensure!(
            said.contains(&format!("as it was after record {record}:")),
            "{said}"
        );
        images::expect_equal(&good, &two.replica())?;
        let status = two.remote.status()?;
        ensure!(
            number(status.replica(VOLUME)?, &["applied"])? == record,
            "{:?}",
            status.replica(VOLUME)?
        );
        // It stays so, through a restart and whatever the volume does.
        change_away(&two, &mut random)?;
        two.remote.kill9()?;
        two.remote.start()?;
        ensure!(state(&two)? == "detached", "{}", state(&two)?);
        images::expect_equal(&good, &two.replica())?;
        let said = two
            .remote
            .command(&["replica", "attach", VOLUME])?
            .success()?
            .stdout;
        ensure!(said.contains("the volume's unit sends what differs"), "{said}");
        two.expect_same_on_both_sides()?;
        two.local.command(&["verify", "--volume", VOLUME])?.success()?;
        Ok(())
    });
}

/// The same while nobody takes it.
fn change_away(two: &TwoUnits<'_>, random: &mut Random) -> Result<()> {
    let mut host = two.connect()?;
    for _ in 0..50 {
        host.write(random.below(63 << 8) << 12, &random.bytes(8192))?;
    }
    host.flush()?;
    Ok(host.disconnect()?)
}

#[test]
fn bringing_a_replica_back_to_a_moment_is_finished_whenever_its_unit_dies() {
    promise(|world| {
        let two = TwoUnits::start(world, SIZES)?;
        let mut random = Random::new(world.seed());
        let mut interrupted = 0;
        for round in 0..soak(2, 16_u64) {
            change(&two, &mut random)?;
            let (good, record) = remember(world, &two, &format!("good-{round}"))?;
            for _ in 0..2 {
                change(&two, &mut random)?;
            }
            let at = record.to_string();
            let directory = two.replica().parent().map(Path::to_owned).unwrap_or_default();
            let pause = Duration::from_millis(random.below(20));
            std::thread::scope(|scope| {
                let asked = scope.spawn(|| two.remote.command(&["replica", "detach", VOLUME, "--at", &at]));
                let begun = wait_until("it to begin", limits::CATCH_UP, || {
                    let begun = directory.join("restoring").exists() || asked.is_finished();
                    Ok(Seen::when(begun, || "it has not begun".to_owned()))
                });
                std::thread::sleep(pause);
                let killed = two.remote.kill9();
                drop(asked.join());
                begun.and(killed)
            })?;
            interrupted += u64::from(directory.join("restoring").exists());
            let begun = directory.join("restoring").exists() || directory.join("detached").exists();
            two.remote.start()?;
            if !begun {
                // It died before anything was changed.
                two.remote
                    .command(&["replica", "detach", VOLUME, "--at", &at])?
                    .success()?;
            }
            wait_detached(&two)?;
            images::expect_equal(&good, &two.replica())?;
            change_away(&two, &mut random)?;
            two.remote.command(&["replica", "attach", VOLUME])?.success()?;
            two.expect_same_on_both_sides()?;
        }
        ensure!(interrupted > 0, "never interrupted in the middle");
        Ok(())
    });
}
