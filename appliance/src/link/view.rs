//! What is shown of a session while it runs: the status, and what became of it.

use super::backoff::Gain;
use super::core::SessionCore;
use super::error::{CloseReason, OVERFLOWED};
use super::events::Stage;
use super::limits::STABLE_SESSION_MS;
use super::session::SessionSetup;
use super::source::Source;
use super::status::{Compressed, CopyProgress, LinkState, LinkStatus};
use farside_protocol::control::{copy_risk, human_bytes};
use farside_protocol::journal::{ChainPoint, CopyState};
use tokio::time::Instant;

/// Puts what the core knows into the status.
pub(super) struct View<'a, S> {
    setup: &'a SessionSetup<S>,
    started: Instant,
    before: LinkStatus,
    last_ack_ms: Option<u64>,
    /// When this connection began to copy; what had been copied before, and what there is to copy.
    copy_began: Option<(Instant, u64, u64)>,
    confirmed_before: ChainPoint,
    /// The remote followed at some time of this link connection.
    streamed: bool,
    copying: bool,
    /// Why nothing is sent for now.
    closed: Option<String>,
    /// What the copy under way means for what the remote had before.
    risk: Option<String>,
}

impl<'a, S: Source> View<'a, S> {
    pub(super) fn new(setup: &'a SessionSetup<S>) -> Self {
        Self {
            setup,
            started: Instant::now(),
            before: setup.status.snapshot(),
            last_ack_ms: None,
            copy_began: None,
            confirmed_before: setup.source.consumer(&setup.remote_name).1,
            streamed: false,
            copying: false,
            closed: None,
            risk: None,
        }
    }

    /// Whether nothing may be sent for now.
    pub(super) fn look_at_windows(&mut self) -> bool {
        let windows = self.setup.windows.as_ref();
        let closed = windows.and_then(|windows| windows.closed(self.setup.source.now_us()));
        let closed = self.setup.source.held().or(closed);
        if closed.is_some() != self.closed.is_some() {
            let (remote, why) = (&self.setup.remote_name, closed.as_deref());
            let volume = self.setup.source.identity().volume_name;
            tracing::info!(volume, remote, "{}", why.unwrap_or("sending goes on"));
        }
        self.closed = closed;
        self.closed.is_some()
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn show(&mut self, core: &SessionCore, compressed: Option<(u64, u64)>) {
        let progress = core.progress();
        self.streamed |= *core.stage() == Stage::Streaming;
        self.log_copy(core);
        let copied = progress.copied_bytes;
        let copy = copied.map(|offset| self.copy_progress(offset, progress.copied_now));
        let acked = self.last_ack_ms != progress.last_ack_ms;
        self.last_ack_ms = progress.last_ack_ms;
        let now_us = self.setup.source.now_us();
        let has_positions = self.streamed || self.copying;
        let before = &self.before;
        let reason = self.copy_reason(core);
        let (closed, risk) = (self.closed.clone(), self.risk.clone());
        self.setup.status.update(|status| {
            status.is_held = closed.is_some();
            match core.stage() {
                Stage::Greeting | Stage::Preparing => status.state = LinkState::Connecting,
                Stage::Copying => status.state = LinkState::Copying,
                Stage::Streaming => status.state = LinkState::Streaming,
                Stage::Closed => {}
            }
            status.detail = closed.unwrap_or_else(|| detail(core, reason, risk.as_deref()));
            if let Some(peer) = core.peer() {
                status.history_room = Some(u64::from(peer.history_mib) << 20);
                status.peer_name.get_or_insert_with(|| peer.unit_name.clone());
            }
            if matches!(core.stage(), Stage::Copying | Stage::Streaming) {
                status.sent_record = progress.sent.record;
                status.received_record = progress.received.record;
                status.applied_record = progress.applied;
                status.copy = copy;
                status.consistent_up_to_us = progress.complete.then_some(progress.received.sealed_at_us);
            }
            if core.stage() == &Stage::Closed && has_positions {
                // The last event may have been an acknowledgement.
                status.sent_record = progress.sent.record;
                status.received_record = progress.received.record;
                status.applied_record = progress.applied;
            }
            status.compressed = compressed.map(|(before, after)| Compressed {
                algorithm: core.compression(),
                before,
                after,
            });
            status.sent_bytes = before.sent_bytes.saturating_add(progress.sent_bytes);
            status.sent_blocks = before.sent_blocks.saturating_add(progress.sent_blocks);
            if acked {
                status.last_ack_us = Some(now_us);
            }
        });
    }

    /// Why the copy was begun; `None` if an earlier one goes on. What the volume noticed itself counts more than
    /// what the remote's position tells.
    fn copy_reason(&self, core: &SessionCore) -> Option<&'static str> {
        let reason = core.progress().copy_reason;
        if self.setup.status.memory().overflowed {
            return reason.map(|_| OVERFLOWED);
        }
        reason
    }

