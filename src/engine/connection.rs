//! One connection: a task that moves the bytes of a session through a transport, until the session
//! or the transport ends.
//!
//! # Theory of operation
//!
//! A [`Session`] implements SMTP and uses no socket. A [`Transport`] implements sockets and TLS,
//! without SMTP. The pool holds the messages. This task moves bytes and messages between the three:
//!
//! ```text
//!     pool ── next_message ──► begin ──► session ── slices ──► poll_send ──► transport
//!     pool ◄── settle ── take_events ◄── session ◄─ receive_data ◄─ poll_read ◄──┘
//! ```
//!
//! A turn of the loop processes events, starts messages, writes and reads. The task waits only when
//! none of these is possible. So the task also reads replies while it writes a message. Otherwise a
//! deadlock would be possible, because a server may stop reading until the client has read its
//! replies (RFC 2920 3.1).
//!
//! # Guarantees
//!
//! - Each job returns to the pool exactly once. `in_flight` holds the jobs in the order in which
//!   the session finishes them, oldest first. A job enters `in_flight` before any byte of it is
//!   written. `end` and `end_after_panic` return the remaining jobs.
//! - An idle connection is checked before the next message starts. If the relay has sent a 421 or
//!   has closed the connection, the message stays in the queue, and no attempt is counted.
//! - After the connection is lost, the session receives the number of bytes that the relay cannot
//!   have read. A message is sent again if the relay cannot have read its terminator. Otherwise the
//!   outcome of the message is unknown, because the terminator transfers the responsibility for the
//!   message to the relay (RFC 5321 4.1.1.4).
//! - Every wait has a deadline (RFC 5321 4.5.3.2). The deadline for a reply applies to the whole
//!   reply, so a server cannot extend the deadline by sending single bytes.

mod login;
mod opening;
mod panic;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::futures::Notified;
use tokio::time::{Sleep, sleep_until};

use self::opening::{open, secure};
use self::panic::caught;
use super::busy_poll::PollHistory;
use super::connect::{Target, system_text};
use super::failure::{ConnectionFailure, FailureKind, failure_of, says_connection_full};
use super::job::Job;
use super::pool::{ConnectionEffect, ConnectionEnd, ConnectionUse, NextMessage, Pool};
use super::queue::Request;
use super::transport::{Available, Transport};
use crate::outcome::MessageOutcome;
use crate::session::{Cause, Closed, Envelope, Event, Mode, Session, SessionOptions};

/// The maximum number of bytes in one read. The replies to all messages of a large window fit into
/// one read.
const READ_SIZE: usize = 64 * 1024;

/// The maximum number of slices in one write.
const SLICES: usize = 64;

/// The minimum idle time after which the end of a connection counts as an idle timeout of the
/// relay. After a shorter idle time, the relay may have ended the connection because of the number
/// of messages.
const IDLE_TIME: Duration = Duration::from_secs(1);

/// Opens a connection, and sends messages until the connection ends.
pub(super) async fn run(pool: Rc<Pool>, number: u64) {
    let opened = caught(open(&pool, number)).await;
    match opened.unwrap_or_else(|panic| Err(ConnectionFailure::internal(&panic))) {
        Ok(Some(transport)) => {
            let mut connection = Connection::new(&pool, number, transport);
            match caught(connection.drive()).await {
                Ok(closed) => connection.end(&closed),
                Err(panic) => connection.end_after_panic(&panic),
            }
        }
        Ok(None) => pool.connection_renewed(),
        Err(failure) => {
            trace(&pool, number, [failure.text.clone()]);
            pool.connection_failed(&failure);
        }
    }
    // Deliver the outcomes now. The pool normally collects outcomes for a batch, but there may be
    // no further outcome.
    pool.deliver();
}

fn trace(pool: &Pool, number: u64, lines: impl IntoIterator<Item = String>) {
    if pool.settings.trace {
        let lines = lines.into_iter().map(|line| format!("[{number}] {line}"));
        pool.queue.request(lines.map(Request::Trace));
    }
}

