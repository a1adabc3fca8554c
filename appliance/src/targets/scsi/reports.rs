//! REPORT LUNS, REPORT SUPPORTED OPERATION CODES and REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4, sections 6.33, 6.35, 6.36).

use super::answer::Answer;
use bytes::BufMut;
use farside_protocol::scsi::{OPERATIONS, Operation, Sense};

/// Time limits are not told, as all of them.
const NO_TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// One operation code; one with a service action; either.
const ALL: u8 = 0;
const ONE: u8 = 1;
const ONE_WITH_ACTION: u8 = 2;
const ONE_OF_EITHER: u8 = 3;

/// The numbers of the logical units, as SAM encodes them. There are no well-known ones.
pub(in crate::targets) fn report_luns(select: u8, allocation: u32, luns: &[u64]) -> Answer {
    let listed = match select {
        0 | 2 => luns,
        1 => &[],
        _ => return Answer::check(Sense::in_command(2, Some(7))),
    };
    if allocation < 16 {
        return Answer::check(Sense::in_command(6, Some(7)));
    }
    let mut data = Vec::new();
    data.put_u32(u32::try_from(listed.len() * 8).unwrap_or(u32::MAX));
    data.put_u32(0);
    listed.iter().for_each(|lun| data.put_u64(*lun));
    Answer::cut(data, allocation)
}

/// Which operation is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) timeouts: bool,
    pub(super) option: u8,
    pub(super) opcode: u8,
    pub(super) action: u16,
}

pub(super) fn operations(asked: Asked, allocation: u32) -> Answer {
    let data = match asked.option {
        ALL => Ok(all_operations(asked.timeouts)),
        ONE | ONE_WITH_ACTION | ONE_OF_EITHER => one_operation(asked),
        _ => Err(Sense::in_command(2, Some(2))),
    };
    data.map_or_else(Answer::check, |data| Answer::cut(data, allocation))
}

fn all_operations(timeouts: bool) -> Vec<u8> {
    let mut data = vec![0; 4];
    for operation in OPERATIONS {
        data.extend_from_slice(&[operation.opcode, 0]);
        data.put_u16(u16::from(operation.action.unwrap_or(0)));
        let flags = u8::from(operation.action.is_some()) | if timeouts { 2 } else { 0 };
        data.extend_from_slice(&[0, flags]);
        data.put_u16(u16::try_from(operation.usage.len()).unwrap_or(u16::MAX));
        if timeouts {
            data.extend_from_slice(&NO_TIMEOUTS);
        }
    }
    let following = u32::try_from(data.len() - 4).unwrap_or(u32::MAX);
    data[..4].copy_from_slice(&following.to_be_bytes());
    data
}

fn one_operation(asked: Asked) -> Result<Vec<u8>, Sense> {
    let has_actions = OPERATIONS
        .iter()
        .any(|operation| operation.opcode == asked.opcode && operation.action.is_some());
    let exists = OPERATIONS
        .iter()
        .any(|operation| operation.opcode == asked.opcode);
    match asked.option {
        ONE if has_actions => return Err(Sense::in_command(2, Some(2))),
        ONE_WITH_ACTION if exists && !has_actions => return Err(Sense::in_command(2, Some(2))),
        _ => {}
    }
    let found = u8::try_from(asked.action)
        .ok()
        .and_then(|action| Operation::find(asked.opcode, action))
        .filter(|_| asked.option != ONE_OF_EITHER || has_actions || asked.action == 0);
    // Supported as the standard says, or not at all.
    let mut data = vec![0, if found.is_some() { 3 } else { 1 }];
    if let Some(operation) = found {
        if asked.timeouts {
            data[1] |= 0x80;
        }
        data.put_u16(u16::try_from(operation.usage.len()).unwrap_or(u16::MAX));
        data.extend_from_slice(operation.usage);
        if let (Some(action), Some(place)) = (operation.action, data.get_mut(5)) {
            // The usage of the field that holds the service action is the action itself.
            *place = (*place & !0x1f) | action;
        }
        if asked.timeouts {
            data.extend_from_slice(&NO_TIMEOUTS);
        }
    } else {
        data.put_u16(0);
    }
    Ok(data)
}

/// ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET and TARGET RESET.
pub(super) fn task_functions(extended: bool, allocation: u32) -> Answer {
    if allocation < 4 {
        return Answer::check(Sense::in_command(6, Some(7)));
    }
    let mut data = vec![0b1101_1010, 0, 0, if extended { 12 } else { 0 }];
    if extended {
        data.resize(16, 0);
    }
    Answer::cut(data, allocation)
}
