//! The Redis protocol, RESP2 and RESP3: commands in, replies out. It knows no command.

mod parser;
mod writer;

pub use parser::{Limits, Parser, ProtocolError};
pub use writer::{Version, Writer};
