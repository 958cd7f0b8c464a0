//! What one job does when: which starts are due, which one runs, what a failure leads to. Plain decisions: the time is given, no clock is read, nothing is waited for.
//!
//! A *start* is one instant that the schedule names. `now()` means that instant in it, however late it begins. Every start ends settled: done, failed, skipped, or covered by a
//! later one. What it guards:
//!
//! - No start is lost and none is begun twice, whatever restarts or clocks do: the instant up to which starts are decided is written with them, in one act, before anything
//!   is begun; and a start has the id of its group before the group is made.
//! - An append has a run of its own for every start, with that start's now. `replace` and `mirror` catch up once: one run selects what all open starts select.
//! - Nothing begins outside the window of a job that has a deadline.

use std::collections::{BTreeMap, BTreeSet};

use chrono_tz::Tz;
use strait_common::ids::GroupId;
use strait_common::{Error, Result};

use crate::when::{self, TimeOfDay, When};

/// A clock that goes back by more has been wrong before: what it had let start in its future starts again.
const CLOCK_BACK_S_MAX: i64 = 3600;
/// A start that begins so much later, beside its jitter, was missed.
const LATE_S: i64 = 300;
/// Missed starts that are caught up with, at most; older ones are left out.
const CATCH_UP_MAX: usize = 100;
/// Instants that are looked at in one go.
const LOOKED_AT_MAX: usize = 100_000;
/// The waits between tries.
const RETRY_S_FIRST: i64 = 30;
const RETRY_S_MOST: i64 = 900;
/// What was left in so many windows and is so old is given up.
const WINDOWS_MIN: u32 = 3;
const OWED_S_MAX: i64 = 7 * 24 * 3600;
/// Settled starts that are kept in memory.
const SETTLED_MAX: usize = 200;

/// What happens to a start that comes while another one runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlap {
    /// It waits.
    #[default]
    Queue,
    /// It is left out.
    Skip,
    /// It ends as the one that runs.
    Attach,
}

/// What a job says about its starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// When it starts; only when asked to, without it.
    pub when: Option<When>,
    /// The zone in which instants are shown.
    pub zone: Tz,
    /// How much later than scheduled a start may begin, in seconds, by chance.
    pub jitter_s: i64,
    /// What happens to a start that comes while another one runs.
    pub overlap: Overlap,
    /// The time of day after which nothing of it begins.
    pub deadline: Option<TimeOfDay>,
    /// Whether one run can do what several starts were to do.
    pub merges: bool,
    /// Further tries after an error that a person must look at.
    pub retries: u32,
}

/// How a start stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// To be begun, or to be gone on with.
    Due,
    /// Under way.
    Running,
    /// Ends as the one that runs.
    Attached,
    /// Everything is copied.
    Done,
    /// Some of it failed, for good.
    Partial,
    /// It failed, for good.
    Failed,
    /// Left out.
    Skipped,
    /// A later one did its work.
    Covered,
}

impl State {
    const ALL: [State; 8] = [
        State::Due,
        State::Running,
        State::Attached,
        State::Done,
        State::Partial,
        State::Failed,
        State::Skipped,
        State::Covered,
    ];

    /// The word in SQL, on the wire and in `--json`.
    pub fn name(self) -> &'static str {
        match self {
            State::Due => "due",
            State::Running => "running",
            State::Attached => "attached",
            State::Done => "done",
            State::Partial => "partial",
            State::Failed => "failed",
            State::Skipped => "skipped",
            State::Covered => "covered",
        }
    }

    /// Reads the word.
    ///
    /// # Errors
    /// `Corrupt` if it is none.
    pub fn from_name(name: &str) -> Result<State> {
        let found = State::ALL.into_iter().find(|state| state.name() == name);
        found.ok_or_else(|| Error::corrupt(format!("'{name}' is not the state of a start")))
    }

    /// Whether something is still to be done about it.
    pub fn is_open(self) -> bool {
        matches!(self, State::Due | State::Running | State::Attached)
    }
}

