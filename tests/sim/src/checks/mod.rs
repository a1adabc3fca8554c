//! The promises, one file each. They see what happened and what lies on the disks, and panic when one is broken.

pub mod durability;
pub mod links;
pub mod positions;
pub mod prefix;
pub mod reads;
pub mod verify;
pub mod views;
pub mod recovery;
pub mod waiting;
pub mod tail;
pub mod copies;
pub mod senders;
pub mod handed_over;
pub mod bounds;
pub mod catching_up;
pub mod full_copies;
pub mod chunks;
