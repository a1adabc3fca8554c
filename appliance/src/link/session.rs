//! One connection of the sender: carries out what the core decides, one write and one read of the volume at
//! a time, while it listens.
//!
//! Never here: decisions.

use super::backoff::Gain;
use super::core::SessionCore;
use super::error::CloseReason;
use super::events::{Effect, Input, Outgoing, SessionLimits};
use super::limits::{CHANGE_INTERVAL_MS, COPY_PIECE_BYTES, FAREWELL_MS, TICK_MS};
use super::outlet::Outlet;
use super::source::{Extent, Source, SourceError};
use super::status::StatusCell;
use super::stream::{Bulk, FrameStream, write};
use super::verification::Verification;
use super::view::View;
use super::windows::SendWindows;
use farside_protocol::link::limits::{
    FEATURE_COMPARE, FEATURE_CONFIRM, FEATURE_MERGE, HIGHEST_VERSION, LOWEST_VERSION,
};
use farside_protocol::link::{Compression, Hello, Message, Refusal, RefuseCode, digests};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use uuid::Uuid;

/// What a session needs besides its socket.
#[derive(Debug)]
pub struct SessionSetup<S> {
    /// The volume.
    pub source: Arc<S>,
    /// Name under which the remote is known here.
    pub remote_name: String,
    /// Random for each start of the process.
    pub instance: Uuid,
    /// Most bytes sent and not confirmed.
    pub window_bytes: u64,
    /// Most bytes sent in a second, in the mean.
    pub bytes_per_second: Option<u64>,
    /// How what is sent is compressed, if the remote can do that.
    pub compression: Compression,
    /// Whether backlogs may be merged, if the remote can do that.
    pub merge: bool,
    /// Whether what the remote holds has to be compared with what was sent before it counts.
    pub confirm: bool,
    /// When it is sent; always if absent.
    pub windows: Option<SendWindows>,
    /// Where the status is put.
    pub status: Arc<StatusCell>,
    /// What is to be compared with the remote.
    pub verification: Arc<Verification>,
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// What comes back from a write.
type Written<W> = (Outlet<W>, Bulk, io::Result<()>);

/// The one write and the one read that may be under way, and what they work on.
struct Work<W> {
    writing: Option<Boxed<Written<W>>>,
    reading: Option<Boxed<(Bulk, Input)>>,
    /// The socket while nothing is written.
    write: Option<Outlet<W>>,
    /// How what is written from now on is compressed.
    compression: Compression,
    /// Bytes before and after compression so far.
    compressed: Option<(u64, u64)>,
    /// The buffer while neither uses it.
    bulk: Option<Bulk>,
}

/// Runs a session to its end; says what it was good for.
pub async fn run_session<S: Source, R, W>(
    setup: &SessionSetup<S>,
    (read, to): (R, W),
    mut stop: watch::Receiver<bool>,
) -> (CloseReason, Gain)
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let mut stream = FrameStream::new(read);
    let mut work = Work {
        writing: None,
        reading: None,
        write: Some(Outlet::new(to)),
        compression: Compression::None,
        compressed: None,
        bulk: Some(Bulk::default()),
    };
    let (hello, limits) = begin(setup);
    let mut core = SessionCore::new(limits, setup.source.points(), 0);
    let mut view = View::new(setup);
    setup.verification.interrupted();
    let mut changed = setup.source.changed();
    let mut tick = interval(Duration::from_millis(TICK_MS));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut earliest = Instant::now();
    core.hold(view.look_at_windows());
    let mut input = Ok(Input::Connected(Box::new(hello)));
    let (reason, say) = loop {
        let effects = match input {
            Ok(input) => core.apply(view.now_ms(), input),
            Err(reason) => break (last_word(&mut stream, reason).await, None),
        };
        work.compression = core.compression();
        if let Some(end) = work.start(setup, effects) {
            break end;
        }
        view.show(&core, work.compressed);
        input = tokio::select! {
            // In this order nothing starves: what stands above is bounded by time or by what this side began.
            biased;
            _ = stop.wait_for(|set| *set) => break (CloseReason::Stopped, Some(stopping())),
            _ = tick.tick() => {
                core.hold(view.look_at_windows());
                Ok(Input::Tick)
            }
            written = finished(&mut work.writing) => {
                let (input, saved) = work.written(written);
                core.saved(saved);
                input
            }
            (bulk, input) = finished(&mut work.reading) => work.read(bulk, input),
            received = stream.receive() => received,
            piece = setup.verification.next(), if core.takes_ranges() => Ok(Input::Verify(piece)),
            fired = next_change(&mut earliest, &mut changed) => on_change(setup, fired),
        };
    };
    view.show(&core, work.compressed);
    farewell(work, &mut stream, say).await;
    let reason = match reason {
        // The same event: whoever notices first says so.
        CloseReason::Source(SourceError::Behind) | CloseReason::CutLoose => match setup.source.held() {
            Some(why) => CloseReason::NotSentOn(why),
            None => CloseReason::CutLoose,
        },
        other => other,
    };
    let gain = view.gain(&core, &reason);
    (reason, gain)
}

