//! What an operator asks for, and what a run is once it is resolved.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use strait_common::engine::Disposition;
use strait_common::ids::TableName;
use strait_common::selection::SelectionSpec;
use strait_common::{Context, Error, Result};
use strait_proto::v1;

use crate::chosen::KeyPatterns;

/// `STORE:DATABASE/TABLE` of the source, `SINK:DATABASE/TABLE` or `SINK/STORE:DATABASE/TABLE` of the sink, `file:///DIRECTORY:DATABASE/TABLE` of either.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place {
    /// The store at the source, or the sink, or the URL of a directory.
    pub name: String,
    /// The store within the sink, where it is named.
    pub store: Option<String>,
    /// The table.
    pub table: TableName,
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Place> {
        let wrong = || {
            Error::config(format!(
                "'{text}' is no place; write NAME:DATABASE/TABLE, for example live:db1/mt"
            ))
        };
        if text.starts_with(FILE) {
            return Place::read(text, None);
        }
        let (name, table) = text.split_once(':').ok_or_else(wrong)?;
        let (name, store) = match name.split_once('/') {
            Some((name, store)) => (name, Some(store)),
            None => (name, None),
        };
        if name.is_empty() || store == Some("") {
            return Err(wrong());
        }
        Ok(Place {
            name: name.to_owned(),
            store: store.map(str::to_owned),
            table: table.parse()?,
        })
    }
}

/// What the URL of a directory begins with.
const FILE: &str = "file://";

impl Place {
    /// Reads a place. A directory that names no table has one called like that at the other end.
    ///
    /// # Errors
    /// `Config` if it is none, or no table is named at either end.
    pub fn read(text: &str, other: Option<&TableName>) -> Result<Place> {
        if !text.starts_with(FILE) {
            return text.parse();
        }
        let named = text
            .rsplit_once(':')
            .and_then(|(url, table)| Some((url, table.parse().ok()?)));
        let (url, table) = match (named, other) {
            (Some((url, table)), _) if url.len() > FILE.len() => (url, table),
            (_, Some(other)) => (text, other.clone()),
            _ => {
                return Err(Error::config(format!(
                    "'{text}' names no table; write {text}:DATABASE/TABLE"
                )));
            }
        };
        strait_bundle::directory_of(url)?;
        Ok(Place {
            name: url.trim_end_matches('/').to_owned(),
            store: None,
            table,
        })
    }

    /// The directory that is meant, where it is one that can be carried and no store of an agent.
    pub fn directory(&self) -> Option<PathBuf> {
        directory(&self.name)
    }
}

/// The directory that a store or sink of this name is, if it is none of an agent.
pub fn directory(name: &str) -> Option<PathBuf> {
    let url = name.starts_with(FILE).then_some(name)?;
    strait_bundle::directory_of(url).ok()
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let store = self
            .store
            .as_ref()
            .map(|store| format!("/{store}"))
            .unwrap_or_default();
        write!(f, "{}{store}:{}", self.name, self.table)
    }
}

impl TryFrom<String> for Place {
    type Error = Error;

    fn try_from(text: String) -> Result<Place> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> String {
        place.to_string()
    }
}

/// What to copy, from where, to where: as asked for, before anything is resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The table at A.
    pub from: Place,
    /// The table at B.
    pub to: Place,
    /// Which rows and columns.
    #[serde(flatten)]
    pub selection: SelectionSpec,
    /// Which partitions, by name; all that are selected without it.
    #[serde(default, skip_serializing_if = "KeyPatterns::is_empty")]
    pub partitions: KeyPatterns,
    /// A file of receipts of what has arrived at B already, which is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipts: Option<PathBuf>,
    /// Columns whose values go into B's type where that is another one, each exactly or not at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub narrow: Vec<String>,
    /// Whether files travel as they are.
    #[serde(default, skip_serializing_if = "PassThrough::is_auto")]
    pub pass_through: PassThrough,
}

/// Whether files travel as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PassThrough {
    /// Those of partitions that are selected whole, where both tables look alike.
    #[default]
    Auto,
    /// None: rows are decoded and encoded.
    Never,
}

impl PassThrough {
    /// Whether nothing else was asked for.
    pub fn is_auto(&self) -> bool {
        *self == PassThrough::Auto
    }
}

