//! One message until its final outcome: the recipients of the next transaction, and the effect of
//! the replies on each recipient.
//!
//! ```text
//!     the reply for a recipient         result
//!     2yz to the body                   accepted
//!     5yz                               refused
//!     4yz                               retried after a backoff; deferred after `max_attempts`
//!     4yz that asks for a lower rate    retried; the first ten times are free
//!     none, and not executed            retried at once; the first three times are free
//!     452 after accepted recipients     sent in a further transaction; this is free
//!     none after the terminator         unknown; retried only if the caller sets `resend_unknown`
//! ```
//!
//! In this table, "free" means that the attempt is not counted against the maximum number of
//! attempts.
//!
//! The engine retries recipients, never whole messages. A message is not sent again to a recipient
//! that has received it. It is not sent again to a recipient that may have received it, unless the
//! caller sets `resend_unknown`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::queue::OutboxId;
use super::render::RenderPermit;
use super::settings::Backoff;
use crate::content::{Content, Survey};
use crate::diagnosis::{Blame, Phase, diagnose, says_full};
use crate::outcome::{
    MessageOutcome, RecipientOutcome, RecipientOutcomes, Status, recipient_status,
};
use crate::reply::Reply;

/// The maximum number of free returns to the queue (no attempt is counted). A message returns to
/// the queue if its transaction was not executed. The return is free, because its cause is usually
/// a lost connection and not the message.
const FREE_RETURNS: u32 = 3;
/// The maximum number of free retries (no attempt is counted) after replies that ask for a lower
/// rate.
const FREE_SLOWDOWNS: u32 = 10;

/// A message to send.
pub struct Message {
    /// The outbox for the outcome.
    pub outbox: OutboxId,
    /// The caller's identifier of this message.
    pub token: u64,
    /// The reverse path in angle brackets.
    pub sender: Box<str>,
    /// The forward paths in angle brackets, at least one.
    pub recipients: Vec<Box<str>>,
    /// The ESMTP parameters of MAIL.
    pub mail_options: Vec<String>,
    /// The ESMTP parameters of each RCPT.
    pub rcpt_options: Vec<String>,
    /// The content. The engine returns the content with the outcome, so that a thread of the
    /// caller, and not the engine thread, frees the content's memory.
    pub content: Content,
    /// The size of the content, in bytes.
    pub size: usize,
    /// The permit that counts this message against the render-ahead limit. It is released when
    /// sending starts.
    pub permit: Option<RenderPermit>,
}

/// A message with its final outcome.
pub struct FinishedMessage {
    /// The outbox for the outcome.
    pub outbox: OutboxId,
    /// The caller's identifier of this message.
    pub token: u64,
    /// The forward paths, as submitted.
    pub recipients: Vec<Box<str>>,
    /// The final outcome, over all attempts.
    pub outcome: MessageOutcome,
    /// The number of attempts.
    pub attempts: u32,
    /// The time from the start of the first attempt to the outcome.
    pub time: Duration,
    /// The size of the content, in bytes.
    pub size: usize,
    /// The content, returned to the caller; `None` if the engine did not receive the content.
    pub content: Option<Content>,
}

impl FinishedMessage {
    /// Creates the outcome of a message that did not enter the queue. Either the message could not
    /// be built (`Invalid`), or the engine accepts no more messages.
    #[must_use]
    pub fn unsent(
        outbox: OutboxId,
        token: u64,
        recipients: Vec<Box<str>>,
        status: Status,
        reason: &str,
    ) -> Self {
        let phase = (status != Status::Invalid).then_some(Phase::Connect);
        let outcome = RecipientOutcome::without_reply(status, phase, reason.to_owned());
        Self {
            outbox,
            token,
            recipients,
            outcome: MessageOutcome::same(outcome),
            attempts: 0,
            time: Duration::ZERO,
            size: 0,
            content: None,
        }
    }

    /// The status of the message as a whole.
    #[must_use]
    pub fn status(&self) -> Status {
        self.outcome.status()
    }
}

/// An action of the pool after an attempt, in addition to the next step of the job.
#[derive(Debug, PartialEq, Eq)]
pub enum PoolAction {
    /// Lower the rate.
    SlowDown,
    /// Start no more messages on this connection.
    CloseConnection,
    /// Stop the engine, because the relay would refuse every message.
    Stop(Arc<Reply>),
    /// Limit the number of recipients in one transaction to this number.
    LimitRecipients(usize),
}

/// The next step of a job after an attempt.
pub enum NextStep {
    /// The outcome of the message is final.
    Finished(FinishedMessage),
    /// The job returns to the front of the queue.
    RetryNow(Job),
    /// The job returns to the queue after this time.
    RetryLater(Job, Duration),
}

