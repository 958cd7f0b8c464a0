//! Groups in the store: the runs of one request for several tables, each of which owns its table alone.

use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use strait_common::ids::{GroupId, RunId};
use strait_common::sqlite::Said;
use strait_common::{Kind, OrError, Result};

use super::{READ, RunStore, Status, kind};
use crate::asked::Terms;
use crate::job::Place;

/// What is in the store for groups. A member has its run's id from the beginning, so that a start that was interrupted is not begun twice.
pub(super) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS groups (
        id TEXT PRIMARY KEY,
        request TEXT NOT NULL,
        status TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        ended_at INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE IF NOT EXISTS members (
        of_group TEXT NOT NULL REFERENCES groups (id) ON DELETE CASCADE,
        seq INTEGER NOT NULL,
        origin TEXT NOT NULL,
        target TEXT NOT NULL,
        run TEXT NOT NULL,
        message TEXT NOT NULL DEFAULT '',
        kind TEXT,
        PRIMARY KEY (of_group, seq)
    ) STRICT, WITHOUT ROWID";

const COLUMNS: &str = "id, request, status, created_at, ended_at";

/// What a group was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The tables at A, as they were written.
    pub from: String,
    /// The tables at B, as they were written.
    pub to: String,
    /// The rest, for all of them.
    pub terms: Terms,
    /// What `now()` means in all of them: nanoseconds since 1970 in UTC.
    pub now: i64,
    /// Whether a run under way serves only if its `now()` means the same.
    pub exact_now: bool,
    /// Tables that are copied at a time.
    pub tables_max: u32,
    /// Other meanings of `now()` whose rows are selected, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<i64>,
    /// Values of the first dividing column before the selected ones that are looked at, too.
    #[serde(default)]
    pub lookback: u32,
}

/// A group as stored.
#[derive(Clone, Debug)]
pub struct GroupRow {
    /// Its id.
    pub id: GroupId,
    /// What it was asked for.
    pub request: Request,
    /// How it stands.
    pub status: Status,
    /// Seconds since 1970.
    pub created_at: i64,
    /// 0 while it has not ended.
    pub ended_at: i64,
    /// Its tables, in the order in which they are begun.
    pub members: Vec<Member>,
}

/// A table of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The table at A.
    pub from: Place,
    /// The table at B.
    pub to: Place,
    /// The run that copies it, once it is begun.
    pub run: RunId,
    /// Why no run could be begun; else empty.
    pub message: String,
    /// The kind of that error.
    pub kind: Option<Kind>,
}

impl RunStore {
    /// Stores a group, in one act. One that is there already stays as it is.
    ///
    /// # Errors
    /// `Unavailable` if SQLite cannot write; `Full` if its disk is full.
    pub fn insert_group(&mut self, group: &GroupRow) -> Result<()> {
        let request = serde_json::to_string(&group.request);
        let request = request.or_error(Kind::Internal, "write the request of a group")?;
        let transaction = self.db.transaction().written(&self.name)?;
        let values = params![
            group.id.to_string(),
            request,
            group.status.name(),
            group.created_at,
            group.ended_at
        ];
        let sql = format!("INSERT OR IGNORE INTO groups ({COLUMNS}) VALUES (?, ?, ?, ?, ?)");
        let new = transaction.execute(&sql, values).written(&self.name)?;
        for (seq, member) in group.members.iter().enumerate().filter(|_| new > 0) {
            let sql = "INSERT INTO members (of_group, seq, origin, target, run, message, kind) VALUES (?, ?, ?, ?, ?, ?, ?)";
            let values = params![
                group.id.to_string(),
                i64::try_from(seq).unwrap_or(i64::MAX),
                member.from.to_string(),
                member.to.to_string(),
                member.run.to_string(),
                member.message,
                member.kind.map(Kind::name)
            ];
            transaction.execute(sql, values).written(&self.name)?;
        }
        transaction.commit().written(&self.name)
    }

