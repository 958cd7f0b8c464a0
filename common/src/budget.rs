//! The bound on a process's memory, and shares of it.
//!
//! A [`Lease`] is held by value and given back by drop, so memory is reserved before it is used and cannot be forgotten. Waiters are
//! served in the order in which they came, so a large one is not starved by small ones.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// A semaphore counts in units of this many bytes, since its permits are 32 bits wide.
const UNIT_BYTES: u64 = 1024;

/// A bound on memory that leases are taken from. Clones share the bound.
#[derive(Clone)]
pub struct Budget {
    total_bytes: u64,
    free: Arc<Semaphore>,
    /// Held while a lease for one oversized row or page is taken: two of them waiting for the rest of the budget that the other
    /// holds would wait for ever.
    alone: Arc<Semaphore>,
}

/// A share of a budget, given back by drop.
#[derive(Debug)]
pub struct Lease {
    bytes: u64,
    _permit: OwnedSemaphorePermit,
    _alone: Option<OwnedSemaphorePermit>,
}

impl Lease {
    /// How many bytes it holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Budget {
    /// A budget of this many bytes.
    ///
    /// # Errors
    /// `Config` if it is more than 4 TiB.
    pub fn new(total_bytes: u64) -> Result<Budget> {
        let units = u32::try_from(total_bytes / UNIT_BYTES)
            .ok()
            .and_then(|units| usize::try_from(units).ok())
            .filter(|&units| units <= Semaphore::MAX_PERMITS)
            .ok_or_else(|| {
                Error::config(format!(
                    "a memory budget of {total_bytes} bytes is more than 4 TiB"
                ))
            })?;
        Ok(Budget {
            total_bytes,
            free: Arc::new(Semaphore::new(units)),
            alone: Arc::new(Semaphore::new(1)),
        })
    }

    /// The whole bound, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// What no lease holds now, in bytes.
    pub fn free_bytes(&self) -> u64 {
        self.free.available_permits() as u64 * UNIT_BYTES
    }

    /// Waits for a share of this many bytes. Cancel-safe: a waiter that is dropped loses only its place.
    ///
    /// # Errors
    /// `Refused` if it is more than the whole budget.
    pub async fn lease(&self, bytes: u64) -> Result<Lease> {
        let units = self.units(bytes)?;
        let permit = Arc::clone(&self.free).acquire_many_owned(units).await;
        let permit = permit.map_err(|_| Error::cancelled("the memory budget is closed"))?;
        Ok(Lease {
            bytes,
            _permit: permit,
            _alone: None,
        })
    }

    /// A share of this many bytes if it is free now.
    ///
    /// # Errors
    /// `Refused` if it is more than the whole budget.
    pub fn try_lease(&self, bytes: u64) -> Result<Option<Lease>> {
        let units = self.units(bytes)?;
        let permit = Arc::clone(&self.free).try_acquire_many_owned(units).ok();
        Ok(permit.map(|permit| Lease {
            bytes,
            _permit: permit,
            _alone: None,
        }))
    }

    /// Waits for a share for one row or page that does not fit its stream's lease. One such share exists at a time, so that
    /// streams which hold theirs do not wait for each other. Cancel-safe like [`lease`](Budget::lease).
    ///
    /// # Errors
    /// `Refused` if it can never be had: more than the budget less `held_bytes`, what the waiting stream holds itself.
    pub async fn lease_alone(&self, bytes: u64, held_bytes: u64) -> Result<Lease> {
        let most = self.total_bytes.saturating_sub(held_bytes);
        if bytes > most {
            return Err(Error::refused(format!(
                "{bytes} bytes of memory are needed at once, and the budget leaves {most}; raise `memory`"
            )));
        }
        let alone = Arc::clone(&self.alone).acquire_owned().await;
        let alone = alone.map_err(|_| Error::cancelled("the memory budget is closed"))?;
        let mut lease = self.lease(bytes).await?;
        lease._alone = Some(alone);
        Ok(lease)
    }

    fn units(&self, bytes: u64) -> Result<u32> {
        if bytes > self.total_bytes {
            return Err(Error::refused(format!(
                "{bytes} bytes of memory are needed, and the whole budget is {}; raise `memory`",
                self.total_bytes
            )));
        }
        // Rounded up, but never beyond what the semaphore was made with.
        let units = bytes
            .div_ceil(UNIT_BYTES)
            .min(self.total_bytes / UNIT_BYTES);
        u32::try_from(units).map_err(|_| Error::internal("a lease of more than 4 TiB"))
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Budget({} of {} bytes free)",
            self.free_bytes(),
            self.total_bytes
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lease_is_given_back_by_drop() {
        let budget = Budget::new(10 * 1024).unwrap();
        let lease = budget.lease(8 * 1024).await.unwrap();
        assert!(budget.try_lease(4 * 1024).unwrap().is_none());
        drop(lease);
        assert!(budget.try_lease(4 * 1024).unwrap().is_some());
    }

    #[tokio::test]
    async fn what_can_never_be_had_is_refused_instead_of_waited_for() {
        let budget = Budget::new(10 * 1024).unwrap();
        assert!(budget.lease(11 * 1024).await.is_err());
        let _held = budget.lease(4 * 1024).await.unwrap();
        assert!(budget.lease_alone(7 * 1024, 4 * 1024).await.is_err());
        assert!(budget.lease_alone(6 * 1024, 4 * 1024).await.is_ok());
    }

    #[tokio::test]
    async fn a_large_waiter_is_not_starved_by_small_ones() {
        let budget = Budget::new(10 * 1024).unwrap();
        let held = budget.lease(6 * 1024).await.unwrap();
        let mut large = tokio_test_task(budget.lease(8 * 1024));
        assert!(large.poll().is_none());
        assert!(
            budget.try_lease(2 * 1024).unwrap().is_none(),
            "a later, smaller one overtook the first"
        );
        drop(held);
        assert!(large.poll().is_some());
    }

    struct Task<F: Future>(std::pin::Pin<Box<F>>);

    fn tokio_test_task<F: Future>(future: F) -> Task<F> {
        Task(Box::pin(future))
    }

    impl<F: Future> Task<F> {
        fn poll(&mut self) -> Option<F::Output> {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            match self.0.as_mut().poll(&mut context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            }
        }
    }
}
