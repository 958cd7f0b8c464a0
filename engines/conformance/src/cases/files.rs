//! Files in place of rows, by an engine that has files which can travel.

use strait_common::Kind;
use strait_common::engine::{
    Disposition, Mark, Partition, PartitionFiles, PartitionWriter, Store, TableFile,
};
use strait_common::files::FileDigest;
use strait_common::selection::{Selection, SelectionSpec};

use super::killer::{kill, overtake_with};
use super::{World, begin_append, position, three_parts};
use crate::data::{self, Part};
use crate::life::{Life, OpenFiles, Until};
use crate::{At, Check, Failure, Harness, ensure, ensure_kind};

/// Rows of a file.
const FILE_ROWS: u64 = 4;
/// The same where all of it is done again for each step: one partition is of two files then.
const FEW_FILES_ROWS: u64 = 8;

/// A store of A that has these partitions in several files each; none if the engine's files cannot travel.
async fn source(harness: &dyn Harness, parts: &[Part], rows: u64) -> Check<Option<World>> {
    let world = World::new(harness).await?;
    let shape = world.process.store.source.files_shape(&world.table).await;
    if shape.at("files_shape")?.is_none() {
        return Ok(None);
    }
    for (run, piece) in (500..).zip(parts.iter().flat_map(|part| part.pieces(rows))) {
        let piece = std::slice::from_ref(&piece);
        world.copied(run, piece, Disposition::Append).await?;
    }
    Ok(Some(world))
}

/// All of a table's files, by partition.
async fn files_of(store: &Store, part: &Part) -> Check<(Partition, Box<dyn PartitionFiles>)> {
    let opened = OpenFiles::open(store, part).await;
    opened.at(format_args!("the files of {}", part.key.label()))
}

/// Everything in them.
fn contents(files: &mut dyn PartitionFiles) -> Check<Vec<Vec<u8>>> {
    let all = files.files().to_vec();
    let mut contents = Vec::new();
    for (at, file) in all.iter().enumerate() {
        let bytes = usize::try_from(file.bytes).unwrap_or(0);
        contents.push(files.read(at, 0, bytes).at("read")?.to_vec());
    }
    Ok(contents)
}

/// Gives a file to the writer in pieces.
async fn append_file(
    writer: &mut Box<dyn PartitionWriter>,
    file: TableFile,
    content: &[u8],
) -> strait_common::Result<()> {
    for piece in content.chunks(content.len().div_ceil(3).max(1)) {
        let piece = bytes::Bytes::copy_from_slice(piece);
        writer.append_file(&file, piece).await?;
    }
    Ok(())
}

/// What is sent is what arrives, and its rows are those that were there.
pub async fn files_arrive_as_they_were(harness: &dyn Harness) -> Check {
    let parts = three_parts(harness)?;
    let Some(a) = source(harness, &parts, FILE_ROWS).await? else {
        return Ok(());
    };
    let mut b = World::new(harness).await?;
    let mut life = Life::new(1, parts.to_vec())?;
    life.files = Some(a.process.store.clone());
    let lived = life.live(&b.process.store, Until::Complete).await;
    lived.at("a run of files")?;
    b.restart().await?;
    b.ensure_visible(&parts, "after the run").await?;
    for part in &parts {
        let (_, mut ours) = files_of(&a.process.store, part).await?;
        let (_, mut theirs) = files_of(&b.process.store, part).await?;
        let mut ours_in_order = contents(ours.as_mut())?;
        let mut theirs_in_order = contents(theirs.as_mut())?;
        ours_in_order.sort();
        theirs_in_order.sort();
        ensure!(ours_in_order.len() > 1, "one file is no test of several");
        let (ours, theirs) = (ours_in_order, theirs_in_order);
        ensure!(ours == theirs, "files of {} differ", part.key.label());
    }
    for receipt in b.receipts().await? {
        ensure!(
            receipt.digest_id.is_of_files(),
            "the receipt is {receipt:?}"
        );
    }
    Ok(())
}

