//! The pool: the messages that wait, what is believed of the relay, and how many connections there
//! are to be. Everything here lives on the engine's one thread.
//!
//! The first connection has to be ready before a second one is opened, so that a wrong password is
//! tried once and a relay that is down is asked once. What a failure to connect means depends on
//! what else works:
//!
//! ```text
//!     failure                                         meaning
//!     a wrong password, a certificate, no TLS         stop, for good
//!     5yz before any mail; no password to be had      stop
//!     no connection at all, and there never was one   stop
//!     anything, while another connection is open      fewer connections
//!     anything else                                   again after a while; stop after a few times
//! ```

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

use super::connection;
use super::door::{CLOSED, Closing, Door, Request, Stop};
use super::governor::Governor;
use super::job::{Advice, Decided, Job, Next, Policy};
use super::lookout::Lookout;
use super::settings::Settings;
use crate::outcome::Status;
use crate::reply::Reply;
use crate::session::{Fate, Mode, shown};

/// Connections in a row that brought nothing, after which there will be no more.
const FRUITLESS: u32 = 10;

/// And after which PIPELINING is not believed in, if it never worked: servers that throw away what
/// came with a command offer it all the same.
const DOUBTFUL: u32 = 2;

/// Outcomes that are handed out together while there is more to send: to wake whoever waits for
/// them costs more than to send a message.
const BATCH: usize = 128;
/// How long they may be kept for that.
const BATCH_TIME: Duration = Duration::from_millis(5);

/// A message's turn.
pub(super) enum Turn {
    /// This one.
    Job(Box<Job>),
    /// Not before then.
    At(Instant),
    /// There is none.
    None,
}

/// Why there is no connection, or no longer.
pub(super) struct Failure {
    /// One line.
    pub(super) text: String,
    /// The reply that said so.
    pub(super) reply: Option<Arc<Reply>>,
    /// What it means.
    pub(super) kind: FailureKind,
}

impl Failure {
    /// One of our own making: a panic.
    pub(super) fn internal(fault: &str) -> Self {
        Self {
            text: format!("internal fault: {fault}"),
            reply: None,
            kind: FailureKind::Passing,
        }
    }
}

/// What a failure to get a connection ready means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// Nothing will help.
    ForGood,
    /// The relay said no.
    Refused,
    /// There is no connection.
    Unreachable,
    /// It may be better soon.
    Passing,
}

/// What all connections share.
pub(super) struct Pool {
    pub(super) settings: Settings,
    pub(super) door: Arc<Door>,
    /// There is something to send.
    pub(super) work: Notify,
    /// Set when all has to end.
    pub(super) cut: Cell<bool>,
    pub(super) lookout: Lookout,
    state: RefCell<State>,
    random: &'static dyn SecureRandom,
}

struct State {
    governor: Governor,
    ready: VecDeque<Job>,
    waiting: BTreeMap<(Instant, u64), Job>,
    in_flight: usize,
    decided: Vec<Decided>,
    /// Connections that are being opened, and those that are ready.
    opening: usize,
    open: usize,
    /// Of those that are ready, how many have no message.
    free: usize,
    ever: u64,
    failures: u32,
    /// Connections in a row that were ready and lost before anything was decided on them.
    fruitless: u32,
    /// Whether something was decided on a connection that did not wait for each reply.
    pipelined: bool,
    /// Whether PIPELINING, though offered, is not used.
    sequential: bool,
    not_before: Option<Instant>,
    stop: Option<Stop>,
    /// Whether no message is begun any more.
    ending: bool,
    /// Whether the relay discards the chunk of a refused BDAT.
    discards: Option<bool>,
    recipients: Option<usize>,
    mode: Option<Mode>,
    retried: u64,
    bytes: u64,
    number: u64,
    /// When what was decided is handed out at the latest.
    hand_out_at: Option<Instant>,
}

impl Pool {
    pub(super) fn new(settings: Settings, door: Arc<Door>) -> Self {
        Self {
            state: RefCell::new(State {
                governor: Governor::new(settings.rate, settings.connections.max(1)),
                ready: VecDeque::new(),
                waiting: BTreeMap::new(),
                in_flight: 0,
                decided: Vec::new(),
                opening: 0,
                open: 0,
                free: 0,
                ever: 0,
                failures: 0,
                fruitless: 0,
                pipelined: false,
                sequential: false,
                not_before: None,
                stop: None,
                ending: false,
                discards: None,
                recipients: None,
                mode: None,
                retried: 0,
                bytes: 0,
                number: 0,
                hand_out_at: None,
            }),
            settings,
            door,
            work: Notify::new(),
            cut: Cell::new(false),
            lookout: Lookout::new(),
            random: aws_lc_rs::default_provider().secure_random,
        }
    }

