//! What a store did to the disk, act by act, and what must be true of it whatever the power does when.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use strait_common::{Error, Result};
use strait_lake::disk::{Recorder, Step};

use crate::world::decoded;

/// An act, kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Write(PathBuf),
    Sync(PathBuf),
    MakeDirectory(PathBuf),
    /// A file got a name; what is in it, where that is text.
    Name {
        from: PathBuf,
        to: PathBuf,
        text: Option<String>,
    },
    SyncDirectory(PathBuf),
    SyncStore(PathBuf),
    Remove(PathBuf),
    Return,
}

impl Act {
    fn of(step: &Step<'_>) -> Act {
        match *step {
            Step::Write(path) => Act::Write(path.to_owned()),
            Step::Sync(path) => Act::Sync(path.to_owned()),
            Step::MakeDirectory(path) => Act::MakeDirectory(path.to_owned()),
            Step::Link { from, to } | Step::Rename { from, to } => Act::Name {
                from: from.to_owned(),
                to: to.to_owned(),
                text: std::fs::read(from)
                    .ok()
                    .and_then(|bytes| String::from_utf8(bytes).ok()),
            },
            Step::SyncDirectory(path) => Act::SyncDirectory(path.to_owned()),
            Step::SyncStore(path) => Act::SyncStore(path.to_owned()),
            Step::Remove(path) => Act::Remove(path.to_owned()),
            Step::Return => Act::Return,
        }
    }
}

/// What a test does with a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Go,
    /// This step fails.
    Fail,
    /// The process dies: this step fails, and every later one.
    Die,
}

