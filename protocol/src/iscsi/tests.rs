//! Golden bytes of every message.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests index what they built"
)]

use super::*;
use proptest::prelude::{any, prop_assert, proptest};

const SERIAL: Serial = Serial {
    status: 0x0101_0101,
    expected_command: 0x0202_0202,
    max_command: 0x0303_0303,
};
const SERIAL_BYTES: [u8; 12] = [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3];

fn header(parts: &[&[u8]]) -> [u8; HEADER_BYTES] {
    parts.concat().try_into().expect("a golden header has 48 bytes")
}

#[test]
fn lengths_are_read_from_any_header() {
    let mut bytes = [0; HEADER_BYTES];
    bytes[4..8].copy_from_slice(&[2, 0x01, 0x00, 0x02]);
    let lengths = Header::decode(&bytes);
    assert_eq!((lengths.additional_bytes, lengths.data_bytes), (8, 65538));
    assert_eq!(lengths.padded_data_bytes(), 65540);
    assert_eq!([0, 1, 2, 3, 4].map(padding), [0, 3, 2, 1, 0]);
}

#[test]
fn a_command_is_read_from_its_golden_bytes() {
    let golden = header(&[
        &[0x41, 0xe1, 0, 0],          // SCSI command, immediate; final, reads, writes, simple
        &[0, 0, 0, 0],                // lengths
        &[0, 1, 0, 0, 0, 0, 0, 0],    // LUN 1
        &[0, 0, 0, 7],                // task tag
        &[0, 0, 0x10, 0],             // expected data transfer length
        &[0, 0, 0, 9],                // CmdSN
        &[0, 0, 0, 11],               // ExpStatSN
        &[0x28, 0, 0, 0, 0, 8, 0, 0], // READ(10)
        &[8, 0, 0, 0, 0, 0, 0, 5],
    ]);
    let request = Request::decode(&golden);
    assert!(request.immediate);
    assert_eq!((request.lun, request.task_tag), (1 << 48, 7));
    assert_eq!((request.command_number, request.expected_status), (9, 11));
    let command = Command {
        is_final: true,
        reads: true,
        writes: true,
        attribute: 1,
        expected_bytes: 4096,
        cdb: [0x28, 0, 0, 0, 0, 8, 0, 0, 8, 0, 0, 0, 0, 0, 0, 5],
    };
    assert_eq!(request.kind, RequestKind::Command(command));
}

#[test]
fn a_login_is_read_from_its_golden_bytes() {
    let golden = header(&[
        &[0x43, 0x87, 5, 3],                // login; transit, operational to full feature; versions
        &[0, 0, 1, 0],                      // lengths
        &[0x80, 1, 2, 3, 4, 5, 0x12, 0x34], // ISID and TSIH
        &[0, 0, 0, 7],                      // task tag
        &[0, 2, 0, 0],                      // CID
        &[0, 0, 0, 9],                      // CmdSN
        &[0; 20],
    ]);
    let login = Login {
        transit: true,
        continues: false,
        current: Stage::Operational,
        next: Stage::FullFeature,
        versions: (5, 3),
        isid: [0x80, 1, 2, 3, 4, 5],
        tsih: 0x1234,
        connection: 2,
    };
    assert_eq!(Request::decode(&golden).kind, RequestKind::Login(login));
}