    /// Runs until the door says that all has to end and all has ended.
    pub(super) async fn run(self: Rc<Self>) {
        let pool = Rc::clone(&self);
        spawn_local(async move { pool.lookout.run(|| pool.look_ahead()).await });
        loop {
            self.take_in();
            let closing = self.door.closing();
            self.drain(closing);
            self.open_connections();
            self.flush_if_due();
            if closing != Closing::No && self.is_over() {
                return;
            }
            self.wait(closing).await;
        }
    }

    async fn wait(&self, closing: Closing) {
        let now = Instant::now();
        let mut soonest = now + Duration::from_secs(1);
        {
            let mut state = self.state.borrow_mut();
            let token = match state.governor.token_due(now) {
                Err(moment) if !state.ready.is_empty() => Some(moment),
                _ => None,
            };
            let ends = match closing {
                Closing::At { give_up, cut } => [Some(give_up), Some(cut)],
                _ => [None, None],
            };
            let due = state.waiting.keys().next().map(|(due, _)| *due);
            let moments = [due, state.not_before, state.hand_out_at, token]
                .into_iter()
                .chain(ends);
            for moment in moments.flatten().filter(|moment| *moment > now) {
                soonest = soonest.min(moment);
            }
        }
        // No answer is one more turn.
        let _ = timeout(soonest - now, self.door.engine.notified()).await;
    }

    /// Takes in what has come, and what has waited long enough.
    fn take_in(&self) {
        let now = Instant::now();
        let mut state = self.state.borrow_mut();
        while let Some(entry) = state.waiting.first_entry()
            && entry.key().0 <= now
        {
            let job = entry.remove();
            state.ready.push_back(job);
        }
        self.fetch(&mut state);
        if !state.ready.is_empty() {
            self.work.notify_waiters();
        }
    }

    fn fetch(&self, state: &mut State) {
        state
            .ready
            .extend(self.door.take_in().into_iter().map(Job::new));
        if state.stop.is_some() && self.door.stopped().is_none() {
            state.stop = None;
            state.failures = 0;
            state.fruitless = 0;
            state.sequential = false;
            state.not_before = None;
        }
        if let Some(stop) = &state.stop {
            let text = stop.text.clone();
            state.give_up(&text, Instant::now());
        }
    }

    fn open_connections(self: &Rc<Self>) {
        let now = Instant::now();
        loop {
            let mut state = self.state.borrow_mut();
            let allowed = state.governor.connections(now);
            let there = state.open + state.opening;
            let proven = state.open > 0 || state.opening == 0;
            let early = state.not_before.is_some_and(|not_before| now < not_before);
            let wanted = state.ready.len() > state.opening + state.free && !state.ending;
            if !wanted || !proven || early || there >= allowed || state.stop.is_some() {
                return;
            }
            if state.governor.token_due(now).is_err() {
                // It would only wait, and be closed for that before its time has come.
                return;
            }
            state.not_before = None;
            state.opening += 1;
            state.number += 1;
            let number = state.number;
            drop(state);
            spawn_local(connection::run(Rc::clone(self), number));
        }
    }

    /// Brings things to their end in time.
    fn drain(&self, closing: Closing) {
        if closing == Closing::No {
            return;
        }
        let now = Instant::now();
        if let Closing::At { give_up, cut } = closing {
            if now >= give_up {
                let mut state = self.state.borrow_mut();
                state.ending = true;
                state.give_up(CLOSED, now);
                drop(state);
                self.door.wake_composers();
            }
            if now >= cut {
                self.cut.set(true);
            }
        }
        // Idle connections say goodbye.
        self.work.notify_waiters();
    }

    fn is_over(&self) -> bool {
        let state = self.state.borrow();
        let at_rest = state.ready.is_empty() && state.waiting.is_empty() && state.in_flight == 0;
        let all_left = state.open + state.opening == 0;
        at_rest && self.door.is_composed() && (all_left || self.cut.get())
    }

    // What a connection asks for and tells

