//! One message until its final outcome: the recipients of the next transaction, and the effect of
//! the replies on each recipient. The module [`retry`](crate::retry) decides on each recipient.
//!
//! The engine retries recipients, never whole messages. A message is not sent again to a recipient
//! that has received it. It is not sent again to a recipient that may have received it, unless the
//! caller sets `resend_unknown`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::progress::RowProgress;
use super::queue::OutboxId;
use super::render::RenderPermit;
use crate::content::{Content, Survey};
use crate::diagnosis::Phase;
use crate::outcome::{MessageOutcome, RecipientOutcome, RecipientOutcomes, Status};
use crate::rate_controller::{Evidence, RateController, Throttled};
use crate::reply::Reply;
use crate::retry::{Attempts, ConnectionState, RetryPolicy, Step, decide};

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
    /// The content. The engine returns the caller's bytes with the outcome, so that a thread of the
    /// caller, and not the engine thread, frees their memory.
    pub content: Content,
    /// The size of the content, in bytes.
    pub size: usize,
    /// The permit that counts this message against the render-ahead limit. It is released when
    /// sending starts.
    pub permit: Option<RenderPermit>,
    /// The row's place in a progress file; `None` for a message without such a file.
    pub progress: Option<RowProgress>,
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
    /// The caller's bytes, returned to the caller. `None` for a rendered message: its memory is
    /// freed at once, so that the render workers use it again while it is in the processor's cache.
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
    /// Start no more messages on this connection.
    CloseConnection,
    /// Close this connection, because the relay allows fewer connections.
    CloseSurplus,
    /// Stop the engine, because the relay would refuse every message.
    Stop(Phase, Arc<Reply>),
    /// Limit the number of recipients in one transaction to this number.
    LimitRecipients(usize),
}

/// The next step of a job after an attempt.
pub enum NextStep {
    /// The outcome of the message is final.
    Finished(FinishedMessage),
    /// The job returns to the front of the queue.
    RetryNow(Job),
    /// The job returns to the end of the queue, because the relay throttles messages. Another
    /// message then shows whether the relay accepts messages again.
    RetryLast(Job),
    /// The job returns to the queue after this time.
    RetryLater(Job, Duration),
}

/// The data that is necessary to settle an attempt.
pub struct Settlement<'a> {
    /// The time.
    pub now: Instant,
    /// The clock that measured `now`.
    pub clock: Clock,
    /// The settings that control the retries.
    pub policy: RetryPolicy,
    /// The state of the connection.
    pub connection: ConnectionState,
    /// Records what the attempt shows about the relay.
    pub rate_controller: &'a mut RateController,
    /// Returns a random number from 0 to 1.
    pub random: &'a dyn Fn() -> f64,
}

