//! Two network namespaces with a cable between them: machines whose addresses are not each other's own loopback.

use crate::skip::skip;
use crate::tools::Tool;
use anyhow::Result;

/// The address of one machine.
pub const HERE: &str = "10.213.7.1";
/// The address of the other.
pub const THERE: &str = "10.213.7.2";

/// Which of the two machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// That of [`HERE`].
    Here,
    /// That of [`THERE`].
    There,
}

/// The cable, until dropped.
#[derive(Debug)]
pub struct Cable(String);

impl Cable {
    /// Makes both machines and lays the cable.
    ///
    /// # Errors
    /// A skip where that is not allowed.
    pub fn lay() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(skip("network namespaces need root"));
        }
        let name = format!("fs{}", std::process::id() % 100_000);
        let cable = Self(name.clone());
        for command in [
            format!("netns add {name}a"),
            format!("netns add {name}b"),
            format!("link add {name}x netns {name}a type veth peer name {name}y netns {name}b"),
            format!("-n {name}a addr add {HERE}/24 dev {name}x"),
            format!("-n {name}b addr add {THERE}/24 dev {name}y"),
            format!("-n {name}a link set lo up"),
            format!("-n {name}b link set lo up"),
            format!("-n {name}a link set {name}x up"),
            format!("-n {name}b link set {name}y up"),
        ] {
            Tool::new("ip").args(command.split(' ')).ok()?;
        }
        Ok(cable)
    }

    /// The name of the namespace at one end.
    #[must_use]
    pub fn end(&self, end: End) -> String {
        let letter = match end {
            End::Here => "a",
            End::There => "b",
        };
        format!("{}{letter}", self.0)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for end in [End::Here, End::There] {
            // What was never made cannot be taken away.
            let _ = Tool::new("ip").args(["netns", "del", &self.end(end)]).run();
        }
    }
}
