//! The CPU pool: encoding, zstd, Parquet and SQLite run here, off the async runtime, on a fixed number of threads.
//!
//! Work is handed over at once and waits in the pool's queue, not in its caller. (With a semaphore in the caller instead, a task that holds two
//! futures and polls only one of them can own a turn that it does not take, and two such tasks stop the pool for ever.)

use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error::{Error, Result};

type Job = Box<dyn FnOnce() + Send>;

/// Runs closures on `threads` threads. Clones share them; they end with the last clone. The queue is as long as there are callers that wait: each
/// call hands over one piece of work and waits for it.
#[derive(Clone, Debug)]
pub struct CpuPool {
    jobs: mpsc::Sender<Job>,
}

impl CpuPool {
    /// A pool of this many threads; at least one.
    pub fn new(threads: usize) -> CpuPool {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for at in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            let work = move || {
                loop {
                    // The lock is held while waiting for a job, not while doing it.
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    // Whoever waits is told by its channel's end.
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                }
            };
            let spawned = std::thread::Builder::new()
                .name(format!("cpu-{at}"))
                .spawn(work);
            if let Err(error) = spawned {
                tracing::error!(%error, "a thread of the CPU pool could not be started");
            }
        }
        CpuPool { jobs }
    }

    /// Runs `work` on a thread of the pool and waits for it. Not cancel-safe: work that was handed over runs to its end when the waiter is
    /// dropped.
    ///
    /// # Errors
    /// What `work` returns; `Internal` if it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (send, receive) = oneshot::channel();
        let span = tracing::Span::current();
        let runtime = Handle::try_current().ok();
        let job = move || {
            let _runtime = runtime.as_ref().map(Handle::enter);
            // Whoever has left does not want it any more.
            let _ = send.send(span.in_scope(work));
        };
        self.jobs
            .send(Box::new(job))
            .map_err(|_| Error::internal("the CPU pool has no threads"))?;
        receive
            .await
            .map_err(|_| Error::internal("work on the CPU pool panicked"))?
    }
}

impl Default for CpuPool {
    /// As many threads as the machine has cores.
    fn default() -> CpuPool {
        CpuPool::new(std::thread::available_parallelism().map_or(2, usize::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_panics_is_an_error_and_the_pool_goes_on() {
        let pool = CpuPool::new(1);
        assert!(pool.run::<()>(|| panic!("on purpose")).await.is_err());
        assert_eq!(pool.run(|| Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_future_that_is_not_polled_does_not_stop_the_pool() {
        let pool = CpuPool::new(1);
        let (go, wait) = mpsc::channel::<()>();
        let first = pool.run(move || Ok(wait.recv().is_ok()));
        let second = pool.run(|| Ok(()));
        let third = pool.run(|| Ok(()));
        let (mut first, mut second) = (Box::pin(first), Box::pin(second));
        assert!(futures::poll!(&mut first).is_pending());
        assert!(futures::poll!(&mut second).is_pending());
        go.send(()).unwrap();
        // Nobody polls the second one.
        third.await.unwrap();
    }
}
