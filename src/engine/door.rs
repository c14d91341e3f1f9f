//! The door between the engine's thread and everybody else: messages in, outcomes out, in batches.
//!
//! It is the only thing that the two sides share. Whoever stands outside may wait here for room or
//! for outcomes; the engine's thread never waits, it is woken.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::composer::{AHEAD, Ahead, Draft, unsent};
use super::job::{Decided, Message};
use crate::outcome::Status;

/// Why a message was not attempted although nothing was wrong.
pub(super) const CLOSED: &str = "the sender was closed before it was sent";

/// Drafts that a composer takes at once, at the most; few are shared among several.
const DRAFTS: usize = 8;
const SHARES: usize = 4;

/// Lines of the trace that wait to be fetched.
const TRACE_LINES: usize = 10_000;

/// A relay that could not be reached is not asked again sooner.
const CALM: Duration = Duration::from_secs(1);

/// A consumer of outcomes.
pub type Channel = u64;

/// What the engine wants of whoever made it.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// A line of the trace.
    Trace(String),
    /// The password for a login that is under way.
    Password,
}

/// Why the engine stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// One line.
    pub text: String,
    /// The reply that said so, if one did.
    pub reply: Option<(i16, Vec<u8>)>,
    /// Whether no later attempt will fare better: a wrong password, a bad certificate.
    pub for_good: bool,
}

/// What may still come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Messages.
    pub messages: usize,
    /// Octets of their contents; the last message may have more.
    pub bytes: usize,
}

/// What a composer is given.
pub struct Drafts {
    /// Which batch it is, in the order in which the messages go on.
    pub number: u64,
    /// Messages to be written.
    pub drafts: Vec<Draft>,
    /// Why they are not to be written any more.
    pub over: Option<String>,
}

/// What is counted, and what the engine believes.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Messages that were taken.
    pub taken: u64,
    /// Messages by their status, in the order of `Status`.
    pub decided: [u64; 7],
    /// Waiting to be sent.
    pub queued: usize,
    /// Being sent.
    pub in_flight: usize,
    /// Waiting to be tried again.
    pub waiting: usize,
    /// Transactions that had to be made again.
    pub retried: u64,
    /// Messages accepted in the last second.
    pub per_second: f64,
    /// Octets handed to the network.
    pub bytes: u64,
    /// Connections that are open.
    pub connections: usize,
    /// Connections that were ever made.
    pub connected: u64,
    /// Messages a second that may be begun.
    pub rate: Option<f64>,
    /// Connections that may be open.
    pub allowed_connections: usize,
    /// Messages that the relay takes on one connection.
    pub messages_per_connection: Option<usize>,
    /// Recipients that it takes in one transaction.
    pub recipients_per_message: Option<usize>,
    /// The mode in force.
    pub mode: Option<crate::session::Mode>,
}

/// Whether the engine is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// It is not.
    No,
    /// When all is decided.
    WhenDone,
    /// In time, whatever is decided then.
    At {
        /// When what is not in flight is given up.
        give_up: Instant,
        /// When what is in flight is cut off.
        cut: Instant,
    },
}

/// The door.
pub struct Door {
    state: Mutex<State>,
    /// Somebody outside has something to look at.
    outside: Condvar,
    /// The composers have something to look at.
    composers: Condvar,
    /// Octets that are written and not begun.
    ahead: AtomicUsize,
    /// The engine has something to look at.
    pub engine: Notify,
    queue_size: usize,
    queue_bytes: usize,
}

struct State {
    intake: Vec<Message>,
    drafts: VecDeque<Draft>,
    /// Drafts that are being written, or wait for those before them.
    composing: usize,
    /// The batches that were given out, and those that have gone on.
    given: u64,
    gone_on: u64,
    /// What was written before an earlier batch.
    early: BTreeMap<u64, Vec<Message>>,
    idle_composers: usize,
    undecided: usize,
    bytes: usize,
    channels: HashMap<Channel, Outbox>,
    next_channel: Channel,
    requests: VecDeque<Request>,
    lost_lines: usize,
    /// What was decided and nobody asks for.
    orphans: Vec<Decided>,
    passwords: VecDeque<Result<String, String>>,
    /// Passwords that were asked for and are awaited no more.
    late_passwords: usize,
    stop: Option<Stop>,
    stopped_at: Option<Instant>,
    closing: Closing,
    closed: bool,
    /// How many wait outside.
    waiting: usize,
    stats: Stats,
    descriptors: Vec<i32>,
}