    /// Writes how a group stands.
    ///
    /// # Errors
    /// `Unavailable` if SQLite cannot write; `Full` if its disk is full.
    pub fn update_group(&self, id: GroupId, status: Status, ended_at: i64) -> Result<()> {
        let sql = "UPDATE groups SET status = ?2, ended_at = ?3 WHERE id = ?1";
        let values = params![id.to_string(), status.name(), ended_at];
        self.db.execute(sql, values).written(&self.name)?;
        Ok(())
    }

    /// Writes which run a member has, and why none could be begun.
    ///
    /// # Errors
    /// `Unavailable` if SQLite cannot write; `Full` if its disk is full.
    pub fn update_member(&self, id: GroupId, member: &Member) -> Result<()> {
        let sql = "UPDATE members SET run = ?3, message = ?4, kind = ?5 WHERE of_group = ?1 AND target = ?2";
        let values = params![
            id.to_string(),
            member.to.to_string(),
            member.run.to_string(),
            member.message,
            member.kind.map(Kind::name)
        ];
        self.db.execute(sql, values).written(&self.name)?;
        Ok(())
    }

    /// The groups whose ids begin with `prefix`, newest first, at most `limit`.
    ///
    /// # Errors
    /// `Corrupt` if what is stored cannot be read.
    pub fn groups(&self, prefix: &str, limit: u32) -> Result<Vec<GroupRow>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM groups WHERE substr(id, 1, length(?1)) = ?1 ORDER BY created_at DESC, id LIMIT ?2"
        );
        let groups = self.all(&sql, params![prefix, limit], group_row)?;
        groups.into_iter().map(|group| self.filled(group)).collect()
    }

    /// The group, if it is known.
    ///
    /// # Errors
    /// `Corrupt` if what is stored cannot be read.
    pub fn group(&self, id: GroupId) -> Result<Option<GroupRow>> {
        let sql = format!("SELECT {COLUMNS} FROM groups WHERE id = ?");
        let found = self
            .db
            .query_row(&sql, [id.to_string()], |row| Ok(group_row(row)))
            .optional();
        let found = found.found(&self.name)?.transpose()?;
        found.map(|group| self.filled(group)).transpose()
    }

    /// The groups that the agent works on.
    ///
    /// # Errors
    /// `Corrupt` if what is stored cannot be read.
    pub fn active_groups(&self) -> Result<Vec<GroupRow>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM groups WHERE status IN ('planned', 'running') ORDER BY created_at, id"
        );
        let groups = self.all(&sql, [], group_row)?;
        groups.into_iter().map(|group| self.filled(group)).collect()
    }

    fn filled(&self, group: GroupRow) -> Result<GroupRow> {
        let sql = "SELECT origin, target, run, message, kind FROM members WHERE of_group = ? ORDER BY seq";
        let members = self.all(sql, [group.id.to_string()], member_row)?;
        Ok(GroupRow { members, ..group })
    }
}

fn group_row(row: &Row<'_>) -> Result<GroupRow> {
    let text = |column| row.get::<_, String>(column).or_error(Kind::Corrupt, READ);
    let int = |column| row.get::<_, i64>(column).or_error(Kind::Corrupt, READ);
    let request = serde_json::from_str(&text("request")?);
    Ok(GroupRow {
        id: text("id")?.parse()?,
        request: request.or_error(Kind::Corrupt, "read the request of a group")?,
        status: Status::from_name(&text("status")?)?,
        created_at: int("created_at")?,
        ended_at: int("ended_at")?,
        members: Vec::new(),
    })
}

fn member_row(row: &Row<'_>) -> Result<Member> {
    let text = |column| row.get::<_, String>(column).or_error(Kind::Corrupt, READ);
    Ok(Member {
        from: text("origin")?.parse()?,
        to: text("target")?.parse()?,
        run: text("run")?.parse()?,
        message: text("message")?,
        kind: row
            .get::<_, Option<String>>("kind")
            .map(kind)
            .or_error(Kind::Corrupt, READ)?,
    })
}
