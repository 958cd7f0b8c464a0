//! Acts on the local disk that survive a power cut: content before its name, directories after.
//!
//! Every act is a numbered step. A recorder can list them, so that a test sees their order, and can end the process's work at any of them, so that a
//! test sees what is left.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strait_common::{Error, Kind, OrError, Result};

/// Watches the steps of a store, for tests.
pub trait Recorder: std::fmt::Debug + Send + Sync {
    /// A step is about to happen; an error is a crash before it.
    ///
    /// # Errors
    /// Whatever the test wants the engine to see.
    fn step(&self, step: &Step<'_>) -> Result<()>;

    /// A file of a log is about to be read, or a directory to be listed; an error is the disk's.
    ///
    /// # Errors
    /// Whatever the test wants the disk to say.
    fn look(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// One effect on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Content of a file is written.
    Write(&'a Path),
    /// Content of a file becomes durable.
    Sync(&'a Path),
    /// A directory is made.
    MakeDirectory(&'a Path),
    /// A file gets its name, which must be free.
    Link {
        /// The name that it has now.
        from: &'a Path,
        /// The name that it gets.
        to: &'a Path,
    },
    /// A file gets its name, replacing what had it.
    Rename {
        /// The name that it has now, and loses.
        from: &'a Path,
        /// The name that it gets.
        to: &'a Path,
    },
    /// Names in a directory become durable.
    SyncDirectory(&'a Path),
    /// All content and all names of the file system that this directory is on become durable.
    SyncStore(&'a Path),
    /// A file is removed.
    Remove(&'a Path),
    /// An act of the engine's interface returns.
    Return,
}

/// The local disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    recorder: Option<Arc<dyn Recorder>>,
}

impl Disk {
    /// The disk, watched.
    pub fn recorded(recorder: Arc<dyn Recorder>) -> Disk {
        Disk {
            recorder: Some(recorder),
        }
    }

    /// Announces a step.
    ///
    /// # Errors
    /// What the recorder wants.
    pub fn step(&self, step: Step<'_>) -> Result<()> {
        self.recorder
            .as_ref()
            .map_or(Ok(()), |recorder| recorder.step(&step))
    }

    /// Announces that a file of a log is read, or a directory listed.
    ///
    /// # Errors
    /// What the recorder wants.
    pub fn look(&self, path: &Path) -> io::Result<()> {
        self.recorder
            .as_ref()
            .map_or(Ok(()), |recorder| recorder.look(path))
    }

    /// Makes a file's content durable.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn sync(&self, file: &File, path: &Path) -> Result<()> {
        self.step(Step::Sync(path))?;
        file.sync_all()
            .or_error(Kind::Unavailable, context("sync", path))
    }

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn sync_directory(&self, path: &Path) -> Result<()> {
        self.step(Step::SyncDirectory(path))?;
        let result = File::open(path).and_then(|directory| directory.sync_all());
        result.or_error(Kind::Unavailable, context("sync directory", path))
    }

    /// Writes a file whose content is not durable yet.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn write(&self, path: &Path, content: &[u8]) -> Result<()> {
        self.step(Step::Write(path))?;
        fs::write(path, content).or_error(Kind::Unavailable, context("write", path))
    }

    /// Makes a directory and those above it that are missing, and says which; none of them is durable.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn make_directories<'a>(&self, path: &'a Path) -> Result<Vec<&'a Path>> {
        let mut missing: Vec<&Path> = path
            .ancestors()
            .take_while(|ancestor| !ancestor.exists())
            .collect();
        missing.reverse();
        for directory in &missing {
            self.step(Step::MakeDirectory(directory))?;
            match fs::create_dir(directory) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error)
                        .or_error(Kind::Unavailable, context("make directory", directory));
                }
                _ => {}
            }
        }
        Ok(missing)
    }

    /// Makes a directory and those above it that are missing, each durable in its parent. One that is there is taken to be durable: whoever cannot
    /// know that keeps it.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn create_directories(&self, path: &Path) -> Result<()> {
        let made = self.make_directories(path)?;
        made.iter()
            .try_for_each(|directory| self.sync_parent(directory))
    }

