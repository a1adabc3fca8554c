//! Local and remote unit in a virtual machine each, the link between them through a proxy on the host.

use super::station::DIRECTORY;
use super::{FileSystem, Station};
use crate::BlockClient as _;
use crate::clock::{Seen, wait_until};
use crate::nbd::{Endpoint, NbdClient};
use crate::ports::free_address;
use crate::power::{Fate, Survived};
use crate::proxy::Proxy;
use crate::status::{number, text};
use crate::tools::Tool;
use crate::units::{Sizes, VOLUME, volume_toml};
use crate::{Random, World, images, limits};
use anyhow::{Context as _, Result, anyhow};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// The host's loopback as a machine sees it, and the machine's own address there (qemu's user network).
const HOST_SEEN_INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const NBD_PORT: u16 = 10809;
const LINK_PORT: u16 = 10900;

/// Whose power goes off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// That of both, at the same moment.
    Both,
    /// That of the local unit.
    Local,
    /// That of the remote unit.
    Remote,
}

/// A pair of units in two machines.
#[derive(Debug)]
pub struct PowerPair<'w> {
    /// The local unit.
    pub local: Station<'w>,
    /// The remote unit.
    pub remote: Station<'w>,
    /// What lies between them.
    pub proxy: Proxy,
    world: &'w World,
    nbd: SocketAddr,
    sizes: Sizes,
}

impl<'w> PowerPair<'w> {
    /// Both stations running, and the first copy of the empty disk done. The file systems are the local unit's and
    /// the remote's.
    ///
    /// # Errors
    /// A skip when there can be no virtual machine; an error when they do not come up.
    pub fn start(world: &'w World, sizes: Sizes, systems: [FileSystem; 2]) -> Result<Self> {
        let pair = Self::prepare(world, sizes, systems)?;
        pair.start_both()?;
        pair.local.wait_applied()?;
        Ok(pair)
    }

    /// Both stations on empty disks, none started.
    ///
    /// # Errors
    /// A skip when there can be no virtual machine; an error when the disks cannot be made.
    pub fn prepare(world: &'w World, sizes: Sizes, systems: [FileSystem; 2]) -> Result<Self> {
        let (nbd, link, between) = (free_address()?, free_address()?, free_address()?);
        let proxy = Proxy::start(between, link)?;
        let trusted = "trust_network = true\n";
        let (seen, journal) = (
            SocketAddr::from((HOST_SEEN_INSIDE, between.port())),
            sizes.journal_mib,
        );
        let local = format!(
            "[nbd]\nlisten = [\"{INSIDE}:{NBD_PORT}\"]\n{trusted}[link]\n{trusted}{}",
            volume_toml(sizes, seen)
        );
        let remote = format!(
            "[nbd]\nlisten = []\n[link]\nlisten = [\"{INSIDE}:{LINK_PORT}\"]\njournal_size = \"{journal}M\"\n{trusted}"
        );
        let [local_system, remote_system] = systems;
        Ok(Self {
            local: Station::new(world, "local", local_system, &[(nbd, NBD_PORT)], &local)?,
            remote: Station::new(world, "remote", remote_system, &[(link, LINK_PORT)], &remote)?,
            proxy,
            world,
            nbd,
            sizes,
        })
    }

