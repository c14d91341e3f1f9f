//! The connection through a proxy: moves the bytes of a [`ProxyDialogue`] through the socket.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::proxy::{Proxy, ProxyDialogue, ProxyError};

/// The maximum number of bytes in one read. The longest part of a SOCKS5 answer is shorter.
const READ_SIZE: usize = 512;

/// Requests a connection to `host` and `port` from the proxy. After this call, the next byte of
/// `stream` comes from the relay.
pub(super) async fn negotiate(
    stream: &mut TcpStream,
    proxy: &Proxy,
    host: &str,
    port: u16,
) -> Result<(), ProxyError> {
    let mut dialogue = ProxyDialogue::new(proxy, host, port);
    let mut buffer = [0; READ_SIZE];
    loop {
        // A proxy may send its answer and close the connection while the client writes. So a failed
        // write is not reported: the answer, or the end of the stream, is read next.
        let _ = stream.write_all(&dialogue.data_to_send()).await;
        let wanted = dialogue.wanted().min(READ_SIZE);
        if wanted == 0 {
            return Ok(());
        }
        match stream.read(&mut buffer[..wanted]).await {
            Ok(count) if count > 0 => dialogue.receive_data(&buffer[..count])?,
            // The end of the stream, or a reset by the proxy.
            _ => return Err(ProxyError::closed()),
        }
    }
}
