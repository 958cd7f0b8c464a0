//! How a partition becomes visible at a server that commits one append at a time and keeps no ledger with it.
//!
//! All rows are in the journal, durable, before the first request. Then it is written down what is about to happen ([`Publishing`]); from there on it only goes
//! forward, whoever dies: the next attach sends what is missing. A partition that fits one batch becomes visible in one act; of a larger one readers may see a part meanwhile, and of
//! one that is replaced nothing between the removal and the first batch.
//!
//! Each batch is sent in one script that looks first: at the newest epoch of the table, and at how many rows the partition has. It appends only if both are what the journal
//! says. So a batch whose answer was lost can be sent again: if it was there already, the count says so. A count that is neither means that somebody else writes to the partition, which
//! is for a person, unless all that is there are the first of our own rows, in a partition that was empty before them: the server has lost the others, and those are removed and sent
//! once more. Before an answer that was lost is decided by a count, no request of that session may be running any more.
//!
//! A partition is published for one run at a time. What a run leaves half done is ended by the next attach, or stands in the way of whoever would append, until it is replaced; of
//! what may have been removed the ledger says nothing meanwhile. What has not begun is put together anew ([`Publishing::may_have_begun`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use strait_common::budget::Budget;
use strait_common::digest::{Digest, digest};
use strait_common::engine::{Cursor, Partition, ReadLimits, Source, Version};
use strait_common::frame::slice_bytes;
use strait_common::ids::{Epoch, RunId, TableName};
use strait_common::key::PartitionKey;
use strait_common::selection::{Selection, SelectionSpec};
use strait_common::{Error, Kind, OrError, Result};

use crate::cluster::Holder;
use crate::connection::Connection;
use crate::encode::Argument;
use crate::epochs::{self, TRIES_MAX, pause};
use crate::errors::{Cause, Failure};
use crate::object::{Object, integers_of, texts_of};
use crate::records::{Act, Entry, Piece, Publishing};
use crate::scheme::{self, Place};
use crate::script::{self, quoted};
use crate::sink::Inner;
use crate::source::{Described, handle};

/// How long an older request may still run before its partition waits for the next attempt.
const QUIET_MAX: Duration = Duration::from_secs(60);
/// What reading back takes at a time.
pub(crate) const READ_BYTES: u64 = 4 << 20;

/// One attempt on one table.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) inner: Arc<Inner>,
    pub(crate) table: TableName,
    pub(crate) run: RunId,
    pub(crate) epoch: Epoch,
    /// Whether an older request was waited for in vain: the next ones are looked for once.
    pub(crate) impatient: AtomicBool,
}

/// What the script of a request has found and done.
#[derive(Debug)]
struct Answer {
    /// The newest epoch.
    epoch: i64,
    /// Rows of the partition before.
    count: i64,
    /// Rows that are of another bucket.
    strangers: i64,
    /// Rows that were inserted; -1 if nothing was done.
    done: i64,
}

impl Answer {
    fn of(object: &Object) -> Result<Answer> {
        let numbers = match object {
            Object::Any(items) => items.iter().map(|item| item.integer().map(Some)).collect(),
            other => other.integers(),
        }?;
        match numbers.as_slice() {
            [epoch, Some(count), Some(strangers), Some(done)] => Ok(Answer {
                epoch: epoch.unwrap_or(0),
                count: *count,
                strangers: *strangers,
                done: *done,
            }),
            other => Err(Error::corrupt(format!(
                "four numbers were asked for, and the server answers {other:?}"
            ))),
        }
    }
}

/// Rows of pieces, as one batch: no piece is there twice, and for a moment all rows are.
pub(crate) fn decoded(pieces: Vec<Piece>, schema: &SchemaRef) -> Result<RecordBatch> {
    let mut batches = Vec::new();
    for piece in pieces {
        let reader = arrow::ipc::reader::StreamReader::try_new(piece.content.as_slice(), None);
        let reader = reader.or_error(Kind::Corrupt, "rows in the journal")?;
        for batch in reader {
            batches.push(batch.or_error(Kind::Corrupt, "rows in the journal")?);
        }
    }
    concat_batches(schema, &batches).or_error(
        Kind::Schema,
        "the table's columns have changed since rows were staged",
    )
}

