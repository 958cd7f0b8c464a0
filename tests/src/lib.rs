//! Nothing is here: this package holds what is tested across crates. The suites on real data are in `tests/python`.