#[derive(Default)]
struct Outbox {
    decided: VecDeque<Decided>,
    undecided: usize,
}

impl Door {
    /// A door that lets so many messages, and so many octets of contents, stand inside.
    #[must_use]
    pub fn new(queue_size: usize, queue_bytes: usize) -> Self {
        Self {
            state: Mutex::new(State {
                intake: Vec::new(),
                drafts: VecDeque::new(),
                composing: 0,
                given: 0,
                gone_on: 0,
                early: BTreeMap::new(),
                idle_composers: 0,
                undecided: 0,
                bytes: 0,
                channels: HashMap::new(),
                next_channel: 1,
                requests: VecDeque::new(),
                lost_lines: 0,
                orphans: Vec::new(),
                passwords: VecDeque::new(),
                late_passwords: 0,
                stop: None,
                stopped_at: None,
                closing: Closing::No,
                closed: false,
                waiting: 0,
                stats: Stats::default(),
                descriptors: Vec::new(),
            }),
            outside: Condvar::new(),
            composers: Condvar::new(),
            ahead: AtomicUsize::new(0),
            engine: Notify::new(),
            queue_size: queue_size.max(1),
            queue_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // From outside

    /// A new consumer of outcomes.
    pub fn channel(&self) -> Channel {
        let mut state = self.lock();
        let channel = state.next_channel;
        state.next_channel += 1;
        state.channels.insert(channel, Outbox::default());
        channel
    }

    /// What there is room for; waits for some room no longer than until `deadline`, and no longer
    /// than until an outcome of this channel is there. `None` is for the latter.
    pub fn wait_for_room(&self, channel: Channel, deadline: Instant) -> Option<Room> {
        let mut state = self.lock();
        loop {
            let room = self.room(&state);
            if room.messages > 0 {
                return Some(room);
            }
            let outbox = state.channels.get(&channel);
            if outbox.is_some_and(|outbox| !outbox.decided.is_empty()) {
                return None;
            }
            match self.wait(state, deadline) {
                Some(woken) => state = woken,
                None => return Some(room),
            }
        }
    }

    /// Whether no more messages are sent that come in now.
    pub fn is_closing(&self) -> bool {
        self.lock().closing != Closing::No
    }

    /// Takes messages in, and what is to become one; there ought to be room for the first of them.
    pub fn put(
        &self,
        channel: Channel,
        mut messages: Vec<Message>,
        mut drafts: Vec<Draft>,
        mut decided: Vec<Decided>,
    ) {
        let mut behind = Vec::new();
        let mut state = self.lock();
        if state.closed {
            decided.extend(messages.drain(..).map(|each| too_late(each, &mut behind)));
            decided.extend(drafts.drain(..).map(|draft| unsent(&draft, CLOSED)));
        }
        let inside = messages.len() + drafts.len();
        let number = inside + decided.len();
        state.stats.taken += number as u64;
        if let Some(outbox) = state.channels.get_mut(&channel) {
            outbox.undecided += number;
        }
        state.undecided += inside;
        let compose = !drafts.is_empty() && state.idle_composers > 0;
        state.drafts.extend(drafts);
        let wake = state.take_messages(messages);
        state.deliver(decided);
        let waiting = state.waiting > 0;
        drop(state);
        if compose {
            self.composers.notify_all();
        }
        if wake {
            self.engine.notify_one();
        }
        if waiting {
            self.outside.notify_all();
        }
    }

    /// Whether nobody inside will take messages any more, and why.
    pub fn stopped(&self) -> Option<Stop> {
        self.lock().stop.clone()
    }

    /// Forgets why the engine stopped, unless that is for good, or was only just now.
    pub fn restart(&self) {
        let mut state = self.lock();
        let calm = state.stopped_at.is_none_or(|at| at.elapsed() >= CALM);
        if calm && state.stop.as_ref().is_some_and(|stop| !stop.for_good) {
            state.stop = None;
            drop(state);
            self.engine.notify_one();
        }
    }

    /// Takes outcomes of a channel; waits for the first no longer than until `deadline`.
    pub fn take(&self, channel: Channel, limit: usize, deadline: Instant) -> Vec<Decided> {
        let mut state = self.lock();
        loop {
            let Some(outbox) = state.channels.get_mut(&channel) else {
                return Vec::new();
            };
            if !outbox.decided.is_empty() {
                let count = limit.min(outbox.decided.len());
                outbox.undecided -= count;
                return outbox.decided.drain(..count).collect();
            }
            if state.closed {
                return Vec::new();
            }
            match self.wait(state, deadline) {
                Some(woken) => state = woken,
                None => return Vec::new(),
            }
        }
    }

    /// Messages of a channel that were taken and whose outcomes were not.
    pub fn undecided(&self, channel: Channel) -> usize {
        let state = self.lock();
        let outbox = state.channels.get(&channel);
        outbox.map_or(0, |outbox| outbox.undecided)
    }

    /// Nobody will take the outcomes of this channel; gives those that are there.
    pub fn forget(&self, channel: Channel) -> Vec<Decided> {
        let outbox = self.lock().channels.remove(&channel);
        outbox.map_or_else(Vec::new, |outbox| outbox.decided.into())
    }

    /// Outcomes that nobody will take, so that what belongs to them can be let go of.
    pub fn orphans(&self) -> Vec<Decided> {
        mem::take(&mut self.lock().orphans)
    }

    /// What the engine wants; waits for something no longer than until `deadline`.
    pub fn requests(&self, deadline: Instant) -> Vec<Request> {
        let mut state = self.lock();
        loop {
            if !state.requests.is_empty() {
                let lost = mem::take(&mut state.lost_lines);
                let note = (lost > 0).then(|| Request::Trace(format!("{lost} lines were lost")));
                return note.into_iter().chain(state.requests.drain(..)).collect();
            }
            if state.closed {
                return Vec::new();
            }
            match self.wait(state, deadline) {
                Some(woken) => state = woken,
                None => return Vec::new(),
            }
        }
    }

    /// The password that was asked for, or why there is none.
    pub fn answer_password(&self, answer: Result<String, String>) {
        let mut state = self.lock();
        if state.late_passwords > 0 {
            // A token may be of use once, or for a while: whoever logs in next asks anew.
            state.late_passwords -= 1;
            return;
        }
        state.passwords.push_back(answer);
        drop(state);
        self.engine.notify_one();
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        self.lock().stats.clone()
    }

    /// The sockets that are open; `None` where that cannot be told at once.
    pub fn descriptors(&self) -> Option<Vec<i32>> {
        let state = self.state.try_lock().ok()?;
        Some(state.descriptors.clone())
    }

    /// Tells the engine to end; the earliest end that was asked for holds.
    pub fn close(&self, closing: Closing) {
        let mut state = self.lock();
        state.closing = match (state.closing, closing) {
            (
                Closing::At { give_up, cut },
                Closing::At {
                    give_up: sooner,
                    cut: first,
                },
            ) => Closing::At {
                give_up: give_up.min(sooner),
                cut: cut.min(first),
            },
            (at @ Closing::At { .. }, _) => at,
            (_, closing) => closing,
        };
        drop(state);
        self.engine.notify_one();
        self.composers.notify_all();
    }

    /// Waits for the engine's end; says whether it is there.
    pub fn wait_for_end(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        while !state.closed {
            match self.wait(state, deadline) {
                Some(woken) => state = woken,
                None => return false,
            }
        }
        true
    }

    fn room(&self, state: &State) -> Room {
        if state.stop.is_some() || state.closing != Closing::No {
            // What comes in is decided at once.
            return Room {
                messages: usize::MAX,
                bytes: usize::MAX,
            };
        }
        let bytes = self.queue_bytes.saturating_sub(state.bytes);
        let messages = self.queue_size.saturating_sub(state.undecided);
        Room {
            messages: if bytes == 0 { 0 } else { messages },
            bytes,
        }
    }

    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        deadline: Instant,
    ) -> Option<MutexGuard<'a, State>> {
        let left = deadline
            .checked_duration_since(Instant::now())
            .filter(|left| *left > Duration::ZERO)?;
        state.waiting += 1;
        let woken = self.outside.wait_timeout(state, left);
        let mut state = woken.unwrap_or_else(PoisonError::into_inner).0;
        state.waiting -= 1;
        Some(state)
    }