/// Rows as the journal keeps them.
pub(crate) fn encoded(batches: &[RecordBatch], schema: &SchemaRef) -> Result<Piece> {
    let mut content = Vec::new();
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(&mut content, schema)
        .or_error(Kind::Internal, "rows for the journal")?;
    let (mut rows, mut bytes) = (0, 0);
    for batch in batches {
        rows += batch.num_rows() as u64;
        bytes += slice_bytes(batch);
        writer
            .write(batch)
            .or_error(Kind::Internal, "rows for the journal")?;
    }
    writer
        .finish()
        .or_error(Kind::Internal, "rows for the journal")?;
    drop(writer);
    Ok(Piece {
        rows,
        bytes,
        content,
    })
}

impl Attempt {
    pub(crate) async fn step(&self, what: &'static str) -> Result<()> {
        self.inner.step(what).await
    }

    /// The start of every script that changes a partition: what it looks at.
    fn looks(&self, place: &Place) -> Result<String> {
        let handle = handle(&self.table)?;
        let mut count = format!("c = exec count(*) from {handle}");
        if !place.conditions.is_empty() {
            count.push_str(&format!(" where {}", place.conditions.join(", ")));
        }
        Ok(format!("{}\n{count}", epochs::newest(&self.table)?))
    }

    /// The partition as readers of B see it, and the digest of its rows in these columns.
    ///
    /// # Errors
    /// `Unavailable` if it changes meanwhile.
    pub(crate) async fn seen(
        &self,
        described: &Described,
        key: &PartitionKey,
        columns: &[String],
        read: bool,
    ) -> Result<Option<(Partition, Digest)>> {
        let seen = self.seen_once(described, key, columns, read).await;
        seen.map_err(|error| match error.kind() {
            // That a partition has moved is said of A's, which is planned anew then.
            Kind::Moved => Error::unavailable(format!(
                "partition {} changes at B while it is read back",
                key.label()
            ))
            .with_source(error),
            _ => error,
        })
    }

    async fn seen_once(
        &self,
        described: &Described,
        key: &PartitionKey,
        columns: &[String],
        read: bool,
    ) -> Result<Option<(Partition, Digest)>> {
        let source = &self.inner.source;
        let (table, levels) = (&self.table, &described.levels);
        let mut chunks = source.chunks(table, levels, Some(key)).await?;
        if chunks.is_empty() {
            // Metadata may know nothing yet of what is in a cache of the server's.
            chunks = source.unversioned(table, levels, Some(key), 0).await?;
        }
        let Some(mut partition) = chunks.remove(key) else {
            return Ok(None);
        };
        let mut sum = Digest::default();
        if read {
            let mut rows = 0;
            let spec = SelectionSpec {
                columns: Some(columns.to_vec()),
                ..SelectionSpec::default()
            };
            let selection = Selection::resolve(&spec, &described.schema, 0)?;
            let limits = ReadLimits {
                batch_bytes: READ_BYTES,
                budget: Budget::new(64 << 20)?,
            };
            let start = Cursor::start();
            let mut batches = source
                .read(&self.table, &selection, &partition, &start, &limits)
                .await?;
            while let Some(batch) = batches.try_next().await? {
                rows += batch.records.num_rows() as u64;
                let digest = self.inner.cpu.run(move || digest(&batch.records)).await?;
                sum = sum.plus(digest);
            }
            // What is read counts, whatever the metadata say.
            partition.rows = Some(rows);
        }
        Ok(Some((partition, sum)))
    }

    /// Writes down how far it is.
    async fn save(&self, what: &Publishing) -> Result<()> {
        self.step("write down how far it is").await?;
        let (table, epoch, what) = (self.table.clone(), self.epoch, what.clone());
        let saved = self.inner.journal.act(move |book| {
            book.check_epoch(&table, epoch)?;
            book.publish(&table, &what)
        });
        saved.await
    }

    /// Notes why it cannot go on, and says so. Of what has not begun nobody asks: it is put together anew.
    async fn trouble(&self, what: &mut Publishing, kind: Kind, why: String) -> Error {
        what.trouble = Some(why.clone());
        if let Err(error) = self.save(what).await {
            return error;
        }
        Error::new(kind, why)
    }

