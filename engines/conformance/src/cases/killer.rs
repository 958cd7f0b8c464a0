//! All of it again, with the process killed, or overtaken, at every step of its life.

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use strait_common::Kind;
use strait_common::engine::{Disposition, Outcome, Store};

use super::{World, three_parts};
use crate::data::{self, Divided, Part, ensure_exactly, ensure_whole_or_absent};
use crate::life::{Life, Until};
use crate::{At, Check, Durable, Failure, Fault, Harness, STEPS_MAX, ensure};

/// A life of fewer steps than this was not numbered: attach, begin, checkpoint, finish and complete have one each at least.
const STEPS_MIN: u64 = 5;

/// Partition after partition.
pub async fn killed_between_every_two_calls(harness: &dyn Harness) -> Check {
    let parts = three_parts(harness)?;
    kill(harness, &Life::new(1, parts.to_vec())?, &[]).await
}

/// All partitions open at once.
pub async fn killed_while_partitions_are_written_in_turns(harness: &dyn Harness) -> Check {
    let mut life = Life::new(1, three_parts(harness)?.to_vec())?;
    life.interleaved = true;
    kill(harness, &life, &[]).await
}

/// The one partition whose key has no part.
pub async fn killed_while_a_table_without_partitions_is_copied(harness: &dyn Harness) -> Check {
    let life = Life::new(1, vec![harness.whole_table(0..10)])?;
    kill(harness, &life, &[]).await
}

/// One partition replaced by other rows, one by none, one that was not there.
pub async fn killed_while_replacing_readers_see_old_or_new(harness: &dyn Harness) -> Check {
    let [a, b, c] = three_parts(harness)?;
    let newer = vec![a.changed("v2", 400..408), b.changed("v2", 500..500), c];
    let mut life = Life::new(2, newer)?;
    life.disposition = Disposition::Replace;
    kill(harness, &life, &[a, b]).await
}

/// Partitions whose rows go into several of the table's, which is divided otherwise.
pub async fn killed_while_rows_are_told_apart(harness: &dyn Harness) -> Check {
    if harness.divided() != Divided::Values || !harness.holds().told_apart {
        return Ok(());
    }
    let parts = vec![Part::of_numbers(0..7)?, Part::of_numbers(10..14)?];
    let mut life = Life::new(1, parts)?;
    life.interleaved = true;
    kill(harness, &life, &[]).await
}

/// `before` is copied by an earlier run; then `life` is killed at every step, and its next attempt again.
pub(super) async fn kill(harness: &dyn Harness, life: &Life, before: &[Part]) -> Check {
    for first in harness.steps() {
        let mut second = if harness.every_pair() {
            1
        } else {
            1 + first * 7 % 13
        };
        loop {
            let place = format!("killed at step {first}, then at step {second}");
            let (died, died_again) = killed_at(harness, life, before, first, second)
                .await
                .at(&place)?;
            if !died {
                ensure!(
                    first > STEPS_MIN,
                    "a whole life has {} steps: arm the faults at every effect",
                    first - 1
                );
                return Ok(());
            }
            second += 1;
            if !harness.every_pair() || !died_again {
                break;
            }
            ensure!(second < STEPS_MAX, "{place}: the life has no end");
        }
    }
    Err(Failure::new(format!(
        "a life of more than {STEPS_MAX} steps"
    )))
}

/// Three attempts, the first two killed. Says whether they were.
async fn killed_at(
    harness: &dyn Harness,
    life: &Life,
    before: &[Part],
    first: u64,
    second: u64,
) -> Check<(bool, bool)> {
    let durable = seeded(harness, before).await?;
    let mut died = Vec::new();
    for (attempt, step) in [("the first attempt", first), ("the second attempt", second)] {
        let process = durable.open().await.at("opening the store")?;
        process.faults.at(step, Fault::Crash);
        let life = life.attempt(died.len());
        let lived = life.live(&process.store, Until::Complete).await;
        let reached = process.faults.steps() >= step;
        drop(process);
        died.push(reached);
        let visible = durable.visible(&life.claim.table).await.at("reading")?;
        match lived {
            // The fault may have struck after all that counts.
            Ok(()) => ensure_exactly(&visible, &after(&life, before)).at(attempt)?,
            Err(error) => {
                ensure!(reached, "{attempt} failed without a fault: {error}");
                let whole = harness.holds().replaced_in_one_act;
                ensure_old_or_new(&visible, &life, before, whole).at(attempt)?;
            }
        }
    }
    let process = durable.open().await.at("opening the store")?;
    let lived = life.live(&process.store, Until::Complete).await;
    lived.at("the attempt that nobody disturbs")?;
    let visible = durable.visible(&life.claim.table).await.at("reading")?;
    ensure_exactly(&visible, &after(life, before)).at("at the end")?;
    let claim = process
        .store
        .sink
        .claim(&life.claim.table)
        .await
        .at("claim")?;
    ensure!(claim.is_none(), "at the end the claim is {claim:?}");
    Ok((died[0], died[1]))
}

