//! The cases, and what they share.

use futures::TryStreamExt;
use std::sync::Arc;
use strait_common::Result;
use strait_common::engine::{
    Attachment, Begun, Claim, Disposition, Finished, Partition, PartitionWriter, Position,
    PositionState, Receipt,
};
use strait_common::ids::TableName;
use strait_common::selection::Selection;

use crate::data::{self, Part};
use crate::{At, Check, Durable, Failure, Harness, Process, ensure};

pub mod acts;
pub mod apart;
pub mod fence;
pub mod files;
pub mod holdings;
pub mod killer;
pub mod shapes;
pub mod source;

/// A durable store with the suite's table in it, and one process.
pub(crate) struct World {
    pub(crate) durable: Box<dyn Durable>,
    pub(crate) process: Process,
    pub(crate) table: TableName,
}

impl World {
    /// An empty table with divisions.
    pub(crate) async fn new(harness: &dyn Harness) -> Check<World> {
        World::with(harness, true).await
    }

    pub(crate) async fn with(harness: &dyn Harness, divided: bool) -> Check<World> {
        let durable = harness.create().await.at("making a store")?;
        let process = durable.open().await.at("opening it")?;
        let table = data::table_of(divided.then(|| harness.divided()))?;
        let prepared = process.store.sink.prepare(&table.name, &table, false);
        prepared.await.at("prepare")?;
        Ok(World {
            durable,
            process,
            table: table.name,
        })
    }

    /// The process dies, and another starts.
    pub(crate) async fn restart(&mut self) -> Check {
        self.process = self.durable.open().await.at("opening the store again")?;
        Ok(())
    }

    /// This process attaches run number `run`.
    pub(crate) async fn attach(&self, run: u128) -> Check<Arc<dyn Attachment>> {
        attach(&self.process, &data::claim(run)?).await
    }

    pub(crate) async fn visible(&self) -> Check<Vec<crate::Row>> {
        self.durable
            .visible(&self.table)
            .await
            .at("reading the table")
    }

    /// Fails unless a reader sees exactly these partitions.
    pub(crate) async fn ensure_visible(&self, parts: &[Part], when: &str) -> Check {
        data::ensure_exactly(&self.visible().await?, parts).at(when)
    }

    /// The receipts in effect, through this process.
    pub(crate) async fn receipts(&self) -> Check<Vec<Receipt>> {
        let receipts = self.process.store.sink.receipts(&self.table).await;
        receipts.at("receipts")?.try_collect().await.at("receipts")
    }

    /// The partitions there are, as the store's other half lists them.
    pub(crate) async fn listed(&self) -> Check<Vec<Partition>> {
        let everything = Selection::everything(&data::schema());
        let source = &self.process.store.source;
        let partitions = source.partitions(&self.table, &everything).await;
        let partitions = partitions.at("partitions")?;
        partitions.try_collect().await.at("partitions")
    }

    /// Run number `run` copies these partitions and completes.
    pub(crate) async fn copied(&self, run: u128, parts: &[Part], how: Disposition) -> Check {
        let attachment = self.attach(run).await?;
        for part in parts {
            copy(attachment.as_ref(), part, how).await?;
        }
        let done = strait_common::engine::Outcome::Done;
        attachment.complete(done).await.at("complete")
    }
}

pub(crate) async fn attach(process: &Process, claim: &Claim) -> Check<Arc<dyn Attachment>> {
    process.store.sink.attach(claim).await.at("attach")
}

pub(crate) async fn positions(attachment: &dyn Attachment) -> Check<Vec<Position>> {
    let positions = attachment.positions().await.at("positions")?;
    positions.try_collect().await.at("positions")
}

/// The one position of this partition, if there is one.
pub(crate) async fn position(attachment: &dyn Attachment, part: &Part) -> Check<Option<Position>> {
    let mut positions = positions(attachment).await?;
    positions.retain(|position| position.key == part.key);
    ensure!(
        positions.len() < 2,
        "{} positions of partition {}",
        positions.len(),
        part.key.label()
    );
    Ok(positions.pop())
}

/// The staged position of this partition, which must be after its first `rows` rows.
pub(crate) async fn staged_position(
    attachment: &dyn Attachment,
    part: &Part,
    rows: u64,
) -> Check<Position> {
    let position = position(attachment, part).await?;
    let position =
        position.ok_or_else(|| Failure::new(format!("no position of {}", part.key.label())))?;
    ensure_staged(&position, part, rows)?;
    Ok(position)
}