impl Settlement<'_> {
    /// Records an attempt that shows nothing about the relay.
    pub fn weigh_nothing(&mut self) {
        let now = self.clock.seconds(self.now);
        let earlier = Throttled::default();
        self.rate_controller
            .settled(now, now, Evidence::Nothing, earlier);
    }

    /// Records what an attempt shows about the relay. Returns whether the refusal concerns the
    /// relay.
    fn weigh(&mut self, job: &mut Job, evidence: Evidence) -> bool {
        let now = self.clock.seconds(self.now);
        let started = job.attempt_at.map_or(now, |at| self.clock.seconds(at));
        let earlier = job.attempts.throttled();
        let concerns_relay = self
            .rate_controller
            .settled(now, started, evidence, earlier);
        if concerns_relay {
            let controller = &self.rate_controller;
            job.attempts
                .count_throttled(controller.accepted(), controller.refusals());
        }
        concerns_relay
    }
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
    attempts: Attempts,
    /// The start of the first attempt.
    started_at: Option<Instant>,
    /// The start of the last attempt.
    attempt_at: Option<Instant>,
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
    /// The recipients of a further transaction.
    next: Vec<usize>,
    /// The recipients for which the transaction was not executed, each with the outcome to report
    /// if no retry happens.
    returned: Vec<(usize, RecipientOutcome)>,
    /// The recipients whose refusal may concern the relay, each with the outcome to report if no
    /// retry happens.
    doubtful: Vec<(usize, RecipientOutcome)>,
    /// The highest evidence of the recipients.
    evidence: Option<Evidence>,
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
            attempts: Attempts::default(),
            started_at: None,
            attempt_at: None,
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
        self.attempt_at = Some(now);
        self.message.permit = None;
        if self.pending.is_empty() {
            self.pending = self.deferred.iter().map(|(index, _)| *index).collect();
            self.pending.sort_unstable();
            self.earlier.append(&mut self.deferred);
        }
        let (current, rest) = self.split(limit.max(1), domains.map(|domains| domains.max(1)));
        self.current = current;
        self.pending = rest;
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
    pub fn reject(mut self, reason: &str, settlement: &mut Settlement<'_>) -> NextStep {
        let phase = Some(Phase::Mail);
        let invalid = RecipientOutcome::without_reply(Status::Invalid, phase, reason.to_owned());
        for index in std::mem::take(&mut self.current) {
            self.finish_recipient(index, invalid.clone());
        }
        settlement.weigh(&mut self, Evidence::Nothing);
        self.next_step(AttemptResults::default(), false, settlement)
    }

    /// Applies the outcome of the transaction in flight.
    #[must_use]
    pub fn settle(
        mut self,
        outcome: MessageOutcome,
        settlement: &mut Settlement<'_>,
    ) -> (NextStep, Vec<PoolAction>) {
        let current = std::mem::take(&mut self.current);
        if outcome.is_accepted() && current.len() == self.message.recipients.len() {
            // The common case: all recipients are accepted in one transaction. This branch needs no
            // allocation for each recipient.
            settlement.weigh(&mut self, Evidence::Accepted);
            self.attempts.count_attempt(&settlement.policy);
            self.reply = outcome.reply;
            return (
                NextStep::Finished(self.finish(outcome.recipients, settlement.now)),
                Vec::new(),
            );
        }
        self.reply = outcome.reply.or(self.reply);
        let mut results = AttemptResults::default();
        for (position, index) in current.into_iter().enumerate() {
            let recipient = outcome.recipients.get(position).clone();
            self.record(index, recipient, &mut results, settlement);
        }
        // 452 may also mean a full mailbox. If the relay accepted a further recipient after the
        // 452, this 452 did not mean a limit.
        if let Some(limit) = results.limit.filter(|limit| *limit == results.not_refused) {
            results.request(PoolAction::LimitRecipients(limit));
        }
        let evidence = results.evidence.unwrap_or(Evidence::Nothing);
        let concerns_relay = settlement.weigh(&mut self, evidence);
        let actions = std::mem::take(&mut results.actions);
        (self.next_step(results, concerns_relay, settlement), actions)
    }

    /// Finishes the message without a further attempt. `reason` is reported for the recipients that
    /// were never attempted.
    #[must_use]
    pub fn give_up(mut self, reason: &str, now: Instant) -> FinishedMessage {
        for (index, outcome) in std::mem::take(&mut self.deferred) {
            self.finish_recipient(index, outcome);
        }
        // `finish_recipient` searches `earlier` for an unknown outcome.
        for (index, outcome) in self.earlier.clone().into_iter().rev() {
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
        settlement: &Settlement<'_>,
    ) {
        let (step, evidence) = decide(
            &outcome,
            results.not_refused > 0,
            settlement.connection,
            settlement.policy.resend_unknown,
        );
        results.evidence = results.evidence.max(Some(evidence));
        let refused =
            outcome.status != Status::Accepted && outcome.reply.is_some() && !outcome.not_executed;
        results.not_refused += usize::from(!refused || outcome.phase != Some(Phase::Rcpt));
        match step {
            Step::Finish => self.finish_recipient(index, outcome),
            Step::Defer if evidence >= Evidence::Later => results.doubtful.push((index, outcome)),
            Step::Defer => self.deferred.push((index, outcome)),
            Step::Return => results.returned.push((index, outcome)),
            Step::CloseConnection => {
                results.request(PoolAction::CloseConnection);
                results.returned.push((index, outcome));
            }
            Step::CloseSurplus => {
                results.request(PoolAction::CloseSurplus);
                results.next.push(index);
            }
            Step::NextTransaction => {
                results.limit.get_or_insert(results.not_refused);
                results.next.push(index);
            }
            Step::Stop => {
                if let (Some(phase), Some(reply)) = (outcome.phase, &outcome.reply) {
                    let stop = PoolAction::Stop(phase, Arc::clone(reply));
                    results.actions.push(stop);
                }
                let status = Status::NotAttempted;
                self.finish_recipient(index, RecipientOutcome { status, ..outcome });
            }
        }
    }

    fn next_step(
        mut self,
        results: AttemptResults,
        concerns_relay: bool,
        settlement: &Settlement<'_>,
    ) -> NextStep {
        self.pending.extend(results.next);
        if concerns_relay {
            let throttled: Vec<usize> = results.doubtful.iter().map(|(index, _)| *index).collect();
            // These outcomes are reported if no retry follows, for example because the engine is
            // closed. They replace the outcomes of earlier attempts, so their number is bounded.
            self.earlier.retain(|(index, outcome)| {
                outcome.status == Status::Unknown || !throttled.contains(index)
            });
            self.earlier.extend(results.doubtful);
            self.pending.extend(throttled);
        } else {
            self.deferred.extend(results.doubtful);
        }
        let counted = self.take_returned(results.returned, settlement);
        if !self.pending.is_empty() {
            self.record_retry();
            self.pending.sort_unstable();
            return if concerns_relay {
                NextStep::RetryLast(self)
            } else {
                NextStep::RetryNow(self)
            };
        }
        if !counted {
            self.attempts.count_attempt(&settlement.policy);
        }
        if !self.deferred.is_empty()
            && let Some(delay) = self.attempts.delay(&settlement.policy, settlement.random)
        {
            self.record_retry();
            let delay = Duration::try_from_secs_f64(delay).unwrap_or_default();
            return NextStep::RetryLater(self, delay);
        }
        NextStep::Finished(self.give_up("", settlement.now))
    }

    /// Records in the progress file that the message was not delivered so far, if no attempt can
    /// have delivered it to any recipient.
    fn record_retry(&self) {
        let Some(progress) = &self.message.progress else {
            return;
        };
        let earlier = self.earlier.iter().chain(&self.deferred);
        let outcomes = self.outcomes.iter().flatten();
        let mut statuses = earlier
            .map(|(_, outcome)| outcome)
            .chain(outcomes)
            .map(|outcome| outcome.status);
        if !statuses.any(|status| matches!(status, Status::Accepted | Status::Unknown)) {
            progress.set_waiting();
        }
    }

    /// Makes the returned recipients pending again, as long as attempts are left. Returns whether
    /// this return counted as an attempt.
    fn take_returned(
        &mut self,
        returned: Vec<(usize, RecipientOutcome)>,
        settlement: &Settlement<'_>,
    ) -> bool {
        if returned.is_empty() {
            return false;
        }
        let before = self.attempts.count;
        let used = settlement.connection.used;
        if self.attempts.count_return(&settlement.policy, used) {
            self.pending
                .extend(returned.into_iter().map(|(index, _)| index));
        } else {
            for (index, outcome) in returned {
                self.finish_recipient(index, outcome);
            }
        }
        self.attempts.count > before
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
        let outcome = MessageOutcome {
            recipients,
            reply: self.reply,
        };
        if let Some(progress) = &self.message.progress {
            progress.set_status(outcome.status());
        }
        FinishedMessage {
            outbox: self.message.outbox,
            token: self.message.token,
            recipients: self.message.recipients,
            outcome,
            attempts: self.attempts.count,
            time: started_at.map_or(Duration::ZERO, |started_at| {
                now.saturating_duration_since(started_at)
            }),
            size: self.message.size,
            content: self.message.content.into_given(),
        }
    }

    /// Splits the pending recipients into those of the next transaction and the others. Both keep
    /// their order.
    fn split(&mut self, limit: usize, domains: Option<usize>) -> (Vec<usize>, Vec<usize>) {
        let mut pending = std::mem::take(&mut self.pending);
        let Some(domains) = domains else {
            let rest = pending.split_off(pending.len().min(limit));
            return (pending, rest);
        };
        let mut count = 0;
        // The limit is a number of the relay, so no memory is reserved for this number of domains.
        let mut seen = HashSet::new();
        pending.into_iter().partition(|index| {
            let path = &self.message.recipients[*index];
            let domain = path.rsplit('@').next().unwrap_or_default();
            let domain = domain.to_ascii_lowercase();
            let fits = count < limit && (seen.contains(&domain) || seen.len() < domains);
            if fits {
                seen.insert(domain);
                count += 1;
            }
            fits
        })
    }
}

#[cfg(test)]
mod tests;