    /// Whether the engine's thread is at its end.
    pub fn is_ended(&self) -> bool {
        self.lock().closed
    }

    // From those who write drafts

    /// Drafts to be written; waits for them. `None` when there will be no more.
    pub fn next_drafts(&self) -> Option<Drafts> {
        let mut state = self.lock();
        loop {
            let over = state.over();
            let may = over.is_some()
                || self.ahead.load(Ordering::Relaxed) < AHEAD && state.bytes < self.queue_bytes;
            if may && !state.drafts.is_empty() {
                let count = state.drafts.len().div_ceil(SHARES).min(DRAFTS);
                state.composing += count;
                let number = state.given;
                state.given += 1;
                let drafts = state.drafts.drain(..count).collect();
                return Some(Drafts {
                    number,
                    drafts,
                    over,
                });
            }
            if state.closed {
                return None;
            }
            state.idle_composers += 1;
            state = self
                .composers
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle_composers -= 1;
        }
    }

    /// What became of a batch. Its messages go on when those of all earlier ones have.
    pub fn composed(&self, number: u64, messages: Vec<Message>, mut decided: Vec<Decided>) {
        let mut behind = Vec::new();
        let mut state = self.lock();
        state.composing -= decided.len();
        state.early.insert(number, messages);
        let mut ready = state.in_order();
        if state.closed {
            decided.extend(ready.drain(..).map(|each| too_late(each, &mut behind)));
        }
        state.undecided -= decided.len();
        let some = !decided.is_empty() && state.waiting > 0;
        state.deliver(decided);
        let wake = state.take_messages(ready) || state.closing != Closing::No;
        drop(state);
        if wake {
            self.engine.notify_one();
        }
        if some {
            self.outside.notify_all();
        }
    }

