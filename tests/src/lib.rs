//! What is tested across crates, and what those tests share: lakes in temporary directories, both agents in one process, a network that
//! can stall, each side of the protocol driven by hand, an engine that can be held, and the command line as a child process. [`simulation`] lives whole lives of both agents under a seed. The
//! suites on real data are in `tests/python`.
//!
//! Nothing here asserts a time. Whatever is waited for has a bound, after which the test fails and says what it waited for.

pub mod agents;
pub mod by_hand;
pub mod corpus;
pub mod demo;
pub mod held;
pub mod lakes;
pub mod process;
pub mod proxy;
pub mod settings;
pub mod simulation;

use std::time::Duration;

/// The bound of every wait: generous, since it only decides how long a broken build takes to be called broken.
pub const WAIT_MAX: Duration = Duration::from_secs(90);

/// Waits until `check` gives a value.
///
/// # Panics
/// After [`WAIT_MAX`], naming what was waited for.
pub async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let waited = tokio::time::timeout(WAIT_MAX, async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    match waited.await {
        Ok(found) => found,
        Err(_) => panic!("waited in vain until {what}"),
    }
}
