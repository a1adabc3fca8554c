//! Connections between processes: bytes arrive late, in pieces, or never; they are cut, corrupted and doubled; a
//! machine that loses power leaves its peer with a connection that is half open.

use crate::lane::Lane;
use crate::process::Process;
use crate::schedule;
use crate::stats::{Stats, happened};
use farside_tests::random::Random;
use parking_lot::Mutex;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Bytes on their way in one direction, at most.
const CAPACITY: usize = 256 << 10;

/// What the network does to everybody.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// New connections are possible.
    pub up: bool,
    /// A piece takes at least so long, in microseconds.
    pub delay_us: u64,
    /// And up to so much more.
    pub jitter_us: u64,
    /// Of so many pieces in a thousand a byte changes.
    pub noise_permille: u64,
}

#[derive(Debug)]
struct Wire {
    lanes: [Mutex<Lane>; 2],
    ends: [Arc<Process>; 2],
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    random: Random,
    weather: Weather,
}

/// A network with its connections.
#[derive(Debug)]
pub struct Net {
    wires: Mutex<Vec<Arc<Wire>>>,
    shared: Arc<Mutex<Shared>>,
    stats: Arc<Stats>,
}

/// The reading half of one end.
pub struct ReadEnd {
    wire: Arc<Wire>,
    lane: usize,
    /// Until the next piece arrives, at the latest.
    timer: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl std::fmt::Debug for ReadEnd {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ReadEnd {{ lane: {} }}", self.lane)
    }
}

/// What became of what was written into a connection, whoever still holds it.
#[derive(Debug, Clone)]
pub struct Line(Arc<Wire>);

impl Line {
    /// Whether each end read what the other wrote, as far as it arrived.
    #[must_use]
    pub fn is_faithful(&self) -> bool {
        !self.0.lanes.iter().any(|lane| lane.lock().altered)
    }
}

/// The writing half of one end. Dropping it ends the lane.
#[derive(Debug)]
pub struct WriteEnd {
    wire: Arc<Wire>,
    lane: usize,
}

/// One end of a connection.
pub type End = (ReadEnd, WriteEnd);

impl Net {
    /// A network in which everything arrives at once.
    #[must_use]
    pub fn new(seed: u64, stats: Arc<Stats>) -> Arc<Self> {
        let weather = Weather {
            up: true,
            delay_us: 50,
            jitter_us: 200,
            noise_permille: 0,
        };
        let shared = Shared {
            random: Random::new(seed ^ 0x0e7),
            weather,
        };
        Arc::new(Self {
            wires: Mutex::default(),
            shared: Arc::new(Mutex::new(shared)),
            stats,
        })
    }

    /// Changes what the network does to everybody.
    pub fn set_weather(&self, weather: Weather) {
        self.shared.lock().weather = weather;
    }

    /// What the network does to everybody.
    #[must_use]
    pub fn weather(&self) -> Weather {
        self.shared.lock().weather
    }

    /// A connection from one process to another; `None` when there is no way.
    #[must_use]
    pub fn connect(&self, from: &Arc<Process>, to: &Arc<Process>) -> Option<(End, End)> {
        if !self.weather().up || from.is_dead() || to.is_dead() {
            return None;
        }
        let wire = Arc::new(Wire {
            lanes: Default::default(),
            ends: [from.clone(), to.clone()],
            shared: self.shared.clone(),
        });
        let mut wires = self.wires.lock();
        wires.retain(|wire| !wire.is_over());
        wires.push(wire.clone());
        Some((wire.end(0), wire.end(1)))
    }

    /// Does something to every connection; false if there is none.
    fn each(&self, act: impl Fn(&mut Lane)) -> bool {
        let wires = self.wires.lock();
        let mut in_use = wires.iter().filter(|wire| !wire.is_over()).peekable();
        let is_any = in_use.peek().is_some();
        for wire in in_use {
            for lane in &wire.lanes {
                let mut lane = lane.lock();
                act(&mut lane);
                lane.wake();
            }
        }
        is_any
    }

