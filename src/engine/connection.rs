//! One connection: a session's octets through a transport, until one of them is at its end.
//!
//! A turn takes messages, writes, reads and takes note of what was decided; it waits only when
//! none of that is possible. So replies are read while a message is written, and a connection that
//! was left alone has its 421 or its end read before the next message is begun on it.

mod fault;
mod opening;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tokio::sync::futures::Notified;
use tokio::time::{Sleep, sleep_until};

use self::fault::caught;
use self::opening::{open, secure};
use super::connect::Target;
use super::door::Request;
use super::job::Job;
use super::lookout::Patience;
use super::pool::{Failure, FailureKind, Pool, Turn};
use super::transport::{Look, Transport};
use crate::certificate::certificate_digest;
use crate::diagnosis::{Blame, Phase, diagnose, says_full};
use crate::reply::Reply;
use crate::session::{Cause, Closed, Envelope, Event, Fate, Mode, Options, Secret, Session};

/// How much one read may bring: the replies to a large window.
const READ_SIZE: usize = 64 * 1024;

/// A connection that ends after so long a rest says nothing about how many messages it takes.
const REST: Duration = Duration::from_secs(1);

/// Opens a connection and sends over it until it is at its end.
pub(super) async fn run(pool: Rc<Pool>, number: u64) {
    let opened = caught(open(&pool, number)).await;
    match opened.unwrap_or_else(|fault| Err(Failure::internal(&fault))) {
        Ok(Some(transport)) => {
            let mut connection = Connection::new(&pool, number, transport);
            match caught(connection.drive()).await {
                Ok(closed) => connection.end(&closed),
                Err(fault) => connection.abandon(&fault),
            }
        }
        Ok(None) => pool.renewed(),
        Err(failure) => {
            trace(&pool, number, [failure.text.clone()]);
            pool.failed(&failure);
        }
    }
    pool.flush();
}

fn trace(pool: &Pool, number: u64, lines: impl IntoIterator<Item = String>) {
    if pool.settings.trace {
        let lines = lines.into_iter().map(|line| format!("[{number}] {line}"));
        pool.door.request(lines.map(Request::Trace));
    }
}

struct Connection<'a> {
    pool: &'a Pool,
    number: u64,
    transport: Option<Transport>,
    session: Session,
    /// The messages in flight, oldest first, as the session settles them.
    jobs: VecDeque<Job>,
    buffer: Vec<u8>,
    opened: bool,
    born: Instant,
    decided: usize,
    /// Whether the relay takes no more messages on it.
    full: bool,
    /// When the last message came back.
    worked: Instant,
    /// Whether nothing was to be done on it for a while before its end.
    rested: bool,
    descriptor: Option<i32>,
    /// Since when the next reply is awaited, or there is nothing to do.
    since: Instant,
    answered: u64,
    patience: Patience,
    /// When there is a token for the next message.
    token_at: Option<Instant>,
    counted: u64,
    broken: Option<String>,
    /// Whether the password could not be had: there may be one the next time.
    passwordless: bool,
    /// Whether something was read since the last write, which would have acknowledged it.
    unacknowledged: bool,
    /// Whether the pool knows that it can take a message at once.
    free: bool,
}

impl<'a> Connection<'a> {
    fn new(pool: &'a Pool, number: u64, transport: Transport) -> Self {
        let descriptor = transport.descriptor();
        if let Some(descriptor) = descriptor {
            pool.door.descriptor(descriptor, true);
        }
        let now = Instant::now();
        Self {
            pool,
            number,
            session: Session::new(options(pool, &transport)),
            transport: Some(transport),
            jobs: VecDeque::new(),
            buffer: vec![0; READ_SIZE],
            opened: false,
            born: now,
            decided: 0,
            full: false,
            worked: now,
            rested: false,
            descriptor,
            since: now,
            answered: 0,
            patience: Patience::new(),
            token_at: None,
            counted: 0,
            broken: None,
            passwordless: false,
            unacknowledged: false,
            free: false,
        }
    }

