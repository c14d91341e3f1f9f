//! Octets to the relay and back, over TCP, a unix socket or TLS, and the truth about what has left.
//!
//! A message whose terminator may have reached the relay may have been accepted by it, so when a
//! connection is lost the engine must know what it handed to the kernel. Three counts of plaintext
//! octets tell, each over the whole life of the connection and each at least as large as the one
//! after it:
//!
//! - [`Transport::accepted`]: taken from the caller by [`Transport::poll_send`].
//! - [`Transport::possible`]: the same, less what lies in TLS records of which no octet was handed
//!   to the kernel.
//! - [`Transport::settled`]: octets of the stream that were handed to the kernel, all of them; in
//!   TLS those of records whose last octet was handed over. A record opens only as a whole (its
//!   authentication tag stands at its end), so no octet behind this count can have been understood
//!   by the relay.
//!
//! In clear the three are one. After an error all of them stay true; the connection is then dropped.
//!
//! Reading and writing go on at the same time: all methods are polled from one task, in any order,
//! and each registers that task for what it waits for.

mod adapter;
mod secured;
#[cfg(test)]
mod tests;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;

use self::secured::Secured;
use super::socket::Socket;
use super::tls::{TlsClient, TlsError};

/// How much a look takes at most: a 421 is far smaller, and whatever else comes ends the
/// connection.
const LOOK_SIZE: usize = 4096;

/// What a connection that nobody reads has in store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing: it is as it was left.
    Quiet,
    /// These octets came unasked.
    Data(Vec<u8>),
    /// It is at its end, or broken.
    Closed,
}

/// One connection to a relay.
#[derive(Debug)]
pub struct Transport {
    layer: Layer,
}

#[derive(Debug)]
enum Layer {
    Plain { socket: Socket, sent: u64 },
    Secured(Box<Secured>),
}

impl Transport {
    /// A connection in clear text.
    #[must_use]
    pub fn new(socket: Socket) -> Self {
        Self {
            layer: Layer::Plain { socket, sent: 0 },
        }
    }

    /// Begins TLS: at once for implicit TLS, or behind the reply to STARTTLS, when the caller must
    /// have made sure that nothing came behind that reply (RFC 3207 section 6).
    ///
    /// The counts go on where they stand; the handshake is not in them. There is no time limit:
    /// dropping the future closes the connection.
    ///
    /// # Errors
    ///
    /// [`TlsError::Untrusted`] where the certificate is not good enough; the others as they say.
    pub async fn secure(self, client: &TlsClient, host: &str) -> Result<Self, TlsError> {
        let Layer::Plain { socket, sent } = self.layer else {
            return Err(TlsError::failed(host, "TLS has begun already"));
        };
        let name = client.server_name(host)?;
        let connector = TlsConnector::from(client.config()?);
        let stream = connector
            .connect(name, socket)
            .await
            .map_err(|error| TlsError::of_handshake(host, &error))?;
        let (socket, connection) = stream.into_inner();
        Ok(Self {
            layer: Layer::Secured(Box::new(Secured::new(socket, connection, sent, host))),
        })
    }

