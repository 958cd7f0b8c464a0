//! Thousands of lives of both agents, each with other trouble; and the same with one rule broken, which must not go unnoticed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use strait_tests::simulation::{Broken, Figures, live};

/// Lives in which every rule is kept.
const LIVES: u64 = 6000;
/// Lives within which a broken rule is noticed.
const BROKEN_LIVES: u64 = 6000;
const THREADS: u64 = 2;

/// Lives the lives of these seeds on some threads, until one goes wrong; with its seed if one does.
fn search(lives: u64, broken: Option<Broken>) -> (Figures, Option<(u64, String)>) {
    let next = AtomicU64::new(0);
    let found = Mutex::new((Figures::default(), None::<(u64, String)>));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= lives {
                        return;
                    }
                    let life = live(seed, broken, false);
                    let mut found = found.lock().expect("no thread panics with it");
                    found.0 += life.figures;
                    if let Some(fault) = life.fault {
                        // The first seed, whichever thread is faster.
                        if found.1.as_ref().is_none_or(|(first, _)| seed < *first) {
                            found.1 = Some((seed, fault));
                        }
                        next.store(lives, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    found.into_inner().expect("no thread panics with it")
}

#[test]
fn every_row_arrives_once_whatever_happens() {
    let (figures, fault) = search(LIVES, None);
    println!("{LIVES} lives: {figures:?}");
    if let Some((seed, fault)) = fault {
        panic!("seed {seed}: {fault}\nreplay: cargo run --release --example simulate -- {seed}");
    }
    // A simulation in which nothing happens proves nothing.
    let Figures {
        steps: _,
        completed,
        copied,
        confirmed,
        resumed,
        as_files,
        turned,
        fenced,
        moved,
        killed,
        stale,
        corrupt,
        adopted,
        abandoned,
        refused,
    } = figures;
    for (what, count) in [
        ("completed", completed),
        ("copied", copied),
        ("confirmed", confirmed),
        ("resumed", resumed),
        ("as files", as_files),
        ("turned", turned),
        ("fenced", fenced),
        ("moved", moved),
        ("killed", killed),
        ("stale", stale),
        ("corrupt", corrupt),
        ("adopted", adopted),
        ("abandoned", abandoned),
        ("refused", refused),
    ] {
        assert!(count > 50, "{what} happened {count} times in {LIVES} lives");
    }
}

#[test]
fn every_rule_is_missed_when_it_is_broken() {
    for broken in Broken::ALL {
        let (_, fault) = search(BROKEN_LIVES, Some(broken));
        match fault {
            Some((seed, fault)) => println!("{broken}: seed {seed}: {fault}"),
            None => panic!("{broken} is broken, and {BROKEN_LIVES} lives go well"),
        }
    }
}

#[test]
fn equal_seeds_live_equal_lives() {
    for seed in 0..30 {
        let (first, second) = (live(seed, None, true), live(seed, None, true));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.figures, second.figures, "seed {seed}");
    }
}
