//! The threads of a sink. They accept and serve connections until the sink is closed.
//!
//! Each thread has its own runtime. All threads accept from the same socket, so that an idle thread
//! accepts the next connection. The only locks that the threads share are those of the record.
//!
//! The threads inherit the CPU affinity of the thread that calls `start`. To restrict the sink to
//! certain CPUs, set the affinity of the calling thread before `start`.

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
use super::conversation::SharedState;
use super::delay::{DelayedStream, SplitStream};
use super::record::{SinkRecord, lock};
use super::settings::{ListenAddress, SinkSettings};

/// The pause between a failed accept and the next one. Accepting usually fails because all file
/// descriptors are in use, and the pause prevents a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// The address of a running sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkAddress {
    /// The IP address and the port. If the port in the settings is 0, this is the port that the
    /// operating system selected.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

/// A running sink. Dropping this object closes the sink.
pub struct Sink {
    shared: Arc<SharedState>,
    address: SinkAddress,
    stop: watch::Sender<bool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    process: u32,
}

impl Sink {
    /// Binds the socket and starts the threads.
    ///
    /// # Errors
    ///
    /// If the socket, a runtime or a thread cannot be created.
    pub fn start(settings: SinkSettings) -> io::Result<Self> {
        let listener = Listener::bind(&settings.listen)?;
        let address = listener.address(&settings.listen)?;
        let number = settings.threads.max(1);
        let (stop, stopped) = watch::channel(false);
        let sink = Self {
            shared: Arc::new(SharedState::new(settings)),
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

    /// The address on which the sink listens.
    #[must_use]
    pub fn address(&self) -> &SinkAddress {
        &self.address
    }

    /// The record of received messages and bytes.
    #[must_use]
    pub fn record(&self) -> &SinkRecord {
        &self.shared.record
    }

    /// Clears the record and sets the counts of injected faults to zero. Connections stay open.
    pub fn reset(&self) {
        self.shared.reset();
    }

    /// Closes all connections, and waits until the threads have ended. The record can still be
    /// read.
    pub fn close(&self) {
        let threads = std::mem::take(&mut *lock(&self.threads));
        if threads.is_empty() || self.process != std::process::id() {
            // Either `close` was called before, or this process is a forked child. The child has no
            // copies of the threads, so joining them would block forever.
            return;
        }
        self.stop.send_replace(true);
        for thread in threads {
            // An error means that the thread panicked. It has ended in this case too.
            let _ = thread.join();
        }
        if let SinkAddress::Unix(path) = &self.address {
            // An error is ignored, because the file may have been removed already.
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
    fn bind(listen: &ListenAddress) -> io::Result<Self> {
        match listen {
            ListenAddress::Tcp(host, port) => {
                let listener = TcpListener::bind((host.as_str(), *port))?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(listener))
            }
            #[cfg(unix)]
            ListenAddress::Unix(path) => {
                let listener = UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(listener))
            }
            #[cfg(not(unix))]
            ListenAddress::Unix(_) => Err(io::Error::from(io::ErrorKind::Unsupported)),
        }
    }

    fn address(&self, listen: &ListenAddress) -> io::Result<SinkAddress> {
        match (self, listen) {
            (_, ListenAddress::Unix(path)) => Ok(SinkAddress::Unix(path.clone())),
            (Self::Tcp(listener), _) => listener.local_addr().map(SinkAddress::Tcp),
            #[cfg(unix)]
            (Self::Unix(_), ListenAddress::Tcp(..)) => {
                Err(io::Error::from(io::ErrorKind::InvalidInput))
            }
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
    shared: &Arc<SharedState>,
    mut stopped: watch::Receiver<bool>,
) {
    runtime.block_on(async {
        tokio::spawn(accept(listener, Arc::clone(shared)));
        // An error means that the sink was dropped, which also ends this thread. The caller then
        // drops the runtime, and this closes every connection of the thread.
        let _ = stopped.wait_for(|stop| *stop).await;
    });
}

async fn accept(listener: Listener, shared: Arc<SharedState>) -> io::Result<()> {
    match listener {
        Listener::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        // TCP_NODELAY: replies must be sent immediately. The call fails only if the
                        // connection is closed already, so an error is ignored.
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

fn spawn<S: SplitStream>(socket: S, shared: &Arc<SharedState>) {
    let shared = Arc::clone(shared);
    if shared.latency.is_zero() {
        tokio::spawn(serve(socket, shared));
    } else {
        tokio::spawn(serve(DelayedStream::new(socket, shared.latency), shared));
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
    fn tcp_connections_are_served_until_the_sink_is_dropped() {
        let sink = Sink::start(SinkSettings {
            threads: 2,
            ..SinkSettings::default()
        })
        .unwrap();
        let SinkAddress::Tcp(address) = *sink.address() else {
            panic!("the sink does not listen on TCP")
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
    fn the_unix_socket_is_removed_on_close() {
        let path = std::env::temp_dir().join(format!("sink-{}", std::process::id()));
        let listen = ListenAddress::Unix(path.clone());
        let sink = Sink::start(SinkSettings {
            listen,
            ..SinkSettings::default()
        })
        .unwrap();
        assert_eq!(*sink.address(), SinkAddress::Unix(path.clone()));
        let stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(converse(stream).contains("queued as 1\r\n"));
        sink.close();
        sink.close();
        assert!(!path.exists());
    }
}
