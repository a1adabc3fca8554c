//! Sending and queuing are stopped and started by the operator, without a restart and through restarts.

use anyhow::{Result, ensure};
use farside_tests::clock::{Seen, wait_until};
use farside_tests::nbd::{Endpoint, NbdClient};
use farside_tests::proxy::Way;
use farside_tests::status::{number, text};
use farside_tests::units::{Sizes, TwoUnits, VOLUME, configured, local_unit, unit_toml, volume_toml};
use farside_tests::{BlockClient as _, Random, images, limits, ports, promise};
use std::path::Path;

const SIZES: Sizes = Sizes {
    disk_mib: 64,
    journal_mib: 32,
};

#[test]
fn sending_is_stopped_and_goes_on_from_there() {
    promise(|world| {
        let two = TwoUnits::start(world, SIZES)?;
        let mut random = Random::new(world.seed());
        two.write_some(&mut random)?;
        two.local.wait_applied()?;
        two.local.command(&["journal", "stop-send"])?.success()?;
        two.local.wait_remote_state("held", limits::STATUS)?;
        let before = two.applied()?;
        two.write_some(&mut random)?;
        ensure!(images::expect_equal(&two.mirror(), &two.replica()).is_err() || two.applied()? == before);
        for unit in [&two.local, &two.remote] {
            unit.kill9()?;
            unit.start()?;
        }
        // What the operator said holds, and says how to go on.
        let status = two.local.status()?;
        let remote = status.remote(VOLUME)?;
        ensure!(text(remote, &["state"])? == "held" && text(remote, &["detail"])?.contains("start-send"));
        ensure!(number(remote, &["lag", "records"])? > 0, "{remote}");
        two.write_some(&mut random)?;
        // It recovers, which takes a moment, and nothing else comes.
        wait_until("the remote to recover", limits::CATCH_UP, || {
            let now = two.applied()?;
            Ok(Seen::when(now >= before, || format!("{now} of {before}")))
        })?;
        let now = two.applied()?;
        ensure!(now == before, "record {now} was sent after {before}");
        let done = two
            .local
            .command(&["journal", "start-send", "--volume", VOLUME, "--remote", "remote"])?;
        ensure!(done.success()?.stdout.contains("sending started"));
        two.expect_same_on_both_sides()?;
        // It went on where it had stopped: no copy.
        let log = two.local.process()?.log_text();
        ensure!(!log.contains("full copy begins"), "{log}");
        Ok(())
    });
}

#[test]
fn queuing_is_stopped_after_what_is_queued_and_begins_with_a_copy() {
    promise(|world| {
        let two = TwoUnits::start(world, SIZES)?;
        let mut random = Random::new(world.seed());
        // Something is queued when queuing is stopped: that is still sent.
        two.local.command(&["journal", "stop-send"])?.success()?;
        two.write_some(&mut random)?;
        let queued = two.local.positions()?.journaled;
        two.local.command(&["journal", "stop-queue"])?.success()?;
        ensure!(two.applied()? < queued);
        two.local.command(&["journal", "start-send"])?.success()?;
        wait_until("what was queued to be there", limits::CATCH_UP, || {
            let (has, status) = (two.applied()?, two.local.status()?);
            let held = text(status.remote(VOLUME)?, &["state"])? == "held";
            Ok(Seen::when(has >= queued && held, || {
                format!("{has} of {queued}, held {held}")
            }))
        })?;
        let has = two.applied()?;
        // More than the journal holds, and nobody is waited for.
        let mut host = two.connect()?;
        for number in 0..48 {
            host.write(number << 20, &random.bytes(1 << 20))?;
        }
        host.flush()?;
        two.local.wait_mirrored()?;
        ensure!(two.applied()? == has, "nothing more was sent");
        two.local.shut_down()?;
        two.local.start()?;
        let status = two.local.status()?;
        let remote = status.remote(VOLUME)?;
        ensure!(text(remote, &["state"])? == "held" && text(remote, &["detail"])?.contains("start-queue"));
        ensure!(number(remote, &["dirty_bytes"])? >= 48 << 20, "{remote}");
        two.local.command(&["journal", "start-queue"])?.success()?;
        two.local.wait_remote_state("streaming", limits::CATCH_UP)?;
        let log = two.local.process()?.log_text();
        ensure!(
            log.contains("resync of what changed begins") && !log.contains("full copy begins"),
            "{log}"
        );
        two.expect_same_on_both_sides()
    });
}

