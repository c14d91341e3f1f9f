//! The TLS configuration that all connections share: trusted certificates, the client certificate,
//! and TLS sessions.
//!
//! Certificates and host names are verified unless the caller disables verification (RFC 8314 3,
//! RFC 9325 3). TLS sessions are kept. A further connection resumes a session, so its handshake
//! contains no certificates (RFC 8446 2.2). The system's CA certificates are read when the first
//! connection needs them.

mod error;
#[cfg(test)]
mod tests;
mod verifier;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, NamedGroup, SupportedProtocolVersion, version};

pub use self::error::{TlsError, TlsSettingsError};
use self::verifier::{NoVerifier, TrustVerifier};

/// The supported TLS versions, in descending order.
const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];

/// A version of TLS that can be required as the minimum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// The caller's TLS settings. Certificates and keys are the contents of PEM files.
#[derive(Clone)]
pub struct TlsSettings {
    /// Whether the relay's certificate and host name are verified.
    pub verify: bool,
    /// The certificates to trust; `None` for the system's CA certificates.
    pub ca: Option<Vec<u8>>,
    /// The client certificate and its chain.
    pub certificate: Option<Vec<u8>>,
    /// The private key of the client certificate; `None` if `certificate` contains the key.
    pub key: Option<Vec<u8>>,
    /// The host name (or IP address) that the certificate must contain; `None` for the relay's host
    /// name.
    pub server_hostname: Option<String>,
    /// The minimum version of TLS.
    pub minimum: TlsVersion,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            verify: true,
            ca: None,
            certificate: None,
            key: None,
            server_hostname: None,
            minimum: TlsVersion::default(),
        }
    }
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is omitted, because it is a secret.
        formatter
            .debug_struct("TlsSettings")
            .field("verify", &self.verify)
            .field("server_hostname", &self.server_hostname)
            .field("minimum", &self.minimum)
            .finish_non_exhaustive()
    }
}

/// The TLS client of all connections.
pub struct TlsClient {
    provider: Arc<CryptoProvider>,
    verify: bool,
    ca: Option<Vec<CertificateDer<'static>>>,
    client_certificate: Option<ClientCertificate>,
    server_name: Option<ServerName<'static>>,
    minimum: TlsVersion,
    config: OnceLock<Arc<ClientConfig>>,
}

impl TlsClient {
    /// Creates a client from the settings. The system's CA certificates are not read here, but in
    /// [`Self::config`].
    ///
    /// # Errors
    ///
    /// If a text is not PEM or contains no certificate or key, if the key does not match the
    /// certificate, or if `server_hostname` is not a host name.
    pub fn new(settings: &TlsSettings) -> Result<Self, TlsSettingsError> {
        let server_name = settings.server_hostname.as_deref().map(parse_name);
        let client = Self {
            provider: Arc::new(provider()),
            verify: settings.verify,
            ca: settings.ca.as_deref().map(read_ca).transpose()?,
            client_certificate: read_client_certificate(settings)?,
            server_name: server_name.transpose()?,
            minimum: settings.minimum,
            config: OnceLock::new(),
        };
        if client.ca.is_some() || !client.verify {
            client.config()?;
        } else {
            // Builds a configuration only to check that the key matches the client certificate, and
            // discards the configuration. `NoVerifier` needs no CA certificates, so the build does
            // not read those of the system.
            client.build(Arc::new(NoVerifier::new(&client.provider)))?;
        }
        Ok(client)
    }

