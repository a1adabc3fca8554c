//! What each command does as far as reservations care (SPC-4, table "Commands that are allowed in the presence of persistent
//! reservations"; SBC-3 has one for its own).

use super::reservations::Touch;
use farside_protocol::scsi::Cdb;

/// What persistent reservations see in a command.
pub(super) fn touch(cdb: &Cdb) -> Touch {
    match cdb {
        Cdb::TestUnitReady
        | Cdb::RequestSense { .. }
        | Cdb::Inquiry { .. }
        | Cdb::ReadCapacity10
        | Cdb::ReadCapacity16 { .. }
        | Cdb::ReportLuns { .. }
        | Cdb::PersistentReserveIn { .. }
        // It asks itself.
        | Cdb::PersistentReserveOut { .. }
        | Cdb::PreventAllow { prevent: 0 }
        | Cdb::StartStop {
            start: true,
            power_condition: 0,
            ..
        } => Touch::Nothing,
        Cdb::Read { .. }
        | Cdb::Verify { .. }
        | Cdb::PreFetch { .. }
        | Cdb::GetLbaStatus { .. }
        | Cdb::ReportOperations { .. }
        | Cdb::ReportTaskFunctions { .. } => Touch::Reads,
        Cdb::Write { .. }
        | Cdb::WriteAndVerify { .. }
        | Cdb::CompareAndWrite { .. }
        | Cdb::OrWrite { .. }
        | Cdb::SynchronizeCache { .. }
        | Cdb::WriteSame { .. }
        | Cdb::Unmap { .. }
        | Cdb::ModeSense { .. }
        | Cdb::ModeSelect { .. }
        | Cdb::Reserve
        | Cdb::Release
        | Cdb::StartStop { .. }
        | Cdb::PreventAllow { .. } => Touch::Changes,
    }
}

/// Whether a command is carried out although another initiator has reserved the unit with RESERVE (SPC-2, section 5.5.1).
pub(super) fn passes_reserve(cdb: &Cdb) -> bool {
    matches!(
        cdb,
        Cdb::Inquiry { .. }
            | Cdb::ReportLuns { .. }
            | Cdb::RequestSense { .. }
            | Cdb::Release
            | Cdb::PreventAllow { prevent: 0 }
    )
}

/// Whether a command is answered without telling of a unit attention first (SPC-4, section 5.14).
pub(super) fn passes_attention(cdb: &Cdb) -> bool {
    matches!(
        cdb,
        Cdb::Inquiry { .. } | Cdb::ReportLuns { .. } | Cdb::RequestSense { .. }
    )
}

/// Whether a command changes blocks: it is refused where nothing may be written.
pub(super) fn writes_blocks(cdb: &Cdb) -> bool {
    matches!(
        cdb,
        Cdb::Write { .. }
            | Cdb::WriteAndVerify { .. }
            | Cdb::CompareAndWrite { .. }
            | Cdb::OrWrite { .. }
            | Cdb::WriteSame { .. }
            | Cdb::Unmap { .. }
    )
}
