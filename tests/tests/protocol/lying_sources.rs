//! A source by hand against the real sink agent.

use strait_common::Kind;
use strait_common::ids::RunId;
use strait_proto::v1;
use strait_proto::v1::copy_reply::Body as Reply;
use strait_proto::v1::copy_request::Body as Request;
use strait_tests::agents::{SinkAgent, SourceAgent};
use strait_tests::by_hand::source::{
    CopyByHand, FRAME_BYTES_MAX, Part, SourceByHand, VERSION, WINDOW_FRAMES,
};
use strait_tests::lakes::{self, Lakes};
use xxhash_rust::xxh3::xxh3_64;

/// The table that the source by hand writes to; the run of a real source has another.
const TABLE: &str = "db/by_hand";
const ROWS: u64 = 3000;
const FRAMES: u64 = 3;

/// A real sink, and a source by hand whose run is attached to it.
struct World {
    lakes: Lakes,
    sink: SinkAgent,
    hand: SourceByHand,
    run: RunId,
    epoch: u64,
}

impl World {
    async fn new() -> World {
        let lakes = Lakes::filled(2, 20_000).await;
        let sink = SinkAgent::start(&lakes).await;
        let hand = SourceByHand::new(sink.address(), TABLE);
        hand.prepare(hand.preparation()).await.expect("a table");
        let run = RunId::random();
        let (epoch, positions) = hand.attach(hand.attachment(run)).await.expect("a claim");
        assert_eq!(positions, []);
        World {
            lakes,
            sink,
            hand,
            run,
            epoch,
        }
    }

    async fn open(&self) -> CopyByHand {
        let opened = self.hand.open(self.run, self.epoch).await;
        opened.expect("the sink serves others")
    }

    /// What B has of the table, read by its engine.
    async fn published(&self) -> lakes::Contents {
        self.lakes.contents_of(&self.lakes.b(), TABLE).await
    }

    /// Nothing was published, every partition can still be copied, and a run between real agents ends equal.
    async fn ends_well(self) {
        assert_eq!(self.published().await.len(), 0, "nothing was published");
        let mut copy = self.open().await;
        let mut expected = lakes::Contents::new();
        for day in 0..2 {
            let part = Part::new(day, ROWS, FRAMES);
            let receipt = copy.copy(u64::from(day) + 1, &part).await;
            let receipt = receipt.expect("an honest partition is copied");
            let batch = lakes::rows(day, 0..ROWS);
            let sum = strait_common::digest::digest(&batch).expect("a digest");
            assert_eq!(receipt.digest[..], sum.to_bytes());
            expected.insert(lakes::key(day).to_string(), (ROWS, sum));
        }
        let complete = self
            .hand
            .complete(self.run, self.epoch, v1::Outcome::Done)
            .await;
        complete.expect("the claim ends");
        assert_eq!(self.published().await, expected);
        let source = SourceAgent::start(&self.lakes, &self.sink.url()).await;
        let operator = source.operator();
        let id = operator.start().await;
        assert_eq!(operator.ended(&id).await.status, "done");
        self.lakes.assert_equal().await;
    }
}

