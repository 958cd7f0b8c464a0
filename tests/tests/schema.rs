//! Columns that A has and B lacks, or the other way round: added, refused or left out, as asked for, before a row moves.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use strait_common::engine::{Space, Table};
use strait_proto::v1;
use strait_proto::v1::SchemaPolicy;
use strait_tests::agents::{Operator, SinkAgent, SourceAgent, selectors};
use strait_tests::held::{Act, Hand};
use strait_tests::lakes::{self, Lakes, TABLE, label};
use tonic::Status;

const ROWS: u64 = 100;

/// The table of every test with one more column.
fn wider() -> Table {
    let table = lakes::wanted();
    let fields = table.schema.fields().iter().cloned();
    let venue = Arc::new(Field::new("venue", DataType::Utf8, true));
    Table {
        schema: Arc::new(Schema::new(fields.chain([venue]).collect::<Vec<_>>())),
        ..table
    }
}

/// Adds the column to a lake's table, and a day of rows that have it.
async fn widen(lake: &Path, day: u32) {
    let sink = lakes::open(lake).await.sink;
    let table = wider();
    let added = sink
        .add_columns(&table.name, &table, false)
        .await
        .expect("a column");
    assert_eq!(added, ["venue"]);
    let rows = lakes::rows(day, 0..ROWS);
    let venue: ArrayRef = Arc::new(StringArray::from(vec!["XNYS"; rows.num_rows()]));
    let columns = rows.columns().iter().cloned().chain([venue]).collect();
    let rows = RecordBatch::try_new(Arc::clone(&table.schema), columns).expect("rows");
    lakes::append(&sink, &table, day, "wider", [rows]).await;
}

async fn start(
    operator: &Operator,
    kind: v1::mode::Kind,
    policy: SchemaPolicy,
) -> Result<String, Status> {
    let request = v1::StartRunRequest {
        selectors: Some(selectors()),
        mode: Some(v1::Mode {
            kind: kind.into(),
            ..v1::Mode::default()
        }),
        schema_policy: policy.into(),
        ..v1::StartRunRequest::default()
    };
    let reply = operator.control.clone().start_run(request).await?;
    Ok(reply.into_inner().run.expect("a run").id)
}

async fn plan(operator: &Operator, kind: v1::mode::Kind, policy: SchemaPolicy) -> v1::PlanSummary {
    let request = v1::PlanRequest {
        selectors: Some(selectors()),
        mode: Some(v1::Mode {
            kind: kind.into(),
            ..v1::Mode::default()
        }),
        schema_policy: policy.into(),
        ..v1::PlanRequest::default()
    };
    let replies = operator
        .control
        .clone()
        .plan(request)
        .await
        .expect("a plan");
    let (mut replies, mut found) = (replies.into_inner(), None);
    // To its end: the partitions are looked at after the summary.
    while let Some(reply) = replies.message().await.expect("an answer") {
        if let Some(v1::plan_reply::Body::Summary(summary)) = reply.body {
            found = Some(summary);
        }
    }
    found.expect("a summary")
}

fn what(summary: &v1::PlanSummary, name: &str) -> String {
    let mut columns = summary.mapping.iter();
    let column = columns.find(|column| column.name == name);
    column.expect("every column is in the plan").what.clone()
}