    async fn drive(&mut self) -> Closed {
        let mut sleep = Box::pin(sleep_until(Instant::now().into()));
        let pool = self.pool;
        loop {
            if let Some(closed) = self.take_events().await {
                return closed;
            }
            self.fill();
            self.tell_whether_free();
            self.session.advance();
            self.note();
            if self.session.has_event() {
                continue;
            }
            let mut work = pin!(pool.work.notified());
            poll_fn(|context| self.turn(context, work.as_mut(), sleep.as_mut())).await;
        }
    }

    /// Writes and reads until nothing is possible; ready as soon as something was.
    fn turn(
        &mut self,
        context: &mut Context<'_>,
        work: Pin<&mut Notified<'_>>,
        sleep: Pin<&mut Sleep>,
    ) -> Poll<()> {
        if self.pool.cut.get() {
            self.lose("the sender was closed");
            return Poll::Ready(());
        }
        let written = self.write(context);
        let read = self.read(context);
        // What was ready may leave now.
        let written = written | (read && self.write(context));
        if written | read || self.broken.is_some() {
            self.finish_if_broken(read);
            return Poll::Ready(());
        }
        // Ready even where it changes nothing: it has to be registered anew.
        if work.poll(context).is_ready() {
            return Poll::Ready(());
        }
        if self.session.awaits().is_some() && !self.session.wants_write() {
            self.patience.waits(&self.pool.lookout, self.since);
        }
        self.sleep(context, sleep)
    }

