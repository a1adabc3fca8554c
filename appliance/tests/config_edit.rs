//! What commands do to the file of an operator: add or remove one table and leave the rest as it was.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

use farside::config::{edit, parse, read_text, template, write_text};
use farside_protocol::control::{CreateVolume, RemoteAddress};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn disk1() -> CreateVolume {
    CreateVolume {
        name: "disk1".into(),
        size: "2G".into(),
        mirror: Some("/m\"1".into()),
        remotes: vec![RemoteAddress {
            name: "far".into(),
            address: "127.0.0.1:9".into(),
        }],
        ..CreateVolume::default()
    }
}

#[test]
fn an_added_volume_leaves_every_other_byte_and_can_be_taken_out_again() {
    let old = template::pair(&template::Pair::default());
    let new = edit::add_volume(&old, &disk1()).unwrap();
    assert!(new.starts_with(&old), "{new}");
    let config = parse(&new, Path::new("/d/farside.toml")).unwrap();
    let names: Vec<_> = config.volumes.iter().map(|volume| volume.name.as_str()).collect();
    assert_eq!(names, ["disk0", "disk1"]);
    assert_eq!(config.volumes[1].mirror, Path::new("/m\"1"));
    assert_eq!(config.volumes[1].remotes[0].address, "127.0.0.1:9");
    assert_eq!(
        config.volumes[0].remotes.len(),
        1,
        "the new volume's remote is not the old one's"
    );
    assert_eq!(edit::remove_volume(&new, "disk1").unwrap().unwrap(), old);
    let none = edit::remove_volume(&old, "disk0").unwrap().unwrap();
    assert!(
        none.contains("# Where hosts attach") && parse(&none, Path::new("/d/f")).unwrap().volumes.is_empty()
    );
    assert_eq!(edit::remove_volume(&old, "other").unwrap(), None);
    let again = edit::add_volume(&none, &disk1()).unwrap();
    assert_eq!(parse(&again, Path::new("/d/f")).unwrap().volumes.len(), 1);
}

#[test]
fn a_name_in_a_command_cannot_become_settings() {
    let mut create = disk1();
    create.name = "x\"\nsize = \"1G".into();
    let text = edit::add_volume(&template::pair(&template::Pair::default()), &create).unwrap();
    let refusal = parse(&text, Path::new("/d/f")).unwrap_err().to_string();
    assert!(refusal.contains("cannot be the name of a volume"), "{refusal}");
}

#[test]
fn files_that_cannot_be_edited_are_refused() {
    assert!(
        edit::add_volume("[unit\n", &disk1())
            .unwrap_err()
            .contains("farside config check")
    );
    assert!(
        edit::add_volume("volume = [{name = \"a\"}]\n", &disk1())
            .unwrap_err()
            .contains("[[volume]]")
    );
}

#[test]
fn the_file_is_replaced_whole_keeps_its_permissions_and_its_link() {
    let directory = tempfile::tempdir().unwrap();
    let (path, link) = (
        directory.path().join("farside.toml"),
        directory.path().join("link"),
    );
    std::fs::write(&path, "old").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    write_text(&link, "new").unwrap();
    assert_eq!(read_text(&path).unwrap(), "new");
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o640
    );
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        2,
        "nothing is left beside it"
    );
}

#[test]
fn shipped_files_are_valid() {
    parse(
        include_str!("../../deploy/farside.example.toml"),
        Path::new("/etc/farside/farside.toml"),
    )
    .unwrap();
    parse(
        &template::pair(&template::Pair::default()),
        Path::new("/d/farside.toml"),
    )
    .unwrap();
}

#[test]
fn what_is_sent_to_remotes_is_set_and_comments_stay() {
    let text = "[[volume]]\nname = 'a'\nsize = '1G'\n\n# the cellar\n[[volume.remote]]\nname = 'far'\naddress = 'h:1' # by cable\n\n\
                [[volume.remote]]\nname = 'near'\naddress = 'h:2'\n";
    let set = |text: &str, of, key, to| edit::set_for_remotes(text, of, key, to).unwrap();
    let one = set(text, ("a", Some("far")), "send", false).unwrap();
    assert!(
        one.contains("# the cellar") && one.contains("# by cable\nsend = false\n"),
        "{one}"
    );
    assert_eq!(one.matches("send").count(), 1);
    let both = set(&one, ("a", None), "queue", false).unwrap();
    assert_eq!(both.matches("queue = false").count(), 2);
    let back = set(&both, ("a", None), "queue", true).unwrap();
    assert_eq!(set(&back, ("a", None), "send", true).unwrap(), text);
    for of in [("b", None), ("a", Some("absent"))] {
        assert!(set(text, of, "send", false).is_none());
    }
    assert!(edit::set_for_remotes("a = ", ("a", None), "send", true).is_err());
}