    /// Publishes what the journal says, from where it is. Once this returns it is done and in the ledger.
    ///
    /// # Errors
    /// `Refused` where it cannot go on without a person, which stays so.
    pub(crate) async fn push(&self, mut what: Publishing) -> Result<()> {
        if let Some(why) = &what.trouble {
            return Err(Error::refused(why.clone()));
        }
        self.quiet(&what.session).await?;
        what.unheard |= !what.session.is_empty();
        let pushed = self.go_on(&mut what).await;
        if let Err(error) = &pushed {
            self.inner.source.forget(&self.table);
            if error.kind() != Kind::Fenced {
                // Its requests were answered, maybe: then nobody need look for them, and their connection serves others.
                self.save(&what).await?;
            }
        }
        pushed
    }

    async fn go_on(&self, what: &mut Publishing) -> Result<()> {
        let source = &self.inner.source;
        let described = source.described_with(&self.table, &what.key).await?;
        let place = scheme::place(&what.key, &described.levels)?;
        let Some(place) = place else {
            if what.act == Act::Drop {
                return self.end(what, None).await;
            }
            return Err(Error::refused(format!(
                "the table has no partition {}",
                what.key.label()
            )));
        };
        if !what.cleared {
            self.clear(what, &place, "c > 0").await?;
            what.cleared = true;
            self.save(what).await?;
        }
        loop {
            if what.act != Act::Drop {
                self.append_all(what, &described, &place).await?;
            }
            if let Some(proved) = self.prove(what, &described, &place).await? {
                return self.end(what, proved.version).await;
            }
        }
    }

    /// Removes what is there, if there is as much as this says. False if there is as much as it does not say.
    async fn clear(&self, what: &mut Publishing, place: &Place, rows: &str) -> Result<bool> {
        let database = quoted(&format!("dfs://{}", self.table.database()))?;
        let name = quoted(self.table.table())?;
        let path = script::text(&place.path).ok_or_else(|| {
            let label = what.key.label();
            Error::refused(format!("partition {label} has no path in a script"))
        })?;
        let removal = if place.path.is_empty() {
            format!("truncate({database}, {name})")
        } else {
            format!("dropPartition(database({database}), {path}, {name})")
        };
        let script = format!(
            "{}\nn = -1\nif (e == {} && {rows}) {{ {removal}; n = 0 }}\n[e, c, 0, n]",
            self.looks(place)?,
            self.epoch
        );
        let answer = self.request(what, None, &script).await?;
        self.check_newest(&answer)?;
        what.unheard = false;
        // Nothing is removed where there is nothing.
        Ok(answer.done == 0 || answer.count == 0)
    }

    fn check_newest(&self, answer: &Answer) -> Result<()> {
        if u64::try_from(answer.epoch).ok() == Some(self.epoch.0) {
            return Ok(());
        }
        Err(Error::fenced(format!(
            "epoch {} of table {} is over: the server's ledger has epoch {}",
            self.epoch, self.table, answer.epoch
        )))
    }

    async fn append_all(
        &self,
        what: &mut Publishing,
        described: &Described,
        place: &Place,
    ) -> Result<()> {
        while what.done_pieces < what.pieces {
            let (writer, from) = (what.writer.clone(), what.done_pieces);
            // The count can only tell of the batch that was sent.
            let (to, bytes) = if what.sent_pieces > from {
                (what.sent_pieces, u64::MAX)
            } else {
                (what.pieces, self.inner.batch_bytes)
            };
            let journal = &self.inner.journal;
            let pieces = journal.act(move |book| book.pieces(&writer, from, to, bytes));
            let pieces = pieces.await?;
            if pieces.is_empty() {
                return Err(Error::corrupt(format!(
                    "the sink's journal lacks rows of partition {} that it has acknowledged",
                    what.key.label()
                )));
            }
            let (count, rows) = (
                pieces.len() as u64,
                pieces.iter().map(|p| p.rows).sum::<u64>(),
            );
            if rows > 0 {
                let schema = Arc::clone(&described.schema);
                let batch = self.inner.cpu.run(move || decoded(pieces, &schema)).await?;
                let batch = (batch, from + count);
                if !self.append(what, described, place, batch).await? {
                    continue;
                }
            }
            what.done_pieces += count;
            what.done_rows += rows;
        }
        Ok(())
    }