/// It is of a number of files, and the rest of them is enough.
pub async fn a_checkpoint_between_files_survives_a_crash(harness: &dyn Harness) -> Check {
    let parts = three_parts(harness)?;
    let Some(a) = source(harness, &parts, FILE_ROWS).await? else {
        return Ok(());
    };
    let mut b = World::new(harness).await?;
    let part = &parts[0];
    let (_, mut files) = files_of(&a.process.store, part).await?;
    let first = files.files()[0];
    let content = contents(files.as_mut())?.swap_remove(0);
    let mut digest = FileDigest::default();
    digest.update(&content);
    let mark = Mark {
        sequence: 3,
        cursor: strait_common::engine::Cursor::after_files(1),
        rows: first.rows,
        digest: digest.digest(),
    };
    {
        let attachment = b.attach(1).await?;
        let mut writer = begin_append(attachment.as_ref(), part).await?;
        append_file(&mut writer, first, &content).await?;
        writer.checkpoint(mark.clone()).await.at("checkpoint")?;
        // A part of the next one is gone with the process.
        let piece = bytes::Bytes::copy_from_slice(&content[..content.len() / 2]);
        writer.append_file(&first, piece).await.at("append_file")?;
    }
    b.restart().await?;
    b.ensure_visible(&[], "before the finish").await?;
    let attachment = b.attach(1).await?;
    let held = position(attachment.as_ref(), part).await?;
    let held = held.ok_or_else(|| Failure::new("the position is gone"))?;
    let found = (held.sequence, held.rows, held.digest, held.cursor.files()?);
    let right = (mark.sequence, mark.rows, mark.digest, 1);
    ensure!(found == right, "the position is {held:?}");
    drop(attachment);
    let mut life = Life::new(1, vec![part.clone()])?;
    life.files = Some(a.process.store.clone());
    let lived = life.live(&b.process.store, Until::Complete).await;
    lived.at("the rest of the run")?;
    b.ensure_visible(std::slice::from_ref(part), "after it")
        .await
}

/// Nothing of a partition whose file is not what it is said to be can be seen.
pub async fn a_file_that_is_not_what_it_is_said_to_be_is_corrupt(harness: &dyn Harness) -> Check {
    let parts = three_parts(harness)?;
    let Some(a) = source(harness, &parts, FILE_ROWS).await? else {
        return Ok(());
    };
    let b = World::new(harness).await?;
    let (_, mut files) = files_of(&a.process.store, &parts[0]).await?;
    let file = files.files()[0];
    let content = contents(files.as_mut())?.swap_remove(0);
    let cut = content.len() - 9;
    let mut headless = content.clone();
    headless[..4].fill(0);
    let of = |rows, bytes: usize| TableFile {
        rows,
        bytes: bytes as u64,
    };
    let attachment = b.attach(1).await?;
    for (what, file, content) in [
        (
            "a row too few",
            of(file.rows + 1, content.len()),
            &content[..],
        ),
        (
            "a row too many",
            of(file.rows - 1, content.len()),
            &content[..],
        ),
        ("no end", of(file.rows, cut), &content[..cut]),
        ("no beginning", of(file.rows, content.len()), &headless[..]),
        ("nothing of a file", of(file.rows, 64), &[7; 64][..]),
    ] {
        let mut writer = begin_append(attachment.as_ref(), &parts[0]).await?;
        let appended = append_file(&mut writer, file, content).await;
        ensure_kind(appended, Kind::Corrupt, what)?;
    }
    b.ensure_visible(&[], "after all of them").await
}

/// Rows are read where files would carry others, or where a file could be another table's.
pub async fn files_are_offered_only_where_they_hold_what_is_selected(
    harness: &dyn Harness,
) -> Check {
    let parts = three_parts(harness)?;
    let Some(a) = source(harness, &parts, FILE_ROWS).await? else {
        return Ok(());
    };
    let store = &a.process.store;
    let (partition, _) = files_of(store, &parts[0]).await?;
    let shape = store.source.files_shape(&a.table).await.at("files_shape")?;
    let shape = shape.unwrap_or_default();
    let selection = |predicate: Option<&str>, columns: &[&str]| {
        let spec = SelectionSpec {
            predicate: predicate.map(str::to_owned),
            columns: Some(columns.iter().map(|column| (*column).to_owned()).collect()),
            zone: None,
        };
        Selection::resolve(&spec, &data::schema(), 0)
    };
    let all = ["note", "day", "symbol", "price", "number"];
    for (selection, shape, offered) in [
        (selection(None, &all)?, shape.as_str(), true),
        (
            selection(Some("number > 103"), &all)?,
            shape.as_str(),
            false,
        ),
        (selection(None, &all[1..])?, shape.as_str(), false),
        (selection(None, &all)?, "another", false),
    ] {
        let files = store.source.files(&a.table, &selection, &partition, shape);
        let found = files.await.at("files")?.is_some();
        ensure!(
            found == offered,
            "files of {} are offered: {found}",
            selection.text()
        );
    }
    let everything = Selection::everything(&data::schema());
    let gone = Partition {
        version: strait_common::engine::Version("another".to_owned()),
        ..partition
    };
    let files = store.source.files(&a.table, &everything, &gone, &shape);
    ensure_kind(files.await, Kind::Moved, "files of another version")?;
    Ok(())
}

