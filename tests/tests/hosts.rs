//! What hosts may send, raw: pipelines, nonsense, resets, crowds. The right error each time, and the server goes on.

use anyhow::{Context as _, Result, ensure};
use farside_tests::BlockClient as _;
use farside_tests::clock::{Seen, wait_until};
use farside_tests::nbd::{NbdClient, RawNbd, Request, ServerError, command, flags, option, reply};
use farside_tests::units::{Pair, Sizes, VOLUME};
use farside_tests::{Random, World, limits, promise, soak};
use std::io;

const SIZE: u64 = Sizes::SMALL.disk_bytes();

fn pair(world: &World) -> Result<Pair<'_>> {
    Pair::start(world, Sizes::SMALL)
}

/// The error number of a refused request; the connection must still serve afterwards.
fn refused(client: &mut NbdClient, request: Request, payload: &[u8]) -> Result<ServerError> {
    let outcome = client.call(request, payload);
    let error = outcome
        .err()
        .with_context(|| format!("{request:?} was carried out"))?;
    let code = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<ServerError>())
        .copied();
    let code = code.with_context(|| format!("{request:?} ended the connection: {error}"))?;
    client
        .read(0, 512)
        .with_context(|| format!("the connection is unusable after {request:?}"))?;
    Ok(code)
}

#[test]
fn out_of_range_requests_get_their_error_and_the_connection_lives() {
    promise(|world| {
        let pair = pair(world)?;
        let mut client = pair.connect()?;
        let data = vec![1; 8192];
        for (offset, length) in [
            (SIZE, 4096),
            (SIZE - 4096, 8192),
            (u64::MAX - 4095, 4096),
            (u64::MAX, 1),
            (SIZE + 512, 512),
        ] {
            let at = |command| Request {
                command,
                offset,
                length,
                ..Request::default()
            };
            let payload = data.get(..length as usize).context("payload")?;
            ensure!(
                refused(&mut client, at(command::READ), &[])? == ServerError::INVALID,
                "read {offset}+{length}"
            );
            let write = refused(&mut client, at(command::WRITE), payload)?;
            ensure!(
                matches!(write, ServerError::NO_SPACE | ServerError::INVALID),
                "write {offset}+{length}: {write}"
            );
            for other in [command::TRIM, command::WRITE_ZEROES] {
                let code = refused(&mut client, at(other), &[])?;
                ensure!(
                    matches!(code, ServerError::NO_SPACE | ServerError::INVALID),
                    "{other} {offset}: {code}"
                );
            }
        }
        ensure!(
            client.read(SIZE - 8192, 8192)? == vec![0; 8192],
            "a refused write left something"
        );
        Ok(())
    });
}

#[test]
fn unknown_commands_and_flags_get_their_error_and_the_connection_lives() {
    promise(|world| {
        let pair = pair(world)?;
        let mut client = pair.connect()?;
        for command in [9, 77, 0xffff] {
            let code = refused(
                &mut client,
                Request {
                    command,
                    length: 512,
                    ..Request::default()
                },
                &[],
            )?;
            ensure!(code == ServerError::INVALID, "command {command}: {code}");
        }
        let flags_of = |flags| Request {
            command: command::WRITE_ZEROES,
            flags,
            length: 512,
            ..Request::default()
        };
        // Offered with zeroes, and nowhere else.
        client.write(0, &[1; 1024])?;
        client.call(flags_of(flags::FAST_ZERO), &[])?;
        ensure!(client.read(0, 1024)? == [[0; 512], [1; 512]].concat());
        let trim = Request {
            command: command::TRIM,
            ..flags_of(flags::FAST_ZERO)
        };
        ensure!(refused(&mut client, trim, &[])? == ServerError::INVALID);
        ensure!(refused(&mut client, flags_of(0x8000), &[])? == ServerError::INVALID);
        Ok(())
    });
}

#[test]
fn oversized_requests_are_refused_without_the_memory() {
    promise(|world| {
        let pair = pair(world)?;
        let before = pair.unit.process()?.resident_kib()?;
        for _ in 0..5 {
            let mut client = pair.connect()?;
            let read = Request {
                command: command::READ,
                length: u32::MAX,
                ..Request::default()
            };
            ensure!(refused(&mut client, read, &[])? == ServerError::INVALID);
            // A write that announces 4 GiB cannot be skipped politely: closing is right too.
            let request = Request {
                command: command::WRITE,
                length: u32::MAX,
                ..Request::default()
            };
            client.submit(request, &[0; 4096])?;
        }
        let after = pair.unit.process()?.resident_kib()?;
        ensure!(after < before + 64 * 1024, "from {before} to {after} KiB");
        pair.connect()?.read(0, 512)?;
        Ok(())
    });
}

