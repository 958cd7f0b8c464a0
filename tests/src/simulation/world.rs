//! The world: who does what next, what goes wrong, and whether what must hold still holds.

use std::collections::{BTreeMap, VecDeque};

use agent_source::run::Verdict;
use agent_source::runs::{RunRow, Status};
use agent_source::session::{Event, Want};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use strait_common::engine::Outcome;
use strait_common::ids::{RunId, TableName};
use strait_common::key::PartitionKey;
use strait_common::{Error, Kind, Result};
use strait_memory::{MemoryStore, Rule};

use super::Figures;
use super::cluster::{self, Cluster};
use super::rules::Broken;
use super::sink::SinkProcess;
use super::source::{self, Desk, Phase, SourceAgent, Tuning, Turn};
use super::wire::{Call, CallReply, CallRequest, Down, Stream, Up};

/// Steps in which things go wrong.
const TROUBLE_STEPS: u64 = 700;
/// Steps in which they do not, after which a run that has not ended never will.
const CALM_STEPS: u64 = 6000;
/// Runs that the operator may need in the end.
const LAST_RUNS: u32 = 12;
const SINKS: usize = 2;
const AGENTS_MAX: usize = 3;
const DAY_NS: i64 = 86_400_000_000_000;
/// The world's clock begins here: some day in 2026.
const START_NS: i64 = 20_600 * DAY_NS;

/// Something that must not be.
#[derive(Debug)]
pub struct Fault(pub String);

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault(format!(
            "an error nobody expected: {error} ({})",
            error.kind()
        ))
    }
}

type Lived<T = ()> = std::result::Result<T, Fault>;

/// What may go wrong in this life: each seed allows some of it, so that some lives concentrate.
#[derive(Clone, Copy, Debug)]
struct Allowed {
    source_dies: bool,
    sink_dies: bool,
    sink_dies_inside: bool,
    state_lost: bool,
    cloned: bool,
    second_sink: bool,
    links_cut: bool,
    answers_lost: bool,
    mischief: bool,
    growth: bool,
    drained: bool,
    operators: bool,
    stalls: bool,
    reads_fail: bool,
}

/// How likely each kind of act is beside the others.
#[derive(Clone, Copy, Debug)]
struct Weights {
    calls: u32,
    hear: u32,
    listen: u32,
    turn: u32,
    publish: u32,
}

/// Everything.
#[derive(Debug)]
pub struct World {
    rng: StdRng,
    weights: Weights,
    tuning: Tuning,
    broken: Option<Broken>,
    allowed: Allowed,
    bounded: bool,
    now_ms: u64,
    a: Cluster,
    b: MemoryStore,
    table: TableName,
    sinks: Vec<SinkProcess>,
    agents: Vec<SourceAgent>,
    streams: BTreeMap<u64, Stream>,
    calls: BTreeMap<u64, Call>,
    /// Numbers for streams, calls and attempts.
    numbers: u64,
    runs: u128,
    /// The bounds of all runs that ever were.
    bounds: Vec<Option<i64>>,
    traced: bool,
    /// A line per step, if asked for.
    pub trace: Vec<String>,
    /// What went on.
    pub figures: Figures,
}

/// What can be done next.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// An agent begins an attempt.
    Attempt(usize),
    /// A call is executed.
    Execute(u64),
    /// An answer arrives.
    Answer(u64),
    /// The sink hears the next message of a stream.
    Hear(u64),
    /// The source hears the next message of a stream.
    Listen(u64),
    /// The source does what a stream waits for.
    Turn(usize, u64),
    /// A publication goes on.
    Publish(usize, usize),
}

macro_rules! note {
    ($world:expr, $($text:tt)+) => {
        if $world.traced {
            let line = format!("{:>5} {}", $world.figures.steps, format!($($text)+));
            $world.trace.push(line);
        }
    };
}

mod end;
mod operators;
mod trouble;

use trouble::time;

