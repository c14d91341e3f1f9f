//! The connection pool: the waiting messages, the limits learned from the relay, and the number of
//! connections. Only the engine thread uses the pool, so the pool needs no lock.
//!
//! # Theory of operation
//!
//! ```text
//!     inbox ──► ready ──► a connection ──► finished ──► outboxes
//!                 ▲            │
//!                 │            ├── RetryNow, put back (front of the queue)
//!                 │            ├── RetryLast (end of the queue)
//!                 └─ waiting ◄─┴── RetryLater (until its backoff is over)
//! ```
//!
//! The pool opens a connection for each ready message that no idle or opening connection will send,
//! as far as the rate controller allows. The first connection has to carry a message before the
//! pool opens a second one. So the pool tries a wrong password only once (providers lock accounts
//! after several failures), and contacts an unreachable relay only once.
//!
//! The effect of a failed connection depends on whether other connections work:
//!
//! ```text
//!     failure                                            effect
//!     untrusted certificate, no TLS                      permanent stop
//!     wrong password                                     stop; permanent, unless the caller is asked
//!                                                        for the password at each login
//!     any other, while another connection is open        fewer connections
//!     5yz before any message; no password from caller    stop
//!     relay unreachable, and no earlier connection       stop
//!     login refused temporarily                          backoff; a stop after `max_attempts`
//!     any other, and only one attempt is allowed         stop
//!     any other                                          a later connection; a stop when the relay
//!                                                        has accepted no message for some time
//! ```
//!
//! After a stop, every message is finished without a further attempt, until the caller restarts the
//! engine.
//!
//! # Guarantees
//!
//! - `in_flight` counts the jobs that connections hold. Each of these jobs returns by `settle`,
//!   `reject` or `put_back`, even after a panic. So the pool ends only when no message is left.
//! - No borrow of `state` is held across an `await` or across a call of a method that borrows
//!   `state`. So no borrow can fail.

mod connections;
mod progress_files;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_rustls::rustls::crypto::{SecureRandom, aws_lc_rs};

use super::busy_poll::BusyPoll;
use super::clock::Clock;
use super::connection;
use super::failure::{ConnectionFailure, FailureKind};
use super::job::{FinishedMessage, Job, NextStep, PoolAction, Settlement};
use super::progress::ProgressFile;
use super::queue::{CLOSED, Closing, EngineQueue, Request, Stop};
use super::settings::EngineSettings;
use crate::outcome::MessageOutcome;
use crate::rate_controller::RateController;
use crate::reply::{Reply, printable};
use crate::retry::ConnectionState;
use crate::session::Mode;

use self::connections::UNKNOWN_USE;
pub(super) use self::connections::{ConnectionEffect, ConnectionEnd, ConnectionUse};

/// The number of outcomes that are delivered together while more messages are ready to send. Waking
/// the caller costs more than sending a message.
const BATCH: usize = 128;
/// The maximum time that an outcome waits for further outcomes before its delivery.
const BATCH_TIME: Duration = Duration::from_millis(5);

/// The maximum time between two turns of the loop. If a notification is lost, the loop runs again
/// after this time.
const TICK: Duration = Duration::from_secs(1);

/// The time between two checks whether the caller has answered a request for a password. The
/// interval adds little to the wait, because a callback that fetches a token usually takes longer.
const PASSWORD_TICK: Duration = Duration::from_millis(5);

/// The result of [`Pool::next_message`].
pub(super) enum NextMessage {
    /// The message to send.
    Job(Box<Job>),
    /// The time before which the rate allows no message.
    NotBefore(Instant),
    /// No message is ready.
    None,
}

/// Returns the time `seconds` seconds after `now`. A coarse timer may fire slightly early. The added
/// millisecond ensures that the wait is over when the timer fires.
fn later(now: Instant, seconds: f64) -> Instant {
    let wait = Duration::try_from_secs_f64(seconds).unwrap_or(TICK);
    now + wait + Duration::from_millis(1)
}

