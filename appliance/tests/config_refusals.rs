//! Every way in which a configuration can be wrong: the exact place, and what is said about it.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

use farside::config::{Config, ConfigError, Overrides, load, parse};
use std::path::{Path, PathBuf};

const UNIT: &str = "[unit]\nname = \"u\"\ndata_dir = \"/nowhere/d\"\n";

fn judge(text: &str) -> Result<Config, ConfigError> {
    parse(text, Path::new("/nowhere/f.toml"))
}

/// Problems as `line:column text`.
fn problems(text: &str) -> Vec<String> {
    match judge(text) {
        Err(ConfigError::Content { problems, .. }) => problems
            .into_iter()
            .map(|problem| {
                format!(
                    "{}:{} {}; {}",
                    problem.line, problem.column, problem.message, problem.remedy
                )
            })
            .collect(),
        other => panic!("expected problems, got {other:?}"),
    }
}

fn check(cases: &[(&str, &str)]) {
    for (added, expected) in cases {
        let found = problems(&format!("{UNIT}{added}"));
        assert!(
            found.iter().any(|problem| problem == expected),
            "{added}\nexpected {expected}\nfound    {found:#?}"
        );
        assert_eq!(found.len(), 1, "{added}: {found:#?}");
    }
}

#[test]
fn wrong_settings_are_refused_at_their_place() {
    const ADDRESS: &str = "write IP:PORT, as in 127.0.0.1:10809 or [::1]:10809";
    check(&[
        (
            "[nbd]\nlisten = [\"localhost:1\"]\n",
            &format!("5:11 'localhost:1' is not an address to listen on; {ADDRESS}"),
        ),
        (
            "[nbd]\nlisten = [\"127.0.0.1:5\",\n  \"127.0.0.1:5\"]\n",
            "6:3 127.0.0.1:5 is named twice; give each listener its own port",
        ),
        (
            "[nbd]\nlisten = [\"127.0.0.1:5\"]\n[link]\nlisten = [\"127.0.0.1:5\"]\n",
            "7:11 127.0.0.1:5 is named twice; give each listener its own port",
        ),
        (
            "[nbd]\nlisten = [\"0.0.0.0:5\"]\n",
            "5:11 0.0.0.0:5 is reachable from other machines, and [nbd] does not ask them who they are; give a \
             loopback address, give [nbd.tls] with required = true and a client_ca, or set trust_network = true in [nbd] if every machine on that network may be trusted",
        ),
        (
            "[console]\nlisten = \"192.0.2.1:80\"\n",
            "5:10 the console at 192.0.2.1:80 would be open to other machines, and it asks nobody who they are; \
             give a loopback address such as 127.0.0.1:8480",
        ),
        (
            "[link]\nwindow = \"1K\"\n",
            "5:10 the window must be from 1M to 1G; 64M suits most links",
        ),
        (
            "[limits]\nnbd_connections = 0\n",
            "5:19 nbd_connections must be from 1 to 65536; 1024 is the default",
        ),
        (
            "[limits]\nnbd_connexions = 1\n",
            "5:1 unknown field `nbd_connexions`, expected `nbd_connections` or `iscsi_connections`; correct the spelling or remove the line",
        ),
    ]);
}