fn begin<S: Source>(setup: &SessionSetup<S>) -> (Hello, SessionLimits) {
    let (identity, points) = (setup.source.identity(), setup.source.points());
    let limits = SessionLimits {
        window_bytes: setup.window_bytes,
        bytes_per_second: setup.bytes_per_second,
        compression: setup.compression,
        merge: setup.merge,
        confirm: setup.confirm,
        segment_bytes: identity.segment_bytes,
        volume_bytes: identity.volume_bytes,
        epoch: identity.epoch,
    };
    let hello = Hello {
        version_min: LOWEST_VERSION,
        version_max: HIGHEST_VERSION,
        segment_bytes: identity.segment_bytes,
        features: offered(&limits),
        unit: identity.unit,
        instance: setup.instance,
        volume: identity.volume,
        volume_bytes: identity.volume_bytes,
        epoch: identity.epoch,
        head: points.durable,
        tail: points.tail,
        unit_name: identity.unit_name,
        volume_name: identity.volume_name,
        remote_name: setup.remote_name.clone(),
    };
    (hello, limits)
}

/// The features that a link offers.
pub(super) fn offered(limits: &SessionLimits) -> u64 {
    let merge = if limits.merge { FEATURE_MERGE } else { 0 };
    let confirm = if limits.confirm { FEATURE_CONFIRM } else { 0 };
    limits.compression.feature() | FEATURE_COMPARE | merge | confirm
}

fn stopping() -> Refusal {
    let text = "the sending unit stops this link; it comes back when it is started again";
    Refusal::new(RefuseCode::ShuttingDown, 0, text)
}

/// Whether the volume is still there, after the next change of it.
async fn next_change(earliest: &mut Instant, changed: &mut watch::Receiver<u64>) -> bool {
    sleep_until(*earliest).await;
    let alive = changed.changed().await.is_ok();
    *earliest = Instant::now() + Duration::from_millis(CHANGE_INTERVAL_MS);
    alive
}

fn on_change<S: Source>(setup: &SessionSetup<S>, alive: bool) -> Result<Input, CloseReason> {
    if alive {
        let consumer = setup.source.consumer(&setup.remote_name).0;
        Ok(Input::Changed(setup.source.points(), consumer))
    } else {
        Err(CloseReason::Source(SourceError::Storage(
            "the volume was closed".into(),
        )))
    }
}

/// Resolves with the work under way; never, if there is none.
async fn finished<T>(work: &mut Option<Boxed<T>>) -> T {
    match work {
        Some(under_way) => {
            let result = under_way.await;
            *work = None;
            result
        }
        None => std::future::pending().await,
    }
}