    /// One batch, which goes up to this piece. False if all of them are to be sent again.
    async fn append(
        &self,
        what: &mut Publishing,
        described: &Described,
        place: &Place,
        batch: (RecordBatch, u64),
    ) -> Result<bool> {
        let rows = batch.0.num_rows() as u64;
        let expected = what.before + what.done_rows;
        let strangers = if place.strangers.is_empty() {
            "m = 0".to_owned()
        } else {
            format!(
                "m = exec count(*) from straitRows where {}",
                place.strangers.join(" or ")
            )
        };
        let script = format!(
            "{}\n{strangers}\nn = -1\nif (e == {} && c == {expected} && m == 0) {{ n = tableInsert({}, straitRows) }}\nundef(\"straitRows\", VAR)\n[e, c, m, n]",
            self.looks(place)?,
            self.epoch,
            handle(&self.table)?
        );
        let answer = self.request(what, Some(batch), &script).await?;
        self.check_newest(&answer)?;
        let label = what.key.label();
        if answer.done == -1 && what.done_pieces == 0 && !what.unheard && !what.repaired {
            // Nothing of it is there.
            what.sent_pieces = 0;
        }
        if answer.strangers != 0 {
            let why = format!(
                "partition {label}: {} rows are of another bucket or list here: B does not tell them apart as A does, so make the table otherwise and copy to that",
                answer.strangers
            );
            return Err(self.trouble(what, Kind::Refused, why).await);
        }
        let number = |number: i64| u64::try_from(number).ok();
        if answer.done == -1 && what.unheard && number(answer.count) == Some(expected + rows) {
            // It was there already: its answer was lost.
            what.unheard = false;
            return Ok(true);
        }
        if answer.done == -1 {
            let there = number(answer.count).unwrap_or(0);
            if self.repair(what, described, place, there).await? {
                return Ok(false);
            }
            let why = format!(
                "partition {label} has {there} rows where {expected} were expected: {}",
                reason(described)
            );
            return Err(self.trouble(what, Kind::Refused, why).await);
        }
        if number(answer.done) != Some(rows) {
            let why = format!(
                "partition {label}: the server has taken {} of {rows} rows, and says nothing of the others",
                answer.done
            );
            return Err(self.trouble(what, Kind::Corrupt, why).await);
        }
        what.unheard = false;
        Ok(true)
    }

    /// Begins again where the server has lost rows that it had taken, if nobody can lose anything by that: the partition was empty before the first batch, and what it holds are the
    /// first of the rows that were sent. Those are removed. Once only: who loses rows twice is for a person.
    async fn repair(
        &self,
        what: &mut Publishing,
        described: &Described,
        place: &Place,
        there: u64,
    ) -> Result<bool> {
        if what.repaired || what.before > 0 || described.keyed {
            return Ok(false);
        }
        let Some(ours) = self.first_rows(what, described, there).await? else {
            return Ok(false);
        };
        let seen = self.seen(described, &what.key, &what.columns, true).await?;
        let (rows, found) = seen.map_or((0, Digest::default()), |(seen, digest)| {
            (seen.rows.unwrap_or(0), digest)
        });
        if rows != there || found != ours {
            return Ok(false);
        }
        tracing::warn!(
            partition = %what.key.label(),
            there,
            sent = what.done_rows,
            "the server has lost rows that it had taken; those that are left are removed, and all are sent again"
        );
        if there > 0 && !self.clear(what, place, &format!("c == {there}")).await? {
            return Ok(false);
        }
        (what.done_rows, what.done_pieces, what.sent_pieces) = (0, 0, 0);
        what.repaired = true;
        self.save(what).await?;
        Ok(true)
    }

