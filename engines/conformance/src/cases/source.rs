//! What readers get.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use futures::{StreamExt, TryStreamExt};
use strait_common::Kind;
use strait_common::digest::digest;
use strait_common::engine::{Batch, Cursor, Disposition, Partition, Table};
use strait_common::selection::{Selection, SelectionSpec};

use super::{World, three_parts};
use crate::data::{self, Part};
use crate::visible::limits;
use crate::{At, Check, Failure, Harness, ensure};

/// A reader's view of a world.
struct Reader<'a> {
    world: &'a World,
    table: Table,
    selection: Selection,
}

impl<'a> Reader<'a> {
    async fn new(world: &'a World) -> Check<Reader<'a>> {
        let described = world.process.store.source.describe(&world.table).await;
        let table = described.at("describe")?;
        let selection = Selection::everything(&table.schema);
        Ok(Reader {
            world,
            table,
            selection,
        })
    }

    async fn partitions(&self) -> Check<Vec<Partition>> {
        let source = &self.world.process.store.source;
        let partitions = source.partitions(&self.world.table, &self.selection).await;
        partitions
            .at("partitions")?
            .try_collect()
            .await
            .at("partitions")
    }

    async fn partition(&self, part: &Part) -> Check<Partition> {
        let partitions = self.partitions().await?;
        let found = partitions.into_iter().find(|found| found.key == part.key);
        found.ok_or_else(|| Failure::new(format!("{} is not listed", part.key.label())))
    }

    /// Batches of a few rows, after this cursor.
    async fn read(
        &self,
        partition: &Partition,
        after: &Cursor,
    ) -> strait_common::Result<Vec<Batch>> {
        let source = &self.world.process.store.source;
        let (table, limits) = (&self.world.table, limits(FEW_ROWS_BYTES)?);
        let stream = source.read(table, &self.selection, partition, after, &limits);
        stream.await?.try_collect().await
    }

    fn joined(&self, batches: &[Batch]) -> Check<RecordBatch> {
        let columns = self.selection.read_columns();
        let places = columns
            .iter()
            .map(|column| self.table.schema.index_of(column));
        let places = places.collect::<Result<Vec<_>, _>>();
        let schema = places.and_then(|places| self.table.schema.project(&places));
        let schema = schema.map_err(|error| Failure::new(error.to_string()))?;
        let records = batches.iter().map(|batch| &batch.records);
        concat_batches(&schema.into(), records).map_err(|error| Failure::new(error.to_string()))
    }
}

/// A batch of this size holds a few of the suite's rows.
const FEW_ROWS_BYTES: u64 = 256;

/// Names, types and divisions.
pub async fn the_table_is_described_as_it_was_prepared(harness: &dyn Harness) -> Check {
    for divided in [true, false] {
        let world = World::with(harness, divided).await?;
        let table = Reader::new(&world).await?.table;
        let wanted = data::table_of(divided.then(|| harness.divided()))?;
        ensure!(table.name == wanted.name, "the name is {}", table.name);
        let columns = |table: &Table| -> Vec<_> {
            let fields = table.schema.fields().iter();
            fields
                .map(|field| (field.name().clone(), field.data_type().clone()))
                .collect()
        };
        ensure!(
            columns(&table) == columns(&wanted),
            "the columns are {:?}",
            columns(&table)
        );
        ensure!(
            table.divisions == wanted.divisions,
            "the divisions are {:?}",
            table.divisions
        );
        let listed = Reader::new(&world).await?.partitions().await?;
        ensure!(
            listed
                .iter()
                .all(|partition| partition.rows.unwrap_or(0) == 0),
            "an empty table has rows in {listed:?}"
        );
    }
    Ok(())
}

/// An operator mistypes names.
pub async fn an_unknown_table_is_an_error_that_names_those_there_are(
    harness: &dyn Harness,
) -> Check {
    let world = World::new(harness).await?;
    let unknown = strait_common::ids::TableName::new("suite", "tocks")?;
    let described = world.process.store.source.describe(&unknown).await;
    let error = crate::ensure_kind(described, Kind::Config, "describe of an unknown table")?;
    ensure!(
        error.to_string().contains("suite/ticks"),
        "the error does not name the tables there are: {error}"
    );
    Ok(())
}

/// However they were written, with the number of rows where it is known.
pub async fn partitions_are_listed_in_order_of_key(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let [a, b, c] = three_parts(harness)?;
    let early = harness.part(Some(-5), Some("Z"), 600..602)?;
    let mut written = vec![c, a, early, b];
    if harness.holds().null_keys {
        written.push(harness.part(None, Some("IBM"), 700..702)?);
    }
    world.copied(1, &written, Disposition::Append).await?;
    let listed = Reader::new(&world).await?.partitions().await?;
    let mut wanted: Vec<_> = written.iter().map(|part| part.key.clone()).collect();
    wanted.sort();
    let keys: Vec<_> = listed.iter().map(|listed| listed.key.clone()).collect();
    ensure!(keys == wanted, "the listed keys are {keys:?}");
    for partition in listed {
        let part = written.iter().find(|part| part.key == partition.key);
        let rows = part.map_or(0, Part::len);
        ensure!(
            partition.rows.is_none_or(|counted| counted == rows),
            "partition {} has {rows} rows and is listed with {:?}",
            partition.key.label(),
            partition.rows
        );
        ensure!(
            partition.version.0.len() <= 200,
            "the version of {} is longer than 200 bytes",
            partition.key.label()
        );
    }
    Ok(())
}

/// Those and no others.
pub async fn partitions_that_the_selection_excludes_are_left_out(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let parts = three_parts(harness)?;
    world.copied(1, &parts, Disposition::Append).await?;
    let mut reader = Reader::new(&world).await?;
    let all = reader.partitions().await?;
    for predicate in [
        "symbol = 'IBM'",
        "day > '2024-10-04'",
        "number < 0",
        "symbol is null",
    ] {
        let spec = SelectionSpec {
            predicate: Some(predicate.to_owned()),
            ..SelectionSpec::default()
        };
        reader.selection = Selection::resolve(&spec, &reader.table.schema, 0)?;
        let listed = reader.partitions().await?;
        let mut wanted = all.clone();
        wanted.retain(|partition| !reader.selection.excludes(&partition.key));
        ensure!(
            data::unseen(&listed) == data::unseen(&wanted),
            "where {predicate}: {listed:?}"
        );
    }
    Ok(())
}

/// The rows after a cursor are exactly the rest, in the same order.
pub async fn a_read_resumes_from_every_cursor(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let part = harness.part(Some(20_000), Some("IBM"), 0..60)?;
    let attachment = world.attach(1).await?;
    let mut writer = super::begin_append(attachment.as_ref(), &part).await?;
    for start in [0, 20, 40] {
        super::append_durably(&mut writer, &part, start, start + 20).await?;
    }
    super::finish(writer, &part).await?;
    let reader = Reader::new(&world).await?;
    let partition = reader.partition(&part).await?;
    let whole = reader
        .read(&partition, &Cursor::start())
        .await
        .at("a whole read")?;
    let all = reader.joined(&whole)?;
    data::ensure_exactly(
        &strait_memory::canonical_rows(&all)?,
        std::slice::from_ref(&part),
    )?;
    let mut before = 0;
    for batch in &whole {
        before += batch.records.num_rows();
        ensure!(
            !batch.end.is_start() && batch.end.0.len() <= 1024,
            "the cursor after {before} rows has {} bytes",
            batch.end.0.len()
        );
        let rest = reader.read(&partition, &batch.end).await;
        let rest = reader.joined(&rest.at(format_args!("a read after {before} rows"))?)?;
        ensure!(
            rest == all.slice(before, all.num_rows() - before),
            "a read after {before} rows gives {} others than those left",
            rest.num_rows()
        );
    }
    Ok(())
}

/// In the wanted order.
pub async fn a_read_gives_only_the_wanted_columns(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let [part, ..] = three_parts(harness)?;
    world
        .copied(1, std::slice::from_ref(&part), Disposition::Append)
        .await?;
    let mut reader = Reader::new(&world).await?;
    // A column of the division is read like any other.
    for wanted in [
        vec!["number"],
        vec!["note", "symbol", "number"],
        vec!["day"],
    ] {
        let spec = SelectionSpec {
            columns: Some(wanted.iter().map(|column| (*column).to_owned()).collect()),
            ..SelectionSpec::default()
        };
        reader.selection = Selection::resolve(&spec, &reader.table.schema, 0)?;
        let partition = reader.partition(&part).await?;
        let read = reader.read(&partition, &Cursor::start()).await.at("read")?;
        let read = reader.joined(&read)?;
        let given = part.rows(0, part.len())?;
        ensure!(
            read.num_rows() == given.num_rows(),
            "{} rows of columns {wanted:?}",
            read.num_rows()
        );
        let schema = read.schema();
        let names: Vec<_> = schema.fields().iter().map(|field| field.name()).collect();
        ensure!(names == wanted, "columns {names:?} instead of {wanted:?}");
        let places = wanted
            .iter()
            .filter_map(|name| given.schema().index_of(name).ok());
        let given = given.project(&places.collect::<Vec<_>>());
        let given = given.map_err(|error| Failure::new(error.to_string()))?;
        ensure!(
            digest(&read)? == digest(&given)?,
            "columns {wanted:?} hold other values"
        );
    }
    Ok(())
}

/// And leaves nothing that keeps others from reading or writing.
pub async fn a_dropped_read_stops(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let part = harness.part(Some(20_000), Some("IBM"), 0..200)?;
    world
        .copied(1, std::slice::from_ref(&part), Disposition::Append)
        .await?;
    let reader = Reader::new(&world).await?;
    let partition = reader.partition(&part).await?;
    let source = &world.process.store.source;
    let limits = limits(FEW_ROWS_BYTES)?;
    let free = limits.budget.free_bytes();
    for taken in [0, 1] {
        let stream = source
            .read(
                &world.table,
                &reader.selection,
                &partition,
                &Cursor::start(),
                &limits,
            )
            .await
            .at("read")?;
        let batches: Vec<_> = stream.take(taken).try_collect::<Vec<Batch>>().await?;
        ensure!(batches.len() == taken, "{} batches", batches.len());
    }
    ensure!(
        limits.budget.free_bytes() == free,
        "a dropped read keeps {} bytes of the budget",
        free - limits.budget.free_bytes()
    );
    let more = part.changed("v2", 300..304);
    world
        .copied(2, std::slice::from_ref(&more), Disposition::Append)
        .await?;
    world
        .ensure_visible(&[part, more], "after dropped reads")
        .await
}

/// A version follows what the partition contains, and nothing else.
pub async fn equal_partitions_have_equal_versions_and_changed_ones_others(
    harness: &dyn Harness,
) -> Check {
    let mut world = World::new(harness).await?;
    let [part, other, third] = three_parts(harness)?;
    let first = [part.clone(), other.clone()];
    world.copied(1, &first, Disposition::Append).await?;
    let versions = async |world: &World| -> Check<_> {
        let reader = Reader::new(world).await?;
        let changed = reader.partition(&part).await?.version;
        Check::Ok((changed, reader.partition(&other).await?.version))
    };
    let mut before = versions(&world).await?;
    world.restart().await?;
    ensure!(
        versions(&world).await? == before,
        "a version changed by looking again"
    );
    world.copied(2, &[third], Disposition::Append).await?;
    ensure!(
        versions(&world).await? == before,
        "a version changed with another partition"
    );
    for (run, disposition) in [(3, Disposition::Append), (4, Disposition::Replace)] {
        let start = i64::from(run) * 1000;
        let newer = part.changed(&format!("v{run}"), start..start + 4);
        world
            .copied(u128::from(run as u32), &[newer], disposition)
            .await?;
        let after = versions(&world).await?;
        ensure!(
            after.0 != before.0,
            "{disposition:?} left version {}",
            after.0
        );
        ensure!(
            after.1 == before.1,
            "{disposition:?} changed the version of another partition"
        );
        before = after;
    }
    Ok(())
}

/// What a plan has stored is read exactly, or not at all.
pub async fn an_older_version_is_moved_or_read_exactly(harness: &dyn Harness) -> Check {
    for disposition in [Disposition::Append, Disposition::Replace] {
        let world = World::new(harness).await?;
        let part = harness.part(Some(20_000), Some("IBM"), 0..60)?;
        world
            .copied(1, std::slice::from_ref(&part), Disposition::Append)
            .await?;
        let reader = Reader::new(&world).await?;
        let planned = reader.partition(&part).await?;
        let whole = reader.read(&planned, &Cursor::start()).await.at("read")?;
        let all = reader.joined(&whole)?;
        let newer = part.changed("v2", 900..904);
        world.copied(2, &[newer], disposition).await?;
        let starts = [(Cursor::start(), 0)].into_iter().chain(
            whole
                .first()
                .map(|batch| (batch.end.clone(), batch.records.num_rows())),
        );
        for (cursor, before) in starts {
            let what = format!("a read of the older version after {before} rows, {disposition:?}");
            match reader.read(&planned, &cursor).await {
                Ok(read) => {
                    ensure!(
                        harness.reads_old_versions(),
                        "{what}: the engine says that it cannot, and did"
                    );
                    ensure!(
                        reader.joined(&read)? == all.slice(before, all.num_rows() - before),
                        "{what}: other rows"
                    );
                }
                Err(error) => {
                    ensure!(error.kind() == Kind::Moved, "{what}: {error}");
                    ensure!(
                        !harness.reads_old_versions(),
                        "{what}: the engine says that it can: {error}"
                    );
                }
            }
        }
    }
    Ok(())
}

/// What `verify` relies on.
pub async fn what_is_read_back_has_the_digest_of_its_receipt(harness: &dyn Harness) -> Check {
    let world = World::new(harness).await?;
    let parts = three_parts(harness)?;
    world.copied(1, &parts, Disposition::Append).await?;
    let reader = Reader::new(&world).await?;
    for part in &parts {
        let partition = reader.partition(part).await?;
        let read = reader.read(&partition, &Cursor::start()).await.at("read")?;
        ensure!(
            digest(&reader.joined(&read)?)? == part.receipt()?.digest,
            "what is read back of {} differs from its receipt",
            part.key.label()
        );
    }
    Ok(())
}
