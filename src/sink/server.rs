//! The sink itself: it listens, on threads of its own, until it is closed.
//!
//! Each thread has a runtime of its own and all accept from the same socket, so that an idle thread
//! takes the next connection and none shares a lock with another beyond the record. A thread
//! inherits the CPUs that its maker may run on: pin the maker for a moment to pin the sink.

use std::io;
use std::net::{SocketAddr, TcpListener};
#[cfg(unix)]
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::sleep;

use super::connection::serve;
use super::conversation::Shared;
use super::delay::{Delayed, Socket};
use super::record::{Record, lock};
use super::settings::{Listen, Settings};

/// How long to wait before the next accept when one failed: most often all descriptors are in use.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Where a sink can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// On TCP, the port that was found included.
    Tcp(SocketAddr),
    /// On a unix socket.
    Unix(PathBuf),
}

/// A running sink; it ends when it is dropped.
pub struct Sink {
    shared: Arc<Shared>,
    address: Address,
    stop: watch::Sender<bool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    process: u32,
}

impl Sink {
    /// Binds the socket and starts the threads.
    ///
    /// # Errors
    ///
    /// Those of the socket, of the runtime and of the threads.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let listener = Listener::bind(&settings.listen)?;
        let address = listener.address(&settings.listen)?;
        let number = settings.threads.max(1);
        let (stop, stopped) = watch::channel(false);
        let sink = Self {
            shared: Arc::new(Shared::new(settings)),
            address,
            stop,
            threads: Mutex::default(),
            process: std::process::id(),
        };
        for _ in 0..number {
            let runtime = Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build()?;
            let listener = listener.duplicate()?;
            let shared = Arc::clone(&sink.shared);
            let stopped = stopped.clone();
            let thread = std::thread::Builder::new()
                .name("smtp-sink".to_owned())
                .spawn(move || run(&runtime, listener, &shared, stopped))?;
            lock(&sink.threads).push(thread);
        }
        Ok(sink)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What it saw.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.shared.record
    }

    /// Forgets what it saw and arms the faults anew; connections stay open.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Ends all connections and waits for the threads; what it saw can still be read.
    pub fn close(&self) {
        let threads = std::mem::take(&mut *lock(&self.threads));
        if threads.is_empty() || self.process != std::process::id() {
            // After a fork the child has no such threads, and waiting for them would be for ever.
            return;
        }
        self.stop.send_replace(true);
        for thread in threads {
            // A thread that panicked is at its end as well.
            let _ = thread.join();
        }
        if let Address::Unix(path) = &self.address {
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.close();
    }
}

enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

impl Listener {
    fn bind(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Tcp(host, port) => {
                let listener = TcpListener::bind((host.as_str(), *port))?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(listener))
            }
            #[cfg(unix)]
            Listen::Unix(path) => {
                let listener = UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(listener))
            }
            #[cfg(not(unix))]
            Listen::Unix(_) => Err(io::Error::from(io::ErrorKind::Unsupported)),
        }
    }

    fn address(&self, listen: &Listen) -> io::Result<Address> {
        match (self, listen) {
            (_, Listen::Unix(path)) => Ok(Address::Unix(path.clone())),
            (Self::Tcp(listener), _) => listener.local_addr().map(Address::Tcp),
            #[cfg(unix)]
            (Self::Unix(_), Listen::Tcp(..)) => Err(io::Error::from(io::ErrorKind::InvalidInput)),
        }
    }

    fn duplicate(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(listener) => listener.try_clone().map(Self::Tcp),
            #[cfg(unix)]
            Self::Unix(listener) => listener.try_clone().map(Self::Unix),
        }
    }
}

fn run(
    runtime: &Runtime,
    listener: Listener,
    shared: &Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
) {
    runtime.block_on(async {
        tokio::spawn(accept(listener, Arc::clone(shared)));
        // An error says that the sink is gone, which is a stop as well. The drop of the runtime
        // ends every connection.
        let _ = stopped.wait_for(|stop| *stop).await;
    });
}

async fn accept(listener: Listener, shared: Arc<Shared>) -> io::Result<()> {
    match listener {
        Listener::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        // Replies leave at once; it fails only on a connection that is gone.
                        let _ = stream.set_nodelay(true);
                        spawn(stream, &shared);
                    }
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                }
            }
        }
        #[cfg(unix)]
        Listener::Unix(listener) => {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => spawn(stream, &shared),
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                }
            }
        }
    }
}

fn spawn<S: Socket>(socket: S, shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    if shared.latency.is_zero() {
        tokio::spawn(serve(socket, shared));
    } else {
        tokio::spawn(serve(Delayed::new(socket, shared.latency), shared));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;
    use crate::sink::record::Count;

    const CONVERSATION: &[u8] =
        b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\nQUIT\r\n";

    fn converse(mut stream: impl Read + Write) -> String {
        let mut replies = String::new();
        stream.write_all(CONVERSATION).unwrap();
        stream.read_to_string(&mut replies).unwrap();
        replies
    }

    #[test]
    fn on_tcp_until_it_is_dropped() {
        let sink = Sink::start(Settings {
            threads: 2,
            ..Settings::default()
        })
        .unwrap();
        let Address::Tcp(address) = *sink.address() else {
            panic!("not on TCP")
        };
        for _ in 0..8 {
            let replies = converse(TcpStream::connect(address).unwrap());
            assert!(replies.ends_with("221 2.0.0 Bye\r\n"), "{replies}");
        }
        let counts = sink.record().counts();
        assert_eq!(
            (counts.of(Count::Connections), counts.of(Count::Messages)),
            (8, 8)
        );
        let mut open = TcpStream::connect(address).unwrap();
        open.read_exact(&mut [0; 4]).unwrap();
        drop(sink);
        assert!(open.read_to_end(&mut Vec::new()).is_ok());
        assert!(TcpStream::connect(address).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn on_a_unix_socket_that_is_removed() {
        let path = std::env::temp_dir().join(format!("sink-{}", std::process::id()));
        let listen = Listen::Unix(path.clone());
        let sink = Sink::start(Settings {
            listen,
            ..Settings::default()
        })
        .unwrap();
        assert_eq!(*sink.address(), Address::Unix(path.clone()));
        let stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(converse(stream).contains("queued as 1\r\n"));
        sink.close();
        sink.close();
        assert!(!path.exists());
    }
}
