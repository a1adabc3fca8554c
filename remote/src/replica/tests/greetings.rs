//! Greetings that come at once.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_greetings_at_once_make_one_replica() {
    let world = World::new();
    let hello = world.hello();
    let (first, second) = tokio::join!(world.set.open_or_create(&hello), world.set.open_or_create(&hello));
    assert!(first.is_ok() || second.is_ok());
    for refused in [first, second].into_iter().filter_map(Result::err) {
        assert_eq!(refused.code, RefuseCode::Busy);
    }
    assert_eq!(world.set.replicas().len(), 1);
}
