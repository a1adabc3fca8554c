//! `farside status`.

use super::client::Client;
use super::exit::{CliError, Exit};
use super::table::{Style, draw};
use super::{limits, output};
use farside_protocol::control::Status;

/// What `farside status` is given.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Print JSON, as documented in the user guide; with --watch one line per second
    #[arg(long)]
    json: bool,
    /// Draw again every second until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// Shows the state of the unit, once or until interrupted.
pub(super) async fn status(client: &Client, args: &StatusArgs) -> Result<(), CliError> {
    if !args.watch {
        let status = client.status().await?;
        return if args.json {
            output::print_json(&status)
        } else {
            output::print(&plain(&status))
        };
    }
    tokio::select! {
        ended = watch(client, args.json) => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

fn plain(status: &Status) -> String {
    draw(
        status,
        Style {
            terminal: output::is_terminal(),
        },
    )
}

async fn watch(client: &Client, json: bool) -> Result<(), CliError> {
    // A unit that is not there at the start is an error; one that restarts meanwhile is waited for.
    let mut frame = Ok(client.status().await?);
    loop {
        let text = match &frame {
            Ok(status) if json => one_line(status)?,
            Ok(status) => screen(&plain(status)),
            Err(_) if json => String::new(),
            Err(CliError { message, .. }) => screen(&format!("{message}\n")),
        };
        match output::print(&text) {
            // The reader has gone: nobody is left to draw for.
            Err(error) if error.message.is_empty() => return Ok(()),
            other => other?,
        }
        tokio::time::sleep(limits::WATCH_INTERVAL).await;
        frame = client.status().await;
        if let Err(error) = &frame
            && error.exit != Exit::Unreachable
        {
            return frame.map(drop);
        }
    }
}

fn one_line(status: &Status) -> Result<String, CliError> {
    let text = serde_json::to_string(status).map_err(|error| CliError::failure(error.to_string()))?;
    Ok(text + "\n")
}

/// On a terminal the old frame goes; elsewhere an empty line parts the frames.
fn screen(text: &str) -> String {
    if output::is_terminal() {
        format!("\x1b[H\x1b[2J{text}")
    } else {
        format!("{text}\n")
    }
}
