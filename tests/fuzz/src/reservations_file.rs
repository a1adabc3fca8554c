//! Target: the file in which persistent reservations outlive a unit, with any content.
//!
//! Promises: no panic; whatever is in it, the volume is served; what PERSISTENT RESERVE IN tells is as long as it says; after a
//! registration that needs no key and CLEAR nobody is registered; what is then kept is read again as it was.

use crate::draw::Draw;
use crate::iscsi_client::{Client, Stage};
use crate::iscsi_script::{Command, Manner, Script, Step};
use crate::iscsi_server::session;
use std::path::Path;

/// Its name below the directory of reservations: that of the volume.
const FILE: &str = "reservations/disk0.json";
/// The identity of the volume.
const VOLUME: &str = "01010101010101010101010101010101";
const KINDS: [&str; 6] = [
    "WriteExclusive",
    "ExclusiveAccess",
    "WriteExclusiveRegistrantsOnly",
    "ExclusiveAccessRegistrantsOnly",
    "WriteExclusiveAllRegistrants",
    "ExclusiveAccessAllRegistrants",
];
/// The port of the initiator, as SCSI names it.
const PORT: &str = "iqn.2026-11.test:host,i,0x800000000001";

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    let content = match draw.u8() % 4 {
        0 => draw.rest().to_vec(),
        _ => likely(&mut draw),
    };
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let file = directory.path().join(FILE);
    std::fs::create_dir_all(directory.path().join("reservations")).expect("a directory");
    std::fs::write(&file, &content).expect("a file");
    let is_json = serde_json::from_slice::<serde_json::Value>(&content).is_ok();
    // Unit attention; keys, reservation, capabilities, full status; register whatever the key is, clear.
    let reads = [0, 1, 2, 3].map(reserve_in);
    let clears = [reserve_out(6, 0, 5), reserve_out(3, 5, 0)];
    let all = [command(&[0; 6], 0, Vec::new())]
        .into_iter()
        .chain(reads)
        .chain(clears);
    let answers = ask(all.collect(), directory.path());
    let (told, done) = answers.split_at(5);
    for (action, answer) in (0_u32..).zip(&told[1..]) {
        check_told(action, answer);
    }
    assert_eq!(
        done,
        [Some(Vec::new()), Some(Vec::new())],
        "registered, and cleared"
    );
    let again = [command(&[0; 6], 0, Vec::new()), reserve_in(0), reserve_in(1)];
    let answers = ask(again.to_vec(), directory.path());
    for answer in &answers[1..] {
        let answer = answer.as_ref().expect("it is told");
        assert_eq!(
            (answer.len(), &answer[4..8]),
            (8, [0; 4].as_slice()),
            "nobody is left"
        );
    }
    is_json
}

fn command(cdb: &[u8], takes: u32, gives: Vec<u8>) -> Command {
    let mut block = [0; 16];
    block[..cdb.len()].copy_from_slice(cdb);
    Command {
        lun: 1,
        attribute: 1,
        immediate: false,
        cdb: block,
        takes,
        gives,
        manner: Manner::Whole,
    }
}

fn reserve_in(action: u8) -> Command {
    command(&[0x5e, action, 0, 0, 0, 0, 0, 0xff, 0xff, 0], 0xffff, Vec::new())
}

fn reserve_out(action: u8, key: u64, action_key: u64) -> Command {
    let mut parameters = [key.to_be_bytes(), action_key.to_be_bytes()].concat();
    parameters.extend_from_slice(&[0; 8]);
    command(&[0x5f, action, 1, 0, 0, 0, 0, 0, 24, 0], 0, parameters)
}

/// The data of each command, or none if it was not carried out.
fn ask(commands: Vec<Command>, directory: &Path) -> Vec<Option<Vec<u8>>> {
    let steps = commands.into_iter().map(Step::Command).collect();
    let client = session(Client::new(Script::plain(steps)), (4096, 1 << 20), directory);
    assert_eq!(client.stage, Stage::Over);
    client.answers
}

fn check_told(action: u32, answer: &Option<Vec<u8>>) {
    // A reservation of others may keep it from us, but not what is registered and reserved.
    let answer = answer.as_ref().expect("reservations are told to everybody");
    let number = |at: usize| u32::from_be_bytes(*answer[at..].first_chunk().expect("a header")) as usize;
    match action {
        2 => assert_eq!(answer.len(), 8),
        _ => {
            let whole = 8 + number(4);
            assert_eq!(answer.len(), whole.min(0xffff), "as long as it says");
            assert!(action != 0 || number(4).is_multiple_of(8));
            assert!(action != 1 || matches!(number(4), 0 | 16));
        }
    }
}

fn likely(draw: &mut Draw<'_>) -> Vec<u8> {
    let how = draw.u8();
    let volume = if how & 1 == 0 { VOLUME } else { "02" };
    let mut registrants = serde_json::Map::new();
    for number in 0..u32::from(draw.u8() % 8) {
        let name = match draw.u8() {
            0..=99 => PORT.to_owned(),
            length @ 100..=199 => format!("{number},i,0x{}", "é".repeat(usize::from(length) * 4)),
            _ => String::from_utf8_lossy(draw.bytes(8)).into_owned(),
        };
        registrants.insert(name, draw.u64().into());
    }
    let held = match draw.u8() {
        0..=99 => serde_json::Value::Null,
        kind => serde_json::json!({
            "kind": KINDS[usize::from(kind) % KINDS.len()],
            "by": if how & 2 == 0 { PORT } else { "somebody" },
        }),
    };
    let kept = serde_json::json!({
        "volume": volume,
        "reservations": {
            "generation": draw.u32(),
            "registrants": registrants,
            "held": held,
            "asked_to_persist": how & 4 != 0,
        },
    });
    kept.to_string().into_bytes()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let kept = likely(&mut Draw::new(&[0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 7, 120, 120, 103]));
    vec![
        [&[0], kept.as_slice()].concat(),
        vec![
            1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 9, 150, 1, 1, 1, 1, 1, 1, 1, 1, 150, 2,
        ],
        vec![1, 2, 1, 150, 0, 0, 0, 0, 0, 0, 0, 9, 150, 1, 1, 1, 1, 1, 1],
        vec![1, 4, 0, 100],
    ]
}
