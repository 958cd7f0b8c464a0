//! What the documentation leaves open, one question each: what the server is made to do, what it answers, and what the engine needs of it. Those that the engine needs nothing of are asked for
//! whoever goes on from here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
};
use arrow::datatypes::{Int64Type, Schema};
use futures::TryStreamExt;
use futures::future::BoxFuture;
use strait_common::cpu::CpuPool;
use strait_common::engine::{Origin, Partition, Sink, Source, Version};
use strait_common::ids::TableName;
use strait_common::key::PartitionKey;
use strait_common::selection::{Selection, SelectionSpec};
use strait_common::{Error, Kind, OrError, Result};
use strait_dolphindb::{
    Argument, BATCH_BYTES, Blocks, Cluster, ColumnType, DolphinSink, DolphinSource, Login, Trust,
    Type, samples, texts_of,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Server;

/// Where they are asked.
pub(crate) const DATABASE: &str = "dfs://strait_live";
const TABLE: &str = "loadTable(\"dfs://strait_live\", \"t\")";
/// The first day of the scheme that most of them use, and the one that rows are of.
const DAY: &str = "2024.10.04";
const BY_DAY: &str = "database(\"dfs://strait_live\", VALUE, [2024.10.03, 2024.10.04, 2024.10.05])";

/// A question.
pub(crate) struct Question {
    pub(crate) name: &'static str,
    pub(crate) asks: &'static str,
    pub(crate) assumes: &'static str,
    pub(crate) ask: for<'a> fn(&'a Server) -> BoxFuture<'a, Result<Found>>,
}

/// What was found.
pub(crate) struct Found {
    pub(crate) text: String,
    /// Whether the engine can live with it.
    pub(crate) right: bool,
}

fn found(text: impl Into<String>, right: bool) -> Result<Found> {
    Ok(Found {
        text: text.into(),
        right,
    })
}

macro_rules! questions {
    ($($name:ident: $asks:literal, $assumes:literal;)*) => {
        /// All of them.
        pub(crate) const QUESTIONS: &[Question] = &[$(Question {
            name: stringify!($name),
            asks: $asks,
            assumes: $assumes,
            ask: |server| Box::pin($name(server)),
        },)*];
    };
}

questions! {
    blocks_are_of_one_version:
        "Is an answer in blocks of one version, although rows are appended after its first block?",
        "needs that: a partition is read by one query";
    equal_versions_have_one_order:
        "Does a partition that nobody changes answer in one order each time?",
        "needs that: a run that goes on passes over the rows that it has";
    data_sources_tell_partitions:
        "Does getChunkPath of sqlDS tell the partitions, those without rows too, and can mr over one of them be read in blocks?",
        "needs the first where getTabletsMeta is refused, and asks by partition(column, key)";
    pieces_are_the_whole:
        "Do queries with `limit from, count` answer what one query does, in its order?",
        "needs that for partitions above query_max";
    blocks_of_no_rows:
        "How does a query without rows answer in blocks?",
        "understands no object, no block, an empty block and a plain table";
    versions_change_with_their_partition:
        "Do chunk id, version and rows change when rows are appended, and when a partition is dropped and filled again with the same rows, and not otherwise?",
        "needs that: equal ones are not read again";
    an_update_changes_the_version:
        "Do they change when a row is updated?",
        "needs that";
    rows_in_the_cache_are_counted:
        "TSDB: does getTabletsMeta count rows that are not flushed yet, and what do flush and compaction change?",
        "needs the count; a version that moves without a change costs a reading";
    rows_of_tables_that_keep_one_of_each_key:
        "keepDuplicates=LAST: which rows does getTabletsMeta count, and which does count(*)?",
        "needs nothing of the first, and the second after duplicates are gone";
    what_a_user_may_ask:
        "May this user call getTabletsMeta, getConsoleJobs and getClusterChunksStatus?",
        "needs the second; without the first nothing is taken for unchanged";
    a_request_that_is_sent_again:
        "Does the server drop a request whose clientId and seqNo it has seen, as the vendor's clients expect?",
        "needs nothing, and sends neither: a count decides";
    counting_one_partition:
        "TSDB: what does counting one partition of 200,000 rows take, beside counting all of the table?",
        "needs it to be exact; it is asked before each batch";
    directories_of_lists:
        "How are the directories of LIST partitions called?",
        "needs List0, List1, …: a chunk that is called otherwise is refused";
    checksums_of_nothing:
        "What are hex and crc32 of null?",
        "needs nothing: it writes null as the empty text first";
    checksums_of_a_partition:
        "Are the server's own checksums of a partition equal for equal rows in any order, and others where a cell is changed, is null or has changed places? Of which types?",
        "needs that for `strait verify --by sums`, and reads where they are refused";
    tables_are_made_anew:
        "Is a database of months, ranges, buckets and lists made by the script that its own description leads to, in TSDB with sort columns, a key and compressed columns?",
        "needs that where B has no such database yet";
    every_type_compressed:
        "Are compressed answers made by LZ4 and deltas alone?",
        "refuses anything else";
    primary_keys_in_a_description:
        "What does schema() say of a table with a primary key?",
        "needs engineType PKEY";
    tls_beside_plain:
        "Does the port take both TLS and plain connections?",
        "needs nothing: the URL says which";
    limits_of_a_node:
        "How many connections does a node take?",
        "keeps four at most that nobody uses, beside those of its streams";
    buckets_are_counted_alike:
        "Does hashBucket count as HASH partitions do?",
        "needs that: rows of another bucket are refused by it";
    partitions_are_added_twice:
        "Does addValuePartitions pass over values that are there, and addRangePartitions begin with the last edge?",
        "needs both";
    sessions_of_jobs:
        "Is the session of getConsoleJobs the number at the head of an answer, and is a job gone from there when it has ended?",
        "needs both: a lost request is waited for by them";
    login_by_rsa:
        "Is a login by RSA taken, and how long is the key?",
        "needs 2,048 bits or more, where SCRAM is not known";
    lists_without_items:
        "Does an array without items come back otherwise than an array of one null?",
        "keeps both as they come";
}

