//! `farside man`: manual pages and shell completions, made from the same definitions as the command line.

use super::config::EXAMPLE;
use super::exit::CliError;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use std::fmt::Write;
use std::path::Path;

/// Writes `farside.1` and a page per command, `farside.toml.5`, and completions for bash, zsh and fish.
pub(super) fn man(directory: &Path) -> Result<(), CliError> {
    let write = || -> std::io::Result<()> {
        let completions = directory.join("completions");
        std::fs::create_dir_all(&completions)?;
        let command = super::Cli::command();
        clap_mangen::generate_to(command.clone(), directory)?;
        std::fs::write(directory.join("farside.toml.5"), settings_page())?;
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut command: Command = command.clone();
            clap_complete::generate_to(shell, &mut command, "farside", &completions)?;
        }
        Ok(())
    };
    write().map_err(|error| {
        CliError::failure(format!(
            "{}: the manual cannot be written: {error}; check its permissions",
            directory.display()
        ))
    })
}

/// The example as a manual page: it explains every setting where it stands.
fn settings_page() -> String {
    let mut page = String::from(
        ".TH farside.toml 5\n.SH NAME\nfarside.toml \\- configuration of a Farside unit\n.SH DESCRIPTION\n\
         The file is TOML. 'farside config check FILE' judges it; SIGHUP makes a running unit read it again; a wrong\n\
         file leaves the one before in force.\n.SH SETTINGS\n.nf\n",
    );
    for line in EXAMPLE.lines() {
        let escaped = line.replace('\\', "\\e").replace('-', "\\-");
        // A leading dot or quote would be taken for a request.
        let guard = if escaped.starts_with(['.', '\'']) {
            "\\&"
        } else {
            ""
        };
        writeln!(page, "{guard}{escaped}").expect("a String takes everything that is written to it");
    }
    page.push_str(".fi\n.SH SEE ALSO\n.BR farside (1)\n");
    page
}
