//! The promises of the link format: golden bytes, total decoders, no damage accepted, documented numbers.

use super::limits::{
    ACK_BYTES, BEGIN_COPY_BYTES, COPY_DATA_BYTES, COPY_END_BYTES, COPY_HOLES_BYTES, COPY_SKIP_BYTES,
    HEADER_BYTES, HEARTBEAT_BYTES, HELLO_BYTES, MAX_BODY_BYTES, MAX_CHUNK_HEAD_BYTES, MAX_HEAD_BYTES,
    MAX_REFUSE_TEXT_BYTES, MIN_CHUNK_HEAD_BYTES, PAIR_BYTES, PAIRED_BYTES, REFUSE_FIXED_BYTES,
    VERIFIED_BYTES, VERIFY_BYTES, WELCOME_BYTES,
};
use super::{
    Ack, Assembler, BeginCopy, Confirm, CopyData, CopyEnd, CopyHoles, CopySkip, FrameKind, Heartbeat, Held,
    Hello, LinkError, Message, Pair, Paired, Refusal, RefuseCode, Signature, Verify, Welcome, chunk_digest,
    digests, name_is_valid, seal,
};
use crate::journal::{ChainPoint, ChunkHeader, CopyState, Record, RecordKind, encode_what};
use proptest::prelude::{any, prop, proptest};
use uuid::Uuid;

fn point(seed: u64) -> ChainPoint {
    ChainPoint {
        address: 0,
        sequence: seed,
        record: seed.saturating_mul(2),
        epoch: 3,
        sealed_at_us: 0x0001_0203_0405_0607,
        checksum: 0xA1B2_C3D4,
        ..ChainPoint::default()
    }
}

fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 2,
        segment_bytes: 4 << 20,
        features: 5,
        unit: Uuid::from_u128(1),
        instance: Uuid::from_u128(2),
        volume: Uuid::from_u128(3),
        volume_bytes: 1 << 30,
        epoch: 3,
        head: point(9),
        tail: point(4),
        unit_name: "local".into(),
        volume_name: "disk0".into(),
        remote_name: "far".into(),
    }
}

fn welcome() -> Vec<u8> {
    let welcome = Welcome {
        version: 2,
        copy: CopyState::Copying,
        copy_id: 0xC0FF_EE01,
        features: 0,
        unit: Uuid::from_u128(7),
        received: point(9),
        applied: 17,
        copy_offset: 4096,
        consistent_from: 12,
        unit_name: "remote".into(),
        history_mib: 0x0102_0304,
        batch_log2: 25,
        unconfirmed_log2: 24,
    };
    Message::Welcome(Box::new(welcome)).to_frame()
}

/// A frame of every kind, with its body.
fn frames() -> Vec<Vec<u8>> {
    let ack = Ack {
        received: point(9),
        applied: 18,
        copy_offset: 8192,
        copy: CopyState::Complete,
        begun: true,
    };
    let body = b"four of a kind";
    let copy = CopyData {
        offset: 65536,
        length: 14,
        checksum: crc32c::crc32c(body),
    };
    let mut copied = Message::CopyData(copy).to_frame();
    copied.extend_from_slice(body);
    let mut data = [9; 5000];
    data[4999] = 8;
    let told = digests(&data);
    let question = Verify::new(9, (8192, 5000), &told);
    let mut verify = Message::Verify(question).to_frame();
    verify.extend_from_slice(&told);
    vec![
        Message::Hello(Box::new(hello())).to_frame(),
        welcome(),
        Message::Refuse(Refusal::new(RefuseCode::Gap, 7, "chunk 7 is missing")).to_frame(),
        pair(),
        paired(),
        Message::BeginCopy(BeginCopy {
            base: point(5),
            volume_bytes: 1 << 30,
            copy_id: 0xC0FF_EE01,
        })
        .to_frame(),
        copied,
        Message::CopyHoles(CopyHoles {
            offset: 4096,
            length: 1 << 20,
        })
        .to_frame(),
        Message::CopyEnd(CopyEnd {
            consistent_from: 21,
            volume_bytes: 1 << 30,
        })
        .to_frame(),
        Message::CopySkip(CopySkip {
            offset: 1 << 20,
            length: 65536,
        })
        .to_frame(),
        verify,
        chunk(),
        Message::Confirm(Confirm { point: point(9) }).to_frame(),
        Message::Ack(ack).to_frame(),
        heartbeat(),
        Message::Verified(question.answer(&told, Some(&[9; 5000]))).to_frame(),
        held(),
    ]
}

