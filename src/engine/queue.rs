//! The engine queue: messages in, outcomes out, in batches.
//!
//! ```text
//!     caller ── submit ──► inbox ─────────────────────────────► engine thread
//!            └─ submit ──► unrendered ► render workers ► inbox        │
//!     caller ◄── take ──── outbox, one for each consumer ◄─ deliver ──┘
//! ```
//!
//! The queue is the only data that the engine thread shares with other threads. One lock protects
//! it. Callers may wait in the queue's methods for capacity or for outcomes. The engine thread
//! waits only for the lock. Messages and outcomes move in batches, because waking a thread costs
//! more than sending a message.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::job::{FinishedMessage, Message};
use super::render::{PendingMessage, RENDER_AHEAD, RenderPermit, unrendered};
use crate::outcome::Status;

/// The reason reported for messages that were not attempted because the sender was closed.
pub(super) const CLOSED: &str = "the sender was closed before the message was sent";

/// The maximum number of pending messages in one batch for a render worker.
const RENDER_BATCH: usize = 8;
/// The divisor that limits the size of a batch: a batch contains no more than a quarter of the
/// pending messages, rounded up. So several render workers share the messages even if there are
/// few.
const RENDER_SHARES: usize = 4;

/// The maximum number of requests, mostly lines of the trace, that wait for the caller. Above this
/// number, the oldest lines are dropped, because requests that the caller does not fetch must not
/// exhaust the memory.
const TRACE_LINES: usize = 10_000;

/// The time after a stop during which `restart` does nothing. So an unreachable relay is not
/// contacted again too soon.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// The maximum of this time after refused logins, in units of `RESTART_DELAY`. The time doubles
/// with each refused login, because a provider may lock the account.
const MAX_LOGIN_DELAY: u32 = 300;

/// The number of an outbox. Each consumer of outcomes has one outbox.
pub type OutboxId = u64;

/// A request of the engine to the caller.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Log this line of the trace.
    Trace(String),
    /// Call `answer_password` with the password for a login in progress.
    Password,
}

/// The reason why the engine stopped sending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The reason in one line.
    pub text: String,
    /// The code and text of the reply that caused the stop; `None` if no reply caused it.
    pub reply: Option<(i16, Vec<u8>)>,
    /// The seconds after which the relay may accept mail again, if the reply states them.
    pub retry_after: Option<u32>,
    /// Whether a later attempt would fail, too, for example because of a wrong password or an
    /// untrusted certificate.
    pub permanent: bool,
    /// Whether the relay refused the credentials.
    pub credentials: bool,
}

/// The free capacity of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// The number of messages that may be submitted.
    pub messages: usize,
    /// The total size of the contents that may be submitted, in bytes. The caller stops after the
    /// message with which the total reaches this size.
    pub bytes: usize,
}

/// A batch of pending messages for one render worker.
pub struct RenderBatch {
    /// The sequence number of the batch. Batches enter the inbox in the order of their numbers.
    pub number: u64,
    /// The messages to render.
    pub messages: Vec<PendingMessage>,
    /// The reason why the messages must not be rendered; `None` if they have to be rendered.
    pub stop_reason: Option<String>,
}

