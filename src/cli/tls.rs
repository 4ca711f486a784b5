//! Where a listener is, and what makes us believe that it is the one.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{self, CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use super::{Failure, terminal};
use crate::config::Config;

/// A listener's address, as `http(s)://HOST:PORT`.
#[derive(Clone, Debug)]
pub(super) struct At {
    pub(super) base: String,
    trust: Trust,
}

#[derive(Clone, Debug)]
enum Trust {
    /// The system's authorities, and those in this file.
    Authorities(Option<PathBuf>),
    /// The certificate in this file: the listener's own, as the configuration has it. What name is in it does not matter, for the
    /// address is this machine's.
    Own(PathBuf),
}

impl At {
    /// A URL that somebody gave; `ca`: PEM, believed beside the system's authorities.
    pub(super) fn url(url: &str, ca: Option<&Path>) -> At {
        At { base: url.to_owned(), trust: Trust::Authorities(ca.map(Path::to_owned)) }
    }

    pub(super) fn ops(config: &Config) -> Result<At, Failure> {
        let certificate = config.ops_tls.as_ref().map(|tls| tls.certificate.as_path());
        At::own(config.ops, "listen.ops", certificate)
    }

    pub(super) fn public(config: &Config) -> Result<At, Failure> {
        let certificate = config.public_tls.as_ref().map(|tls| tls.certificate.as_path());
        At::own(config.public, "listen.public", certificate)
    }

    /// Where this machine reaches its own listener.
    fn own(address: SocketAddr, key: &str, certificate: Option<&Path>) -> Result<At, Failure> {
        if address.port() == 0 {
            return Err(Failure::usage(format!("{key} takes a free port (0), so --url must say which one it is")));
        }
        let address = reachable(address);
        Ok(match certificate {
            Some(certificate) => At { base: format!("https://{address}"), trust: Trust::Own(certificate.to_owned()) },
            None => At { base: format!("http://{address}"), trust: Trust::Authorities(None) },
        })
    }

    /// The same place for WebSockets.
    pub(super) fn feed(&self) -> String {
        format!("{}/ws", self.base.replacen("http", "ws", 1))
    }

    /// What a TLS connection to there goes by.
    pub(super) fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be used: {error}"))?;
        let config = match &self.trust {
            Trust::Authorities(ca) => {
                let mut roots = RootCertStore::empty();
                // One that cannot be read counts for nothing; with none of them nobody is believed.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if let Some(path) = ca {
                    for certificate in certificates(path)? {
                        roots.add(certificate).map_err(|error| format!("{} cannot be used: {error}", path.display()))?;
                    }
                }
                builder.with_root_certificates(roots).with_no_client_auth()
            }
            Trust::Own(path) => {
                let certificate = certificates(path)?.into_iter().next();
                let certificate = certificate.ok_or_else(|| format!("{} holds no certificate in PEM", path.display()))?;
                let verifier = Arc::new(Pinned { certificate, provider });
                builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
            }
        };
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = terminal::plain(&path.display().to_string());
    let read = CertificateDer::pem_file_iter(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let found: Vec<_> = read.collect::<Result<_, _>>().map_err(|error| format!("{shown} is no good PEM: {error}"))?;
    if found.is_empty() { Err(format!("{shown} holds no certificate in PEM")) } else { Ok(found) }
}

/// An address that listens everywhere is reached at loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], v4.port())),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], v6.port())),
        address => address,
    }
}

/// Believes one certificate, whatever it says, from whoever has its key.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match *shown == self.certificate {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
