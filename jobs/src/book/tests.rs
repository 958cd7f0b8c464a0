use super::*;

const BERLIN: Tz = chrono_tz::Europe::Berlin;
const MINUTE: i64 = 60;
const HOUR: i64 = 3600;

fn rules(schedule: &str) -> Rules {
    Rules {
        when: Some(When {
            schedule: schedule.parse().unwrap(),
            zone: BERLIN,
            start: None,
            end: None,
            calendar: when::Calendar::default(),
        }),
        zone: BERLIN,
        jitter_s: 0,
        overlap: Overlap::Queue,
        deadline: None,
        merges: false,
        retries: 1,
    }
}

/// An instant in Berlin, where clocks show this.
fn at(text: &str) -> i64 {
    use chrono::TimeZone;
    let civil = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap();
    BERLIN
        .from_local_datetime(&civil)
        .earliest()
        .unwrap()
        .timestamp()
}

/// A book, what is written down of it, and what was told.
struct World {
    book: Book,
    /// The store.
    stored: BTreeMap<i64, Start>,
    cursor: i64,
    told: Vec<(Event, String)>,
    begun: Vec<Vec<String>>,
    gone_on: Vec<String>,
    paused: usize,
    groups: u128,
}

impl World {
    fn new(rules: Rules, now: &str) -> World {
        World {
            book: Book::new("nightly", rules, true, at(now), []),
            stored: BTreeMap::new(),
            cursor: at(now),
            told: Vec::new(),
            begun: Vec::new(),
            gone_on: Vec::new(),
            paused: 0,
            groups: 0,
        }
    }

    fn do_all(&mut self, acts: Vec<Act>) {
        if let Some(changes) = self.book.changes() {
            self.cursor = changes.cursor;
            for at in changes.removed {
                self.stored.remove(&at);
            }
            self.stored
                .extend(changes.starts.into_iter().map(|start| (start.at, start)));
        }
        for act in acts {
            match act {
                Act::Begin { nows, .. } => {
                    self.begun.push(nows.into_iter().map(shown).collect());
                }
                Act::GoOn { at, .. } => self.gone_on.push(shown(at)),
                Act::Pause { .. } => self.paused += 1,
                Act::Tell(told) => self.told.push((told.event, shown(told.at))),
            }
        }
    }

    fn tick(&mut self, now: i64) {
        let groups = &mut self.groups;
        let acts = self.book.tick(now, &mut || {
            *groups += 1;
            GroupId::from_u128(*groups)
        });
        self.do_all(acts);
    }

    /// The book is looked at whenever it asks for it.
    fn until(&mut self, from: &str, to: &str) {
        let (mut now, to) = (at(from), at(to));
        while now <= to {
            self.tick(now);
            now = self.book.wake_at(now);
        }
    }

    fn ends(&mut self, how: How, now: &str) {
        let running = self.book.running().expect("a start runs").at;
        let ended = Ended {
            how,
            message: String::new(),
        };
        let acts = self.book.ended(running, &ended, at(now));
        self.do_all(acts);
        self.tick(at(now));
    }

    /// The agent dies, and reads what was written down.
    fn restart(&mut self) {
        let rules = self.book.rules().clone();
        let starts = self.stored.values().cloned();
        self.book = Book::new("nightly", rules, true, self.cursor, starts);
    }

    fn states(&self) -> Vec<(String, State)> {
        self.stored
            .values()
            .map(|start| (shown(start.at), start.state))
            .collect()
    }

    fn take_begun(&mut self) -> Vec<Vec<String>> {
        std::mem::take(&mut self.begun)
    }
}

fn shown(at: i64) -> String {
    when::shown(BERLIN, at)[5..16].to_owned()
}

const DONE: How = How::Done;
const DOWN: How = How::Failed { temporary: true };
const BROKEN: How = How::Failed { temporary: false };

