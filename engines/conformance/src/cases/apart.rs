//! Rows whose source is divided otherwise than the table: appended, they join the table's own partitions.

use futures::TryStreamExt;
use strait_common::Kind;
use strait_common::engine::Disposition;
use strait_common::selection::Selection;

use super::{
    World, append, append_durably, begin, begin_append, copy, ensure_committed, finish, position,
    staged_position, three_parts,
};
use crate::data::{self, Divided, Part};
use crate::{At, Check, Harness, ensure, ensure_kind};

/// Through a checkpoint and a crash, beside rows that came as the table is divided. The ledger keeps the source's keys, the table its own.
pub async fn rows_of_another_division_are_told_apart_by_the_tables_own(
    harness: &dyn Harness,
) -> Check {
    if harness.divided() != Divided::Values || !harness.holds().told_apart {
        return Ok(());
    }
    let mut world = World::new(harness).await?;
    let [own, ..] = three_parts(harness)?;
    world
        .copied(1, std::slice::from_ref(&own), Disposition::Append)
        .await?;
    let other = data::table_of(Some(Divided::Numbers))?;
    let prepared = world.process.store.sink.prepare(&other.name, &other, false);
    let prepared = prepared.await.at("prepare")?;
    ensure!(
        prepared.divided_otherwise.as_deref() == Some("day, symbol"),
        "the table says that it is divided by {:?}",
        prepared.divided_otherwise
    );
    let (first, second) = (Part::of_numbers(0..20)?, Part::of_numbers(20..26)?);
    let attachment = world.attach(2).await?;
    let mut writer = begin_append(attachment.as_ref(), &first).await?;
    append(&mut writer, &first, 0, 5).await?;
    append_durably(&mut writer, &first, 5, 12).await?;
    append(&mut writer, &first, 12, 15).await?;
    drop((writer, attachment));
    world.restart().await?;
    world
        .ensure_visible(std::slice::from_ref(&own), "before the end of any")
        .await?;
    let attachment = world.attach(2).await?;
    let from = staged_position(attachment.as_ref(), &first, 12).await?;
    let mut writer = begin(
        attachment.as_ref(),
        &first,
        Disposition::Append,
        Some(&from),
    )
    .await?;
    append(&mut writer, &first, 12, 20).await?;
    finish(writer, &first).await?;
    copy(attachment.as_ref(), &second, Disposition::Append).await?;
    drop(attachment);
    world.restart().await?;
    let all = [own.clone(), first.clone(), second.clone()];
    world.ensure_visible(&all, "after the run").await?;
    let attachment = world.attach(2).await?;
    for part in [&first, &second] {
        let position = position(attachment.as_ref(), part).await?;
        ensure_committed(position.as_ref(), part, 2)?;
    }
    // The six pairs of day and symbol that numbers have, one of which was there; nothing is listed of the source's keys.
    let listed = world.listed().await?;
    let mut keys: Vec<String> = listed.iter().map(|listed| listed.key.to_string()).collect();
    keys.sort();
    let strangers = keys.iter().filter(|key| !key.starts_with("day="));
    ensure!(
        keys.len() == 6 && strangers.count() == 0,
        "listed are {keys:?}"
    );
    let everything = Selection::everything(&data::schema());
    let sink = &world.process.store.sink;
    let held = sink
        .holdings(&world.table, &everything)
        .await
        .at("holdings")?;
    let held: Vec<_> = held.try_collect().await.at("holdings")?;
    ensure!(
        held.len() == 6 && held.iter().all(|held| held.partition.is_some()),
        "held are {held:?}"
    );
    let grown = held.iter().find(|held| held.key == own.key);
    ensure!(
        grown.is_some_and(|held| !held.intact),
        "a partition that others' rows have joined is said to have its receipts' alone"
    );
    Ok(())
}

/// Nor are they dropped: whose rows a partition has by then only its own key says.
pub async fn rows_of_another_division_replace_nothing(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let [own, ..] = three_parts(harness)?;
    world
        .copied(1, std::slice::from_ref(&own), Disposition::Append)
        .await?;
    let attachment = world.attach(2).await?;
    let other = Part::of_numbers(100..110)?.partition();
    let begun = attachment.begin(&other, Disposition::Replace, None);
    ensure_kind(begun.await, Kind::Refused, "replacing by another division")?;
    world.ensure_visible(&[own], "after that").await
}

/// Ranges and buckets are told by nothing that rows say.
pub async fn a_table_whose_rows_cannot_be_told_apart_says_so_before_any_moves(
    harness: &dyn Harness,
) -> Check {
    // A table by values tells rows apart, where the engine does that at all.
    let (other, named) = match harness.divided() {
        Divided::Values if harness.holds().told_apart => return Ok(()),
        Divided::Values => (data::table_of(Some(Divided::Numbers))?, "ranges of number"),
        _ => (data::table(true)?, "buckets of symbol"),
    };
    let world = World::new(harness).await?;
    let prepared = world.process.store.sink.prepare(&other.name, &other, true);
    let what = "rows that come otherwise than the table is divided";
    let error = ensure_kind(prepared.await, Kind::Refused, what)?;
    ensure!(
        error.to_string().contains(named),
        "the division is not named: {error}"
    );
    Ok(())
}
