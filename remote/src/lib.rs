//! The remote unit: receives the journals of volumes that live elsewhere and keeps a replica of each.
//!
//! Modules stand in the order in which a chunk passes them.

pub mod limits;
pub mod sink;
pub mod receiver;
pub mod replica;

pub use receiver::{
    Answer, Door, Notice, PairedUnit, PlainDoor, Receiver, ReceiverConfig, ReplicaLink, SessionError, Visitor,
};
pub use replica::{
    AsideError, AsideReplica, Bookmark, FailedReplica, Past, Replica, ReplicaSet, ReplicaSetConfig,
    SeedPlace, aside,
};
pub use sink::{Replicas, Sink, SinkError, SinkState};
