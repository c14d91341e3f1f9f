//! The way to the relay: names, addresses, and the race between them.
//!
//! A host with several addresses is tried at all of them, the families in turn, each a little after
//! the one before it, and the first to answer is taken (Happy Eyeballs, RFC 8305 sections 4 and 5).
//! Its sections 2 and 3 have nothing to do here: `getaddrinfo` returns both families together, and
//! sorted.

mod error;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::error::Failure;
pub use self::error::{ConnectError, ConnectFault};
use super::socket::Socket;

/// How long an address has before the next one is tried as well (RFC 8305 section 8).
const STAGGER: Duration = Duration::from_millis(250);

/// How many addresses are tried: with more than that, a time limit would pass in staggering.
const ADDRESSES: usize = 32;

/// Where a relay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// On TCP: a name or an address (in brackets or bare), and a port.
    Tcp(String, u16),
    /// On a unix socket.
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

/// How to get there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectSettings {
    /// The local host ("" is any) and port (0 is any) to come from.
    pub source: Option<(String, u16)>,
    /// How long the whole may take, the name's resolution included.
    pub limit: Duration,
}

/// Connects, and turns off Nagle's algorithm: what is written is a whole flight.
///
/// The resolution runs in the runtime's blocking pool and cannot be cut short; a runtime that is
/// dropped waits for it unless it is shut down in the background.
///
/// # Errors
///
/// [`ConnectError`] with the most telling of all failures.
pub async fn connect(target: &Target, settings: &ConnectSettings) -> Result<Socket, ConnectError> {
    // Outside of the future, so that it outlives the time limit.
    let mut failure = None;
    match timeout(settings.limit, attempt(target, settings, &mut failure)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::late(target, settings.limit, failure.as_ref())),
    }
}

async fn attempt(
    target: &Target,
    settings: &ConnectSettings,
    failure: &mut Option<Failure>,
) -> Result<Socket, ConnectError> {
    let (host, port) = match target {
        Target::Unix(path) => return connect_unix(target, path).await,
        Target::Tcp(host, port) => (host, *port),
    };
    let addresses = resolve(host, port)
        .await
        .map_err(|error| ConnectError::name(target, host, &error))?;
    let sources = match &settings.source {
        None => None,
        Some((host, port)) => Some(
            source_addresses(host, *port)
                .await
                .map_err(|error| ConnectError::name(target, host, &error))?,
        ),
    };
    match race(interleave(addresses), sources.as_deref(), failure).await {
        Some(stream) => Ok(Socket::Tcp(stream)),
        None => Err(ConnectError::failed(target, failure.as_ref())),
    }
}

#[cfg(unix)]
async fn connect_unix(target: &Target, path: &Path) -> Result<Socket, ConnectError> {
    match tokio::net::UnixStream::connect(path).await {
        Ok(stream) => Ok(Socket::Unix(stream)),
        Err(error) => Err(ConnectError::failed(target, Some(&error.into()))),
    }
}

#[cfg(not(unix))]
async fn connect_unix(target: &Target, _path: &Path) -> Result<Socket, ConnectError> {
    let error = io::Error::from(io::ErrorKind::Unsupported);
    Err(ConnectError::failed(target, Some(&error.into())))
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

/// The addresses to come from, for each family at most the first one is used.
async fn source_addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if host.is_empty() {
        return Ok(vec![
            (Ipv4Addr::UNSPECIFIED, port).into(),
            (Ipv6Addr::UNSPECIFIED, port).into(),
        ]);
    }
    resolve(host, port).await
}

/// The families in turn, beginning with that of the first address, each in its own order and each
/// address once.
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

/// Starts an attempt each [`STAGGER`], or as soon as one has failed; the first connection is taken,
/// and all other attempts end with it. None where all failed; `failure` is the most telling so far.
async fn race(
    addresses: Vec<SocketAddr>,
    sources: Option<&[SocketAddr]>,
    failure: &mut Option<Failure>,
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
            // None is under way; the loop goes on where one is to be started still.
            None if waiting.peek().is_none() => return None,
            // An attempt that panicked or was cancelled says nothing.
            None | Some(Err(_)) => {}
            Some(Ok((_, Ok(stream)))) => return Some(stream),
            Some(Ok((address, Err(error)))) => Failure::new(address, error).note(failure),
        }
    }
}

fn of_family(sources: &[SocketAddr], address: SocketAddr) -> Option<SocketAddr> {
    let mut sources = sources.iter().copied();
    sources.find(|source| source.is_ipv6() == address.is_ipv6())
}

/// `source` is none where none is asked for, and holds none where the family has none.
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
        Some(None) => return Err(io::ErrorKind::NetworkUnreachable.into()),
        Some(Some(source)) => {
            // A given port is free again at once when the connection before has ended. Elsewhere
            // the option means something else.
            #[cfg(unix)]
            socket.set_reuseaddr(source.port() != 0)?;
            socket.bind(source)?;
        }
    }
    socket.connect(address).await
}