/// The data that all connections share.
pub(super) struct Pool {
    pub(super) settings: EngineSettings,
    pub(super) queue: Arc<EngineQueue>,
    /// Notifies the connections that a message may be ready or that they may have to quit.
    pub(super) work: Notify,
    /// Whether all connections have to end at once.
    pub(super) cut: Cell<bool>,
    pub(super) busy_poll: BusyPoll,
    pub(super) clock: Clock,
    /// The progress files of the messages that connections have started.
    progress_files: RefCell<Vec<Arc<ProgressFile>>>,
    state: RefCell<PoolState>,
    random: &'static dyn SecureRandom,
}

struct PoolState {
    rate_controller: RateController,
    /// The messages to send now, in order.
    ready: VecDeque<Job>,
    /// The messages to retry later, by the time at which they become ready. The number in a key
    /// makes the key unique.
    waiting: BTreeMap<(Instant, u64), Job>,
    in_flight: usize,
    /// The outcomes that are not delivered yet.
    finished: Vec<FinishedMessage>,
    /// The number of connections that are not ready yet.
    opening: usize,
    /// The number of connections that are ready for mail.
    open: usize,
    /// The number of open connections on which the relay has accepted a message.
    proven: usize,
    /// The number of open connections without a message.
    idle: usize,
    /// The number of idle connections among the proven ones.
    idle_proven: usize,
    /// The number of connections that became ready since the start.
    connected: u64,
    /// The number of consecutive connections on which the relay refused the login temporarily.
    failed_logins: u32,
    /// The number of consecutive connections that became ready and carried no message.
    fruitless: u32,
    /// Whether a message was sent on a connection that used PIPELINING.
    pipelining_worked: bool,
    /// Whether PIPELINING is disabled, even if the relay announces it.
    pipelining_disabled: bool,
    stop: Option<Stop>,
    /// The last refusal of a message, with which a stalled relay is reported.
    refusal: Option<Arc<Reply>>,
    /// The text of the last refusal of a message, or of the last failure of a connection.
    last_refusal: Option<Arc<str>>,
    /// Whether the deadline `give_up` has passed. After this deadline, the pool starts no message.
    gave_up: bool,
    /// Whether the relay discards the chunk of a refused BDAT; `None` before the discard test.
    discards: Option<bool>,
    /// The learned maximum number of recipients per transaction.
    max_recipients: Option<usize>,
    mode: Option<Mode>,
    retried: u64,
    bytes: u64,
    /// The last number given to a connection or to a key of `waiting`.
    last_number: u64,
    /// The latest time at which the outcomes in `finished` are delivered.
    deliver_at: Option<Instant>,
}

impl Pool {
    pub(super) fn new(settings: EngineSettings, queue: Arc<EngineQueue>) -> Self {
        Self {
            state: RefCell::new(PoolState {
                rate_controller: RateController::new(
                    settings.rate,
                    settings.connections,
                    settings.max_messages_per_connection,
                    settings.retry.is_patient(),
                ),
                ready: VecDeque::new(),
                waiting: BTreeMap::new(),
                in_flight: 0,
                finished: Vec::new(),
                opening: 0,
                open: 0,
                proven: 0,
                idle: 0,
                idle_proven: 0,
                connected: 0,
                failed_logins: 0,
                fruitless: 0,
                pipelining_worked: false,
                pipelining_disabled: false,
                stop: None,
                refusal: None,
                last_refusal: None,
                gave_up: false,
                discards: None,
                max_recipients: None,
                mode: None,
                retried: 0,
                bytes: 0,
                last_number: 0,
                deliver_at: None,
            }),
            clock: Clock::new(settings.clock_speed),
            progress_files: RefCell::default(),
            settings,
            queue,
            work: Notify::new(),
            cut: Cell::new(false),
            busy_poll: BusyPoll::new(),
            random: aws_lc_rs::default_provider().secure_random,
        }
    }

