//! Hosts attach a replica, read-only and standing still, over NBD and over iSCSI, while mirroring goes on.

use anyhow::{Result, ensure};
use farside_tests::BlockClient;
use farside_tests::clock::{Seen, wait_until};
use farside_tests::nbd::{Endpoint, NbdClient};
use farside_tests::ports::free_address;
use farside_tests::status::number;
use farside_tests::tools::Tool;
use farside_tests::units::{Sizes, TwoUnits, VOLUME, unit_toml};
use farside_tests::{Random, World, limits, promise};
use std::net::SocketAddr;

const SIZES: Sizes = Sizes {
    disk_mib: 32,
    journal_mib: 32,
};
/// The part of the disk that is written, and compared.
const USED: u32 = 1 << 20;
const NOW: &str = "disk0@now";

/// A remote unit in front of which hosts can be.
struct Exporting<'w> {
    two: TwoUnits<'w>,
    nbd: Endpoint,
    portal: SocketAddr,
    random: Random,
}

impl<'w> Exporting<'w> {
    fn start(world: &'w World) -> Result<Self> {
        let two = TwoUnits::prepare(world, SIZES)?;
        let (nbd, portal) = (free_address()?, free_address()?);
        let exporting = Self {
            nbd: Endpoint::Tcp(nbd),
            portal,
            random: Random::new(world.seed()),
            two,
        };
        exporting.configure(world, true)?;
        exporting.two.remote.start()?;
        exporting.two.local.start()?;
        exporting
            .two
            .local
            .wait_remote_state("streaming", limits::CATCH_UP)?;
        Ok(exporting)
    }

    fn configure(&self, world: &World, export: bool) -> Result<()> {
        let Endpoint::Tcp(nbd) = &self.nbd else {
            unreachable!()
        };
        let text = format!(
            "{}[nbd]\nlisten = [\"{nbd}\"]\n\n[iscsi]\nlisten = [\"{}\"]\n\n[link]\nlisten = [\"{}\"]\nexport_replicas = {export}\n",
            unit_toml("remote", &self.two.remote_directory),
            self.portal,
            self.two.link
        );
        Ok(std::fs::write(world.file("remote.toml"), text)?)
    }

    /// Writes something new everywhere, and waits until the replica has it.
    fn write(&mut self) -> Result<Vec<u8>> {
        let content = self.random.bytes(USED as usize);
        let mut host = self.two.connect()?;
        host.write(0, &content)?;
        host.flush()?;
        host.disconnect()?;
        self.two.local.wait_applied()?;
        Ok(content)
    }

    fn initiator(&self, moment: &str) -> Result<Box<dyn BlockClient>> {
        Ok(Endpoint::Iscsi(self.portal).attach(&format!("replica:{VOLUME}:{moment}"))?)
    }

    fn connections(&self) -> Result<u64> {
        number(self.two.remote.status()?.replica(VOLUME)?, &["connections"])
    }
}

fn expect(client: &mut dyn BlockClient, content: &[u8], about: &str) -> Result<()> {
    ensure!(client.read(0, USED)? == content, "{about} is another disk");
    Ok(())
}

