//! The past of a replica: any moment of it is viewed, named, compared and copied while mirroring goes on.

use anyhow::{Context as _, Result, ensure};
use farside_tests::binary::farside;
use farside_tests::clock::{Seen, wait_until};
use farside_tests::mounts::{FuseFile, LoopDevice, Mount, need_root_and};
use farside_tests::nbd::{Endpoint, NbdClient};
use farside_tests::process::Process;
use farside_tests::tools::Tool;
use farside_tests::units::{Sizes, TwoUnits, VOLUME};
use farside_tests::{BlockClient as _, Random, World, limits, promise};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

const SIZES: Sizes = Sizes {
    disk_mib: 64,
    journal_mib: 32,
};
const DISK: usize = 64 << 20;
/// The part of the disk that the tests write: all of it is compared.
const USED: usize = 4 << 20;

/// The disk as it was, and the record after which it was.
struct State {
    record: u64,
    content: Vec<u8>,
}

/// Writes to random places, each flushed alone, and remembers what the disk was after each.
fn write_states(two: &TwoUnits, content: &mut [u8], random: &mut Random, count: usize) -> Result<Vec<State>> {
    let mut host = two.connect()?;
    let mut states = Vec::new();
    for _ in 0..count {
        let length = 512 * (1 + usize::try_from(random.below(256))?);
        let offset = 512 * usize::try_from(random.below(((USED - length) / 512) as u64))?;
        let bytes = random.bytes(length);
        host.write(offset as u64, &bytes)?;
        host.flush()?;
        content[offset..offset + length].copy_from_slice(&bytes);
        states.push(State {
            record: two.local.positions()?.journaled,
            content: content.to_vec(),
        });
    }
    Ok(states)
}

fn history(two: &TwoUnits, args: &[&str]) -> Result<Value> {
    let mut all = vec!["history", "list", "--volume", VOLUME, "--json"];
    all.extend(args);
    Ok(serde_json::from_str(
        &two.remote.command(&all)?.success()?.stdout,
    )?)
}

/// A view of a moment, at a socket of its own.
fn view(world: &World, two: &TwoUnits, name: &str, args: &[&str]) -> Result<(Arc<Process>, Endpoint)> {
    let socket = world.file(&format!("{name}.sock"));
    let mut command = Command::new(farside()?);
    command.arg("--socket").arg(two.remote.control_socket());
    command
        .args(["history", "view", "--volume", VOLUME, "--nbd-socket"])
        .arg(&socket);
    command.args(args);
    let process = world.spawn(name, &mut command)?;
    wait_until("the view to be there", limits::STATUS, || {
        ensure!(process.exit_status()?.is_none(), "{}", process.log_text());
        Ok(Seen::when(process.log_text().contains("Ctrl-C"), || {
            process.log_text()
        }))
    })?;
    Ok((process, Endpoint::Unix(socket)))
}

fn expect_disk(endpoint: &Endpoint, content: &[u8], about: &str) -> Result<()> {
    let mut client = NbdClient::connect(endpoint, VOLUME).context("cannot attach the view")?;
    for (number, expected) in content.chunks(1 << 20).enumerate() {
        let offset = (number << 20) as u64;
        let found = client.read(offset, u32::try_from(expected.len())?)?;
        ensure!(found == expected, "{about}: the MiB at {offset} differs");
    }
    Ok(client.disconnect()?)
}

fn expect_file(path: &Path, content: &[u8]) -> Result<()> {
    let found = std::fs::read(path)?;
    ensure!(found.len() == DISK, "{} bytes", found.len());
    ensure!(found.starts_with(content) && found[content.len()..].iter().all(|byte| *byte == 0));
    Ok(())
}