struct Connection<'a> {
    pool: &'a Pool,
    number: u64,
    /// The transport; `None` during a TLS handshake and after a failed handshake.
    transport: Option<Transport>,
    session: Session,
    /// The messages in flight, oldest first.
    in_flight: VecDeque<Job>,
    buffer: Vec<u8>,
    /// Whether the connection became ready for mail. The pool counts such connections as open.
    ready: bool,
    connected_at: Instant,
    /// Whether a transaction was started.
    started: bool,
    /// The number of messages that the connection carried.
    carried: usize,
    /// Whether the relay has processed a message on this connection.
    proven: bool,
    /// Whether the relay accepted every message on this connection.
    clean: bool,
    /// Whether the relay accepts no further message on this connection.
    full: bool,
    /// Whether the relay allows fewer connections, so that this one is closed.
    surplus: bool,
    last_outcome_at: Instant,
    /// Whether the connection was idle for `IDLE_TIME` or longer when it ended.
    ended_idle: bool,
    descriptor: Option<i32>,
    /// The time at which the current wait started. Deadlines are counted from this time.
    waiting_since: Instant,
    replies_read: u64,
    poll_history: PollHistory,
    /// The time at which the rate allows the next message; `None` if no message waits for the rate.
    token_at: Option<Instant>,
    counted_bytes: u64,
    /// The error of the socket. It is kept until all bytes that arrived before the error are read.
    socket_error: Option<String>,
    /// The password during the login. If the relay refuses a mechanism, the next mechanism uses it.
    password: Option<String>,
    /// Whether reading the password failed. This failure is not permanent: the next login may
    /// succeed.
    password_failed: bool,
    /// Whether no write followed the last read. In that case, no segment has acknowledged the bytes
    /// read, so `quick_ack` must acknowledge them.
    unacknowledged: bool,
    /// Whether the pool counts this connection as idle.
    counted_idle: bool,
    /// Whether a message of this connection had a progress file.
    has_progress: bool,
}

impl<'a> Connection<'a> {
    fn new(pool: &'a Pool, number: u64, transport: Transport) -> Self {
        let descriptor = transport.descriptor();
        if let Some(descriptor) = descriptor {
            // The queue records the descriptor, so that the child of a fork can close its copy of
            // the socket. With an open copy, the relay would not see the end of the stream when
            // this process closes the socket.
            pool.queue.set_descriptor(descriptor, true);
        }
        let now = Instant::now();
        Self {
            pool,
            number,
            session: Session::new(options(pool, &transport)),
            transport: Some(transport),
            in_flight: VecDeque::new(),
            buffer: vec![0; READ_SIZE],
            ready: false,
            connected_at: now,
            started: false,
            carried: 0,
            proven: false,
            clean: true,
            full: false,
            surplus: false,
            last_outcome_at: now,
            ended_idle: false,
            descriptor,
            waiting_since: now,
            replies_read: 0,
            poll_history: PollHistory::new(),
            token_at: None,
            counted_bytes: 0,
            socket_error: None,
            password: None,
            password_failed: false,
            unacknowledged: false,
            counted_idle: false,
            has_progress: false,
        }
    }

    async fn drive(&mut self) -> Closed {
        let mut sleep = Box::pin(sleep_until(Instant::now().into()));
        let pool = self.pool;
        loop {
            // Events are processed before `turn` writes. After a refusal, the prepared messages
            // must return to the pool before any byte of them is written.
            if let Some(closed) = self.take_events().await {
                return closed;
            }
            self.begin_messages();
            self.update_idle();
            self.session.advance();
            self.report_progress();
            if self.session.has_event() {
                continue;
            }
            // `work` receives only the notifications that come after its creation. So `work` is
            // created before `turn` runs, and no notification is lost.
            let mut work = pin!(pool.work.notified());
            poll_fn(|context| self.turn(context, work.as_mut(), sleep.as_mut())).await;
        }
    }

    /// Writes and reads as much as possible. Returns `Ready` if the loop in `drive` must run again.
    fn turn(
        &mut self,
        context: &mut Context<'_>,
        work: Pin<&mut Notified<'_>>,
        sleep: Pin<&mut Sleep>,
    ) -> Poll<()> {
        if self.pool.cut.get() {
            self.connection_lost("the sender was closed");
            return Poll::Ready(());
        }
        let written = self.write(context);
        let read = self.read(context);
        // The reply just read may allow the session to write a prepared message. Writing here,
        // before the events of the reply are processed, saves one turn of the loop.
        let written = written | (read && self.write(context));
        if written | read || self.socket_error.is_some() {
            self.read_rest_after_error(read);
            return Poll::Ready(());
        }
        // This poll consumes the notification, so the loop has to run again and create a new
        // `work`.
        if work.poll(context).is_ready() {
            return Poll::Ready(());
        }
        if self.session.awaited_phase().is_some() && !self.session.wants_write() {
            self.poll_history
                .awaits_reply(&self.pool.busy_poll, self.waiting_since);
        }
        self.sleep(context, sleep)
    }