/// What must become of a stream.
#[derive(Debug)]
enum Fate {
    /// It ends with this kind and these words.
    Ends(Kind, &'static str),
    /// Its partition fails with this kind and these words, and the stream goes on.
    Fails(Kind, &'static str),
}

/// The messages after `Open`, and what must become of them.
type Case = (&'static str, Vec<Option<Request>>, Fate);

/// The frames of an honest partition, between its Begin and this.
fn begun(part: &Part, frames: Vec<v1::Frame>, end: Vec<Request>) -> Vec<Option<Request>> {
    let frames = frames.into_iter().map(Request::Frame);
    let messages = std::iter::once(part.begin(1)).chain(frames).chain(end);
    messages.map(Some).collect()
}

fn with_frame(part: &Part, change: impl FnOnce(&mut v1::Frame)) -> Vec<Option<Request>> {
    let mut frames = part.frames();
    change(&mut frames[1]);
    begun(part, frames, vec![part.finish()])
}

fn with_finish(part: &Part, change: impl FnOnce(&mut v1::Finish)) -> Vec<Option<Request>> {
    begun(part, part.frames(), vec![part.finish_with(change)])
}

fn with_receipt(part: &Part, change: impl FnOnce(&mut v1::Receipt)) -> Vec<Option<Request>> {
    with_finish(part, |finish| {
        change(finish.receipt.as_mut().expect("a receipt"))
    })
}

fn cases() -> Vec<Case> {
    use Fate::{Ends, Fails};
    let part = Part::new(0, ROWS, FRAMES);
    let other = Part::new(1, ROWS, FRAMES);
    let frames = || part.frames();
    let flipped = |payload: &bytes::Bytes| {
        let mut bytes = payload.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        bytes
    };
    vec![
        (
            "a frame that is cut short",
            with_frame(&part, |frame| {
                frame.payload = frame.payload.slice(..frame.payload.len() / 2);
            }),
            Ends(Kind::Corrupt, "on the wire came as"),
        ),
        (
            "a frame that is cut short and says so",
            with_frame(&part, |frame| {
                frame.payload = frame.payload.slice(..frame.payload.len() / 2);
                frame.wire_bytes = frame.payload.len() as u64;
            }),
            Fails(Kind::Corrupt, "checksum"),
        ),
        (
            "a frame that is cut short, with a checksum that fits",
            with_frame(&part, |frame| {
                frame.payload = frame.payload.slice(..frame.payload.len() / 2);
                frame.wire_bytes = frame.payload.len() as u64;
                frame.checksum = xxh3_64(&frame.payload);
            }),
            Fails(Kind::Corrupt, ""),
        ),
        (
            "a flipped bit",
            with_frame(&part, |frame| {
                frame.payload = flipped(&frame.payload).into();
            }),
            Fails(Kind::Corrupt, "checksum"),
        ),
        (
            "a flipped bit, with a checksum that fits",
            with_frame(&part, |frame| {
                frame.payload = flipped(&frame.payload).into();
                frame.checksum = xxh3_64(&frame.payload);
            }),
            Fails(Kind::Corrupt, ""),
        ),
        (
            "a frame of fewer rows than it says",
            with_frame(&part, |frame| frame.rows += 1),
            Fails(Kind::Corrupt, "was declared as"),
        ),
        (
            "a frame that is larger than it says",
            with_frame(&part, |frame| frame.raw_bytes -= 1000),
            Fails(Kind::Corrupt, "decompress"),
        ),
        (
            "a frame without rows",
            with_frame(&part, |frame| frame.rows = 0),
            Ends(Kind::Corrupt, "a frame of 0 rows"),
        ),
        (
            "a frame of many rows above the limit",
            with_frame(&part, |frame| frame.raw_bytes = FRAME_BYTES_MAX + 1),
            Ends(Kind::Corrupt, "rows and"),
        ),
        (
            "a row that no memory could hold",
            with_frame(&part, |frame| {
                frame.rows = 1;
                frame.raw_bytes = 1 << 60;
            }),
            Ends(Kind::Refused, "raise `memory`"),
        ),
        (
            "a payload that grows by compression",
            with_frame(&part, |frame| frame.wire_bytes = frame.raw_bytes * 2),
            Ends(Kind::Corrupt, "on the wire"),
        ),
        (
            "a frame twice",
            begun(
                &part,
                vec![part.frame(0), part.frame(0)],
                vec![part.finish()],
            ),
            Ends(Kind::Corrupt, "frame 1 after frame 1"),
        ),
        (
            "a frame twice, numbered on",
            begun(
                &part,
                vec![
                    part.frame(0),
                    v1::Frame {
                        sequence: 2,
                        ..part.frame(0)
                    },
                    part.frame(2),
                ],
                vec![part.finish()],
            ),
            Fails(Kind::Corrupt, "the source sent"),
        ),
        (
            "frames in another order",
            begun(&part, vec![part.frame(1)], vec![]),
            Ends(Kind::Corrupt, "frame 2 after frame 0"),
        ),
        (
            "a Finish before its frames",
            begun(&part, vec![], vec![part.finish()]),
            Fails(Kind::Corrupt, "here arrived 0"),
        ),
        (
            "a Finish before its last frame",
            begun(
                &part,
                frames().into_iter().take(2).collect(),
                vec![part.finish()],
            ),
            Fails(Kind::Corrupt, "here arrived 2000"),
        ),
        (
            "a Finish twice",
            // The first is refused as well, so that nothing is published.
            begun(
                &part,
                vec![],
                vec![part.finish(), part.finish(), part.finish()],
            ),
            Ends(Kind::Corrupt, "not open"),
        ),
        (
            "a Begin twice",
            vec![Some(part.begin(1)), Some(part.begin(2))],
            Ends(Kind::Corrupt, "a Begin inside a partition"),
        ),
        (
            "a Begin of a number that was skipped",
            vec![Some(part.begin(2))],
            Ends(Kind::Corrupt, "Begin 2 after 0"),
        ),
        (
            "a Begin of a number that was used",
            vec![
                Some(part.begin(1)),
                Some(Request::Skip(v1::Skip {})),
                Some(part.begin(1)),
            ],
            Ends(Kind::Corrupt, "Begin 1 after 1"),
        ),
        (
            "rows of another partition",
            begun(
                &part,
                Part::of(0, 1, ROWS, FRAMES).frames(),
                vec![part.finish()],
            ),
            Fails(Kind::Corrupt, "as its partition says"),
        ),
        (
            "a receipt of another partition",
            with_receipt(&part, |receipt| receipt.key = lakes::key(1).to_string()),
            Fails(Kind::Corrupt, "the receipt is about"),
        ),
        (
            "a receipt of another version",
            with_receipt(&part, |receipt| receipt.version = "newer".to_owned()),
            Fails(Kind::Corrupt, "the receipt is about"),
        ),
        (
            "a receipt of fewer rows",
            with_receipt(&part, |receipt| receipt.rows -= 1),
            Fails(Kind::Corrupt, "the receipt is about"),
        ),
        (
            "a receipt with another digest",
            with_receipt(&part, |receipt| receipt.digest = vec![7; 16].into()),
            Fails(Kind::Corrupt, "the receipt is about"),
        ),
        (
            "a receipt by another algorithm",
            with_receipt(&part, |receipt| receipt.digest_id = "md5-1".to_owned()),
            Fails(Kind::Corrupt, "the receipt is about"),
        ),
        (
            "a receipt without a level",
            with_receipt(&part, |receipt| receipt.level = 0),
            Fails(Kind::Corrupt, "a receipt without a level"),
        ),
        (
            "a Finish without a receipt",
            with_finish(&part, |finish| finish.receipt = None),
            Ends(Kind::Corrupt, "without a receipt"),
        ),
        (
            "a Finish with other sums",
            with_finish(&part, |finish| finish.chunk_digest = vec![7; 16].into()),
            Fails(Kind::Corrupt, "the source sent"),
        ),
        (
            "a digest that is too short",
            with_finish(&part, |finish| finish.chunk_digest = vec![7; 3].into()),
            Ends(Kind::Corrupt, "digest"),
        ),
        (
            "a checkpoint with other sums",
            begun(
                &part,
                frames(),
                vec![Request::Checkpoint(v1::Checkpoint {
                    chunk_rows: 1,
                    ..part.checkpoint()
                })],
            ),
            Fails(Kind::Corrupt, "the source sent 1 rows"),
        ),
        (
            "a checkpoint of frames to come",
            begun(
                &part,
                vec![part.frame(0)],
                vec![Request::Checkpoint(part.checkpoint())],
            ),
            Fails(Kind::Corrupt, "the source sent"),
        ),
        (
            "a cursor without a bound",
            begun(
                &part,
                frames(),
                vec![Request::Checkpoint(v1::Checkpoint {
                    cursor: vec![0; 1 << 20].into(),
                    ..part.checkpoint()
                })],
            ),
            Ends(Kind::Corrupt, "a cursor of"),
        ),
        (
            "a place in the partition that the ledger never had",
            vec![Some(begin_from(&part, &part))],
            Fails(Kind::Corrupt, "the ledger has no such position"),
        ),
        (
            "a place in another partition",
            vec![Some(begin_from(&part, &other))],
            Ends(Kind::Corrupt, "position of another partition"),
        ),
        (
            "a slice of a partition",
            vec![Some(change_begin(&part, |begin| {
                begin.slice = Some(v1::Slice { index: 1, count: 2 });
            }))],
            Ends(Kind::Refused, "slices"),
        ),
        (
            "a partition whose key cannot be read",
            vec![Some(change_begin(&part, |begin| {
                begin.key = "day=".to_owned();
            }))],
            Ends(Kind::Config, "key"),
        ),
        (
            "no disposition",
            vec![Some(change_begin(&part, |begin| begin.disposition = 0))],
            Ends(Kind::Corrupt, "disposition"),
        ),
        (
            "a frame of no partition",
            vec![Some(Request::Frame(part.frame(0)))],
            Ends(Kind::Corrupt, "not open"),
        ),
        (
            "a Finish of no partition",
            vec![Some(part.finish())],
            Ends(Kind::Corrupt, "not open"),
        ),
        (
            "a Skip of no partition",
            vec![Some(Request::Skip(v1::Skip {}))],
            Ends(Kind::Corrupt, "a Skip outside a partition"),
        ),
        (
            "a part of no frame",
            vec![Some(Request::Part(v1::FramePart {
                payload: vec![0; 10].into(),
            }))],
            Ends(Kind::Corrupt, "a part of no frame"),
        ),
        ("an empty message", vec![None], Ends(Kind::Corrupt, "empty")),
    ]
}

fn change_begin(part: &Part, change: impl FnOnce(&mut v1::Begin)) -> Request {
    let Request::Begin(mut begin) = part.begin(1) else {
        unreachable!("it is a Begin")
    };
    change(&mut begin);
    Request::Begin(begin)
}

fn begin_from(part: &Part, from: &Part) -> Request {
    let checkpoint = part.checkpoint();
    change_begin(part, |begin| {
        begin.from = Some(v1::Position {
            dropped: false,
            run: RunId::from_u128(1).to_string(),
            key: lakes::key(from.day).to_string(),
            version: VERSION.to_owned(),
            slice: begin.slice,
            sequence: checkpoint.sequence,
            cursor: checkpoint.cursor,
            rows: checkpoint.chunk_rows,
            digest: checkpoint.chunk_digest,
            committed: None,
        });
    })
}

/// The first answer that is not about credit: what became of the stream.
async fn ended(copy: &mut CopyByHand) -> strait_common::Result<Reply> {
    match copy.answer().await {
        Ok(Some(reply)) => Ok(reply),
        Ok(None) => panic!("the stream ended as if all were well"),
        Err(error) => Err(error),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broken_message_is_refused_with_its_kind_and_nothing_of_it_is_published() {
    let world = World::new().await;
    let mut wrong = Vec::new();
    for (name, messages, fate) in cases() {
        // Another stream of the same attempt is open meanwhile and must not notice.
        let mut neighbour = world.open().await;
        neighbour.send(Part::new(1, ROWS, FRAMES).begin(1)).await;

        let mut copy = world.open().await;
        for message in messages {
            copy.send_body(message).await;
        }
        let mut answer = ended(&mut copy).await;
        if let Fate::Ends(..) = fate {
            // What was answered before the last message does not matter.
            while answer.is_ok() {
                answer = ended(&mut copy).await;
            }
        }
        let as_told = match (&answer, &fate) {
            (Err(error), Fate::Ends(kind, words)) => {
                error.kind() == *kind && error.to_string().contains(words)
            }
            (Ok(Reply::Failed(failed)), Fate::Fails(kind, words)) => {
                failed.kind == kind.name() && failed.message.contains(words) && failed.ordinal == 1
            }
            _ => false,
        };
        if !as_told {
            wrong.push(format!("{name}: {answer:?}, and {fate:?} was to be"));
        }
        copy.close();
        neighbour.send(Request::Skip(v1::Skip {})).await;
        let skipped = neighbour.answer().await;
        let skipped = skipped.expect("the neighbour's stream goes on");
        assert!(matches!(skipped, Some(Reply::Skipped(_))), "{name}");
        assert_eq!(world.published().await.len(), 0, "{name}");
    }
    assert_eq!(wrong, Vec::<String>::new());
    world.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_without_credit_end_the_stream() {
    let world = World::new().await;
    let mut copy = world.open().await;
    // Far more than the sink can have appended before it reads the last of them.
    let part = Part::new(
        0,
        100 * u64::from(WINDOW_FRAMES),
        u64::from(WINDOW_FRAMES) * 10,
    );
    copy.send(part.begin(1)).await;
    for frame in part.frames() {
        copy.send(Request::Frame(frame)).await;
    }
    let error = ended(&mut copy).await.expect_err("the window is the limit");
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.to_string().contains("without credit"), "{error}");
    world.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_above_the_limit_are_refused() {
    let world = World::new().await;
    let part = Part::new(0, ROWS, FRAMES);
    let mut copy = world.open().await;
    copy.send(part.begin(1)).await;
    let payload: bytes::Bytes = vec![0; 20 << 20].into();
    let frame = v1::Frame {
        payload,
        ..part.frame(0)
    };
    copy.send(Request::Frame(frame)).await;
    let error = ended(&mut copy).await.expect_err("20 MiB are too much");
    // No agent sends it, so it is a bug, of whoever sends it.
    assert_eq!(error.kind(), Kind::Internal, "{error}");
    assert!(error.to_string().contains("too large"), "{error}");

    for (change, words) in [
        (
            Box::new(|open: &mut v1::Open| open.window_frames = 0) as Box<dyn Fn(&mut v1::Open)>,
            "window_frames",
        ),
        (
            Box::new(|open: &mut v1::Open| open.window_frames = u32::MAX),
            "window_frames",
        ),
        (
            Box::new(|open: &mut v1::Open| open.frame_bytes_max = u64::MAX),
            "frame_bytes_max",
        ),
    ] {
        let mut open = world.hand.opening(world.run, world.epoch);
        change(&mut open);
        let refused = world.hand.copy(Request::Open(open)).await;
        let error = refused.expect_err("out of bounds");
        assert_eq!(error.kind(), Kind::Config, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    world.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_does_not_begin_as_it_must_is_not_opened() {
    let world = World::new().await;
    let part = Part::new(0, ROWS, FRAMES);
    let opening = || world.hand.opening(world.run, world.epoch);
    let cases: Vec<(&str, Request, Kind, &str)> = vec![
        (
            "a Begin first",
            part.begin(1),
            Kind::Corrupt,
            "does not begin with Open",
        ),
        (
            "no schema",
            Request::Open(v1::Open {
                schema: vec![0xFF; 64].into(),
                ..opening()
            }),
            Kind::Corrupt,
            "schema",
        ),
        (
            "another digest id",
            Request::Open(v1::Open {
                digest_id: "md5-1".to_owned(),
                ..opening()
            }),
            Kind::Corrupt,
            "digest id",
        ),
        (
            "a run that is none",
            Request::Open(v1::Open {
                run: "tuesday".to_owned(),
                ..opening()
            }),
            Kind::Config,
            "tuesday",
        ),
        (
            "no target",
            Request::Open(v1::Open {
                target: None,
                ..opening()
            }),
            Kind::Corrupt,
            "target",
        ),
        (
            "an epoch that was never issued",
            Request::Open(v1::Open {
                epoch: world.epoch + 7,
                ..opening()
            }),
            Kind::Unavailable,
            "attach again",
        ),
        (
            "a run that never attached",
            Request::Open(v1::Open {
                run: RunId::random().to_string(),
                ..opening()
            }),
            Kind::Unavailable,
            "attach again",
        ),
    ];
    for (name, first, kind, words) in cases {
        let error = world.hand.copy(first).await.expect_err(name);
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
    // A second Open inside a stream.
    let mut copy = world.open().await;
    copy.send(Request::Open(opening())).await;
    let error = ended(&mut copy).await.expect_err("one Open a stream");
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    world.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_protocol_is_refused_and_both_releases_are_named() {
    let world = World::new().await;
    let prepare = v1::PrepareRequest {
        protocol_min: 2,
        protocol_max: 9,
        release: "9.9.9".to_owned(),
        ..world.hand.preparation()
    };
    let error = world.hand.prepare(prepare).await.expect_err("no such one");
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    for named in ["9.9.9", strait_proto::RELEASE, "2 to 9"] {
        assert!(error.to_string().contains(named), "{named}: {error}");
    }
    let attach = v1::AttachRequest {
        protocol: 2,
        ..world.hand.attachment(world.run)
    };
    let error = world.hand.attach(attach).await.expect_err("no such one");
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    // It did not fence the attempt that is under way.
    world.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_epoch_is_fenced_wherever_its_stream_stands() {
    let mut world = World::new().await;
    let part = Part::new(0, ROWS, FRAMES);
    let stale = world.epoch;
    let mut streams = Vec::new();
    for frames in 0..=FRAMES as usize {
        let mut copy = world.open().await;
        if frames == 0 {
            streams.push(copy);
            continue;
        }
        // Each a partition of its own, some frames in.
        let part = Part::new(frames as u32 + 10, ROWS, FRAMES);
        copy.send(part.begin(1)).await;
        for frame in part.frames().into_iter().take(frames) {
            copy.send_frame(frame).await.expect("it is taken");
        }
        streams.push(copy);
    }
    let attached = world.hand.attach(world.hand.attachment(world.run)).await;
    let (epoch, _) = attached.expect("the same run may attach again");
    assert!(epoch > stale);

    for (frames, mut copy) in streams.into_iter().enumerate() {
        if frames == 0 {
            copy.send(part.begin(1)).await;
        } else if frames < FRAMES as usize {
            let part = Part::new(frames as u32 + 10, ROWS, FRAMES);
            copy.send(Request::Frame(part.frame(frames))).await;
        } else {
            copy.send(Part::new(frames as u32 + 10, ROWS, FRAMES).finish())
                .await;
        }
        let error = ended(&mut copy).await.expect_err("it was overtaken");
        assert_eq!(error.kind(), Kind::Fenced, "{frames}: {error}");
    }
    let error = world.hand.open(world.run, stale).await;
    let error = error.expect_err("its epoch is over");
    assert_eq!(error.kind(), Kind::Fenced, "{error}");
    let complete = world.hand.complete(world.run, stale, v1::Outcome::Done);
    let error = complete.await.expect_err("its epoch is over");
    assert_eq!(error.kind(), Kind::Fenced, "{error}");
    world.epoch = epoch;
    world.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_after_complete_is_fenced() {
    let mut world = World::new().await;
    let part = Part::new(0, ROWS, FRAMES);
    let mut idle = world.open().await;
    let mut writing = world.open().await;
    writing.send(part.begin(1)).await;
    writing.send_frame(part.frame(0)).await.expect("taken");
    let mut finishing = world.open().await;
    let other = Part::new(1, ROWS, FRAMES);
    finishing.send(other.begin(1)).await;
    for frame in other.frames() {
        finishing.send_frame(frame).await.expect("taken");
    }
    // Credit for the last frame is there when it was appended.
    let complete = world
        .hand
        .complete(world.run, world.epoch, v1::Outcome::Partial);
    complete.await.expect("the claim ends");

    idle.send(part.begin(1)).await;
    writing.send(Request::Frame(part.frame(1))).await;
    finishing.send(other.finish()).await;
    for mut late in [idle, writing, finishing] {
        let error = ended(&mut late).await.expect_err("the claim is over");
        assert_eq!(error.kind(), Kind::Fenced, "{error}");
    }
    // A run that has ended is begun again only by attaching again.
    let attached = world.hand.attach(world.hand.attachment(world.run)).await;
    (world.epoch, _) = attached.expect("the same run may attach again");
    world.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_the_ledger_has_is_gone_on_from_and_no_other() {
    let world = World::new().await;
    let part = Part::new(0, ROWS, FRAMES);
    let mut copy = world.open().await;
    copy.send(part.begin(1)).await;
    for frame in part.frames() {
        copy.send_frame(frame).await.expect("taken");
    }
    copy.send(Request::Checkpoint(part.checkpoint())).await;
    let ack = copy.answer().await.expect("a checkpoint is made");
    assert!(
        matches!(ack, Some(Reply::Ack(ref ack)) if ack.rows == ROWS),
        "{ack:?}"
    );
    drop(copy);

    let (epoch, positions) = world
        .hand
        .attach(world.hand.attachment(world.run))
        .await
        .expect("attached");
    let world = World { epoch, ..world };
    let [position] = &positions[..] else {
        panic!("one position: {positions:?}")
    };
    let begin = |from: v1::Position| change_begin(&part, |begin| begin.from = Some(from));
    for (name, forged) in [
        (
            "more rows",
            v1::Position {
                rows: ROWS + 1,
                ..position.clone()
            },
        ),
        (
            "a later frame",
            v1::Position {
                sequence: 9,
                ..position.clone()
            },
        ),
        (
            "another digest",
            v1::Position {
                digest: vec![1; 16].into(),
                ..position.clone()
            },
        ),
        (
            "another cursor",
            v1::Position {
                cursor: vec![1].into(),
                ..position.clone()
            },
        ),
        (
            "another run",
            v1::Position {
                run: RunId::random().to_string(),
                ..position.clone()
            },
        ),
    ] {
        let mut copy = world.open().await;
        copy.send(begin(forged)).await;
        match ended(&mut copy).await {
            Ok(Reply::Failed(failed)) => assert_eq!(failed.kind, "corrupt", "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    let mut copy = world.open().await;
    copy.send(begin(position.clone())).await;
    copy.send(part.finish_with(|finish| {
        finish.chunk_rows = 0;
        finish.chunk_digest = vec![0; 16].into();
    }))
    .await;
    let finished = copy.answer().await.expect("it goes on");
    assert!(matches!(finished, Some(Reply::Finished(_))), "{finished:?}");
    // Begun once more, by mistake: the receipt comes back, and nothing is doubled.
    let mut copy = world.open().await;
    copy.send(part.begin(1)).await;
    let again = copy.answer().await.expect("an answer");
    assert!(
        matches!(again, Some(Reply::Finished(ref finished)) if finished.already),
        "{again:?}"
    );
    let published = world.published().await;
    assert_eq!(published.len(), 1);
    assert_eq!(published[&lakes::key(0).to_string()].0, ROWS);
}