#[test]
fn a_night_starts_once_at_its_time_and_now_is_that_instant() {
    let mut world = World::new(rules("daily at 22:30"), "2026-11-01 12:00");
    world.until("2026-11-01 12:00", "2026-11-01 22:29");
    assert!(world.begun.is_empty());
    world.until("2026-11-01 22:29", "2026-11-01 22:45");
    assert_eq!(world.take_begun(), [["11-01 22:30"]]);
    world.ends(DONE, "2026-11-01 23:00");
    assert_eq!(world.told, [(Event::Success, "11-01 22:30".to_owned())]);
    world.until("2026-11-01 23:00", "2026-11-02 22:00");
    assert!(world.begun.is_empty());
}

#[test]
fn down_at_half_past_ten_and_up_at_six_yesterday_arrives() {
    let mut world = World::new(rules("daily at 22:30"), "2026-11-01 12:00");
    world.tick(at("2026-11-02 06:00"));
    assert_eq!(world.take_begun(), [["11-01 22:30"]]);
    assert_eq!(world.told, [(Event::NothingRan, "11-01 22:30".to_owned())]);
}

#[test]
fn missed_nights_of_an_append_are_runs_of_their_own_and_those_of_a_mirror_are_one() {
    let mut append = World::new(rules("daily at 22:30"), "2026-11-01 12:00");
    append.tick(at("2026-11-04 06:00"));
    assert_eq!(append.take_begun(), [["11-01 22:30"]]);
    append.ends(DONE, "2026-11-04 06:10");
    append.ends(DONE, "2026-11-04 06:20");
    assert_eq!(append.take_begun(), [["11-02 22:30"], ["11-03 22:30"]]);

    let mut mirror = World::new(
        Rules {
            merges: true,
            ..rules("daily at 22:30")
        },
        "2026-11-01 12:00",
    );
    mirror.tick(at("2026-11-04 06:00"));
    assert_eq!(
        mirror.take_begun(),
        [["11-01 22:30", "11-02 22:30", "11-03 22:30"]]
    );
    mirror.ends(DONE, "2026-11-04 06:10");
    assert!(mirror.take_begun().is_empty());
    let states: Vec<State> = mirror
        .states()
        .into_iter()
        .map(|(_, state)| state)
        .collect();
    assert_eq!(states, [State::Covered, State::Covered, State::Done]);
}

#[test]
fn a_restart_at_any_second_neither_loses_a_start_nor_begins_it_twice() {
    for second in -2..3 {
        let mut world = World::new(rules("daily at 22:30"), "2026-11-01 12:00");
        for now in at("2026-11-01 22:29") + 50..at("2026-11-01 22:31") {
            if now == at("2026-11-01 22:30") + second {
                world.restart();
            }
            world.tick(now);
        }
        assert_eq!(world.take_begun(), [["11-01 22:30"]], "{second}");
        // After the restart it is known to be under way, and is taken up with the same group.
        world.restart();
        let Some(Act::Begin { group, nows, .. }) = world.book.resume() else {
            panic!("{second}: nothing is under way");
        };
        assert_eq!(
            (group, nows),
            (GroupId::from_u128(1), vec![at("2026-11-01 22:30")])
        );
        world.ends(DONE, "2026-11-01 23:00");
        world.restart();
        world.until("2026-11-01 23:00", "2026-11-02 22:00");
        assert!(world.begun.is_empty(), "{second}");
    }
}

#[test]
fn a_death_before_anything_is_written_down_decides_again() {
    let mut world = World::new(rules("daily at 22:30"), "2026-11-01 12:00");
    // Decided, and lost with the process.
    world
        .book
        .tick(at("2026-11-01 22:30"), &mut || GroupId::from_u128(9));
    world.restart();
    world.tick(at("2026-11-01 22:31"));
    assert_eq!(world.take_begun(), [["11-01 22:30"]]);
}

#[test]
fn a_clock_that_goes_back_a_little_starts_nothing_again() {
    let mut world = World::new(rules("daily at 22:30"), "2026-11-01 12:00");
    world.tick(at("2026-11-01 22:30"));
    world.ends(DONE, "2026-11-01 22:40");
    world.take_begun();
    world.until("2026-11-01 22:10", "2026-11-02 22:00");
    assert!(world.begun.is_empty());
    world.until("2026-11-02 22:00", "2026-11-02 22:30");
    assert_eq!(world.take_begun(), [["11-02 22:30"]]);
}

