//! Everything but SCSI commands: task management, text, logout, NOP.

use super::connection::{Connection, End, Finished, Progress};
use super::fault::Fault;
use super::limits::TEXT_BYTES;
use super::parameters::Answer as Negotiated;
use super::receiver::Pdu;
use super::task::lun_number;
use crate::targets::scsi::Sweep;
use crate::targets::{Exports, Stream};
use farside_protocol::iscsi::{
    LogoutReason, LogoutResponse, NO_TAG, Pairs, RejectReason, RequestKind, TaskFunction, TaskManagement,
    TaskResponse, Text, logout_response, nop_in, put_pair, task_response, text_response,
};
use std::sync::Arc;

impl<S: Stream, E: Exports> Connection<S, E> {
    /// A message whose turn it is.
    pub(super) fn handle(&mut self, pdu: Pdu) -> Result<(), Fault> {
        match pdu.request.kind {
            RequestKind::Command(command) => self.command(&pdu, &command),
            RequestKind::DataOut(message) => self.data_out(&pdu, &message),
            // Of all others nothing is known to be what was sent (section 7.8).
            _ if !pdu.intact => self.reject(&pdu, RejectReason::DataDigest),
            RequestKind::Nop { .. } => self.nop(&pdu),
            RequestKind::Task(wanted) => self.manage(&pdu, &wanted),
            RequestKind::Text(text) => self.text(&pdu, &text),
            RequestKind::Logout { reason, connection } => self.logout(&pdu, reason, connection),
            RequestKind::Snack => self.reject(&pdu, RejectReason::Snack),
            RequestKind::Login(_) => return Err(Fault::Protocol("a login in the middle of a session")),
            RequestKind::Unknown(_) => self.reject(&pdu, RejectReason::Unsupported),
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

    /// Closes the connection, and with it the session (section 11.14).
    fn logout(&mut self, pdu: &Pdu, reason: LogoutReason, connection: u16) {
        let answer = match reason {
            LogoutReason::CloseSession => LogoutResponse::Closed,
            LogoutReason::CloseConnection if connection == self.connection => LogoutResponse::Closed,
            LogoutReason::CloseConnection => LogoutResponse::NoConnection,
            LogoutReason::RemoveConnection => LogoutResponse::NoRecovery,
            LogoutReason::Unknown(_) => return self.reject(pdu, RejectReason::Protocol),
        };
        let serial = self.sender.status();
        self.sender
            .put(logout_response(pdu.request.task_tag, answer, serial), &[]);
        if answer == LogoutResponse::Closed {
            self.drop_transfers();
            self.end = Some(End::Initiator);
        }
    }

    /// Task management (section 11.5).
    fn manage(&mut self, pdu: &Pdu, wanted: &TaskManagement) {
        let (tag, lun) = (pdu.request.task_tag, pdu.request.lun);
        match wanted.function {
            TaskFunction::AbortTask => self.abort_task(tag, lun, wanted),
            TaskFunction::AbortTaskSet => {
                let unit = self.units.get(&lun).map(|attached| Arc::clone(&attached.unit));
                match unit {
                    Some(unit) => {
                        self.abort_own(lun);
                        self.running.spawn(async move {
                            unit.settle().await;
                            done(tag)
                        });
                    }
                    None => self.manage_done(tag, self.no_tasks(lun)),
                }
            }
            TaskFunction::ClearTaskSet => self.sweep_one(tag, lun, Sweep::Clear),
            TaskFunction::LogicalUnitReset => self.sweep_one(tag, lun, Sweep::Reset),
            TaskFunction::TargetWarmReset => self.sweep_target(tag, false),
            TaskFunction::TargetColdReset => self.sweep_target(tag, true),
            TaskFunction::TaskReassign => self.manage_done(tag, TaskResponse::NoReassign),
            TaskFunction::ClearAca | TaskFunction::Unknown(_) => {
                self.manage_done(tag, TaskResponse::Unsupported);
            }
        }
    }

    /// What a function on a unit without tasks of this session leads to.
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

    pub(super) fn manage_done(&mut self, tag: u32, answer: TaskResponse) {
        let serial = self.sender.status();
        self.sender.put(task_response(tag, answer, serial), &[]);
    }

    fn abort_task(&mut self, tag: u32, lun: u64, wanted: &TaskManagement) {
        match self.tasks.get_mut(&wanted.referenced_tag) {
            Some(Progress::Receiving { task, .. }) if task.lun == lun => {
                self.abort_transfer(wanted.referenced_tag);
                self.manage_done(tag, TaskResponse::Complete);
            }
            // It is too late to stop it; it is answered no more, and this once it is over.
            Some(Progress::Running { abort }) if abort.is_none() => *abort = Some(tag),
            _ => self.manage_done(tag, TaskResponse::NoTask),
        }
    }

    /// Tasks of this session on a unit are not answered any more.
    fn abort_own(&mut self, lun: u64) {
        let receiving: Vec<u32> = self
            .tasks
            .iter()
            .filter(|(_, progress)| matches!(progress, Progress::Receiving { task, .. } if task.lun == lun))
            .map(|(tag, _)| *tag)
            .collect();
        receiving.into_iter().for_each(|tag| self.abort_transfer(tag));
        if let Some(attached) = self.units.get(&lun) {
            attached.seat.abort();
        }
    }

    fn sweep_one(&mut self, tag: u32, lun: u64, why: Sweep) {
        let target = self.session.nexus.target.clone().unwrap_or_default();
        let found = lun_number(lun).and_then(|number| self.portals.directory.find(&target, number));
        let Some(found) = found else {
            return self.manage_done(tag, TaskResponse::NoLun);
        };
        self.abort_own(lun);
        let port = self.port.clone();
        self.running.spawn(async move {
            found.unit.sweep(&port, why).await;
            done(tag)
        });
    }

    /// Resets every unit of the target; a cold reset ends its sessions, too.
    fn sweep_target(&mut self, tag: u32, is_cold: bool) {
        let luns: Vec<u64> = self.units.keys().copied().collect();
        luns.into_iter().for_each(|lun| self.abort_own(lun));
        let target = self.session.nexus.target.clone().unwrap_or_default();
        let (portals, port) = (Arc::clone(&self.portals), self.port.clone());
        self.running.spawn(async move {
            for (number, _) in portals.directory.luns(&target) {
                if let Some(found) = portals.directory.find(&target, number) {
                    found.unit.sweep(&port, Sweep::Reset).await;
                }
            }
            if is_cold {
                Finished::Reset { tag }
            } else {
                done(tag)
            }
        });
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

    /// All targets, one, or that of this session, each with its portals (section 13.3 and appendix C).
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

fn done(tag: u32) -> Finished {
    Finished::Managed {
        tag,
        answer: TaskResponse::Complete,
    }
}
