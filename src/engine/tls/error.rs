//! Errors of TLS, by their cause: the settings, the relay's certificate, or any other cause.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{
    self, AlertDescription, CertificateError, InvalidMessage, OtherError, PeerIncompatible,
};

use super::super::connect::system_text;
use crate::printable::printable;

/// An error in the settings. The error texts are single lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsSettingsError {
    /// The CA certificates are invalid, for this reason.
    Authority(String),
    /// The client certificate is invalid, for this reason.
    Certificate(String),
    /// The private key is invalid, for this reason.
    Key(String),
    /// The private key does not belong to the certificate.
    Mismatch,
    /// This name is neither a host name nor an IP address.
    ServerName(String),
    /// The CA certificates of the system cannot be read, for this reason.
    SystemRoots(String),
}

impl fmt::Display for TlsSettingsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority(reason) => write!(formatter, "ca_file: {reason}"),
            Self::Certificate(reason) => write!(formatter, "certificate: {reason}"),
            Self::Key(reason) => write!(formatter, "key: {reason}"),
            Self::Mismatch => formatter.write_str(
                "key: the private key does not belong to the certificate; give the key of this \
                 certificate",
            ),
            Self::ServerName(name) => {
                write!(formatter, "{name:?} is neither a host name nor an address")
            }
            Self::SystemRoots(reason) => {
                write!(
                    formatter,
                    "the CA certificates of the system cannot be read: {reason}"
                )
            }
        }
    }
}

impl Error for TlsSettingsError {}

/// The reason why a TLS handshake or session failed. The error texts are single lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsError {
    /// The certificate is not trusted. This failure is permanent, because another attempt would
    /// receive the same certificate.
    Untrusted {
        /// The host.
        host: String,
        /// The reason.
        reason: String,
    },
    /// An error in the settings.
    Settings(TlsSettingsError),
    /// Any other failure, for example of the network, the server or the TLS versions.
    Failed {
        /// The host.
        host: String,
        /// The reason.
        reason: String,
    },
}

impl TlsError {
    pub(in super::super) fn failed(host: &str, reason: impl Into<String>) -> Self {
        Self::Failed {
            host: host.to_owned(),
            reason: reason.into(),
        }
    }

    /// Converts the error of a handshake. `name` is the name that the certificate must contain.
    pub(in super::super) fn of_handshake(host: &str, name: &str, error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            Some(inner) => Self::of_session(host, name, inner),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::failed(host, CLOSED),
            None => Self::failed(host, system_text(error)),
        }
    }

    /// Converts an error of rustls. `name` is the name that the certificate must contain.
    pub(in super::super) fn of_session(host: &str, name: &str, error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::Untrusted {
                host: host.to_owned(),
                reason: certificate_text(error, name),
            },
            rustls::Error::NoCertificatesPresented => Self::Untrusted {
                host: host.to_owned(),
                reason: NONE.to_owned(),
            },
            error => Self::failed(host, plain(error)),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrusted { host, reason } => {
                write!(
                    formatter,
                    "the certificate of {host} is not trusted: {reason}"
                )
            }
            Self::Settings(error) => error.fmt(formatter),
            Self::Failed { host, reason } => write!(formatter, "TLS with {host} failed: {reason}"),
        }
    }
}

impl Error for TlsError {}

impl From<TlsSettingsError> for TlsError {
    fn from(error: TlsSettingsError) -> Self {
        Self::Settings(error)
    }
}

/// A fault of a certificate for which rustls has no variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CertificateFault {
    /// The certificate contains no host name.
    NoName,
    /// The certificate is self-signed, and not among the trusted ones.
    SelfSigned,
    /// The server uses the certificate of a CA, and the certificate is not among the trusted ones.
    Ca,
    /// A certificate of the chain is not that of a CA.
    NotCa,
}

impl CertificateFault {
    fn text(self, name: &str) -> String {
        match self {
            Self::NoName => name_text(name, "it contains no host name"),
            Self::SelfSigned => SELF_SIGNED.to_owned(),
            Self::Ca => CA.to_owned(),
            Self::NotCa => NOT_CA.to_owned(),
        }
    }
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text("the host"))
    }
}