/// Those that the stand-in knows nothing of.
pub(crate) const UNANSWERED_BY_THE_STAND_IN: &[&str] = &[
    "an_update_changes_the_version",
    "checksums_of_nothing",
    "primary_keys_in_a_description",
    "limits_of_a_node",
    "sessions_of_jobs",
];

fn wrong(text: impl Into<String>) -> Error {
    Error::corrupt(text)
}

/// Rows of one day with these numbers: day, sym, n.
fn rows(numbers: std::ops::Range<i64>) -> Result<RecordBatch> {
    let count = usize::try_from(numbers.end - numbers.start).unwrap_or(0);
    let schema = Schema::new(vec![
        ColumnType::plain(Type::Date).field("day"),
        ColumnType::plain(Type::String).field("sym"),
        ColumnType::plain(Type::Long).field("n"),
    ]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(arrow::array::Date32Array::from(vec![20_000; count])),
        Arc::new(StringArray::from_iter_values(
            numbers.clone().map(|n| format!("S{}", n % 100)),
        )),
        Arc::new(Int64Array::from_iter_values(numbers)),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).or_error(Kind::Internal, "rows")
}

/// The table, in the database that this makes, divided by these columns, as the rest of the call has it.
async fn make(server: &Server, like: &RecordBatch, database: &str, by: &str) -> Result<Cluster> {
    let cluster = server.cluster()?;
    let mut lease = cluster.connect().await?;
    let connection = lease.connection();
    connection
        .upload("straitSample", &Argument::Table(like.slice(0, 0)))
        .await?;
    connection.script(database).await?;
    let make =
        format!("createPartitionedTable(database(\"{DATABASE}\"), straitSample, \"t\", {by})");
    connection.script(&make).await?;
    Ok(cluster)
}

async fn insert(cluster: &Cluster, rows: RecordBatch) -> Result<()> {
    let count = rows.num_rows();
    let mut lease = cluster.connect().await?;
    let inserted = lease
        .connection()
        .call(&format!("tableInsert{{{TABLE}}}"), &[Argument::Table(rows)])
        .await?
        .integer()?;
    if usize::try_from(inserted).ok() != Some(count) {
        return Err(wrong(format!("{inserted} of {count} rows were inserted")));
    }
    Ok(())
}

/// The numbers of blocks to come, and how many blocks.
async fn numbers(blocks: &mut Blocks) -> Result<(Vec<i64>, usize)> {
    let (mut numbers, mut count) = (Vec::new(), 0);
    while let Some(block) = blocks.next().await? {
        count += 1;
        let column = block.column_by_name("n");
        let column = column.and_then(|column| column.as_primitive_opt::<Int64Type>());
        let column = column.ok_or_else(|| wrong("a block without numbers"))?;
        numbers.extend_from_slice(column.values());
    }
    Ok((numbers, count))
}

async fn partitions(cluster: &Cluster) -> Result<Vec<Partition>> {
    let source = DolphinSource::new(cluster.clone());
    let table = TableName::new("strait_live", "t")?;
    let everything = Selection::everything(&source.describe(&table).await?.schema);
    let partitions = source.partitions(&table, &everything).await?;
    partitions.try_collect().await
}

