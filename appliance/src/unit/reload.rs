//! What changes between two configurations, and which of it can change while the unit runs.

use crate::config::{Access, Config, LinkConfig, RemoteConfig, ReplicaConfig, VolumeConfig};

/// The way from one configuration to another.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Volumes to open.
    pub add_volumes: Vec<VolumeConfig>,
    /// Volumes to close, by name.
    pub remove_volumes: Vec<String>,
    /// Remotes to start, with the volume's name.
    pub add_remotes: Vec<(String, RemoteConfig)>,
    /// Remotes to stop: volume and remote by name. A remote with another address is stopped and started.
    pub remove_remotes: Vec<(String, String)>,
    /// Volumes for which hosts may do something else from now on.
    pub set_access: Vec<(String, Access)>,
    /// Whether hosts may attach replicas from now on, if that changes.
    pub export_replicas: Option<bool>,
    /// Where images of replicas that come from now on are to lie, if that changes.
    pub replicas: Option<Vec<ReplicaConfig>>,
    /// Settings that wait for a restart, by their key.
    pub pending_restart: Vec<String>,
}

/// Compares the configuration in force with the one wanted. Pure: it opens and decides nothing else.
pub fn changes(in_force: &Config, wanted: &Config) -> Changes {
    let mut changes = Changes {
        pending_restart: fixed_settings(in_force, wanted),
        export_replicas: (in_force.link.export_replicas != wanted.link.export_replicas)
            .then_some(wanted.link.export_replicas),
        replicas: (in_force.replicas != wanted.replicas).then(|| wanted.replicas.clone()),
        ..Changes::default()
    };
    for old in in_force
        .volumes
        .iter()
        .filter(|old| wanted.volume(&old.name).is_none())
    {
        changes.remove_volumes.push(old.name.clone());
    }
    for new in &wanted.volumes {
        match in_force.volume(&new.name) {
            None => changes.add_volumes.push(new.clone()),
            Some(old) => compare_volume(old, new, &mut changes),
        }
    }
    changes
}

/// The configuration in force once the live part of the changes to `wanted` has been made.
pub fn in_force_after(in_force: &Config, wanted: &Config) -> Config {
    let keep_files = |new: &VolumeConfig| match in_force.volume(&new.name) {
        Some(old) => VolumeConfig {
            remotes: new.remotes.clone(),
            access: new.access.clone(),
            ..old.clone()
        },
        None => new.clone(),
    };
    Config {
        volumes: wanted.volumes.iter().map(keep_files).collect(),
        replicas: wanted.replicas.clone(),
        link: LinkConfig {
            export_replicas: wanted.link.export_replicas,
            ..in_force.link.clone()
        },
        ..in_force.clone()
    }
}

fn fixed_settings(old: &Config, new: &Config) -> Vec<String> {
    let differing = [
        ("unit.name", old.unit.name != new.unit.name),
        ("unit.data_dir", old.unit.data_dir != new.unit.data_dir),
        ("unit.volumes_dir", old.unit.volumes_dir != new.unit.volumes_dir),
        (
            "unit.replicas_dir",
            old.unit.replicas_dir != new.unit.replicas_dir,
        ),
        (
            "unit.control_socket",
            old.unit.control_socket != new.unit.control_socket,
        ),
        ("unit.log", old.unit.log != new.unit.log),
        ("nbd.listen", old.nbd.listen != new.nbd.listen),
        ("nbd.socket", old.nbd.socket != new.nbd.socket),
        ("nbd.tls", old.nbd.tls != new.nbd.tls),
        ("iscsi.listen", old.iscsi.listen != new.iscsi.listen),
        ("iscsi.chap", old.iscsi.chap != new.iscsi.chap),
        ("iscsi.initiators", old.iscsi.initiators != new.iscsi.initiators),
        ("link.listen", old.link.listen != new.link.listen),
        (
            "link.trust_network",
            old.link.trust_network != new.link.trust_network,
        ),
        ("link.window", old.link.window_bytes != new.link.window_bytes),
        ("link.accept", old.link.accept != new.link.accept),
        (
            "link.journal_size",
            old.link.journal_size_bytes != new.link.journal_size_bytes,
        ),
        (
            "link.history_size",
            old.link.history_size_bytes != new.link.history_size_bytes,
        ),
        ("console.listen", old.console_listen != new.console_listen),
        (
            "limits.nbd_connections",
            old.limits.nbd_connections != new.limits.nbd_connections,
        ),
        (
            "limits.iscsi_connections",
            old.limits.iscsi_connections != new.limits.iscsi_connections,
        ),
    ];
    differing
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(key, _)| key.to_owned())
        .collect()
}

