//! Work of the unit that lasts and ends by itself, shown as it goes on.

use super::client::Said;
use super::exit::CliError;
use super::output;
use farside_protocol::control::{Progress, human_bytes};
use std::io::{IsTerminal, Write};

/// Shows how far it is, on a terminal, and what came of it. The work ends with this process.
pub(super) async fn until_done(mut said: Said) -> Result<(), CliError> {
    let shows = std::io::stderr().is_terminal();
    loop {
        match said.next().await? {
            Some(Progress::Copied {
                done_bytes,
                total_bytes,
            }) if shows => {
                let percent = done_bytes.saturating_mul(100) / total_bytes.max(1);
                let line = format!("\r{percent:>3} % of {} ", human_bytes(total_bytes));
                std::io::stderr().write_all(line.as_bytes()).ok();
            }
            Some(Progress::Done { message }) => {
                if shows {
                    std::io::stderr().write_all(b"\r").ok();
                }
                return output::print(&format!("{message}\n"));
            }
            Some(Progress::Failed { message }) => return Err(CliError::failure(message)),
            Some(_) => {}
            None => return Err(CliError::failure("the unit has ended the copy; look at its log")),
        }
    }
}