fn held() -> Vec<u8> {
    let mut signature = Signature::default();
    signature.take(&chunk_digest(b"what", b"data"));
    signature.take(&chunk_digest(b"more", b""));
    let point = point(9);
    Message::Held(Held { point, signature }).to_frame()
}

fn heartbeat() -> Vec<u8> {
    let beat = Heartbeat {
        durable: 4,
        journaled: 5,
        time_us: 6,
    };
    Message::Heartbeat(beat).to_frame()
}

fn pair() -> Vec<u8> {
    let pair = Pair {
        secret: [0x5A; 16],
        unit: Uuid::from_u128(1),
        unit_name: "local".into(),
    };
    Message::Pair(pair).to_frame()
}

fn paired() -> Vec<u8> {
    let paired = Paired {
        unit: Uuid::from_u128(7),
        unit_name: "remote".into(),
    };
    Message::Paired(paired).to_frame()
}

fn chunk() -> Vec<u8> {
    let data = [0x5A; 700];
    let header = ChunkHeader {
        volume: Uuid::from_u128(3),
        epoch: 1,
        sequence: 5,
        first_record: 9,
        sealed_at_us: 77,
        previous_checksum: 8,
        blocks_before: 0,
        bytes_before: 0,
    };
    let write = |offset, payload: &[u8]| Record {
        offset,
        length: u32::try_from(payload.len()).unwrap(),
        checksum: crc32c::crc32c(payload),
        age_us: 1,
        kind: RecordKind::Write,
    };
    let (one, two) = data.split_at(512);
    let mut block = vec![0; 4096];
    let (length, _) = encode_what(&mut block, &header, &[write(0, one), write(9000, two)]);
    let what = block.get(..length).unwrap();
    let mut frame = seal(FrameKind::Chunk, what, 700).to_vec();
    frame.extend_from_slice(what);
    frame.extend_from_slice(&data);
    frame
}

/// Feeds bytes in pieces; whether a whole frame came out.
fn feed(assembler: &mut Assembler, bytes: &[u8], piece: usize) -> Result<bool, LinkError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let space = assembler.space();
        let count = space.len().min(rest.len()).min(piece);
        let (now, after) = rest.split_at(count);
        space.get_mut(..count).unwrap().copy_from_slice(now);
        rest = after;
        if assembler.advance(count)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn again(message: &Message<'_>, body: &[u8]) -> Vec<u8> {
    let mut frame = message.to_frame();
    frame.extend_from_slice(body);
    frame
}

#[test]
fn every_frame_decodes_to_what_was_encoded_however_it_is_cut() {
    for frame in frames() {
        for piece in [1, 7, 20, frame.len()] {
            let mut assembler = Assembler::default();
            assert!(assembler.is_between_frames());
            assert!(feed(&mut assembler, &frame, piece).unwrap());
            let (message, body) = assembler.message().unwrap();
            assert_eq!(again(&message, body), frame);
        }
    }
}

/// The golden file was laid out from the tables of the document by another program, not by this code.
#[test]
fn golden_bytes_of_every_frame() {
    let golden: Vec<(&str, &str)> = include_str!("golden.txt")
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    assert_eq!(golden.len(), FrameKind::ALL.len());
    for ((kind, frame), (name, expected)) in FrameKind::ALL.into_iter().zip(frames()).zip(golden) {
        let found: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(format!("{kind:?}"), name);
        assert_eq!(
            found, expected,
            "the bytes of {kind:?} changed: that needs a new version"
        );
    }
}

#[test]
fn no_damaged_byte_is_ever_accepted() {
    for frame in frames() {
        for at in 0..frame.len() {
            for mask in [0x01, 0x10, 0x80, 0xFF] {
                let mut damaged = frame.clone();
                *damaged.get_mut(at).unwrap() ^= mask;
                let mut assembler = Assembler::default();
                let accepted =
                    feed(&mut assembler, &damaged, damaged.len()) == Ok(true) && assembler.message().is_ok();
                assert!(
                    !accepted,
                    "kind {:?}: byte {at} ^ {mask:#x} was accepted",
                    frame.get(4)
                );
            }
        }
    }
}