/// One start of a job. Instants are seconds since 1970, 0 where they have not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The instant that it was scheduled for: what `now()` means.
    pub at: i64,
    /// Whether a person asked for it.
    pub manual: bool,
    /// How it stands.
    pub state: State,
    /// Its runs, once it is begun.
    pub group: Option<GroupId>,
    /// Tries in this window.
    pub tries: u32,
    /// Windows that have ended before it had.
    pub windows: u32,
    /// Not before this.
    pub ready_at: i64,
    /// When it was first begun.
    pub began_at: i64,
    /// When it ended.
    pub ended_at: i64,
    /// Why it stands like that.
    pub message: String,
}

impl Start {
    fn new(at: i64, ready_at: i64) -> Start {
        Start {
            at,
            manual: false,
            state: State::Due,
            group: None,
            tries: 0,
            windows: 0,
            ready_at,
            began_at: 0,
            ended_at: 0,
            message: String::new(),
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Make this group, whose selection has these meanings of `now()`, the last of which is the start's own.
    Begin {
        /// The start.
        at: i64,
        /// Its group.
        group: GroupId,
        /// Instants, in seconds since 1970.
        nows: Vec<i64>,
    },
    /// Go on with this group; make it, if it never came to be.
    GoOn {
        /// The start.
        at: i64,
        /// Its group.
        group: GroupId,
        /// As in [`Act::Begin`].
        nows: Vec<i64>,
    },
    /// Stop this group softly.
    Pause {
        /// Its group.
        group: GroupId,
    },
    /// Tell whoever wants to know.
    Tell(Told),
}

/// Something that people want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What.
    pub event: Event,
    /// Of which start.
    pub at: i64,
    /// Its group, if it was begun.
    pub group: Option<GroupId>,
    /// Why.
    pub message: String,
}

/// What people can want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A start is done.
    Success,
    /// A start has failed, for now or for good.
    Failure,
    /// Some of a start is done.
    Partial,
    /// A start did not begin when it should have.
    NothingRan,
}

impl Event {
    /// All of them.
    pub const ALL: [Event; 4] = [
        Event::Success,
        Event::Failure,
        Event::Partial,
        Event::NothingRan,
    ];

    /// The word in job files, on the wire and in what is told.
    pub fn name(self) -> &'static str {
        match self {
            Event::Success => "success",
            Event::Failure => "failure",
            Event::Partial => "partial",
            Event::NothingRan => "nothing-ran",
        }
    }
}

/// How a try ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub how: How,
    /// Why, unless it is done.
    pub message: String,
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// All of it is done.
    Done,
    /// Some of it failed; `temporary` says that a retry alone can help.
    Partial {
        /// See there.
        temporary: bool,
    },
    /// Nothing is done.
    Failed {
        /// See there.
        temporary: bool,
    },
    /// It was stopped softly.
    Paused,
    /// A person stopped it.
    Cancelled,
}

impl How {
    /// Whether a retry alone can help.
    pub fn is_temporary(self) -> bool {
        match self {
            How::Partial { temporary } | How::Failed { temporary } => temporary,
            How::Done | How::Paused | How::Cancelled => false,
        }
    }
}

/// The starts of one job.
#[derive(Clone, Debug)]
pub struct Book {
    name: String,
    rules: Rules,
    /// Whether the schedule counts.
    enabled: bool,
    /// Starts up to this instant are decided.
    cursor: i64,
    starts: BTreeMap<i64, Start>,
    /// The running start must be over by then.
    until: Option<i64>,
    /// It was asked to stop.
    stopping: bool,
    /// Starts whose last try ended because somebody was out of reach: their groups may go on by themselves.
    astray: BTreeSet<i64>,
    changed: BTreeSet<i64>,
    removed: BTreeSet<i64>,
}

