//! A stand-in for a DolphinDB server, for tests: the protocol, a small catalog, and the little of the language that clients send.
//!
//! It is proved by the vendor's own client (`tests/python/run_dolphindb.py`). What it cannot prove is what the real server does beside the protocol; where its rules are
//! known they are kept (see `catalog`), and a test must not rely on others. Nothing outlives the process.
//!
//! [`StandIn`] listens on a port of its own. [`StandIn::fault`] scripts what goes wrong: each fault strikes one request that contains a text.

mod catalog;
mod cell;
mod language;
mod login;
mod server;
mod session;

pub use catalog::{Catalog, Chunk, Database, Job, Scheme, TableState};
pub use login::Offers;
pub use server::{Fault, Settings, StandIn};
