//! The start of a connection: TCP and TLS. The start is cancelled when the connection is no longer
//! needed.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::super::connect::{ConnectErrorKind, connect};
use super::super::failure::{ConnectionFailure, FailureKind};
use super::super::pool::Pool;
use super::super::tls::TlsError;
use super::super::transport::Transport;
use super::trace;

/// Connects to the relay. With implicit TLS (RFC 8314 3.3), this includes the TLS handshake.
/// Returns `None` if the connection is no longer needed.
pub(super) async fn open(pool: &Pool, number: u64) -> Result<Option<Transport>, ConnectionFailure> {
    let settings = &pool.settings;
    #[cfg(test)]
    super::super::test_support::panic_at(settings, "open");
    let connecting = connect(&settings.target, &settings.connect);
    let Some(connected) = unless_done(pool, Duration::ZERO, connecting).await else {
        return Ok(None);
    };
    let socket = connected.map_err(|error| {
        let kind = match error.kind() {
            // The next attempt would use the same login. A proxy may lock an account after several
            // wrong passwords.
            ConnectErrorKind::ProxyLogin => FailureKind::Permanent,
            _ => FailureKind::Unreachable,
        };
        ConnectionFailure::without_reply(error.to_string(), kind)
    })?;
    let mut line = format!("connected to {}", settings.target);
    if let Some(proxy) = &settings.connect.proxy {
        line = format!("{line} through the proxy {proxy}");
    }
    trace(pool, number, [line]);
    let transport = Transport::new(socket);
    if settings.implicit_tls {
        secure(pool, transport).await
    } else {
        Ok(Some(transport))
    }
}

/// Runs a future while a message needs the connection, and for the time `grace` after that. Returns
/// `None` if the future has not finished by then.
pub(super) async fn unless_done<T>(
    pool: &Pool,
    grace: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    let mut done = pin!(async {
        while !pool.is_done() {
            pool.work.notified().await;
        }
        sleep(grace).await;
    });
    // `work` is polled before `done`. If both are ready, the result of `work` is returned, so that
    // a finished connection is never discarded.
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => done.as_mut().poll(context).map(|()| None),
    })
    .await
}

/// Performs a TLS handshake. Returns `None` if the connection is no longer needed. RFC 5321
/// 4.1.1.10: a client sends QUIT before it closes a connection. QUIT cannot be sent during a
/// handshake. So when the connection is no longer needed, the handshake gets more time to finish:
/// the time limit of QUIT.
pub(super) async fn secure(
    pool: &Pool,
    transport: Transport,
) -> Result<Option<Transport>, ConnectionFailure> {
    let settings = &pool.settings;
    let secured = transport.secure(&settings.tls, &settings.host);
    let limit = settings.timeouts.tls;
    let limited = timeout(limit, secured);
    let Some(ended) = unless_done(pool, settings.timeouts.quit, limited).await else {
        return Ok(None);
    };
    match ended {
        Ok(Ok(transport)) => Ok(Some(transport)),
        Ok(Err(error)) => {
            let kind = match error {
                TlsError::Failed { .. } => FailureKind::Temporary,
                // The next attempt would also fail, because it would use the same certificate and
                // the same settings.
                TlsError::Untrusted { .. } | TlsError::Settings(_) => FailureKind::Permanent,
            };
            Err(ConnectionFailure::without_reply(error.to_string(), kind))
        }
        Err(_) => {
            let (relay, seconds) = (&settings.target, limit.as_secs_f64());
            let text = format!("TLS with {relay} failed: timed out after {seconds} s");
            let kind = FailureKind::Temporary;
            Err(ConnectionFailure::without_reply(text, kind))
        }
    }
}
