//! What both agents and every engine need: the engine contract and the words it is written in.
//!
//! Start with [`engine`], the contract. The rest are the values that it speaks of: [`key`], [`selection`], [`digest`],
//! [`ids`]; the [`frame`] and the [`files`] that travel between the agents; and the means to stay within bounds: [`budget`], [`cpu`], [`patience`].
//!
//! This crate opens no socket, no file and no store.

pub mod budget;
pub mod clock;
pub mod config;
pub mod cpu;
pub mod digest;
pub mod division;
pub mod engine;
pub mod error;
pub mod files;
pub mod fingerprint;
pub mod frame;
pub mod ids;
pub mod inventory;
pub mod key;
pub mod metrics;
pub mod patience;
pub mod regroup;
pub mod retry;
pub mod selection;
pub mod shutdown;
pub mod sqlite;
pub mod state_dir;
pub mod telemetry;
pub mod tls;
pub mod value;
pub mod wire;

pub use error::{Context, Error, Kind, OrError, Result};
