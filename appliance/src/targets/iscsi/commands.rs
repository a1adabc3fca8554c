//! SCSI commands: their data is collected, they are carried out, they are answered.

use super::connection::{Connection, Finished, ORDERED, Progress};
use super::fault::Fault;
use super::limits::HELD_BYTES;
use super::receiver::Pdu;
use super::task::{Attached, Task, lun_bytes, lun_number};
use super::transfer::{Next, Transfer};
use crate::targets::batch::Owed;
use crate::targets::limits::INLINE_READ_BYTES;
use crate::targets::scsi::{Answer, LogicalUnit, Plan, inquire_nothing, report_luns};
use crate::targets::{Disk, Exports, Position, Stream};
use farside_protocol::iscsi::{
    Command, DataOut, NO_TAG, RejectReason, Residual, TaskResponse, ready_to_transfer, reject, scsi_response,
};
use farside_protocol::scsi::{Additional, Cdb, CdbError, Sense, Status};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;

impl<S: Stream, E: Exports> Connection<S, E> {
    /// A command with what data came with it.
    pub(super) fn command(&mut self, pdu: &Pdu, command: &Command) {
        let (tag, lun) = (pdu.request.task_tag, pdu.request.lun);
        if self.session.nexus.target.is_none() || !self.may_begin(pdu) {
            return self.reject(pdu, RejectReason::Protocol);
        }
        let decoded = Cdb::decode(&command.cdb);
        let counted = !pdu.request.immediate;
        let mut task = Task::new(tag, lun, command, decoded.as_ref().ok(), counted);
        if counted {
            self.sender.outstanding += 1;
        }
        let admitted = self.admit(&mut task, &decoded).err();
        let is_misfit = decoded.as_ref().is_ok_and(|cdb| task.is_misfit(cdb));
        let misfit = is_misfit.then(|| Answer::check(Sense::illegal(Additional::InvalidFieldInCdb)));
        let refused = admitted.or(misfit);
        let most = if self.parameters.immediate_data || !self.parameters.initial_r2t {
            self.parameters.first_burst_bytes
        } else {
            0
        };
        let more = command.writes && !command.is_final && !self.parameters.initial_r2t;
        let wanted = if refused.is_some() { 0 } else { task.wanted() };
        let mut transfer = Transfer::new(pdu.data.clone(), wanted, more, most);
        if !pdu.intact {
            transfer.damaged();
            self.reject(pdu, RejectReason::DataDigest);
        }
        if command.attribute == ORDERED {
            self.ordered = Some(tag);
        }
        let progress = Progress::Receiving {
            task: Box::new(task),
            cdb: decoded.ok(),
            transfer: Box::new(transfer),
            refused,
        };
        self.tasks.insert(tag, progress);
        self.go_on(tag);
    }

    /// Whether there is no task of this tag yet, and not too many.
    fn may_begin(&self, pdu: &Pdu) -> bool {
        let immediate = self.tasks.len().saturating_sub(self.sender.outstanding as usize);
        pdu.request.task_tag != NO_TAG
            && !self.tasks.contains_key(&pdu.request.task_tag)
            && (!pdu.request.immediate || immediate < super::limits::IMMEDIATE_COMMANDS)
    }

    /// Finds the unit and asks it whether the command may be carried out.
    fn admit(&mut self, task: &mut Task, decoded: &Result<Cdb, CdbError>) -> Result<(), Answer> {
        if let Ok(Cdb::ReportLuns { select, allocation }) = decoded {
            let target = self.session.nexus.target.as_deref().unwrap_or_default();
            let luns = self.portals.directory.luns(target);
            let numbers: Vec<u64> = luns.iter().map(|(number, _)| lun_bytes(*number)).collect();
            return Err(report_luns(*select, *allocation, &numbers));
        }
        self.attach(task.lun);
        let Some(attached) = self.units.get(&task.lun) else {
            return Err(match decoded {
                Ok(Cdb::Inquiry { page, allocation }) => inquire_nothing(*page, *allocation),
                Ok(Cdb::RequestSense { allocation, .. }) => {
                    let mut data = Sense::illegal(Additional::LogicalUnitNotSupported)
                        .fixed()
                        .to_vec();
                    data.truncate(*allocation as usize);
                    Answer::with(data)
                }
                _ => Answer::check(Sense::illegal(Additional::LogicalUnitNotSupported)),
            });
        };
        task.seat = Some((Arc::clone(&attached.seat), attached.seat.aborted()));
        attached.unit.admit(&self.port, &attached.seat, decoded)
    }

