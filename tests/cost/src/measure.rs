//! Runs paths below valgrind's cachegrind, which counts instructions, and compares with the figures that are kept.

use crate::paths::{self, Path};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// So much more, in percent, is worse. Less than that comes from the processor (which variant of a function the C library
/// takes) and from timers that fire or not.
const TOLERATED_PERCENT: f64 = 5.0;
/// How the C library copies and fills depends on the processor; "rep" would count as one instruction for each byte.
const SAME_EVERYWHERE: &str = "glibc.cpu.x86_rep_movsb_threshold=1073741824:\
    glibc.cpu.x86_rep_stosb_threshold=1073741824:glibc.cpu.x86_non_temporal_threshold=1073741824";
/// So many more allocations for each request are worse.
const TOLERATED_ALLOCATIONS: f64 = 0.1;

/// What one request costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Cost {
    instructions: f64,
    allocations: f64,
}

fn kept_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("counts.toml")
}

/// Measures these paths, or all. False: one costs more than it did.
pub(crate) fn measure(names: &[String], keep: bool) -> Result<bool> {
    let chosen: Vec<&Path> = if names.is_empty() {
        paths::ALL.iter().collect()
    } else {
        names
            .iter()
            .map(|name| paths::find(name))
            .collect::<Result<_>>()?
    };
    let file = kept_file();
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let mut kept: BTreeMap<String, Cost> =
        toml::from_str(&text).with_context(|| format!("{} cannot be read", file.display()))?;
    let mut is_good = true;
    println!(
        "{:<24} {:>14} {:>8} {:>12} {:>8}",
        "a request of", "instructions", "kept", "allocations", "kept"
    );
    for path in chosen {
        let cost = cost(path)?;
        let before = kept.get(path.name).copied();
        let verdict = before.map_or("not kept yet", |before| verdict(cost, before));
        let of = |before: Option<f64>| before.map_or_else(|| "-".to_owned(), |before| format!("{before}"));
        println!(
            "{:<24} {:>14} {:>8} {:>12} {:>8}  {verdict}",
            path.name,
            cost.instructions,
            of(before.map(|before| before.instructions)),
            cost.allocations,
            of(before.map(|before| before.allocations)),
        );
        is_good &= verdict != WORSE && before.is_some();
        kept.insert(path.name.to_owned(), cost);
    }
    if keep {
        kept.retain(|name, _| paths::find(name).is_ok());
        std::fs::write(&file, toml::to_string(&kept)?)?;
        println!("kept in {}", file.display());
        return Ok(true);
    }
    if !is_good {
        eprintln!(
            "A path costs more than it did. If that is meant, keep the new figures and say why in the commit: make cost \
             COST=--keep"
        );
    }
    Ok(is_good)
}

const WORSE: &str = "WORSE";

fn verdict(now: Cost, before: Cost) -> &'static str {
    let part = 1.0 + TOLERATED_PERCENT / 100.0;
    if now.instructions > before.instructions * part
        || now.allocations > before.allocations + TOLERATED_ALLOCATIONS
    {
        WORSE
    } else if now.instructions * part < before.instructions
        || now.allocations + TOLERATED_ALLOCATIONS < before.allocations
    {
        "better: keep it"
    } else {
        "the same"
    }
}

/// What the requests cost by which the longer of two runs is longer.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn cost(path: &Path) -> Result<Cost> {
    let (short, long) = (count(path, path.requests)?, count(path, path.requests * 2)?);
    let each = |short: u64, long: u64| (long as f64 - short as f64) / path.requests as f64;
    let rounded = |value: f64, to: f64| (value * to).round() / to;
    Ok(Cost {
        instructions: rounded(each(short.0, long.0), 1.0),
        allocations: rounded(each(short.1, long.1), 100.0),
    })
}

/// Instructions and allocations of a whole run.
fn count(path: &Path, requests: u64) -> Result<(u64, u64)> {
    let output = Command::new("valgrind")
        .args([
            "--tool=cachegrind",
            "--cache-sim=no",
            "--cachegrind-out-file=/dev/null",
        ])
        .arg(std::env::current_exe()?)
        .env("GLIBC_TUNABLES", SAME_EVERYWHERE)
        .args(["run", path.name, &requests.to_string()])
        .output()
        .context("valgrind cannot be run; install it (Debian: apt-get install valgrind)")?;
    let (said, log) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    ensure!(
        output.status.success(),
        "{} for {requests} requests failed:\n{log}",
        path.name
    );
    let Some(instructions) = log
        .lines()
        .find_map(|line| line.split_once("refs:").map(|(_, count)| count))
    else {
        bail!("valgrind counted nothing:\n{log}");
    };
    let instructions = instructions.trim().replace(',', "").parse()?;
    Ok((instructions, said.trim().parse()?))
}
