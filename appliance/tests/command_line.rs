//! The command line without a unit, through the real binary: exit codes and what is said.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod support;

use support::World;

#[test]
fn version_and_copyright_are_shown_both_ways() {
    let world = World::new();
    for args in [&["version"][..], &["--version"]] {
        let said = world.run(args);
        assert_eq!(said.code, Some(0));
        assert!(
            said.out
                .starts_with(concat!("farside ", env!("CARGO_PKG_VERSION")))
                && said.out.contains("Copyright")
        );
    }
    let json: serde_json::Value = serde_json::from_str(&world.run(&["version", "--json"]).out).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["schema"], 1);
}

#[test]
fn without_a_unit_every_question_exits_3_and_says_how_to_start_one() {
    let world = World::new();
    let questions: [&[&str]; 5] = [
        &["status"],
        &["status", "--watch"],
        &["volume", "list"],
        &["volume", "create", "a", "--size", "1G"],
        &["wait", "--volume", "a", "--durable"],
    ];
    for question in questions {
        let said = world.run(&[&["--socket", "none.sock"], question].concat());
        assert_eq!(said.code, Some(3), "{question:?} {said:?}");
        assert!(
            said.err.contains("no unit is running here") && said.err.contains("none.sock"),
            "{said:?}"
        );
        assert!(said.out.is_empty());
    }
    // A socket that a dead unit left behind is no unit.
    drop(std::os::unix::net::UnixListener::bind(world.path("stale.sock")).unwrap());
    assert_eq!(world.run(&["--socket", "stale.sock", "status"]).code, Some(3));
}

#[test]
fn mistakes_on_the_command_line_exit_2() {
    let world = World::new();
    let mistakes: [&[&str]; 9] = [
        &[],
        &["bogus"],
        &["status", "--bogus"],
        &["wait", "--volume", "a"],
        &["wait", "--volume", "a", "--durable", "--applied"],
        &["wait", "--volume", "a", "--durable", "--timeout", "soon"],
        &["volume", "create", "a", "--size", "much"],
        &["volume", "create", "a", "--size", "1G", "--remote", "far"],
        &["up", "d", "--nbd", "nowhere"],
    ];
    for mistake in mistakes {
        let said = world.run(mistake);
        assert_eq!(said.code, Some(2), "{mistake:?} {said:?}");
        assert!(!said.err.is_empty());
    }
    assert!(!world.path("d").exists());
    assert!(world.run(&["help"]).out.contains("Exit codes:"));
}

#[test]
fn config_check_says_file_line_and_column() {
    let world = World::new();
    std::fs::write(
        world.path("good.toml"),
        "[unit]\nname = \"u\"\ndata_dir = \"d\"\n",
    )
    .unwrap();
    let said = world.run(&["config", "check", "good.toml"]);
    assert_eq!(
        (said.code, said.out.as_str()),
        (Some(0), "good.toml: valid, unit u, 0 volumes\n")
    );
    assert!(!world.path("d").exists(), "checking changes nothing");
    std::fs::write(
        world.path("bad.toml"),
        "[unit]\nname = \"u\"\ndata_dir = \"d\"\nnoise = 1\n",
    )
    .unwrap();
    let said = world.run(&["config", "check", "bad.toml"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err
            .starts_with("farside: bad.toml:4:1: unknown field `noise`"),
        "{said:?}"
    );
    assert_eq!(world.run(&["config", "check", "none.toml"]).code, Some(1));
    let said = world.run(&["unit", "--config", "bad.toml"]);
    assert_eq!(said.code, Some(5));
    assert!(said.err.contains("bad.toml:4:1"), "{said:?}");
    let example = world.run(&["config", "example"]);
    std::fs::write(world.path("example.toml"), example.out).unwrap();
    assert_eq!(world.run(&["config", "check", "example.toml"]).code, Some(0));
}

#[test]
fn a_file_that_is_not_ours_is_not_recognised() {
    let world = World::new();
    std::fs::write(world.path("letter"), "Dear reader, this is no journal.").unwrap();
    for (file, expected, code) in [("letter", "not recognised", 7), ("none", "cannot be read", 1)] {
        let said = world.run(&["inspect", file]);
        assert_eq!(said.code, Some(code));
        assert!(said.err.contains(file) && said.err.contains(expected), "{said:?}");
    }
}

#[test]
fn manual_pages_and_completions_are_written() {
    let world = World::new();
    assert_eq!(world.run(&["man", "out"]).code, Some(0));
    let page = support::text(&world.path("out/farside.1"));
    assert!(
        page.contains("Exit codes") && page.contains("farside\\-status"),
        "{page}"
    );
    assert!(support::text(&world.path("out/farside.toml.5")).contains("journal_size"));
    assert!(support::text(&world.path("out/completions/farside.bash")).contains("volume"));
}
