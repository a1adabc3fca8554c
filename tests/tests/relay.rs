//! A replica that is sent on: A to B to C.

use anyhow::{Context as _, Result, ensure};
use farside_tests::clock::{Seen, wait_until};
use farside_tests::pattern::{Demand, History, Writer, WriterOptions};
use farside_tests::ports::free_address;
use farside_tests::proxy::Proxy;
use farside_tests::status::{flag, number, text};
use farside_tests::tools::Tool;
use farside_tests::units::{Sizes, TwoUnits, Unit, VOLUME, remote_unit};
use farside_tests::{BlockClient as _, Random, World, images, limits, promise, soak};
use rustix::process::Signal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const SIZES: Sizes = Sizes {
    disk_mib: 64,
    journal_mib: 256,
};

/// The third unit, and what lies before it.
struct Chain<'w> {
    two: TwoUnits<'w>,
    third: Unit<'w>,
    between: Proxy,
    directory: PathBuf,
}

/// What the unit in the middle is told of its replica.
fn onward(address: SocketAddr, more: &str) -> String {
    format!(
        "[[replica]]\nname = \"{VOLUME}\"\n[[replica.remote]]\nname = \"third\"\naddress = \"{address}\"\n{more}"
    )
}

impl<'w> Chain<'w> {
    /// The local unit sends with these settings, the one in the middle too, and keeps a journal of so many MiB.
    fn prepare(world: &'w World, (first, second): (&str, &str), journal_mib: u64) -> Result<Self> {
        let two = TwoUnits::prepare(world, SIZES)?;
        let (link, address) = (free_address()?, free_address()?);
        let directory = world.file("third");
        let third = remote_unit(world, "third", &directory, link)?;
        let between = Proxy::start(address, link)?;
        let file = world.file("local.toml");
        let text = std::fs::read_to_string(&file)?;
        std::fs::write(&file, format!("{text}{first}"))?;
        let file = world.file("remote.toml");
        let text = std::fs::read_to_string(&file)?;
        let text = format!(
            "{text}journal_size = \"{journal_mib}M\"\n{}",
            onward(address, second)
        );
        std::fs::write(&file, text)?;
        Ok(Self {
            two,
            third,
            between,
            directory,
        })
    }

    fn start(&self) -> Result<()> {
        self.third.start()?;
        self.two.remote.start()?;
        self.two.local.start()?;
        self.two.local.wait_remote_state("streaming", limits::CATCH_UP)?;
        wait_until("the third unit to follow", limits::CATCH_UP, || {
            let state = self.link().map(|link| link["state"].to_string());
            let follows = state.as_ref().is_ok_and(|state| state == "\"streaming\"");
            Ok(Seen::when(follows, || format!("{state:?}")))
        })
    }

    fn image(&self) -> PathBuf {
        self.directory.join("replicas").join(VOLUME).join("replica.img")
    }

    /// How the unit in the middle sees the third.
    fn link(&self) -> Result<serde_json::Value> {
        let status = self.two.remote.status()?;
        let remotes = &status.replica(VOLUME)?["remotes"];
        Ok(remotes.get(0).context("it is sent on to nobody")?.clone())
    }

    fn applied(&self) -> Result<u64> {
        number(self.third.status()?.replica(VOLUME)?, &["applied"])
    }

    /// The third unit has recovered by itself; what it has received.
    fn third_recovered(&self) -> Result<u64> {
        let received = || -> Result<(u64, bool)> {
            let status = self.third.status()?;
            let replica = status.replica(VOLUME)?;
            let received = number(replica, &["received"])?;
            let done = flag(replica, &["consistent"])? && number(replica, &["applied"])? == received;
            Ok((received, done))
        };
        wait_until("the third unit to finish its recovery", limits::START, || {
            let found = received()?;
            Ok(Seen::when(found.1, || format!("{found:?}")))
        })?;
        Ok(received()?.0)
    }

    /// Everything the volume has arrives at both, and is the same there.
    fn expect_same_everywhere(&self) -> Result<()> {
        self.two.expect_same_on_both_sides()?;
        let head = self.two.local.positions()?.journaled;
        wait_until("the third unit to have everything", limits::CATCH_UP, || {
            let has = || {
                let status = self.third.status()?;
                let replica = status.replica(VOLUME)?;
                Ok::<_, anyhow::Error>((number(replica, &["applied"])?, flag(replica, &["consistent"])?))
            };
            let has = has().unwrap_or_default();
            Ok(Seen::when(has == (head, true), || {
                format!("it is at {has:?} of {head}: {:?}", self.link())
            }))
        })?;
        images::expect_equal(&self.two.mirror(), &self.image())
    }
}

