//! A month of nights with both agents over real lakes, by a clock that the test sets. Whatever happens in a night, B equals A in the morning, or somebody
//! was told; and after a quiet night B equals A, whatever the nights before it were like.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema};
use chrono::{Days, NaiveDate, TimeDelta, TimeZone};
use chrono_tz::America::New_York;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use strait_common::clock::Clock;
use strait_common::engine::{Space, Table};
use strait_common::key::PartitionKey;
use strait_tests::agents::{SinkAgent, SourceAgent, source_state};
use strait_tests::eventually;
use strait_tests::held::Hand;
use strait_tests::lakes::{self, Lakes};

use super::{apply, file};

const NIGHTS: u32 = 30;
/// 2026-02-24: the clocks go forward on the thirteenth night.
const FIRST: u32 = 50;
const ROWS: u64 = 20;
const JOB: &str = "nightly";

/// What goes wrong in a night.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// The source agent is dead from before the start until 02:00.
    AgentDown,
    /// It is dead until after the deadline.
    AgentDownAllNight,
    /// The sink cannot be reached from before the start until 00:30.
    LinkDown,
    /// It cannot be reached until after the deadline.
    LinkDownAllNight,
    /// B's disk is full until 01:00.
    DiskFull,
    /// It is full until after the deadline.
    DiskFullAllNight,
    /// A has one column more than the day before.
    ColumnAdded,
    /// Rows of the two days before come only now.
    LateRows,
    /// From 19:00 to 21:00 the clock is five hours ahead, so that the start comes before its rows do.
    ClockAhead,
    /// The clock is set back by 40 minutes at 22:50, when the start is over.
    ClockSetBack,
}

impl Trouble {
    const ALL: [Trouble; 11] = [
        Trouble::None,
        Trouble::AgentDown,
        Trouble::AgentDownAllNight,
        Trouble::LinkDown,
        Trouble::LinkDownAllNight,
        Trouble::DiskFull,
        Trouble::DiskFullAllNight,
        Trouble::ColumnAdded,
        Trouble::LateRows,
        Trouble::ClockAhead,
        Trouble::ClockSetBack,
    ];

    /// Whether the night's rows cannot be at B in the morning.
    fn lasts(self) -> bool {
        matches!(
            self,
            Trouble::AgentDownAllNight | Trouble::LinkDownAllNight | Trouble::DiskFullAllNight
        )
    }
}

struct World {
    lakes: Lakes,
    hand: Hand,
    now_s: Arc<AtomicI64>,
    source: Option<SourceAgent>,
    sink: Option<SinkAgent>,
    sink_port: u16,
    columns_added: u32,
}

/// What was told: how often each event, by when.
type Told = Vec<(i64, String)>;

impl World {
    async fn begin(first: i64) -> World {
        let lakes = Lakes::empty();
        let hand = Hand::default();
        let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
        let mut world = World {
            now_s: Arc::new(AtomicI64::new(first)),
            sink_port: sink.address().port(),
            source: None,
            sink: Some(sink),
            lakes,
            hand,
            columns_added: 0,
        };
        world.start_source().await;
        world
    }

    fn now(&self) -> i64 {
        self.now_s.load(Ordering::Relaxed)
    }

    async fn start_source(&mut self) {
        let store = lakes::open(&self.lakes.a()).await;
        let url = format!("lake://{}", self.lakes.a().display());
        let clock = Clock::Set(Arc::clone(&self.now_s));
        let state = source_state(&self.lakes);
        let sink_url = format!("http://127.0.0.1:{}", self.sink_port);
        let source = SourceAgent::start_by(clock, store, &url, state, &sink_url, |config| {
            // What cannot be reached now is tried again by the job.
            config.retries_max = 1;
            config.retry_wait_max = Duration::from_millis(20);
        });
        self.source = Some(source.await);
    }

    async fn start_sink(&mut self) {
        let sink =
            SinkAgent::start_with(&self.lakes, Some(self.sink_port), &self.hand, |_| {}).await;
        self.sink = Some(sink);
    }

    fn disk(&self, full: bool) {
        let used = if full { 99 } else { 1 };
        self.hand.disk_is(Space {
            place: "/data/b".to_owned(),
            free: (100 - used) << 30,
            used: used << 30,
        });
    }

    /// Sets the clock, and waits until everything that is due then has come to an end, or waits for room.
    async fn at(&self, now_s: i64, full: bool) {
        self.now_s.store(now_s, Ordering::Relaxed);
        let Some(source) = &self.source else {
            return;
        };
        let (agent, desk) = (source.agent(), source.desk().await);
        desk.look();
        eventually("nothing is due at this hour", async || {
            if desk.looked_at() != now_s {
                desk.look();
                return None;
            }
            let jobs = desk.jobs().await;
            let Some(kept) = jobs.get(JOB) else {
                return Some(());
            };
            let waits = |live: &Arc<agent_source::runner::Live>| {
                let snapshot = live.snapshot();
                snapshot.phase == "waiting" && snapshot.row.message.contains("disk")
            };
            if full && agent.under_way().iter().any(waits) {
                return Some(());
            }
            let mut ahead = kept.book.clone();
            let idle = ahead.running().is_none()
                && ahead
                    .tick(now_s, &mut strait_common::ids::GroupId::random)
                    .is_empty();
            idle.then_some(())
        })
        .await;
    }

