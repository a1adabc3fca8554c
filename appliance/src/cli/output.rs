//! What the commands print, and how: standard output, plain unless it is a terminal.

use super::exit::CliError;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::path::Path;

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

/// A path as one word of a shell's command line.
pub(super) fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+=:@%,".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_a_path_back_as_it_is() {
        for path in [
            "/a/b-c.sock",
            "/a b",
            "/it's",
            "/$HOME;`x`\"*",
            "/Füße",
            "",
            "~x",
            "/a\nb",
        ] {
            let line = format!("printf %s {}", shell_word(Path::new(path)));
            let read = std::process::Command::new("sh")
                .args(["-c", &line])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(read.stdout).unwrap(), path);
        }
        assert_eq!(shell_word(Path::new("/a/b-c.sock")), "/a/b-c.sock");
    }
}
