//! The function that serves one connection: it moves bytes between the socket and the
//! [`Conversation`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;

use super::conversation::{Conversation, LINE_LIMIT, SharedState, SinkStep};
use super::fault::CloseKind;
use super::record::{Count, WireLog, lock};
use super::settings::Encryption;

/// The maximum size of one read, in bytes. It is large enough for a whole flight of a pipelining
/// client.
const READ_SIZE: usize = 128 * 1024;

/// The maximum time that an orderly close waits until the client closes its side. During this time
/// the sink reads and discards the client's bytes. If the sink closed the socket with unread bytes,
/// the kernel would send a reset, and the client could lose the last reply.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// A stream whose connection the sink can reset.
pub trait SinkStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Prepares the stream so that dropping it sends a reset to the client. Does nothing for a
    /// socket that has no resets, for example a Unix socket.
    fn reset_at_drop(&self);
}

impl SinkStream for TcpStream {
    fn reset_at_drop(&self) {
        // An error means that the socket is closed already, so no reset is necessary.
        let _ = self.set_zero_linger();
    }
}

#[cfg(unix)]
impl SinkStream for tokio::net::UnixStream {
    fn reset_at_drop(&self) {}
}

impl<T: SinkStream> SinkStream for TlsStream<T> {
    fn reset_at_drop(&self) {
        self.get_ref().0.reset_at_drop();
    }
}

/// The reason why [`SinkConnection::converse`] returned.
#[derive(Debug, PartialEq, Eq)]
enum ConversationEnd {
    Closed,
    StartTls,
}

/// Serves a connection until it is closed.
///
/// # Errors
///
/// If the socket or the TLS handshake fails. The error ends only this connection. The sink
/// continues to serve its other connections.
pub async fn serve<T: SinkStream>(mut stream: T, shared: Arc<SharedState>) -> io::Result<()> {
    let tls = shared.tls.clone();
    if let Some(tls) = tls
        .as_ref()
        .filter(|tls| tls.encryption == Encryption::Implicit)
    {
        let mut secured = tls.acceptor.accept(stream).await?;
        let mut connection = SinkConnection::new(shared, true);
        connection.conversation.tally().one(Count::TlsHandshakes);
        return connection.converse(&mut secured).await.map(|_| ());
    }
    let mut connection = SinkConnection::new(shared, false);
    if connection.converse(&mut stream).await? == ConversationEnd::StartTls
        && let Some(tls) = tls
    {
        let mut secured = tls.acceptor.accept(stream).await?;
        connection.conversation.start_tls();
        // RFC 3207 4.2: discard the bytes that arrived in clear text after STARTTLS. An attacker
        // may have injected them.
        connection.input.clear();
        connection.converse(&mut secured).await?;
    }
    Ok(())
}

struct SinkConnection {
    conversation: Conversation,
    wire: Option<WireLog>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl SinkConnection {
    fn new(shared: Arc<SharedState>, tls: bool) -> Self {
        Self {
            wire: shared.wire.then(|| shared.record.open_wire_log()),
            conversation: Conversation::new(shared, tls),
            input: Vec::with_capacity(READ_SIZE + LINE_LIMIT),
            output: Vec::new(),
        }
    }

    async fn converse<T: SinkStream>(&mut self, stream: &mut T) -> io::Result<ConversationEnd> {
        loop {
            let (used, step) = self.conversation.receive(&self.input, &mut self.output);
            self.input.drain(..used);
            self.write_replies(stream).await?;
            match step {
                SinkStep::Read if !self.read(stream).await? => return Ok(ConversationEnd::Closed),
                SinkStep::Read => {}
                SinkStep::Pause(delay) => sleep(delay).await,
                SinkStep::StartTls => return Ok(ConversationEnd::StartTls),
                SinkStep::Close(close) => {
                    close_stream(stream, close).await;
                    return Ok(ConversationEnd::Closed);
                }
            }
        }
    }

    /// Writes all pending replies in one write.
    async fn write_replies<T: SinkStream>(&mut self, stream: &mut T) -> io::Result<()> {
        if self.output.is_empty() {
            self.conversation.publish_tally();
            return Ok(());
        }
        self.conversation.tally().one(Count::Writes);
        self.conversation.publish_tally();
        stream.write_all(&self.output).await?;
        stream.flush().await?;
        self.output.clear();
        Ok(())
    }

    /// Reads once. Returns false at the end of the stream.
    async fn read<T: SinkStream>(&mut self, stream: &mut T) -> io::Result<bool> {
        let before = self.input.len();
        let length = stream.read_buf(&mut self.input).await?;
        if length == 0 {
            return Ok(false);
        }
        let tally = self.conversation.tally();
        tally.one(Count::Flights);
        tally.add(Count::Bytes, length as u64);
        if let Some(wire) = &self.wire {
            lock(wire).extend_from_slice(&self.input[before..]);
        }
        Ok(true)
    }
}

async fn close_stream<T: SinkStream>(stream: &mut T, close: CloseKind) {
    if close == CloseKind::Reset {
        stream.reset_at_drop();
        return;
    }
    // An error means that the client has already closed the connection, so the sink need not close
    // it.
    let _ = stream.shutdown().await;
    let _ = timeout(DRAIN_TIME, tokio::io::copy(stream, &mut tokio::io::sink())).await;
}
