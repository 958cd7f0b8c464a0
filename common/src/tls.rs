//! TLS on the ways between agents and from operators: which PEM files say who one is and whom one trusts.
//!
//! An agent has one identity, which it shows to whoever connects and to whomever it connects to. Whom it trusts is said apart for each
//! direction, and never by the system's list of authorities: these are private networks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tonic::transport::{
    Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig,
};

use crate::config::without_secrets;
use crate::{Context, Error, Kind, OrError, Result};

/// Who one is: a certificate with what stands between it and its authority, and its private key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate.
    pub cert: PathBuf,
    /// The key. Its content never reaches a log or an error.
    pub key: PathBuf,
}

impl IdentityFiles {
    /// Both files or neither.
    ///
    /// # Errors
    /// `Config` if one is missing, by the name of its key: `prefix` stands before `cert` and `key`.
    pub fn of(
        prefix: &str,
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Result<Option<IdentityFiles>> {
        match (cert, key) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => Ok(Some(IdentityFiles { cert, key })),
            (Some(_), None) => Err(Error::config(format!(
                "{prefix}cert is set and {prefix}key is not; TLS needs both"
            ))),
            (None, Some(_)) => Err(Error::config(format!(
                "{prefix}key is set and {prefix}cert is not; TLS needs both"
            ))),
        }
    }

    fn read(&self) -> Result<Identity> {
        Ok(Identity::from_pem(
            read_pem(&self.cert, "CERTIFICATE")?,
            read_pem(&self.key, "PRIVATE KEY")?,
        ))
    }
}

/// How an agent lets others in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// Who it is; plain HTTP/2 without.
    pub identity: Option<IdentityFiles>,
    /// Authorities of which a client must show a certificate (mutual TLS); anyone may come without.
    pub client_ca: Option<PathBuf>,
    /// Plain HTTP/2 beyond this machine is meant.
    pub insecure: bool,
}

impl Listening {
    /// Refuses what an operator cannot have meant.
    ///
    /// # Errors
    /// `Config` if clients are to be known and the agent is not, or if it listens beyond this machine without TLS and nobody said that this is meant.
    pub fn check(&self, address: SocketAddr) -> Result<()> {
        if self.identity.is_none() && self.client_ca.is_some() {
            return Err(Error::config(
                "tls_client_ca is set without tls_cert and tls_key; clients can only be asked for a certificate over TLS",
            ));
        }
        if self.identity.is_none() && !self.insecure && !address.ip().is_loopback() {
            return Err(Error::config(format!(
                "listen = {address} can be reached from other machines, without TLS: whoever reaches it could read and write. Set tls_cert and \
                 tls_key (and tls_client_ca), or listen on 127.0.0.1, or say insecure = true if the network is private"
            )));
        }
        Ok(())
    }

    /// A server that lets in like this. The files are read now, so that a wrong one is found before the first socket opens.
    ///
    /// # Errors
    /// `Config`, naming the file that cannot be read or does not fit.
    pub fn server(&self) -> Result<Server> {
        let Some(identity) = &self.identity else {
            return Ok(Server::builder());
        };
        choose_cryptography();
        let mut config = ServerTlsConfig::new().identity(identity.read()?);
        if let Some(ca) = &self.client_ca {
            config = config.client_ca_root(Certificate::from_pem(read_pem(ca, "CERTIFICATE")?));
        }
        Server::builder().tls_config(config).or_error(
            Kind::Config,
            format!(
                "TLS with {} and {}",
                identity.cert.display(),
                identity.key.display()
            ),
        )
    }

    /// In one word, for the line that says that an agent is ready.
    pub fn word(&self) -> &'static str {
        match (&self.identity, &self.client_ca) {
            (None, _) => "none",
            (Some(_), None) => "server",
            (Some(_), Some(_)) => "mutual",
        }
    }
}

/// How one connects to an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dialling {
    /// The authorities that an agent's certificate must come from.
    pub ca: Option<PathBuf>,
    /// Who one is, where the agent asks.
    pub identity: Option<IdentityFiles>,
}

