//! Connecting to the relay: name resolution, and attempts at several addresses.
//!
//! If a host has several addresses, the attempts for them start one after the other, with a short
//! delay between two starts. The address families alternate, and the first connection that succeeds
//! is used (Happy Eyeballs, RFC 8305 4 and 5). RFC 8305 2 and 3 (separate look-ups for the
//! families, and sorting) do not apply, because `getaddrinfo` returns the addresses of both
//! families together and sorted.
//!
//! With a proxy, the attempts are made at the addresses of the proxy. The proxy resolves the host
//! name of the relay.

mod error;
#[cfg(test)]
mod tests;
mod tunnel;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

pub(super) use self::error::system_text;
pub use self::error::{ConnectError, ConnectErrorKind};
use self::error::{ConnectFailure, Peer};
use self::tunnel::negotiate;
use super::socket::Socket;
use crate::proxy::Proxy;

/// The time from the start of one attempt to the start of the next attempt (RFC 8305 8).
const STAGGER: Duration = Duration::from_millis(250);

/// The maximum number of addresses that are tried. Further addresses are ignored, because their
/// attempts would not start within a usual time limit.
const ADDRESSES: usize = 32;

/// The address of a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A TCP address: a host name or an IP address (with or without brackets), and a port.
    Tcp(String, u16),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') && !host.starts_with('[') => {
                write!(formatter, "[{host}]:{port}")
            }
            Self::Tcp(host, port) => write!(formatter, "{host}:{port}"),
            Self::Unix(path) => write!(formatter, "{}", path.display()),
        }
    }
}

/// The settings for connecting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectSettings {
    /// The local host ("" for any) and port (0 for any) to bind sockets to; `None` to bind no
    /// socket.
    pub source: Option<(String, u16)>,
    /// The proxy through which to connect, or `None`.
    pub proxy: Option<Proxy>,
    /// The time limit for connecting, including name resolution and the dialogue with the proxy.
    pub limit: Duration,
}

/// Connects to `target`, and disables Nagle's algorithm (RFC 896), because every write is a whole
/// flight of commands and must not wait for further data.
///
/// Name resolution runs in the runtime's blocking pool and cannot be cancelled. So dropping a
/// runtime waits for the end of name resolution. `shutdown_background` does not wait.
///
/// # Errors
///
/// [`ConnectError`] with the most informative of all failures.
pub async fn connect(target: &Target, settings: &ConnectSettings) -> Result<Socket, ConnectError> {
    // `progress` is declared outside of the future, so that it is available after the time limit
    // has cancelled the future.
    let mut progress = Progress {
        peer: match &settings.proxy {
            None => Peer::Relay(target),
            Some(proxy) => Peer::Proxy(proxy),
        },
        failure: None,
    };
    match timeout(settings.limit, attempt(target, settings, &mut progress)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::late(
            progress.peer,
            settings.limit,
            progress.failure.as_ref(),
        )),
    }
}

/// The progress of connecting, for the error text after the time limit.
struct Progress<'a> {
    /// The host that the client waits for.
    peer: Peer<'a>,
    /// The most informative of the failures so far.
    failure: Option<ConnectFailure>,
}

async fn attempt<'a>(
    target: &'a Target,
    settings: &'a ConnectSettings,
    progress: &mut Progress<'a>,
) -> Result<Socket, ConnectError> {
    let (host, port) = match target {
        Target::Unix(path) => return connect_unix(target, path).await,
        Target::Tcp(host, port) => (host.as_str(), *port),
    };
    let (first_host, first_port) = match &settings.proxy {
        None => (host, port),
        Some(proxy) => (proxy.host.as_str(), proxy.port),
    };
    let addresses = resolve(first_host, first_port)
        .await
        .map_err(|error| ConnectError::name(progress.peer, first_host, &error))?;
    let sources = match &settings.source {
        None => None,
        Some((host, port)) => Some(
            source_addresses(host, *port)
                .await
                .map_err(|error| ConnectError::name(progress.peer, host, &error))?,
        ),
    };
    let failure = &mut progress.failure;
    let Some(mut stream) = race(interleave(addresses), sources.as_deref(), failure).await else {
        return Err(ConnectError::failed(progress.peer, failure.as_ref()));
    };
    if let Some(proxy) = &settings.proxy {
        progress.peer = Peer::RelayBehind(target, proxy);
        progress.failure = None;
        negotiate(&mut stream, proxy, host, port)
            .await
            .map_err(|error| ConnectError::proxy(progress.peer, &error))?;
    }
    Ok(Socket::Tcp(stream))
}

