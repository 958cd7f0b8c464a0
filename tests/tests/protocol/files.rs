//! A source by hand that sends files, against the real sink agent.

use bytes::Bytes;
use strait_common::Kind;
use strait_common::digest::{Digest, DigestId};
use strait_common::engine::{Cursor, Level, Receipt};
use strait_common::files::FileDigest;
use strait_common::frame::Frame;
use strait_common::ids::RunId;
use strait_proto::v1;
use strait_proto::v1::copy_reply::Body as Reply;
use strait_proto::v1::copy_request::Body as Request;
use strait_tests::agents::SinkAgent;
use strait_tests::by_hand::source::{CopyByHand, Part, SourceByHand};
use strait_tests::lakes::{self, Lakes, TABLE};

const ROWS: u64 = 2000;
/// Some pieces of a file of so many rows.
const PIECE_BYTES: usize = 24 << 10;

/// A real sink, and a source by hand whose run is attached to the table that A has, too.
struct World {
    lakes: Lakes,
    hand: SourceByHand,
    run: RunId,
    epoch: u64,
    _sink: SinkAgent,
}

/// A partition of one file, as a source by hand sends it.
#[derive(Clone)]
struct FileOf {
    part: Part,
    rows: u64,
    content: Bytes,
}

impl World {
    async fn new() -> World {
        let lakes = Lakes::filled(2, ROWS).await;
        let sink = SinkAgent::start(&lakes).await;
        let hand = SourceByHand::new(sink.address(), TABLE);
        hand.prepare(hand.preparation()).await.expect("a table");
        let run = RunId::random();
        let (epoch, _) = hand.attach(hand.attachment(run)).await.expect("a claim");
        World {
            lakes,
            hand,
            run,
            epoch,
            _sink: sink,
        }
    }

    fn file(&self, day: u32) -> FileOf {
        let files = self.lakes.files(&self.lakes.a(), day);
        assert_eq!(files.len(), 1, "one file a day");
        FileOf {
            part: Part::new(day, ROWS, 4),
            rows: ROWS,
            content: std::fs::read(&files[0]).expect("a file").into(),
        }
    }

    async fn shape(&self) -> Option<String> {
        let source = lakes::open(&self.lakes.a()).await.source;
        let shape = source.files_shape(&TABLE.parse().expect("a name")).await;
        shape.expect("A's files look like something")
    }

    async fn open(&self, shape: Option<String>) -> (CopyByHand, v1::Opened) {
        let open = v1::Open {
            files_shape: shape,
            ..self.hand.opening(self.run, self.epoch)
        };
        self.hand.open_as(open).await.expect("a stream")
    }
}

impl FileOf {
    fn begin(&self, change: impl FnOnce(&mut v1::Begin)) -> Request {
        let Request::Begin(mut begin) = self.part.begin(1) else {
            unreachable!("it is a Begin")
        };
        begin.files = true;
        change(&mut begin);
        Request::Begin(begin)
    }

    fn head(&self) -> v1::TableFile {
        v1::TableFile {
            rows: self.rows,
            bytes: self.content.len() as u64,
        }
    }

    fn frames(&self) -> Vec<v1::Frame> {
        let pieces = self.content.chunks(PIECE_BYTES);
        let frame = |(sequence, piece): (u64, &[u8])| {
            let frame = Frame::of_bytes(Bytes::copy_from_slice(piece));
            v1::Frame {
                sequence,
                rows: 0,
                compression: v1::Compression::None.into(),
                raw_bytes: frame.raw_bytes,
                wire_bytes: frame.raw_bytes,
                checksum: frame.checksum,
                payload: frame.payload,
            }
        };
        (1..).zip(pieces).map(frame).collect()
    }

    fn digest(&self) -> Digest {
        let mut digest = FileDigest::default();
        digest.update(&self.content);
        digest.digest()
    }

    fn checkpoint(&self) -> v1::Checkpoint {
        v1::Checkpoint {
            sequence: self.frames().len() as u64,
            cursor: Cursor::after_files(1).0,
            chunk_rows: self.rows,
            chunk_digest: self.digest().to_bytes().to_vec().into(),
        }
    }

    fn finish(&self, change: impl FnOnce(&mut Receipt)) -> Request {
        let checkpoint = self.checkpoint();
        self.part_finish(checkpoint, change)
    }