#[test]
fn over_nbd_each_connection_finds_its_own_moment_and_it_stands_still() {
    promise(|world| {
        let mut exporting = Exporting::start(world)?;
        let first = exporting.write()?;
        let bookmark = ["history", "bookmark", "monday"];
        exporting.two.remote.command(&bookmark)?.success()?;
        let mut early = NbdClient::connect(&exporting.nbd, NOW)?;
        let second = exporting.write()?;
        let mut late = NbdClient::connect(&exporting.nbd, NOW)?;
        expect(&mut early, &first, "the one attached first")?;
        expect(&mut late, &second, "the one attached then")?;
        ensure!(late.write(0, &[1; 512]).is_err(), "a replica is read-only");
        ensure!(exporting.connections()? == 2, "{}", exporting.connections()?);

        let list = Tool::new("nbdinfo")
            .args(["--list", &exporting.nbd.uri("")])
            .ok()?;
        for name in [NOW, "disk0@monday"] {
            ensure!(list.stdout.contains(name), "{name}: {}", list.stdout);
        }
        // Several connections of one host must find the same.
        let can = |name: &str| -> Result<bool> {
            let uri = exporting.nbd.uri(name);
            let asked = Tool::new("nbdinfo").args(["--can", "multi-conn", &uri]).run()?;
            Ok(asked.success().is_ok())
        };
        ensure!(can("disk0@monday")? && !can(NOW)? && !can("disk0@1s%20ago")?);
        let copy = world.file("monday.img");
        let monday = exporting.nbd.uri("disk0@monday");
        Tool::new("nbdcopy").args([monday.as_str()]).path(&copy).ok()?;
        ensure!(std::fs::read(&copy)?.starts_with(&first), "a bookmark by nbdcopy");
        let wrong = exporting.nbd.uri("disk0@yesterday");
        let refused = Tool::new("qemu-img").args(["info", &wrong]).run()?.failure()?;
        ensure!(
            refused.output().contains("neither a bookmark nor a moment"),
            "{}",
            refused.output()
        );

        // What goes on with the mirroring is not held up by who reads.
        let third = exporting.write()?;
        expect(&mut late, &second, "the one attached then, later")?;
        exporting.two.expect_same_on_both_sides()?;
        exporting
            .two
            .remote
            .command(&["replica", "detach", VOLUME])?
            .success()?;
        ensure!(late.read(0, 512).is_err(), "the disk is another host's now");
        exporting
            .two
            .remote
            .command(&["replica", "attach", VOLUME])?
            .success()?;
        let attach = || NbdClient::connect(&exporting.nbd, NOW);
        wait_until("the past to be found", limits::STATUS, || {
            let refused = attach().err().map(|error| error.to_string());
            Ok(Seen::when(refused.is_none(), || refused.unwrap_or_default()))
        })?;
        expect(&mut attach()?, &third, "what came back")
    });
}

#[test]
fn over_iscsi_all_sessions_see_the_moment_that_the_first_one_found() {
    promise(|world| {
        let mut exporting = Exporting::start(world)?;
        let first = exporting.write()?;
        let bookmark = ["history", "bookmark", "monday"];
        exporting.two.remote.command(&bookmark)?.success()?;
        let second = exporting.write()?;
        let mut one = exporting.initiator("now")?;
        expect(&mut *one, &second, "the newest")?;
        let third = exporting.write()?;
        let mut two = exporting.initiator("now")?;
        expect(&mut *two, &second, "another path to the same unit")?;
        let mut monday = exporting.initiator("monday")?;
        expect(&mut *monday, &first, "the bookmark")?;
        ensure!(one.write(0, &[1; 512]).is_err(), "a replica is read-only");
        ensure!(exporting.connections()? == 3, "{}", exporting.connections()?);
        for client in [&mut one, &mut two] {
            client.disconnect()?;
        }
        wait_until("the sessions to end", limits::STATUS, || {
            let left = exporting.connections()?;
            Ok(Seen::when(left == 1, || format!("{left} connections")))
        })?;
        expect(&mut *exporting.initiator("now")?, &third, "a new unit")?;

        let url = format!("iscsi://{}", exporting.portal);
        let list = Tool::new("iscsi-ls").args(["-s", &url]).ok()?.stdout;
        for moment in ["now", "monday"] {
            let target = format!("iqn.2026-11.dev.farside:replica:disk0:{moment}");
            ensure!(list.contains(&target), "{target}: {list}");
        }
        // To a host the moments and the volume are different disks.
        let uri = |moment: &str| format!("{url}/iqn.2026-11.dev.farside:replica:disk0:{moment}/1");
        let name = |url: String| -> Result<String> {
            let args = ["-e", "1", "-c", "131", &url];
            Ok(Tool::new("iscsi-inq").args(args).ok()?.stdout)
        };
        let volume = format!("iscsi://{}/iqn.2026-11.dev.farside:disk0/1", exporting.two.portal);
        let names = [name(uri("now"))?, name(uri("monday"))?, name(volume)?];
        let naa = |text: &str| -> Vec<String> {
            let mut lines = text.lines().map(str::trim);
            lines.by_ref().find(|line| line.contains("NAA"));
            lines.take(4).map(str::to_owned).collect()
        };
        ensure!(
            naa(&names[0]) != naa(&names[1]) && naa(&names[1]) != naa(&names[2]),
            "{names:?}"
        );

        // The switch is thrown while hosts are attached.
        exporting.configure(world, false)?;
        exporting
            .two
            .remote
            .process()?
            .signal(rustix::process::Signal::HUP)?;
        wait_until("hosts to be detached", limits::STATUS, || {
            Ok(Seen::when(monday.read(0, 512).is_err(), || "it reads on".into()))
        })?;
        ensure!(exporting.initiator("now").is_err());
        ensure!(NbdClient::connect(&exporting.nbd, NOW).is_err());
        exporting.two.expect_same_on_both_sides()
    });
}
