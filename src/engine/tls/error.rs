//! What can be wrong with TLS, and whose fault it is: the settings', the certificate's, the rest.

use std::error::Error;
use std::fmt;
use std::io;

use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{self, AlertDescription, CertificateError, PeerIncompatible};

/// Settings that cannot be used. The texts are single lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsSettingsError {
    /// The CA certificates, and why.
    Authority(String),
    /// Our own certificate, and why.
    Certificate(String),
    /// Our private key, and why.
    Key(String),
    /// The private key is not that of the certificate.
    Mismatch,
    /// This is neither a host name nor an address.
    ServerName(String),
    /// The CA certificates of the system, and why.
    SystemRoots(String),
}

impl fmt::Display for TlsSettingsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority(why) => write!(formatter, "the CA certificates: {why}"),
            Self::Certificate(why) => write!(formatter, "the client certificate: {why}"),
            Self::Key(why) => write!(formatter, "the client certificate's key: {why}"),
            Self::Mismatch => formatter.write_str("the key does not match the client certificate"),
            Self::ServerName(name) => {
                write!(formatter, "{name:?} is neither a host name nor an address")
            }
            Self::SystemRoots(why) => {
                write!(
                    formatter,
                    "the CA certificates of the system cannot be read: {why}"
                )
            }
        }
    }
}

impl Error for TlsSettingsError {}

/// Why there is no TLS. The texts are single lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsError {
    /// The certificate is not trusted: a fate that the next try will not change.
    Untrusted {
        /// Whose certificate.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Our own settings do not allow it.
    Settings(TlsSettingsError),
    /// Everything else: the network, the server, versions.
    Failed {
        /// With whom.
        host: String,
        /// What happened.
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

    /// What the error of a handshake means.
    pub(in super::super) fn of_handshake(host: &str, error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            Some(inner) => Self::of_session(host, inner),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::failed(host, "the server closed the connection in the handshake")
            }
            None => Self::failed(host, error.to_string()),
        }
    }

    /// What an error of rustls means.
    pub(in super::super) fn of_session(host: &str, error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::Untrusted {
                host: host.to_owned(),
                reason: certificate_words(error),
            },
            rustls::Error::NoCertificatesPresented => Self::Untrusted {
                host: host.to_owned(),
                reason: "the server has none".to_owned(),
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

/// An error of rustls in one line, the common ones in words that say what to do about them.
pub(super) fn plain(error: &rustls::Error) -> String {
    let words = match error {
        rustls::Error::InvalidMessage(_) => "what the server sends is not TLS",
        rustls::Error::AlertReceived(alert) => return alert_words(*alert),
        rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ) => "the server speaks no version of TLS that is allowed here",
        rustls::Error::General(words) => words,
        error => return one_line(&error.to_string()),
    };
    one_line(words)
}

fn alert_words(alert: AlertDescription) -> String {
    let words = match alert {
        AlertDescription::ProtocolVersion => {
            "the server speaks no version of TLS that is allowed here"
        }
        AlertDescription::HandshakeFailure => "the server found no common parameters",
        AlertDescription::CertificateRequired => "the server wants a client certificate",
        AlertDescription::BadCertificate
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::UnsupportedCertificate => {
            return format!("the server refused the client certificate ({alert:?})");
        }
        AlertDescription::UnrecognisedName => "the server does not know this name",
        alert => return format!("the server sent the alert {alert:?}"),
    };
    words.to_owned()
}

fn certificate_words(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "its issuer is unknown (self-signed, or of a CA that is not trusted here)".to_owned()
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let expected = expected.to_str();
            let presented: Vec<_> = presented.iter().map(|name| name_words(name)).collect();
            one_line(&if presented.is_empty() {
                format!("host name mismatch: it names no host at all, and so not {expected}")
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
            format!("it is not valid for another {}", days(*time, *not_before))
        }
        // webpki's word, which rustls hands through.
        CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            "it is the certificate of a CA (or self-signed), and not among the trusted ones"
                .to_owned()
        }
        error => one_line(&error.to_string()),
    }
}

/// webpki shows names as `DnsName("example.org")`.
fn name_words(name: &str) -> &str {
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

/// Names in certificates are the server's words: control characters become spaces.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}