/// The counters of an engine, and its current limits.
#[derive(Debug, Clone, Default)]
pub struct EngineStats {
    /// The number of submitted messages.
    pub taken: u64,
    /// The number of messages with an outcome for each status, in the order of `Status`.
    pub finished: [u64; 7],
    /// The number of messages that wait to be sent.
    pub queued: usize,
    /// The number of messages whose transaction is in progress.
    pub in_flight: usize,
    /// The number of messages that wait for a later retry.
    pub waiting: usize,
    /// The number of retries.
    pub retried: u64,
    /// The rate of accepted messages in the last second, in messages per second.
    pub per_second: f64,
    /// The number of bytes handed to the network.
    pub bytes: u64,
    /// The number of open connections.
    pub connections: usize,
    /// The number of connections opened since the start.
    pub connected: u64,
    /// The time for which the relay has refused every message, in seconds.
    pub refusing_for: f64,
    /// The last refusal of a message, or the last failure of a connection; `None` if the relay
    /// accepts messages and no message waits for a retry.
    pub refusal: Option<Arc<str>>,
    /// The time until the next attempt, in seconds; 0 if `refusal` is `None`.
    pub next_attempt: f64,
    /// The maximum rate, in messages per second; `None` for no limit.
    pub rate: Option<f64>,
    /// The maximum number of open connections.
    pub allowed_connections: usize,
    /// The maximum number of messages per connection; `None` for no limit.
    pub messages_per_connection: Option<usize>,
    /// The learned maximum number of recipients per transaction; `None` for no limit.
    pub recipients_per_message: Option<usize>,
    /// The pipelining mode of the last connection that became ready.
    pub mode: Option<crate::session::Mode>,
}

/// Whether and when the engine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// The engine was not asked to end.
    No,
    /// The engine ends when every message has its outcome.
    WhenDone,
    /// The engine ends when every message has its outcome. Messages without an outcome at one of
    /// the following two times get their outcome then.
    At {
        /// The time at which messages that are not in flight are given up.
        give_up: Instant,
        /// The time at which the connections of messages in flight are cut.
        cut: Instant,
    },
}

/// The queue between callers, render workers and the engine thread.
pub struct EngineQueue {
    state: Mutex<QueueState>,
    /// Notifies waiting callers of capacity, outcomes, requests and the end of the engine.
    callers: Condvar,
    /// Notifies idle render workers of pending messages, free capacity and the end of the engine.
    render_workers: Condvar,
    /// The total size, in bytes, of rendered messages whose sending has not started.
    rendered_ahead: AtomicUsize,
    /// Notifies the engine thread of messages, of answers to requests for a password, and of
    /// `close`.
    pub engine: Notify,
    queue_size: usize,
    queue_bytes: usize,
}

struct QueueState {
    inbox: Vec<Message>,
    unrendered: VecDeque<PendingMessage>,
    /// The number of messages that render workers hold, plus the number of rendered messages that
    /// wait for an earlier batch.
    rendering: usize,
    /// The sequence number of the next batch for a render worker.
    next_batch: u64,
    /// The sequence number of the next batch for the inbox.
    next_for_inbox: u64,
    /// The rendered batches that wait for an earlier batch.
    early_batches: BTreeMap<u64, Vec<Message>>,
    idle_render_workers: usize,
    /// The number of messages without an outcome.
    pending: usize,
    /// The total size, in bytes, of the contents of messages that entered the inbox and have no
    /// outcome yet.
    bytes: usize,
    outboxes: HashMap<OutboxId, Outbox>,
    next_outbox: OutboxId,
    requests: VecDeque<Request>,
    dropped_lines: usize,
    /// The outcomes that were delivered after their outbox was closed.
    unclaimed: Vec<FinishedMessage>,
    passwords: VecDeque<Result<String, String>>,
    /// The number of cancelled requests for a password that are not answered yet.
    cancelled_passwords: usize,
    stop: Option<Stop>,
    stopped_at: Option<Instant>,
    /// The time after the stop during which `restart` does nothing.
    restart_delay: Duration,
    /// The number of stops because of refused credentials since the last accepted message.
    refused_logins: u32,
    closing: Closing,
    /// Whether the engine thread has ended.
    ended: bool,
    waiting_callers: usize,
    stats: EngineStats,
    descriptors: Vec<i32>,
}

/// The outcomes for one consumer.
#[derive(Default)]
struct Outbox {
    finished: VecDeque<FinishedMessage>,
    /// The number of submitted messages whose outcomes `take` has not returned yet.
    pending: usize,
}