#[test]
fn a_pipeline_sent_in_one_piece_is_answered_whole() {
    promise(|world| {
        let pair = pair(world)?;
        let mut client = pair.connect()?;
        let mut bytes = Vec::new();
        for cookie in 0..200_u64 {
            let request = Request {
                command: command::WRITE,
                cookie,
                offset: cookie * 512,
                length: 512,
                flags: 0,
            };
            bytes.extend_from_slice(&request.encode());
            bytes.extend_from_slice(&[u8::try_from(cookie)?; 512]);
        }
        // In two pieces that end inside a header, as TCP may deliver them.
        let (first, second) = bytes.split_at(100 * 540 + 13);
        client.raw().send(first)?;
        std::thread::sleep(limits::POLL);
        client.raw().send(second)?;
        let mut cookies: Vec<u64> = Vec::new();
        for _ in 0..200 {
            let header = client.raw().reply_header()?;
            ensure!(header.error == 0, "{header:?}");
            cookies.push(header.cookie);
        }
        cookies.sort_unstable();
        ensure!(cookies == (0..200).collect::<Vec<_>>(), "{cookies:?}");
        for cookie in 0..200_u64 {
            ensure!(
                client.read(cookie * 512, 512)? == vec![u8::try_from(cookie)?; 512],
                "write {cookie}"
            );
        }
        pair.expect_same_on_both_sides()
    });
}

#[test]
fn requests_byte_by_byte_are_served() {
    promise(|world| {
        let pair = pair(world)?;
        let mut client = pair.connect()?;
        let request = Request {
            command: command::WRITE,
            cookie: 5,
            offset: 3,
            length: 9,
            flags: 0,
        };
        for byte in request.encode().iter().chain(b"byte wise") {
            client.raw().send(&[*byte])?;
        }
        ensure!(client.raw().reply_header()?.error == 0);
        ensure!(client.read(3, 9)? == b"byte wise");
        Ok(())
    });
}

#[test]
fn unknown_and_malformed_options_are_answered_and_negotiation_goes_on() {
    promise(|world| {
        let pair = pair(world)?;
        let mut raw = RawNbd::greeted(&pair.endpoint())?;
        raw.send_option(0x1234_5678, b"no such option")?;
        ensure!(raw.option_reply()?.kind == reply::ERR_UNSUP);
        raw.send_option(option::LIST, b"no data allowed here")?;
        ensure!(raw.option_reply()?.kind == reply::ERR_INVALID);
        for data in [
            &b""[..],
            b"\0\0\0\xff",
            b"\xff\xff\xff\xffdisk0\0\0",
            b"\0\0\0\x05disk0\0\x09\0\x01",
        ] {
            raw.send_option(option::GO, data)?;
            let answer = raw.option_reply()?;
            ensure!(
                answer.kind & 0x8000_0000 != 0,
                "{data:02x?} was taken: {answer:?}"
            );
        }
        ensure!(raw.ask(option::INFO, VOLUME)?.size_bytes == SIZE);
        ensure!(raw.ask(option::GO, VOLUME)?.size_bytes == SIZE);
        Ok(())
    });
}

#[test]
fn garbage_ends_a_connection_and_harms_no_other() {
    promise(|world| {
        let pair = pair(world)?;
        let mut steady = pair.connect()?;
        let mut random = Random::new(world.seed());
        for round in 0..soak(60, 2000) {
            let length = usize::try_from(random.between(1, 400))?;
            let garbage = random.bytes(length);
            // At each stage: instead of the greeting's answer, of an option, of a request.
            let sent = match round % 3 {
                0 => RawNbd::connect(&pair.endpoint())?.send(&garbage),
                1 => RawNbd::greeted(&pair.endpoint())?.send(&garbage),
                _ => pair.connect()?.raw().send(&garbage),
            };
            // The server may already have hung up; that is its right.
            drop(sent);
            steady
                .read(0, 512)
                .with_context(|| format!("another connection suffered in round {round}"))?;
        }
        let mut raw = pair.connect()?;
        raw.raw().send(&[0xEE; 28])?;
        Ok(raw.raw().expect_closed()?)
    });
}

#[test]
fn a_claimed_but_never_sent_length_takes_no_memory() {
    promise(|world| {
        let pair = pair(world)?;
        let before = pair.unit.process()?.resident_kib()?;
        let mut held = Vec::new();
        for _ in 0..50 {
            let mut raw = RawNbd::greeted(&pair.endpoint())?;
            raw.send_option_claiming(option::GO, u32::MAX, b"\0\0")?;
            held.push(raw);
        }
        pair.connect()?.read(0, 512)?;
        let after = pair.unit.process()?.resident_kib()?;
        ensure!(after < before + 64 * 1024, "from {before} to {after} KiB");
        Ok(())
    });
}

