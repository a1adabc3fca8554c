//! The proxy does what it is told, and nothing else.

use super::{Proxy, Way};
use crate::clock::{Seen, wait_until};
use crate::ports::free_address;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// A server that sends back what it gets, one thread per connection.
fn echo() -> SocketAddr {
    let address = free_address().unwrap();
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut back = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut stream, &mut back);
            });
        }
    });
    address
}

fn through_proxy() -> (Proxy, TcpStream) {
    let proxy = Proxy::start(free_address().unwrap(), echo()).unwrap();
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (proxy, stream)
}

fn send_and_read(stream: &mut TcpStream, data: &[u8]) -> Vec<u8> {
    stream.write_all(data).unwrap();
    let mut back = vec![0; data.len()];
    stream.read_exact(&mut back).unwrap();
    back
}

#[test]
fn everything_passes_unchanged_and_is_counted() {
    let (proxy, mut stream) = through_proxy();
    let data: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
    assert_eq!(send_and_read(&mut stream, &data[..50_000]), data[..50_000]);
    // Counted after they were passed on, so the last ones may have arrived before.
    let counted = |way| {
        let passed = proxy.passed_bytes(way);
        Ok(Seen::when(passed == 50_000, || format!("{passed} bytes")))
    };
    wait_until("both ways are counted", PATIENCE, || counted(Way::Out)).unwrap();
    wait_until("both ways are counted", PATIENCE, || counted(Way::Back)).unwrap();
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn exactly_the_ordered_byte_is_corrupted() {
    let (proxy, mut stream) = through_proxy();
    proxy.corrupt_after(Way::Out, 1000);
    let back = send_and_read(&mut stream, &[0; 4096]);
    let changed: Vec<usize> = back
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte != 0)
        .map(|(at, _)| at)
        .collect();
    assert_eq!(changed, [1000]);
    assert_eq!(proxy.corrupted(), 1);
    assert_eq!(send_and_read(&mut stream, &[7; 4096]), [7; 4096]);
}

#[test]
fn a_connection_is_cut_after_exactly_the_ordered_bytes() {
    let (proxy, mut stream) = through_proxy();
    proxy.cut_after(Way::Back, 777);
    stream.write_all(&[1; 2000]).unwrap();
    let mut back = Vec::new();
    let _ = stream.read_to_end(&mut back);
    assert_eq!(back.len(), 777);
    assert_eq!(proxy.cuts(), 1);
}

#[test]
fn a_stalled_connection_stays_open_and_loses_nothing() {
    let (proxy, mut stream) = through_proxy();
    proxy.blackhole();
    stream.write_all(b"held back").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut back = [0; 9];
    assert!(stream.read(&mut back).is_err(), "nothing may pass a blackhole");
    proxy.restore();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"held back");
}

#[test]
fn a_cut_refuses_until_it_is_restored() {
    let (proxy, mut stream) = through_proxy();
    assert_eq!(send_and_read(&mut stream, b"before"), b"before");
    proxy.cut();
    let mut byte = [0];
    assert!(matches!(stream.read(&mut byte), Ok(0) | Err(_)));
    let mut refused = TcpStream::connect(proxy.address()).unwrap();
    assert!(matches!(refused.read(&mut byte), Ok(0) | Err(_)));
    proxy.restore();
    wait_until("a connection after the cut", PATIENCE, || {
        let mut stream = TcpStream::connect(proxy.address())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"x")?;
        Ok(Seen::when(stream.read(&mut byte).unwrap_or(0) == 1, || {
            "no echo".to_owned()
        }))
    })
    .unwrap();
}

#[test]
fn byte_by_byte_is_slow_but_whole() {
    let (proxy, mut stream) = through_proxy();
    proxy.limit_step(1);
    let data: Vec<u8> = (0..=255).collect();
    assert_eq!(send_and_read(&mut stream, &data), data);
}
