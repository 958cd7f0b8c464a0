//! What is tested across crates. [`simulation`] lives whole lives of both agents under a seed; the suites on real data are in `tests/python`.

pub mod simulation;
