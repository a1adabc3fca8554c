//! The promises of the parts to the unit: nothing half open, nothing left behind, nothing forgotten.

use super::*;
use crate::config::{VolumeConfig, parse};
use crate::targets::Exports;
use crate::targets::{Disk, DiskError, Update};
use farside_protocol::control::{ErrorCode, RemoteState};
use farside_protocol::journal::ConsumerState;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

struct World {
    directory: TempDir,
    parts: Parts,
}

impl World {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let parts = parts_in(directory.path());
        Self { directory, parts }
    }

    fn volume(&self, remotes: &[&str]) -> VolumeConfig {
        volume_in(self.directory.path(), remotes, "1M")
    }

    fn own(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join("volumes/a").join(name)
    }

    async fn open(&self, config: &VolumeConfig) -> Result<Arc<Volume>, PartError> {
        self.parts.open_volume(config, OpenMode::Careful).await
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path().join("volumes/a"));
        let names = entries.into_iter().flatten();
        let mut names: Vec<String> = names
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

fn config_in(directory: &Path, volume: &str) -> Config {
    let text = format!(
        "[unit]\nname='u'\ndata_dir='{0}'\n[nbd]\nsocket='{0}/nbd'\n{volume}",
        directory.display()
    );
    parse(&text, &directory.join("c.toml")).unwrap()
}

fn volume_in(directory: &Path, remotes: &[&str], size: &str) -> VolumeConfig {
    let mut text = format!(
        "[[volume]]\nname='a'\nsize='{size}'\njournal_size='2M'\nmirror='{0}/image'\njournal='{0}/journal'\n",
        directory.join("volumes/a").display()
    );
    for (port, remote) in (1..).zip(remotes) {
        // Nobody listens there.
        text += &format!("[[volume.remote]]\nname='{remote}'\naddress='127.0.0.1:{port}'\n");
    }
    config_in(directory, &text).volume("a").unwrap().clone()
}

fn parts_in(directory: &Path) -> Parts {
    Parts::new(Surroundings {
        config: config_in(directory, ""),
        uuid: Uuid::from_u128(1),
        pairing: Arc::new(Pairing::open(directory, Uuid::from_u128(1), "unit").unwrap()),
    })
}