impl Error for CertificateFault {}

impl From<CertificateFault> for rustls::Error {
    fn from(fault: CertificateFault) -> Self {
        CertificateError::Other(OtherError(Arc::new(fault))).into()
    }
}

/// The maximum number of names of a certificate in an error text.
const MAX_NAMES: usize = 5;

// The texts for certificates. The pure-Python backend has the same texts. Details that OpenSSL does
// not report are in parentheses.
const UNKNOWN_ISSUER: &str = "its issuer is unknown; give the certificate of its CA in ca_file=, \
     and let the relay send all intermediate certificates";
const SELF_SIGNED: &str = "it is self-signed; give it in ca_file= to trust it";
const CA: &str = "it is the certificate of a CA; give it in ca_file= to trust it";
const NOT_CA: &str = "a certificate of its chain is not that of a CA; check ca_file=, or replace \
     the relay's certificate";
const PURPOSE: &str = "it, or a certificate of its chain, does not permit TLS servers; replace the \
     relay's certificate";
const SIGNATURE: &str = "a signature in its chain is invalid or weak (RSA below 2048 bits, SHA-1); \
     check ca_file=, or replace the relay's certificate";
const TOO_LONG: &str = "its chain is longer than its CA permits; replace the relay's certificate";
const FORBIDDEN_NAME: &str =
    "its CA is not permitted to certify this name; replace the relay's certificate";
const EXTENSION: &str = "it, or a certificate of its chain, has an unknown critical extension; \
     replace the relay's certificate";
const MALFORMED: &str =
    "it, or a certificate of its chain, is malformed; replace the relay's certificate";
const NONE: &str = "the server sent none; install a certificate at the relay";

fn expired_text(detail: &str) -> String {
    format!(
        "it, or a certificate of its chain, has expired{detail}; renew the certificate at the relay"
    )
}

fn not_valid_yet_text(detail: &str) -> String {
    format!(
        "it, or a certificate of its chain, is not valid yet{detail}; check the clock of this host"
    )
}

fn name_text(name: &str, detail: &str) -> String {
    format!(
        "host name mismatch: it is not valid for {name} ({detail}); write a name of the \
         certificate in the relay's URL, or in server_hostname="
    )
}

// The texts for handshakes and sessions. The pure-Python backend has the same texts.
const NOT_TLS: &str =
    "the reply of the server is not TLS; check the scheme and the port in the relay's URL";
const NO_VERSION: &str = "the server supports no version of TLS that is allowed here; enable TLS \
     1.2 or 1.3 at the relay";
const NO_PARAMETERS: &str = "the server found no common parameters; enable ECDHE with AES-GCM or \
     ChaCha20-Poly1305 at the relay, or give a client certificate in certificate= if the relay \
     requires one";
const NEEDS_CERTIFICATE: &str =
    "the server requires a client certificate; give one in certificate=";
const REFUSED_CERTIFICATE: &str = "the server refused the client certificate; check certificate=";
const UNKNOWN_NAME: &str = "the server does not recognize this host name; check the host in the \
     relay's URL, or server_hostname=";
const MISBEHAVED: &str = "the server broke the rules of TLS; check the log of the relay";
const CLOSED: &str =
    "the server closed the connection in the handshake; check the log of the relay";
const INTERNAL: &str = "this host cannot use TLS; check its clock and its random numbers";

/// Returns the text of a rustls error in one line, in the words of administrators.
fn plain(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge
            | InvalidMessage::InvalidEmptyPayload,
        ) => NOT_TLS,
        rustls::Error::AlertReceived(alert) => return alert_text(*alert),
        rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ) => NO_VERSION,
        rustls::Error::PeerIncompatible(
            PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon,
        ) => REFUSED_CERTIFICATE,
        rustls::Error::PeerIncompatible(_) => NO_PARAMETERS,
        rustls::Error::FailedToGetCurrentTime | rustls::Error::FailedToGetRandomBytes => INTERNAL,
        // A variant without its own text is a message that the rules of TLS forbid, or a library
        // error that no server can cause.
        _ => MISBEHAVED,
    }
    .to_owned()
}