    /// Waits until the deadline. Each reply moves the deadline to a later time. To avoid a reset of
    /// the timer for each reply, the timer is set to the later deadline only when it fires.
    fn sleep(&mut self, context: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) -> Poll<()> {
        loop {
            let (deadline, purpose) = self.deadline();
            let now = Instant::now();
            if now >= deadline {
                match purpose {
                    Deadline::Token => return Poll::Ready(()),
                    Deadline::Idle => self.session.quit(),
                    Deadline::Write => {
                        self.connection_lost("the relay accepted no more bytes in time");
                    }
                    Deadline::Reply(limit) => {
                        let phase = self.session.awaited_phase();
                        self.connection_lost(&self.pool.settings.timeout_text(phase, limit));
                    }
                }
                self.waiting_since = now;
                return Poll::Ready(());
            }
            let set: Instant = sleep.deadline().into();
            if set > deadline || sleep.is_elapsed() {
                sleep.as_mut().reset(deadline.into());
            }
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Returns the next deadline and its purpose.
    fn deadline(&self) -> (Instant, Deadline) {
        let timeouts = &self.pool.settings.timeouts;
        let since = self.waiting_since;
        // RFC 5321 4.5.3.2.5: the time limit applies to each block of data, not to the whole
        // message.
        if self.session.wants_write() {
            return (since + timeouts.block, Deadline::Write);
        }
        // No message depends on the reply to QUIT, so QUIT has a short time limit.
        if self.session.is_quitting() {
            return (since + timeouts.quit, Deadline::Reply(timeouts.quit));
        }
        let (deadline, purpose) = match self.session.awaited_phase() {
            // RFC 5321 4.5.3.2.1 to 4.5.3.2.6: each command has its own time limit.
            Some(phase) => {
                let limit = timeouts.reply(phase);
                (since + limit, Deadline::Reply(limit))
            }
            None if self.carried == 0 => (since + timeouts.idle, Deadline::Idle),
            None => {
                let age = self.connected_at + timeouts.age;
                ((since + timeouts.idle).min(age), Deadline::Idle)
            }
        };
        match self.token_at {
            Some(token_at) if token_at < deadline && self.session.capacity(false) > 0 => {
                (token_at, Deadline::Token)
            }
            _ => (deadline, purpose),
        }
    }

    /// Writes as many bytes as the transport accepts. Returns whether it accepted any bytes.
    fn write(&mut self, context: &mut Context<'_>) -> bool {
        let Some(transport) = &mut self.transport else {
            return false;
        };
        let mut progress = false;
        while self.socket_error.is_none() && self.session.wants_write() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut number = 0;
            for (slice, bytes) in slices.iter_mut().zip(self.session.slices()) {
                *slice = IoSlice::new(bytes);
                number += 1;
            }
            if self.has_progress {
                let count = slices[..number].iter().map(|slice| slice.len()).sum();
                for newer in self.session.ending_within(count) {
                    // Events that are not processed yet finish the oldest messages, so the places
                    // are counted from the newest message.
                    let place = self.in_flight.len().checked_sub(newer + 1);
                    let job = place.and_then(|place| self.in_flight.get(place));
                    if let Some(progress) = job.and_then(|job| job.message().progress.as_ref()) {
                        progress.set_begun();
                    }
                }
                if let Err(error) = self.pool.flush_progress() {
                    self.socket_error = Some(error);
                    break;
                }
            }
            match transport.poll_send(context, &slices[..number]) {
                Poll::Ready(Ok(count)) => {
                    self.session.sent(count);
                    // The segments of this write also acknowledge the bytes read before (RFC 9293
                    // 3.8.6.3).
                    self.unacknowledged = false;
                    progress = true;
                }
                Poll::Ready(Err(error)) => self.socket_error = Some(system_text(&error)),
                Poll::Pending => break,
            }
        }
        // The TLS layer stores the records that the socket has not accepted yet. `poll_flush`
        // writes these records to the socket.
        if let Poll::Ready(Err(error)) = transport.poll_flush(context) {
            self.socket_error.get_or_insert(system_text(&error));
        }
        if progress {
            self.waiting_since = Instant::now();
        }
        progress
    }

    /// Reads the bytes that have arrived. Returns whether any bytes have arrived.
    fn read(&mut self, context: &mut Context<'_>) -> bool {
        let mut progress = false;
        while let Some(transport) = &mut self.transport {
            match transport.poll_read(context, &mut self.buffer) {
                Poll::Ready(Ok(0)) => {
                    self.socket_error
                        .get_or_insert("the relay closed the connection".to_owned());
                    break;
                }
                Poll::Ready(Ok(count)) => {
                    self.session.receive_data(&self.buffer[..count]);
                    self.unacknowledged = true;
                    progress = true;
                    // If the buffer is full, more bytes may be waiting, so the loop reads again.
                    if count < self.buffer.len() {
                        break;
                    }
                }
                Poll::Ready(Err(error)) => {
                    self.socket_error.get_or_insert(system_text(&error));
                    break;
                }
                Poll::Pending => {
                    // RFC 896 (Nagle): a relay may hold back replies until the client acknowledges
                    // earlier replies. The kernel delays acknowledgements by about 40 ms, unless
                    // `quick_ack` is called.
                    if std::mem::take(&mut self.unacknowledged) {
                        transport.quick_ack();
                    }
                    break;
                }
            }
        }
        if self.session.replies_read() != self.replies_read {
            // At least one whole reply arrived. The next reply has a new time limit (RFC 5321
            // 4.5.3.2).
            let now = Instant::now();
            self.replies_read = self.session.replies_read();
            self.poll_history.reply_came(now - self.waiting_since);
            self.waiting_since = now;
        }
        progress
    }

    /// After an error of the socket, reads the bytes that arrived before the error. A relay that
    /// ends a session sends the reason (421, RFC 5321 3.8) before it closes the connection. A write
    /// may fail before this reply is read.
    fn read_rest_after_error(&mut self, read: bool) {
        if read || self.socket_error.is_none() {
            return;
        }
        while let Some(Available::Data(data)) =
            self.transport.as_mut().map(Transport::read_available)
        {
            self.session.receive_data(&data);
        }
        if let Some(reason) = self.socket_error.take() {
            self.connection_lost(&reason);
        }
    }

    /// Ends the session after the loss of the connection. The session needs the number of bytes
    /// that the relay cannot have read. These are the bytes that the transport has accepted but not
    /// settled (see [`Transport::settled`]).
    fn connection_lost(&mut self, reason: &str) {
        let unsent = self.transport.as_ref().map_or(0, |transport| {
            transport.accepted().saturating_sub(transport.settled())
        });
        self.session.connection_lost(reason, unsent);
    }

    /// Starts as many messages as the session and the rate allow. Sends QUIT if no more messages
    /// will follow.
    fn begin_messages(&mut self) {
        self.token_at = None;
        if self.pool.is_ending() {
            self.retract();
        }
        let was_idle = self.session.is_idle();
        let real = Instant::now();
        if self.full || self.session.is_exhausted() || self.is_old(real) {
            // Messages in flight are finished before QUIT.
            if was_idle {
                self.session.quit();
            }
            return;
        }
        if was_idle && self.pool.has_ready() && !self.is_alive() {
            return;
        }
        let now = self.pool.clock.at(real);
        let spare = self.poll_history.is_near() && self.pool.may_prepare(now);
        while self.session.capacity(spare) > 0 {
            match self.pool.next_message(now, self.proven) {
                NextMessage::Job(job) => self.begin(*job, now),
                NextMessage::NotBefore(later) => {
                    self.token_at = Some(real + self.pool.clock.real(later - now));
                    break;
                }
                NextMessage::None => break,
            }
        }
        if was_idle && !self.session.is_idle() {
            self.waiting_since = real;
        }
        if self.pool.is_done() {
            self.session.quit();
        }
    }

    /// Reports to the pool whether this connection is idle. An idle connection sends the next
    /// message, so the pool opens no new connection for that message.
    fn update_idle(&mut self) {
        let idle = self.session.is_idle();
        if idle != self.counted_idle {
            self.counted_idle = idle;
            self.pool.set_idle(idle, self.proven);
        }
    }

    /// Whether an idle connection can be used again: neither a 421 nor the end of the stream has
    /// arrived. This method reads from the kernel, because the runtime's state of the socket dates
    /// from its last poll.
    fn is_alive(&mut self) -> bool {
        match self.transport.as_mut().map(Transport::read_available) {
            Some(Available::Nothing) => true,
            Some(Available::Data(data)) => {
                self.session.receive_data(&data);
                false
            }
            Some(Available::Closed) | None => {
                self.connection_lost("the relay closed the connection");
                false
            }
        }
    }

    /// Whether the connection must be replaced. Each connection carries a message first. Otherwise
    /// no message would be sent if the setup of a connection takes longer than the maximum age.
    fn is_old(&self, now: Instant) -> bool {
        self.carried > 0 && now - self.connected_at >= self.pool.settings.timeouts.age
    }

    fn begin(&mut self, job: Job, now: Instant) {
        // A job in `in_flight` gets its outcome even after a panic. So the job is stored there
        // before any code that could panic.
        self.in_flight.push_back(job);
        let Some(job) = self.in_flight.back_mut() else {
            return;
        };
        #[cfg(test)]
        super::test_support::panic_at(&self.pool.settings, "begin");
        // RFC 9422 4.2, 4.3: a relay may announce a maximum number of recipients and of their
        // domains. The transaction of this job obeys both limits.
        let limits = self.session.capabilities().limits;
        let limit = limits.rcpt_max.unwrap_or(usize::MAX);
        job.begin(
            now,
            self.pool.max_recipients().min(limit),
            limits.rcpt_domain_max,
        );
        let survey = job.survey();
        let message = job.message();
        if let Some(progress) = &message.progress {
            self.has_progress = true;
            self.pool.add_progress_file(&progress.file);
        }
        let started = self.session.begin(&Envelope {
            sender: &message.sender,
            recipients: &job.paths(),
            mail_options: &message.mail_options,
            rcpt_options: &message.rcpt_options,
            content: &message.content,
            survey,
        });
        // An error means that the message cannot be sent to this relay, for example because the
        // relay lacks a capability. No byte of the message was written, so the connection can send
        // the next message.
        if let Err(reason) = started
            && let Some(job) = self.in_flight.pop_back()
        {
            self.pool.reject(job, &reason, now);
        }
    }

    /// Processes the events of the session. If the session has ended, returns the reason for its
    /// end.
    async fn take_events(&mut self) -> Option<Closed> {
        let no_message = self.in_flight.is_empty();
        while let Some(event) = self.session.next_event() {
            match event {
                Event::Secure => self.secure().await,
                Event::Authenticate(mechanism) => self.authenticate(mechanism).await,
                Event::Challenge(challenge) => self.respond(challenge).await,
                Event::Ready => {
                    self.ready = true;
                    self.password = None;
                    self.pool.connection_ready(self.session.mode());
                }
                Event::Finished(outcome) => self.finish_oldest(outcome),
                Event::Closed(closed) => {
                    self.ended_idle = no_message && self.last_outcome_at.elapsed() >= IDLE_TIME;
                    return Some(closed);
                }
            }
        }
        None
    }

    /// Returns the oldest message in flight to the pool, with its outcome.
    fn finish_oldest(&mut self, outcome: MessageOutcome) {
        let Some(job) = self.in_flight.pop_front() else {
            return;
        };
        let real = Instant::now();
        self.started = true;
        self.last_outcome_at = real;
        let accepted = outcome.is_accepted();
        let counts = outcome.counts_for_connection();
        let now = self.pool.clock.at(real);
        if outcome.is_processed() && !std::mem::replace(&mut self.proven, true) {
            self.pool.connection_proven();
        }
        let connection = ConnectionUse {
            used: self.carried > 0,
            proven: self.proven,
        };
        let effect = self.pool.settle(job, outcome, connection, now);
        self.carried += usize::from(counts && effect == ConnectionEffect::Keep);
        self.surplus |= effect == ConnectionEffect::Surplus;
        self.full |= effect != ConnectionEffect::Keep;
        self.clean &= accepted || !counts || self.full;
        // After a refusal, the session waits for more replies before it writes (see `session`). So
        // the prepared messages return to the pool, because another connection may send them
        // sooner.
        if self.full || !accepted {
            self.retract();
        }
    }

    /// Returns the prepared messages to the pool. No byte of a prepared message was written.
    fn retract(&mut self) {
        for _ in 0..self.session.retract() {
            if let Some(job) = self.in_flight.pop_back() {
                self.pool.put_back(job);
            }
        }
    }

    /// Performs the TLS handshake of STARTTLS (RFC 3207).
    async fn secure(&mut self) {
        let Some(transport) = self.transport.take() else {
            return;
        };
        match secure(self.pool, transport).await {
            Ok(Some(transport)) => {
                self.transport = Some(transport);
                if self.pool.is_done() {
                    self.session.quit();
                }
                self.session.tls_established();
                self.waiting_since = Instant::now();
            }
            Ok(None) => {
                self.session.quit();
                self.session.fail(false, "the sender was closed");
            }
            Err(failure) => self
                .session
                .fail(failure.kind == FailureKind::Permanent, &failure.text),
        }
    }

    /// Reports the trace, the counters and the outcomes.
    fn report_progress(&mut self) {
        #[cfg(test)]
        if self.session.awaited_phase() == Some(crate::diagnosis::Phase::Body)
            && !self.session.wants_write()
        {
            super::test_support::panic_at(&self.pool.settings, "body");
        }
        let lines = self.session.take_trace();
        if !lines.is_empty() {
            trace(self.pool, self.number, lines);
        }
        let sent = self.session.total_sent();
        self.pool.count_bytes(sent - self.counted_bytes);
        self.counted_bytes = sent;
        self.pool.deliver_if_due();
    }

    /// Reports the end of the session to the pool.
    fn end(mut self, closed: &Closed) {
        // The session has finished all messages except those of which no byte was written. These
        // messages return to the front of the queue.
        while let Some(job) = self.in_flight.pop_back() {
            self.pool.put_back(job);
        }
        self.report_progress();
        self.leave_pool();
        if let Some(transport) = self.transport.take() {
            transport.shutdown();
        }
        let discards = self.session.discards();
        if let Some(discards) = discards {
            self.pool.set_discards(discards);
        }
        let mut failure = failure_of(self.pool, closed, discards);
        if let Some(failure) = failure.as_mut().filter(|_| self.password_failed) {
            failure.kind = FailureKind::Refused;
        }
        if self.ready {
            // RFC 5321 3.8: a relay may close a connection that was idle for too long. So the end
            // of an idle connection is not counted as a failure.
            let failure = failure.as_ref().filter(|_| !self.ended_idle);
            // A 421 whose text states no limit may mean a restart of the relay. So after such a
            // 421, the rate controller assumes a maximum number of messages only if a second
            // connection ends after the same number of messages.
            let full = match closed.cause {
                Cause::Refused => says_connection_full(closed) && !self.ended_idle,
                _ => self.full,
            };
            self.pool.connection_closed(&ConnectionEnd {
                opened: self.pool.clock.at(self.connected_at),
                started: self.started,
                messages: self.carried,
                proven: self.proven,
                failure,
                full,
                surplus: self.surplus,
                clean: self.clean,
                exhausted: self.session.is_exhausted(),
            });
        } else if let Some(failure) = failure {
            self.pool.connection_failed(&failure);
        } else {
            self.pool.connection_renewed();
        }
    }

    fn leave_pool(&mut self) {
        if std::mem::take(&mut self.counted_idle) {
            self.pool.set_idle(false, self.proven);
        }
        // The descriptor is removed before the socket is closed, because the system may reuse a
        // closed descriptor at once.
        if let Some(descriptor) = self.descriptor {
            self.pool.queue.set_descriptor(descriptor, false);
        }
    }
}

/// The purpose of a deadline.
enum Deadline {
    /// The time at which the rate allows the next message.
    Token,
    /// The end of the maximum idle time or of the maximum age.
    Idle,
    /// The time limit for the relay to accept more bytes.
    Write,
    /// The time limit for the whole reply. The error text contains the duration.
    Reply(Duration),
}

/// Returns the options of a new session, from the settings and from the results of earlier
/// connections.
fn options(pool: &Pool, transport: &Transport) -> SessionOptions {
    let settings = &pool.settings;
    let discards = pool.discards();
    let mode = match discards {
        _ if pool.is_pipelining_disabled() => Mode::Off,
        // Window mode writes a chunk before the relay can refuse the BDAT. A server that does not
        // discard the chunk of a refused BDAT would read the chunk as commands. So window mode is
        // not used with such a server.
        Some(false) => settings.mode.min(Mode::Stream),
        _ => settings.mode,
    };
    SessionOptions {
        lmtp: settings.lmtp,
        local_hostname: settings.local_hostname.clone(),
        starttls: settings.starttls,
        // A Unix socket does not use a network, so a login needs no TLS.
        secured: transport.is_secured() || matches!(settings.target, Target::Unix(_)),
        credentials: settings.credentials.clone(),
        allow_plaintext_auth: settings.allow_plaintext_auth,
        mode,
        discards: discards == Some(true),
        window: settings.window,
        window_bytes: settings.window_bytes,
        max_messages: pool.messages_per_connection(),
        trace: settings.trace,
    }
}
