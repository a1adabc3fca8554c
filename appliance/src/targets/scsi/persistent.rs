//! PERSISTENT RESERVE IN and OUT (SPC-4, sections 6.13 and 6.14), and the file in which reservations outlive the unit.
//!
//! They are kept through every restart, asked for or not: a restart of the unit is no loss of power of a disk, and its hosts
//! are not to notice it.

use super::answer::Answer;
use super::inquiry::terminated;
use super::reservations::{Action, Effects, Kind, Order, Refused, Reservations, Touch};
use crate::config::write_text;
use bytes::{BufMut, Bytes};
use farside_protocol::scsi::{Additional, Sense, SenseKey};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

/// Length of the parameters of PERSISTENT RESERVE OUT.
pub(super) const RESERVE_OUT_BYTES: u32 = 24;
const PARAMETER_BYTES: usize = RESERVE_OUT_BYTES as usize;

/// Service actions of PERSISTENT RESERVE IN.
const READ_KEYS: u8 = 0;
const READ_RESERVATION: u8 = 1;
const REPORT_CAPABILITIES: u8 = 2;

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// Of the volume: one that was made anew under an old name has no reservations.
    volume: String,
    reservations: Reservations,
}

/// Reservations with their file.
#[derive(Debug)]
pub(super) struct Persistent {
    file: PathBuf,
    volume: String,
    now: RwLock<Reservations>,
    /// Held from reading what is until everybody knows of the change.
    turn: tokio::sync::Mutex<()>,
}

/// A PERSISTENT RESERVE OUT without its parameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReserveOut {
    pub(super) action: u8,
    pub(super) scope: u8,
    pub(super) kind: u8,
    pub(super) parameter_bytes: u32,
}

