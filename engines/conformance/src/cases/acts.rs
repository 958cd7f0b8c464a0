//! What each call does.

use futures::StreamExt;
use std::sync::Arc;
use strait_common::Kind;
use strait_common::engine::{
    Begun, Cursor, Disposition, Division, DivisionKind, Finished, Partition, Position,
};
use strait_common::ids::TableName;
use strait_common::key::{Cell, PartitionKey};

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use bytes::Bytes;

use super::{
    World, append, append_durably, begin, begin_append, copy, ensure_committed, finish, position,
    positions, staged_position, three_parts,
};
use crate::data::{self, Part};
use crate::{At, Check, Fault, Harness, STEPS_MAX, ensure, ensure_kind};

/// `prepare` names what it makes, makes it once, and with `dry_run` only names it.
pub async fn prepare_makes_the_table_once_and_a_dry_run_makes_nothing(
    harness: &dyn Harness,
) -> Check {
    let durable = harness.create().await?;
    let process = durable.open().await?;
    let sink = &process.store.sink;
    let table = data::table_of(Some(harness.divided()))?;
    let dry = sink
        .prepare(&table.name, &table, true)
        .await
        .at("a dry run")?;
    ensure!(
        dry.created.iter().any(|line| line.contains("suite/ticks")),
        "a dry run does not name the table that it would make: {dry:?}"
    );
    let there = process.store.source.tables().await.at("tables")?;
    ensure!(there.is_empty(), "a dry run made {there:?}");
    let made = sink
        .prepare(&table.name, &table, false)
        .await
        .at("prepare")?;
    ensure!(
        made.created == dry.created,
        "a dry run promised {:?} and prepare made {:?}",
        dry.created,
        made.created
    );
    let there = durable.open().await?.store.source.tables().await?;
    ensure!(there == [table.name.clone()], "prepare made {there:?}");
    let again = sink
        .prepare(&table.name, &table, false)
        .await
        .at("prepare again")?;
    ensure!(again.created.is_empty(), "prepare made again {again:?}");
    Ok(())
}

/// A column that is there with another type is refused before a row moves.
pub async fn prepare_refuses_another_type(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let mut other = data::table_of(Some(harness.divided()))?;
    let fields = other.schema.fields().iter().map(|field| {
        if field.name() == "price" {
            Arc::new(Field::new("price", DataType::Utf8, true))
        } else {
            Arc::clone(field)
        }
    });
    other.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    for dry_run in [true, false] {
        let prepared = world
            .process
            .store
            .sink
            .prepare(&world.table, &other, dry_run);
        let error = ensure_kind(prepared.await, Kind::Schema, "prepare with another type")?;
        ensure!(
            error.to_string().contains("price"),
            "the error does not name the column: {error}"
        );
    }
    Ok(())
}