    /// Whether a connection that has nothing to do ought to end.
    pub(super) fn is_done(&self) -> bool {
        let state = self.state.borrow();
        let more = !state.ready.is_empty() || !state.waiting.is_empty();
        let closing = || self.door.closing() != Closing::No && self.door.is_composed();
        state.stop.is_some() || state.ending || (!more && closing())
    }

    /// Whether a message waits for a connection.
    pub(super) fn has_ready(&self) -> bool {
        let mut state = self.state.borrow_mut();
        if state.ready.is_empty() {
            self.fetch(&mut state);
        }
        !state.ready.is_empty() && !state.ending
    }

    /// Whether a connection may make a message ready that it cannot write yet: others have enough,
    /// and there is no pace to keep.
    pub(super) fn has_plenty(&self, now: Instant) -> bool {
        let state = self.state.borrow();
        state.ready.len() > 2 * self.settings.connections && state.governor.rate(now).is_none()
    }

    /// The next message, with a token for it.
    pub(super) fn next_turn(&self, now: Instant) -> Turn {
        if !self.has_ready() {
            return Turn::None;
        }
        let mut state = self.state.borrow_mut();
        if let Err(later) = state.governor.take_token(now) {
            return Turn::At(later);
        }
        match state.ready.pop_front() {
            Some(job) => {
                state.in_flight += 1;
                Turn::Job(Box::new(job))
            }
            None => Turn::None,
        }
    }

    /// Looks through one of the messages whose turn is next, so that it can leave as soon as there
    /// is an answer.
    fn look_ahead(&self) {
        let mut state = self.state.borrow_mut();
        let connections = state.open;
        let mut next = state.ready.iter_mut().take(connections);
        if let Some(job) = next.find(|job| !job.is_surveyed()) {
            job.survey();
        }
    }

    /// The most recipients of one transaction, as far as is known.
    pub(super) fn recipients(&self) -> usize {
        let learned = self.state.borrow().recipients.unwrap_or(usize::MAX);
        self.settings.max_recipients.min(learned)
    }

    /// The most messages of one connection, as far as is known.
    pub(super) fn messages_per_connection(&self) -> Option<usize> {
        self.state.borrow().messages_per_connection(&self.settings)
    }

    /// Whether PIPELINING is not to be used, since nothing ever came of it.
    pub(super) fn is_sequential(&self) -> bool {
        self.state.borrow().sequential
    }

    /// Whether the relay is known to discard the chunk of a refused BDAT.
    pub(super) fn discards(&self) -> Option<bool> {
        self.state.borrow().discards
    }

    /// What the discard test brought.
    pub(super) fn learn_discards(&self, discards: bool) {
        self.state.borrow_mut().discards = Some(discards);
    }

    /// A message came back from a connection, which was of use before or not; says whether that one
    /// takes no more of them.
    pub(super) fn settle(&self, job: Job, fate: Fate, used: bool, now: Instant) -> bool {
        let policy = Policy {
            used,
            ..self.policy()
        };
        let lost = job.lost();
        let settled = catch_unwind(AssertUnwindSafe(|| {
            #[cfg(test)]
            super::rehearsal::panic_at(&self.settings, "settle");
            job.settle(fate, now, || self.random(), &policy)
        }));
        let (next, advice) =
            settled.unwrap_or_else(|_| (Next::Decided(lost.decided()), Vec::new()));
        let mut full = false;
        self.go_on(next, now);
        for advice in advice {
            match advice {
                Advice::Slower => self.state.borrow_mut().governor.slower(now),
                Advice::ConnectionFull => full = true,
                Advice::Recipients(number) => {
                    self.state.borrow_mut().recipients = Some(number);
                }
                Advice::Stop(reply) => self.stop(&Failure {
                    text: format!(
                        "{} would not have us: {} {}",
                        self.settings.target,
                        reply.code,
                        shown(&reply.text)
                    ),
                    reply: Some(reply),
                    kind: FailureKind::Refused,
                }),
            }
        }
        full
    }

    /// A message cannot be offered to this relay.
    pub(super) fn refuse(&self, job: Job, reason: &str, now: Instant) {
        let next = job.refuse(reason, now, || self.random(), &self.policy());
        self.go_on(next, now);
    }

    /// A message of which nothing was written.
    pub(super) fn put_back(&self, job: Job) {
        let mut state = self.state.borrow_mut();
        state.in_flight -= 1;
        state.ready.push_front(job.put_back());
        self.work.notify_waiters();
        self.look_again(&mut state, Instant::now());
    }

