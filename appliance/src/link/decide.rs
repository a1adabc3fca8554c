//! What to do about the replica a remote says it holds: one table, no state.
//!
//! Guarantees: a complete replica is reset only when its point lies behind the journal or the volume's own
//! books say it needs a copy, and only when its history is known to be ours: by the journal, by the trail kept of a
//! remote that was let go, or because it is older than what it once confirmed.
//!
//! | replica | its point | consumer | decision |
//! | --- | --- | --- | --- |
//! | empty | any | any | full copy |
//! | copying | ours, still in the journal | copying, attached | continue |
//! | copying | ours, still in the journal | needs copy | full copy |
//! | copying | anything else | any | full copy |
//! | complete | newer epoch or record than ours | any | diverged |
//! | complete | in the journal's range, not a point of it | any | diverged |
//! | complete | ours, still in the journal | copying, attached | resume |
//! | complete | ours, still in the journal | needs copy | full copy |
//! | complete | before the journal's tail, ours or older than it confirmed | any | full copy |
//! | complete | before the journal's tail, anything else | any | diverged |

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
    /// Our point at the remote's record, if a chunk ends there, also of the trail kept of a remote that was let go.
    /// Looked for before the tail was read.
    pub located: Option<ChainPoint>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Reset the replica and copy the image. The text says why.
    FullCopy(&'static str),
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
    let ours = local.located.filter(|ours| same_place(ours, received));
    let is_behind = received.record < local.tail_record;
    match ours {
        Some(_) if is_behind => Place::Behind,
        Some(ours) => Place::Ours(ours),
        None if is_behind && received.record < local.confirmed_record => Place::Behind,
        None => Place::Foreign,
    }
}

/// Decides. See the table above.
#[must_use]
pub fn decide(welcome: &Welcome, local: &LocalView) -> Decision {
    let needs_copy = local.consumer == ConsumerState::NeedsCopy;
    match (welcome.copy, place(&welcome.received, local)) {
        (CopyState::Empty, _) => Decision::FullCopy("the remote holds nothing yet"),
        (CopyState::Copying, Place::Ours(from))
            if !needs_copy && welcome.copy_offset <= local.volume_bytes =>
        {
            Decision::Continue {
                from,
                offset: welcome.copy_offset,
            }
        }
        (CopyState::Copying, _) => Decision::FullCopy("an earlier copy cannot be continued"),
        (CopyState::Complete, Place::Ahead(how)) => Decision::Diverged(how),
        (CopyState::Complete, Place::Foreign) => {
            Decision::Diverged("the remote is on another branch of history")
        }
        (CopyState::Complete, Place::Ours(_)) if needs_copy => {
            Decision::FullCopy("the volume's journal notes that the remote needs a copy")
        }
        (CopyState::Complete, Place::Ours(from)) => Decision::Resume { from },
        (CopyState::Complete, Place::Behind) => {
            Decision::FullCopy("the journal no longer holds what the remote needs next")
        }
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

    fn case(position: Where, copy: CopyState, consumer: ConsumerState) -> (Welcome, LocalView) {
        let mut received = ChainPoint { address: 0, ..OURS };
        let mut local = LocalView {
            consumer,
            epoch: 3,
            volume_bytes: 1 << 20,
            tail_record: 20,
            durable_record: 80,
            confirmed_record: 50,
            located: Some(OURS),
        };
        match position {
            Where::Ours => {}
            Where::AtTail => local.tail_record = 50,
            Where::AheadRecord => local.durable_record = 49,
            Where::AheadEpoch => received.epoch = 4,
            Where::BeforeTail => local.tail_record = 51,
            Where::BeforeTailOlder => {
                (local.tail_record, local.confirmed_record, local.located) = (60, 51, None);
            }
            Where::BeforeTailUnknown => (local.tail_record, local.located) = (60, None),
            Where::BeforeTailOther => {
                local.tail_record = 60;
                received.checksum = 98;
            }
            Where::OtherChecksum => received.checksum = 98,
            Where::OtherEpoch => received.epoch = 2,
            Where::OtherSequence => received.sequence = 11,
            Where::InsideChunk => local.located = None,
        }
        let welcome = Welcome {
            version: 1,
            copy,
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
                    let (welcome, local) = case(position, copy, consumer);
                    let found = decide(&welcome, &local);
                    let usable = matches!(position, Where::Ours | Where::AtTail)
                        && consumer != ConsumerState::NeedsCopy;
                    let row = format!("{position:?} {copy:?} {consumer:?}: {found:?}");
                    match copy {
                        CopyState::Empty => assert!(matches!(found, Decision::FullCopy(_)), "{row}"),
                        CopyState::Copying if usable => {
                            let offset = 4096;
                            assert_eq!(found, Decision::Continue { from: OURS, offset }, "{row}");
                        }
                        CopyState::Copying => assert!(matches!(found, Decision::FullCopy(_)), "{row}"),
                        CopyState::Complete if usable => {
                            assert_eq!(found, Decision::Resume { from: OURS }, "{row}");
                        }
                        CopyState::Complete => {
                            let may_reset = matches!(
                                position,
                                Where::Ours | Where::AtTail | Where::BeforeTail | Where::BeforeTailOlder
                            );
                            assert_eq!(matches!(found, Decision::FullCopy(_)), may_reset, "{row}");
                            assert_eq!(matches!(found, Decision::Diverged(_)), !may_reset, "{row}");
                        }
                    }
                    rows += 1;
                }
            }
        }
        assert_eq!(rows, 108);
    }

    #[test]
    fn a_copy_that_claims_more_than_the_volume_is_restarted() {
        let (mut welcome, local) = case(Where::Ours, CopyState::Copying, ConsumerState::Copying);
        welcome.copy_offset = local.volume_bytes + 1;
        assert!(matches!(decide(&welcome, &local), Decision::FullCopy(_)));
    }
}