    /// What the copy that begins now means for what the remote had before.
    fn copy_risk(&self, core: &SessionCore) -> Option<String> {
        let peer = core.peer().filter(|peer| peer.copy == CopyState::Complete)?;
        copy_risk(self.setup.source.copy_bytes(0), u64::from(peer.history_mib) << 20)
    }

    /// Says in the log when a copy begins, goes on, and is complete.
    fn log_copy(&mut self, core: &SessionCore) {
        let was_copying = self.copying;
        self.copying = match core.stage() {
            Stage::Copying => true,
            Stage::Streaming => false,
            _ => return,
        };
        if was_copying == self.copying {
            return;
        }
        let (identity, remote) = (self.setup.source.identity(), &self.setup.remote_name);
        let (volume, bytes) = (&identity.volume_name, identity.volume_bytes);
        if was_copying {
            let began = self.setup.status.copy_is_complete();
            let seconds = began.map_or(0.0, |began| began.elapsed().as_secs_f64());
            let same = core.progress().same_bytes;
            tracing::info!(volume, remote, bytes, same, seconds, "copy is complete");
            return;
        }
        let continued_at = core.progress().copied_bytes.unwrap_or(0);
        match self.copy_reason(core) {
            Some(why) if core.progress().resync => {
                tracing::info!(volume, remote, bytes, why, "resync of what changed begins");
            }
            Some(why) => tracing::info!(volume, remote, bytes, why, "full copy begins"),
            None => tracing::info!(volume, remote, bytes, continued_at, "interrupted copy goes on"),
        }
        self.risk = self.copy_risk(core);
        if let Some(risk) = &self.risk {
            tracing::warn!(volume, remote, "{risk}");
        }
        self.setup
            .status
            .copy_goes_on(core.progress().copy_reason.is_some());
    }

    /// What the session was good for.
    pub(super) fn gain(&self, core: &SessionCore, reason: &CloseReason) -> Gain {
        if matches!(reason, CloseReason::CutLoose) {
            self.setup.status.overflowed();
            return Gain::Lost;
        }
        let confirmed = self.setup.source.consumer(&self.setup.remote_name).1;
        let advanced = core.progress().advanced || confirmed.sequence > self.confirmed_before.sequence;
        let lasted = core.peer().is_some() && self.now_ms() >= STABLE_SESSION_MS;
        match (advanced, lasted) {
            // What advanced up to here includes the end of a copy.
            (true, _) if self.streamed => Gain::Followed,
            (false, false) => Gain::Nothing,
            _ => Gain::Something,
        }
    }

    fn copy_progress(&mut self, offset: u64, copied: u64) -> CopyProgress {
        let source = &self.setup.source;
        let (began, before, total_bytes) = *self.copy_began.get_or_insert_with(|| {
            let total = source.copy_bytes(0);
            let left = source.copy_bytes(offset).saturating_add(copied);
            (Instant::now(), total.saturating_sub(left), total)
        });
        let millis = u64::try_from(began.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        CopyProgress {
            done_bytes: before.saturating_add(copied).min(total_bytes),
            total_bytes,
            rate_bytes_per_s: copied.saturating_mul(1000) / millis,
        }
    }
}

fn detail(core: &SessionCore, copy_reason: Option<&str>, risk: Option<&str>) -> String {
    match core.stage() {
        Stage::Greeting => "waiting for the remote's answer".into(),
        Stage::Preparing => "comparing positions".into(),
        Stage::Copying => {
            let what = match copy_reason {
                None => "continuing a copy".to_owned(),
                Some(reason) if core.progress().resync => format!("resync of what changed: {reason}"),
                Some(reason) => format!("full copy: {reason}"),
            };
            let same = core.progress().same_bytes;
            let what = if same > 0 {
                format!(
                    "{what}; compared, {} of it are the same and not sent",
                    human_bytes(same)
                )
            } else {
                what
            };
            risk.map_or_else(|| what.clone(), |risk| format!("{what}; {risk}"))
        }
        Stage::Streaming | Stage::Closed => String::new(),
    }
}
