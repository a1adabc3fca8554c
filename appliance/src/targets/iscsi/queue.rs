//! Messages whose turn has not come: behind a command that has to be alone, or behind a gap in the numbers (RFC 7143, section
//! 4.2.2.1).

use super::limits::{WAITING_BYTES, WAITING_MESSAGES};
use super::receiver::Pdu;
use farside_protocol::iscsi::RequestKind;
use std::collections::{BTreeMap, VecDeque};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// In their order; the data of a command is behind it.
    waiting: VecDeque<Pdu>,
    /// By number: messages that came before one with a lower number, each with the data that followed it.
    held: BTreeMap<u32, Vec<Pdu>>,
    messages: usize,
    bytes: usize,
}

fn is_command(pdu: &Pdu) -> bool {
    matches!(pdu.request.kind, RequestKind::Command(_))
}

impl Queue {
    /// Whether no more can be taken.
    pub(super) fn is_full(&self) -> bool {
        self.messages >= WAITING_MESSAGES || self.bytes >= WAITING_BYTES
    }

    pub(super) fn front(&self) -> Option<&Pdu> {
        self.waiting.front()
    }

    pub(super) fn pop(&mut self) -> Option<Pdu> {
        let pdu = self.waiting.pop_front()?;
        self.messages -= 1;
        self.bytes -= pdu.data.len();
        Some(pdu)
    }

    fn count(&mut self, pdu: &Pdu) {
        self.messages += 1;
        self.bytes += pdu.data.len();
    }

    /// Waits behind all others.
    pub(super) fn push(&mut self, pdu: Pdu) {
        self.count(&pdu);
        self.waiting.push_back(pdu);
    }

    /// Waits for the numbers before its own.
    pub(super) fn hold(&mut self, pdu: Pdu) {
        let number = pdu.request.command_number;
        // What has its number already is the first of it.
        if !self.held.contains_key(&number) {
            self.count(&pdu);
            self.held.insert(number, vec![pdu]);
        }
    }

    /// Takes a number for used, although nothing came with it.
    pub(super) fn plug(&mut self, number: u32) {
        self.held.entry(number).or_default();
    }

    /// This number is the next one: what has it comes before all others. True: nothing has it, and nothing is going to.
    pub(super) fn release(&mut self, number: u32) -> bool {
        let Some(messages) = self.held.remove(&number) else {
            return false;
        };
        let is_plugged = messages.is_empty();
        for pdu in messages.into_iter().rev() {
            self.waiting.push_front(pdu);
        }
        is_plugged
    }

    /// Puts data behind the command that it belongs to, if that waits; gives it back if not.
    pub(super) fn follow(&mut self, data: Pdu) -> Option<Pdu> {
        if self.messages == 0 {
            return Some(data);
        }
        let tag = data.request.task_tag;
        let is_its = |pdu: &Pdu| is_command(pdu) && pdu.request.task_tag == tag;
        if self.waiting.iter().any(is_its) {
            self.push(data);
            return None;
        }
        let mut held = self.held.values_mut();
        let Some(messages) = held.find(|messages| messages.first().is_some_and(is_its)) else {
            return Some(data);
        };
        (self.messages, self.bytes) = (self.messages + 1, self.bytes + data.data.len());
        messages.push(data);
        None
    }

    /// Commands that `is_meant` are not carried out when their turn comes, which has to come for their numbers. Gives how many
    /// there are.
    pub(super) fn abort(&mut self, is_meant: impl Fn(&Pdu) -> bool) -> usize {
        let all = self.waiting.iter_mut().chain(self.held.values_mut().flatten());
        let mut aborted = 0;
        for pdu in all.filter(|pdu| is_command(pdu) && !pdu.aborted) {
            if is_meant(pdu) {
                pdu.aborted = true;
                aborted += 1;
            }
        }
        aborted
    }
}
