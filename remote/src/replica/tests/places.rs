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
        self.directory.path().join("big/store/disk0.img")
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
    let replica = world.open().await;
    world.write(0, 7, 65536);
    world.copy(&replica).await;
    until(&replica, |state| state.copy == CopyState::Complete).await;
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
    let refused = blocking(move || set.seed("disk0").map(drop)).await.unwrap_err();
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
    std::fs::create_dir_all(world.elsewhere().parent().unwrap()).unwrap();
    blocking(move || {
        let place = set.seed("disk0").unwrap();
        std::os::unix::fs::FileExt::write_all_at(place.file(), &[5; 4096], 0).unwrap();
        drop(place);
    })
    .await;
    assert!(!world.elsewhere().exists() && !world.own("replica.img.new").is_symlink());
    let set = world.set.clone();
    blocking(move || {
        let place = set.seed("disk0").unwrap();
        std::os::unix::fs::FileExt::write_all_at(place.file(), &[6; 8192], 0).unwrap();
        place.keep().unwrap();
    })
    .await;
    assert_eq!(std::fs::read(world.elsewhere()).unwrap(), [6; 8192]);
    let replica = world.open().await;
    assert_eq!(replica.files().image, world.elsewhere());
    assert_eq!(std::fs::read(world.elsewhere()).unwrap()[..8192], [6; 8192]);
}

/// A unit that dies in the middle of an import to a device leaves the link, which says that what lies there is of the import.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_import_wrote_may_be_written_over() {
    let world = World::new();
    let place = world.directory.path().join("disk");
    world.place(&place);
    let set = world.set.clone();
    blocking(move || std::mem::forget(set.seed("disk0").unwrap())).await;
    std::fs::write(&place, [5; 4096]).unwrap();
    let directory = world.directory.path().to_owned();
    let again = blocking(move || set_in(&directory, None)).await;
    place_in(&again, &place);
    blocking(move || again.seed("disk0").map(drop)).await.unwrap();
    // Of another place that says nothing.
    let other = world.directory.path().join("other");
    std::fs::write(&other, [5; 4096]).unwrap();
    let directory = world.directory.path().to_owned();
    let again = blocking(move || set_in(&directory, None)).await;
    place_in(&again, &other);
    blocking(move || again.seed("disk0").map(drop)).await.unwrap_err();
    assert_eq!(std::fs::read(&other).unwrap(), [5; 4096]);
}
