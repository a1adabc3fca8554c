//! What the commands print, and how: standard output, plain unless it is a terminal.

use super::exit::CliError;
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// Prints text that ends in its own newline.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Prints a value as indented JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| CliError::failure(error.to_string()))?;
    print(&format!("{text}\n"))
}

/// Whether standard output is a terminal.
pub(super) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}