#[test]
fn what_is_not_there_is_not_stopped() {
    promise(|world| {
        let two = TwoUnits::start(world, SIZES)?;
        let file = std::fs::read_to_string(world.file("local.toml"))?;
        for (line, code, words) in [
            ("stop-send --volume absent", 1, "no volume 'absent'"),
            ("stop-send --remote absent", 1, "no remote 'absent'"),
            ("stop-queue --volume ../x", 2, "cannot be the name"),
        ] {
            let all: Vec<&str> = std::iter::once("journal").chain(line.split(' ')).collect();
            let refused = two.local.command(&all)?.failure()?;
            ensure!(
                refused.code == code && refused.stderr.contains(words),
                "{line}: {}",
                refused.output()
            );
        }
        let nowhere = two.remote.command(&["journal", "stop-send"])?.failure()?;
        ensure!(nowhere.stderr.contains("has no volume"), "{}", nowhere.output());
        ensure!(
            std::fs::read_to_string(world.file("local.toml"))? == file,
            "nothing was changed"
        );
        Ok(())
    });
}

/// A configuration is refused with these words.
fn refused(two: &TwoUnits, file: &Path, text: &str, words: &str) -> Result<()> {
    std::fs::write(file, text)?;
    let file = file.display().to_string();
    let refused = two.local.command(&["config", "check", &file])?.failure()?;
    ensure!(refused.stderr.contains(words), "{}", refused.output());
    Ok(())
}

#[test]
fn a_rate_is_kept_and_changed_while_everything_goes_on() {
    promise(|world| {
        let two = TwoUnits::start(world, SIZES)?;
        let mut random = Random::new(world.seed());
        let mut host = two.connect()?;
        let file = world.file("local.toml");
        let text = std::fs::read_to_string(&file)?;
        ensure!(
            text.rsplit("[[")
                .next()
                .is_some_and(|last| last.starts_with("volume.remote]]")),
            "{text}"
        );
        let log = || -> Result<String> { Ok(two.local.process()?.log_text()) };
        let wait_for_config = |rate: &str| -> Result<()> {
            let before = log()?.matches("configuration reread").count();
            std::fs::write(&file, format!("{}\nrate = \"{rate}\"\n", text.trim_end()))?;
            two.local.process()?.signal(rustix::process::Signal::HUP)?;
            wait_until("the rate to be in force", limits::START, || {
                let said = log()?.matches("configuration reread").count();
                Ok(Seen::when(said > before, || format!("{said} of {before}")))
            })
        };
        wait_for_config("512K")?;
        let began = farside_tests::clock::now();
        for number in 0..4 {
            host.write(number << 20, &random.bytes(1 << 20))?;
        }
        host.flush()?;
        // The host waited for the disk, not for the link.
        let remote = two.local.status()?.remote(VOLUME)?.clone();
        ensure!(number(&remote, &["lag", "bytes"])? > 2 << 20, "{remote}");
        two.local.wait_applied()?;
        let seconds = began.elapsed().as_secs_f64();
        // What may go at once is a quarter of a second's, and one batch more than that.
        ensure!(seconds > 5.0, "4 MiB at 512 KiB/s took {seconds} s");
        // Nobody waits for hours because a rate was too low: it is changed, and the rest goes on.
        wait_for_config("1K")?;
        for number in 4..8 {
            host.write(number << 20, &random.bytes(1 << 20))?;
        }
        host.flush()?;
        wait_for_config("100M")?;
        two.expect_same_on_both_sides()?;
        refused(
            &two,
            &file,
            &format!("{}\nrate = \"5\"\n", text.trim_end()),
            "too few for a link",
        )?;
        Ok(())
    });
}

