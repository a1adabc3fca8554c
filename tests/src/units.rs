//! Farside units under test: a pair in one process (`up`), or local and remote as two processes with a faulty network
//! between them. Both are found by the same names: `mirror`, `replica`, `endpoint`, `local`, `remote`.

use crate::binary::farside;
use crate::clock::{Seen, wait_until};
use crate::nbd::{Endpoint, NbdClient};
use crate::ports::free_address;
use crate::process::Process;
use crate::proxy::Proxy;
use crate::status::{Positions, Status};
use crate::tools::{Done, Tool};
use crate::world::lock;
use crate::{World, images, limits};
use anyhow::{Context as _, Result, bail};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The volume every test uses unless it is about several.
pub const VOLUME: &str = "disk0";

/// Runs the `farside` command line.
///
/// # Errors
/// When there is no binary; a failing command is no error here.
pub fn farside_command(args: &[&str]) -> Result<Done> {
    Tool::new(&farside()?.to_string_lossy()).args(args).run()
}

/// One unit: how to start it, and its process while it runs.
#[derive(Debug)]
pub struct Unit<'w> {
    world: &'w World,
    name: String,
    args: Vec<String>,
    control_socket: PathBuf,
    process: Mutex<Option<Arc<Process>>>,
}

impl<'w> Unit<'w> {
    /// A unit that is not started yet.
    #[must_use]
    pub fn new(world: &'w World, name: &str, args: Vec<String>, control_socket: PathBuf) -> Self {
        world.watch_socket(&control_socket);
        Self {
            world,
            name: name.to_owned(),
            args,
            control_socket,
            process: Mutex::default(),
        }
    }

    /// The socket it is controlled by.
    #[must_use]
    pub fn control_socket(&self) -> &Path {
        &self.control_socket
    }

    /// Starts it and returns at once.
    ///
    /// # Errors
    /// When the binary cannot be started.
    pub fn launch(&self) -> Result<Arc<Process>> {
        let mut command = Command::new(farside()?);
        command
            .args(&self.args)
            .env("RUST_BACKTRACE", "1")
            .env("NO_COLOR", "1");
        let process = self.world.spawn(&self.name, &mut command)?;
        *lock(&self.process) = Some(Arc::clone(&process));
        Ok(process)
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it ends instead, or does not answer in time.
    pub fn start(&self) -> Result<()> {
        let process = self.launch()?;
        wait_until(&format!("unit {} to answer", self.name), limits::START, || {
            if let Some(status) = process.exit_status()? {
                bail!(
                    "unit {} ended with {status} instead of serving:\n{}",
                    self.name,
                    process.log_tail(20)
                );
            }
            Ok(match self.try_status() {
                Ok(_) => Seen::Yes,
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
    }

    /// The running process.
    ///
    /// # Errors
    /// When it was never started.
    pub fn process(&self) -> Result<Arc<Process>> {
        lock(&self.process)
            .clone()
            .with_context(|| format!("unit {} was not started", self.name))
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it had ended by itself.
    pub fn kill9(&self) -> Result<()> {
        self.process()?.kill9()
    }

    /// SIGTERM; a clean end is exit code 0.
    ///
    /// # Errors
    /// When it does not end in time or says it failed.
    pub fn shut_down(&self) -> Result<ExitStatus> {
        let status = self.process()?.terminate()?;
        if !status.success() {
            bail!("unit {} ended with {status} after SIGTERM", self.name);
        }
        Ok(status)
    }

    /// A command to this unit.
    ///
    /// # Errors
    /// When there is no binary; a failing command is no error here.
    pub fn command(&self, args: &[&str]) -> Result<Done> {
        let socket = self.control_socket.to_string_lossy();
        let tool = Tool::new(&farside()?.to_string_lossy())
            .args(args)
            .args(["--socket", &socket]);
        tool.limit(limits::CATCH_UP + limits::STATUS).run()
    }

    /// What it says about itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<Status> {
        self.try_status()
            .with_context(|| format!("unit {} gives no status", self.name))
    }

    fn try_status(&self) -> Result<Status> {
        Status::parse(&self.command(&["status", "--json"])?.success()?.stdout)
    }

    /// The positions of the volume.
    ///
    /// # Errors
    /// When it does not answer, or the positions are out of their order.
    pub fn positions(&self) -> Result<Positions> {
        let positions = self.status()?.positions(VOLUME)?;
        if !positions.ordered() {
            bail!("the positions are out of order: {positions:?}");
        }
        Ok(positions)
    }

    /// Waits until the remote of the volume is in this state.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn wait_remote_state(&self, state: &str, limit: Duration) -> Result<()> {
        wait_until(&format!("the remote to be {state}"), limit, || {
            let status = self.status()?;
            let remote = status.remote(VOLUME)?;
            let found = crate::status::text(remote, &["state"])?;
            Ok(Seen::when(found == state, || format!("{remote}")))
        })
    }

    /// Waits until everything written is applied by the remote, and until the mirror has it too.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn wait_applied(&self) -> Result<()> {
        let limit = format!("{}s", limits::CATCH_UP.as_secs());
        self.command(&["wait", "--volume", VOLUME, "--applied", "--timeout", &limit])?
            .success()?;
        self.wait_mirrored()
    }

    /// Waits until the mirror has everything written.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn wait_mirrored(&self) -> Result<()> {
        wait_until("the mirror to have everything", limits::CATCH_UP, || {
            let positions = self.positions()?;
            Ok(Seen::when(positions.mirrored == positions.journaled, || {
                format!("{positions:?}")
            }))
        })
    }
}

/// Sizes of the volume under test.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Size of the disk in MiB.
    pub disk_mib: u64,
    /// Size of the journal in MiB.
    pub journal_mib: u64,
}

impl Sizes {
    /// A disk of 64 MiB with a journal of 16 MiB, so that the journal wraps soon.
    pub const SMALL: Self = Self {
        disk_mib: 64,
        journal_mib: 16,
    };

