//! One message's way to its outcome: which recipients are next, what a reply makes of them, and
//! when it is over.
//!
//! ```text
//!     the last word on a recipient     it is
//!     2yz to the body                  accepted
//!     5yz                              refused
//!     4yz                              tried again after a while, up to `max_attempts` times; then deferred
//!     4yz that says "slower"           the same, but the first ten times cost no attempt
//!     not executed                     tried again at once; the first three times cost no attempt
//!     452 behind accepted recipients   sent in a transaction of its own, at no cost
//!     nothing, and the body is out     unknown, unless the caller wants it sent again
//! ```
//!
//! What is tried again is a recipient, never a message: those that have it, or may have it, are
//! not named again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::composer::Ahead;
use super::settings::Backoff;
use crate::content::{Content, Survey};
use crate::diagnosis::{Blame, Phase, diagnose, says_full};
use crate::outcome::{Status, message_status, recipient_status};
use crate::reply::Reply;
use crate::session::{Fate, Word, shown};

/// How often a message goes back to the queue, through its connection's fault, at no cost.
const FREE_RETURNS: u32 = 3;
/// How often it does so because the pace was too fast.
const FREE_SLOWS: u32 = 10;

/// A message as the engine takes it.
pub struct Message {
    /// Whom to tell.
    pub channel: u64,
    /// What the caller knows it by.
    pub token: u64,
    /// The reverse path in angle brackets.
    pub sender: Box<str>,
    /// The forward paths, likewise; at least one.
    pub recipients: Vec<Box<str>>,
    /// ESMTP parameters of MAIL.
    pub mail_options: Vec<String>,
    /// ESMTP parameters of each RCPT.
    pub rcpt_options: Vec<String>,
    /// The content; it goes back with the outcome, to be dropped by whoever made it.
    pub content: Content,
    /// Octets of the content.
    pub size: usize,
    /// That it was written ahead, and is not begun.
    pub ahead: Option<Ahead>,
}

/// What became of a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Result {
    /// Its fate.
    pub status: Status,
    /// Where it was decided.
    pub phase: &'static str,
    /// The reply that decided.
    pub reply: Option<Arc<Reply>>,
    /// The reason where no reply did.
    pub reason: String,
}

impl Result {
    fn replied(status: Status, phase: &'static str, reply: &Arc<Reply>) -> Self {
        Self {
            status,
            phase,
            reply: Some(Arc::clone(reply)),
            reason: String::new(),
        }
    }

    fn silent(status: Status, phase: &'static str, reason: &str) -> Self {
        Self {
            status,
            phase,
            reply: None,
            reason: reason.to_owned(),
        }
    }

    /// The words for it: the reply's, or the reason.
    #[must_use]
    pub fn text(&self) -> String {
        match &self.reply {
            Some(reply) => shown(&reply.text),
            None => self.reason.clone(),
        }
    }
}

/// The results of a message's recipients.
#[derive(Debug)]
pub enum Results {
    /// The same for all of them.
    Same(Result),
    /// One each, in their order.
    Each(Vec<Result>),
}

/// A message's outcome.
pub struct Decided {
    /// Whom to tell.
    pub channel: u64,
    /// What the caller knows it by.
    pub token: u64,
    /// The forward paths, as they were given.
    pub recipients: Vec<Box<str>>,
    /// The whole message's status.
    pub status: Status,
    /// Its recipients'.
    pub results: Results,
    /// The reply to the body.
    pub reply: Option<Arc<Reply>>,
    /// Where it was decided.
    pub phase: &'static str,
    /// How often it was tried.
    pub attempts: u32,
    /// From the first attempt to the end.
    pub time: Duration,
    /// Octets of its content.
    pub size: usize,
    /// The content, on its way back; `None` where it never got in.
    pub content: Option<Content>,
}

impl Decided {
    /// A message that did not get in.
    #[must_use]
    pub fn outside(
        channel: u64,
        token: u64,
        recipients: Vec<Box<str>>,
        status: Status,
        reason: &str,
    ) -> Self {
        let phase = match status {
            Status::Invalid => "build",
            _ => "connect",
        };
        Self {
            channel,
            token,
            recipients,
            status,
            results: Results::Same(Result::silent(status, phase, reason)),
            reply: None,
            phase,
            attempts: 0,
            time: Duration::ZERO,
            size: 0,
            content: None,
        }
    }
}

/// What the pool has to do besides.
#[derive(Debug, PartialEq, Eq)]
pub enum Advice {
    /// Go slower.
    Slower,
    /// This connection takes no more messages.
    ConnectionFull,
    /// Stop: no message will fare better.
    Stop(Arc<Reply>),
    /// So many recipients are taken in one transaction.
    Recipients(usize),
}

