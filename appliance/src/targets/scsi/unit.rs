//! One logical unit: a disk, and what initiators did to it that is not data.

use super::answer::{Answer, Plan};
use super::guard::{passes_attention, passes_reserve, touch, writes_blocks};
use super::limits::{ATTENTIONS, BLOCK_BYTES, COMPARE_BLOCKS, TRANSFER_BLOCKS, WRITE_SAME_BLOCKS};
use super::modes::{self, Modes, Wanted};
use super::persistent::{Persistent, RESERVE_OUT_BYTES, ReserveOut};
use super::reports::{self, Asked};
use super::{capacity, inquiry, media, unmap};
use crate::targets::{Disk, Update};
use bytes::Bytes;
use farside_protocol::scsi::{Additional, Cdb, CdbError, CompareMode, Extent, Sense, SenseKey, Status};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a logical unit is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The volume's identity, which never changes.
    pub(crate) uuid: [u8; 16],
    /// The name of the target it is in.
    pub(crate) target: String,
    /// Its number there.
    pub(crate) lun: u16,
}

impl Identity {
    /// The unit serial number: the volume's identity.
    pub(super) fn serial(&self) -> String {
        self.uuid.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// An NAA designator that the unit assigns itself (format 3): 60 bits of the volume's identity.
    pub(super) fn locally_assigned(&self) -> [u8; 8] {
        let [a, b, c, d, e, f, _, _, _, g, h, ..] = self.uuid;
        [0x30 | (a & 0xf), b, c, d, e, f, g, h]
    }
}

/// Where an initiator port stands with a unit.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    /// Rises when all its tasks are aborted: what was begun before is not answered.
    aborted: AtomicU64,
    attentions: Mutex<VecDeque<Additional>>,
}

impl Seat {
    /// How often its tasks were aborted.
    pub(crate) fn aborted(&self) -> u64 {
        self.aborted.load(Ordering::Acquire)
    }

    /// Aborts all its tasks.
    pub(crate) fn abort(&self) {
        self.aborted.fetch_add(1, Ordering::AcqRel);
    }

    fn attend(&self, what: Additional) {
        let mut attentions = self.attentions.lock();
        if attentions.contains(&what) {
            return;
        }
        if attentions.len() >= ATTENTIONS {
            attentions.pop_front();
        }
        attentions.push_back(what);
    }
}

/// What is not data and not kept.
#[derive(Debug, Default)]
struct State {
    /// Initiator ports with a session, by name.
    seats: BTreeMap<String, Arc<Seat>>,
    /// Who reserved the unit with RESERVE.
    reserved: Option<String>,
    modes: Modes,
    /// Blocks that the initiators know of.
    blocks: u64,
}

/// A logical unit.
#[derive(Debug)]
pub(crate) struct LogicalUnit<D> {
    identity: Identity,
    disk: Arc<D>,
    state: Mutex<State>,
    persistent: Arc<Persistent>,
    /// Held shared while tasks change something, alone by whoever has to know that none does.
    gate: tokio::sync::RwLock<()>,
}

/// Why tasks are aborted for everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sweep {
    /// Reset of the unit or the target.
    Reset,
    /// CLEAR TASK SET by this initiator port.
    Clear,
}

impl<D: Disk> LogicalUnit<D> {
    /// A unit in front of `disk`; persistent reservations are kept in `file`.
    pub(crate) fn new(identity: Identity, disk: Arc<D>, file: PathBuf) -> Self {
        let blocks = disk.geometry().size_bytes / u64::from(BLOCK_BYTES);
        let state = State {
            blocks,
            ..State::default()
        };
        Self {
            persistent: Arc::new(Persistent::load(file, &identity.uuid)),
            identity,
            disk,
            state: Mutex::new(state),
            gate: tokio::sync::RwLock::new(()),
        }
    }

    /// The disk.
    pub(crate) fn disk(&self) -> &Arc<D> {
        &self.disk
    }

    /// Whether this is still the unit of that name and disk.
    pub(crate) fn is(&self, identity: &Identity, disk: &Arc<D>) -> bool {
        self.identity == *identity && Arc::ptr_eq(&self.disk, disk)
    }

    /// Held while changes are under way.
    pub(crate) async fn enter(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.gate.read().await
    }

