//! The engine: one thread that sends messages to one relay over several connections.
//!
//! ```text
//!     callers         Engine ── queue: messages in, outcomes out, in batches
//!                       │         ▲
//!     render workers    │         └── render: renders pending messages
//!                       │
//!     engine thread   pool: waiting messages, learned limits, number of connections
//!                       ├── connection: moves the bytes of a session through a transport
//!                       └── …
//! ```
//!
//! - [`queue`] is the only data that the engine thread shares with other threads. [`settings`]
//!   holds the settings of the engine.
//! - [`render`] renders pending messages on other threads.
//! - [`job`] is one message until its final outcome. [`clock`] is the clock of the pool.
//! - [`progress`] records in a file which rows of a campaign may have been sent.
//! - [`busy_poll`] polls the sockets for a short time before the thread blocks.
//! - [`socket`] is a TCP or Unix socket. [`connect`] connects a socket to the relay.
//! - [`tls`] is the TLS configuration. [`transport`] sends and receives bytes with or without TLS,
//!   and counts exactly the bytes sent.
//!
//! One thread is enough, because the kernel does most of the work for a message. With one thread,
//! the data inside the engine needs no lock.

mod busy_poll;
pub mod clock;
pub mod connect;
mod connection;
mod failure;
pub mod job;
mod pool;
pub mod progress;
pub mod queue;
pub mod render;
pub mod settings;
pub mod socket;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod transport;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::task::LocalSet;

use self::pool::Pool;
use self::queue::{Closing, EngineQueue};
use self::render::RenderWorkers;
use self::settings::EngineSettings;

/// The minimum time that a closed engine waits for the replies to messages in flight. The outcome
/// of a message is unknown if its reply does not arrive in this time.
const MIN_GRACE: Duration = Duration::from_millis(200);

/// A running engine.
pub struct Engine {
    queue: Arc<EngineQueue>,
    render_workers: RenderWorkers,
    process: u32,
}

impl Engine {
    /// Starts the engine thread. The thread opens connections when there is a message to send.
    ///
    /// # Errors
    ///
    /// An `io::Error` if the runtime or the thread cannot be started.
    pub fn start(settings: EngineSettings) -> io::Result<Self> {
        let queue = Arc::new(EngineQueue::new(settings.queue_size, settings.queue_bytes));
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let shared = Arc::clone(&queue);
        thread::Builder::new()
            .name("rapidsmtp".to_owned())
            .spawn(move || {
                let end = EndGuard(Arc::clone(&shared));
                let pool = Rc::new(Pool::new(settings, shared));
                LocalSet::new().block_on(&runtime, pool.run());
                // This call does not wait for a name resolution in progress, because a name
                // resolution cannot be cancelled.
                runtime.shutdown_background();
                drop(end);
            })?;
        Ok(Self {
            queue,
            render_workers: RenderWorkers::default(),
            process: std::process::id(),
        })
    }

    /// The queue, for messages and outcomes.
    #[must_use]
    pub fn queue(&self) -> &Arc<EngineQueue> {
        &self.queue
    }

    /// Starts the render workers, if they are not running.
    ///
    /// # Errors
    ///
    /// An `io::Error` if no thread can be started.
    pub fn start_rendering(&self) -> io::Result<()> {
        self.render_workers.start(&self.queue)
    }

    /// Asks the engine to end. May be called several times. The earliest of the requested times
    /// apply.
    ///
    /// Without a `limit`, the engine ends when every message has its outcome.
    ///
    /// With a `limit` and `drained`, the engine continues to send for the time `limit`. Then it
    /// gives up the messages that are not in flight. After a further `MIN_GRACE`, it cuts off the
    /// messages in flight.
    ///
    /// With a `limit` and without `drained`, the engine immediately gives up the messages that are
    /// not in flight. It cuts off the messages in flight after the time `limit`, or after
    /// `MIN_GRACE` if that is longer.
    pub fn close(&self, limit: Option<Duration>, drained: bool) {
        let now = Instant::now();
        self.queue.close(match limit {
            None => Closing::WhenDone,
            Some(limit) if drained => Closing::At {
                give_up: now + limit,
                cut: now + limit + MIN_GRACE,
            },
            Some(limit) => Closing::At {
                give_up: now,
                cut: now + limit.max(MIN_GRACE),
            },
        });
    }

    /// Whether the engine thread belongs to this process. The child of a fork inherits this object,
    /// but not the thread.
    #[must_use]
    pub fn is_in_this_process(&self) -> bool {
        self.process == std::process::id()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.is_in_this_process() {
            self.close(Some(Duration::ZERO), false);
        }
    }
}

/// Reports the end of the engine thread to the queue, also after a panic.
struct EndGuard(Arc<EngineQueue>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.end();
    }
}