#[test]
fn what_a_clock_far_ahead_has_started_starts_again_when_its_time_comes() {
    let mut world = World::new(rules("daily at 22:30"), "2026-11-01 12:00");
    // Three days ahead for a while, and with a restart.
    world.tick(at("2026-11-04 12:00"));
    for _ in 0..3 {
        world.ends(DONE, "2026-11-04 12:30");
    }
    assert_eq!(world.take_begun().len(), 3);
    world.restart();
    world.until("2026-11-01 13:00", "2026-11-03 23:00");
    assert_eq!(world.take_begun(), [["11-01 22:30"]]);
    world.ends(DONE, "2026-11-03 23:00");
    world.ends(DONE, "2026-11-03 23:00");
    assert_eq!(world.take_begun(), [["11-02 22:30"], ["11-03 22:30"]]);
}

#[test]
fn clocks_that_change_with_the_season_do_not_matter() {
    for (day, next) in [("2027-03-28", "2027-03-29"), ("2026-10-25", "2026-10-26")] {
        let mut world = World::new(rules("daily at 02:30"), &format!("{day} 00:30"));
        let (mut now, end) = (at(&format!("{day} 00:30")), at(&format!("{next} 02:00")));
        while now < end {
            world.tick(now);
            if world.book.running().is_some() {
                let running = world.book.running().unwrap().at;
                let ended = Ended {
                    how: How::Done,
                    message: String::new(),
                };
                let acts = world.book.ended(running, &ended, now);
                world.do_all(acts);
            }
            now += MINUTE;
        }
        assert_eq!(world.take_begun().len(), 1, "{day}");
    }
}

#[test]
fn what_overlaps_waits_or_is_left_out_or_ends_with_the_one_that_runs() {
    for (overlap, state, begun) in [
        (Overlap::Queue, State::Running, 2),
        (Overlap::Skip, State::Skipped, 1),
        (Overlap::Attach, State::Done, 1),
    ] {
        let mut world = World::new(
            Rules {
                overlap,
                ..rules("every 1h")
            },
            "2026-11-01 11:30",
        );
        world.until("2026-11-01 11:30", "2026-11-01 13:30");
        assert_eq!(world.begun.len(), 1, "{overlap:?}: one at a time");
        world.ends(DONE, "2026-11-01 13:40");
        assert_eq!(world.begun.len(), begun, "{overlap:?}");
        assert_eq!(
            world.states()[1],
            ("11-01 13:00".to_owned(), state),
            "{overlap:?}"
        );
    }
}

#[test]
fn a_peer_that_is_down_is_waited_for_until_the_window_ends_and_the_next_night_goes_on() {
    let mut world = World::new(
        Rules {
            deadline: Some("06:00".parse().unwrap()),
            ..rules("daily at 22:30")
        },
        "2026-11-01 12:00",
    );
    let mut now = at("2026-11-01 22:30");
    while now < at("2026-11-02 06:00") {
        world.tick(now);
        if let Some(running) = world.book.running().map(|start| start.at) {
            let ended = Ended {
                how: DOWN,
                message: "no route".to_owned(),
            };
            let acts = world.book.ended(running, &ended, now);
            world.do_all(acts);
        }
        now += MINUTE;
    }
    let tries = world.begun.len() + world.gone_on.len();
    assert!(
        (20..60).contains(&tries),
        "bounded, and not given up: {tries}"
    );
    assert_eq!(
        world.told,
        [(Event::Failure, "11-01 22:30".to_owned())],
        "told once, at the end"
    );
    // By day nothing begins.
    (world.begun, world.gone_on) = (Vec::new(), Vec::new());
    world.until("2026-11-02 06:00", "2026-11-02 22:00");
    assert!(world.begun.is_empty() && world.gone_on.is_empty());
    assert!(
        world
            .book
            .why(at("2026-11-02 12:00"))
            .contains("waits for the next window")
    );
    world.until("2026-11-02 22:00", "2026-11-02 22:30");
    assert_eq!(world.gone_on, ["11-01 22:30"], "what was left comes first");
    world.ends(DONE, "2026-11-02 23:00");
    assert_eq!(world.take_begun(), [["11-02 22:30"]]);
}

