//! Both ends of a link against each other: the two cores in a deterministic loop, and the two shells over
//! real sockets, with a volume and a replica that live in memory.

mod random;
mod volume;
mod replica;
mod world;
mod cores;