fn write(two: &TwoUnits<'_>, random: &mut Random, count: u64) -> Result<()> {
    let mut host = two.connect()?;
    for _ in 0..count {
        let at = random.below(60 << 8) << 12;
        let bytes = usize::try_from(random.between(1, 64))? << 12;
        if random.chance(10) {
            host.trim(at, u32::try_from(bytes)?)?;
        } else {
            host.write(at, &random.bytes(bytes))?;
        }
    }
    host.flush()?;
    Ok(host.disconnect()?)
}

#[test]
fn a_replica_that_is_sent_on_follows_through_deaths_of_each_unit() {
    promise(|world| {
        let chain = Chain::prepare(world, ("merge = true\n", "confirm = true\n"), 256)?;
        chain.start()?;
        let mut random = Random::new(world.seed());
        write(&chain.two, &mut random, 300)?;
        chain.expect_same_everywhere()?;
        ensure!(
            text(&chain.link()?, &["state"])? == "streaming",
            "{:?}",
            chain.link()
        );
        let shown = chain.two.remote.command(&["status"])?.success()?.stdout;
        ensure!(shown.contains("remote third  streaming"), "{shown}");
        for round in 0..6 {
            write(&chain.two, &mut random, 200)?;
            match round {
                0 => {
                    chain.third.kill9()?;
                    chain.third.start()?;
                }
                1 => {
                    chain.two.remote.kill9()?;
                    chain.two.remote.start()?;
                }
                2 => {
                    chain.two.local.kill9()?;
                    chain.two.local.start()?;
                }
                3 => chain.between.drop_connections(),
                4 => {
                    // A backlog that is merged at the first link and passed on as it is at the second.
                    chain.two.local.command(&["journal", "stop-send"])?.success()?;
                    for _ in 0..4 {
                        write(&chain.two, &mut random, 200)?;
                    }
                    chain.two.local.command(&["journal", "start-send"])?.success()?;
                }
                _ => {
                    chain.two.remote.shut_down()?;
                    write(&chain.two, &mut random, 200)?;
                    chain.two.remote.start()?;
                }
            }
        }
        chain.expect_same_everywhere()?;
        let merged = number(chain.two.local.status()?.remote(VOLUME)?, &["merged_bytes"])?;
        ensure!(merged > 0, "nothing was merged");
        ensure!(chain.link()?["damaged"] == 0, "{:?}", chain.link());
        // Not asked for any more it is forgotten, and its journal is kept for nobody.
        let file = world.file("remote.toml");
        let told = std::fs::read_to_string(&file)?;
        let without = told.split("[[replica]]").next().unwrap_or_default().to_owned();
        std::fs::write(&file, without)?;
        chain.two.remote.process()?.signal(Signal::HUP)?;
        wait_until("it to be sent on no more", limits::STATUS, || {
            let link = chain.link();
            Ok(Seen::when(link.is_err(), || format!("{link:?}")))
        })?;
        let before = chain.applied()?;
        write(&chain.two, &mut random, 50)?;
        chain.two.expect_same_on_both_sides()?;
        ensure!(chain.applied()? == before, "it was sent on");
        Ok(())
    });
}

/// Sets something of the link of a unit.
fn set(world: &World, file: &str, setting: &str) -> Result<()> {
    let file = world.file(file);
    let told = std::fs::read_to_string(&file)?;
    Ok(std::fs::write(
        &file,
        told.replace("[link]\n", &format!("[link]\n{setting}\n")),
    )?)
}

/// While the third is away merged backlogs of so many writes arrive in the middle.
fn backlogs(chain: &Chain<'_>, random: &mut Random, each: &[u64]) -> Result<()> {
    chain.between.cut();
    for count in each {
        chain.two.local.command(&["journal", "stop-send"])?.success()?;
        // The same eight MiB again and again: that is merged for sure.
        let mut host = chain.two.connect()?;
        for at in (0..4).flat_map(|_| 0..128) {
            host.write(at << 16, &random.bytes(64 << 10))?;
        }
        host.disconnect()?;
        write(&chain.two, random, *count)?;
        chain.two.local.command(&["journal", "start-send"])?.success()?;
        chain.two.expect_same_on_both_sides()?;
    }
    let merged = number(chain.two.local.status()?.remote(VOLUME)?, &["merged_bytes"])?;
    ensure!(merged > 0, "nothing was merged");
    chain.between.restore();
    Ok(())
}

