//! A copy that was interrupted goes on at what is durable: everything before that offset is the volume's, and at least as
//! new as the records that the replica will not apply again.

use crate::history::History;
use farside_storage::Store;

/// Looks at a replica in the middle of a copy as it comes up after its process ended, before anything is applied.
///
/// # Panics
/// When a part of the image that is not going to be copied again is not the volume's.
pub fn goes_on_at_what_is_durable(name: &str, store: &Store, history: &History) {
    let superblock = store.superblock();
    let length = usize::try_from(superblock.copy_offset).unwrap_or(usize::MAX);
    let mut copied = vec![0; length];
    store
        .image()
        .read_at(&mut copied, 0)
        .expect("a healthy disk is read");
    let states = (superblock.mirrored.record, history.durable());
    // Copied ranges are of different ages, and a batch may have been under way where one was read.
    if let Err(at) = history.explains_each(1, 0, &copied, states) {
        panic!(
            "{name}: its copy goes on at {length}, but byte {at} is of no state of the volume after any of the records \
             {}..={}",
            states.0, states.1
        );
    }
}
