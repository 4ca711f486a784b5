//! TLS of a listener: certificate and key from PEM files, read again while the daemon runs. New handshakes get what was read last,
//! connections that are there keep what they have, and files that are no good change nothing.

use std::{
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};

/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The only protocol spoken here; it keeps a browser from asking for HTTP/2.
const ALPN: &[u8] = b"http/1.1";

/// `[listen.public_tls]`, `[listen.ops_tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// The chain, the listener's own certificate first.
    pub certificate: PathBuf,
    /// PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
    /// Whose clients' certificates are taken.
    pub client_ca: Option<PathBuf>,
    /// A client without one is refused.
    pub client_required: bool,
    /// TLS 1.3 only.
    pub only_13: bool,
}

/// What looking at the files has shown.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// As they were.
    Same,
    /// Other ones, which new handshakes get from here on.
    New,
    /// Other ones that cannot be used: what was read before stays. One sentence.
    Bad(String),
}

/// See the file's own page.
pub struct Tls {
    options: TlsOptions,
    current: ArcSwap<ServerConfig>,
    /// What the files held when they were looked at last; a digest, for it is of a key too.
    seen: Mutex<[u8; 32]>,
}

/// What the files hold.
struct Files {
    certificate: Result<Vec<u8>, String>,
    key: Result<Vec<u8>, String>,
    client_ca: Option<Result<Vec<u8>, String>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// One sentence: which file, what is wrong with it. Nothing of a key is in it.
    pub fn open(options: TlsOptions) -> Result<Tls, String> {
        let files = Files::read(&options);
        let config = server_config(&options, &files)?;
        Ok(Tls { options, current: ArcSwap::new(Arc::new(config)), seen: Mutex::new(files.digest()) })
    }

    /// What a handshake that begins now goes by.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Looks whether the files have changed, and takes them if they are good. Blocks on the disk. Bad files are told of once, and
    /// again when they have changed or it is `asked` for.
    pub fn look(&self, asked: bool) -> Look {
        let files = Files::read(&self.options);
        let digest = files.digest();
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen == digest && !asked {
                return Look::Same;
            }
            *seen = digest;
        }
        match server_config(&self.options, &files) {
            Ok(config) => {
                self.current.store(Arc::new(config));
                Look::New
            }
            Err(text) => Look::Bad(text),
        }
    }
}

impl Files {
    fn read(options: &TlsOptions) -> Files {
        let read = |path: &Path| read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()));
        Files {
            certificate: read(&options.certificate),
            key: read(&options.key),
            client_ca: options.client_ca.as_deref().map(read),
        }
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = ::aws_lc_rs::digest::Context::new(&::aws_lc_rs::digest::SHA256);
        for file in [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()] {
            let bytes = match file {
                Some(Ok(bytes)) => bytes.as_slice(),
                Some(Err(error)) => error.as_bytes(),
                None => &[],
            };
            digest.update(&bytes.len().to_be_bytes());
            digest.update(bytes);
        }
        let mut out = [0; 32];
        out.copy_from_slice(digest.finish().as_ref());
        out
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let length = fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if length as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

fn server_config(options: &TlsOptions, files: &Files) -> Result<ServerConfig, String> {
    let chain = certificates(&options.certificate, files.certificate.as_ref().map_err(Clone::clone)?)?;
    let key = files.key.as_ref().map_err(Clone::clone)?;
    // The error's own text may quote the file.
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| format!("{} holds no private key in PEM (one that is encrypted cannot be read)", options.key.display()))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions: &[_] = if options.only_13 { &[&TLS13] } else { &[&TLS13, &TLS12] };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|error| format!("TLS cannot be used: {error}"))?;
    let builder = match (&options.client_ca, &files.client_ca) {
        (Some(path), Some(pem)) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path, pem.as_ref().map_err(Clone::clone)?)? {
                roots.add(certificate).map_err(|error| format!("{} holds a bad certificate: {error}", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if options.client_required { verifier } else { verifier.allow_unauthenticated() };
            let verifier = verifier.build().map_err(|error| format!("{} cannot be used: {error}", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            format!("the key in {} is not that of the certificate in {}", options.key.display(), options.certificate.display())
        }
        error => format!("{} and {} cannot be used: {error}", options.certificate.display(), options.key.display()),
    })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{} holds no certificate in PEM", path.display())),
        Err(error) => Err(format!("{} is no good PEM: {error}", path.display())),
    }
}
