//! A TCP proxy that a link or a client is put through, to do to it what networks do: cut, stall, slow down, corrupt.
//!
//! It never invents data: what passes is what was sent, but for the one byte it was told to corrupt.

use crate::limits;
use crate::world::lock;
use anyhow::{Result, bail};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The two ways through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who connects to who is configured behind the proxy.
    Out,
    /// Back.
    Back,
}

/// No byte is to be cut at or corrupted.
const NEVER: i64 = i64::MAX;

#[derive(Debug)]
struct Lane {
    stalled: AtomicBool,
    passed_bytes: AtomicU64,
    cut_in: AtomicI64,
    corrupt_in: AtomicI64,
}

impl Lane {
    fn new() -> Self {
        Self {
            stalled: AtomicBool::new(false),
            passed_bytes: AtomicU64::new(0),
            cut_in: AtomicI64::new(NEVER),
            corrupt_in: AtomicI64::new(NEVER),
        }
    }
}

#[derive(Debug)]
struct Orders {
    target: SocketAddr,
    refuse: AtomicBool,
    over: AtomicBool,
    largest_step_bytes: AtomicU64,
    delay_ms: AtomicU64,
    connections: AtomicU64,
    cuts: AtomicU64,
    corrupted: AtomicU64,
    out: Lane,
    back: Lane,
    open: Mutex<Vec<TcpStream>>,
}

/// A running proxy; it ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    orders: Arc<Orders>,
    listener: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on `address` and passes every connection on to `target`.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn start(address: SocketAddr, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let orders = Arc::new(Orders {
            target,
            refuse: AtomicBool::new(false),
            over: AtomicBool::new(false),
            largest_step_bytes: AtomicU64::new(limits::PROXY_BUFFER_BYTES as u64),
            delay_ms: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            corrupted: AtomicU64::new(0),
            out: Lane::new(),
            back: Lane::new(),
            open: Mutex::default(),
        });
        let shared = Arc::clone(&orders);
        let listener = std::thread::spawn(move || accept_all(&listener, &shared));
        Ok(Self {
            address,
            orders,
            listener: Some(listener),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection and refuses new ones until `restore`.
    pub fn cut(&self) {
        self.orders.refuse.store(true, Ordering::SeqCst);
        self.drop_connections();
    }

    /// Ends every connection; new ones may come at once.
    pub fn drop_connections(&self) {
        for stream in lock(&self.orders.open).drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Passes everything again.
    pub fn restore(&self) {
        self.orders.refuse.store(false, Ordering::SeqCst);
        self.orders.delay_ms.store(0, Ordering::SeqCst);
        self.limit_step(limits::PROXY_BUFFER_BYTES);
        self.stall(Way::Out, false);
        self.stall(Way::Back, false);
    }

    /// Lets nothing through one way, while the connection stays open (half-open, or one direction dropped).
    pub fn stall(&self, way: Way, stalled: bool) {
        self.lane(way).stalled.store(stalled, Ordering::SeqCst);
    }

    /// Lets nothing through either way: the silence of an unplugged cable.
    pub fn blackhole(&self) {
        self.stall(Way::Out, true);
        self.stall(Way::Back, true);
    }

    /// Holds every piece back for so long.
    pub fn delay(&self, delay: Duration) {
        self.orders
            .delay_ms
            .store(u64::try_from(delay.as_millis()).unwrap_or(0), Ordering::SeqCst);
    }

    /// Passes at most so many bytes at once; 1 is byte by byte.
    pub fn limit_step(&self, bytes: usize) {
        self.orders
            .largest_step_bytes
            .store(bytes.max(1) as u64, Ordering::SeqCst);
    }

    /// Ends the connection after exactly so many more bytes one way.
    pub fn cut_after(&self, way: Way, bytes: u32) {
        self.lane(way).cut_in.store(i64::from(bytes), Ordering::SeqCst);
    }

    /// Flips a bit of the byte that comes after so many more bytes one way.
    pub fn corrupt_after(&self, way: Way, bytes: u32) {
        self.lane(way)
            .corrupt_in
            .store(i64::from(bytes), Ordering::SeqCst);
    }

    /// Connections taken so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.orders.connections.load(Ordering::SeqCst)
    }

    /// Bytes passed so far one way.
    #[must_use]
    pub fn passed_bytes(&self, way: Way) -> u64 {
        self.lane(way).passed_bytes.load(Ordering::SeqCst)
    }

    /// Bytes corrupted so far.
    #[must_use]
    pub fn corrupted(&self) -> u64 {
        self.orders.corrupted.load(Ordering::SeqCst)
    }

    /// Connections ended by `cut_after` so far.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.orders.cuts.load(Ordering::SeqCst)
    }

    fn lane(&self, way: Way) -> &Lane {
        self.orders.lane(way)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.orders.over.store(true, Ordering::SeqCst);
        self.drop_connections();
        if let Some(listener) = self.listener.take() {
            // A thread that panicked has nothing left to end.
            let _ = listener.join();
        }
    }
}

impl Orders {
    fn lane(&self, way: Way) -> &Lane {
        match way {
            Way::Out => &self.out,
            Way::Back => &self.back,
        }
    }
}

fn accept_all(listener: &TcpListener, orders: &Arc<Orders>) {
    while !orders.over.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((client, _)) if !orders.refuse.load(Ordering::SeqCst) => {
                // A target that is not there means a connection that ends at once, as through any forwarder.
                let _ = pass_on(client, orders);
            }
            Ok(_) => {}
            Err(_) => std::thread::sleep(limits::PROXY_POLL),
        }
    }
}

