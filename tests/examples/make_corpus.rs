//! Writes the corpus: `cargo run --release --example make_corpus -- tests/corpus`. Files that are there already stay as they are, since what an earlier release
//! has written must be read for ever; their expectations too. To change one, remove it first, and say in the commit why.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, DictionaryArray, Float64Array, Int64Array, ListArray, RecordBatch,
    StringArray, StringViewArray,
};
use arrow::datatypes::{Int32Type, Int64Type};
use strait_common::digest::Digest;
use strait_common::engine::{Claim, Disposition, Level, Origin, Outcome, Receipt, Version};
use strait_common::frame::{Compression, Encoder, Frame, schema_to_bytes};
use strait_common::ids::{Epoch, RunId};
use strait_common::key::PartitionKey;
use strait_lake::ledger::{Entry, Event, Published, PublishedFile};
use strait_tests::corpus::{EXPECTED, Kind, frame_columns, frame_file};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// A file, and the beginning of what must come out; without one, what comes out now.
struct Case {
    name: String,
    bytes: Vec<u8>,
    outcome: Option<&'static str>,
}

fn case(name: &str, bytes: impl Into<Vec<u8>>, outcome: Option<&'static str>) -> Case {
    Case {
        name: name.to_owned(),
        bytes: bytes.into(),
        outcome,
    }
}

fn main() -> std::io::Result<()> {
    let to: PathBuf = std::env::args_os().nth(1).map_or_else(
        || {
            eprintln!("usage: make_corpus DIRECTORY");
            std::process::exit(2)
        },
        Into::into,
    );
    for kind in Kind::ALL {
        let cases = match kind {
            Kind::Frames => frames(),
            Kind::Ledger => ledger(),
            Kind::Predicates => predicates(),
        };
        write(&to.join(kind.name()), kind, &cases)?;
    }
    Ok(())
}

fn write(directory: &Path, kind: Kind, cases: &[Case]) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let expectations = directory.join(EXPECTED);
    let known = std::fs::read_to_string(&expectations).unwrap_or_default();
    let mut lines: Vec<String> = known.lines().map(str::to_owned).collect();
    for case in cases {
        let path = directory.join(&case.name);
        if path.exists() {
            continue;
        }
        let found = kind.outcome(&case.name, &case.bytes);
        let outcome = match case.outcome {
            None => found,
            Some(expected) => {
                assert!(
                    found.starts_with(expected),
                    "{}: {expected} was to come out, and {found} has",
                    case.name
                );
                expected.to_owned()
            }
        };
        std::fs::write(&path, &case.bytes)?;
        lines.retain(|line| !line.starts_with(&format!("{}\t", case.name)));
        lines.push(format!("{}\t{outcome}", case.name));
        println!("{}: {outcome}", path.display());
    }
    lines.sort();
    std::fs::write(expectations, lines.join("\n") + "\n")
}

/// Rows with a null in every column that may have one.
fn rows(count: i64) -> RecordBatch {
    let ids = || 0..count;
    let texts = [
        "IBM",
        "",
        "東京",
        "a text that is longer than a view",
        "it's",
    ];
    let text = |id: i64| (id % 7 != 3).then(|| texts[usize::try_from(id).unwrap_or(0) % 5]);
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>(
        ids().map(|id| (id % 5 != 4).then(|| (0..id % 4).map(|n| (n != 1).then_some(n)))),
    );
    let price = |id: i64| match id % 6 {
        0 => None,
        1 => Some(f64::NAN),
        2 => Some(-0.0),
        _ => Some(id as f64 / 8.0),
    };
    let symbols: DictionaryArray<Int32Type> = ids().map(text).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids())),
        Arc::new(ids().map(price).collect::<Float64Array>()),
        Arc::new(ids().map(text).collect::<StringArray>()),
        Arc::new(ids().map(text).collect::<StringViewArray>()),
        Arc::new(symbols),
        Arc::new(list),
    ];
    RecordBatch::try_new(frame_columns(), columns).expect("a batch")
}

fn encoded(batch: &RecordBatch, compression: Compression) -> Frame {
    let mut encoder = Encoder::new(compression).expect("an encoder");
    encoder.encode(batch, 1 << 20).expect("frames").remove(0)
}