/// Fails unless this is the staged position after the partition's first `rows` rows.
pub(crate) fn ensure_staged(position: &Position, part: &Part, rows: u64) -> Check {
    let mark = part.mark(rows)?;
    let right = position.key == part.key
        && position.version.0 == part.version
        && position.state == PositionState::Staged
        && position.sequence == mark.sequence
        && position.cursor == mark.cursor
        && position.rows == mark.rows
        && position.digest == mark.digest;
    ensure!(
        right,
        "the position after {rows} rows of {} is {position:?}",
        part.key.label()
    );
    Ok(())
}

/// Opens a partition that is not committed.
pub(crate) async fn begin(
    attachment: &dyn Attachment,
    part: &Part,
    how: Disposition,
    from: Option<&Position>,
) -> Check<Box<dyn PartitionWriter>> {
    let place = || format!("begin of {}", part.key.label());
    let partition: Partition = part.partition();
    match attachment.begin(&partition, how, from).await.at(place())? {
        Begun::Writer(writer) => Ok(writer),
        Begun::Already(receipt) => {
            Err(Failure::new(format!("already committed: {receipt:?}")).at(place()))
        }
    }
}

/// Opens it from the start, to append.
pub(crate) async fn begin_append(
    attachment: &dyn Attachment,
    part: &Part,
) -> Check<Box<dyn PartitionWriter>> {
    begin(attachment, part, Disposition::Append, None).await
}

/// Appends the `from`-th row up to the `to`-th.
pub(crate) async fn append(
    writer: &mut Box<dyn PartitionWriter>,
    part: &Part,
    from: u64,
    to: u64,
) -> Check {
    let appended = writer.append(part.rows(from, to)?).await;
    appended.at(format_args!(
        "append of rows {from} to {to} of {}",
        part.key.label()
    ))
}

/// Appends the `from`-th row up to the `to`-th and makes them durable.
pub(crate) async fn append_durably(
    writer: &mut Box<dyn PartitionWriter>,
    part: &Part,
    from: u64,
    to: u64,
) -> Check<Position> {
    append(writer, part, from, to).await?;
    let place = format!("checkpoint after {to} rows of {}", part.key.label());
    let position = writer.checkpoint(part.mark(to)?).await.at(&place)?;
    ensure_staged(&position, part, to).at(place)?;
    Ok(position)
}

/// Publishes it, for the first time.
pub(crate) async fn finish(writer: Box<dyn PartitionWriter>, part: &Part) -> Check {
    let place = format!("finish of {}", part.key.label());
    match writer.finish(part.receipt()?).await.at(&place)? {
        Finished::Now => Ok(()),
        Finished::Already(receipt) => {
            Err(Failure::new(format!("says that it was done before: {receipt:?}")).at(place))
        }
    }
}

/// Copies a whole partition with a checkpoint in its middle.
pub(crate) async fn copy(attachment: &dyn Attachment, part: &Part, how: Disposition) -> Check {
    let mut writer = begin(attachment, part, how, None).await?;
    let middle = part.len() / 2;
    if middle > 0 {
        append_durably(&mut writer, part, 0, middle).await?;
    }
    append(&mut writer, part, middle, part.len()).await?;
    finish(writer, part).await
}

/// Fails unless the partition counts as committed by run number `run`, with its receipt.
pub(crate) fn ensure_committed(position: Option<&Position>, part: &Part, run: u128) -> Check {
    let name = part.key.label();
    let position = position.ok_or_else(|| Failure::new(format!("no position of {name}")))?;
    let receipt = part.receipt()?;
    let right = position.key == part.key
        && position.run == data::claim(run)?.run
        && position.version == receipt.version
        && position.rows == receipt.rows
        && position.digest == receipt.digest
        && position.state == PositionState::Committed(receipt);
    ensure!(right, "the position of committed {name} is {position:?}");
    Ok(())
}

/// Three partitions of one table: two of them of one day, two of one symbol.
pub(crate) fn three_parts(harness: &dyn Harness) -> Result<[Part; 3]> {
    Ok([
        harness.part(Some(20_000), Some("IBM"), 100..110)?,
        harness.part(Some(20_001), Some("IBM"), 200..207)?,
        harness.part(Some(20_001), Some("MSFT"), 300..305)?,
    ])
}

macro_rules! cases {
    ($($module:ident { $($name:ident)* })*) => {
        /// Every case of the suite.
        pub fn all() -> Vec<$crate::Case> {
            use futures::FutureExt;
            vec![$($($crate::Case {
                name: stringify!($name),
                run: |harness| $module::$name(harness).boxed(),
            },)*)*]
        }

        /// Writes one test per case: `suite!(harness, block_on)`, where `harness` makes a [`Harness`](crate::Harness) and `block_on` runs one
        /// future to its end.
        #[macro_export]
        macro_rules! suite {
            ($harness:expr, $block_on:expr) => {
                $($(
                    #[test]
                    fn $name() {
                        let harness = $harness;
                        let block_on = $block_on;
                        let case = $crate::cases::$module::$name(&harness);
                        if let Err(failure) = block_on(case) {
                            panic!("{}: {failure}", stringify!($name));
                        }
                    }
                )*)*
            };
        }
    };
}

