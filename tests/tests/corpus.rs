//! The corpus (see [`strait_tests::corpus`]): what must come out of each file does, and of thousands of others made from them something comes out: no panic, no
//! error of another kind than what is wrong with the input, and no memory that the input merely claims to need.

use std::sync::{Mutex, MutexGuard, PoisonError};

use peak_alloc::PeakAlloc;
use strait_common::digest::digest;
use strait_common::frame::Frame;
use strait_common::selection::Selection;
use strait_common::{Kind as ErrorKind, frame};
use strait_lake::ledger::Entry;
use strait_tests::corpus::{
    self, Kind, Mutator, columns, decode, directory, frame_columns, frame_file, frame_of, load,
};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const SEED: u64 = 20_260_105;
const MUTATIONS_OF_A_FILE: usize = 1500;
/// What a frame may be declared as: what its stream's lease pays for.
const RAW_BYTES_MAX: u64 = 1 << 20;

/// One test at a time: memory is counted over the whole process. And Arrow panics on some of these, which decoding turns into an error: its words are not news.
struct Quiet {
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

impl Quiet {
    fn new() -> Quiet {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic
                .location()
                .is_some_and(|at| at.file().ends_with("corpus.rs"))
            {
                usual(panic);
            }
        }));
        Quiet { _turn: turn }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::panic::take_hook();
        }
    }
}

/// The most memory that some work held at once, in bytes, beside what there was.
fn peak_bytes<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let done = work();
    (done, MEMORY.peak_usage().saturating_sub(before))
}

/// How the mutations of all files of a directory ended.
#[derive(Debug, Default)]
struct Ends {
    taken: usize,
    refused: usize,
    most_bytes: usize,
}

/// Gives every mutation of every file to `check`, which fails or says whether it was taken, and how much memory may have been held.
fn mutate(kind: Kind, check: impl Fn(&str, &[u8], &mut Mutator) -> Result<bool, String>) -> Ends {
    let files = load(&directory(kind));
    let pieces: Vec<&[u8]> = files
        .values()
        .map(|(bytes, _)| &bytes[..bytes.len().min(24)])
        .filter(|piece| !piece.is_empty())
        .collect();
    let mut ends = Ends::default();
    for (number, (name, (bytes, _))) in files.iter().enumerate() {
        for turn in 0..MUTATIONS_OF_A_FILE {
            let seed = SEED + (number * MUTATIONS_OF_A_FILE + turn) as u64;
            let mut mutator = Mutator::new(seed);
            let mutated = if kind == Kind::Frames && !name.ends_with(".schema") {
                // The payload; what is said of it is mutated below.
                let frame = frame_of(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
                let payload = mutator.mutate(&frame.payload, &pieces);
                frame_file(&Frame {
                    payload: payload.into(),
                    ..frame
                })
            } else {
                mutator.mutate(bytes, &pieces)
            };
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                peak_bytes(|| check(name, &mutated, &mut mutator))
            }));
            let (result, held) = checked.unwrap_or_else(|_| {
                panic!("{name}, mutated with seed {seed}, ends in a panic: {mutated:?}")
            });
            match result {
                Ok(true) => ends.taken += 1,
                Ok(false) => ends.refused += 1,
                Err(why) => panic!("{name}, mutated with seed {seed}: {why}: {mutated:?}"),
            }
            let most = memory_max(kind, mutated.len());
            assert!(
                held <= most,
                "{name}, mutated with seed {seed}, holds {held} bytes, and {most} are the most: {mutated:?}"
            );
            ends.most_bytes = ends.most_bytes.max(held);
        }
    }
    println!("{}: {ends:?}", kind.name());
    assert!(ends.refused > 0, "nothing was refused");
    ends
}

/// What may be held while so many bytes are looked at. A frame's claim is bounded by the lease, the other inputs by their own length.
fn memory_max(kind: Kind, bytes: usize) -> usize {
    const SPARE_BYTES: usize = 512 << 10;
    match kind {
        // Decompressed, decoded, digested.
        Kind::Frames => 3 * RAW_BYTES_MAX as usize + 4 * bytes + SPARE_BYTES,
        Kind::Ledger => 16 * bytes + SPARE_BYTES,
        // Tokens and the tree of them are far larger than their letters.
        Kind::Predicates => 1024 * bytes + SPARE_BYTES,
    }
}

