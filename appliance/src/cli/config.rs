//! `farside config`.

use super::exit::{CliError, Exit};
use super::output;
use crate::config::{Overrides, load};
use std::path::{Path, PathBuf};

/// The commented example that is installed with the program.
pub(super) const EXAMPLE: &str = include_str!("../../../deploy/farside.example.toml");

/// What can be done with configuration files.
#[derive(Debug, clap::Subcommand)]
pub(super) enum ConfigCommand {
    /// Judge a file as a unit would: exit 0 if it is right, 1 with line and column if not
    Check {
        /// The configuration file
        file: PathBuf,
    },
    /// Print an example with every setting explained
    Example,
}

/// Carries out a configuration command.
pub(super) fn config(command: &ConfigCommand) -> Result<(), CliError> {
    match command {
        ConfigCommand::Check { file } => check(file),
        ConfigCommand::Example => output::print(EXAMPLE),
    }
}

fn check(file: &Path) -> Result<(), CliError> {
    let config =
        load(file, &Overrides::default()).map_err(|error| CliError::new(Exit::Failure, error.to_string()))?;
    let count = config.volumes.len();
    let volumes = if count == 1 {
        "1 volume".to_owned()
    } else {
        format!("{count} volumes")
    };
    output::print(&format!(
        "{}: valid, unit {}, {volumes}\n",
        file.display(),
        config.unit.name
    ))
}
