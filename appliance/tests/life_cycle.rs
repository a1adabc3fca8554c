//! A unit from start to end, as an operator meets it: the real binary, signals, files and sockets.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use support::{Running, World, text};

#[test]
fn up_starts_tells_how_to_attach_stops_and_continues() {
    let world = World::new();
    let mut unit = world.up();
    let first = world.status();
    assert_eq!(first["unit"]["nbd_listen"].as_array().unwrap().len(), 2);
    assert_eq!(first["volumes"][0]["name"], "disk0");
    assert_eq!(first["volumes"][0]["size_bytes"], 8 << 20);
    let own = std::fs::metadata(world.path("data/control.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(own & 0o777, 0o600);
    // Found without being named: there is one unit of this user.
    assert_eq!(world.run(&["status"]).code, Some(0));
    unit.signal("TERM");
    assert_eq!(unit.end(), Some(0), "{}", world.log());
    let mut said = String::new();
    unit.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    for part in [
        "Farside is running",
        "data/local/volumes/disk0/mirror.img",
        "data/remote/replicas/disk0/replica.img",
        "Console: http://",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!world.path("data/control.sock").exists() && !world.path("data/nbd.sock").exists());
    let mut again = world.up();
    assert_eq!(world.status()["unit"]["uuid"], first["unit"]["uuid"]);
    again.signal("INT");
    assert_eq!(again.end(), Some(0));
}

#[test]
fn killed_unit_leaves_nothing_in_the_way_of_the_next() {
    let world = World::new();
    let unit = world.up();
    drop(unit);
    assert!(
        world.path("data/control.sock").exists(),
        "a kill cleans nothing up"
    );
    let mut again = world.up();
    again.signal("TERM");
    assert_eq!(again.end(), Some(0));
}

#[test]
fn second_unit_and_other_sizes_are_refused_by_name() {
    let world = World::new();
    let unit = world.up();
    let said = world.run(&[
        "up",
        "data",
        "--nbd",
        "127.0.0.1:0",
        "--link",
        "127.0.0.1:0",
        "--console",
        "127.0.0.1:0",
    ]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains(&format!("process {}", unit.0.id())), "{said:?}");
    let said = world.run(&["up", "data", "--size", "9M"]);
    assert_eq!(said.code, Some(5));
    assert!(
        said.err.contains("--size 9M") && said.err.contains("8M") && said.err.contains("farside.toml"),
        "{said:?}"
    );
    assert_eq!(
        world.status()["volumes"].as_array().unwrap().len(),
        1,
        "the first is not disturbed"
    );
}

#[test]
fn port_in_use_names_the_address_and_the_setting() {
    let world = World::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = world.run(&[
        "up",
        "data",
        "--nbd",
        &address,
        "--link",
        "127.0.0.1:0",
        "--console",
        "127.0.0.1:0",
    ]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains(&address) && said.err.contains("in use") && said.err.contains("nbd.listen"),
        "{said:?}"
    );
    let said = world.run(&["up", "other", "--console", "0.0.0.0:1"]);
    assert_eq!(said.code, Some(5));
    assert!(
        said.err.contains("--console 0.0.0.0:1") && !world.path("other").exists(),
        "{said:?}"
    );
}

#[test]
fn wrong_file_leaves_the_old_one_in_force_and_says_which_line() {
    let world = World::new();
    let unit = world.up();
    let path = world.path("data/farside.toml");
    let good = text(&path);
    std::fs::write(&path, format!("{good}\n[oops]\n")).unwrap();
    unit.signal("HUP");
    let status = world.status_when(|status| !status["unit"]["config_error"].is_null());
    let line = good.lines().count() + 2;
    assert!(
        status["unit"]["config_error"]
            .as_str()
            .unwrap()
            .contains(&format!("farside.toml:{line}:2: ")),
        "{status}"
    );
    assert!(world.log().contains("stays in force"), "{}", world.log());
    assert_eq!(status["volumes"][0]["name"], "disk0");
    assert!(world.run(&["status"]).out.contains("WRONG CONFIGURATION"));
    std::fs::write(&path, good.replace("log = \"info\"", "log = \"warn\"")).unwrap();
    unit.signal("HUP");
    let status = world.status_when(|status| status["unit"]["config_error"].is_null());
    assert_eq!(status["unit"]["pending_restart"], serde_json::json!(["unit.log"]));
    std::fs::write(&path, good.split("[[volume]]").next().unwrap()).unwrap();
    unit.signal("HUP");
    world.status_when(|status| status["volumes"].as_array().unwrap().is_empty());
}

#[test]
fn refused_or_failed_commands_leave_the_file_as_it_was() {
    let world = World::new();
    let _unit = world.up();
    let path = world.path("data/farside.toml");
    let before = text(&path);
    let cases: [(&[&str], i32); 6] = [
        (&["create", "disk0", "--size", "1M"], 5),
        (&["create", "../x", "--size", "1M"], 5),
        (&["create", "a", "--size", "513"], 5),
        (&["create", "a", "--size", "1M", "--remote", "far=192.0.2.1:0"], 5),
        (
            &[
                "create",
                "a",
                "--size",
                "1M",
                "--mirror",
                "data/local/volumes/disk0/journal",
            ],
            5,
        ),
        (&["remove", "none"], 1),
    ];
    for (args, code) in cases {
        let said = world.run(&[&["volume"], args].concat());
        assert_eq!(said.code, Some(code), "{args:?} {said:?}");
        assert!(
            !said.err.contains("farside.toml:"),
            "no line of a file that was never written: {said:?}"
        );
        assert_eq!(text(&path), before);
    }
    // Valid on paper, impossible on this machine: written first, then taken back.
    let said = world.run(&[
        "volume",
        "create",
        "a",
        "--size",
        "1M",
        "--mirror",
        "/proc/none/mirror",
    ]);
    assert!(!said.err.is_empty() && said.code != Some(0), "{said:?}");
    assert_eq!(text(&path), before);
    assert!(world.run(&["volume", "list"]).out.lines().count() == 2);
    assert_eq!(
        world.run(&["wait", "--volume", "none", "--durable"]).code,
        Some(1)
    );
}

#[test]
fn removing_a_volume_keeps_its_files_and_says_where() {
    let world = World::new();
    let _unit = world.up();
    let said = world.run(&["volume", "remove", "disk0"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.out.contains("data/local/volumes/disk0/mirror.img"),
        "{said:?}"
    );
    let file = text(&world.path("data/farside.toml"));
    assert!(
        !file.contains("disk0") && file.contains("# Where hosts attach their disks."),
        "{file}"
    );
    assert!(world.status()["volumes"].as_array().unwrap().is_empty());
}

#[test]
fn watching_ends_quietly_with_its_reader_or_an_interrupt() {
    let world = World::new();
    let _unit = world.up();
    let watch = || {
        let mut command = world.command();
        command
            .args(["status", "--watch", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Running(command.spawn().unwrap())
    };
    let mut cut = watch();
    let mut line = String::new();
    BufReader::new(cut.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let status: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(status["schema"], 1);
    assert_eq!(cut.end(), Some(0), "the reader is gone");
    let mut interrupted = watch();
    let mut out = BufReader::new(interrupted.0.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    interrupted.signal("INT");
    assert_eq!(interrupted.end(), Some(0));
    let mut said = String::new();
    interrupted
        .0
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(said, "");
}
