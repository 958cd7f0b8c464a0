//! Jobs that start by themselves. What is decided is in [`book`], when in [`when`], what a job says in [`file`](mod@file); [`desk`] waits and does.

pub mod book;
pub mod desk;
pub mod file;
pub mod limits;
pub mod notify;
pub mod when;