#[test]
fn resets_with_requests_in_flight_harm_nobody() {
    promise(|world| {
        let pair = pair(world)?;
        let mut steady = pair.connect()?;
        for round in 0..soak(50, 500) {
            let mut client = pair.connect()?;
            for at in 0..64_u64 {
                let request = Request {
                    offset: at * 65536,
                    length: 65536,
                    ..Request::default()
                };
                client.submit(
                    Request {
                        command: command::READ,
                        ..request
                    },
                    &[],
                )?;
                if at % 8 == 0 {
                    client.submit(
                        Request {
                            command: command::WRITE,
                            ..request
                        },
                        &vec![7; 65536],
                    )?;
                }
            }
            client.raw().stream().reset_on_close()?;
            drop(client);
            steady
                .read(0, 512)
                .with_context(|| format!("after reset {round}"))?;
        }
        pair.expect_same_on_both_sides()
    });
}

#[test]
fn thousands_of_connections_leak_nothing() {
    promise(|world| {
        let pair = pair(world)?;
        let process = pair.unit.process()?;
        // Warm up, so that lazily made things are not taken for leaks.
        for _ in 0..100 {
            pair.connect()?.read(0, 512)?;
        }
        let (files, memory) = (process.open_files()?, process.resident_kib()?);
        for round in 0..2000 {
            match round % 4 {
                0 => drop(RawNbd::connect(&pair.endpoint())?),
                1 => drop(RawNbd::greeted(&pair.endpoint())?),
                2 => drop(pair.connect()?),
                _ => pair.connect()?.disconnect()?,
            }
        }
        wait_until(
            "the files of dropped connections to be closed",
            limits::STOP,
            || {
                let now = process.open_files()?;
                Ok(Seen::when(now <= files + 2, || {
                    format!("{now} open files, {files} before")
                }))
            },
        )?;
        let now = process.resident_kib()?;
        ensure!(
            now < memory + 16 * 1024,
            "resident memory grew from {memory} to {now} KiB"
        );
        Ok(())
    });
}

#[test]
fn a_flush_on_one_connection_covers_the_others() {
    promise(|world| {
        let pair = pair(world)?;
        for round in 0..soak(3, 20_u8) {
            let mut writers: Vec<NbdClient> = (0..4).map(|_| pair.connect()).collect::<Result<_>>()?;
            for (at, client) in writers.iter_mut().enumerate() {
                client.write(at as u64 * 8192 + 100, &[round + 1; 5000])?;
            }
            // Seen by all at once.
            ensure!(
                writers[3].read(100, 5000)? == vec![round + 1; 5000],
                "round {round}: not seen by another"
            );
            pair.connect()?.flush()?;
            pair.unit.kill9()?;
            pair.unit.start()?;
            let mut client = pair.connect()?;
            for at in 0..4 {
                let found = client.read(at * 8192 + 100, 5000)?;
                ensure!(
                    found == vec![round + 1; 5000],
                    "round {round}: the write of connection {at} is lost"
                );
            }
        }
        Ok(())
    });
}

#[test]
fn the_old_way_to_choose_an_export_works() {
    promise(|world| {
        let pair = pair(world)?;
        for (client_flags, padding) in [(3, 0), (1, 124)] {
            let mut raw = RawNbd::connect(&pair.endpoint())?;
            raw.greet(client_flags)?;
            raw.send_option(option::EXPORT_NAME, VOLUME.as_bytes())?;
            let described = raw.read_bytes(10 + padding)?;
            let size = described
                .first_chunk::<8>()
                .map(|bytes| u64::from_be_bytes(*bytes));
            ensure!(size == Some(SIZE), "{described:02x?}");
            raw.request(
                Request {
                    command: command::READ,
                    cookie: 7,
                    length: 16,
                    ..Request::default()
                },
                &[],
            )?;
            ensure!(raw.reply_header()?.cookie == 7);
            raw.read_bytes(16)?;
        }
        let mut raw = RawNbd::greeted(&pair.endpoint())?;
        raw.send_option(option::EXPORT_NAME, b"no-such-disk")?;
        Ok(raw.expect_closed()?)
    });
}

#[test]
fn an_aborted_negotiation_is_confirmed() {
    promise(|world| {
        let pair = pair(world)?;
        let mut raw = RawNbd::greeted(&pair.endpoint())?;
        raw.send_option(option::ABORT, &[])?;
        let answer = raw.option_reply();
        match answer {
            Ok(answer) => ensure!(answer.kind == reply::ACK, "{answer:?}"),
            Err(error) => ensure!(error.kind() == io::ErrorKind::UnexpectedEof, "{error}"),
        }
        pair.connect()?.read(0, 512)?;
        Ok(())
    });
}