    /// Reads what has come; 0 is the end, also where TLS was ended without its farewell (a reply
    /// tells by itself whether it is whole). `buffer` must not be empty.
    ///
    /// # Errors
    ///
    /// Those of the socket; `InvalidData` with a [`TlsError`] inside where TLS broke.
    pub fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.layer {
            Layer::Plain { socket, .. } => poll_socket(socket, context, buffer),
            Layer::Secured(secured) => secured.poll_read(context, buffer),
        }
    }

    /// Takes octets from the front of `slices` and says how many, at least one where there are any:
    /// in clear what one vectored write handed over, in TLS up to 64 KiB, which may wait here for
    /// [`Self::poll_flush`].
    ///
    /// # Errors
    ///
    /// Those of the socket and of TLS; the counts tell what had left before.
    pub fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        match &mut self.layer {
            Layer::Secured(secured) => secured.poll_send(context, slices),
            Layer::Plain { socket, sent } => {
                let count =
                    std::task::ready!(Pin::new(socket).poll_write_vectored(context, slices))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                *sent += count as u64;
                Poll::Ready(Ok(count))
            }
        }
    }

    /// Ready when all that was accepted is handed to the kernel; in clear always.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.layer {
            Layer::Plain { .. } => Poll::Ready(Ok(())),
            Layer::Secured(secured) => secured.poll_flush(context),
        }
    }

    /// How many octets were taken from the caller.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        match &self.layer {
            Layer::Plain { sent, .. } => *sent,
            Layer::Secured(secured) => secured.accepted(),
        }
    }

    /// How many octets of them may be on their way, be it in a part of their record.
    #[must_use]
    pub fn possible(&self) -> u64 {
        match &self.layer {
            Layer::Plain { sent, .. } => *sent,
            Layer::Secured(secured) => secured.possible(),
        }
    }

    /// How many octets of them were handed to the kernel in such a way that the relay can read
    /// them. This is the count that decides whether a terminator has left.
    #[must_use]
    pub fn settled(&self) -> u64 {
        match &self.layer {
            Layer::Plain { sent, .. } => *sent,
            Layer::Secured(secured) => secured.settled(),
        }
    }

    /// Whether TLS protects it.
    #[must_use]
    pub fn is_secured(&self) -> bool {
        matches!(self.layer, Layer::Secured(_))
    }

    /// Whether TLS took up an earlier session instead of a whole handshake.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        matches!(&self.layer, Layer::Secured(secured) if secured.is_resumed())
    }

    /// The relay's certificate in DER, for the channel binding `tls-server-end-point` (RFC 5929).
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        match &self.layer {
            Layer::Plain { .. } => None,
            Layer::Secured(secured) => secured.peer_certificate(),
        }
    }

    /// Whether TLS 1.3 is spoken.
    #[must_use]
    pub fn is_tls13(&self) -> bool {
        matches!(&self.layer, Layer::Secured(secured) if secured.is_tls13())
    }

    /// Octets that only the two ends of this TLS session know (RFC 5705, RFC 8446 section 7.5), with
    /// an empty context, as the channel binding `tls-exporter` wants them (RFC 9266).
    #[must_use]
    pub fn export_keying_material(&self, label: &[u8], length: usize) -> Option<Vec<u8>> {
        match &self.layer {
            Layer::Plain { .. } => None,
            Layer::Secured(secured) => secured.export_keying_material(label, length),
        }
    }

    /// Asks for an acknowledgement without delay of what comes next (Linux, TCP); cheap enough for
    /// each read that waits.
    pub fn quick_ack(&self) {
        self.socket().quick_ack();
    }

    /// What has come while nobody read, seen without waiting. TLS's own messages (tickets, new
    /// keys) are taken in and are nothing to see.
    pub fn look(&mut self) -> Look {
        match &mut self.layer {
            Layer::Secured(secured) => secured.look(),
            Layer::Plain { socket, .. } => {
                let mut buffer = [0; LOOK_SIZE];
                match socket.read_now(&mut buffer) {
                    Ok(0) => Look::Closed,
                    Ok(count) => Look::Data(buffer[..count].to_vec()),
                    Err(error) if is_temporary(&error) => Look::Quiet,
                    Err(_) => Look::Closed,
                }
            }
        }
    }

    /// The descriptor of the socket, where the system has them.
    #[must_use]
    pub fn descriptor(&self) -> Option<i32> {
        self.socket().descriptor()
    }

    /// Ends it in good order and without waiting: TLS says farewell where the kernel takes it at
    /// once. What was accepted and not handed over does not leave any more. What has come must have
    /// been read before: a socket that is closed with octets unread resets the connection.
    pub fn shutdown(self) {
        match self.layer {
            Layer::Plain { socket, .. } => socket.end(),
            Layer::Secured(secured) => secured.shutdown(),
        }
    }

    fn socket(&self) -> &Socket {
        match &self.layer {
            Layer::Plain { socket, .. } => socket,
            Layer::Secured(secured) => secured.socket(),
        }
    }
}

fn poll_socket(
    socket: &mut Socket,
    context: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(buffer);
    std::task::ready!(Pin::new(socket).poll_read(context, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
