//! Everything but SCSI commands: task management, text, logout, NOP.

use super::connection::Connection;
use super::fault::Fault;
use super::functions::Purpose;
use super::limits::TEXT_BYTES;
use super::parameters::Answer as Negotiated;
use super::progress::{Finished, Progress};
use super::queue::Turn;
use super::receiver::Pdu;
use super::task::{canonical, lun_number};
use crate::targets::scsi::{Seat, Sweep};
use crate::targets::{Exports, Stream};
use farside_protocol::iscsi::{
    LogoutReason, LogoutResponse, NO_TAG, Pairs, RejectReason, RequestKind, TaskFunction, TaskManagement,
    TaskResponse, Text, logout_response, nop_in, put_pair, text_response,
};
use std::collections::VecDeque;
use std::sync::Arc;

impl<S: Stream, E: Exports> Connection<S, E> {
    /// A message whose turn it is.
    pub(super) fn handle(&mut self, turn: Turn) -> Result<(), Fault> {
        let pdu = &turn.pdu;
        match pdu.request.kind {
            RequestKind::Command(command) => self.command(turn, &command),
            RequestKind::DataOut(message) => self.data_out(pdu, &message),
            // Of all others nothing is known to be what was sent (section 7.8).
            _ if !pdu.intact => self.reject(pdu, RejectReason::DataDigest),
            RequestKind::Nop { .. } => self.nop(pdu),
            RequestKind::Task(wanted) => self.manage(pdu, &wanted),
            RequestKind::Text(text) => self.text(pdu, &text),
            RequestKind::Logout { reason, connection } => self.logout(pdu, reason, connection),
            RequestKind::Snack => self.reject(pdu, RejectReason::Snack),
            RequestKind::Login(_) => return Err(Fault::Protocol("a login in the middle of a session")),
            RequestKind::Unknown(_) => self.reject(pdu, RejectReason::Unsupported),
        }
        Ok(())
    }

    /// A question is answered with its own data; an answer to ours has been heard.
    fn nop(&mut self, pdu: &Pdu) {
        if pdu.request.task_tag == NO_TAG {
            return;
        }
        let length = pdu.data.len().min(self.sender.segment_bytes());
        let serial = self.sender.status();
        let response = nop_in(pdu.request.task_tag, pdu.request.lun, NO_TAG, serial);
        self.sender.put(response, &pdu.data[..length]);
    }

    /// Closes the connection, and with it the session (section 11.14). Commands that are not answered yet are aborted, and
    /// the answer comes when they are over.
    fn logout(&mut self, pdu: &Pdu, reason: LogoutReason, connection: u16) {
        let refused = match reason {
            LogoutReason::CloseSession => None,
            LogoutReason::CloseConnection if connection == self.connection => None,
            LogoutReason::CloseConnection => Some(LogoutResponse::NoConnection),
            LogoutReason::RemoveConnection => Some(LogoutResponse::NoRecovery),
            LogoutReason::Unknown(_) => return self.reject(pdu, RejectReason::Protocol),
        };
        let tag = pdu.request.task_tag;
        if let Some(answer) = refused {
            let serial = self.sender.status();
            self.sender.put(logout_response(tag, answer, serial), &[]);
            return;
        }
        self.is_leaving = true;
        self.drop_transfers();
        let all: Vec<u64> = self.units.keys().copied().collect();
        let seats = self.abort_lanes(&all);
        self.running.spawn(async move {
            for seat in seats {
                seat.settle().await;
            }
            Finished::Managed { tag }
        });
        let running: Vec<u32> = self.tasks.keys().copied().collect();
        self.answer_after(tag, Purpose::Logout, running, false);
    }

    /// Task management (section 11.5).
    fn manage(&mut self, pdu: &Pdu, wanted: &TaskManagement) {
        let tag = pdu.request.task_tag;
        if self.has_enough_functions() {
            return self.manage_done(tag, TaskResponse::Rejected);
        }
        match wanted.function {
            TaskFunction::AbortTask => self.abort_task(pdu, wanted),
            TaskFunction::AbortTaskSet => self.abort_task_set(pdu),
            TaskFunction::ClearTaskSet => self.sweep_one(pdu, Sweep::Clear),
            TaskFunction::LogicalUnitReset => self.sweep_one(pdu, Sweep::Reset),
            TaskFunction::TargetWarmReset => self.sweep_target(pdu, Purpose::Manage),
            TaskFunction::TargetColdReset => self.sweep_target(pdu, Purpose::ColdReset),
            TaskFunction::TaskReassign => self.manage_done(tag, TaskResponse::NoReassign),
            TaskFunction::ClearAca | TaskFunction::Unknown(_) => {
                self.manage_done(tag, TaskResponse::Unsupported);
            }
        }
    }

