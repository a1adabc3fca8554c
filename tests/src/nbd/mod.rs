//! Our own small NBD client (fixed newstyle, simple replies), blocking and without any library: the tests must be
//! able to send what no library would, and to know exactly when a request left and when its answer came.

mod client;
mod endpoint;
mod raw;

pub use client::{NbdClient, Reply, ServerError};
pub use endpoint::{Endpoint, Stream};
pub use raw::{InfoReply, OptionReply, RawNbd, ReplyHeader, Request, command, flags, option, reply};
