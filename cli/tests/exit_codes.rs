//! Every exit code, and every field of `--json`, from the built program against real agents.

use std::collections::BTreeMap;

use serde_json::Value;
use strait_tests::agents::{SinkAgent, SourceAgent, selectors};
use strait_tests::held::{Act, Hand};
use strait_tests::lakes::{Lakes, TABLE, label};
use strait_tests::process::Cli;

const ROWS: u64 = 3000;
const FROM: &str = "a:db/ticks";
const TO: &str = "b:db/ticks";
/// What `status` can be, whatever the command.
const STATUSES: [&str; 7] = [
    "planned",
    "running",
    "done",
    "partial",
    "failed",
    "paused",
    "cancelled",
];

struct Bench {
    lakes: Lakes,
    hand: Hand,
    sink: SinkAgent,
    source: SourceAgent,
    cli: Cli,
}

async fn bench(days: u32) -> Bench {
    let lakes = Lakes::filled(days, ROWS).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let source =
        SourceAgent::start_with(&lakes, &sink.url(), |config| config.retries_max = 2).await;
    let cli = Cli::new(env!("CARGO_BIN_EXE_strait"), &source.url());
    Bench {
        lakes,
        hand,
        sink,
        source,
        cli,
    }
}

/// Runs the command as a person and as a machine would, and expects the same exit code of both; the object that the machine got.
async fn both(cli: &Cli, arguments: &[&str], code: i32) -> Value {
    let ended = cli.run(arguments).await;
    assert_eq!(ended.code, code, "{arguments:?}: {ended:?}");
    if code == 2 {
        assert!(ended.stderr.contains("error: "), "{arguments:?}: {ended:?}");
    }
    let (json_code, object) = cli.json(arguments).await;
    assert_eq!(json_code, code, "{arguments:?}: {object}");
    let status = object["status"].as_str().expect("a status");
    assert!(STATUSES.contains(&status), "{arguments:?}: {object}");
    object
}