/// The settings that control the retries.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// The maximum number of attempts.
    pub max_attempts: u32,
    /// The waits between attempts.
    pub backoff: Backoff,
    /// Whether the message is sent again to a recipient with an unknown outcome.
    pub resend_unknown: bool,
    /// Whether the connection carried a message before this one. Without an earlier message, the
    /// connection cannot have reached a limit, even if the reply states a limit.
    pub used: bool,
}

/// A message without a final outcome, with the state of each recipient.
pub struct Job {
    message: Message,
    /// The result of the content scan; `None` before the scan.
    survey: Option<Survey>,
    /// The final outcome of each recipient. The vector is empty until the first outcome is final.
    outcomes: Vec<Option<RecipientOutcome>>,
    /// The recipients of the next transactions, in order. A recipient is an index into the
    /// recipients of the message.
    pending: Vec<usize>,
    /// The recipients of the transaction in flight.
    current: Vec<usize>,
    /// The recipients to retry later, each with the outcome to report if no retry happens.
    deferred: Vec<(usize, RecipientOutcome)>,
    /// The outcomes of earlier attempts for the recipients that are being retried.
    earlier: Vec<(usize, RecipientOutcome)>,
    attempts: u32,
    returns: u32,
    slowdowns: u32,
    started_at: Option<Instant>,
    reply: Option<Arc<Reply>>,
}

/// The data that is necessary to report a message if a bug loses the message itself.
pub struct LostMessage {
    outbox: OutboxId,
    token: u64,
    recipients: usize,
    size: usize,
}

impl LostMessage {
    /// Returns the outcome of the lost message: unknown for all recipients.
    #[must_use]
    pub fn finish(self) -> FinishedMessage {
        let unnamed = vec![Box::from(""); self.recipients];
        let reason = "internal error: the outcome of the message was lost";
        FinishedMessage {
            size: self.size,
            ..FinishedMessage::unsent(self.outbox, self.token, unnamed, Status::Unknown, reason)
        }
    }
}

/// The results of one attempt, except the final outcomes of recipients.
#[derive(Default)]
struct AttemptResults {
    /// The number of recipients that were not refused at RCPT.
    not_refused: usize,
    /// The value of `not_refused` at the first "too many recipients" reply; `None` without such a
    /// reply.
    limit: Option<usize>,
    /// The recipients that were refused as "too many recipients".
    too_many: Vec<usize>,
    /// The recipients for which the transaction was not executed, each with the outcome to report
    /// if no retry happens.
    returned: Vec<(usize, RecipientOutcome)>,
    /// The recipients refused because of the rate, each with the outcome to report if no retry
    /// happens.
    slowed: Vec<(usize, RecipientOutcome)>,
    actions: Vec<PoolAction>,
}

impl AttemptResults {
    fn request(&mut self, action: PoolAction) {
        if !self.actions.contains(&action) {
            self.actions.push(action);
        }
    }
}

impl Job {
    /// Creates a job for a new message. All recipients are pending.
    #[must_use]
    pub fn new(message: Message) -> Self {
        Self {
            pending: (0..message.recipients.len()).collect(),
            message,
            survey: None,
            outcomes: Vec::new(),
            current: Vec::new(),
            deferred: Vec::new(),
            earlier: Vec::new(),
            attempts: 0,
            returns: 0,
            slowdowns: 0,
            started_at: None,
            reply: None,
        }
    }

    /// Returns the message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Whether the content was scanned.
    #[must_use]
    pub fn is_surveyed(&self) -> bool {
        self.survey.is_some()
    }

    /// Returns the result of the content scan. The first call scans the content.
    pub fn survey(&mut self) -> Survey {
        let content = &self.message.content;
        *self.survey.get_or_insert_with(|| content.survey())
    }

    /// Returns the data that is necessary to report the message if a bug loses it.
    #[must_use]
    pub fn to_lost(&self) -> LostMessage {
        LostMessage {
            outbox: self.message.outbox,
            token: self.message.token,
            recipients: self.message.recipients.len(),
            size: self.message.size,
        }
    }

