//! What a URL says: `dolphindb://user@host:8848?site=host2:8849&tls=true&ca=/etc/strait/ca.pem`.
//!
//! The password is never in the URL. It comes from the file that `password_file` names, or from the environment variable that `password_env` names,
//! `STRAIT_DOLPHINDB_PASSWORD` unless said otherwise. Without a user the connection is a guest's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use strait_common::{Context, Error, Kind, OrError, Result, config};
use url::Url;

/// Where the password is if the URL does not say.
const PASSWORD_ENV: &str = "STRAIT_DOLPHINDB_PASSWORD";
/// The port that servers listen on if nobody has said otherwise.
const PORT: u16 = 8848;
/// How many sites a URL may name.
const SITES_MAX: usize = 64;
/// What one append may take: the server's cache, which by default takes 200 MB, has to hold it.
const BATCH_BYTES: std::ops::RangeInclusive<u64> = 4 << 20..=128 << 20;
/// A quarter of what a server answers one query with, unless it was told otherwise.
const QUERY_BYTES: u64 = 2 << 30;
/// What a password file may hold.
const PASSWORD_BYTES_MAX: u64 = 4096;

/// A node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Site {
    /// A name or an address.
    pub host: String,
    /// Where it listens.
    pub port: u16,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A password, which no log and no error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps it.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Who logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Who.
    pub name: String,
    /// By what.
    pub password: Secret,
}

/// How a user may be made known to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Login {
    /// SCRAM-SHA-256; else, with an older server, RSA; else, over TLS only, in plain text.
    #[default]
    Auto,
    /// SCRAM-SHA-256 only: whoever listens or answers in the server's place learns nothing.
    Scram,
    /// RSA only.
    Rsa,
    /// In plain text, whoever listens.
    Plain,
}

/// Whom a TLS connection trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Certificates that an authority in this PEM file has signed for the site's name.
    Authority(PathBuf),
    /// The one certificate with this SHA-256.
    Fingerprint([u8; 32]),
}

/// What a URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where the cluster can be reached, in order of preference; at least one.
    pub sites: Vec<Site>,
    /// Who logs in; a guest without.
    pub user: Option<User>,
    /// How.
    pub login: Login,
    /// TLS, and whom it trusts; plain text without.
    pub tls: Option<Trust>,
    /// Whether columns are compressed both ways.
    pub compress: bool,
    /// How long one site may take to accept a connection, TLS and login included.
    pub connect_timeout: Duration,
    /// How long a request may take before its answer begins.
    pub answer_timeout: Duration,
    /// How long the rest of an answer may pause.
    pub idle_timeout: Duration,
    /// What one answer, or one block of it, may take in memory.
    pub answer_bytes_max: u64,
    /// About how much one query is answered with: the server holds all of an answer, and refuses one above its `memLimitOfQueryResult`.
    pub query_bytes: u64,
    /// Where a sink keeps what the server cannot; without it the cluster is only read.
    pub journal: Option<PathBuf>,
    /// About how much one append takes in memory.
    pub batch_bytes: u64,
}

impl Options {
    /// One site, without user and TLS, and everything else as a URL has it that says nothing.
    pub fn of_site(host: &str, port: u16) -> Options {
        Options {
            sites: vec![Site {
                host: host.to_owned(),
                port,
            }],
            user: None,
            login: Login::default(),
            tls: None,
            compress: false,
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(600),
            idle_timeout: Duration::from_secs(60),
            answer_bytes_max: 64 << 20,
            query_bytes: QUERY_BYTES,
            journal: None,
            batch_bytes: crate::sink::BATCH_BYTES,
        }
    }

    /// What this URL says. Reads the password where it says that it is.
    ///
    /// # Errors
    /// `Config`, naming what is wrong, and never the password.
    pub fn from_url(url: &Url) -> Result<Options> {
        Options::parse(url, &|name| std::env::var(name).ok())
    }

    /// The same, with another environment.
    pub(crate) fn parse(
        url: &Url,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Options> {
        if url.password().is_some() {
            return Err(Error::config(
                "a password in the URL, which logs and process lists would show; name a file with ?password_file=, or set \
                 STRAIT_DOLPHINDB_PASSWORD",
            ));
        }
        let host = url.host_str().filter(|host| !host.is_empty());
        let host =
            host.ok_or_else(|| Error::config("no host; it is dolphindb://user@host:8848"))?;
        // An IPv6 address is written in brackets, and looked up without.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if !matches!(url.path(), "" | "/") {
            return Err(Error::config(format!(
                "a path ({}): the URL names a cluster; databases are named by tables, as db1/mt",
                url.path()
            )));
        }
        let mut options = Options::of_site(host, url.port().unwrap_or(PORT));
        let mut words = Words::default();
        for (key, value) in url.query_pairs() {
            words
                .take(&key, &value, &mut options)
                .with_context(|| format!("option {key} of the URL"))?;
        }
        options.tls = words.trust()?;
        options.user = words.user(url, environment)?;
        if options.sites.len() > SITES_MAX {
            return Err(Error::config(format!("more than {SITES_MAX} sites")));
        }
        if options.login == Login::Plain && options.tls.is_none() {
            tracing::warn!("login=plain without tls: whoever listens learns the password");
        }
        Ok(options)
    }
}

