//! What is done with arbitrary input, decoder by decoder and file by file, and what has to hold then.
//!
//! Each [`Target`] is a plain function on bytes. libFuzzer drives them (`fuzz_targets/`, `make fuzz`), and so does an
//! ordinary test with the seeds and a fixed set of mutations (`tests/smoke.rs`). Guarantees: a target depends on its
//! input alone; it panics when a promise is broken and never otherwise. Where a checksum would turn away everything a
//! fuzzer can make, the input decides whether checksums are put right first.

pub mod allocation;
pub mod draw;
pub mod mutate;
pub mod seal;
mod golden;
mod points;
mod nbd_messages;
mod nbd_replies;
mod nbd_server;
mod small_disk;
mod iscsi_messages;
mod iscsi_pdu;
mod iscsi_wire;
mod iscsi_words;
mod iscsi_client;
mod iscsi_script;
mod iscsi_server;
mod iscsi_guest;
mod iscsi_login;
mod scsi_commands;
mod reservations_file;
mod link_frame;
mod link_stream;
mod link_sender;
mod link_receiver;
mod journal_superblock;
mod journal_chunk;
mod journal_map;
mod memory;
mod history;
mod journal_file;
mod replica_file;
mod map_file;
mod inspect;
mod image_mark;
mod control_json;
mod config;
mod pairing;

/// One thing to be tried.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name on the command line and of the directory of its corpus.
    pub name: &'static str,
    /// Tries one input. True: it was accepted, so far as there is something to accept.
    pub run: fn(&[u8]) -> bool,
    /// Inputs made with the real encoders, all of which are accepted.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many mutations the smoke test tries: what takes about two seconds without optimisation.
    pub smoke_runs: u32,
}

/// Tries one input on the target of this name.
///
/// # Panics
/// When there is none, or when the target finds a broken promise.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("fuzz_targets/ names targets of this list").run)(input);
}

macro_rules! targets {
    ($($module:ident $runs:literal),* $(,)?) => {
        /// All targets, in the order of a write's way.
        pub const TARGETS: &[Target] = &[$(Target {
            name: stringify!($module),
            run: $module::run,
            seeds: $module::seeds,
            smoke_runs: $runs,
        }),*];
    };
}

targets! {
    nbd_messages 30_000,
    nbd_server 2_000,
    iscsi_messages 30_000,
    iscsi_login 3_000,
    scsi_commands 30_000,
    iscsi_server 2_000,
    reservations_file 300,
    journal_superblock 10_000,
    journal_chunk 10_000,
    journal_map 20_000,
    journal_file 1_000,
    replica_file 1_000,
    map_file 1_000,
    inspect 1_000,
    image_mark 1_000,
    link_frame 20_000,
    link_stream 5_000,
    link_sender 5_000,
    link_receiver 5_000,
    control_json 5_000,
    config 2_000,
    pairing 2_000,
}
