//! Requests and replies.

use super::{encoded, join};
use crate::nbd::{
    BlockStatus, Command, CommandFlags, Errno, MessageStyle, ProtocolError, ReplyTo, Request,
    block_status_bytes, put_block_status, put_data_header, put_done, put_failure, put_hole, put_read_header,
    read_header_bytes,
};

fn to(cookie: u64, offset: u64) -> ReplyTo {
    ReplyTo { cookie, offset }
}

pub(super) fn golden_request(code: u16) -> Vec<u8> {
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
        (7, Command::BlockStatus),
        (8, Command::Unknown(8)),
        (0xffff, Command::Unknown(0xffff)),
    ];
    for (code, command) in commands {
        let request = Request::decode(&golden_request(code), MessageStyle::Structured)
            .unwrap()
            .unwrap();
        let wanted = Request {
            flags: CommandFlags::FUA | CommandFlags::NO_HOLE,
            command,
            cookie: 0x0102_0304_0506_0708,
            offset: 0x1_0000_0200,
            length: 4096,
            has_payload: code == 1,
        };
        assert_eq!(request, wanted);
        assert_eq!(request.payload_bytes(), if code == 1 { 4096 } else { 0 });
        assert!(request.has(CommandFlags::FUA) && !request.has(CommandFlags::DF));
    }
}

fn golden_extended_request(flags: u8) -> Vec<u8> {
    join(&[
        &[0x21, 0xe4, 0x1c, 0x71],       // magic
        &[0x00, flags],                  // flags
        &[0x00, 0x07],                   // command: block status
        &[1, 2, 3, 4, 5, 6, 7, 8],       // cookie
        &[0, 0, 0, 1, 0, 0, 0x02, 0x00], // offset
        &[0, 0, 0, 9, 0, 0, 0x10, 0x00], // length
    ])
}

#[test]
fn an_extended_request_says_itself_whether_it_has_a_payload() {
    for (flags, has_payload) in [(0x08, false), (0x28, true)] {
        let golden = golden_extended_request(flags);
        let request = Request::decode(&golden, MessageStyle::Extended).unwrap().unwrap();
        let wanted = Request {
            flags: u16::from(flags),
            command: Command::BlockStatus,
            cookie: 0x0102_0304_0506_0708,
            offset: 0x1_0000_0200,
            length: 0x9_0000_1000,
            has_payload,
        };
        assert_eq!(request, wanted);
        assert_eq!(
            request.payload_bytes(),
            if has_payload { 0x9_0000_1000 } else { 0 }
        );
        assert_eq!(Request::decode(&golden[..31], MessageStyle::Extended), Ok(None));
        let compact = Request::decode(&golden, MessageStyle::Structured);
        assert_eq!(compact, Err(ProtocolError::RequestMagic(0x21e4_1c71)));
    }
}

#[test]
fn request_with_another_magic_is_refused_and_a_short_one_awaited() {
    let mut bytes = golden_request(0);
    assert_eq!(Request::decode(&bytes[..27], MessageStyle::Simple), Ok(None));
    bytes[3] = 0x14;
    assert_eq!(
        Request::decode(&bytes, MessageStyle::Simple),
        Err(ProtocolError::RequestMagic(0x2560_9514))
    );
}

#[test]
fn simple_replies_have_their_golden_bytes() {
    let to = to(0x0102_0304_0506_0708, 5);
    let done = join(&[
        &[0x67, 0x44, 0x66, 0x98],
        &[0, 0, 0, 0],
        &[1, 2, 3, 4, 5, 6, 7, 8],
    ]);
    for style in [MessageStyle::Simple, MessageStyle::Structured] {
        assert_eq!(encoded(|out| put_done(out, style, to)), done);
    }
    assert_eq!(
        encoded(|out| put_read_header(out, MessageStyle::Simple, to, 9)),
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
            encoded(|out| put_failure(out, MessageStyle::Simple, to, errno)),
            golden
        );
    }
}

#[test]
fn structured_replies_have_their_golden_bytes() {
    let style = MessageStyle::Structured;
    let data = join(&[
        &[0x66, 0x8e, 0x33, 0xef], // magic
        &[0x00, 0x01],             // flags: done
        &[0x00, 0x01],             // type: offset data
        &[0, 0, 0, 0, 0, 0, 0, 7], // cookie
        &[0x00, 0x00, 0x02, 0x08], // length: offset and 512 bytes
        &[0, 0, 0, 0, 0, 0, 4, 0], // offset
    ]);
    assert_eq!(encoded(|out| put_read_header(out, style, to(7, 1024), 512)), data);
    let none = join(&[
        &[0x66, 0x8e, 0x33, 0xef],
        &[0, 1],
        &[0, 0],
        &[0, 0, 0, 0, 0, 0, 0, 7],
        &[0; 4],
    ]);
    assert_eq!(encoded(|out| put_read_header(out, style, to(7, 1024), 0)), none);
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
        encoded(|out| put_failure(out, style, to(7, 0), Errno::Perm)),
        error
    );
}

