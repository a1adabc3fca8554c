//! What a session does next: one thing is read and one is sent at a time.

use super::SessionCore;
use crate::link::comparing::Next;
use crate::link::events::{Effect, Outgoing, Stage};
use crate::link::limits::{BATCH_BYTES, COPY_PIECE_BYTES, MAX_UNACKED, VERIFY_LEAD_RECORDS};
use crate::link::source::{Extent, MergeLimits, WantedChunks};
use farside_protocol::link::limits::FEATURE_MERGE;
use farside_protocol::link::{CopyEnd, Message};

impl SessionCore {
    pub(super) fn pump(&mut self, effects: &mut Vec<Effect>) {
        let may_ask = !self.in_batch && self.confirming.may_ask(self.unacked.len());
        let question = match may_ask {
            false => None,
            true => self.verifying.ask(self.sent.record),
        };
        match question {
            Some(Ok((question, digests))) => {
                self.pace.sent(u64::try_from(digests.len()).unwrap_or(u64::MAX));
                self.outbox.push_back(Outgoing::Verify(question, digests));
            }
            Some(Err(changed)) => effects.push(Effect::Judged(changed)),
            None => {}
        }
        if self.copy_waits
            && !self.held
            && let Some(welcome) = &self.welcome
        {
            // Looked for anew: much may have changed since.
            self.copy_waits = false;
            self.reading = true;
            effects.push(Effect::Locate(welcome.received.record));
        }
        if !self.writing
            && let Some(next) = self.outbox.pop_front()
        {
            self.writing = true;
            effects.push(Effect::Send(next));
        }
        let busy = self.reading || self.writing || !self.outbox.is_empty();
        // What was begun of a batch is sent to its end: nothing of it is confirmed before.
        let window_open = self.in_flight_bytes < self.limits.window_bytes || self.in_batch;
        let may_send =
            matches!(self.stage, Stage::Copying | Stage::Streaming) && self.pace.may_send(self.now_ms);
        if busy || !window_open || !may_send || self.held {
            return;
        }
        let others_wait = self.next_chunks().is_some();
        // The remote receives nothing while it brings the rest into its image.
        let is_close = self.sent.record.saturating_sub(self.progress.applied) <= VERIFY_LEAD_RECORDS;
        let piece = if is_close && !self.in_batch {
            self.verifying.begin(self.now_ms, others_wait)
        } else {
            None
        };
        if let Some(piece) = piece {
            self.reading = true;
            effects.push(Effect::Digest(piece));
            return;
        }
        let next = if self.in_batch {
            // A replica that is sent on has batches in its journal, also while the remote is copied to.
            self.next_chunks()
        } else if self.chunks_next {
            self.next_chunks().or_else(|| self.next_copy())
        } else {
            self.next_copy().or_else(|| self.next_chunks())
        };
        match next {
            Some(Effect::Send(end)) => {
                self.writing = true;
                effects.push(Effect::Send(end));
            }
            Some(read) => {
                // Chunks and copy take turns, so that neither waits for the end of the other.
                self.chunks_next = matches!(read, Effect::ReadImage { .. } | Effect::CompareImage { .. });
                self.reading = true;
                effects.push(read);
            }
            None => {}
        }
    }

    /// Chunks of the journal that were sent, as they are or in batches, and are not acknowledged.
    fn chunks_in_flight(&self) -> u64 {
        self.sent.sequence.saturating_sub(self.acked.sequence)
    }

    /// How long a merged batch may be, if there may be any: nothing of one is acknowledged before its end, and the end has to have a place
    /// on the trail of a remote that is let go, like any other point that it may have received.
    fn largest_batch(&self) -> Option<MergeLimits> {
        let peer = self.peer().filter(|peer| peer.features & FEATURE_MERGE != 0)?;
        let largest = 1_u64.checked_shl(peer.batch_log2.into())?;
        let limits = MergeLimits {
            bytes: largest
                .min(self.limits.window_bytes / 2)
                .min(self.confirming.room()),
            chunks: most_unacked().saturating_sub(self.chunks_in_flight()),
        };
        (self.stage == Stage::Streaming).then_some(limits)
    }

