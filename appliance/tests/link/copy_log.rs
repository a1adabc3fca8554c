//! What the log says of a full copy, on both ends.

use crate::random::Random;
use crate::shells::{remote, sender, until, until_equal, written};
use crate::volume::Volume;
use farside::link::LinkState;
use std::io;
use std::sync::{Arc, Mutex};

#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn with(&self, words: &[&str]) -> usize {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let all = |line: &&str| words.iter().all(|word| line.contains(word));
        text.lines().filter(all).count()
    }
}

#[tokio::test]
async fn both_ends_say_when_a_copy_begins_and_why_and_when_it_is_complete() {
    let lines = Lines::default();
    let to = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || to.clone())
        .finish();
    // Both ends run on this thread.
    let _guard = tracing::subscriber::set_default(subscriber);
    let (remote, volume) = (remote().await, Arc::new(Volume::new()));
    written(&volume, &mut Random::new(3), 20);
    volume.state().too_small = true;
    let sender = sender(&volume, remote.address);
    until(&sender, "an overflow", |status| {
        status.connections > 0 && status.state == LinkState::NeedsCopy
    })
    .await;
    volume.state().too_small = false;
    until_equal(&sender, &volume, &remote).await;
    sender.stop().await;
    remote.stop().await;
    let (near, far) = (
        ["INFO", "volume=\"disk0\"", "remote=\"far\"", "bytes=98304"],
        ["INFO", "replica=\"disk0\"", "sender=\"local\"", "bytes=98304"],
    );
    let with = |end: [&str; 4], words: &[&str]| lines.with(&[&end, words].concat());
    assert_eq!(
        with(near, &["full copy begins", "has no copy yet"]),
        1,
        "{lines:?}"
    );
    assert_eq!(
        with(
            near,
            &["resync of what changed begins", "too small for this write rate"]
        ),
        1
    );
    assert_eq!(with(far, &["copy begins"]), 2);
    for end in [near, far] {
        assert_eq!(with(end, &["copy is complete", "seconds="]), 1, "{lines:?}");
    }
}