fn pass_on(client: TcpStream, orders: &Arc<Orders>) -> Result<()> {
    let server = TcpStream::connect_timeout(&orders.target, limits::STATUS)?;
    for stream in [&client, &server] {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limits::PROXY_POLL))?;
    }
    orders.connections.fetch_add(1, Ordering::SeqCst);
    let mut open = lock(&orders.open);
    open.push(client.try_clone()?);
    open.push(server.try_clone()?);
    drop(open);
    for (from, into, way) in [
        (client.try_clone()?, server.try_clone()?, Way::Out),
        (server, client, Way::Back),
    ] {
        let orders = Arc::clone(orders);
        std::thread::spawn(move || {
            // Every end of a pump, clean or not, ends both halves of the connection.
            let _ = pump(&from, &into, orders.as_ref(), way);
            let _ = from.shutdown(Shutdown::Both);
            let _ = into.shutdown(Shutdown::Both);
        });
    }
    Ok(())
}

fn pump(mut from: &TcpStream, mut into: &TcpStream, orders: &Orders, way: Way) -> Result<()> {
    let mut buffer = vec![0; limits::PROXY_BUFFER_BYTES];
    let lane = orders.lane(way);
    while !orders.over.load(Ordering::SeqCst) {
        if lane.stalled.load(Ordering::SeqCst) {
            std::thread::sleep(limits::PROXY_POLL);
            continue;
        }
        let step = usize::try_from(orders.largest_step_bytes.load(Ordering::SeqCst))?;
        let room = buffer
            .get_mut(..step.min(limits::PROXY_BUFFER_BYTES))
            .unwrap_or_default();
        let length = match from.read(room) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(error) => return Err(error.into()),
        };
        let delay = orders.delay_ms.load(Ordering::SeqCst);
        if delay > 0 {
            std::thread::sleep(Duration::from_millis(delay));
        }
        // The order to stall may have come while this thread was reading: hold the piece, lose nothing.
        while lane.stalled.load(Ordering::SeqCst) && !orders.over.load(Ordering::SeqCst) {
            std::thread::sleep(limits::PROXY_POLL);
        }
        let piece = room.get_mut(..length).unwrap_or_default();
        let keep = apply_faults(piece, orders, lane);
        into.write_all(piece.get(..keep).unwrap_or_default())?;
        lane.passed_bytes.fetch_add(keep as u64, Ordering::SeqCst);
        if keep < length {
            orders.cuts.fetch_add(1, Ordering::SeqCst);
            bail!("cut as ordered");
        }
    }
    Ok(())
}

/// Counts down to the ordered faults; returns how much of the piece still passes.
fn apply_faults(piece: &mut [u8], orders: &Orders, lane: &Lane) -> usize {
    if let Some(at) = due(&lane.corrupt_in, piece.len())
        && let Some(byte) = piece.get_mut(at)
    {
        *byte ^= 0x10;
        orders.corrupted.fetch_add(1, Ordering::SeqCst);
    }
    due(&lane.cut_in, piece.len()).unwrap_or(piece.len())
}

/// Where in this piece the fault is due, if it is; otherwise the rest of the way is noted.
fn due(countdown: &AtomicI64, length: usize) -> Option<usize> {
    let left = countdown.load(Ordering::SeqCst);
    if left == NEVER {
        return None;
    }
    match usize::try_from(left) {
        Ok(at) if at < length => {
            countdown.store(NEVER, Ordering::SeqCst);
            Some(at)
        }
        _ => {
            let passed = i64::try_from(length).unwrap_or(0);
            // A new order given meanwhile wins.
            let _ = countdown.compare_exchange(left, left - passed, Ordering::SeqCst, Ordering::SeqCst);
            None
        }
    }
}

#[cfg(test)]
mod tests;
