//! Target: the configuration file, changes to its text, and sizes as people write them.
//!
//! Promises: no panic; a refusal names a place that is in the text, and a remedy; what is accepted is within the
//! limits; a volume that is added and removed again leaves the configuration as it was; a size that is written reads
//! back.

use farside::config::edit::{add_volume, remove_volume};
use farside::config::size::{format_size, parse_size};
use farside::config::template::{Pair, pair};
use farside::config::{Config, ConfigError, Problem, is_name, limits, parse};
use farside_protocol::control::{CreateVolume, RemoteAddress};
use std::collections::HashSet;
use std::path::Path;

const FILE: &str = "/farside-fuzz/farside.toml";
const ADDED: &str = "added-by-the-fuzzer";

pub(crate) fn run(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    sizes(text);
    let parsed = parse(text, Path::new(FILE));
    edits(text, parsed.as_ref().ok());
    match parsed {
        Ok(config) => {
            check(&config);
            true
        }
        Err(error) => {
            refusal(&error, text);
            false
        }
    }
}

fn sizes(text: &str) {
    let line = text.lines().next().unwrap_or("");
    if let Ok(bytes) = parse_size(line) {
        assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
    }
}

fn refusal(error: &ConfigError, text: &str) {
    let ConfigError::Content { problems, .. } = error else {
        panic!("nothing was read from a file: {error}");
    };
    assert!(!problems.is_empty());
    for Problem {
        line,
        column,
        message,
        remedy,
    } in problems
    {
        assert!(!message.is_empty() && !remedy.is_empty());
        let lines: Vec<&str> = text.split('\n').collect();
        let there = lines.get(line - 1).expect("the line is in the text");
        assert!(
            *column >= 1 && *column <= there.chars().count() + 1,
            "{column} of {there:?}"
        );
    }
    assert!(error.to_string().starts_with(FILE));
}

fn check(config: &Config) {
    assert!(is_name(&config.unit.name));
    let unit = &config.unit;
    for path in [
        &unit.data_dir,
        &unit.volumes_dir,
        &unit.replicas_dir,
        &unit.control_socket,
    ] {
        assert!(path.is_absolute());
    }
    assert!((limits::WINDOW_BYTES_MIN..=limits::WINDOW_BYTES_MAX).contains(&config.link.window_bytes));
    assert!(
        config
            .console_listen
            .is_none_or(|address| address.ip().is_loopback())
    );
    assert!((1..=limits::NBD_CONNECTIONS_MAX).contains(&config.limits.nbd_connections));
    let (mut names, mut files) = (HashSet::new(), HashSet::new());
    for volume in &config.volumes {
        assert!(is_name(&volume.name) && names.insert(&volume.name));
        assert!(volume.size_bytes.is_multiple_of(limits::SECTOR_BYTES));
        assert!((1..=limits::VOLUME_BYTES_MAX).contains(&volume.size_bytes));
        assert!(volume.journal_size_bytes >= limits::JOURNAL_BYTES_MIN);
        for file in [&volume.mirror, &volume.journal] {
            assert!(
                file.is_absolute() && files.insert(file),
                "{} twice",
                file.display()
            );
        }
        let mut remotes = HashSet::new();
        for remote in &volume.remotes {
            assert!(is_name(&remote.name) && remotes.insert(&remote.name));
        }
    }
}

fn edits(text: &str, before: Option<&Config>) {
    let create = CreateVolume {
        name: ADDED.into(),
        size: "64M".into(),
        remotes: vec![RemoteAddress {
            name: "far".into(),
            address: "127.0.0.1:10900".into(),
        }],
        ..CreateVolume::default()
    };
    let _ = remove_volume(text, "disk0");
    let Ok(longer) = add_volume(text, &create) else {
        return;
    };
    let after = parse(&longer, Path::new(FILE));
    let Some(before) = before.filter(|config| config.volumes.iter().all(|volume| volume.name != ADDED))
    else {
        return;
    };
    if let Ok(after) = after {
        let (last, rest) = after.volumes.split_last().expect("one was added");
        assert_eq!(
            (last.name.as_str(), last.size_bytes, rest),
            (ADDED, 64 << 20, before.volumes.as_slice())
        );
    }
    let shorter = remove_volume(&longer, ADDED)
        .expect("it was TOML")
        .expect("it was there");
    assert_eq!(parse(&shorter, Path::new(FILE)).as_ref(), Ok(before));
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let small = "[unit]\nname = \"a\"\ndata_dir = \"d\"\n";
    let wide = concat!(
        "[unit]\nname = \"b\"\ndata_dir = \"/d\"\nlog = \"info,farside=debug\"\n[nbd]\nlisten = [\"[::1]:0\"]\n",
        "trust_network = true\n[link]\nlisten = [\"10.0.0.1:7\"]\ntrust_network = true\nwindow = \"4M\"\n",
        "accept = [\"disk0\"]\njournal_size = 1048576\n[limits]\nnbd_connections = 9\n",
        "[[volume]]\nname = \"v\"\nsize = \"1.5G\"\njournal_size = \"1M\"\nmirror = \"m\"\njournal = \"j\"\n",
        "[[volume.remote]]\nname = \"r\"\naddress = \"host-1:99\"\n[[volume]]\nname = \"w\"\nsize = 512\n",
    );
    let texts = [pair(&Pair::default()), small.into(), wide.into()];
    texts.into_iter().map(String::into_bytes).collect()
}
