//! Target: everything an iSCSI initiator may send, decoded alone, and text.
//!
//! Promises: no panic; decoding takes no memory; a message means exactly its bytes, field by field where RFC 7143 has them;
//! the pairs of a text are parts of it within their limits, and survive being said anew.

use crate::allocation::measured;
use crate::draw::Draw;
use farside_protocol::iscsi::{
    HEADER_BYTES, Header, LogoutReason, Pairs, Request, RequestKind, Stage, TaskFunction, TaskManagement,
    padding, put_pair,
};

pub(crate) fn run(input: &[u8]) -> bool {
    let mut draw = Draw::new(input);
    if draw.u8() % 4 == 3 {
        return text(draw.rest());
    }
    let mut header = [0; HEADER_BYTES];
    let taken = draw.bytes(HEADER_BYTES);
    header[..taken.len()].copy_from_slice(taken);
    message(&header)
}

fn message(header: &[u8; HEADER_BYTES]) -> bool {
    let word = |at: usize| word(header, at);
    let ((lengths, request), held) = measured(|| (Header::decode(header), Request::decode(header)));
    assert_eq!(held, 0, "decoding a message takes no memory");
    assert_eq!(lengths.data_bytes, (word(4) & 0x00ff_ffff) as usize);
    assert_eq!(lengths.additional_bytes, usize::from(header[4]) * 4);
    assert!(lengths.padded_data_bytes().is_multiple_of(4));
    assert!(lengths.padded_data_bytes() - lengths.data_bytes < 4 && padding(lengths.data_bytes) < 4);
    assert_eq!(
        (request.immediate, request.lun, request.task_tag),
        (header[0] & 0x40 != 0, long(header, 8), word(16))
    );
    assert_eq!(
        (request.command_number, request.expected_status),
        (word(24), word(28))
    );
    check_kind(header, request.kind)
}

/// Whether the kind is one that initiators send.
fn check_kind(header: &[u8; HEADER_BYTES], kind: RequestKind) -> bool {
    let word = |at: usize| word(header, at);
    let (opcode, flags) = (header[0] & 0x3f, header[1]);
    let has = |bit: u8| flags & bit != 0;
    match (opcode, kind) {
        (0, RequestKind::Nop { transfer_tag }) => assert_eq!(transfer_tag, word(20)),
        (1, RequestKind::Command(command)) => {
            assert_eq!(
                (command.is_final, command.reads, command.writes),
                (has(0x80), has(0x40), has(0x20))
            );
            assert_eq!((command.attribute, command.expected_bytes), (flags & 7, word(20)));
            assert_eq!(command.cdb, header[32..]);
        }
        (2, RequestKind::Task(task)) => check_task(header, task),
        (3, RequestKind::Login(login)) => {
            assert_eq!((login.transit, login.continues), (has(0x80), has(0x40)));
            assert_eq!(
                (login.current.code(), login.next.code()),
                ((flags >> 2) & 3, flags & 3)
            );
            assert_eq!(login.versions, (header[2], header[3]));
            assert_eq!(
                (login.isid.as_slice(), login.tsih),
                (&header[8..14], half(header, 14))
            );
            assert_eq!(login.connection, half(header, 20));
            assert!(login.current != Stage::Reserved || (flags >> 2) & 3 == 2);
        }
        (4, RequestKind::Text(text)) => {
            assert_eq!((text.is_final, text.continues), (has(0x80), has(0x40)));
            assert_eq!(text.transfer_tag, word(20));
        }
        (5, RequestKind::DataOut(data)) => {
            assert_eq!((data.is_final, data.transfer_tag), (has(0x80), word(20)));
            assert_eq!((data.number, data.offset), (word(36), word(40)));
        }
        (6, RequestKind::Logout { reason, connection }) => {
            let code = flags & 0x7f;
            let known = [
                LogoutReason::CloseSession,
                LogoutReason::CloseConnection,
                LogoutReason::RemoveConnection,
            ];
            let expected = known.get(usize::from(code));
            assert_eq!(reason, *expected.unwrap_or(&LogoutReason::Unknown(code)));
            assert_eq!(connection, half(header, 20));
        }
        (0x10, RequestKind::Snack) => {}
        (_, RequestKind::Unknown(code)) => {
            assert_eq!(code, opcode);
            assert!(!matches!(opcode, 0..=6 | 0x10));
            return false;
        }
        (_, kind) => panic!("opcode {opcode:#x} is no {kind:?}"),
    }
    true
}

fn check_task(header: &[u8; HEADER_BYTES], task: TaskManagement) {
    let codes = [
        TaskFunction::AbortTask,
        TaskFunction::AbortTaskSet,
        TaskFunction::ClearAca,
        TaskFunction::ClearTaskSet,
        TaskFunction::LogicalUnitReset,
        TaskFunction::TargetWarmReset,
        TaskFunction::TargetColdReset,
        TaskFunction::TaskReassign,
    ];
    let code = header[1] & 0x7f;
    let known = usize::from(code).checked_sub(1).and_then(|at| codes.get(at));
    assert_eq!(task.function, *known.unwrap_or(&TaskFunction::Unknown(code)));
    assert_eq!(
        (task.referenced_tag, task.referenced_number),
        (word(header, 20), word(header, 32))
    );
}

fn long(header: &[u8; HEADER_BYTES], at: usize) -> u64 {
    let bytes = header[at..].first_chunk().expect("inside the header");
    u64::from_be_bytes(*bytes)
}

fn word(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_be_bytes(*header[at..].first_chunk().expect("inside the header"))
}

fn half(header: &[u8; HEADER_BYTES], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

/// Whether the text is a list of pairs.
fn text(bytes: &[u8]) -> bool {
    let (count, held) = measured(|| Pairs::new(bytes).count());
    assert_eq!(held, 0, "reading pairs takes no memory");
    assert!(count <= bytes.len() / 2 + 1, "a pair has at least two bytes");
    let Ok(pairs) = Pairs::new(bytes).collect::<Result<Vec<_>, _>>() else {
        return false;
    };
    let inside = |part: &str| part.is_empty() || bytes.as_ptr_range().contains(&part.as_ptr());
    let mut again = Vec::new();
    for (key, value) in &pairs {
        assert!(inside(key) && inside(value), "a part of the text");
        assert!((1..=63).contains(&key.len()) && value.len() <= 8192 && !key.contains('='));
        put_pair(&mut again, key, value);
    }
    let said_anew: Result<Vec<_>, _> = Pairs::new(&again).collect();
    assert_eq!(said_anew.as_deref(), Ok(pairs.as_slice()));
    true
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![
        b"\x03InitiatorName=iqn.2026-11.dev.example:host\0SessionType=Normal\0".to_vec(),
        b"\x03\0\0AuthMethod=CHAP,None\0HeaderDigest=CRC32C,None\0X-com.example=\0\0".to_vec(),
    ];
    for opcode in [0x40, 0x01, 0x42, 0x43, 0x04, 0x05, 0x46, 0x10] {
        let mut seed: Vec<u8> = (0..=48).collect();
        (seed[0], seed[1], seed[2]) = (0, opcode, 0x81);
        seeds.push(seed);
    }
    seeds
}
