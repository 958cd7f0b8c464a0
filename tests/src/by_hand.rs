//! One side of the protocol, driven by hand against the real other side: what an agent never sends can be sent here.

pub mod sink;
pub mod source;