    /// An initiator port has a session from now on.
    pub(crate) fn attach(&self, nexus: &str) -> Arc<Seat> {
        let seat = Arc::new(Seat::default());
        seat.attend(Additional::PowerOnReset);
        self.state
            .lock()
            .seats
            .insert(nexus.to_owned(), Arc::clone(&seat));
        seat
    }

    /// The session of an initiator port ended.
    pub(crate) fn detach(&self, nexus: &str, seat: &Arc<Seat>) {
        let mut state = self.state.lock();
        if state
            .seats
            .get(nexus)
            .is_some_and(|known| Arc::ptr_eq(known, seat))
        {
            state.seats.remove(nexus);
            state.reserved.take_if(|by| by == nexus);
        }
    }

    /// Whether sense data goes out in descriptors.
    pub(crate) fn descriptor_sense(&self) -> bool {
        self.state.lock().modes.descriptor_sense
    }

    /// Aborts all tasks of all initiator ports, and waits for changes that are under way.
    pub(crate) async fn sweep(&self, nexus: &str, why: Sweep) {
        {
            let mut state = self.state.lock();
            if why == Sweep::Reset {
                state.reserved = None;
                state.modes = Modes::default();
            }
            for (name, seat) in &state.seats {
                match why {
                    Sweep::Reset => seat.attend(Additional::BusDeviceReset),
                    Sweep::Clear if name != nexus => {
                        seat.attend(Additional::CommandsClearedByAnotherInitiator);
                    }
                    Sweep::Clear => {}
                }
                seat.abort();
            }
        }
        drop(self.gate.write().await);
    }

    /// Waits for changes that are under way.
    pub(crate) async fn settle(&self) {
        drop(self.gate.write().await);
    }

    fn blocks(&self) -> u64 {
        self.disk.geometry().size_bytes / u64::from(BLOCK_BYTES)
    }

    /// Whether a command may be carried out, as far as can be said without its data.
    ///
    /// # Errors
    /// The answer if not.
    pub(crate) fn admit(
        &self,
        nexus: &str,
        seat: &Seat,
        command: &Result<Cdb, CdbError>,
    ) -> Result<(), Answer> {
        self.notice_resize();
        let known = command.as_ref().ok();
        if !known.is_some_and(passes_attention)
            && let Some(what) = seat.attentions.lock().pop_front()
        {
            return Err(Answer::check(Sense::new(SenseKey::UnitAttention, what)));
        }
        let by_another = |by: &String| by != nexus;
        if self.state.lock().reserved.as_ref().is_some_and(by_another) && !known.is_some_and(passes_reserve) {
            return Err(Answer::status(Status::ReservationConflict));
        }
        let command = match command {
            Ok(command) => command,
            Err(CdbError::Operation) => {
                return Err(Answer::check(Sense::illegal(Additional::InvalidOperationCode)));
            }
            Err(CdbError::Field { byte, bit }) => {
                return Err(Answer::check(Sense::in_command(*byte, Some(*bit))));
            }
        };
        if !self.persistent.allow(nexus, touch(command)) || self.is_old_style_in_the_way(command) {
            return Err(Answer::status(Status::ReservationConflict));
        }
        self.check_range(command).map_err(Answer::check)?;
        if writes_blocks(command)
            && (self.disk.geometry().read_only || self.state.lock().modes.write_protected)
        {
            let sense = Sense::new(SenseKey::DataProtect, Additional::WriteProtected);
            return Err(Answer::check(sense));
        }
        Ok(())
    }

    /// RESERVE and RELEASE are no way around registrations (SPC-4, section 5.13.3).
    fn is_old_style_in_the_way(&self, command: &Cdb) -> bool {
        matches!(command, Cdb::Reserve | Cdb::Release) && self.persistent.is_used()
    }

    /// Tells everybody of a new size.
    fn notice_resize(&self) {
        let blocks = self.blocks();
        let mut state = self.state.lock();
        if state.blocks != blocks {
            state.blocks = blocks;
            for seat in state.seats.values() {
                seat.attend(Additional::CapacityDataHasChanged);
            }
        }
    }

