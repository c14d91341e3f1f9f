//! A panic in a connection's task: each message that it held has its outcome all the same.

use std::any::Any;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use super::super::pool::Failure;
use super::{Connection, trace};
use crate::session::{Event, Fate, Word};

impl Connection<'_> {
    /// A fault of our own threw it off. What it held is unknown where its terminator may have gone
    /// out, as the session says, if it still can; the rest goes back.
    pub(super) fn abandon(mut self, fault: &str) {
        let failure = Failure::internal(fault);
        let asked = catch_unwind(AssertUnwindSafe(|| {
            self.lose(&failure.text);
            let events = iter::from_fn(|| self.session.next_event());
            let fates = events.filter_map(|event| match event {
                Event::Settled(fate) => Some(fate),
                _ => None,
            });
            fates.collect::<VecDeque<_>>()
        }));
        let answered = asked.is_ok();
        let mut fates = asked.unwrap_or_default();
        let now = Instant::now();
        for job in std::mem::take(&mut self.jobs) {
            match fates.pop_front() {
                Some(fate) => {
                    self.pool.settle(job, fate, true, now);
                }
                // The session had not heard of it.
                None if answered => self.pool.put_back(job),
                None => {
                    let words =
                        vec![Word::Unknown(failure.text.as_str().into()); job.paths().len()];
                    self.pool
                        .settle(job, Fate::Words { words, reply: None }, true, now);
                }
            }
        }
        self.leave_the_pool();
        trace(self.pool, self.number, [failure.text.clone()]);
        if self.opened {
            let failure = Some(&failure);
            self.pool.closed(self.decided, failure, false, false);
        } else {
            self.pool.failed(&failure);
        }
    }
}

/// What the work brings, or the words of its panic, which goes no further.
pub(super) async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let mut work = pin!(work);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        match polled {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic_words(panic.as_ref()))),
        }
    })
    .await
}

fn panic_words(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().copied();
    let words = words.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    words.unwrap_or("a panic without words").to_owned()
}