    /// Whether nothing more is to be begun.
    pub(super) fn is_ending(&self) -> bool {
        let state = self.state.borrow();
        state.stop.is_some() || state.ending
    }

    fn go_on(&self, next: Next, now: Instant) {
        let mut state = self.state.borrow_mut();
        state.in_flight -= 1;
        match next {
            Next::Decided(decided) => {
                if decided.status == Status::Accepted {
                    state.governor.accepted(now, 1);
                }
                state.decided.push(decided);
                return;
            }
            Next::Now(job) => {
                state.retried += 1;
                state.ready.push_front(job);
                self.work.notify_waiters();
            }
            Next::Later(job, delay) => {
                state.retried += 1;
                state.number += 1;
                let key = (now + delay, state.number);
                state.waiting.insert(key, job);
            }
        }
        self.look_again(&mut state, now);
    }

    /// Messages wait again, unless there is nothing to wait for.
    fn look_again(&self, state: &mut State, now: Instant) {
        if let Some(stop) = &state.stop {
            let text = stop.text.clone();
            state.give_up(&text, now);
        } else if state.ending {
            state.give_up(CLOSED, now);
        }
        self.door.engine.notify_one();
    }

    /// A connection is ready.
    pub(super) fn opened(&self, mode: Mode) {
        let mut state = self.state.borrow_mut();
        state.opening -= 1;
        state.open += 1;
        state.ever += 1;
        state.mode = Some(mode);
        self.door.engine.notify_one();
    }

    /// A connection that is ready can take a message at once, or no longer.
    pub(super) fn free(&self, free: bool) {
        let mut state = self.state.borrow_mut();
        if free {
            state.free += 1;
        } else {
            state.free -= 1;
        }
    }

    /// A connection did not get ready.
    pub(super) fn failed(&self, failure: &Failure) {
        let now = Instant::now();
        let mut state = self.state.borrow_mut();
        state.opening -= 1;
        let stop = match failure.kind {
            FailureKind::ForGood => true,
            _ if state.open > 0 => {
                let open = state.open;
                state.governor.connection_refused(now, open);
                false
            }
            FailureKind::Refused => true,
            FailureKind::Unreachable if state.ever == 0 => true,
            FailureKind::Unreachable | FailureKind::Passing => self.fail_again(&mut state, now),
        };
        drop(state);
        if stop {
            self.stop(failure);
        }
        self.door.engine.notify_one();
    }

    /// A connection ended before any mail for a reason that the next one knows of.
    pub(super) fn renewed(&self) {
        self.state.borrow_mut().opening -= 1;
        self.door.engine.notify_one();
    }

    /// One failure more in a row; says whether that is one too many.
    fn fail_again(&self, state: &mut State, now: Instant) -> bool {
        state.failures += 1;
        let delay = self.settings.backoff.delay(state.failures, self.random());
        state.not_before = Some(now + delay);
        state.failures >= self.settings.max_attempts
    }

    /// A connection that was ready is at its end, after so many messages were decided on it.
    pub(super) fn closed(&self, decided: usize, ended: Option<&Failure>, told: bool, spent: bool) {
        let now = Instant::now();
        let mut state = self.state.borrow_mut();
        state.open -= 1;
        if decided > 0 {
            state.failures = 0;
            state.fruitless = 0;
            state.pipelined |= state.mode > Some(Mode::Off);
        }
        let mut stop = false;
        match ended {
            _ if told && decided > 0 => state.governor.connection_ended(decided, true),
            _ if told => stop = self.be_fruitless(&mut state, now),
            Some(_) if decided > 0 => state.governor.connection_ended(decided, false),
            Some(failure) => {
                stop = self.be_fruitless(&mut state, now);
                let wordless = failure.reply.is_none() && !state.pipelined;
                state.sequential |= wordless && state.fruitless >= DOUBTFUL;
            }
            None if spent => state.governor.connection_filled(),
            None => {}
        }
        drop(state);
        if let Some(failure) = ended.filter(|_| stop) {
            self.stop(failure);
        }
        self.door.engine.notify_one();
    }

    /// The relay lets us in and throws us out again: not faster and faster, and not for ever.
    fn be_fruitless(&self, state: &mut State, now: Instant) -> bool {
        state.fruitless += 1;
        if state.open > 0 {
            let open = state.open;
            state.governor.connection_refused(now, open);
            return false;
        }
        if state.fruitless < 2 {
            return false;
        }
        let failures = state.fruitless - 1;
        let delay = self.settings.backoff.delay(failures, self.random());
        state.not_before = Some(now + delay);
        state.fruitless >= FRUITLESS
    }

