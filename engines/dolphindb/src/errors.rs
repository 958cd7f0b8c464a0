//! What the server says when it refuses, and what its caller does about it.
//!
//! The text is the server's and is kept whole. Its tag or its code (`RefId: S00002`) tells the kind; a text that nobody knows is for a person.

use std::fmt;

use strait_common::{Error, Kind};

/// Why a request failed, seen from the connection.
#[derive(Debug)]
pub enum Failure {
    /// The server has refused it; the connection is in step, and nothing was done that the text does not speak of.
    Server(ServerError),
    /// The request was not sent: it cannot be, or the connection is out of step and says so itself.
    Unsent(Error),
    /// The connection is lost, and with it the answer. The request may have been carried out.
    Lost(Error),
}

impl Failure {
    /// Whether nothing of the request can have been carried out.
    pub(crate) fn proves_nothing_was_done(&self) -> bool {
        match self {
            Failure::Server(error) => error.cause.proves_nothing_was_done(),
            Failure::Unsent(_) => true,
            Failure::Lost(_) => false,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Server(error) => Error::new(error.cause.kind(), error.to_string()),
            Failure::Unsent(error) | Failure::Lost(error) => error,
        }
    }
}

/// The server's text, and what was understood of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// As it was sent.
    pub text: String,
    /// What it means.
    pub cause: Cause,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server says: {}", self.text)?;
        match self.cause.advice() {
            "" => Ok(()),
            advice => write!(f, " ({advice})"),
        }
    }
}

/// What the server's text means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Another transaction has a chunk; nothing was written.
    ChunkLocked,
    /// Another site has to be asked: host and port.
    NotLeader(Option<(String, u16)>),
    /// A node or controller is away, or not ready.
    NodeAway,
    /// The user may not.
    NoPrivilege,
    /// User name or password is wrong.
    LoginFailed,
    /// The server has no such function: it is older than what was asked for.
    UnknownFunction,
    /// This user logs in by another way than SCRAM: who is made without more can only do so.
    NotByScram,
    /// The disk is full.
    DiskFull,
    /// Memory ran out, or a limit on it.
    OutOfMemory,
    /// The database takes its rows from another cluster.
    ReplicationSlave,
    /// Rows do not fit the division.
    OutsideDivision,
    /// A query would touch too many partitions.
    TooManyPartitions,
    /// The node has no cluster.
    NoCluster,
    /// Something else: a person must look.
    Other,
}

impl Cause {
    /// What the caller does about it.
    #[deny(clippy::wildcard_enum_match_arm)]
    pub fn kind(&self) -> Kind {
        match self {
            Cause::ChunkLocked | Cause::NotLeader(_) | Cause::NodeAway | Cause::OutOfMemory => {
                Kind::Unavailable
            }
            Cause::DiskFull => Kind::Full,
            Cause::LoginFailed | Cause::NoCluster => Kind::Config,
            Cause::NoPrivilege
            | Cause::UnknownFunction
            | Cause::NotByScram
            | Cause::ReplicationSlave
            | Cause::OutsideDivision
            | Cause::TooManyPartitions
            | Cause::Other => Kind::Refused,
        }
    }

    /// What a person does about it, where the text does not say.
    fn advice(&self) -> &'static str {
        match self {
            Cause::NoPrivilege => "grant it to the user of the URL",
            Cause::ReplicationSlave => {
                "this database is filled by the cluster's own replication; copy to another one, or switch that off"
            }
            Cause::OutsideDivision => "no partition takes these rows",
            Cause::NoCluster => "name a data node of a cluster in the URL",
            Cause::UnknownFunction => "this server may be too old",
            Cause::NotByScram => "say login=auto or login=rsa in the URL",
            Cause::TooManyPartitions => "narrow the selection",
            _ => "",
        }
    }

    /// Whether nothing can have been written. What is said when a node goes, memory runs out or nobody knows what, may be said after it was.
    #[deny(clippy::wildcard_enum_match_arm)]
    fn proves_nothing_was_done(&self) -> bool {
        match self {
            Cause::ChunkLocked
            | Cause::NotLeader(_)
            | Cause::NoPrivilege
            | Cause::LoginFailed
            | Cause::UnknownFunction
            | Cause::NotByScram
            | Cause::ReplicationSlave
            | Cause::NoCluster => true,
            Cause::NodeAway
            | Cause::DiskFull
            | Cause::OutOfMemory
            | Cause::OutsideDivision
            | Cause::TooManyPartitions
            | Cause::Other => false,
        }
    }

    /// Whether the same request may succeed at another site.
    pub fn is_for_another_site(&self) -> bool {
        matches!(self, Cause::NotLeader(_) | Cause::NodeAway)
    }
}

