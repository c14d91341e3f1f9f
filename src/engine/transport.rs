//! The transport: sends and receives bytes over TCP, a Unix socket or TLS, with exact counts of the
//! bytes sent.
//!
//! If the terminator of a message may have reached the relay, the relay may have accepted the
//! message. So after a lost connection, the engine needs the number of bytes handed to the kernel.
//! There are three counts of plaintext bytes since the start of the connection. Each count is at
//! least as large as the next one:
//!
//! - [`Transport::accepted`]: the bytes that [`Transport::poll_send`] accepted from the caller.
//! - [`Transport::possible`]: the accepted bytes, except those in TLS records of which the kernel
//!   has received no byte.
//! - [`Transport::settled`]: the bytes that the relay can read. Without TLS, these are the bytes
//!   handed to the kernel. With TLS, these are the bytes in records that were handed to the kernel
//!   completely. A record can be decrypted only as a whole, because its authentication tag is at
//!   its end (RFC 8446 5.2). So the relay cannot have read any byte beyond this count.
//!
//! Without TLS, the three counts are equal. After an error, the counts remain valid, but the caller
//! must drop the transport.
//!
//! Reading and writing are independent. One task calls all poll methods, in any order. A method
//! that returns `Pending` has registered this task with the socket, so the runtime wakes the task
//! later.

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

/// The maximum number of bytes that one call of `read_available` returns. The only expected data on
/// an idle connection is a 421 reply. A 421 is far smaller than this size, and any other data ends
/// the connection.
const AVAILABLE_SIZE: usize = 4096;

