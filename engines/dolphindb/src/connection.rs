//! One connection: a request, then its answer, never two at once.
//!
//! A connection is *in step* while every byte of every answer has been read. It is out of step from the first byte of a request to the last of its answer: whoever
//! drops a request half-way, and any answer that cannot be decoded, leaves it so, and it answers nothing any more. An error line of the server's is a whole answer.

use std::fmt;
use std::time::Duration;

use arrow::array::RecordBatch;
use socket2::{SockRef, TcpKeepalive};
use strait_common::{Error, Kind, OrError, Result};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::decode;
use crate::encode::{self, Argument};
use crate::errors::{Failure, ServerError};
use crate::login;
use crate::object::Object;
use crate::options::{Options, Site};
use crate::tls;
use crate::wire::Incoming;

/// A header, tag or session.
const LINE_BYTES_MAX: usize = 4 << 10;
/// What a server may say of an error.
const ERROR_BYTES_MAX: usize = 1 << 20;
/// What this client says that it is: an API client.
const FLAG_CLIENT: u32 = 32;
/// Tables are compressed, both ways.
const FLAG_COMPRESS: u32 = 64;
/// Cancellable, of middle priority, by at most 64 of the node's workers: as the vendor's clients ask.
const PROPERTIES: &str = "1_4_64_";

/// What a connection runs over.
trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

/// A connection to one site, made known to it.
pub struct Connection {
    incoming: Incoming<Box<dyn Duplex>>,
    site: Site,
    session: String,
    /// Whether a request is under way, or was when somebody stopped looking.
    out_of_step: bool,
    compress: bool,
    answer_timeout: Duration,
    idle_timeout: Duration,
    answer_bytes_max: u64,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection to {}", self.site)
    }
}

/// What is asked.
enum Request<'a> {
    Connect,
    /// Rows of each block, or 0 for an answer in one piece.
    Script(&'a str, u32),
    Call(&'a str, &'a [Argument]),
    Upload(&'a str, &'a Argument),
}

impl Request<'_> {
    fn command(&self) -> String {
        match self {
            Request::Connect => "connect\n".to_owned(),
            Request::Script(script, _) => format!("script\n{script}"),
            Request::Call(name, arguments) => format!("function\n{name}\n{}\n1", arguments.len()),
            Request::Upload(name, _) => format!("variable\n{name}\n1\n1"),
        }
    }

    fn arguments(&self) -> &[Argument] {
        match self {
            Request::Connect | Request::Script(..) => &[],
            Request::Call(_, arguments) => arguments,
            Request::Upload(_, argument) => std::slice::from_ref(argument),
        }
    }

    fn fetch(&self) -> u32 {
        match self {
            Request::Script(_, rows) => *rows,
            _ => 0,
        }
    }
}

/// How an answer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    Nothing,
    Object,
}

impl Connection {
    /// Connects to a site and makes the user known to it, within `connect_timeout`.
    ///
    /// # Errors
    /// `Unavailable` if it cannot be reached; else as TLS and login say.
    pub async fn open(
        site: &Site,
        options: &Options,
        tls: Option<&TlsConnector>,
    ) -> Result<Connection> {
        let opened = tokio::time::timeout(options.connect_timeout, open(site, options, tls)).await;
        let opened = opened.unwrap_or_else(|_| {
            Err(Error::unavailable(format!(
                "no connection within {} s (connect_timeout)",
                options.connect_timeout.as_secs()
            )))
        });
        opened.map_err(|error| error.context(format!("site {site}")))
    }

    /// Which site it is to.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// What the server calls this session.
    pub fn session(&self) -> &str {
        &self.session
    }

    /// Whether it can be asked again.
    pub fn is_in_step(&self) -> bool {
        !self.out_of_step && !self.incoming.has_more()
    }

