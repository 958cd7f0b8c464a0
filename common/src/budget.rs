//! The bound on a process's memory, and shares of it.
//!
//! A [`Lease`] is held by value and given back by drop, so memory is reserved before it is used and cannot be forgotten. Waiters are
//! served in the order in which they came, so a large one is not starved by small ones.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// A semaphore counts in units of this many bytes, since its permits are 32 bits wide.
const UNIT_BYTES: u64 = 1024;

/// The longest that a stream waits for its turn to take an oversized lease. Two streams that need one each, and each hold what the
/// other waits for, are parted by it: one gives up with `Unavailable`, and what it held with it.
const ALONE_WAIT_MAX: Duration = Duration::from_secs(30);

/// A bound on memory that leases are taken from. Clones share the bound.
#[derive(Clone)]
pub struct Budget {
    total_bytes: u64,
    free: Arc<Semaphore>,
    /// Held while a stream has a lease for an oversized row or page.
    alone: Arc<Semaphore>,
    owner: Arc<Owner>,
}

/// Who takes leases: one stream.
#[derive(Debug, Default)]
struct Owner {
    held_bytes: AtomicU64,
    /// The turn that this stream has now: it may take several oversized leases in one turn, a page's and a row's.
    turn: Mutex<Weak<OwnedSemaphorePermit>>,
}

/// A share of a budget, given back by drop.
#[derive(Debug)]
pub struct Lease {
    bytes: u64,
    owner: Arc<Owner>,
    _permit: OwnedSemaphorePermit,
    _turn: Option<Arc<OwnedSemaphorePermit>>,
}

impl Lease {
    /// How many bytes it holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.owner
            .held_bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
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
            owner: Arc::default(),
        })
    }

    /// The same budget for another stream: what a stream holds counts when it asks for an oversized lease.
    #[must_use]
    pub fn for_stream(&self) -> Budget {
        Budget {
            owner: Arc::default(),
            ..self.clone()
        }
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
        Ok(self.leased(bytes, permit, None))
    }

    /// Waits for a share for at most so long, where a person waits for the answer. Cancel-safe like [`lease`](Budget::lease).
    ///
    /// # Errors
    /// `Refused` if it is more than the whole budget; `Unavailable` if it was not free in time.
    pub async fn lease_within(&self, bytes: u64, wait_max: Duration) -> Result<Lease> {
        match tokio::time::timeout(wait_max, self.lease(bytes)).await {
            Ok(lease) => lease,
            Err(_) => Err(Error::unavailable(format!(
                "{bytes} bytes of memory were not free in {} s: runs under way hold {} of {}; try again when one has ended, or raise `memory`",
                wait_max.as_secs(),
                self.total_bytes - self.free_bytes().min(self.total_bytes),
                self.total_bytes
            ))),
        }
    }

    /// A share of this many bytes if it is free now.
    ///
    /// # Errors
    /// `Refused` if it is more than the whole budget.
    pub fn try_lease(&self, bytes: u64) -> Result<Option<Lease>> {
        let units = self.units(bytes)?;
        let permit = Arc::clone(&self.free).try_acquire_many_owned(units).ok();
        Ok(permit.map(|permit| self.leased(bytes, permit, None)))
    }

    /// Waits for a share for one row or page that does not fit its stream's lease. One stream at a time has such shares. Cancel-safe
    /// like [`lease`](Budget::lease).
    ///
    /// # Errors
    /// `Refused` if it can never be had: more than the budget less what this stream holds. `Unavailable` if other streams do not
    /// make room in half a minute.
    pub async fn lease_alone(&self, bytes: u64) -> Result<Lease> {
        let most = self
            .total_bytes
            .saturating_sub(self.owner.held_bytes.load(Ordering::Relaxed));
        if bytes > most {
            return Err(Error::refused(format!(
                "{bytes} bytes of memory are needed at once, and the budget leaves {most}; raise `memory`"
            )));
        }
        let units = self.units(bytes)?;
        let lease = async {
            let turn = self.turn().await?;
            let permit = Arc::clone(&self.free).acquire_many_owned(units).await;
            let permit = permit.map_err(|_| Error::cancelled("the memory budget is closed"))?;
            Ok(self.leased(bytes, permit, Some(turn)))
        };
        tokio::time::timeout(ALONE_WAIT_MAX, lease)
            .await
            .unwrap_or_else(|_| {
                Err(Error::unavailable(format!(
                    "{bytes} bytes for one row or page were not free in {} s",
                    ALONE_WAIT_MAX.as_secs()
                )))
            })
    }

    async fn turn(&self) -> Result<Arc<OwnedSemaphorePermit>> {
        let mine = || {
            self.owner
                .turn
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(turn) = mine().upgrade() {
            return Ok(turn);
        }
        let turn = Arc::clone(&self.alone).acquire_owned().await;
        let turn = Arc::new(turn.map_err(|_| Error::cancelled("the memory budget is closed"))?);
        *mine() = Arc::downgrade(&turn);
        Ok(turn)
    }

    fn leased(
        &self,
        bytes: u64,
        permit: OwnedSemaphorePermit,
        turn: Option<Arc<OwnedSemaphorePermit>>,
    ) -> Lease {
        self.owner.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        Lease {
            bytes,
            owner: Arc::clone(&self.owner),
            _permit: permit,
            _turn: turn,
        }
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
    use crate::error::Kind;

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
        assert_eq!(
            budget.lease_alone(7 * 1024).await.unwrap_err().kind(),
            Kind::Refused
        );
        assert!(budget.lease_alone(6 * 1024).await.is_ok());
    }

    #[tokio::test]
    async fn one_stream_takes_several_oversized_leases_in_one_turn() {
        let budget = Budget::new(10 * 1024).unwrap();
        let stream = budget.for_stream();
        let _page = stream.lease_alone(4 * 1024).await.unwrap();
        let _row = stream.lease_alone(4 * 1024).await.unwrap();
        assert_eq!(
            stream.lease_alone(3 * 1024).await.unwrap_err().kind(),
            Kind::Refused
        );
    }

    #[tokio::test(start_paused = true)]
    async fn two_streams_that_wait_for_each_other_are_parted() {
        let budget = Budget::new(10 * 1024).unwrap();
        let (one, two) = (budget.for_stream(), budget.for_stream());
        let (_held_by_one, _held_by_two) = (
            one.lease(4 * 1024).await.unwrap(),
            two.lease(4 * 1024).await.unwrap(),
        );
        assert_eq!(
            one.lease_alone(6 * 1024).await.unwrap_err().kind(),
            Kind::Unavailable
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_a_person_does_not_wait_for_ever() {
        let budget = Budget::new(10 * 1024).unwrap();
        let held = budget.lease(6 * 1024).await.unwrap();
        let late = budget.lease_within(8 * 1024, Duration::from_secs(30));
        let error = late.await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.to_string().contains("hold 6144 of 10240"), "{error}");
        drop(held);
        let lease = budget.lease_within(8 * 1024, Duration::from_secs(30));
        assert_eq!(lease.await.unwrap().bytes(), 8 * 1024);
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