/// Found by a month of nights: nobody was told.
#[test]
fn what_waits_for_a_try_when_its_window_ends_is_told_all_the_same() {
    let rules = Rules {
        deadline: Some("06:00".parse().unwrap()),
        ..rules("daily at 22:30")
    };
    let mut world = World::new(rules, "2026-11-01 12:00");
    world.tick(at("2026-11-01 22:30"));
    world.ends(DOWN, "2026-11-02 05:50");
    assert_eq!(world.told, [], "there is a try left");
    // The agent is down for the rest of the window.
    world.restart();
    world.tick(at("2026-11-02 06:05"));
    world.until("2026-11-02 06:05", "2026-11-02 22:29");
    assert_eq!(world.told, [(Event::Failure, "11-01 22:30".to_owned())]);
    world.until("2026-11-02 22:30", "2026-11-02 22:30");
    assert_eq!(world.gone_on, ["11-01 22:30"], "and it is tried again");
}

#[test]
fn a_deadline_stops_softly_and_the_next_night_goes_on_from_there() {
    let mut world = World::new(
        Rules {
            deadline: Some("06:00".parse().unwrap()),
            ..rules("daily at 22:30")
        },
        "2026-11-01 12:00",
    );
    world.until("2026-11-01 22:30", "2026-11-02 05:59");
    assert_eq!(world.paused, 0);
    world.until("2026-11-02 06:00", "2026-11-02 06:05");
    assert_eq!(world.paused, 1, "asked once");
    world.ends(How::Paused, "2026-11-02 06:06");
    assert_eq!(world.told, [(Event::Partial, "11-01 22:30".to_owned())]);
    world.until("2026-11-02 06:06", "2026-11-02 22:30");
    assert_eq!(world.gone_on, ["11-01 22:30"]);
    assert_eq!(world.begun.len(), 1);
}

/// Its agent is out of reach, and may be back after the deadline with the group under way.
#[test]
fn a_deadline_holds_for_a_group_that_nobody_has_seen_the_end_of() {
    let rules = Rules {
        deadline: Some("06:00".parse().unwrap()),
        ..rules("daily at 22:30")
    };
    let mut world = World::new(rules, "2026-11-01 12:00");
    world.tick(at("2026-11-01 22:30"));
    world.ends(DOWN, "2026-11-02 05:59");
    assert_eq!(world.paused, 0, "the window is open");
    world.until("2026-11-02 06:00", "2026-11-02 12:00");
    assert_eq!(world.paused, 1, "asked once");
    // A person may have gone on with it.
    world.restart();
    world.until("2026-11-02 12:01", "2026-11-02 22:29");
    assert_eq!(world.paused, 1);
    world.until("2026-11-02 22:30", "2026-11-02 22:30");
    assert_eq!(world.gone_on, ["11-01 22:30"]);
    // It runs until the next deadline, and says itself that it was stopped.
    world.until("2026-11-02 22:31", "2026-11-03 06:00");
    assert_eq!(world.paused, 2);
    world.ends(How::Paused, "2026-11-03 06:01");
    world.until("2026-11-03 06:01", "2026-11-03 12:00");
    assert_eq!(world.paused, 2, "nobody need say it again");
}

/// An agent that was down at the deadline asks when it is back, for a job without another night, too.
#[test]
fn a_deadline_holds_after_a_restart_and_on_the_last_night() {
    let rules = Rules {
        deadline: Some("06:00".parse().unwrap()),
        ..rules("daily at 22:30")
    };
    let mut world = World::new(rules, "2026-11-01 12:00");
    world.tick(at("2026-11-01 22:30"));
    world.ends(DOWN, "2026-11-02 01:00");
    world.restart();
    world.book.enable(false, at("2026-11-02 02:00"));
    world.until("2026-11-02 06:05", "2026-11-02 12:00");
    assert_eq!(world.paused, 1);
    assert_eq!(world.states(), [("11-01 22:30".to_owned(), State::Failed)]);
}

