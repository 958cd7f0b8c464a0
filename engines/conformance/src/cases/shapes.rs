//! Partitions of every shape, alone and together.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use futures::TryStreamExt;
use futures::future::join_all;
use strait_common::Kind;
use strait_common::engine::{Begun, Disposition, Finished};
use strait_common::selection::Selection;

use super::{
    World, append, append_durably, begin, begin_append, copy, ensure_committed, finish, position,
    staged_position, three_parts,
};
use crate::data::{self, Part};
use crate::{At, Check, Failure, Harness, ensure};

/// Two open writers, in turns, with a crash between.
pub async fn two_partitions_can_be_written_in_turns(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    let [a, b, _] = three_parts(harness)?;
    let attachment = world.attach(1).await?;
    let mut first = begin_append(attachment.as_ref(), &a).await?;
    let mut second = begin_append(attachment.as_ref(), &b).await?;
    append(&mut first, &a, 0, 2).await?;
    append(&mut second, &b, 0, 1).await?;
    append_durably(&mut first, &a, 2, 4).await?;
    append_durably(&mut second, &b, 1, 6).await?;
    append(&mut first, &a, 4, 5).await?;
    drop((first, second, attachment));
    world.restart().await?;
    let attachment = world.attach(1).await?;
    let from = staged_position(attachment.as_ref(), &a, 4).await?;
    let mut first = begin(attachment.as_ref(), &a, Disposition::Append, Some(&from)).await?;
    let from = staged_position(attachment.as_ref(), &b, 6).await?;
    let mut second = begin(attachment.as_ref(), &b, Disposition::Append, Some(&from)).await?;
    append(&mut second, &b, 6, 7).await?;
    append(&mut first, &a, 4, 10).await?;
    finish(second, &b).await?;
    world
        .ensure_visible(std::slice::from_ref(&b), "after one of two")
        .await?;
    finish(first, &a).await?;
    world.ensure_visible(&[a, b], "after both").await
}

/// The order of `begin` binds nothing.
pub async fn partitions_can_finish_in_any_order(harness: &dyn Harness) -> Check {
    let parts = three_parts(harness)?;
    for order in [[2, 0, 1], [1, 2, 0]] {
        let world = World::new(harness).await?;
        let attachment = world.attach(1).await?;
        let mut writers = Vec::new();
        for part in &parts {
            let mut writer = begin_append(attachment.as_ref(), part).await?;
            append(&mut writer, part, 0, part.len()).await?;
            writers.push(Some(writer));
        }
        let mut there = Vec::new();
        for index in order {
            let writer = writers[index].take();
            let writer = writer.ok_or_else(|| Failure::new("an order names one twice"))?;
            finish(writer, &parts[index]).await?;
            there.push(parts[index].clone());
            world
                .ensure_visible(&there, &format!("order {order:?}"))
                .await?;
        }
    }
    Ok(())
}

/// Their futures run together, as those of many streams do.
pub async fn partitions_can_finish_at_once(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    let parts: Vec<Part> = (0..8)
        .map(|i| {
            harness.part(
                Some(20_000 + i),
                Some("IBM"),
                i64::from(i) * 10..i64::from(i) * 11,
            )
        })
        .collect::<strait_common::Result<_>>()?;
    let attachment = world.attach(1).await?;
    let mut finishes = Vec::new();
    for part in &parts {
        let mut writer = begin_append(attachment.as_ref(), part).await?;
        append(&mut writer, part, 0, part.len()).await?;
        finishes.push(finish(writer, part));
    }
    for finished in join_all(finishes).await {
        finished?;
    }
    world.ensure_visible(&parts, "after all").await?;
    drop(attachment);
    world.restart().await?;
    let attachment = world.attach(1).await?;
    for part in &parts {
        let held = position(attachment.as_ref(), part).await?;
        ensure_committed(held.as_ref(), part, 1)?;
    }
    Ok(())
}