#[test]
fn pieces_of_a_read_have_their_golden_bytes() {
    let data = join(&[
        &[0x66, 0x8e, 0x33, 0xef], // magic
        &[0x00, 0x00],             // flags: more follows
        &[0x00, 0x01],             // type: offset data
        &[0, 0, 0, 0, 0, 0, 0, 7], // cookie
        &[0, 0, 0, 13],            // length: offset and five bytes
        &[0, 0, 0, 0, 0, 0, 4, 0], // offset
    ]);
    let style = MessageStyle::Structured;
    assert_eq!(
        encoded(|out| put_data_header(out, style, to(7, 0), (1024, 5), false)),
        data
    );
    let hole = join(&[
        &[0x6e, 0x8a, 0x27, 0x8c],  // magic
        &[0x00, 0x01],              // flags: done
        &[0x00, 0x02],              // type: offset hole
        &[0, 0, 0, 0, 0, 0, 0, 7],  // cookie
        &[0, 0, 0, 0, 0, 0, 2, 0],  // offset of the request
        &[0, 0, 0, 0, 0, 0, 0, 12], // length
        &[0, 0, 0, 0, 0, 0, 4, 0],  // offset
        &[0, 0, 0, 5],              // size of the hole
    ]);
    let style = MessageStyle::Extended;
    assert_eq!(
        encoded(|out| put_hole(out, style, to(7, 512), (1024, 5), true)),
        hole
    );
}

#[test]
fn extended_replies_have_their_golden_bytes() {
    let style = MessageStyle::Extended;
    let header = |kind: [u8; 2], length: u8| {
        join(&[
            &[0x6e, 0x8a, 0x27, 0x8c],      // magic
            &[0x00, 0x01],                  // flags: done
            &kind,                          // type
            &[0, 0, 0, 0, 0, 0, 0, 7],      // cookie
            &[0, 0, 0, 0, 0, 0, 4, 0],      // offset of the request
            &[0, 0, 0, 0, 0, 0, 0, length], // length
        ])
    };
    let none = header([0, 0], 0);
    assert_eq!(encoded(|out| put_done(out, style, to(7, 1024))), none);
    assert_eq!(encoded(|out| put_read_header(out, style, to(7, 1024), 0)), none);
    let data = join(&[&header([0, 1], 13), &[0, 0, 0, 0, 0, 0, 4, 0]]);
    assert_eq!(encoded(|out| put_read_header(out, style, to(7, 1024), 5)), data);
    let message = Errno::Inval.message().as_bytes();
    let message_bytes = u8::try_from(message.len()).unwrap();
    let error = join(&[
        &header([0x80, 1], message_bytes + 6),
        &[0, 0, 0, 22],      // EINVAL
        &[0, message_bytes], // length of the message
        message,
    ]);
    assert_eq!(
        encoded(|out| put_failure(out, style, to(7, 1024), Errno::Inval)),
        error
    );
}

#[test]
fn the_block_status_has_its_golden_bytes() {
    let extents = [
        BlockStatus {
            length: 4096,
            hole: false,
            zero: true,
        },
        BlockStatus {
            length: 0x10_0000,
            hole: true,
            zero: true,
        },
    ];
    let structured = join(&[
        &[0x66, 0x8e, 0x33, 0xef],
        &[0x00, 0x01],             // flags: done
        &[0x00, 0x05],             // type: block status
        &[0, 0, 0, 0, 0, 0, 0, 7], // cookie
        &[0, 0, 0, 20],            // length
        &[0, 0, 0, 3],             // context
        &[0, 0, 0x10, 0],          // length of the first extent
        &[0, 0, 0, 2],             // reads as zeroes
        &[0, 0x10, 0, 0],          // length of the second
        &[0, 0, 0, 3],             // takes no space
    ]);
    let put = |style| encoded(|out| put_block_status(out, style, to(7, 1024), 3, &extents));
    assert_eq!(put(MessageStyle::Structured), structured);
    let extended = join(&[
        &[0x6e, 0x8a, 0x27, 0x8c],
        &[0x00, 0x01],              // flags: done
        &[0x00, 0x06],              // type: extended block status
        &[0, 0, 0, 0, 0, 0, 0, 7],  // cookie
        &[0, 0, 0, 0, 0, 0, 4, 0],  // offset of the request
        &[0, 0, 0, 0, 0, 0, 0, 40], // length
        &[0, 0, 0, 3],              // context
        &[0, 0, 0, 2],              // number of extents
        &[0, 0, 0, 0, 0, 0, 0x10, 0],
        &[0, 0, 0, 0, 0, 0, 0, 2],
        &[0, 0, 0, 0, 0, 0x10, 0, 0],
        &[0, 0, 0, 0, 0, 0, 0, 3],
    ]);
    assert_eq!(put(MessageStyle::Extended), extended);
    for style in [MessageStyle::Structured, MessageStyle::Extended] {
        assert_eq!(put(style).len(), block_status_bytes(style, 2));
    }
}

#[test]
fn read_header_size_is_what_is_appended() {
    for style in [
        MessageStyle::Simple,
        MessageStyle::Structured,
        MessageStyle::Extended,
    ] {
        for length in [0, 1, u32::MAX - 8] {
            let bytes = encoded(|out| put_read_header(out, style, to(1, 2), length));
            assert_eq!(bytes.len(), read_header_bytes(style, length));
        }
    }
}