    /// Runs until the queue is closing and every message has its outcome.
    pub(super) async fn run(self: Rc<Self>) {
        let pool = Rc::clone(&self);
        spawn_local(async move { pool.busy_poll.run(|| pool.survey_next()).await });
        loop {
            self.take_messages();
            let closing = self.queue.closing();
            self.apply_closing(closing);
            self.open_connections();
            self.deliver_if_due();
            if closing != Closing::No && self.is_finished() {
                return;
            }
            self.wait(closing).await;
        }
    }

    /// Waits for a notification or for the earliest timer.
    async fn wait(&self, closing: Closing) {
        let now = self.clock.now();
        let mut longest = TICK;
        {
            let mut state = self.state.borrow_mut();
            let seconds = self.clock.seconds(now);
            let waits = [
                state.rate_controller.wait(seconds),
                state.rate_controller.connect_wait(seconds),
            ];
            let [token, connect] =
                waits.map(|wait| (!state.ready.is_empty()).then(|| later(now, wait)));
            let due = state.waiting.keys().next().map(|(due, _)| *due);
            let moments = [due, state.deliver_at, token, connect];
            // Moments in the past are skipped, because the loop has already handled them. A wait
            // for such a moment would end at once, so the loop would run without a pause.
            for moment in moments.into_iter().flatten().filter(|moment| *moment > now) {
                longest = longest.min(self.clock.real(moment - now));
            }
        }
        if let Closing::At { give_up, cut } = closing {
            let now = Instant::now();
            for moment in [give_up, cut].into_iter().filter(|moment| *moment > now) {
                longest = longest.min(moment - now);
            }
        }
        // A timeout and a notification have the same effect: the loop runs once more.
        let _ = timeout(longest, self.queue.engine.notified()).await;
    }

    /// Moves the messages of the inbox and the messages whose backoff is over to `ready`.
    fn take_messages(&self) {
        let now = self.clock.now();
        let mut state = self.state.borrow_mut();
        while let Some(entry) = state.waiting.first_entry()
            && entry.key().0 <= now
        {
            let job = entry.remove();
            state.ready.push_back(job);
        }
        self.take_inbox(&mut state);
        if !state.ready.is_empty() {
            self.work.notify_waiters();
        }
    }

    fn take_inbox(&self, state: &mut PoolState) {
        let messages = self.queue.take_inbox();
        state.ready.extend(messages.into_iter().map(Job::new));
        if state.stop.is_some() && self.queue.stopped().is_none() {
            // The caller restarted the engine, so the failures before the stop no longer count.
            state.stop = None;
            state.failed_logins = 0;
            state.fruitless = 0;
            state.pipelining_disabled = false;
            state.rate_controller.resume();
        }
        if let Some(stop) = &state.stop {
            let text = stop.text.clone();
            state.give_up(&text, self.clock.now());
        }
    }

    fn open_connections(self: &Rc<Self>) {
        let now = self.clock.now();
        loop {
            let mut state = self.state.borrow_mut();
            // Each idle or opening connection will send one of the ready messages. A new connection
            // is only useful for a further message.
            let wanted = state.ready.len() > state.opening + state.idle && !state.gave_up;
            if !wanted || state.stop.is_some() {
                return;
            }
            // A connection opened during a wait for the rate limit would be idle, and the relay
            // might close it.
            let seconds = self.clock.seconds(now);
            let (proven, unproven) = (state.proven, state.open - state.proven + state.opening);
            // The first connection shows whether the relay accepts the session.
            let known = state.open > 0 || state.opening == 0;
            let controller = &mut state.rate_controller;
            if !known
                || controller.wait(seconds) > 0.0
                || !controller.may_connect(seconds, proven, unproven)
            {
                return;
            }
            state.rate_controller.connection_opened(seconds);
            state.opening += 1;
            state.last_number += 1;
            let number = state.last_number;
            drop(state);
            spawn_local(connection::run(Rc::clone(self), number));
        }
    }

