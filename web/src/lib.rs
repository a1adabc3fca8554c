//! The console and the control interface, over HTTP.
//!
//! Guarantees: it knows only the control types; every request is bounded in size and time, and the number of
//! connections is bounded. Two routers: [`control_router`] can do everything and belongs on a socket that
//! only the operator can open; [`console_router`] only shows, and changes nothing.
//! Never here: storage, configuration, authentication (which is why the console is kept to loopback).
#![forbid(unsafe_code)]

mod host;
mod limits;
mod control;
mod history;
mod replica;
mod verify;
mod pairing;
mod routers;
mod page;
mod serve;

pub use control::{Answer, Control, Execution, Lasting, PairingOrder, ReplicaOrder, SeedOrder, VerifyOrder};
pub use routers::{console_router, control_router};
pub use serve::{serve_tcp, serve_unix};