/// What must be written before anything is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Starts up to this instant are decided.
    pub cursor: i64,
    /// New or changed.
    pub starts: Vec<Start>,
    /// Not there any more.
    pub removed: Vec<i64>,
}

impl Book {
    /// The book of a job as it was written down: the starts that are open, and the newest of the others.
    pub fn new(
        name: &str,
        rules: Rules,
        enabled: bool,
        cursor: i64,
        starts: impl IntoIterator<Item = Start>,
    ) -> Book {
        let mut book = Book {
            name: name.to_owned(),
            rules,
            enabled,
            cursor,
            starts: starts.into_iter().map(|start| (start.at, start)).collect(),
            until: None,
            stopping: false,
            astray: BTreeSet::new(),
            changed: BTreeSet::new(),
            removed: BTreeSet::new(),
        };
        // How their last tries ended was not written down. Those of earlier windows were asked then, and a person may have gone on with one since.
        let tried = |start: &&Start| start.state == State::Due && start.tries > 0;
        let tried = book.starts.values().filter(tried);
        book.astray = tried.map(|start| start.at).collect();
        if let Some(at) = book
            .running()
            .filter(|start| !start.manual)
            .map(|start| start.at)
        {
            book.until = book.window_end(at);
        }
        book
    }

    /// What the job says.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whether the schedule counts.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Starts up to this instant are decided.
    pub fn cursor(&self) -> i64 {
        self.cursor
    }

    /// The start under way.
    pub fn running(&self) -> Option<&Start> {
        self.starts
            .values()
            .find(|start| start.state == State::Running)
    }

    /// The starts that are known, in order.
    pub fn starts(&self) -> impl Iterator<Item = &Start> {
        self.starts.values()
    }

    /// The next start, by the schedule alone.
    pub fn next_start(&self, now: i64) -> Option<i64> {
        let when = self.rules.when.as_ref().filter(|_| self.enabled)?;
        when.next_after(now.max(self.cursor))
    }

    /// The job says something else from now on. What is open stays.
    pub fn change(&mut self, rules: Rules, now: i64) {
        if rules.when != self.rules.when {
            self.cursor = now;
        }
        self.rules = rules;
    }

    /// The schedule counts from now on, or does not. What it names meanwhile is not caught up with.
    pub fn enable(&mut self, enabled: bool, now: i64) {
        if enabled && !self.enabled {
            self.cursor = now;
        }
        self.enabled = enabled;
    }

    /// What must be written since the last time; `None` if that is nothing.
    pub fn changes(&mut self) -> Option<Changes> {
        if self.changed.is_empty() && self.removed.is_empty() {
            return None;
        }
        let changed = std::mem::take(&mut self.changed);
        let starts = changed.iter().filter_map(|at| self.starts.get(at));
        Some(Changes {
            cursor: self.cursor,
            starts: starts.cloned().collect(),
            removed: std::mem::take(&mut self.removed).into_iter().collect(),
        })
    }

    /// When the book is to be looked at again, at the latest. Clocks may be set: no wait is longer than a minute.
    pub fn wake_at(&self, now: i64) -> i64 {
        let next = self.next_start(now);
        let due = self
            .starts
            .values()
            .filter(|start| start.state == State::Due);
        let ready = due.map(|start| start.ready_at).filter(|at| *at > now).min();
        let soonest = [next, ready, self.until, Some(now + 60)];
        soonest
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(now + 60)
            .max(now + 1)
    }

    /// Decides what is due now. `group` makes new ids.
    pub fn tick(&mut self, now: i64, group: &mut dyn FnMut() -> GroupId) -> Vec<Act> {
        let mut acts = Vec::new();
        self.mind_the_clock(now);
        self.decide_starts(now, &mut acts);
        self.pause_astray(now, &mut acts);
        self.close_window(now, &mut acts);
        if let Some(running) = self.running()
            && self.until.is_some_and(|until| now >= until)
            && !self.stopping
            && let Some(group) = running.group
        {
            self.stopping = true;
            acts.push(Act::Pause { group });
        }
        if self.running().is_none() {
            acts.extend(self.begin(now, group));
        }
        self.forget();
        acts
    }

