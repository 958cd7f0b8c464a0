//! What the lake promises beyond what every engine does: about Delta's log and other writers of it, about power cuts, and about what a table may hold.
//!
//! `history` is about logs that others clean up and rewrite, `attempts` about two processes and about answers that are lost, `durability` about the order of
//! acts on the disk, `foreign` about tables that others made, `opens` about tables that cannot be opened, `listings` about their files, `keys` about values of partition columns, `divisions` about
//! what Delta does not know of a table's partitions, `lost` about a ledger that is lost, `vacuum` about what may go.

#![allow(clippy::unwrap_used)]

mod attempts;
mod divisions;
mod durability;
mod foreign;
mod history;
mod keys;
mod listings;
mod lost;
mod opens;
mod trace;
mod vacuum;
mod world;