    fn abort_task_set(&mut self, pdu: &Pdu) {
        let (tag, lun) = (pdu.request.task_tag, canonical(pdu.request.lun));
        let luns = self.luns_of(lun);
        let seats = self.abort_own(pdu, &luns);
        if seats.is_empty() {
            return self.manage_done(tag, self.no_tasks(lun));
        }
        self.running.spawn(async move {
            for seat in seats {
                seat.settle().await;
            }
            Finished::Managed { tag }
        });
        self.answer_after(tag, Purpose::Manage, self.running(&luns), false);
    }

    /// The numbers by which the session knows the unit of this number: a volume may have had others.
    fn luns_of(&self, lun: u64) -> Vec<u64> {
        let mut luns = vec![lun];
        if let Some(unit) = self.units.get(&lun).map(|lane| &lane.unit) {
            let same = self
                .units
                .iter()
                .filter(|(of, lane)| **of != lun && Arc::ptr_eq(&lane.unit, unit));
            luns.extend(same.map(|(of, _)| *of));
        }
        luns
    }

    /// What a function on a unit without tasks of the session leads to.
    fn no_tasks(&self, lun: u64) -> TaskResponse {
        let target = self.session.nexus.target.as_deref().unwrap_or_default();
        let luns = self.portals.directory.luns(target);
        let exists = lun_number(lun).is_some_and(|number| luns.iter().any(|(known, _)| *known == number));
        if exists {
            TaskResponse::Complete
        } else {
            TaskResponse::NoLun
        }
    }

    /// Aborts one task, of whatever age (section 11.6.1).
    fn abort_task(&mut self, pdu: &Pdu, wanted: &TaskManagement) {
        let (tag, task) = (pdu.request.task_tag, wanted.referenced_tag);
        let lun = canonical(pdu.request.lun);
        match self.tasks.get_mut(&task) {
            Some(Progress::Receiving { task: of, .. }) if of.lun == lun => {
                self.abort_transfer(task);
                return self.manage_done(tag, TaskResponse::Complete);
            }
            // It is too late to stop it; it is answered no more, and this once it is over.
            Some(Progress::Running { lun: of, aborted }) if *of == lun => {
                *aborted = true;
                return self.answer_after(tag, Purpose::Manage, vec![task], true);
            }
            _ => {}
        }
        let is_meant = |pdu: &Pdu| pdu.request.task_tag == task && canonical(pdu.request.lun) == lun;
        if self.queue.abort(is_meant) > 0 {
            return self.manage_done(tag, TaskResponse::Complete);
        }
        // A command that was not received, and is older than this: it counts as received.
        let ahead = |number: u32| number.wrapping_sub(self.sender.expected);
        let missing = ahead(wanted.referenced_number);
        let is_older = missing < ahead(pdu.request.command_number);
        if missing < self.sender.command_room() && is_older && pdu.request.immediate {
            self.queue.plug(wanted.referenced_number);
            self.release();
            return self.manage_done(tag, TaskResponse::Complete);
        }
        self.manage_done(tag, TaskResponse::NoTask);
    }

    /// Tasks of the session in these units that are older than this message are not answered any more. Gives its seats there.
    fn abort_own(&mut self, pdu: &Pdu, luns: &[u64]) -> Vec<Arc<Seat>> {
        let number = pdu.request.command_number;
        let is_older = |other: u32| number.wrapping_sub(other).wrapping_sub(1) < u32::MAX / 2;
        self.queue.abort(|other| {
            let is_there = luns.contains(&canonical(other.request.lun));
            is_there && (other.request.immediate || is_older(other.request.command_number))
        });
        self.abort_lanes(luns)
    }

    fn abort_lanes(&mut self, luns: &[u64]) -> Vec<Arc<Seat>> {
        let mut seats = Vec::new();
        for lun in luns {
            if let Some(lane) = self.units.get(lun) {
                lane.seat.abort();
                seats.push(Arc::clone(&lane.seat));
            }
            self.purge(*lun);
        }
        seats
    }

