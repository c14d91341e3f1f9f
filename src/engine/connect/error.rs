//! Why there is no connection, in one line.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::Target;

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectFault {
    /// The name does not resolve.
    Name,
    /// Nobody listens there.
    Refused,
    /// The time limit passed.
    TimedOut,
    /// There is no way there.
    Unreachable,
    /// Anything else.
    Other,
}

/// A failure to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectError {
    fault: ConnectFault,
    text: String,
}

impl ConnectError {
    /// The kind.
    #[must_use]
    pub fn fault(&self) -> ConnectFault {
        self.fault
    }

    /// A name, be it of the target or of the source, that does not resolve.
    pub(super) fn name(target: &Target, host: &str, error: &io::Error) -> Self {
        let text = plain(error);
        // The standard library puts this in front of what the resolver says.
        let cause = text
            .strip_prefix("failed to lookup address information: ")
            .unwrap_or(&text);
        Self {
            fault: ConnectFault::Name,
            text: format!("cannot connect to {target}: {host:?} does not resolve: {cause}"),
        }
    }

    /// The time limit passed.
    pub(super) fn late(target: &Target, limit: Duration, failure: Option<&Failure>) -> Self {
        let limit = limit.as_secs_f64();
        let mut text = format!("cannot connect to {target}: timed out after {limit} s");
        if let Some(failure) = failure {
            text = format!("{text} ({failure})");
        }
        Self {
            fault: ConnectFault::TimedOut,
            text,
        }
    }

    /// All attempts failed.
    pub(super) fn failed(target: &Target, failure: Option<&Failure>) -> Self {
        let Some(failure) = failure else {
            return Self {
                fault: ConnectFault::Other,
                text: format!("cannot connect to {target}"),
            };
        };
        Self {
            fault: failure.fault(),
            text: format!("cannot connect to {target}: {failure}"),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Error for ConnectError {}

/// One attempt that failed.
#[derive(Debug)]
pub(super) struct Failure {
    address: Option<SocketAddr>,
    error: io::Error,
}

impl Failure {
    pub(super) fn new(address: SocketAddr, error: io::Error) -> Self {
        Self {
            address: Some(address),
            error,
        }
    }

    /// Takes the place of one that tells no more than this one: a family without a route says
    /// little about the relay, a refusal much.
    pub(super) fn note(self, noted: &mut Option<Self>) {
        if noted
            .as_ref()
            .is_none_or(|noted| noted.telling() <= self.telling())
        {
            *noted = Some(self);
        }
    }

    fn fault(&self) -> ConnectFault {
        match self.error.kind() {
            io::ErrorKind::ConnectionRefused => ConnectFault::Refused,
            io::ErrorKind::TimedOut => ConnectFault::TimedOut,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => ConnectFault::Unreachable,
            _ => ConnectFault::Other,
        }
    }

    fn telling(&self) -> u8 {
        match self.fault() {
            ConnectFault::Unreachable => 0,
            ConnectFault::TimedOut => 1,
            _ => 2,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self {
            address: None,
            error,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = plain(&self.error);
        match self.address {
            Some(address) => write!(formatter, "{cause} ({address})"),
            None => formatter.write_str(&cause),
        }
    }
}

/// The words of the system without its number for them.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}