    /// Every connection is reset; what was on its way is lost.
    pub fn cut(&self) {
        let is_any = self.each(|lane| {
            lane.pieces.clear();
            lane.bytes = 0;
            lane.reset = true;
        });
        if is_any {
            self.stats.count("connections cut");
        }
    }

    /// Every connection stays open and carries nothing any more.
    pub fn freeze(&self) {
        let is_any = self.each(|lane| {
            lane.pieces.clear();
            lane.bytes = 0;
            lane.swallows = true;
        });
        if is_any {
            self.stats.count("connections half open");
        }
    }

    /// The next piece one way of every connection has a byte changed.
    pub fn corrupt(&self, way: usize) {
        self.stats
            .trace("net", || "the next pieces are corrupted".to_owned());
        self.mark(way, |lane| lane.corrupt_next = true);
    }

    /// Nothing more is planned; connections that lost something break.
    pub fn heal(&self) {
        _ = self.each(|lane| {
            (lane.corrupt_next, lane.double_next, lane.drop_next) = (false, false, false);
            (lane.repeat_next, lane.miss_next) = (false, false);
            lane.reset |= lane.missed;
        });
    }

    /// The next chunk of every connection gets lost whole.
    pub fn miss(&self) {
        self.stats
            .trace("net", || "the next chunks are missed".to_owned());
        self.mark(0, |lane| lane.miss_next = true);
    }

    /// A chunk that was sent lately arrives once more on every connection.
    pub fn repeat(&self) {
        self.stats
            .trace("net", || "the next chunks are repeated".to_owned());
        self.mark(0, |lane| lane.repeat_next = true);
    }

    /// The next piece one way of every connection arrives twice.
    pub fn double(&self, way: usize) {
        self.stats
            .trace("net", || "the next pieces are doubled".to_owned());
        self.mark(way, |lane| lane.double_next = true);
    }

    /// The next piece one way of every connection arrives in part, and nothing after it.
    pub fn truncate(&self, way: usize) {
        self.stats
            .trace("net", || "the next pieces are truncated".to_owned());
        self.mark(way, |lane| lane.drop_next = true);
    }

    fn mark(&self, way: usize, act: impl Fn(&mut Lane)) {
        for wire in self.wires.lock().iter().filter(|wire| !wire.is_over()) {
            act(&mut wire.lanes[way % 2].lock());
        }
    }

    /// A process is gone. Killed: its connections end after what it had sent. Without power: they just fall silent.
    pub fn gone(&self, process: &Arc<Process>, silently: bool) {
        for wire in self.wires.lock().iter() {
            for (number, end) in wire.ends.iter().enumerate() {
                if !Arc::ptr_eq(end, process) {
                    continue;
                }
                let mut out = wire.lanes[number].lock();
                if silently {
                    out.pieces.clear();
                    out.swallows = true;
                } else {
                    out.ended = true;
                }
                out.wake();
                drop(out);
                let mut back = wire.lanes[1 - number].lock();
                if silently {
                    back.swallows = true;
                } else {
                    back.reset = true;
                }
                back.wake();
            }
        }
    }
}

impl Wire {
    fn end(self: &Arc<Self>, number: usize) -> End {
        let read = ReadEnd {
            wire: self.clone(),
            lane: 1 - number,
            timer: None,
        };
        let write = WriteEnd {
            wire: self.clone(),
            lane: number,
        };
        (read, write)
    }

    fn is_over(&self) -> bool {
        self.lanes.iter().all(|lane| {
            let lane = lane.lock();
            lane.reset || lane.ended
        })
    }

    fn writer_is_dead(&self, lane: usize) -> bool {
        self.ends[lane].is_dead()
    }
}

impl ReadEnd {
    /// The connection it is of.
    #[must_use]
    pub fn line(&self) -> Line {
        Line(self.wire.clone())
    }
}

