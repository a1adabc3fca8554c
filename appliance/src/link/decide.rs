//! What to do about the replica a remote says it holds: one table, no state.
//!
//! Guarantees: a complete replica is reset only when its point lies behind the journal or the volume's own
//! books say it needs a copy, and only when its history is known to be ours: by the journal, by the trail kept of a
//! remote that was let go, or because it is older than what it once confirmed.
//!
//! A copy is of everything, unless the map of dirty blocks is known to mark all that was changed after the replica's point.
//!
//! | replica | its point | consumer | decision |
//! | --- | --- | --- | --- |
//! | empty | any | any | full copy |
//! | copying, as we do | ours, still in the journal | copying | continue |
//! | copying, as we do | ours, on the trail | any | resync |
//! | copying | anything else | any | full copy |
//! | complete | newer epoch or record than ours | any | diverged |
//! | complete | in the journal's range, not a point of it | any | diverged |
//! | complete | ours, still in the journal | copying, attached | resume |
//! | complete | ours, still in the journal, on the trail | needs copy | resync |
//! | complete | ours, still in the journal, not on the trail | needs copy | full copy |
//! | complete | before the journal's tail, ours on the trail | any | resync |
//! | complete | before the journal's tail, older than it confirmed | any | full copy |
//! | complete | before the journal's tail, anything else | any | diverged |

use super::source::Located;
use farside_protocol::journal::{ChainPoint, ConsumerState, CopyState};
use farside_protocol::link::{Welcome, same_place};

/// What the volume knows about the point the remote named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalView {
    /// What the remote may expect of the journal.
    pub consumer: ConsumerState,
    /// The volume's epoch.
    pub epoch: u64,
    /// The volume's size.
    pub volume_bytes: u64,
    /// Records after this one are in the journal.
    pub tail_record: u64,
    /// Last durable record.
    pub durable_record: u64,
    /// Last record the remote has confirmed.
    pub confirmed_record: u64,
    /// What is known of the remote's point. Looked for before the tail was read.
    pub located: Located,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Reset the replica and copy the image, or what of it changed.
    Copy {
        /// The reason, for people.
        why: &'static str,
        /// All of it.
        all: bool,
    },
    /// Go on with the copy at this offset and with the chunks after this point.
    Continue {
        /// Chunks after it are sent.
        from: ChainPoint,
        /// The image is copied from here.
        offset: u64,
    },
    /// Send the chunks after this point.
    Resume {
        /// Chunks after it are sent.
        from: ChainPoint,
    },
    /// The histories differ. The text says how.
    Diverged(&'static str),
}

