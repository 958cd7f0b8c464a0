//! Several tables in one request: a run for each, watched and ended as one.

use strait_common::Kind;
use strait_proto::v1;
use strait_tests::agents::{Operator, SinkAgent, SourceAgent};
use strait_tests::held::{Act, Hand};
use strait_tests::lakes::{self, Lakes, TABLE};

const DAYS: u32 = 2;
const ROWS: u64 = 50;

/// Lake A with `db/ticks`, `db/trades` and `other/ticks`, which are alike.
async fn three_tables() -> Lakes {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let filled = lakes.a().join(TABLE);
    for table in ["db/trades", "other/ticks"] {
        let place = lakes.a().join(table);
        std::fs::create_dir_all(place.parent().expect("a database")).expect("a directory");
        let copied = std::process::Command::new("cp")
            .arg("-r")
            .arg(&filled)
            .arg(&place)
            .status();
        assert!(copied.expect("cp").success());
    }
    lakes
}

fn request(from: &str, to: &str) -> v1::StartGroupRequest {
    v1::StartGroupRequest {
        run: Some(v1::StartRunRequest {
            selectors: Some(v1::Selectors {
                from: from.to_owned(),
                to: to.to_owned(),
                ..v1::Selectors::default()
            }),
            ..v1::StartRunRequest::default()
        }),
        ..v1::StartGroupRequest::default()
    }
}

async fn start(operator: &Operator, request: v1::StartGroupRequest) -> v1::Group {
    let group = operator.control.clone().start_group(request).await;
    group.expect("the group begins").into_inner()
}

async fn group(operator: &Operator, id: &str) -> v1::Group {
    let request = v1::GetGroupRequest { id: id.to_owned() };
    let group = operator.control.clone().get_group(request).await;
    group.expect("the agent knows the group").into_inner()
}

async fn ended(operator: &Operator, id: &str) -> v1::Group {
    strait_tests::eventually("the group has ended", async || {
        let group = group(operator, id).await;
        (group.ended_at != 0).then_some(group)
    })
    .await
}

