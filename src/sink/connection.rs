//! One connection: the bytes of a socket through a [`Conversation`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;

use super::conversation::{Conversation, LINE_LIMIT, Shared, Step};
use super::fault::Close;
use super::record::{Count, Wire, lock};
use super::settings::Encryption;

/// How much one read may bring: a whole flight of a client that pipelines.
const READ_SIZE: usize = 128 * 1024;

/// How long an orderly close waits for the client's end. Closing with bytes unread would make a
/// reset of it, and the client might lose the last reply.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// A stream that can be cut off.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Makes the drop of this stream a reset, where the transport knows resets.
    fn reset_at_drop(&self);
}

impl Transport for TcpStream {
    fn reset_at_drop(&self) {
        // It fails only on a socket that is gone already.
        let _ = self.set_zero_linger();
    }
}

#[cfg(unix)]
impl Transport for tokio::net::UnixStream {
    fn reset_at_drop(&self) {}
}

impl<T: Transport> Transport for TlsStream<T> {
    fn reset_at_drop(&self) {
        self.get_ref().0.reset_at_drop();
    }
}

/// Why a conversation stopped.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Closed,
    StartTls,
}

/// Serves a connection to its end.
///
/// # Errors
///
/// Those of the socket and of the handshake; they end this connection and nothing else.
pub async fn serve<T: Transport>(mut stream: T, shared: Arc<Shared>) -> io::Result<()> {
    let tls = shared.tls.clone();
    if let Some(tls) = tls
        .as_ref()
        .filter(|tls| tls.encryption == Encryption::Implicit)
    {
        let mut secured = tls.acceptor.accept(stream).await?;
        let mut connection = Connection::new(shared, true);
        connection.conversation.tally().one(Count::TlsHandshakes);
        return connection.converse(&mut secured).await.map(|_| ());
    }
    let mut connection = Connection::new(shared, false);
    if connection.converse(&mut stream).await? == Ending::StartTls
        && let Some(tls) = tls
    {
        let mut secured = tls.acceptor.accept(stream).await?;
        connection.conversation.secured();
        // Clear text behind the STARTTLS command is dropped (RFC 3207 4.2 against injection).
        connection.input.clear();
        connection.converse(&mut secured).await?;
    }
    Ok(())
}

struct Connection {
    conversation: Conversation,
    wire: Option<Wire>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Connection {
    fn new(shared: Arc<Shared>, tls: bool) -> Self {
        Self {
            wire: shared.wire.then(|| shared.record.wire()),
            conversation: Conversation::new(shared, tls),
            input: Vec::with_capacity(READ_SIZE + LINE_LIMIT),
            output: Vec::new(),
        }
    }

    async fn converse<T: Transport>(&mut self, stream: &mut T) -> io::Result<Ending> {
        loop {
            let (used, step) = self.conversation.receive(&self.input, &mut self.output);
            self.input.drain(..used);
            self.answer(stream).await?;
            match step {
                Step::Read if !self.read(stream).await? => return Ok(Ending::Closed),
                Step::Read => {}
                Step::Pause(delay) => sleep(delay).await,
                Step::StartTls => return Ok(Ending::StartTls),
                Step::Close(close) => {
                    end(stream, close).await;
                    return Ok(Ending::Closed);
                }
            }
        }
    }

    /// Writes what is due, all of it at once.
    async fn answer<T: Transport>(&mut self, stream: &mut T) -> io::Result<()> {
        if self.output.is_empty() {
            self.conversation.publish();
            return Ok(());
        }
        self.conversation.tally().one(Count::Writes);
        self.conversation.publish();
        stream.write_all(&self.output).await?;
        stream.flush().await?;
        self.output.clear();
        Ok(())
    }

    /// Whether something came.
    async fn read<T: Transport>(&mut self, stream: &mut T) -> io::Result<bool> {
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

async fn end<T: Transport>(stream: &mut T, close: Close) {
    if close == Close::Reset {
        stream.reset_at_drop();
        return;
    }
    // A client that is gone already is as good as one that goes now.
    let _ = stream.shutdown().await;
    let _ = timeout(DRAIN_TIME, tokio::io::copy(stream, &mut tokio::io::sink())).await;
}
