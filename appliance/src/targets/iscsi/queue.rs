//! Messages whose turn has not come: behind a command that has to be alone, or behind a gap in the numbers (RFC 7143, section
//! 4.2.2.1). The command window bounds them. Data is not among them: it is collected by the command it belongs to.

use super::limits::{COMMANDS, IMMEDIATE_COMMANDS};
use super::receiver::Pdu;
use super::transfer::Transfer;
use crate::targets::scsi::Seat;
use farside_protocol::iscsi::RequestKind;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Messages in either place: as many as the window has, and some that it does not hold back.
const MESSAGES: usize = COMMANDS as usize + IMMEDIATE_COMMANDS;

/// A message, and of a command what is known of it before its turn.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) pdu: Pdu,
    /// Its data so far.
    pub(super) transfer: Option<Box<Transfer>>,
    /// Where its initiator stands with the unit, and how often its tasks had been aborted when it came: a function that aborts
    /// everything is younger, whoever asks for it.
    came: Option<(Arc<Seat>, u64)>,
    /// It was aborted by itself.
    aborted: bool,
    /// What is known of it was collected while it waited, for another turn than its number's.
    pub(super) has_waited: bool,
}

impl Turn {
    /// Of a message that did not wait.
    pub(super) fn now(pdu: Pdu) -> Self {
        Self {
            has_waited: false,
            ..Self::later(pdu, None, None)
        }
    }

    /// Of a message that has to wait, and of a command the collected data and the initiator's seat.
    pub(super) fn later(pdu: Pdu, transfer: Option<Box<Transfer>>, seat: Option<Arc<Seat>>) -> Self {
        Self {
            pdu,
            transfer,
            came: seat.map(|seat| {
                let aborted = seat.aborted();
                (seat, aborted)
            }),
            aborted: false,
            has_waited: true,
        }
    }

    /// Whether only its number counts.
    pub(super) fn is_aborted(&self) -> bool {
        let is_swept = |(seat, aborted): &(Arc<Seat>, u64)| seat.aborted() != *aborted;
        self.aborted || self.came.as_ref().is_some_and(is_swept)
    }

    fn is_command(&self) -> bool {
        matches!(self.pdu.request.kind, RequestKind::Command(_))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// In their order.
    waiting: VecDeque<Turn>,
    /// By number: messages that came before one with a lower number. `None`: nothing comes with this number.
    held: BTreeMap<u32, Option<Turn>>,
}

impl Queue {
    /// Whether there are more than an initiator that keeps to the window has.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() + self.held.len() >= MESSAGES
    }

    pub(super) fn front(&self) -> Option<&Turn> {
        self.waiting.front()
    }

    pub(super) fn pop(&mut self) -> Option<Turn> {
        self.waiting.pop_front()
    }

    /// Waits behind all others.
    pub(super) fn push(&mut self, turn: Turn) {
        self.waiting.push_back(turn);
    }

    /// Waits for the numbers before its own. What has that number already is the first of it.
    pub(super) fn hold(&mut self, turn: Turn) {
        let number = turn.pdu.request.command_number;
        self.held.entry(number).or_insert(Some(turn));
    }

    /// Takes a number for used, although nothing came with it.
    pub(super) fn plug(&mut self, number: u32) {
        self.held.entry(number).or_default();
    }

    /// This number is the next one: what has it comes before all others. True: nothing has it, and nothing is going to.
    pub(super) fn release(&mut self, number: u32) -> bool {
        match self.held.remove(&number) {
            Some(None) => true,
            Some(Some(turn)) => {
                self.waiting.push_front(turn);
                false
            }
            None => false,
        }
    }

    fn commands(&mut self) -> impl Iterator<Item = &mut Turn> {
        let held = self.held.values_mut().flatten();
        let all = self.waiting.iter_mut().chain(held);
        all.filter(|turn| turn.is_command() && !turn.aborted)
    }

    /// The data of the command with this tag, if it waits.
    pub(super) fn transfer(&mut self, tag: u32) -> Option<&mut Transfer> {
        let mut commands = self.commands();
        let found = commands.find(|turn| turn.pdu.request.task_tag == tag)?;
        found.transfer.as_deref_mut()
    }

    /// Commands that `is_meant` are not carried out when their turn comes, which has to come for their numbers. Gives how many
    /// there are.
    pub(super) fn abort(&mut self, is_meant: impl Fn(&Pdu) -> bool) -> usize {
        let meant = self.commands().filter(|turn| is_meant(&turn.pdu));
        meant
            .map(|turn| {
                turn.aborted = true;
                turn.transfer = None;
            })
            .count()
    }
}