impl World {
    /// A world before its first step.
    ///
    /// # Errors
    /// None that can happen.
    pub fn new(seed: u64, broken: Option<Broken>, traced: bool) -> Result<World> {
        let mut rng = StdRng::seed_from_u64(seed);
        let calm = rng.random_bool(0.02);
        let mut may = |probability: f64| !calm && rng.random_bool(probability);
        // An engine that cannot look at the epoch within the act is documented as having one sink process at a time, whose store no
        // other writes to: what it promises is less.
        let alone = broken == Some(Broken::FinishNotAwaited);
        let allowed = Allowed {
            source_dies: may(0.7),
            sink_dies: may(0.5),
            sink_dies_inside: may(0.5),
            state_lost: may(0.4),
            cloned: may(0.4),
            second_sink: may(0.5) && !alone,
            links_cut: may(0.7),
            answers_lost: may(0.5),
            mischief: may(0.3),
            growth: may(0.5),
            drained: may(0.3),
            operators: may(0.5),
            stalls: may(0.6),
            reads_fail: may(0.4),
        };
        // Some things are slow in some lives.
        let mut slow = || if rng.random_bool(0.3) { 1 } else { 12 };
        let weights = Weights {
            calls: slow(),
            hear: slow(),
            listen: slow(),
            turn: slow(),
            publish: slow(),
        };
        let tuning = Tuning {
            window_frames: rng.random_range(1..=5),
            chunk_bytes: [1, 1000, 4000][rng.random_range(0..3)],
            batch_bytes: [20, 64, 200][rng.random_range(0..3)],
            finishes_max: rng.random_range(1..=3),
        };
        let bounded = rng.random_bool(0.6);
        let mut a = Cluster::new()?;
        for day in 0..rng.random_range(1..=4) {
            let rows = rng.random_range(1..=24);
            let times: Vec<i64> = (0..rows).map(|_| time(&mut rng, 0)).collect();
            a.insert(day, &times)?;
        }
        let b = MemoryStore::new();
        let sinks = (0..SINKS).map(|_| SinkProcess::start(&b, broken)).collect();
        Ok(World {
            rng,
            weights,
            broken,
            allowed,
            bounded,
            now_ms: 0,
            a,
            b,
            table: cluster::table()?.name,
            sinks,
            agents: vec![SourceAgent::new(0, tuning)?],
            tuning,
            streams: BTreeMap::new(),
            calls: BTreeMap::new(),
            numbers: 0,
            runs: 0,
            bounds: Vec::new(),
            traced,
            trace: Vec::new(),
            figures: Figures::default(),
        })
    }