    /// Starts both.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn start_both(&self) -> Result<()> {
        self.remote.machine.power_on()?;
        self.local.machine.power_on()?;
        side_by_side(|| self.remote.serve(), || self.local.serve()).map(drop)
    }

    /// Where hosts attach.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::Tcp(self.nbd)
    }

    /// Lets the power go off at a random one of the next writes and flushes to the disks concerned, and decides what
    /// is left on them. Something has to be writing.
    ///
    /// # Errors
    /// When nothing writes, or a machine had ended by itself.
    pub fn lose_power(&self, cut: Cut, random: &mut Random) -> Result<Survived> {
        let (local, remote) = (&self.local.machine, &self.remote.machine);
        let (first, others) = match cut {
            Cut::Local => (local, vec![]),
            Cut::Remote => (remote, vec![]),
            Cut::Both if random.chance(50) => (local, vec![remote]),
            Cut::Both => (remote, vec![local]),
        };
        let switches: Result<Vec<_>> = others.iter().map(|machine| machine.switch()).collect();
        first
            .switch()?
            .off_after(random.between(1, limits::POWER_CUT_REQUESTS), &switches?);
        first.wait_power_off()?;
        let mut survived = first.lose_power(Fate::any(random), random)?;
        for machine in others {
            let more = machine.lose_power(Fate::any(random), random)?;
            survived.unflushed += more.unflushed;
            survived.kept += more.kept;
        }
        Ok(survived)
    }

    /// Everything the local unit knows to be safe on the remote.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn confirmed(&self) -> Result<u64> {
        number(self.local.status()?.remote(VOLUME)?, &["received"])
    }

    /// Waits until the remote has applied all it has received, and returns up to which record that is.
    ///
    /// # Errors
    /// When that takes too long, or the replica is not consistent.
    pub fn wait_replica_recovered(&self) -> Result<u64> {
        let mut received = 0;
        wait_until("the remote to finish its recovery", limits::CATCH_UP, || {
            let status = self.remote.status()?;
            let replica = status.replica(VOLUME)?;
            received = number(replica, &["received"])?;
            let done =
                text(replica, &["state"])? == "consistent" && number(replica, &["applied"])? == received;
            Ok(Seen::when(done, || format!("{replica}")))
        })?;
        Ok(received)
    }

    /// The volume as a host reads it, as a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_volume(&self) -> Result<PathBuf> {
        let copy = self.world.file("volume.img");
        let uri = self.endpoint().uri(VOLUME);
        Tool::new("nbdcopy").args([uri]).path(&copy).ok()?;
        Ok(copy)
    }

    /// A copy of the image of the mirror.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn copy_mirror(&self) -> Result<PathBuf> {
        let path = format!("{DIRECTORY}/volumes/{VOLUME}/mirror.img");
        let machine = &self.local.machine;
        machine.copy_out(&path, self.sizes.disk_bytes(), "mirror.img")
    }

    /// A copy of the image of the replica.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn copy_replica(&self) -> Result<PathBuf> {
        let path = format!("{DIRECTORY}/replicas/{VOLUME}/replica.img");
        let machine = &self.remote.machine;
        machine.copy_out(&path, self.sizes.disk_bytes(), "replica.img")
    }

    /// Waits until both sides have everything, and compares them byte for byte. Returns a copy of the image.
    ///
    /// # Errors
    /// When that takes too long, or they differ.
    pub fn expect_same_on_both_sides(&self) -> Result<PathBuf> {
        self.local.wait_applied()?;
        let (mirror, replica) = side_by_side(|| self.copy_mirror(), || self.copy_replica())?;
        images::expect_equal(&mirror, &replica)?;
        Ok(replica)
    }

    /// Makes the whole disk zero on both sides, for a history that begins with an empty disk.
    ///
    /// # Errors
    /// When a request fails or the remote does not follow.
    pub fn wipe(&self) -> Result<()> {
        let mut host = NbdClient::connect(&self.endpoint(), VOLUME).context("cannot attach the disk")?;
        host.zero(0, u32::try_from(self.sizes.disk_bytes())?)?;
        host.flush()?;
        host.disconnect()?;
        self.local.wait_applied()
    }
}

/// Does two things at the same time, one in each machine: each of them keeps a processor busy.
fn side_by_side<O: Send>(
    one: impl FnOnce() -> Result<O> + Send,
    other: impl FnOnce() -> Result<O>,
) -> Result<(O, O)> {
    std::thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        let one = one
            .join()
            .unwrap_or_else(|_| Err(anyhow!("one of two things panicked")));
        Ok((one?, other?))
    })
}
