//! `farside attach-help`: how hosts attach a volume so that a restart of the unit is a pause for them and no error.

use super::client::Client;
use super::exit::{CliError, Exit};
use super::output;
use farside_protocol::control::{Status, VolumeStatus};
use serde::Serialize;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

/// What `farside attach-help` is given.
#[derive(Debug, clap::Args)]
pub(super) struct AttachHelpArgs {
    /// The volume; not needed if there is only one
    volume: Option<String>,
    /// Print JSON: a list of clients with their commands
    #[arg(long)]
    json: bool,
}

/// One kind of client.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Recipe {
    /// What attaches.
    client: &'static str,
    /// What the settings are for.
    note: &'static str,
    /// What the host runs.
    commands: Vec<String>,
}

/// Seconds for which hosts wait for the unit to come back.
const PATIENCE_S: u32 = 86_400;

/// Prints how to attach a volume of the running unit.
pub(super) async fn attach_help(client: &Client, args: &AttachHelpArgs) -> Result<(), CliError> {
    let status = client.status().await?;
    let volume = choose(&status, args.volume.as_deref())?;
    let recipes = recipes(&status, volume);
    if args.json {
        output::print_json(&recipes)
    } else {
        output::print(&text(volume, &recipes))
    }
}

fn choose<'a>(status: &'a Status, name: Option<&str>) -> Result<&'a VolumeStatus, CliError> {
    let wrong = |message: String| CliError::new(Exit::Refused, message);
    match (name, status.volumes.as_slice()) {
        (Some(name), volumes) => volumes.iter().find(|volume| volume.name == name).ok_or_else(|| {
            wrong(format!(
                "there is no volume '{}'; 'farside volume list' shows them",
                name.escape_debug()
            ))
        }),
        (None, [volume]) => Ok(volume),
        (None, []) => Err(wrong(
            "the unit has no volume; 'farside volume create' makes one".to_owned(),
        )),
        (None, _) => Err(wrong("there are several volumes; name one of them".to_owned())),
    }
}

fn recipes(status: &Status, volume: &VolumeStatus) -> Vec<Recipe> {
    let mut recipes = Vec::new();
    if let Some(portal) = status
        .unit
        .iscsi_listen
        .first()
        .filter(|_| !volume.iscsi_target.is_empty())
    {
        recipes.push(iscsi(&reachable(portal), &volume.iscsi_target));
    }
    let name = &volume.name;
    let tcp = status
        .unit
        .nbd_listen
        .iter()
        .find(|address| address.parse::<SocketAddr>().is_ok());
    if let Some(tcp) = tcp {
        recipes.extend(nbd(&reachable(tcp), name));
    }
    let socket = status
        .unit
        .nbd_listen
        .iter()
        .find_map(|address| address.strip_prefix("unix:"));
    if let Some(socket) = socket {
        let word = output::shell_word(Path::new(&format!("nbd+unix:///{name}?socket={socket}")));
        recipes.push(Recipe {
            client: "programs with libnbd, on this machine",
            note: "As by TCP; only the owner of the socket can open it.",
            commands: vec![format!("nbdinfo {word}")],
        });
    }
    recipes
}

fn iscsi(portal: &str, target: &str) -> Recipe {
    let node = format!("iscsiadm -m node -T {target} -p {portal}");
    Recipe {
        client: "Linux over iSCSI (open-iscsi)",
        note: "With this replacement_timeout requests wait for a day while the unit is away; the default, two minutes, then \
               fails them. The session comes back by itself.",
        commands: vec![
            format!("iscsiadm -m discovery -t sendtargets -p {portal}"),
            format!("{node} -o update -n node.session.timeo.replacement_timeout -v {PATIENCE_S}"),
            format!("{node} -o update -n node.startup -v automatic"),
            format!("{node} --login"),
        ],
    }
}

fn nbd(address: &str, name: &str) -> [Recipe; 3] {
    let uri = format!("nbd://{address}/{name}");
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "10809"));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    [
        Recipe {
            client: "virtual machines (qemu)",
            note: "reconnect-delay is for how many seconds requests wait while the unit is away.",
            commands: vec![format!(
                "qemu-system-x86_64 -blockdev driver=nbd,node-name={name},server.type=inet,server.host={host},\
                 server.port={port},export={name},reconnect-delay={PATIENCE_S} -device virtio-blk-pci,drive={name}"
            )],
        },
        Recipe {
            client: "Linux over NBD (nbd-client)",
            note: "nbd-client 3.24 does not bring a kernel's device back once its connection is lost, whatever -persist \
                   says, and requests then fail. nbdkit's retry filter in between does, on the host or the unit's machine.",
            commands: vec![
                format!(
                    "nbdkit -i 127.0.0.1 -p 10909 --filter=retry nbd uri={uri} retries={PATIENCE_S} retry-delay=1 \
                     retry-exponential=no"
                ),
                format!("nbd-client -N {name} 127.0.0.1 10909 /dev/nbd0"),
            ],
        },
        Recipe {
            client: "a file, without a kernel driver (nbdfuse)",
            note: "The disk is then the file disk/nbd. For requests that wait, give nbdfuse the address of nbdkit's retry \
                   filter, as above.",
            commands: vec![format!("mkdir -p disk && nbdfuse disk {uri}")],
        },
    ]
}

/// An address for all interfaces is no address to go to.
fn reachable(address: &str) -> String {
    match address.parse::<SocketAddr>() {
        Ok(parsed) if parsed.ip().is_unspecified() => format!("ADDRESS:{}", parsed.port()),
        _ => address.to_owned(),
    }
}

fn text(volume: &VolumeStatus, recipes: &[Recipe]) -> String {
    let mut text = format!("Attaching volume {}:\n", volume.name);
    if recipes.is_empty() {
        text.push_str(
            "\nThe unit listens nowhere: give nbd.listen, nbd.socket or iscsi.listen in its configuration.\n",
        );
    }
    for recipe in recipes {
        let add = writeln!(text, "\n{}\n  {}\n", recipe.client, recipe.note);
        add.expect("a String takes everything that is written to it");
        for command in &recipe.commands {
            writeln!(text, "    {command}").expect("a String takes everything that is written to it");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_that_a_host_can_use() {
        assert_eq!(reachable("127.0.0.1:3260"), "127.0.0.1:3260");
        assert_eq!(reachable("0.0.0.0:3260"), "ADDRESS:3260");
        let [qemu, ..] = nbd("[::1]:10809", "disk0");
        let [command] = qemu.commands.as_slice() else {
            panic!("one command: {qemu:?}")
        };
        assert!(
            command.contains("server.host=::1,server.port=10809,"),
            "{command}"
        );
    }
}
