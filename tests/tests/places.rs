//! Images of replicas lie where the configuration says: on a block device, or in a file somewhere.

use anyhow::{Context as _, Result, ensure};
use farside_tests::clock::{Seen, wait_until};
use farside_tests::images::expect_equal;
use farside_tests::mounts::{LoopDevice, Mount, need_root_and};
use farside_tests::status::text;
use farside_tests::tools::Tool;
use farside_tests::units::{Sizes, TwoUnits, VOLUME};
use farside_tests::{BlockClient as _, Random, World, limits, promise};
use rustix::process::Signal;
use std::fs::File;
use std::path::{Path, PathBuf};

const SIZES: Sizes = Sizes {
    disk_mib: 64,
    journal_mib: 32,
};
const MIB: u64 = 1 << 20;
/// Refused links are tried again after ten seconds.
const COMES_BACK: std::time::Duration = std::time::Duration::from_secs(60);

/// A disk of the remote unit's machine.
fn disk(world: &World, bytes: u64) -> Result<(LoopDevice, PathBuf)> {
    need_root_and(&["/dev/loop-control"])?;
    let backing = world.file("disk.img");
    File::create(&backing)?.set_len(bytes)?;
    Ok((LoopDevice::attach(&backing, &[])?, backing))
}

fn place_image(world: &World, image: &Path) -> Result<()> {
    let file = world.file("remote.toml");
    let text = std::fs::read_to_string(&file)?;
    let without = text.split("[[replica]]").next().unwrap_or_default();
    let image = image.display();
    Ok(std::fs::write(
        file,
        format!("{without}[[replica]]\nname = \"{VOLUME}\"\nimage = \"{image}\"\n"),
    )?)
}

fn state(two: &TwoUnits) -> Result<String> {
    let status = two.remote.status()?;
    Ok(text(status.replica(VOLUME)?, &["state"])?.to_owned())
}

/// Both sides have the same, on the disk itself.
fn expect_same(two: &TwoUnits, disk: &Path) -> Result<()> {
    two.local.wait_applied()?;
    two.local.wait_mirrored()?;
    expect_equal(&two.mirror(), disk)
}

fn follows(two: &TwoUnits, disk: &Path) -> Result<()> {
    two.local.wait_remote_state("streaming", COMES_BACK)?;
    expect_same(two, disk)
}

#[test]
fn a_replica_lies_on_the_block_device_that_is_named() {
    promise(|world| {
        let (device, _) = disk(world, SIZES.disk_bytes())?;
        let (two, mut random) = (TwoUnits::prepare(world, SIZES)?, Random::new(world.seed()));
        place_image(world, device.path())?;
        two.remote.start()?;
        two.local.start()?;
        two.local.wait_remote_state("streaming", limits::CATCH_UP)?;
        two.write_some(&mut random)?;
        expect_same(&two, device.path())?;
        let status = two.remote.status()?;
        let shown = text(status.replica(VOLUME)?, &["image", "path"])?;
        ensure!(Path::new(shown) == device.path(), "{shown}");
        // It is there through deaths, and nobody mounts it meanwhile.
        two.remote.kill9()?;
        two.write_some(&mut random)?;
        two.remote.start()?;
        follows(&two, device.path())?;
        let in_use = Tool::new("mkfs.ext4")
            .args(["-q", "-F"])
            .path(device.path())
            .run()?;
        ensure!(in_use.output().contains("in use"), "{}", in_use.output());
        // Another place in the configuration: it stays where it is, and says so.
        let elsewhere = world.file("elsewhere.img");
        place_image(world, &elsewhere)?;
        two.remote.process()?.signal(Signal::HUP)?;
        wait_until("the other place to be noticed", limits::STATUS, || {
            let status = two.remote.status()?;
            let replica = status.replica(VOLUME)?;
            let noticed =
                text(replica, &["problem"]).is_ok_and(|problem| problem.contains("is used there, not at"));
            Ok(Seen::when(noticed, || format!("{replica}")))
        })?;
        two.remote.shut_down()?;
        two.remote.start()?;
        two.write_some(&mut random)?;
        follows(&two, device.path())?;
        ensure!(!elsewhere.exists());
        // Without the setting, too.
        place_image(world, device.path())?;
        two.remote.command(&["replica", "detach", VOLUME])?.success()?;
        let mount = world.file("standby");
        // A device tells nobody whether it was written: what differs is sent, whatever that is.
        Tool::new("mkfs.ext4")
            .args(["-q", "-F"])
            .path(device.path())
            .ok()?;
        Mount::device(device.path(), &mount, "rw")?.unmount()?;
        let said = two.remote.command(&["replica", "attach", VOLUME])?.success()?;
        ensure!(said.stdout.contains("was changed"), "{}", said.output());
        follows(&two, device.path())
    });
}