/// Columns that the table lacks are named, then added once; rows that are there are null in them, and rows come with them. What divides a table is never added.
pub async fn columns_that_are_missing_are_added_once(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    let [part, other, _] = three_parts(harness)?;
    world
        .copied(1, std::slice::from_ref(&part), Disposition::Append)
        .await?;
    let name = world.table.clone();
    let mut wider = data::table_of(Some(harness.divided()))?;
    let more = [
        Field::new("volume", DataType::Int64, false),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
    ];
    let fields = wider.schema.fields().iter().cloned();
    let fields = fields.chain(more.map(Arc::new)).collect::<Vec<_>>();
    wider.schema = Arc::new(Schema::new(fields));
    for (dry_run, named) in [(true, 2), (true, 2), (false, 2), (false, 0)] {
        let sink = &world.process.store.sink;
        let added = sink.add_columns(&name, &wider, dry_run).await;
        let added = added.at("add_columns")?;
        ensure!(
            added.len() == named
                && added
                    .iter()
                    .all(|column| column == "volume" || column == "at"),
            "add_columns, dry {dry_run}: {added:?}"
        );
        let described = world.process.store.source.describe(&name).await;
        let has = described.at("describe")?.schema.index_of("volume").is_ok();
        ensure!(
            has != dry_run,
            "the column is there: {has}, dry run: {dry_run}"
        );
    }
    world.restart().await?;
    let described = world.process.store.source.describe(&name).await;
    let described = described.at("describe")?;
    ensure!(
        described.divisions == wider.divisions,
        "with more columns the table is divided by {}",
        strait_common::division::division_text(&described.divisions)
    );
    let nullable = described.schema.field_with_name("volume").ok();
    ensure!(
        nullable.is_some_and(Field::is_nullable),
        "rows that are there are null in {nullable:?}"
    );
    let listed = world.listed().await?;
    ensure!(
        listed.len() == 1 && listed[0].rows.is_none_or(|rows| rows == part.len()),
        "{listed:?}"
    );
    for (_, batches) in crate::read_all(&world.process.store, &name).await? {
        for batch in batches {
            let nulls = batch
                .column_by_name("volume")
                .map(|column| column.null_count());
            ensure!(
                nulls == Some(batch.num_rows()),
                "rows that were there have {nulls:?} nulls"
            );
        }
    }
    let attachment = world.attach(2).await?;
    copy(attachment.as_ref(), &other, Disposition::Append).await?;
    let mut divided = data::table_of(Some(harness.divided()))?;
    divided.divisions.push(Division {
        column: "venue".to_owned(),
        kind: DivisionKind::Value,
    });
    let fields = divided.schema.fields().iter().cloned();
    let venue = Arc::new(Field::new("venue", DataType::Utf8, true));
    divided.schema = Arc::new(Schema::new(fields.chain([venue]).collect::<Vec<_>>()));
    let sink = &world.process.store.sink;
    let added = sink.add_columns(&name, &divided, false).await;
    let added = added.at("add_columns of a division")?;
    ensure!(
        added.is_empty(),
        "a column that divides was added: {added:?}"
    );
    Ok(())
}

/// Whatever is killed, the columns are there or not, and asking again adds them, once.
pub async fn killed_while_adding_columns_they_are_there_or_not(harness: &dyn Harness) -> Check {
    for step in harness.steps() {
        let mut world = World::new(harness).await?;
        let [part, ..] = three_parts(harness)?;
        world.copied(1, &[part], Disposition::Append).await?;
        world.restart().await?;
        let mut wider = data::table_of(Some(harness.divided()))?;
        let fields = wider.schema.fields().iter().cloned();
        let volume = Arc::new(Field::new("volume", DataType::Int64, true));
        wider.schema = Arc::new(Schema::new(fields.chain([volume]).collect::<Vec<_>>()));
        let before = world.process.faults.steps();
        world.process.faults.at(before + step, Fault::Crash);
        let name = world.table.clone();
        let added = world.process.store.sink.add_columns(&name, &wider, false);
        let added = added.await;
        let reached = world.process.faults.steps() >= before + step;
        let place = format!("killed at step {step}");
        if let Err(error) = &added {
            ensure!(reached, "{place}: failed without a fault: {error}");
        }
        for _ in 0..2 {
            world.restart().await?;
            let sink = &world.process.store.sink;
            sink.add_columns(&name, &wider, false).await.at(&place)?;
        }
        let described = world.process.store.source.describe(&name).await;
        let schema = described.at(&place)?.schema;
        let named = schema
            .fields()
            .iter()
            .filter(|field| field.name() == "volume");
        ensure!(named.count() == 1, "{place}: {schema:?}");
        if !reached {
            return Ok(());
        }
    }
    Err(crate::Failure::new(format!(
        "a life of more than {STEPS_MAX} steps"
    )))
}

/// Without a table there is nothing to claim.
pub async fn a_table_that_was_not_prepared_cannot_be_attached(harness: &dyn Harness) -> Check {
    let durable = harness.create().await?;
    let process = durable.open().await?;
    let claim = data::claim(1)?;
    let attached = process.store.sink.attach(&claim).await;
    ensure!(
        attached.is_err(),
        "attach to a table that is not there succeeded"
    );
    let held = process.store.sink.claim(&claim.table).await.at("claim")?;
    ensure!(
        held.is_none(),
        "a table that is not there has a claim: {held:?}"
    );
    Ok(())
}

/// A run that has written nothing holds nothing.
pub async fn a_new_run_has_no_positions(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let attachment = world.attach(1).await?;
    let held = positions(attachment.as_ref()).await?;
    ensure!(held.is_empty(), "a new run has positions: {held:?}");
    Ok(())
}