enum Place {
    Ahead(&'static str),
    Behind,
    Ours(ChainPoint),
    Foreign,
}

fn place(received: &ChainPoint, local: &LocalView) -> Place {
    if received.epoch > local.epoch {
        return Place::Ahead("the remote holds a newer epoch of this volume");
    }
    if received.record > local.durable_record {
        return Place::Ahead("the remote is ahead of this volume");
    }
    let ours = local.located.point.filter(|ours| same_place(ours, received));
    let is_behind = received.record < local.tail_record;
    match ours {
        Some(_) if is_behind => Place::Behind,
        Some(ours) => Place::Ours(ours),
        None if is_behind && received.record < local.confirmed_record => Place::Behind,
        None => Place::Foreign,
    }
}

const BEHIND: &str = "the journal no longer holds what the remote needs next";

fn full(why: &'static str) -> Decision {
    Decision::Copy { why, all: true }
}

/// Decides. See the table above.
#[must_use]
pub fn decide(welcome: &Welcome, local: &LocalView) -> Decision {
    let needs_copy = local.consumer == ConsumerState::NeedsCopy;
    let received = &welcome.received;
    let is_marked = |point: ChainPoint| same_place(&point, received);
    let resync = Decision::Copy {
        why: BEHIND,
        all: !local.located.marked_since.is_some_and(is_marked),
    };
    match (welcome.copy, place(received, local)) {
        (CopyState::Empty, _) => full("the remote has no copy yet"),
        (CopyState::Copying, place) => {
            let is_this = welcome.copy_id != 0 && welcome.copy_id == local.located.copy_id;
            match place {
                Place::Ours(from)
                    if is_this
                        && local.consumer == ConsumerState::Copying
                        && welcome.copy_offset <= local.volume_bytes =>
                {
                    Decision::Continue {
                        from,
                        offset: welcome.copy_offset,
                    }
                }
                Place::Ours(_) | Place::Behind if is_this => resync,
                _ => full("an earlier copy cannot be continued"),
            }
        }
        (CopyState::Complete, Place::Ahead(how)) => Decision::Diverged(how),
        (CopyState::Complete, Place::Foreign) => {
            Decision::Diverged("the remote is on another branch of history")
        }
        (CopyState::Complete, Place::Ours(from)) if !needs_copy => Decision::Resume { from },
        (CopyState::Complete, Place::Ours(_)) => match resync {
            Decision::Copy { all: false, .. } => Decision::Copy {
                why: "queuing was stopped, or the journal was full, for a while",
                all: false,
            },
            _ => full("the volume's journal notes that the remote needs a copy"),
        },
        (CopyState::Complete, Place::Behind) => resync,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const OURS: ChainPoint = ChainPoint {
        address: 4096,
        sequence: 10,
        record: 50,
        epoch: 3,
        sealed_at_us: 7,
        checksum: 99,
        blocks: 0,
        bytes: 0,
    };

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Where {
        Ours,
        AtTail,
        AheadRecord,
        AheadEpoch,
        BeforeTail,
        BeforeTailOlder,
        BeforeTailUnknown,
        BeforeTailOther,
        OtherChecksum,
        OtherEpoch,
        OtherSequence,
        InsideChunk,
    }

    const ALL: [Where; 12] = [
        Where::Ours,
        Where::AtTail,
        Where::AheadRecord,
        Where::AheadEpoch,
        Where::BeforeTail,
        Where::BeforeTailOlder,
        Where::BeforeTailUnknown,
        Where::BeforeTailOther,
        Where::OtherChecksum,
        Where::OtherEpoch,
        Where::OtherSequence,
        Where::InsideChunk,
    ];

    fn case(
        position: Where,
        copy: CopyState,
        consumer: ConsumerState,
        (marked, copy_id): (bool, u32),
    ) -> (Welcome, LocalView) {
        let mut received = ChainPoint { address: 0, ..OURS };
        let mut local = LocalView {
            consumer,
            epoch: 3,
            volume_bytes: 1 << 20,
            tail_record: 20,
            durable_record: 80,
            confirmed_record: 50,
            located: Located {
                point: Some(OURS),
                marked_since: marked.then_some(OURS),
                copy_id: 5,
            },
        };
        match position {
            Where::Ours => {}
            Where::AtTail => local.tail_record = 50,
            Where::AheadRecord => local.durable_record = 49,
            Where::AheadEpoch => received.epoch = 4,
            Where::BeforeTail => local.tail_record = 51,
            Where::BeforeTailOlder => {
                (local.tail_record, local.confirmed_record) = (60, 51);
                local.located = Located::default();
            }
            Where::BeforeTailUnknown => {
                local.tail_record = 60;
                local.located = Located::default();
            }
            Where::BeforeTailOther => {
                local.tail_record = 60;
                received.checksum = 98;
            }
            Where::OtherChecksum => received.checksum = 98,
            Where::OtherEpoch => received.epoch = 2,
            Where::OtherSequence => received.sequence = 11,
            Where::InsideChunk => local.located = Located::default(),
        }
        let welcome = Welcome {
            history_mib: 0,
            batch_log2: 0,
            unconfirmed_log2: 0,
            version: 2,
            copy,
            copy_id,
            features: 0,
            unit: Uuid::nil(),
            received,
            applied: 0,
            copy_offset: 4096,
            consistent_from: 0,
            unit_name: "b".into(),
        };
        (welcome, local)
    }

    fn expected(
        (position, copy, consumer): (Where, CopyState, ConsumerState),
        (marked, this): (bool, bool),
    ) -> &'static str {
        let here = matches!(position, Where::Ours | Where::AtTail);
        // It lacks what was confirmed since, if anything was.
        let behind = matches!(position, Where::BeforeTail | Where::BeforeTailOlder);
        let needs_copy = consumer == ConsumerState::NeedsCopy;
        let located = here || position == Where::BeforeTail;
        let some = if marked && located { "resync" } else { "full" };
        match copy {
            CopyState::Empty => "full",
            CopyState::Copying if this && here && consumer == ConsumerState::Copying => "continue",
            CopyState::Copying if this && located => some,
            CopyState::Copying => "full",
            CopyState::Complete if here && !needs_copy => "resume",
            CopyState::Complete if here || behind => some,
            CopyState::Complete => "diverged",
        }
    }

    #[test]
    fn every_combination_has_the_decision_of_the_table() {
        let mut rows = 0;
        for position in ALL {
            for copy in [CopyState::Empty, CopyState::Copying, CopyState::Complete] {
                for consumer in [
                    ConsumerState::NeedsCopy,
                    ConsumerState::Copying,
                    ConsumerState::Attached,
                ] {
                    for (marked, this) in [(true, true), (true, false), (false, true), (false, false)] {
                        let id = if this { 5 } else { 6 };
                        let (welcome, local) = case(position, copy, consumer, (marked, id));
                        let found = decide(&welcome, &local);
                        let word = match &found {
                            Decision::Copy { all: true, .. } => "full",
                            Decision::Copy { all: false, .. } => "resync",
                            Decision::Continue { from, offset } if *from == OURS && *offset == 4096 => {
                                "continue"
                            }
                            Decision::Resume { from } if *from == OURS => "resume",
                            Decision::Diverged(_) => "diverged",
                            _ => "another point",
                        };
                        let row = (position, copy, consumer);
                        assert_eq!(
                            word,
                            expected(row, (marked, this)),
                            "{row:?} marked {marked} this {this}: {found:?}"
                        );
                        rows += 1;
                    }
                }
            }
        }
        assert_eq!(rows, 432);
    }

    #[test]
    fn a_copy_that_claims_more_than_the_volume_is_restarted() {
        let (mut welcome, local) = case(
            Where::Ours,
            CopyState::Copying,
            ConsumerState::Copying,
            (false, 5),
        );
        welcome.copy_offset = local.volume_bytes + 1;
        assert!(matches!(
            decide(&welcome, &local),
            Decision::Copy { all: true, .. }
        ));
    }
}