#[test]
fn batches_are_passed_on_whatever_window_and_confirming_leave_room_for() {
    promise(|world| {
        let chain = Chain::prepare(world, ("merge = true\n", "confirm = true\n"), 256)?;
        set(world, "third.toml", "journal_size = \"256M\"")?;
        set(world, "remote.toml", "window = \"2M\"")?;
        chain.start()?;
        let mut random = Random::new(world.seed());
        write(&chain.two, &mut random, 20)?;
        chain.expect_same_everywhere()?;
        backlogs(&chain, &mut random, &[330, 330, 330])?;
        chain.expect_same_everywhere()?;
        ensure!(chain.link()?["damaged"] == 0, "{:?}", chain.link());
        let log = chain.two.remote.process()?.log_text();
        ensure!(
            !log.contains("before what is here was confirmed"),
            "more was sent than may wait"
        );
        Ok(())
    });
}

#[test]
fn a_third_unit_without_room_for_a_batch_is_not_dialled_in_vain() {
    promise(|world| {
        let chain = Chain::prepare(world, ("merge = true\n", ""), 256)?;
        set(world, "third.toml", "history_size = \"16M\"")?;
        chain.start()?;
        let mut random = Random::new(world.seed());
        write(&chain.two, &mut random, 20)?;
        chain.expect_same_everywhere()?;
        let before = chain.applied()?;
        backlogs(&chain, &mut random, &[400])?;
        wait_until("the middle to say why", limits::CATCH_UP, || {
            let link = chain.link()?;
            let said = link["detail"].to_string();
            let refused = link["state"] == "refused" && said.contains("link.history_size");
            Ok(Seen::when(refused, || format!("{link}")))
        })?;
        ensure!(chain.applied()? >= before, "it went back");
        let consistent = flag(chain.third.status()?.replica(VOLUME)?, &["consistent"])?;
        ensure!(consistent, "it is no state of the volume");
        Ok(())
    });
}

#[test]
fn the_third_unit_is_a_prefix_after_every_kill_of_whichever_unit() {
    promise(|world| {
        // As long as the third is away, it has to hold what is written.
        let chain = Chain::prepare(world, ("", ""), 1024)?;
        chain.start()?;
        let mut random = Random::new(world.seed());
        let history = Arc::new(History::new(world.seed()));
        let mut options = WriterOptions::new(chain.two.endpoint(), VOLUME, SIZES.disk_bytes(), world.seed());
        options.per_second = 100;
        let writer = Writer::start(&history, &options);
        let (mut horizon, mut received) = (0, 0);
        for round in 0..soak(6, 80) {
            writer.wait_progress(50)?;
            std::thread::sleep(Duration::from_millis(random.between(20, 700)));
            let confirmed = chain
                .link()
                .ok()
                .and_then(|link| link["received"].as_u64())
                .unwrap_or(0);
            let dies = random.below(4);
            match dies {
                0 => chain.two.local.kill9()?,
                1 => chain.two.remote.kill9()?,
                2 => chain.two.proxy.drop_connections(),
                _ => {
                    chain.two.remote.kill9()?;
                    chain.two.local.kill9()?;
                }
            }
            chain.third.kill9()?;
            chain.between.cut();
            chain.third.start().with_context(|| format!("round {round}"))?;
            let now = chain.third_recovered()?;
            ensure!(
                now >= confirmed.max(received),
                "round {round}: {confirmed} was confirmed, {now} is there"
            );
            received = now;
            let what = format!("the third unit's replica after round {round}");
            let report = images::expect_state(&what, &chain.image(), &history, Demand::Before(horizon))?;
            horizon = horizon.max(report.horizon);
            if matches!(dies, 1 | 3) {
                chain
                    .two
                    .remote
                    .start()
                    .with_context(|| format!("round {round}"))?;
            }
            if matches!(dies, 0 | 3) {
                chain
                    .two
                    .local
                    .start()
                    .with_context(|| format!("round {round}"))?;
            }
            chain.between.restore();
        }
        writer.stop()?;
        ensure!(horizon > 0, "nothing had ever reached the third unit");
        chain.expect_same_everywhere()?;
        images::expect_state(
            "the third unit's replica",
            &chain.image(),
            &history,
            Demand::Acknowledged,
        )?;
        Ok(())
    });
}

