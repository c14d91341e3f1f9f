//! Panics in the task of a connection. A panic is a bug, but each message of the connection still
//! gets its outcome.

use std::any::Any;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use super::super::failure::ConnectionFailure;
use super::super::pool::{ConnectionEnd, ConnectionUse};
use super::{Connection, trace};
use crate::outcome::{MessageOutcome, RecipientOutcome};
use crate::session::Event;

impl Connection<'_> {
    /// Returns all messages to the pool after a panic. The session counts the bytes that it passed
    /// to the transport. If the session still works, this count shows which terminators the relay
    /// may have received. The outcome of a message with such a terminator is unknown. The other
    /// messages are sent again. If the session does not work, the outcome of every message is
    /// unknown.
    pub(super) fn end_after_panic(mut self, panic: &str) {
        let failure = ConnectionFailure::internal(panic);
        // The panic may have left the session in any state, so the session's methods may panic,
        // too.
        let outcomes = catch_unwind(AssertUnwindSafe(|| {
            self.connection_lost(&failure.text);
            let events = iter::from_fn(|| self.session.next_event());
            let outcomes = events.filter_map(|event| match event {
                Event::Finished(outcome) => Some(outcome),
                _ => None,
            });
            outcomes.collect::<VecDeque<_>>()
        }));
        let session_works = outcomes.is_ok();
        let mut outcomes = outcomes.unwrap_or_default();
        let now = self.pool.clock.now();
        for job in std::mem::take(&mut self.in_flight) {
            let outcome = match outcomes.pop_front() {
                Some(outcome) => outcome,
                // The session has no outcome for the message, so no byte of the message was
                // written.
                None if session_works => {
                    self.pool.put_back(job);
                    continue;
                }
                None => MessageOutcome::same(RecipientOutcome::unknown(&failure.text)),
            };
            let connection = ConnectionUse {
                used: true,
                proven: self.proven,
            };
            self.pool.settle(job, outcome, connection, now);
        }
        self.leave_pool();
        trace(self.pool, self.number, [failure.text.clone()]);
        if self.ready {
            self.pool.connection_closed(&ConnectionEnd {
                opened: self.pool.clock.at(self.connected_at),
                started: true,
                messages: self.carried,
                proven: self.proven,
                failure: Some(&failure),
                full: false,
                surplus: self.surplus,
                clean: false,
                exhausted: false,
            });
        } else {
            self.pool.connection_failed(&failure);
        }
    }
}

/// Runs a future. If the future panics, returns the text of the panic as an error. Without this
/// function, the panic would end the engine thread and all its connections.
pub(super) async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let mut work = pin!(work);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        match polled {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(text_of(panic.as_ref()))),
        }
    })
    .await
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a text").to_owned()
}