/// Texts within an error, in lower case, and what they mean. The first that is found counts.
const SIGNS: &[(&str, Cause)] = &[
    ("<chunkintransaction>", Cause::ChunkLocked),
    ("s00002", Cause::ChunkLocked),
    ("<datanodenotavail>", Cause::NodeAway),
    ("<datanodenotready>", Cause::NodeAway),
    ("<controllernotready>", Cause::NodeAway),
    ("<controllernotavail>", Cause::NodeAway),
    ("dfs is not enabled", Cause::NoCluster),
    ("<noprivilege>", Cause::NoPrivilege),
    ("user name or password is incorrect", Cause::LoginFailed),
    ("no space left on device", Cause::DiskFull),
    ("out of memory", Cause::OutOfMemory),
    ("s01023", Cause::ReplicationSlave),
    ("s01016", Cause::OutsideDivision),
    ("s01001", Cause::OutsideDivision),
    ("s02039", Cause::TooManyPartitions),
    ("can't recognize function name", Cause::UnknownFunction),
    ("doesn't support scram authmode", Cause::NotByScram),
    ("cannot recognize the token scram", Cause::UnknownFunction),
    (
        "cannot recognize the token getdynamicpublickey",
        Cause::UnknownFunction,
    ),
];

impl ServerError {
    /// Understands the text.
    pub fn of(text: &str) -> ServerError {
        let lower = text.to_lowercase();
        let cause = match lower.find("<notleader>") {
            Some(at) => Cause::NotLeader(site_of(&text[at + "<notleader>".len()..])),
            None => {
                let found = SIGNS.iter().find(|(sign, _)| lower.contains(sign));
                found.map_or(Cause::Other, |(_, cause)| cause.clone())
            }
        };
        ServerError {
            text: text.trim().to_owned(),
            cause,
        }
    }
}

/// `host:port` or `host:port:alias`, of which the host is not empty.
fn site_of(text: &str) -> Option<(String, u16)> {
    let word = text.split_whitespace().next()?;
    let mut parts = word.split(':');
    let host = parts.next().filter(|host| !host.is_empty())?;
    Some((host.to_owned(), parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_tells_the_kind_and_is_kept() {
        let texts = [
            (
                "<ChunkInTransaction>The openChunks operation failed because the chunk '/testDB/1/2' is currently locked and in use by transaction 8. RefId:S00002",
                Kind::Unavailable,
            ),
            ("<NotLeader>10.0.0.2:8848:node2", Kind::Unavailable),
            ("<DataNodeNotAvail>node1", Kind::Unavailable),
            ("<NoPrivilege>Not granted to read table", Kind::Refused),
            ("The user name or password is incorrect.", Kind::Config),
            ("DFS is not enabled.", Kind::Config),
            ("write /data: No space left on device", Kind::Full),
            ("The database is a slave. RefId: S01023", Kind::Refused),
            ("Something that nobody has heard of", Kind::Refused),
        ];
        for (text, kind) in texts {
            let error = Error::from(Failure::Server(ServerError::of(text)));
            assert_eq!(error.kind(), kind, "{text}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn a_leader_is_named_by_host_and_port_or_not_at_all() {
        let leader = |text: &str| ServerError::of(text).cause;
        let named = Cause::NotLeader(Some(("10.0.0.2".to_owned(), 8848)));
        assert_eq!(leader("<NotLeader>10.0.0.2:8848:node2"), named);
        assert_eq!(leader("<NotLeader>10.0.0.2:8848"), named);
        for text in [
            "<NotLeader>",
            "<NotLeader>:1",
            "<NotLeader>a:b",
            "<NotLeader>a:99999",
        ] {
            assert_eq!(leader(text), Cause::NotLeader(None), "{text}");
        }
    }
}