#[test]
fn an_agent_that_is_back_within_the_window_runs_and_one_that_is_late_waits() {
    for (up, begun) in [("2026-11-02 03:00", 1), ("2026-11-02 07:00", 0)] {
        let mut world = World::new(
            Rules {
                deadline: Some("06:00".parse().unwrap()),
                ..rules("daily at 22:30")
            },
            "2026-11-01 12:00",
        );
        world.tick(at(up));
        assert_eq!(world.begun.len(), begun, "{up}");
        world.until(up, "2026-11-02 22:30");
        assert_eq!(world.begun[0], ["11-01 22:30"], "{up}");
    }
}

#[test]
fn an_error_that_a_person_must_look_at_has_its_tries_and_is_told_then() {
    let mut world = World::new(rules("daily at 22:30"), "2026-11-01 12:00");
    world.tick(at("2026-11-01 22:30"));
    world.ends(BROKEN, "2026-11-01 22:31");
    assert!(world.told.is_empty(), "one more try");
    world.until("2026-11-01 22:31", "2026-11-01 22:40");
    assert_eq!(world.gone_on, ["11-01 22:30"]);
    world.ends(BROKEN, "2026-11-01 22:41");
    assert_eq!(world.told, [(Event::Failure, "11-01 22:30".to_owned())]);
    // Every night it is tried again, before the new one, until it is too old.
    let mut nights = 0;
    for day in 2..=14 {
        world.tick(at(&format!("2026-11-{day:02} 22:30")));
        while let Some(running) = world.book.running().map(|start| start.at) {
            let now = at(&format!("2026-11-{day:02} 22:35"));
            nights += usize::from(running == at("2026-11-01 22:30"));
            let how = if running == at("2026-11-01 22:30") {
                BROKEN
            } else {
                DONE
            };
            let ended = Ended {
                how,
                message: String::new(),
            };
            let acts = world.book.ended(running, &ended, now);
            world.do_all(acts);
            world.tick(now + 1);
        }
    }
    assert!((6..=8).contains(&nights), "{nights}");
    assert_eq!(world.states()[0], ("11-01 22:30".to_owned(), State::Failed));
    assert!(
        world.states()[1..]
            .iter()
            .all(|(_, state)| *state == State::Done),
        "{:?}",
        world.states()
    );
}

#[test]
fn too_many_missed_starts_are_left_out_and_told() {
    let mut world = World::new(rules("every 1m"), "2026-11-01 12:00");
    world.tick(at("2026-11-01 22:00"));
    let due = world
        .book
        .starts()
        .filter(|start| start.state.is_open())
        .count();
    assert_eq!(due, CATCH_UP_MAX);
    let skipped: Vec<&Start> = world
        .book
        .starts()
        .filter(|start| start.state == State::Skipped)
        .collect();
    assert_eq!(skipped.len(), 1);
    assert!(
        skipped[0].message.starts_with("500 starts up to this one"),
        "{skipped:?}"
    );
}

#[test]
fn what_was_scheduled_while_a_job_was_disabled_is_not_caught_up_with() {
    let mut world = World::new(rules("daily at 22:30"), "2026-11-01 12:00");
    world.book.enable(false, at("2026-11-01 13:00"));
    world.until("2026-11-01 13:00", "2026-11-03 12:00");
    world.book.enable(true, at("2026-11-03 12:00"));
    world.until("2026-11-03 12:00", "2026-11-03 22:31");
    assert_eq!(world.take_begun(), [["11-03 22:30"]]);
}

#[test]
fn a_person_starts_a_job_at_once_but_not_twice() {
    let mut world = World::new(rules("daily at 22:30"), "2026-11-01 12:00");
    let act = world
        .book
        .by_hand(at("2026-11-01 12:34"), GroupId::from_u128(7))
        .unwrap();
    world.do_all(vec![act]);
    assert_eq!(world.take_begun(), [["11-01 12:34"]]);
    let error = world
        .book
        .by_hand(at("2026-11-01 12:35"), GroupId::from_u128(8))
        .unwrap_err();
    assert!(error.to_string().contains("strait groups watch"), "{error}");
    world.ends(BROKEN, "2026-11-01 12:36");
    assert_eq!(
        world.states(),
        [("11-01 12:34".to_owned(), State::Failed)],
        "no further tries"
    );
    world.until("2026-11-01 12:36", "2026-11-01 22:30");
    assert_eq!(world.take_begun(), [["11-01 22:30"]]);
}

