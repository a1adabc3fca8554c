//! A host that has one command under way at a time: its session may wait for a disk itself, and knows what comes next.

use super::connection::Connection;
use super::fault::Fault;
use crate::targets::lone::Round;
use crate::targets::scsi::Plan;
use crate::targets::{Disk, Exports, Stream};
use std::future::poll_fn;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// What was carried out.
#[derive(Debug)]
pub(super) struct Carried {
    commands: u32,
    /// The last of them, and its unit.
    kind: Round,
    lun: u64,
}

impl Default for Carried {
    fn default() -> Self {
        Self {
            commands: 0,
            kind: Round::Nothing,
            lun: 0,
        }
    }
}

impl Carried {
    pub(super) fn note(&mut self, lun: u64, plan: &Plan) {
        self.commands += 1;
        self.lun = lun;
        self.kind = match plan {
            Plan::Change { .. } => Round::Change,
            Plan::Flush => Round::Flush,
            _ => Round::Other,
        };
    }
}

impl<S: Stream, E: Exports> Connection<S, E> {
    /// What was carried out, beside other commands or alone.
    pub(super) fn round(&mut self) -> Round {
        let carried = &mut self.carried;
        let alone = self.tasks.len() <= 1;
        match (std::mem::take(&mut carried.commands), carried.kind) {
            (0, _) => Round::Nothing,
            (1, kind) if alone => kind,
            _ => Round::Several,
        }
    }

    /// Makes durable what a lone host waits for, or will wait for as soon as it has its answer.
    pub(super) async fn flush_here(&mut self) -> Result<(), Fault> {
        let lun = self.carried.lun;
        poll_fn(|context| {
            self.collect_journaled(lun, context);
            Poll::Ready(())
        })
        .await;
        if self.lone.will_flush() && self.tasks.is_empty() {
            poll_fn(
                |context| match self.sender.output.poll_send(&mut self.stream, context) {
                    Poll::Ready(Err(lost)) => Poll::Ready(Err(lost)),
                    _ => Poll::Ready(Ok(())),
                },
            )
            .await?;
        }
        let Some(lane) = self.units.get(&lun) else {
            return Ok(());
        };
        let is_answered = self.tasks.is_empty() && self.sender.output.is_sent();
        if lane.owed() == 1 || (self.lone.will_flush() && is_answered) {
            let begun = Instant::now();
            lane.unit.disk().flush_here();
            self.lone.waited(begun.elapsed());
        }
        Ok(())
    }

    /// Answers what is in the journal, before anybody is asked to make it durable.
    fn collect_journaled(&mut self, lun: u64, context: &mut Context<'_>) {
        let mut settled = Vec::new();
        if let Some(lane) = self.units.get_mut(&lun) {
            lane.poll_journaled(context, &mut settled);
        }
        for (task, answer) in settled {
            self.reply(task, answer);
        }
    }
}