impl From<v1::PassThrough> for PassThrough {
    fn from(pass_through: v1::PassThrough) -> PassThrough {
        match pass_through {
            v1::PassThrough::Unspecified | v1::PassThrough::Auto => PassThrough::Auto,
            v1::PassThrough::Never => PassThrough::Never,
        }
    }
}

impl From<PassThrough> for v1::PassThrough {
    fn from(pass_through: PassThrough) -> v1::PassThrough {
        match pass_through {
            PassThrough::Auto => v1::PassThrough::Auto,
            PassThrough::Never => v1::PassThrough::Never,
        }
    }
}

impl Spec {
    /// Whether what A has and the run does not copy can be gone: a bundle carries what its maker selected, and an increment what had not arrived.
    pub fn is_of_all(&self) -> bool {
        self.from.directory().is_none() && self.receipts.is_none()
    }
}

impl TryFrom<v1::Selectors> for Spec {
    type Error = Error;

    fn try_from(selectors: v1::Selectors) -> Result<Spec> {
        // Either end may be a directory that has the table of the other.
        let other: Result<Place> = Place::read(&selectors.to, None);
        let other = other.ok().map(|to| to.table);
        let from = Place::read(&selectors.from, other.as_ref()).context("--from")?;
        let to = Place::read(&selectors.to, Some(&from.table)).context("--to")?;
        if from == to {
            return Err(Error::config(format!("--from and --to are both {from}")));
        }
        if from.store.is_some() {
            return Err(Error::config(format!(
                "--from {from}: a source is one store, write STORE:DATABASE/TABLE"
            )));
        }
        Ok(Spec {
            from,
            to,
            selection: crate::asked::selection(selectors.clone()),
            pass_through: selectors.pass_through().into(),
            partitions: KeyPatterns(selectors.partitions),
            narrow: selectors.narrow,
            receipts: match selectors.receipts {
                path if path.is_empty() => None,
                path if Path::new(&path).is_absolute() => Some(path.into()),
                path => {
                    return Err(Error::config(format!(
                        "--receipts {path}: the agent reads it; write its absolute path on the agent's machine"
                    )));
                }
            },
        })
    }
}

impl From<&Spec> for v1::Selectors {
    fn from(spec: &Spec) -> v1::Selectors {
        v1::Selectors {
            from: spec.from.to_string(),
            to: spec.to.to_string(),
            r#where: spec.selection.predicate.clone(),
            columns: spec.selection.columns.clone().unwrap_or_default(),
            zone: spec.selection.zone.clone().unwrap_or_default(),
            partitions: spec.partitions.0.clone(),
            narrow: spec.narrow.clone(),
            receipts: spec
                .receipts
                .as_ref()
                .map(|path| path.display().to_string())
                .unwrap_or_default(),
            pass_through: v1::PassThrough::from(spec.pass_through).into(),
        }
    }
}

/// What happens to the rows that B has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
pub enum Mode {
    /// They stay, and the run's rows join them.
    Append {
        /// Although earlier runs have copied other rows of the same partitions.
        again: bool,
    },
    /// Each selected partition of A takes the place of B's.
    Replace,
    /// B's selected partitions become equal to A's.
    Mirror {
        /// How it is told that one is.
        check: Check,
        /// The most partitions that may be dropped because A no longer has them; if there are more, none is.
        allow_drop: u64,
    },
}

/// How a mirror tells that a partition is equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// By versions where both sides are as the last receipt left them, else by digests.
    Versions,
    /// By digests, always.
    Digests,
}

/// Which partitions come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Those with the least keys.
    #[default]
    Oldest,
    /// Those with the greatest keys.
    Newest,
}

impl Mode {
    /// The word on the command line and in `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Append { .. } => "append",
            Mode::Replace => "replace",
            Mode::Mirror { .. } => "mirror",
        }
    }

    /// What a partition's rows do to those at B.
    pub fn disposition(self) -> Disposition {
        match self {
            Mode::Append { .. } => Disposition::Append,
            Mode::Replace | Mode::Mirror { .. } => Disposition::Replace,
        }
    }
}

impl TryFrom<Option<v1::Mode>> for Mode {
    type Error = Error;

