//! The command line.
//!
//! Guarantees: every command ends with a documented exit code; what scripts read goes to standard output, what
//! people have to know to standard error. Never here: the work itself, which is the unit's.

mod limits;
mod exit;
mod output;
mod find;
mod client;
mod lasting;
mod run;
mod up;
mod status;
mod table;
mod attach;
mod wait;
mod volume;
mod history;
mod replica;
mod seed;
mod journal;
mod verify;
mod pair;

mod config;
mod man;

use clap::{Parser, Subcommand};
use exit::{CliError, EXIT_CODES, Exit};
use farside_protocol::control::VersionInfo;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;

/// A disk that is also somewhere else: a remote mirror behind an ordinary NBD disk
#[derive(Debug, Parser)]
#[command(name = "farside", version = version_text(), arg_required_else_help = true, after_help = EXIT_CODES)]
struct Cli {
    /// Control socket of the unit to talk to; found by itself if there is only one
    #[arg(long, global = true, env = "FARSIDE_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Commands,
}

#[derive(Debug, Subcommand)]
enum Commands {
    /// Start or continue a local and a remote half in one directory, joined over loopback
    Up(up::UpArgs),
    /// Run a unit as a service does
    Unit {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Judge or explain configuration files
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Show what a running unit does
    Status(status::StatusArgs),
    /// Show how hosts attach a volume so that a restart of the unit is a pause for them
    AttachHelp(attach::AttachHelpArgs),
    /// Create, list and remove volumes of a running unit
    #[command(subcommand)]
    Volume(volume::VolumeCommand),
    /// Stop and start what is kept for remotes, and what is sent to them
    #[command(subcommand)]
    Journal(journal::JournalCommand),
    /// See, attach, compare and copy what a replica was before
    #[command(subcommand)]
    History(history::HistoryCommand),
    /// List replicas, let another host have the disk of one, and take it back
    #[command(subcommand)]
    Replica(replica::ReplicaCommand),
    /// Carry what a volume holds to its remote on a disk, so that only what differs is sent
    #[command(subcommand)]
    Seed(seed::SeedCommand),
    /// Compare a volume with its remotes, block by block, while they are in use
    Verify(verify::VerifyArgs),
    /// Make units known to each other, so that links between machines are encrypted
    #[command(subcommand)]
    Pair(pair::PairCommand),
    /// Wait until everything written so far is safe
    Wait(wait::WaitArgs),
    /// Look into a journal or dirty-block map, without a unit and without changing it
    Inspect {
        /// The file or block device
        file: PathBuf,
        /// Print JSON; with --chunks or --records a line per chunk comes first
        #[arg(long)]
        json: bool,
        /// Show each chunk from the tail on
        #[arg(long)]
        chunks: bool,
        /// Show each chunk and its records
        #[arg(long)]
        records: bool,
    },
    /// Show version and copyright
    Version {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write manual pages and shell completions
    #[command(hide = true)]
    Man {
        /// Where to
        dir: PathBuf,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are asked for, everything else is a mistake; clap knows where each is printed.
            error.print().ok();
            return if error.use_stderr() {
                Exit::Usage.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError { exit, message }) => {
            if !message.is_empty() {
                // Nobody can be told if this fails.
                writeln!(std::io::stderr(), "farside: {message}").ok();
            }
            exit.into()
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), CliError> {
    let Cli { socket, command } = cli;
    let client = || find::socket(socket).map(client::Client::new);
    match command {
        Commands::Up(args) => up::up(&args),
        Commands::Unit { config } => run::unit(&config),
        Commands::Config(command) => config::config(&command),
        Commands::Status(args) => {
            let client = client()?;
            block_on(async move { status::status(&client, &args).await })
        }
        Commands::AttachHelp(args) => {
            let client = client()?;
            block_on(async move { attach::attach_help(&client, &args).await })
        }
        Commands::Volume(command) => {
            let client = client()?;
            block_on(async move { volume::volume(&client, command).await })
        }
        Commands::Journal(command) => {
            let client = client()?;
            block_on(async move { journal::journal(&client, command).await })
        }
        Commands::History(command) => {
            let client = client()?;
            block_on(async move { history::history(&client, command).await })
        }
        Commands::Replica(command) => {
            let client = client()?;
            block_on(async move { replica::replica(&client, command).await })
        }
        Commands::Seed(command) => {
            let client = client()?;
            block_on(async move { seed::seed(&client, command).await })
        }
        Commands::Verify(args) => {
            let client = client()?;
            block_on(async move { verify::verify(&client, &args).await })
        }
        Commands::Pair(command) => {
            let client = client()?;
            block_on(async move { pair::pair(&client, command).await })
        }
        Commands::Wait(args) => {
            let client = client()?;
            block_on(async move { wait::wait(&client, &args).await })
        }
        Commands::Inspect {
            file,
            json,
            chunks,
            records,
        } => {
            let options = crate::inspect::Options {
                json,
                chunks: chunks || records,
                records,
            };
            Ok(crate::inspect::run(
                &file,
                options,
                &mut std::io::stdout().lock(),
            )?)
        }
        Commands::Version { json } => version(json),
        Commands::Man { dir } => man::man(&dir),
    }
}

fn block_on(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .map_err(|error| CliError::failure(format!("no event loop: {error}")))?
        .block_on(work)
}

fn version(json: bool) -> Result<(), CliError> {
    if json {
        output::print_json(&VersionInfo::current())
    } else {
        output::print(&format!("farside {}\n", version_text()))
    }
}

fn version_text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let VersionInfo {
            version,
            copyright,
            license,
            ..
        } = VersionInfo::current();
        format!("{version}\n{copyright}\nLicence: {license}")
    });
    &TEXT
}