/// The result of [`Transport::read_available`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Available {
    /// No data. The connection is open.
    Nothing,
    /// The bytes that have arrived.
    Data(Vec<u8>),
    /// The end of the stream, or an error.
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
    /// Creates a transport without TLS.
    #[must_use]
    pub fn new(socket: Socket) -> Self {
        Self {
            layer: Layer::Plain { socket, sent: 0 },
        }
    }

    /// Performs a TLS handshake: at once for implicit TLS, or after the reply to STARTTLS. RFC 3207
    /// 6: the caller must refuse bytes that arrived between that reply and the handshake, because
    /// an attacker may have injected them.
    ///
    /// The counts of bytes continue from their values before the handshake and do not include the
    /// handshake. The handshake has no time limit. If the caller drops the future, the connection
    /// is closed.
    ///
    /// # Errors
    ///
    /// [`TlsError::Untrusted`] for a certificate that is not trusted, or another [`TlsError`].
    pub async fn secure(self, client: &TlsClient, host: &str) -> Result<Self, TlsError> {
        let Layer::Plain { socket, sent } = self.layer else {
            return Err(TlsError::failed(host, "TLS is in use already"));
        };
        let name = client.server_name(host)?;
        let connector = TlsConnector::from(client.config()?);
        let stream = connector
            .connect(name.clone(), socket)
            .await
            .map_err(|error| TlsError::of_handshake(host, &name.to_str(), &error))?;
        let (socket, connection) = stream.into_inner();
        Ok(Self {
            layer: Layer::Secured(Box::new(Secured::new(socket, connection, sent, host))),
        })
    }

    /// Reads bytes into `buffer`, which must not be empty. The result 0 means the end of the
    /// stream. The end of a TLS stream without close_notify also gives 0. RFC 8446 6.1 requires
    /// close_notify, so that a truncated stream is detected. Here, the syntax of a reply shows
    /// whether the reply is complete.
    ///
    /// # Errors
    ///
    /// An error of the socket; `InvalidData` that contains a [`TlsError`] for an error of TLS.
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

    /// Accepts bytes from the front of `slices` and returns their number. The number is 0 only if
    /// `slices` contains no byte. Without TLS, the accepted bytes are those of one vectored write.
    /// With TLS, one call accepts up to about 64 KiB, and a part of these bytes may stay in a queue
    /// until [`Self::poll_flush`].
    ///
    /// # Errors
    ///
    /// An error of the socket or of TLS. The counts include the bytes sent before the error.
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

    /// Hands all accepted bytes to the kernel. Without TLS, no bytes are queued, so the result is
    /// always `Ready`.
    ///
    /// # Errors
    ///
    /// An error of the socket.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.layer {
            Layer::Plain { .. } => Poll::Ready(Ok(())),
            Layer::Secured(secured) => secured.poll_flush(context),
        }
    }

    /// Returns the number of bytes accepted from the caller.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        match &self.layer {
            Layer::Plain { sent, .. } => *sent,
            Layer::Secured(secured) => secured.accepted(),
        }
    }

    /// Returns the number of bytes in TLS records that the kernel has received completely or
    /// partly.
    #[must_use]
    pub fn possible(&self) -> u64 {
        match &self.layer {
            Layer::Plain { sent, .. } => *sent,
            Layer::Secured(secured) => secured.possible(),
        }
    }

    /// Returns the number of bytes that the relay can read. If this count does not include the
    /// terminator of a message, the relay cannot have accepted the message.
    #[must_use]
    pub fn settled(&self) -> u64 {
        match &self.layer {
            Layer::Plain { sent, .. } => *sent,
            Layer::Secured(secured) => secured.settled(),
        }
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_secured(&self) -> bool {
        matches!(self.layer, Layer::Secured(_))
    }

    /// Whether TLS resumed an earlier session.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        matches!(&self.layer, Layer::Secured(secured) if secured.is_resumed())
    }

    /// Returns the relay's certificate in DER, for the channel binding `tls-server-end-point` (RFC
    /// 5929).
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        match &self.layer {
            Layer::Plain { .. } => None,
            Layer::Secured(secured) => secured.peer_certificate(),
        }
    }

    /// Whether the connection uses TLS 1.3.
    #[must_use]
    pub fn is_tls13(&self) -> bool {
        matches!(&self.layer, Layer::Secured(secured) if secured.is_tls13())
    }

    /// Returns bytes that only the two ends of this TLS session can compute (RFC 5705, RFC 8446
    /// 7.5), for the channel binding `tls-exporter` (RFC 9266). RFC 9266: the context value is
    /// empty.
    #[must_use]
    pub fn export_keying_material(&self, label: &[u8], length: usize) -> Option<Vec<u8>> {
        match &self.layer {
            Layer::Plain { .. } => None,
            Layer::Secured(secured) => secured.export_keying_material(label, length),
        }
    }

    /// Makes the kernel acknowledge the next segment without delay (TCP on Linux). This call is
    /// fast enough to be made before each read that waits.
    pub fn quick_ack(&self) {
        self.socket().quick_ack();
    }

    /// Reads the bytes that have arrived, without waiting. TLS messages without data (tickets, key
    /// updates) are processed, but not returned.
    pub fn read_available(&mut self) -> Available {
        match &mut self.layer {
            Layer::Secured(secured) => secured.read_available(),
            Layer::Plain { socket, .. } => {
                let mut buffer = [0; AVAILABLE_SIZE];
                match socket.read_now(&mut buffer) {
                    Ok(0) => Available::Closed,
                    Ok(count) => Available::Data(buffer[..count].to_vec()),
                    Err(error) if is_temporary(&error) => Available::Nothing,
                    Err(_) => Available::Closed,
                }
            }
        }
    }

    /// Returns the descriptor of the socket, on systems that have descriptors.
    #[must_use]
    pub fn descriptor(&self) -> Option<i32> {
        self.socket().descriptor()
    }

    /// Closes the connection without waiting. With TLS, close_notify is sent only if the kernel
    /// accepts it at once. Accepted bytes that the kernel does not have are discarded. Before this
    /// call, the caller must read all bytes that have arrived. Otherwise the close resets the
    /// connection, and the relay may lose bytes that the client has sent (RFC 1122 4.2.2.13).
    pub fn shutdown(self) {
        match self.layer {
            Layer::Plain { socket, .. } => socket.shutdown_write(),
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
