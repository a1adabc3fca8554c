//! A remote that can be reached at several addresses.

use anyhow::{Result, ensure};
use farside_tests::clock::{Seen, wait_until};
use farside_tests::ports::free_address;
use farside_tests::status::text;
use farside_tests::units::{Sizes, TwoUnits, VOLUME, configured, unit_toml};
use farside_tests::{BlockClient as _, Random, limits, promise};
use rustix::process::Signal;
use std::net::SocketAddr;

const SIZES: Sizes = Sizes {
    disk_mib: 32,
    journal_mib: 16,
};

fn write(two: &TwoUnits, random: &mut Random) -> Result<()> {
    let mut host = two.connect()?;
    for _ in 0..20 {
        host.write(4096 * random.below(8000), &random.bytes(4096))?;
    }
    host.flush()?;
    host.disconnect()?;
    Ok(())
}

fn reached_at(two: &TwoUnits, address: SocketAddr) -> Result<()> {
    wait_until("the link to use the address", limits::RECONNECT, || {
        let status = two.local.status()?;
        let remote = status.remote(VOLUME)?;
        let at = text(remote, &["address"])? == address.to_string();
        let up = text(remote, &["state"])? == "streaming";
        Ok(Seen::when(at && up, || remote.to_string()))
    })
}

/// Changes the remote's lines, its address among them, and has them read.
fn configure(two: &TwoUnits, from: &str, to: &str) -> Result<()> {
    let file = two.local_directory.with_extension("toml");
    let text = std::fs::read_to_string(&file)?;
    ensure!(text.contains(from), "no {from} in {text}");
    std::fs::write(&file, text.replace(from, to))?;
    two.local.process()?.signal(Signal::HUP)?;
    Ok(())
}

#[test]
fn a_remote_is_reached_at_its_next_address_and_goes_on_where_it_was() {
    promise(|world| {
        let (two, mut random) = (TwoUnits::start(world, SIZES)?, Random::new(world.seed()));
        write(&two, &mut random)?;
        two.expect_same_on_both_sides()?;
        let (first, second) = (two.proxy.address(), two.link);
        let line = format!("address = \"{first}\"\n");
        configure(&two, &line, &format!("{line}other_addresses = [\"{second}\"]\n"))?;
        reached_at(&two, first)?;
        two.proxy.cut();
        reached_at(&two, second)?;
        write(&two, &mut random)?;
        two.expect_same_on_both_sides()?;
        // The first is tried first again, when the link is lost the next time.
        two.proxy.restore();
        // It has to be there when it is dialled: an address behind which nobody answers comes last.
        two.local.process()?.signal(Signal::STOP)?;
        two.remote.kill9()?;
        two.remote.start()?;
        two.local.process()?.signal(Signal::CONT)?;
        reached_at(&two, first)?;
        write(&two, &mut random)?;
        two.expect_same_on_both_sides()?;
        let log = two.local.process()?.log_text();
        let copies = log.matches("copy is complete").count();
        ensure!(copies == 1, "{copies} copies\n{log}");
        Ok(())
    });
}

#[test]
fn an_address_that_refuses_gives_way_to_the_next() {
    promise(|world| {
        let (two, mut random) = (TwoUnits::start(world, SIZES)?, Random::new(world.seed()));
        let other = free_address()?;
        let directory = world.file("other");
        let toml = format!(
            "{}[nbd]\nlisten = []\n\n[link]\nlisten = [\"{other}\"]\naccept = [\"something-else\"]\n",
            unit_toml("other", &directory)
        );
        let unit = configured(world, "other", &directory, &toml)?;
        unit.start()?;
        let known = two.proxy.address();
        configure(
            &two,
            &format!("address = \"{known}\"\n"),
            &format!("address = \"{other}\"\nother_addresses = [\"{known}\"]\n"),
        )?;
        reached_at(&two, known)?;
        write(&two, &mut random)?;
        two.expect_same_on_both_sides()?;
        let log = two.local.process()?.log_text();
        ensure!(log.contains("not among those this unit accepts"), "{log}");
        Ok(())
    });
}

#[test]
fn addresses_that_cannot_be_meant_are_refused() {
    promise(|world| {
        let two = TwoUnits::prepare(world, SIZES)?;
        let file = two.local_directory.with_extension("toml");
        let before = std::fs::read_to_string(&file)?;
        let many: Vec<String> = (1..9).map(|port| format!("\"far:{port}\"")).collect();
        for (others, says) in [
            (format!("[\"{}\"]", two.proxy.address()), "is named twice"),
            ("[\"nowhere\"]".to_owned(), "not the address of a remote"),
            ("[\"far:0\"]".to_owned(), "has no port"),
            (format!("[{}]", many.join(", ")), "more than 7"),
        ] {
            std::fs::write(&file, format!("{before}other_addresses = {others}\n"))?;
            let name = file.display().to_string();
            let refused = two.local.command(&["config", "check", &name])?.failure()?;
            ensure!(refused.stderr.contains(says), "{others}: {}", refused.output());
        }
        Ok(())
    });
}
