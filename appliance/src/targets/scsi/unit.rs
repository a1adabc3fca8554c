//! One logical unit: a disk, and what initiators did to it that is not data.

use super::answer::{Answer, Plan};
use super::guard::{passes_attention, passes_reserve, touch, writes_blocks};
use super::inquiry::Identity;
use super::limits::{BLOCK_BYTES, COMPARE_BLOCKS, TRANSFER_BLOCKS, WRITE_SAME_BLOCKS};
use super::modes::{self, Modes, Wanted};
use super::persistent::{Persistent, RESERVE_OUT_BYTES, ReserveOut};
use super::reports::{self, Asked};
use super::reservations::Effects;
use super::seat::Seat;
use super::{capacity, inquiry, media, unmap};
use crate::targets::{Disk, Update};
use bytes::Bytes;
use farside_protocol::scsi::{Additional, Cdb, CdbError, CompareMode, Extent, Sense, SenseKey, Status};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{OwnedRwLockReadGuard, RwLock, RwLockReadGuard};

/// Who sends a command, and by what name it knows the unit: a volume that changes its target stays the same unit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a> {
    /// The initiator port.
    pub(crate) port: &'a str,
    /// Where it stands, and how often its tasks had been aborted when this one came.
    pub(crate) seat: &'a Arc<Seat>,
    /// See `seat`.
    pub(crate) aborted: u64,
    /// The target's name.
    pub(crate) target: &'a str,
    /// The unit's number there.
    pub(crate) lun: u16,
}

impl Caller<'_> {
    /// Whether the command was aborted meanwhile.
    fn is_aborted(&self) -> bool {
        self.seat.aborted() != self.aborted
    }
}

/// What is not data and not kept.
#[derive(Debug, Default)]
struct State {
    /// Initiator ports with a session, by name. One may have several seats: by addresses that the volume had before.
    seats: BTreeMap<String, Vec<Arc<Seat>>>,
    /// Who reserved the unit with RESERVE.
    reserved: Option<String>,
    modes: Modes,
    /// Blocks that the initiators know of.
    blocks: u64,
}

/// A logical unit.
#[derive(Debug)]
pub(crate) struct LogicalUnit<D> {
    /// The volume's identity, which never changes.
    uuid: [u8; 16],
    disk: Arc<D>,
    state: Mutex<State>,
    persistent: Arc<Persistent>,
    /// Held shared while tasks change something, alone by whoever has to know that none does.
    gate: RwLock<()>,
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
    pub(crate) fn new(uuid: [u8; 16], disk: Arc<D>, file: PathBuf) -> Self {
        let blocks = disk.geometry().size_bytes / u64::from(BLOCK_BYTES);
        let state = State {
            blocks,
            ..State::default()
        };
        Self {
            persistent: Arc::new(Persistent::load(file, &uuid)),
            uuid,
            disk,
            state: Mutex::new(state),
            gate: RwLock::new(()),
        }
    }

    /// The disk.
    pub(crate) fn disk(&self) -> &Arc<D> {
        &self.disk
    }

    /// Whether this is the unit of that volume, and in front of that disk.
    pub(crate) fn is(&self, uuid: &[u8; 16], disk: &Arc<D>) -> bool {
        self.uuid == *uuid && Arc::ptr_eq(&self.disk, disk)
    }

    /// Held while a task of this seat changes something.
    pub(crate) async fn enter(&self, seat: &Seat) -> (OwnedRwLockReadGuard<()>, RwLockReadGuard<'_, ()>) {
        (seat.enter().await, self.gate.read().await)
    }

    /// An initiator port has a session from now on.
    pub(crate) fn attach(&self, nexus: &str) -> Arc<Seat> {
        let seat = Arc::new(Seat::default());
        seat.attend(Additional::PowerOnReset);
        let mut state = self.state.lock();
        let seats = state.seats.entry(nexus.to_owned()).or_default();
        seats.push(Arc::clone(&seat));
        seat
    }

    /// The session of an initiator port ended.
    pub(crate) fn detach(&self, nexus: &str, seat: &Arc<Seat>) {
        let mut state = self.state.lock();
        let Some(seats) = state.seats.get_mut(nexus) else {
            return;
        };
        seats.retain(|known| !Arc::ptr_eq(known, seat));
        if seats.is_empty() {
            state.seats.remove(nexus);
            state.reserved.take_if(|by| by == nexus);
        }
    }

    /// Whether sense data goes out in descriptors.
    pub(crate) fn descriptor_sense(&self) -> bool {
        self.state.lock().modes.descriptor_sense
    }