impl Persistent {
    /// Reads what was kept. A file that cannot be read is said in the log, and taken for none: a volume without its
    /// reservations is of more use than none.
    pub(super) fn load(file: PathBuf, uuid: &[u8; 16]) -> Self {
        let volume: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        let now = match std::fs::read_to_string(&file) {
            Ok(text) => match serde_json::from_str::<Kept>(&text) {
                Ok(kept) if kept.volume == volume => kept.reservations,
                Ok(_) => Reservations::default(),
                Err(error) => {
                    tracing::error!(file = %file.display(), %error, "persistent reservations are lost: their file is damaged");
                    Reservations::default()
                }
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Reservations::default(),
            Err(error) => {
                tracing::error!(file = %file.display(), %error, "persistent reservations cannot be read");
                Reservations::default()
            }
        };
        Self {
            file,
            volume,
            now: RwLock::new(now),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// Whether `from` may do that.
    pub(super) fn allow(&self, from: &str, touch: Touch) -> bool {
        self.now.read().allow(from, touch)
    }

    /// Whether anybody is registered.
    pub(super) fn is_used(&self) -> bool {
        !self.now.read().registrants.is_empty()
    }

    /// Waits for the turn to change something: it is held until everybody concerned knows of the change.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Waits for changes that are under way.
    pub(super) async fn settle(&self) {
        drop(self.turn().await);
    }

    /// Carries out PERSISTENT RESERVE OUT for whoever has its [turn](Self::turn); it is done when it is on the disk.
    pub(super) async fn carry_out(
        this: &Arc<Self>,
        from: &str,
        wanted: ReserveOut,
        data: Bytes,
    ) -> Result<Effects, Answer> {
        let order = order(from, wanted, &data).map_err(Answer::check)?;
        let mut next = this.now.read().clone();
        let effects = next.carry_out(&order).map_err(|refused| match refused {
            Refused::Conflict => Answer::status(refused.status()),
            Refused::Check(sense) => Answer::check(sense),
        })?;
        let (writer, kept) = (Arc::clone(this), next.clone());
        let written = tokio::task::spawn_blocking(move || writer.write(kept)).await;
        if let Ok(Ok(())) = written {
            *this.now.write() = next;
            return Ok(effects);
        }
        tracing::error!(file = %this.file.display(), ?written, "a persistent reservation cannot be kept and was refused");
        let sense = Sense::new(SenseKey::HardwareError, Additional::InternalTargetFailure);
        Err(Answer::check(sense))
    }

    fn write(&self, reservations: Reservations) -> Result<(), String> {
        if let Some(directory) = self.file.parent() {
            std::fs::create_dir_all(directory).map_err(|error| error.to_string())?;
        }
        let kept = Kept {
            volume: self.volume.clone(),
            reservations,
        };
        let text = serde_json::to_string_pretty(&kept).map_err(|error| error.to_string())?;
        write_text(&self.file, &text).map_err(|error| error.to_string())
    }

    /// Answers PERSISTENT RESERVE IN.
    pub(super) fn report(&self, action: u8) -> Vec<u8> {
        let now = self.now.read();
        match action {
            READ_KEYS => {
                let keys = now.registrants.values().flat_map(|key| key.to_be_bytes());
                listed(now.generation, &keys.collect::<Vec<u8>>())
            }
            READ_RESERVATION => {
                let held = now.held.as_ref().map(|held| {
                    let key = if held.kind.is_all_registrants() {
                        0
                    } else {
                        now.registrants.get(&held.by).copied().unwrap_or(0)
                    };
                    let mut data = Vec::new();
                    data.put_u64(key);
                    data.extend_from_slice(&[0, 0, 0, 0, 0, held.kind as u8, 0, 0]);
                    data
                });
                listed(now.generation, &held.unwrap_or_default())
            }
            // Persistence through loss of power; the types are told, and all of them are there.
            REPORT_CAPABILITIES => {
                let persists = u8::from(now.asked_to_persist);
                vec![0, 8, 0x01, 0x80 | persists, 0xea, 0x01, 0, 0]
            }
            _ => listed(now.generation, &full_status(&now)),
        }
    }
}

fn listed(generation: u32, body: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    data.put_u32(generation);
    data.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    data.extend_from_slice(body);
    data
}

/// READ FULL STATUS: every registration with the name of its initiator port (SPC-4, section 7.6.4.6).
fn full_status(now: &Reservations) -> Vec<u8> {
    let mut data = Vec::new();
    for (name, key) in &now.registrants {
        let holder = now.is_holder(name);
        let kind = now
            .held
            .as_ref()
            .filter(|_| holder)
            .map_or(0, |held| held.kind as u8);
        let port = terminated(name);
        data.put_u64(*key);
        data.extend_from_slice(&[0, 0, 0, 0, u8::from(holder), kind, 0, 0, 0, 0, 0, 1]);
        data.put_u32(u32::try_from(port.len() + 4).unwrap_or(u32::MAX));
        // A name of an initiator port, of iSCSI.
        data.extend_from_slice(&[0x45, 0]);
        data.put_u16(u16::try_from(port.len()).unwrap_or(u16::MAX));
        data.extend_from_slice(&port);
    }
    data
}

/// Reads the parameters.
fn order<'a>(from: &'a str, wanted: ReserveOut, data: &[u8]) -> Result<Order<'a>, Sense> {
    let length_error = Sense::illegal(Additional::ParameterListLengthError);
    let parameters: &[u8; PARAMETER_BYTES] = data.try_into().map_err(|_| length_error)?;
    if wanted.parameter_bytes != RESERVE_OUT_BYTES {
        return Err(length_error);
    }
    let [
        k0,
        k1,
        k2,
        k3,
        k4,
        k5,
        k6,
        k7,
        a0,
        a1,
        a2,
        a3,
        a4,
        a5,
        a6,
        a7,
        _,
        _,
        _,
        _,
        flags,
        ..,
    ] = *parameters;
    // Neither other initiator ports nor all target ports can be named.
    if flags & 0x0c != 0 {
        let bit = if flags & 0x08 != 0 { 3 } else { 2 };
        return Err(Sense::in_parameters(20, Some(bit)));
    }
    let action = match wanted.action {
        0 => Action::Register(false),
        1 => Action::Reserve,
        2 => Action::Release,
        3 => Action::Clear,
        4 => Action::Preempt(false),
        5 => Action::Preempt(true),
        6 => Action::Register(true),
        _ => return Err(Sense::in_command(1, Some(4))),
    };
    let is_typed = matches!(action, Action::Reserve | Action::Release | Action::Preempt(_));
    if is_typed && wanted.scope != 0 {
        return Err(Sense::in_command(2, Some(7)));
    }
    Ok(Order {
        from,
        action,
        key: u64::from_be_bytes([k0, k1, k2, k3, k4, k5, k6, k7]),
        action_key: u64::from_be_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
        kind: Kind::of_code(wanted.kind),
        persist: flags & 1 != 0,
    })
}