/// A store in which an earlier run has copied these.
async fn seeded(harness: &dyn Harness, before: &[Part]) -> Check<Box<dyn Durable>> {
    let durable = harness.create().await.at("making a store")?;
    if !before.is_empty() {
        let process = durable.open().await.at("opening the store")?;
        let seed = Life::new(77, before.to_vec())?;
        seed.live(&process.store, Until::Complete)
            .await
            .at("seeding")?;
    }
    Ok(durable)
}

/// What a reader must see when the run is over.
fn after(life: &Life, before: &[Part]) -> Vec<Part> {
    let replaced = |old: &&Part| {
        life.disposition == Disposition::Replace
            && life.parts.iter().any(|part| part.key == old.key)
    };
    let stays = before.iter().filter(|old| !replaced(old));
    stays.chain(&life.parts).cloned().collect()
}

/// Each partition is as it was before the run or as it is after it; or empty, by an engine that cannot replace in one act.
fn ensure_old_or_new(visible: &[crate::Row], life: &Life, before: &[Part], whole: bool) -> Check {
    if life.disposition == Disposition::Append {
        let all: Vec<Part> = before.iter().chain(&life.parts).cloned().collect();
        return ensure_whole_or_absent(visible, &all);
    }
    // The keys are in the first two columns of a row.
    let mut explained = 0;
    for part in &life.parts {
        let key = part.rows_key();
        let rows: Vec<_> = visible
            .iter()
            .filter(|row| row[..2] == key)
            .cloned()
            .collect();
        explained += rows.len();
        let old: Vec<Part> = before
            .iter()
            .filter(|old| old.key == part.key)
            .cloned()
            .collect();
        if rows.is_empty() && !whole {
            continue;
        }
        let as_before = ensure_exactly(&rows, &old);
        if let (Err(old), Err(new)) = (as_before, ensure_exactly(&rows, std::slice::from_ref(part)))
        {
            return Err(Failure::new(format!(
                "partition {} is neither old ({old}) nor new ({new})",
                part.key.label()
            )));
        }
    }
    ensure!(
        explained == visible.len(),
        "a reader sees rows of no partition"
    );
    Ok(())
}

/// The partition and its receipt go together, and a repeated drop ends what was begun.
pub async fn killed_while_dropping_readers_see_all_or_nothing(harness: &dyn Harness) -> Check {
    for step in harness.steps() {
        let parts = three_parts(harness)?;
        let durable = seeded(harness, &parts).await?;
        let process = durable.open().await?;
        process.faults.at(step, Fault::Crash);
        let dropped = drop_first(&process.store, &parts[0]).await;
        let reached = process.faults.steps() >= step;
        drop(process);
        let place = format!("killed at step {step}");
        let table = data::table_name()?;
        let visible = durable.visible(&table).await.at(&place)?;
        ensure_exactly(&visible, &parts)
            .or_else(|_| ensure_exactly(&visible, &parts[1..]))
            .at(&place)?;
        if let Err(error) = dropped {
            ensure!(reached, "{place}: failed without a fault: {error}");
        } else if !reached {
            return Ok(());
        }
        // A run that copies what is absent must not be told that the dropped one is there.
        let process = durable.open().await?;
        drop_first(&process.store, &parts[0]).await.at(&place)?;
        let refill = Life::new(5, parts.to_vec())?;
        refill
            .live(&process.store, Until::Complete)
            .await
            .at(&place)?;
        let visible = durable.visible(&table).await.at(&place)?;
        ensure_exactly(&visible, &parts)
            .at("after copying it again")
            .at(&place)?;
    }
    Err(Failure::new(format!(
        "a life of more than {STEPS_MAX} steps"
    )))
}