    /// Begins to use a unit, if there is one of this number.
    fn attach(&mut self, lun: u64) {
        let target = self.session.nexus.target.clone();
        let (Some(target), Some(number), false) = (target, lun_number(lun), self.units.contains_key(&lun))
        else {
            return;
        };
        let Some(found) = self.portals.directory.find(&target, number) else {
            return;
        };
        let closing = found.unit.disk().closing();
        if closing.is_cancelled() {
            return;
        }
        let attached = Attached {
            seat: found.unit.attach(&self.port),
            unit: found.unit,
            nexus: self.port.clone(),
            _counted: self.portals.counters.attach(&found.volume),
        };
        self.units.insert(lun, attached);
        self.running.spawn(async move {
            closing.cancelled().await;
            Finished::Gone(lun)
        });
    }

    /// The disk of a unit goes away; commands that are under way have their answers from it.
    pub(super) fn forget_unit(&mut self, lun: u64) {
        self.units.remove(&lun);
        if let Some(deferred) = self.deferred.remove(&lun) {
            for (task, _) in deferred.into_replies() {
                self.reply(task, Answer::status(Status::Busy));
            }
        }
    }

    /// Data of a command.
    pub(super) fn data_out(&mut self, pdu: &Pdu, message: &DataOut) {
        let tag = pdu.request.task_tag;
        let taken = match self.tasks.get_mut(&tag) {
            Some(Progress::Receiving { transfer, .. }) => {
                let taken = transfer.take(message, pdu.data.clone(), NO_TAG);
                if !pdu.intact {
                    transfer.damaged();
                }
                taken
            }
            _ => false,
        };
        if !pdu.intact {
            self.reject(pdu, RejectReason::DataDigest);
        }
        // What is left of a task that was aborted is thrown away without a word.
        if taken {
            self.go_on(tag);
        }
    }

    /// Asks for more data of a command, or carries it out.
    fn go_on(&mut self, tag: u32) {
        let Some(Progress::Receiving { task, transfer, .. }) = self.tasks.get_mut(&tag) else {
            return;
        };
        match transfer.next() {
            Next::Wait => {}
            Next::Ask if task.held > 0 => self.ask(tag),
            Next::Ask => {
                self.to_ask.push_back(tag);
                self.ask_next();
            }
            Next::Done => self.begin(tag),
        }
    }

    /// Lets commands that wait ask for their data, as long as there is room for it.
    fn ask_next(&mut self) {
        while let Some(tag) = self.to_ask.front().copied() {
            let Some(Progress::Receiving { task, transfer, .. }) = self.tasks.get_mut(&tag) else {
                self.to_ask.pop_front();
                continue;
            };
            if transfer.next() != Next::Ask || task.held > 0 {
                self.to_ask.pop_front();
                continue;
            }
            let bytes = u64::from(transfer.missing());
            if self.held_bytes > 0 && self.held_bytes + bytes > HELD_BYTES {
                return;
            }
            self.to_ask.pop_front();
            task.held = bytes;
            self.held_bytes += bytes;
            self.ask(tag);
        }
    }

    fn ask(&mut self, tag: u32) {
        let transfer_tag = self.new_tag();
        let most = self.parameters.max_burst_bytes;
        let Some(Progress::Receiving { task, transfer, .. }) = self.tasks.get_mut(&tag) else {
            return;
        };
        let range = transfer.ask(transfer_tag, most);
        let (lun, number) = (task.lun, task.sequences);
        task.sequences += 1;
        let serial = self.sender.serial();
        let message = ready_to_transfer(tag, (lun, transfer_tag), number, range, serial);
        self.sender.put(message, &[]);
    }

