//! The disk of a replica is handed over to another host and taken back; a seed spares the line most of the first copy.

use anyhow::{Context as _, Result, ensure};
use farside_tests::binary::farside;
use farside_tests::clock::{Seen, wait_until};
use farside_tests::images::expect_equal;
use farside_tests::mounts::{LoopDevice, Mount, need_root_and};
use farside_tests::status::{flag, number, text};
use farside_tests::tools::Tool;
use farside_tests::units::{Sizes, TwoUnits, VOLUME};
use farside_tests::{BlockClient as _, Random, World, limits, promise};
use std::path::PathBuf;
use std::process::Command;

const SIZES: Sizes = Sizes {
    disk_mib: 64,
    journal_mib: 32,
};
const MIB: u64 = 1 << 20;
/// Refused links are tried again after ten seconds.
const COMES_BACK: std::time::Duration = std::time::Duration::from_secs(60);

fn fill(two: &TwoUnits, random: &mut Random, mib: std::ops::Range<u64>) -> Result<()> {
    let mut host = two.connect()?;
    for at in mib {
        host.write(at * MIB, &random.bytes(1 << 20))?;
    }
    host.flush()?;
    host.disconnect()?;
    Ok(())
}

fn replica_state(two: &TwoUnits) -> Result<String> {
    let status = two.remote.status()?;
    Ok(text(status.replica(VOLUME)?, &["state"])?.to_owned())
}

fn follows(two: &TwoUnits) -> Result<()> {
    two.local.wait_remote_state("streaming", COMES_BACK)?;
    two.expect_same_on_both_sides()
}

/// Bytes that the last copy found at the remote already.
fn last_copy_same(two: &TwoUnits) -> Result<Option<u64>> {
    let log = two.local.process()?.log_text();
    let Some(line) = log.lines().rfind(|line| line.contains("copy is complete")) else {
        return Ok(None);
    };
    let same = line
        .split_once("same=")
        .context("no count of what was the same")?
        .1;
    let digits: String = same.chars().take_while(char::is_ascii_digit).collect();
    Ok(Some(digits.parse()?))
}

#[test]
fn a_replica_that_nobody_touched_goes_on_where_it_was_detached() {
    promise(|world| {
        let (two, mut random) = (TwoUnits::start(world, SIZES)?, Random::new(world.seed()));
        fill(&two, &mut random, 0..24)?;
        two.expect_same_on_both_sides()?;
        let record = two.local.positions()?.journaled;
        let said = two.remote.command(&["replica", "detach", VOLUME])?.success()?;
        ensure!(
            said.stdout.contains(&format!("after record {record}")),
            "{}",
            said.output()
        );
        // All of it is in the disk, which is one like any other.
        expect_equal(&two.mirror(), &two.replica())?;
        two.local.wait_remote_state("refused", limits::STATUS)?;
        let status = two.local.status()?;
        let detail = text(status.remote(VOLUME)?, &["detail"])?;
        ensure!(detail.contains("farside replica attach"), "{detail}");
        for (args, says) in [
            (["replica", "detach", VOLUME], "detached already"),
            (["replica", "attach", "absent"], "no replica of 'absent'"),
        ] {
            let refused = two.remote.command(&args)?.failure()?;
            ensure!(refused.stderr.contains(says), "{}", refused.output());
        }
        // Hosts write on, and the remote is started again: it is detached as before.
        fill(&two, &mut random, 20..28)?;
        two.remote.kill9()?;
        two.remote.start()?;
        ensure!(replica_state(&two)? == "detached");
        let said = two.remote.command(&["replica", "attach", VOLUME])?.success()?;
        ensure!(said.stdout.contains("as it was left"), "{}", said.output());
        follows(&two)?;
        // One copy, the first.
        let log = two.local.process()?.log_text();
        let copies = log.matches("copy is complete").count();
        ensure!(copies == 1, "{copies} copies\n{log}");
        let refused = two.remote.command(&["replica", "attach", VOLUME])?.failure()?;
        ensure!(refused.stderr.contains("is not detached"), "{}", refused.output());
        Ok(())
    });
}

#[test]
fn a_disk_that_another_host_wrote_gets_what_differs() {
    promise(|world| {
        need_root_and(&["/dev/loop-control"])?;
        let (two, mut random) = (TwoUnits::start(world, SIZES)?, Random::new(world.seed()));
        // A file system of the host's, and data beside it.
        let seed_file = world.file("fs");
        std::fs::File::create(&seed_file)?.set_len(16 * MIB)?;
        Tool::new("mkfs.ext4").args(["-q"]).path(&seed_file).ok()?;
        let mut host = two.connect()?;
        host.write(0, &std::fs::read(&seed_file)?)?;
        host.flush()?;
        host.disconnect()?;
        fill(&two, &mut random, 16..48)?;
        two.expect_same_on_both_sides()?;
        two.remote
            .command(&["history", "bookmark", "before", "--volume", VOLUME])?
            .success()?;
        two.remote.command(&["replica", "detach", VOLUME])?.success()?;
        {
            let disk = LoopDevice::attach(&two.replica(), &[])?;
            let mount = Mount::device(disk.path(), &world.file("standby"), "rw")?;
            std::fs::write(mount.path().join("written-by-the-standby"), vec![7; 1 << 20])?;
            mount.unmount()?;
        }
        fill(&two, &mut random, 40..42)?;
        let said = two.remote.command(&["replica", "attach", VOLUME])?.success()?;
        ensure!(said.stdout.contains("was changed"), "{}", said.output());
        follows(&two)?;
        let same = last_copy_same(&two)?.context("no copy")?;
        ensure!(
            same > 44 * MIB && same < 46 * MIB,
            "{same} bytes of 48 MiB were the same"
        );
        // What was before is not to be had from an image that somebody else wrote.
        let history = two
            .remote
            .command(&["history", "list", "--volume", VOLUME, "--json"])?
            .success()?;
        let history: serde_json::Value = serde_json::from_str(&history.stdout)?;
        ensure!(
            history["named"].as_array().is_some_and(Vec::is_empty),
            "{history}"
        );
        let verified = two.local.command(&["verify"])?.success()?;
        ensure!(verified.stdout.contains("the same"), "{}", verified.output());
        Ok(())
    });
}