#[test]
fn wrong_volumes_are_refused_at_their_place() {
    const NAME: &str =
        "use 1 to 32 of the letters A-Z, a-z, 0-9, '.', '_' and '-', with no '.' or '-' in front";
    const SIZE: &str = "give a multiple of 512 bytes, more than 0 and at most 1P";
    let volume = |rest: &str| format!("[[volume]]\nname = \"a\"\n{rest}");
    check(&[
        (
            &volume("size = \"0\"\n"),
            &format!("6:8 a volume cannot have 0 bytes; {SIZE}"),
        ),
        (
            &volume("size = 513\n"),
            &format!("6:8 a volume cannot have 513 bytes; {SIZE}"),
        ),
        (
            &volume("size = \"2P\"\n"),
            &format!("6:8 a volume cannot have 2251799813685248 bytes; {SIZE}"),
        ),
        (
            &volume("size = \"1X\"\n"),
            "6:8 '1X' is not a size: write a number and K, M, G, T or P, as in 512M or 1.5T; units are binary: 1K is 1024 bytes",
        ),
        (
            &volume("size = \"1G\"\njournal_size = \"64K\"\n"),
            "7:16 a journal cannot have 65536 bytes; give at least 1M (1048576 bytes, the minimum) and at most 1P",
        ),
        (
            &volume("size = \"1G\"\njournal_size = 1049088\n"),
            "7:16 a journal of 1049088 bytes does not end on a block; give a multiple of 4096 bytes",
        ),
        (
            &volume("size = \"1G\"\nmirror = \"/x\"\njournal = \"/x\"\n"),
            "8:11 the journal of volume a is the same file as the mirror of volume a (/x); give each its own file",
        ),
        (
            &volume("size = \"1G\"\nmirror = \"/\"\n"),
            "7:10 / is a directory; name a file or a block device",
        ),
        (
            &volume("size = \"1G\"\nmirror = \"\"\n"),
            "7:10 this path is empty or holds a zero byte; name a file or directory",
        ),
        (
            "[[volume]]\nname = \"../a\"\nsize = \"1G\"\n",
            &format!("5:8 '../a' cannot be the name of a volume; {NAME}"),
        ),
        (
            "[[volume]]\nname = \"é\"\nsize = \"1G\"\n",
            &format!("5:8 'é' cannot be the name of a volume; {NAME}"),
        ),
        (
            "[[volume]]\nname = \"\"\nsize = \"1G\"\n",
            &format!("5:8 '' cannot be the name of a volume; {NAME}"),
        ),
        (
            "[[volume]]\nname = \"a\"\n",
            "4:1 missing field `size`; add it to this table",
        ),
        (
            &volume("size = true\n"),
            "6:8 invalid type: boolean `true`, expected a size such as \"512M\" or a number of bytes; see 'farside config example' for every setting",
        ),
    ]);
}

#[test]
fn wrong_remotes_are_refused_at_their_place() {
    const WRITE: &str = "write HOST:PORT, as in 127.0.0.1:10900 or [::1]:10900";
    let remote = |rest: &str| {
        format!("[[volume]]\nname = \"a\"\nsize = \"1G\"\n[[volume.remote]]\nname = \"r\"\n{rest}")
    };
    check(&[
        (
            &remote("address = \"far\"\n"),
            &format!("9:11 'far' is not the address of a remote; {WRITE}"),
        ),
        (
            &remote("address = \":1\"\n"),
            &format!("9:11 ':1' is not the address of a remote; {WRITE}"),
        ),
        (
            &remote("address = \"::1:1\"\n"),
            &format!("9:11 '::1:1' is not the address of a remote; {WRITE}"),
        ),
        (
            &remote("address = \"a:99999\"\n"),
            &format!("9:11 'a:99999' is not the address of a remote; {WRITE}"),
        ),
        (
            &remote("address = \"127.0.0.1:0\"\n"),
            "9:11 127.0.0.1:0 has no port; give the port on which the remote listens",
        ),
        (
            &remote("address = \"far.example:1\"\npeer = \"-x\"\n"),
            "10:8 '-x' cannot be the name of a unit; use 1 to 32 of the letters A-Z, a-z, 0-9, '.', '_' and '-', with no '.' \
             or '-' in front",
        ),
        (
            &remote(
                "address = \"127.0.0.1:1\"\n[[volume.remote]]\nname = \"r\"\naddress = \"127.0.0.1:2\"\n",
            ),
            "11:8 there are two remotes named 'r'; give each remote of a volume or replica its own name",
        ),
        (
            &remote(
                "address = \"127.0.0.1:1\"\n[[volume.remote]]\nname = \"s\"\naddress = \"127.0.0.1:1\"\n",
            ),
            "12:11 the address 127.0.0.1:1 is named twice; a unit keeps one replica of a volume; remove one of the two",
        ),
    ]);
    for good in [
        "127.0.0.1:1",
        "127.9.9.9:1",
        "[::1]:1",
        "localhost:1",
        "far.example:1",
    ] {
        judge(&format!("{UNIT}{}", remote(&format!("address = \"{good}\"\n")))).unwrap();
    }
    // Whoever comes from another machine has to be paired, unless the network is trusted.
    let paired = format!(
        "{UNIT}[link]\nlisten = [\"[::]:5\"]\n{}",
        remote("address = \"far.example:1\"\npeer = \"far\"\n")
    );
    let config = judge(&paired).unwrap();
    assert!(!config.link.trust_network && config.volumes[0].remotes[0].peer.as_deref() == Some("far"));
    let trusted = judge(&paired.replace("[link]", "[link]\ntrust_network = true")).unwrap();
    assert!(trusted.link.trust_network);
}

