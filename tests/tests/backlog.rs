//! What is queued for a remote that is behind: merged before it is sent, or given up.

use anyhow::{Result, ensure};
use farside_tests::clock::{Seen, wait_until};
use farside_tests::proxy::Way;
use farside_tests::status::number;
use farside_tests::units::{Sizes, TwoUnits, VOLUME};
use farside_tests::{BlockClient as _, Random, World, limits, promise};

const SIZES: Sizes = Sizes {
    disk_mib: 64,
    journal_mib: 32,
};

/// The remote of the local unit gets merged backlogs, and slowly, so that there is a middle.
fn with_merging(world: &World) -> Result<()> {
    let file = world.file("local.toml");
    let text = std::fs::read_to_string(&file)?;
    Ok(std::fs::write(
        &file,
        format!("{text}merge = true\nrate = \"2M\"\n"),
    )?)
}

#[test]
fn a_merged_backlog_is_sent_once_and_counts_as_a_whole() {
    const MIB: u64 = 1 << 20;
    promise(|world| {
        let sizes = Sizes {
            disk_mib: 64,
            journal_mib: 256,
        };
        let two = TwoUnits::prepare(world, sizes)?;
        with_merging(world)?;
        two.remote.start()?;
        two.local.start()?;
        two.local.wait_remote_state("streaming", limits::CATCH_UP)?;
        let mut random = Random::new(world.seed());
        two.write_some(&mut random)?;
        two.local.wait_applied()?;
        let merged = || number(two.local.status()?.remote(VOLUME)?, &["merged_bytes"]);
        // The same four MiB again and again, and something beside them.
        let pile_up = |random: &mut Random| -> Result<()> {
            two.local.command(&["journal", "stop-send"])?.success()?;
            two.local.wait_remote_state("held", limits::STATUS)?;
            let mut host = two.connect()?;
            for round in 0..10 {
                for at in 0..64 {
                    host.write(at << 16, &random.bytes(64 << 10))?;
                }
                host.trim((16 << 20) + (round << 16), 64 << 10)?;
                host.write((32 << 20) + (round << 20), &random.bytes(4096))?;
            }
            host.flush()?;
            Ok(host.disconnect()?)
        };
        let (before, sent) = (two.applied()?, two.proxy.passed_bytes(Way::Out));
        pile_up(&mut random)?;
        two.local.command(&["journal", "start-send"])?.success()?;
        two.expect_same_on_both_sides()?;
        let sent = two.proxy.passed_bytes(Way::Out) - sent;
        ensure!(
            (4 * MIB..6 * MIB).contains(&sent),
            "{sent} bytes were sent of 40 MiB"
        );
        ensure!(
            (34 * MIB..37 * MIB).contains(&merged()?),
            "{} bytes were merged",
            merged()?
        );
        // Nothing in between is a moment of the replica.
        let args = ["history", "list", "--volume", VOLUME, "--json", "--limit", "1000"];
        let list: serde_json::Value = serde_json::from_str(&two.remote.command(&args)?.success()?.stdout)?;
        let end = two.applied()?;
        for moment in list["moments"].as_array().into_iter().flatten() {
            let record = moment["sequence"].as_u64().unwrap_or(0);
            ensure!(
                record <= before || record == end,
                "record {record} of {before} to {end}"
            );
        }

        // The link is cut, and the remote dies, in the middle of a batch; it never shows a part of it.
        let before = two.applied()?;
        pile_up(&mut random)?;
        // Counted on, although the link was set up anew.
        ensure!((34 * MIB..37 * MIB).contains(&merged()?), "{} bytes", merged()?);
        let middle = two.proxy.passed_bytes(Way::Out) + 2 * MIB;
        two.local.command(&["journal", "start-send"])?.success()?;
        wait_until("half of a batch to be sent", limits::CATCH_UP, || {
            let passed = two.proxy.passed_bytes(Way::Out);
            Ok(Seen::when(passed > middle, || format!("{passed} of {middle}")))
        })?;
        two.remote.kill9()?;
        two.remote.start()?;
        ensure!(two.applied()? == before, "a part of a batch shows");
        two.expect_same_on_both_sides()
    });
}

#[test]
fn a_queue_that_is_given_up_is_sent_as_what_it_changed() {
    const MIB: u64 = 1 << 20;
    promise(|world| {
        let two = TwoUnits::start(world, SIZES)?;
        let mut random = Random::new(world.seed());
        two.write_some(&mut random)?;
        two.local.wait_applied()?;
        let discard = ["journal", "discard", "--volume", VOLUME];
        let said = two.local.command(&discard)?.success()?.stdout;
        ensure!(said.contains("nothing was queued for remote"), "{said}");
        for (args, says) in [
            (["journal", "discard", "--remote", "absent"], "no remote 'absent'"),
            (["journal", "discard", "--volume", "absent"], "no volume 'absent'"),
        ] {
            let refused = two.local.command(&args)?.failure()?;
            ensure!(refused.output().contains(says), "{}", refused.output());
        }
        // A restore that is aborted and begun again, while the link is held.
        two.local.command(&["journal", "stop-send"])?.success()?;
        two.local.wait_remote_state("held", limits::STATUS)?;
        let mut host = two.connect()?;
        for _ in 0..5 {
            for at in 0..64 {
                host.write(at << 16, &random.bytes(64 << 10))?;
            }
        }
        host.flush()?;
        let used = || number(two.local.status()?.volume(VOLUME)?, &["journal", "used_bytes"]);
        ensure!(used()? > 20 * MIB, "{}", used()?);
        let before = two.applied()?;
        let said = two.local.command(&discard)?.success()?.stdout;
        ensure!(said.contains("320 records for remote given up"), "{said}");
        wait_until("the journal to have room", limits::CATCH_UP, || {
            let used = used()?;
            Ok(Seen::when(used < 5 * MIB, || format!("{used} bytes in use")))
        })?;
        // What comes then is queued as always.
        host.write(40 << 20, &random.bytes(4096))?;
        host.flush()?;
        host.disconnect()?;
        ensure!(two.applied()? == before, "nothing was sent");
        let sent = two.proxy.passed_bytes(Way::Out);
        two.local.command(&["journal", "start-send"])?.success()?;
        two.expect_same_on_both_sides()?;
        let sent = two.proxy.passed_bytes(Way::Out) - sent;
        ensure!(
            (4 * MIB..6 * MIB).contains(&sent),
            "{sent} bytes were sent of 20 MiB"
        );
        let log = two.local.process()?.log_text();
        ensure!(log.contains("resync of what changed begins"), "{log}");
        Ok(())
    });
}
