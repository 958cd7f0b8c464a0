//! Who may send how much next: token buckets and a queue, on a clock that is given.
//!
//! A plain machine: it does not wait, and reads no clock. `now` is the time since some fixed moment and never goes back.
//!
//! - No more is ever granted over any span of time than its rate gives in it, and one burst: for the whole, and for each share that has a limit of
//!   its own.
//! - Whoever asks first is first, except that a share that has used up its own limit does not hold up the others. Nobody else is overtaken, so a
//!   large request is not starved by small ones, and streams that ask again and again take turns.
//! - What is larger than one part is granted in parts, between which the others have their turns.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// A limit: bytes a second in the long run, and at most so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) bytes_per_second: u64,
    pub(super) burst_bytes: u64,
}

/// What may be spent, in byte-nanoseconds a second, so that nothing is lost to rounding.
#[derive(Debug)]
struct Bucket {
    limit: Limit,
    level: u128,
    at: Duration,
}

const SECOND: u128 = 1_000_000_000;

impl Bucket {
    fn full(limit: Limit, now: Duration) -> Bucket {
        Bucket {
            limit,
            level: u128::from(limit.burst_bytes) * SECOND,
            at: now,
        }
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_nanos();
        let level = self.level + passed * u128::from(self.limit.bytes_per_second);
        self.level = level.min(u128::from(self.limit.burst_bytes) * SECOND);
        self.at = self.at.max(now);
    }

    /// How long until it has so much, which is at most its burst; zero if it has it now.
    fn wait(&self, bytes: u64) -> Duration {
        let missing = (u128::from(bytes) * SECOND).saturating_sub(self.level);
        let ns = missing.div_ceil(u128::from(self.limit.bytes_per_second));
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    fn take(&mut self, bytes: u64) {
        self.level = self.level.saturating_sub(u128::from(bytes) * SECOND);
    }
}

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// A part of the whole, with or without a limit of its own: a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ShareId(u64);

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    share: ShareId,
    /// What is not granted yet.
    bytes: u64,
}

#[derive(Debug)]
pub(super) struct Queue {
    part_bytes_max: u64,
    whole: Option<Bucket>,
    /// Those with a limit of their own.
    shares: BTreeMap<ShareId, Bucket>,
    waiting: VecDeque<Waiter>,
    granted: BTreeSet<Ticket>,
    /// Numbers tickets and shares.
    count: u64,
}

impl Queue {
    /// `part_bytes_max` is at most the burst of every limit.
    pub(super) fn new(whole: Option<Limit>, part_bytes_max: u64, now: Duration) -> Queue {
        Queue {
            part_bytes_max,
            whole: whole.map(|limit| Bucket::full(limit, now)),
            shares: BTreeMap::new(),
            waiting: VecDeque::new(),
            granted: BTreeSet::new(),
            count: 0,
        }
    }

    pub(super) fn share(&mut self, limit: Option<Limit>, now: Duration) -> ShareId {
        let id = ShareId(self.number());
        if let Some(limit) = limit {
            self.shares.insert(id, Bucket::full(limit, now));
        }
        id
    }

    /// The share has another limit from now on, or none. What it may spend at once does not grow by that: else changing it often would be a way around.
    pub(super) fn limit(&mut self, share: ShareId, limit: Option<Limit>, now: Duration) {
        let Some(limit) = limit else {
            self.shares.remove(&share);
            return;
        };
        match self.shares.get_mut(&share) {
            Some(bucket) => {
                bucket.refill(now);
                bucket.limit = limit;
                bucket.level = bucket.level.min(u128::from(limit.burst_bytes) * SECOND);
            }
            None => {
                self.shares.insert(share, Bucket::full(limit, now));
            }
        }
    }

    /// The share is not used any more.
    pub(super) fn end(&mut self, share: ShareId) {
        self.shares.remove(&share);
    }

    /// Asks for so many bytes, at least one.
    pub(super) fn ask(&mut self, share: ShareId, bytes: u64) -> Ticket {
        let ticket = Ticket(self.number());
        self.waiting.push_back(Waiter {
            ticket,
            share,
            bytes,
        });
        ticket
    }

    /// Grants what can be granted now, whoever is there to take it. The time after which more can be, if somebody waits.
    pub(super) fn advance(&mut self, now: Duration) -> Option<Duration> {
        self.whole.iter_mut().for_each(|bucket| bucket.refill(now));
        self.shares
            .values_mut()
            .for_each(|bucket| bucket.refill(now));
        loop {
            match self.first() {
                Ok(at) => self.grant(at),
                Err(wait) => return wait,
            }
        }
    }

