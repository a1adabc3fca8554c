//! Golden bytes of every message, and decoders against bytes nobody should send.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests index what they built"
)]

use super::{
    BlockSizes, ClientFlags, ClientOption, Command, CommandFlags, Errno, InfoRequest, OptionHeader,
    OptionReply, ProtocolError, ReplyStyle, Request, option_code,
};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, proptest};

/// Joins the commented pieces of a golden message.
fn join(fields: &[&[u8]]) -> Vec<u8> {
    fields.concat()
}

fn encoded(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out);
    out
}

#[test]
fn greeting_has_its_golden_bytes() {
    let golden = join(&[
        b"NBDMAGIC",   // magic
        b"IHAVEOPT",   // newstyle magic
        &[0x00, 0x03], // handshake flags: fixed newstyle, no zeroes
    ]);
    assert_eq!(encoded(super::put_greeting), golden);
}

#[test]
fn client_flags_accept_only_what_was_offered() {
    assert_eq!(
        ClientFlags::decode([0, 0, 0, 0]),
        Ok(ClientFlags { no_zeroes: false })
    );
    assert_eq!(
        ClientFlags::decode([0, 0, 0, 3]),
        Ok(ClientFlags { no_zeroes: true })
    );
    assert_eq!(
        ClientFlags::decode([0, 0, 0, 7]),
        Err(ProtocolError::ClientFlags(7))
    );
    assert_eq!(
        ClientFlags::decode([0x80, 0, 0, 1]),
        Err(ProtocolError::ClientFlags(0x8000_0001))
    );
}

#[test]
fn option_header_is_read_from_its_golden_bytes() {
    let golden = join(&[
        b"IHAVEOPT",   // magic
        &[0, 0, 0, 7], // option: go
        &[0, 0, 1, 2], // length
    ]);
    let header: [u8; 16] = golden.try_into().unwrap();
    assert_eq!(
        OptionHeader::decode(&header),
        Ok(OptionHeader { code: 7, length: 258 })
    );
    let mut wrong = header;
    wrong[7] = b'U';
    assert_eq!(
        OptionHeader::decode(&wrong),
        Err(ProtocolError::OptionMagic(0x4948_4156_454f_5055))
    );
}

fn golden_go() -> Vec<u8> {
    join(&[
        &[0, 0, 0, 5], // length of the name
        b"disk0",      // name
        &[0, 3],       // information requests
        &[0, 3],       // block size
        &[0, 1],       // name
        &[0x12, 0x34], // one that does not exist and is ignored
    ])
}

#[test]
fn go_is_read_from_its_golden_bytes() {
    let golden = golden_go();
    let wanted = InfoRequest {
        name: "disk0",
        wants_name: true,
        wants_description: false,
        wants_block_size: true,
    };
    assert_eq!(
        ClientOption::decode(option_code::GO, &golden),
        Ok(ClientOption::Go(wanted))
    );
    assert_eq!(
        ClientOption::decode(option_code::INFO, &golden),
        Ok(ClientOption::Info(wanted))
    );
}

#[test]
fn go_that_lies_about_its_lengths_is_malformed() {
    let golden = golden_go();
    for end in 0..golden.len() {
        assert!(
            ClientOption::decode(option_code::GO, &golden[..end]).is_err(),
            "cut at {end}"
        );
    }
    assert!(ClientOption::decode(option_code::GO, &[golden.as_slice(), &[0]].concat()).is_err());
    let mut huge_name = golden;
    huge_name[..4].copy_from_slice(&[0xff; 4]);
    assert!(ClientOption::decode(option_code::GO, &huge_name).is_err());
}

#[test]
fn options_without_data_refuse_data() {
    for code in [
        option_code::LIST,
        option_code::STARTTLS,
        option_code::STRUCTURED_REPLY,
    ] {
        assert!(ClientOption::decode(code, &[]).is_ok());
        assert!(ClientOption::decode(code, &[1]).is_err());
    }
    assert_eq!(
        ClientOption::decode(option_code::ABORT, &[1]),
        Ok(ClientOption::Abort)
    );
    assert_eq!(ClientOption::decode(77, &[1]), Ok(ClientOption::Unsupported));
    assert_eq!(
        ClientOption::decode(option_code::EXPORT_NAME, b"a"),
        Ok(ClientOption::ExportName("a"))
    );
    assert!(ClientOption::decode(option_code::EXPORT_NAME, &[0xff]).is_err());
    assert!(ClientOption::decode(option_code::EXPORT_NAME, &[b'a'; 4097]).is_err());
}

/// Magic of option replies.
const REPLY: [u8; 8] = [0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9];

