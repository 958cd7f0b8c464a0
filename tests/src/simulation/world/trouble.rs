//! What goes wrong.

use agent_source::session::Event;
use rand::Rng;
use rand::rngs::StdRng;
use strait_common::Error;

use super::super::source::{Desk, SourceAgent};
use super::super::wire::{Down, Mischief, Stream};
use super::{AGENTS_MAX, Lived, SINKS, START_NS, World};

impl World {
    pub(super) fn trouble(&mut self) -> Lived {
        let agent = self.rng.random_range(0..self.agents.len());
        let sink = self.rng.random_range(0..SINKS);
        let allowed = self.allowed;
        match self.rng.random_range(0..15) {
            0 if allowed.source_dies => {
                note!(self, "TROUBLE: agent {agent} is killed");
                self.kill_agent(agent)?;
            }
            1 if allowed.sink_dies => {
                note!(self, "TROUBLE: sink {sink} is killed");
                self.bury(sink);
            }
            2 if allowed.sink_dies_inside => {
                let acts = self.rng.random_range(1..8);
                note!(self, "TROUBLE: sink {sink} will die at act {acts} from now");
                self.sinks[sink].doom(acts);
            }
            3 if allowed.state_lost && self.rng.random_bool(0.4) => {
                note!(self, "TROUBLE: the state of agent {agent} is lost");
                self.kill_agent(agent)?;
                self.agents[agent] = SourceAgent::new(sink, self.tuning)?;
            }
            4 if allowed.cloned && self.agents.len() < AGENTS_MAX => {
                note!(self, "TROUBLE: agent {agent} is started from a copy too");
                let copy = self.agents[agent].cloned()?;
                self.agents.push(copy);
            }
            5 if allowed.links_cut => self.cut_link(),
            6 if allowed.links_cut => self.reset_stream(),
            7 if allowed.answers_lost => self.lose_answer()?,
            8 if allowed.mischief => self.mischief(),
            9 if allowed.growth => {
                let day = self.rng.random_range(0..8);
                let times: Vec<i64> = (0..self.rng.random_range(1..=6))
                    .map(|_| time(&mut self.rng, self.now_ms))
                    .collect();
                let rewrite = self.rng.random_bool(0.4);
                note!(
                    self,
                    "TROUBLE: {} rows are added to day {day} of A, {}",
                    times.len(),
                    if rewrite {
                        "which is written anew"
                    } else {
                        "after what it has"
                    }
                );
                if rewrite {
                    let kept: f64 = self.rng.random();
                    let rng = &mut self.rng;
                    self.a
                        .rewrite(day, &times, || rng.random_bool(kept.clamp(0.0, 1.0)))?;
                } else {
                    self.a.insert(day, &times)?;
                }
            }
            10 if allowed.drained => {
                note!(self, "TROUBLE: agent {agent} is stopped softly");
                let jitter = self.jitter();
                for stream in self.agents[agent].drain() {
                    let turn = self.agents[agent].feed(
                        stream,
                        Event::Drain,
                        &self.a.store,
                        self.now_ms,
                        jitter,
                    );
                    // A stream that is not open yet is told when it is.
                    if turn.is_ok() {
                        self.turned(agent, stream, turn)?;
                    }
                }
            }
            11 if allowed.operators => self.operator(agent)?,
            12 if allowed.operators && self.rng.random_bool(0.3) => self.abandon(sink)?,
            13 | 14 if allowed.stalls => self.stall(),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn kill_agent(&mut self, agent: usize) -> Lived {
        self.figures.killed += 1;
        if let Desk::Busy(_, _, attempt) = &self.agents[agent].desk {
            let serial = attempt.serial;
            self.leave_streams(agent, serial);
        }
        self.agents[agent].restart()?;
        Ok(())
    }

    /// One of the streams of which this holds.
    fn some_stream(&mut self, holds: impl Fn(&Stream) -> bool) -> Option<u64> {
        let streams = self.streams.iter().filter(|(_, stream)| holds(stream));
        let ids: Vec<u64> = streams.map(|(&id, _)| id).collect();
        pick(&mut self.rng, &ids).copied()
    }

    /// The source loses a stream; what it sent is on its way.
    fn cut_link(&mut self) {
        let id = self.some_stream(|stream| stream.source_listens);
        if let Some(id) = id
            && let Some(stream) = self.streams.get_mut(&id)
        {
            note!(self, "TROUBLE: the source loses stream {id}");
            stream.down.clear();
            let error = Error::unavailable("the link is cut");
            stream.down.push_back(Down::End(Some(error)));
        }
    }

    /// The sink learns that a stream is gone, before it has heard all that was sent.
    fn reset_stream(&mut self) {
        let id = self.some_stream(|stream| stream.sink_listens);
        if let Some(id) = id
            && let Some(stream) = self.streams.get_mut(&id)
        {
            note!(self, "TROUBLE: the sink loses stream {id}");
            stream.up.clear();
            stream.sink_listens = false;
            self.sinks[stream.sink].leave(id);
            if stream.source_listens {
                let error = Error::unavailable("the link is cut");
                stream.down.push_back(Down::End(Some(error)));
            }
        }
        self.forget_ended();
    }

    /// The source gives up a call that may still be executed.
    fn lose_answer(&mut self) -> Lived {
        let ids: Vec<u64> = self
            .calls
            .iter()
            .filter(|(_, call)| call.awaited)
            .map(|(&id, _)| id)
            .collect();
        let Some(&id) = pick(&mut self.rng, &ids) else {
            return Ok(());
        };
        let Some(call) = self.calls.get_mut(&id) else {
            return Ok(());
        };
        note!(self, "TROUBLE: the answer to call {id} is lost");
        call.awaited = false;
        let agent = call.source;
        if call.answer.is_some() {
            self.calls.remove(&id);
        }
        self.attempt_ended(agent, Err(Error::unavailable("no answer")))
    }

    /// A stream or a publication stands still for a while, long enough for others to live a whole attempt.
    fn stall(&mut self) {
        let until = self.figures.steps + self.rng.random_range(20..400);
        let finishes = self.sinks.iter_mut().flat_map(|sink| &mut sink.finishes);
        let mut finishes: Vec<_> = finishes.collect();
        if !finishes.is_empty() && self.rng.random_bool(0.5) {
            let at = self.rng.random_range(0..finishes.len());
            finishes[at].asleep_until = until;
        } else if let Some(id) = self.some_stream(|_| true)
            && let Some(stream) = self.streams.get_mut(&id)
        {
            stream.asleep_until = until;
            note!(self, "TROUBLE: stream {id} stands still until step {until}");
        }
    }

    fn mischief(&mut self) {
        let kind = Mischief::ALL[self.rng.random_range(0..Mischief::ALL.len())];
        let id = self.some_stream(|stream| stream.sink_listens && !stream.up.is_empty());
        if let Some(id) = id
            && let Some(stream) = self.streams.get_mut(&id)
        {
            let at = self.rng.random_range(0..stream.up.len());
            if kind.befall(&mut stream.up, at) {
                note!(
                    self,
                    "TROUBLE: {kind:?} befalls message {at} of stream {id}"
                );
            }
        }
    }
}

/// A moment around the world's now: most before it, some after.
pub(super) fn time(rng: &mut StdRng, now_ms: u64) -> i64 {
    let now = START_NS + i64::try_from(now_ms).unwrap_or(0) * 1_000_000;
    now + rng.random_range(-1_500..700) * 1_000_000
}

fn pick<'a, T>(rng: &mut StdRng, from: &'a [T]) -> Option<&'a T> {
    if from.is_empty() {
        return None;
    }
    from.get(rng.random_range(0..from.len()))
}