/// What is to be done with a job.
pub enum Next {
    /// It is over.
    Decided(Decided),
    /// It goes to the front of the queue.
    Now(Job),
    /// It waits so long.
    Later(Job, Duration),
}

/// What a job needs to know to decide.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Attempts at most.
    pub max_attempts: u32,
    /// The waits between them.
    pub backoff: Backoff,
    /// Whether what is unknown is sent again.
    pub resend_unknown: bool,
    /// Whether the connection had carried anything before: one that had not is not full, whatever
    /// the relay says.
    pub used: bool,
}

/// A message on its way.
pub struct Job {
    message: Message,
    /// What the content was found to be, once it was looked through.
    survey: Option<Survey>,
    /// What is decided of each recipient; empty while that is nothing.
    results: Vec<Option<Result>>,
    /// Recipients that are to be named next, in their order.
    pending: Vec<usize>,
    /// Recipients of the transaction in flight.
    current: Vec<usize>,
    /// Recipients that are tried again after a while, each with what it is if that is not to be.
    deferred: Vec<(usize, Result)>,
    /// What earlier attempts made of those that are tried again.
    earlier: Vec<(usize, Result)>,
    attempts: u32,
    returns: u32,
    slows: u32,
    begun: Option<Instant>,
    reply: Option<Arc<Reply>>,
}

/// What stays of a message that a fault of our own has swallowed.
pub struct Lost {
    channel: u64,
    token: u64,
    recipients: usize,
    size: usize,
}

impl Lost {
    /// Its outcome: nobody can say.
    #[must_use]
    pub fn decided(self) -> Decided {
        let unnamed = vec![Box::from(""); self.recipients];
        let reason = "internal fault: what became of it was lost";
        Decided {
            size: self.size,
            ..Decided::outside(self.channel, self.token, unnamed, Status::Unknown, reason)
        }
    }
}

/// What a transaction left to do.
#[derive(Default)]
struct Round {
    /// Recipients that the server took before it said that there were too many.
    left: usize,
    /// How many there were when it said so first.
    limit: Option<usize>,
    /// Those that were too many.
    rest: Vec<usize>,
    /// Those for which it was not executed, each with what it is if it is not sent again.
    back: Vec<(usize, Result)>,
    /// Those that were too fast, likewise.
    slow: Vec<(usize, Result)>,
    advice: Vec<Advice>,
}

impl Round {
    fn advise(&mut self, advice: Advice) {
        if !self.advice.contains(&advice) {
            self.advice.push(advice);
        }
    }
}