/// The frame with this payload, sealed as a forger would.
fn forged(frame: &Frame, payload: Vec<u8>) -> Vec<u8> {
    frame_file(&Frame {
        raw_bytes: if frame.compressed {
            frame.raw_bytes
        } else {
            payload.len() as u64
        },
        checksum: xxh3_64(&payload),
        payload: payload.into(),
        ..frame.clone()
    })
}

/// The payload with the first occurrence of some bytes replaced by as many others.
fn patched(payload: &[u8], find: &[u8], replace: &[u8]) -> Vec<u8> {
    assert_eq!(find.len(), replace.len());
    let at = payload
        .windows(find.len())
        .position(|window| window == find)
        .expect("the bytes are there");
    let mut payload = payload.to_vec();
    payload[at..at + replace.len()].copy_from_slice(replace);
    payload
}

fn frames() -> Vec<Case> {
    let plain = |count| encoded(&rows(count), Compression::None);
    let zstd = |count| encoded(&rows(count), Compression::Zstd(1));
    let frame = plain(12);
    let payload = &frame.payload[..];
    let offsets: Vec<u8> = rows(12).column(2).to_data().buffers()[0]
        .as_slice()
        .to_vec();
    let mut swapped = offsets.clone();
    swapped[4..8].copy_from_slice(&i32::MAX.to_le_bytes());
    let other =
        RecordBatch::try_from_iter([("another", Arc::new(Int64Array::from(vec![1])) as ArrayRef)])
            .expect("a batch");
    let nothing = schema_to_bytes(&frame_columns()).expect("a schema");
    let corrupt = |words| Some(words);
    vec![
        case("plain.frame", frame_file(&plain(12)), None),
        case("zstd.frame", frame_file(&zstd(12)), None),
        case("one-row.frame", frame_file(&plain(1)), None),
        case("many-rows.frame", frame_file(&zstd(300)), None),
        case(
            "cut.frame",
            forged(&frame, payload[..payload.len() / 2].to_vec()),
            corrupt("corrupt:"),
        ),
        case(
            "flipped.frame",
            frame_file(&Frame {
                payload: patched(payload, b"IBM", b"ICM").into(),
                ..frame.clone()
            }),
            corrupt("corrupt: the bytes of a frame do not have its checksum"),
        ),
        case(
            "empty.frame",
            forged(&frame, Vec::new()),
            corrupt("corrupt:"),
        ),
        case(
            "text-that-is-none.frame",
            forged(&frame, patched(payload, b"IBM", b"I\xFFM")),
            corrupt("corrupt:"),
        ),
        case(
            "offsets-beyond.frame",
            forged(&frame, patched(payload, &offsets[..20], &swapped[..20])),
            corrupt("corrupt:"),
        ),
        case(
            "more-rows-than-said.frame",
            frame_file(&Frame {
                rows: 3,
                ..frame.clone()
            }),
            corrupt("corrupt: a frame of 12 rows was declared as 3"),
        ),
        case(
            "two-batches.frame",
            forged(&frame, {
                let mut writer =
                    arrow::ipc::writer::StreamWriter::try_new(Vec::new(), &frame_columns())
                        .expect("a writer");
                writer.write(&rows(12)).expect("a batch");
                writer.write(&rows(12)).expect("a batch");
                writer.into_inner().expect("bytes")
            }),
            corrupt("corrupt:"),
        ),
        case(
            "no-batch.frame",
            forged(&frame, nothing.to_vec()),
            corrupt("corrupt: a frame holds no record batch"),
        ),
        case(
            "other-columns.frame",
            frame_file(&encoded(&other, Compression::None)),
            corrupt("corrupt: a frame has other columns than its stream"),
        ),
        case(
            "more-after-it.frame",
            forged(&frame, [payload, payload].concat()),
            corrupt("corrupt:"),
        ),
        case(
            // 64 MiB of zeros, declared as what the others are.
            "bomb.frame",
            forged(&zstd(12), {
                let zeros = RecordBatch::try_from_iter([(
                    "number",
                    Arc::new(Int64Array::from(vec![0; 8 << 20])) as ArrayRef,
                )])
                .expect("a batch");
                let mut encoder = Encoder::new(Compression::Zstd(19)).expect("an encoder");
                let frames = encoder.encode(&zeros, 1 << 30).expect("frames");
                frames[0].payload.to_vec()
            }),
            corrupt("corrupt: decompress a frame"),
        ),
        case(
            "no-zstd.frame",
            forged(&zstd(12), b"\x28\xB5\x2F\xFD and then nothing".to_vec()),
            corrupt("corrupt: decompress a frame"),
        ),
        case("columns.schema", nothing.to_vec(), None),
        case(
            "cut.schema",
            nothing[..nothing.len() / 2].to_vec(),
            corrupt("corrupt:"),
        ),
        case(
            "empty.schema",
            Vec::new(),
            corrupt("corrupt: there is no schema in the message"),
        ),
        case(
            "length-beyond.schema",
            patched(&nothing, &nothing[4..8], &i32::MAX.to_le_bytes()),
            corrupt("corrupt:"),
        ),
    ]
}

