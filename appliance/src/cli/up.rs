//! `farside up DIR`: a local and a remote half in one process, joined by a real TCP link on loopback.

use super::exit::{CliError, Exit};
use super::{output, run};
use crate::config::template::{Pair, pair};
use crate::config::{Config, ConfigError, Overrides, parse, size, write_text};
use crate::unit::{IDENTITY_FILE, UnitError};
use farside_protocol::control::{Status, VolumeState, VolumeStatus, human_bytes};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const VOLUME: &str = "disk0";

/// What `farside up` is given.
#[derive(Debug, clap::Args)]
pub(super) struct UpArgs {
    /// Directory for everything; made if it is not there, continued if it is
    dir: PathBuf,
    /// Size of disk0, decided at the first start [default: 1G]
    #[arg(long, value_parser = size::parse_size)]
    size: Option<u64>,
    /// Size of its journals, decided at the first start [default: 512M]
    #[arg(long, value_parser = size::parse_size)]
    journal: Option<u64>,
    /// Where hosts attach [default: 127.0.0.1:10809]
    #[arg(long, value_name = "ADDRESS")]
    nbd: Option<SocketAddr>,
    /// Where iSCSI initiators attach, if they are to; given twice, the targets have two portals
    #[arg(long, value_name = "ADDRESS")]
    iscsi: Vec<SocketAddr>,
    /// Where the remote half listens [default: 127.0.0.1:10900]
    #[arg(long, value_name = "ADDRESS")]
    link: Option<SocketAddr>,
    /// Where the console is [default: 127.0.0.1:8480]
    #[arg(long, value_name = "ADDRESS")]
    console: Option<SocketAddr>,
}

/// Starts or continues the pair in a directory.
pub(super) fn up(args: &UpArgs) -> Result<(), CliError> {
    let directory = run::absolute(&args.dir)?;
    let path = directory.join("farside.toml");
    let overrides = Overrides {
        nbd: args.nbd,
        iscsi: args.iscsi.clone(),
        link: args.link,
        console: args.console,
    };
    let made = if path.exists() {
        Vec::new()
    } else {
        first_start(args, &overrides, &directory, &path)?
    };
    let start = run::prepare(&path, overrides)?;
    check_sizes(args, &start.config, &path)?;
    let config = start.config.clone();
    let refused = move |error| {
        // Nothing was decided yet: the next attempt is a first one again, with whatever it is given. Where another
        // unit has the directory, its files are not touched.
        if matches!(error, UnitError::Listen { .. } | UnitError::File { .. }) {
            for file in &made {
                std::fs::remove_file(file).ok();
            }
        }
        name_flag(error)
    };
    run::serve(start, refused, move |status| {
        // A unit whose standard output is closed is as good as any other.
        if let Err(error) = output::print(&welcome(&config, status)) {
            tracing::warn!("nobody reads how to attach: {}", error.message);
        }
    })
}

/// Writes the configuration. Returns the files that are of no use should the unit not start after all.
fn first_start(
    args: &UpArgs,
    overrides: &Overrides,
    directory: &Path,
    path: &Path,
) -> Result<Vec<PathBuf>, CliError> {
    let defaults = Pair::default();
    let text = pair(&Pair {
        size: args.size.map_or(defaults.size, size::format_size),
        journal_size: args.journal.map_or(defaults.journal_size, size::format_size),
        nbd: args.nbd.unwrap_or(defaults.nbd),
        iscsi: args.iscsi.clone(),
        link: args.link.unwrap_or(defaults.link),
        console: args.console.unwrap_or(defaults.console),
    });
    // Judged before it is written, so that a wrong flag leaves no wrong file behind.
    judge_flags(&text, overrides, path)?;
    std::fs::create_dir_all(directory)
        .map_err(|error| CliError::from(UnitError::file(directory, "made", error)))?;
    write_text(path, &text)?;
    // A unit that was here before keeps its identity.
    let identity = directory.join(IDENTITY_FILE);
    let new_identity = (!identity.exists()).then_some(identity);
    Ok(std::iter::once(path.to_owned()).chain(new_identity).collect())
}

/// Where an address came from a flag, or could have, the message says so.
fn name_flag(error: UnitError) -> CliError {
    let flag = match &error {
        UnitError::Listen {
            key: "nbd.listen", ..
        } => "--nbd",
        UnitError::Listen {
            key: "iscsi.listen", ..
        } => "--iscsi",
        UnitError::Listen {
            key: "link.listen", ..
        } => "--link",
        UnitError::Listen {
            key: "console.listen",
            ..
        } => "--console",
        _ => return error.into(),
    };
    CliError::failure(format!("{error}, or give another address with {flag}"))
}