    /// Gives up the messages and cuts the connections when the deadlines of `closing` have passed.
    fn apply_closing(&self, closing: Closing) {
        if closing == Closing::No {
            return;
        }
        let now = Instant::now();
        if let Closing::At { give_up, cut } = closing {
            if now >= give_up {
                let mut state = self.state.borrow_mut();
                state.gave_up = true;
                state.give_up(CLOSED, self.clock.now());
                drop(state);
                // The render workers wake up and finish all messages that are not rendered yet,
                // with the status "not attempted".
                self.queue.wake_render_workers();
            }
            if now >= cut {
                self.cut.set(true);
            }
        }
        // This notification makes idle connections quit.
        self.work.notify_waiters();
    }

    /// Whether every message has its outcome and every connection has ended. The pool does not wait
    /// for connections that were cut, because a relay that does not reply must not delay the end.
    fn is_finished(&self) -> bool {
        let state = self.state.borrow();
        let no_message = state.ready.is_empty() && state.waiting.is_empty() && state.in_flight == 0;
        let no_connection = state.open + state.opening == 0;
        no_message && self.queue.is_empty() && (no_connection || self.cut.get())
    }

    // For connections

    /// Whether a connection without a message has to quit, because no further message will come.
    pub(super) fn is_done(&self) -> bool {
        let state = self.state.borrow();
        let more = !state.ready.is_empty() || !state.waiting.is_empty();
        let closing = || self.queue.closing() != Closing::No && self.queue.is_empty();
        state.stop.is_some() || state.gave_up || (!more && closing())
    }

    /// Whether a message is ready.
    pub(super) fn has_ready(&self) -> bool {
        let mut state = self.state.borrow_mut();
        if state.ready.is_empty() {
            // Read the inbox here, so that the connection does not wait for the loop of the pool.
            self.take_inbox(&mut state);
        }
        !state.ready.is_empty() && !state.gave_up
    }

    /// Whether a connection may prepare a message that it cannot write yet. This is not allowed if
    /// another connection could send the message now. It is not allowed with a rate limit either,
    /// because the message would use a token long before it is sent.
    pub(super) fn may_prepare(&self, now: Instant) -> bool {
        let state = self.state.borrow();
        let enough_for_all = state.ready.len() > 2 * self.settings.connections;
        let limited = state
            .rate_controller
            .rate(self.clock.seconds(now))
            .is_some();
        enough_for_all && !limited
    }

    /// Removes and returns the next message, and takes a token of the rate controller.
    ///
    /// `proven` states whether the relay has accepted a message on the connection. A connection
    /// without such a message leaves the messages to idle connections that have one, because the
    /// relay may allow fewer connections.
    pub(super) fn next_message(&self, now: Instant, proven: bool) -> NextMessage {
        if !self.has_ready() {
            return NextMessage::None;
        }
        let mut state = self.state.borrow_mut();
        if !proven && state.ready.len() <= state.idle_proven {
            return NextMessage::None;
        }
        let seconds = self.clock.seconds(now);
        let wait = state.rate_controller.wait(seconds);
        if wait > 0.0 {
            return NextMessage::NotBefore(later(now, wait));
        }
        match state.ready.pop_front() {
            Some(job) => {
                state.rate_controller.start(seconds);
                state.in_flight += 1;
                NextMessage::Job(Box::new(job))
            }
            None => NextMessage::None,
        }
    }

    /// Scans the content of one message that will be sent soon. Busy polling calls this method
    /// while a connection waits for a reply. The message can then be written as soon as the reply
    /// has arrived.
    fn survey_next(&self) {
        let mut state = self.state.borrow_mut();
        let connections = state.open;
        let mut next = state.ready.iter_mut().take(connections);
        if let Some(job) = next.find(|job| !job.is_surveyed()) {
            job.survey();
        }
    }