    /// Returns the configuration for rustls. The first call may read the system's certificates.
    /// This takes several milliseconds, so another thread can make the first call in advance.
    ///
    /// # Errors
    ///
    /// [`TlsSettingsError::SystemRoots`] if the system has no CA certificates.
    pub fn config(&self) -> Result<Arc<ClientConfig>, TlsSettingsError> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        let config = self.build(self.verifier()?)?;
        // If another thread has stored its configuration in the meantime, that configuration is
        // used, with its TLS sessions.
        Ok(Arc::clone(self.config.get_or_init(|| Arc::new(config))))
    }

    /// Returns the name that the certificate of `host` must contain.
    ///
    /// # Errors
    ///
    /// [`TlsSettingsError::ServerName`] if no certificate can contain this name.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, TlsSettingsError> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => parse_name(host),
        }
    }

    fn verifier(&self) -> Result<Arc<dyn ServerCertVerifier>, TlsSettingsError> {
        if !self.verify {
            return Ok(Arc::new(NoVerifier::new(&self.provider)));
        }
        Ok(Arc::new(match &self.ca {
            Some(ca) => TrustVerifier::new(ca.clone(), &self.provider)
                .map_err(TlsSettingsError::Authority)?,
            None => TrustVerifier::new(system_roots()?, &self.provider)
                .map_err(TlsSettingsError::SystemRoots)?,
        }))
    }

    fn build(
        &self,
        verifier: Arc<dyn ServerCertVerifier>,
    ) -> Result<ClientConfig, TlsSettingsError> {
        let versions = match self.minimum {
            TlsVersion::Tls12 => &VERSIONS[..],
            TlsVersion::Tls13 => &VERSIONS[..1],
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)
            .map_err(|error| TlsSettingsError::Certificate(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let Some((chain, key)) = &self.client_certificate else {
            return Ok(builder.with_no_client_auth());
        };
        builder
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|error| {
                match error {
                rustls::Error::InconsistentKeys(_) => TlsSettingsError::Mismatch,
                rustls::Error::InvalidCertificate(_) => {
                    TlsSettingsError::Certificate(
                        "the certificate cannot be read; copy its file again".to_owned(),
                    )
                }
                _ => TlsSettingsError::Key(
                    "the private key cannot be read; give a key for RSA (2048 bits or more), ECDSA \
                     or Ed25519"
                        .to_owned(),
                ),
            }
            })
    }
}

/// Returns the cryptography provider aws-lc without its hybrid key exchange group. rustls would
/// support this group, but send no key share for it in the first flight. A server that prefers the
/// group, such as OpenSSL 3.5, would then request the key share with a HelloRetryRequest (RFC 8446
/// 4.1.4). The HelloRetryRequest would cost a round trip.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .kx_groups
        .retain(|group| group.name() != NamedGroup::X25519MLKEM768);
    provider
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TlsClient")
            .field("verify", &self.verify)
            .field("minimum", &self.minimum)
            .finish_non_exhaustive()
    }
}

fn read_chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| pem_text(&error))?;
    if chain.is_empty() {
        return Err("it contains no certificate in PEM".to_owned());
    }
    Ok(chain)
}

fn read_ca(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsSettingsError> {
    read_chain(text).map_err(TlsSettingsError::Authority)
}

/// The chain of the client certificate, and its private key.
type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read_client_certificate(
    settings: &TlsSettings,
) -> Result<Option<ClientCertificate>, TlsSettingsError> {
    let Some(certificate) = &settings.certificate else {
        return match &settings.key {
            None => Ok(None),
            Some(_) => Err(TlsSettingsError::Key(
                "the certificate of this key is missing".to_owned(),
            )),
        };
    };
    let chain = read_chain(certificate).map_err(TlsSettingsError::Certificate)?;
    let text = settings.key.as_ref().unwrap_or(certificate);
    let key = PrivateKeyDer::from_pem_slice(text).map_err(|error| {
        TlsSettingsError::Key(match error {
            pem::Error::NoItemsFound if is_encrypted(text) => {
                "it is encrypted; give it without a passphrase".to_owned()
            }
            pem::Error::NoItemsFound => "it contains no private key in PEM".to_owned(),
            error => pem_text(&error),
        })
    })?;
    Ok(Some((chain, key)))
}

fn is_encrypted(text: &[u8]) -> bool {
    const MARK: &[u8] = b"ENCRYPTED PRIVATE KEY";
    text.windows(MARK.len()).any(|window| window == MARK)
}

fn pem_text(error: &pem::Error) -> String {
    // The library's error text is not used: it contains bytes of the line, and these may be part of
    // a private key.
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section in PEM has no end".to_owned(),
        pem::Error::IllegalSectionStart { .. } => {
            "a section in PEM has an invalid begin line".to_owned()
        }
        pem::Error::Base64Decode(_) => "a section in PEM is not base64".to_owned(),
        _ => "it is not PEM".to_owned(),
    }
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>, TlsSettingsError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(TlsSettingsError::SystemRoots(if errors.is_empty() {
            "the system has none".to_owned()
        } else {
            errors.join("; ")
        }));
    }
    Ok(found.certs)
}

/// Returns the host in the form of the names in certificates: without brackets, zone and final dot.
fn parse_name(host: &str) -> Result<ServerName<'static>, TlsSettingsError> {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let bare = bare.unwrap_or(host);
    let address = bare.split('%').next().unwrap_or(bare);
    if let Ok(address) = address.parse::<IpAddr>() {
        return Ok(ServerName::IpAddress(address.into()));
    }
    ServerName::try_from(bare.strip_suffix('.').unwrap_or(bare).to_owned())
        .map_err(|_| TlsSettingsError::ServerName(host.to_owned()))
}