    /// Counts octets as written ahead until what is returned is dropped.
    pub(super) fn ahead(self: &Arc<Self>, size: usize) -> Ahead {
        self.ahead.fetch_add(size, Ordering::Relaxed);
        Ahead {
            door: Arc::clone(self),
            size,
        }
    }

    /// Octets that are no longer ahead; the composers are woken when half of them are gone.
    pub(super) fn caught_up(&self, size: usize) {
        let before = self.ahead.fetch_sub(size, Ordering::Relaxed);
        if before >= AHEAD / 2 && before - size < AHEAD / 2 {
            self.wake_composers();
        }
    }

    /// Lets the composers look around.
    pub(super) fn wake_composers(&self) {
        // Whoever is about to wait holds the lock, and would miss it.
        drop(self.lock());
        self.composers.notify_all();
    }

    /// Whether all drafts are messages, and all of them were taken in.
    pub(super) fn is_composed(&self) -> bool {
        let state = self.lock();
        state.intake.is_empty() && state.drafts.is_empty() && state.composing == 0
    }

    // From inside

    /// Takes all messages that wait outside.
    pub fn take_in(&self) -> Vec<Message> {
        mem::take(&mut self.lock().intake)
    }

    /// Hands outcomes out, and what is known by now.
    pub fn hand_out(&self, decided: Vec<Decided>, believe: impl FnOnce(&mut Stats)) {
        let mut state = self.lock();
        let some = !decided.is_empty();
        state.undecided -= decided.len();
        state.bytes -= decided.iter().map(|decided| decided.size).sum::<usize>();
        state.deliver(decided);
        believe(&mut state.stats);
        state.stats.queued += state.drafts.len() + state.composing;
        let waiting = state.waiting > 0;
        drop(state);
        if some && waiting {
            self.outside.notify_all();
        }
    }

