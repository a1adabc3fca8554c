//! Another key for this unit, without pairing anew.
//!
//! 1. The next key is made, and the certificate of the present one names it. All links are connected anew, so that every
//!    peer sees that.
//! 2. A peer that has seen it notes the next key beside the present one, before it goes on.
//! 3. When all have, the next key takes the place of the present one. A peer takes the present one no more once it has seen
//!    the other.

use super::error::PairingError;
use super::fingerprint::Fingerprint;
use super::key::UnitKey;
use super::{Pairing, State, tls};
use farside_remote::Notice;
use std::sync::Arc;
use uuid::Uuid;

impl Pairing {
    /// Makes the next key. Returns its fingerprint, and who has to hear of it before it is used.
    ///
    /// # Errors
    /// One is on its way already, or cannot be written.
    pub fn renew(&self) -> Result<(Fingerprint, Vec<String>), PairingError> {
        {
            let _turn = self.turn.lock();
            if self.state.lock().next.is_some() {
                let untold = self.known().renewal.unwrap_or_default();
                return Err(PairingError::Renewing(untold));
            }
            let next = UnitKey::create_next(&self.directory, self.unit)?;
            let present = Arc::clone(&self.state.lock().key);
            let key = present.telling(self.unit, Some(&next))?;
            let server = tls::server(&key)?;
            let mut state = self.state.lock();
            state.key = Arc::new(key);
            state.next = Some(Arc::new(next));
            state.server = server;
            state.generation += 1;
            state.told.clear();
            notify_all(&mut state);
        }
        let next = self.state.lock().next.as_ref().map(|next| next.fingerprint());
        self.renew_if_all_know()?;
        let known = self.known();
        Ok((next.unwrap_or(known.key), known.renewal.unwrap_or_default()))
    }

    /// A peer has seen the certificate of this generation.
    pub(super) fn told(self: &Arc<Self>, unit: Uuid, generation: u64) {
        let ready = {
            let mut state = self.state.lock();
            if state.generation != generation || state.next.is_none() {
                return;
            }
            state.told.insert(unit);
            all_know(&state)
        };
        if ready {
            let pairing = Arc::clone(self);
            tokio::task::spawn_blocking(move || {
                if let Err(error) = pairing.renew_if_all_know() {
                    tracing::error!("the next key could not be put into use: {error}");
                }
            });
        }
    }

    pub(super) fn key(&self) -> Arc<UnitKey> {
        Arc::clone(&self.state.lock().key)
    }

    /// Puts the next key into use if nobody has to hear of it any more.
    pub(super) fn renew_if_all_know(&self) -> Result<(), PairingError> {
        let _turn = self.turn.lock();
        let next = {
            let state = self.state.lock();
            match &state.next {
                Some(next) if all_know(&state) => Arc::clone(next),
                _ => return Ok(()),
            }
        };
        UnitKey::install_next(&self.directory)?;
        let server = tls::server(&next)?;
        let mut state = self.state.lock();
        tracing::info!(key = %next.fingerprint(), "the next key of this unit is in use");
        state.key = next;
        state.next = None;
        state.server = server;
        state.generation += 1;
        state.told.clear();
        // A peer takes the old key until it has seen the new one.
        notify_all(&mut state);
        Ok(())
    }
}

fn all_know(state: &State) -> bool {
    state.peers.iter().all(|peer| state.told.contains(&peer.unit))
}

/// Links connect anew, each sees the new certificate then.
fn notify_all(state: &mut State) {
    for (_, notice) in std::mem::take(&mut state.notices) {
        notice.send_replace(Notice::Renewed);
    }
}