/// Text of the kind that logs and tables are made of.
fn words(random: &mut Random, length: usize) -> Vec<u8> {
    const WORDS: [&str; 8] = [
        "journal ",
        "record ",
        "mirror ",
        "of the ",
        "and the ",
        "disk0 ",
        "written ",
        "2026-11-22 ",
    ];
    let mut text = Vec::with_capacity(length + 16);
    while text.len() < length {
        let word = usize::try_from(random.below(8)).unwrap_or(0);
        text.extend_from_slice(WORDS.get(word).map_or(&[], |word| word.as_bytes()));
    }
    text.truncate(length);
    text
}

#[test]
fn what_is_sent_is_compressed_as_the_operator_says_and_a_rate_counts_what_is_left_of_it() {
    promise(|world| {
        let two = TwoUnits::start(world, SIZES)?;
        let mut random = Random::new(world.seed());
        let mut host = two.connect()?;
        let file = world.file("local.toml");
        let text = std::fs::read_to_string(&file)?;
        ensure!(two.local.status()?.remote(VOLUME)?["compression"].is_null());
        for (number, algorithm, least) in [(0, "zstd", 4), (1, "lz4", 2)] {
            let lines = format!("compression = \"{algorithm}\"\nrate = \"512K\"\n");
            std::fs::write(&file, format!("{}\n{lines}", text.trim_end()))?;
            two.local.process()?.signal(rustix::process::Signal::HUP)?;
            wait_until("the link to be compressed", limits::CATCH_UP, || {
                let remote = two.local.status()?.remote(VOLUME)?.clone();
                let found = remote["compression"]["algorithm"].as_str() == Some(algorithm);
                Ok(Seen::when(found, || remote.to_string()))
            })?;
            let (began, before) = (farside_tests::clock::now(), two.proxy.passed_bytes(Way::Out));
            for part in 0..8 {
                let offset = (number * 8 + part) << 20;
                host.write(offset, &words(&mut random, 1 << 20))?;
            }
            host.flush()?;
            two.local.wait_applied()?;
            let remote = two.local.status()?.remote(VOLUME)?.clone();
            let found = &remote["compression"];
            ensure!(found["algorithm"] == algorithm, "{remote}");
            let (stream, wire) = (
                farside_tests::status::number(found, &["stream_bytes"])?,
                farside_tests::status::number(found, &["wire_bytes"])?,
            );
            ensure!(stream > 8 << 20 && stream > least * wire, "{remote}");
            let passed = two.proxy.passed_bytes(Way::Out) - before;
            ensure!(
                passed < wire + (64 << 10),
                "{passed} bytes on the line, {wire} in the status"
            );
            // At 512 KiB/s 8 MiB would take 16 s as they are.
            let seconds = began.elapsed().as_secs_f64();
            ensure!(seconds < 14.0, "{algorithm}: {seconds} s, {remote}");
        }
        host.disconnect()?;
        two.expect_same_on_both_sides()?;
        refused(
            &two,
            &file,
            &format!("{}\ncompression = \"rar\"\n", text.trim_end()),
            "no compression 'rar'",
        )?;
        Ok(())
    });
}