#[test]
fn option_replies_have_their_golden_bytes() {
    let ack = join(&[&REPLY, &[0, 0, 0, 8], &[0, 0, 0, 1], &[0, 0, 0, 0]]);
    assert_eq!(
        encoded(|out| super::put_option_reply(out, 8, OptionReply::Ack, "")),
        ack
    );
    let unsupported = join(&[&REPLY, &[0, 0, 0, 5], &[0x80, 0, 0, 1], &[0, 0, 0, 2], b"no"]);
    assert_eq!(
        encoded(|out| super::put_option_reply(out, 5, OptionReply::Unsupported, "no")),
        unsupported
    );
    for (reply, code) in [
        (OptionReply::Invalid, 3),
        (OptionReply::Unknown, 6),
        (OptionReply::TooBig, 9),
    ] {
        assert_eq!(
            encoded(|out| super::put_option_reply(out, 7, reply, ""))[12..16],
            [0x80, 0, 0, code]
        );
    }
    let server = join(&[
        &REPLY,
        &[0, 0, 0, 3], // option: list
        &[0, 0, 0, 2], // type: server
        &[0, 0, 0, 9], // length
        &[0, 0, 0, 5], // length of the name
        b"disk0",
    ]);
    assert_eq!(encoded(|out| super::put_server(out, "disk0")), server);
}

#[test]
fn information_has_its_golden_bytes() {
    let export = join(&[
        &REPLY,
        &[0, 0, 0, 7],             // option: go
        &[0, 0, 0, 3],             // type: info
        &[0, 0, 0, 12],            // length
        &[0, 0],                   // kind: export
        &[0, 0, 0, 1, 0, 0, 0, 2], // size
        &[0x05, 0x6d],             // flags
    ]);
    assert_eq!(
        encoded(|out| super::put_info_export(out, 7, 0x1_0000_0002, 0x056d)),
        export
    );
    let name = join(&[&REPLY, &[0, 0, 0, 6], &[0, 0, 0, 3], &[0, 0, 0, 3], &[0, 1], b"d"]);
    assert_eq!(encoded(|out| super::put_info_name(out, 6, "d")), name);
    let description = join(&[
        &REPLY,
        &[0, 0, 0, 6],
        &[0, 0, 0, 3],
        &[0, 0, 0, 4],
        &[0, 2],
        b"ab",
    ]);
    assert_eq!(
        encoded(|out| super::put_info_description(out, 6, "ab")),
        description
    );
    let sizes = BlockSizes {
        minimum: 1,
        preferred: 4096,
        maximum: 64 << 20,
    };
    let block_size = join(&[
        &REPLY,
        &[0, 0, 0, 7],
        &[0, 0, 0, 3],
        &[0, 0, 0, 14],
        &[0, 3],          // kind: block size
        &[0, 0, 0, 1],    // minimum
        &[0, 0, 0x10, 0], // preferred
        &[0x04, 0, 0, 0], // maximum
    ]);
    assert_eq!(
        encoded(|out| super::put_info_block_size(out, 7, sizes)),
        block_size
    );
}

#[test]
fn export_name_reply_has_its_golden_bytes() {
    let short = join(&[&[0, 0, 0, 0, 0, 0, 0x10, 0], &[0x00, 0x01]]);
    assert_eq!(
        encoded(|out| super::put_export_name_reply(out, 4096, 1, true)),
        short
    );
    let padded = join(&[&short, &[0; 124]]);
    assert_eq!(
        encoded(|out| super::put_export_name_reply(out, 4096, 1, false)),
        padded
    );
}

fn golden_request(code: u16) -> Vec<u8> {
    join(&[
        &[0x25, 0x60, 0x95, 0x13],       // magic
        &[0x00, 0x03],                   // flags: FUA, NO_HOLE
        &code.to_be_bytes(),             // command
        &[1, 2, 3, 4, 5, 6, 7, 8],       // cookie
        &[0, 0, 0, 1, 0, 0, 0x02, 0x00], // offset
        &[0x00, 0x00, 0x10, 0x00],       // length
    ])
}

#[test]
fn requests_are_read_from_their_golden_bytes() {
    let commands = [
        (0, Command::Read),
        (1, Command::Write),
        (2, Command::Disconnect),
        (3, Command::Flush),
        (4, Command::Trim),
        (5, Command::Cache),
        (6, Command::WriteZeroes),
        (7, Command::Unknown(7)),
        (0xffff, Command::Unknown(0xffff)),
    ];
    for (code, command) in commands {
        let request = Request::decode(&golden_request(code)).unwrap().unwrap();
        let wanted = Request {
            flags: CommandFlags::FUA | CommandFlags::NO_HOLE,
            command,
            cookie: 0x0102_0304_0506_0708,
            offset: 0x1_0000_0200,
            length: 4096,
        };
        assert_eq!(request, wanted);
        assert_eq!(request.payload_bytes(), if code == 1 { 4096 } else { 0 });
        assert!(request.has(CommandFlags::FUA) && !request.has(CommandFlags::DF));
    }
}

#[test]
fn request_with_another_magic_is_refused_and_a_short_one_awaited() {
    let mut bytes = golden_request(0);
    assert_eq!(Request::decode(&bytes[..27]), Ok(None));
    bytes[3] = 0x14;
    assert_eq!(
        Request::decode(&bytes),
        Err(ProtocolError::RequestMagic(0x2560_9514))
    );
}

