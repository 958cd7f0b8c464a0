//! The real source agent against a sink by hand that answers what was not asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use strait_proto::v1;
use strait_proto::v1::attach_reply::Body as Attached;
use strait_proto::v1::copy_reply::Body as Reply;
use strait_proto::v1::copy_request::Body as Asked;
use strait_tests::agents::{SinkAgent, SourceAgent};
use strait_tests::by_hand::sink::{Lie, SinkByHand};
use strait_tests::held::Hand;
use strait_tests::lakes::{self, Lakes};

const DAYS: u32 = 2;
const ROWS: u64 = 20_000;

/// How a run must end: kind and words. What is done of its partitions must have been asked for.
type Case = (&'static str, Lie, &'static str, &'static str);

/// Says this after the honest answers to messages that `when` picks.
fn adding(
    when: impl Fn(&Asked) -> bool + Send + Sync + 'static,
    more: impl Fn() -> Option<Reply> + Send + Sync + 'static,
) -> Lie {
    Lie::Copy(Arc::new(move |asked, honest| {
        let mut answers: Vec<Option<Reply>> = honest.into_iter().map(Some).collect();
        if when(asked) {
            answers.push(more());
        }
        answers
    }))
}

/// Changes every honest answer.
fn changing(change: impl Fn(&mut Reply) + Send + Sync + 'static) -> Lie {
    Lie::Copy(Arc::new(move |_, honest| {
        let changed = honest.into_iter().map(|mut reply| {
            change(&mut reply);
            Some(reply)
        });
        changed.collect()
    }))
}

/// Says every honest answer of one kind twice.
fn twice(of: fn(&Reply) -> bool) -> Lie {
    Lie::Copy(Arc::new(move |_, honest| {
        let twice = honest.into_iter().flat_map(|reply| {
            let again = of(&reply).then(|| reply.clone());
            [Some(reply)].into_iter().chain(again.map(Some))
        });
        twice.collect()
    }))
}

/// Changes every receipt.
fn receipts(change: impl Fn(&mut v1::Finished, &mut v1::Receipt) + Send + Sync + 'static) -> Lie {
    changing(move |reply| {
        if let Reply::Finished(finished) = reply
            && let Some(mut receipt) = finished.receipt.take()
        {
            change(finished, &mut receipt);
            finished.receipt = Some(receipt);
        }
    })
}

fn is_begin(asked: &Asked) -> bool {
    matches!(asked, Asked::Begin(_))
}

fn is_frame(asked: &Asked) -> bool {
    matches!(asked, Asked::Frame(_))
}

/// Answers a Begin as if all of the partition were there.
fn finished_at_begin(already: bool, change: fn(&mut v1::Receipt)) -> Lie {
    Lie::Copy(Arc::new(move |asked, honest| {
        let mut answers: Vec<Option<Reply>> = honest.into_iter().map(Some).collect();
        if let Asked::Begin(begin) = asked {
            let mut receipt = v1::Receipt {
                key: begin.key.clone(),
                version: begin.version.clone(),
                rows: ROWS,
                digest: vec![1; 16].into(),
                digest_id: "another".to_owned(),
                level: v1::Level::Received.into(),
                selection: String::new(),
                ..v1::Receipt::default()
            };
            change(&mut receipt);
            answers.push(Some(Reply::Finished(v1::Finished {
                ordinal: begin.ordinal,
                receipt: Some(receipt),
                already,
            })));
        }
        answers
    }))
}

fn lies_on_streams() -> Vec<Case> {
    let nothing = |_: &mut v1::Receipt| {};
    vec![
        (
            "a partition that is visible before it was sent",
            finished_at_begin(false, nothing),
            "corrupt",
            "Finished before the Finish",
        ),
        (
            "a partition that was visible already, for other columns",
            finished_at_begin(true, nothing),
            "corrupt",
            "a receipt of something else",
        ),
        (
            "another partition that was visible already",
            finished_at_begin(true, |receipt| receipt.key = lakes::key(9).to_string()),
            "corrupt",
            "a receipt of something else",
        ),
        (
            "fewer rows than were sent",
            receipts(|_, receipt| receipt.rows -= 1),
            "corrupt",
            "a receipt that was not asked for",
        ),
        (
            "another digest than was sent",
            receipts(|_, receipt| receipt.digest = vec![1; 16].into()),
            "corrupt",
            "a receipt that was not asked for",
        ),
        (
            "another digest than was sent, which was there already",
            receipts(|finished, receipt| {
                finished.already = true;
                receipt.digest = vec![1; 16].into();
            }),
            "corrupt",
            "a receipt that was not asked for",
        ),
        (
            "another key than was sent",
            receipts(|_, receipt| receipt.key = lakes::key(9).to_string()),
            "corrupt",
            "a receipt that was not asked for",
        ),
        (
            "another version than was sent",
            receipts(|_, receipt| receipt.version.push('x')),
            "corrupt",
            "a receipt that was not asked for",
        ),
        (
            "another selection than was sent, which was there already",
            receipts(|finished, receipt| {
                finished.already = true;
                receipt.version.push('x');
                receipt.selection.push_str(" and more");
            }),
            "corrupt",
            "a receipt that was not asked for",
        ),
        (
            "no receipt",
            changing(|reply| {
                if let Reply::Finished(finished) = reply {
                    finished.receipt = None;
                }
            }),
            "corrupt",
            "Finished without a receipt",
        ),
        (
            "a partition that was never begun",
            changing(|reply| {
                if let Reply::Finished(finished) = reply {
                    finished.ordinal += 7;
                }
            }),
            "corrupt",
            "an answer to no partition",
        ),
        (
            "a commit twice",
            twice(|reply| matches!(reply, Reply::Finished(_))),
            "corrupt",
            "an answer to no partition",
        ),
        (
            "an ack that nobody asked for",
            adding(is_frame, || {
                Some(Reply::Ack(v1::Ack {
                    ordinal: 1,
                    sequence: 1,
                    rows: ROWS,
                }))
            }),
            "corrupt",
            "an ack that was not asked for",
        ),
        (
            "an ack of no partition",
            adding(is_begin, || Some(Reply::Ack(v1::Ack::default()))),
            "corrupt",
            "an ack of no partition",
        ),
        (
            "an ack of more rows",
            changing(|reply| {
                if let Reply::Ack(ack) = reply {
                    ack.rows += 1;
                }
            }),
            "corrupt",
            "an ack that was not asked for",
        ),
        (
            "an ack twice",
            twice(|reply| matches!(reply, Reply::Ack(_))),
            "corrupt",
            "an ack that was not asked for",
        ),
        (
            "credit beyond the window",
            adding(is_begin, || {
                Some(Reply::Credit(v1::Credit {
                    frames: u32::MAX,
                    held_us: 0,
                }))
            }),
            "corrupt",
            "more credit than the window",
        ),
        (
            "Opened twice",
            adding(is_begin, || Some(Reply::Opened(v1::Opened::default()))),
            "corrupt",
            "a second Opened",
        ),
        (
            "no window",
            changing(|reply| {
                if let Reply::Opened(opened) = reply {
                    opened.window_frames = 0;
                }
            }),
            "corrupt",
            "without a window",
        ),
        (
            "something else than Opened",
            changing(|reply| {
                if matches!(reply, Reply::Opened(_)) {
                    *reply = Reply::Credit(v1::Credit {
                        frames: 1,
                        held_us: 0,
                    });
                }
            }),
            "corrupt",
            "first answer is not Opened",
        ),
        (
            "a partition skipped that was not left",
            adding(is_begin, || {
                Some(Reply::Skipped(v1::Skipped { ordinal: 1 }))
            }),
            "corrupt",
            "Skipped for no partition",
        ),
        (
            "a failure of no partition",
            adding(is_begin, || {
                Some(Reply::Failed(v1::Failed {
                    ordinal: 99,
                    kind: "corrupt".to_owned(),
                    message: String::new(),
                }))
            }),
            "corrupt",
            "an answer to no partition",
        ),
        (
            "an empty answer",
            adding(is_begin, || None),
            "corrupt",
            "an empty answer",
        ),
        (
            "an answer above the limit",
            adding(is_begin, || {
                Some(Reply::Failed(v1::Failed {
                    ordinal: 1,
                    kind: "corrupt".to_owned(),
                    message: "x".repeat(17 << 20),
                }))
            }),
            "internal",
            "too large",
        ),
    ]
}

/// Changes what is said to an attach.
fn attached(
    change: impl Fn(&v1::AttachRequest, &mut Vec<Option<Attached>>) + Send + Sync + 'static,
) -> Lie {
    Lie::Attach(Arc::new(move |request, honest| {
        let mut bodies = honest.into_iter().map(Some).collect();
        change(request, &mut bodies);
        bodies
    }))
}

/// One position, which the ledger would have for day 0.
fn positioned(
    change: impl Fn(&v1::AttachRequest, &mut v1::Position) + Send + Sync + 'static,
) -> Lie {
    attached(move |request, bodies| {
        let job: serde_json::Value = serde_json::from_str(&request.job).expect("a job");
        let (key, version) = (lakes::key(0).to_string(), "1".to_owned());
        let digest: bytes::Bytes = vec![1; 16].into();
        let receipt = v1::Receipt {
            key: key.clone(),
            version: version.clone(),
            rows: ROWS,
            digest: digest.clone(),
            digest_id: request.digest_id.clone(),
            level: v1::Level::Received.into(),
            selection: job["resolved"].as_str().expect("a selection").to_owned(),
            ..v1::Receipt::default()
        };
        let mut position = v1::Position {
            dropped: false,
            run: request.run.clone(),
            key,
            version,
            slice: Some(v1::Slice { index: 0, count: 1 }),
            sequence: 0,
            cursor: bytes::Bytes::new(),
            rows: ROWS,
            digest,
            committed: Some(receipt),
        };
        change(request, &mut position);
        bodies[1] = Some(Attached::Positions(v1::PositionPage {
            positions: vec![position],
            last: true,
        }));
    })
}

fn receipt(position: &mut v1::Position) -> &mut v1::Receipt {
    position.committed.as_mut().expect("a receipt")
}

fn lies_at_attach() -> Vec<Case> {
    vec![
        (
            "no epoch",
            attached(|_, bodies| {
                bodies.remove(0);
            }),
            "corrupt",
            "does not begin with its epoch",
        ),
        (
            "two epochs",
            attached(|_, bodies| {
                let first = bodies[0].clone();
                bodies.insert(0, first);
            }),
            "corrupt",
            "a second epoch",
        ),
        (
            "positions that are cut off",
            attached(|_, bodies| bodies.truncate(1)),
            "unavailable",
            "ended before the last page",
        ),
        (
            "a receipt of other rows than its position",
            positioned(|_, position| receipt(position).rows += 1),
            "corrupt",
            "not about the same rows",
        ),
        (
            "a receipt of another partition than its position",
            positioned(|_, position| receipt(position).key = lakes::key(1).to_string()),
            "corrupt",
            "not about the same rows",
        ),
        (
            "a receipt of this run for another selection",
            positioned(|_, position| receipt(position).selection.push_str(" and more")),
            "corrupt",
            "another selection",
        ),
        (
            "a receipt of this run for other columns",
            positioned(|_, position| receipt(position).digest_id.push('x')),
            "corrupt",
            "other columns",
        ),
        (
            "a position without a bound",
            positioned(|_, position| position.cursor = vec![0; 1 << 20].into()),
            "corrupt",
            "a cursor of",
        ),
        (
            "a position of a key that is none",
            positioned(|_, position| position.key = "(((".to_owned()),
            "config",
            "(((",
        ),
    ]
}

/// A source whose sink is the one by hand.
async fn source_of(lakes: &Lakes, sink: &SinkByHand) -> SourceAgent {
    SourceAgent::start_with(lakes, &sink.url(), |config| {
        config.peer_timeout = Duration::from_secs(20);
        config.retries_max = 1;
        config.retry_wait_max = Duration::from_millis(20);
    })
    .await
}

/// What is wrong with the end of a run that was lied to; a run that believed it may have ended the claims of more runs than this.
fn believed(
    sink: &SinkByHand,
    completed: u64,
    name: &str,
    run: &v1::Run,
    (kind, words): (&str, &str),
) -> Option<String> {
    let refused = run.status == "failed"
        && run.kind == kind
        && run.message.contains(words)
        && sink.completed() == completed;
    (!refused).then(|| format!("{name}: {} {}: {}", run.status, run.kind, run.message))
}

/// The sink is replaced by a real one at its address: the same source, which was lied to all the time, copies everything.
async fn ends_well(lakes: &Lakes, sink: SinkByHand, source: &SourceAgent) {
    let port = sink.address().port();
    drop(sink);
    let _sink = SinkAgent::start_with(lakes, Some(port), &Hand::default(), |_| {}).await;
    let operator = source.operator();
    let id = operator.start().await;
    let run = operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_lies_on_a_stream_is_not_believed() {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let sink = SinkByHand::start().await;
    let source = source_of(&lakes, &sink).await;
    let operator = source.operator();
    // The hand is honest where it does not lie.
    let id = operator.start().await;
    assert_eq!(operator.ended(&id).await.status, "done");
    assert_eq!(sink.completed(), 1);
    let mut wrong = Vec::new();
    for (name, lie, kind, words) in lies_on_streams() {
        sink.lies(lie);
        let id = operator.start().await;
        let run = operator.ended(&id).await;
        wrong.extend(believed(&sink, 1, name, &run, (kind, words)));
    }
    assert_eq!(wrong, Vec::<String>::new());
    ends_well(&lakes, sink, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_lies_about_its_ledger_is_not_believed() {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let sink = SinkByHand::start().await;
    let source = source_of(&lakes, &sink).await;
    let operator = source.operator();
    let mut wrong = Vec::new();
    for (name, lie, kind, words) in lies_at_attach() {
        sink.lies(lie);
        let id = operator.start().await;
        let run = operator.ended(&id).await;
        wrong.extend(believed(&sink, 0, name, &run, (kind, words)));
    }
    assert_eq!(wrong, Vec::<String>::new());
    // What cannot be told from the truth is: the ledger says who has what.
    sink.lies(positioned(|_, _| {}));
    let id = operator.start().await;
    let run = operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    ends_well(&lakes, sink, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_answers_in_another_protocol_is_refused_before_a_run_begins() {
    let lakes = Lakes::filled(1, ROWS).await;
    let sink = SinkByHand::start().await;
    let source = source_of(&lakes, &sink).await;
    let operator = source.operator();
    for protocol in [0, 2, u32::MAX] {
        sink.lies(Lie::Prepare(Arc::new(move |honest| v1::PrepareReply {
            protocol,
            ..honest
        })));
        let refused = operator.try_start().await.expect_err("no such protocol");
        assert!(
            refused.message().contains(&format!("protocol {protocol}")),
            "{refused:?}"
        );
        let error = strait_common::Error::from(refused);
        assert_eq!(error.kind(), strait_common::Kind::Refused, "{error}");
    }
    ends_well(&lakes, sink, &source).await;
}

/// It is no failure that a sink stops: a run that may not retry once goes on with the sink that comes after it. One that says so
/// for ever, and never does anything, is given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_stops_is_attached_to_again_without_a_retry() {
    for stops in [1, 1000] {
        let lakes = Lakes::filled(DAYS, ROWS).await;
        let sink = SinkByHand::start().await;
        let left = AtomicU32::new(stops);
        sink.lies(Lie::Copy(Arc::new(move |asked, honest| {
            let counts = Ordering::SeqCst;
            let stops = matches!(asked, Asked::Open(_))
                && left
                    .fetch_update(counts, counts, |left| left.checked_sub(1))
                    .is_ok();
            if stops {
                // Before a frame can be sent, so that nothing is done in between.
                return vec![Some(Reply::Alive(v1::Alive {
                    draining: true,
                    ..v1::Alive::default()
                }))];
            }
            honest.into_iter().map(Some).collect()
        })));
        let source = SourceAgent::start_with(&lakes, &sink.url(), |config| {
            config.retries_max = 0;
            config.retry_wait_max = Duration::from_millis(20);
        })
        .await;
        let operator = source.operator();
        let id = operator.start().await;
        let run = operator.ended(&id).await;
        let progress = run.progress.clone().expect("figures");
        if stops == 1 {
            assert_eq!(run.status, "done", "{run:?}");
            assert_eq!((run.attempts, progress.retries), (2, 0), "{run:?}");
            assert_eq!(sink.copies(), 2);
        } else {
            assert_eq!(
                (run.status.as_str(), run.kind.as_str()),
                ("failed", "unavailable"),
                "{run:?}"
            );
            assert!(
                run.message.contains("the sink agent is stopping"),
                "{run:?}"
            );
        }
    }
}