    /// Whether all of it is granted; then the ticket is used up.
    pub(super) fn redeem(&mut self, ticket: Ticket) -> bool {
        self.granted.remove(&ticket)
    }

    /// Whoever asked has left. What was granted is lost: giving it back later would be a burst.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        self.waiting.retain(|waiter| waiter.ticket != ticket);
        self.granted.remove(&ticket);
    }

    /// The waiter whose next part can be granted; else the time until one can be.
    fn first(&self) -> Result<usize, Option<Duration>> {
        let mut soonest: Option<Duration> = None;
        let mut sooner = |wait: Duration| {
            let earlier = soonest.map_or(wait, |soonest| soonest.min(wait));
            soonest = Some(earlier);
            earlier
        };
        let mut used_up = BTreeSet::new();
        for (at, waiter) in self.waiting.iter().enumerate() {
            if used_up.contains(&waiter.share) {
                continue;
            }
            let part = waiter.bytes.min(self.part_bytes_max);
            let wait =
                |bucket: Option<&Bucket>| bucket.map_or(Duration::ZERO, |bucket| bucket.wait(part));
            let own = wait(self.shares.get(&waiter.share));
            if !own.is_zero() {
                used_up.insert(waiter.share);
                sooner(own);
                continue;
            }
            let whole = wait(self.whole.as_ref());
            if whole.is_zero() {
                return Ok(at);
            }
            return Err(Some(sooner(whole)));
        }
        Err(soonest)
    }

    fn grant(&mut self, at: usize) {
        let Some(mut waiter) = self.waiting.remove(at) else {
            return;
        };
        let part = waiter.bytes.min(self.part_bytes_max);
        self.whole.iter_mut().for_each(|bucket| bucket.take(part));
        if let Some(bucket) = self.shares.get_mut(&waiter.share) {
            bucket.take(part);
        }
        waiter.bytes -= part;
        if waiter.bytes == 0 {
            self.granted.insert(waiter.ticket);
        } else {
            self.waiting.push_back(waiter);
        }
    }

    fn number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const PART: u64 = 1000;

    fn limit(bytes_per_second: u64, burst_bytes: u64) -> Limit {
        Limit {
            bytes_per_second,
            burst_bytes,
        }
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// No span of these grants has more than the limit admits.
    fn assert_within(limit: Limit, grants: &[(Duration, u64)], context: &str) {
        for from in 0..grants.len() {
            let mut sum = 0u128;
            for &(at, bytes) in &grants[from..] {
                sum += u128::from(bytes);
                let span = (at - grants[from].0).as_nanos();
                let most = u128::from(limit.burst_bytes)
                    + (span * u128::from(limit.bytes_per_second)).div_ceil(SECOND);
                assert!(sum <= most, "{context}: {sum} bytes in {span} ns");
            }
        }
    }

    /// What is not granted yet.
    fn left(queue: &Queue) -> BTreeMap<Ticket, (ShareId, u64)> {
        let waiting = queue.waiting.iter();
        waiting
            .map(|waiter| (waiter.ticket, (waiter.share, waiter.bytes)))
            .collect()
    }

    /// Streams of two runs ask for random frames, some larger than a part, some leave; the clock goes on by random steps or as the queue says.
    fn live(seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let whole = limit(
            rng.random_range(1..50_000),
            rng.random_range(PART..5 * PART),
        );
        let own = limit(
            rng.random_range(1..50_000),
            rng.random_range(PART..5 * PART),
        );
        let mut now = ms(rng.random_range(0..1000));
        let mut queue = Queue::new(Some(whole), PART, now);
        let shares = [queue.share(None, now), queue.share(Some(own), now)];
        // Each stream: its share, and its place.
        let mut streams: Vec<(usize, Option<Ticket>)> = (0..6).map(|at| (at % 2, None)).collect();
        let (mut all, mut owned) = (Vec::new(), Vec::new());
        for _ in 0..200 {
            for (share, asked) in &mut streams {
                let leaves = rng.random_range(0..50) == 0;
                match *asked {
                    None => {
                        let bytes = rng.random_range(1..3 * PART);
                        *asked = Some(queue.ask(shares[*share], bytes));
                    }
                    Some(ticket) if leaves => {
                        queue.leave(ticket);
                        *asked = None;
                    }
                    Some(_) => {}
                }
            }
            let before = left(&queue);
            let next = queue.advance(now);
            let after = left(&queue);
            for (ticket, (share, bytes)) in before {
                let granted = bytes - after.get(&ticket).map_or(0, |&(_, bytes)| bytes);
                all.push((now, granted));
                if share == shares[1] {
                    owned.push((now, granted));
                }
            }
            for (_, asked) in &mut streams {
                if asked.is_some_and(|ticket| queue.redeem(ticket)) {
                    *asked = None;
                }
            }
            let waits = streams.iter().any(|(_, asked)| asked.is_some());
            assert!(
                next.is_some() || !waits,
                "seed {seed}: somebody waits for ever"
            );
            now += match next {
                Some(next) if rng.random() => next,
                _ => ms(rng.random_range(0..200)),
            };
        }
        all.retain(|&(_, bytes)| bytes > 0);
        owned.retain(|&(_, bytes)| bytes > 0);
        assert!(!all.is_empty() && !owned.is_empty(), "seed {seed}");
        assert_within(whole, &all, &format!("seed {seed}, the whole"));
        assert_within(own, &owned, &format!("seed {seed}, the run"));
    }

    #[test]
    fn no_span_of_time_has_more_than_its_rate_and_one_burst() {
        (0..100).for_each(live);
    }

    #[test]
    fn every_byte_of_a_request_in_parts_is_paid_for() {
        let mut queue = Queue::new(Some(limit(1000, PART)), PART, ms(0));
        let share = queue.share(None, ms(0));
        let large = queue.ask(share, 3500);
        let mut now = ms(0);
        while let Some(wait) = queue.advance(now) {
            assert!(!queue.redeem(large));
            now += wait;
        }
        assert!(queue.redeem(large));
        assert_eq!(now, ms(2500), "a thousand at once, the others at the rate");
    }

    #[test]
    fn streams_take_turns_whatever_they_ask_for() {
        let mut queue = Queue::new(Some(limit(1000, PART)), PART, ms(0));
        let run = queue.share(None, ms(0));
        let other = queue.share(None, ms(0));
        // A greedy run of three streams, one of them with large frames, and a run of one with small ones.
        let streams = [(run, 1000), (run, 1000), (run, 5000), (other, 10)];
        let mut tickets = streams.map(|(share, bytes)| queue.ask(share, bytes));
        let mut turns = [0u32; 4];
        let mut now = ms(0);
        for _ in 0..2000 {
            let wait = queue.advance(now);
            for (at, &(share, bytes)) in streams.iter().enumerate() {
                if queue.redeem(tickets[at]) {
                    turns[at] += 1;
                    tickets[at] = queue.ask(share, bytes);
                }
            }
            now += wait.unwrap_or_default();
        }
        // Five parts make one of the large ones.
        let parts = [turns[0], turns[1], turns[2] * 5, turns[3]];
        let (most, least) = (parts.iter().max().unwrap(), parts.iter().min().unwrap());
        assert!(*least > 100 && most - least <= 5, "{parts:?}");
    }

    #[test]
    fn a_run_at_its_own_limit_holds_up_nobody_else_and_is_not_starved() {
        let mut queue = Queue::new(Some(limit(1000, PART)), PART, ms(0));
        let slow = queue.share(Some(limit(10, PART)), ms(0));
        let fast = queue.share(None, ms(0));
        let first = queue.ask(slow, 1000);
        queue.advance(ms(0));
        assert!(queue.redeem(first), "a burst");
        let (large, small) = (queue.ask(slow, 500), queue.ask(slow, 1));
        let other = queue.ask(fast, 1000);
        assert_eq!(queue.advance(ms(200)), Some(ms(800)), "the other's turn");
        assert_eq!(queue.advance(ms(1000)), Some(ms(49_000)));
        assert!(queue.redeem(other) && !queue.redeem(large));
        assert!(!queue.redeem(small), "it has not overtaken its own run's");
        queue.advance(ms(50_000));
        assert!(queue.redeem(large));
    }

    #[test]
    fn whoever_leaves_is_not_waited_for_and_gives_nothing_back() {
        let mut queue = Queue::new(Some(limit(1000, PART)), PART, ms(0));
        let share = queue.share(None, ms(0));
        let (gone, left, next) = (
            queue.ask(share, 1000),
            queue.ask(share, 1000),
            queue.ask(share, 1000),
        );
        queue.advance(ms(0));
        // One was granted, the other waits.
        queue.leave(gone);
        queue.leave(left);
        assert_eq!(queue.advance(ms(0)), Some(ms(1000)));
        assert_eq!(queue.advance(ms(1000)), None);
        assert!(!queue.redeem(gone) && !queue.redeem(left) && queue.redeem(next));
    }
}