    /// Chooses the recipients of the next transaction. `limit` is the maximum number of recipients.
    /// `domains` is the maximum number of different domains (RFC 9422 4.3).
    pub fn begin(&mut self, now: Instant, limit: usize, domains: Option<usize>) {
        self.started_at.get_or_insert(now);
        self.message.permit = None;
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

    /// Returns the paths of the recipients of the transaction in flight.
    #[must_use]
    pub fn paths(&self) -> Vec<&str> {
        let path = |index: &usize| &*self.message.recipients[*index];
        self.current.iter().map(path).collect()
    }

    /// Undoes `begin`. The caller must ensure that no byte of the transaction was written.
    #[must_use]
    pub fn put_back(mut self) -> Self {
        self.pending.append(&mut self.current);
        self.pending.sort_unstable();
        self
    }

    /// Finishes the recipients of the transaction as invalid, because the relay lacks a capability
    /// that the message needs.
    #[must_use]
    pub fn reject(
        mut self,
        reason: &str,
        now: Instant,
        random: impl FnOnce() -> f64,
        policy: &RetryPolicy,
    ) -> NextStep {
        let phase = Some(Phase::Mail);
        let invalid = RecipientOutcome::without_reply(Status::Invalid, phase, reason.to_owned());
        for index in std::mem::take(&mut self.current) {
            self.finish_recipient(index, invalid.clone());
        }
        self.next_step(AttemptResults::default(), now, random, policy)
    }

    /// Applies the outcome of the transaction in flight. `random` returns a number from 0 to 1.
    #[must_use]
    pub fn settle(
        mut self,
        outcome: MessageOutcome,
        now: Instant,
        random: impl FnOnce() -> f64,
        policy: &RetryPolicy,
    ) -> (NextStep, Vec<PoolAction>) {
        let current = std::mem::take(&mut self.current);
        if outcome.is_accepted() && current.len() == self.message.recipients.len() {
            // The common case: all recipients are accepted in one transaction. This branch needs no
            // allocation for each recipient.
            self.attempts += 1;
            self.reply = outcome.reply;
            return (
                NextStep::Finished(self.finish(outcome.recipients, now)),
                Vec::new(),
            );
        }
        self.reply = outcome.reply.or(self.reply);
        let mut results = AttemptResults::default();
        for (position, index) in current.into_iter().enumerate() {
            let recipient = outcome.recipients.get(position).clone();
            self.record(index, recipient, &mut results, policy);
        }
        // 452 may also mean a full mailbox. If the relay accepted a further recipient after the
        // 452, this 452 did not mean a limit.
        if let Some(limit) = results.limit.filter(|limit| *limit == results.not_refused) {
            results.request(PoolAction::LimitRecipients(limit));
        }
        let actions = std::mem::take(&mut results.actions);
        (self.next_step(results, now, random, policy), actions)
    }

    /// Finishes the message without a further attempt. `reason` is reported for the recipients that
    /// were never attempted.
    #[must_use]
    pub fn give_up(mut self, reason: &str, now: Instant) -> FinishedMessage {
        for (index, outcome) in std::mem::take(&mut self.deferred) {
            self.finish_recipient(index, outcome);
        }
        for (index, outcome) in std::mem::take(&mut self.earlier).into_iter().rev() {
            if self.outcomes.get(index).is_none_or(Option::is_none) {
                self.finish_recipient(index, outcome);
            }
        }
        let phase = Some(Phase::Connect);
        let unsent =
            RecipientOutcome::without_reply(Status::NotAttempted, phase, reason.to_owned());
        if self.outcomes.is_empty() {
            return self.finish(RecipientOutcomes::Same(unsent), now);
        }
        let outcomes = std::mem::take(&mut self.outcomes);
        let outcomes = outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(|| unsent.clone()))
            .collect();
        self.finish(RecipientOutcomes::Each(outcomes), now)
    }

    fn record(
        &mut self,
        index: usize,
        outcome: RecipientOutcome,
        results: &mut AttemptResults,
        policy: &RetryPolicy,
    ) {
        let refused =
            outcome.status != Status::Accepted && outcome.reply.is_some() && !outcome.not_executed;
        let refused_at_rcpt = refused && outcome.phase == Some(Phase::Rcpt);
        if refused {
            self.record_refusal(index, outcome, results, policy);
        } else if outcome.not_executed {
            results.returned.push((index, outcome));
        } else if outcome.status == Status::Unknown && policy.resend_unknown {
            self.deferred.push((index, outcome));
        } else {
            self.finish_recipient(index, outcome);
        }
        results.not_refused += usize::from(!refused_at_rcpt);
    }