#[cfg(unix)]
async fn connect_unix(target: &Target, path: &Path) -> Result<Socket, ConnectError> {
    match tokio::net::UnixStream::connect(path).await {
        Ok(stream) => Ok(Socket::Unix(stream)),
        Err(mut error) => {
            if error.kind() == io::ErrorKind::InvalidInput {
                // The system limits the length to about 100 bytes.
                let text = "the path is too long for a Unix socket";
                error = io::Error::new(io::ErrorKind::InvalidInput, text);
            }
            Err(ConnectError::failed(
                Peer::Relay(target),
                Some(&error.into()),
            ))
        }
    }
}

#[cfg(not(unix))]
async fn connect_unix(target: &Target, _path: &Path) -> Result<Socket, ConnectError> {
    let error = io::Error::from(io::ErrorKind::Unsupported);
    Err(ConnectError::failed(
        Peer::Relay(target),
        Some(&error.into()),
    ))
}

async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let addresses: Vec<_> = lookup_host((bare.unwrap_or(host), port)).await?.collect();
    if addresses.is_empty() {
        return Err(io::Error::other("no address"));
    }
    Ok(addresses)
}

/// Returns the addresses to bind sockets to. `of_family` uses only the first address of each
/// family.
async fn source_addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if host.is_empty() {
        return Ok(vec![
            (Ipv4Addr::UNSPECIFIED, port).into(),
            (Ipv6Addr::UNSPECIFIED, port).into(),
        ]);
    }
    resolve(host, port).await
}

/// Sorts addresses so that the families alternate, starting with the family of the first address
/// (RFC 8305 4). Each family keeps its order, and each address occurs once.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_ipv6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_ipv6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut result = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] || result.len() >= ADDRESSES {
            return result;
        }
        for address in pair.into_iter().flatten() {
            if !result.contains(&address) {
                result.push(address);
            }
        }
    }
}

/// Starts the attempts one after the other. The next attempt starts after the time [`STAGGER`], or
/// as soon as an attempt has failed. Returns the first connection and cancels all other attempts.
/// Returns `None` if all attempts failed. `failure` receives the most informative failure.
async fn race(
    addresses: Vec<SocketAddr>,
    sources: Option<&[SocketAddr]>,
    failure: &mut Option<ConnectFailure>,
) -> Option<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut waiting = addresses.into_iter().peekable();
    loop {
        if let Some(address) = waiting.next() {
            let source = sources.map(|all| of_family(all, address));
            attempts.spawn(async move { (address, connect_tcp(address, source).await) });
        }
        let ended = if waiting.peek().is_none() {
            attempts.join_next().await
        } else {
            match timeout(STAGGER, attempts.join_next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        };
        match ended {
            // All attempts failed: no attempt is running, and no address is left.
            None if waiting.peek().is_none() => return None,
            // A task that panicked or was cancelled has no failure to report.
            None | Some(Err(_)) => {}
            Some(Ok((_, Ok(stream)))) => return Some(stream),
            Some(Ok((address, Err(error)))) => ConnectFailure::new(address, error).keep_in(failure),
        }
    }
}

fn of_family(sources: &[SocketAddr], address: SocketAddr) -> Option<SocketAddr> {
    let mut sources = sources.iter().copied();
    sources.find(|source| source.is_ipv6() == address.is_ipv6())
}

/// Connects to one address. `source` is `None` if no source address is configured. It is
/// `Some(None)` if no source address has the family of `address`.
async fn connect_tcp(
    address: SocketAddr,
    source: Option<Option<SocketAddr>>,
) -> io::Result<TcpStream> {
    let socket = if address.is_ipv6() {
        TcpSocket::new_v6()?
    } else {
        TcpSocket::new_v4()?
    };
    socket.set_nodelay(true)?;
    match source {
        None => {}
        Some(None) => {
            let text = "source_address has another address family";
            return Err(io::Error::new(io::ErrorKind::NetworkUnreachable, text));
        }
        Some(Some(source)) => {
            // This option allows binding a configured port while an earlier connection from this
            // port is in TIME-WAIT. On systems other than Unix, the option has another meaning, so
            // it is not set.
            #[cfg(unix)]
            socket.set_reuseaddr(source.port() != 0)?;
            socket.bind(source)?;
        }
    }
    socket.connect(address).await
}