    fn try_from(mode: Option<v1::Mode>) -> Result<Mode> {
        use v1::mode::Kind;
        let mode = mode.unwrap_or_default();
        let (kind, check) = (mode.kind(), mode.check());
        if mode.again && !matches!(kind, Kind::Unspecified | Kind::Append) {
            return Err(Error::config(
                "--again says that rows may be appended once more; only --mode append appends",
            ));
        }
        if kind != Kind::Mirror && (mode.allow_drop > 0 || check != v1::Check::Unspecified) {
            return Err(Error::config(
                "--allow-drop and --check are of --mode mirror; add it, or leave them out",
            ));
        }
        Ok(match kind {
            Kind::Unspecified | Kind::Append => Mode::Append { again: mode.again },
            Kind::Replace => Mode::Replace,
            Kind::Mirror => Mode::Mirror {
                check: match check {
                    v1::Check::Unspecified | v1::Check::Versions => Check::Versions,
                    v1::Check::Digests => Check::Digests,
                },
                allow_drop: mode.allow_drop,
            },
        })
    }
}

impl From<Mode> for v1::Mode {
    fn from(mode: Mode) -> v1::Mode {
        use v1::mode::Kind;
        let kind = |kind: Kind| v1::Mode {
            kind: kind.into(),
            ..v1::Mode::default()
        };
        match mode {
            Mode::Append { again } => v1::Mode {
                again,
                ..kind(Kind::Append)
            },
            Mode::Replace => kind(Kind::Replace),
            Mode::Mirror { check, allow_drop } => v1::Mode {
                check: match check {
                    Check::Versions => v1::Check::Versions,
                    Check::Digests => v1::Check::Digests,
                }
                .into(),
                allow_drop,
                ..kind(Kind::Mirror)
            },
        }
    }
}

/// A run's job with everything resolved that must stay the same over all its attempts. Its JSON is what the claim at the sink carries, and what
/// another source agent adopts the run from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What was asked for.
    #[serde(flatten)]
    pub spec: Spec,
    /// What `now()` means: nanoseconds since 1970 in UTC.
    pub now: i64,
    /// The resolved selection ([`strait_common::selection::Selection::text`]).
    pub resolved: String,
    /// What digests are computed by.
    pub digest_id: String,
    /// What happens to the rows that B has.
    #[serde(flatten)]
    pub mode: Mode,
}

impl Job {
    /// The canonical text: equal jobs have equal text.
    ///
    /// # Errors
    /// `Internal` if it cannot be written.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| Error::internal("write a job").with_source(error))
    }

    /// Reads the canonical text.
    ///
    /// # Errors
    /// `Corrupt` if it is none.
    pub fn from_json(text: &str) -> Result<Job> {
        serde_json::from_str(text).map_err(|error| Error::corrupt("read a job").with_source(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_back_from_their_text() {
        for text in [
            "live:db1/mt",
            "dr/lake:db1/mt",
            "file:///back%20up/a:b:db1/mt",
        ] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        for text in ["db1/mt", ":db1/mt", "live:", "live/:a/b", "live:a"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_directory_has_the_table_of_the_other_end_unless_it_names_one() {
        let spec = |from: &str, to: &str| {
            Spec::try_from(v1::Selectors {
                from: from.to_owned(),
                to: to.to_owned(),
                ..v1::Selectors::default()
            })
        };
        let backup = spec("live:db1/mt", "file:///backup/").unwrap();
        assert_eq!(backup.to.to_string(), "file:///backup:db1/mt");
        assert_eq!(backup.to.directory(), Some(PathBuf::from("/backup")));
        let restore = spec("file:///backup/a:b", "dr:db1/mt").unwrap();
        assert_eq!(restore.from.to_string(), "file:///backup/a:b:db1/mt");
        let named = spec("file:///backup:db2/x", "dr:db1/mt").unwrap();
        assert_eq!(
            (named.from.table.to_string(), named.from.name),
            ("db2/x".to_owned(), "file:///backup".to_owned())
        );
        for (from, to) in [
            ("file:///a", "file:///b"),
            ("file://host/a", "dr:db1/mt"),
            ("live:db1/mt", "file:backup"),
            ("file:///a:db1/mt", "file:///a"),
        ] {
            let error = spec(from, to).unwrap_err();
            assert_eq!(
                error.kind(),
                strait_common::Kind::Config,
                "{from} {to}: {error}"
            );
        }
    }
}