    fn sleep(&mut self, context: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) -> Poll<()> {
        loop {
            let (deadline, reason) = self.deadline();
            let now = Instant::now();
            if now >= deadline {
                match reason {
                    Deadline::Token => return Poll::Ready(()),
                    Deadline::Rest => self.session.quit(),
                    Deadline::Write => self.lose("the relay took no more octets in time"),
                    Deadline::Reply(limit) => {
                        self.lose(&format!("no reply in {} seconds", limit.as_secs_f64()));
                    }
                }
                self.since = now;
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

    /// What is waited for, and how long.
    fn deadline(&self) -> (Instant, Deadline) {
        let timeouts = &self.pool.settings.timeouts;
        if self.session.wants_write() {
            return (self.since + timeouts.block, Deadline::Write);
        }
        if self.session.is_quitting() {
            return (self.since + timeouts.quit, Deadline::Reply(timeouts.quit));
        }
        let waited = match self.session.awaits() {
            Some(phase) => {
                let limit = timeouts.reply(phase);
                (self.since + limit, Deadline::Reply(limit))
            }
            None => {
                let age = self.born + timeouts.age;
                ((self.since + timeouts.idle).min(age), Deadline::Rest)
            }
        };
        match self.token_at {
            Some(token_at) if token_at < waited.0 && self.session.room(false) > 0 => {
                (token_at, Deadline::Token)
            }
            _ => waited,
        }
    }

    fn write(&mut self, context: &mut Context<'_>) -> bool {
        let Some(transport) = &mut self.transport else {
            return false;
        };
        let mut progress = false;
        while self.broken.is_none() && self.session.wants_write() {
            let mut pieces = Vec::with_capacity(64);
            self.session.slices(&mut pieces);
            let slices: Vec<IoSlice<'_>> = pieces.into_iter().map(IoSlice::new).collect();
            match transport.poll_send(context, &slices) {
                Poll::Ready(Ok(count)) => {
                    self.session.sent(count);
                    self.unacknowledged = false;
                    progress = true;
                }
                Poll::Ready(Err(error)) => self.broken = Some(error.to_string()),
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(Err(error)) = transport.poll_flush(context) {
            self.broken.get_or_insert(error.to_string());
        }
        if progress {
            self.since = Instant::now();
        }
        progress
    }

    fn read(&mut self, context: &mut Context<'_>) -> bool {
        let mut progress = false;
        while let Some(transport) = &mut self.transport {
            match transport.poll_read(context, &mut self.buffer) {
                Poll::Ready(Ok(0)) => {
                    self.broken
                        .get_or_insert("the relay closed the connection".to_owned());
                    break;
                }
                Poll::Ready(Ok(count)) => {
                    self.session.receive_data(&self.buffer[..count]);
                    self.unacknowledged = true;
                    progress = true;
                    // A full buffer may not be all; but what was decided is told first.
                    if count < self.buffer.len() {
                        break;
                    }
                }
                Poll::Ready(Err(error)) => {
                    self.broken.get_or_insert(error.to_string());
                    break;
                }
                Poll::Pending => {
                    // A relay may hold the rest of its replies back until it is told that the
                    // first have come (RFC 896).
                    if std::mem::take(&mut self.unacknowledged) {
                        transport.quick_ack();
                    }
                    break;
                }
            }
        }
        if self.session.answered() != self.answered {
            let now = Instant::now();
            self.answered = self.session.answered();
            self.patience.answered(now - self.since);
            self.since = now;
        }
        progress
    }

    /// After a failed write what has arrived is read first: a 421 is often there, and what the
    /// runtime knows of the socket may be older than that.
    fn finish_if_broken(&mut self, read: bool) {
        if read || self.broken.is_none() {
            return;
        }
        while let Some(Look::Data(data)) = self.transport.as_mut().map(Transport::look) {
            self.session.receive_data(&data);
        }
        if let Some(reason) = self.broken.take() {
            self.lose(&reason);
        }
    }

    fn lose(&mut self, reason: &str) {
        let withheld = self.transport.as_ref().map_or(0, |transport| {
            transport.accepted().saturating_sub(transport.settled())
        });
        self.session.lose(reason, withheld);
    }

    /// Begins as many messages as there is room for.
    fn fill(&mut self) {
        self.token_at = None;
        if self.pool.is_ending() {
            self.retract();
        }
        let was_idle = self.session.is_idle();
        if self.full || self.session.is_spent() || self.is_old() {
            if was_idle {
                self.session.quit();
            }
            return;
        }
        if was_idle && self.pool.has_ready() && !self.is_fit() {
            return;
        }
        let now = Instant::now();
        let spare = self.patience.is_near() && self.pool.has_plenty(now);
        while self.session.room(spare) > 0 {
            match self.pool.next_turn(now) {
                Turn::Job(job) => self.begin(*job, now),
                Turn::At(later) => {
                    self.token_at = Some(later);
                    break;
                }
                Turn::None => break,
            }
        }
        if was_idle && !self.session.is_idle() {
            self.since = now;
        }
        if self.pool.is_done() {
            self.session.quit();
        }
    }

    /// A connection without a message takes the next one, so that none is opened for it.
    fn tell_whether_free(&mut self) {
        let free = self.session.is_idle();
        if free != self.free {
            self.free = free;
            self.pool.free(free);
        }
    }

    /// Whether a connection that was left alone can be used again: neither its end nor a 421 is
    /// there. What the runtime knows of a socket is as old as its last pause, hence this look.
    fn is_fit(&mut self) -> bool {
        match self.transport.as_mut().map(Transport::look) {
            Some(Look::Quiet) => true,
            Some(Look::Data(data)) => {
                self.session.receive_data(&data);
                false
            }
            Some(Look::Closed) | None => {
                self.lose("the relay closed the connection");
                false
            }
        }
    }

    fn is_old(&self) -> bool {
        self.born.elapsed() >= self.pool.settings.timeouts.age
    }

    fn begin(&mut self, job: Job, now: Instant) {
        // Before anything else: what is here has an outcome, whatever happens.
        self.jobs.push_back(job);
        let Some(job) = self.jobs.back_mut() else {
            return;
        };
        #[cfg(test)]
        super::rehearsal::panic_at(&self.pool.settings, "begin");
        let limits = self.session.offer().limits;
        let limit = limits.rcpt_max.unwrap_or(usize::MAX);
        job.begin(
            now,
            self.pool.recipients().min(limit),
            limits.rcpt_domain_max,
        );
        let survey = job.survey();
        let message = job.message();
        let begun = self.session.begin(&Envelope {
            sender: &message.sender,
            recipients: &job.paths(),
            mail_options: &message.mail_options,
            rcpt_options: &message.rcpt_options,
            content: &message.content,
            survey,
        });
        if let Err(reason) = begun
            && let Some(job) = self.jobs.pop_back()
        {
            self.pool.refuse(job, &reason, now);
        }
    }

    /// Takes note of what the session says; its end, if it is there.
    async fn take_events(&mut self) -> Option<Closed> {
        let resting = self.jobs.is_empty();
        while let Some(event) = self.session.next_event() {
            match event {
                Event::Secure => self.secure().await,
                Event::Authenticate(mechanism) => self.authenticate(mechanism).await,
                Event::Ready => {
                    self.opened = true;
                    self.pool.opened(self.session.mode());
                }
                Event::Settled(fate) => {
                    if let Some(job) = self.jobs.pop_front() {
                        self.worked = Instant::now();
                        let accepted = matches!(fate, Fate::Accepted(_));
                        let dealt_with = fate.is_dealt_with();
                        let used = self.decided > 0;
                        let full = self.pool.settle(job, fate, used, Instant::now());
                        self.decided += usize::from(dealt_with && !full);
                        self.full |= full;
                        // Behind a refusal less is written ahead.
                        if self.full || !accepted {
                            self.retract();
                        }
                    }
                }
                Event::Closed(closed) => {
                    self.rested = resting && self.worked.elapsed() >= REST;
                    return Some(closed);
                }
            }
        }
        None
    }

    /// What was begun and is not written yet is not for this connection any more.
    fn retract(&mut self) {
        for _ in 0..self.session.retract() {
            if let Some(job) = self.jobs.pop_back() {
                self.pool.put_back(job);
            }
        }
    }

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
                self.session.secured();
                self.since = Instant::now();
            }
            Ok(None) => {
                self.session.quit();
                self.session.fail(false, "the sender was closed");
            }
            Err(failure) => self
                .session
                .fail(failure.kind == FailureKind::ForGood, &failure.text),
        }
    }

    async fn authenticate(&mut self, mechanism: &str) {
        let password = match self.pool.password().await {
            Ok(password) => password,
            Err(_) if self.pool.is_done() => return self.session.quit(),
            Err(reason) => {
                self.passwordless = true;
                return self.session.fail(true, &format!("no password: {reason}"));
            }
        };
        let Some(nonce) = self.pool.nonce() else {
            return self.session.fail(false, "the system has no random octets");
        };
        let binding = self.channel_binding(mechanism);
        let settings = &self.pool.settings;
        let secret = Secret {
            password: &password,
            nonce: &STANDARD_NO_PAD.encode(nonce),
            channel_binding: binding
                .as_ref()
                .map(|(name, data)| (*name, data.as_slice())),
            host: &settings.host,
            port: settings.port,
        };
        // Where it fails the session is over and says so.
        let _ = self.session.authenticate(&secret);
        self.since = Instant::now();
    }

    /// What a -PLUS mechanism binds to: `tls-exporter` (RFC 9266) on TLS 1.3. Servers that speak
    /// TLS 1.2 are older than that, and know the certificate's digest (RFC 5929).
    fn channel_binding(&self, mechanism: &str) -> Option<(&'static str, Vec<u8>)> {
        if !mechanism.ends_with("-PLUS") {
            return None;
        }
        let transport = self.transport.as_ref()?;
        if !transport.is_tls13() {
            let digest = certificate_digest(transport.peer_certificate()?);
            return digest.map(|digest| ("tls-server-end-point", digest));
        }
        transport
            .export_keying_material(b"EXPORTER-Channel-Binding", 32)
            .map(|data| ("tls-exporter", data))
    }

    /// Tells what was traced, counted and decided.
    fn note(&mut self) {
        #[cfg(test)]
        if self.session.awaits() == Some(Phase::Body) && !self.session.wants_write() {
            super::rehearsal::panic_at(&self.pool.settings, "body");
        }
        let lines = self.session.take_trace();
        if !lines.is_empty() {
            trace(self.pool, self.number, lines);
        }
        let sent = self.session.total_sent();
        self.pool.count_bytes(sent - self.counted);
        self.counted = sent;
        self.pool.flush_if_due();
    }

    fn end(mut self, closed: &Closed) {
        while let Some(job) = self.jobs.pop_back() {
            self.pool.put_back(job);
        }
        self.note();
        self.leave_the_pool();
        if let Some(transport) = self.transport.take() {
            transport.shutdown();
        }
        let discards = self.session.discards();
        if let Some(discards) = discards {
            self.pool.learn_discards(discards);
        }
        let mut failure = failure_of(self.pool, closed, discards);
        if let Some(failure) = failure.as_mut().filter(|_| self.passwordless) {
            failure.kind = FailureKind::Refused;
        }
        if self.opened {
            let ended = failure.as_ref().filter(|_| !self.rested);
            // A 421 without such words may mean a restart: it takes a second one to believe it.
            let full = match closed.cause {
                Cause::Refused => is_full(closed) && !self.rested,
                _ => self.full,
            };
            self.pool
                .closed(self.decided, ended, full, self.session.is_spent());
        } else if let Some(failure) = failure {
            self.pool.failed(&failure);
        } else {
            self.pool.renewed();
        }
    }

    fn leave_the_pool(&mut self) {
        if std::mem::take(&mut self.free) {
            self.pool.free(false);
        }
        if let Some(descriptor) = self.descriptor {
            self.pool.door.descriptor(descriptor, false);
        }
    }
}

/// What a deadline is for.
enum Deadline {
    /// There is a token for the next message.
    Token,
    /// A connection without work.
    Rest,
    /// The network, to take the next octets.
    Write,
    /// A whole reply, that has so long.
    Reply(Duration),
}

fn options(pool: &Pool, transport: &Transport) -> Options {
    let settings = &pool.settings;
    let discards = pool.discards();
    let mode = match discards {
        _ if pool.is_sequential() => Mode::Off,
        Some(false) => settings.mode.min(Mode::Stream),
        _ => settings.mode,
    };
    Options {
        lmtp: settings.lmtp,
        local_hostname: settings.local_hostname.clone(),
        starttls: settings.starttls,
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

/// What the end of a session means; `None` where it was in order.
fn failure_of(pool: &Pool, closed: &Closed, discards: Option<bool>) -> Option<Failure> {
    let relay = &pool.settings.target;
    let phase = closed.phase.unwrap_or(Phase::Connect);
    let kind = match &closed.cause {
        Cause::Quit => return None,
        // The relay is fine, and the next connection knows better.
        Cause::Fault(_) if discards == Some(false) && phase == Phase::Rset => return None,
        Cause::Unusable(_) => FailureKind::ForGood,
        Cause::Fault(_) | Cause::Lost(_) => FailureKind::Passing,
        Cause::Refused => match &closed.reply {
            Some(reply) => {
                let enhanced = reply.enhanced_status();
                match diagnose(phase, reply.code.into(), &reply.text, enhanced) {
                    Blame::Relay if phase == Phase::Auth => FailureKind::ForGood,
                    Blame::Relay => FailureKind::Refused,
                    _ => FailureKind::Passing,
                }
            }
            None => FailureKind::Passing,
        },
    };
    let text = match phase {
        Phase::Auth if closed.cause == Cause::Refused => {
            format!("{relay} refused the login: {}", closed.reason())
        }
        _ if closed.cause == Cause::Refused => {
            format!("{relay} would not have us: {}", closed.reason())
        }
        _ => format!("{relay}: {}", closed.reason()),
    };
    Some(Failure {
        text,
        reply: closed.reply.clone(),
        kind,
    })
}

/// Whether the relay said that the connection had its share of messages.
fn is_full(closed: &Closed) -> bool {
    let says_so = |reply: &Arc<Reply>| says_full(&reply.text);
    closed.cause == Cause::Refused && closed.reply.as_ref().is_some_and(says_so)
}