fn compare_volume(old: &VolumeConfig, new: &VolumeConfig, changes: &mut Changes) {
    let fixed = [
        // Refused at the restart, too: what a host has written there would be gone. Larger ones grow.
        ("size", old.size_bytes > new.size_bytes),
        ("journal_size", old.journal_size_bytes != new.journal_size_bytes),
        ("mirror", old.mirror != new.mirror),
        ("journal", old.journal != new.journal),
    ];
    for (key, _) in fixed.into_iter().filter(|(_, differs)| *differs) {
        changes.pending_restart.push(format!("volume.{}.{key}", new.name));
    }
    if old.access != new.access {
        changes.set_access.push((new.name.clone(), new.access.clone()));
    }
    for gone in old.remotes.iter().filter(|remote| !new.remotes.contains(remote)) {
        changes.remove_remotes.push((new.name.clone(), gone.name.clone()));
    }
    for come in new.remotes.iter().filter(|remote| !old.remotes.contains(remote)) {
        changes.add_remotes.push((new.name.clone(), come.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use std::path::Path;

    const BASE: &str = "[unit]\nname='u'\ndata_dir='/d'\n[nbd]\nlisten=['127.0.0.1:1']\n";
    const DISK: &str =
        "[[volume]]\nname='a'\nsize='1G'\n[[volume.remote]]\nname='r'\naddress='127.0.0.1:9'\n";

    fn config(text: &str) -> Config {
        parse(text, Path::new("/c.toml")).unwrap()
    }

    /// What a change is, in one line per step.
    fn steps(changes: &Changes) -> Vec<String> {
        let mut steps = Vec::new();
        steps.extend(
            changes
                .add_volumes
                .iter()
                .map(|volume| format!("+{}", volume.name)),
        );
        steps.extend(changes.remove_volumes.iter().map(|name| format!("-{name}")));
        steps.extend(
            changes
                .remove_remotes
                .iter()
                .map(|(volume, name)| format!("-{volume}/{name}")),
        );
        steps.extend(
            changes
                .add_remotes
                .iter()
                .map(|(volume, to)| format!("+{volume}/{}={}", to.name, to.address)),
        );
        steps.extend(
            changes
                .set_access
                .iter()
                .map(|(name, to)| format!("{name} {to:?}")),
        );
        steps.extend(changes.export_replicas.map(|open| format!("replicas {open}")));
        steps.extend(
            changes
                .replicas
                .iter()
                .flatten()
                .map(|replica| format!("{} at {:?}", replica.name, replica.image)),
        );
        steps.extend(changes.pending_restart.iter().map(|key| format!("restart {key}")));
        steps
    }

    #[test]
    fn what_can_change_live_does_and_the_rest_is_named() {
        let old = format!("{BASE}{DISK}");
        let second = "[[volume]]\nname='b'\nsize='2G'\n";
        for (new, expected) in [
            (old.clone(), vec![]),
            (format!("{old}{second}"), vec!["+b"]),
            (BASE.to_owned(), vec!["-a"]),
            (format!("{BASE}{second}"), vec!["+b", "-a"]),
            (old.replace(":9", ":8"), vec!["-a/r", "+a/r=127.0.0.1:8"]),
            (
                format!("{old}[[volume.remote]]\nname='s'\naddress='127.0.0.1:7'\n"),
                vec!["+a/s=127.0.0.1:7"],
            ),
            (
                format!("{old}[link]\nexport_replicas=true"),
                vec!["replicas true"],
            ),
            (
                format!("{old}[[replica]]\nname='c'\nimage='/dev/c'\n"),
                vec!["c at Some(\"/dev/c\")"],
            ),
            (old.replace("1G", "2G"), vec![]),
            (old.replace("1G", "1M"), vec!["restart volume.a.size"]),
            (
                old.replace("size=", "read_only=true\nsize="),
                vec![
                    "a Access { read_only: true, skip_unchanged: false, require_tls: false, scsi: ScsiAddress { target: \"iqn.2026-11.dev.farside:a\", lun: 1 } }",
                ],
            ),
            (
                old.replace("[[volume]]", "[nbd.tls]\ncertificate='c'\nkey='k'\n[[volume]]"),
                vec!["restart nbd.tls"],
            ),
            (
                old.replace("127.0.0.1:1'", "127.0.0.1:2'"),
                vec!["restart nbd.listen"],
            ),
            (
                old.replace("'/d'", "'/e'"),
                vec![
                    "restart unit.data_dir",
                    "restart unit.volumes_dir",
                    "restart unit.replicas_dir",
                    "restart unit.control_socket",
                    "restart volume.a.mirror",
                    "restart volume.a.journal",
                ],
            ),
        ] {
            let (old, new) = (config(&old), config(&new));
            assert_eq!(steps(&changes(&old, &new)), expected);
            let after = in_force_after(&old, &new);
            let left = changes(&after, &new);
            assert!(
                left.add_volumes.is_empty() && left.remove_volumes.is_empty(),
                "live changes are made once"
            );
            assert_eq!(left.pending_restart, changes(&old, &new).pending_restart);
        }
    }
}