    /// A person asks for a start, now.
    ///
    /// # Errors
    /// `Refused` if one is under way.
    pub fn by_hand(&mut self, now: i64, group: GroupId) -> Result<Act> {
        if let Some(running) = self.running() {
            return Err(Error::refused(format!(
                "job {} is running since {}; watch it with `strait groups watch {}`",
                self.name,
                when::shown(self.rules.zone, running.began_at),
                running
                    .group
                    .map(|group| group.to_string())
                    .unwrap_or_default()
            )));
        }
        let mut at = now;
        while self.starts.contains_key(&at) {
            at += 1;
        }
        let start = Start {
            manual: true,
            state: State::Running,
            group: Some(group),
            tries: 1,
            began_at: now,
            ..Start::new(at, now)
        };
        self.put(start);
        (self.until, self.stopping) = (None, false);
        Ok(Act::Begin {
            at,
            group,
            nows: vec![at],
        })
    }

    /// What to do about a start that was under way when the agent stopped.
    pub fn resume(&self) -> Option<Act> {
        let running = self.running()?;
        let (at, group) = (running.at, running.group?);
        let nows = self.nows_of(at);
        // One that has stood before may not have been asked to go on yet.
        Some(match running.windows > 0 || running.tries > 1 {
            true => Act::GoOn { at, group, nows },
            false => Act::Begin { at, group, nows },
        })
    }

    /// A try has ended.
    pub fn ended(&mut self, at: i64, ended: &Ended, now: i64) -> Vec<Act> {
        let Some(mut start) = self
            .starts
            .get(&at)
            .filter(|start| start.state == State::Running)
            .cloned()
        else {
            return Vec::new();
        };
        let stopped = std::mem::take(&mut self.stopping);
        self.until = None;
        start.message.clone_from(&ended.message);
        let mut event = Event::Failure;
        match ended.how {
            How::Done => {
                event = Event::Success;
                settle(&mut start, State::Done, now);
            }
            How::Cancelled => settle(&mut start, State::Failed, now),
            How::Paused if stopped => {
                event = Event::Partial;
                let deadline = self.rules.deadline.map(|time| time.to_string());
                start.message = format!(
                    "stopped by its deadline {}; the next window goes on from there",
                    deadline.unwrap_or_default()
                );
                self.leave(&mut start, State::Partial, now);
            }
            How::Paused => {
                event = Event::Partial;
                settle(&mut start, State::Partial, now);
            }
            How::Partial { temporary } | How::Failed { temporary } => {
                if temporary && self.rules.deadline.is_some() && !start.manual {
                    self.astray.insert(at);
                }
                let last = match ended.how {
                    How::Partial { .. } => State::Partial,
                    _ => State::Failed,
                };
                if last == State::Partial {
                    event = Event::Partial;
                }
                if start.manual {
                    settle(&mut start, last, now);
                } else if let Some(ready_at) = self.retry_at(&start, temporary, now) {
                    start.state = State::Due;
                    start.ready_at = ready_at;
                    self.put(start);
                    // Nobody is told before the tries are over.
                    return Vec::new();
                } else {
                    self.leave(&mut start, last, now);
                }
            }
        }
        let told = Told {
            event,
            at,
            group: start.group,
            message: start.message.clone(),
        };
        let is_done = start.state == State::Done;
        let (state, message) = (start.state, start.message.clone());
        let merges = self.rules.merges && !start.manual;
        self.put(start);
        for mut other in self.starts.values().cloned().collect::<Vec<_>>() {
            if other.state == State::Attached {
                other.message.clone_from(&message);
                match state.is_open() {
                    // What the one that ran has left is what this one has left.
                    true => settle(&mut other, State::Covered, now),
                    false => settle(&mut other, state, now),
                }
                self.put(other);
            } else if is_done
                && merges
                && other.at < at
                && other.state == State::Due
                && !other.manual
            {
                other.message =
                    format!("done by the start of {}", when::shown(self.rules.zone, at));
                settle(&mut other, State::Covered, now);
                self.put(other);
            }
        }
        vec![Act::Tell(told)]
    }