impl AsyncRead for ReadEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut lane = this.wire.lanes[this.lane].lock();
        if lane.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        lane.reader = Some(context.waker().clone());
        if lane.pieces.is_empty() && lane.breaks_off {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let Some((due, piece)) = lane.pieces.front_mut() else {
            return if lane.ended && !lane.swallows {
                Poll::Ready(Ok(()))
            } else {
                Poll::Pending
            };
        };
        let now = Instant::now();
        // What is on its way may arrive before its time while a call to a disk is interrupted.
        if *due > now && !schedule::is_interrupting() {
            let wait = *due - now;
            let timer = this.timer.get_or_insert_with(|| Box::pin(schedule::rest(wait)));
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
        this.timer = None;
        let count = piece.len().min(into.remaining());
        into.put_slice(&piece[..count]);
        piece.drain(..count);
        if piece.is_empty() {
            lane.pieces.pop_front();
        }
        lane.bytes -= count;
        if let Some(writer) = lane.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WriteEnd {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let (wire, number) = (&self.wire, self.lane);
        let mut lane = wire.lanes[number].lock();
        if wire.writer_is_dead(number) {
            // Nothing a dead process does has an effect.
            return Poll::Pending;
        }
        if lane.reset || lane.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if lane.bytes >= CAPACITY {
            lane.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut shared = wire.shared.lock();
        let most = bytes.len().min(CAPACITY - lane.bytes);
        let count = match shared.random.below(4) {
            0 => usize::try_from(shared.random.between(1, most as u64)).unwrap_or(most),
            _ => most,
        };
        if lane.swallows {
            // The sender's own buffer takes it until it is full.
            lane.bytes += count;
            return Poll::Ready(Ok(count));
        }
        let weather = shared.weather;
        let delay = weather.delay_us + shared.random.below(weather.jitter_us.max(1));
        let mut due = Instant::now() + Duration::from_micros(delay);
        if let Some((before, _)) = lane.pieces.back() {
            due = due.max(*before);
        }
        let lost = lane.lost_of(&bytes[..count]);
        let repeated = lane.follow(&bytes[..count], &mut shared.random);
        lane.altered |= lost > 0 || repeated.is_some() || lane.double_next || lane.drop_next;
        let mut piece = bytes[lost..count].to_vec();
        if std::mem::take(&mut lane.drop_next) {
            happened("pieces truncated");
            let part = usize::try_from(shared.random.below(count as u64)).unwrap_or(0);
            piece.truncate(part);
            (lane.breaks_off, lane.swallows) = (true, true);
        }
        let noisy = weather.noise_permille > 0 && shared.random.below(1000) < weather.noise_permille;
        if std::mem::take(&mut lane.corrupt_next) || noisy {
            let at = usize::try_from(shared.random.below(piece.len() as u64)).unwrap_or(0);
            lane.altered = true;
            if let Some(byte) = piece.get_mut(at) {
                happened("pieces corrupted");
                *byte ^= 1 << shared.random.below(8);
            }
        }
        if std::mem::take(&mut lane.double_next) {
            happened("pieces doubled");
            lane.bytes += piece.len();
            lane.pieces.push_back((due, piece.clone()));
        }
        lane.bytes += piece.len();
        if !piece.is_empty() {
            lane.pieces.push_back((due, piece));
        }
        if let Some(chunk) = repeated {
            happened("chunks repeated");
            lane.bytes += chunk.len();
            lane.pieces.push_back((due, chunk));
        }
        if let Some(reader) = lane.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close();
        Poll::Ready(Ok(()))
    }
}

impl WriteEnd {
    fn close(&self) {
        if self.wire.writer_is_dead(self.lane) {
            return;
        }
        let mut lane = self.wire.lanes[self.lane].lock();
        lane.ended = true;
        lane.wake();
    }
}

impl Drop for WriteEnd {
    fn drop(&mut self) {
        self.close();
    }
}

impl Drop for ReadEnd {
    fn drop(&mut self) {
        if self.wire.writer_is_dead(1 - self.lane) {
            return;
        }
        // Nobody reads any more: whoever writes is told.
        let mut lane = self.wire.lanes[self.lane].lock();
        lane.reset = true;
        lane.wake();
    }
}