    /// Ends the tasks in a unit that were aborted and have not begun, or only wait to be answered.
    pub(super) fn purge(&mut self, lun: u64) {
        let is_meant = |progress: &Progress| match progress {
            Progress::Receiving { task, .. } => task.lun == lun && task.is_aborted(),
            Progress::Running { .. } => false,
        };
        let receiving: Vec<u32> = self
            .tasks
            .iter()
            .filter(|(_, progress)| is_meant(progress))
            .map(|(tag, _)| *tag)
            .collect();
        receiving.into_iter().for_each(|tag| self.abort_transfer(tag));
        if let Some(lane) = self.units.get_mut(&lun) {
            let waiting = lane.take_aborted();
            waiting.iter().for_each(|task| self.finish(task));
        }
        let (aborted, kept): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.to_read)
            .into_iter()
            .partition(|(_, task, _)| task.is_aborted());
        self.to_read = kept;
        aborted.iter().for_each(|(_, task, _)| self.finish(task));
    }

    fn sweep_one(&mut self, pdu: &Pdu, why: Sweep) {
        let (tag, lun) = (pdu.request.task_tag, canonical(pdu.request.lun));
        let target = self.session.nexus.target.clone().unwrap_or_default();
        let lane = self.units.get(&lun).map(|lane| Arc::clone(&lane.unit));
        let number = lun_number(lun);
        let found = || Some(self.portals.directory.find(&target, number?)?.unit);
        let Some(unit) = lane.or_else(found) else {
            return self.manage_done(tag, TaskResponse::NoLun);
        };
        let luns = self.luns_of(lun);
        let own = self.abort_own(pdu, &luns);
        self.running.spawn(async move {
            unit.sweep(&own, why).await;
            Finished::Managed { tag }
        });
        self.answer_after(tag, Purpose::Manage, self.running(&luns), false);
    }

    /// Resets every unit of the target; after a cold reset its sessions end, too.
    fn sweep_target(&mut self, pdu: &Pdu, purpose: Purpose) {
        let tag = pdu.request.task_tag;
        let luns: Vec<u64> = self.units.keys().copied().collect();
        let own = self.abort_own(pdu, &luns);
        let target = self.session.nexus.target.clone().unwrap_or_default();
        let portals = Arc::clone(&self.portals);
        self.running.spawn(async move {
            for (number, _) in portals.directory.luns(&target) {
                if let Some(found) = portals.directory.find(&target, number) {
                    found.unit.sweep(&own, Sweep::Reset).await;
                }
            }
            Finished::Managed { tag }
        });
        self.answer_after(tag, purpose, self.running(&luns), false);
    }

    /// Text: targets are listed, and what may change in a session is negotiated (section 11.10).
    fn text(&mut self, pdu: &Pdu, text: &Text) {
        if text.transfer_tag != NO_TAG {
            // The initiator asks for the rest of an answer.
            if self.text.is_empty() {
                return self.reject(pdu, RejectReason::Protocol);
            }
            return self.send_text(pdu.request.task_tag);
        }
        self.text.clear();
        if text.continues || pdu.data.len() > TEXT_BYTES {
            return self.reject(pdu, RejectReason::Unsupported);
        }
        let pairs: Result<Vec<(&str, &str)>, _> = Pairs::new(&pdu.data).collect();
        let Ok(pairs) = pairs else {
            return self.reject(pdu, RejectReason::Protocol);
        };
        let mut out = Vec::new();
        // Many lists of many targets in one answer would be too much to hold.
        let lists = pairs.iter().filter(|(key, _)| *key == "SendTargets").count();
        if lists > 1 {
            return self.reject(pdu, RejectReason::Protocol);
        }
        for (key, value) in pairs {
            match key {
                "SendTargets" => self.list_targets(value, &mut out),
                "MaxRecvDataSegmentLength" => {
                    let mut fresh = super::parameters::Parameters::default();
                    match fresh.negotiate(key, value) {
                        Negotiated::Nothing => self.sender.set_segment_bytes(fresh.initiator_segment_bytes),
                        _ => put_pair(&mut out, key, "Reject"),
                    }
                }
                _ if key.starts_with("X-") => put_pair(&mut out, key, "NotUnderstood"),
                // The rest is the login's.
                _ => put_pair(&mut out, key, "Reject"),
            }
        }
        self.text = out;
        self.send_text(pdu.request.task_tag);
    }

    /// Sends as much of the text as the initiator takes at once.
    fn send_text(&mut self, task_tag: u32) {
        let length = self.text.len().min(self.sender.segment_bytes());
        let rest = self.text.split_off(length);
        let part = std::mem::replace(&mut self.text, rest);
        let transfer_tag = if self.text.is_empty() { None } else { Some(1) };
        let serial = self.sender.status();
        self.sender
            .put(text_response(task_tag, transfer_tag, serial), &part);
    }

    /// All targets, one, or that of the session, each with its portals (section 13.3 and appendix C).
    fn list_targets(&self, which: &str, out: &mut Vec<u8>) {
        let own = self.session.nexus.target.clone();
        let listed: Vec<String> = match (which, own) {
            ("All", None) => self.portals.directory.targets(),
            ("", Some(own)) => vec![own],
            (name, own) => self
                .portals
                .directory
                .targets()
                .into_iter()
                .filter(|known| known == name && own.as_ref().is_none_or(|own| own == name))
                .collect(),
        };
        for target in listed {
            put_pair(out, "TargetName", &target);
            for address in self.portals.addresses(self.local) {
                put_pair(out, "TargetAddress", &format!("{address},1"));
            }
        }
    }
}
