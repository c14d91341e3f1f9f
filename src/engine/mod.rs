//! The engine: connections to a relay, many at once, on one thread.
//!
//! ```text
//!     outside         Engine ── door: messages in, outcomes out, in batches
//!                                 │
//!     the thread      pool: what waits, what is believed (governor), who connects
//!                      ├── connection: a session's octets through a transport
//!                      └── …
//! ```
//!
//! - [`door`] is all that the thread shares with others; [`settings`] what it was told.
//! - [`composer`] writes what comes in as a draft, on threads of its own.
//! - [`list`] reads the recipients of a merge from their file.
//! - [`lookout`] keeps the thread from a rest that would cost more than the reply it waits for.
//! - [`job`] is one message's way to its outcome; [`governor`] what the relay is believed to take.
//! - [`socket`] is what the kernel gives, TCP or unix; [`connect`] finds the way to the relay.
//! - [`tls`] holds what TLS needs; [`transport`] carries octets over either, and knows exactly how
//!   many of them have left.
//!
//! One thread is enough: most of what a message costs is the kernel's, and nothing on the thread
//! needs a lock.

pub mod composer;
pub mod connect;
mod connection;
pub mod door;
pub mod governor;
pub mod job;
pub mod list;
mod lookout;
mod pool;
#[cfg(test)]
mod rehearsal;
pub mod settings;
pub mod socket;
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

use self::composer::Composers;
use self::door::{Closing, Door};
use self::pool::Pool;
use self::settings::Settings;

/// How long those in flight are waited for at least when what waits is given up.
const LEAST_GRACE: Duration = Duration::from_millis(200);

/// A running engine.
pub struct Engine {
    door: Arc<Door>,
    composers: Composers,
    process: u32,
}

impl Engine {
    /// Starts the thread; connections are made when there is something to send.
    ///
    /// # Errors
    ///
    /// Those of the runtime and of the thread.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let door = Arc::new(Door::new(settings.queue_size, settings.queue_bytes));
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let inside = Arc::clone(&door);
        thread::Builder::new()
            .name("rapidsmtp".to_owned())
            .spawn(move || {
                let ending = Ending(Arc::clone(&inside));
                let pool = Rc::new(Pool::new(settings, inside));
                LocalSet::new().block_on(&runtime, pool.run());
                // A name that is being resolved is not waited for.
                runtime.shutdown_background();
                drop(ending);
            })?;
        Ok(Self {
            door,
            composers: Composers::default(),
            process: std::process::id(),
        })
    }

    /// Where messages go in and outcomes come out.
    #[must_use]
    pub fn door(&self) -> &Arc<Door> {
        &self.door
    }

    /// Makes sure that drafts are written.
    ///
    /// # Errors
    ///
    /// There is no thread to be had.
    pub fn compose(&self) -> io::Result<()> {
        self.composers.start(&self.door)
    }

    /// Says that all has to end, if it has not.
    ///
    /// With a `limit`, what waits is given up after that time, or at once if it is not to be
    /// `drained`, and what is in flight a little later, or after that time.
    pub fn close(&self, limit: Option<Duration>, drained: bool) {
        let now = Instant::now();
        self.door.close(match limit {
            None => Closing::WhenDone,
            Some(limit) if drained => Closing::At {
                give_up: now + limit,
                cut: now + limit + LEAST_GRACE,
            },
            Some(limit) => Closing::At {
                give_up: now,
                cut: now + limit.max(LEAST_GRACE),
            },
        });
    }

    /// Whether this process is the one that started the thread; after a fork there is none.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.process == std::process::id()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.is_here() {
            self.close(Some(Duration::ZERO), false);
        }
    }
}

/// Tells the door about the end of the thread, also where it panicked.
struct Ending(Arc<Door>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.ended();
    }
}
