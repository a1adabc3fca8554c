//! Configuration files for units under test.

use super::{Sizes, Unit, VOLUME};
use crate::World;
use anyhow::Result;
use std::net::SocketAddr;
use std::path::Path;

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