    /// Returns the maximum number of recipients per transaction, from the settings and from 452
    /// replies.
    pub(super) fn max_recipients(&self) -> usize {
        let learned = self.state.borrow().max_recipients.unwrap_or(usize::MAX);
        self.settings.max_recipients.min(learned)
    }

    /// Returns the maximum number of messages per connection, from the settings and from the rate
    /// controller.
    pub(super) fn messages_per_connection(&self) -> Option<usize> {
        self.state
            .borrow()
            .rate_controller
            .messages_per_connection()
    }

    /// Whether PIPELINING is disabled, even if the relay announces it.
    pub(super) fn is_pipelining_disabled(&self) -> bool {
        self.state.borrow().pipelining_disabled
    }

    /// Whether the relay discards the chunk of a refused BDAT; `None` before the discard test.
    pub(super) fn discards(&self) -> Option<bool> {
        self.state.borrow().discards
    }

    /// Records whether the relay discards the chunk of a refused BDAT.
    pub(super) fn set_discards(&self, discards: bool) {
        self.state.borrow_mut().discards = Some(discards);
    }

    /// Takes back a message from a connection, with the outcome of its transaction. Returns the effect
    /// on the connection.
    pub(super) fn settle(
        &self,
        job: Job,
        outcome: MessageOutcome,
        connection: ConnectionUse,
        now: Instant,
    ) -> ConnectionEffect {
        let refusal = outcome.refusal();
        let lost = job.to_lost();
        let settled = catch_unwind(AssertUnwindSafe(|| {
            #[cfg(test)]
            super::test_support::panic_at(&self.settings, "settle");
            self.with_settlement(connection, now, |settlement| {
                job.settle(outcome, settlement)
            })
        }));
        // After a panic, a recipient may have received the message. So the message is reported as
        // unknown and not sent again.
        let (next, actions) =
            settled.unwrap_or_else(|_| (NextStep::Finished(lost.finish()), Vec::new()));
        let mut effect = ConnectionEffect::Keep;
        if let Some(reply) = refusal {
            let mut state = self.state.borrow_mut();
            let text = format!("{} {}", reply.code, printable(&reply.text));
            state.last_refusal = Some(text.into());
            state.refusal = Some(reply);
        }
        self.apply(next, now);
        for action in actions {
            match action {
                PoolAction::CloseConnection => effect = ConnectionEffect::Full,
                PoolAction::CloseSurplus => {
                    effect = ConnectionEffect::Surplus;
                    let mut state = self.state.borrow_mut();
                    let others = state.proven - usize::from(connection.proven);
                    state.rate_controller.connection_refused(
                        self.clock.seconds(now),
                        others,
                        false,
                    );
                }
                PoolAction::LimitRecipients(number) => {
                    self.state.borrow_mut().max_recipients = Some(number);
                }
                PoolAction::Stop(phase, reply) => {
                    let relay = &self.settings.target;
                    self.stop(&ConnectionFailure::rejected(relay, phase, reply));
                }
            }
        }
        self.stop_if_stalled(now, None);
        effect
    }