#[test]
fn wrong_ways_of_sending_are_refused_at_their_place() {
    const EVERY: &str = "write a time such as \"7d\", \"36h\" or \"30m\", of 10 seconds at least";
    let remote = |line: &str| {
        format!(
            "[[volume]]\nname = \"a\"\nsize = \"1G\"\n[[volume.remote]]\nname = \"r\"\naddress = \"127.0.0.1:1\"\n{line}\n"
        )
    };
    let no_time =
        |text: &str| format!("10:16 '{text}' is no time in which a volume could be compared; {EVERY}");
    check(&[
        (
            &remote("compression = \"gzip\""),
            "10:15 there is no compression 'gzip'; write \"lz4\" (little processor time), \"zstd\" (fewer bytes) or \"none\"",
        ),
        (
            &remote("rate = \"1\""),
            "10:8 1 bytes in a second are too few for a link; give at least 1K, or leave the line away; 'farside journal \
             stop-send' holds the link",
        ),
        (&remote("verify_every = \"soon\""), &no_time("soon")),
        (&remote("verify_every = \"9s\""), &no_time("9s")),
        (&remote("verify_every = \"-7d\""), &no_time("-7d")),
        // How long that is depends on the month.
        (&remote("verify_every = \"1mo\""), &no_time("1mo")),
        (&remote("verify_every = \"11y\""), &no_time("11y")),
    ]);
    let good = |every: &str| {
        let text = format!("{UNIT}{}", remote(&format!("verify_every = \"{every}\"")));
        judge(&text).unwrap().volumes[0].remotes[0].verify_every
    };
    for (text, seconds) in [
        ("10s", 10),
        ("36h", 129_600),
        ("7d", 604_800),
        ("1d 12h", 129_600),
    ] {
        assert_eq!(good(text).map(|every| every.as_secs()), Some(seconds), "{text}");
    }
}

#[test]
fn wrong_places_of_replicas_are_refused_at_their_place() {
    let replica = |name: &str, image: &str| format!("[[replica]]\nname = \"{name}\"\nimage = \"{image}\"\n");
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().display().to_string();
    let is_directory = format!("6:9 {directory} is a directory; name a file or a block device");
    let same = "9:9 the image of replica b is the same file as the image of replica a (/data/a.img); give each its own file";
    check(&[
        (&replica("a", &directory), is_directory.as_str()),
        (
            &replica("-a", "/data/a.img"),
            "5:8 '-a' cannot be the name of a volume; use 1 to 32 of the letters A-Z, a-z, 0-9, '.', '_' and '-', with no '.' or '-' in front",
        ),
        (
            &(replica("a", "/data/a.img") + &replica("a", "/data/b.img")),
            "8:8 there are two replicas named 'a'; say once where the image of each lies",
        ),
        (
            &(replica("a", "/data/a.img") + &replica("b", "/data/a.img")),
            same,
        ),
        (
            &replica("a", "/nowhere/d/replicas/a/replica.img"),
            "6:9 /nowhere/d/replicas/a/replica.img lies in unit.replicas_dir; name another place, or take the setting out",
        ),
        (
            &format!("[link]\naccept = [\"b\"]\n{}", replica("a", "/data/a.img")),
            "7:8 replica 'a' is not among link.accept; add its name there, or take it out here",
        ),
        (
            "[[replica]]\nname = \"a\"\n",
            "5:8 nothing is said of replica 'a'; name its 'image', or a [[replica.remote]] that it is sent on to, or take it out",
        ),
    ]);
}

