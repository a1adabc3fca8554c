//! Decides whether an image is a state the disk once had.
//!
//! The rules, for a history with overlapping requests (`v`, `w` operations; "visible": some of its bytes are in the
//! image):
//! - every byte is what some operation left there, or zero where none must have been;
//! - `v` is required if a part of it is visible (operations are whole or absent), or if some visible `w` was submitted
//!   after `v` was acknowledged, or if it was acknowledged before a moment the caller demands;
//! - where `v` is required, each of its bytes shows `v` or an operation that may follow it, that is, one not
//!   acknowledged before `v` was submitted;
//! - of two overlapping operations, one is on top everywhere.
//!
//! Every image that a correct disk can have passes. Bytes that several operations would have left alike (zeroes, a few
//! bytes of a cell) count for every one of them.

use super::cell::{CELL_BYTES, cell, read_cell, to_index};
use super::history::{Kind, Operation, OperationId, Snapshot, Time};
use super::report::{Because, Report, Violation};
use std::collections::{HashMap, HashSet};

/// The number of violations that are listed; the rest is counted.
const LISTED: usize = 32;

/// What the image must contain beyond being a state of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Nothing: any state the disk once had.
    AnyPrefix,
    /// Everything acknowledged before this moment.
    Before(Time),
    /// Everything acknowledged.
    Acknowledged,
    /// What a power cut must leave: every FUA write answered, and everything acknowledged before an answered flush or
    /// FUA write was sent.
    Durable,
}

/// A range of the image in which the same operations could be visible, and what its content shows.
#[derive(Debug)]
struct Piece {
    offset: u64,
    shown: Shown,
}

/// What a piece shows.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    /// This operation alone.
    One(OperationId),
    /// Any of these; 0 stands for the content before the first operation.
    AnyOf(Vec<OperationId>),
    /// Nothing that can be there.
    Foreign(Vec<u8>),
}

/// Checks images against one snapshot of a history.
#[derive(Debug)]
pub struct Checker<'a> {
    history: &'a Snapshot,
    image: &'a [u8],
    base: u64,
}

impl<'a> Checker<'a> {
    /// A checker for an image of the whole disk.
    #[must_use]
    pub fn new(history: &'a Snapshot, image: &'a [u8]) -> Self {
        Self {
            history,
            image,
            base: 0,
        }
    }

    /// Checks the image.
    #[must_use]
    pub fn check(&self, demand: Demand) -> Report {
        let mut spans = Vec::new();
        self.each_span(|covering, start, end| {
            let pieces = self.pieces(covering, start, end);
            spans.push((covering.to_vec(), pieces));
        });
        let mut verdict = Verdict::new(self.history, demand);
        for (_, pieces) in &spans {
            verdict.see(pieces);
        }
        verdict.decide();
        for (covering, pieces) in &spans {
            for piece in pieces {
                verdict.judge(covering, piece);
            }
        }
        verdict.finish()
    }

    /// Calls back with every range that the same operations cover, from left to right.
    fn each_span(&self, mut visit: impl FnMut(&[OperationId], u64, u64)) {
        let mut edges: Vec<(u64, bool, OperationId)> = Vec::new();
        for operation in &self.history.operations {
            edges.push((operation.offset, true, operation.id));
            edges.push((operation.end(), false, operation.id));
        }
        edges.sort_unstable();
        let end = self.base + self.image.len() as u64;
        let mut covering: Vec<OperationId> = Vec::new();
        let mut at = self.base;
        for (edge, begins, id) in edges {
            if edge > at {
                visit(&covering, at, edge.min(end));
                at = edge;
            }
            if begins {
                covering.push(id);
            } else {
                covering.retain(|other| *other != id);
            }
        }
        if at < end {
            visit(&covering, at, end);
        }
    }

    fn bytes(&self, start: u64, end: u64) -> &'a [u8] {
        self.image
            .get(to_index(start - self.base)..to_index(end - self.base))
            .unwrap_or_default()
    }

    /// What each cell of a span shows, neighbours with the same content joined.
    fn pieces(&self, covering: &[OperationId], start: u64, end: u64) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut at = start;
        while at < end {
            let next = ((at / CELL_BYTES + 1) * CELL_BYTES).min(end);
            let shown = self.shown(covering, at, self.bytes(at, next));
            if pieces.last().is_none_or(|last| last.shown != shown) {
                pieces.push(Piece { offset: at, shown });
            }
            at = next;
        }
        pieces
    }

    /// What the bytes of (a part of) one cell show.
    fn shown(&self, covering: &[OperationId], offset: u64, found: &[u8]) -> Shown {
        let index = offset / CELL_BYTES;
        let whole = found.len() as u64 == CELL_BYTES;
        if whole && let Some(id) = read_cell(self.history.seed, index, found) {
            let known = covering.contains(&id) && self.kind(id) == Some(Kind::Write);
            return if known {
                Shown::One(id)
            } else {
                Shown::Foreign(found.to_vec())
            };
        }
        let zero = found.iter().all(|byte| *byte == 0);
        let skip = to_index(offset - index * CELL_BYTES);
        let like = |id: OperationId| match self.kind(id) {
            Some(Kind::Write) => {
                !whole && cell(self.history.seed, id, index).get(skip..skip + found.len()) == Some(found)
            }
            Some(Kind::Zero | Kind::Trim) => zero,
            None => false,
        };
        let mut candidates: Vec<OperationId> = covering.iter().copied().filter(|id| like(*id)).collect();
        if zero {
            candidates.push(0);
        }
        match candidates.as_slice() {
            [] => Shown::Foreign(found.get(..found.len().min(8)).unwrap_or_default().to_vec()),
            [only] if *only != 0 => Shown::One(*only),
            _ => Shown::AnyOf(candidates),
        }
    }

    fn kind(&self, id: OperationId) -> Option<Kind> {
        self.history.operation(id).map(|operation| operation.kind)
    }
}

