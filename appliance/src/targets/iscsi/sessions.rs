//! Sessions of all portals: each has a number, and an initiator port has one session with a target.

use super::limits::REINSTATEMENT;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Whose session with what: initiator name, its part of the session's identity, and the target (RFC 7143, section 4.4.3);
/// a discovery session has no target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nexus {
    pub(super) initiator: String,
    pub(super) isid: [u8; 6],
    pub(super) target: Option<String>,
}

impl Nexus {
    /// The name of the initiator port, as SCSI has it (SPC-4, section 7.6.4.6).
    pub(super) fn port(&self) -> String {
        let isid: String = self.isid.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{},i,0x{isid}", self.initiator)
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    last: u16,
    sessions: BTreeMap<u16, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    nexus: Nexus,
    end: CancellationToken,
    ended: CancellationToken,
}

/// A session until it is dropped.
#[derive(Debug)]
pub(super) struct Session {
    all: Arc<Sessions>,
    /// Its number, TSIH.
    pub(super) number: u16,
    /// Whose it is.
    pub(super) nexus: Nexus,
    /// Cancelled when it has to end: another one takes its place, or its target is reset.
    pub(super) end: CancellationToken,
    _ended: DropGuard,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.all.known.lock().sessions.remove(&self.number);
    }
}

impl Sessions {
    /// Begins a session. One of the same initiator port ends first (section 6.3.5). `None`: the old one does not end, or there
    /// are no numbers left.
    pub(super) async fn begin(self: &Arc<Self>, nexus: Nexus) -> Option<Session> {
        let all_ended = async {
            loop {
                let old = match self.enter(&nexus) {
                    Ok(session) => return session,
                    Err(old) => old,
                };
                old.end.cancel();
                old.ended.cancelled().await;
            }
        };
        timeout(REINSTATEMENT, all_ended).await.ok().flatten()
    }

    fn enter(self: &Arc<Self>, nexus: &Nexus) -> Result<Option<Session>, Entry> {
        let mut known = self.known.lock();
        if nexus.target.is_some()
            && let Some(old) = known.sessions.values().find(|entry| entry.nexus == *nexus)
        {
            return Err(old.clone());
        }
        // 0 is no session's.
        let Some(number) = (1..=u16::MAX)
            .map(|step| known.last.wrapping_add(step))
            .find(|number| *number != 0 && !known.sessions.contains_key(number))
        else {
            return Ok(None);
        };
        let entry = Entry {
            nexus: nexus.clone(),
            end: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        known.last = number;
        known.sessions.insert(number, entry.clone());
        Ok(Some(Session {
            all: Arc::clone(self),
            number,
            nexus: nexus.clone(),
            end: entry.end,
            _ended: entry.ended.drop_guard(),
        }))
    }

    /// Whether there is such a session.
    pub(super) fn has(&self, number: u16) -> bool {
        self.known.lock().sessions.contains_key(&number)
    }

    /// Ends all sessions with a target.
    pub(super) fn end_all(&self, target: &str) {
        for entry in self.known.lock().sessions.values() {
            if entry.nexus.target.as_deref() == Some(target) {
                entry.end.cancel();
            }
        }
    }
}
