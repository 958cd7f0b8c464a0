//! The engine in memory: the smallest complete implementation of the engine contract.
//!
//! It is what other engines are compared with, the cluster of the deterministic simulation, and the first to pass the
//! conformance suite. It is not for operators: nothing outlives the process, and a table is as large as its rows.
//!
//! Start with [`MemoryStore`], the part that survives every crash: tables, ledger, epoch, claim and what is staged. A
//! [`MemorySink`] is one process on it; what that process has not made durable (rows appended since the last checkpoint) lives in its
//! writers and is gone with them. [`Steps`] numbers the acts of a process, so that a test can end it between any two.
//! [`Rule`] names the rules of exactly once that a test can break, to prove that it would notice.
//!
//! Every future here is ready when first polled (but a finish under [`Rule::FenceBeforeAct`], which takes two polls): no runtime, no clock, no
//! randomness, no thread. Equal calls give equal answers.

mod files;
mod rows;
mod sink;
mod source;
mod steps;
mod store;

pub use rows::{Row, canonical_rows};
pub use sink::{MemorySink, Rule};
pub use source::MemorySource;
pub use steps::{Action, Steps};
pub use store::MemoryStore;