#[test]
fn outside_of_its_windows_a_remote_is_sent_nothing_and_the_host_notices_nothing() {
    promise(|world| {
        let two = TwoUnits::start(world, SIZES)?;
        let mut random = Random::new(world.seed());
        let file = world.file("local.toml");
        let text = std::fs::read_to_string(&file)?;
        let today = farside_tests::tools::Tool::new("date").args(["+%u"]).ok()?;
        let today: usize = today.stdout.trim().parse()?;
        let day = |later: usize| ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"][(today - 1 + later) % 7];
        let configure = |windows: &str| -> Result<()> {
            std::fs::write(
                &file,
                format!("{}\nsend_windows = [{windows}]\n", text.trim_end()),
            )?;
            two.local.process()?.signal(rustix::process::Signal::HUP)
        };
        let wait_detail = |held: bool| {
            wait_until("the windows to count", limits::CATCH_UP, || {
                let remote = two.local.status()?.remote(VOLUME)?.clone();
                let said = remote["detail"]
                    .as_str()
                    .is_some_and(|detail| detail.contains("send windows"));
                let up = remote["state"] == "streaming";
                Ok(Seen::when(up && said == held, || remote.to_string()))
            })
        };
        // Neither today nor tomorrow, which may begin while this runs.
        configure(&format!("\"{}-{} 01:00-23:00\"", day(2), day(4)))?;
        wait_detail(true)?;
        let before = two.proxy.passed_bytes(Way::Out);
        two.write_some(&mut random)?;
        std::thread::sleep(std::time::Duration::from_secs(2));
        let remote = two.local.status()?.remote(VOLUME)?.clone();
        ensure!(number(&remote, &["lag", "bytes"])? >= 512 << 10, "{remote}");
        let passed = two.proxy.passed_bytes(Way::Out) - before;
        ensure!(passed < 4096, "{passed} bytes were sent");
        let detail = farside_tests::status::text(&remote, &["detail"])?.to_owned();
        ensure!(detail.ends_with(&format!("goes on {} 01:00", day(2))), "{detail}");
        configure(&format!("\"{}\", \"{}\"", day(0), day(1)))?;
        wait_detail(false)?;
        two.expect_same_on_both_sides()?;
        refused(
            &two,
            &file,
            &format!("{}\nsend_windows = [\"Mo 7-8\"]\n", text.trim_end()),
            "'Mo 7-8' is no send window",
        )?;
        Ok(())
    });
}

#[test]
fn the_operator_is_told_before_a_copy_that_the_history_has_no_room_for_it() {
    promise(|world| {
        let (nbd, link) = (ports::free_address()?, ports::free_address()?);
        let (here, there) = (world.file("here"), world.file("there"));
        let far = format!("[link]\nlisten = [\"{link}\"]\nhistory_size = \"4M\"\n");
        let far = configured(world, "there", &there, &(unit_toml("there", &there) + &far))?;
        let near = local_unit(world, "here", &here, nbd, &volume_toml(SIZES, link))?;
        far.start()?;
        near.start()?;
        near.wait_remote_state("streaming", limits::CATCH_UP)?;
        near.command(&["journal", "stop-queue"])?.success()?;
        wait_until("the remote to be let go", limits::CATCH_UP, || {
            let remote = near.status()?.remote(VOLUME)?.clone();
            Ok(Seen::when(remote["state"] == "held", || remote.to_string()))
        })?;
        let mut host = NbdClient::connect(&Endpoint::Tcp(nbd), VOLUME)?;
        let mut random = Random::new(world.seed());
        for number in 0..20 {
            host.write(number << 20, &random.bytes(1 << 20))?;
        }
        host.flush()?;
        let remote = near.status()?.remote(VOLUME)?.clone();
        let (room, dirty) = (
            number(&remote, &["history_room_bytes"])?,
            number(&remote, &["dirty_bytes"])?,
        );
        ensure!(room > 2 << 20 && room <= 4 << 20 && dirty >= 20 << 20, "{remote}");
        near.command(&["journal", "start-queue"])?.success()?;
        near.wait_applied()?;
        let log = near.process()?.log_text();
        ensure!(log.contains("has room for"), "{log}");
        host.disconnect()?;
        Ok(())
    });
}