    /// Size of the disk in bytes.
    #[must_use]
    pub const fn disk_bytes(self) -> u64 {
        self.disk_mib << 20
    }
}

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
        let (nbd, link, console) = (free_address()?, free_address()?, free_address()?);
        let args = ["up".to_owned(), directory.to_string_lossy().into_owned()].into_iter();
        let options = [
            ("--size", format!("{}M", sizes.disk_mib)),
            ("--journal", format!("{}M", sizes.journal_mib)),
            ("--nbd", nbd.to_string()),
            ("--link", link.to_string()),
            ("--console", console.to_string()),
        ];
        let args = args
            .chain(
                options
                    .into_iter()
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
        let (nbd, link, between) = (free_address()?, free_address()?, free_address()?);
        let proxy = Proxy::start(between, link)?;
        let (local_directory, remote_directory) = (world.file("local"), world.file("remote"));
        let local = local_unit(
            world,
            "local",
            &local_directory,
            nbd,
            &volume_toml(sizes, between),
        )?;
        let remote = remote_unit(world, "remote", &remote_directory, link)?;
        Ok(Self {
            local,
            remote,
            proxy,
            nbd,
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
}

/// The volume section of a local unit's configuration.
#[must_use]
pub fn volume_toml(sizes: Sizes, remote: SocketAddr) -> String {
    let Sizes {
        disk_mib,
        journal_mib,
    } = sizes;
    format!(
        "[[volume]]\nname = \"{VOLUME}\"\nsize = \"{disk_mib}M\"\njournal_size = \"{journal_mib}M\"\n\n\
         [[volume.remote]]\nname = \"remote\"\naddress = \"{remote}\"\n"
    )
}

/// The sections every unit has.
#[must_use]
pub fn unit_toml(name: &str, directory: &Path) -> String {
    let socket = directory.with_extension("sock");
    format!(
        "[unit]\nname = \"{name}\"\ndata_dir = \"{}\"\ncontrol_socket = \"{}\"\n\n",
        directory.display(),
        socket.display()
    )
}

/// A local unit by configuration file, not started.
///
/// # Errors
/// When the file cannot be written.
pub fn local_unit<'w>(
    world: &'w World,
    name: &str,
    directory: &Path,
    nbd: SocketAddr,
    volumes: &str,
) -> Result<Unit<'w>> {
    let toml = format!(
        "{}[nbd]\nlisten = [\"{nbd}\"]\n\n{volumes}",
        unit_toml(name, directory)
    );
    configured(world, name, directory, &toml)
}

/// A remote unit by configuration file, not started.
///
/// # Errors
/// When the file cannot be written.
pub fn remote_unit<'w>(world: &'w World, name: &str, directory: &Path, link: SocketAddr) -> Result<Unit<'w>> {
    let toml = format!(
        "{}[nbd]\nlisten = []\n\n[link]\nlisten = [\"{link}\"]\n",
        unit_toml(name, directory)
    );
    configured(world, name, directory, &toml)
}

/// A unit with this configuration, which goes to NAME.toml; not started.
///
/// # Errors
/// When the file cannot be written.
pub fn configured<'w>(world: &'w World, name: &str, directory: &Path, toml: &str) -> Result<Unit<'w>> {
    let file = world.file(&format!("{name}.toml"));
    std::fs::write(&file, toml)?;
    let args = vec![
        "unit".to_owned(),
        "--config".to_owned(),
        file.to_string_lossy().into_owned(),
    ];
    Ok(Unit::new(world, name, args, directory.with_extension("sock")))
}
