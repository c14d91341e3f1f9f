//! What a sink is told before it starts.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

use super::fault::Fault;

/// What EHLO offers where nothing else is said; STARTTLS and AUTH come with their settings.
pub const EXTENSIONS: [&str; 7] = [
    "PIPELINING",
    "SIZE 104857600",
    "8BITMIME",
    "SMTPUTF8",
    "ENHANCEDSTATUSCODES",
    "CHUNKING",
    "DSN",
];

/// Where the sink listens.
#[derive(Debug, Clone)]
pub enum Listen {
    /// On TCP; port 0 takes any free one.
    Tcp(String, u16),
    /// On a unix socket, which is made there and removed at the end.
    Unix(PathBuf),
}

/// When TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// After STARTTLS (RFC 3207).
    StartTls,
    /// With the connection (RFC 8314).
    Implicit,
}

/// The sink's side of TLS.
#[derive(Clone)]
pub struct Tls {
    /// When it begins.
    pub encryption: Encryption,
    /// What makes the handshake.
    pub acceptor: TlsAcceptor,
}

impl Tls {
    /// Reads the certificate chain and the private key from PEM.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where a text is not PEM, lacks its part, or the two do not fit.
    pub fn from_pem(encryption: Encryption, certificate: &[u8], key: &[u8]) -> io::Result<Self> {
        let chain = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| invalid("certificate", &error))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| invalid("key", &error))?;
        let config =
            ServerConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
                .map_err(|error| invalid("certificate", &error))?;
        Ok(Self {
            encryption,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Tls")
            .field(&self.encryption)
            .finish()
    }
}

fn invalid(what: &str, error: &dyn fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{what}: {error}"))
}

/// Everything that can be said.
pub struct Settings {
    /// Where to listen.
    pub listen: Listen,
    /// LMTP instead of SMTP.
    pub lmtp: bool,
    /// The lines of EHLO behind the first, without AUTH and STARTTLS, which come by themselves.
    pub extensions: Vec<String>,
    /// How long each direction takes.
    pub latency: Duration,
    /// The faults, the first that fits first.
    pub faults: Vec<Fault>,
    /// TLS, where there is a certificate.
    pub tls: Option<Tls>,
    /// User names and passwords (or tokens); where there are any, MAIL needs AUTH before it.
    pub credentials: HashMap<String, String>,
    /// Whether accepted messages are kept.
    pub store: bool,
    /// Whether the bytes of each client are kept.
    pub wire: bool,
    /// How many threads serve connections; at least one.
    pub threads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp("127.0.0.1".to_owned(), 0),
            lmtp: false,
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
            latency: Duration::ZERO,
            faults: Vec::new(),
            tls: None,
            credentials: HashMap::new(),
            store: false,
            wire: false,
            threads: 1,
        }
    }
}
