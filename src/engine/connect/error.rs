//! Failures to connect, with a text of one line.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::Target;
use crate::proxy::{Proxy, ProxyError};

/// The kind of a failure to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectErrorKind {
    /// The host name does not resolve.
    Name,
    /// The host refused the connection, because no process listens on the port.
    Refused,
    /// The connection was not made within the time limit.
    TimedOut,
    /// There is no route to the host.
    Unreachable,
    /// The proxy refused or requires a login.
    ProxyLogin,
    /// Any other failure.
    Other,
}

/// The host to which a connection failed. `Display` writes its name for an error text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Peer<'a> {
    /// The relay, without a proxy.
    Relay(&'a Target),
    /// The proxy.
    Proxy(&'a Proxy),
    /// The relay, after the connection to the proxy was made.
    RelayBehind(&'a Target, &'a Proxy),
}

impl Peer<'_> {
    /// Returns the cure for a failed connection; empty without a proxy.
    fn cure(self) -> &'static str {
        match self {
            Self::Relay(_) => "",
            Self::Proxy(_) => "; check the host and the port in proxy=",
            Self::RelayBehind(..) => "; check the proxy, and the relay's host and port",
        }
    }
}

impl fmt::Display for Peer<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relay(target) => target.fmt(formatter),
            Self::Proxy(proxy) => write!(formatter, "the proxy {proxy}"),
            Self::RelayBehind(target, proxy) => {
                write!(formatter, "{target} through the proxy {proxy}")
            }
        }
    }
}

/// A failure to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectError {
    kind: ConnectErrorKind,
    text: String,
}

impl ConnectError {
    /// The kind of the failure.
    #[must_use]
    pub fn kind(&self) -> ConnectErrorKind {
        self.kind
    }

    /// Creates the error for a host name (of the relay or of the source address) that does not
    /// resolve.
    pub(super) fn name(peer: Peer<'_>, host: &str, error: &io::Error) -> Self {
        let text = system_text(error);
        // The standard library adds this prefix to the text of the resolver. The prefix is removed,
        // because the error text below already states this fact.
        let cause = text
            .strip_prefix("failed to lookup address information: ")
            .unwrap_or(&text);
        Self {
            kind: ConnectErrorKind::Name,
            text: format!(
                "cannot connect to {peer}: {host:?} does not resolve: {cause}{}",
                peer.cure()
            ),
        }
    }

    /// Creates the error for a connection that was not made within the time limit. Attempts may
    /// have failed before the end of the time limit. `failure` is the most informative of these
    /// failures.
    pub(super) fn late(peer: Peer<'_>, limit: Duration, failure: Option<&ConnectFailure>) -> Self {
        let limit = limit.as_secs_f64();
        let mut text = format!("cannot connect to {peer}: timed out after {limit} s");
        if let Some(failure) = failure {
            text = format!("{text} ({failure})");
        }
        Self {
            kind: ConnectErrorKind::TimedOut,
            text: text + peer.cure(),
        }
    }

    /// Creates the error after all attempts failed.
    pub(super) fn failed(peer: Peer<'_>, failure: Option<&ConnectFailure>) -> Self {
        let Some(failure) = failure else {
            return Self {
                kind: ConnectErrorKind::Other,
                text: format!("cannot connect to {peer}{}", peer.cure()),
            };
        };
        Self {
            kind: failure.kind(),
            text: format!("cannot connect to {peer}: {failure}{}", peer.cure()),
        }
    }

    /// Creates the error for a proxy that made no connection to the relay.
    pub(super) fn proxy(peer: Peer<'_>, error: &ProxyError) -> Self {
        Self {
            kind: if error.concerns_login() {
                ConnectErrorKind::ProxyLogin
            } else {
                ConnectErrorKind::Other
            },
            text: format!("cannot connect to {peer}: {error}"),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Error for ConnectError {}

/// A failed attempt at one address.
#[derive(Debug)]
pub(super) struct ConnectFailure {
    address: Option<SocketAddr>,
    error: io::Error,
}

impl ConnectFailure {
    pub(super) fn new(address: SocketAddr, error: io::Error) -> Self {
        Self {
            address: Some(address),
            error,
        }
    }

    /// Stores this failure in `kept`, unless `kept` holds a more informative failure. For example,
    /// a refusal is more informative than a missing route. A refusal comes from the host of the
    /// relay, but a missing route may only mean that this host has no IPv6.
    pub(super) fn keep_in(self, kept: &mut Option<Self>) {
        if kept.as_ref().is_none_or(|kept| kept.rank() <= self.rank()) {
            *kept = Some(self);
        }
    }

    fn kind(&self) -> ConnectErrorKind {
        match self.error.kind() {
            io::ErrorKind::ConnectionRefused => ConnectErrorKind::Refused,
            io::ErrorKind::TimedOut => ConnectErrorKind::TimedOut,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => ConnectErrorKind::Unreachable,
            _ => ConnectErrorKind::Other,
        }
    }

    fn rank(&self) -> u8 {
        match self.kind() {
            ConnectErrorKind::Unreachable => 0,
            ConnectErrorKind::TimedOut => 1,
            _ => 2,
        }
    }
}

impl From<io::Error> for ConnectFailure {
    fn from(error: io::Error) -> Self {
        Self {
            address: None,
            error,
        }
    }
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = system_text(&self.error);
        match self.address {
            Some(address) => write!(formatter, "{cause} ({address})"),
            None => formatter.write_str(&cause),
        }
    }
}

/// Returns the text of a system error without the error number.
pub(in super::super) fn system_text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((plain, _)) => plain.to_owned(),
        None => text,
    }
}
