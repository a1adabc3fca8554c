//! `farside-cost`: what one request costs in instructions and in allocations, counted and not timed, so that a change
//! shows on any machine, however busy.
//!
//! A path of the product is gone along by one thread, with the product's own code and with files and sockets of this
//! machine. It is run twice, for different numbers of requests, below valgrind; the difference is what the requests
//! between cost, without all that is paid once.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output of a command-line tool"
)]

mod allocations;
mod by_hand;
mod host;
mod measure;
mod paths;
mod place;
mod remote;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Counts what requests cost in instructions and allocations.
#[derive(Debug, Parser)]
#[command(name = "farside-cost")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the paths there are.
    List,
    /// Goes along a path for so many requests, and shows what the whole process allocated.
    Run {
        /// The path.
        path: String,
        /// How many requests.
        requests: u64,
    },
    /// Counts below valgrind, and compares with what was counted before.
    Measure {
        /// These paths only.
        paths: Vec<String>,
        /// Keep what is counted as the new figures.
        #[arg(long)]
        keep: bool,
    },
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Command::List => {
            for path in paths::ALL {
                println!("{:<24} {}", path.name, path.what);
            }
        }
        Command::Run { path, requests } => {
            paths::find(&path)?.run(requests)?;
            println!("{}", allocations::so_far());
        }
        Command::Measure { paths, keep } => {
            if !measure::measure(&paths, keep)? {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