/// The heart of the contract.
pub async fn nothing_is_visible_before_finish_and_everything_after(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    let [part, other, _] = three_parts(harness)?;
    let attachment = world.attach(1).await?;
    let mut writer = begin_append(attachment.as_ref(), &part).await?;
    append_durably(&mut writer, &part, 0, 4).await?;
    append(&mut writer, &part, 4, 10).await?;
    world.ensure_visible(&[], "before finish").await?;
    finish(writer, &part).await?;
    world
        .ensure_visible(std::slice::from_ref(&part), "after finish")
        .await?;
    copy(attachment.as_ref(), &other, Disposition::Append).await?;
    drop(attachment);
    world.restart().await?;
    let both = [part.clone(), other];
    world
        .ensure_visible(&both, "after finish and a crash")
        .await?;
    let attachment = world.attach(1).await?;
    for part in &both {
        let held = position(attachment.as_ref(), part).await?;
        ensure_committed(held.as_ref(), part, 1)?;
    }
    Ok(())
}

/// Positions come from the store, and going on from one yields each row once.
pub async fn a_checkpoint_survives_a_crash_and_the_run_goes_on_from_it(
    harness: &dyn Harness,
) -> Check {
    let mut world = World::new(harness).await?;
    let [part, ..] = three_parts(harness)?;
    let mut held = None;
    for (from, to) in [(0, 3), (3, 4), (4, 9)] {
        let attachment = world.attach(1).await?;
        if from > 0 {
            let position = staged_position(attachment.as_ref(), &part, from).await?;
            held = Some(position);
        }
        let mut writer = begin(
            attachment.as_ref(),
            &part,
            Disposition::Append,
            held.as_ref(),
        )
        .await?;
        append_durably(&mut writer, &part, from, to).await?;
        // More, which the crash takes away.
        append(&mut writer, &part, to, 10).await?;
        drop((writer, attachment));
        world.restart().await?;
        world.ensure_visible(&[], "after a crash").await?;
    }
    let attachment = world.attach(1).await?;
    let held = staged_position(attachment.as_ref(), &part, 9).await?;
    let mut writer = begin(attachment.as_ref(), &part, Disposition::Append, Some(&held)).await?;
    append(&mut writer, &part, 9, 10).await?;
    finish(writer, &part).await?;
    world.ensure_visible(&[part], "after four lives").await
}

/// What was only appended does not count after a crash.
pub async fn rows_without_a_checkpoint_are_lost_by_a_crash(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    let [part, ..] = three_parts(harness)?;
    let attachment = world.attach(1).await?;
    let mut writer = begin_append(attachment.as_ref(), &part).await?;
    append(&mut writer, &part, 0, 10).await?;
    drop((writer, attachment));
    world.restart().await?;
    let attachment = world.attach(1).await?;
    let held = positions(attachment.as_ref()).await?;
    ensure!(held.is_empty(), "rows without a checkpoint left {held:?}");
    copy(attachment.as_ref(), &part, Disposition::Append).await?;
    world.ensure_visible(&[part], "after the second life").await
}

/// The last rows, here all of them, go straight into the publication.
pub async fn a_finish_needs_no_checkpoint(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let [part, ..] = three_parts(harness)?;
    let attachment = world.attach(1).await?;
    let mut writer = begin_append(attachment.as_ref(), &part).await?;
    append(&mut writer, &part, 0, 10).await?;
    finish(writer, &part).await?;
    world.ensure_visible(&[part], "after finish").await
}

/// Two writers of one attempt on one partition, the first of which is late. `None` if the engine does not open the second one.
async fn late_writer(
    world: &World,
    part: &Part,
) -> Check<Option<Box<dyn strait_common::engine::PartitionWriter>>> {
    let attachment = world.attach(1).await?;
    let mut late = begin_append(attachment.as_ref(), part).await?;
    append(&mut late, part, 0, part.len()).await?;
    let partition = part.partition();
    let second = attachment.begin(&partition, Disposition::Append, None);
    let mut second = match second.await {
        Ok(Begun::Writer(second)) => second,
        Ok(begun) => {
            return Err(crate::Failure::new(format!("a second begin: {begun:?}")));
        }
        // One writer per partition at a time: to refuse the second is another way to keep that.
        Err(error) if matches!(error.kind(), Kind::Refused | Kind::Internal) => return Ok(None),
        Err(error) => return Err(error).at("a second begin"),
    };
    append(&mut second, part, 0, part.len()).await?;
    finish(second, part).await?;
    Ok(Some(late))
}

