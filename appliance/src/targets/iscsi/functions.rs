//! What is answered only when tasks are over: task management functions that abort them, and the logout.

use super::connection::Connection;
use super::limits::IMMEDIATE_COMMANDS;
use super::progress::{End, Progress};
use crate::targets::{Exports, Stream};
use farside_protocol::iscsi::{LogoutResponse, TaskResponse, logout_response, task_response};

/// Why tasks have to be over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A task management function.
    Manage,
    /// The cold reset: the sessions of the target end after it.
    ColdReset,
    /// The session ends.
    Logout,
}

/// Something that waits.
#[derive(Debug)]
pub(super) struct Function {
    tag: u32,
    purpose: Purpose,
    /// What others have under way in the unit was waited for.
    settled: bool,
    /// Tasks of the session that are not over.
    remaining: Vec<u32>,
}

impl<S: Stream, E: Exports> Connection<S, E> {
    /// Answers the function of this tag when those tasks are over and, unless it is `settled`, when it is told so.
    pub(super) fn answer_after(&mut self, tag: u32, purpose: Purpose, remaining: Vec<u32>, settled: bool) {
        self.functions.push(Function {
            tag,
            purpose,
            settled,
            remaining,
        });
        self.conclude();
    }

    /// Whether no more functions are taken for now.
    pub(super) fn has_enough_functions(&self) -> bool {
        self.functions.len() >= IMMEDIATE_COMMANDS
    }

    /// What others have under way is over.
    pub(super) fn settled(&mut self, tag: u32) {
        let mut waiting = self.functions.iter_mut();
        if let Some(function) = waiting.find(|function| function.tag == tag && !function.settled) {
            function.settled = true;
        }
        self.conclude();
    }

    /// A task is over.
    pub(super) fn over(&mut self, tag: u32) {
        if self.functions.is_empty() {
            return;
        }
        for function in &mut self.functions {
            function.remaining.retain(|remaining| *remaining != tag);
        }
        self.conclude();
    }

    /// Answers what waits for nothing any more.
    fn conclude(&mut self) {
        let is_done = |function: &Function| function.settled && function.remaining.is_empty();
        while let Some(at) = self.functions.iter().position(is_done) {
            let function = self.functions.remove(at);
            match function.purpose {
                Purpose::Manage => self.manage_done(function.tag, TaskResponse::Complete),
                Purpose::ColdReset => {
                    self.manage_done(function.tag, TaskResponse::Complete);
                    let target = self.session.nexus.target.clone().unwrap_or_default();
                    self.portals.sessions.end_all(&target);
                }
                Purpose::Logout => {
                    self.drop_transfers();
                    // What the session reserved is free when that is told.
                    self.units.clear();
                    let serial = self.sender.status();
                    let response = logout_response(function.tag, LogoutResponse::Closed, serial);
                    self.sender.put(response, &[]);
                    self.end = Some(End::Initiator);
                }
            }
        }
    }

    pub(super) fn manage_done(&mut self, tag: u32, answer: TaskResponse) {
        let serial = self.sender.status();
        self.sender.put(task_response(tag, answer, serial), &[]);
    }

    /// Tasks that are being carried out in these units.
    pub(super) fn running(&self, luns: &[u64]) -> Vec<u32> {
        let is_meant = |progress: &Progress| match progress {
            Progress::Running { lun, .. } => luns.contains(lun),
            Progress::Receiving { .. } => false,
        };
        let tasks = self.tasks.iter().filter(|(_, progress)| is_meant(progress));
        tasks.map(|(tag, _)| *tag).collect()
    }
}