/// The version of the one partition that has rows, and how many.
async fn version(cluster: &Cluster) -> Result<(String, u64)> {
    match partitions(cluster).await?.as_slice() {
        [one] => Ok((one.version.0.clone(), one.rows.unwrap_or(0))),
        other => Err(wrong(format!("{} partitions of one day", other.len()))),
    }
}

async fn count(cluster: &Cluster) -> Result<i64> {
    let asked = format!("exec count(*) from {TABLE} where partition(day, {DAY})");
    cluster.read(&asked).await?.integer()
}

async fn blocks_are_of_one_version(server: &Server) -> Result<Found> {
    let cluster = make(server, &rows(0..0)?, BY_DAY, "\"day\"").await?;
    insert(&cluster, rows(0..60_000)?).await?;
    let asked = format!("select * from {TABLE} where partition(day, {DAY})");
    let mut blocks = cluster.blocks(&asked, 8192).await?;
    let first = blocks.next().await?.map_or(0, |block| block.num_rows());
    insert(&cluster, rows(60_000..61_000)?).await?;
    let (rest, count) = numbers(&mut blocks).await?;
    let all = first + rest.len();
    found(
        format!(
            "{all} of 60,000 rows in {} blocks, 1,000 more appended meanwhile",
            count + 1
        ),
        all == 60_000,
    )
}

async fn equal_versions_have_one_order(server: &Server) -> Result<Found> {
    let cluster = make(server, &rows(0..0)?, BY_DAY, "\"day\"").await?;
    for from in [0, 10_000, 20_000] {
        insert(&cluster, rows(from..from + 10_000)?).await?;
    }
    let asked = format!("select n from {TABLE} where partition(day, {DAY})");
    let mut orders = BTreeSet::new();
    for _ in 0..5 {
        orders.insert(numbers(&mut cluster.blocks(&asked, 8192).await?).await?.0);
    }
    let of_insertion = orders.first().is_some_and(|order| order.is_sorted());
    found(
        format!(
            "{} orders in 5 readings, by insertion: {of_insertion}",
            orders.len()
        ),
        orders.len() == 1,
    )
}

async fn data_sources_tell_partitions(server: &Server) -> Result<Found> {
    let cluster = make(server, &rows(0..0)?, BY_DAY, "\"day\"").await?;
    insert(&cluster, rows(0..20_000)?).await?;
    let sources = format!("sqlDS(<select * from {TABLE}>)");
    let paths = cluster
        .read(&format!("getChunkPath({sources})"))
        .await?
        .texts()?;
    let asked = format!("ds = {sources}\nmr(ds[0:1], def(x): x, , , false)[0]");
    let read = match cluster.blocks(&asked, 8192).await {
        Ok(mut blocks) => {
            let (numbers, blocks) = numbers(&mut blocks).await?;
            format!("{} rows in {blocks} blocks", numbers.len())
        }
        Err(error) => error.to_string(),
    };
    let right = paths
        .iter()
        .any(|path| path.starts_with("/strait_live/20241004"));
    found(
        format!("paths {paths:?} of 3 partitions, of which 1 has rows; by mr: {read}"),
        right,
    )
}

async fn pieces_are_the_whole(server: &Server) -> Result<Found> {
    let cluster = make(server, &rows(0..0)?, BY_DAY, "\"day\"").await?;
    for from in [0, 10_000, 20_000] {
        insert(&cluster, rows(from..from + 10_000)?).await?;
    }
    let asked = format!("select n from {TABLE} where partition(day, {DAY}), n != 5");
    let whole = numbers(&mut cluster.blocks(&asked, 8192).await?).await?.0;
    let mut pieces = Vec::new();
    for from in [0, 8192, 16_384, 24_576] {
        let asked = format!("{asked} limit {from}, 8192");
        pieces.extend(numbers(&mut cluster.blocks(&asked, 8192).await?).await?.0);
    }
    found(
        format!(
            "{} rows in one query, {} in four",
            whole.len(),
            pieces.len()
        ),
        whole.len() == 29_999 && whole == pieces,
    )
}

async fn blocks_of_no_rows(server: &Server) -> Result<Found> {
    let cluster = make(server, &rows(0..0)?, BY_DAY, "\"day\"").await?;
    insert(&cluster, rows(0..10)?).await?;
    let mut texts = Vec::new();
    for condition in ["n < 0", "partition(day, 2024.10.05)"] {
        let asked = format!("select * from {TABLE} where {condition}");
        let mut blocks = cluster.blocks(&asked, 8192).await?;
        let (numbers, blocks) = numbers(&mut blocks).await?;
        if !numbers.is_empty() {
            return Err(wrong(format!("{condition} selects {} rows", numbers.len())));
        }
        texts.push(format!("{blocks} blocks where {condition}"));
    }
    // The same connection is asked again.
    let after = cluster.read("1+1").await?.integer()?;
    found(
        format!("{}; afterwards the connection goes on", texts.join(", ")),
        after == 2,
    )
}

