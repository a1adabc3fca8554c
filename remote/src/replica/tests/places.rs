//! Images elsewhere than in the directory of their replica.

use super::*;

impl World {
    fn place(&self, image: &Path) {
        place_in(&self.set, image);
    }

    fn own(&self, file: &str) -> PathBuf {
        self.directory.path().join("replicas/disk0").join(file)
    }

    fn elsewhere(&self) -> PathBuf {
        let store = self.directory.path().join("big/store");
        std::fs::create_dir_all(&store).unwrap();
        store.join("disk0.img")
    }
}

use std::path::PathBuf;

fn place_in(set: &ReplicaSet, image: &Path) {
    set.place_images([("disk0".to_owned(), image.to_owned())].into());
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_stays_where_it_was_made() {
    let world = World::new();
    world.place(&world.elsewhere());
    let replica = complete(&world).await;
    assert_eq!(replica.files().image, world.elsewhere());
    assert_eq!(std::fs::read(world.elsewhere()).unwrap()[..65536], [7; 65536]);
    assert!(world.own("replica.img").is_symlink() && world.own("journal").is_file());
    assert_eq!(world.set.misplaced("disk0", &replica.files().image), None);
    drop(replica);
    // The next start, whatever is wanted by then.
    let other = world.directory.path().join("other.img");
    let (set, directory) = (world.set.clone(), world.directory.path().to_owned());
    blocking(move || set.shut_down()).await;
    let again = blocking(move || set_in(&directory, None)).await;
    place_in(&again, &other);
    let replica = soon(again.open_or_create(&world.hello())).await.unwrap();
    assert_eq!(replica.files().image, world.elsewhere());
    let problem = again.misplaced("disk0", &replica.files().image).unwrap();
    assert!(
        problem.contains("is used there, not at") && problem.contains("other.img"),
        "{problem}"
    );
    assert!(!other.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_has_there_is_left_alone() {
    let world = World::new();
    let place = world.directory.path().join("somebodys.img");
    std::fs::write(&place, [1; 8192]).unwrap();
    world.place(&place);
    let (code, text) = world.refused(|_| ()).await;
    assert_eq!(code, RefuseCode::Degraded);
    assert!(
        text.contains("is not empty") && text.contains("farside replica adopt"),
        "{text}"
    );
    assert_eq!(std::fs::read(&place).unwrap(), [1; 8192]);
    assert!(
        !world.own("replica.img").is_symlink(),
        "nothing is left of the attempt"
    );
    // An import would write over it, too.
    let set = world.set.clone();
    let refused = blocking(move || set.seed("disk0", 8192).map(drop))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("is not empty"), "{refused}");
    assert_eq!(std::fs::read(&place).unwrap(), [1; 8192]);
    // Another place is one that can be had.
    world.place(&world.elsewhere());
    assert_eq!(world.open().await.files().image, world.elsewhere());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_adopted_is_compared_and_never_cut() {
    let world = World::new();
    let set = world.set.clone();
    let refused = blocking(move || set.adopt("disk0")).await.unwrap_err();
    assert!(refused.to_string().contains("there is no image"), "{refused}");
    let place = world.directory.path().join("old-copy.img");
    world.place(&place);
    let set = world.set.clone();
    let refused = blocking(move || set.adopt("disk0")).await.unwrap_err();
    assert!(refused.to_string().contains("old-copy.img"), "{refused}");
    let longer = usize::try_from(BYTES).unwrap() + 512;
    std::fs::write(&place, vec![3; longer]).unwrap();
    let set = world.set.clone();
    assert_eq!(blocking(move || set.adopt("disk0")).await.unwrap(), place);
    let (_, text) = world.refused(|_| ()).await;
    assert!(text.contains("would be cut off"), "{text}");
    assert_eq!(std::fs::read(&place).unwrap().len(), longer);
    // It waits for its volume, also through a restart.
    std::fs::write(&place, vec![3; longer - 1024]).unwrap();
    let directory = world.directory.path().to_owned();
    let again = blocking(move || set_in(&directory, None)).await;
    let replica = soon(again.open_or_create(&world.hello())).await.unwrap();
    assert_eq!(replica.state().copy, CopyState::Empty);
    assert!(replica.has_content().await.unwrap());
    let image = std::fs::read(&place).unwrap();
    assert_eq!((image.len(), image[longer - 1025]), (longer - 512, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_is_put_there_and_an_import_that_failed_is_begun_anew() {
    let world = World::new();
    world.place(&world.elsewhere());
    let set = world.set.clone();
    blocking(move || {
        let place = set.seed("disk0", 8192).unwrap();
        std::os::unix::fs::FileExt::write_all_at(place.file(), &[5; 4096], 0).unwrap();
        drop(place);
    })
    .await;
    assert!(!world.elsewhere().exists() && !world.own("replica.img").is_symlink());
    let set = world.set.clone();
    blocking(move || {
        let place = set.seed("disk0", 8192).unwrap();
        std::os::unix::fs::FileExt::write_all_at(place.file(), &[6; 8192], 0).unwrap();
        place.keep().unwrap();
    })
    .await;
    assert_eq!(std::fs::read(world.elsewhere()).unwrap(), [6; 8192]);
    let replica = world.open().await;
    assert_eq!(replica.files().image, world.elsewhere());
    assert_eq!(std::fs::read(world.elsewhere()).unwrap()[..8192], [6; 8192]);
}

/// A unit that dies in the middle of an import: nothing says that what lies there is of no use, so it is not written over.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_import_wrote_is_left_alone() {
    let world = World::new();
    world.place(&world.elsewhere());
    let set = world.set.clone();
    blocking(move || std::mem::forget(set.seed("disk0", 8192).unwrap())).await;
    std::fs::write(world.elsewhere(), [5; 4096]).unwrap();
    let directory = world.directory.path().to_owned();
    let again = blocking(move || set_in(&directory, None)).await;
    place_in(&again, &world.elsewhere());
    let set = again.clone();
    let refused = blocking(move || set.seed("disk0", 8192).map(drop))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("farside replica adopt"), "{refused}");
    assert_eq!(std::fs::read(world.elsewhere()).unwrap(), [5; 4096]);
    // Without the setting it is none of ours.
    again.place_images(std::collections::BTreeMap::new());
    blocking(move || drop(again.seed("disk0", 8192).unwrap())).await;
    assert_eq!(std::fs::read(world.elsewhere()).unwrap(), [5; 4096]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_image_is_not_taken_for_an_empty_one() {
    let world = World::new();
    drop(world.open().await);
    let live = world.own("replica.img");
    let other = Arc::new(
        ReplicaSet::find_in_directory(
            ReplicaSetConfig {
                unit_name: "other".to_owned(),
                directory: world.directory.path().join("others"),
                history_bytes: 0,
                journal_bytes: 2 << 20,
                accept: None,
            },
            Arc::new(SystemClock::new()),
        )
        .unwrap(),
    );
    other.place_images([("disk0".to_owned(), live.clone())].into());
    let set = other.clone();
    let refused = blocking(move || set.seed("disk0", 8192).map(drop))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("in use"), "{refused}");
    let refused = blocking(move || other.adopt("disk0")).await.unwrap_err();
    assert!(refused.to_string().contains("in use"), "{refused}");
    assert_eq!(std::fs::metadata(&live).unwrap().len(), BYTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_made_up() {
    let world = World::new();
    // A volume group that is not active yet; a store that is not mounted.
    for (place, says) in [
        (Path::new("/dev/farside-test-absent"), "attach or activate"),
        (Path::new("/dev/farside-absent-group/disk0"), "is no directory"),
        (
            &world.directory.path().join("not-mounted/disk0.img"),
            "mount it, or make it",
        ),
    ] {
        world.place(place);
        let (_, text) = world.refused(|_| ()).await;
        assert!(text.contains(says), "{text}");
        let set = world.set.clone();
        let refused = blocking(move || set.seed("disk0", 8192).map(drop))
            .await
            .unwrap_err();
        assert!(refused.to_string().contains(says), "{refused}");
        assert!(!place.exists());
    }
    // What was adopted, and is gone when its volume comes.
    let place = world.directory.path().join("old-copy.img");
    std::fs::write(&place, [3; 8192]).unwrap();
    world.place(&place);
    let set = world.set.clone();
    blocking(move || set.adopt("disk0")).await.unwrap();
    std::fs::rename(&place, world.directory.path().join("away")).unwrap();
    let (_, text) = world.refused(|_| ()).await;
    assert!(text.contains("mount or put back"), "{text}");
    assert!(!place.exists());
    std::fs::rename(world.directory.path().join("away"), &place).unwrap();
    let directory = world.directory.path().to_owned();
    let again = blocking(move || set_in(&directory, None)).await;
    let replica = soon(again.open_or_create(&world.hello())).await.unwrap();
    assert!(replica.has_content().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_disk_is_not_taken_because_it_was_adopted() {
    let world = World::new();
    let (wrong, right) = (
        world.directory.path().join("wrong"),
        world.directory.path().join("right"),
    );
    for place in [&wrong, &right] {
        std::fs::write(place, [3; 8192]).unwrap();
    }
    world.place(&wrong);
    let set = world.set.clone();
    blocking(move || set.adopt("disk0")).await.unwrap();
    world.place(&right);
    let (_, text) = world.refused(|_| ()).await;
    assert!(text.contains("farside replica adopt"), "{text}");
    let set = world.set.clone();
    assert_eq!(blocking(move || set.adopt("disk0")).await.unwrap(), right);
    assert_eq!(world.open().await.files().image, right);
    assert_eq!(std::fs::read(&wrong).unwrap(), [3; 8192]);
}

/// A pipe would be waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_no_disk_is_refused() {
    let world = World::new();
    let pipe = world.directory.path().join("pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    world.place(&pipe);
    let (_, text) = world.refused(|_| ()).await;
    assert!(
        text.contains("neither a regular file nor a block device"),
        "{text}"
    );
}

/// A disk that is mounted after the unit was started.
#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_opened_is_tried_again_when_it_may_be_there() {
    let world = World::new();
    world.place(&world.elsewhere());
    drop(complete(&world).await);
    let (set, directory) = (world.set.clone(), world.directory.path().to_owned());
    blocking(move || set.shut_down()).await;
    let away = world.directory.path().join("away");
    std::fs::rename(world.elsewhere(), &away).unwrap();
    let again = blocking(move || set_in(&directory, None)).await;
    for _ in 0..2 {
        let problem = again.failed().pop().unwrap().problem;
        assert!(problem.contains("then reload the unit"), "{problem}");
        let set = again.clone();
        blocking(move || set.open_failed()).await;
    }
    std::fs::rename(&away, world.elsewhere()).unwrap();
    let set = again.clone();
    blocking(move || set.open_failed()).await;
    assert!(again.failed().is_empty());
    let replica = soon(again.open_or_create(&world.hello())).await.unwrap();
    assert_eq!(replica.state().copy, CopyState::Complete);
    drop(replica);
    // One whose directory was moved away is made anew by the next greeting.
    let set = again.clone();
    blocking(move || set.shut_down()).await;
    std::fs::remove_file(world.elsewhere()).unwrap();
    let directory = world.directory.path().to_owned();
    let again = blocking(move || set_in(&directory, None)).await;
    std::fs::rename(world.own(""), &away).unwrap();
    let set = again.clone();
    blocking(move || set.open_failed()).await;
    assert!(again.failed().is_empty() && again.starting().is_empty());
    let replica = soon(again.open_or_create(&world.hello())).await.unwrap();
    assert_eq!(replica.state().copy, CopyState::Empty);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_image_returns_is_opened_for_its_volume() {
    let world = World::new();
    let (place, away) = (
        world.directory.path().join("store.img"),
        world.directory.path().join("away"),
    );
    world.place(&place);
    let replica = complete(&world).await;
    drop(replica);
    let set = world.set.clone();
    blocking(move || set.shut_down()).await;
    let World {
        directory,
        volume,
        set,
    } = world;
    drop(set);
    std::fs::rename(&place, &away).unwrap();
    let set = set_in(directory.path(), None);
    let world = World {
        directory,
        volume,
        set,
    };
    for _ in 0..2 {
        let (code, text) = world.refused(|_| ()).await;
        assert_eq!(code, RefuseCode::Degraded, "{text}");
    }
    std::fs::rename(&away, &place).unwrap();
    let replica = world.open().await;
    assert_eq!(replica.state().copy, CopyState::Complete);
    assert!(world.set.failed().is_empty());
}