async fn drop_first(store: &Store, part: &Part) -> strait_common::Result<()> {
    let attachment = store.sink.attach(&data::claim(4)?).await?;
    attachment.drop_partition(&part.key).await?;
    attachment.complete(Outcome::Done).await
}

/// What another process does while the first stands still.
pub(super) type Overtaker = fn(Store, Life) -> BoxFuture<'static, strait_common::Result<()>>;

/// The source was cloned, or its connection hung and it came back: the same run lives a whole life meanwhile.
pub async fn overtaken_by_the_same_run_at_every_step(harness: &dyn Harness) -> Check {
    overtake(harness, |store, life| {
        Box::pin(async move { life.live(&store, Until::Complete).await })
    })
    .await
}

/// The overtaker dies itself after two chunks, so that neither ends the run.
pub async fn overtaken_half_way_at_every_step(harness: &dyn Harness) -> Check {
    overtake(harness, |store, life| {
        Box::pin(async move { life.live(&store, Until::Chunks(2)).await })
    })
    .await
}

/// The operator abandons the run and starts another one that copies the same.
pub async fn overtaken_by_another_run_after_abandon_at_every_step(harness: &dyn Harness) -> Check {
    overtake(harness, |store, life| {
        Box::pin(async move {
            if store.sink.claim(&life.claim.table).await?.is_some() {
                let attachment = store.sink.attach(&life.claim).await?;
                attachment.complete(Outcome::Abandoned).await?;
            }
            let other = Life {
                claim: data::claim(2)?,
                ..life
            };
            other.live(&store, Until::Complete).await
        })
    })
    .await
}

async fn overtake(harness: &dyn Harness, overtaker: Overtaker) -> Check {
    overtake_with(harness, None, overtaker).await
}

/// The same with the files of a store that has the three partitions, if one is given.
pub(super) async fn overtake_with(
    harness: &dyn Harness,
    files: Option<&Store>,
    overtaker: Overtaker,
) -> Check {
    // Files are taken alike, one partition after the other or in turns.
    let orders = if files.is_some() {
        &[true][..]
    } else {
        &[false, true]
    };
    for &interleaved in orders {
        for step in harness.steps() {
            let mut life = Life::new(1, three_parts(harness)?.to_vec())?;
            life.interleaved = interleaved;
            life.files = files.cloned();
            let place = format!("overtaken at step {step}, interleaved: {interleaved}");
            if !overtaken_at(harness, &life, overtaker, step)
                .await
                .at(&place)?
            {
                ensure!(step > STEPS_MIN, "a whole life has {} steps", step - 1);
                break;
            }
            ensure!(step < STEPS_MAX, "{place}: the life has no end");
        }
    }
    Ok(())
}

/// Says whether the step was reached.
async fn overtaken_at(
    harness: &dyn Harness,
    life: &Life,
    overtaker: Overtaker,
    step: u64,
) -> Check<bool> {
    // The overtaker may come before the table is there, and then prepares it itself; the claim is looked for in a table.
    let world = World::new(harness).await?;
    let slow = world.durable.open().await.at("opening the store")?;
    let fast = world.durable.open().await.at("opening the store")?;
    let outcome = Arc::new(Mutex::new(None));
    let meanwhile = {
        let (outcome, run) = (Arc::clone(&outcome), overtaker(fast.store, life.clone()));
        async move {
            let result = run.await;
            *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }
    };
    slow.faults.at(step, Fault::Meanwhile(Box::pin(meanwhile)));
    let lived = life.live(&slow.store, Until::Complete).await;
    let reached = slow.faults.steps() >= step;
    let overtook = outcome
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if reached {
        let overtook = overtook.ok_or_else(|| Failure::new("the overtaker did not run"))?;
        overtook.at("the overtaker")?;
    }
    if let Err(error) = lived {
        // After an abandon, the run is told that another one owns the table, if it comes back so late.
        let late = matches!(error.kind(), Kind::Fenced | Kind::Refused);
        ensure!(
            late,
            "the overtaken attempt must be fenced, and fails with {}: {error}",
            error.kind()
        );
    }
    let visible = world.visible().await?;
    ensure_whole_or_absent(&visible, &life.parts).at("after both")?;
    let process = world.durable.open().await.at("opening the store")?;
    let lived = life.live(&process.store, Until::Complete).await;
    lived.at("the attempt that nobody disturbs")?;
    ensure_exactly(&world.visible().await?, &life.parts).at("at the end")?;
    Ok(reached)
}