    /// Wants something of those outside.
    pub fn request(&self, requests: impl IntoIterator<Item = Request>) {
        let mut state = self.lock();
        for request in requests {
            if state.requests.len() >= TRACE_LINES {
                let is_line = |each: &Request| matches!(each, Request::Trace(_));
                if let Some(place) = state.requests.iter().position(is_line) {
                    state.requests.remove(place);
                    state.lost_lines += 1;
                }
            }
            state.requests.push_back(request);
        }
        drop(state);
        self.outside.notify_all();
    }

    /// A password that was asked for is awaited no more.
    pub fn give_up_password(&self) {
        self.lock().late_passwords += 1;
    }

    /// The answer to a request for a password, if it is there.
    pub fn take_password(&self) -> Option<Result<String, String>> {
        self.lock().passwords.pop_front()
    }

    /// No more will be sent.
    pub fn stop(&self, stop: Stop) {
        let mut state = self.lock();
        if state.stop.is_none() {
            state.stopped_at = Some(Instant::now());
            state.stop = Some(stop);
        }
        drop(state);
        self.composers.notify_all();
        self.outside.notify_all();
    }

    /// Whether the engine is to end.
    pub fn closing(&self) -> Closing {
        self.lock().closing
    }

    /// A socket was opened, or is closed.
    pub fn descriptor(&self, descriptor: i32, open: bool) {
        let mut state = self.lock();
        state.descriptors.retain(|each| *each != descriptor);
        if open {
            state.descriptors.push(descriptor);
        }
    }

    /// The engine's thread is at its end.
    pub fn ended(&self) {
        let mut behind = Vec::new();
        let mut state = self.lock();
        state.closed = true;
        let late = mem::take(&mut state.intake).into_iter();
        let late = late.map(|each| too_late(each, &mut behind));
        let mut late: Vec<Decided> = late.collect();
        let drafts = mem::take(&mut state.drafts);
        late.extend(drafts.iter().map(|draft| unsent(draft, CLOSED)));
        state.undecided -= late.len();
        state.bytes = 0;
        state.deliver(late);
        drop(state);
        self.composers.notify_all();
        self.outside.notify_all();
    }
}

/// The outcome of a message that came when nobody was inside any more. What it was ahead goes to
/// `behind`, because to drop it takes the lock.
fn too_late(mut message: Message, behind: &mut Vec<Option<Ahead>>) -> Decided {
    behind.push(message.ahead.take());
    Decided {
        content: Some(message.content),
        ..Decided::outside(
            message.channel,
            message.token,
            message.recipients,
            Status::NotAttempted,
            CLOSED,
        )
    }
}

impl State {
    /// The messages for which nothing has to be waited any more.
    fn in_order(&mut self) -> Vec<Message> {
        let mut ready = Vec::new();
        while let Some(messages) = self.early.remove(&self.gone_on) {
            self.gone_on += 1;
            ready.extend(messages);
        }
        self.composing -= ready.len();
        ready
    }

    /// Says whether the engine has to be told.
    fn take_messages(&mut self, messages: Vec<Message>) -> bool {
        self.bytes += messages.iter().map(|message| message.size).sum::<usize>();
        let wake = self.intake.is_empty() && !messages.is_empty();
        if self.intake.is_empty() {
            self.intake = messages;
        } else {
            self.intake.extend(messages);
        }
        wake
    }

    /// Why drafts are not to be written any more.
    fn over(&self) -> Option<String> {
        if let Some(stop) = &self.stop {
            return Some(stop.text.clone());
        }
        match self.closing {
            Closing::At { give_up, .. } if Instant::now() >= give_up => Some(CLOSED.to_owned()),
            _ => None,
        }
    }

    fn deliver(&mut self, decided: Vec<Decided>) {
        for each in decided {
            self.stats.decided[each.status as usize] += 1;
            match self.channels.get_mut(&each.channel) {
                Some(outbox) => outbox.decided.push_back(each),
                None => self.orphans.push(each),
            }
        }
    }
}
