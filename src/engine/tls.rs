//! What TLS needs, read once and shared by all connections: trust, our own certificate, sessions.
//!
//! Certificates and host names are verified unless the caller says otherwise (RFC 8314 section 3,
//! RFC 9325). Sessions are kept, so that each further connection saves the certificates and, with
//! TLS 1.3, offers a ticket (RFC 8446 section 2.2). The system's CA certificates are read when the
//! first connection needs them and not before.

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
use self::verifier::{Anyone, Trusting};

/// Both of the versions that are spoken, the better one first.
const BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];

/// The lowest version of TLS that will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// What the caller says about TLS; files by their contents, in PEM.
#[derive(Clone)]
pub struct TlsSettings {
    /// Whether the relay's certificate and name are verified.
    pub verify: bool,
    /// The certificates to trust; none: the system's.
    pub ca: Option<Vec<u8>>,
    /// Our own certificate and its chain.
    pub certificate: Option<Vec<u8>>,
    /// Its private key; none: it stands beside the certificate.
    pub key: Option<Vec<u8>>,
    /// The name (or address) that the certificate must carry; none: the host's.
    pub server_hostname: Option<String>,
    /// The lowest version.
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
        // The key is left out: it is a secret.
        formatter
            .debug_struct("TlsSettings")
            .field("verify", &self.verify)
            .field("server_hostname", &self.server_hostname)
            .field("minimum", &self.minimum)
            .finish_non_exhaustive()
    }
}

/// The client's side of TLS for any number of connections.
pub struct TlsClient {
    provider: Arc<CryptoProvider>,
    verify: bool,
    ca: Option<Vec<CertificateDer<'static>>>,
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    server_name: Option<ServerName<'static>>,
    minimum: TlsVersion,
    config: OnceLock<Arc<ClientConfig>>,
}

impl TlsClient {
    /// Reads the settings; all but the system's certificates, which are read when they are needed.
    ///
    /// # Errors
    ///
    /// Those of the settings: no PEM, nothing in it, a key that does not match its certificate, a
    /// name that is none.
    pub fn new(settings: &TlsSettings) -> Result<Self, TlsSettingsError> {
        let server_name = settings.server_hostname.as_deref().map(parse_name);
        let client = Self {
            provider: Arc::new(provider()),
            verify: settings.verify,
            ca: settings.ca.as_deref().map(read_ca).transpose()?,
            own: read_own(settings)?,
            server_name: server_name.transpose()?,
            minimum: settings.minimum,
            config: OnceLock::new(),
        };
        if client.ca.is_some() || !client.verify {
            client.config()?;
        } else {
            // Says now whether the key matches.
            client.build(Arc::new(Anyone::new(&client.provider)))?;
        }
        Ok(client)
    }

    /// The configuration that all connections share. The first call may read the system's
    /// certificates, which takes some milliseconds; it may be made ahead, from any thread.
    ///
    /// # Errors
    ///
    /// [`TlsSettingsError::SystemRoots`] where there are none.
    pub fn config(&self) -> Result<Arc<ClientConfig>, TlsSettingsError> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        let config = self.build(self.verifier()?)?;
        // Another thread may have been faster: then its sessions are the ones.
        Ok(Arc::clone(self.config.get_or_init(|| Arc::new(config))))
    }

    /// The name that the certificate of `host` must carry.
    ///
    /// # Errors
    ///
    /// [`TlsSettingsError::ServerName`] where it can stand in no certificate.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, TlsSettingsError> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => parse_name(host),
        }
    }

    fn verifier(&self) -> Result<Arc<dyn ServerCertVerifier>, TlsSettingsError> {
        if !self.verify {
            return Ok(Arc::new(Anyone::new(&self.provider)));
        }
        Ok(Arc::new(match &self.ca {
            Some(ca) => {
                Trusting::new(ca.clone(), &self.provider).map_err(TlsSettingsError::Authority)?
            }
            None => Trusting::new(system_roots()?, &self.provider)
                .map_err(TlsSettingsError::SystemRoots)?,
        }))
    }

    fn build(
        &self,
        verifier: Arc<dyn ServerCertVerifier>,
    ) -> Result<ClientConfig, TlsSettingsError> {
        let versions = match self.minimum {
            TlsVersion::Tls12 => &BOTH[..],
            TlsVersion::Tls13 => &BOTH[..1],
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)
            .map_err(|error| TlsSettingsError::Certificate(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let Some((chain, key)) = &self.own else {
            return Ok(builder.with_no_client_auth());
        };
        builder
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => TlsSettingsError::Mismatch,
                rustls::Error::InvalidCertificate(error) => {
                    TlsSettingsError::Certificate(error.to_string())
                }
                error => TlsSettingsError::Key(error::plain(&error)),
            })
    }
}

/// aws-lc without the hybrid group, which stands last there and has no share in the first flight: a
/// server that prefers it, as OpenSSL 3.5 does, would ask for one, at the price of a round trip.
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
        .map_err(|error| pem_words(&error))?;
    if chain.is_empty() {
        return Err("no certificate in PEM is in it".to_owned());
    }
    Ok(chain)
}

fn read_ca(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsSettingsError> {
    read_chain(text).map_err(TlsSettingsError::Authority)
}

type Own = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read_own(settings: &TlsSettings) -> Result<Option<Own>, TlsSettingsError> {
    let Some(certificate) = &settings.certificate else {
        return match &settings.key {
            None => Ok(None),
            Some(_) => Err(TlsSettingsError::Key(
                "there is no certificate to it".to_owned(),
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
            pem::Error::NoItemsFound => "no private key in PEM is in it".to_owned(),
            error => pem_words(&error),
        })
    })?;
    Ok(Some((chain, key)))
}

fn is_encrypted(text: &[u8]) -> bool {
    const MARK: &[u8] = b"ENCRYPTED PRIVATE KEY";
    text.windows(MARK.len()).any(|window| window == MARK)
}

fn pem_words(error: &pem::Error) -> String {
    // The error of a line shows the line as numbers, and the line may be of a key.
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section in PEM has no end".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a section in PEM begins wrongly".to_owned(),
        pem::Error::Base64Decode(_) => "a section in PEM is not base64".to_owned(),
        _ => "it is not PEM".to_owned(),
    }
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>, TlsSettingsError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(TlsSettingsError::SystemRoots(if errors.is_empty() {
            "there are none".to_owned()
        } else {
            errors.join("; ")
        }));
    }
    Ok(found.certs)
}

/// A host as a certificate may name it: brackets, zone and the root's dot are not part of that.
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