impl EngineQueue {
    /// Creates a queue. `queue_size` is the maximum number of messages without an outcome.
    /// `queue_bytes` is the maximum total size of their contents, in bytes.
    #[must_use]
    pub fn new(queue_size: usize, queue_bytes: usize) -> Self {
        Self {
            state: Mutex::new(QueueState {
                inbox: Vec::new(),
                unrendered: VecDeque::new(),
                rendering: 0,
                next_batch: 0,
                next_for_inbox: 0,
                early_batches: BTreeMap::new(),
                idle_render_workers: 0,
                pending: 0,
                bytes: 0,
                outboxes: HashMap::new(),
                next_outbox: 1,
                requests: VecDeque::new(),
                dropped_lines: 0,
                unclaimed: Vec::new(),
                passwords: VecDeque::new(),
                cancelled_passwords: 0,
                stop: None,
                stopped_at: None,
                restart_delay: RESTART_DELAY,
                refused_logins: 0,
                closing: Closing::No,
                ended: false,
                waiting_callers: 0,
                stats: EngineStats::default(),
                descriptors: Vec::new(),
            }),
            callers: Condvar::new(),
            render_workers: Condvar::new(),
            rendered_ahead: AtomicUsize::new(0),
            engine: Notify::new(),
            queue_size: queue_size.max(1),
            queue_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // For callers

    /// Opens an outbox.
    pub fn open_outbox(&self) -> OutboxId {
        let mut state = self.lock();
        let outbox = state.next_outbox;
        state.next_outbox += 1;
        state.outboxes.insert(outbox, Outbox::default());
        outbox
    }

    /// Waits until `deadline` for capacity, and returns the capacity. After `deadline`, the
    /// capacity may be 0. Returns `None` if there is no capacity and this outbox holds an outcome,
    /// so that the caller can process the outcome first.
    pub fn wait_for_capacity(&self, outbox: OutboxId, deadline: Instant) -> Option<Capacity> {
        let mut state = self.lock();
        loop {
            let capacity = self.capacity(&state);
            if capacity.messages > 0 {
                return Some(capacity);
            }
            let outbox = state.outboxes.get(&outbox);
            if outbox.is_some_and(|outbox| !outbox.finished.is_empty()) {
                return None;
            }
            match self.wait(state, deadline) {
                Some(woken) => state = woken,
                None => return Some(capacity),
            }
        }
    }

    /// Whether the engine was asked to end. If so, the caller reports further messages as not
    /// attempted.
    pub fn is_closing(&self) -> bool {
        self.lock().closing != Closing::No
    }

    /// Adds messages, pending messages (which have to be rendered), and messages that already have
    /// their outcome. The caller must have checked the capacity.
    pub fn submit(
        &self,
        outbox: OutboxId,
        mut messages: Vec<Message>,
        mut unrendered_messages: Vec<PendingMessage>,
        mut finished: Vec<FinishedMessage>,
    ) {
        let mut permits = Vec::new();
        let mut state = self.lock();
        if state.ended {
            finished.extend(messages.drain(..).map(|each| too_late(each, &mut permits)));
            let late = unrendered_messages.drain(..);
            finished.extend(late.map(|each| unrendered(&each, CLOSED)));
        }
        let queued = messages.len() + unrendered_messages.len();
        let number = queued + finished.len();
        state.stats.taken += number as u64;
        if let Some(outbox) = state.outboxes.get_mut(&outbox) {
            outbox.pending += number;
        }
        state.pending += queued;
        let wake_workers = !unrendered_messages.is_empty() && state.idle_render_workers > 0;
        state.unrendered.extend(unrendered_messages);
        let wake_engine = state.add_to_inbox(messages);
        state.sort_into_outboxes(finished);
        let wake_callers = state.waiting_callers > 0;
        drop(state);
        if wake_workers {
            self.render_workers.notify_all();
        }
        if wake_engine {
            self.engine.notify_one();
        }
        if wake_callers {
            self.callers.notify_all();
        }
    }

    /// Returns the reason why the engine stopped sending; `None` if the engine did not stop.
    pub fn stopped(&self) -> Option<Stop> {
        self.lock().stop.clone()
    }

    /// Restarts a stopped engine. Does nothing if the reason for the stop is permanent, or too early
    /// after the stop.
    pub fn restart(&self) {
        let mut state = self.lock();
        let stopped_at = state.stopped_at;
        let may_restart = stopped_at.is_none_or(|at| at.elapsed() >= state.restart_delay);
        if may_restart && state.stop.as_ref().is_some_and(|stop| !stop.permanent) {
            state.stop = None;
            drop(state);
            self.engine.notify_one();
        }
    }

    /// Removes and returns up to `limit` outcomes of an outbox. Waits until `deadline` for `count`
    /// outcomes, or for those of all submitted messages if there are fewer.
    pub fn take(
        &self,
        outbox: OutboxId,
        count: usize,
        limit: usize,
        deadline: Instant,
    ) -> Vec<FinishedMessage> {
        let mut state = self.lock();
        loop {
            let is_last = state.ended || Instant::now() >= deadline;
            let Some(outbox) = state.outboxes.get_mut(&outbox) else {
                return Vec::new();
            };
            let found = limit.min(outbox.finished.len());
            if is_last || found >= count.min(limit).min(outbox.pending).max(1) {
                outbox.pending -= found;
                return outbox.finished.drain(..found).collect();
            }
            state = self.wait(state, deadline).unwrap_or_else(|| self.lock());
        }
    }

    /// Returns the number of messages of an outbox whose outcomes `take` has not returned yet.
    pub fn pending(&self, outbox: OutboxId) -> usize {
        let state = self.lock();
        let outbox = state.outboxes.get(&outbox);
        outbox.map_or(0, |outbox| outbox.pending)
    }

    /// Closes an outbox and returns its outcomes. Outcomes that are delivered after this call are
    /// unclaimed.
    pub fn close_outbox(&self, outbox: OutboxId) -> Vec<FinishedMessage> {
        let outbox = self.lock().outboxes.remove(&outbox);
        outbox.map_or_else(Vec::new, |outbox| outbox.finished.into())
    }

    /// Removes and returns the unclaimed outcomes, so that the caller can drop their messages.
    pub fn take_unclaimed(&self) -> Vec<FinishedMessage> {
        mem::take(&mut self.lock().unclaimed)
    }

    /// Removes and returns the requests of the engine. Waits until `deadline` for the first
    /// request.
    pub fn requests(&self, deadline: Instant) -> Vec<Request> {
        let mut state = self.lock();
        loop {
            if !state.requests.is_empty() {
                let dropped = mem::take(&mut state.dropped_lines);
                let note = (dropped > 0)
                    .then(|| Request::Trace(format!("{dropped} lines of the trace were dropped")));
                return note.into_iter().chain(state.requests.drain(..)).collect();
            }
            if state.ended {
                return Vec::new();
            }
            match self.wait(state, deadline) {
                Some(woken) => state = woken,
                None => return Vec::new(),
            }
        }
    }

    /// Answers `Request::Password` with the password, or with the reason why there is no password.
    pub fn answer_password(&self, answer: Result<String, String>) {
        let mut state = self.lock();
        if state.cancelled_passwords > 0 {
            // This answer belongs to a cancelled request. A token may be valid only once or only
            // for a short time, so the answer is not kept for the next login.
            state.cancelled_passwords -= 1;
            return;
        }
        state.passwords.push_back(answer);
        drop(state);
        self.engine.notify_one();
    }

    /// Returns the counters.
    pub fn stats(&self) -> EngineStats {
        self.lock().stats.clone()
    }

    /// Returns the descriptors of the open sockets; `None` if another thread holds the lock. This
    /// method does not wait for the lock. In the child of a fork, the lock may be held by a thread
    /// that does not exist there, so a wait would never end.
    pub fn descriptors(&self) -> Option<Vec<i32>> {
        let state = self.state.try_lock().ok()?;
        Some(state.descriptors.clone())
    }

    /// Asks the engine to end. If this method is called several times, the earliest times apply.
    pub fn close(&self, closing: Closing) {
        let mut state = self.lock();
        state.closing = match (state.closing, closing) {
            (
                Closing::At { give_up, cut },
                Closing::At {
                    give_up: earlier_give_up,
                    cut: earlier_cut,
                },
            ) => Closing::At {
                give_up: give_up.min(earlier_give_up),
                cut: cut.min(earlier_cut),
            },
            (at @ Closing::At { .. }, _) => at,
            (_, closing) => closing,
        };
        drop(state);
        self.engine.notify_one();
        self.render_workers.notify_all();
    }

    /// Waits until `deadline` for the end of the engine thread. Returns whether the thread has
    /// ended.
    pub fn wait_for_end(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        while !state.ended {
            match self.wait(state, deadline) {
                Some(woken) => state = woken,
                None => return false,
            }
        }
        true
    }

    fn capacity(&self, state: &QueueState) -> Capacity {
        if state.stop.is_some() || state.closing != Closing::No {
            // After a stop or a call of `close`, a submitted message gets its outcome at once and
            // needs no capacity, so the capacity is unlimited.
            return Capacity {
                messages: usize::MAX,
                bytes: usize::MAX,
            };
        }
        let bytes = self.queue_bytes.saturating_sub(state.bytes);
        let messages = self.queue_size.saturating_sub(state.pending);
        Capacity {
            messages: if bytes == 0 { 0 } else { messages },
            bytes,
        }
    }

    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, QueueState>,
        deadline: Instant,
    ) -> Option<MutexGuard<'a, QueueState>> {
        let left = deadline
            .checked_duration_since(Instant::now())
            .filter(|left| *left > Duration::ZERO)?;
        state.waiting_callers += 1;
        let woken = self.callers.wait_timeout(state, left);
        let mut state = woken.unwrap_or_else(PoisonError::into_inner).0;
        state.waiting_callers -= 1;
        Some(state)
    }

