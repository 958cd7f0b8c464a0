//! TLS to a site, with a certificate that is verified: by an authority of ours, or by its fingerprint. The vendor's clients verify none.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, aws_lc_rs as provider, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use strait_common::{Error, Kind, OrError, Result};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::options::Trust;

/// How connections are made that trust like this. The file is read now, so that a wrong one is found before anything connects.
///
/// # Errors
/// `Config`, naming the file that cannot be read or holds no certificate.
pub(crate) fn connector(trust: &Trust) -> Result<TlsConnector> {
    let cryptography = Arc::new(provider::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&cryptography))
        .with_safe_default_protocol_versions()
        .or_error(Kind::Internal, "TLS")?;
    let config = match trust {
        Trust::Authority(path) => {
            let place = || format!("authority {}", path.display());
            let mut roots = RootCertStore::empty();
            let certificates =
                CertificateDer::pem_file_iter(path).or_error(Kind::Config, place())?;
            for certificate in certificates {
                let certificate = certificate.or_error(Kind::Config, place())?;
                roots.add(certificate).or_error(Kind::Config, place())?;
            }
            if roots.is_empty() {
                return Err(Error::config(format!(
                    "{}: it holds no certificate",
                    place()
                )));
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        Trust::Fingerprint(print) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned {
                print: *print,
                cryptography,
            }))
            .with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Begins TLS with a site of this name.
///
/// # Errors
/// `Refused` if its certificate is not one that is trusted; `Unavailable` if the connection fails.
pub(crate) async fn connect(
    connector: &TlsConnector,
    host: &str,
    plain: TcpStream,
) -> Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).or_error(Kind::Config, "the site's name")?;
    let connected = connector.connect(name, plain).await;
    connected.map_err(|error| {
        let distrust = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .is_some_and(|inner| matches!(inner, rustls::Error::InvalidCertificate(_)));
        if distrust {
            Error::refused("its certificate is not trusted; see ca and fingerprint in the URL")
                .with_source(error)
        } else {
            Error::unavailable("TLS").with_source(error)
        }
    })
}

/// Trusts one certificate, whoever signed it and whatever name it has.
#[derive(Debug)]
struct Pinned {
    print: [u8; 32],
    cryptography: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let print = digest::digest(&digest::SHA256, certificate);
        if print.as_ref() == self.print {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    // That the other side has the key of that certificate is verified as ever.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.cryptography.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.cryptography.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.cryptography.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