    /// The digest of the first so many rows that were sent, by the run's columns; none if fewer were.
    async fn first_rows(
        &self,
        what: &Publishing,
        described: &Described,
        rows: u64,
    ) -> Result<Option<Digest>> {
        let (mut left, mut sum) = (rows, Digest::default());
        for at in 0..what.sent_pieces {
            if left == 0 {
                break;
            }
            let (writer, journal) = (what.writer.clone(), &self.inner.journal);
            let piece = journal.act(move |book| book.pieces(&writer, at, at + 1, u64::MAX));
            let (piece, schema) = (piece.await?, Arc::clone(&described.schema));
            let (columns, most) = (
                what.columns.clone(),
                usize::try_from(left).unwrap_or(usize::MAX),
            );
            let digested = self.inner.cpu.run(move || {
                let rows = decoded(piece, &schema)?;
                let rows = rows.slice(0, rows.num_rows().min(most));
                let places = columns.iter().map(|column| schema.index_of(column));
                let places = places.collect::<Result<Vec<_>, _>>();
                let places = places.or_error(Kind::Schema, "the columns of a run")?;
                let rows = rows
                    .project(&places)
                    .or_error(Kind::Schema, "the columns of a run")?;
                Ok((rows.num_rows() as u64, digest(&rows)?))
            });
            let (count, digest) = digested.await?;
            left -= count;
            sum = sum.plus(digest);
        }
        Ok((left == 0).then_some(sum))
    }

    /// Sends one request until it is answered, however often its answer is lost; with rows, up to which piece they go.
    async fn request(
        &self,
        what: &mut Publishing,
        rows: Option<(RecordBatch, u64)>,
        script: &str,
    ) -> Result<Answer> {
        let upto = rows.as_ref().map_or(what.sent_pieces, |(_, upto)| *upto);
        let rows = rows.map(|(rows, _)| Argument::Table(rows));
        let mut tries = 0;
        // Before a batch it is written down how far it goes, and with it that those before are done.
        let mut unsaved = rows.is_some();
        loop {
            let mut lease = self.inner.cluster.connect().await?;
            let session = lease.connection().session().to_owned();
            if unsaved || session != what.session {
                what.session = session;
                what.sent_pieces = upto;
                self.save(what).await?;
                unsaved = false;
            }
            self.step("send a request").await?;
            let sent = send(lease.connection(), rows.as_ref(), script).await;
            self.step("hear of a request").await?;
            if !matches!(sent, Err(Failure::Lost(_))) {
                what.session.clear();
            }
            let failure = match sent {
                Ok(object) => {
                    let answer = Answer::of(&object);
                    what.unheard |= answer.is_err();
                    return answer;
                }
                Err(failure) => failure,
            };
            what.unheard |= !failure.proves_nothing_was_done();
            if !what.unheard {
                what.sent_pieces = what.done_pieces;
            }
            drop(lease);
            if tries >= TRIES_MAX {
                return Err(failure.into());
            }
            match failure {
                Failure::Lost(error) => {
                    tracing::warn!(%error, partition = %what.key.label(), "an answer was lost; it is asked again");
                    self.quiet(&what.session).await?;
                }
                Failure::Server(error) if error.cause == Cause::ChunkLocked => {}
                Failure::Server(error) if error.cause.is_for_another_site() => {
                    self.inner.cluster.avoid(&error.cause);
                }
                other => return Err(other.into()),
            }
            pause(tries).await;
            tries += 1;
        }
    }