    /// Whether the engine thread has ended.
    pub fn is_ended(&self) -> bool {
        self.lock().ended
    }

    // For render workers

    /// Waits for pending messages and returns a batch of them. Returns `None` after the end of the
    /// engine.
    pub fn next_batch(&self) -> Option<RenderBatch> {
        let mut state = self.lock();
        loop {
            let stop_reason = state.render_stop_reason();
            // With a `stop_reason`, the messages are not rendered and need no more memory, so the
            // two limits on bytes do not apply.
            let may_take = stop_reason.is_some()
                || self.rendered_ahead.load(Ordering::Relaxed) < RENDER_AHEAD
                    && state.bytes < self.queue_bytes;
            if may_take && !state.unrendered.is_empty() {
                let count = state.unrendered.len().div_ceil(RENDER_SHARES);
                let count = count.min(RENDER_BATCH);
                state.rendering += count;
                let number = state.next_batch;
                state.next_batch += 1;
                let messages = state.unrendered.drain(..count).collect();
                return Some(RenderBatch {
                    number,
                    messages,
                    stop_reason,
                });
            }
            if state.ended {
                return None;
            }
            state.idle_render_workers += 1;
            state = self
                .render_workers
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle_render_workers -= 1;
        }
    }

    /// Submits the result of a batch. The messages of the batch enter the inbox after the messages
    /// of all earlier batches.
    pub fn submit_rendered(
        &self,
        number: u64,
        messages: Vec<Message>,
        mut finished: Vec<FinishedMessage>,
    ) {
        let mut permits = Vec::new();
        let mut state = self.lock();
        state.rendering -= finished.len();
        state.early_batches.insert(number, messages);
        let mut ready = state.batches_in_order();
        if state.ended {
            finished.extend(ready.drain(..).map(|each| too_late(each, &mut permits)));
        }
        state.pending -= finished.len();
        let wake_callers = !finished.is_empty() && state.waiting_callers > 0;
        state.sort_into_outboxes(finished);
        let wake_engine = state.add_to_inbox(ready) || state.closing != Closing::No;
        drop(state);
        if wake_engine {
            self.engine.notify_one();
        }
        if wake_callers {
            self.callers.notify_all();
        }
    }

