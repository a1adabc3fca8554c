//! What a crash may do to the consumers of a volume: nothing that loses them a change.

use crate::history::{History, VOLUME_BYTES};
use crate::machine::MAPS;
use crate::promise::{Known, Phase, Promise};
use crate::recorder::Recorder;
use crate::run::require;
use farside_protocol::journal::{ConsumerState, What};
use farside_storage::{BlockMap, ConsumerView, Store};

/// Bytes of journal read at once: less than a workload keeps.
const READ_BYTES: usize = 20 << 10;

/// Checks every consumer of a store that was just opened. Leaves it checkpointed.
pub(crate) fn check_consumers(
    store: &Store,
    recorder: &Recorder,
    promise: &Promise,
    history: &History,
) -> Result<(), String> {
    for (number, known) in promise.consumers.iter().enumerate() {
        let view = store.consumer(known.name);
        check_one(store, known, view.as_ref(), history)
            .map_err(|problem| format!("consumer {} ({view:?}): {problem}", known.name))?;
        let Some(view) = view.filter(|view| view.state == ConsumerState::NeedsCopy) else {
            continue;
        };
        // The map can be looked at on disk only, where a checkpoint puts it.
        store.checkpoint().map_err(|error| error.to_string())?;
        let map = BlockMap::open(
            recorder.device(MAPS + number),
            store.superblock().volume,
            VOLUME_BYTES,
        )
        .map_err(|error| error.to_string())?;
        let head = store.points().journaled.record;
        for record in view.acked.record + 1..=head {
            let range = history.range(record);
            let marked = (range.start..range.end)
                .step_by(4096)
                .chain([range.end - 1])
                .all(|at| map.is_marked(at));
            require(marked, || {
                format!(
                    "{}: record {record} after {} is not marked",
                    known.name, view.acked.record
                )
            })?;
        }
    }
    Ok(())
}

fn check_one(
    store: &Store,
    known: &Known,
    view: Option<&ConsumerView>,
    history: &History,
) -> Result<(), String> {
    let state = view.map(|view| view.state);
    let fitting = |phase: &&Phase| phase.state == state;
    require(known.allowed.iter().any(|phase| fitting(&phase)), || {
        format!("allowed is {:?}", known.allowed)
    })?;
    let Some(view) = view else { return Ok(()) };
    require(view.acked.record <= known.confirmed, || {
        format!("it confirmed {} only", known.confirmed)
    })?;
    if view.state != ConsumerState::NeedsCopy {
        return check_kept(store, view, history);
    }
    let phases: Vec<&Phase> = known.allowed.iter().filter(fitting).collect();
    if phases.iter().all(|phase| phase.full) {
        require(view.dirty_bytes >= VOLUME_BYTES, || {
            "not everything is marked".to_owned()
        })?;
    }
    if let [phase] = phases[..] {
        for record in phase.trail.iter() {
            let proved = store.trail_point(known.name, *record);
            require(proved.is_some(), || {
                format!("record {record} is not on its trail")
            })?;
        }
    }
    Ok(())
}

/// Everything after its position is in the journal, as it was written.
fn check_kept(store: &Store, view: &ConsumerView, history: &History) -> Result<(), String> {
    let head = store.points().journaled;
    let (mut point, mut buffer) = (view.acked, Vec::new());
    while point.record < head.record {
        let spans = store
            .read_chunks(&point, &head, READ_BYTES, &mut buffer)
            .map_err(|error| format!("after record {}: {error}", point.record))?;
        require(!spans.is_empty(), || {
            format!("nothing follows record {}", point.record)
        })?;
        for span in spans {
            let what = What::decode(&buffer[span.what.clone()]).map_err(|error| error.to_string())?;
            require(what.data_is_intact(&buffer[span.data.clone()]), || {
                format!("chunk {} is damaged", what.header.sequence)
            })?;
            let expected = history.chunk(what.header.sequence).unwrap_or_default();
            require(
                what.checksum == expected.checksum && what.header.sequence == point.sequence + 1,
                || format!("chunk {} is another", what.header.sequence),
            )?;
            point = span.after;
        }
    }
    Ok(())
}