/// Collects what is visible, then judges every piece by it.
struct Verdict<'a> {
    history: &'a Snapshot,
    demand: Demand,
    visible: HashSet<OperationId>,
    newest: Option<Operation>,
    required: HashMap<OperationId, Because>,
    over: HashMap<(OperationId, OperationId), u64>,
    reported: HashSet<OperationId>,
    report: Report,
}

impl<'a> Verdict<'a> {
    fn new(history: &'a Snapshot, demand: Demand) -> Self {
        Self {
            history,
            demand,
            visible: HashSet::new(),
            newest: None,
            required: HashMap::new(),
            over: HashMap::new(),
            reported: HashSet::new(),
            report: Report::default(),
        }
    }

    fn see(&mut self, pieces: &[Piece]) {
        for piece in pieces {
            if let Shown::One(id) = piece.shown
                && let Some(operation) = self.history.operation(id)
            {
                self.visible.insert(id);
                if self
                    .newest
                    .is_none_or(|newest| newest.submitted < operation.submitted)
                {
                    self.newest = Some(*operation);
                }
            }
        }
    }

    /// Which operations must be in the image, now that all visible ones are known.
    fn decide(&mut self) {
        let demanded = match self.demand {
            Demand::AnyPrefix => 0,
            Demand::Before(time) => time,
            Demand::Acknowledged => Time::MAX,
            Demand::Durable => self.history.durable(),
        };
        let (newest, newest_id) = self.newest.map_or((0, 0), |newest| (newest.submitted, newest.id));
        for operation in &self.history.operations {
            let acknowledged = operation.acknowledged.unwrap_or(Time::MAX);
            let because = if self.visible.contains(&operation.id) {
                Because::PartIsVisible
            } else if acknowledged < newest {
                Because::OlderThanVisible(newest_id)
            } else if acknowledged < demanded || self.demand == Demand::Durable && operation.is_durable() {
                Because::Demanded
            } else {
                continue;
            };
            self.required.insert(operation.id, because);
        }
        self.report.horizon = newest;
        self.report.visible = self.visible.len() as u64;
        self.report.required = self.required.len() as u64;
    }

    fn judge(&mut self, covering: &[OperationId], piece: &Piece) {
        let shown: &[OperationId] = match &piece.shown {
            Shown::Foreign(found) => {
                self.add(Violation::Foreign {
                    offset: piece.offset,
                    found: found.clone(),
                });
                return;
            }
            Shown::One(id) => std::slice::from_ref(id),
            Shown::AnyOf(ids) => ids,
        };
        for id in covering {
            let Some(because) = self.required.get(id).copied() else {
                continue;
            };
            let Some(operation) = self.history.operation(*id).copied() else {
                continue;
            };
            let explained = shown
                .iter()
                .any(|top| *top == *id || self.may_follow(*top, &operation));
            if !explained {
                if self.reported.insert(*id) {
                    let instead = shown.first().copied().unwrap_or(0);
                    self.add(Violation::Missing {
                        operation,
                        offset: piece.offset,
                        instead,
                        because,
                    });
                }
            } else if let Shown::One(top) = piece.shown {
                self.note_order(top, *id, piece.offset);
            }
        }
    }

    fn may_follow(&self, top: OperationId, below: &Operation) -> bool {
        self.history
            .operation(top)
            .is_some_and(|operation| !operation.surely_before(below))
    }

    /// Remembers which of two concurrent operations is on top, and reports when it is the other one elsewhere.
    fn note_order(&mut self, top: OperationId, below: OperationId, offset: u64) {
        let (Some(above), Some(under)) = (self.history.operation(top), self.history.operation(below)) else {
            return;
        };
        if top == below || under.surely_before(above) {
            return;
        }
        self.over.insert((top, below), offset);
        if self.over.contains_key(&(below, top)) && self.reported.insert(top) {
            self.add(Violation::Interleaved {
                one: top,
                other: below,
                offset,
            });
        }
    }

    fn add(&mut self, violation: Violation) {
        if self.report.violations.len() < LISTED {
            self.report.violations.push(violation);
        } else {
            self.report.more += 1;
        }
    }

    fn finish(self) -> Report {
        self.report
    }
}