/// A repeated `finish` answers with the receipt that the ledger has, and changes nothing.
pub async fn finishing_twice_finds_it_done(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let [part, ..] = three_parts(harness)?;
    if let Some(late) = late_writer(&world, &part).await? {
        let receipt = part.receipt()?;
        let finished = late.finish(receipt.clone()).await.at("finish again")?;
        ensure!(
            finished == Finished::Already(receipt),
            "finish again answered {finished:?}"
        );
        world.ensure_visible(&[part], "after both").await?;
    }
    Ok(())
}

/// A partition has one receipt in a run: another one means that something is broken.
pub async fn finishing_with_another_receipt_is_corrupt(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let [part, ..] = three_parts(harness)?;
    if let Some(late) = late_writer(&world, &part).await? {
        let mut receipt = part.receipt()?;
        receipt.rows += 1;
        let finished = late.finish(receipt).await;
        ensure_kind(finished, Kind::Corrupt, "finish with another receipt")?;
        world.ensure_visible(&[part], "after both").await?;
    }
    Ok(())
}

/// Before a row is sent, in the same attempt and in a later one, whatever version is asked for.
pub async fn begin_of_a_committed_partition_answers_with_its_receipt(
    harness: &dyn Harness,
) -> Check {
    let mut world = World::new(harness).await?;
    let [part, ..] = three_parts(harness)?;
    let attachment = world.attach(1).await?;
    copy(attachment.as_ref(), &part, Disposition::Append).await?;
    let mut attachments = vec![attachment];
    world.restart().await?;
    attachments.push(world.attach(1).await?);
    // The first attempt is fenced by now; the second must know.
    let attachment = &attachments[1];
    for asked in [part.clone(), part.changed("v2", 100..104)] {
        let asked = asked.partition();
        let begun = attachment.begin(&asked, Disposition::Append, None);
        match begun.await.at("begin again")? {
            Begun::Already(receipt) => ensure!(
                receipt == part.receipt()?,
                "begin answered with another receipt: {receipt:?}"
            ),
            Begun::Writer(_) => {
                return Err(crate::Failure::new("begin opened a committed partition"));
            }
        }
    }
    world.ensure_visible(&[part], "after begin").await
}

/// Whatever it lacks or has beside: B would hold rows where nobody looks for them.
pub async fn a_key_of_another_division_is_refused_by_name(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let [part, ..] = three_parts(harness)?;
    let mut swapped = part.key.parts().to_vec();
    swapped.reverse();
    let bucket = Cell::Bucket { index: 3, count: 7 };
    let other_bucket = vec![part.key.parts()[0].clone(), ("symbol".to_owned(), bucket)];
    let others = [
        PartitionKey::default(),
        PartitionKey::new(part.key.parts()[..1].to_vec())?,
        PartitionKey::new(swapped)?,
        PartitionKey::new(other_bucket)?,
    ];
    let attachment = world.attach(1).await?;
    for key in others {
        let partition = Partition {
            key: key.clone(),
            ..part.partition()
        };
        // Rows that are appended may be told apart by the table's own division; those that are replaced cannot.
        let begun = attachment.begin(&partition, Disposition::Replace, None);
        let what = format!("begin of {}", key.label());
        let error = ensure_kind(begun.await, Kind::Refused, &what)?;
        ensure!(
            error.to_string().contains(&key.label()),
            "{what}: the error does not name it: {error}"
        );
    }
    copy(attachment.as_ref(), &part, Disposition::Append).await?;
    world
        .ensure_visible(&[part], "after keys that were refused")
        .await
}

