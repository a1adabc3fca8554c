//! A unit as a service: clean ends, honest starts, rereading, live changes, a stable status.

use anyhow::{Context as _, Result, ensure};
use farside_tests::BlockClient as _;
use farside_tests::clock::{Seen, wait_until};
use farside_tests::nbd::NbdClient;
use farside_tests::pattern::{Demand, History, Writer, WriterOptions};
use farside_tests::status::{flag, number, text};
use farside_tests::units::{Pair, Sizes, TwoUnits, VOLUME, farside_command};
use farside_tests::{images, limits, promise};
use rustix::process::Signal;
use std::sync::Arc;

fn started_cleanly(pair: &Pair<'_>) -> Result<(bool, u64)> {
    let status = pair.unit.status()?;
    let volume = status.volume(VOLUME)?;
    Ok((flag(volume, &["clean_start"])?, number(volume, &["epoch"])?))
}

#[test]
fn sigterm_is_a_clean_shutdown_and_the_next_start_says_so() {
    promise(|world| {
        let pair = Pair::start(world, Sizes::SMALL)?;
        let (_, epoch) = started_cleanly(&pair)?;
        pair.connect()?.write(0, b"not flushed")?;
        pair.unit.shut_down()?;
        pair.unit.start()?;
        ensure!(
            started_cleanly(&pair)? == (true, epoch),
            "{}",
            pair.unit.status()?.0
        );
        ensure!(pair.connect()?.read(0, 11)? == b"not flushed");
        pair.expect_same_on_both_sides()
    });
}

#[test]
fn a_kill_is_an_unclean_start_and_opens_a_new_epoch() {
    promise(|world| {
        let pair = Pair::start(world, Sizes::SMALL)?;
        let (_, epoch) = started_cleanly(&pair)?;
        pair.connect()?.write(0, b"acknowledged")?;
        pair.unit.kill9()?;
        pair.unit.start()?;
        let (clean, next) = started_cleanly(&pair)?;
        ensure!(!clean && next > epoch, "clean {clean}, epoch {epoch} then {next}");
        ensure!(pair.connect()?.read(0, 12)? == b"acknowledged");
        pair.expect_same_on_both_sides()
    });
}

#[test]
fn sigterm_under_load_loses_nothing_acknowledged() {
    promise(|world| {
        let pair = Pair::start(world, Sizes::SMALL)?;
        let history = Arc::new(History::new(world.seed()));
        let options = WriterOptions::new(pair.endpoint(), VOLUME, Sizes::SMALL.disk_bytes(), world.seed());
        let writer = Writer::start(&history, &options);
        for _ in 0..3 {
            writer.wait_progress(200)?;
            pair.unit.shut_down()?;
            pair.unit.start()?;
            ensure!(started_cleanly(&pair)?.0, "the shutdown under load was not clean");
        }
        writer.stop()?;
        pair.expect_same_on_both_sides()?;
        images::expect_state("the mirror", &pair.mirror(), &history, Demand::Acknowledged)?;
        Ok(())
    });
}

#[test]
fn a_second_up_continues_with_the_same_disk() {
    promise(|world| {
        let pair = Pair::start(world, Sizes::SMALL)?;
        pair.connect()?.write(123_456, b"still here")?;
        pair.unit.shut_down()?;
        let again = Pair::prepare(world, Sizes::SMALL)?;
        again.unit.start()?;
        ensure!(again.connect()?.read(123_456, 10)? == b"still here");
        again.expect_same_on_both_sides()
    });
}