#[test]
fn any_moment_is_viewed_while_mirroring_goes_on_and_through_a_crash() {
    promise(|world| {
        let two = TwoUnits::start(world, SIZES)?;
        let (mut random, mut content) = (Random::new(world.seed()), vec![0; USED]);
        let mut states = write_states(&two, &mut content, &mut random, 20)?;
        two.local.wait_applied()?;
        let old = states[7].record.to_string();
        let (process, endpoint) = view(world, &two, "old", &["--at", &old])?;
        expect_disk(&endpoint, &states[7].content, "before more is written")?;
        states.extend(write_states(&two, &mut content, &mut random, 20)?);
        expect_disk(&endpoint, &states[7].content, "while more is written")?;
        let mut client = NbdClient::connect(&endpoint, VOLUME)?;
        ensure!(client.write(0, &[1; 512]).is_err(), "a view is read-only");
        two.local.wait_applied()?;
        let list = history(&two, &["--limit", "1000"])?;
        let known: Vec<u64> = list["moments"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|moment| moment["sequence"].as_u64())
            .collect();
        for state in &states {
            ensure!(
                known.contains(&state.record),
                "{} is not among {known:?}",
                state.record
            );
        }
        // The end of the command ends the view, and the socket goes with it.
        let Endpoint::Unix(socket) = &endpoint else {
            unreachable!()
        };
        process.terminate()?;
        wait_until("the socket to go", limits::STATUS, || {
            Ok(Seen::when(!socket.exists(), || "there".into()))
        })?;
        ensure!(client.read(0, 512).is_err(), "the view ended under its client");
        two.remote.kill9()?;
        two.remote.start()?;
        states.extend(write_states(&two, &mut content, &mut random, 5)?);
        two.local.wait_applied()?;
        for (number, state) in states.iter().enumerate().step_by(9) {
            let name = format!("after{number}");
            let (process, endpoint) = view(world, &two, &name, &["--at", &state.record.to_string()])?;
            expect_disk(&endpoint, &state.content, &name)?;
            // A view whose owner dies ends, too.
            process.kill9()?;
            let Endpoint::Unix(socket) = &endpoint else {
                unreachable!()
            };
            wait_until("the socket to go", limits::STATUS, || {
                Ok(Seen::when(!socket.exists(), || "there".into()))
            })?;
        }
        two.expect_same_on_both_sides()
    });
}

#[test]
fn moments_are_named_compared_and_copied_and_a_scratch_is_forgotten() {
    promise(|world| {
        let two = TwoUnits::start(world, SIZES)?;
        let (mut random, mut content) = (Random::new(world.seed()), vec![0; USED]);
        let first = write_states(&two, &mut content, &mut random, 5)?;
        two.local.wait_applied()?;
        // With one replica its name can be left away.
        two.remote
            .command(&["history", "bookmark", "before-upgrade"])?
            .success()?;
        let kept = &first[4];
        let mut host = two.connect()?;
        let place = 3 << 20;
        host.write(place, &random.bytes(8192))?;
        host.flush()?;
        two.local.wait_applied()?;
        let list = history(&two, &[])?;
        ensure!(list["named"][0]["name"] == "before-upgrade" && list["named"][0]["sequence"] == kept.record);
        let diff = two
            .remote
            .command(&["history", "diff", "--from", "before-upgrade", "--json"])?
            .success()?;
        let diff: Value = serde_json::from_str(&diff.stdout)?;
        ensure!(
            diff["bytes"] == 8192 && diff["ranges"][0]["offset"] == place,
            "{diff}"
        );
        // By bookmark, record, and the time as it is listed.
        let time = list["named"][0]["time"].as_str().context("a time")?.to_owned();
        for (number, at) in ["before-upgrade", &kept.record.to_string(), &time]
            .into_iter()
            .enumerate()
        {
            let file = world.file(&format!("copy{number}.img"));
            let output = file.to_string_lossy();
            two.remote
                .command(&["history", "restore", "--at", at, "--output", &output])?
                .success()?;
            expect_file(&file, &kept.content)?;
        }
        let (_process, endpoint) = view(world, &two, "scratch", &["--at", "before-upgrade", "--scratch"])?;
        let mut client = NbdClient::connect(&endpoint, VOLUME)?;
        let (bytes, mut expected) = (random.bytes(5000), kept.content.clone());
        client.write(1000, &bytes)?;
        expected[1000..6000].copy_from_slice(&bytes);
        client.flush()?;
        expect_disk(&endpoint, &expected, "with what was written")?;
        let (_process, other) = view(world, &two, "plain", &["--at", "before-upgrade"])?;
        expect_disk(&other, &kept.content, "beside the scratch")?;
        two.remote.kill9()?;
        two.remote.start()?;
        // What the local unit says may be of before, and the replica is opened after the unit answers.
        wait_until("the replica to be in service", limits::CATCH_UP, || {
            let status = two.remote.status()?;
            let state = status.replica(VOLUME)?["state"].to_string();
            Ok(Seen::when(state == "\"consistent\"", || state))
        })?;
        two.local.wait_applied()?;
        let list = history(&two, &[])?;
        ensure!(list["named"][0]["kept"] == true, "{list}");
        two.remote
            .command(&["history", "bookmark", "before-upgrade", "--remove"])?
            .success()?;
        ensure!(history(&two, &[])?["named"] == serde_json::json!([]));
        two.expect_same_on_both_sides()
    });
}

