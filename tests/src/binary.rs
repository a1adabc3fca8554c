//! Finding the `farside` binary under test.
//!
//! `FARSIDE_BIN` names one; otherwise it is the one beside the test programs, which cargo brings up to date first:
//! a proof about yesterday's binary is none.

use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The path of the binary under test.
///
/// # Errors
/// When it is neither named nor can be built.
pub fn farside() -> Result<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| locate().map_err(|error| format!("{error:#}")));
    match found {
        Ok(path) => Ok(path),
        Err(message) => bail!("no farside binary to test: {message}"),
    }
}

fn locate() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("FARSIDE_BIN") {
        let path = PathBuf::from(named);
        return path
            .canonicalize()
            .with_context(|| format!("FARSIDE_BIN names {}", path.display()));
    }
    let own = std::env::current_exe()?;
    let directory = own
        .parent()
        .and_then(Path::parent)
        .context("a test program lies in target/PROFILE/deps")?;
    let built = directory.join("farside");
    let outcome = build(directory);
    if !built.is_file() {
        outcome.context("building it failed")?;
        bail!("{} is missing even after a build", built.display());
    }
    outcome
        .context("it exists, but it could not be brought up to date; set FARSIDE_BIN to use one as it is")?;
    Ok(built)
}

fn build(directory: &Path) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args([
        "build", "--quiet", "--locked", "-p", "farside", "--bin", "farside",
    ]);
    if directory.ends_with("release") {
        command.arg("--release");
    }
    let target = directory.parent().context("target/PROFILE has a parent")?;
    command
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().context("cargo cannot be run")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