    /// All data is there: the command is carried out.
    fn begin(&mut self, tag: u32) {
        let Some(Progress::Receiving {
            task,
            cdb,
            transfer,
            refused,
        }) = self.tasks.insert(tag, Progress::Running { abort: None })
        else {
            return;
        };
        let failed = transfer.failure().map(Answer::check);
        if let Some(answer) = refused.or(failed) {
            return self.reply(*task, answer);
        }
        let (Some(cdb), Some(attached)) = (cdb, self.units.get(&task.lun)) else {
            return self.reply(*task, Answer::status(Status::Busy));
        };
        let is_same = task
            .seat
            .as_ref()
            .is_some_and(|(seat, _)| Arc::ptr_eq(seat, &attached.seat));
        if task.is_aborted() || !is_same {
            // The volume behind the number may be another one by now.
            return self.reply(*task, Answer::status(Status::Busy));
        }
        let unit = Arc::clone(&attached.unit);
        let plan = unit.decide(&self.port, &attached.seat, &cdb, transfer.data());
        self.carry_out(*task, unit, plan);
    }

    fn carry_out(&mut self, task: Task, unit: Arc<LogicalUnit<E::Disk>>, plan: Plan) {
        match plan {
            Plan::Answered(answer) => self.reply(task, answer),
            Plan::Read { offset, length } => self.read(task, unit, offset, length),
            Plan::Change { updates, forced } => {
                self.batch_lun = Some(task.lun);
                self.batch.push_all(updates, Owed { to: task, forced });
            }
            Plan::Flush => {
                self.batch_lun = Some(task.lun);
                self.batch.flushes.push(task);
            }
            Plan::Later(future) => {
                self.running.spawn(async move {
                    let _under_way = unit.enter().await;
                    if task.is_aborted() {
                        return Finished::Command(Box::new(task), Answer::status(Status::TaskAborted));
                    }
                    Finished::Command(Box::new(task), future.await)
                });
            }
        }
    }

    /// Answers a read from the cache, or starts it beside the connection.
    fn read(&mut self, mut task: Task, unit: Arc<LogicalUnit<E::Disk>>, offset: u64, length: u32) {
        let bytes = task.fits(length as usize);
        let residual = task.residual_of_read(length);
        if bytes > 0 && length <= INLINE_READ_BYTES {
            let disk = unit.disk();
            if bytes
                <= self
                    .sender
                    .segment_bytes()
                    .min(self.parameters.max_burst_bytes as usize)
            {
                let read = |into: &mut [u8]| disk.read_cached(offset, into) == Ok(true);
                if self.sender.put_read(task.tag, bytes, residual, read) {
                    return self.finish(&task);
                }
            } else {
                let mut data = vec![0; bytes];
                if disk.read_cached(offset, &mut data) == Ok(true) {
                    return self.send_data(task, &data, residual);
                }
            }
        }
        task.held = u64::from(length);
        self.held_bytes += task.held;
        self.running.spawn(async move {
            let answer = match unit.disk().read(offset, length, Vec::new()).await {
                Ok(data) => Answer::with(data),
                Err(error) => Answer::failed(error, false),
            };
            Finished::Command(Box::new(task), answer)
        });
    }

    fn send_data(&mut self, task: Task, data: &[u8], residual: Residual) {
        self.sender.put_data(task.tag, data, Some(residual));
        self.finish(&task);
    }

    /// A command that took its time is done.
    pub(super) fn settle(&mut self, task: Task, answer: Answer) {
        match answer.durable {
            Some(position) => self.defer(task, position, answer),
            None => self.reply(task, answer),
        }
    }

    fn defer(&mut self, task: Task, position: Position, answer: Answer) {
        if !self.units.contains_key(&task.lun) {
            return self.reply(task, Answer::status(Status::Busy));
        }
        let deferred = self.deferred.entry(task.lun).or_default();
        deferred.push(position, (task, answer));
    }

    /// Answers a command, unless it was aborted.
    pub(super) fn reply(&mut self, mut task: Task, answer: Answer) {
        let aborted = matches!(
            self.tasks.get(&task.tag),
            Some(Progress::Running { abort: Some(_) })
        );
        if aborted || task.is_aborted() {
            return self.finish(&task);
        }
        let residual = task.residual(&answer);
        let bytes = task.fits(answer.data.len());
        if answer.status == Status::Good && bytes > 0 {
            return self.send_data(task, &answer.data[..bytes], residual);
        }
        let sense = answer
            .sense
            .map(|sense| self.sense_data(&task, &sense))
            .unwrap_or_default();
        task.sequences = 0;
        let serial = self.sender.status();
        let response = scsi_response(task.tag, answer.status as u8, residual, task.sequences, serial);
        self.sender.put(response, &sense);
        self.finish(&task);
    }

