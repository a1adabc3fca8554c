//! SCSI commands: their data is collected, they are carried out, they are answered.

use super::connection::{Connection, ORDERED};
use super::lane::Lane;
use super::limits::HELD_BYTES;
use super::progress::{Finished, Progress};
use super::queue::Turn;
use super::receiver::Pdu;
use super::task::{Task, lun_bytes, lun_number};
use super::transfer::{Next, Transfer};
use crate::targets::limits::{INLINE_READ_BYTES, OUTPUT_BYTES, RECEIVE_BYTES};
use crate::targets::scsi::{Answer, Later, LogicalUnit, Plan, inquire_nothing, report_luns};
use crate::targets::{Disk, Exports, Position, Stream};
use bytes::Bytes;
use farside_protocol::iscsi::{
    Command, DataOut, NO_TAG, RejectReason, RequestKind, Residual, ready_to_transfer, reject, scsi_response,
};
use farside_protocol::scsi::{Additional, Cdb, CdbError, Sense, Status};
use std::collections::BTreeSet;
use std::sync::Arc;

impl<S: Stream, E: Exports> Connection<S, E> {
    /// A command with what data came with it, or before its turn.
    pub(super) fn command(&mut self, turn: Turn, command: &Command) {
        let pdu = &turn.pdu;
        let tag = pdu.request.task_tag;
        if turn.is_aborted() {
            return;
        }
        if self.session.nexus.target.is_none() || !self.may_begin(pdu) {
            return self.reject(pdu, RejectReason::Protocol);
        }
        let (mut task, decoded) = new_task(pdu, command);
        if task.counted {
            self.sender.outstanding += 1;
        }
        let admitted = self.admit(&mut task, &decoded).err();
        let is_misfit = decoded.as_ref().is_ok_and(|cdb| task.is_misfit(cdb));
        let misfit = is_misfit.then(|| Answer::check(Sense::illegal(Additional::InvalidFieldInCdb)));
        let refused = admitted.or(misfit);
        let mut transfer = match turn.transfer {
            Some(transfer) => transfer,
            None => self.transfer(pdu, command, &task),
        };
        if refused.is_some() {
            transfer.refuse();
        }
        if command.attribute == ORDERED {
            self.ordered = Some(tag);
        }
        let progress = Progress::Receiving {
            task: Box::new(task),
            cdb: decoded.ok(),
            transfer,
            refused,
        };
        self.tasks.insert(tag, progress);
        self.go_on(tag);
    }

    /// The data of a command as it comes.
    fn transfer(&mut self, pdu: &Pdu, command: &Command, task: &Task) -> Box<Transfer> {
        let most = if self.parameters.immediate_data || !self.parameters.initial_r2t {
            self.parameters.first_burst_bytes
        } else {
            0
        };
        let more = command.writes && !command.is_final && !self.parameters.initial_r2t;
        let mut transfer = Transfer::new(pdu.data.clone(), task.wanted(), more, most);
        if !pdu.intact {
            transfer.damaged();
            self.reject(pdu, RejectReason::DataDigest);
        }
        Box::new(transfer)
    }