    fn check_range(&self, command: &Cdb) -> Result<(), Sense> {
        let (extent, most) = match *command {
            Cdb::Read { extent, .. }
            | Cdb::Write { extent, .. }
            | Cdb::WriteAndVerify { extent, .. }
            | Cdb::OrWrite { extent, .. }
            | Cdb::Verify {
                extent,
                compare: CompareMode::Data,
            } => (extent, TRANSFER_BLOCKS),
            Cdb::Verify { extent, .. } | Cdb::PreFetch { extent } | Cdb::SynchronizeCache { extent, .. } => {
                (extent, u32::MAX)
            }
            Cdb::CompareAndWrite { extent, .. } => (extent, u32::from(COMPARE_BLOCKS)),
            Cdb::WriteSame { extent, .. } => (extent, WRITE_SAME_BLOCKS),
            Cdb::GetLbaStatus { lba, .. } => (Extent { lba, blocks: 1 }, 1),
            Cdb::PersistentReserveOut { parameter_bytes, .. } if parameter_bytes != RESERVE_OUT_BYTES => {
                return Err(Sense::illegal(Additional::ParameterListLengthError));
            }
            _ => return Ok(()),
        };
        media::check_extent(extent, self.blocks(), most)
    }

    /// What has to be done for an [admitted](Self::admit) command with its data.
    pub(crate) fn decide(self: &Arc<Self>, nexus: &str, seat: &Seat, command: &Cdb, data: Bytes) -> Plan {
        let disk = &self.disk;
        let forced = |force: bool| force || !self.state.lock().modes.write_cache;
        match *command {
            Cdb::Read { extent, .. } => media::read(extent),
            Cdb::Write { extent, force } => media::write(extent, data, forced(force)),
            Cdb::SynchronizeCache { immediate: false, .. } => Plan::Flush,
            Cdb::WriteSame {
                extent,
                unmap,
                anchor,
                no_data,
            } => self.write_same(extent, (unmap, anchor, no_data), data),
            Cdb::Unmap { anchor: true, .. } => Plan::Answered(Answer::check(Sense::in_command(1, Some(0)))),
            Cdb::Unmap { .. } => self.change(unmap::unmap(&data, self.blocks())),
            Cdb::WriteAndVerify { extent, compare } => media::write_and_verify(disk, extent, compare, data),
            Cdb::Verify { extent, .. } if extent.blocks == 0 => Plan::Answered(Answer::good()),
            Cdb::Verify { extent, compare } => media::verify(disk, extent, compare, &data),
            Cdb::CompareAndWrite { extent, force } => {
                media::compare_and_write(disk, extent, data, forced(force))
            }
            Cdb::OrWrite { extent, force } => media::or_write(disk, extent, data, forced(force)),
            Cdb::GetLbaStatus { lba, allocation } => {
                let status = capacity::status(Arc::clone(disk), lba, self.blocks(), allocation);
                Plan::Later(Box::pin(status))
            }
            Cdb::PersistentReserveOut {
                action,
                scope,
                kind,
                parameter_bytes,
            } => self.reserve_out(nexus, [action, scope, kind], parameter_bytes, data),
            // What was written before is to be safe when the unit stops; other initiators go on all the same.
            Cdb::StartStop { start: false, .. } => Plan::Flush,
            _ => Plan::Answered(self.answer(nexus, seat, command, &data)),
        }
    }

    fn change(&self, updates: Result<Vec<Update>, Sense>) -> Plan {
        match updates {
            Ok(updates) if updates.is_empty() => Plan::Answered(Answer::good()),
            Ok(updates) => Plan::Change {
                updates,
                forced: !self.state.lock().modes.write_cache,
            },
            Err(sense) => Plan::Answered(Answer::check(sense)),
        }
    }

    fn write_same(&self, extent: Extent, (unmap, anchor, no_data): (bool, bool, bool), data: Bytes) -> Plan {
        if anchor {
            return Plan::Answered(Answer::check(Sense::in_command(1, Some(4))));
        }
        if no_data {
            return self.change(unmap::write_same(extent, None, unmap));
        }
        if data.len() != BLOCK_BYTES as usize {
            return Plan::Answered(Answer::check(Sense::illegal(Additional::InvalidFieldInCdb)));
        }
        self.change(unmap::write_same(extent, Some(&data), unmap))
    }