async fn columns_of_b(lakes: &Lakes) -> Vec<String> {
    let source = lakes::open(&lakes.b()).await.source;
    let table = source.describe(&TABLE.parse().expect("a name")).await;
    let schema = table.expect("the table").schema;
    schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_a_gains_is_added_refused_or_left_out() {
    use v1::mode::Kind;
    let lakes = Lakes::filled(2, ROWS).await;
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    assert_eq!(
        what(
            &plan(&operator, Kind::Append, SchemaPolicy::Evolve).await,
            "id"
        ),
        "created"
    );
    let id = start(&operator, Kind::Append, SchemaPolicy::Evolve).await;
    assert_eq!(operator.ended(&id.expect("a run")).await.status, "done");
    widen(&lakes.a(), 2).await;
    let before = columns_of_b(&lakes).await;

    // Refused: both sides are shown, and what can be done.
    let refused = start(&operator, Kind::Append, SchemaPolicy::Freeze).await;
    let refused = refused.expect_err("the column is missing");
    for words in [
        "venue",
        "Utf8",
        "missing at the sink",
        "--schema evolve",
        "--schema ignore",
    ] {
        assert!(refused.message().contains(words), "{refused}");
    }
    // Left out: the run and its receipts are of the other columns, and nothing changes at B.
    let left = plan(&operator, Kind::Mirror, SchemaPolicy::Ignore).await;
    assert_eq!(
        (what(&left, "venue").as_str(), what(&left, "id").as_str()),
        ("left out", "same")
    );
    assert!(!left.selection.contains("venue"), "{}", left.selection);
    let id = start(&operator, Kind::Append, SchemaPolicy::Ignore)
        .await
        .expect("a run");
    let run = operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    let progress = run.progress.expect("progress");
    assert_eq!(
        (progress.partitions_already, progress.partitions_done),
        (2, 1)
    );
    assert_eq!(columns_of_b(&lakes).await, before);
    let selected = v1::VerifyRequest {
        selectors: Some(v1::Selectors {
            columns: before.clone(),
            ..selectors()
        }),
        sums: false,
    };
    let mut replies = operator
        .control
        .clone()
        .verify(selected)
        .await
        .expect("a stream")
        .into_inner();
    let mut equal = 0;
    while let Some(reply) = replies.message().await.expect("an answer") {
        if let Some(v1::verify_reply::Body::Totals(totals)) = reply.body {
            equal = totals.equal;
        }
    }
    assert_eq!(equal, 3);

    // Added: a plan only says so, a run does it, and a mirror heals what was copied without it.
    let added = plan(&operator, Kind::Mirror, SchemaPolicy::Evolve).await;
    assert_eq!(what(&added, "venue"), "added");
    assert!(
        added
            .created
            .iter()
            .any(|made| made == &format!("column {TABLE}.venue")),
        "{added:?}"
    );
    assert_eq!(columns_of_b(&lakes).await, before);
    let refused = start(&operator, Kind::Append, SchemaPolicy::Evolve)
        .await
        .expect("a run");
    let run = operator.ended(&refused).await;
    assert_eq!(
        run.status, "partial",
        "its rows are there, without the column: {run:?}"
    );
    for partition in operator.partitions(&run.id).await {
        assert!(
            partition.message.contains("other columns of the same rows"),
            "{partition:?}"
        );
    }
    let id = start(&operator, Kind::Mirror, SchemaPolicy::Evolve)
        .await
        .expect("a run");
    let run = operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    // Where the column is null at A, B is equal as it is.
    assert_eq!(run.progress.expect("progress").partitions_done, 1);
    assert_eq!(
        columns_of_b(&lakes).await.last().map(String::as_str),
        Some("venue")
    );
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_b_alone_has_becomes_null_and_one_that_differs_is_refused() {
    use v1::mode::Kind;
    let lakes = Lakes::filled(2, ROWS).await;
    let other = lakes::open(&lakes.b()).await.sink;
    let table = wider();
    other
        .prepare(&table.name, &table, false)
        .await
        .expect("a table");
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let summary = plan(&operator, Kind::Append, SchemaPolicy::Evolve).await;
    assert_eq!(what(&summary, "venue"), "null");
    let id = start(&operator, Kind::Append, SchemaPolicy::Evolve)
        .await
        .expect("a run");
    assert_eq!(operator.ended(&id).await.status, "done");
    // Another type, and one that must not be null there.
    let fields = table
        .schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "id" => Arc::new(Field::new("id", DataType::Int32, false)),
            "name" => Arc::new(Field::new("name", DataType::Utf8, false)),
            _ => Arc::clone(field),
        });
    let odd = Table {
        name: "db/odd".parse().expect("a name"),
        schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
        ..table
    };
    other
        .prepare(&odd.name, &odd, false)
        .await
        .expect("a table");
    let request = v1::StartRunRequest {
        selectors: Some(v1::Selectors {
            to: "b:db/odd".to_owned(),
            ..selectors()
        }),
        ..v1::StartRunRequest::default()
    };
    let refused = operator.control.clone().start_run(request).await;
    let refused = refused.expect_err("they do not fit");
    let message = refused.message();
    for words in [
        "column",
        "Int64 not null",
        "Int32 not null",
        "another type",
        "must not be null",
    ] {
        assert!(message.contains(words), "{message}");
    }
    // One line a column, both sides beside each other.
    assert_eq!(
        message
            .lines()
            .filter(|line| line.starts_with("  "))
            .count(),
        3,
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_refused_for_another_reason_has_added_no_column() {
    use v1::mode::Kind;
    let lakes = Lakes::filled(2, ROWS).await;
    widen(&lakes.a(), 2).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let b = lakes::open(&lakes.b()).await;
    let has_venue = async |table: &Table| {
        let there = b.source.describe(&table.name).await.expect("the table");
        there.schema.index_of("venue").is_ok()
    };
    let narrow = lakes::wanted();
    let with = |name: &str, change: &dyn Fn(&Field) -> Option<Field>| Table {
        name: name.parse().expect("a name"),
        schema: Arc::new(Schema::new(
            (narrow.schema.fields().iter())
                .flat_map(|field| change(field))
                .collect::<Vec<_>>(),
        )),
        ..narrow.clone()
    };
    let refused = async |table: &Table, kind: Kind, words: &str| {
        let request = v1::StartRunRequest {
            selectors: Some(v1::Selectors {
                to: format!("b:{}", table.name),
                ..selectors()
            }),
            mode: Some(v1::Mode {
                kind: kind.into(),
                ..v1::Mode::default()
            }),
            ..v1::StartRunRequest::default()
        };
        let reply = operator.control.clone().start_run(request).await;
        let refused = reply.expect_err("it does not fit");
        assert!(refused.message().contains(words), "{words}: {refused}");
        assert!(!has_venue(table).await, "{words}: a column was added");
    };
    // Another type; a name of another case; further columns under replace; no room.
    let typed = with("db/typed", &|field| {
        let other = field.name() == "id";
        Some(if other {
            Field::new("id", DataType::Int32, false)
        } else {
            field.clone()
        })
    });
    let cased = with("db/cased", &|field| {
        let name = field.name().replace("name", "Name");
        Some(field.clone().with_name(name))
    });
    let further = with("db/further", &|field| Some(field.clone()));
    let further = Table {
        schema: Arc::new(Schema::new(
            (further.schema.fields().iter().cloned())
                .chain([Arc::new(Field::new("extra", DataType::Utf8, true))])
                .collect::<Vec<_>>(),
        )),
        ..further
    };
    let plain = with("db/plain", &|field| Some(field.clone()));
    for table in [&typed, &cased, &further, &plain] {
        b.sink
            .prepare(&table.name, table, false)
            .await
            .expect("a table");
    }
    refused(&typed, Kind::Append, "another type").await;
    refused(&cased, Kind::Append, "of another case").await;
    refused(&further, Kind::Replace, "extra").await;
    hand.disk_is(Space {
        place: "b".to_owned(),
        free: 1,
        used: 1 << 40,
    });
    refused(&plain, Kind::Append, "--without-room").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_words_find_their_run_although_it_leaves_columns_out() {
    let lakes = Lakes::filled(2, ROWS).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let id = start(&operator, v1::mode::Kind::Append, SchemaPolicy::Ignore).await;
    assert_eq!(operator.ended(&id.expect("a run")).await.status, "done");
    widen(&lakes.a(), 2).await;
    hand.hold(Act::Append, &label(2));
    let id = start(&operator, v1::mode::Kind::Append, SchemaPolicy::Ignore).await;
    let id = id.expect("a run");
    hand.is_holding(&label(2)).await;
    let again = start(&operator, v1::mode::Kind::Append, SchemaPolicy::Ignore).await;
    assert_eq!(again.expect("it is attached to"), id);
    hand.release();
    assert_eq!(operator.ended(&id).await.status, "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_no_column_in_common_is_refused() {
    let lakes = Lakes::filled(1, ROWS).await;
    let b = lakes::open(&lakes.b()).await.sink;
    let other = Table {
        name: TABLE.parse().expect("a name"),
        schema: Arc::new(Schema::new(vec![Field::new("else", DataType::Utf8, true)])),
        divisions: Vec::new(),
        recipe: None,
    };
    b.prepare(&other.name, &other, false)
        .await
        .expect("a table");
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let refused = start(
        &source.operator(),
        v1::mode::Kind::Append,
        SchemaPolicy::Ignore,
    )
    .await;
    refused.expect_err("nothing could be sent");
}

/// A table like that of every test, with ids of 32 bits.
fn narrower() -> Table {
    let table = lakes::wanted();
    let fields = table.schema.fields().iter().map(|field| {
        if field.name() == "id" {
            return Arc::new(field.as_ref().clone().with_data_type(DataType::Int32));
        }
        Arc::clone(field)
    });
    Table {
        schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
        ..table
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_is_narrowed_by_name_alone_and_no_value_changes() {
    let lakes = Lakes::filled(2, ROWS).await;
    let (b, table) = (lakes::open(&lakes.b()).await.sink, narrower());
    let prepared = b.prepare(&table.name, &table, false).await;
    prepared.expect("the table can be made");
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let named = |names: &[&str]| v1::Selectors {
        narrow: names.iter().map(|&name| name.to_owned()).collect(),
        ..selectors()
    };

    let refused = operator.try_start().await.expect_err("another type");
    assert!(refused.message().contains("another type"), "{refused}");
    let refused = operator.verify_as(named(&["value"])).await;
    let refused = refused.expect_err("another column is named");
    assert!(refused.message().contains("another type"), "{refused}");
    let run = operator.run_as(named(&["id"]), v1::Mode::default()).await;
    assert_eq!(run.status, "done", "{run:?}");
    // Digests are of values, whatever their width.
    lakes.assert_equal().await;
    let totals = operator.verify_as(named(&["id"])).await;
    assert_eq!(totals.expect("it can be compared").equal, 2);

    lakes
        .write(&lakes.a(), 2, 3_000_000_000..3_000_000_010)
        .await;
    let run = operator.run_as(named(&["id"]), v1::Mode::default()).await;
    assert_eq!(run.status, "partial", "{run:?}");
    let failed = operator.partitions(&run.id).await;
    let failed: Vec<_> = failed
        .iter()
        .filter(|partition| partition.state == "failed")
        .collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    let told = &failed[0].message;
    assert!(
        told.contains("column id, row 0: 3000000000 is no value of Int32"),
        "{told}"
    );
    assert!(!lakes.contents(&lakes.b()).await.contains_key(&label(2)));
}