    /// Why the job does what it does now, for people.
    pub fn why(&self, now: i64) -> String {
        let shown = |at| when::shown(self.rules.zone, at);
        if let Some(running) = self.running() {
            return format!("it is running, for the start of {}", shown(running.at));
        }
        let due = self.starts.values().find(|start| start.state == State::Due);
        let next = self.next_start(now).map(shown);
        match (due, &next) {
            (Some(due), _) if !self.is_open_at(now) => format!(
                "the start of {} is left to do, and waits for the next window, which begins at {}",
                shown(due.at),
                next.as_deref().unwrap_or("no time")
            ),
            (Some(due), _) if due.ready_at > now => format!(
                "the start of {} is tried again at {}{}",
                shown(due.at),
                shown(due.ready_at),
                match due.message.as_str() {
                    "" => String::new(),
                    why => format!(", since {why}"),
                }
            ),
            (Some(due), _) => format!("the start of {} begins now", shown(due.at)),
            (None, _) if !self.enabled => {
                "it is disabled; `strait job enable` lets its schedule count again".to_owned()
            }
            (None, Some(next)) => format!("nothing is left to do; it starts next at {next}"),
            (None, None) if self.rules.when.is_none() => {
                "it has no schedule; `strait job run` starts it".to_owned()
            }
            (None, None) => "its schedule names no further start".to_owned(),
        }
    }

    fn put(&mut self, start: Start) {
        self.changed.insert(start.at);
        self.starts.insert(start.at, start);
    }

    /// A clock that was far ahead has let starts happen that are still to come: they are taken back.
    fn mind_the_clock(&mut self, now: i64) {
        if now >= self.cursor - CLOCK_BACK_S_MAX {
            return;
        }
        let early: Vec<i64> = self
            .starts
            .range(now + 1..)
            .filter(|(_, start)| start.state != State::Running && !start.manual)
            .map(|(at, _)| *at)
            .collect();
        for at in early {
            self.starts.remove(&at);
            self.changed.remove(&at);
            self.removed.insert(at);
        }
        self.cursor = now;
        // What waits by the wrong clock must not wait for years.
        let waiting: Vec<Start> = self
            .starts
            .values()
            .filter(|start| start.state == State::Due && start.ready_at > now)
            .cloned()
            .collect();
        for mut start in waiting {
            start.ready_at = now;
            self.put(start);
        }
    }

