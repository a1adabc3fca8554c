//! Persistent reservations: who is registered, who holds what (SPC-4, section 5.13). Pure: no disk, no clock.
//!
//! An initiator port is registered for the target as a whole, whatever portal it comes through.

use super::limits::REGISTRANTS;
use farside_protocol::scsi::{Additional, Sense, Status};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Types of reservations, with their codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// One holder; others may read.
    WriteExclusive = 1,
    /// One holder.
    ExclusiveAccess = 3,
    /// One holder; registered ones may do all, others may read.
    WriteExclusiveRegistrantsOnly = 5,
    /// One holder; registered ones may do all.
    ExclusiveAccessRegistrantsOnly = 6,
    /// All who are registered hold it; others may read.
    WriteExclusiveAllRegistrants = 7,
    /// All who are registered hold it.
    ExclusiveAccessAllRegistrants = 8,
}

impl Kind {
    pub(super) fn of_code(code: u8) -> Option<Self> {
        [
            Self::WriteExclusive,
            Self::ExclusiveAccess,
            Self::WriteExclusiveRegistrantsOnly,
            Self::ExclusiveAccessRegistrantsOnly,
            Self::WriteExclusiveAllRegistrants,
            Self::ExclusiveAccessAllRegistrants,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == code)
    }

    pub(super) fn is_all_registrants(self) -> bool {
        matches!(
            self,
            Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants
        )
    }

    /// Whether the registered ones lose something with it.
    fn is_shared(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    fn lets_read(self) -> bool {
        matches!(
            self,
            Self::WriteExclusive | Self::WriteExclusiveRegistrantsOnly | Self::WriteExclusiveAllRegistrants
        )
    }
}

/// A reservation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    /// Its type.
    pub(super) kind: Kind,
    /// The initiator port that made it; with the types for all registrants it is one of several holders.
    pub(super) by: String,
}

/// What a command does with the medium, as far as reservations care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touch {
    /// Nothing that a reservation guards.
    Nothing,
    /// It reads.
    Reads,
    /// It changes something, or the device.
    Changes,
}

/// Registrations and the reservation of one logical unit, by the name of the initiator port.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Reservations {
    /// PRGENERATION.
    pub(super) generation: u32,
    /// Keys of those who are registered.
    pub(super) registrants: BTreeMap<String, u64>,
    /// The reservation, if there is one.
    pub(super) held: Option<Held>,
    /// What the last registration said of keeping all this through a loss of power (APTPL).
    pub(super) asked_to_persist: bool,
}

/// A PERSISTENT RESERVE OUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order<'a> {
    /// Who asks.
    pub(super) from: &'a str,
    /// What.
    pub(super) action: Action,
    /// Its key, as it says.
    pub(super) key: u64,
    /// The key that the action is about.
    pub(super) action_key: u64,
    /// Type of the reservation.
    pub(super) kind: Option<Kind>,
    /// Keep it through a loss of power.
    pub(super) persist: bool,
}

/// Service actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// REGISTER; with `true` whatever the present key is.
    Register(bool),
    Reserve,
    Release,
    Clear,
    /// PREEMPT; with `true` AND ABORT.
    Preempt(bool),
}

/// What others have to learn of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Effects {
    /// Unit attentions.
    pub(super) attentions: Vec<(String, Additional)>,
    /// Whose tasks are aborted.
    pub(super) aborted: Vec<String>,
}

/// Why it was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// RESERVATION CONFLICT.
    Conflict,
    /// CHECK CONDITION.
    Check(Sense),
}

impl Refused {
    /// The status to answer with.
    pub(super) fn status(&self) -> Status {
        match self {
            Self::Conflict => Status::ReservationConflict,
            Self::Check(_) => Status::CheckCondition,
        }
    }
}

/// Byte of the parameter list at which the service action key begins.
const ACTION_KEY_AT: u16 = 8;

impl Reservations {
    /// Whether `from` may do that now.
    pub(super) fn allow(&self, from: &str, touch: Touch) -> bool {
        let Some(held) = &self.held else { return true };
        let is_holder = self.is_holder(from);
        let is_registrant = self.registrants.contains_key(from) && held.kind.is_shared();
        match touch {
            Touch::Nothing => true,
            Touch::Reads => is_holder || is_registrant || held.kind.lets_read(),
            Touch::Changes => is_holder || is_registrant,
        }
    }

    /// Whether `from` holds the reservation, alone or with others.
    pub(super) fn is_holder(&self, from: &str) -> bool {
        self.held.as_ref().is_some_and(|held| {
            if held.kind.is_all_registrants() {
                self.registrants.contains_key(from)
            } else {
                held.by == from
            }
        })
    }

    /// Carries out an order, or changes nothing.
    pub(super) fn carry_out(&mut self, order: &Order<'_>) -> Result<Effects, Refused> {
        match order.action {
            Action::Register(ignore) => self.register(order, ignore),
            _ if self.registrants.get(order.from) != Some(&order.key) => Err(Refused::Conflict),
            Action::Reserve => self.reserve(order),
            Action::Release => self.release(order),
            Action::Clear => {
                let others = self.others(order.from);
                self.registrants.clear();
                self.held = None;
                self.generation = self.generation.wrapping_add(1);
                Ok(Effects::attention(others, Additional::ReservationsPreempted))
            }
            Action::Preempt(abort) => self.preempt(order, abort),
        }
    }

