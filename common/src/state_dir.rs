//! An agent's own directory: made when missing, locked against a second agent, and holding the agent's identity.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, OrError, Result};
use crate::ids::RunId;

/// The directory, locked for as long as this value lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    identity: String,
    _lock: File,
}

impl StateDir {
    /// Opens or makes the directory.
    ///
    /// # Errors
    /// `Config` if it cannot be made or written, `Refused` if another agent has it.
    pub fn open(path: &Path) -> Result<StateDir> {
        let name = path.display();
        let context = || format!("state_dir {name}");
        fs::create_dir_all(path).or_error(Kind::Config, context())?;
        let lock = File::options()
            .create(true)
            .append(true)
            .open(path.join("lock"))
            .or_error(Kind::Config, context())?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::refused(format!(
                    "state_dir {name} is in use by another agent; stop it or choose another directory"
                )));
            }
            Err(TryLockError::Error(error)) => return Err(error).or_error(Kind::Config, context()),
        }
        let identity = read_or_make_identity(path).or_error(Kind::Config, context())?;
        Ok(StateDir {
            path: path.to_owned(),
            identity,
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A random name that stays with the directory: two agents with one identity are copies of one another.
    pub fn identity(&self) -> &str {
        &self.identity
    }
}

fn read_or_make_identity(path: &Path) -> std::io::Result<String> {
    let file = path.join("identity");
    match fs::read_to_string(&file) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let identity = RunId::random().to_string();
    let draft = path.join("identity.new");
    let mut out = File::create(&draft)?;
    writeln!(out, "{identity}")?;
    out.sync_all()?;
    fs::rename(&draft, &file)?;
    File::open(path)?.sync_all()?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_refused_and_the_identity_stays() {
        let dir = std::env::temp_dir().join(format!("strait-state-{}", RunId::random()));
        let first = StateDir::open(&dir).unwrap();
        assert_eq!(StateDir::open(&dir).unwrap_err().kind(), Kind::Refused);
        let identity = first.identity().to_owned();
        drop(first);
        assert_eq!(StateDir::open(&dir).unwrap().identity(), identity);
        fs::remove_dir_all(dir).unwrap();
    }
}
