//! Errors of TLS, by their cause: the settings, the relay's certificate, or any other cause.

use std::error::Error;
use std::fmt;
use std::io;

use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{self, AlertDescription, CertificateError, PeerIncompatible};

use super::super::connect::system_text;

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
            Self::Authority(reason) => write!(formatter, "the CA certificates: {reason}"),
            Self::Certificate(reason) => write!(formatter, "the client certificate: {reason}"),
            Self::Key(reason) => write!(formatter, "the key of the client certificate: {reason}"),
            Self::Mismatch => formatter.write_str("the key does not match the client certificate"),
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

    /// Converts the error of a handshake.
    pub(in super::super) fn of_handshake(host: &str, error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            Some(inner) => Self::of_session(host, inner),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::failed(host, "the server closed the connection in the handshake")
            }
            None => Self::failed(host, system_text(error)),
        }
    }

    /// Converts an error of rustls.
    pub(in super::super) fn of_session(host: &str, error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::Untrusted {
                host: host.to_owned(),
                reason: certificate_text(error),
            },
            rustls::Error::NoCertificatesPresented => Self::Untrusted {
                host: host.to_owned(),
                reason: "the server sent none".to_owned(),
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

/// Returns the text of a rustls error in one line. For common errors, the text is written for
/// administrators.
pub(super) fn plain(error: &rustls::Error) -> String {
    let text = match error {
        rustls::Error::InvalidMessage(_) => "the reply of the server is not TLS",
        rustls::Error::AlertReceived(alert) => return alert_text(*alert),
        rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ) => "the server supports no version of TLS that is allowed here",
        rustls::Error::General(text) => text,
        error => return one_line(&error.to_string()),
    };
    one_line(text)
}

fn alert_text(alert: AlertDescription) -> String {
    let text = match alert {
        AlertDescription::ProtocolVersion => {
            "the server supports no version of TLS that is allowed here"
        }
        AlertDescription::HandshakeFailure => "the server found no common parameters",
        AlertDescription::CertificateRequired => "the server requires a client certificate",
        AlertDescription::BadCertificate
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::UnsupportedCertificate => {
            return format!("the server refused the client certificate ({alert:?})");
        }
        AlertDescription::UnrecognisedName => "the server does not recognize this host name",
        alert => return format!("the server sent the alert {alert:?}"),
    };
    text.to_owned()
}

fn certificate_text(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "its issuer is unknown (self-signed, or of a CA that is not trusted here)".to_owned()
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let expected = expected.to_str();
            let presented: Vec<_> = presented.iter().map(|name| host_in(name)).collect();
            one_line(&if presented.is_empty() {
                format!("host name mismatch: it contains no host name, but the host is {expected}")
            } else {
                format!(
                    "host name mismatch: it is not valid for {expected}, only for {}",
                    presented.join(", ")
                )
            })
        }
        CertificateError::ExpiredContext { time, not_after } => {
            format!("it expired {} ago", days(*not_after, *time))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            format!("it becomes valid in {}", days(*time, *not_before))
        }
        // rustls has no variant for this error of webpki, so the error is recognised by its text.
        CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            "it is the certificate of a CA (or self-signed), and not among the trusted ones"
                .to_owned()
        }
        error => one_line(&error.to_string()),
    }
}

/// Extracts the host from a name in webpki's format, such as `DnsName("example.org")`.
fn host_in(name: &str) -> &str {
    let quoted = name
        .split_once('"')
        .and_then(|(_, rest)| rest.split_once('"'));
    quoted.map_or(name, |(name, _)| name)
}

fn days(from: UnixTime, to: UnixTime) -> String {
    let seconds = to.as_secs().saturating_sub(from.as_secs());
    match seconds / 86_400 {
        0 => format!("{seconds} s"),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

/// Replaces control characters with spaces, because the text may contain names from the server's
/// certificate.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}