#[test]
fn a_third_unit_keeps_its_state_while_the_one_before_it_is_copied_and_gets_what_changed() {
    promise(|world| {
        let chain = Chain::prepare(world, ("rate = \"8M\"\n", ""), 64)?;
        chain.start()?;
        let mut random = Random::new(world.seed());
        write(&chain.two, &mut random, 300)?;
        chain.expect_same_everywhere()?;
        let before = chain.applied()?;
        let held = std::fs::read(chain.image())?;

        // The first remote falls out of the journal: it gets a resync, during which it is no state of the volume.
        chain.two.local.command(&["journal", "stop-queue"])?.success()?;
        write(&chain.two, &mut random, 400)?;
        chain.two.local.command(&["journal", "start-queue"])?.success()?;
        chain.two.local.wait_remote_state("copying", limits::CATCH_UP)?;
        wait_until("the one in the middle to wait", limits::CATCH_UP, || {
            let detail = chain.link()?["detail"].to_string();
            Ok(Seen::when(detail.contains("sent on when it is"), || detail))
        })?;
        let copying = text(chain.two.local.status()?.remote(VOLUME)?, &["state"])? == "copying";
        ensure!(chain.applied()? == before, "the third unit went on");
        ensure!(
            !copying || std::fs::read(chain.image())? == held,
            "its image was changed"
        );
        // Killed in the middle: what was copied before is found there, and is missing at the third all the same.
        chain.two.remote.kill9()?;
        chain.two.remote.start()?;
        chain.expect_same_everywhere()?;
        let sent = chain.between.passed_bytes(farside_tests::proxy::Way::Out);
        let log = chain.two.remote.process()?.log_text();
        ensure!(
            !log.contains("link ended: the journal no longer holds"),
            "the journal is blamed:\n{log}"
        );

        // It falls out of the journal in the middle, too, and comes back.
        chain.between.cut();
        for _ in 0..6 {
            write(&chain.two, &mut random, 200)?;
            chain.two.local.wait_applied()?;
        }
        wait_until("it to be let go", limits::CATCH_UP, || {
            let state = text(&chain.link()?, &["state"])?.to_owned();
            Ok(Seen::when(state == "needs_copy", || state))
        })?;
        chain.between.restore();
        chain.expect_same_everywhere()?;
        ensure!(
            chain.between.passed_bytes(farside_tests::proxy::Way::Out) > sent,
            "nothing was sent"
        );
        Ok(())
    });
}

#[test]
fn a_chain_grows_is_handed_over_and_begins_anew() {
    promise(|world| {
        let chain = Chain::prepare(world, ("", ""), 64)?;
        chain.start()?;
        let mut random = Random::new(world.seed());
        write(&chain.two, &mut random, 200)?;
        chain.expect_same_everywhere()?;

        // Growing, and a replica that is handed over: nothing is sent on from it.
        let grow = ["volume", "resize", VOLUME, "--size", "96M"];
        chain.two.local.command(&grow)?.success()?;
        write(&chain.two, &mut random, 20)?;
        let mut host = chain.two.connect()?;
        host.write(95 << 20, &random.bytes(4096))?;
        host.flush()?;
        host.disconnect()?;
        chain.expect_same_everywhere()?;
        chain
            .two
            .remote
            .command(&["replica", "detach", VOLUME])?
            .success()?;
        ensure!(chain.link().is_err(), "{:?}", chain.link());
        chain
            .two
            .remote
            .command(&["replica", "attach", VOLUME])?
            .success()?;
        write(&chain.two, &mut random, 20)?;
        chain.expect_same_everywhere()?;

        // Changed meanwhile it begins anew, and cannot tell whether the third has what it says. A person decides; what is there is compared.
        let touch = |image: PathBuf| -> Result<()> {
            Tool::new("touch").path(&image).ok()?;
            Ok(())
        };
        chain
            .two
            .remote
            .command(&["replica", "detach", VOLUME])?
            .success()?;
        touch(chain.two.replica())?;
        write(&chain.two, &mut random, 20)?;
        chain
            .two
            .remote
            .command(&["replica", "attach", VOLUME])?
            .success()?;
        wait_until("the third unit to be refused", limits::CATCH_UP, || {
            let state = chain.link().map(|link| link["state"].to_string());
            let refused = state.as_ref().is_ok_and(|state| state == "\"refused\"");
            Ok(Seen::when(refused, || format!("{state:?}")))
        })?;
        let sent = chain.between.passed_bytes(farside_tests::proxy::Way::Out);
        chain.third.command(&["replica", "detach", VOLUME])?.success()?;
        touch(chain.image())?;
        let said = chain
            .third
            .command(&["replica", "attach", VOLUME])?
            .success()?
            .stdout;
        ensure!(said.contains("the volume's unit sends what differs"), "{said}");
        chain.expect_same_everywhere()?;
        let sent = chain.between.passed_bytes(farside_tests::proxy::Way::Out) - sent;
        ensure!(sent < 24 << 20, "{sent} bytes were sent of a disk of 96 MiB");
        Ok(())
    });
}
