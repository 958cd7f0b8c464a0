//! What a store says that it holds, and what it is told of that.

use futures::TryStreamExt;
use strait_common::engine::{Confirmed, Disposition, Holding, Outcome, PositionState, Receipt};
use strait_common::selection::{Selection, SelectionSpec};

use super::{World, copy, position, positions, three_parts};
use crate::data::{self, Part};
use crate::{At, Check, Fault, Harness, STEPS_MAX, ensure};

async fn holdings(world: &World, condition: Option<&str>) -> Check<Vec<Holding>> {
    let spec = SelectionSpec {
        predicate: condition.map(str::to_owned),
        ..SelectionSpec::default()
    };
    let selection = Selection::resolve(&spec, &data::schema(), 0)?;
    let holdings = world.process.store.sink.holdings(&world.table, &selection);
    let holdings = holdings.await.at("holdings")?;
    let mut holdings: Vec<Holding> = holdings.try_collect().await.at("holdings")?;
    // When it was looked at is another thing than what is there.
    let partitions = holdings
        .iter_mut()
        .filter_map(|held| held.partition.as_mut());
    partitions.for_each(|partition| partition.origin.seen = 0);
    Ok(holdings)
}

/// Checks what is held of each of these, in order of key: its receipts, all rows theirs.
async fn ensure_held(world: &World, expected: &[(&Part, Vec<Receipt>)], when: &str) -> Check {
    let held = holdings(world, None).await.at(when)?;
    let told: Vec<String> = held.iter().map(|held| held.key.label()).collect();
    let parts: Vec<String> = expected.iter().map(|(part, _)| part.key.label()).collect();
    ensure!(told == parts, "{when}: {told:?} are held, not {parts:?}");
    let stored: Vec<_> = held
        .iter()
        .filter_map(|held| held.partition.clone())
        .collect();
    let listed = world.listed().await.at(when)?;
    let nameless = listed
        .iter()
        .find(|partition| partition.origin.table.is_empty());
    ensure!(nameless.is_none(), "{when}: {nameless:?} is of no table");
    ensure!(
        stored == data::unseen(&listed),
        "{when}: {stored:?} are held, and {listed:?} are listed"
    );
    for (held, (_, receipts)) in held.iter().zip(expected) {
        let label = held.key.label();
        ensure!(
            held.receipts == *receipts,
            "{when}: the receipts of {label} are {:?}",
            held.receipts
        );
        ensure!(
            held.intact,
            "{when}: {label} is said to hold other rows than its receipts'"
        );
    }
    Ok(())
}

/// All rows of each partition are those of its receipts in effect, through appends, replacements, drops and crashes.
pub async fn holdings_are_what_is_there_with_its_receipts_in_effect(
    harness: &dyn Harness,
) -> Check {
    let mut world = World::new(harness).await?;
    ensure_held(&world, &[], "when empty").await?;
    let [a, b, c] = three_parts(harness)?;
    world
        .copied(1, &[c.clone(), a.clone()], Disposition::Append)
        .await?;
    let expected = [(&a, vec![a.receipt()?]), (&c, vec![c.receipt()?])];
    ensure_held(&world, &expected, "after a run").await?;
    let more = a.changed("v2", 400..404);
    world
        .copied(2, &[more.clone(), b.clone()], Disposition::Append)
        .await?;
    world.restart().await?;
    let expected = [
        (&a, vec![a.receipt()?, more.receipt()?]),
        (&b, vec![b.receipt()?]),
        (&c, vec![c.receipt()?]),
    ];
    ensure_held(&world, &expected, "after another").await?;
    let newer = a.changed("v3", 500..503);
    world
        .copied(3, std::slice::from_ref(&newer), Disposition::Replace)
        .await?;
    let attachment = world.attach(4).await?;
    attachment.drop_partition(&c.key).await.at("drop")?;
    let expected = [(&a, vec![newer.receipt()?]), (&b, vec![b.receipt()?])];
    ensure_held(&world, &expected, "after a replacement and a drop").await
}

/// Partitions whose keys a selection excludes are left out.
pub async fn holdings_are_those_of_the_selection(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let parts = three_parts(harness)?;
    world.copied(1, &parts, Disposition::Append).await?;
    for condition in ["symbol = 'IBM'", "day > '2024-10-04'", "symbol is null"] {
        let spec = SelectionSpec {
            predicate: Some(condition.to_owned()),
            ..SelectionSpec::default()
        };
        let selection = Selection::resolve(&spec, &data::schema(), 0)?;
        let mut wanted = holdings(&world, None).await?;
        wanted.retain(|held| !selection.excludes(&held.key));
        let held = holdings(&world, Some(condition)).await?;
        ensure!(held == wanted, "where {condition}: {held:?}");
    }
    Ok(())
}

