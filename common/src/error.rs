//! One error type for both agents, the engines and the command line.
//!
//! A [`Kind`] is chosen by what the caller should do, not by what went wrong inside. The text says what
//! went wrong and what to do about it; each layer adds the name that it knows (store, table, partition,
//! column) with [`Context::context`], so that a message reads `outer: inner: innermost`, in lower case, without a
//! full stop. An error is logged once, where it is handled.
//!
//! Errors cross the wire as gRPC statuses and keep their kind: the code tells most kinds apart, and a
//! metadata entry tells the three that share `FAILED_PRECONDITION`.

use std::fmt;

/// What went wrong, seen from the caller: each kind has exactly one [`Reaction`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The peer, the network or the engine is away for now.
    Unavailable,
    /// A disk has no room for what must be written; the message names a path on it.
    Full,
    /// The partition's version changed between planning and reading.
    Moved,
    /// A higher epoch owns the table now.
    Fenced,
    /// Data or bookkeeping contradicts itself: a digest, a torn file, a message out of order.
    Corrupt,
    /// The schemas of the two sides do not fit.
    Schema,
    /// The configuration, a selector or an argument is wrong.
    Config,
    /// A person must decide; the message says how.
    Refused,
    /// Somebody asked for the stop. Never looks like the end of data.
    Cancelled,
    /// A bug of ours.
    Internal,
}

/// What the caller of a failed operation does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Back off, attach again, resume from the sink's ledger.
    Retry,
    /// The same for as long as a person may take to make room, and say so meanwhile.
    AwaitRoom,
    /// Plan this partition again, then start it from the beginning.
    Replan,
    /// End this attempt; another one runs.
    Yield,
    /// Fail; a person must act.
    Fail,
    /// Stop quietly.
    Stop,
}

impl Reaction {
    /// Whether the run goes on, with another attempt.
    pub fn attaches_again(self) -> bool {
        matches!(self, Reaction::Retry | Reaction::AwaitRoom)
    }
}

impl Kind {
    /// Every kind, for tests and tables.
    pub const ALL: [Kind; 10] = [
        Kind::Unavailable,
        Kind::Full,
        Kind::Moved,
        Kind::Fenced,
        Kind::Corrupt,
        Kind::Schema,
        Kind::Config,
        Kind::Refused,
        Kind::Cancelled,
        Kind::Internal,
    ];

    /// The one place that turns a kind into behaviour.
    #[deny(clippy::wildcard_enum_match_arm)]
    pub fn reaction(self) -> Reaction {
        match self {
            Kind::Unavailable => Reaction::Retry,
            Kind::Full => Reaction::AwaitRoom,
            Kind::Moved => Reaction::Replan,
            Kind::Fenced => Reaction::Yield,
            Kind::Corrupt | Kind::Schema | Kind::Config | Kind::Refused | Kind::Internal => {
                Reaction::Fail
            }
            Kind::Cancelled => Reaction::Stop,
        }
    }

    /// Whether trying again later can help although nobody does anything about it.
    pub fn is_temporary(self) -> bool {
        matches!(self, Kind::Unavailable | Kind::Full | Kind::Fenced)
    }