    /// Commands that need no disk.
    fn answer(&self, nexus: &str, seat: &Seat, command: &Cdb, data: &[u8]) -> Answer {
        match *command {
            Cdb::RequestSense {
                descriptor,
                allocation,
            } => request_sense(seat, descriptor, allocation),
            Cdb::Inquiry { page, allocation } => inquiry::inquire(&self.identity, page, allocation),
            Cdb::ReadCapacity10 => capacity::of_ten(self.blocks()),
            Cdb::ReadCapacity16 { allocation } => capacity::of_sixteen(self.blocks(), allocation),
            Cdb::ModeSense {
                long,
                no_descriptor,
                control,
                page,
                subpage,
                allocation,
            } => {
                let wanted = Wanted {
                    long,
                    no_descriptor,
                    control,
                    page,
                    subpage,
                    allocation,
                };
                let modes = self.state.lock().modes;
                modes::sense(modes, wanted, self.blocks(), self.disk.geometry().read_only)
            }
            Cdb::ModeSelect { save: true, .. } => Answer::check(Sense::in_command(1, Some(0))),
            Cdb::ModeSelect { long, .. } => self.mode_select(nexus, long, data),
            Cdb::Reserve => {
                let mut state = self.state.lock();
                if state.reserved.as_ref().is_some_and(|by| by != nexus) {
                    return Answer::status(Status::ReservationConflict);
                }
                state.reserved = Some(nexus.to_owned());
                Answer::good()
            }
            Cdb::Release => {
                self.state.lock().reserved.take_if(|by| by == nexus);
                Answer::good()
            }
            Cdb::PersistentReserveIn { action, allocation } => {
                Answer::cut(self.persistent.report(action), allocation)
            }
            Cdb::ReportOperations {
                timeouts,
                option,
                opcode,
                action,
                allocation,
            } => {
                let asked = Asked {
                    timeouts,
                    option,
                    opcode,
                    action,
                };
                reports::operations(asked, allocation)
            }
            Cdb::ReportTaskFunctions { extended, allocation } => {
                reports::task_functions(extended, allocation)
            }
            // The medium cannot be removed in any case, and the transport knows the other units.
            _ => Answer::good(),
        }
    }

    fn mode_select(&self, nexus: &str, long: bool, data: &[u8]) -> Answer {
        let blocks = self.blocks();
        let mut state = self.state.lock();
        match modes::select(state.modes, long, data, blocks) {
            Err(sense) => Answer::check(sense),
            Ok(modes) => {
                if modes != state.modes {
                    state.modes = modes;
                    for (_, seat) in state.seats.iter().filter(|(name, _)| *name != nexus) {
                        seat.attend(Additional::ModeParametersChanged);
                    }
                }
                Answer::good()
            }
        }
    }

    fn reserve_out(
        self: &Arc<Self>,
        nexus: &str,
        [action, scope, kind]: [u8; 3],
        parameter_bytes: u32,
        data: Bytes,
    ) -> Plan {
        let (unit, from) = (Arc::clone(self), nexus.to_owned());
        let wanted = ReserveOut {
            action,
            scope,
            kind,
            parameter_bytes,
        };
        // A task of its own: a session that ends must not leave the file and what is known here different.
        let carried_out = async move {
            match Persistent::carry_out(&unit.persistent, from, wanted, data).await {
                Err(answer) => answer,
                Ok(effects) => {
                    let state = unit.state.lock();
                    for (name, what) in &effects.attentions {
                        if let Some(seat) = state.seats.get(name) {
                            seat.attend(*what);
                        }
                    }
                    for name in &effects.aborted {
                        if let Some(seat) = state.seats.get(name) {
                            seat.abort();
                        }
                    }
                    Answer::good()
                }
            }
        };
        Plan::Later(Box::pin(async move {
            let done = tokio::spawn(carried_out).await;
            done.unwrap_or_else(|_| {
                Answer::check(Sense::new(
                    SenseKey::HardwareError,
                    Additional::InternalTargetFailure,
                ))
            })
        }))
    }
}

/// Sense data as the data of a command: a unit attention that waits, or that nothing is wrong.
fn request_sense(seat: &Seat, descriptor: bool, allocation: u32) -> Answer {
    let waiting = seat.attentions.lock().pop_front();
    let sense = match waiting {
        Some(what) => Sense::new(SenseKey::UnitAttention, what),
        None => Sense::new(SenseKey::NoSense, Additional::None),
    };
    let data = if descriptor {
        sense.descriptors()
    } else {
        sense.fixed().to_vec()
    };
    Answer::cut(data, allocation)
}
