//! The door through which the control interface reaches the unit.

use super::applying::open_volume;
use super::parts::{PartError, PastOf};
use super::shared::Shared;
use super::{commands, peers};
use farside_protocol::control::{
    AddBookmark, AskChanges, AskHistory, ChangesStatus, Command, ControlError, ErrorCode, HistoryStatus,
    Invitation, OpenView, PairingStatus, Reply, RestoreFile, Status, VerifyStatus,
};
use farside_web::{Answer, Control, Execution, Lasting, PairingOrder, ReplicaOrder, SeedOrder, VerifyOrder};
use std::sync::Arc;

/// The unit as the control interface sees it.
#[derive(Debug)]
pub(super) struct UnitControl(pub(super) Arc<Shared>);

impl UnitControl {
    /// Asks the past of a replica, without waiting for a turn: nothing of the configuration changes.
    fn past<T: Send + 'static, F: Future<Output = Result<T, PartError>> + Send + 'static>(
        &self,
        replica: &str,
        ask: impl FnOnce(PastOf) -> F + Send + 'static,
    ) -> Answer<T> {
        let (shared, past) = (Arc::clone(&self.0), self.0.parts.past(replica));
        Box::pin(async move {
            shared.refuse_while_stopping()?;
            ask(past.map_err(refused)?).await.map_err(refused)
        })
    }
}

impl Control for UnitControl {
    fn status(&self) -> Status {
        self.0.status()
    }

    fn execute(&self, command: Command) -> Execution {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { commands::execute(&shared, command).await })
    }

    fn pairing(&self) -> PairingStatus {
        peers::status(&self.0)
    }

    fn invite(&self) -> Result<Invitation, ControlError> {
        self.0.refuse_while_stopping()?;
        peers::invite(&self.0)
    }

    fn pair(&self, order: PairingOrder) -> Execution {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            shared.refuse_while_stopping()?;
            match order {
                PairingOrder::Accept(accept) => peers::accept(&shared, &accept).await,
                PairingOrder::Revoke(name) => peers::revoke(&shared, name).await,
                PairingOrder::Renew => peers::renew(&shared).await,
            }
        })
    }

    fn verify(&self, volume: String, order: VerifyOrder) -> Answer<VerifyStatus> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            shared.refuse_while_stopping()?;
            let open = open_volume(&shared, &volume).ok_or_else(|| not_open(&shared, &volume))?;
            let done = match order {
                VerifyOrder::Show(remote) => open.verify_status(remote.as_deref()),
                VerifyOrder::Start(start) => open.start_verify(&start),
                VerifyOrder::Stop(remote) => open.stop_verify(remote.as_deref()),
            };
            done.map_err(refused)
        })
    }

    fn history(&self, replica: String, ask: AskHistory) -> Answer<HistoryStatus> {
        self.past(&replica, move |past| async move { past.history(&ask) })
    }

    fn changes(&self, replica: String, ask: AskChanges) -> Answer<ChangesStatus> {
        self.past(&replica, move |past| async move { past.changes(&ask) })
    }

    fn add_bookmark(&self, replica: String, add: AddBookmark) -> Answer<Reply> {
        self.past(&replica, move |past| async move { past.add_bookmark(&add).await })
    }

    fn remove_bookmark(&self, replica: String, name: String) -> Answer<Reply> {
        self.past(
            &replica,
            move |past| async move { past.remove_bookmark(&name).await },
        )
    }

    fn open_view(&self, replica: String, open: OpenView) -> Answer<Lasting> {
        self.past(&replica, move |past| async move { past.open_view(open).await })
    }

    fn restore(&self, replica: String, restore: RestoreFile) -> Answer<Lasting> {
        self.past(&replica, move |past| async move { past.restore(&restore) })
    }

    fn replica(&self, replica: String, order: ReplicaOrder) -> Execution {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            shared.refuse_while_stopping()?;
            // Goes on to its end, whether somebody waits for the answer or not.
            let parts = Arc::clone(&shared);
            let done = tokio::spawn(async move {
                match order {
                    ReplicaOrder::Detach => parts.parts.detach_replica(replica).await,
                    ReplicaOrder::Adopt => parts.parts.adopt_replica(replica).await,
                    ReplicaOrder::Attach => parts.parts.attach_replica(replica).await,
                }
            });
            let done = done
                .await
                .unwrap_or_else(|error| Err(PartError::failed(error.to_string())));
            done.map_err(refused)
        })
    }

    fn seed(&self, order: SeedOrder) -> Answer<Lasting> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            shared.refuse_while_stopping()?;
            let begun = match order {
                SeedOrder::Export(volume, file) => {
                    let open = open_volume(&shared, &volume).ok_or_else(|| not_open(&shared, &volume))?;
                    shared.parts.export_seed(&open, &file)
                }
                SeedOrder::Import(replica, file) => shared.parts.import_seed(&replica, &file).await,
                SeedOrder::DetachAt(replica, moment) => shared.parts.detach_replica_at(replica, &moment.at),
            };
            begun.map_err(refused)
        })
    }
}

pub(super) fn refused(error: PartError) -> ControlError {
    ControlError::plain(error.code, error.message)
}

fn not_open(shared: &Shared, name: &str) -> ControlError {
    if shared.view.read().volumes.contains_key(name) {
        let message = format!("volume {name} is not in service; 'farside status' says why");
        return ControlError::plain(ErrorCode::Conflict, message);
    }
    commands::no_such_volume(name)
}