async fn versions_change_with_their_partition(server: &Server) -> Result<Found> {
    let cluster = make(server, &rows(0..0)?, BY_DAY, "\"day\"").await?;
    insert(&cluster, rows(0..10)?).await?;
    let (first, again) = (version(&cluster).await?, version(&cluster).await?);
    insert(&cluster, rows(10..11)?).await?;
    let appended = version(&cluster).await?;
    let drop = format!("dropPartition(database(\"{DATABASE}\"), \"/20241004\", \"t\")");
    let mut versions = vec![first.0.clone(), appended.0.clone()];
    for _ in 0..2 {
        server.script(&drop).await?;
        insert(&cluster, rows(0..11)?).await?;
        versions.push(version(&cluster).await?.0);
    }
    let different: BTreeSet<&String> = versions.iter().collect();
    let right = first == again && different.len() == versions.len() && appended.1 == 11;
    found(
        format!("unchanged {}, then {}", again.0, versions[1..].join(", ")),
        right,
    )
}

async fn an_update_changes_the_version(server: &Server) -> Result<Found> {
    let cluster = make(server, &rows(0..0)?, BY_DAY, "\"day\"").await?;
    insert(&cluster, rows(0..10)?).await?;
    let before = version(&cluster).await?.0;
    server
        .script(&format!("update {TABLE} set n = 100 where n == 1"))
        .await?;
    let after = version(&cluster).await?.0;
    found(format!("{before}, then {after}"), before != after)
}

/// A database of this engine, by day.
fn by_day_of(engine: &str) -> String {
    format!("database(\"{DATABASE}\", VALUE, [2024.10.03, 2024.10.04, 2024.10.05], , \"{engine}\")")
}

async fn rows_in_the_cache_are_counted(server: &Server) -> Result<Found> {
    let by = "\"day\", , [\"sym\", \"n\"]";
    let cluster = make(server, &rows(0..0)?, &by_day_of("TSDB"), by).await?;
    insert(&cluster, rows(0..1000)?).await?;
    let cached = version(&cluster).await?;
    let counted = count(&cluster).await?;
    let mut texts = vec![format!(
        "in the cache {} ({} rows of {counted})",
        cached.0, cached.1
    )];
    for act in [
        "flushTSDBCache()".to_owned(),
        "triggerTSDBCompaction(exec first(chunkId) from pnodeRun(getTabletsMeta{\"/strait_live/%\", \"t\", false, -1}))"
            .to_owned(),
    ] {
        let done = server.script(&act).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let name = act.split('(').next().unwrap_or_default().to_owned();
        texts.push(match done {
            Ok(_) => format!("after {name} {}", version(&cluster).await?.0),
            Err(error) => format!("{name}: {error}"),
        });
    }
    found(texts.join("; "), cached.1 == 1000 && counted == 1000)
}

async fn rows_of_tables_that_keep_one_of_each_key(server: &Server) -> Result<Found> {
    let by = "\"day\", , [\"sym\", \"n\"], LAST";
    let cluster = make(server, &rows(0..0)?, &by_day_of("TSDB"), by).await?;
    for _ in 0..2 {
        insert(&cluster, rows(0..1000)?).await?;
    }
    let (metadata, counted) = (version(&cluster).await?.1, count(&cluster).await?);
    let said = server
        .script(&format!("schema({TABLE}).keepDuplicates"))
        .await?
        .text()?;
    found(
        format!(
            "1,000 rows twice: {metadata} by getTabletsMeta, {counted} by count(*); schema says {said}"
        ),
        counted == 1000 && said == "LAST",
    )
}

async fn what_a_user_may_ask(server: &Server) -> Result<Found> {
    let cluster = make(server, &rows(0..0)?, BY_DAY, "\"day\"").await?;
    insert(&cluster, rows(0..10)?).await?;
    let user = server.options().user.as_ref();
    let mut texts = vec![user.map_or_else(|| "a guest".to_owned(), |user| user.name.clone())];
    let mut needed = true;
    for (name, asked, need) in [
        (
            "getTabletsMeta",
            "pnodeRun(getTabletsMeta{\"/strait_live/%\", \"t\", false, -1})",
            false,
        ),
        ("getConsoleJobs", "pnodeRun(getConsoleJobs)", true),
        (
            "getClusterChunksStatus",
            "rpc(getControllerAlias(), getClusterChunksStatus)",
            false,
        ),
    ] {
        let answer = server
            .script(&format!("select count(*) as c from {asked}"))
            .await;
        needed &= answer.is_ok() || !need;
        texts.push(match answer {
            Ok(_) => format!("{name} is answered"),
            Err(error) => format!("{name}: {error}"),
        });
    }
    found(texts.join("; "), needed)
}