#[test]
fn a_disk_that_holds_something_is_not_overwritten_unless_it_is_adopted() {
    promise(|world| {
        let (two, mut random) = (TwoUnits::prepare(world, SIZES)?, Random::new(world.seed()));
        let (device, _) = disk(world, SIZES.disk_bytes() + MIB)?;
        // What the volume had some time ago, and something behind it.
        let content = random.bytes(32 << 20);
        two.local.start()?;
        let mut host = two.connect()?;
        for (at, part) in (0..).step_by(1 << 20).zip(content.chunks(1 << 20)) {
            host.write(at, part)?;
        }
        host.flush()?;
        let part = world.file("part");
        std::fs::write(&part, &content)?;
        let copied = |options: &str| {
            let (from, to) = (
                format!("if={}", part.display()),
                format!("of={}", device.path().display()),
            );
            let mut args = vec![
                from.as_str(),
                to.as_str(),
                "bs=1M",
                "conv=notrunc,fsync",
                "status=none",
            ];
            args.extend(options.split_whitespace());
            Tool::new("dd").args(args).ok().map(drop)
        };
        copied("")?;
        copied("seek=64 count=1")?;
        place_image(world, device.path())?;
        two.remote.start()?;
        two.local.wait_remote_state("refused", COMES_BACK)?;
        let status = two.local.status()?;
        let detail = text(status.remote(VOLUME)?, &["detail"])?;
        ensure!(
            detail.contains("is not empty") && detail.contains("farside replica adopt"),
            "{detail}"
        );
        two.remote.command(&["replica", "adopt", VOLUME])?.success()?;
        ensure!(state(&two)? == "seeded");
        let again = two.remote.command(&["replica", "adopt", VOLUME])?.failure()?;
        ensure!(again.stderr.contains("is here already"), "{}", again.output());
        two.remote.kill9()?;
        two.remote.start()?;
        two.local.wait_remote_state("streaming", COMES_BACK)?;
        two.local.wait_applied()?;
        two.local.wait_mirrored()?;
        let same = two.local.process()?.log_text();
        let same = same
            .lines()
            .rfind(|line| line.contains("copy is complete"))
            .context("no copy")?;
        ensure!(same.contains("same=33554432"), "{same}");
        // The volume's part of it, and nothing behind.
        let (mirror, far) = (std::fs::read(two.mirror())?, std::fs::read(device.path())?);
        let (front, behind) = far.split_at(mirror.len());
        ensure!(front == mirror, "the disk differs from the mirror");
        ensure!(
            Some(behind) == content.get(..1 << 20),
            "what lies behind was touched"
        );
        Ok(())
    });
}

#[test]
fn a_seed_is_laid_down_where_the_image_is_to_lie() {
    promise(|world| {
        let (two, mut random) = (TwoUnits::prepare(world, SIZES)?, Random::new(world.seed()));
        let (device, _) = disk(world, SIZES.disk_bytes())?;
        place_image(world, device.path())?;
        two.local.start()?;
        two.write_some(&mut random)?;
        let file = world.file("media.img").display().to_string();
        two.local
            .command(&["seed", "export", "--file", &file])?
            .success()?;
        // A replica that is there needs no seed: its volume is away until it is laid down.
        two.local.shut_down()?;
        two.remote.start()?;
        let import = ["seed", "import", "--volume", VOLUME, "--file", &file];
        two.remote.command(&import)?.success()?;
        ensure!(state(&two)? == "seeded");
        two.local.start()?;
        follows(&two, device.path())?;
        let log = two.local.process()?.log_text();
        let line = log
            .lines()
            .rfind(|line| line.contains("copy is complete"))
            .context("no copy")?;
        ensure!(!line.contains("same=0"), "{line}");
        Ok(())
    });
}

/// The disk that a host had until now becomes the mirror of a volume, as it is.
#[test]
fn an_existing_disk_is_adopted_as_a_mirror() {
    promise(|world| {
        let (two, mut random) = (TwoUnits::prepare(world, SIZES)?, Random::new(world.seed()));
        two.remote.start()?;
        two.local.start()?;
        two.local.wait_remote_state("streaming", limits::CATCH_UP)?;
        let (device, _) = disk(world, 24 * MIB)?;
        Tool::new("mkfs.ext4").args(["-q"]).path(device.path()).ok()?;
        let point = world.file("point");
        let before = random.bytes(3 << 20);
        {
            let mount = Mount::device(device.path(), &point, "rw")?;
            std::fs::write(mount.path().join("kept"), &before)?;
            let create = |more: &[&str]| {
                let path = device.path().display().to_string();
                let remote = format!("remote={}", two.link);
                let mut args = vec!["volume", "create", "old", "--mirror", &path, "--remote", &remote];
                args.extend(more);
                two.local.command(&args)
            };
            // Neither by mistake, nor while somebody else writes to it.
            for (more, says) in [
                (&["--size", "24M"][..], "is not empty"),
                (&["--adopt"], "is mounted"),
                (&["--adopt", "--force"], "cannot be used with"),
                (&["--adopt", "--size", "32M"], "is mounted"),
            ] {
                let refused = create(more)?.failure()?;
                ensure!(refused.output().contains(says), "{}", refused.output());
            }
            mount.unmount()?;
            let large = create(&["--adopt", "--size", "32M"])?.failure()?;
            ensure!(large.output().contains("the volume needs"), "{}", large.output());
            create(&["--adopt"])?.success()?;
        }
        let is_there = || -> Result<Seen> {
            let status = two.local.status()?;
            let old = status.volume("old")?;
            let there = old["size_bytes"] == 24 * MIB && old["remotes"][0]["consistent"] == true;
            Ok(Seen::when(there, || old.to_string()))
        };
        wait_until("the adopted disk to be mirrored", limits::CATCH_UP, is_there)?;
        let replica = two.remote_directory.join("replicas/old/replica.img");
        expect_equal(device.path(), &replica)?;
        // What is at the far side is the disk that the host had.
        let far = LoopDevice::attach(&replica, &["--read-only"])?;
        let mount = Mount::device(far.path(), &point, "ro,noload")?;
        ensure!(
            std::fs::read(mount.path().join("kept"))? == before,
            "the file differs"
        );
        mount.unmount()?;
        let again = ["volume", "create", "again", "--adopt", "--mirror", "/dev/null"];
        let refused = two.local.command(&again)?.failure()?;
        ensure!(
            refused.output().contains("neither a file nor a block device"),
            "{}",
            refused.output()
        );
        Ok(())
    });
}