    /// Runs a script and reads its answer as a whole.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn script(&mut self, script: &str) -> Result<Object, Failure> {
        self.ask(Request::Script(script, 0)).await
    }

    /// Calls a function.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn call(&mut self, name: &str, arguments: &[Argument]) -> Result<Object, Failure> {
        self.ask(Request::Call(name, arguments)).await
    }

    /// Makes a variable of the session.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn upload(&mut self, name: &str, value: &Argument) -> Result<(), Failure> {
        self.ask(Request::Upload(name, value)).await.map(|_| ())
    }

    async fn ask(&mut self, request: Request<'_>) -> Result<Object, Failure> {
        match self.send(&request).await? {
            Follows::Nothing => {
                self.in_step();
                Ok(Object::Nothing)
            }
            Follows::Object => {
                let object = decode::object(&mut self.incoming).await;
                let object = object.map_err(|error| self.lost(error))?;
                self.in_step();
                Ok(object)
            }
        }
    }

    /// Asks for the answer in blocks of so many rows, and reads up to where it begins. It is out of step until the owner says that it is not.
    pub(crate) async fn begin_blocks(
        &mut self,
        script: &str,
        rows: u32,
    ) -> Result<Follows, Failure> {
        self.send(&Request::Script(script, rows)).await
    }

    /// The last byte of the answer has been read.
    pub(crate) fn in_step(&mut self) {
        self.out_of_step = false;
    }

    pub(crate) fn incoming(&mut self) -> &mut Incoming<impl AsyncRead + Send + Unpin + use<>> {
        &mut self.incoming
    }

    pub(crate) fn answer_bytes_max(&self) -> u64 {
        self.answer_bytes_max
    }

    pub(crate) fn lost(&self, error: Error) -> Failure {
        Failure::Lost(error.context(format!("site {}", self.site)))
    }

    /// Sends a request and reads the head of its answer.
    async fn send(&mut self, request: &Request<'_>) -> Result<Follows, Failure> {
        if !self.is_in_step() {
            return Err(Failure::Unsent(Error::unavailable(format!(
                "the connection to {} was left in the middle of an answer",
                self.site
            ))));
        }
        for argument in request.arguments() {
            encode::check(argument).map_err(Failure::Unsent)?;
        }
        self.out_of_step = true;
        let written = tokio::time::timeout(self.answer_timeout, self.write(request)).await;
        let written = written.unwrap_or_else(|_| {
            Err(Error::unavailable(format!(
                "the server has not taken a request for {} s (answer_timeout)",
                self.answer_timeout.as_secs()
            )))
        });
        written.map_err(|error| self.lost(error))?;
        self.incoming.be_patient(self.answer_timeout);
        self.incoming.allow(self.answer_bytes_max);
        let head = self.head(matches!(request, Request::Connect)).await;
        self.incoming.be_patient(self.idle_timeout);
        match head.map_err(|error| self.lost(error))? {
            Ok(follows) => Ok(follows),
            Err(refused) => {
                // An error is a whole answer.
                self.in_step();
                Err(Failure::Server(refused))
            }
        }
    }

    async fn write(&mut self, request: &Request<'_>) -> Result<()> {
        let command = request.command();
        let mut out = Vec::new();
        match request {
            Request::Connect => {
                let line = format!(
                    "API 0 {} / {FLAG_CLIENT}_{PROPERTIES}\n{command}",
                    command.len()
                );
                out.extend_from_slice(line.as_bytes());
            }
            _ => {
                let flags = FLAG_CLIENT | if self.compress { FLAG_COMPRESS } else { 0 };
                let line = format!(
                    "API {} {} / {flags}_{PROPERTIES}_{}\n{command}",
                    self.session,
                    command.len(),
                    request.fetch()
                );
                out.extend_from_slice(line.as_bytes());
            }
        }
        for argument in request.arguments() {
            match argument {
                Argument::Table(batch) => {
                    encode::table_head(batch, self.compress, &mut out);
                    let mut bases = 0;
                    for at in 0..batch.num_columns() {
                        // One column at a time: a large table is not there twice.
                        encode::table_column(batch, at, &mut bases, self.compress, &mut out)?;
                        self.flush(&mut out).await?;
                    }
                }
                other => encode::argument(other, &mut out)?,
            }
        }
        self.flush(&mut out).await?;
        let flushed = self.incoming.connection().flush().await;
        flushed.or_error(Kind::Unavailable, "writing to the server")
    }

    async fn flush(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let written = self.incoming.connection().write_all(out).await;
        out.clear();
        written.or_error(Kind::Unavailable, "writing to the server")
    }

    /// The two lines before the object; the inner error is the server's.
    async fn head(&mut self, connecting: bool) -> Result<Result<Follows, ServerError>> {
        let mut line = self
            .incoming
            .line(LINE_BYTES_MAX, "the head of an answer")
            .await?;
        while line == "MSG" {
            // What a script prints, which nobody has asked for.
            self.incoming.text(ERROR_BYTES_MAX, "a message").await?;
            line = self
                .incoming
                .line(LINE_BYTES_MAX, "the head of an answer")
                .await?;
        }
        let parts: Vec<&str> = line.split_ascii_whitespace().collect();
        let [session, objects, order] = parts.as_slice() else {
            return Err(Error::corrupt(format!(
                "'{}' is not the head of an answer; is this the port of a DolphinDB node, and does it want TLS?",
                line.chars().take(40).collect::<String>().escape_debug()
            )));
        };
        if connecting {
            self.session = (*session).to_owned();
        }
        let status = self
            .incoming
            .line(ERROR_BYTES_MAX, "the status of an answer")
            .await?;
        if status != "OK" {
            return Ok(Err(ServerError::of(&status)));
        }
        if *order != "1" {
            return Err(Error::refused(
                "the server's order of bytes is not this client's",
            ));
        }
        match *objects {
            "0" => Ok(Ok(Follows::Nothing)),
            "1" => Ok(Ok(Follows::Object)),
            other => Err(Error::corrupt(format!("an answer of {other} objects"))),
        }
    }
}

