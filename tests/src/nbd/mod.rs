//! Our own small NBD client (fixed newstyle, simple replies), blocking and without any library: the tests must be
//! able to send what no library would, and to know exactly when a request left and when its answer came.

mod client;
mod endpoint;
mod raw;

pub use client::{NbdClient, ServerError};
pub use endpoint::{Endpoint, Stream};
pub use raw::{InfoReply, OptionReply, RawNbd, ReplyHeader, Request, command, flags, option, reply};

/// The numbers that messages begin with, for the server beside this client.
pub(crate) mod wire {
    pub(crate) use super::raw::{GREETING, OPTION_MAGIC, OPTION_REPLY_MAGIC, REPLY_MAGIC, REQUEST_MAGIC};
}