#[test]
fn who_still_uses_a_replica_is_told_when_it_is_detached() {
    promise(|world| {
        let (two, mut random) = (TwoUnits::start(world, SIZES)?, Random::new(world.seed()));
        fill(&two, &mut random, 0..4)?;
        two.expect_same_on_both_sides()?;
        let mut command = Command::new(farside()?);
        command.arg("--socket").arg(two.remote.control_socket());
        command.args([
            "history",
            "view",
            "--volume",
            VOLUME,
            "--at",
            "now",
            "--nbd-socket",
        ]);
        command.arg(world.file("view.sock"));
        let view = world.spawn("view", &mut command)?;
        wait_until("the view", limits::STATUS, || {
            let log = view.log_text();
            Ok(Seen::when(log.contains("Ctrl-C"), || log))
        })?;
        two.remote.command(&["replica", "detach", VOLUME])?.success()?;
        view.wait_end(limits::STATUS)?;
        ensure!(view.log_text().contains("was detached"), "{}", view.log_text());
        let gone = two
            .remote
            .command(&["history", "list", "--volume", VOLUME])?
            .failure()?;
        ensure!(gone.stderr.contains("no replica"), "{}", gone.output());
        two.remote.command(&["replica", "attach", VOLUME])?.success()?;
        follows(&two)
    });
}

/// Writes what the volume holds into a file, before its remote is there.
fn exported(world: &World, two: &TwoUnits) -> Result<PathBuf> {
    let file = world.file("media.img");
    let path = file.display().to_string();
    two.local
        .command(&["seed", "export", "--volume", VOLUME, "--file", &path])?
        .success()?;
    let again = two
        .local
        .command(&["seed", "export", "--file", &path])?
        .failure()?;
    ensure!(again.stderr.contains("name a new file"), "{}", again.output());
    Ok(file)
}

#[test]
fn a_seed_spares_the_line_all_but_what_differs() {
    promise(|world| {
        let (two, mut random) = (TwoUnits::prepare(world, SIZES)?, Random::new(world.seed()));
        two.local.start()?;
        fill(&two, &mut random, 0..40)?;
        let file = exported(world, &two)?;
        two.local.wait_mirrored()?;
        expect_equal(&two.mirror(), &file)?;
        // Later than the seed.
        fill(&two, &mut random, 38..41)?;
        two.local.shut_down()?;
        two.remote.start()?;
        let import = |file: &str| {
            two.remote
                .command(&["seed", "import", "--volume", VOLUME, "--file", file])
        };
        let directory = world.file("").display().to_string();
        let pipe = world.file("pipe");
        Tool::new("mkfifo").path(&pipe).ok()?;
        let pipe = pipe.display().to_string();
        for (file, says) in [
            (directory.as_str(), "is a directory"),
            (pipe.as_str(), "neither a file nor a block device"),
            ("/absent", "No such file"),
        ] {
            let refused = import(file)?.failure()?;
            ensure!(refused.stderr.contains(says), "{}", refused.output());
        }
        let path = file.display().to_string();
        import(&path)?.success()?;
        ensure!(replica_state(&two)? == "seeded");
        let again = import(&path)?.failure()?;
        ensure!(again.stderr.contains("is here already"), "{}", again.output());
        let seeded = two.remote.command(&["replica", "detach", VOLUME])?.failure()?;
        ensure!(seeded.stderr.contains("is a seed"), "{}", seeded.output());
        // It waits for its volume through a restart.
        two.remote.kill9()?;
        two.remote.start()?;
        ensure!(replica_state(&two)? == "seeded");
        two.local.start()?;
        follows(&two)?;
        let same = last_copy_same(&two)?.context("no copy")?;
        ensure!(
            (37 * MIB..=38 * MIB).contains(&same),
            "{same} bytes of 40 MiB were the same"
        );
        let status = two.remote.status()?;
        let replica = status.replica(VOLUME)?;
        ensure!(flag(replica, &["consistent"])?, "{replica}");
        ensure!(number(replica, &["size_bytes"])? == SIZES.disk_bytes());
        Ok(())
    });
}

#[test]
fn a_seed_of_another_disk_and_size_does_no_harm() {
    promise(|world| {
        let (two, mut random) = (TwoUnits::prepare(world, SIZES)?, Random::new(world.seed()));
        two.local.start()?;
        fill(&two, &mut random, 0..8)?;
        two.local.shut_down()?;
        two.remote.start()?;
        let file = world.file("other.img");
        std::fs::write(&file, random.bytes(70 << 20))?;
        let path = file.display().to_string();
        two.remote
            .command(&["seed", "import", "--volume", VOLUME, "--file", &path])?
            .success()?;
        two.local.start()?;
        follows(&two)?;
        let same = last_copy_same(&two)?.context("no copy")?;
        ensure!(same == 0, "{same} bytes of random content were the same");
        Ok(())
    });
}