    /// Aborts all tasks in the unit, and waits for changes that are under way. Those of the session that wants it, which has
    /// the seats `own`, it has aborted itself: it knows what came before the function and what after it.
    pub(crate) async fn sweep(&self, own: &[Arc<Seat>], why: Sweep) {
        {
            let mut state = self.state.lock();
            if why == Sweep::Reset {
                state.reserved = None;
                state.modes = Modes::default();
            }
            for seat in state.seats.values().flatten() {
                let is_another = !own.iter().any(|own| Arc::ptr_eq(own, seat));
                match why {
                    Sweep::Reset => seat.attend(Additional::BusDeviceReset),
                    Sweep::Clear if is_another => seat.attend(Additional::CommandsClearedByAnotherInitiator),
                    Sweep::Clear => {}
                }
                if is_another {
                    seat.abort();
                }
            }
        }
        self.settle_blocks().await;
        self.persistent.settle().await;
    }

    /// Waits for changes of blocks that are under way. What was aborted before changes nothing once this is over.
    async fn settle_blocks(&self) {
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
            && let Some(what) = seat.take_attention()
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
            for seat in state.seats.values().flatten() {
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
    pub(crate) fn decide(self: &Arc<Self>, from: &Caller<'_>, command: &Cdb, data: Bytes) -> Plan {
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
                Plan::asks(status)
            }
            Cdb::PersistentReserveOut {
                action,
                scope,
                kind,
                parameter_bytes,
            } => self.reserve_out(from, [action, scope, kind], parameter_bytes, data),
            // What was written before is to be safe when the unit stops; other initiators go on all the same.
            Cdb::StartStop { start: false, .. } => Plan::Flush,
            _ => Plan::Answered(self.answer(from, command, &data)),
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

    fn identity<'a>(&'a self, from: &Caller<'a>) -> Identity<'a> {
        Identity {
            uuid: &self.uuid,
            target: from.target,
            lun: from.lun,
        }
    }

    /// Commands that need no disk.
    fn answer(&self, from: &Caller<'_>, command: &Cdb, data: &[u8]) -> Answer {
        let nexus = from.port;
        match *command {
            Cdb::RequestSense {
                descriptor,
                allocation,
            } => request_sense(from.seat, descriptor, allocation),
            Cdb::Inquiry { page, allocation } => inquiry::inquire(&self.identity(from), page, allocation),
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
            Cdb::ModeSelect { long, .. } => self.mode_select(from, long, data),
            Cdb::Reserve => {
                let mut state = self.state.lock();
                if from.is_aborted() {
                    return Answer::status(Status::TaskAborted);
                }
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

    fn mode_select(&self, from: &Caller<'_>, long: bool, data: &[u8]) -> Answer {
        let blocks = self.blocks();
        let mut state = self.state.lock();
        if from.is_aborted() {
            return Answer::status(Status::TaskAborted);
        }
        match modes::select(state.modes, long, data, blocks) {
            Err(sense) => Answer::check(sense),
            Ok(modes) => {
                if modes != state.modes {
                    state.modes = modes;
                    let others = state.seats.iter().filter(|(name, _)| *name != from.port);
                    for seat in others.flat_map(|(_, seats)| seats) {
                        seat.attend(Additional::ModeParametersChanged);
                    }
                }
                Answer::good()
            }
        }
    }

    fn reserve_out(
        self: &Arc<Self>,
        from: &Caller<'_>,
        [action, scope, kind]: [u8; 3],
        parameter_bytes: u32,
        data: Bytes,
    ) -> Plan {
        let wanted = ReserveOut {
            action,
            scope,
            kind,
            parameter_bytes,
        };
        let (unit, port) = (Arc::clone(self), from.port.to_owned());
        let (seat, aborted) = (Arc::clone(from.seat), from.aborted);
        // A task of its own: a session that ends must not leave the file and what is known here different.
        let carried_out = async move {
            let _under_way = seat.enter().await;
            let _turn = unit.persistent.turn().await;
            if seat.aborted() != aborted {
                return Answer::status(Status::TaskAborted);
            }
            match Persistent::carry_out(&unit.persistent, &port, wanted, data).await {
                Err(answer) => answer,
                Ok(effects) => {
                    unit.take_effect(&effects).await;
                    Answer::good()
                }
            }
        };
        Plan::asks(async move {
            let done = tokio::spawn(carried_out).await;
            done.unwrap_or_else(|_| {
                Answer::check(Sense::new(
                    SenseKey::HardwareError,
                    Additional::InternalTargetFailure,
                ))
            })
        })
    }

    /// Tells others what a reservation did to them. Who is preempted with its tasks changes nothing after this: that is what
    /// it is done for.
    async fn take_effect(&self, effects: &Effects) {
        {
            let state = self.state.lock();
            for (name, what) in &effects.attentions {
                let seats = state.seats.get(name).into_iter().flatten();
                seats.for_each(|seat| seat.attend(*what));
            }
            for name in &effects.aborted {
                let seats = state.seats.get(name).into_iter().flatten();
                seats.for_each(|seat| seat.abort());
            }
        }
        if !effects.aborted.is_empty() {
            self.settle_blocks().await;
        }
    }
}

/// Sense data as the data of a command: a unit attention that waits, or that nothing is wrong.
fn request_sense(seat: &Seat, descriptor: bool, allocation: u32) -> Answer {
    let sense = match seat.take_attention() {
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