    /// The instants that have come since the last look become starts.
    fn decide_starts(&mut self, now: i64, acts: &mut Vec<Act>) {
        let Some(when) = self.rules.when.clone().filter(|_| self.enabled) else {
            self.cursor = self.cursor.max(now);
            return;
        };
        let (mut found, mut left_out) = (std::collections::VecDeque::new(), None);
        let mut after = self.cursor;
        for _ in 0..LOOKED_AT_MAX {
            let Some(at) = when.next_after(after).filter(|at| *at <= now) else {
                break;
            };
            after = at;
            if self.starts.contains_key(&at) {
                continue;
            }
            found.push_back(at);
            if found.len() > CATCH_UP_MAX {
                let (count, _) = left_out.unwrap_or((0usize, 0));
                left_out = Some((count + 1, found.pop_front().unwrap_or(at)));
            }
        }
        self.cursor = self.cursor.max(now);
        if let Some((count, last)) = left_out {
            let message = format!(
                "{count} starts up to this one were missed, and are too many to be caught up with"
            );
            let mut start = Start::new(last, last);
            start.message.clone_from(&message);
            settle(&mut start, State::Skipped, now);
            acts.push(tell(Event::NothingRan, &start));
            self.put(start);
        }
        for at in found {
            let mut start = Start::new(at, at + self.jitter(at));
            if now > start.ready_at + LATE_S {
                start.message = "the agent did not run when it was to start".to_owned();
                acts.push(tell(Event::NothingRan, &start));
            }
            if let Some(running) = self.running() {
                let runs = when::shown(self.rules.zone, running.at);
                match self.rules.overlap {
                    Overlap::Queue => {}
                    Overlap::Skip => {
                        start.message = format!("the start of {runs} was still running");
                        settle(&mut start, State::Skipped, now);
                        acts.push(tell(Event::NothingRan, &start));
                    }
                    Overlap::Attach => start.state = State::Attached,
                }
            }
            self.put(start);
        }
        self.give_up_the_oldest(now, acts);
    }

    /// What was to be tried again, and was not before its window ended (the agent may have been down then), is told like what failed in the last try.
    fn close_window(&mut self, now: i64, acts: &mut Vec<Act>) {
        if self.is_open_at(now) {
            return;
        }
        let tried = |start: &&Start| start.state == State::Due && start.tries > 0;
        let tried: Vec<Start> = self.starts.values().filter(tried).cloned().collect();
        for mut start in tried {
            self.leave(&mut start, State::Failed, now);
            acts.push(tell(Event::Failure, &start));
            self.put(start);
        }
    }

    /// The window ends for groups, too, that go on although their start waits for its next try.
    fn pause_astray(&mut self, now: i64, acts: &mut Vec<Act>) {
        if self.is_open_at(now) {
            return;
        }
        for at in std::mem::take(&mut self.astray) {
            let start = self.starts.get(&at);
            let left = start.filter(|start| start.state != State::Running);
            acts.extend(
                left.and_then(|start| start.group)
                    .map(|group| Act::Pause { group }),
            );
        }
    }

    /// No more is owed than can be caught up with.
    fn give_up_the_oldest(&mut self, now: i64, acts: &mut Vec<Act>) {
        let due = self
            .starts
            .values()
            .filter(|start| start.state == State::Due);
        let due: Vec<i64> = due.map(|start| start.at).collect();
        for at in due.iter().take(due.len().saturating_sub(CATCH_UP_MAX)) {
            if let Some(mut start) = self.starts.get(at).cloned() {
                start.message = format!("given up: {CATCH_UP_MAX} later starts wait already");
                settle(&mut start, State::Failed, now);
                acts.push(tell(Event::Failure, &start));
                self.put(start);
            }
        }
    }

    /// The start that comes next, if one may begin now: one that was begun before the others.
    fn begin(&mut self, now: i64, group: &mut dyn FnMut() -> GroupId) -> Option<Act> {
        if !self.is_open_at(now) {
            return None;
        }
        let ready = |start: &&Start| start.state == State::Due && start.ready_at <= now;
        let begun = self
            .starts
            .values()
            .filter(ready)
            .find(|start| start.group.is_some());
        let fresh = |start: &&Start| ready(start) && start.group.is_none();
        let mut fresh = self.starts.values().filter(fresh);
        let chosen = match (begun, self.rules.merges) {
            (Some(begun), _) => Some(begun),
            (None, false) => fresh.next(),
            // The newest does the work of all.
            (None, true) => fresh.next_back(),
        };
        let mut start = chosen?.clone();
        let at = start.at;
        start.state = State::Running;
        start.tries += 1;
        if start.began_at == 0 {
            start.began_at = now;
        }
        self.astray.remove(&at);
        let act = match start.group {
            Some(group) => {
                let nows = self.nows_of(at);
                Act::GoOn { at, group, nows }
            }
            None => {
                let group = group();
                start.group = Some(group);
                let nows = self.nows_of(at);
                Act::Begin { at, group, nows }
            }
        };
        self.put(start);
        self.until = self.window_end(at);
        self.stopping = false;
        Some(act)
    }

