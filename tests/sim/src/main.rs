//! `farside-sim`: runs the world of one seed with its trace, or many worlds with their figures.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output of a command-line tool"
)]

use clap::Parser;
use farside_sim::run::{self, Totals};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Instant;

/// Worlds allocate and free small things all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs worlds in which everything goes wrong, and checks that no promise is broken.
#[derive(Debug, Parser)]
#[command(name = "farside-sim")]
struct Arguments {
    /// Run the world of this seed and show what happens in it.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run so many worlds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of their seeds.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Stop when so many worlds broke a promise.
    #[arg(long, default_value_t = 5)]
    enough: usize,
    /// Threads; each runs whole worlds.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
    /// Show the product's own log, too (with `--seed`).
    #[arg(long)]
    log: bool,
}

#[expect(clippy::disallowed_methods, reason = "how fast worlds run is real time")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let begun = Instant::now();
    stop_when_asked();
    let totals = if let Some(seed) = arguments.seed {
        if arguments.log {
            tracing_subscriber::fmt()
                .without_time()
                .with_max_level(tracing::Level::DEBUG)
                .with_writer(std::io::stdout)
                .init();
        }
        run::traced(seed)
    } else {
        let shown = std::io::stderr().is_terminal();
        let progress = |done: u64, broken: usize| {
            if shown && done.is_multiple_of(100) {
                eprint!("\r{done} worlds, {broken} broke a promise ");
                let _ = std::io::stderr().flush();
            }
        };
        let seeds = arguments.first..arguments.first.saturating_add(arguments.seeds);
        let totals = run::many(seeds, arguments.threads.max(1), arguments.enough, &progress);
        if shown {
            eprintln!();
        }
        totals
    };
    report(&totals, begun.elapsed().as_secs_f64());
    if totals.broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn report(totals: &Totals, seconds: f64) {
    let Totals {
        worlds,
        operations,
        simulated_s,
        counts,
        broken,
    } = totals;
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let rate = *worlds as f64 / seconds.max(1e-9);
    println!(
        "{worlds} worlds in {seconds:.1} s ({rate:.0} per second), {simulated_s:.0} s of simulated time"
    );
    println!("{operations} operations of hosts checked");
    for (what, count) in counts {
        println!("{count:12} {what}");
    }
    for broken in broken {
        println!("seed {}: {}", broken.seed, broken.text);
        println!("  see it: make sim SEED={}", broken.seed);
    }
    println!("{} worlds broke a promise", broken.len());
}

/// The first Ctrl-C ends a long run after the worlds that are under way, with the figures so far.
fn stop_when_asked() {
    let wait = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime
            && runtime.block_on(tokio::signal::ctrl_c()).is_ok()
        {
            run::stop();
        }
    };
    // Without it a Ctrl-C ends the program at once, as usual.
    let _ = std::thread::Builder::new().name("signals".to_owned()).spawn(wait);
}