    /// Counts `size` bytes against the render-ahead limit until the permit is dropped.
    pub(super) fn render_permit(self: &Arc<Self>, size: usize) -> RenderPermit {
        self.rendered_ahead.fetch_add(size, Ordering::Relaxed);
        RenderPermit {
            queue: Arc::clone(self),
            size,
        }
    }

    /// Subtracts the `size` bytes of a dropped permit. Wakes the render workers when half of the
    /// render-ahead limit becomes free.
    pub(super) fn release_permit(&self, size: usize) {
        let before = self.rendered_ahead.fetch_sub(size, Ordering::Relaxed);
        let half = RENDER_AHEAD / 2;
        if before >= half && before - size < half {
            self.wake_render_workers();
        }
    }

    /// Makes idle render workers check again whether they may render.
    pub(super) fn wake_render_workers(&self) {
        // A worker holds the lock from its check until it waits. Taking the lock here ensures that
        // no worker is between the check and the wait, where the worker would miss the
        // notification.
        drop(self.lock());
        self.render_workers.notify_all();
    }

    /// Whether no message is left to render, and the inbox is empty.
    pub(super) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.inbox.is_empty() && state.unrendered.is_empty() && state.rendering == 0
    }

    // For the engine thread

    /// Removes and returns all messages of the inbox.
    pub fn take_inbox(&self) -> Vec<Message> {
        mem::take(&mut self.lock().inbox)
    }

    /// Moves outcomes to their outboxes and updates the counters.
    pub fn deliver(&self, finished: Vec<FinishedMessage>, update: impl FnOnce(&mut EngineStats)) {
        let mut state = self.lock();
        let wake_callers = !finished.is_empty() && state.waiting_callers > 0;
        state.pending -= finished.len();
        state.bytes -= finished.iter().map(|each| each.size).sum::<usize>();
        state.sort_into_outboxes(finished);
        update(&mut state.stats);
        state.stats.queued += state.unrendered.len() + state.rendering;
        drop(state);
        if wake_callers {
            self.callers.notify_all();
        }
    }

    /// Adds requests. If `TRACE_LINES` requests are waiting, each new request replaces the oldest
    /// line of the trace.
    pub fn request(&self, requests: impl IntoIterator<Item = Request>) {
        let mut state = self.lock();
        for request in requests {
            if state.requests.len() >= TRACE_LINES {
                let is_line = |each: &Request| matches!(each, Request::Trace(_));
                if let Some(position) = state.requests.iter().position(is_line) {
                    state.requests.remove(position);
                    state.dropped_lines += 1;
                }
            }
            state.requests.push_back(request);
        }
        drop(state);
        self.callers.notify_all();
    }

    /// Cancels a request for a password. The answer to this request will be ignored.
    pub fn cancel_password(&self) {
        self.lock().cancelled_passwords += 1;
    }

    /// Removes and returns the answer to a request for a password; `None` if there is no answer
    /// yet.
    pub fn take_password(&self) -> Option<Result<String, String>> {
        self.lock().passwords.pop_front()
    }

    /// Records that the engine stopped sending. If the engine has already stopped, the first reason
    /// remains.
    pub fn stop(&self, stop: Stop) {
        let mut state = self.lock();
        if state.stop.is_none() {
            state.stopped_at = Some(Instant::now());
            state.restart_delay = RESTART_DELAY;
            if stop.credentials {
                let factor = 1_u32.checked_shl(state.refused_logins);
                state.restart_delay *= factor.map_or(MAX_LOGIN_DELAY, |it| it.min(MAX_LOGIN_DELAY));
                state.refused_logins += 1;
            }
            state.stop = Some(stop);
        }
        drop(state);
        self.render_workers.notify_all();
        self.callers.notify_all();
    }

    /// Returns whether and when the engine has to end.
    pub fn closing(&self) -> Closing {
        self.lock().closing
    }

    /// Records that the socket with this `descriptor` was opened (`open` is true) or is about to be
    /// closed.
    pub fn set_descriptor(&self, descriptor: i32, open: bool) {
        let mut state = self.lock();
        state.descriptors.retain(|each| *each != descriptor);
        if open {
            state.descriptors.push(descriptor);
        }
    }

    /// Records the end of the engine thread. The messages that are still in the queue are finished
    /// as not attempted.
    pub fn end(&self) {
        let mut permits = Vec::new();
        let mut state = self.lock();
        state.ended = true;
        let inbox = mem::take(&mut state.inbox).into_iter();
        let late = inbox.map(|each| too_late(each, &mut permits));
        let mut late: Vec<FinishedMessage> = late.collect();
        let pending = mem::take(&mut state.unrendered);
        late.extend(pending.iter().map(|each| unrendered(each, CLOSED)));
        state.pending -= late.len();
        state.bytes = 0;
        state.sort_into_outboxes(late);
        drop(state);
        self.render_workers.notify_all();
        self.callers.notify_all();
    }
}