    /// Makes a directory below `base`, and those between, and makes all of them durable: those that are there too, since whoever made them may
    /// have died before they were.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn keep_directories(&self, base: &Path, path: &Path) -> Result<()> {
        self.make_directories(path)?;
        path.ancestors()
            .take_while(|ancestor| *ancestor != base)
            .try_for_each(|directory| self.sync_parent(directory))
    }

    /// Writes a new file durably under a name that must be free. `false` if it is not.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn create(&self, path: &Path, content: &[u8]) -> Result<bool> {
        let draft = self.draft(path, content)?;
        self.step(Step::Link {
            from: &draft,
            to: path,
        })?;
        let linked = fs::hard_link(&draft, path);
        let removed = fs::remove_file(&draft);
        match linked {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(false),
            linked => linked
                .and(removed)
                .or_error(Kind::Unavailable, context("link", path))?,
        }
        self.sync_parent(path)?;
        Ok(true)
    }

    /// Writes a file durably, replacing what had its name.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn replace(&self, path: &Path, content: &[u8]) -> Result<()> {
        let draft = self.draft(path, content)?;
        self.rename(&draft, path)?;
        self.sync_parent(path)
    }

    /// Gives a file another name. The directories are not synced: the caller syncs each once.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.step(Step::Rename { from, to })?;
        fs::rename(from, to).or_error(Kind::Unavailable, context("rename", to))
    }

    /// The same for a file that may be gone.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn rename_if_there(&self, from: &Path, to: &Path) -> Result<()> {
        if from.exists() {
            self.rename(from, to)?;
        }
        Ok(())
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn remove(&self, path: &Path) -> Result<()> {
        self.step(Step::Remove(path))?;
        match fs::remove_file(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.or_error(Kind::Unavailable, context("remove", path)),
        }
    }

    fn sync_parent(&self, path: &Path) -> Result<()> {
        let parent = path
            .parent()
            .ok_or_else(|| Error::internal(format!("{} has no directory", path.display())))?;
        self.sync_directory(parent)
    }

    /// The content under a name that listings of object stores pass over.
    fn draft(&self, path: &Path, content: &[u8]) -> Result<PathBuf> {
        if let Some(parent) = path.parent() {
            self.create_directories(parent)?;
        }
        let mut draft = path.as_os_str().to_owned();
        draft.push(format!("#{}", uuid::Uuid::new_v4().as_u128()));
        let draft = PathBuf::from(draft);
        self.step(Step::Write(&draft))?;
        let written =
            File::create(&draft).and_then(|mut file| file.write_all(content).map(|()| file));
        let file = written.or_error(Kind::Unavailable, context("write", path))?;
        self.sync(&file, &draft)?;
        Ok(draft)
    }
}

/// So many files and directories are synced one by one.
const SYNC_EACH_MAX: usize = 4;
/// File systems whose `syncfs` writes everything and tells of every error: ext4 (3 and 2), XFS, Btrfs, tmpfs.
const SYNCED_AT_ONCE: [u64; 4] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994];

/// A file system, to make many files on it durable together: a sync of each costs milliseconds, one of all of them hardly more.
#[derive(Debug)]
pub struct Together {
    /// Open since before the first write, so that errors of writing back in between are told.
    directory: File,
    path: PathBuf,
    at_once: bool,
}

impl Together {
    /// The file system that this directory is on.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn open(path: &Path) -> Result<Together> {
        let directory = File::open(path).or_error(Kind::Unavailable, context("open", path))?;
        let stats = rustix::fs::fstatfs(&directory)
            .or_error(Kind::Unavailable, context("file system of", path))?;
        let kind = u64::try_from(stats.f_type).unwrap_or(0);
        Ok(Together {
            directory,
            path: path.to_owned(),
            at_once: SYNCED_AT_ONCE.contains(&kind),
        })
    }

    /// Makes the content of these files durable, then the names in these directories; all of them are on this file system.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn sync(
        &self,
        disk: &Disk,
        files: &[PathBuf],
        directories: &BTreeSet<PathBuf>,
    ) -> Result<()> {
        if self.at_once && files.len() + directories.len() > SYNC_EACH_MAX {
            disk.step(Step::SyncStore(&self.path))?;
            return rustix::fs::syncfs(&self.directory)
                .or_error(Kind::Unavailable, context("sync", &self.path));
        }
        for path in files {
            let file = File::open(path).or_error(Kind::Unavailable, context("open", path))?;
            disk.sync(&file, path)?;
        }
        directories
            .iter()
            .try_for_each(|directory| disk.sync_directory(directory))
    }
}

fn context(act: &str, path: &Path) -> String {
    format!("{act} {}", path.display())
}