    /// Sense data behind its length (section 11.4.7).
    fn sense_data(&self, task: &Task, sense: &Sense) -> Vec<u8> {
        let in_descriptors = self
            .units
            .get(&task.lun)
            .is_some_and(|attached| attached.unit.descriptor_sense());
        let data = if in_descriptors {
            sense.descriptors()
        } else {
            sense.fixed().to_vec()
        };
        let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
        [length.to_be_bytes().as_slice(), &data].concat()
    }

    /// A command is over, answered or aborted.
    pub(super) fn finish(&mut self, task: &Task) {
        if task.counted {
            self.sender.outstanding = self.sender.outstanding.saturating_sub(1);
        }
        if self.ordered == Some(task.tag) {
            self.ordered = None;
        }
        self.held_bytes = self.held_bytes.saturating_sub(task.held);
        if let Some(Progress::Running { abort: Some(tag) }) = self.tasks.remove(&task.tag) {
            self.manage_done(tag, TaskResponse::Complete);
        }
        self.ask_next();
    }

    /// Forgets commands whose data has not arrived.
    pub(super) fn drop_transfers(&mut self) {
        let receiving: Vec<u32> = self
            .tasks
            .iter()
            .filter(|(_, progress)| matches!(progress, Progress::Receiving { .. }))
            .map(|(tag, _)| *tag)
            .collect();
        receiving.into_iter().for_each(|tag| self.abort_transfer(tag));
    }

    /// Forgets a command whose data has not arrived.
    pub(super) fn abort_transfer(&mut self, tag: u32) {
        self.to_ask.retain(|waiting| *waiting != tag);
        if let Some(Progress::Receiving { task, .. }) = self.tasks.remove(&tag) {
            self.finish(&task);
        }
    }

    /// Rejects a message; its header goes back with the reason.
    pub(super) fn reject(&mut self, pdu: &Pdu, reason: RejectReason) {
        let serial = self.sender.status();
        self.sender.put(reject(reason, serial), &pdu.header);
    }

    /// Journals the collected changes as one batch and settles what they and the flushes are owed. Earlier answers go on being
    /// sent meanwhile; if that fails, the batch is still seen through.
    pub(super) async fn commit(&mut self) -> Result<(), Fault> {
        let Some(lun) = self.batch_lun.take() else {
            return Ok(());
        };
        let Some(unit) = self.units.get(&lun).map(|attached| Arc::clone(&attached.unit)) else {
            self.fail_batch();
            return Ok(());
        };
        let mut progress = Ok(());
        if !self.batch.updates.is_empty() {
            let _under_way = unit.enter().await;
            let mut updates = std::mem::take(&mut self.batch.updates);
            let result = {
                let mut update = pin!(unit.disk().update(&mut updates));
                poll_fn(|context| {
                    let result = update.as_mut().poll(context);
                    if result.is_pending() && progress.is_ok() {
                        progress = self.poll_progress(context);
                    }
                    result
                })
                .await
            };
            self.batch.updates = updates;
            for owed in std::mem::take(&mut self.batch.replies) {
                match result {
                    Ok(position) if owed.forced => self.defer(owed.to, position, Answer::good()),
                    Ok(_) => self.reply(owed.to, Answer::good()),
                    Err(error) => self.reply(owed.to, Answer::failed(error, true)),
                }
            }
        }
        self.batch.forget_updates();
        if !self.batch.flushes.is_empty() {
            // Covers what every session has had acknowledged.
            let position = unit.disk().journaled();
            for task in std::mem::take(&mut self.batch.flushes) {
                self.defer(task, position, Answer::good());
            }
        }
        progress
    }

    /// The unit of the batch is gone.
    fn fail_batch(&mut self) {
        let owed = std::mem::take(&mut self.batch.replies)
            .into_iter()
            .map(|owed| owed.to);
        let flushes = std::mem::take(&mut self.batch.flushes);
        for task in owed.chain(flushes).collect::<Vec<_>>() {
            self.reply(task, Answer::status(Status::Busy));
        }
        self.batch.forget_updates();
    }
}