impl Job {
    /// A message that has just come in.
    #[must_use]
    pub fn new(message: Message) -> Self {
        Self {
            pending: (0..message.recipients.len()).collect(),
            message,
            survey: None,
            results: Vec::new(),
            current: Vec::new(),
            deferred: Vec::new(),
            earlier: Vec::new(),
            attempts: 0,
            returns: 0,
            slows: 0,
            begun: None,
            reply: None,
        }
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Whether its content was looked through.
    #[must_use]
    pub fn is_surveyed(&self) -> bool {
        self.survey.is_some()
    }

    /// What its content was found to be; it is looked through once.
    pub fn survey(&mut self) -> Survey {
        let content = &self.message.content;
        *self.survey.get_or_insert_with(|| content.survey())
    }

    /// What is needed to tell of it, should it get lost.
    #[must_use]
    pub fn lost(&self) -> Lost {
        Lost {
            channel: self.message.channel,
            token: self.message.token,
            recipients: self.message.recipients.len(),
            size: self.message.size,
        }
    }

    /// Takes the recipients of the next transaction: at most `limit` of them, of at most `domains`
    /// domains (RFC 9422).
    pub fn begin(&mut self, now: Instant, limit: usize, domains: Option<usize>) {
        self.begun.get_or_insert(now);
        self.message.ahead = None;
        if self.pending.is_empty() {
            self.pending = self.deferred.iter().map(|(index, _)| *index).collect();
            self.pending.sort_unstable();
            self.earlier.append(&mut self.deferred);
        }
        let mut count = self.pending.len().min(limit.max(1));
        if let Some(domains) = domains {
            count = count.min(self.within_domains(domains.max(1)));
        }
        let rest = self.pending.split_off(count);
        self.current = std::mem::replace(&mut self.pending, rest);
    }

    /// The paths of the transaction in flight.
    #[must_use]
    pub fn paths(&self) -> Vec<&str> {
        let path = |index: &usize| &*self.message.recipients[*index];
        self.current.iter().map(path).collect()
    }

    /// The transaction was never written: its recipients are as they were.
    #[must_use]
    pub fn put_back(mut self) -> Self {
        self.pending.append(&mut self.current);
        self.pending.sort_unstable();
        self
    }

    /// The transaction cannot be offered to this relay.
    #[must_use]
    pub fn refuse(
        mut self,
        reason: &str,
        now: Instant,
        random: impl FnOnce() -> f64,
        policy: &Policy,
    ) -> Next {
        for index in std::mem::take(&mut self.current) {
            self.decide(index, Result::silent(Status::Invalid, "mail", reason));
        }
        self.go_on(Round::default(), now, random, policy)
    }

    /// What the server made of the transaction in flight; `random` gives a number from 0 to 1.
    #[must_use]
    pub fn settle(
        mut self,
        fate: Fate,
        now: Instant,
        random: impl FnOnce() -> f64,
        policy: &Policy,
    ) -> (Next, Vec<Advice>) {
        let current = std::mem::take(&mut self.current);
        let (words, reply) = match fate {
            Fate::Accepted(reply) => {
                let reply = Arc::new(reply);
                if current.len() == self.message.recipients.len() {
                    let accepted = Result::replied(Status::Accepted, "body", &reply);
                    self.attempts += 1;
                    self.reply = Some(reply);
                    return (
                        Next::Decided(self.end(Results::Same(accepted), now)),
                        Vec::new(),
                    );
                }
                (
                    vec![Word::Accepted(Arc::clone(&reply)); current.len()],
                    Some(reply),
                )
            }
            Fate::Words { words, reply } => (words, reply),
        };
        self.reply = reply.or(self.reply);
        let mut round = Round::default();
        for (index, word) in current.into_iter().zip(words) {
            self.hear(index, word, &mut round, policy);
        }
        // A full mailbox gets 452 too: where the relay took another one behind it, it did not count.
        if let Some(limit) = round.limit.filter(|limit| *limit == round.left) {
            round.advise(Advice::Recipients(limit));
        }
        let advice = std::mem::take(&mut round.advice);
        (self.go_on(round, now, random, policy), advice)
    }

    /// Nothing more will be tried.
    #[must_use]
    pub fn give_up(mut self, reason: &str, now: Instant) -> Decided {
        for (index, result) in std::mem::take(&mut self.deferred) {
            self.decide(index, result);
        }
        for (index, result) in std::mem::take(&mut self.earlier).into_iter().rev() {
            if self.results.get(index).is_none_or(Option::is_none) {
                self.decide(index, result);
            }
        }
        let unsent = Result::silent(Status::NotAttempted, "connect", reason);
        if self.results.is_empty() {
            return self.end(Results::Same(unsent), now);
        }
        let results = std::mem::take(&mut self.results);
        let results = results
            .into_iter()
            .map(|result| result.unwrap_or_else(|| unsent.clone()));
        let results = results.collect();
        self.end(Results::Each(results), now)
    }

    fn hear(&mut self, index: usize, word: Word, round: &mut Round, policy: &Policy) {
        let refused_at_rcpt = matches!(word, Word::Refused(Phase::Rcpt, _));
        match word {
            Word::Accepted(reply) => {
                self.decide(index, Result::replied(Status::Accepted, "body", &reply));
            }
            Word::Returned(reply) => round.back.push((index, not_executed(reply.as_ref()))),
            Word::Unknown(reason) => {
                let lost = format!("the connection was lost before the final reply: {reason}");
                let unknown = Result::silent(Status::Unknown, "body", &lost);
                if policy.resend_unknown {
                    self.deferred.push((index, unknown));
                } else {
                    self.decide(index, unknown);
                }
            }
            Word::Refused(phase, reply) => {
                self.hear_refusal(index, phase, &reply, round, policy);
            }
        }
        round.left += usize::from(!refused_at_rcpt);
    }

    fn hear_refusal(
        &mut self,
        index: usize,
        phase: Phase,
        reply: &Arc<Reply>,
        round: &mut Round,
        policy: &Policy,
    ) {
        let enhanced = reply.enhanced_status();
        // A full mailbox gets 452 too, and says so.
        let too_many = match enhanced {
            Some(status) => matches!(status, "4.5.3" | "4.3.1" | "4.5.0"),
            None => reply.code == 452,
        };
        if phase == Phase::Rcpt && too_many && round.left > 0 {
            round.limit.get_or_insert(round.left);
            round.rest.push(index);
            return;
        }
        let status = recipient_status(reply.code.into());
        let result = Result::replied(status, phase_name(phase), reply);
        match blame(phase, reply, policy) {
            Blame::Relay => {
                round.advise(Advice::Stop(Arc::clone(reply)));
                let status = Status::NotAttempted;
                self.decide(index, Result { status, ..result });
            }
            Blame::Connection => {
                round.advise(Advice::ConnectionFull);
                round.back.push((index, result));
            }
            Blame::Slower => {
                round.advise(Advice::Slower);
                round.slow.push((index, result));
            }
            Blame::Recipient | Blame::Message if status == Status::Deferred => {
                self.deferred.push((index, result));
            }
            Blame::Recipient | Blame::Message => self.decide(index, result),
        }
    }

    fn go_on(
        mut self,
        round: Round,
        now: Instant,
        random: impl FnOnce() -> f64,
        policy: &Policy,
    ) -> Next {
        self.pending.extend(round.rest);
        self.slows += u32::from(!round.slow.is_empty());
        if self.slows <= FREE_SLOWS {
            self.pending
                .extend(round.slow.into_iter().map(|(index, _)| index));
        } else {
            self.deferred.extend(round.slow);
        }
        let counted = self.go_back(round.back, policy);
        if !self.pending.is_empty() {
            self.pending.sort_unstable();
            return Next::Now(self);
        }
        self.attempts += u32::from(!counted);
        if !self.deferred.is_empty() && self.attempts < policy.max_attempts {
            let delay = policy.backoff.delay(self.attempts, random());
            return Next::Later(self, delay);
        }
        Next::Decided(self.give_up("", now))
    }

    /// Says whether that was counted as an attempt.
    fn go_back(&mut self, back: Vec<(usize, Result)>, policy: &Policy) -> bool {
        if back.is_empty() {
            return false;
        }
        self.returns += 1;
        let counted = self.returns > FREE_RETURNS;
        self.attempts += u32::from(counted);
        if self.attempts < policy.max_attempts {
            self.pending
                .extend(back.into_iter().map(|(index, _)| index));
        } else {
            for (index, result) in back {
                self.decide(index, result);
            }
        }
        counted
    }

    fn decide(&mut self, index: usize, result: Result) {
        if self.results.is_empty() {
            self.results.resize(self.message.recipients.len(), None);
        }
        // What may have been delivered once is not undone by a later refusal.
        let doubt = self
            .earlier
            .iter()
            .find(|(earlier, result)| *earlier == index && result.status == Status::Unknown);
        self.results[index] = Some(match doubt {
            Some((_, unknown)) if result.status != Status::Accepted => unknown.clone(),
            _ => result,
        });
    }

    fn end(self, results: Results, now: Instant) -> Decided {
        let (status, phase) = match &results {
            Results::Same(result) => (result.status, result.phase),
            Results::Each(each) => {
                let statuses: Vec<Status> = each.iter().map(|result| result.status).collect();
                let first = each.iter().find(|result| result.status != Status::Accepted);
                // A message has at least one recipient.
                let status = message_status(&statuses).unwrap_or(Status::NotAttempted);
                (status, first.map_or("body", |result| result.phase))
            }
        };
        let begun = self.begun;
        Decided {
            channel: self.message.channel,
            token: self.message.token,
            recipients: self.message.recipients,
            status,
            results,
            reply: self.reply,
            phase,
            attempts: self.attempts,
            time: begun.map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun)),
            size: self.message.size,
            content: Some(self.message.content),
        }
    }

    /// How many of the pending recipients, from the front, are within so many domains.
    fn within_domains(&self, domains: usize) -> usize {
        let mut seen: Vec<&str> = Vec::with_capacity(domains);
        for (count, index) in self.pending.iter().enumerate() {
            let path = &self.message.recipients[*index];
            let domain = path.rsplit('@').next().unwrap_or_default();
            if seen.iter().any(|seen| seen.eq_ignore_ascii_case(domain)) {
                continue;
            }
            if seen.len() == domains {
                return count;
            }
            seen.push(domain);
        }
        self.pending.len()
    }
}