cases! {
    acts {
        prepare_makes_the_table_once_and_a_dry_run_makes_nothing
        prepare_refuses_another_type
        columns_that_are_missing_are_added_once
        killed_while_adding_columns_they_are_there_or_not
        a_table_that_was_not_prepared_cannot_be_attached
        a_new_run_has_no_positions
        nothing_is_visible_before_finish_and_everything_after
        a_checkpoint_survives_a_crash_and_the_run_goes_on_from_it
        rows_without_a_checkpoint_are_lost_by_a_crash
        a_finish_needs_no_checkpoint
        finishing_twice_finds_it_done
        finishing_with_another_receipt_is_corrupt
        begin_of_a_committed_partition_answers_with_its_receipt
        a_key_of_another_division_is_refused_by_name
        begin_from_the_start_discards_what_is_staged
        a_position_of_another_version_is_not_gone_on_from
        a_position_that_the_store_does_not_hold_is_corrupt
        a_dropped_writer_leaves_what_it_checkpointed
        replace_puts_the_rows_in_the_place_of_the_old_ones
        replace_by_no_rows_leaves_none
        append_joins_the_rows_that_are_there
        a_dropped_partition_is_gone_with_its_receipt
        receipts_are_those_in_effect_in_order_of_key
    }
    apart {
        rows_of_another_division_are_told_apart_by_the_tables_own
        rows_of_another_division_replace_nothing
        a_table_whose_rows_cannot_be_told_apart_says_so_before_any_moves
    }
    fence {
        each_attempt_has_a_higher_epoch
        every_act_of_an_older_attempt_is_fenced
        every_act_of_an_older_attempt_is_fenced_from_another_process
        another_run_is_refused_while_a_claim_is_open
        a_refused_attempt_disturbs_nothing
        the_same_run_with_another_job_is_refused
        the_claim_is_what_was_taken_first
        completing_twice_is_harmless
        an_abandoned_run_leaves_nothing_staged
        an_attempt_that_has_ended_its_claim_writes_no_more
        a_later_run_sees_what_earlier_ones_committed
        a_later_run_does_not_see_what_an_earlier_one_staged
    }
    shapes {
        two_partitions_can_be_written_in_turns
        partitions_can_finish_in_any_order
        partitions_can_finish_at_once
        a_partition_without_rows_is_committed
        a_table_without_partitions_has_one
        batches_without_rows_change_nothing
        many_batches_arrive_in_full
        odd_keys_are_held_exactly_or_refused_by_name
        wide_values_come_back_as_they_were
    }
    holdings {
        holdings_are_what_is_there_with_its_receipts_in_effect
        holdings_are_those_of_the_selection
        a_confirmed_receipt_takes_the_place_of_those_before_it
        killed_while_confirming_receipts_are_old_or_new
    }
    source {
        the_table_is_described_as_it_was_prepared
        an_unknown_table_is_an_error_that_names_those_there_are
        partitions_are_listed_in_order_of_key
        partitions_that_the_selection_excludes_are_left_out
        a_read_resumes_from_every_cursor
        a_read_gives_only_the_wanted_columns
        a_dropped_read_stops
        equal_partitions_have_equal_versions_and_changed_ones_others
        an_older_version_is_moved_or_read_exactly
        what_is_read_back_has_the_digest_of_its_receipt
    }
    files {
        files_arrive_as_they_were
        a_checkpoint_between_files_survives_a_crash
        a_file_that_is_not_what_it_is_said_to_be_is_corrupt
        files_are_offered_only_where_they_hold_what_is_selected
        tables_alike_have_files_alike
        killed_while_files_are_taken
        killed_while_files_and_rows_take_turns
        killed_while_files_replace_readers_see_old_or_new
        overtaken_while_files_are_taken
    }
    killer {
        killed_between_every_two_calls
        killed_while_partitions_are_written_in_turns
        killed_while_a_table_without_partitions_is_copied
        killed_while_replacing_readers_see_old_or_new
        killed_while_dropping_readers_see_all_or_nothing
        killed_while_rows_are_told_apart
        overtaken_by_the_same_run_at_every_step
        overtaken_half_way_at_every_step
        overtaken_by_another_run_after_abandon_at_every_step
    }
}