    /// Trouble, then calm, then the proof.
    ///
    /// # Errors
    /// What must not be.
    pub fn live(&mut self) -> Lived {
        note!(self, "{:?}", self.allowed);
        self.operator(0)?;
        for _ in 0..TROUBLE_STEPS {
            if self.rng.random_bool(0.05) {
                self.trouble()?;
            } else if self.rng.random_bool(0.02) {
                let agent = self.rng.random_range(0..self.agents.len());
                self.operator(agent)?;
            } else {
                self.progress()?;
            }
            self.check()?;
        }
        self.calm()
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn now_ns(&self) -> i64 {
        START_NS + i64::try_from(self.now_ms).unwrap_or(i64::MAX) * 1_000_000
    }

    fn jitter(&mut self) -> f64 {
        self.rng.random()
    }

    // ---- what must hold -------------------------------------------------------------------------------------------

    /// Every partition of B is absent, or holds the selected rows of one version of A's, each once.
    fn check(&self) -> Lived {
        for key in self.b.partition_keys(&self.table) {
            let seen = cluster::seen(&self.b, &self.table, &key)?;
            if !seen.is_empty() && !self.a.is_some_version(&key, &seen, &self.bounds) {
                return Err(Fault(format!(
                    "a reader of B sees rows {seen:?} in partition {}, which are those of no version of A",
                    key.label()
                )));
            }
        }
        Ok(())
    }

    /// What a run reports as copied is in B.
    fn check_report(&self, agent: usize, row: &RunRow) -> Lived<u64> {
        let bound = source::bound(&row.job);
        let mut copied = 0;
        for partition in self.agents[agent].report(row.id)? {
            if partition.kind == Some(Kind::Internal) {
                return Err(Fault(format!(
                    "partition {} failed with what can only be a bug: {}",
                    partition.partition.key.label(),
                    partition.message
                )));
            }
            if !source::is_copied(&partition) {
                if row.status == Status::Done {
                    return Err(Fault(format!(
                        "run {} is done and partition {} is not",
                        row.id.short(),
                        partition.partition.key.label()
                    )));
                }
                continue;
            }
            copied += 1;
            let key = &partition.partition.key;
            let Some(receipt) = &partition.receipt else {
                return Err(Fault(format!(
                    "{} is copied without a receipt",
                    key.label()
                )));
            };
            let wanted = self
                .a
                .selected(key, &receipt.version, bound)
                .unwrap_or_default();
            let seen = cluster::seen(&self.b, &self.table, key)?;
            let right = receipt.rows == wanted.len() as u64;
            if !right || (wanted != seen && !self.is_replaced(row.id, key, &seen)?) {
                return Err(Fault(format!(
                    "run {} reports partition {} at {} as copied with {} rows; selected are {wanted:?}, B has {seen:?}",
                    row.id.short(),
                    key.label(),
                    receipt.version,
                    receipt.rows
                )));
            }
        }
        Ok(copied)
    }

    /// Whether another run has put these rows in the place of what was there before, by its receipt.
    fn is_replaced(&self, by_other_than: RunId, key: &PartitionKey, seen: &[i64]) -> Lived<bool> {
        let replaced = self.b.replaced_by(&self.table, key);
        Ok(replaced.is_some_and(|(run, receipt)| {
            let wanted = self.a.selected(key, &receipt.version, None);
            run != by_other_than && wanted.unwrap_or_default() == seen
        }))
    }

    // ---- what happens when nothing goes wrong ------------------------------------------------------------------------

    fn acts(&self) -> Vec<Act> {
        let mut acts = Vec::new();
        for (at, agent) in self.agents.iter().enumerate() {
            match &agent.desk {
                Desk::Waiting(_, _) if agent.ready_ms <= self.now_ms => acts.push(Act::Attempt(at)),
                Desk::Busy(_, _, attempt) => {
                    for (&stream, end) in &attempt.streams {
                        let wants = end.session.as_ref().map(|session| session.want());
                        if wants.is_some_and(|want| !matches!(want, Want::Credit | Want::Reply)) {
                            acts.push(Act::Turn(at, stream));
                        }
                    }
                }
                _ => {}
            }
        }
        for (&id, call) in &self.calls {
            if call.answer.is_some() {
                if call.awaited {
                    acts.push(Act::Answer(id));
                }
            } else if self.sinks[call.sink].can_answer(&call.request) {
                acts.push(Act::Execute(id));
            }
        }
        for (&id, stream) in &self.streams {
            if stream.asleep_until > self.figures.steps {
                continue;
            }
            if stream.sink_listens && !stream.up.is_empty() {
                acts.push(Act::Hear(id));
            }
            if stream.source_listens && !stream.down.is_empty() {
                acts.push(Act::Listen(id));
            }
        }
        for (at, sink) in self.sinks.iter().enumerate() {
            for (number, finish) in sink.finishes.iter().enumerate() {
                if finish.asleep_until <= self.figures.steps {
                    acts.push(Act::Publish(at, number));
                }
            }
        }
        acts
    }

    fn progress(&mut self) -> Lived {
        self.figures.steps += 1;
        self.now_ms += self.rng.random_range(0..4);
        let acts = self.acts();
        if acts.is_empty() {
            self.now_ms += 50;
            return Ok(());
        }
        let act = self.choose(&acts);
        note!(self, "{act:?}");
        match act {
            Act::Attempt(agent) => self.attempt(agent)?,
            Act::Execute(call) => self.execute(call),
            Act::Answer(call) => self.answer(call)?,
            Act::Hear(stream) => self.hear(stream),
            Act::Listen(stream) => self.listen(stream)?,
            Act::Turn(agent, stream) => {
                let jitter = self.jitter();
                let fails = self.allowed.reads_fail && self.rng.random_bool(0.06);
                let turn =
                    self.agents[agent].turn(stream, &self.a.store, self.now_ms, jitter, fails);
                self.turned(agent, stream, turn)?;
            }
            Act::Publish(sink, finish) => {
                let published = self.sinks[sink].publish(finish);
                if !self.buried(sink)
                    && let Some((stream, down)) = published
                {
                    self.say(stream, down);
                    self.end_if_done(sink, stream);
                }
            }
        }
        Ok(())
    }

    fn choose(&mut self, acts: &[Act]) -> Act {
        let weights = self.weights;
        let weight = |act: &Act| match act {
            Act::Attempt(_) | Act::Execute(_) | Act::Answer(_) => weights.calls,
            Act::Hear(_) => weights.hear,
            Act::Listen(_) => weights.listen,
            Act::Turn(..) => weights.turn,
            Act::Publish(..) => weights.publish,
        };
        let sum: u32 = acts.iter().map(weight).sum();
        let mut at = self.rng.random_range(0..sum);
        for act in acts {
            if at < weight(act) {
                return *act;
            }
            at -= weight(act);
        }
        acts[0]
    }

    fn attempt(&mut self, agent: usize) -> Lived {
        let serial = self.number();
        let now = (self.broken == Some(Broken::SelectionResolvedAgain)).then(|| self.now_ns());
        if self.allowed.second_sink && self.rng.random_bool(0.3) {
            self.agents[agent].sink = self.rng.random_range(0..SINKS);
        }
        let sink = self.agents[agent].sink;
        let claim = self.agents[agent].attempt(serial, now, "sim")?;
        let id = self.number();
        self.calls.insert(
            id,
            Call {
                source: agent,
                attempt: serial,
                sink,
                request: CallRequest::Attach(claim),
                answer: None,
                awaited: true,
            },
        );
        Ok(())
    }

    fn execute(&mut self, id: u64) {
        let Some(call) = self.calls.get(&id) else {
            return;
        };
        let (sink, request) = (call.sink, call.request.clone());
        let answer = self.sinks[sink].answer(&request);
        note!(self, "      {request:?} -> {answer:?}");
        if self.buried(sink) {
            return;
        }
        match self.calls.get_mut(&id) {
            Some(call) if call.awaited => call.answer = Some(answer),
            _ => {
                self.figures.stale += 1;
                self.calls.remove(&id);
            }
        }
    }

    fn answer(&mut self, id: u64) -> Lived {
        let Some(call) = self.calls.remove(&id) else {
            return Ok(());
        };
        let agent = call.source;
        let Some(answer) = call.answer else {
            return Ok(());
        };
        match answer {
            Ok(CallReply::Confirmed) => Ok(()),
            Ok(CallReply::Attached(epoch, positions, holdings)) => {
                let streams: Vec<u64> = (0..self.rng.random_range(1..=2))
                    .map(|_| self.number())
                    .collect();
                let run = match &self.agents[agent].desk {
                    Desk::Busy(_, row, _) => row.id,
                    _ => return Ok(()),
                };
                for &stream in &streams {
                    self.streams.insert(
                        stream,
                        Stream {
                            source: agent,
                            attempt: call.attempt,
                            sink: call.sink,
                            up: VecDeque::from([Up::Open { run, epoch }]),
                            down: VecDeque::new(),
                            source_listens: true,
                            sink_listens: true,
                            asleep_until: 0,
                        },
                    );
                }
                let trusting = self.broken == Some(Broken::SourceTrustsItself);
                let mut positions = positions;
                if self.broken == Some(Broken::Engine(Rule::PositionWithoutVersion)) {
                    self.agents[agent].mistake_versions(&mut positions)?;
                }
                let found = &mut self.agents[agent];
                let confirmed =
                    found.compare(&positions, &holdings, &self.a.store, &self.b, trusting)?;
                found.attached(epoch, &streams)?;
                if confirmed.is_empty() {
                    return Ok(());
                }
                self.figures.confirmed += confirmed.len() as u64;
                let confirm = CallRequest::Confirm {
                    run,
                    epoch,
                    confirmed,
                };
                let answer = self.sinks[call.sink].answer(&confirm);
                self.buried(call.sink);
                match answer {
                    Ok(_) => Ok(()),
                    Err(error) => self.attempt_ended(agent, Err(error)),
                }
            }
            Ok(CallReply::Completed) => {
                let outcome = match &self.agents[agent].desk {
                    Desk::Busy(_, _, attempt) => match attempt.phase {
                        Phase::Completing(outcome) => outcome,
                        _ => return Ok(()),
                    },
                    _ => return Ok(()),
                };
                self.attempt_ended(agent, Ok(Some(outcome)))
            }
            Err(error) => self.attempt_ended(agent, Err(error)),
        }
    }

    fn attempt_ended(&mut self, agent: usize, ended: Result<Option<Outcome>>) -> Lived {
        let (id, attempt) = match &self.agents[agent].desk {
            Desk::Busy(_, row, attempt) => (row.id, attempt.serial),
            _ => return Ok(()),
        };
        if let Err(error) = &ended {
            note!(
                self,
                "      attempt {attempt} ends: {error} ({})",
                error.kind()
            );
            match error.kind() {
                Kind::Fenced => self.figures.fenced += 1,
                Kind::Corrupt => self.figures.corrupt += 1,
                Kind::Refused => self.figures.refused += 1,
                Kind::Internal => {
                    return Err(Fault(format!("an agent says that it has a bug: {error}")));
                }
                _ => {}
            }
        }
        self.leave_streams(agent, attempt);
        let jitter = self.jitter();
        let status = self.agents[agent].attempt_ended(ended, self.now_ms, jitter)?;
        note!(self, "      run {} is {}", id.short(), status.name());
        if matches!(status, Status::Done | Status::Partial) {
            let row = self.agents[agent]
                .store()
                .and_then(|store| store.run(id).ok().flatten());
            let row = row.ok_or_else(|| Fault("a run is gone from its store".to_owned()))?;
            self.figures.completed += 1;
            self.figures.copied += self.check_report(agent, &row)?;
        }
        Ok(())
    }

    /// The source no longer listens to the streams and calls of an attempt. What it has sent may still arrive.
    fn leave_streams(&mut self, agent: usize, attempt: u64) {
        for stream in self.streams.values_mut() {
            if stream.source == agent && stream.attempt == attempt {
                stream.source_listens = false;
                stream.down.clear();
            }
        }
        for call in self.calls.values_mut() {
            if call.source == agent && call.attempt == attempt {
                call.awaited = false;
            }
        }
        self.calls
            .retain(|_, call| call.awaited || call.answer.is_none());
        self.forget_ended();
    }

    fn forget_ended(&mut self) {
        self.streams
            .retain(|_, stream| stream.sink_listens || stream.source_listens);
    }

    fn hear(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let sink = stream.sink;
        let Some(message) = stream.up.pop_front() else {
            return;
        };
        if !stream.source_listens {
            self.figures.stale += 1;
        }
        let last = matches!(message, Up::End);
        note!(self, "      {}", shown(&message));
        let heard = self.sinks[sink].hear(id, message);
        if self.buried(sink) {
            return;
        }
        match heard {
            Ok(replies) => {
                for down in replies {
                    self.say(id, down);
                }
            }
            Err(error) => {
                note!(
                    self,
                    "      the sink ends the stream: {error} ({})",
                    error.kind()
                );
                self.sinks[sink].leave(id);
                self.say(id, Down::End(Some(error)));
            }
        }
        if last {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.sink_listens = false;
            }
            self.end_if_done(sink, id);
            self.forget_ended();
        }
    }