/// How a table's files look does not depend on who made it, or when; another table's look otherwise.
pub async fn tables_alike_have_files_alike(harness: &dyn Harness) -> Check {
    let Some(a) = source(harness, &[], FILE_ROWS).await? else {
        return Ok(());
    };
    let (store, name) = (&a.process.store, &a.table);
    let of_source = store.source.files_shape(name).await.at("files_shape")?;
    let b = harness.create().await?.open().await?.store;
    let wanted = data::table_of(Some(harness.divided()))?;
    let before = b.sink.files_shape(name, &wanted).await.at("files_shape")?;
    let prepared = b.sink.prepare(name, &wanted, false).await;
    prepared.at("prepare")?;
    let after = b.sink.files_shape(name, &wanted).await.at("files_shape")?;
    ensure!(
        before == of_source && after == of_source,
        "tables made alike have files like {of_source:?}, {before:?} and {after:?}"
    );
    let narrow = wanted.without(&["note".to_owned()]);
    let whole = data::table_of(None)?;
    for other in [narrow, whole] {
        let c = harness.create().await?.open().await?.store;
        let looks = c.sink.files_shape(name, &other).await.at("files_shape")?;
        ensure!(looks != of_source, "another table's files look alike");
    }
    Ok(())
}

/// Readers see a partition of files whole or not at all, whatever dies.
pub async fn killed_while_files_are_taken(harness: &dyn Harness) -> Check {
    let parts = &three_parts(harness)?[..2];
    let Some(a) = source(harness, parts, FEW_FILES_ROWS).await? else {
        return Ok(());
    };
    let mut life = Life::new(1, parts.to_vec())?;
    life.files = Some(a.process.store.clone());
    life.interleaved = true;
    kill(harness, &life, &[]).await
}

/// The second attempt sends rows where the first has sent files, and the third files again: none goes on from what the other has staged.
pub async fn killed_while_files_and_rows_take_turns(harness: &dyn Harness) -> Check {
    let parts = &three_parts(harness)?[..2];
    let Some(a) = source(harness, parts, FEW_FILES_ROWS).await? else {
        return Ok(());
    };
    let mut life = Life::new(1, parts.to_vec())?;
    life.files = Some(a.process.store.clone());
    life.in_turns = true;
    kill(harness, &life, &[]).await
}

/// In place of rows.
pub async fn killed_while_files_replace_readers_see_old_or_new(harness: &dyn Harness) -> Check {
    let [a, b, _] = three_parts(harness)?;
    let newer = vec![a.changed("v2", 400..408), b.changed("v2", 500..505)];
    let Some(from) = source(harness, &newer, FEW_FILES_ROWS).await? else {
        return Ok(());
    };
    let mut life = Life::new(2, newer)?;
    life.disposition = Disposition::Replace;
    life.files = Some(from.process.store.clone());
    kill(harness, &life, &[a, b]).await
}

/// The same run lives a whole life of files meanwhile.
pub async fn overtaken_while_files_are_taken(harness: &dyn Harness) -> Check {
    let parts = three_parts(harness)?;
    let Some(a) = source(harness, &parts, FEW_FILES_ROWS).await? else {
        return Ok(());
    };
    let store = a.process.store.clone();
    overtake_with(harness, Some(&store), |store, life| {
        Box::pin(async move { life.live(&store, Until::Complete).await })
    })
    .await
}
