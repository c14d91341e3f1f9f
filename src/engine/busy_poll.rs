//! Busy polling: the engine thread polls its sockets for a short time before it blocks.
//!
//! A relay on the same machine replies within about ten microseconds. Blocking until the reply
//! arrives costs more time than sending the message: the thread leaves its CPU, the CPU may halt,
//! and the relay's write of the reply has to wake the thread. So the thread checks its sockets
//! repeatedly for a short time, and yields the CPU between two checks. All checks during this time
//! are one poll.
//!
//! The reply of a distant relay arrives after the end of a poll, so the poll is unsuccessful. Each
//! unsuccessful poll doubles the number of replies for which the connection blocks before it polls
//! again. So polling costs almost nothing for a distant relay.

use std::cell::Cell;
use std::thread::{self, available_parallelism};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::yield_now;

/// The duration of one poll. A relay on the same machine replies within this time, even if the
/// kernel first has to wake the relay's process. Most replies over a network take longer.
const POLL_TIME: Duration = Duration::from_micros(250);

/// The maximum number of replies for which a connection blocks between two polls.
const MAX_SKIPS: u32 = 1024;

/// Busy polling for all connections of the thread.
#[derive(Debug)]
pub(super) struct BusyPoll {
    /// Whether polling is enabled. It is disabled on a single CPU, because a relay on the same
    /// machine could not run during a poll.
    enabled: bool,
    /// The time at which the current or last poll ends; `None` before the first poll.
    until: Cell<Option<Instant>>,
    /// Wakes `run` when a poll starts.
    start: Notify,
}

impl BusyPoll {
    /// Creates the busy polling of a thread. Polling is enabled if the thread may use more than one
    /// CPU.
    pub(super) fn new() -> Self {
        Self {
            enabled: available_parallelism().is_ok_and(|cpus| cpus.get() > 1),
            until: Cell::new(None),
            start: Notify::new(),
        }
    }

    /// Waits until a connection starts a poll. Then checks the sockets repeatedly until the poll
    /// ends, and calls `meanwhile` after each check. Runs on the engine thread and never returns.
    pub(super) async fn run(&self, meanwhile: impl Fn()) {
        loop {
            while self.until.get() > Some(Instant::now()) {
                thread::yield_now();
                // After this yield, the runtime checks the sockets and runs the tasks that are
                // ready.
                yield_now().await;
                meanwhile();
            }
            self.start.notified().await;
        }
    }

    fn start(&self, since: Instant) {
        self.until
            .set(self.until.get().max(Some(since + POLL_TIME)));
        self.start.notify_one();
    }
}

/// The history of the polls of one connection. It shows whether the relay replies soon enough for
/// polling.
#[derive(Debug)]
pub(super) struct PollHistory {
    /// The number of replies for which the connection blocks before the next poll.
    skips: u32,
    /// The value of `skips` after the next unsuccessful poll.
    penalty: u32,
    /// Whether the connection polls for the next reply.
    polling: bool,
    /// Whether the last poll was successful: the reply arrived within `POLL_TIME`.
    near: bool,
}

impl PollHistory {
    /// Creates the history of a new connection. The connection polls for its first reply.
    pub(super) fn new() -> Self {
        Self {
            skips: 0,
            penalty: 1,
            polling: false,
            near: false,
        }
    }

    /// Whether the last poll was successful: the reply arrived within `POLL_TIME`.
    pub(super) fn is_near(&self) -> bool {
        self.near
    }

    /// Records that the connection waits for a reply. Starts a poll that ends `POLL_TIME` after
    /// `since`, unless polling is disabled, `skips` is not 0 or the connection already polls.
    pub(super) fn awaits_reply(&mut self, busy_poll: &BusyPoll, since: Instant) {
        if busy_poll.enabled && self.skips == 0 && !std::mem::replace(&mut self.polling, true) {
            busy_poll.start(since);
        }
    }

    /// Records that a reply arrived. `waited` is the time for which the connection waited for the
    /// reply.
    pub(super) fn reply_came(&mut self, waited: Duration) {
        if !std::mem::take(&mut self.polling) {
            self.skips = self.skips.saturating_sub(1);
            return;
        }
        self.near = waited <= POLL_TIME;
        if self.near {
            self.penalty = 1;
        } else {
            self.skips = self.penalty;
            self.penalty = (2 * self.penalty).min(MAX_SKIPS);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    fn busy_poll(enabled: bool) -> BusyPoll {
        BusyPoll {
            enabled,
            ..BusyPoll::new()
        }
    }

    /// Returns the number of polls during `replies` replies. Each reply arrives after the time
    /// `waited`.
    fn polls(
        history: &mut PollHistory,
        busy_poll: &BusyPoll,
        replies: usize,
        waited: Duration,
    ) -> usize {
        let mut polls = 0;
        for _ in 0..replies {
            busy_poll.until.set(None);
            history.awaits_reply(busy_poll, Instant::now());
            polls += usize::from(busy_poll.until.get().is_some());
            history.reply_came(waited);
        }
        polls
    }

    #[test]
    fn every_reply_of_a_near_relay_is_polled_for() {
        let number = polls(&mut PollHistory::new(), &busy_poll(true), 1000, POLL_TIME);
        assert_eq!(number, 1000);
    }

    #[test]
    fn replies_of_a_distant_relay_are_rarely_polled_for() {
        let (mut history, busy_poll) = (PollHistory::new(), busy_poll(true));
        assert!(polls(&mut history, &busy_poll, 1000, 2 * POLL_TIME) <= 10);
        assert!(polls(&mut history, &busy_poll, 100_000, 2 * POLL_TIME) <= 100);
    }

    #[test]
    fn one_late_reply_costs_one_poll() {
        let (mut history, busy_poll) = (PollHistory::new(), busy_poll(true));
        for _ in 0..100 {
            assert_eq!(polls(&mut history, &busy_poll, 1, 2 * POLL_TIME), 1);
            assert_eq!(polls(&mut history, &busy_poll, 3, POLL_TIME), 2);
        }
    }

    #[test]
    fn there_is_no_polling_on_a_single_cpu() {
        let number = polls(&mut PollHistory::new(), &busy_poll(false), 1000, POLL_TIME);
        assert_eq!(number, 0);
    }

    /// Polls the task of `busy_poll` until it waits. Returns whether the task called its closure.
    fn calls_its_closure(busy_poll: &BusyPoll) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let done = Cell::new(false);
        runtime.block_on(async {
            let mut run = pin!(busy_poll.run(|| done.set(true)));
            for _ in 0..3 {
                poll_fn(|context| Poll::Ready(run.as_mut().poll(context).is_ready())).await;
            }
        });
        done.get()
    }

    #[test]
    fn polling_ends_after_its_time() {
        let now = Instant::now();
        let (early, late) = (busy_poll(true), busy_poll(true));
        // No machine is so busy that it delays the test for an hour.
        PollHistory::new().awaits_reply(&early, now + Duration::from_secs(3600));
        assert!(calls_its_closure(&early));
        PollHistory::new().awaits_reply(&late, now.checked_sub(POLL_TIME).unwrap());
        assert!(!calls_its_closure(&late));
    }
}