    /// The stable lower-case name used on the wire, in SQLite and in `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Unavailable => "unavailable",
            Kind::Full => "full",
            Kind::Moved => "moved",
            Kind::Fenced => "fenced",
            Kind::Corrupt => "corrupt",
            Kind::Schema => "schema",
            Kind::Config => "config",
            Kind::Refused => "refused",
            Kind::Cancelled => "cancelled",
            Kind::Internal => "internal",
        }
    }

    /// The kind with this [`name`](Kind::name).
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    fn code(self) -> tonic::Code {
        match self {
            Kind::Unavailable => tonic::Code::Unavailable,
            Kind::Full => tonic::Code::ResourceExhausted,
            Kind::Moved => tonic::Code::OutOfRange,
            Kind::Fenced => tonic::Code::Aborted,
            Kind::Corrupt => tonic::Code::DataLoss,
            Kind::Schema | Kind::Refused => tonic::Code::FailedPrecondition,
            Kind::Config => tonic::Code::InvalidArgument,
            Kind::Cancelled => tonic::Code::Cancelled,
            Kind::Internal => tonic::Code::Internal,
        }
    }

    fn from_code(code: tonic::Code) -> Kind {
        use tonic::Code;
        match code {
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Unknown => Kind::Unavailable,
            Code::Aborted => Kind::Fenced,
            Code::DataLoss => Kind::Corrupt,
            Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::AlreadyExists
            | Code::Unauthenticated => Kind::Refused,
            Code::InvalidArgument | Code::NotFound => Kind::Config,
            Code::Cancelled => Kind::Cancelled,
            // OutOfRange without a kind is the transport's word for a message above its limit, which only a bug of ours sends.
            Code::Unimplemented | Code::Internal | Code::OutOfRange | Code::Ok => Kind::Internal,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An error with its kind, the names added on the way up, and the source it came from.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    context: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The metadata entry of a gRPC status that carries the kind.
const KIND_ENTRY: &str = "strait-kind";

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {
        impl Error { $(
            $(#[$doc])*
            pub fn $name(context: impl Into<String>) -> Error {
                Error::new(Kind::$kind, context)
            }
        )* }
    };
}

constructors! {
    /// An error of [`Kind::Unavailable`].
    unavailable => Unavailable;
    /// An error of [`Kind::Full`].
    full => Full;
    /// An error of [`Kind::Moved`].
    moved => Moved;
    /// An error of [`Kind::Fenced`].
    fenced => Fenced;
    /// An error of [`Kind::Corrupt`].
    corrupt => Corrupt;
    /// An error of [`Kind::Schema`].
    schema => Schema;
    /// An error of [`Kind::Config`].
    config => Config;
    /// An error of [`Kind::Refused`].
    refused => Refused;
    /// An error of [`Kind::Cancelled`].
    cancelled => Cancelled;
    /// An error of [`Kind::Internal`].
    internal => Internal;
}

impl Error {
    /// An error of `kind` whose message is `context`.
    pub fn new(kind: Kind, context: impl Into<String>) -> Error {
        Error {
            kind,
            context: context.into(),
            source: None,
        }
    }

    /// Keeps `source` below the message; it is printed after a colon. What is `Unavailable` because a disk is full is [`Kind::Full`]: no caller
    /// has to look for that itself.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        let source = source.into();
        if self.kind == Kind::Unavailable && says_full(&*source) {
            self.kind = Kind::Full;
        }
        self.source = Some(source);
        self
    }

    /// What the caller should do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Puts a name in front of the message and keeps kind and source.
    #[must_use]
    pub fn context(mut self, name: impl fmt::Display) -> Error {
        self.context = format!("{name}: {}", self.context);
        self
    }
}

/// Whether a disk without room is what an error came from.
fn says_full(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind;
    if let Some(error) = error.downcast_ref::<Error>() {
        // One of ours has looked already.
        return error.kind == Kind::Full;
    }
    if let Some(error) = error.downcast_ref::<std::io::Error>() {
        if matches!(
            error.kind(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded
        ) {
            return true;
        }
        // What an I/O error wraps is not its source: that is one further down.
        if let Some(inner) = error.get_ref() {
            return says_full(inner);
        }
    }
    error.source().is_some_and(says_full)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        // The whole chain in one line, since operators read one line.
        let mut source = self.source.as_deref().map(|s| s as &dyn std::error::Error);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Adds a name to the error of a result.
pub trait Context<T> {
    /// Puts `name` in front of the message, if there is one.
    fn context(self, name: impl fmt::Display) -> Result<T>;
    /// The same, for a name that is costly to make.
    fn with_context<N: fmt::Display>(self, name: impl FnOnce() -> N) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, name: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.context(name))
    }

    fn with_context<N: fmt::Display>(self, name: impl FnOnce() -> N) -> Result<T> {
        self.map_err(|error| error.context(name()))
    }
}

/// Gives a foreign error a kind and a message.
pub trait OrError<T> {
    /// Turns a foreign error into one of `kind`, with `context` in front of it.
    fn or_error(self, kind: Kind, context: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> OrError<T>
    for std::result::Result<T, E>
{
    fn or_error(self, kind: Kind, context: impl fmt::Display) -> Result<T> {
        self.map_err(|source| Error::new(kind, context.to_string()).with_source(source))
    }
}

impl From<&Error> for tonic::Status {
    fn from(error: &Error) -> tonic::Status {
        // HTTP/2 headers hold a bounded message; the head of it carries the reason.
        let mut text = error.to_string();
        if text.len() > MESSAGE_BYTES_MAX {
            let end = (0..=MESSAGE_BYTES_MAX)
                .rev()
                .find(|&at| text.is_char_boundary(at))
                .unwrap_or(0);
            text.truncate(end);
            text.push('…');
        }
        let mut status = tonic::Status::new(error.kind.code(), text);
        status.metadata_mut().insert(
            KIND_ENTRY,
            tonic::metadata::MetadataValue::from_static(error.kind.name()),
        );
        status
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> tonic::Status {
        tonic::Status::from(&error)
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Error {
        let kind = status
            .metadata()
            .get(KIND_ENTRY)
            .and_then(|value| value.to_str().ok())
            .and_then(Kind::from_name)
            // Without the entry the status was made by the transport, not by a peer of ours: a connection
            // that breaks shows up as Unknown, Internal ("h2 protocol error") or Cancelled.
            .unwrap_or_else(|| match status.code() {
                tonic::Code::Internal | tonic::Code::Cancelled => Kind::Unavailable,
                code => Kind::from_code(code),
            });
        let text = match status.message() {
            "" => status.code().description().to_lowercase(),
            text => text.to_owned(),
        };
        Error::new(kind, text)
    }
}

/// The longest message that is put into a gRPC status, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in Kind::ALL {
            let sent = Error::new(kind, "the reason").context("table db1/mt");
            let received = Error::from(tonic::Status::from(&sent));
            assert_eq!(received.kind(), kind);
            assert_eq!(received.to_string(), "table db1/mt: the reason");
        }
    }

    #[test]
    fn a_broken_connection_asks_for_a_retry() {
        for code in [
            tonic::Code::Unknown,
            tonic::Code::Unavailable,
            tonic::Code::Cancelled,
            tonic::Code::Internal,
        ] {
            let error = Error::from(tonic::Status::new(code, "h2 protocol error"));
            assert_eq!(error.kind().reaction(), Reaction::Retry, "{code:?}");
        }
    }

    #[test]
    fn a_full_disk_is_found_however_deep_it_lies() {
        #[derive(Debug)]
        struct Foreign(Box<dyn std::error::Error + Send + Sync>);
        impl fmt::Display for Foreign {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("foreign")
            }
        }
        impl std::error::Error for Foreign {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&*self.0)
            }
        }
        let no_room = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let wrapped: [Box<dyn std::error::Error + Send + Sync>; 4] = [
            Box::new(no_room()),
            Box::new(Foreign(no_room().into())),
            Box::new(std::io::Error::other(Foreign(no_room().into()))),
            Box::new(Foreign(
                Error::unavailable("write").with_source(no_room()).into(),
            )),
        ];
        for source in wrapped {
            let error = Error::unavailable("commit").with_source(source);
            assert_eq!(error.kind(), Kind::Full, "{error:?}");
        }
        // Another kind says more than where it came from, and another trouble is not this one.
        let corrupt = Error::corrupt("torn").with_source(no_room());
        assert_eq!(corrupt.kind(), Kind::Corrupt);
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let denied = Error::unavailable("write").with_source(Foreign(denied.into()));
        assert_eq!(denied.kind(), Kind::Unavailable);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let status = tonic::Status::from(Error::internal("ä".repeat(10_000)));
        assert!(status.message().len() <= MESSAGE_BYTES_MAX + '…'.len_utf8());
    }
}