/// By hand: the client sends neither of them. The password would go in plain text, so only where it does so anyway, or to this machine.
async fn a_request_that_is_sent_again(server: &Server) -> Result<Found> {
    let cluster = make(server, &rows(0..0)?, BY_DAY, "\"day\"").await?;
    let options = server.options();
    let site = &options.sites[0];
    let here = matches!(site.host.as_str(), "127.0.0.1" | "localhost" | "::1");
    let known = options.user.is_none() || here || options.login == Login::Plain;
    if options.tls.is_some() || !known {
        return Err(Error::refused(
            "it is asked over a plain connection by a guest, on the server's own machine, or with login=plain in the URL",
        ));
    }
    let broken = |error: std::io::Error| Error::unavailable("by hand").with_source(error);
    let mut stream = TcpStream::connect((site.host.as_str(), site.port))
        .await
        .map_err(broken)?;
    let mut head = String::new();
    let script = format!("script\ntableInsert({TABLE}, [{DAY}], [\"A\"], [7l])");
    let connect = match &options.user {
        Some(user) => {
            let password = server.plain_password()?;
            format!("connect\nlogin\n{}\n{password}\nfalse", user.name)
        }
        None => "connect\n".to_owned(),
    };
    let client = "5f1d0c52-0b61-4b0e-9d3f-3b9a4f1f7a11";
    for (command, identity) in [
        (&connect, String::new()),
        (&script, format!("_0__{client}_1")),
        (&script, format!("_0__{client}_-1")),
    ] {
        let session = head.split_whitespace().next().unwrap_or("0").to_owned();
        let request = format!(
            "API {session} {} / 32_1_4_64_{identity}\n{command}",
            command.len()
        );
        stream.write_all(request.as_bytes()).await.map_err(broken)?;
        let mut answer = vec![0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut answer)).await;
        let read = read
            .map_err(|_| Error::unavailable("no answer within 10 s"))?
            .map_err(broken)?;
        head = String::from_utf8_lossy(&answer[..read]).into_owned();
        if head.split('\n').nth(1) != Some("OK") {
            return Err(Error::refused(format!("'{}'", head.escape_debug())));
        }
    }
    let rows = count(&cluster).await?;
    found(
        match rows {
            1 => "it was dropped: one row is there".to_owned(),
            rows => format!("it was carried out again: {rows} rows are there"),
        },
        true,
    )
}

async fn counting_one_partition(server: &Server) -> Result<Found> {
    let by = "\"day\", , [\"sym\", \"n\"]";
    let cluster = make(server, &rows(0..0)?, &by_day_of("TSDB"), by).await?;
    insert(&cluster, rows(0..200_000)?).await?;
    let begun = Instant::now();
    let one = count(&cluster).await?;
    let took = begun.elapsed();
    let begun = Instant::now();
    let all = cluster
        .read(&format!("exec count(*) from {TABLE}"))
        .await?
        .integer()?;
    found(
        format!(
            "{one} rows in {took:?}, all of the table in {:?}",
            begun.elapsed()
        ),
        one == 200_000 && all == 200_000,
    )
}

async fn directories_of_lists(server: &Server) -> Result<Found> {
    let database = format!("database(\"{DATABASE}\", LIST, ([\"S1\", \"S2\"], [\"S3\"]))");
    let cluster = make(server, &rows(0..0)?, &database, "\"sym\"").await?;
    insert(&cluster, rows(1..4)?).await?;
    let asked = "select dfsPath, rowNum from pnodeRun(getTabletsMeta{\"/strait_live/%\", \"t\", false, -1})";
    let table = cluster.read(asked).await?.into_table()?;
    let paths = table
        .column_by_name("dfsPath")
        .ok_or_else(|| wrong("no paths"))?;
    let paths = texts_of(paths)?;
    let named = |name: &str| paths.iter().any(|path| path.contains(name));
    let right = named("/strait_live/List0") && named("/strait_live/List1");
    found(paths.join(", "), right)
}

async fn checksums_of_nothing(server: &Server) -> Result<Found> {
    let mut texts = Vec::new();
    for asked in [
        "hex(00i)",
        "crc32(hex(00i))",
        "crc32(string(00i))",
        "sum(crc32([\"a\", \"\"]))",
    ] {
        let answer = server.script(asked).await?;
        texts.push(format!("{asked} is {answer:?}"));
    }
    found(texts.join("; "), true)
}

