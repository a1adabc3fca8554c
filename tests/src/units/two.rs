//! Local and remote unit, separately killable, and the proxy between them.

use super::{Protocol, Sizes, Unit, VOLUME, local_unit, remote_unit, volume_toml};
use crate::clock::{Seen, wait_until};
use crate::nbd::{Endpoint, NbdClient};
use crate::ports::free_address;
use crate::proxy::Proxy;
use crate::status::{number, text};
use crate::{BlockClient as _, Random, World, images, limits};
use anyhow::{Context as _, Result};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Local and remote unit as two processes, the link between them through a proxy.
#[derive(Debug)]
pub struct TwoUnits<'w> {
    /// The local unit.
    pub local: Unit<'w>,
    /// The remote unit.
    pub remote: Unit<'w>,
    /// What lies between them.
    pub proxy: Proxy,
    /// NBD address of the local unit.
    pub nbd: SocketAddr,
    /// Its iSCSI portal.
    pub portal: SocketAddr,
    /// Link address of the remote unit, behind the proxy.
    pub link: SocketAddr,
    /// Directory of the local unit.
    pub local_directory: PathBuf,
    /// Directory of the remote unit.
    pub remote_directory: PathBuf,
}

impl<'w> TwoUnits<'w> {
    /// Both units configured, none started.
    ///
    /// # Errors
    /// When no port is free or a file cannot be written.
    pub fn prepare(world: &'w World, sizes: Sizes) -> Result<Self> {
        let (nbd, portal) = (free_address()?, free_address()?);
        let (link, between) = (free_address()?, free_address()?);
        let proxy = Proxy::start(between, link)?;
        let (local_directory, remote_directory) = (world.file("local"), world.file("remote"));
        let local = local_unit(
            world,
            "local",
            &local_directory,
            nbd,
            &format!(
                "[iscsi]\nlisten = [\"{portal}\"]\n\n{}",
                volume_toml(sizes, between)
            ),
        )?;
        let remote = remote_unit(world, "remote", &remote_directory, link)?;
        Ok(Self {
            local,
            remote,
            proxy,
            nbd,
            portal,
            link,
            local_directory,
            remote_directory,
        })
    }

    /// Both units running, and the first copy of the empty disk done.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub fn start(world: &'w World, sizes: Sizes) -> Result<Self> {
        let units = Self::prepare(world, sizes)?;
        units.remote.start()?;
        units.local.start()?;
        units.local.wait_remote_state("streaming", limits::CATCH_UP)?;
        Ok(units)
    }

    /// The local image.
    #[must_use]
    pub fn mirror(&self) -> PathBuf {
        self.local_directory
            .join("volumes")
            .join(VOLUME)
            .join("mirror.img")
    }

    /// The remote image.
    #[must_use]
    pub fn replica(&self) -> PathBuf {
        self.remote_directory
            .join("replicas")
            .join(VOLUME)
            .join("replica.img")
    }

    /// Where hosts attach.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::Tcp(self.nbd)
    }

    /// Where hosts attach with that protocol.
    #[must_use]
    pub fn endpoint_over(&self, protocol: Protocol) -> Endpoint {
        match protocol {
            Protocol::Nbd => self.endpoint(),
            Protocol::Iscsi => Endpoint::Iscsi(self.portal),
        }
    }

    /// A connection of our own client.
    ///
    /// # Errors
    /// When it is refused.
    pub fn connect(&self) -> Result<NbdClient> {
        NbdClient::connect(&self.endpoint(), VOLUME).context("cannot attach the disk")
    }

    /// Waits until both sides have everything, and compares them byte for byte.
    ///
    /// # Errors
    /// When that takes too long, or they differ.
    pub fn expect_same_on_both_sides(&self) -> Result<()> {
        self.local.wait_applied()?;
        images::expect_equal(&self.mirror(), &self.replica())
    }

    /// A host writes half a MiB somewhere in a disk of 64 MiB and flushes.
    ///
    /// # Errors
    /// When the volume is not served.
    pub fn write_some(&self, random: &mut Random) -> Result<()> {
        let mut host = self.connect()?;
        for _ in 0..8 {
            let bytes = random.bytes(64 << 10);
            host.write(random.below(900) << 16, &bytes)?;
        }
        host.flush()?;
        Ok(host.disconnect()?)
    }

    /// What the remote has in its image, as it says itself, once that is a state of the volume.
    ///
    /// # Errors
    /// When it is none in time.
    pub fn applied(&self) -> Result<u64> {
        let mut applied = 0;
        wait_until("the replica to be consistent", limits::STATUS, || {
            let status = self.remote.status()?;
            let Ok(replica) = status.replica(VOLUME) else {
                return Ok(Seen::when(false, || "not there yet".to_owned()));
            };
            applied = number(replica, &["applied"])?;
            let state = text(replica, &["state"])?.to_owned();
            Ok(Seen::when(state == "consistent", || state))
        })?;
        Ok(applied)
    }
}
