//! The settings of a sink.

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

use super::fault::InjectedFault;

/// The default lines of the EHLO reply after the first. The sink adds STARTTLS if its settings
/// include a certificate for STARTTLS, and AUTH if they include credentials.
pub const EXTENSIONS: [&str; 7] = [
    "PIPELINING",
    "SIZE 104857600",
    "8BITMIME",
    "SMTPUTF8",
    "ENHANCEDSTATUSCODES",
    "CHUNKING",
    "DSN",
];

/// The address on which the sink listens.
#[derive(Debug, Clone)]
pub enum ListenAddress {
    /// The host and the port. For port 0, the operating system selects a free port.
    Tcp(String, u16),
    /// The path of a unix socket. The sink creates the socket when it starts and removes it when it
    /// closes.
    Unix(PathBuf),
}

/// The point at which TLS starts on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// After the command STARTTLS (RFC 3207).
    StartTls,
    /// As soon as the connection is open (RFC 8314).
    Implicit,
}

/// The TLS settings of the sink.
#[derive(Clone)]
pub struct ServerTls {
    /// The point at which TLS starts.
    pub encryption: Encryption,
    /// The object that performs the TLS handshake.
    pub acceptor: TlsAcceptor,
}

impl ServerTls {
    /// Reads the certificate chain and the private key from PEM.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if `certificate` contains no certificate in PEM, if `key` contains no private
    /// key in PEM, or if the key does not belong to the certificate.
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

impl fmt::Debug for ServerTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("ServerTls")
            .field(&self.encryption)
            .finish()
    }
}

fn invalid(what: &str, error: &dyn fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{what}: {error}"))
}

/// All settings of a sink.
pub struct SinkSettings {
    /// The address to listen on.
    pub listen: ListenAddress,
    /// Whether the sink uses LMTP instead of SMTP.
    pub lmtp: bool,
    /// The lines of the EHLO reply after the first. The sink adds AUTH if `credentials` is not
    /// empty, and STARTTLS if `tls` contains `Encryption::StartTls`.
    pub extensions: Vec<String>,
    /// The latency that the sink adds to each byte, in each direction.
    pub latency: Duration,
    /// The injected faults. If several of them match a command, the sink injects the first one in
    /// this list.
    pub faults: Vec<InjectedFault>,
    /// The TLS settings; `None` means a sink without TLS.
    pub tls: Option<ServerTls>,
    /// The password or token of each user, by user name. Unless the map is empty, the sink accepts
    /// MAIL only after a successful AUTH.
    pub credentials: HashMap<String, String>,
    /// Whether the sink stores accepted messages.
    pub store: bool,
    /// Whether the sink stores the bytes that each client sends.
    pub wire: bool,
    /// The number of threads that serve connections. The minimum is 1.
    pub threads: usize,
}

impl Default for SinkSettings {
    fn default() -> Self {
        Self {
            listen: ListenAddress::Tcp("127.0.0.1".to_owned(), 0),
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
