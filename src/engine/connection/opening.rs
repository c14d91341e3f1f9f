//! How a connection begins: TCP, TLS, and the end of both where nobody needs it any more.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::super::connect::connect;
use super::super::pool::{Failure, FailureKind, Pool};
use super::super::tls::TlsError;
use super::super::transport::Transport;
use super::trace;

/// None where it is not needed any more.
pub(super) async fn open(pool: &Pool, number: u64) -> Result<Option<Transport>, Failure> {
    let settings = &pool.settings;
    #[cfg(test)]
    super::super::rehearsal::panic_at(settings, "open");
    let connecting = connect(&settings.target, &settings.connect);
    let Some(connected) = unless_done(pool, Duration::ZERO, connecting).await else {
        return Ok(None);
    };
    let socket = connected.map_err(|error| Failure {
        text: error.to_string(),
        reply: None,
        kind: FailureKind::Unreachable,
    })?;
    trace(pool, number, [format!("connected to {}", settings.target)]);
    let transport = Transport::new(socket);
    if settings.implicit_tls {
        secure(pool, transport).await
    } else {
        Ok(Some(transport))
    }
}

/// What the work brings, unless `grace` has passed since nobody needed it any more.
async fn unless_done<T>(pool: &Pool, grace: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut done = pin!(async {
        while !pool.is_done() {
            pool.work.notified().await;
        }
        sleep(grace).await;
    });
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => done.as_mut().poll(context).map(|()| None),
    })
    .await
}

/// None where it is not needed any more: a handshake cannot be told to end, but it has an answer
/// soon, behind which a goodbye can be said.
pub(super) async fn secure(
    pool: &Pool,
    transport: Transport,
) -> Result<Option<Transport>, Failure> {
    let settings = &pool.settings;
    let secured = transport.secure(&settings.tls, &settings.host);
    let limited = timeout(settings.timeouts.tls, secured);
    let Some(ended) = unless_done(pool, settings.timeouts.quit, limited).await else {
        return Ok(None);
    };
    match ended {
        Ok(Ok(transport)) => Ok(Some(transport)),
        Ok(Err(error)) => Err(Failure {
            text: error.to_string(),
            reply: None,
            kind: match error {
                TlsError::Failed { .. } => FailureKind::Passing,
                TlsError::Untrusted { .. } | TlsError::Settings(_) => FailureKind::ForGood,
            },
        }),
        Err(_) => Err(Failure {
            text: format!("no TLS with {} in time", settings.target),
            reply: None,
            kind: FailureKind::Passing,
        }),
    }
}