/// The rows of the earlier writer do not come back.
pub async fn begin_from_the_start_discards_what_is_staged(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    let [part, ..] = three_parts(harness)?;
    let attachment = world.attach(1).await?;
    let mut writer = begin_append(attachment.as_ref(), &part).await?;
    append_durably(&mut writer, &part, 0, 6).await?;
    drop(writer);
    // In the same attempt, and with a crash after the first new checkpoint.
    let mut writer = begin_append(attachment.as_ref(), &part).await?;
    append_durably(&mut writer, &part, 0, 2).await?;
    drop((writer, attachment));
    world.restart().await?;
    let attachment = world.attach(1).await?;
    staged_position(attachment.as_ref(), &part, 2).await?;
    // And again across attempts, up to the end.
    copy(attachment.as_ref(), &part, Disposition::Append).await?;
    world
        .ensure_visible(&[part], "after beginning three times")
        .await
}

/// Rows of an older version must not be mixed with those of the newer one.
pub async fn a_position_of_another_version_is_not_gone_on_from(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    let [part, ..] = three_parts(harness)?;
    let attachment = world.attach(1).await?;
    let mut writer = begin_append(attachment.as_ref(), &part).await?;
    append_durably(&mut writer, &part, 0, 6).await?;
    drop((writer, attachment));
    world.restart().await?;
    let attachment = world.attach(1).await?;
    let held = staged_position(attachment.as_ref(), &part, 6).await?;
    let changed = part.changed("v2", 400..408);
    let partition = changed.partition();
    let begun = attachment.begin(&partition, Disposition::Append, Some(&held));
    ensure_kind(
        begun.await,
        Kind::Corrupt,
        "begin from a position of another version",
    )?;
    copy(attachment.as_ref(), &changed, Disposition::Append).await?;
    world
        .ensure_visible(&[changed], "after the newer version")
        .await
}

/// The caller's word for a position is not enough.
pub async fn a_position_that_the_store_does_not_hold_is_corrupt(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let [part, other, _] = three_parts(harness)?;
    let attachment = world.attach(1).await?;
    let mut writer = begin_append(attachment.as_ref(), &part).await?;
    let held = append_durably(&mut writer, &part, 0, 6).await?;
    drop(writer);
    let cursor = Cursor(Bytes::from_static(b"elsewhere"));
    let made_up = [
        (
            &part,
            Position {
                sequence: 7,
                rows: 7,
                ..held.clone()
            },
        ),
        (
            &part,
            Position {
                cursor,
                ..held.clone()
            },
        ),
        (&other, held.clone()),
        (
            &other,
            Position {
                key: other.key.clone(),
                ..held.clone()
            },
        ),
    ];
    for (part, position) in made_up {
        let partition = part.partition();
        let begun = attachment.begin(&partition, Disposition::Append, Some(&position));
        ensure_kind(
            begun.await,
            Kind::Corrupt,
            &format!("begin from {position:?}"),
        )?;
    }
    // The true one still serves.
    let mut writer = begin(attachment.as_ref(), &part, Disposition::Append, Some(&held)).await?;
    append(&mut writer, &part, 6, 10).await?;
    finish(writer, &part).await?;
    world.ensure_visible(&[part], "after finish").await
}

/// The same attempt may open the partition again; rows since the last checkpoint are gone.
pub async fn a_dropped_writer_leaves_what_it_checkpointed(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let [part, ..] = three_parts(harness)?;
    let attachment = world.attach(1).await?;
    let mut writer = begin_append(attachment.as_ref(), &part).await?;
    let held = append_durably(&mut writer, &part, 0, 5).await?;
    append(&mut writer, &part, 5, 8).await?;
    drop(writer);
    let mut writer = begin(attachment.as_ref(), &part, Disposition::Append, Some(&held)).await?;
    append(&mut writer, &part, 5, 10).await?;
    finish(writer, &part).await?;
    world
        .ensure_visible(&[part], "after the second writer")
        .await
}

