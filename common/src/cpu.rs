//! The CPU pool: encoding, zstd, Parquet and SQLite run here, off the async runtime, on a bounded number of threads.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::error::{Error, Kind, OrError, Result};

/// Runs closures on blocking threads, at most `threads` at a time. Clones share the bound.
#[derive(Clone, Debug)]
pub struct CpuPool {
    permits: Arc<Semaphore>,
}

impl CpuPool {
    /// A pool of this many threads; at least one.
    pub fn new(threads: usize) -> CpuPool {
        CpuPool {
            permits: Arc::new(Semaphore::new(threads.max(1))),
        }
    }

    /// Runs `work` on a thread of the pool and waits for it. Not cancel-safe: work that has begun runs to its end when the waiter is
    /// dropped, and still counts against the bound until then.
    ///
    /// # Errors
    /// What `work` returns; `Internal` if it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| Error::cancelled("the CPU pool is closed"))?;
        let span = tracing::Span::current();
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            span.in_scope(work)
        })
        .await
        .or_error(Kind::Internal, "work on the CPU pool")?
    }
}

impl Default for CpuPool {
    /// As many threads as the machine has cores.
    fn default() -> CpuPool {
        CpuPool::new(std::thread::available_parallelism().map_or(2, usize::from))
    }
}