#[test]
fn jitter_delays_a_start_and_not_its_now_and_a_restart_does_not_move_it() {
    let mut world = World::new(
        Rules {
            jitter_s: 1800,
            ..rules("daily at 22:30")
        },
        "2026-11-01 12:00",
    );
    world.tick(at("2026-11-01 22:30"));
    let ready = world.book.starts().next().unwrap().ready_at;
    let late = ready - at("2026-11-01 22:30");
    assert!((1..=1800).contains(&late), "{late}");
    world.restart();
    world.tick(ready - 1);
    assert!(world.begun.is_empty());
    world.tick(ready);
    assert_eq!(world.take_begun(), [["11-01 22:30"]]);
    assert!(world.told.is_empty(), "that is not late");
}

/// A month of nights in which everything goes wrong at random: every start is settled, none is begun while another runs, and each is told of or done.
#[test]
fn a_month_of_trouble_settles_every_start() {
    use rand::{Rng, SeedableRng};
    for seed in 0..40 {
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        let merges = seed % 2 == 0;
        let mut world = World::new(
            Rules {
                merges,
                deadline: (seed % 3 == 0).then(|| "06:00".parse().unwrap()),
                ..rules("daily at 22:30")
            },
            "2026-10-10 12:00",
        );
        let (mut now, end) = (at("2026-10-10 12:00"), at("2026-11-10 12:00"));
        let mut over_at = None;
        while now < end {
            world.tick(now);
            match world.book.running().map(|start| start.at) {
                Some(_) if over_at.is_none() => {
                    over_at = Some(now + random.random_range(1..6 * HOUR))
                }
                Some(running) if over_at.is_some_and(|over| now >= over) || world.book.stopping => {
                    over_at = None;
                    let how = match random.random_range(0..10) {
                        _ if world.book.stopping => How::Paused,
                        0..6 => How::Done,
                        6 => How::Partial { temporary: true },
                        7 => How::Partial { temporary: false },
                        _ => DOWN,
                    };
                    let ended = Ended {
                        how,
                        message: String::new(),
                    };
                    let acts = world.book.ended(running, &ended, now);
                    world.do_all(acts);
                }
                _ => {}
            }
            if random.random_ratio(1, 500) {
                world.restart();
            }
            // The agent is down, or its clock is set.
            now += match random.random_range(0..1000) {
                0 => random.random_range(1..40 * HOUR),
                1 => -random.random_range(1..HOUR),
                _ => MINUTE * 10,
            };
        }
        // A quiet week, in which everything succeeds.
        while now < end + 9 * 24 * HOUR {
            world.tick(now);
            if let Some(running) = world.book.running().map(|start| start.at) {
                let ended = Ended {
                    how: How::Done,
                    message: String::new(),
                };
                let acts = world.book.ended(running, &ended, now);
                world.do_all(acts);
            }
            now += 30 * MINUTE;
        }
        let nights = world.stored.values().filter(|start| !start.manual).count();
        assert!((38..=41).contains(&nights), "seed {seed}: {nights} nights");
        let bad: Vec<_> = world
            .states()
            .into_iter()
            .filter(|(_, state)| state.is_open() || *state == State::Skipped)
            .collect();
        assert!(bad.is_empty(), "seed {seed}: {bad:?}");
        let begun: Vec<&String> = world.begun.iter().filter_map(|nows| nows.last()).collect();
        let once: BTreeSet<_> = begun.iter().collect();
        assert_eq!(
            begun.len(),
            once.len(),
            "seed {seed}: a start was begun twice"
        );
        if !merges {
            assert_eq!(
                begun.len(),
                nights,
                "seed {seed}: an append of its own for every night"
            );
        }
    }
}