fn ledger_file(json: &str) -> Vec<u8> {
    format!("{:032x}\n{json}\n", xxh3_128(json.as_bytes())).into_bytes()
}

fn ledger() -> Vec<Case> {
    let run = RunId::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
    let key = |text: &str| -> PartitionKey { text.parse().expect("a key") };
    let receipt = |text: &str, rows| Receipt {
        key: key(text),
        version: Version("5e1f".to_owned()),
        rows,
        digest: Digest::from_bytes(&[7; 16]).expect("a digest"),
        digest_id: strait_common::digest::DigestId::of(&frame_columns()).expect("an id"),
        level: Level::Received,
        selection: "select a where a > 'ü\t\"'".to_owned(),
        origin: Origin::default(),
    };
    let published = |text: &str, disposition| Published {
        receipt: receipt(text, 12),
        disposition,
        files: vec![PublishedFile {
            staged: "3-ab.parquet".to_owned(),
            path: "day=2026-01-05/strait-3-ab.parquet".to_owned(),
        }],
    };
    let json = |event: Event| {
        let entry = Entry::new(run, Epoch(3), event);
        serde_json::to_string(&entry).expect("JSON")
    };
    let claim = Claim {
        run,
        table: "db1/mt".parse().expect("a name"),
        agent: "agent-source 東京".to_owned(),
        job: "{\"spec\":{}}".to_owned(),
        taken_at: 1_768_046_400,
    };
    let attach = json(Event::Attach(claim));
    let publish = json(Event::Publish(vec![
        published("day=2026-01-05", Disposition::Append),
        published("day=2026-01-06", Disposition::Replace),
    ]));
    let done = json(Event::Complete(Outcome::Done));
    let whole = ledger_file(&publish);
    let corrupt = |words| Some(words);
    let unknown = corrupt("corrupt: it is no entry of this release");
    vec![
        case("attach.json", ledger_file(&attach), None),
        case("publish.json", whole.clone(), None),
        case(
            "publish-nothing.json",
            ledger_file(&json(Event::Publish(Vec::new()))),
            None,
        ),
        case(
            "drop.json",
            ledger_file(&json(Event::Drop(key("symbol='a%2Fb'")))),
            None,
        ),
        case("done.json", ledger_file(&done), None),
        case(
            "partial.json",
            ledger_file(&json(Event::Complete(Outcome::Partial))),
            None,
        ),
        case(
            "abandoned.json",
            ledger_file(&json(Event::Complete(Outcome::Abandoned))),
            None,
        ),
        case(
            "without-an-end-of-line.json",
            whole[..whole.len() - 1].to_vec(),
            None,
        ),
        case(
            "empty.json",
            Vec::new(),
            corrupt("corrupt: it is cut short"),
        ),
        case(
            "torn.json",
            whole[..whole.len() / 2].to_vec(),
            corrupt("corrupt:"),
        ),
        case("zeros.json", vec![0; 512], corrupt("corrupt:")),
        case(
            "no-text.json",
            [&whole[..40], b"\xFF\xFE\n"].concat(),
            corrupt("corrupt: it is no text"),
        ),
        case(
            "another-checksum.json",
            patched(&whole, b"day=2026-01-05", b"day=2026-01-07"),
            corrupt("corrupt: it does not have its checksum"),
        ),
        case(
            "a-later-format.json",
            ledger_file(&done.replace("\"format\":1", "\"format\":2")),
            corrupt("corrupt: it has format 2"),
        ),
        case(
            "a-later-event.json",
            ledger_file(&done.replace("complete", "explode")),
            unknown,
        ),
        case(
            "an-epoch-below-zero.json",
            ledger_file(&done.replace(":3,", ":-3,")),
            unknown,
        ),
        case(
            "a-key-that-is-none.json",
            ledger_file(&publish.replace("day=2026-01-05\",\"version", "(((\",\"version")),
            unknown,
        ),
        case("too-deep.json", ledger_file(&"[".repeat(10_000)), unknown),
        case(
            "half-json.json",
            ledger_file(&publish[..publish.len() / 2]),
            unknown,
        ),
    ]
}

