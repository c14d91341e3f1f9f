//! A long way between client and sink: every byte arrives so much later, in both directions.
//!
//! The bytes are delayed as a line of that length delays them, below TLS: what was written together
//! arrives together, and a second flight does not wait for the first to be answered. So twenty
//! milliseconds each way make a round trip of forty, however many commands a flight holds and
//! however many reads a body takes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::connection::Transport;

/// What one read takes off the socket.
const CHUNK: usize = 64 * 1024;

/// How many reads may be under way; the line holds at most their product with `CHUNK`.
const UNDER_WAY: usize = 1024;

/// A socket whose halves can be driven by two tasks.
pub trait Socket: Transport {
    /// The half that reads.
    type Reading: AsyncRead + Unpin + Send + 'static;
    /// The half that writes.
    type Writing: AsyncWrite + Unpin + Send + 'static;

    /// Takes the socket apart.
    fn halves(self) -> (Self::Reading, Self::Writing);

    /// Cuts the connection off.
    fn reset(writing: Self::Writing);
}

impl Socket for TcpStream {
    type Reading = tokio::net::tcp::OwnedReadHalf;
    type Writing = tokio::net::tcp::OwnedWriteHalf;

    fn halves(self) -> (Self::Reading, Self::Writing) {
        self.into_split()
    }

    fn reset(writing: Self::Writing) {
        writing.as_ref().reset_at_drop();
        // Its drop would send an orderly end first.
        writing.forget();
    }
}

#[cfg(unix)]
impl Socket for tokio::net::UnixStream {
    type Reading = tokio::net::unix::OwnedReadHalf;
    type Writing = tokio::net::unix::OwnedWriteHalf;

    fn halves(self) -> (Self::Reading, Self::Writing) {
        self.into_split()
    }

    fn reset(_writing: Self::Writing) {}
}

/// The near end of the long way.
pub struct Delayed {
    near: DuplexStream,
    reset: Arc<AtomicBool>,
    reading: AbortHandle,
}

impl Delayed {
    /// Puts the way between us and the socket.
    #[must_use]
    pub fn new<S: Socket>(socket: S, latency: Duration) -> Self {
        let (near, far) = tokio::io::duplex(CHUNK);
        let (from_near, mut to_near) = tokio::io::split(far);
        let (reading, mut writing) = socket.halves();
        let reset = Arc::new(AtomicBool::new(false));
        let is_reset = Arc::clone(&reset);

        let (entrance, exit) = mpsc::channel(UNDER_WAY);
        let reading = tokio::spawn(enter(reading, entrance, latency)).abort_handle();
        tokio::spawn(async move {
            leave(exit, &mut to_near).await;
            let _ = to_near.shutdown().await;
        });
        let (entrance, exit) = mpsc::channel(UNDER_WAY);
        tokio::spawn(enter(from_near, entrance, latency));
        tokio::spawn(async move {
            leave(exit, &mut writing).await;
            if is_reset.load(Ordering::Acquire) {
                S::reset(writing);
            } else {
                let _ = writing.shutdown().await;
            }
        });
        Self {
            near,
            reset,
            reading,
        }
    }
}

/// Reads until the end and marks each piece with the moment of its arrival.
async fn enter<R>(mut reading: R, entrance: mpsc::Sender<(Instant, Vec<u8>)>, latency: Duration)
where
    R: AsyncRead + Unpin,
{
    loop {
        let mut piece = Vec::with_capacity(CHUNK);
        let length = reading.read_buf(&mut piece).await.unwrap_or(0);
        // The end, an empty piece, takes as long as everything else.
        if entrance
            .send((Instant::now() + latency, piece))
            .await
            .is_err()
            || length == 0
        {
            return;
        }
    }
}

/// Writes each piece when its moment has come, until the end.
async fn leave<W>(mut exit: mpsc::Receiver<(Instant, Vec<u8>)>, writing: &mut W)
where
    W: AsyncWrite + Unpin,
{
    while let Some((moment, piece)) = exit.recv().await {
        sleep_until(moment).await;
        if piece.is_empty() || writing.write_all(&piece).await.is_err() {
            return;
        }
    }
}

impl Transport for Delayed {
    fn reset_at_drop(&self) {
        self.reset.store(true, Ordering::Release);
    }
}

impl Drop for Delayed {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl AsyncRead for Delayed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_read(context, buffer)
    }
}

impl AsyncWrite for Delayed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.near).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_shutdown(context)
    }
}