/// Whom a refusal concerns. It is the sender who has sent too many messages where the connection has
/// carried none; a 421 has ended it all the same.
fn blame(phase: Phase, reply: &Reply, policy: &Policy) -> Blame {
    let code = reply.code.into();
    match diagnose(phase, code, &reply.text, reply.enhanced_status()) {
        Blame::Connection if !policy.used && code != 421 && says_full(&reply.text) => {
            match recipient_status(code) {
                Status::Deferred => Blame::Slower,
                _ => Blame::Message,
            }
        }
        blame => blame,
    }
}

fn not_executed(reply: Option<&Arc<Reply>>) -> Result {
    match reply {
        Some(reply) => {
            let status = match recipient_status(reply.code.into()) {
                status @ (Status::Deferred | Status::Refused) => status,
                _ => Status::NotAttempted,
            };
            Result::replied(status, "connect", reply)
        }
        None => {
            let reason = "the connection was lost again and again before the message was sent";
            Result::silent(Status::NotAttempted, "connect", reason)
        }
    }
}

/// The name of a phase, as outcomes tell it.
#[must_use]
pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Mail => "mail",
        Phase::Rcpt => "rcpt",
        Phase::Data => "data",
        Phase::Body => "body",
        _ => "connect",
    }
}

#[cfg(test)]
mod tests;