    fn with_settlement<T>(
        &self,
        connection: ConnectionUse,
        now: Instant,
        settle: impl FnOnce(&mut Settlement<'_>) -> T,
    ) -> T {
        let mut state = self.state.borrow_mut();
        let connection = ConnectionState {
            used: connection.used,
            others: state.proven > usize::from(connection.proven),
        };
        let was_probing = state.rate_controller.is_probing();
        let settled = settle(&mut Settlement {
            now,
            clock: self.clock,
            policy: self.settings.retry,
            connection,
            rate_controller: &mut state.rate_controller,
            random: &|| self.random(),
        });
        if was_probing {
            // The other connections wait for the result of the probe.
            self.work.notify_waiters();
        }
        settled
    }

    /// Takes back a message that cannot be sent to this relay, because the relay lacks a
    /// capability.
    pub(super) fn reject(&self, job: Job, reason: &str, now: Instant) {
        let next = self.with_settlement(UNKNOWN_USE, now, |settlement| {
            job.reject(reason, settlement)
        });
        self.apply(next, now);
    }

    /// Takes back a message of which no byte was written. The message returns to the front of the
    /// queue.
    pub(super) fn put_back(&self, job: Job) {
        let now = self.clock.now();
        self.with_settlement(UNKNOWN_USE, now, |settlement| settlement.weigh_nothing());
        let mut state = self.state.borrow_mut();
        state.in_flight -= 1;
        state.ready.push_front(job.put_back());
        self.work.notify_waiters();
        self.after_return(&mut state, now);
    }

    /// Whether the pool starts no more messages.
    pub(super) fn is_ending(&self) -> bool {
        let state = self.state.borrow();
        state.stop.is_some() || state.gave_up
    }

    fn apply(&self, next: NextStep, now: Instant) {
        let mut state = self.state.borrow_mut();
        state.in_flight -= 1;
        match next {
            NextStep::Finished(finished) => {
                state.finished.push(finished);
                return;
            }
            NextStep::RetryNow(job) => {
                state.retried += 1;
                // The job is placed before newer messages, because its recipients have waited
                // longer.
                state.ready.push_front(job);
                self.work.notify_waiters();
            }
            NextStep::RetryLast(job) => {
                state.retried += 1;
                state.ready.push_back(job);
                self.work.notify_waiters();
            }
            NextStep::RetryLater(job, delay) => {
                state.retried += 1;
                state.last_number += 1;
                let key = (now + delay, state.last_number);
                state.waiting.insert(key, job);
            }
        }
        self.after_return(&mut state, now);
    }

    /// Gives up the messages that returned to the queue, if the engine sends no more messages.
    fn after_return(&self, state: &mut PoolState, now: Instant) {
        if let Some(stop) = &state.stop {
            let text = stop.text.clone();
            state.give_up(&text, now);
        } else if state.gave_up {
            state.give_up(CLOSED, now);
        }
        self.queue.engine.notify_one();
    }

    /// Stops sending messages until the caller restarts the engine.
    fn stop(&self, failure: &ConnectionFailure) {
        let stop = failure.to_stop(self.settings.password.is_none());
        self.queue.stop(stop.clone());
        let mut state = self.state.borrow_mut();
        state.stop.get_or_insert(stop);
        drop(state);
        self.take_messages();
        // This notification makes idle connections quit.
        self.work.notify_waiters();
        self.queue.engine.notify_one();
    }

    /// Returns the password for a login: the configured password, or the caller's answer to a
    /// request.
    pub(super) async fn password(&self) -> Result<String, String> {
        if let Some(password) = &self.settings.password {
            return Ok(password.clone());
        }
        self.queue.request([Request::Password]);
        let deadline = Instant::now() + self.settings.timeouts.command;
        loop {
            if let Some(answer) = self.queue.take_password() {
                return answer;
            }
            let (done, late) = (self.is_done(), Instant::now() >= deadline);
            if done || late {
                // The request is cancelled, so that a late answer is not used for the next login.
                self.queue.cancel_password();
                let reason = if done { CLOSED } else { "no answer in time" };
                return Err(reason.to_owned());
            }
            // The notification for an answer wakes the pool, not this task. So this task checks for
            // the answer at intervals.
            tokio::time::sleep(PASSWORD_TICK).await;
        }
    }

    /// Counts bytes that were handed to the network.
    pub(super) fn count_bytes(&self, bytes: u64) {
        self.state.borrow_mut().bytes += bytes;
    }

    /// Returns a random number from 0 to 1.
    pub(super) fn random(&self) -> f64 {
        let mut bytes = [0; 4];
        match self.random.fill(&mut bytes) {
            Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
            // The number scales the wait before a retry. Without random bytes, the number is 1, so
            // the wait has its maximum length.
            Err(_) => 1.0,
        }
    }

    /// Returns random bytes for a nonce; `None` if the system provides no random bytes.
    pub(super) fn nonce(&self) -> Option<[u8; 24]> {
        let mut bytes = [0; 24];
        self.random.fill(&mut bytes).ok().map(|()| bytes)
    }

    /// Delivers the outcomes. If fewer than `BATCH` messages are finished and more messages are
    /// ready, delays the delivery by up to `BATCH_TIME`.
    pub(super) fn deliver_if_due(&self) {
        let mut state = self.state.borrow_mut();
        let number = state.finished.len();
        if number > 0 && number < BATCH && !state.ready.is_empty() {
            let now = self.clock.now();
            match state.deliver_at {
                None => {
                    state.deliver_at = Some(now + BATCH_TIME);
                    // This notification makes the pool set its timer for `deliver_at`.
                    self.queue.engine.notify_one();
                    return;
                }
                Some(due) if now < due => return,
                Some(_) => {}
            }
        }
        drop(state);
        self.deliver();
    }

    /// Delivers the outcomes and updates the counters.
    pub(super) fn deliver(&self) {
        // An error stops the engine. Old bytes of the file are less certain, and never wrong, so the
        // outcomes are delivered nevertheless.
        let _ = self.flush_progress();
        let now = self.clock.seconds(self.clock.now());
        let mut state = self.state.borrow_mut();
        state.deliver_at = None;
        let finished = std::mem::take(&mut state.finished);
        let state = &mut *state;
        self.queue.deliver(finished, |stats| {
            stats.queued = state.ready.len();
            stats.in_flight = state.in_flight;
            stats.waiting = state.waiting.len();
            stats.retried = state.retried;
            stats.per_second = state.rate_controller.per_second(now);
            stats.bytes = state.bytes;
            stats.connections = state.open;
            stats.connected = state.connected;
            stats.refusing_for = state.rate_controller.refusing_for(now);
            (stats.refusal, stats.next_attempt) = match &state.last_refusal {
                Some(text) if stats.refusing_for > 0.0 || stats.waiting > 0 => {
                    (Some(Arc::clone(text)), state.next_attempt(&self.clock))
                }
                _ => (None, 0.0),
            };
            stats.rate = state.rate_controller.rate(now);
            stats.allowed_connections = state.rate_controller.allowed_connections(now);
            stats.messages_per_connection = state.rate_controller.messages_per_connection();
            stats.recipients_per_message = state.max_recipients;
            stats.mode = state.mode;
        });
    }
}

impl PoolState {
    /// Returns the time until the next attempt, in seconds; 0 if an attempt is in progress.
    fn next_attempt(&mut self, clock: &Clock) -> f64 {
        if self.in_flight > 0 || self.opening > 0 {
            return 0.0;
        }
        let now = clock.now();
        let seconds = clock.seconds(now);
        let mut waits = Vec::new();
        if !self.ready.is_empty() {
            let rate = self.rate_controller.wait(seconds);
            let connect = match self.open {
                0 => self.rate_controller.connect_wait(seconds),
                _ => 0.0,
            };
            waits.push(Duration::try_from_secs_f64(rate.max(connect)).unwrap_or_default());
        }
        if let Some((due, _)) = self.waiting.keys().next() {
            waits.push(due.saturating_duration_since(now));
        }
        let next = waits.into_iter().min().unwrap_or_default();
        clock.real(next).as_secs_f64()
    }

    /// Finishes all messages that no connection holds, without a further attempt.
    fn give_up(&mut self, reason: &str, now: Instant) {
        let waiting = std::mem::take(&mut self.waiting).into_values();
        for job in self.ready.drain(..).chain(waiting) {
            self.finished.push(job.give_up(reason, now));
        }
    }
}