/// Old rows go in the same act; other partitions stay.
pub async fn replace_puts_the_rows_in_the_place_of_the_old_ones(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let [part, other, _] = three_parts(harness)?;
    let first = [part.clone(), other.clone()];
    world.copied(1, &first, Disposition::Append).await?;
    let changed = part.changed("v2", 400..404);
    let attachment = world.attach(2).await?;
    let mut writer = begin(attachment.as_ref(), &changed, Disposition::Replace, None).await?;
    append_durably(&mut writer, &changed, 0, 2).await?;
    append(&mut writer, &changed, 2, 4).await?;
    world.ensure_visible(&first, "before finish").await?;
    finish(writer, &changed).await?;
    world
        .ensure_visible(&[changed, other], "after finish")
        .await
}

/// A partition that A has emptied is emptied at B.
pub async fn replace_by_no_rows_leaves_none(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let [part, other, _] = three_parts(harness)?;
    let first = [part.clone(), other.clone()];
    world.copied(1, &first, Disposition::Append).await?;
    let emptied = part.changed("v2", 0..0);
    world.copied(2, &[emptied], Disposition::Replace).await?;
    world.ensure_visible(&[other], "after finish").await
}

/// Another run's rows stay.
pub async fn append_joins_the_rows_that_are_there(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let [part, ..] = three_parts(harness)?;
    let more = part.changed("v2", 400..404);
    world
        .copied(1, std::slice::from_ref(&part), Disposition::Append)
        .await?;
    world
        .copied(2, std::slice::from_ref(&more), Disposition::Append)
        .await?;
    world.ensure_visible(&[part, more], "after both").await
}

/// A receipt that outlives its rows would make a later run believe that they are there.
pub async fn a_dropped_partition_is_gone_with_its_receipt(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    let [part, other, _] = three_parts(harness)?;
    let first = [part.clone(), other.clone()];
    world.copied(1, &first, Disposition::Append).await?;
    let attachment = world.attach(2).await?;
    for time in ["the first drop", "a repeated drop"] {
        attachment.drop_partition(&part.key).await.at(time)?;
        world
            .ensure_visible(std::slice::from_ref(&other), time)
            .await?;
    }
    let receipts = world.receipts().await?;
    ensure!(
        receipts == [other.receipt()?],
        "the receipts after the drop are {receipts:?}"
    );
    drop(attachment);
    world.restart().await?;
    let attachment = world.attach(2).await?;
    let held = position(attachment.as_ref(), &part).await?;
    ensure!(
        held == Some(Position::dropped(data::claim(2)?.run, part.key.clone())),
        "the position of a dropped partition is {held:?}"
    );
    copy(attachment.as_ref(), &part, Disposition::Append).await?;
    world.restart().await?;
    let attachment = world.attach(2).await?;
    let held = position(attachment.as_ref(), &part).await?;
    ensure_committed(held.as_ref(), &part, 2)?;
    world
        .ensure_visible(&[part, other], "after copying it again")
        .await
}

/// What verify and mirror compare with.
pub async fn receipts_are_those_in_effect_in_order_of_key(harness: &dyn Harness) -> Check {
    let mut world = World::new(harness).await?;
    ensure!(
        world.receipts().await?.is_empty(),
        "an empty table has receipts"
    );
    let none = TableName::new("db", "none")?;
    let receipts = world.process.store.sink.receipts(&none).await;
    let mut receipts = receipts.at("receipts of no table")?;
    ensure!(
        receipts.next().await.is_none(),
        "there is no table, and it has receipts"
    );
    let [a, b, c] = three_parts(harness)?;
    let newer = b.changed("v2", 400..404);
    let first = [c.clone(), b.clone()];
    world.copied(1, &first, Disposition::Append).await?;
    let second = [newer.clone(), a.clone()];
    world.copied(2, &second, Disposition::Replace).await?;
    world.restart().await?;
    let receipts = world.receipts().await?;
    ensure!(
        receipts == [a.receipt()?, newer.receipt()?, c.receipt()?],
        "the receipts are {receipts:?}"
    );
    // What is appended joins what is there, and so do the receipts.
    let more = newer.changed("v3", 500..503);
    world
        .copied(3, std::slice::from_ref(&more), Disposition::Append)
        .await?;
    world.restart().await?;
    let receipts = world.receipts().await?;
    ensure!(
        receipts
            == [
                a.receipt()?,
                newer.receipt()?,
                more.receipt()?,
                c.receipt()?
            ],
        "after an append the receipts are {receipts:?}"
    );
    Ok(())
}