#[test]
fn a_truncated_frame_is_never_complete() {
    for frame in frames() {
        for length in 0..frame.len() {
            let mut assembler = Assembler::default();
            assert_eq!(
                feed(&mut assembler, frame.get(..length).unwrap(), 4096),
                Ok(false)
            );
            assert!(assembler.message().is_err());
        }
    }
}

#[test]
fn no_length_beyond_the_limits_is_waited_for() {
    for kind in FrameKind::ALL {
        for (head, body) in [(u32::MAX, 0), (8193, 0), (0, u32::MAX), (64, MAX_BODY_BYTES + 1)] {
            let mut header = [0; HEADER_BYTES];
            let mut to = crate::fields::Writer::new(&mut header);
            to.u32(super::limits::MAGIC).u8(kind.code());
            let version = if kind.is_handshake() { 0 } else { 2 };
            to.u8(version).u16(0).u32(head).u32(body);
            let found = super::FrameHeader::decode(&header);
            assert!(
                matches!(found, Err(LinkError::Length { .. })),
                "{kind:?} {head} {body}: {found:?}"
            );
        }
    }
}

#[test]
fn names_that_could_leave_a_directory_are_refused() {
    for name in [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "-rf",
        ".hidden",
        "a b",
        "ä",
        "x\0",
        &"n".repeat(33),
    ] {
        assert!(!name_is_valid(name), "{name:?}");
        let mut hello = hello();
        hello.volume_name = name.into();
        let frame = Message::Hello(Box::new(hello)).to_frame();
        let mut assembler = Assembler::default();
        let complete = feed(&mut assembler, &frame, 4096);
        let cut_to_32 = name.len() > 32;
        assert_eq!(
            complete == Ok(true) && assembler.message().is_ok(),
            cut_to_32,
            "{name:?}"
        );
    }
    for name in ["disk0", "a", "web-1.example_x", &"n".repeat(32)] {
        assert!(name_is_valid(name), "{name:?}");
    }
}

#[test]
fn texts_of_refusals_hold_no_control_characters_and_fit() {
    let refusal = Refusal::new(
        RefuseCode::Unknown(999),
        1,
        &format!("a\nb\u{1b}[31m{}", "ü".repeat(600)),
    );
    assert!(refusal.text().starts_with("a?b?[31m"));
    assert!(refusal.text().len() <= MAX_REFUSE_TEXT_BYTES);
    let frame = Message::Refuse(refusal.clone()).to_frame();
    let mut assembler = Assembler::default();
    assert!(feed(&mut assembler, &frame, 4096).unwrap());
    assert!(matches!(assembler.message(), Ok((Message::Refuse(found), _)) if found == refusal));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), piece in 1_usize..64) {
        let mut assembler = Assembler::default();
        let _ = feed(&mut assembler, &bytes, piece);
        let _ = assembler.message();
    }

    #[test]
    fn random_heads_of_every_kind_never_panic(
        bytes in prop::collection::vec(any::<u8>(), MAX_HEAD_BYTES),
        kind in 0_usize..FrameKind::ALL.len(),
        small in any::<bool>(),
        body_bytes in 0_u32..32,
    ) {
        // Correctly sealed nonsense: what a broken or hostile peer can send.
        let kind = *FrameKind::ALL.get(kind).unwrap();
        let mut head = bytes.get(..*kind.head_bytes().start()).unwrap().to_vec();
        if small {
            head.iter_mut().for_each(|byte| *byte &= 1);
        }
        let body_bytes = body_bytes.clamp(*kind.body_bytes().start(), *kind.body_bytes().end());
        let mut frame = seal(kind, &head, body_bytes).to_vec();
        frame.extend_from_slice(&head);
        frame.extend_from_slice(bytes.get(..usize::try_from(body_bytes).unwrap()).unwrap());
        let mut assembler = Assembler::default();
        assert_eq!(feed(&mut assembler, &frame, 4096), Ok(true));
        if let Ok((message, body)) = assembler.message() {
            assert_eq!(again(&message, body), frame, "a decoded message is what was sent");
        }
    }
}

