//! Simulated network latency between client and sink. Each byte is delayed by a fixed time, in both
//! directions.
//!
//! This includes the bytes of the TLS handshake, because a network delays these bytes too. Bytes
//! that are written together arrive together, and one flight does not delay the next. So with a
//! latency of 20 ms, the reply to a flight arrives 40 ms after the flight was sent. This time does
//! not depend on the number of commands in the flight or on the size of a body.

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

use super::connection::SinkStream;

/// The maximum size of one read from the socket, in bytes.
const CHUNK: usize = 64 * 1024;

/// The maximum number of chunks in transit in one direction. Further chunks wait until a chunk
/// arrives. The maximum total size of these chunks is `IN_TRANSIT * CHUNK` bytes.
const IN_TRANSIT: usize = 1024;

/// A socket that can be split, so that one task reads from it and another task writes to it.
pub trait SplitStream: SinkStream {
    /// The read direction.
    type Reader: AsyncRead + Unpin + Send + 'static;
    /// The write direction.
    type Writer: AsyncWrite + Unpin + Send + 'static;

    /// Splits the socket into its two directions.
    fn split(self) -> (Self::Reader, Self::Writer);

    /// Resets the connection.
    fn reset(writer: Self::Writer);
}

impl SplitStream for TcpStream {
    type Reader = tokio::net::tcp::OwnedReadHalf;
    type Writer = tokio::net::tcp::OwnedWriteHalf;

    fn split(self) -> (Self::Reader, Self::Writer) {
        self.into_split()
    }

    fn reset(writer: Self::Writer) {
        writer.as_ref().reset_at_drop();
        // Dropping `writer` would first shut down the socket in an orderly way. `forget` prevents
        // this, so that the client receives a reset.
        writer.forget();
    }
}

#[cfg(unix)]
impl SplitStream for tokio::net::UnixStream {
    type Reader = tokio::net::unix::OwnedReadHalf;
    type Writer = tokio::net::unix::OwnedWriteHalf;

    fn split(self) -> (Self::Reader, Self::Writer) {
        self.into_split()
    }

    fn reset(_writer: Self::Writer) {}
}

/// The sink's end of a delayed connection.
pub struct DelayedStream {
    near: DuplexStream,
    reset: Arc<AtomicBool>,
    reader_task: AbortHandle,
}

impl DelayedStream {
    /// Delays the bytes of `socket` by `latency` in each direction.
    #[must_use]
    pub fn new<S: SplitStream>(socket: S, latency: Duration) -> Self {
        let (near, far) = tokio::io::duplex(CHUNK);
        let (from_near, mut to_near) = tokio::io::split(far);
        let (reader, mut writer) = socket.split();
        let reset = Arc::new(AtomicBool::new(false));
        let is_reset = Arc::clone(&reset);

        let (sender, receiver) = mpsc::channel(IN_TRANSIT);
        let reader_task = tokio::spawn(receive_delayed(reader, sender, latency)).abort_handle();
        tokio::spawn(async move {
            send_delayed(receiver, &mut to_near).await;
            let _ = to_near.shutdown().await;
        });
        let (sender, receiver) = mpsc::channel(IN_TRANSIT);
        tokio::spawn(receive_delayed(from_near, sender, latency));
        tokio::spawn(async move {
            send_delayed(receiver, &mut writer).await;
            if is_reset.load(Ordering::Acquire) {
                S::reset(writer);
            } else {
                let _ = writer.shutdown().await;
            }
        });
        Self {
            near,
            reset,
            reader_task,
        }
    }
}

/// Reads chunks until the end of the stream. Sends each chunk to the writing task, together with
/// the time at which the chunk must arrive.
async fn receive_delayed<R>(
    mut reader: R,
    sender: mpsc::Sender<(Instant, Vec<u8>)>,
    latency: Duration,
) where
    R: AsyncRead + Unpin,
{
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let length = reader.read_buf(&mut chunk).await.unwrap_or(0);
        // An empty chunk marks the end of the stream, so that the end is delayed like the bytes
        // before it.
        if sender
            .send((Instant::now() + latency, chunk))
            .await
            .is_err()
            || length == 0
        {
            return;
        }
    }
}

/// Writes each chunk at its time of arrival, until the end of the stream.
async fn send_delayed<W>(mut receiver: mpsc::Receiver<(Instant, Vec<u8>)>, writer: &mut W)
where
    W: AsyncWrite + Unpin,
{
    while let Some((arrival, chunk)) = receiver.recv().await {
        sleep_until(arrival).await;
        if chunk.is_empty() || writer.write_all(&chunk).await.is_err() {
            return;
        }
    }
}

impl SinkStream for DelayedStream {
    fn reset_at_drop(&self) {
        self.reset.store(true, Ordering::Release);
    }
}

impl Drop for DelayedStream {
    fn drop(&mut self) {
        self.reader_task.abort();
    }
}

impl AsyncRead for DelayedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_read(context, buffer)
    }
}

impl AsyncWrite for DelayedStream {
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