/// The predicate selected none of its rows: it counts as done all the same.
pub async fn a_partition_without_rows_is_committed(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    let [other, ..] = three_parts(harness)?;
    let empty = harness.part(Some(20_005), Some("IBM"), 0..0)?;
    let attachment = world.attach(1).await?;
    copy(attachment.as_ref(), &empty, Disposition::Append).await?;
    copy(attachment.as_ref(), &other, Disposition::Append).await?;
    drop(attachment);
    world.restart().await?;
    let attachment = world.attach(1).await?;
    let held = position(attachment.as_ref(), &empty).await?;
    ensure_committed(held.as_ref(), &empty, 1)?;
    let partition = empty.partition();
    let begun = attachment.begin(&partition, Disposition::Append, None);
    let begun = begun.await.at("begin again")?;
    ensure!(
        matches!(begun, Begun::Already(_)),
        "a committed partition without rows is opened again"
    );
    world.ensure_visible(&[other], "after both").await
}

/// Its key has no part.
pub async fn a_table_without_partitions_has_one(harness: &dyn Harness) -> Check {
    let mut world = World::with(harness, false).await?;
    let part = harness.whole_table(0..20);
    let attachment = world.attach(1).await?;
    let mut writer = begin_append(attachment.as_ref(), &part).await?;
    append_durably(&mut writer, &part, 0, 9).await?;
    drop((writer, attachment));
    world.restart().await?;
    let attachment = world.attach(1).await?;
    let from = staged_position(attachment.as_ref(), &part, 9).await?;
    let mut writer = begin(attachment.as_ref(), &part, Disposition::Append, Some(&from)).await?;
    append(&mut writer, &part, 9, 20).await?;
    finish(writer, &part).await?;
    world
        .ensure_visible(std::slice::from_ref(&part), "after finish")
        .await?;
    let held = position(world.attach(1).await?.as_ref(), &part).await?;
    ensure_committed(held.as_ref(), &part, 1)?;
    let read = crate::read_all(&world.process.store, &world.table).await?;
    ensure!(
        read.len() == 1 && read[0].0.key.is_whole_table(),
        "a table without partitions is listed as {read:?}"
    );
    Ok(())
}

/// At the start, between rows, before a checkpoint and at the end.
pub async fn batches_without_rows_change_nothing(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let [part, ..] = three_parts(harness)?;
    let attachment = world.attach(1).await?;
    let mut writer = begin_append(attachment.as_ref(), &part).await?;
    for (from, to) in [(0, 0), (0, 4), (4, 4)] {
        append(&mut writer, &part, from, to).await?;
    }
    append_durably(&mut writer, &part, 4, 4).await?;
    append_durably(&mut writer, &part, 4, 4).await?;
    append(&mut writer, &part, 4, 10).await?;
    append(&mut writer, &part, 10, 10).await?;
    finish(writer, &part).await?;
    world.ensure_visible(&[part], "after finish").await
}

/// Small ones, with checkpoints among them.
pub async fn many_batches_arrive_in_full(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    let part = harness.part(Some(20_000), Some("IBM"), 0..400)?;
    let attachment = world.attach(1).await?;
    let mut writer = begin_append(attachment.as_ref(), &part).await?;
    for batch in 0..100 {
        let (from, to) = (batch * 4, batch * 4 + 4);
        if batch % 20 == 19 {
            append_durably(&mut writer, &part, from, to).await?;
        } else {
            append(&mut writer, &part, from, to).await?;
        }
    }
    finish(writer, &part).await?;
    drop(attachment);
    world.restart().await?;
    world.ensure_visible(&[part], "after finish").await
}

