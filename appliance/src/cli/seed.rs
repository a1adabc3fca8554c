//! `farside seed`: what a volume holds, carried to its remote on a disk.

use super::client::Client;
use super::exit::CliError;
use super::history::{check_name, path_text};
use super::journal::volume_or_only;
use super::lasting::until_done;
use farside_protocol::control::SeedFile;
use std::path::PathBuf;

/// What can be done with a seed.
#[derive(Debug, clap::Subcommand)]
pub(super) enum SeedCommand {
    /// Write what a volume holds into a new file, while hosts use it
    Export {
        /// Name of the volume; can be left away if there is only one
        #[arg(long, value_name = "NAME")]
        volume: Option<String>,
        /// The file that is made: a plain image, with holes where the volume is zero
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Begin the replica of a volume with an image, before the volume's first greeting
    Import {
        /// Name of the volume
        #[arg(long, value_name = "NAME")]
        volume: String,
        /// The image: an exported file, or any plain image or disk
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
}

/// Carries it out.
pub(super) async fn seed(client: &Client, command: SeedCommand) -> Result<(), CliError> {
    match command {
        SeedCommand::Export { volume, file } => {
            let volume = volume_or_only(client, volume).await?;
            let seed = SeedFile {
                file: path_text(&file)?,
            };
            until_done(client.export_seed(&volume, &seed).await?).await
        }
        SeedCommand::Import { volume, file } => {
            check_name(&volume)?;
            let seed = SeedFile {
                file: path_text(&file)?,
            };
            until_done(client.import_seed(&volume, &seed).await?).await
        }
    }
}