type Judge = Arc<dyn Fn(&Step<'_>) -> Verdict + Send + Sync>;

/// Keeps the acts of a process, and lets a test decide about each.
pub(crate) struct Watch {
    acts: Mutex<Vec<Act>>,
    judge: Mutex<Judge>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

impl Watch {
    pub(crate) fn new() -> Arc<Watch> {
        Arc::new(Watch {
            acts: Mutex::default(),
            judge: Mutex::new(Arc::new(|_| Verdict::Go)),
        })
    }

    /// From now on this decides.
    pub(crate) fn judge(&self, judge: impl Fn(&Step<'_>) -> Verdict + Send + Sync + 'static) {
        *self.judge.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(judge);
    }

    /// The acts since the last call.
    pub(crate) fn take(&self) -> Vec<Act> {
        std::mem::take(&mut *self.acts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Recorder for Watch {
    fn step(&self, step: &Step<'_>) -> Result<()> {
        let judge = Arc::clone(&self.judge.lock().unwrap_or_else(PoisonError::into_inner));
        let verdict = judge(step);
        if verdict == Verdict::Die {
            self.judge(|_| Verdict::Die);
        }
        if verdict != Verdict::Go {
            return Err(Error::unavailable(format!("the test fails {step:?}")));
        }
        let act = Act::of(step);
        (self.acts.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .push(act);
        Ok(())
    }
}

/// Whether this path is an entry of a Delta log.
pub(crate) fn is_log_entry(path: &Path) -> bool {
    path.parent().is_some_and(|log| log.ends_with("_delta_log"))
        && path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| {
                name.len() == 25 && name.ends_with(".json") && name.as_bytes()[0].is_ascii_digit()
            })
}

/// What is known to survive a power cut, act by act.
#[derive(Default)]
struct Known {
    /// Files whose content survives.
    content: BTreeSet<PathBuf>,
    /// Files and directories whose names may not survive.
    unsafe_names: BTreeSet<PathBuf>,
    /// Every file that was named here.
    named: BTreeSet<PathBuf>,
}

impl Known {
    /// Whether a file would be found after a power cut, from `root` down.
    fn survives(&self, root: &Path, path: &Path) -> std::result::Result<(), String> {
        if !self.named.contains(path) {
            return Err(format!("{} was never named", path.display()));
        }
        if !self.content.contains(path) {
            return Err(format!("the content of {} was not synced", path.display()));
        }
        let mut above = path.ancestors().take_while(|above| *above != root);
        match above.find(|above| self.unsafe_names.contains(*above)) {
            None => Ok(()),
            Some(name) => Err(format!("the name {} was not synced", name.display())),
        }
    }
}

/// Checks the order of these acts in a lake at `root`: content is synced before it gets a name; all that a log entry or a table checkpoint's pointer mentions
/// would be found after a power cut before it gets its name; and no call returns while a name that it gave is not synced.
///
/// # Errors
/// The first act that is too early, and why.
pub(crate) fn check(root: &Path, acts: &[Act]) -> std::result::Result<(), String> {
    let mut known = Known::default();
    for (at, act) in acts.iter().enumerate() {
        let early = |why: String| Err(format!("act {at}, {act:?}: {why}"));
        match act {
            Act::Write(path) => {
                known.content.remove(path);
                known.named.insert(path.clone());
                known.unsafe_names.insert(path.clone());
            }
            Act::Sync(path) => {
                known.content.insert(path.clone());
            }
            Act::MakeDirectory(path) => {
                known.unsafe_names.insert(path.clone());
            }
            Act::SyncDirectory(path) => known
                .unsafe_names
                .retain(|name| name.parent() != Some(path)),
            Act::SyncStore(_) => {
                known.content.extend(known.named.iter().cloned());
                known.unsafe_names.clear();
            }
            Act::Remove(path) => {
                known.unsafe_names.remove(path);
                known.named.remove(path);
            }
            Act::Name { from, to, text } => {
                if !known.content.remove(from) {
                    return early(format!("the content of {} was not synced", from.display()));
                }
                for path in mentions(root, to, text.as_deref()) {
                    if let Err(why) = known.survives(root, &path) {
                        return early(why);
                    }
                }
                // A position's files may lose their names: then the position does not count.
                for path in staged(to, text.as_deref()) {
                    if !known.content.contains(&path) {
                        return early(format!("the content of {} was not synced", path.display()));
                    }
                }
                known.named.remove(from);
                known.unsafe_names.remove(from);
                known.content.insert(to.clone());
                known.named.insert(to.clone());
                known.unsafe_names.insert(to.clone());
            }
            Act::Return => {
                // A file that is still being written has a name too, and a killed process leaves empty directories; nobody was told of those.
                for path in known.named.intersection(&known.content) {
                    if let Err(why) = known.survives(root, path) {
                        return early(why);
                    }
                }
            }
        }
    }
    Ok(())
}

/// The files that must be there once this one has its name: of a log entry, its data files and ledger file; of a table checkpoint's pointer, the table
/// checkpoint.
fn mentions(root: &Path, to: &Path, text: Option<&str>) -> Vec<PathBuf> {
    let log = to.parent().unwrap_or(root);
    let table = log.parent().unwrap_or(root);
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    if is_log_entry(to) {
        let mut files = Vec::new();
        for action in text.unwrap().lines().map(json) {
            if let Some(path) = action["add"]["path"].as_str() {
                files.push(table.join(decoded(path)));
            }
            let id = action["txn"]["appId"].as_str().unwrap_or("strait/epoch");
            if let Some(name) = id.strip_prefix("strait/").filter(|name| *name != "epoch") {
                files.push(table.join("_strait").join(format!("{name}.json")));
            }
        }
        return files;
    }
    if to.ends_with("_last_checkpoint") {
        let version = json(text.unwrap())["version"].as_u64().unwrap();
        return vec![log.join(format!("{version:020}.checkpoint.parquet"))];
    }
    Vec::new()
}

/// The files that a stage record is about.
fn staged(to: &Path, text: Option<&str>) -> Vec<PathBuf> {
    let stage = to.parent().filter(|stage| stage.ends_with("stage"));
    let record = to.extension().is_some_and(|end| end == "json");
    let (Some(stage), true, Some(text)) = (stage, record, text) else {
        return Vec::new();
    };
    let record: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    let files = record["files"].as_array().unwrap().iter();
    files
        .map(|file| stage.join(file["name"].as_str().unwrap()))
        .collect()
}

/// How many names these acts gave, by the directory that has them.
pub(crate) fn directories_named_in(acts: &[Act]) -> BTreeMap<PathBuf, usize> {
    let mut directories = BTreeMap::new();
    for act in acts {
        if let Act::Name { to: path, .. } | Act::MakeDirectory(path) = act {
            *directories
                .entry(path.parent().unwrap().to_owned())
                .or_default() += 1;
        }
    }
    directories
}
