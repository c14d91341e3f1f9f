//! A connected socket, TCP or unix, with the few things that the engine asks of the kernel itself.
//!
//! Beside the polled half there are calls that go to the kernel at once: the runtime's knowledge of
//! what can be read is as old as its last pause, which is too old for a look before reuse.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a unix socket.
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    /// The descriptor, where the system has them.
    #[must_use]
    pub fn descriptor(&self) -> Option<i32> {
        #[cfg(unix)]
        {
            use std::os::fd::AsRawFd;
            Some(match self {
                Self::Tcp(stream) => stream.as_raw_fd(),
                Self::Unix(stream) => stream.as_raw_fd(),
            })
        }
        #[cfg(not(unix))]
        None
    }

    /// Asks the kernel to acknowledge what comes next at once; it forgets this by itself, so it is
    /// asked again before each read that waits. Nothing but on TCP under Linux.
    pub fn quick_ack(&self) {
        #[cfg(target_os = "linux")]
        if let Self::Tcp(stream) = self {
            // It fails only on a connection that is gone, which the next read tells better.
            let _ = SockRef::from(stream).set_tcp_quickack(true);
        }
    }

    /// Reads what is there now, past the runtime.
    ///
    /// # Errors
    ///
    /// Those of the socket; `WouldBlock` where nothing is there.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.reference()).read(buffer)
    }

    /// Writes what the kernel takes now, past the runtime.
    ///
    /// # Errors
    ///
    /// Those of the socket; `WouldBlock` where it takes nothing.
    pub fn write_now(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self.reference()).write_vectored(slices)
    }

    /// Tells the other side that no more comes.
    pub fn end(&self) {
        // It fails only on a connection that is gone already.
        let _ = self.reference().shutdown(Shutdown::Write);
    }

    fn reference(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(stream) => SockRef::from(stream),
            #[cfg(unix)]
            Self::Unix(stream) => SockRef::from(stream),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, octets),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_write(context, octets),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