#[test]
fn a_file_system_in_use_is_mounted_as_it_was() {
    promise(|world| {
        need_root_and(&["/dev/fuse", "/dev/loop-control"])?;
        let two = TwoUnits::start(world, SIZES)?;
        let disk = FuseFile::show(world, &two.endpoint().uri(VOLUME), 1)?;
        let device = LoopDevice::attach(disk.path(), &["--direct-io=on"])?;
        Tool::new("mkfs.ext4").args(["-q"]).path(device.path()).ok()?;
        let mounted = Mount::device(device.path(), &world.file("now"), "noatime")?;
        let write = |name: &str, bytes: &[u8]| -> Result<()> {
            let mut file = std::fs::File::create(mounted.path().join(name))?;
            std::io::Write::write_all(&mut file, bytes)?;
            Ok(rustix::fs::fsync(&file)?)
        };
        write("report", b"as it should be")?;
        two.local.wait_applied()?;
        two.remote.command(&["history", "bookmark", "good"])?.success()?;
        write("report", b"overwritten by mistake")?;
        write("more", &vec![7; 5 << 20])?;
        two.local.wait_applied()?;
        // The journal of the file system is replayed into the scratch.
        let (_process, endpoint) = view(world, &two, "good", &["--at", "good", "--scratch"])?;
        let past = FuseFile::show_as(world, "past", &endpoint.uri(VOLUME), 1)?;
        let past_device = LoopDevice::attach(past.path(), &["--direct-io=on"])?;
        let then = Mount::device(past_device.path(), &world.file("then"), "noatime")?;
        ensure!(std::fs::read(then.path().join("report"))? == b"as it should be");
        ensure!(!then.path().join("more").exists());
        then.unmount()?;
        drop(past_device);
        past.detach()?;
        mounted.unmount()?;
        drop(device);
        disk.detach()?;
        two.expect_same_on_both_sides()
    });
}