#[test]
fn a_wrong_file_on_sighup_leaves_the_old_one_in_force() {
    promise(|world| {
        let units = TwoUnits::start(world, Sizes::SMALL)?;
        let file = world.file("local.toml");
        let good = std::fs::read_to_string(&file)?;
        std::fs::write(&file, format!("{good}\nnonsense here\n"))?;
        let line = good.lines().count() + 2;
        let mut client = units.connect()?;
        units.local.process()?.signal(Signal::HUP)?;
        wait_until("the refusal", limits::START, || {
            let status = units.local.status()?;
            let error = text(&status.0, &["unit", "config_error"])
                .unwrap_or_default()
                .to_owned();
            Ok(Seen::when(error.contains(&format!("local.toml:{line}")), || {
                status.0.to_string()
            }))
        })?;
        client.write_fua(0, b"attached all the time")?;
        units.expect_same_on_both_sides()?;
        std::fs::write(&file, good)?;
        units.local.process()?.signal(Signal::HUP)?;
        wait_until("the error to go", limits::START, || {
            let status = units.local.status()?;
            let error = status
                .0
                .pointer("/unit/config_error")
                .cloned()
                .unwrap_or_default();
            Ok(Seen::when(error.is_null(), || error.to_string()))
        })
    });
}

#[test]
fn volumes_are_created_listed_and_removed_while_hosts_are_attached() {
    promise(|world| {
        let units = TwoUnits::start(world, Sizes::SMALL)?;
        let mut steady = units.connect()?;
        units
            .local
            .command(&["volume", "create", "extra", "--size", "32M", "--journal", "16M"])?
            .success()?;
        let list = units.local.command(&["volume", "list"])?.success()?.stdout;
        ensure!(list.contains("extra") && list.contains(VOLUME), "{list}");
        let mut client = NbdClient::connect(&units.endpoint(), "extra")?;
        ensure!(client.info().size_bytes == 32 << 20, "{:?}", client.info());
        client.write_fua(0, b"extra data")?;
        client.disconnect()?;
        units
            .local
            .command(&["volume", "create", "extra", "--size", "32M"])?
            .failure()?;
        units
            .local
            .command(&["volume", "create", "../evil", "--size", "32M"])?
            .failure()?;
        wait_until("the volume to be free", limits::STOP, || {
            let done = units.local.command(&["volume", "remove", "extra"])?;
            Ok(Seen::when(done.code == 0, || done.output()))
        })?;
        ensure!(
            NbdClient::connect(&units.endpoint(), "extra").is_err(),
            "a removed volume is still served"
        );
        units.local.command(&["volume", "remove", "extra"])?.failure()?;
        steady.write_fua(0, b"undisturbed")?;
        // The change is in the file: it outlives the process.
        units.local.shut_down()?;
        units.local.start()?;
        ensure!(
            units.local.status()?.volume("extra").is_err(),
            "the removed volume came back"
        );
        units.expect_same_on_both_sides()
    });
}

#[test]
fn a_volume_in_use_is_not_removed() {
    promise(|world| {
        let units = TwoUnits::start(world, Sizes::SMALL)?;
        let mut client = units.connect()?;
        units.local.command(&["volume", "remove", VOLUME])?.failure()?;
        Ok(client.write_fua(0, b"still mine")?)
    });
}

#[test]
fn a_forced_removal_detaches_idle_hosts_deletes_everything_and_frees_the_name() {
    promise(|world| {
        let units = TwoUnits::start(world, Sizes::SMALL)?;
        let mut idle = units.connect()?;
        idle.write_fua(0, b"to be deleted")?;
        let mirror = units.mirror();
        let own = mirror.parent().context("a mirror has a directory")?;
        ensure!(own.join(format!("dirty-{VOLUME}@remote.map")).exists());
        units
            .local
            .command(&["volume", "remove", VOLUME, "--force", "--delete-data"])?
            .success()?;
        ensure!(!own.exists(), "something is left in {}", own.display());
        // A host that asks nothing was told to go all the same.
        ensure!(idle.read(0, 1).is_err());
        units
            .local
            .command(&["volume", "create", VOLUME, "--size", "16M", "--journal", "16M"])?
            .success()?;
        let mut client = units.connect()?;
        ensure!(client.info().size_bytes == 16 << 20, "{:?}", client.info());
        ensure!(client.read(0, 13)? == [0; 13]);
        Ok(())
    });
}

