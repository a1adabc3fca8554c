//! Points of a chain and names, from a fuzzer's decisions.

use crate::draw::Draw;
use farside_protocol::journal::{ChainPoint, CopyState};

/// A point near another one, or anywhere.
pub(crate) fn point_near(draw: &mut Draw<'_>, about: &ChainPoint) -> ChainPoint {
    let changes = draw.u8();
    let mut point = *about;
    if changes & 1 != 0 {
        point.sequence = draw.near(point.sequence);
    }
    if changes & 2 != 0 {
        point.record = draw.near(point.record);
    }
    if changes & 4 != 0 {
        point.epoch = draw.near(point.epoch);
    }
    if changes & 8 != 0 {
        point.checksum = draw.u32();
    }
    if changes & 16 != 0 {
        point.address = draw.near(point.address);
    }
    point
}

pub(crate) fn copy_state(draw: &mut Draw<'_>) -> CopyState {
    [CopyState::Complete, CopyState::Copying, CopyState::Empty][usize::from(draw.u8() % 3)]
}