    fn part_finish(
        &self,
        checkpoint: v1::Checkpoint,
        change: impl FnOnce(&mut Receipt),
    ) -> Request {
        self.part.finish_with(|finish| {
            let receipt = finish.receipt.take().expect("a receipt");
            let mut receipt = Receipt::try_from(receipt).expect("a receipt");
            receipt.rows = self.rows;
            receipt.digest = self.digest();
            receipt.digest_id = DigestId::of_files();
            receipt.level = Level::Bytes;
            change(&mut receipt);
            *finish = v1::Finish {
                sequence: checkpoint.sequence,
                cursor: checkpoint.cursor,
                chunk_rows: checkpoint.chunk_rows,
                chunk_digest: checkpoint.chunk_digest,
                receipt: Some((&receipt).into()),
            };
        })
    }

    /// Begin, file, and its frames; what comes after them.
    fn sent(&self, then: impl IntoIterator<Item = Request>) -> Vec<Request> {
        let mut sent = vec![self.begin(|_| {}), Request::File(self.head())];
        sent.extend(self.frames().into_iter().map(Request::Frame));
        sent.extend(then);
        sent
    }

    fn position(&self, cursor: Cursor) -> v1::Position {
        v1::Position {
            run: RunId::from_u128(1).to_string(),
            key: lakes::key(self.part.day).to_string(),
            version: strait_tests::by_hand::source::VERSION.to_owned(),
            slice: Some(strait_common::wire::whole()),
            sequence: 1,
            cursor: cursor.0,
            rows: 1,
            digest: Digest::default().to_bytes().to_vec().into(),
            committed: None,
            dropped: false,
        }
    }
}