    fn others(&self, from: &str) -> Vec<String> {
        self.registrants
            .keys()
            .filter(|name| *name != from)
            .cloned()
            .collect()
    }

    fn register(&mut self, order: &Order<'_>, ignore: bool) -> Result<Effects, Refused> {
        let known = self.registrants.get(order.from).copied();
        if !ignore && known.unwrap_or(0) != order.key {
            return Err(Refused::Conflict);
        }
        let mut effects = Effects::default();
        match (known, order.action_key) {
            (None, 0) => {}
            (Some(_), 0) => effects = self.unregister(order.from),
            (None, _) if self.registrants.len() >= REGISTRANTS => {
                let sense = Sense::illegal(Additional::InsufficientRegistrationResources);
                return Err(Refused::Check(sense));
            }
            (_, key) => _ = self.registrants.insert(order.from.to_owned(), key),
        }
        self.asked_to_persist = order.persist;
        self.generation = self.generation.wrapping_add(1);
        Ok(effects)
    }

    /// Takes a registration away; a reservation that is nobody's then ends.
    fn unregister(&mut self, from: &str) -> Effects {
        self.registrants.remove(from);
        let is_over = self.held.as_ref().is_some_and(|held| {
            if held.kind.is_all_registrants() {
                self.registrants.is_empty()
            } else {
                held.by == from
            }
        });
        match self.held.take_if(|_| is_over) {
            Some(held) if held.kind.is_shared() => {
                Effects::attention(self.others(from), Additional::ReservationsReleased)
            }
            _ => Effects::default(),
        }
    }

    fn reserve(&mut self, order: &Order<'_>) -> Result<Effects, Refused> {
        let kind = order.kind.ok_or(WRONG_TYPE)?;
        match &self.held {
            None => {
                let by = order.from.to_owned();
                self.held = Some(Held { kind, by });
                Ok(Effects::default())
            }
            Some(held) if held.kind == kind && self.is_holder(order.from) => Ok(Effects::default()),
            Some(_) => Err(Refused::Conflict),
        }
    }

    fn release(&mut self, order: &Order<'_>) -> Result<Effects, Refused> {
        if !self.is_holder(order.from) {
            return Ok(Effects::default());
        }
        if self.held.as_ref().map(|held| held.kind) != order.kind {
            let sense = Sense::illegal(Additional::InvalidReleaseOfPersistentReservation);
            return Err(Refused::Check(sense));
        }
        let shared = self.held.take().is_some_and(|held| held.kind.is_shared());
        let told = if shared {
            self.others(order.from)
        } else {
            Vec::new()
        };
        Ok(Effects::attention(told, Additional::ReservationsReleased))
    }

    fn preempt(&mut self, order: &Order<'_>, abort: bool) -> Result<Effects, Refused> {
        let from = order.from;
        let of_all = self
            .held
            .as_ref()
            .is_some_and(|held| held.kind.is_all_registrants());
        let holder_key = self
            .held
            .as_ref()
            .and_then(|held| self.registrants.get(&held.by))
            .copied();
        let takes_it = match (order.action_key, of_all) {
            (0, true) => true,
            (0, false) => return Err(Refused::Check(Sense::in_parameters(ACTION_KEY_AT, None))),
            (key, false) => holder_key == Some(key),
            (_, true) => false,
        };
        // The type is looked at only where a reservation is made.
        let kind = if takes_it {
            Some(order.kind.ok_or(WRONG_TYPE)?)
        } else {
            None
        };
        let is_meant = |key: &u64| (order.action_key == 0 && of_all) || *key == order.action_key;
        let gone: Vec<String> = self
            .registrants
            .iter()
            .filter(|(name, key)| is_meant(key) && *name != from)
            .map(|(name, _)| name.clone())
            .collect();
        if gone.is_empty() && !takes_it && !self.registrants.values().any(is_meant) {
            return Err(Refused::Conflict);
        }
        self.registrants.retain(|name, _| !gone.contains(name));
        let mut effects = Effects::attention(gone.clone(), Additional::RegistrationsPreempted);
        if let Some(kind) = kind {
            let by = from.to_owned();
            let before = self.held.replace(Held { kind, by });
            if before.is_some_and(|held| held.kind != kind) {
                let released = Effects::attention(self.others(from), Additional::ReservationsReleased);
                effects.attentions.extend(released.attentions);
            }
        } else if of_all && self.registrants.is_empty() {
            self.held = None;
        }
        if abort {
            effects.aborted = gone;
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(effects)
    }
}

/// The type is in the lower half of byte 2 of the command.
const WRONG_TYPE: Refused = Refused::Check(Sense::in_command(2, Some(3)));

impl Effects {
    fn attention(whom: Vec<String>, what: Additional) -> Self {
        Self {
            attentions: whom.into_iter().map(|name| (name, what)).collect(),
            aborted: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