fn stands(group: &v1::Group) -> Vec<(String, String)> {
    let tables = group.tables.iter();
    tables
        .map(|table| (table.to.clone(), table.status.clone()))
        .collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(to, status)| ((*to).to_owned(), (*status).to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_of_a_pattern_is_copied_by_a_run_of_its_own() {
    let lakes = three_tables().await;
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let begun = start(&operator, request("a:*/*", "b:*/*_copy")).await;
    let over = ended(&operator, &begun.id).await;
    assert_eq!(over.status, "done", "{over:?}");
    let all = [
        ("b:db/ticks_copy", "done"),
        ("b:db/trades_copy", "done"),
        ("b:other/ticks_copy", "done"),
    ];
    assert_eq!(stands(&over), pairs(&all));
    let expected = lakes.contents(&lakes.a()).await;
    for table in ["db/ticks_copy", "db/trades_copy", "other/ticks_copy"] {
        assert_eq!(
            lakes.contents_of(&lakes.b(), table).await,
            expected,
            "{table}"
        );
    }
    let nows: std::collections::BTreeSet<_> = over
        .tables
        .iter()
        .map(|table| table.run.as_ref().expect("a run").now)
        .collect();
    assert_eq!(nows.len(), 1, "now() means the same in all of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_failure_of_one_table_does_not_stop_the_others() {
    let lakes = three_tables().await;
    // Rows of somebody else at B: a table that is refused while no mode is named.
    lakes.copy_as_a_stranger(&lakes.a(), &lakes.b());
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let begun = start(&operator, request("a:db/*", "b:db/*")).await;
    let over = ended(&operator, &begun.id).await;
    assert_eq!(over.status, "partial", "{over:?}");
    assert_eq!(
        stands(&over),
        pairs(&[("b:db/ticks", "failed"), ("b:db/trades", "done")])
    );
    assert_eq!(over.tables[0].kind, Kind::Refused.name());
    assert!(over.tables[0].message.contains("--mode mirror"), "{over:?}");
    assert!(over.tables[0].run.is_none());

    // What stood in the way is gone: the group goes on with that table alone.
    std::fs::remove_dir_all(lakes.b().join(TABLE)).expect("the table of the stranger");
    let again = v1::GetGroupRequest {
        id: begun.id.clone(),
    };
    operator
        .control
        .clone()
        .resume_group(again)
        .await
        .expect("it goes on");
    let over = ended(&operator, &begun.id).await;
    assert_eq!(over.status, "done", "{over:?}");
    let trades = over.tables[1].run.as_ref().expect("a run");
    assert_eq!(trades.attempts, 1, "what was done is left alone");
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_on_by_itself_when_its_agent_is_back() {
    let lakes = three_tables().await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    hand.hold(Act::Finish, &lakes::label(1));
    let begun = start(&source.operator(), request("a:*/*", "b:*/*")).await;
    hand.is_holding(&lakes::label(1)).await;
    let before = group(&source.operator(), &begun.id).await;
    let all = [
        ("b:db/ticks", "running"),
        ("b:db/trades", "planned"),
        ("b:other/ticks", "planned"),
    ];
    assert_eq!(stands(&before), pairs(&all), "one after another");
    source.crash().await;
    hand.release();
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let over = ended(&source.operator(), &begun.id).await;
    assert_eq!(over.status, "done", "{over:?}");
    let first = |group: &v1::Group| group.tables[0].run.as_ref().map(|run| run.id.clone());
    assert_eq!(first(&over), first(&before), "the same run went on");
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_cancelled_begins_no_more_tables() {
    let lakes = three_tables().await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    hand.hold(Act::Begin, &lakes::label(1));
    let begun = start(&operator, request("a:*/*", "b:*/*")).await;
    hand.is_holding(&lakes::label(1)).await;
    let id = v1::GetGroupRequest {
        id: begun.id.clone(),
    };
    let over = operator.control.clone().cancel_group(id).await;
    hand.release();
    assert_eq!(over.expect("it stops").into_inner().status, "cancelled");
    let over = ended(&operator, &begun.id).await;
    let all = [
        ("b:db/ticks", "cancelled"),
        ("b:db/trades", "planned"),
        ("b:other/ticks", "planned"),
    ];
    assert_eq!(stands(&over), pairs(&all));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_partitions_come_first_where_that_is_asked_for() {
    for (order, before) in [(v1::Order::Newest, 0), (v1::Order::Oldest, 3)] {
        let lakes = Lakes::filled(4, ROWS).await;
        let hand = Hand::default();
        let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
        let source = SourceAgent::start(&lakes, &sink.url()).await;
        let operator = source.operator();
        let newest = lakes::label(3);
        hand.hold(Act::Begin, &newest);
        let request = v1::StartRunRequest {
            selectors: Some(strait_tests::agents::selectors()),
            order: order.into(),
            ..v1::StartRunRequest::default()
        };
        let id = operator.start_as(request).await;
        hand.is_holding(&newest).await;
        assert_eq!(hand.appended().len(), before, "{order:?}");
        hand.release();
        assert_eq!(operator.ended(&id).await.status, "done");
        lakes.assert_equal().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vacuum_goes_through_the_agents_and_keeps_an_hour_at_least() {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let id = operator.start().await;
    operator.ended(&id).await;
    let vacuum = |retention_ms, dry_run| {
        let request = v1::VacuumTableRequest {
            table: format!("b:{TABLE}"),
            retention_ms,
            dry_run,
        };
        let mut control = operator.control.clone();
        async move {
            control
                .vacuum_table(request)
                .await
                .map(tonic::Response::into_inner)
        }
    };
    let refused = vacuum(1000, false).await.expect_err("readers are at work");
    assert!(refused.message().contains("at least 1h"), "{refused:?}");
    // Compacted by somebody else in 2023, as the log has it.
    lakes.compact_as_a_stranger(&lakes.b(), 1);
    let named = vacuum(7 * 86_400_000, true).await.expect("a dry run");
    let removed = vacuum(7 * 86_400_000, false).await.expect("a vacuum");
    assert_eq!(named, removed);
    lakes.assert_equal().await;
}
