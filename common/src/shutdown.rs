//! The two signals by which an agent stops.
//!
//! The first SIGTERM or SIGINT drains: no new chunk begins, the current ones are finished and acknowledged. The second,
//! or the end of the grace period, cancels: everything is dropped where it stands, which is as safe as a crash.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Told to every task. Clones share the signals.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    cancel: CancellationToken,
}

impl Shutdown {
    /// Neither signal given yet.
    pub fn new() -> Shutdown {
        Shutdown::default()
    }

    /// Asks for the soft stop.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Asks for the hard stop.
    pub fn cancel(&self) {
        self.drain.cancel();
        self.cancel.cancel();
    }

    /// Whether a stop was asked for, soft or hard.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Whether the hard stop was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Waits for the soft stop. Cancel-safe.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Waits for the hard stop. Cancel-safe.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// A signal pair of one part: it stops when the whole does, and alone when asked to.
    #[must_use]
    pub fn child(&self) -> Shutdown {
        Shutdown {
            drain: self.drain.child_token(),
            cancel: self.cancel.child_token(),
        }
    }

    /// Turns SIGTERM and SIGINT into drain, then cancel; cancels too when `grace` is over. Runs until cancelled.
    pub async fn listen_for_signals(&self, grace: Duration) {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut term), Ok(mut int)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) else {
            tracing::error!(
                "signals cannot be received; stop this agent with SIGKILL, which is safe"
            );
            return self.cancelled().await;
        };
        let mut next =
            async || tokio::select! { _ = term.recv() => "SIGTERM", _ = int.recv() => "SIGINT" };
        let signal = next().await;
        tracing::info!(
            signal,
            grace_s = grace.as_secs(),
            "draining; a second signal cancels"
        );
        self.drain();
        tokio::select! {
            signal = next() => tracing::info!(signal, "cancelled"),
            () = tokio::time::sleep(grace) => tracing::warn!("the grace period is over; cancelled"),
            () = self.cancelled() => {}
        }
        self.cancel();
    }
}