/// Returns the outcome of a message that cannot be sent, because the engine thread has ended. The
/// permit of the message is moved to `permits`. Dropping a permit takes the lock, so `permits` must
/// be dropped after the caller has released the lock.
fn too_late(mut message: Message, permits: &mut Vec<Option<RenderPermit>>) -> FinishedMessage {
    permits.push(message.permit.take());
    FinishedMessage {
        content: Some(message.content),
        ..FinishedMessage::unsent(
            message.outbox,
            message.token,
            message.recipients,
            Status::NotAttempted,
            CLOSED,
        )
    }
}

impl QueueState {
    /// Removes and returns the messages of the batches that can enter the inbox now, because all
    /// earlier batches are complete.
    fn batches_in_order(&mut self) -> Vec<Message> {
        let mut ready = Vec::new();
        while let Some(messages) = self.early_batches.remove(&self.next_for_inbox) {
            self.next_for_inbox += 1;
            ready.extend(messages);
        }
        self.rendering -= ready.len();
        ready
    }

    /// Adds messages to the inbox. Returns whether the engine thread has to be notified. If the
    /// inbox was not empty, the thread has already been notified.
    fn add_to_inbox(&mut self, messages: Vec<Message>) -> bool {
        self.bytes += messages.iter().map(|message| message.size).sum::<usize>();
        let wake_engine = self.inbox.is_empty() && !messages.is_empty();
        if self.inbox.is_empty() {
            self.inbox = messages;
        } else {
            self.inbox.extend(messages);
        }
        wake_engine
    }

    /// Returns the reason why pending messages must not be rendered; `None` if they have to be
    /// rendered.
    fn render_stop_reason(&self) -> Option<String> {
        if let Some(stop) = &self.stop {
            return Some(stop.text.clone());
        }
        match self.closing {
            Closing::At { give_up, .. } if Instant::now() >= give_up => Some(CLOSED.to_owned()),
            _ => None,
        }
    }

    fn sort_into_outboxes(&mut self, finished: Vec<FinishedMessage>) {
        for each in finished {
            self.stats.finished[each.status() as usize] += 1;
            if each.status() == Status::Accepted {
                self.refused_logins = 0;
            }
            match self.outboxes.get_mut(&each.outbox) {
                Some(outbox) => outbox.finished.push_back(each),
                None => self.unclaimed.push(each),
            }
        }
    }
}