impl<W: AsyncWrite + Unpin + Send + 'static> Work<W> {
    /// Begins what the core wants done. Something means the session is over.
    fn start<S: Source>(
        &mut self,
        setup: &SessionSetup<S>,
        effects: Vec<Effect>,
    ) -> Option<(CloseReason, Option<Refusal>)> {
        for effect in effects {
            match effect {
                Effect::Send(item) => self.start_write(setup, item),
                Effect::SetConsumer(state, acked) => {
                    setup.source.set_consumer(&setup.remote_name, state, acked);
                }
                Effect::Judged(verdict) => setup.verification.judged(verdict),
                Effect::Close(reason, say) => return Some((reason, say)),
                other => self.start_read(setup, other),
            }
        }
        None
    }

    fn start_write<S: Source>(&mut self, setup: &SessionSetup<S>, item: Outgoing) {
        let mut to = self.outlet().expect("the core sends one item at a time");
        // A message goes out while the buffer may be with a reader; it does not need it.
        let needs_bulk = matches!(item, Outgoing::Chunks | Outgoing::Extent(_));
        let bulk = if needs_bulk { self.bulk.take() } else { None };
        let now_us = setup.source.now_us();
        self.writing = Some(Box::pin(async move {
            let lent = bulk.unwrap_or_default();
            let result = write(&mut to, item, &lent, now_us).await;
            (to, lent, result)
        }));
    }

    /// What is written to, at a place between two frames.
    fn outlet(&mut self) -> Option<Outlet<W>> {
        let mut to = self.write.take()?;
        to.compress(self.compression);
        Some(to)
    }

    /// Also how many bytes compression saved.
    fn written(&mut self, (to, bulk, result): Written<W>) -> (Result<Input, CloseReason>, u64) {
        let before = self.compressed.map_or(0, saved);
        self.compressed = to.compressed();
        let saved = self.compressed.map_or(0, saved).saturating_sub(before);
        self.write = Some(to);
        if self.bulk.is_none() && self.reading.is_none() {
            self.bulk = Some(bulk);
        }
        let input = result.map(|()| Input::Written).map_err(CloseReason::Socket);
        (input, saved)
    }

    fn start_read<S: Source>(&mut self, setup: &SessionSetup<S>, effect: Effect) {
        let mut bulk = self.bulk.take().unwrap_or_default();
        let (source, remote) = (Arc::clone(&setup.source), setup.remote_name.clone());
        let confirm = setup.confirm;
        self.reading = Some(Box::pin(async move {
            let input = read_volume(&*source, (&remote, confirm), effect, &mut bulk).await;
            (bulk, input.unwrap_or_else(Input::Failed))
        }));
    }

    fn read(&mut self, bulk: Bulk, input: Input) -> Result<Input, CloseReason> {
        self.bulk = Some(bulk);
        Ok(input)
    }
}

async fn read_volume<S: Source>(
    source: &S,
    (remote, confirm): (&str, bool),
    effect: Effect,
    bulk: &mut Bulk,
) -> Result<Input, SourceError> {
    match effect {
        Effect::Locate(record) => {
            let located = source.locate(record).await?;
            Ok(Input::Located(located, source.points(), source.consumer(remote)))
        }
        Effect::StartCopy { all } => {
            let begun = source.start_copy(remote, all).await?;
            Ok(Input::CopyStarted(begun, source.points()))
        }
        Effect::Digest(piece) => Ok(Input::Digested(source.digests(piece).await?)),
        Effect::ReadChunks(wanted) => {
            bulk.spans = source.read_chunks(&wanted, &mut bulk.bytes).await?;
            let digests = if confirm { bulk.digests() } else { Vec::new() };
            Ok(Input::ChunksRead(bulk.spans.clone(), digests))
        }
        Effect::ReadImage { offset, max_bytes } => {
            let extent = source.read_image(offset, max_bytes, &mut bulk.bytes).await?;
            Ok(Input::ExtentRead(extent, source.points()))
        }
        Effect::CompareImage { offset } => {
            let extent = source
                .read_image(offset, COPY_PIECE_BYTES, &mut bulk.bytes)
                .await?;
            let data = match extent {
                Extent::Data { length, .. } => bulk.bytes.get(..length as usize).unwrap_or_default(),
                _ => &[],
            };
            Ok(Input::ImageDigested(extent, digests(data), source.points()))
        }
        Effect::Send(_) | Effect::Judged(_) | Effect::SetConsumer(..) | Effect::Close(..) => {
            Err(SourceError::Storage("not a reading effect".into()))
        }
    }
}

fn saved((before, after): (u64, u64)) -> u64 {
    before.saturating_sub(after)
}

/// When nothing can be written any more the remote may have said why, and closed.
async fn last_word<R: AsyncRead + Unpin>(stream: &mut FrameStream<R>, reason: CloseReason) -> CloseReason {
    if !matches!(reason, CloseReason::Socket(_)) {
        return reason;
    }
    let listening = async {
        loop {
            match stream.receive().await {
                Ok(Input::Refuse(refusal)) => return Some(refusal),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    };
    let heard = timeout(Duration::from_millis(FAREWELL_MS), listening).await;
    heard.ok().flatten().map_or(reason, CloseReason::Refused)
}

/// Ends the connection; says why if there is something to say and the stream stands between two frames soon.
async fn farewell<R, W>(mut work: Work<W>, stream: &mut FrameStream<R>, say: Option<Refusal>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let Some(refusal) = say else {
        return;
    };
    // It may hold up hosts.
    work.reading = None;
    let ending = async {
        if let Some(under_way) = work.writing.take() {
            work.write = Some(under_way.await.0);
        }
        if let Some(mut to) = work.outlet() {
            let _ = to.write_all(&Message::Refuse(refusal).to_frame()).await;
            let _ = to.shutdown().await;
            stream.drain().await;
        }
    };
    let _ = timeout(Duration::from_millis(FAREWELL_MS), ending).await;
}