/// What the options say that belong together.
#[derive(Default)]
struct Words {
    tls: Option<bool>,
    authority: Option<PathBuf>,
    fingerprint: Option<[u8; 32]>,
    password_file: Option<PathBuf>,
    password_env: Option<String>,
}

impl Words {
    fn take(&mut self, key: &str, value: &str, options: &mut Options) -> Result<()> {
        match key {
            "site" => options.sites.push(site(value)?),
            "login" => {
                options.login = match value {
                    "auto" => Login::Auto,
                    "scram" => Login::Scram,
                    "rsa" => Login::Rsa,
                    "plain" => Login::Plain,
                    _ => return Err(wrong(value, "auto, scram, rsa or plain")),
                }
            }
            "tls" => self.tls = Some(truth(value)?),
            "ca" => self.authority = Some(PathBuf::from(value)),
            "fingerprint" => self.fingerprint = Some(fingerprint(value)?),
            "password_file" => self.password_file = Some(PathBuf::from(value)),
            "password_env" => self.password_env = Some(value.to_owned()),
            "compress" => options.compress = truth(value)?,
            "connect_timeout" => options.connect_timeout = value.parse::<config::Span>()?.0,
            "answer_timeout" => options.answer_timeout = value.parse::<config::Span>()?.0,
            "idle_timeout" => options.idle_timeout = value.parse::<config::Span>()?.0,
            "journal" => {
                let path = PathBuf::from(value);
                if !path.is_absolute() {
                    return Err(wrong(value, "an absolute path"));
                }
                options.journal = Some(path);
            }
            "batch_max" => {
                let bytes = value.parse::<config::ByteSize>()?.0;
                if !BATCH_BYTES.contains(&bytes) {
                    return Err(wrong(value, "between 4MiB and 128MiB"));
                }
                options.batch_bytes = bytes;
            }
            "query_max" => {
                options.query_bytes = value.parse::<config::ByteSize>()?.0;
                if options.query_bytes < 1 << 20 {
                    return Err(wrong(value, "1MiB or more"));
                }
            }
            "answer_max" => options.answer_bytes_max = value.parse::<config::ByteSize>()?.0,
            _ => {
                return Err(Error::config(
                    "there is none of that name; there are site, login, tls, ca, fingerprint, password_file, password_env, compress, \
                     connect_timeout, answer_timeout, idle_timeout, answer_max, query_max, journal and batch_max",
                ));
            }
        }
        Ok(())
    }

    fn trust(&self) -> Result<Option<Trust>> {
        let trust = match (&self.authority, self.fingerprint) {
            (Some(_), Some(_)) => {
                return Err(Error::config(
                    "ca and fingerprint; one of them says whom to trust",
                ));
            }
            (Some(path), None) => Some(Trust::Authority(path.clone())),
            (None, Some(print)) => Some(Trust::Fingerprint(print)),
            (None, None) => None,
        };
        match (self.tls, trust) {
            (Some(true), None) => Err(Error::config(
                "tls=true without ca or fingerprint: nothing says whom to trust, and so anyone could answer",
            )),
            (Some(false), Some(_)) => Err(Error::config("tls=false with ca or fingerprint")),
            (_, trust) => Ok(trust),
        }
    }

    fn user(
        &self,
        url: &Url,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<User>> {
        let name = url::form_urlencoded::parse(
            format!("n={}", url.username().replace('+', "%2B")).as_bytes(),
        )
        .next()
        .map_or_else(String::new, |(_, name)| name.into_owned());
        let elsewhere = self.password_file.is_some() || self.password_env.is_some();
        if name.is_empty() {
            if elsewhere {
                return Err(Error::config(
                    "a password without a user; it is dolphindb://user@host",
                ));
            }
            return Ok(None);
        }
        let password = match (&self.password_file, &self.password_env) {
            (Some(_), Some(_)) => {
                return Err(Error::config(
                    "password_file and password_env; one says where it is",
                ));
            }
            (Some(path), None) => read_password(path)?,
            (None, named) => {
                let variable = named.as_deref().unwrap_or(PASSWORD_ENV);
                environment(variable).ok_or_else(|| {
                    Error::config(format!(
                        "no password for user {name}: set {variable}, or name a file with ?password_file="
                    ))
                })?
            }
        };
        if [&name, &password]
            .iter()
            .any(|text| text.contains(['\0', '\n']))
        {
            return Err(Error::config(
                "a user name or password of more than one line",
            ));
        }
        Ok(Some(User {
            name,
            password: Secret::new(password),
        }))
    }
}

fn read_password(path: &Path) -> Result<String> {
    let place = || format!("password file {}", path.display());
    let about = std::fs::metadata(path).or_error(Kind::Config, place())?;
    if about.len() > PASSWORD_BYTES_MAX {
        return Err(Error::config(format!("{}: it is no password", place())));
    }
    let text = std::fs::read_to_string(path).or_error(Kind::Config, place())?;
    // Editors end a file with a line's end, which nobody means.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

fn wrong(value: &str, forms: &str) -> Error {
    Error::config(format!("'{value}' is not {forms}"))
}

fn truth(value: &str) -> Result<bool> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(wrong(value, "true or false")),
    }
}