async fn write(volume: &Volume) -> u64 {
    let data = vec![1; 4096].into();
    let mut batch = vec![Update::Write { offset: 0, data }];
    volume.disk().volume.update(&mut batch).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_whose_remote_cannot_start_leaves_nothing_half_open_and_no_files() {
    let world = World::new();
    let config = world.volume(&["r"]);
    std::fs::create_dir_all(world.own("dirty-a@r.map")).unwrap();
    for _ in 0..2 {
        let error = world.open(&config).await.unwrap_err();
        assert!(error.message.contains("dirty-a@r.map"), "{error}");
        assert_eq!(world.files(), ["dirty-a@r.map"], "what was made is taken back");
        assert!(world.parts.exports.names().is_empty() && !world.parts.known.knows("a").unwrap());
    }
    std::fs::remove_dir(world.own("dirty-a@r.map")).unwrap();
    let volume = world.open(&config).await.unwrap();
    assert!(world.parts.known.knows("a").unwrap());
    volume.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_adopted_is_neither_cut_nor_removed() {
    let world = World::new();
    let config = world.volume(&["r"]);
    let adopt = async || world.parts.open_volume(&config, OpenMode::Adopt).await;
    let error = adopt().await.unwrap_err();
    assert!(error.message.contains("cannot be adopted"), "{error}");
    let content = vec![7; usize::try_from(config.size_bytes).unwrap() - 512];
    let longer = vec![7; content.len() + 1024];
    std::fs::create_dir_all(world.own("dirty-a@r.map")).unwrap();
    std::fs::write(&config.mirror, &longer).unwrap();
    let error = adopt().await.unwrap_err();
    assert!(error.message.contains("more than the volume's"), "{error}");
    assert!(std::fs::read(&config.mirror).unwrap() == longer);
    // One that fails later, too.
    std::fs::write(&config.mirror, &content).unwrap();
    let error = adopt().await.unwrap_err();
    assert!(error.message.contains("dirty-a@r.map"), "{error}");
    assert_eq!(world.files(), ["dirty-a@r.map", "image"]);
    assert!(std::fs::read(&config.mirror).unwrap()[..content.len()] == content);
    std::fs::remove_dir(world.own("dirty-a@r.map")).unwrap();
    let volume = adopt().await.unwrap();
    let mut found = [0; 512];
    volume.disk().volume.store().read(4096, &mut found).unwrap();
    assert_eq!(found, [7; 512]);
    volume.close().await;
    drop(volume);
    let error = adopt().await.unwrap_err();
    assert!(error.message.contains("is the journal of a volume"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_was_there_keeps_its_data_when_a_remote_cannot_start() {
    let world = World::new();
    let volume = world.open(&world.volume(&[])).await.unwrap();
    write(&volume).await;
    volume.close().await;
    drop(volume);
    std::fs::create_dir_all(world.own("dirty-a@r.map")).unwrap();
    world.open(&world.volume(&["r"])).await.unwrap_err();
    let volume = world.open(&world.volume(&[])).await.unwrap();
    assert_eq!(volume.disk().volume.journaled(), 1);
    assert!(
        volume.status().clean_start,
        "also the failed attempt ended cleanly"
    );
    volume.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remotes_no_longer_configured_are_forgotten_with_their_maps() {
    let world = World::new();
    let volume = world.open(&world.volume(&["r", "s"])).await.unwrap();
    volume.remove_remote("s").await;
    assert_eq!(world.files(), ["dirty-a@r.map", "image", "journal"]);
    volume.close().await;
    drop(volume);
    // Renamed in the file while the unit was down.
    let volume = world.open(&world.volume(&["t"])).await.unwrap();
    assert_eq!(world.files(), ["dirty-a@t.map", "image", "journal"]);
    assert!(volume.disk().volume.store().consumer("r").is_none());
    let remotes = volume.status().remotes;
    assert_eq!(remotes.len(), 1);
    assert_eq!(remotes[0].name, "t");
    volume.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remote_at_another_address_keeps_its_position() {
    let world = World::new();
    let config = world.volume(&["r"]);
    let volume = world.open(&config).await.unwrap();
    write(&volume).await;
    let store = volume.disk().volume.store().clone();
    let base = store.begin_consumer_copy("r", true).unwrap().0;
    store.acknowledge("r", base, true).unwrap();
    volume.pause_remote("r").await;
    let listed = &volume.status().remotes[0];
    assert_eq!(listed.name, "r");
    assert_eq!(listed.detail.as_deref(), Some("the link is set up anew"));
    volume.add_remote(&config.remotes[0]).await.unwrap();
    assert_eq!(store.consumer("r").unwrap().state, ConsumerState::Attached);
    volume.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_remotes_than_a_journal_keeps_are_refused() {
    let world = World::new();
    let names: Vec<String> = (0..9).map(|number| format!("r{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let volume = world.open(&world.volume(&names[..8])).await.unwrap();
    let ninth = world.volume(&names[8..]).remotes.remove(0);
    let error = volume.add_remote(&ninth).await.unwrap_err();
    assert!(
        error.code == ErrorCode::Conflict && error.message.contains("8 remotes"),
        "{error}"
    );
    write(&volume).await;
    volume.disk().volume.store().checkpoint().unwrap();
    assert_eq!(volume.status().remotes.len(), 8);
    volume.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_is_gone_is_reported_until_the_volume_is_forgotten() {
    let world = World::new();
    let config = world.volume(&[]);
    let volume = world.open(&config).await.unwrap();
    volume.close().await;
    drop(volume);
    std::fs::remove_file(world.own("journal")).unwrap();
    std::fs::remove_file(world.own("image")).unwrap();
    let error = world.open(&config).await.unwrap_err();
    assert!(
        error.code == ErrorCode::Conflict && error.message.contains("is gone"),
        "{error}"
    );
    world.parts.forget_volume("a").unwrap();
    world.open(&config).await.unwrap().close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_that_was_cut_short_is_finished_and_data_is_never_overwritten() {
    let world = World::new();
    std::fs::create_dir_all(world.own("")).unwrap();
    let image = std::fs::File::create(world.own("image")).unwrap();
    image.set_len(1 << 20).unwrap();
    std::fs::write(world.own("journal.new"), b"half").unwrap();
    world.open(&world.volume(&[])).await.unwrap().close().await;
    for name in ["image", "journal"] {
        std::fs::remove_file(world.own(name)).unwrap();
    }
    world.parts.forget_volume("a").unwrap();
    std::fs::write(world.own("image"), b"somebody's").unwrap();
    let error = world.open(&world.volume(&[])).await.unwrap_err();
    assert!(error.message.contains("not empty"), "{error}");
    assert_eq!(std::fs::read(world.own("image")).unwrap(), b"somebody's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_the_middle_of_opening_lets_the_next_start_go_on() {
    let world = World::new();
    let config = world.volume(&["r"]);
    for wait_us in [0, 200, 1_000, 3_000, 10_000, 30_000] {
        let opening = tokio::time::timeout(Duration::from_micros(wait_us), world.open(&config));
        if let Ok(opened) = opening.await {
            opened.unwrap().close().await;
        }
        world.parts.stop_targets().await;
        world.parts.stop_link().await;
        // A process that ended has no files open; here they are closed a moment later.
        let again = async {
            loop {
                match parts_in(world.directory.path())
                    .open_volume(&config, OpenMode::Careful)
                    .await
                {
                    Ok(volume) => return volume.close().await,
                    Err(error) => assert!(
                        error.message.contains("in use") || error.message.contains("not empty"),
                        "{error}"
                    ),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), again)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_of_a_remote_that_is_away_says_how_far_it_was() {
    let world = World::new();
    let config = world.volume(&["r"]);
    let volume = world.open(&config).await.unwrap();
    let never = &volume.status().remotes[0];
    assert!(!never.consistent && never.lag.records == 0 && never.consistent_up_to.is_none());
    write(&volume).await;
    let store = volume.disk().volume.store().clone();
    store.sync().unwrap();
    while store.drain().unwrap() {}
    let base = store.begin_consumer_copy("r", true).unwrap().0;
    store.acknowledge("r", base, true).unwrap();
    write(&volume).await;
    volume.close().await;
    drop((volume, store));
    let volume = world.open(&config).await.unwrap();
    let status = volume.status();
    let remote = &status.remotes[0];
    assert!(remote.consistent && remote.consistent_up_to.is_some());
    assert_eq!((remote.sent, remote.received, remote.lag.records), (1, 1, 1));
    assert!(remote.state != RemoteState::Streaming && remote.lag.bytes == 4096);
    let positions = status.positions;
    let order = [
        positions.tail,
        positions.acked,
        positions.sent,
        positions.durable,
        positions.journaled,
    ];
    assert!(order.is_sorted(), "{positions:?}");
    volume.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_volume_serves_nobody_and_shutting_down_does_not_wait_for_remotes_that_are_away() {
    let world = World::new();
    let volume = world.open(&world.volume(&["r"])).await.unwrap();
    let disk = world.parts.exports.find("a").unwrap().disk;
    write(&volume).await;
    let ending = async {
        world.parts.stop_targets().await;
        world.parts.stop_link().await;
        volume.close().await;
    };
    tokio::time::timeout(Duration::from_secs(4), ending)
        .await
        .unwrap();
    assert!(world.parts.exports.find("a").is_none());
    let mut batch = vec![Update::Trim { offset: 0, length: 1 }];
    assert_eq!(disk.update(&mut batch).await, Err(DiskError::ShuttingDown));
}
