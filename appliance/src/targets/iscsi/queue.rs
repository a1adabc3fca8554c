//! Messages whose turn has not come: behind a command that has to be alone, or behind a gap in the numbers (RFC 7143, section
//! 4.2.2.1).

use super::limits::{WAITING_BYTES, WAITING_MESSAGES};
use super::receiver::Pdu;
use crate::targets::limits::RECEIVE_BYTES;
use bytes::Bytes;
use farside_protocol::iscsi::RequestKind;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

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

    /// What waits must not keep a whole receive buffer for a few bytes.
    fn count(&mut self, pdu: &mut Pdu) {
        if pdu.data.len() < RECEIVE_BYTES / 4 {
            pdu.data = Bytes::copy_from_slice(&pdu.data);
        }
        self.messages += 1;
        self.bytes += pdu.data.len();
    }

    /// Waits behind all others.
    pub(super) fn push(&mut self, mut pdu: Pdu) {
        self.count(&mut pdu);
        self.waiting.push_back(pdu);
    }

    /// Waits for the numbers before its own.
    pub(super) fn hold(&mut self, mut pdu: Pdu) {
        let number = pdu.request.command_number;
        // What has its number already is the first of it.
        if !self.held.contains_key(&number) {
            self.count(&mut pdu);
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
        let is_its = |pdu: &Pdu| is_command(pdu) && !pdu.aborted && pdu.request.task_tag == tag;
        if self.waiting.iter().any(is_its) {
            self.push(data);
            return None;
        }
        let mut held = self.held.iter();
        let its = held.find(|(_, messages)| messages.first().is_some_and(is_its));
        let Some(number) = its.map(|(number, _)| *number) else {
            return Some(data);
        };
        let mut data = data;
        self.count(&mut data);
        self.held.entry(number).or_default().push(data);
        None
    }

    /// Commands that `is_meant` are not carried out when their turn comes, which has to come for their numbers; their data is
    /// thrown away. Gives how many there are.
    pub(super) fn abort(&mut self, is_meant: impl Fn(&Pdu) -> bool) -> usize {
        let mut tags = BTreeSet::new();
        let all = self.waiting.iter_mut().chain(self.held.values_mut().flatten());
        for pdu in all.filter(|pdu| is_command(pdu) && !pdu.aborted) {
            if is_meant(pdu) {
                pdu.aborted = true;
                tags.insert(pdu.request.task_tag);
            }
        }
        let (mut messages, mut bytes) = (0, 0);
        let mut stays = |pdu: &Pdu| {
            let is_data = matches!(pdu.request.kind, RequestKind::DataOut(_));
            let goes = is_data && tags.contains(&pdu.request.task_tag);
            if goes {
                (messages, bytes) = (messages + 1, bytes + pdu.data.len());
            }
            !goes
        };
        self.waiting.retain(&mut stays);
        self.held.values_mut().for_each(|held| held.retain(&mut stays));
        (self.messages, self.bytes) = (self.messages - messages, self.bytes - bytes);
        tags.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farside_protocol::iscsi::Request;

    fn pdu(opcode: u8, tag: u32, number: u32, data: Bytes) -> Pdu {
        let mut header = [0; 48];
        header[0] = opcode;
        header[16..20].copy_from_slice(&tag.to_be_bytes());
        header[24..28].copy_from_slice(&number.to_be_bytes());
        Pdu {
            header,
            request: Request::decode(&header),
            data,
            intact: true,
            aborted: false,
            came: None,
        }
    }

    #[test]
    fn what_waits_keeps_no_buffer_of_others_and_is_counted() {
        let buffer = Bytes::from(vec![1; RECEIVE_BYTES]);
        let mut queue = Queue::default();
        queue.push(pdu(1, 5, 0, buffer.slice(..100)));
        queue.hold(pdu(1, 6, 9, buffer.slice(..7)));
        for tag in [5, 6] {
            assert!(queue.follow(pdu(5, tag, 0, buffer.slice(3..50))).is_none());
        }
        assert!(queue.follow(pdu(5, 7, 0, buffer.slice(3..50))).is_some());
        assert_eq!((queue.messages, queue.bytes), (4, 100 + 7 + 47 * 2));
        assert!(buffer.is_unique(), "what waits has copies");
        assert_eq!(queue.abort(|pdu| pdu.request.task_tag == 6), 1);
        assert_eq!((queue.messages, queue.bytes), (3, 100 + 7 + 47));
        assert!(!queue.release(9) && !queue.release(10));
        queue.plug(11);
        assert!(queue.release(11));
        let order = std::iter::from_fn(|| queue.pop().map(|pdu| (pdu.request.task_tag, pdu.aborted)));
        assert_eq!(order.collect::<Vec<_>>(), [(6, true), (5, false), (5, false)]);
        assert_eq!((queue.messages, queue.bytes), (0, 0));
    }
}
