//! A connected socket, TCP or Unix, with the few calls that bypass the runtime.
//!
//! Before a connection is reused, the engine checks whether the relay has closed it. The runtime
//! stores the state of the socket at its last poll. The relay may have closed the connection after
//! this poll, so the check asks the kernel directly.

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
    /// A TCP socket.
    Tcp(TcpStream),
    /// A Unix socket.
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    /// Returns the descriptor, on systems that have descriptors.
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

    /// Sets the option `TCP_QUICKACK`, so that the kernel acknowledges the next segment at once.
    /// The kernel resets this option by itself, so the caller sets it again before each read that
    /// waits. The option has an effect only on TCP under Linux.
    pub fn quick_ack(&self) {
        #[cfg(target_os = "linux")]
        if let Self::Tcp(stream) = self {
            // This call fails only if the connection is lost. The error is ignored, because the
            // next read reports the loss.
            let _ = SockRef::from(stream).set_tcp_quickack(true);
        }
    }

    /// Reads the bytes that have arrived, without the runtime.
    ///
    /// # Errors
    ///
    /// An error of the socket; `WouldBlock` if no byte has arrived.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.reference()).read(buffer)
    }

    /// Writes as many bytes as the kernel accepts now, without the runtime.
    ///
    /// # Errors
    ///
    /// An error of the socket; `WouldBlock` if the kernel accepts no byte.
    pub fn write_now(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self.reference()).write_vectored(slices)
    }

    /// Sends the end of the stream.
    pub fn shutdown_write(&self) {
        // This call fails only if the connection is lost, so the error is ignored.
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
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
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
