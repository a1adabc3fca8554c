//! `farside up`: a pair in one process, and where its files lie.

use super::{Protocol, Sizes, Unit, VOLUME};
use crate::nbd::{Endpoint, NbdClient};
use crate::ports::free_address;
use crate::{World, images};
use anyhow::{Context as _, Result};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// `farside up`: both units in one process.
#[derive(Debug)]
pub struct Pair<'w> {
    /// The process.
    pub unit: Unit<'w>,
    /// Its directory.
    pub directory: PathBuf,
    /// Its NBD address.
    pub nbd: SocketAddr,
    /// Its link address.
    pub link: SocketAddr,
    /// Its console address.
    pub console: SocketAddr,
}

impl<'w> Pair<'w> {
    /// A pair that is not started yet.
    ///
    /// # Errors
    /// When no port is free.
    pub fn prepare(world: &'w World, sizes: Sizes) -> Result<Self> {
        Self::prepare_at(world, sizes, &world.file("pair"))
    }

    /// A pair that is not started yet, in this directory.
    ///
    /// # Errors
    /// When no port is free.
    pub fn prepare_at(world: &'w World, sizes: Sizes, directory: &Path) -> Result<Self> {
        Self::prepare_with(world, sizes, directory, &[])
    }

    /// A running pair with iSCSI portals.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_with_portals(world: &'w World, sizes: Sizes, portals: &[SocketAddr]) -> Result<Self> {
        let pair = Self::prepare_with(world, sizes, &world.file("pair"), portals)?;
        pair.unit.start()?;
        Ok(pair)
    }

    /// A running pair, and where its disk is attached with that protocol.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_over(world: &'w World, sizes: Sizes, protocol: Protocol) -> Result<(Self, Endpoint)> {
        let portal = free_address()?;
        let pair = Self::start_with_portals(world, sizes, &[portal])?;
        let endpoint = match protocol {
            Protocol::Nbd => pair.endpoint(),
            Protocol::Iscsi => Endpoint::Iscsi(portal),
        };
        Ok((pair, endpoint))
    }

    fn prepare_with(
        world: &'w World,
        sizes: Sizes,
        directory: &Path,
        portals: &[SocketAddr],
    ) -> Result<Self> {
        let (nbd, link, console) = (free_address()?, free_address()?, free_address()?);
        let args = ["up".to_owned(), directory.to_string_lossy().into_owned()].into_iter();
        let options = [
            ("--size", format!("{}M", sizes.disk_mib)),
            ("--journal", format!("{}M", sizes.journal_mib)),
            ("--nbd", nbd.to_string()),
            ("--link", link.to_string()),
            ("--console", console.to_string()),
        ];
        let portals = portals.iter().map(|portal| ("--iscsi", portal.to_string()));
        let args = args
            .chain(
                options
                    .into_iter()
                    .chain(portals)
                    .flat_map(|(name, value)| [name.to_owned(), value]),
            )
            .collect();
        let unit = Unit::new(world, "up", args, directory.join("control.sock"));
        Ok(Self {
            unit,
            directory: directory.to_owned(),
            nbd,
            link,
            console,
        })
    }

    /// A running pair.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(world: &'w World, sizes: Sizes) -> Result<Self> {
        let pair = Self::prepare(world, sizes)?;
        pair.unit.start()?;
        Ok(pair)
    }

    /// The local image.
    #[must_use]
    pub fn mirror(&self) -> PathBuf {
        self.directory
            .join("local/volumes")
            .join(VOLUME)
            .join("mirror.img")
    }

    /// The local journal.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.directory.join("local/volumes").join(VOLUME).join("journal")
    }

    /// The remote image.
    #[must_use]
    pub fn replica(&self) -> PathBuf {
        self.directory
            .join("remote/replicas")
            .join(VOLUME)
            .join("replica.img")
    }

    /// The remote journal.
    #[must_use]
    pub fn replica_journal(&self) -> PathBuf {
        self.directory
            .join("remote/replicas")
            .join(VOLUME)
            .join("journal")
    }

    /// Where hosts attach by TCP.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::Tcp(self.nbd)
    }

    /// Where hosts attach by unix socket.
    #[must_use]
    pub fn unix_endpoint(&self) -> Endpoint {
        Endpoint::Unix(self.directory.join("nbd.sock"))
    }

    /// The disk as the stock clients want it named.
    #[must_use]
    pub fn uri(&self) -> String {
        self.endpoint().uri(VOLUME)
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
        self.unit.wait_applied()?;
        images::expect_equal(&self.mirror(), &self.replica())
    }
}