    /// What `now()` means in the group of this start: of all open starts before it, too, where one run does the work of all.
    fn nows_of(&self, at: i64) -> Vec<i64> {
        let manual = self.starts.get(&at).is_some_and(|start| start.manual);
        let mut nows = Vec::new();
        if self.rules.merges && !manual {
            let before = self.starts.range(..at).map(|(_, start)| start);
            let open = before.filter(|start| start.state == State::Due && !start.manual);
            nows.extend(open.map(|start| start.at));
        }
        nows.push(at);
        nows
    }

    /// When the window ends in which a start may run that begins now: at the first deadline after the newest start.
    fn window_end(&self, at: i64) -> Option<i64> {
        let deadline = self.rules.deadline?;
        let scheduled = self.starts.values().filter(|start| !start.manual);
        let newest = scheduled.map(|start| start.at).max().unwrap_or(at);
        deadline.next_after(self.rules.zone, newest)
    }

    fn is_open_at(&self, now: i64) -> bool {
        match self.window_end(now) {
            Some(end) => now < end,
            None => true,
        }
    }

    /// When a start that failed is tried again in this window; `None` if not.
    fn retry_at(&self, start: &Start, temporary: bool, now: i64) -> Option<i64> {
        if !temporary && start.tries > self.rules.retries {
            return None;
        }
        let doublings = start.tries.saturating_sub(1).min(10);
        let wait = (RETRY_S_FIRST << doublings).min(RETRY_S_MOST);
        let at = now + wait + spread(&self.name, start.at ^ now) % (wait / 2);
        let ends = match self.rules.deadline {
            Some(_) => self.window_end(start.at),
            None => self
                .rules
                .when
                .as_ref()
                .and_then(|when| when.next_after(now)),
        };
        // A job whose schedule has ended still has its tries.
        match ends {
            Some(end) if at >= end => None,
            None if temporary && now - start.at > OWED_S_MAX => None,
            _ => Some(at),
        }
    }

    /// The window ends before the start has: it goes on in the next one, unless it has been left too often.
    fn leave(&self, start: &mut Start, last: State, now: i64) {
        start.windows += 1;
        start.tries = 0;
        let next = self.next_start(now);
        let too_old = start.windows >= WINDOWS_MIN && now - start.at > OWED_S_MAX;
        match next {
            Some(next) if !too_old => {
                start.state = State::Due;
                start.ready_at = next;
            }
            _ => settle(start, last, now),
        }
    }

    fn jitter(&self, at: i64) -> i64 {
        match self.rules.jitter_s {
            0 => 0,
            jitter => spread(&self.name, at) % (jitter + 1),
        }
    }

    /// Lets go of what settled long ago: the store has it.
    fn forget(&mut self) {
        let settled: Vec<i64> = self
            .starts
            .values()
            .filter(|start| !start.state.is_open())
            .map(|start| start.at)
            .collect();
        for at in settled
            .iter()
            .take(settled.len().saturating_sub(SETTLED_MAX))
        {
            if !self.changed.contains(at) {
                self.starts.remove(at);
            }
        }
    }
}

fn settle(start: &mut Start, state: State, now: i64) {
    start.state = state;
    start.ended_at = now;
}

fn tell(event: Event, start: &Start) -> Act {
    Act::Tell(Told {
        event,
        at: start.at,
        group: start.group,
        message: start.message.clone(),
    })
}

/// A number that looks random, the same for the same start: a restart must not move it.
fn spread(name: &str, at: i64) -> i64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in name.bytes().chain(at.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    i64::try_from(hash >> 16).unwrap_or(0)
}

#[cfg(test)]
mod tests;
