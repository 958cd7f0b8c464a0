//! Bandwidth: how long a stream waits before it may send a frame. Who is next is decided in `queue`; this module waits.
//!
//! One [`Pacer`] for the agent, with the agent's `bandwidth_max`; one [`Share`] of it for each run, with the run's own limit. A stream asks when a batch
//! is encoded and before its session counts it as sent, so that a stop does not wait behind bandwidth: what was not admitted is as if it had not
//! been read. It holds what its lease pays for meanwhile, and hears its sink.

mod queue;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use strait_common::config::{ByteSize, between};
use strait_common::{Error, Result};
use tokio::sync::Notify;
use tokio::time::Instant;

use queue::{Limit, Queue, ShareId, Ticket};

/// The longest that a limit may make one frame take.
const FRAME_TIME_MAX_S: u64 = 10;
/// The largest limit, in bytes a second.
const BYTES_PER_SECOND_MAX: u64 = 1 << 40;
/// A burst is what passes in so much of a second, but at least one frame: a timer that wakes a little late must not cost bandwidth.
const BURSTS_PER_SECOND: u64 = 50;

/// Refuses a limit in bytes a second that lets nothing pass, or a frame in no reasonable time. `key` is what the operator wrote it as.
///
/// # Errors
/// `Config`, naming the key and what to write.
pub fn check(key: &str, bytes_per_second: u64, frame_bytes_max: u64) -> Result<()> {
    if bytes_per_second == 0 {
        return Err(Error::config(format!(
            "{key} = 0 lets nothing pass; write how many bytes a second may pass, for example 20MiB, or leave it out"
        )));
    }
    let least = frame_bytes_max.div_ceil(FRAME_TIME_MAX_S);
    if bytes_per_second < least {
        return Err(Error::config(format!(
            "{key} = {} a second takes more than {FRAME_TIME_MAX_S} s for one frame of {}; write at least {least}, or lower frame_bytes_max",
            ByteSize(bytes_per_second),
            ByteSize(frame_bytes_max)
        )));
    }
    between(key, bytes_per_second, least, BYTES_PER_SECOND_MAX)
}

/// What may pass at once at most under a limit of so many bytes a second, in bytes.
pub fn burst_bytes(bytes_per_second: u64, frame_bytes_max: u64) -> u64 {
    part_bytes_max(frame_bytes_max).max(bytes_per_second / BURSTS_PER_SECOND)
}

/// What one frame takes on the wire at most: what does not compress grows by a little.
fn part_bytes_max(frame_bytes_max: u64) -> u64 {
    frame_bytes_max + frame_bytes_max / 64 + 1024
}

/// The bandwidth of an agent. Clones share it.
#[derive(Clone, Debug)]
pub struct Pacer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// A std mutex: held for decisions only.
    queue: Mutex<Queue>,
    /// Somebody else has been granted what he waits for, or has left.
    changed: Notify,
    began: Instant,
    limited: bool,
    frame_bytes_max: u64,
}

impl Pacer {
    /// Bandwidth of so many bytes a second, or without a limit.
    pub fn new(bytes_per_second: Option<u64>, frame_bytes_max: u64) -> Pacer {
        let whole = limit(bytes_per_second, frame_bytes_max);
        let parts = part_bytes_max(frame_bytes_max);
        Pacer(Arc::new(Shared {
            queue: Mutex::new(Queue::new(whole, parts, Duration::ZERO)),
            changed: Notify::new(),
            began: Instant::now(),
            limited: whole.is_some(),
            frame_bytes_max,
        }))
    }

    /// A run's share, which may have a limit of its own within the whole.
    pub fn share(&self, bytes_per_second: Option<u64>) -> Share {
        let own = limit(bytes_per_second, self.0.frame_bytes_max);
        let now = self.0.began.elapsed();
        let id = self.0.queue().share(own, now);
        Share(Arc::new(ShareInner {
            pacer: self.clone(),
            id,
            limited: AtomicBool::new(self.0.limited || own.is_some()),
        }))
    }
}

fn limit(bytes_per_second: Option<u64>, frame_bytes_max: u64) -> Option<Limit> {
    bytes_per_second.map(|bytes_per_second| Limit {
        bytes_per_second,
        burst_bytes: burst_bytes(bytes_per_second, frame_bytes_max),
    })
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bandwidth of one run. Clones share it; it ends with the last.
#[derive(Clone, Debug)]
pub struct Share(Arc<ShareInner>);

#[derive(Debug)]
struct ShareInner {
    pacer: Pacer,
    id: ShareId,
    /// By the whole or by its own.
    limited: AtomicBool,
}

impl Drop for ShareInner {
    fn drop(&mut self) {
        self.pacer.0.queue().end(self.id);
    }
}

impl Share {
    /// Another limit of its own from now on, or none. Whoever waits, waits by it.
    pub fn limit(&self, bytes_per_second: Option<u64>) {
        let shared = &self.0.pacer.0;
        let own = limit(bytes_per_second, shared.frame_bytes_max);
        let limited = shared.limited || own.is_some();
        shared.queue().limit(self.0.id, own, shared.began.elapsed());
        self.0.limited.store(limited, Ordering::Relaxed);
        shared.changed.notify_waiters();
    }

    /// Waits until so many bytes may be sent. Cancel-safe: whoever is dropped leaves the queue. The turn of one that is not polled is granted all the
    /// same, so it holds up nobody.
    pub async fn admit(&self, bytes: u64) {
        if !self.0.limited.load(Ordering::Relaxed) || bytes == 0 {
            return;
        }
        let shared = &self.0.pacer.0;
        let place = Place {
            shared,
            ticket: shared.queue().ask(self.0.id, bytes),
        };
        loop {
            // Listened for from before the question on, so that no change is missed.
            let changed = shared.changed.notified();
            let (mine, wait) = {
                let mut queue = shared.queue();
                let wait = queue.advance(shared.began.elapsed());
                (queue.redeem(place.ticket), wait)
            };
            if mine {
                // Dropping the place tells the others, some of whom may have been granted theirs just now.
                return;
            }
            let sleep = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => {}
                () = changed => {}
            }
        }
    }
}

/// A place in the queue, left by drop.
struct Place<'a> {
    shared: &'a Shared,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shared.queue().leave(self.ticket);
        self.shared.changed.notify_waiters();
    }
}