fn copy<'a>(command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&[command, "--from", FROM, "--to", TO], more].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn done_is_0() {
    let bench = bench(2).await;
    let Bench { lakes, cli, .. } = &bench;
    assert_eq!(both(cli, &copy("plan", &[]), 0).await["status"], "planned");
    assert_eq!(both(cli, &copy("sync", &[]), 0).await["status"], "done");
    assert_eq!(both(cli, &copy("verify", &[]), 0).await["status"], "done");
    assert_eq!(both(cli, &["runs", "list"], 0).await["status"], "done");
    assert_eq!(both(cli, &["health"], 0).await["status"], "done");
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_2_and_says_what_there_is() {
    let bench = bench(1).await;
    let Bench { cli, .. } = &bench;
    let wrong: [(&[&str], &str); 15] = [
        (
            &["sync", "--from", "adb/ticks", "--to", TO],
            "NAME:DATABASE/TABLE",
        ),
        (&["sync", "--from", "a:ticks", "--to", TO], "database/table"),
        (
            &["sync", "--from", "x:db/ticks", "--to", TO],
            "this agent has a",
        ),
        (
            &["sync", "--from", "a:db/none", "--to", TO],
            "it has db/ticks",
        ),
        (
            &["sync", "--from", FROM, "--to", "x:db/ticks"],
            "this agent knows b",
        ),
        (
            &["sync", "--from", FROM, "--to", "b/x:db/ticks"],
            "it has b",
        ),
        (
            &["sync", "--from", FROM, "--to", TO, "--where", "id <"],
            "is no condition",
        ),
        (
            &["plan", "--from", FROM, "--to", TO, "--where", "ident < 3"],
            "there are day, id",
        ),
        (
            &["sync", "--from", FROM, "--to", TO, "--columns", "day,ident"],
            "ident",
        ),
        (
            &["sync", "--from", FROM, "--to", TO, "--zone", "Mars/Olympus"],
            "Mars/Olympus",
        ),
        (
            &["verify", "--from", FROM, "--to", "x:db/ticks"],
            "this agent knows b",
        ),
        (&["runs", "show", "no-such-run"], "knows no run"),
        (
            &[
                "runs",
                "adopt",
                "6e2f3b7a-0000-4000-8000-000000000000",
                "--to",
                TO,
            ],
            "nothing to adopt",
        ),
        (&["sync", "--from", FROM], "--to"),
        (&["conquer"], "conquer"),
    ];
    for (arguments, says) in wrong {
        let object = both(cli, arguments, 2).await;
        assert_eq!(object["status"], "failed", "{arguments:?}");
        assert_eq!(object["error"]["kind"], "config", "{arguments:?}: {object}");
        let message = object["error"]["message"].as_str().unwrap();
        assert!(message.contains(says), "{arguments:?}: {message}");
    }
    for url in ["not a url", "127.0.0.1:7401"] {
        let wrong = Cli::new(env!("CARGO_BIN_EXE_strait"), url);
        both(&wrong, &["runs", "list"], 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_is_1() {
    let bench = bench(1).await;
    let Bench { cli, .. } = &bench;
    // The table cannot be divided at B as it is at A.
    let object = both(cli, &copy("sync", &["--columns", "id,name"]), 1).await;
    assert_eq!(
        (&object["status"], &object["error"]["kind"]),
        (&"failed".into(), &"refused".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_is_1_for_who_watches_it() {
    let bench = bench(2).await;
    let Bench {
        hand, cli, source, ..
    } = &bench;
    hand.hold(Act::Append, &label(1));
    let id = source.operator().start().await;
    hand.is_holding(&label(1)).await;
    let ((watched, object), (cancelled, answer)) =
        tokio::join!(async { cli.json(&["runs", "watch", &id]).await }, async {
            cli.json(&["runs", "cancel", &id]).await
        });
    assert_eq!(
        (watched, &object["status"]),
        (1, &"cancelled".into()),
        "{object}"
    );
    assert_eq!(
        (cancelled, &answer["status"]),
        (0, &"cancelled".into()),
        "{answer}"
    );
    assert_eq!(
        both(cli, &["runs", "show", &id], 0).await["status"],
        "cancelled"
    );

    hand.release();
    let (code, object) = cli.json(&["runs", "resume", &id]).await;
    assert_eq!((code, &object["status"]), (0, &"done".into()), "{object}");
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_is_3() {
    let bench = bench(3).await;
    let Bench { lakes, cli, .. } = &bench;
    let file = lakes.files(&lakes.a(), 1).remove(0);
    let kept = std::fs::read(&file).unwrap();
    std::fs::write(&file, vec![0x5A; kept.len()]).unwrap();
    let object = both(cli, &copy("sync", &[]), 3).await;
    assert_eq!(object["status"], "partial");
    let failed = object["failed"].as_array().unwrap();
    assert_eq!(failed.len(), 1, "{object}");
    assert_eq!(failed[0]["key"], label(1));
    fields(
        &failed[0],
        &[("key", Is::Text), ("kind", Is::Text), ("message", Is::Text)],
    );

    std::fs::write(&file, kept).unwrap();
    let id = object["run"].as_str().unwrap();
    let (code, object) = cli.json(&["runs", "resume", id]).await;
    assert_eq!((code, &object["status"]), (0, &"done".into()), "{object}");
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_is_5() {
    let nobody = Cli::new(env!("CARGO_BIN_EXE_strait"), "http://127.0.0.1:1");
    for arguments in [
        copy("sync", &[]),
        copy("verify", &[]),
        vec!["runs", "list"],
        vec!["health"],
    ] {
        let object = both(&nobody, &arguments, 5).await;
        assert_eq!(object["error"]["kind"], "unavailable", "{object}");
        let message = object["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("127.0.0.1:1"),
            "the agent is named: {message}"
        );
    }

    let Bench {
        lakes: _lakes,
        hand,
        sink,
        source,
        cli,
    } = bench(2).await;
    // The sink leaves in the middle of a run and does not come back.
    hand.hold(Act::Append, &label(1));
    let id = source.operator().start().await;
    hand.is_holding(&label(1)).await;
    sink.crash().await;
    let (code, object) = cli.json(&["runs", "watch", &id]).await;
    assert_eq!(
        (code, &object["status"], &object["kind"]),
        (5, &"failed".into(), &"unavailable".into()),
        "{object}"
    );
    // And it is not there when a run begins.
    let object = both(&cli, &copy("sync", &[]), 5).await;
    let message = object["error"]["message"].as_str().unwrap();
    assert!(message.contains("sink b"), "the sink is named: {message}");
    let remarks = cli.run(&copy("sync", &[])).await.stderr;
    assert!(
        !remarks.contains("--agent"),
        "the source agent is well: {remarks}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_are_16_and_told_apart() {
    let bench = bench(4).await;
    let Bench { lakes, cli, .. } = &bench;
    both(cli, &copy("sync", &[]), 0).await;
    // Somebody else writes to B's day 1; A's day 2 grows; A gets a day 4; B gets a day 5.
    lakes
        .write_as_a_stranger(&lakes.b(), 1, 10_000..10_007)
        .await;
    lakes.write(&lakes.a(), 2, 10_000..10_003).await;
    lakes.write(&lakes.a(), 4, 0..11).await;
    lakes.write_as_a_stranger(&lakes.b(), 5, 0..13).await;

    let object = both(cli, &copy("verify", &[]), 16).await;
    assert_eq!(object["status"], "done", "the comparison is: {object}");
    let counts: Vec<u64> = [
        "partitions",
        "equal",
        "differs",
        "behind",
        "extra",
        "rows_source",
        "rows_sink",
    ]
    .iter()
    .map(|name| object[name].as_u64().unwrap())
    .collect();
    assert_eq!(
        counts,
        [6, 2, 1, 2, 1, 4 * ROWS + 14, 4 * ROWS + 20],
        "{object}"
    );
    let different: BTreeMap<&str, (&str, u64, u64)> = object["different"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| {
            let text = |name: &str| found[name].as_str().unwrap();
            let rows = |name: &str| found[name].as_u64().unwrap();
            (
                text("key"),
                (text("result"), rows("rows_source"), rows("rows_sink")),
            )
        })
        .collect();
    let labels: Vec<String> = (0..6).map(label).collect();
    let expected = BTreeMap::from([
        (labels[1].as_str(), ("differs", ROWS, ROWS + 7)),
        (labels[2].as_str(), ("behind", ROWS + 3, ROWS)),
        (labels[4].as_str(), ("behind", 11, 0)),
        (labels[5].as_str(), ("extra", 0, 13)),
    ]);
    assert_eq!(different, expected);

    let text = cli.run(&copy("verify", &[])).await.stdout;
    for says in [
        "1 differ", "2 behind", "differs", "behind", &labels[1], &labels[2],
    ] {
        assert!(text.contains(says), "{says} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn already_running_is_17() {
    let bench = bench(2).await;
    let Bench {
        hand, cli, source, ..
    } = &bench;
    hand.hold(Act::Append, &label(1));
    let id = source.operator().start().await;
    hand.is_holding(&label(1)).await;
    let object = both(cli, &copy("sync", &["--where", "id < 10"]), 17).await;
    assert_eq!(object["error"]["run"], id.as_str(), "{object}");

    // The same job is not another run.
    let same = ["--detach", "--pass-through", "never"];
    let (code, object) = cli.json(&copy("sync", &same)).await;
    assert_eq!(
        (code, &object["attached"], &object["run"]),
        (0, &true.into(), &id.as_str().into()),
        "{object}"
    );
    assert!(["planned", "running"].contains(&object["status"].as_str().unwrap()));

    // Nor does one that was stopped give its target up.
    both(cli, &["runs", "cancel", &id], 0).await;
    let object = both(cli, &copy("sync", &[]), 17).await;
    assert_eq!(object["error"]["run"], id.as_str(), "{object}");
    hand.release();
    let object = both(cli, &["runs", "abandon", &id], 0).await;
    assert_eq!(object["status"], "cancelled");
    let object = both(cli, &["runs", "show", &id], 0).await;
    assert_eq!(
        (&object["status"], &object["abandoned"]),
        (&"cancelled".into(), &true.into())
    );
    both(cli, &copy("sync", &[]), 0).await;
}

/// A type of JSON.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    Text,
    Number,
    Truth,
    List,
    NumberOrNull,
    TextOrNull,
}

fn fields(object: &Value, expected: &[(&str, Is)]) {
    let object = object.as_object().expect("an object");
    let mut names: Vec<&str> = object.keys().map(String::as_str).collect();
    let mut wanted: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    for (name, is) in expected {
        let value = &object[*name];
        let right = match is {
            Is::Text => value.is_string(),
            Is::Number => value.is_u64() || value.is_i64(),
            Is::Truth => value.is_boolean(),
            Is::List => value.is_array(),
            Is::TextOrNull => value.is_string() || value.is_null(),
            Is::NumberOrNull => value.is_u64() || value.is_null(),
        };
        assert!(right, "{name} is {value}, not {is:?}");
    }
}

/// As documented in the README.
const RUN: [(&str, Is); 28] = [
    ("status", Is::Text),
    ("run", Is::Text),
    ("from", Is::Text),
    ("to", Is::Text),
    ("selection", Is::Text),
    ("now", Is::Number),
    ("attached", Is::Truth),
    ("abandoned", Is::Truth),
    ("partitions", Is::Number),
    ("partitions_done", Is::Number),
    ("mode", Is::Text),
    ("partitions_already", Is::Number),
    ("partitions_dropped", Is::Number),
    ("partitions_failed", Is::Number),
    ("rows", Is::Number),
    ("rows_sent", Is::Number),
    ("raw_bytes", Is::Number),
    ("wire_bytes", Is::Number),
    ("elapsed_ms", Is::Number),
    ("attempts", Is::Number),
    ("retries", Is::Number),
    ("epoch", Is::Number),
    ("source_peak_memory_bytes", Is::Number),
    ("message", Is::Text),
    ("kind", Is::Text),
    ("warnings", Is::List),
    ("bandwidth_max", Is::NumberOrNull),
    ("failed", Is::List),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_fields_of_json_are_the_documented_ones() {
    let bench = bench(2).await;
    let Bench { lakes, cli, .. } = &bench;

    let plan = both(cli, &copy("plan", &[]), 0).await;
    fields(
        &plan,
        &[
            ("status", Is::Text),
            ("selection", Is::Text),
            ("now", Is::Number),
            ("created", Is::List),
            ("notes", Is::List),
            ("value_rules", Is::List),
            ("warnings", Is::List),
            ("atomic", Is::Truth),
            ("streams", Is::Number),
            ("streams_admitted_source", Is::Number),
            ("streams_admitted_sink", Is::Number),
            ("stream_bytes_source", Is::Number),
            ("stream_bytes_sink", Is::Number),
            ("memory_bytes_source", Is::Number),
            ("memory_bytes_sink", Is::Number),
            ("free_bytes_sink", Is::NumberOrNull),
            ("compression", Is::Text),
            ("bandwidth_max", Is::NumberOrNull),
            ("least_ms", Is::NumberOrNull),
            ("rows", Is::NumberOrNull),
            ("bytes", Is::NumberOrNull),
            ("to_compare", Is::Number),
            ("to_copy", Is::Number),
            ("to_drop", Is::Number),
            ("to_replace", Is::Number),
            ("already", Is::Number),
            ("as_files", Is::Number),
            ("rows_because", Is::Text),
            ("refused", Is::Number),
            ("columns", Is::List),
            ("partitions", Is::List),
        ],
    );
    fields(
        &plan["partitions"][0],
        &[
            ("key", Is::Text),
            ("rows", Is::NumberOrNull),
            ("bytes", Is::NumberOrNull),
            ("action", Is::Text),
        ],
    );

    let run = both(cli, &copy("sync", &[]), 0).await;
    fields(&run, &RUN);
    let id = run["run"].as_str().unwrap();
    fields(&both(cli, &["runs", "show", id], 0).await, &RUN);
    fields(&both(cli, &["runs", "watch", id], 0).await, &RUN);
    let list = both(cli, &["runs", "list"], 0).await;
    fields(&list, &[("status", Is::Text), ("runs", Is::List)]);
    for run in list["runs"].as_array().unwrap() {
        fields(run, &RUN);
    }

    lakes.write(&lakes.a(), 0, 10_000..10_001).await;
    let verification = both(cli, &copy("verify", &[]), 16).await;
    fields(
        &verification,
        &[
            ("status", Is::Text),
            ("partitions", Is::Number),
            ("equal", Is::Number),
            ("equal_by_sums", Is::Number),
            ("differs", Is::Number),
            ("behind", Is::Number),
            ("extra", Is::Number),
            ("rows_source", Is::Number),
            ("rows_sink", Is::Number),
            ("different", Is::List),
        ],
    );
    fields(
        &verification["different"][0],
        &[
            ("key", Is::Text),
            ("result", Is::Text),
            ("rows_source", Is::Number),
            ("rows_sink", Is::Number),
            ("message", Is::Text),
        ],
    );
    // Every name is in the README, so that nobody has to read this.
    let readme = include_str!("../../README.md");
    let objects = [
        &plan,
        &plan["partitions"][0],
        &run,
        &verification,
        &verification["different"][0],
    ];
    for name in objects
        .iter()
        .flat_map(|object| object.as_object().unwrap().keys())
    {
        assert!(
            readme.contains(&format!("`{name}`")),
            "`{name}` is not in the README"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_those_of_stores_and_sinks() {
    let bench = bench(3).await;
    let Bench { cli, lakes, .. } = &bench;
    let object = both(cli, &["tables"], 0).await;
    let names = |object: &Value| {
        let tables = object["tables"].as_array().expect("a list");
        let names = tables
            .iter()
            .map(|table| table["table"].as_str().expect("a name"));
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names(&object), [FROM]);
    fields(
        &object["tables"][0],
        &[
            ("table", Is::Text),
            ("columns", Is::Number),
            ("divided_by", Is::List),
            ("partitions", Is::Number),
            ("rows", Is::NumberOrNull),
            ("bytes", Is::NumberOrNull),
            ("run", Is::TextOrNull),
            ("message", Is::Text),
            ("kind", Is::Text),
        ],
    );
    both(cli, &copy("sync", &["--where", "id < 5"]), 0).await;
    let object = both(cli, &["tables"], 0).await;
    assert_eq!(names(&object), [FROM, "b/b:db/ticks"]);
    for name in ["b", "b/b"] {
        let object = both(cli, &["tables", name], 0).await;
        assert_eq!(names(&object), ["b/b:db/ticks"]);
        let table = &object["tables"][0];
        assert_eq!(
            (&table["partitions"], &table["rows"]),
            (&3.into(), &15.into())
        );
    }
    for wrong in ["nope", "nope/b"] {
        let object = both(cli, &["tables", wrong], 2).await;
        let message = object["error"]["message"].as_str().expect("a text");
        assert!(message.contains("a, b"), "{message}");
    }
    // One that cannot be looked at is named, beside those that can.
    std::fs::remove_dir_all(lakes.b().join(TABLE).join("_strait")).expect("a ledger");
    let object = both(cli, &["tables"], 3).await;
    assert_eq!(object["tables"][0]["kind"], "");
    assert_eq!(object["tables"][1]["kind"], "corrupt", "{object}");
    let Bench { sink, cli, .. } = bench;
    sink.crash().await;
    let (code, object) = cli.json(&["tables"]).await;
    assert_eq!(code, 3, "{object}");
    assert_eq!(names(&object), [FROM, "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_name_the_commands() {
    let bench = bench(1).await;
    for shell in ["bash", "zsh", "fish"] {
        let ended = bench.cli.run(&["completions", shell]).await;
        assert_eq!(ended.code, 0, "{ended:?}");
        for word in ["sync", "verify", "allow-drop"] {
            assert!(ended.stdout.contains(word), "{shell}: {word}");
        }
    }
    let ended = bench.cli.run(&["completions", "nosh"]).await;
    assert_eq!(ended.code, 2, "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_what_would_happen_and_moves_nothing() {
    let bench = bench(3).await;
    let Bench { lakes, cli, .. } = &bench;
    let window = "id > 100 and day >= date '2026-01-06'";
    let plan = both(cli, &copy("plan", &["--where", window]), 0).await;
    assert_eq!(
        plan["created"],
        serde_json::json!(["database db", format!("table {TABLE}")])
    );
    let keys: Vec<&str> = plan["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|partition| partition["key"].as_str().unwrap())
        .collect();
    assert_eq!(keys, [label(1), label(2)], "day 0 is pruned by its key");
    assert_eq!(
        (&plan["to_copy"], &plan["already"], &plan["refused"]),
        (&2.into(), &0.into(), &0.into())
    );
    assert_eq!(
        plan["rows"],
        2 * ROWS,
        "as far as the engine knows without reading"
    );
    assert!(plan["bytes"].as_u64().unwrap() > 0);
    assert!(plan["streams"].as_u64().unwrap() >= 1);
    assert_eq!(plan["compression"], "auto");
    for side in ["source", "sink"] {
        let number = |name: &str| plan[format!("{name}_{side}").as_str()].as_u64().unwrap();
        assert_eq!(
            number("streams_admitted"),
            number("memory_bytes") / number("stream_bytes")
        );
    }
    assert_eq!(plan["value_rules"].as_array().unwrap().len(), 1, "{plan}");
    let text = cli.run(&copy("plan", &["--where", window])).await.stdout;
    for says in [
        "would create table db/ticks",
        "memory admits",
        "rule: ",
        &label(1),
        "2 to copy",
    ] {
        assert!(text.contains(says), "{says} in {text}");
    }
    assert!(
        lakes.contents(&lakes.b()).await.is_empty(),
        "nothing was made at B"
    );
    assert!(!lakes.b().join(TABLE).exists());

    both(cli, &copy("sync", &[]), 0).await;
    let plan = both(cli, &copy("plan", &[]), 0).await;
    assert_eq!(
        (&plan["to_copy"], &plan["already"]),
        (&0.into(), &3.into()),
        "{plan}"
    );
    // Other rows of the same days cannot be appended without doubling some.
    let plan = both(cli, &copy("plan", &["--where", window]), 0).await;
    assert_eq!(plan["refused"], 2, "{plan}");
    assert_eq!(selectors().to, TO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bandwidth_is_shown_and_one_that_lets_nothing_pass_is_2() {
    let bench = bench(1).await;
    let cli = &bench.cli;
    let limited = copy("plan", &["--bandwidth-max", "1MiB"]);
    let plan = both(cli, &limited, 0).await;
    assert_eq!(plan["bandwidth_max"], 1 << 20);
    let stored = plan["bytes"].as_u64().unwrap();
    assert_eq!(plan["least_ms"], stored * 1000 / (1 << 20));
    let text = cli.run(&limited).await.stdout;
    assert!(
        text.contains("bandwidth: at most 1.0 MiB a second; what is to be copied takes "),
        "{text}"
    );
    let unlimited = both(cli, &copy("plan", &[]), 0).await;
    assert!(unlimited["bandwidth_max"].is_null() && unlimited["least_ms"].is_null());

    for command in ["plan", "sync"] {
        for (size, says) in [
            ("0", "--bandwidth-max = 0 lets nothing pass"),
            (
                "1KiB",
                "--bandwidth-max = 1KiB a second takes more than 10 s",
            ),
        ] {
            let error = both(cli, &copy(command, &["--bandwidth-max", size]), 2).await;
            let message = error["error"]["message"].as_str().unwrap();
            assert!(message.contains(says), "{message}");
        }
    }
    assert_eq!(
        both(cli, &["runs", "list"], 0).await["runs"],
        Value::Array(Vec::new()),
        "nothing was begun"
    );
    let run = both(cli, &copy("sync", &["--bandwidth-max", "1MiB"]), 0).await;
    assert_eq!(run["bandwidth_max"], 1 << 20);
    let shown = cli
        .run(&["runs", "show", run["run"].as_str().unwrap()])
        .await;
    assert!(
        shown.stdout.contains("bandwidth: at most 1.0 MiB a second"),
        "{shown:?}"
    );
}

/// Runs a sink agent that ends by itself.
fn sink_that_ends(lake: &str, state_dir: &std::path::Path, more: &[&str]) -> (i32, String, String) {
    let mut agent = std::process::Command::new(env!("CARGO_BIN_EXE_strait"));
    agent.args(["agent-sink", "--listen", "127.0.0.1:0", "--state-dir"]);
    agent.arg(state_dir);
    agent
        .args(["--store", &format!("b=lake://{lake}")])
        .args(more);
    let ended = agent.output().expect("it is there");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let code = ended.status.code().expect("it ends by itself");
    (code, text(ended.stdout), text(ended.stderr))
}

/// Nobody wants to find that out in the night.
#[test]
fn a_sink_that_cannot_write_does_not_start() {
    let lakes = Lakes::empty();
    let (code, _, stderr) = sink_that_ends("/proc", &lakes.path("other-state"), &[]);
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr.contains("store b: the lake /proc cannot be written"),
        "{stderr}"
    );
    assert!(!stderr.contains("listening on"), "{stderr}");
}

/// As the README says it: the agent is stopped, what is lost is given up, and a mirror finds what is equal and copies what is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_ledger_is_given_up_by_command_and_mended_by_a_mirror() {
    let bench = bench(3).await;
    both(&bench.cli, &["sync", "--from", FROM, "--to", TO], 0).await;
    let table = bench.lakes.b().join(TABLE);
    std::fs::remove_dir_all(table.join("_strait")).expect("it was there");
    let lost = ["sync", "--from", FROM, "--to", TO, "--mode", "mirror"];
    let ended = bench.cli.run(&lost).await;
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains("--accept-lost-ledger"), "{ended:?}");

    let lake = bench.lakes.b().display().to_string();
    let give_up = ["--accept-lost-ledger", &format!("b:{TABLE}")];
    let (code, stdout, stderr) = sink_that_ends(&lake, &bench.lakes.path("other-state"), &give_up);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("are given up"), "{stdout}");
    // The rows are nobody's, so they are not added to by whoever says nothing.
    both(&bench.cli, &["sync", "--from", FROM, "--to", TO], 1).await;
    let (_, mended) = bench.cli.json(&lost).await;
    assert_eq!(mended["status"], "done", "{mended}");
    assert_eq!(mended["rows_sent"], 0, "all of it was equal: {mended}");
    bench.lakes.assert_equal().await;
}
