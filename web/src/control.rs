//! The door between the interface and the unit behind it.

use farside_protocol::control::{
    AcceptInvitation, AddBookmark, AskChanges, AskHistory, ChangesStatus, Command, ControlError, DetachAt,
    HistoryStatus, Invitation, OpenView, PairingStatus, Progress, Reply, RestoreFile, SeedFile, StartVerify,
    Status, VerifyStatus,
};
use std::future::Future;
use std::pin::Pin;
use tokio::sync::mpsc;

/// An answer that may take its time.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, ControlError>> + Send>>;

/// A command under way.
pub type Execution = Answer<Reply>;

/// Work that lasts, and what it says meanwhile. It ends by itself, or when nobody listens any more.
pub type Lasting = mpsc::Receiver<Progress>;

/// What is wanted of the comparison of a volume with its remotes, or with the one named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifyOrder {
    /// Tell what was found.
    Show(Option<String>),
    /// Begin.
    Start(StartVerify),
    /// End what is under way.
    Stop(Option<String>),
}

/// What is wanted of the pairing with other units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PairingOrder {
    /// Accept an invitation.
    Accept(AcceptInvitation),
    /// Forget a unit.
    Revoke(String),
    /// Give this unit another key.
    Renew,
}

/// What is wanted of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaOrder {
    /// Let another host have its disk.
    Detach,
    /// Take the disk back.
    Attach,
    /// Begin one with what lies where its image is to lie.
    Adopt,
}

/// What is wanted of an image of a volume, and takes long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeedOrder {
    /// Write one of this volume.
    Export(String, SeedFile),
    /// Make one the beginning of the replica of this volume.
    Import(String, SeedFile),
    /// Let another host have the disk of this replica as it was at a moment.
    DetachAt(String, DetachAt),
}

/// What stands behind the interface.
pub trait Control: Send + Sync + 'static {
    /// The state of the unit now. It must not wait for disks or peers.
    fn status(&self) -> Status;

    /// Carries out a command. Dropping the future must not leave the command half done.
    fn execute(&self, command: Command) -> Execution;

    /// Who this unit is to others, and whom it knows.
    fn pairing(&self) -> PairingStatus;

    /// Invites another unit. The answer holds a secret.
    ///
    /// # Errors
    /// Nobody could come.
    fn invite(&self) -> Result<Invitation, ControlError>;

    /// Changes who is known.
    fn pair(&self, order: PairingOrder) -> Execution;

    /// Compares a volume with its remotes.
    fn verify(&self, volume: String, order: VerifyOrder) -> Answer<VerifyStatus>;

    /// The past of a replica.
    fn history(&self, replica: String, ask: AskHistory) -> Answer<HistoryStatus>;

    /// What was overwritten between two moments.
    fn changes(&self, replica: String, ask: AskChanges) -> Answer<ChangesStatus>;

    /// Gives a moment a name.
    fn add_bookmark(&self, replica: String, add: AddBookmark) -> Answer<Reply>;

    /// Takes a moment's name away.
    fn remove_bookmark(&self, replica: String, name: String) -> Answer<Reply>;

    /// Lets hosts attach a moment.
    fn open_view(&self, replica: String, open: OpenView) -> Answer<Lasting>;

    /// Copies a moment into a file.
    fn restore(&self, replica: String, restore: RestoreFile) -> Answer<Lasting>;

    /// Hands a replica over, or takes it back.
    fn replica(&self, replica: String, order: ReplicaOrder) -> Execution;

    /// Carries what a volume holds to its remote on a disk, or brings a replica back to a moment.
    fn seed(&self, order: SeedOrder) -> Answer<Lasting>;
}