    /// Rows of a day at A, in the columns that A has by now.
    async fn write(&self, day: u32, ids: std::ops::Range<u64>) {
        self.lakes.write(&self.lakes.a(), day, ids).await;
    }

    async fn add_a_column(&mut self) {
        self.columns_added += 1;
        let mut fields: Vec<_> = lakes::schema().fields().iter().cloned().collect();
        for number in 1..=self.columns_added {
            let name = format!("more_{number}");
            fields.push(Arc::new(Field::new(name, DataType::Int64, true)));
        }
        let table = Table {
            schema: Arc::new(Schema::new(fields)),
            ..lakes::wanted()
        };
        let sink = lakes::open(&self.lakes.a()).await.sink;
        let added = sink.add_columns(&table.name, &table, false).await;
        assert_eq!(added.expect("a column is added").len(), 1);
    }

    async fn equal(&self) -> bool {
        let a = self.lakes.contents(&self.lakes.a()).await;
        let b = self.lakes.contents(&self.lakes.b()).await;
        a == b
    }

    /// How the newest starts of the job stand.
    async fn starts(&self) -> String {
        let Some(source) = &self.source else {
            return "there is no source agent".to_owned();
        };
        let desk = source.desk().await;
        let jobs = desk.jobs().await;
        let starts = jobs.get(JOB).map(|kept| kept.book.starts().cloned());
        let mut starts: Vec<_> = starts.into_iter().flatten().collect();
        let newest = starts.split_off(starts.len().saturating_sub(4));
        format!("{newest:#?}, {:#?}", self.told(0))
    }

    /// What was told between two instants of the agent's clock.
    fn told(&self, since: i64) -> Told {
        let text = std::fs::read_to_string(self.lakes.path("told")).unwrap_or_default();
        let lines = text.lines().map(|line| {
            let told: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
            let event = told["event"].as_str().expect("an event").to_owned();
            (told["at"].as_i64().expect("an instant"), event)
        });
        lines.filter(|(at, _)| *at >= since).collect()
    }
}

/// An instant of a night's evening, in seconds since 1970; hours beyond 24 are of the morning after. In the hour that is left out when clocks go
/// forward it is an hour later, as clocks show it then.
fn instant(day: u32, hour: u32, minute: u32) -> i64 {
    let first = NaiveDate::from_ymd_opt(1970, 1, 1).expect("a date");
    let days = u64::try_from(lakes::FIRST_DAY).expect("a day") + u64::from(day + hour / 24);
    let date = first.checked_add_days(Days::new(days)).expect("a date");
    let time = date.and_hms_opt(hour % 24, minute, 0).expect("a time");
    [time, time + TimeDelta::hours(1)]
        .iter()
        .find_map(|time| New_York.from_local_datetime(time).earliest())
        .expect("clocks go forward by an hour")
        .timestamp()
}