#[test]
fn what_cannot_be_had_is_refused_with_the_way_out() {
    promise(|world| {
        let two = TwoUnits::start(world, SIZES)?;
        let mut random = Random::new(world.seed());
        write_states(&two, &mut vec![0; USED], &mut random, 3)?;
        two.local.wait_applied()?;
        two.remote.command(&["history", "bookmark", "mine"])?.success()?;
        let there = world.file("there");
        std::fs::write(&there, "somebody's")?;
        let (there, socket) = (
            there.to_string_lossy(),
            world.file("s").to_string_lossy().into_owned(),
        );
        for (line, code, words) in [
            ("view --at 999999 --nbd-socket S", 1, "not applied here yet"),
            (
                "view --at 1999-01-01 --nbd-socket S",
                1,
                "before the oldest moment",
            ),
            ("view --at 2999-01-01 --nbd-socket S", 1, "has not come yet"),
            ("view --at someday --nbd-socket S", 1, "10m ago"),
            ("view --at now --nbd-socket T", 5, "no socket"),
            (
                "view --at now --nbd-socket S --volume absent",
                1,
                "no replica of 'absent'",
            ),
            (
                "view --at now --nbd-socket S --volume ../x",
                2,
                "cannot be a name",
            ),
            ("restore --at now --output T", 5, "name a new file"),
            ("bookmark mine", 5, "already"),
            ("bookmark 77", 1, "not digits only"),
            ("bookmark absent --remove", 1, "no bookmark 'absent'"),
            ("diff --from now --to 1", 1, "name the earlier first"),
        ] {
            let args = line.split(' ').map(|word| match word {
                "S" => socket.as_str(),
                "T" => &there,
                other => other,
            });
            let all: Vec<&str> = std::iter::once("history").chain(args).collect();
            let refused = two.remote.command(&all)?.failure()?;
            ensure!(
                refused.code == code && refused.stderr.contains(words),
                "{line}: {}",
                refused.output()
            );
        }
        ensure!(std::fs::read(&*there)? == b"somebody's");
        // The unit that has the volume keeps no replica of it.
        let elsewhere = two.local.command(&["history", "list"])?.failure()?;
        ensure!(
            elsewhere.stderr.contains("keeps no replica"),
            "{}",
            elsewhere.output()
        );
        Ok(())
    });
}

/// More is written than the history holds: the oldest goes, a bookmark as the last, and mirroring never stops.
#[test]
fn a_full_history_drops_the_oldest_and_says_so() {
    promise(|world| {
        let two = TwoUnits::prepare(world, SIZES)?;
        let file = world.file("remote.toml");
        let text = std::fs::read_to_string(&file)?.replace("[link]\n", "[link]\nhistory_size = \"8M\"\n");
        std::fs::write(&file, text)?;
        two.remote.start()?;
        two.local.start()?;
        two.local.wait_remote_state("streaming", limits::CATCH_UP)?;
        let (mut random, mut content) = (Random::new(world.seed()), vec![0; USED]);
        write_states(&two, &mut content, &mut random, 3)?;
        two.local.wait_applied()?;
        two.remote.command(&["history", "bookmark", "early"])?.success()?;
        let oldest = history(&two, &[])?["oldest"]["sequence"].as_u64();
        let mut host = two.connect()?;
        for _ in 0..6 {
            for at in 0..4 {
                host.write(at << 20, &random.bytes(1 << 20))?;
            }
            host.flush()?;
            two.local.wait_applied()?;
        }
        let list = history(&two, &["--limit", "1000"])?;
        ensure!(list["oldest"]["sequence"].as_u64() > oldest, "{list}");
        ensure!(
            list["used_bytes"].as_u64() <= Some(8 << 20) && list["problem"] == Value::Null,
            "{list}"
        );
        ensure!(list["named"][0]["kept"] == false, "{list}");
        let socket = world.file("s").to_string_lossy().into_owned();
        let lost = two
            .remote
            .command(&["history", "view", "--at", "early", "--nbd-socket", &socket])?
            .failure()?;
        ensure!(lost.stderr.contains("is lost"), "{}", lost.output());
        two.expect_same_on_both_sides()?;
        // All of what is still there reads without an error.
        let at = list["oldest"]["sequence"].to_string();
        let (_process, endpoint) = view(world, &two, "oldest", &["--at", &at])?;
        Tool::new("nbdcopy")
            .args([endpoint.uri(VOLUME).as_str(), "null:"])
            .ok()?;
        Ok(())
    });
}