impl Dialling {
    /// The authority for a URL of this scheme; none where it is spoken to in the clear.
    ///
    /// # Errors
    /// `Config` if the URL says https and no authority is named: `ca_key` is what to set.
    pub fn authority(&self, scheme: &str, ca_key: &str) -> Result<Option<&Path>> {
        if scheme != "https" {
            return Ok(None);
        }
        match &self.ca {
            Some(ca) => Ok(Some(ca)),
            None => Err(Error::config(format!(
                "an https URL, and no {ca_key} with the certificate of the authority to trust"
            ))),
        }
    }

    /// Refuses URLs by name, of what is called `what`, that an operator cannot have meant. `ca_key` is what names the authority; `insecure` says that speech in the clear is
    /// meant.
    ///
    /// # Errors
    /// As [`authority`](Dialling::authority); `Config` if an authority is named and a URL would be spoken to in the clear.
    pub fn check(
        &self,
        what: &str,
        urls: &BTreeMap<String, String>,
        ca_key: &str,
        insecure: bool,
    ) -> Result<()> {
        for (name, url) in urls {
            let who = || format!("{what} {name} ({})", without_secrets(url));
            let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
            let authority = self.authority(scheme, ca_key).with_context(who)?;
            // Whoever names an authority does not mean to be heard by everybody.
            if authority.is_none() && self.ca.is_some() && !insecure {
                return Err(Error::config(format!(
                    "{}: {ca_key} is set, and this URL would be spoken to in the clear; write https, or say insecure = true if that is meant",
                    who()
                )));
            }
        }
        Ok(())
    }

    /// A connection that opens when it is first used, with TLS if its URL says https.
    ///
    /// # Errors
    /// As [`authority`](Dialling::authority); `Config` if a file cannot be read or does not fit.
    pub fn connect_lazily(&self, endpoint: Endpoint, ca_key: &str) -> Result<Channel> {
        let scheme = endpoint.uri().scheme_str().unwrap_or_default();
        let Some(ca) = self.authority(scheme, ca_key)? else {
            return Ok(endpoint.connect_lazy());
        };
        choose_cryptography();
        let authority = Certificate::from_pem(read_pem(ca, "CERTIFICATE")?);
        let mut config = ClientTlsConfig::new().ca_certificate(authority);
        if let Some(identity) = &self.identity {
            config = config.identity(identity.read()?);
        }
        let endpoint = endpoint
            .tls_config(config)
            .or_error(Kind::Config, format!("TLS with {}", ca.display()))?;
        Ok(endpoint.connect_lazy())
    }
}

/// Two libraries of cryptography are linked, each by another dependency: rustls wants to be told which one to use. Whoever was first wins, and
/// either would do.
fn choose_cryptography() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn read_pem(path: &Path, what: &str) -> Result<String> {
    let text =
        std::fs::read_to_string(path).or_error(Kind::Config, format!("read {}", path.display()))?;
    let begins = text
        .lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.ends_with(&format!("{what}-----")));
    if !begins {
        return Err(Error::config(format!(
            "{} holds no PEM block '{what}'",
            path.display()
        )));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_loopback_needs_tls_or_a_word() {
        let plain = Listening::default();
        plain.check("127.0.0.1:1".parse().unwrap()).unwrap();
        plain.check("[::1]:1".parse().unwrap()).unwrap();
        for address in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1"] {
            let error = plain.check(address.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            assert!(error.to_string().contains("insecure = true"), "{error}");
        }
        let insecure = Listening {
            insecure: true,
            ..Listening::default()
        };
        insecure.check("0.0.0.0:1".parse().unwrap()).unwrap();
    }

    #[test]
    fn half_an_identity_is_refused_by_the_name_of_the_other_half() {
        let some = || Some(PathBuf::from("x"));
        let error = IdentityFiles::of("tls_", some(), None).unwrap_err();
        assert!(error.to_string().contains("tls_key is not"), "{error}");
        let error = IdentityFiles::of("--", None, some()).unwrap_err();
        assert!(error.to_string().contains("--cert is not"), "{error}");
        assert_eq!(IdentityFiles::of("", None, None).unwrap(), None);
    }
}