/// Every number of `docs/link-protocol.md` that a machine can compare: lines of the form
/// "| ... | `CONSTANT` | value |" and the tables of fields, whose rows follow each other without gaps.
#[test]
fn the_document_agrees_with_the_constants() {
    let text = include_str!("../../../docs/link-protocol.md");
    let sizes = [
        ("Frame header", HEADER_BYTES),
        ("Hello", HELLO_BYTES),
        ("Welcome", WELCOME_BYTES),
        ("Refuse", REFUSE_FIXED_BYTES),
        ("Pair", PAIR_BYTES),
        ("Paired", PAIRED_BYTES),
        ("BeginCopy", BEGIN_COPY_BYTES),
        ("CopyData", COPY_DATA_BYTES),
        ("CopyHoles", COPY_HOLES_BYTES),
        ("CopyEnd", COPY_END_BYTES),
        ("CopySkip", COPY_SKIP_BYTES),
        ("Verify", VERIFY_BYTES),
        ("Verified", VERIFIED_BYTES),
        ("Ack", ACK_BYTES),
        ("Held", super::limits::HELD_BYTES),
        ("Confirm", super::limits::CONFIRM_BYTES),
        ("Heartbeat", HEARTBEAT_BYTES),
        ("Chain point", super::limits::POINT_BYTES),
        ("Name", super::limits::NAME_FIELD_BYTES),
    ];
    for (title, bytes) in sizes {
        assert_eq!(documented_bytes(text, title), bytes, "table '{title}'");
    }
    for kind in FrameKind::ALL {
        let row = format!("| {} | `{kind:?}` |", kind.code());
        assert!(text.contains(&row), "no row '{row}'");
    }
    let named = [
        ("MAX_HEAD_BYTES", MAX_HEAD_BYTES as u64),
        ("MAX_BODY_BYTES", u64::from(MAX_BODY_BYTES)),
        ("MIN_CHUNK_HEAD_BYTES", MIN_CHUNK_HEAD_BYTES as u64),
        ("MAX_CHUNK_HEAD_BYTES", MAX_CHUNK_HEAD_BYTES as u64),
        ("MAX_REFUSE_TEXT_BYTES", MAX_REFUSE_TEXT_BYTES as u64),
        ("SILENCE_LIMIT_MS", super::limits::SILENCE_LIMIT_MS),
        ("HEARTBEAT_INTERVAL_MS", super::limits::HEARTBEAT_INTERVAL_MS),
        ("HELLO_TIMEOUT_MS", super::limits::HELLO_TIMEOUT_MS),
        ("FRAME_TIMEOUT_MS", super::limits::FRAME_TIMEOUT_MS),
        ("ZSTD_WINDOW_LOG", u64::from(super::limits::ZSTD_WINDOW_LOG)),
        ("LOWEST_VERSION", u64::from(super::limits::LOWEST_VERSION)),
        ("HIGHEST_VERSION", u64::from(super::limits::HIGHEST_VERSION)),
    ];
    for (name, value) in named {
        let row = format!("| `{name}` | {value} |");
        assert!(text.contains(&row), "no row '{row}'");
    }
    for code in 1..=14 {
        let row = format!("| {code} | {:?} |", RefuseCode::from_code(code));
        assert!(text.contains(&row), "no row '{row}'");
    }
}

/// Adds up the table after the heading; its offsets have to be the sums.
fn documented_bytes(text: &str, title: &str) -> usize {
    let heading = format!("### {title}\n");
    let section = text
        .split(&heading)
        .nth(1)
        .unwrap_or_else(|| panic!("no section '{title}'"));
    let section = section.split("\n### ").next().unwrap_or(section);
    let mut end = 0;
    for line in section.lines().filter(|line| line.starts_with("| ")) {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let numbers = (
            cells.next().map(str::parse::<usize>),
            cells.next().map(str::parse::<usize>),
        );
        if let (Some(Ok(offset)), Some(Ok(size))) = numbers {
            assert_eq!(offset, end, "table '{title}': '{line}'");
            end = offset.saturating_add(size);
        }
    }
    end
}