#[test]
fn the_status_has_its_documented_fields() {
    promise(|world| {
        let units = TwoUnits::start(world, Sizes::SMALL)?;
        units.connect()?.write_fua(0, &[1; 65536])?;
        units.local.wait_applied()?;
        let status = units.local.status()?;
        let volume = status.volume(VOLUME)?;
        ensure!(number(volume, &["size_bytes"])? == Sizes::SMALL.disk_bytes());
        ensure!(
            number(volume, &["journal", "size_bytes"])? == Sizes::SMALL.journal_mib << 20,
            "{volume}"
        );
        number(volume, &["journal", "used_bytes"])?;
        let positions = units.local.positions()?;
        ensure!(
            positions.journaled > 0 && positions.durable == positions.journaled,
            "{positions:?}"
        );
        let remote = status.remote(VOLUME)?;
        for field in ["sent", "received", "applied", "dirty_bytes"] {
            number(remote, &[field])?;
        }
        for field in ["blocks", "bytes"] {
            ensure!(
                number(remote, &["lag", field])? == 0,
                "nothing is behind: {remote}"
            );
        }
        ensure!(
            remote
                .pointer("/lag/seconds")
                .is_some_and(serde_json::Value::is_number),
            "{remote}"
        );
        ensure!(flag(remote, &["consistent"])?, "{remote}");
        text(remote, &["consistent_up_to"])?;
        let status = units.remote.status()?;
        let replica = status.replica(VOLUME)?;
        ensure!(text(replica, &["state"])? == "consistent", "{replica}");
        ensure!(number(replica, &["applied"])? == positions.journaled, "{replica}");
        Ok(())
    });
}

#[test]
fn lag_is_shown_while_the_remote_is_away_and_waiting_times_out() {
    promise(|world| {
        let units = TwoUnits::start(world, Sizes::SMALL)?;
        units.proxy.cut();
        units.connect()?.write_fua(0, &[1; 1 << 20])?;
        let wait = ["wait", "--volume", VOLUME, "--applied", "--timeout", "1s"];
        let timed_out = units.local.command(&wait)?;
        ensure!(
            timed_out.code == 4,
            "exit code 4 is 'the time given was up': {timed_out:?}"
        );
        let status = units.local.status()?;
        let lag = number(status.remote(VOLUME)?, &["lag", "bytes"])?;
        ensure!(lag >= 1 << 20, "a MiB is missing there, the lag says {lag}");
        let positions = units.local.positions()?;
        ensure!(positions.acked < positions.durable, "{positions:?}");
        units.proxy.restore();
        units
            .local
            .command(&["wait", "--volume", VOLUME, "--applied", "--timeout", "40s"])?
            .success()?;
        units.expect_same_on_both_sides()
    });
}

#[test]
fn the_command_line_says_what_is_wrong() {
    promise(|world| {
        ensure!(
            farside_command(&["version"])?
                .success()?
                .stdout
                .contains("farside")
        );
        let nowhere = world.file("nowhere.sock").to_string_lossy().into_owned();
        let refused = farside_command(&["status", "--json", "--socket", &nowhere])?.failure()?;
        ensure!(
            refused.code == 3 && refused.stderr.contains("nowhere.sock"),
            "{refused:?}"
        );
        ensure!(
            farside_command(&["no-such-command"])?.code == 2,
            "exit code 2 is a wrong command line"
        );
        let missing = world.file("missing").to_string_lossy().into_owned();
        let refused = farside_command(&["inspect", &missing])?.failure()?;
        ensure!(refused.stderr.contains("missing"), "{}", refused.output());
        Ok(())
    });
}

#[test]
fn an_interrupted_start_leaves_nothing_that_cannot_be_started() {
    promise(|world| {
        let pair = Pair::prepare(world, Sizes::SMALL)?;
        for _ in 0..8 {
            let process = pair.unit.launch()?;
            std::thread::sleep(std::time::Duration::from_millis(world.seed() % 7 * 3 + 1));
            process
                .kill9()
                .context("it ended by itself during its first start")?;
        }
        pair.unit.start()?;
        pair.connect()?.write_fua(0, b"works")?;
        pair.expect_same_on_both_sides()
    });
}