/// Null and what a path, a URL or a key's own text would take for something else must be held. What an engine cannot tell apart, as
/// '' in a directory's name, it refuses, naming column or value: nothing is held as something else.
pub async fn odd_keys_are_held_exactly_or_refused_by_name(harness: &dyn Harness) -> Check {
    let long = "x".repeat(100);
    let must_be_held = [
        Some("a/b"),
        Some("a=b"),
        Some("it's"),
        Some("100%"),
        Some("%2F"),
        Some("a b"),
        Some("a\\b"),
        Some("a:b*?\"<>|#&"),
        Some("[a,b)"),
        Some("東京"),
        Some("null"),
        Some("."),
        Some(".."),
        Some("IBM"),
        Some("ibm"),
        Some(&long),
        None,
    ];
    let may_be_refused = [
        Some(""),
        Some(" "),
        Some(" IBM"),
        Some("IBM "),
        Some("a\nb"),
        Some("a\0b"),
        Some("__HIVE_DEFAULT_PARTITION__"),
        Some("__null__"),
        Some("\u{1f600}"),
    ];
    let holds = harness.holds();
    let can = |symbol: Option<&str>| symbol.map_or(holds.null_keys, holds.key);
    let all = must_be_held.iter().map(|symbol| (*symbol, !can(*symbol)));
    let all = all.chain(may_be_refused.iter().map(|symbol| (*symbol, true)));
    let mut world = World::new(harness).await?;
    let attachment = world.attach(1).await?;
    let mut held = Vec::new();
    for (i, (symbol, may_refuse)) in (0_i64..).zip(all) {
        let part = harness.part(Some(20_000), symbol, i * 10..i * 10 + 3)?;
        match copy(attachment.as_ref(), &part, Disposition::Append).await {
            Ok(()) => held.push(part),
            Err(failure) if may_refuse && failure.kind() == Some(Kind::Refused) => {
                ensure!(
                    failure.to_string().contains("symbol"),
                    "a refused key is not named: {failure}"
                );
            }
            Err(failure) => return Err(failure.at(format_args!("symbol {symbol:?}"))),
        }
    }
    if holds.null_keys {
        let no_day = harness.part(None, None, 900..903)?;
        copy(attachment.as_ref(), &no_day, Disposition::Append)
            .await
            .at("two nulls")?;
        held.push(no_day);
    }
    drop(attachment);
    world.restart().await?;
    world.ensure_visible(&held, "after all keys").await?;
    let everything = Selection::everything(&data::schema());
    let holdings = world.process.store.sink.holdings(&world.table, &everything);
    let holdings: Vec<_> = holdings
        .await
        .at("holdings")?
        .try_collect()
        .await
        .at("holdings")?;
    for holding in holdings {
        ensure!(
            holding.intact,
            "{} is not told to be intact",
            holding.key.label()
        );
    }
    // Each under its own key, not only somewhere in the table.
    let mut listed = Vec::new();
    for (partition, batches) in crate::read_all(&world.process.store, &world.table).await? {
        let mut rows = Vec::new();
        for batch in &batches {
            rows.extend(strait_memory::canonical_rows(batch)?);
        }
        let part = held.iter().find(|part| part.key == partition.key);
        let part = part.ok_or_else(|| {
            Failure::new(format!("no key was written as {}", partition.key.label()))
        })?;
        data::ensure_exactly(&rows, std::slice::from_ref(part)).at(part.key.label())?;
        listed.push(partition.key);
    }
    held.sort_by(|a, b| a.key.cmp(&b.key));
    let keys: Vec<_> = held.iter().map(|part| part.key.clone()).collect();
    ensure!(listed == keys, "the listed keys are {listed:?}");
    let attachment = world.attach(1).await?;
    for part in &held {
        let position = position(attachment.as_ref(), part).await?;
        ensure_committed(position.as_ref(), part, 1)?;
    }
    Ok(())
}

/// A value of a megabyte, or the longest there is, in a column of small ones.
pub async fn wide_values_come_back_as_they_were(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let part = harness.part(Some(20_000), Some("IBM"), 0..6)?;
    let rows = part.rows(0, 6)?;
    let wide = "wide ".repeat((1 << 18).min(harness.holds().text_bytes_max / 5));
    let note: ArrayRef = Arc::new(StringArray::from(vec![
        Some("a"),
        Some(&wide),
        None,
        harness.holds().empty_texts.then_some(""),
        Some(&wide),
        Some("z"),
    ]));
    let mut columns = rows.columns().to_vec();
    let last = columns.len() - 1;
    columns[last] = note;
    let batch = RecordBatch::try_new(data::schema(), columns)
        .map_err(|error| Failure::new(error.to_string()))?;
    let attachment = world.attach(1).await?;
    let mut writer = begin_append(attachment.as_ref(), &part).await?;
    writer
        .append(batch.clone())
        .await
        .at("append of wide rows")?;
    let mut receipt = part.receipt()?;
    receipt.digest = strait_common::digest::digest(&batch)?;
    let finished = writer.finish(receipt).await.at("finish of wide rows")?;
    ensure!(finished == Finished::Now, "finish answered {finished:?}");
    let mut wanted = strait_memory::canonical_rows(&batch)?;
    wanted.sort();
    // Without printing megabytes when they differ.
    ensure!(
        world.visible().await? == wanted,
        "wide rows came back as others"
    );
    Ok(())
}