/// One night, from 18:00 to the next morning.
async fn night(world: &mut World, day: u32, trouble: Trouble) {
    let at = |hour, minute| instant(day, hour, minute);
    world.at(at(18, 0), false).await;
    if trouble == Trouble::ClockAhead {
        world.at(at(24, 0), false).await;
        world.at(at(26, 0), false).await;
        world.at(at(21, 0), false).await;
    }
    match trouble {
        Trouble::ColumnAdded => world.add_a_column().await,
        Trouble::LateRows => {
            for late in 1..=2.min(day - FIRST) {
                let ids = u64::from(day) * 1000;
                world.write(day - late, ids..ids + ROWS).await;
            }
        }
        _ => {}
    }
    world.write(day, 0..ROWS).await;
    world.at(at(22, 0), false).await;
    match trouble {
        Trouble::AgentDown | Trouble::AgentDownAllNight => {
            let source = world.source.take().expect("it runs");
            source.crash().await;
        }
        Trouble::LinkDown | Trouble::LinkDownAllNight => {
            world.sink.take().expect("it runs").crash().await;
        }
        Trouble::DiskFull | Trouble::DiskFullAllNight => world.disk(true),
        _ => {}
    }
    let full = matches!(trouble, Trouble::DiskFull | Trouble::DiskFullAllNight);
    for minute in [20, 30, 40, 50] {
        world.at(at(22, minute), full).await;
    }
    if trouble == Trouble::ClockSetBack {
        world.at(at(22, 10), false).await;
        world.at(at(22, 50), false).await;
    }
    for hour in 23..=30 {
        if hour == 25 && trouble == Trouble::DiskFull {
            world.disk(false);
        }
        if hour == 26 && trouble == Trouble::AgentDown {
            world.start_source().await;
        }
        for minute in [10, 30, 50] {
            world
                .at(at(hour, minute), full && (trouble.lasts() || hour < 25))
                .await;
            if (hour, minute) == (24, 30) && trouble == Trouble::LinkDown {
                world.start_sink().await;
            }
        }
    }
    // 07:00 is the deadline.
    world.at(at(31, 0), full && trouble.lasts()).await;
    world.at(at(31, 10), false).await;
    match trouble {
        Trouble::AgentDownAllNight => {
            world.now_s.store(at(32, 0), Ordering::Relaxed);
            world.start_source().await;
        }
        Trouble::LinkDownAllNight => world.start_sink().await,
        Trouble::DiskFullAllNight => world.disk(false),
        _ => {}
    }
    world.at(at(33, 0), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_of_nights_ends_equal_or_told_every_morning() {
    let seed = std::env::var("STRAIT_SEED").ok();
    let seed = seed.map_or_else(
        || rand::rng().random(),
        |seed| seed.parse().expect("a number"),
    );
    println!("STRAIT_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    // Every trouble comes, some twice, in an order of its own; the last night is quiet.
    let mut troubles: Vec<Trouble> = (0..NIGHTS as usize - 1)
        .map(|night| match Trouble::ALL.get(night) {
            Some(trouble) => *trouble,
            None => Trouble::ALL[rng.random_range(0..Trouble::ALL.len())],
        })
        .collect();
    troubles.shuffle(&mut rng);
    // A run that a full disk has left under way cannot go on with other columns.
    let full = troubles
        .iter()
        .position(|trouble| *trouble == Trouble::DiskFullAllNight);
    let column = troubles
        .iter()
        .position(|trouble| *trouble == Trouble::ColumnAdded);
    if let (Some(full), Some(column)) = (full, column) {
        let next = (full + 1) % troubles.len();
        troubles.swap(next, column);
    }
    troubles.push(Trouble::None);

    let mut world = World::begin(instant(FIRST, 9, 0)).await;
    world.write(FIRST, 1_000_000..1_000_000 + ROWS).await;
    let told = world.lakes.path("told");
    // In one write, so that lines of two do not mix.
    let command = format!("line=$(cat); echo \\\"$line\\\" >> {}", told.display());
    let text = file(&format!(
        "where = \"{} = date(now())\"\nmode = \"mirror\"\nlookback = 2\nschedule = \"daily at 22:30\"\nzone = \"America/New_York\"\n\
         deadline = \"07:00\"\nretries = 1\n[[notify]]\ncommand = [\"sh\", \"-c\", \"{command}\"]\non = [\"success\", \"failure\", \"partial\", \"nothing-ran\"]\n",
        lakes::DIVIDED_BY
    ));
    let operator = world.source.as_ref().expect("it runs").operator();
    apply(&operator, &text).await.expect("a job");
    drop(operator);

    let mut mornings: BTreeMap<&str, u32> = BTreeMap::new();
    for (number, trouble) in troubles.into_iter().enumerate() {
        let day = FIRST + u32::try_from(number).expect("few nights");
        let evening = world.now();
        println!("night {number}: {trouble:?}");
        night(&mut world, day, trouble).await;
        let what = format!("seed {seed}, night {number}, {trouble:?}");
        let equal = world.equal().await;
        if !equal && !trouble.lasts() {
            panic!("{what}: B is not what A is: {}", world.starts().await);
        }
        if trouble.lasts() {
            assert!(!equal, "{what}: nothing could be copied");
            let is_told = eventually("somebody is told", async || {
                let told = world.told(evening);
                told.iter()
                    .any(|(_, event)| event != "success")
                    .then_some(told)
            })
            .await;
            assert!(
                is_told.iter().all(|(_, event)| event != "success"),
                "{what}: {is_told:?}"
            );
            *mornings.entry("told").or_default() += 1;
        } else {
            eventually("the success is told", async || {
                let told = world.told(evening);
                told.iter()
                    .any(|(_, event)| event == "success")
                    .then_some(())
            })
            .await;
            *mornings.entry("equal").or_default() += 1;
        }
    }
    println!("seed {seed}: {mornings:?}");
    assert_eq!(mornings.values().sum::<u32>(), NIGHTS);
    assert!(mornings["told"] >= 3, "{mornings:?}");
    let days = world.lakes.contents(&world.lakes.b()).await;
    assert!(days.len() >= NIGHTS as usize, "{}", days.len());
    let first = PartitionKey::to_string(&lakes::key(FIRST));
    assert!(days.contains_key(&first));
}