#[test]
fn simple_replies_have_their_golden_bytes() {
    let cookie = 0x0102_0304_0506_0708;
    let done = join(&[
        &[0x67, 0x44, 0x66, 0x98],
        &[0, 0, 0, 0],
        &[1, 2, 3, 4, 5, 6, 7, 8],
    ]);
    assert_eq!(encoded(|out| super::put_done(out, cookie)), done);
    assert_eq!(
        encoded(|out| super::put_read_header(out, ReplyStyle::Simple, cookie, 5, 9)),
        done
    );
    let errors = [
        (Errno::Perm, 1),
        (Errno::Io, 5),
        (Errno::Inval, 22),
        (Errno::NoSpc, 28),
        (Errno::Overflow, 75),
        (Errno::Shutdown, 108),
    ];
    for (errno, code) in errors {
        let golden = join(&[
            &[0x67, 0x44, 0x66, 0x98],
            &[0, 0, 0, code],
            &[1, 2, 3, 4, 5, 6, 7, 8],
        ]);
        assert_eq!(
            encoded(|out| super::put_failure(out, ReplyStyle::Simple, cookie, errno)),
            golden
        );
    }
}

#[test]
fn structured_replies_have_their_golden_bytes() {
    let style = ReplyStyle::Structured;
    let data = join(&[
        &[0x66, 0x8e, 0x33, 0xef], // magic
        &[0x00, 0x01],             // flags: done
        &[0x00, 0x01],             // type: offset data
        &[0, 0, 0, 0, 0, 0, 0, 7], // cookie
        &[0x00, 0x00, 0x02, 0x08], // length: offset and 512 bytes
        &[0, 0, 0, 0, 0, 0, 4, 0], // offset
    ]);
    assert_eq!(
        encoded(|out| super::put_read_header(out, style, 7, 1024, 512)),
        data
    );
    let none = join(&[
        &[0x66, 0x8e, 0x33, 0xef],
        &[0, 1],
        &[0, 0],
        &[0, 0, 0, 0, 0, 0, 0, 7],
        &[0; 4],
    ]);
    assert_eq!(
        encoded(|out| super::put_read_header(out, style, 7, 1024, 0)),
        none
    );
    let message = Errno::Perm.message().as_bytes();
    let error = join(&[
        &[0x66, 0x8e, 0x33, 0xef],
        &[0x00, 0x01],
        &[0x80, 0x01], // type: error
        &[0, 0, 0, 0, 0, 0, 0, 7],
        &[0, 0, 0, u8::try_from(message.len() + 6).unwrap()], // length
        &[0, 0, 0, 1],                                        // EPERM
        &[0, u8::try_from(message.len()).unwrap()],           // length of the message
        message,
    ]);
    assert_eq!(
        encoded(|out| super::put_failure(out, style, 7, Errno::Perm)),
        error
    );
}

#[test]
fn read_header_size_is_what_is_appended() {
    for style in [ReplyStyle::Simple, ReplyStyle::Structured] {
        for length in [0, 1, u32::MAX - 8] {
            let bytes = encoded(|out| super::put_read_header(out, style, 1, 2, length));
            assert_eq!(bytes.len(), super::read_header_bytes(style, length));
        }
    }
}

/// A golden message with one byte changed, cut anywhere.
fn mutated(golden: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let length = golden.len();
    (Just(golden), 0..length, any::<u8>(), 0..=length).prop_map(|(mut bytes, at, value, end)| {
        bytes[at] = value;
        bytes.truncate(end);
        bytes
    })
}

proptest! {
    #[test]
    fn random_options_never_panic(code in any::<u32>(), low in 0u32..12, data: Vec<u8>) {
        let _ = ClientOption::decode(code, &data);
        let _ = ClientOption::decode(low, &data);
    }

    #[test]
    fn mutated_go_is_refused_or_names_what_was_sent(data in mutated(golden_go())) {
        if let Ok(ClientOption::Go(request)) = ClientOption::decode(option_code::GO, &data) {
            let sent = data.windows(request.name.len().max(1)).any(|part| part == request.name.as_bytes());
            prop_assert!(sent || request.name.is_empty());
        }
    }

    #[test]
    fn random_requests_are_refused_by_their_magic(data: Vec<u8>) {
        match Request::decode(&data) {
            Ok(None) => prop_assert!(data.len() < super::REQUEST_HEADER_BYTES),
            Ok(Some(_)) => prop_assert_eq!(&data[..4], &[0x25, 0x60, 0x95, 0x13]),
            Err(_) => prop_assert!(data[..4] != [0x25, 0x60, 0x95, 0x13]),
        }
    }

    #[test]
    fn mutated_requests_never_panic(data in mutated(golden_request(1)), header: [u8; 16], flags: [u8; 4]) {
        let _ = Request::decode(&data);
        let _ = OptionHeader::decode(&header);
        let _ = ClientFlags::decode(flags);
    }
}
