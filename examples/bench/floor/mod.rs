//! The floors: processes that do what must be done and nothing else, by hand.

pub mod fanout;
pub mod reader;
pub mod relay;
pub mod sockets;