/// The same rows with other numbers.
fn numbered(rows: &RecordBatch, numbers: Vec<Option<i64>>) -> Result<RecordBatch> {
    let mut columns = rows.columns().to_vec();
    columns[2] = Arc::new(Int64Array::from(numbers));
    RecordBatch::try_new(rows.schema(), columns).or_error(Kind::Internal, "rows")
}

async fn checksums_of_a_partition(server: &Server) -> Result<Found> {
    let cluster = make(server, &rows(0..0)?, BY_DAY, "\"day\"").await?;
    let source = DolphinSource::new(cluster.clone());
    let table = TableName::new("strait_live", "t")?;
    let everything = Selection::everything(&source.describe(&table).await?.schema);
    let given = rows(0..1000)?;
    let numbers: Vec<Option<i64>> = (0..1000).map(Some).collect();
    let (mut swapped, mut changed, mut emptied) =
        (numbers.clone(), numbers.clone(), numbers.clone());
    // Of rows with other symbols: each column's own sum stays.
    swapped.swap(3, 4);
    let nameless = {
        let mut columns = given.columns().to_vec();
        let names = (0..1000).map(|n| (n != 3).then(|| format!("S{}", n % 100)));
        columns[1] = Arc::new(names.collect::<StringArray>());
        RecordBatch::try_new(given.schema(), columns).or_error(Kind::Internal, "rows")?
    };
    changed[7] = Some(1_000_007);
    emptied[0] = None;
    let reversed: Vec<RecordBatch> = vec![given.slice(500, 500), given.slice(0, 500)];
    let fills = [
        vec![given.clone()],
        reversed,
        vec![numbered(&given, swapped.clone())?],
        // The same where one of the two has a null beside.
        vec![nameless.clone()],
        vec![numbered(&nameless, swapped)?],
        vec![numbered(&given, changed)?],
        vec![numbered(&given, emptied)?],
    ];
    let mut seen = Vec::new();
    for fill in fills {
        for rows in fill {
            insert(&cluster, rows).await?;
        }
        let found = partitions(&cluster).await?;
        let [one] = found.as_slice() else {
            return Err(wrong("not one partition"));
        };
        let sums = source.sums(&table, &everything, one).await?;
        seen.push(sums.ok_or_else(|| Error::refused("the server computes none"))?);
        let drop = format!("dropPartition(database(\"{DATABASE}\"), \"/20241004\", \"t\")");
        server.script(&drop).await?;
    }
    let equal = seen[0] == seen[1];
    let different: BTreeSet<&String> = seen[1..].iter().map(|sums| &sums.sums).collect();
    // Each type by itself, in a table that nothing divides.
    let sample = samples::table(1000)?;
    let mut lease = cluster.connect().await?;
    let connection = lease.connection();
    let sent = Argument::Table(sample.clone());
    connection.upload("straitSample", &sent).await?;
    let make = format!("createTable(database(\"{DATABASE}\"), straitSample, \"types\")");
    connection.script(&make).await?;
    let insert = "tableInsert(loadTable(\"dfs://strait_live\", \"types\"), straitSample)";
    connection.script(insert).await?;
    drop(lease);
    let types = TableName::new("strait_live", "types")?;
    let schema = source.describe(&types).await?.schema;
    let whole = Partition {
        key: PartitionKey::default(),
        rows: None,
        bytes: None,
        version: Version(String::new()),
        pin: String::new(),
        origin: Origin::default(),
    };
    let (mut without, mut lacking) = (Vec::new(), Vec::new());
    for field in schema.fields() {
        let spec = SelectionSpec {
            columns: Some(vec![field.name().clone()]),
            ..SelectionSpec::default()
        };
        let selection = Selection::resolve(&spec, &schema, 0)?;
        if source.sums(&types, &selection, &whole).await?.is_none() {
            let kind = ColumnType::of(field)?;
            without.push(kind.to_string());
            let never = matches!(
                kind.item,
                Type::Blob | Type::Complex | Type::Point | Type::Void
            );
            if !kind.array && !never {
                lacking.push(kind.to_string());
            }
        }
    }
    found(
        format!(
            "in another order equal: {equal}; swapped, changed, null: {} of 6 sums differ; none of {}",
            different.len(),
            without.join(", ")
        ),
        equal && different.len() == 6 && lacking.is_empty(),
    )
}