    fn say(&mut self, id: u64, down: Down) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        note!(self, "      answers {down:?}");
        if matches!(down, Down::End(_)) {
            stream.sink_listens = false;
            stream.up.clear();
        }
        if stream.source_listens {
            stream.down.push_back(down);
        } else if matches!(down, Down::End(_)) {
            self.sinks[self.streams[&id].sink].leave(id);
            self.forget_ended();
        }
    }

    /// A stream that its source has ended is over when its last publication is.
    fn end_if_done(&mut self, sink: usize, id: u64) {
        let waits = self.sinks[sink]
            .finishes
            .iter()
            .any(|finish| finish.stream == id);
        let over = self
            .streams
            .get(&id)
            .is_some_and(|stream| !stream.sink_listens && stream.source_listens);
        if over && !waits {
            self.say(id, Down::End(None));
        }
    }

    fn listen(&mut self, id: u64) -> Lived {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let agent = stream.source;
        let Some(down) = stream.down.pop_front() else {
            return Ok(());
        };
        let jitter = self.jitter();
        match down {
            Down::Opened => {
                let opened = self.agents[agent].opened(id);
                self.turned(agent, id, opened.map(|()| Turn::default()))
            }
            Down::Reply(reply) => {
                let event = Event::Reply(reply);
                let turn = self.agents[agent].feed(id, event, &self.a.store, self.now_ms, jitter);
                self.turned(agent, id, turn)
            }
            Down::End(error) => {
                let error =
                    error.unwrap_or_else(|| Error::unavailable("the sink has ended the stream"));
                self.turned(agent, id, Err(error))
            }
        }
    }

    /// A turn of the source's end of a stream is over.
    fn turned(&mut self, agent: usize, id: u64, turn: Result<Turn>) -> Lived {
        let ended = match turn {
            Ok(turn) => {
                self.figures.moved += turn.moved;
                self.figures.resumed += u64::from(turn.resumed);
                self.figures.as_files += u64::from(turn.as_files);
                self.figures.turned += u64::from(turn.turned);
                if let Some(stream) = self.streams.get_mut(&id) {
                    let up = turn
                        .send
                        .into_iter()
                        .map(|request| Up::Request(Box::new(request)));
                    stream.up.extend(up);
                }
                if !turn.ended {
                    return Ok(());
                }
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.up.push_back(Up::End);
                }
                None
            }
            Err(error) => {
                note!(self, "      stream {id} ends: {error} ({})", error.kind());
                Some(error)
            }
        };
        let ended = self.agents[agent].stream_ended(id, ended, self.now_ms);
        for id in ended {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.source_listens = false;
                stream.down.clear();
            }
        }
        self.forget_ended();
        match self.agents[agent].copied(&self.a.store) {
            Ok(None) => Ok(()),
            Ok(Some(Verdict::Again)) => self.attempt_ended(agent, Ok(None)),
            Ok(Some(Verdict::Complete(outcome))) => {
                let (run, epoch, serial) = match &self.agents[agent].desk {
                    Desk::Busy(_, row, attempt) => {
                        (row.id, strait_common::ids::Epoch(row.epoch), attempt.serial)
                    }
                    _ => return Ok(()),
                };
                let id = self.number();
                self.calls.insert(
                    id,
                    Call {
                        source: agent,
                        attempt: serial,
                        sink: self.agents[agent].sink,
                        request: CallRequest::Complete {
                            run,
                            epoch,
                            outcome,
                        },
                        answer: None,
                        awaited: true,
                    },
                );
                Ok(())
            }
            Err(error) => self.attempt_ended(agent, Err(error)),
        }
    }

    /// If a sink process has died within an act: everybody who talked to it learns of it, and it starts again.
    fn buried(&mut self, sink: usize) -> bool {
        let dead = self.sinks[sink].is_dead();
        if dead {
            self.bury(sink);
        }
        dead
    }

    fn bury(&mut self, sink: usize) {
        note!(self, "      sink {sink} is dead");
        self.figures.killed += 1;
        self.sinks[sink].restart();
        for stream in self.streams.values_mut() {
            if stream.sink == sink {
                stream.sink_listens = false;
                stream.up.clear();
                if stream.source_listens {
                    let error = Error::unavailable("the connection is gone");
                    stream.down.push_back(Down::End(Some(error)));
                }
            }
        }
        for call in self.calls.values_mut() {
            if call.sink == sink && call.answer.is_none() {
                call.answer = Some(Err(Error::unavailable("the connection is gone")));
            }
        }
        self.calls.retain(|_, call| call.awaited);
        self.forget_ended();
    }
}

/// A message, short enough for a trace.
fn shown(message: &Up) -> String {
    let mut text = format!("{message:?}");
    if text.len() > 300 {
        let mut end = 300;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}