/// What becomes of a message.
enum Fate {
    /// The stream ends with this.
    Ends(&'static str),
    /// The partition alone fails, with this; what has no answer but credit passes.
    Fails(&'static str),
}

use Fate::{Ends, Fails};

fn cases(file: &FileOf) -> Vec<(&'static str, Vec<Request>, Fate)> {
    let first = || file.frames().remove(0);
    let begun = |then: Vec<Request>| {
        let mut sent = vec![file.begin(|_| {}), Request::File(file.head())];
        sent.extend(then);
        sent
    };
    let changed = |change: fn(&mut v1::Frame)| {
        let mut frame = first();
        change(&mut frame);
        begun(vec![Request::Frame(frame)])
    };
    let with = |change: &dyn Fn(&mut FileOf)| {
        let mut other = file.clone();
        change(&mut other);
        other
    };
    let rows = Cursor(vec![0; 16].into());
    vec![
        (
            "a file among rows",
            vec![file.part.begin(1), Request::File(file.head())],
            Ends("a file of 2000 rows"),
        ),
        (
            "bytes of no file",
            vec![file.begin(|_| {}), Request::Frame(first())],
            Ends("of a file"),
        ),
        (
            "a file inside a file",
            begun(vec![Request::File(file.head())]),
            Ends("a file of 2000 rows"),
        ),
        (
            "a file of no bytes",
            vec![
                file.begin(|_| {}),
                Request::File(v1::TableFile { rows: 1, bytes: 0 }),
            ],
            Ends("0 bytes"),
        ),
        (
            "more bytes than it has",
            vec![
                file.begin(|_| {}),
                Request::File(v1::TableFile { rows: 1, bytes: 9 }),
                Request::Frame(first()),
            ],
            Ends("of a file"),
        ),
        (
            "rows in a file",
            changed(|frame| frame.rows = 1),
            Ends("of a file"),
        ),
        (
            "compressed bytes",
            changed(|frame| frame.compression = v1::Compression::Zstd.into()),
            Ends("of a file"),
        ),
        (
            "a frame that was there before",
            changed(|frame| frame.sequence = 7),
            Ends("frame 7 after frame 0"),
        ),
        (
            "a Checkpoint inside a file",
            begun(vec![
                Request::Frame(first()),
                Request::Checkpoint(file.checkpoint()),
            ]),
            Ends("inside a file"),
        ),
        (
            "a Finish inside a file",
            begun(vec![Request::Frame(first()), file.finish(|_| {})]),
            Ends("inside a file"),
        ),
        (
            "a place among rows after a file",
            file.sent([Request::Checkpoint(v1::Checkpoint {
                cursor: rows.0.clone(),
                ..file.checkpoint()
            })]),
            Ends("of another kind"),
        ),
        (
            "files after a place among rows",
            vec![file.begin(|begin| begin.from = Some(file.position(rows.clone())))],
            Ends("cannot go on from each other"),
        ),
        (
            "rows after a place among files",
            vec![file.begin(|begin| {
                begin.files = false;
                begin.from = Some(file.position(Cursor::after_files(1)));
            })],
            Ends("cannot go on from each other"),
        ),
        (
            "a bit that has flipped",
            changed(|frame| frame.checksum ^= 1),
            Fails("checksum"),
        ),
        (
            "what is no Parquet",
            with(&|other| other.content = vec![7; 2 * PIECE_BYTES].into()).sent([]),
            Fails("no Parquet file"),
        ),
        (
            "a file without its end",
            with(&|other| other.content.truncate(other.content.len() - 100)).sent([]),
            Fails("no whole Parquet file"),
        ),
        (
            "a file of other rows than it was to have",
            with(&|other| other.rows += 1).sent([]),
            Fails("to have 2001 rows, and has 2000"),
        ),
        (
            "other sums than those of the files",
            file.sent([file.part_finish(
                v1::Checkpoint {
                    chunk_digest: Digest(1).to_bytes().to_vec().into(),
                    ..file.checkpoint()
                },
                |_| {},
            )]),
            Fails("with digest"),
        ),
        (
            "a receipt of another digest",
            file.sent([file.finish(|receipt| receipt.digest = Digest(1))]),
            Fails("the receipt is about"),
        ),
        (
            "a receipt of rows",
            file.sent([file.finish(|receipt| {
                receipt.digest_id = DigestId::of(&lakes::schema()).expect("an id");
            })]),
            Fails("the receipt is about"),
        ),
        (
            "a receipt that proves more",
            file.sent([file.finish(|receipt| receipt.level = Level::Stored)]),
            Fails("the receipt is about"),
        ),
    ]
}

/// The first answer that is not about credit.
async fn answer(copy: &mut CopyByHand) -> strait_common::Result<Reply> {
    match copy.answer().await {
        Ok(Some(reply)) => Ok(reply),
        Ok(None) => panic!("the stream ended as if all were well"),
        Err(error) => Err(error),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_broken_or_out_of_order_are_refused_and_nothing_of_them_is_published() {
    let world = World::new().await;
    let (file, shape) = (world.file(0), world.shape().await);
    let mut wrong = Vec::new();
    for (name, messages, fate) in cases(&file) {
        let (mut copy, opened) = world.open(shape.clone()).await;
        assert!(opened.takes_files, "both tables look alike");
        for message in messages {
            copy.send(message).await;
        }
        match (answer(&mut copy).await, fate) {
            (Err(error), Ends(says))
                if error.kind() == Kind::Corrupt && error.to_string().contains(says) => {}
            (Ok(Reply::Failed(failed)), Fails(says))
                if failed.kind == "corrupt" && failed.message.contains(says) => {}
            (other, _) => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        world.lakes.contents(&world.lakes.b()).await.len(),
        0,
        "nothing was published"
    );

    // The same file, told as it is.
    let (mut copy, _) = world.open(shape).await;
    for message in file.sent([file.finish(|_| {})]) {
        copy.send(message).await;
    }
    let Ok(Reply::Finished(finished)) = answer(&mut copy).await else {
        panic!("an honest file is taken")
    };
    assert_eq!(
        finished.receipt.expect("a receipt").level,
        v1::Level::Bytes as i32
    );
    let published = world.lakes.files(&world.lakes.b(), 0);
    let contents = std::fs::read(&published[0]).expect("a file");
    assert!(contents == file.content, "it is not the file that was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_takes_files_only_of_a_table_that_looks_like_its_own() {
    let world = World::new().await;
    let file = world.file(0);
    let other = world
        .shape()
        .await
        .map(|shape| shape.replace("name", "nom"));
    for shape in [None, other] {
        let (mut copy, opened) = world.open(shape).await;
        assert!(!opened.takes_files);
        copy.send(file.begin(|_| {})).await;
        let error = answer(&mut copy).await.expect_err("files are not taken");
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.to_string().contains("does not take"), "{error}");
    }
}