async fn tables_are_made_anew(server: &Server) -> Result<Found> {
    let like = rows(0..0)?;
    let months = "database(\"\", VALUE, [2024.09M, 2024.10M])";
    let ranges = "database(\"\", RANGE, [0, 500, 1000])";
    let lists = "database(\"\", LIST, ([\"S1\", \"S2\"], [\"S3\"]))";
    let buckets = "database(\"\", HASH, [STRING, 3])";
    let (mut texts, mut right) = (Vec::new(), true);
    for (third, engine, with) in [
        (
            lists,
            "TSDB",
            ", dict([\"n\"], [\"delta\"]), [\"sym\", \"n\"], LAST",
        ),
        (buckets, "OLAP", ""),
    ] {
        let database = format!(
            "database(\"{DATABASE}\", COMPO, [{months}, {ranges}, {third}], , \"{engine}\")"
        );
        let by = format!("[\"day\", \"n\", \"sym\"]{with}");
        let cluster = make(server, &like, &database, &by).await?;
        let source = DolphinSource::new(cluster.clone());
        let described = source
            .describe(&TableName::new("strait_live", "t")?)
            .await?;
        let name = TableName::new("strait_live", "anew")?;
        server
            .script(&format!("dropDatabase(\"{DATABASE}\")"))
            .await?;
        let directory = tempfile::tempdir()
            .map_err(|error| Error::unavailable("a journal").with_source(error))?;
        let cpu = CpuPool::new(1);
        let sink = DolphinSink::open(cluster, directory.path(), BATCH_BYTES, cpu, None)?;
        let wanted = strait_common::engine::Table {
            name: name.clone(),
            ..described.clone()
        };
        let prepared = sink.prepare(&name, &wanted, false).await?;
        let made = source.describe(&name).await?;
        // A scheme by value has its values when they come: all else is as it was.
        right &= made.recipe == described.recipe && made.divisions == described.divisions;
        texts.push(format!(
            "{}: {}",
            prepared.created.join(", "),
            made.recipe == described.recipe
        ));
        server
            .script(&format!("dropDatabase(\"{DATABASE}\")"))
            .await?;
    }
    found(texts.join("; "), right)
}

async fn every_type_compressed(server: &Server) -> Result<Found> {
    let sample = samples::table(10_000)?;
    let mut options = server.options().clone();
    options.compress = true;
    let compressed = Cluster::new(options)?;
    let mut lease = compressed.connect().await?;
    let connection = lease.connection();
    let sent = Argument::Table(sample.clone());
    connection.upload("straitSample", &sent).await?;
    let back = connection.script("straitSample").await?.into_table()?;
    let mut changed = Vec::new();
    for (at, field) in sample.schema().fields().iter().enumerate() {
        let (given, got) = (sample.column(at), back.column(at));
        let equal = match texts_of(given) {
            Ok(texts) => texts_of(got)? == texts,
            Err(_) => given == got,
        };
        if !equal || given.null_count() != got.null_count() {
            changed.push(field.name().clone());
        }
    }
    found(
        format!(
            "{} columns read, changed: {changed:?}",
            sample.num_columns()
        ),
        changed.is_empty(),
    )
}

async fn primary_keys_in_a_description(server: &Server) -> Result<Found> {
    let by = "\"day\", , [\"day\", \"n\"]";
    let cluster = make(server, &rows(0..0)?, &by_day_of("PKEY"), by).await?;
    for _ in 0..2 {
        insert(&cluster, rows(0..10)?).await?;
    }
    let described = cluster.read(&format!("schema({TABLE})")).await?;
    let engine = described
        .get("engineType")?
        .map(|engine| engine.text())
        .transpose()?;
    let keys = match &described {
        strait_dolphindb::Object::Dictionary(entries) => entries
            .iter()
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>()
            .join(", "),
        other => other.form().to_owned(),
    };
    let counted = count(&cluster).await?;
    found(
        format!("engine {engine:?}; {counted} rows of 10 that were sent twice; it has {keys}"),
        engine.as_deref() == Some("PKEY") && counted == 10,
    )
}

async fn tls_beside_plain(server: &Server) -> Result<Found> {
    let mut options = server.options().clone();
    let asked = if options.tls.take().is_some() {
        "plain"
    } else {
        // Nobody has this fingerprint: that it is refused says that TLS is spoken.
        options.tls = Some(Trust::Fingerprint([0; 32]));
        "TLS"
    };
    options.connect_timeout = Duration::from_secs(5);
    options.user = None;
    let text = match Cluster::new(options)?.connect().await {
        Ok(_) => "it is taken".to_owned(),
        Err(error) if error.kind() == Kind::Refused => format!("it is spoken: {error}"),
        Err(error) => format!("it is not spoken: {error}"),
    };
    found(format!("{asked} beside what the URL says: {text}"), true)
}

async fn limits_of_a_node(server: &Server) -> Result<Found> {
    let most = server.script("getConfig(\"maxConnections\")").await?;
    found(format!("maxConnections is {}", most.text()?), true)
}