fn alert_text(alert: AlertDescription) -> String {
    let text = match alert {
        AlertDescription::ProtocolVersion => NO_VERSION,
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
            NO_PARAMETERS
        }
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            NEEDS_CERTIFICATE
        }
        AlertDescription::BadCertificate
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::UnsupportedCertificate => REFUSED_CERTIFICATE,
        AlertDescription::UnrecognisedName => UNKNOWN_NAME,
        AlertDescription::Unknown(_) => MISBEHAVED,
        alert => {
            let name = snake_case(&format!("{alert:?}"));
            return format!("the server sent the TLS alert {name}; check the log of the relay");
        }
    };
    text.to_owned()
}

/// Converts the name of an alert to its form in RFC 8446 6, such as `internal_error`.
fn snake_case(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// Returns the text for a certificate that is not trusted. `name` is the name that the certificate
/// must contain.
fn certificate_text(error: &CertificateError, name: &str) -> String {
    match error {
        CertificateError::UnknownIssuer => UNKNOWN_ISSUER.to_owned(),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let mut hosts: Vec<_> = presented.iter().filter_map(|name| host_in(name)).collect();
            if hosts.len() > MAX_NAMES {
                hosts.truncate(MAX_NAMES);
                hosts.push("…");
            }
            let detail = if hosts.is_empty() {
                "it contains no host name".to_owned()
            } else {
                format!("only for {}", hosts.join(", "))
            };
            // The names come from the server's certificate.
            printable(&name_text(&expected.to_str(), &detail)).into_owned()
        }
        CertificateError::NotValidForName => name_text(name, "it has other names"),
        CertificateError::ExpiredContext { time, not_after } => {
            expired_text(&format!(" ({} ago)", days(*not_after, *time)))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            not_valid_yet_text(&format!(" (valid in {})", days(*time, *not_before)))
        }
        CertificateError::Expired => expired_text(""),
        CertificateError::NotValidYet => not_valid_yet_text(""),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            PURPOSE.to_owned()
        }
        CertificateError::BadEncoding => MALFORMED.to_owned(),
        CertificateError::UnhandledCriticalExtension => EXTENSION.to_owned(),
        CertificateError::Other(OtherError(other)) => match other.downcast_ref() {
            Some(fault) => CertificateFault::text(*fault, name),
            // rustls has no variants for these errors of webpki, so the errors are recognized by
            // their texts.
            None => match other.to_string().as_str() {
                "EndEntityUsedAsCa" | "UnsupportedCertVersion" => NOT_CA,
                "PathLenConstraintViolated" | "MaximumPathDepthExceeded" => TOO_LONG,
                "NameConstraintViolation" => FORBIDDEN_NAME,
                "UnsupportedCriticalExtension" => EXTENSION,
                "EmptyEkuExtension" => PURPOSE,
                "SignatureAlgorithmMismatch" | "MaximumSignatureChecksExceeded" => SIGNATURE,
                _ => MALFORMED,
            }
            .to_owned(),
        },
        // BadSignature, and signature algorithms that are not supported. The errors of revocation
        // lists cannot occur, because none are used.
        _ => SIGNATURE.to_owned(),
    }
}

/// Extracts the host from a name in webpki's format: `DnsName("example.org")` or
/// `IpAddress(127.0.0.1)`. Other kinds of names contain no host.
fn host_in(name: &str) -> Option<&str> {
    let dns_name = name.strip_prefix("DnsName(\"");
    dns_name
        .and_then(|rest| rest.strip_suffix("\")"))
        .or_else(|| name.strip_prefix("IpAddress(")?.strip_suffix(')'))
}

fn days(from: UnixTime, to: UnixTime) -> String {
    let seconds = to.as_secs().saturating_sub(from.as_secs());
    match seconds / 86_400 {
        0 => format!("{seconds} s"),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}