#[test]
fn what_must_come_out_of_each_file_does() {
    let _quiet = Quiet::new();
    for kind in Kind::ALL {
        let files = load(&directory(kind));
        assert!(files.len() >= 15, "{}: {} files", kind.name(), files.len());
        for (name, (bytes, expected)) in files {
            let (found, held) = peak_bytes(|| kind.outcome(&name, &bytes));
            // Of an error the beginning is told.
            let fits = if expected.starts_with("ok ") {
                found == expected
            } else {
                found.starts_with(&expected)
            };
            assert!(
                fits,
                "{}/{name}: {found}, and {expected} was to come out",
                kind.name()
            );
            let most = memory_max(kind, bytes.len());
            assert!(held <= most, "{}/{name} holds {held} bytes", kind.name());
        }
    }
}

#[test]
fn mutated_frames_end_with_rows_or_as_corrupt() {
    let _quiet = Quiet::new();
    let ends = mutate(Kind::Frames, |name, bytes, mutator| {
        if name.ends_with(".schema") {
            return match frame::schema_from_bytes(bytes) {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == ErrorKind::Corrupt => Ok(false),
                Err(error) => Err(format!("{}: {error}", error.kind())),
            };
        }
        let mut frame = frame_of(bytes).map_err(|error| error.to_string())?;
        if mutator.below(4) > 0 {
            frame.checksum = xxh3_64(&frame.payload);
        }
        if !frame.compressed {
            frame.raw_bytes = frame.payload.len() as u64;
        }
        match mutator.below(8) {
            0 => frame.raw_bytes = mutator.below(RAW_BYTES_MAX as usize) as u64,
            1 => frame.compressed = !frame.compressed,
            2 => frame.rows = mutator.below(20) as u64,
            _ => {}
        }
        let rows = frame.rows;
        match decode(frame) {
            Ok(batch) if batch.num_rows() as u64 != rows => Err("other rows than said".to_owned()),
            Ok(batch) if batch.schema() != frame_columns() => Err("other columns".to_owned()),
            // Every value can be looked at.
            Ok(batch) => digest(&batch)
                .map(|_| true)
                .map_err(|error| error.to_string()),
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(false),
            Err(error) => Err(format!("{}: {error}", error.kind())),
        }
    });
    assert!(ends.taken > 100, "hardly any is still a frame: {ends:?}");
}

#[test]
fn mutated_ledger_files_are_read_as_they_are_or_not_at_all() {
    let _quiet = Quiet::new();
    let ends = mutate(Kind::Ledger, |_, bytes, mutator| {
        let forged = mutator.below(2) == 0;
        let sealed = match bytes.iter().position(|&byte| byte == b'\n') {
            Some(end) if forged => {
                let json = bytes[end + 1..].split(|&byte| byte == b'\n').next();
                let json = json.unwrap_or_default();
                let checksum = format!("{:032x}\n", xxh3_128(json));
                [checksum.as_bytes(), json, b"\n"].concat()
            }
            _ => bytes.to_vec(),
        };
        match Entry::from_bytes(&sealed) {
            Ok(entry) => {
                let json = serde_json::to_string(&entry).map_err(|error| error.to_string())?;
                let again: Entry =
                    serde_json::from_str(&json).map_err(|error| error.to_string())?;
                if again == entry {
                    Ok(true)
                } else {
                    Err("what was read is not what would be written".to_owned())
                }
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(false),
            Err(error) => Err(format!("{}: {error}", error.kind())),
        }
    });
    assert!(
        ends.taken > 100,
        "hardly any is still a ledger file: {ends:?}"
    );
}

#[test]
fn mutated_conditions_mean_something_or_are_refused() {
    let _quiet = Quiet::new();
    let schema = columns();
    let ends = mutate(Kind::Predicates, |_, bytes, _| {
        let text = String::from_utf8_lossy(bytes);
        match corpus::resolve(&text) {
            Ok(selection) => {
                let again = Selection::from_text(&selection.text(), &schema);
                match again {
                    Ok(again) if again == selection => Ok(true),
                    other => Err(format!("{} reads back as {other:?}", selection.text())),
                }
            }
            Err(error) if error.kind() == ErrorKind::Config => Ok(false),
            Err(error) => Err(format!("{}: {error}", error.kind())),
        }
    });
    assert!(
        ends.taken > 100,
        "hardly any is still a condition: {ends:?}"
    );
}
