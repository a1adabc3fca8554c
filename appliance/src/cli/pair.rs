//! `farside pair`: which units know each other, so that links between them are encrypted.

use super::client::Client;
use super::exit::{CliError, Exit};
use super::output;
use crate::config::is_name;
use farside_protocol::control::{AcceptInvitation, Invitation, PairingStatus};
use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal};

/// Links between machines are for units that are paired: one invites, the other accepts. Both then know each other's key.
#[derive(Debug, clap::Subcommand)]
pub(super) enum PairCommand {
    /// Invite one unit: prints a token that works once, for ten minutes
    Invite {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Accept the invitation of the unit at this address
    With(WithArgs),
    /// Show this unit's key and the units it is paired with
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End a pairing and the links of that unit
    Revoke {
        /// The unit, as 'farside pair list' names it
        name: String,
    },
    /// Give this unit another key, which its peers hear of over their links
    Renew,
}

/// Which invitation.
#[derive(Debug, clap::Args)]
pub(super) struct WithArgs {
    /// HOST:PORT of the link of the unit that invited
    address: String,
    /// What 'farside pair invite' printed there; asked for, or read from standard input, if it is left away
    token: Option<String>,
}

/// Carries out a pairing command.
pub(super) async fn pair(client: &Client, command: PairCommand) -> Result<(), CliError> {
    match command {
        PairCommand::Invite { json } => {
            let invitation = client.invite().await?;
            if json {
                return output::print_json(&invitation);
            }
            output::print(&describe_invitation(&invitation))
        }
        PairCommand::With(WithArgs { address, token }) => {
            let token = token.map_or_else(read_token, Ok)?;
            let accept = AcceptInvitation { address, token };
            let reply = client.accept_invitation(&accept).await?;
            output::print(&format!("{}\n", reply.message))
        }
        PairCommand::List { json } => {
            let status = client.pairing().await?;
            if json {
                return output::print_json(&status);
            }
            output::print(&describe(&status))
        }
        PairCommand::Revoke { name } => {
            if !is_name(&name) {
                let message = format!("'{}' cannot be the name of a unit", name.escape_default());
                return Err(CliError::new(Exit::Usage, message));
            }
            let reply = client.revoke_peer(&name).await?;
            output::print(&format!("{}\n", reply.message))
        }
        PairCommand::Renew => {
            let reply = client.renew_key().await?;
            output::print(&format!("{}\n", reply.message))
        }
    }
}

/// Not on the command line, where others on the machine could see it.
fn read_token() -> Result<String, CliError> {
    let input = std::io::stdin();
    if input.is_terminal() {
        output::print("Token: ")?;
    }
    let mut line = String::new();
    input.lock().read_line(&mut line)?;
    let token = line.trim();
    if token.is_empty() {
        return Err(CliError::new(
            Exit::Usage,
            "there is no token; give what 'farside pair invite' printed on the other unit",
        ));
    }
    Ok(token.to_owned())
}

fn describe_invitation(invitation: &Invitation) -> String {
    let Invitation {
        token,
        expires_at,
        link_listen,
    } = invitation;
    format!(
        "On the other unit, run\n\n  farside pair with HOST:PORT {token}\n\nHOST:PORT is where it reaches this unit, which \
         listens on {}. The token works once, until {expires_at}; whoever has it until then can pair a unit with this one.\n",
        link_listen.join(", ")
    )
}

fn describe(status: &PairingStatus) -> String {
    let mut text = format!("unit {}\nkey  {}\n", status.unit_uuid, status.key);
    match status.renewal_waits_for.as_deref() {
        Some([]) => text.push_str("a new key comes into use now\n"),
        Some(units) => {
            let _ = writeln!(
                text,
                "a new key comes into use when these units know it: {}",
                units.join(", ")
            );
        }
        None => {}
    }
    if status.peers.is_empty() {
        text.push_str("\npaired with no unit; begin with 'farside pair invite'\n");
        return text;
    }
    let width = status
        .peers
        .iter()
        .map(|peer| peer.name.len())
        .max()
        .unwrap_or(0)
        .max(4);
    let _ = writeln!(
        text,
        "\n{:width$}  {:21}  {:20}  KEY",
        "NAME", "ADDRESS", "PAIRED"
    );
    for peer in &status.peers {
        let address = peer.address.as_deref().unwrap_or("it comes here");
        let _ = writeln!(
            text,
            "{:width$}  {address:21}  {:20}  {}",
            peer.name, peer.paired_at, peer.key
        );
    }
    text
}