async fn open(site: &Site, options: &Options, tls: Option<&TlsConnector>) -> Result<Connection> {
    let plain = TcpStream::connect((site.host.as_str(), site.port)).await;
    let plain = plain.or_error(Kind::Unavailable, "connecting")?;
    keep_alive(&plain)?;
    let stream: Box<dyn Duplex> = match tls {
        None => Box::new(plain),
        Some(connector) => Box::new(tls::connect(connector, &site.host, plain).await?),
    };
    let mut connection = Connection {
        incoming: Incoming::of_connection(stream, options.connect_timeout),
        site: site.clone(),
        session: String::new(),
        out_of_step: false,
        compress: false,
        answer_timeout: options.answer_timeout,
        idle_timeout: options.idle_timeout,
        answer_bytes_max: options.answer_bytes_max,
    };
    connection
        .ask(Request::Connect)
        .await
        .map_err(Error::from)?;
    if let Some(user) = &options.user {
        login::login(&mut connection, user, options.login, tls.is_some()).await?;
    }
    // Only tables are compressed, and only from here on.
    connection.compress = options.compress;
    Ok(connection)
}

/// A site that vanished without a word is noticed within a minute, whoever waits for whom.
fn keep_alive(stream: &TcpStream) -> Result<()> {
    let asked = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    stream
        .set_nodelay(true)
        .and_then(|()| SockRef::from(stream).set_tcp_keepalive(&asked))
        .or_error(Kind::Unavailable, "the options of a socket")
}

/// Reads one more table of an answer in blocks, its flag first.
pub(crate) async fn block(connection: &mut Connection) -> Result<RecordBatch> {
    let bytes = connection.answer_bytes_max();
    let incoming = connection.incoming();
    incoming.allow(bytes);
    let (code, form) = decode::flag(incoming).await?;
    if form != decode::TABLE {
        return Err(Error::corrupt(format!(
            "a block of type {code} and form {form}, which is no table"
        )));
    }
    decode::table(incoming).await
}