    /// Nothing more is sent.
    fn stop(&self, failure: &Failure) {
        let stop = Stop {
            text: failure.text.clone(),
            reply: failure
                .reply
                .as_ref()
                .map(|reply| (reply.code, reply.text.clone())),
            for_good: failure.kind == FailureKind::ForGood,
        };
        self.door.stop(stop.clone());
        let mut state = self.state.borrow_mut();
        state.stop.get_or_insert(stop);
        drop(state);
        self.take_in();
        // Idle connections say goodbye.
        self.work.notify_waiters();
        self.door.engine.notify_one();
    }

    /// The password for a login.
    pub(super) async fn password(&self) -> Result<String, String> {
        if let Some(password) = &self.settings.password {
            return Ok(password.clone());
        }
        self.door.request([Request::Password]);
        let deadline = Instant::now() + self.settings.timeouts.command;
        loop {
            if let Some(answer) = self.door.take_password() {
                return answer;
            }
            let (done, late) = (self.is_done(), Instant::now() >= deadline);
            if done || late {
                self.door.give_up_password();
                let reason = if done {
                    CLOSED
                } else {
                    "nobody gave it in time"
                };
                return Err(reason.to_owned());
            }
            // The door wakes whoever opens connections; a token takes a while anyway.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Octets that were handed to the network.
    pub(super) fn count_bytes(&self, bytes: u64) {
        self.state.borrow_mut().bytes += bytes;
    }

    /// From 0 to 1.
    pub(super) fn random(&self) -> f64 {
        let mut octets = [0; 4];
        // Without randomness the longest wait is the polite one.
        match self.random.fill(&mut octets) {
            Ok(()) => f64::from(u32::from_le_bytes(octets)) / f64::from(u32::MAX),
            Err(_) => 1.0,
        }
    }

    /// Octets that nobody can guess.
    pub(super) fn nonce(&self) -> Option<[u8; 24]> {
        let mut octets = [0; 24];
        self.random.fill(&mut octets).ok().map(|()| octets)
    }

    fn policy(&self) -> Policy {
        Policy {
            max_attempts: self.settings.max_attempts.max(1),
            backoff: self.settings.backoff,
            resend_unknown: self.settings.resend_unknown,
            used: true,
        }
    }

    /// Tells the door, unless it is better to wait until there is more to be told.
    pub(super) fn flush_if_due(&self) {
        let mut state = self.state.borrow_mut();
        let number = state.decided.len();
        if number > 0 && number < BATCH && !state.ready.is_empty() {
            let now = Instant::now();
            match state.hand_out_at {
                None => {
                    state.hand_out_at = Some(now + BATCH_TIME);
                    // Nobody else might look at the clock.
                    self.door.engine.notify_one();
                    return;
                }
                Some(due) if now < due => return,
                Some(_) => {}
            }
        }
        drop(state);
        self.flush();
    }

    /// Tells the door what was decided, and what is believed.
    pub(super) fn flush(&self) {
        let now = Instant::now();
        let mut state = self.state.borrow_mut();
        state.hand_out_at = None;
        let decided = std::mem::take(&mut state.decided);
        let state = &mut *state;
        self.door.hand_out(decided, |stats| {
            stats.queued = state.ready.len();
            stats.in_flight = state.in_flight;
            stats.waiting = state.waiting.len();
            stats.retried = state.retried;
            stats.per_second = state.governor.per_second(now);
            stats.bytes = state.bytes;
            stats.connections = state.open;
            stats.connected = state.ever;
            stats.rate = state.governor.rate(now);
            stats.allowed_connections = state.governor.connections(now);
            stats.messages_per_connection = state.messages_per_connection(&self.settings);
            stats.recipients_per_message = state.recipients;
            stats.mode = state.mode;
        });
    }
}

impl State {
    fn messages_per_connection(&self, settings: &Settings) -> Option<usize> {
        let learned = self.governor.messages_per_connection();
        let limits = [learned, settings.max_messages_per_connection];
        limits.into_iter().flatten().min()
    }

    /// All that waits is over.
    fn give_up(&mut self, reason: &str, now: Instant) {
        let waiting = std::mem::take(&mut self.waiting).into_values();
        for job in self.ready.drain(..).chain(waiting) {
            self.decided.push(job.give_up(reason, now));
        }
    }
}