fn site(value: &str) -> Result<Site> {
    let parsed = Url::parse(&format!("dolphindb://{value}"));
    let parsed = parsed.ok().filter(|url| {
        url.username().is_empty() && matches!(url.path(), "" | "/") && url.query().is_none()
    });
    let host = parsed
        .as_ref()
        .and_then(Url::host_str)
        .filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| wrong(value, "host:port"))?;
    Ok(Site {
        host: host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned(),
        port: parsed.as_ref().and_then(Url::port).unwrap_or(PORT),
    })
}

/// 64 hex digits, with or without colons between the pairs, and with or without `sha256:`.
fn fingerprint(value: &str) -> Result<[u8; 32]> {
    let digits: String = value
        .strip_prefix("sha256:")
        .unwrap_or(value)
        .chars()
        .filter(|c| *c != ':')
        .collect();
    let mut print = [0; 32];
    let right = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !right {
        return Err(wrong(
            value,
            "the SHA-256 of a certificate in 64 hex digits",
        ));
    }
    for (at, byte) in print.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16)
            .or_error(Kind::Config, "a fingerprint")?;
    }
    Ok(print)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Options> {
        let environment =
            |name: &str| (name == PASSWORD_ENV || name == "OTHER").then(|| format!("of {name}"));
        Options::parse(&Url::parse(url).unwrap(), &environment)
    }

    #[test]
    fn a_url_says_where_who_and_how() {
        let options = parse(
            "dolphindb://a%40b@h1?site=h2:8849&site=[::1]:7&login=scram&tls=true&ca=/x.pem&compress=true&answer_timeout=2s&answer_max=1MiB",
        )
        .unwrap();
        let sites: Vec<String> = options.sites.iter().map(Site::to_string).collect();
        assert_eq!(sites, ["h1:8848", "h2:8849", "::1:7"]);
        let user = options.user.as_ref().unwrap();
        assert_eq!(user.name, "a@b");
        assert_eq!(user.password.reveal(), "of STRAIT_DOLPHINDB_PASSWORD");
        assert_eq!(options.login, Login::Scram);
        assert_eq!(options.tls, Some(Trust::Authority(PathBuf::from("/x.pem"))));
        assert!(options.compress);
        assert_eq!(options.answer_timeout, Duration::from_secs(2));
        assert_eq!(options.answer_bytes_max, 1 << 20);
        assert!(!format!("{options:?}").contains("of STRAIT"), "{options:?}");
        assert_eq!(parse("dolphindb://h").unwrap(), Options::of_site("h", 8848));
    }

    #[test]
    fn a_password_comes_from_a_file_or_the_environment_and_never_from_the_url() {
        let error = parse("dolphindb://u:hunter2@h").unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let named = parse("dolphindb://u@h?password_env=OTHER").unwrap();
        assert_eq!(named.user.unwrap().password.reveal(), "of OTHER");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from a file\n").unwrap();
        let url = format!("dolphindb://u@h?password_file={}", file.path().display());
        assert_eq!(
            parse(&url).unwrap().user.unwrap().password.reveal(),
            "from a file"
        );
        assert!(parse("dolphindb://u@h?password_env=NOT_SET").is_err());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for url in [
            "dolphindb://h/db1",
            "dolphindb://h?tls=true",
            "dolphindb://h?tls=false&ca=x",
            "dolphindb://h?ca=x&fingerprint=00",
            "dolphindb://h?fingerprint=00",
            "dolphindb://h?sight=h2",
            "dolphindb://h?compress=yes",
            "dolphindb://h?site=u@h2",
            "dolphindb://h?password_file=x",
            "dolphindb://h?login=kerberos",
        ] {
            assert_eq!(parse(url).unwrap_err().kind(), Kind::Config, "{url}");
        }
        let colons = vec!["ab"; 32].join(":");
        let options = parse(&format!("dolphindb://h?fingerprint=sha256:{colons}")).unwrap();
        assert_eq!(options.tls, Some(Trust::Fingerprint([0xab; 32])));
    }
}