#[test]
fn wrong_remotes_of_replicas_are_refused_at_their_place() {
    let remote = |name: &str, more: &str| format!("[[replica.remote]]\nname = \"{name}\"\n{more}\n");
    let replica = "[[replica]]\nname = \"a\"\n";
    let address = "address = \"127.0.0.1:1\"";
    let not_here = |setting: &str| {
        format!(
            "7:8 '{setting}' is not for a remote that a replica is sent on to; take it out; it can be set where the volume is"
        )
    };
    let with = |more: &str| format!("{replica}{}", remote("r", &format!("{address}\n{more}")));
    check(&[
        (&with("merge = true"), not_here("merge").as_str()),
        (&with("queue = true"), not_here("queue").as_str()),
        (&with("verify_every = \"7d\""), not_here("verify_every").as_str()),
        (
            &format!("{replica}{}", remote("r", "")),
            "6:1 missing field `address`; add it to this table",
        ),
        (
            &format!("{}{}", with(""), remote("r", "address = \"127.0.0.1:2\"")),
            "11:8 there are two remotes named 'r'; give each remote of a volume or replica its own name",
        ),
    ]);
}

#[test]
fn text_that_is_no_configuration_is_refused_at_its_place() {
    for (text, expected) in [
        ("", "1:1 missing field `unit`; add it to this table"),
        ("[unit]\nname = \n", "2:8 "),
        ("[unit]\nname = \"u\"\nname = \"v\"\n", "3:1 duplicate key"),
        (
            "[unit]\nname = \"u\"\ndata_dir = \"/d\"\n[volume]\n",
            "4:1 invalid type",
        ),
        ("\u{1}\u{2}", "1:3 key with no value"),
    ] {
        let found = problems(text);
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{text:?}: {found:?}"
        );
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let text = format!("{UNIT}[nbd]\nlisten = [\"x\"]\n[[volume]]\nname = \"-\"\nsize = \"1\"\n");
    let places: Vec<_> = problems(&text)
        .iter()
        .map(|problem| problem.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(places, ["5:11", "7:8", "8:8"]);
    let message = judge(&text).unwrap_err().to_string();
    assert!(
        message.lines().all(|line| line.starts_with("/nowhere/f.toml:")),
        "{message}"
    );
}

#[test]
fn one_file_under_two_names_is_seen_through_links() {
    let directory = tempfile::tempdir().unwrap();
    let real = directory.path().join("real");
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, directory.path().join("alias")).unwrap();
    std::fs::write(real.join("one"), "").unwrap();
    std::fs::hard_link(real.join("one"), real.join("two")).unwrap();
    for (mirror, journal) in [
        ("real/x", "alias/x"),
        ("real/x", "real/./sub/../x"),
        ("real/one", "alias/two"),
    ] {
        let text = format!(
            "{UNIT}[[volume]]\nname = \"a\"\nsize = \"1G\"\nmirror = \"{mirror}\"\njournal = \"{journal}\"\n"
        );
        let found = parse(&text, &directory.path().join("f.toml"));
        assert!(
            found.is_err_and(|error| error.to_string().contains("is the same file as")),
            "{mirror} {journal}"
        );
    }
    let apart =
        format!("{UNIT}[[volume]]\nname = \"a\"\nsize = \"1G\"\nmirror = \"real/x\"\njournal = \"real/y\"\n");
    parse(&apart, &directory.path().join("f.toml")).unwrap();
}