    /// A message that has to wait for its turn. A command collects its data meanwhile.
    pub(super) fn turn(&mut self, mut pdu: Pdu) -> Turn {
        // What waits must not keep a whole receive buffer for a few bytes.
        if pdu.data.len() < RECEIVE_BYTES / 4 {
            pdu.data = Bytes::copy_from_slice(&pdu.data);
        }
        let RequestKind::Command(command) = pdu.request.kind else {
            return Turn::later(pdu, None, None);
        };
        let (task, _) = new_task(&pdu, &command);
        let transfer = self.transfer(&pdu, &command, &task);
        let lane = self.units.get(&task.lun);
        let seat = lane.map(|lane| Arc::clone(&lane.seat));
        Turn::later(pdu, Some(transfer), seat)
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
        let Some(lane) = self.units.get(&task.lun) else {
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
        task.seat = Some((Arc::clone(&lane.seat), lane.seat.aborted()));
        lane.unit.admit(&self.port, &lane.seat, decoded)
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
        let counted = self.portals.counters.attach(&found.volume);
        let lane = Lane::new(found.unit, number, (&self.port, &target), counted);
        self.units.insert(lun, lane);
        self.watch(lun);
    }

    /// Waits for what others do to a unit.
    pub(super) fn watch(&mut self, lun: u64) {
        let Some(lane) = self.units.get(&lun) else { return };
        let (closing, seat) = (lane.unit.disk().closing(), Arc::clone(&lane.seat));
        let aborted = seat.aborted();
        self.running.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => Finished::Gone(lun),
                () = seat.aborted_after(aborted) => Finished::Swept(lun),
            }
        });
    }

    /// The disk of a unit goes away: commands that wait are not carried out.
    pub(super) fn close_unit(&mut self, lun: u64) {
        let Some(lane) = self.units.get_mut(&lun) else {
            return;
        };
        lane.is_closing = true;
        for task in lane.take_batch() {
            self.reply(task, Answer::status(Status::Busy));
        }
        self.forget_units();
    }

    /// Forgets units whose disk is gone once all their commands are over.
    pub(super) fn forget_units(&mut self) {
        if self.units.values().any(|lane| lane.is_closing) {
            let mut tasks = self.tasks.values();
            let used: BTreeSet<u64> = tasks.by_ref().map(Progress::lun).collect();
            self.units
                .retain(|lun, lane| !lane.is_closing || used.contains(lun));
        }
    }

    /// Data of a command.
    pub(super) fn data_out(&mut self, pdu: &Pdu, message: &DataOut) {
        let tag = pdu.request.task_tag;
        let (transfer, is_waiting) = match self.tasks.get_mut(&tag) {
            Some(Progress::Receiving { transfer, .. }) => (Some(&mut **transfer), false),
            _ => (self.queue.transfer(tag), true),
        };
        let taken = transfer.is_some_and(|transfer| {
            let taken = transfer.take(message, pdu.data.clone(), NO_TAG);
            if !pdu.intact {
                transfer.damaged();
            }
            taken
        });
        if !pdu.intact {
            self.reject(pdu, RejectReason::DataDigest);
        }
        // What is left of a task that was aborted is thrown away without a word.
        if taken && !is_waiting {
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
        let (lun, number) = (task.address, task.sequences);
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
        }) = self.tasks.remove(&tag)
        else {
            return;
        };
        let (lun, aborted) = (task.lun, false);
        self.tasks.insert(tag, Progress::Running { lun, aborted });
        let failed = transfer.failure().map(Answer::check);
        if let Some(answer) = refused.or(failed) {
            return self.reply(*task, answer);
        }
        let (Some(cdb), Some(lane)) = (cdb, self.units.get(&lun).filter(|lane| !lane.is_closing)) else {
            return self.reply(*task, Answer::status(Status::Busy));
        };
        // The volume behind the number may be another one by now.
        let came = task
            .seat
            .as_ref()
            .filter(|(seat, _)| Arc::ptr_eq(seat, &lane.seat));
        let Some((_, aborted)) = came.filter(|_| !task.is_aborted()) else {
            return self.reply(*task, Answer::status(Status::Busy));
        };
        let unit = Arc::clone(&lane.unit);
        let plan = unit.decide(&lane.caller(*aborted), &cdb, transfer.data());
        self.carry_out(*task, unit, plan);
    }

    fn carry_out(&mut self, task: Task, unit: Arc<LogicalUnit<E::Disk>>, plan: Plan) {
        self.carried.note(task.lun, &plan);
        match plan {
            Plan::Answered(answer) => self.reply(task, answer),
            Plan::Read { offset, length } => self.read(task, unit, offset, length),
            Plan::Change { updates, forced } => match self.units.get_mut(&task.lun) {
                Some(lane) => lane.change(updates, task, forced),
                None => self.reply(task, Answer::status(Status::Busy)),
            },
            Plan::Flush => match self.units.get_mut(&task.lun) {
                Some(lane) => lane.flush(task),
                None => self.reply(task, Answer::status(Status::Busy)),
            },
            Plan::Ask(rest) => self.ask_disk(task, rest),
            Plan::Alter(rest) => {
                let seat = task
                    .seat
                    .as_ref()
                    .map(|(seat, _)| Arc::clone(seat))
                    .unwrap_or_default();
                self.running.spawn(async move {
                    let _under_way = unit.enter(&seat).await;
                    let answer = if task.is_aborted() {
                        Answer::status(Status::TaskAborted)
                    } else {
                        rest.await
                    };
                    Finished::Command(Box::new(task), answer)
                });
            }
        }
    }

    /// Carries out what changes no block, until it is aborted.
    fn ask_disk(&mut self, task: Task, rest: Later) {
        self.running.spawn(async move {
            let answer = tokio::select! {
                answer = rest => answer,
                () = task.aborted() => Answer::status(Status::TaskAborted),
            };
            Finished::Command(Box::new(task), answer)
        });
    }

    /// Answers a read from the cache, or has it wait for its turn to be carried out beside the connection.
    fn read(&mut self, task: Task, unit: Arc<LogicalUnit<E::Disk>>, offset: u64, length: u32) {
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
        let rest: Later = Box::pin(async move {
            match unit.disk().read(offset, length, Vec::new()).await {
                Ok(data) => Answer::with(data),
                Err(error) => Answer::failed(error, false),
            }
        });
        self.to_read.push_back((length, task, rest));
        self.read_next();
    }

    /// Begins reads that wait, as long as there is room for what they bring: what was read and is not sent takes some, too.
    pub(super) fn read_next(&mut self) {
        while let Some((length, mut task, rest)) = self.to_read.pop_front() {
            let bytes = u64::from(length);
            let is_too_much = self.held_bytes > 0 && self.held_bytes + bytes > HELD_BYTES;
            if is_too_much || self.sender.output.len() >= OUTPUT_BYTES {
                self.to_read.push_front((length, task, rest));
                return;
            }
            task.held = bytes;
            self.held_bytes += bytes;
            self.ask_disk(task, rest);
        }
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
        match self.units.get_mut(&task.lun) {
            _ if task.is_aborted() => self.finish(&task),
            Some(lane) => lane.defer(position, task, answer),
            None => self.reply(task, Answer::status(Status::Busy)),
        }
    }

    /// Answers a command, unless it was aborted.
    pub(super) fn reply(&mut self, mut task: Task, answer: Answer) {
        let aborted = matches!(
            self.tasks.get(&task.tag),
            Some(Progress::Running { aborted: true, .. })
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
            .is_some_and(|lane| lane.unit.descriptor_sense());
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
        self.tasks.remove(&task.tag);
        self.over(task.tag);
        self.ask_next();
        if task.held > 0 {
            self.read_next();
        }
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
}

/// A command before anything is done with it.
fn new_task(pdu: &Pdu, command: &Command) -> (Task, Result<Cdb, CdbError>) {
    let decoded = Cdb::decode(&command.cdb);
    let (tag, address) = (pdu.request.task_tag, pdu.request.lun);
    let counted = !pdu.request.immediate;
    let task = Task::new(tag, address, command, decoded.as_ref().ok(), counted);
    (task, decoded)
}