    fn record_refusal(
        &mut self,
        index: usize,
        outcome: RecipientOutcome,
        results: &mut AttemptResults,
        policy: &RetryPolicy,
    ) {
        let (Some(phase), Some(reply)) = (outcome.phase, &outcome.reply) else {
            // This case does not occur: `record` has checked that there is a reply, and every reply
            // has a phase.
            return self.finish_recipient(index, outcome);
        };
        // RFC 5321 4.5.3.1.10: 452 means "too many recipients". A full mailbox gets 452 as well,
        // but with its own enhanced status code (4.2.2, RFC 3463 3.3).
        let too_many = match reply.enhanced_status() {
            Some(status) => matches!(status, "4.5.3" | "4.3.1" | "4.5.0"),
            None => reply.code == 452,
        };
        if phase == Phase::Rcpt && too_many && results.not_refused > 0 {
            results.limit.get_or_insert(results.not_refused);
            results.too_many.push(index);
            return;
        }
        match blame(phase, reply, policy) {
            Blame::Relay => {
                results.request(PoolAction::Stop(Arc::clone(reply)));
                let status = Status::NotAttempted;
                self.finish_recipient(index, RecipientOutcome { status, ..outcome });
            }
            Blame::Connection => {
                results.request(PoolAction::CloseConnection);
                results.returned.push((index, outcome));
            }
            Blame::Slower => {
                results.request(PoolAction::SlowDown);
                results.slowed.push((index, outcome));
            }
            Blame::Recipient | Blame::Message if outcome.status == Status::Deferred => {
                self.deferred.push((index, outcome));
            }
            Blame::Recipient | Blame::Message => self.finish_recipient(index, outcome),
        }
    }

    fn next_step(
        mut self,
        results: AttemptResults,
        now: Instant,
        random: impl FnOnce() -> f64,
        policy: &RetryPolicy,
    ) -> NextStep {
        self.pending.extend(results.too_many);
        self.slowdowns += u32::from(!results.slowed.is_empty());
        if self.slowdowns <= FREE_SLOWDOWNS {
            let slowed = results.slowed.into_iter();
            self.pending.extend(slowed.map(|(index, _)| index));
        } else {
            self.deferred.extend(results.slowed);
        }
        let counted = self.take_returned(results.returned, policy);
        if !self.pending.is_empty() {
            self.pending.sort_unstable();
            return NextStep::RetryNow(self);
        }
        self.attempts += u32::from(!counted);
        if !self.deferred.is_empty() && self.attempts < policy.max_attempts {
            let delay = policy.backoff.delay(self.attempts, random());
            return NextStep::RetryLater(self, delay);
        }
        NextStep::Finished(self.give_up("", now))
    }

    /// Makes the returned recipients pending again, as long as attempts are left. Returns whether
    /// this return counted as an attempt.
    fn take_returned(
        &mut self,
        returned: Vec<(usize, RecipientOutcome)>,
        policy: &RetryPolicy,
    ) -> bool {
        if returned.is_empty() {
            return false;
        }
        self.returns += 1;
        let counted = self.returns > FREE_RETURNS;
        self.attempts += u32::from(counted);
        if self.attempts < policy.max_attempts {
            self.pending
                .extend(returned.into_iter().map(|(index, _)| index));
        } else {
            for (index, outcome) in returned {
                self.finish_recipient(index, outcome);
            }
        }
        counted
    }

    fn finish_recipient(&mut self, index: usize, outcome: RecipientOutcome) {
        if self.outcomes.is_empty() {
            self.outcomes.resize(self.message.recipients.len(), None);
        }
        // An earlier attempt with an unknown outcome may have delivered the message. So a later
        // refusal does not replace that outcome.
        let unknown = self
            .earlier
            .iter()
            .find(|(earlier, outcome)| *earlier == index && outcome.status == Status::Unknown);
        self.outcomes[index] = Some(match unknown {
            Some((_, unknown)) if outcome.status != Status::Accepted => unknown.clone(),
            _ => outcome,
        });
    }

    fn finish(self, recipients: RecipientOutcomes, now: Instant) -> FinishedMessage {
        let started_at = self.started_at;
        FinishedMessage {
            outbox: self.message.outbox,
            token: self.message.token,
            recipients: self.message.recipients,
            outcome: MessageOutcome {
                recipients,
                reply: self.reply,
            },
            attempts: self.attempts,
            time: started_at.map_or(Duration::ZERO, |started_at| {
                now.saturating_duration_since(started_at)
            }),
            size: self.message.size,
            content: Some(self.message.content),
        }
    }

    /// Returns the number of recipients at the start of `pending` that together have no more than
    /// `domains` different domains.
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

/// Returns the cause of a refusal. If the connection carried no earlier message, a reply "too many
/// messages" cannot mean a limit of the connection. In that case, a 4yz reply with this text asks
/// for a lower rate, and a 5yz reply refuses the message. The code 421 is an exception. It always
/// concerns the connection, because the relay closes the connection after a 421.
fn blame(phase: Phase, reply: &Reply, policy: &RetryPolicy) -> Blame {
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

#[cfg(test)]
mod tests;