#[test]
fn the_other_requests_are_read_from_their_golden_bytes() {
    let golden = |opcode: u8, flags: u8| {
        header(&[
            &[opcode, flags, 0, 0],
            &[0; 16],
            &[0, 5, 0, 6], // target transfer tag, referenced tag, CID
            &[0; 8],
            &[0, 0, 0, 7], // RefCmdSN
            &[0, 0, 0, 8], // DataSN
            &[0, 0, 0, 9], // buffer offset
            &[0; 4],
        ])
    };
    let kind = |opcode, flags| Request::decode(&golden(opcode, flags)).kind;
    let transfer_tag = 0x0005_0006;
    assert_eq!(kind(0x40, 0x80), RequestKind::Nop { transfer_tag });
    let reset = TaskManagement {
        function: TaskFunction::LogicalUnitReset,
        referenced_tag: transfer_tag,
        referenced_number: 7,
    };
    assert_eq!(kind(0x02, 0x85), RequestKind::Task(reset));
    let text = Text {
        is_final: false,
        continues: true,
        transfer_tag,
    };
    assert_eq!(kind(0x04, 0x40), RequestKind::Text(text));
    let data = DataOut {
        is_final: true,
        transfer_tag,
        number: 8,
        offset: 9,
    };
    assert_eq!(kind(0x05, 0x80), RequestKind::DataOut(data));
    let logout = RequestKind::Logout {
        reason: LogoutReason::CloseConnection,
        connection: 5,
    };
    assert_eq!(kind(0x46, 0x81), logout);
    assert_eq!(kind(0x10, 0x80), RequestKind::Snack);
    for unknown in [0x07, 0x1c, 0x20, 0x25, 0x3f] {
        assert_eq!(kind(unknown, 0), RequestKind::Unknown(unknown));
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn responses_have_their_golden_bytes() {
    let tag = [0, 0, 0, 7];
    let golden = |first: [u8; 4], length: u8, lun: [u8; 8], transfer: [u8; 4], rest: [u8; 12]| {
        header(&[
            &first,
            &[0, 0, 0, length],
            &lun,
            &tag,
            &transfer,
            &SERIAL_BYTES,
            &rest,
        ])
    };
    let (none, zero) = ([0xff; 4], [0; 4]);
    assert_eq!(
        nop_in(7, 1 << 48, NO_TAG, SERIAL).bytes(),
        golden([0x20, 0x80, 0, 0], 0, [0, 1, 0, 0, 0, 0, 0, 0], none, [0; 12])
    );
    assert_eq!(
        scsi_response(7, 2, Residual::Underflow(512), 3, SERIAL)
            .with_data(20)
            .bytes(),
        golden(
            [0x21, 0x82, 0, 2],
            20,
            [0; 8],
            zero,
            [0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 2, 0]
        )
    );
    assert_eq!(
        task_response(7, TaskResponse::NoTask, SERIAL).bytes(),
        golden([0x22, 0x80, 1, 0], 0, [0; 8], zero, [0; 12])
    );
    let identity = ([0x80, 1, 2, 3, 4, 5], 0x1234);
    let stages = (Stage::Operational, Some(Stage::FullFeature));
    assert_eq!(
        login_response(7, identity, stages, LoginStatus::Success, SERIAL).bytes(),
        golden(
            [0x23, 0x87, 0, 0],
            0,
            [0x80, 1, 2, 3, 4, 5, 0x12, 0x34],
            zero,
            [0; 12]
        )
    );
    assert_eq!(
        login_response(7, identity, stages, LoginStatus::NotFound, SERIAL).bytes(),
        golden(
            [0x23, 0, 0, 0],
            0,
            [0x80, 1, 2, 3, 4, 5, 0x12, 0x34],
            zero,
            [2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        )
    );
    assert_eq!(
        text_response(7, None, SERIAL).with_data(4).bytes(),
        golden([0x24, 0x80, 0, 0], 4, [0; 8], none, [0; 12])
    );
    assert_eq!(
        text_response(7, Some(9), SERIAL).bytes(),
        golden([0x24, 0x40, 0, 0], 0, [0; 8], [0, 0, 0, 9], [0; 12])
    );
    assert_eq!(
        logout_response(7, LogoutResponse::NoRecovery, SERIAL).bytes(),
        golden([0x26, 0x80, 2, 0], 0, [0; 8], zero, [0; 12])
    );
    assert_eq!(
        ready_to_transfer(7, (1 << 48, 5), 2, (4096, 8192), SERIAL).bytes(),
        golden(
            [0x31, 0x80, 0, 0],
            0,
            [0, 1, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 5],
            [0, 0, 0, 2, 0, 0, 0x10, 0, 0, 0, 0x20, 0]
        )
    );
}

#[test]
fn data_goes_in_with_or_without_a_status() {
    let part = data_in(7, (3, 4096), false, None, SERIAL).with_data(4096);
    let golden = header(&[
        &[0x25, 0, 0, 0],
        &[0, 0, 0x10, 0],
        &[0; 8],
        &[0, 0, 0, 7],
        &[0xff; 4],
        &[0; 4], // no status number
        &SERIAL_BYTES[4..],
        &[0, 0, 0, 3],    // DataSN
        &[0, 0, 0x10, 0], // buffer offset
        &[0; 4],
    ]);
    assert_eq!(part.bytes(), golden);
    let last = data_in(7, (3, 4096), true, Some((0, Residual::Overflow(6))), SERIAL).bytes();
    assert_eq!(last[..4], [0x25, 0x85, 0, 0]);
    assert_eq!(last[24..36], SERIAL_BYTES);
    assert_eq!(last[44..], [0, 0, 0, 6]);
}

#[test]
fn messages_that_nobody_asked_for_have_their_golden_bytes() {
    let asks = async_message(0, AsyncEvent::LogoutRequest { within: 10 }, SERIAL).bytes();
    assert_eq!(asks[..2], [0x32, 0x80]);
    assert_eq!(asks[16..20], [0xff; 4]);
    assert_eq!(asks[36..], [1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0]);
    let rejects = reject(RejectReason::Protocol, SERIAL).bytes();
    assert_eq!(rejects[..8], [0x3f, 0x80, 4, 0, 0, 0, 0, 48]);
    assert_eq!(rejects[16..20], [0xff; 4]);
    assert_eq!(rejects[24..36], SERIAL_BYTES);
}

#[test]
fn pairs_are_read_one_after_another() {
    let read = |text: &[u8]| -> Result<Vec<(String, String)>, MalformedText> {
        let pairs = Pairs::new(text).map(|pair| pair.map(|(key, value)| (key.to_owned(), value.to_owned())));
        pairs.collect()
    };
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(read(b""), Ok(vec![]));
    assert_eq!(
        read(b"A=1\0B=x=y\0C=\0\0\0"),
        Ok(vec![pair("A", "1"), pair("B", "x=y"), pair("C", "")])
    );
    assert_eq!(read(b"A=1"), Ok(vec![pair("A", "1")]), "the last one may be open");
    for wrong in [&b"A\0"[..], b"=1\0", b"A=\xff\0", &[b'k'; 80]] {
        assert!(read(wrong).is_err(), "{wrong:?}");
    }
    let long = [b"A=".as_slice(), &[b'v'; 8193], b"\0B=1\0"].concat();
    assert!(read(&long).is_err());
    let mut out = Vec::new();
    put_pair(&mut out, "Key", "value");
    assert_eq!(out, b"Key=value\0");
}

proptest! {
    #[test]
    fn any_header_and_any_text_is_read(low: [u8; 32], high: [u8; 16], text in any::<Vec<u8>>()) {
        let bytes: [u8; HEADER_BYTES] = [&low[..], &high].concat().try_into().unwrap();
        let _ = Request::decode(&bytes);
        prop_assert!(Header::decode(&bytes).padded_data_bytes() <= 1 << 24);
        prop_assert!(Pairs::new(&text).count() <= text.len());
    }
}