    /// How long a batch may be that lies in the journal of a replica, if it is begun now.
    fn room_for_batch(&self) -> u64 {
        self.longest_batch().min(self.confirming.room())
    }

    /// The same whenever it is begun.
    pub(super) fn longest_batch(&self) -> u64 {
        let peer = self.peer().filter(|peer| peer.features & FEATURE_MERGE != 0);
        let largest = peer.and_then(|peer| 1_u64.checked_shl(peer.batch_log2.into()));
        largest.unwrap_or(0).min(self.confirming.limit())
    }

    fn next_chunks(&self) -> Option<Effect> {
        let limit = self.chunk_limit();
        let up_to = self
            .verifying
            .limit()
            .filter(|point| point.sequence < limit.sequence)
            .unwrap_or(limit);
        let is_done = up_to.sequence <= self.sent.sequence && !self.in_batch;
        if is_done || (self.chunks_in_flight() >= most_unacked() && !self.in_batch) {
            return None;
        }
        let room = self.limits.window_bytes.saturating_sub(self.in_flight_bytes);
        // What was begun of a batch had room then.
        let room = match self.in_batch {
            true => BATCH_BYTES,
            false => room.min(self.confirming.room()),
        };
        if room == 0
            || self
                .batch_waits
                .is_some_and(|bytes| bytes > self.room_for_batch())
        {
            return None;
        }
        Some(Effect::ReadChunks(WantedChunks {
            from: self.sent,
            up_to,
            max_bytes: room.min(BATCH_BYTES).min(self.pace.most_bytes()),
            watched: self.verifying.watched(),
            volume_bytes: self.limits.volume_bytes,
            batch: (!self.in_batch).then(|| self.room_for_batch()),
            merge: self.largest_batch(),
        }))
    }

    fn next_copy(&mut self) -> Option<Effect> {
        let copying = self.copying.as_mut().filter(|copying| !copying.end_sent)?;
        let sent_offset = copying.sent_offset;
        let left = self.limits.volume_bytes.saturating_sub(copying.sent_offset);
        if left == 0 {
            copying.end_sent = true;
            return Some(Effect::Send(Outgoing::Message(Message::CopyEnd(CopyEnd {
                // The image may hold parts of any durable record, so only the newest durable one is safe.
                consistent_from: self.points.durable.record,
                volume_bytes: self.limits.volume_bytes,
            }))));
        }
        // After a crash the image may still be behind what the remote has: older bytes must not follow newer.
        if self.points.image.record < self.sent.record || !copying.has_room() {
            return None;
        }
        let mut most = left.min(self.pace.most_bytes());
        if let Some(comparing) = &mut self.comparing {
            if let Some(offset) = comparing.wants(sent_offset, self.limits.volume_bytes) {
                return Some(Effect::CompareImage { offset });
            }
            match comparing.next(sent_offset) {
                Next::Wait => return None,
                Next::Same(length) => {
                    let offset = sent_offset;
                    self.progress.same_bytes = self.progress.same_bytes.saturating_add(length);
                    return Some(match self.send_extent(Extent::Same { offset, length }, length) {
                        Ok(extent) => Effect::Send(extent),
                        Err(reason) => Effect::Close(reason, None),
                    });
                }
                Next::Differs(bytes) => most = most.min(bytes),
            }
        }
        Some(Effect::ReadImage {
            offset: sent_offset,
            max_bytes: u32::try_from(most).map_or(COPY_PIECE_BYTES, |most| most.min(COPY_PIECE_BYTES)),
        })
    }
}

fn most_unacked() -> u64 {
    u64::try_from(MAX_UNACKED).unwrap_or(u64::MAX)
}