#[test]
fn files_that_cannot_be_a_configuration_are_refused_without_hanging() {
    let directory = tempfile::tempdir().unwrap();
    let make = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let pipe = directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    for (path, expected) in [
        (directory.path().join("absent"), "cannot be read"),
        (directory.path().to_owned(), "is not a regular file"),
        (pipe, "is not a regular file"),
        (
            make("latin", b"[unit]\nname = \"\xe9\"\n"),
            "latin:2:9: this byte is not UTF-8",
        ),
        (make("huge", &vec![b'\n'; 1_048_577]), "larger than 1 MiB"),
    ] {
        let message = load(&path, &Overrides::default()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn command_line_addresses_count_more_than_the_file_and_stay_on_loopback() {
    let text = format!(
        "{UNIT}[link]\nlisten = [\"127.0.0.1:5\"]\n[[volume]]\nname = \"a\"\nsize = \"1G\"\n\
         [[volume.remote]]\nname = \"own\"\naddress = \"127.0.0.1:5\"\n[[volume.remote]]\nname = \"far\"\naddress = \"127.0.0.1:6\"\n"
    );
    let mut config = judge(&text).unwrap();
    let link = Some("127.0.0.1:7".parse().unwrap());
    Overrides {
        link,
        ..Overrides::default()
    }
    .apply(&mut config)
    .unwrap();
    let addresses: Vec<_> = config.volumes[0]
        .remotes
        .iter()
        .map(|remote| remote.address.as_str())
        .collect();
    assert_eq!(
        addresses,
        ["127.0.0.1:7", "127.0.0.1:6"],
        "the unit's own remote follows its link, others stay"
    );
    let open = Overrides {
        nbd: Some("0.0.0.0:1".parse().unwrap()),
        ..Overrides::default()
    };
    assert!(
        open.apply(&mut config)
            .unwrap_err()
            .to_string()
            .contains("--nbd 0.0.0.0:1")
    );
}

#[test]
fn defaults_and_relative_paths_are_as_documented() {
    let text = "[unit]\nname = \"u\"\ndata_dir = \"data\"\n[[volume]]\nname = \"a\"\nsize = \"1.5G\"\n";
    let config = parse(text, Path::new("/etc/farside/farside.toml")).unwrap();
    assert_eq!(
        config.unit.control_socket,
        Path::new("/etc/farside/data/control.sock")
    );
    assert_eq!(
        config.volumes[0].mirror,
        Path::new("/etc/farside/data/volumes/a/mirror.img")
    );
    assert_eq!(
        config.volumes[0].journal,
        Path::new("/etc/farside/data/volumes/a/journal")
    );
    assert_eq!(config.volumes[0].size_bytes, 3 << 29);
    assert_eq!(config.volumes[0].journal_size_bytes, 512 << 20);
    assert_eq!(
        (config.link.window_bytes, config.limits.nbd_connections),
        (64 << 20, 1024)
    );
}

#[test]
fn no_damage_to_a_file_makes_the_judge_panic() {
    let good = farside::config::template::pair(&farside::config::template::Pair::default());
    let settings = good
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect::<Vec<_>>()
        .join("\n");
    let letters: Vec<char> = settings.chars().collect();
    let mut refused = 0;
    for at in 0..letters.len() {
        for damage in ["", "\"", "é", "\n", "[", "9999999999999999999", "\u{0}"] {
            let text: String = letters[..at]
                .iter()
                .chain(&damage.chars().collect::<Vec<_>>())
                .chain(&letters[at + 1..])
                .collect();
            match judge(&text) {
                Ok(_) => {}
                Err(ConfigError::Content { problems, .. }) => {
                    refused += 1;
                    let lines = text.matches('\n').count() + 1;
                    assert!(
                        !problems.is_empty()
                            && problems.iter().all(|problem| (1..=lines).contains(&problem.line))
                    );
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(refused > letters.len(), "most damage is noticed");
}

#[test]
fn tls_opens_the_network_only_where_it_keeps_strangers_out() {
    let tls = |more: &str| {
        format!(
            "{UNIT}[nbd]\nlisten = [\"0.0.0.0:5\"]\n[nbd.tls]\ncertificate = \"c\"\nkey = \"k\"\n{more}\
             [[volume]]\nname = \"a\"\nsize = \"1G\"\nrequire_tls = true\n"
        )
    };
    let sure = tls("client_ca = \"ca\"\nrequired = true\n");
    let config = parse(&sure, Path::new("/c/farside.toml")).unwrap();
    let found = config.nbd.tls.unwrap();
    assert_eq!(found.files.client_ca.as_deref(), Some(Path::new("/c/ca")));
    assert!(found.required && config.volumes[0].access.require_tls);
    for unsure in ["", "required = true\n", "client_ca = \"ca\"\n"] {
        let found = problems(&tls(unsure));
        assert!(
            found.len() == 1 && found[0].contains("0.0.0.0:5 is reachable"),
            "{found:#?}"
        );
    }
    check(&[(
        "[[volume]]\nname = \"a\"\nsize = \"1G\"\nrequire_tls = true\n",
        "7:15 volume 'a' requires TLS, and there is none; add [nbd.tls] with a certificate and its key",
    )]);
}

#[test]
fn wrong_iscsi_settings_are_refused_at_their_place() {
    let volume = |name: &str, scsi: &str| format!("[[volume]]\nname = \"{name}\"\nsize = \"1G\"\n{scsi}\n");
    let two = format!(
        "{}{}",
        volume("a", "iscsi = { target = \"shared\" }"),
        volume(
            "b",
            "iscsi = { target = \"iqn.2026-11.dev.farside:shared\", lun = 1 }"
        )
    );
    check(&[
        (
            "[iscsi]\nlisten = [\"0.0.0.0:5\"]\n",
            "5:11 0.0.0.0:5 is reachable from other machines, and [iscsi] does not ask them who they are; give a loopback \
             address, give [iscsi.chap], or set trust_network = true in [iscsi] if every machine on that network may be trusted",
        ),
        (
            "[iscsi]\ninitiators = [\"host\"]\n",
            "5:15 'host' is not an iSCSI name; write a name such as iqn.2026-11.com.example:storage, of letters, digits, '-', '.' and ':'",
        ),
        (
            "[iscsi.chap]\nuser = \"\"\nsecret_file = \"s\"\n",
            "5:8 '' cannot be a CHAP name; use 1 to 255 bytes of text",
        ),
        (
            "[iscsi.chap]\nuser = \"u\"\nsecret_file = \"s\"\nown_user = \"f\"\n",
            "7:12 mutual CHAP needs a name and a secret; give both own_user and own_secret_file, or none of them",
        ),
        (
            "[iscsi.chap]\nuser = \"u\"\nsecret_file = \"s\"\nown_user = \"f\"\nown_secret_file = \"./s\"\n",
            "6:15 the secrets of initiators and of the target itself are the same file; give each side its own secret",
        ),
        (
            "[limits]\niscsi_connections = 0\n",
            "5:21 iscsi_connections must be from 1 to 65536; 1024 is the default",
        ),
        (
            &volume("a", "iscsi = { lun = 16384 }"),
            "7:17 16384 is no logical unit number; give one from 0 to 16383",
        ),
        (
            &two,
            "11:60 volume b and volume a are both logical unit 1 of iqn.2026-11.dev.farside:shared; give each volume of a \
             target its own iscsi.lun",
        ),
    ]);
    // With a secret to know, other machines may come.
    let known = "[iscsi]\nlisten = [\"0.0.0.0:5\"]\n[iscsi.chap]\nuser = \"u\"\nsecret_file = \"s\"\n";
    assert!(judge(&format!("{UNIT}{known}")).is_ok());
}