fn judge_flags(text: &str, overrides: &Overrides, path: &Path) -> Result<(), CliError> {
    let wrong = |message: String| CliError::new(Exit::Refused, message);
    // Addresses first: their message names the flag.
    let mut trial = parse(&pair(&Pair::default()), path)?;
    overrides.apply(&mut trial)?;
    parse(text, path).map(drop).map_err(|error| match error {
        ConfigError::Content { problems, .. } => {
            let texts = problems
                .into_iter()
                .map(|problem| format!("{}; {}", problem.message, problem.remedy));
            wrong(texts.collect::<Vec<_>>().join("\n"))
        }
        other => wrong(other.to_string()),
    })
}

/// Sizes are decided once; a later start that names others is a mistake to point out, not to follow.
fn check_sizes(args: &UpArgs, config: &Config, path: &Path) -> Result<(), CliError> {
    let Some(volume) = config.volume(VOLUME) else {
        return Ok(());
    };
    let sizes = [
        ("--size", args.size, volume.size_bytes),
        ("--journal", args.journal, volume.journal_size_bytes),
    ];
    for (flag, given, there) in sizes {
        if let Some(given) = given.filter(|given| *given != there) {
            let (given, there) = (size::format_size(given), size::format_size(there));
            let message = format!(
                "{flag} {given} conflicts with {VOLUME} in {}, which has {there} since its first start; leave \
                 {flag} away to continue, or give another directory{}",
                path.display(),
                if flag == "--size" {
                    "; 'farside volume resize' makes it larger"
                } else {
                    ""
                }
            );
            return Err(CliError::new(Exit::Refused, message));
        }
    }
    Ok(())
}

/// What a newcomer needs to know next.
fn welcome(config: &Config, status: &Status) -> String {
    let failed = |volume: &&VolumeStatus| volume.state == VolumeState::Failed;
    let mut text = match status.volumes.iter().filter(failed).count() {
        0 => String::from("Farside is running.\n"),
        all if all == status.volumes.len() => {
            String::from("Farside is running WITHOUT ANY VOLUME. What is in the way:\n")
        }
        _ => String::from("Farside is running, but not every volume is in service.\n"),
    };
    for volume in &status.volumes {
        let size = human_bytes(volume.size_bytes);
        let line = match (&volume.state, &volume.problem) {
            (VolumeState::Failed, Some(problem)) => {
                format!("volume {}, {size}: NOT IN SERVICE: {problem}", volume.name)
            }
            _ => format!("volume {}, {size}", volume.name),
        };
        add(&mut text, &format!("  {line}"));
    }
    if let Some(volume) = status
        .volumes
        .iter()
        .find(|volume| volume.state != VolumeState::Failed)
    {
        add(&mut text, "\nAttach it with any one of these:");
        for line in attach_lines(config, status, &volume.name) {
            add(&mut text, &format!("  {line}"));
        }
    }
    add(&mut text, "\nFiles:");
    for volume in &config.volumes {
        let replica = config.unit.replicas_dir.join(&volume.name);
        add(&mut text, &format!("  here      {}", volume.mirror.display()));
        add(&mut text, &format!("            {}", volume.journal.display()));
        add(
            &mut text,
            &format!("  far side  {}", replica.join("replica.img").display()),
        );
        add(
            &mut text,
            &format!("            {}", replica.join("journal").display()),
        );
    }
    if let Some(path) = &status.unit.config_file {
        add(&mut text, &format!("  settings  {path}"));
    }
    if let Some(console) = &status.unit.console_listen {
        add(&mut text, &format!("\nConsole: http://{console}/"));
    }
    let socket = output::shell_word(&config.unit.control_socket);
    add(
        &mut text,
        &format!("Status:  farside --socket {socket} status --watch"),
    );
    add(
        &mut text,
        "Stop:    Ctrl-C; the next 'farside up' with this directory continues",
    );
    text
}

fn attach_lines(config: &Config, status: &Status, name: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let tcp = status
        .unit
        .nbd_listen
        .iter()
        .find_map(|address| address.parse::<SocketAddr>().ok());
    if let Some(tcp) = tcp {
        lines.push(format!(
            "nbd-client -N {name} {} {} /dev/nbd0",
            tcp.ip(),
            tcp.port()
        ));
    }
    if let Some(socket) = &config.nbd.socket {
        lines.push(format!(
            "nbd-client -N {name} -unix {} /dev/nbd0",
            output::shell_word(socket)
        ));
    }
    if let Some(portal) = status.unit.iscsi_listen.first()
        && let Some(volume) = config.volume(name)
    {
        let target = &volume.access.scsi.target;
        lines.push(format!(
            "iscsiadm -m discovery -t sendtargets -p {portal} && iscsiadm -m node -T {target} -l"
        ));
    }
    if let Some(tcp) = tcp {
        lines.push(format!(
            "qemu-system-x86_64 -drive file=nbd://{tcp}/{name},format=raw,if=virtio ..."
        ));
        lines.push(format!(
            "mkdir -p disk && nbdfuse disk nbd://{tcp}/{name}    # then the disk is the file disk/nbd"
        ));
    }
    lines
}

fn add(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes everything that is written to it");
}