fn predicates() -> Vec<Case> {
    let refused = Some("config:");
    let list: &[(&str, &str, Option<&'static str>)] = &[
        // The tutorial's own.
        (
            "seven-days",
            "TradingDay > date(now()) - 7 and TradingDay <= date(now())",
            None,
        ),
        (
            "today-so-far",
            "Timestamp > timestamp(date(now())) and Timestamp < now()",
            None,
        ),
        ("equal", "symbol = 'IBM'", None),
        ("turned-round", "'IBM' = symbol", None),
        ("quoted-name", "\"order by\" >= 7", None),
        ("quoted-quote", "symbol = 'it''s'", None),
        ("between", "id between -5 and 5", None),
        ("not-between", "id not between 1 and 2", None),
        ("in", "symbol in ('a', 'b', '東京', '')", None),
        ("not-in", "id not in (1, 2, 3)", None),
        ("null", "price is null or symbol is not null", None),
        ("flag", "flag and not flag or flag = false", None),
        ("brackets", "((id = 1) or (id = 2)) and (price > 1.5)", None),
        (
            "floats",
            "price > -0.0 and price < 1e300 or price = 'NaN'",
            None,
        ),
        ("decimal", "amount >= 1.2500 and amount <> -3", None),
        ("unsigned", "big = 18446744073709551615", None),
        ("day", "TradingDay = date '2026-01-05'", None),
        (
            "moment",
            "Timestamp >= timestamp '2026-01-05 09:30:00.000001'",
            None,
        ),
        ("instant", "zoned < timestamp '2026-01-05T09:30:00Z'", None),
        (
            "skipped-hour",
            "Timestamp > timestamp '2026-03-08 02:30:00'",
            None,
        ),
        ("today", "TradingDay = today()", None),
        (
            "case",
            "TRADINGDAY > date '2026-01-01' AND Symbol <> 'x'",
            None,
        ),
        ("comment", "id = 1 -- and nothing more", None),
        ("empty", "", refused),
        ("blank", " \t\n ", refused),
        ("rest", "id = 1 id", refused),
        ("dots", "TradingDay = 2026.11.01", refused),
        ("two-statements", "id = 1; drop table mt", refused),
        ("no-column", "1 = 1", refused),
        ("unknown-column", "nowhere = 1", refused),
        ("arithmetic", "id + 1 > 2", refused),
        ("two-columns", "id = big", refused),
        ("query", "id in (select 1)", refused),
        ("like", "symbol like 'I%'", refused),
        ("unclosed-text", "symbol = 'IBM", refused),
        ("unclosed-name", "\"symbol = 'IBM'", refused),
        ("unclosed-bracket", "(id = 1", refused),
        ("unclosed-comment", "id = 1 /* and", refused),
        ("wrong-day", "TradingDay = date '2026-02-30'", refused),
        ("text-for-number", "id = 'one'", refused),
        ("too-large", "small = 1000", None),
        ("backtick", "symbol = `IBM", refused),
        ("zero-byte", "symbol = 'a\0b'", None),
        ("right-to-left", "symbol = '\u{202E}ab'", None),
        ("parameter", "id = ?", refused),
        ("hex", "raw = x'00ff'", None),
        ("no-hex", "raw = x'0g'", refused),
    ];
    let mut cases: Vec<Case> = list
        .iter()
        .map(|(name, text, outcome)| case(&format!("{name}.sql"), *text, *outcome))
        .collect();
    cases.extend([
        case("no-utf-8.sql", b"id = \xFF".to_vec(), refused),
        case(
            "deep-brackets.sql",
            format!("{}id = 1{}", "(".repeat(3000), ")".repeat(3000)),
            refused,
        ),
        case(
            "deep-nots.sql",
            format!("{}flag", "not ".repeat(3000)),
            refused,
        ),
        case(
            "long-list.sql",
            format!("id in ({}0)", "1,".repeat(1000)),
            None,
        ),
    ]);
    cases
}
