//! The door between the interface and the unit behind it.

use farside_protocol::control::{Command, ControlError, Reply, Status};
use std::future::Future;
use std::pin::Pin;

/// A command under way.
pub type Execution = Pin<Box<dyn Future<Output = Result<Reply, ControlError>> + Send>>;

/// What stands behind the interface.
pub trait Control: Send + Sync + 'static {
    /// The state of the unit now. It must not wait for disks or peers.
    fn status(&self) -> Status;

    /// Carries out a command. Dropping the future must not leave the command half done.
    fn execute(&self, command: Command) -> Execution;
}