    /// Waits until no request of this session runs any more; those that do are cancelled.
    pub(crate) async fn quiet(&self, session: &str) -> Result<()> {
        if session.is_empty() {
            return Ok(());
        }
        let first = self.inner.cluster.holder(session);
        let mut until = tokio::time::Instant::now();
        if !self.impatient.load(Ordering::Relaxed) {
            until += QUIET_MAX;
        }
        while let Some(holder) = self.inner.cluster.holder(session) {
            // One that waits for the next, or that somebody has taken anew, is in step: what was sent in it was answered.
            if holder == Holder::Idle || Some(holder) != first {
                return Ok(());
            }
            if tokio::time::Instant::now() >= until {
                return Err(Error::unavailable(
                    "an older request of this sink is still under way, so nobody can tell what it has written",
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let asked = "select rootJobId, sessionId from pnodeRun(getConsoleJobs)";
        loop {
            let running = self.inner.cluster.read(asked).await?.into_table()?;
            let column = |name: &str| {
                running.column_by_name(name).ok_or_else(|| {
                    Error::corrupt(format!("the server's list of jobs lacks {name}"))
                })
            };
            let jobs = texts_of(column("rootJobId")?)?;
            let sessions = integers_of(column("sessionId")?)?;
            let ours: Vec<String> = jobs
                .into_iter()
                .zip(sessions)
                .filter(|(_, of)| of.is_some_and(|of| of.to_string() == session))
                .map(|(job, _)| job)
                .collect();
            if ours.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= until {
                self.impatient.store(true, Ordering::Relaxed);
                return Err(Error::unavailable(format!(
                    "an older request still runs at the server (console job {}), so nobody can tell what it has written",
                    ours.join(", ")
                )));
            }
            for job in ours {
                if let Some(job) = script::text(&job) {
                    // It may have ended meanwhile.
                    let cancel = format!("cancelConsoleJob({job})");
                    if let Err(error) = self.inner.cluster.read(&cancel).await {
                        tracing::debug!(%error, "a console job was not cancelled");
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Reads back what is there, and compares. None if all rows are to be sent again.
    async fn prove(
        &self,
        what: &mut Publishing,
        described: &Described,
        place: &Place,
    ) -> Result<Option<Proved>> {
        let Some(receipt) = what.receipt.clone() else {
            return Ok(Some(Proved { version: None }));
        };
        let sent = what.done_rows > 0;
        let seen = self.seen(described, &what.key, &what.columns, sent).await?;
        let rows = seen.as_ref().and_then(|(seen, _)| seen.rows).unwrap_or(0);
        let label = what.key.label();
        if rows != what.before + what.done_rows {
            if self.repair(what, described, place, rows).await? {
                return Ok(None);
            }
            let why = format!(
                "partition {label} has {rows} rows, and {} should be there: {}",
                what.before + what.done_rows,
                reason(described)
            );
            return Err(self.trouble(what, Kind::Refused, why).await);
        }
        if let Some((_, found)) = &seen
            && sent
            && *found != what.before_digest.plus(receipt.digest)
        {
            let why = format!(
                "partition {label}: what is read back has digest {found}, and {} was sent: the server has changed values",
                what.before_digest.plus(receipt.digest)
            );
            return Err(self.trouble(what, Kind::Corrupt, why).await);
        }
        Ok(Some(Proved {
            version: seen.map(|(seen, _)| seen.version),
        }))
    }

    /// The ledger's line, in one act with the end of what was begun.
    async fn end(&self, what: &Publishing, version: Option<Version>) -> Result<()> {
        self.step("write the ledger").await?;
        let (table, epoch, what) = (self.table.clone(), self.epoch, what.clone());
        let ended = self.inner.journal.act(move |book| {
            book.check_epoch(&table, epoch)?;
            let (run, key) = (what.run, &what.key);
            match what.receipt.clone() {
                None => {
                    book.forget(&table, key)?;
                    book.set_dropped(&table, run, key, true)?;
                }
                Some(receipt) => {
                    let entry = Entry {
                        run,
                        act: what.act,
                        receipt,
                        version,
                        whole: what.whole,
                    };
                    book.enter(&table, &entry)?;
                    book.set_dropped(&table, run, key, false)?;
                    book.unstage(&table, run, key)?;
                }
            }
            book.published(&table, key)
        });
        ended.await
    }
}

/// What is there was read, and is what was sent.
struct Proved {
    /// None where there are no rows.
    version: Option<Version>,
}

/// Why there are not as many rows as there should be, and what a person does about it.
fn reason(described: &Described) -> &'static str {
    if described.keyed {
        "the table keeps one row of each key, and rows that were sent have equal keys. Copy them to a table that keeps all"
    } else {
        "somebody else writes to it. Look at both sides, then copy it with --mode replace or mirror"
    }
}

async fn send(
    connection: &mut Connection,
    rows: Option<&Argument>,
    script: &str,
) -> Result<Object, Failure> {
    let Some(rows) = rows else {
        return connection.script(script).await;
    };
    connection.upload("straitRows", rows).await?;
    let sent = connection.script(script).await;
    if let Err(Failure::Server(_)) = &sent {
        // The script has ended before it came to that, and the session lives on.
        let freed = connection.script("undef(\"straitRows\", VAR)").await;
        if let Err(failure) = freed {
            tracing::debug!(error = %Error::from(failure), "the rows of a refused batch were not freed");
        }
    }
    sent
}
