//! A partition on its way from the run to a stream. The stream may end while the run decides, which goes on to its end on another thread: a
//! partition that nobody takes must be lost like one of a stream that has ended, or the others would wait for it for ever.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The stream's end. Dropping it before [`taken`](Taker::taken) loses what was given.
#[derive(Debug)]
pub(super) struct Taker<F: FnMut(u64)> {
    slot: Arc<Mutex<Slot>>,
    lost: F,
}

/// The run's end.
#[derive(Clone, Debug)]
pub(super) struct Giver(Arc<Mutex<Slot>>);

#[derive(Debug, Default)]
struct Slot {
    /// Nobody will take it.
    gone: bool,
    seq: Option<u64>,
}

/// Both ends of a way for one partition; `lost` is called with its number if it was given and not taken. It is called without a lock held.
pub(super) fn handover<F: FnMut(u64)>(lost: F) -> (Giver, Taker<F>) {
    let slot = Arc::default();
    (Giver(Arc::clone(&slot)), Taker { slot, lost })
}

fn locked(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Giver {
    /// Gives the partition with this number; false if nobody will take it, and it is still the giver's.
    #[must_use]
    pub(super) fn give(&self, seq: u64) -> bool {
        let mut slot = locked(&self.0);
        if !slot.gone {
            slot.seq = Some(seq);
        }
        !slot.gone
    }
}

impl<F: FnMut(u64)> Taker<F> {
    /// The stream has what was given, if anything was.
    pub(super) fn taken(self) {
        locked(&self.slot).seq = None;
    }
}

impl<F: FnMut(u64)> Drop for Taker<F> {
    fn drop(&mut self) {
        let seq = {
            let mut slot = locked(&self.slot);
            slot.gone = true;
            slot.seq.take()
        };
        if let Some(seq) = seq {
            (self.lost)(seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_is_taken_or_lost_and_never_both() {
        let mut lost = Vec::new();
        let (giver, taker) = handover(|seq| lost.push(seq));
        assert!(giver.give(1));
        taker.taken();
        assert!(!giver.give(2), "it was taken once");

        let (giver, taker) = handover(|seq| lost.push(seq));
        assert!(giver.give(3));
        drop(taker);

        let (giver, taker) = handover(|seq| lost.push(seq));
        drop(taker);
        assert!(!giver.give(4), "nobody is there");

        let (_, taker) = handover(|seq| lost.push(seq));
        drop(taker);
        assert_eq!(lost, [3]);
    }
}