async fn buckets_are_counted_alike(server: &Server) -> Result<Found> {
    let database = format!("database(\"{DATABASE}\", HASH, [STRING, 5])");
    let cluster = make(server, &rows(0..0)?, &database, "\"sym\"").await?;
    insert(&cluster, rows(0..1000)?).await?;
    let (mut all, mut strangers) = (0, 0);
    for bucket in 0..5 {
        let of = |condition: &str| {
            format!("exec count(*) from {TABLE} where partition(sym, {bucket}){condition}")
        };
        all += cluster.read(&of("")).await?.integer()?;
        let other = of(&format!(", hashBucket(sym, 5) != {bucket}"));
        strangers += cluster.read(&other).await?.integer()?;
    }
    found(
        format!("{all} of 1,000 rows in 5 buckets, {strangers} in another one by hashBucket"),
        all == 1000 && strangers == 0,
    )
}

async fn partitions_are_added_twice(server: &Server) -> Result<Found> {
    let cluster = make(server, &rows(0..0)?, BY_DAY, "\"day\"").await?;
    let add = format!("addValuePartitions(database(\"{DATABASE}\"), [2024.10.05, 2024.10.06], 0)");
    for _ in 0..2 {
        server.script(&add).await?;
    }
    insert(&cluster, rows(0..10)?).await?;
    server
        .script(&format!("dropDatabase(\"{DATABASE}\")"))
        .await?;
    let ranges = format!("database(\"{DATABASE}\", RANGE, [0, 10])");
    let cluster = make(server, &rows(0..0)?, &ranges, "\"n\"").await?;
    let add = format!("addRangePartitions(database(\"{DATABASE}\"), [10, 20], 0)");
    server.script(&add).await?;
    insert(&cluster, rows(5..15)?).await?;
    let partitions = partitions(&cluster).await?;
    let keys: Vec<String> = partitions.iter().map(|found| found.key.label()).collect();
    found(
        format!(
            "values are added twice; ranges [0, 10] and [10, 20]: {}",
            keys.join(", ")
        ),
        keys == ["n=[0,10)", "n=[10,20)"],
    )
}

async fn sessions_of_jobs(server: &Server) -> Result<Found> {
    let cluster = server.cluster()?;
    let mut lease = cluster.connect().await?;
    let session = lease.connection().session().to_owned();
    let jobs = format!("exec count(*) from pnodeRun(getConsoleJobs) where sessionId == {session}l");
    let looked = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        server.script(&jobs).await?.integer()
    };
    let (slept, during) = tokio::join!(lease.connection().script("sleep(3000)"), looked);
    slept?;
    let (during, after) = (during?, server.script(&jobs).await?.integer()?);
    found(
        format!("{during} jobs of that session while it sleeps, {after} afterwards"),
        during > 0 && after == 0,
    )
}

async fn login_by_rsa(server: &Server) -> Result<Found> {
    let key = server.script("getDynamicPublicKey()").await?.text()?;
    let mut options = server.options().clone();
    if options.user.is_none() {
        return Err(Error::refused(
            "a guest does not log in: name a user in the URL",
        ));
    }
    options.login = Login::Rsa;
    let text = format!("a key of {} characters", key.len());
    match Cluster::new(options)?.connect().await {
        Ok(_) => found(format!("{text}, and it is taken"), true),
        Err(error) => found(format!("{text}: {error}"), false),
    }
}

async fn lists_without_items(server: &Server) -> Result<Found> {
    let kind = ColumnType::list(Type::Int).field("l");
    let items = Int32Array::from(vec![Some(1), None]);
    let lengths = arrow::buffer::OffsetBuffer::from_lengths([1, 0, 1]);
    let arrow::datatypes::DataType::List(item) = kind.data_type().clone() else {
        return Err(Error::internal("a list is a list"));
    };
    let list = ListArray::try_new(item, lengths, Arc::new(items), None);
    let list: ArrayRef = Arc::new(list.or_error(Kind::Internal, "a list")?);
    let rows = RecordBatch::try_new(Arc::new(Schema::new(vec![kind])), vec![list]);
    let rows = rows.or_error(Kind::Internal, "rows")?;
    let cluster = server.cluster()?;
    let mut lease = cluster.connect().await?;
    let connection = lease.connection();
    connection
        .upload("straitLists", &Argument::Table(rows))
        .await?;
    let back = connection.script("straitLists").await?.into_table()?;
    let list = back.column(0).as_list::<i32>();
    let lengths: Vec<usize> = (0..list.len()).map(|row| list.value(row).len()).collect();
    found(
        format!("[1], [] and [null] come back with {lengths:?} items"),
        true,
    )
}