fn confirmed(part: &Part, holding: &Holding) -> Check<Confirmed> {
    let partition = holding.partition.as_ref();
    let partition = partition.ok_or_else(|| crate::Failure::new("it is not there"))?;
    Ok(Confirmed {
        receipt: part.receipt()?,
        version: partition.version.clone(),
    })
}

/// One run copies half of the rows of `a`, and `b`; another one the rest of `a`. The two halves.
async fn copied_in_halves(world: &World, a: &Part, b: &Part) -> Check<(Part, Part)> {
    let middle = i64::midpoint(a.numbers.start, a.numbers.end);
    let first = a.changed("half", a.numbers.start..middle);
    let second = a.changed("other half", middle..a.numbers.end);
    world
        .copied(1, &[first.clone(), b.clone()], Disposition::Append)
        .await?;
    world
        .copied(2, std::slice::from_ref(&second), Disposition::Append)
        .await?;
    Ok((first, second))
}

/// What was read and found equal has one receipt from then on; what has changed since it was read keeps those it has.
pub async fn a_confirmed_receipt_takes_the_place_of_those_before_it(
    harness: &dyn Harness,
) -> Check {
    let mut world = World::new(harness).await?;
    let [a, b, _] = three_parts(harness)?;
    copied_in_halves(&world, &a, &b).await?;
    let held = holdings(&world, None).await?;
    let attachment = world.attach(3).await?;
    // B has changed since it was looked at.
    let more = b.changed("v2", 400..404);
    copy(attachment.as_ref(), &more, Disposition::Append).await?;
    let found = [confirmed(&a, &held[0])?, confirmed(&more, &held[1])?];
    for time in ["confirm", "confirm again"] {
        attachment.confirm(&found).await.at(time)?;
        let expected = [
            (&a, vec![a.receipt()?]),
            (&b, vec![b.receipt()?, more.receipt()?]),
        ];
        ensure_held(&world, &expected, time).await?;
    }
    world
        .ensure_visible(&[a.clone(), b.clone(), more.clone()], "after confirm")
        .await?;
    drop(attachment);
    world.restart().await?;
    // Nothing that the run has written: it may be asked to compare again.
    let attachment = world.attach(3).await?;
    let held = position(attachment.as_ref(), &a).await?;
    ensure!(
        held.is_none(),
        "a confirmed partition has a position: {held:?}"
    );
    attachment.complete(Outcome::Done).await.at("complete")?;
    let attachment = world.attach(4).await?;
    let held = positions(attachment.as_ref()).await?;
    let of_a: Vec<_> = held.iter().filter(|held| held.key == a.key).collect();
    ensure!(
        of_a.len() == 1 && of_a[0].state == PositionState::Committed(a.receipt()?),
        "a later run is told {of_a:?}"
    );
    Ok(())
}

/// All of a confirmation counts or nothing of it, and no row moves.
pub async fn killed_while_confirming_receipts_are_old_or_new(harness: &dyn Harness) -> Check {
    for step in harness.steps() {
        let mut world = World::new(harness).await?;
        let [a, b, _] = three_parts(harness)?;
        let (first, second) = copied_in_halves(&world, &a, &b).await?;
        world.restart().await?;
        let held = holdings(&world, None).await?;
        let found = [confirmed(&a, &held[0])?, confirmed(&b, &held[1])?];
        let before = world.process.faults.steps();
        world.process.faults.at(before + step, Fault::Crash);
        let result = async {
            let attachment = world.process.store.sink.attach(&data::claim(3)?).await?;
            attachment.confirm(&found).await?;
            attachment.complete(Outcome::Done).await
        };
        let result = result.await;
        let reached = world.process.faults.steps() >= before + step;
        let place = format!("killed at step {step}");
        if let Err(error) = &result {
            ensure!(reached, "{place}: failed without a fault: {error}");
        }
        world.restart().await?;
        let old = [
            (&a, vec![first.receipt()?, second.receipt()?]),
            (&b, vec![b.receipt()?]),
        ];
        let new = [(&a, vec![a.receipt()?]), (&b, vec![b.receipt()?])];
        if ensure_held(&world, &old, &place).await.is_err() || result.is_ok() {
            ensure_held(&world, &new, &place).await?;
        }
        world
            .ensure_visible(&[a.clone(), b.clone()], &place)
            .await?;
        if !reached {
            return Ok(());
        }
    }
    Err(crate::Failure::new(format!(
        "a life of more than {STEPS_MAX} steps"
    )))
}
