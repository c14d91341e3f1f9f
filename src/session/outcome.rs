//! The outcome of a message, derived from the end of its transaction.

use std::sync::Arc;

use super::SHUTDOWN;
use crate::diagnosis::Phase;
use crate::outcome::{MessageOutcome, RecipientOutcome, RecipientOutcomes};
use crate::reply::MALFORMED;
use crate::transaction::{Transaction, TransactionEnd};

/// Returns the outcome of a transaction that has ended.
///
/// `terminator_sent` states whether the terminator may have reached the server. `reason` returns the
/// reason why the body got no valid reply.
pub(super) fn outcome_of(
    transaction: &Transaction,
    recipients: usize,
    terminator_sent: bool,
    reason: impl FnOnce() -> String,
) -> MessageOutcome {
    let end = transaction.end();
    let reply = transaction.reply();
    if let (Some(TransactionEnd::Accepted), Some(reply)) = (end, reply)
        && transaction.refused().is_empty()
        && transaction.lmtp_replies().is_empty()
    {
        return MessageOutcome::accepted(Arc::new(reply.clone()));
    }
    let without_reply = outcome_without_reply(terminator_sent, &reason());
    let others = match (end, reply) {
        (Some(TransactionEnd::Accepted), Some(reply)) => {
            RecipientOutcome::accepted(Arc::new(reply.clone()))
        }
        (Some(TransactionEnd::SenderRefused | TransactionEnd::DataRefused), Some(reply))
            if reply.code != MALFORMED =>
        {
            let phase = match end {
                Some(TransactionEnd::SenderRefused) => Phase::Mail,
                _ if transaction.is_data_accepted() => Phase::Body,
                _ => Phase::Data,
            };
            RecipientOutcome::refused(phase, Arc::new(reply.clone()))
        }
        // The server accepted no recipient, so the message itself was never sent. The value of this
        // arm is the outcome of the recipients that got no reply. RFC 5321 3.8: a 421 to one RCPT
        // ends the session, so the 421 also determines the outcome of these recipients.
        (Some(TransactionEnd::RecipientsRefused), _) => match transaction.refused().last() {
            Some((_, last)) if last.code == SHUTDOWN => {
                RecipientOutcome::refused(Phase::Rcpt, Arc::new(last.clone()))
            }
            _ => RecipientOutcome::not_executed(None),
        },
        _ => without_reply.clone(),
    };
    MessageOutcome {
        recipients: recipient_outcomes(transaction, recipients, others, &without_reply),
        reply: reply.filter(|_| terminator_sent).cloned().map(Arc::new),
    }
}

/// Returns the outcome of a recipient that got no reply.
///
/// Before the terminator, a server cannot accept a message (RFC 5321 4.1.1.4), so the transaction
/// was not executed. After the terminator, the server may have accepted the message, so the outcome
/// is unknown.
pub(super) fn outcome_without_reply(terminator_sent: bool, reason: &str) -> RecipientOutcome {
    if terminator_sent {
        RecipientOutcome::unknown(reason)
    } else {
        RecipientOutcome::not_executed(None)
    }
}

/// Returns the outcome of each recipient. `others` is the outcome of recipients without an
/// individual reply. `without_reply` is the outcome of recipients without a valid reply to the body.
fn recipient_outcomes(
    transaction: &Transaction,
    recipients: usize,
    others: RecipientOutcome,
    without_reply: &RecipientOutcome,
) -> RecipientOutcomes {
    let (refused, accepted) = (transaction.refused(), transaction.lmtp_replies());
    let sender_refused = transaction.end() == Some(TransactionEnd::SenderRefused);
    if sender_refused || (refused.is_empty() && accepted.is_empty()) {
        return RecipientOutcomes::Same(others);
    }
    let mut outcomes = vec![others; recipients];
    for (index, reply) in refused {
        // RFC 2033 4.2: an LMTP server sends one reply to the body for each accepted recipient. So
        // a recipient can be refused at RCPT or after the body.
        let phase = if transaction.refused_after_body().contains(index) {
            Phase::Body
        } else {
            Phase::Rcpt
        };
        match (reply.code, phase) {
            (MALFORMED, Phase::Body) => outcomes[*index] = without_reply.clone(),
            // An invalid reply to RCPT says neither that the recipient was accepted nor that it was
            // refused. So the recipient keeps the outcome `others`.
            (MALFORMED, _) => {}
            _ => outcomes[*index] = RecipientOutcome::refused(phase, Arc::new(reply.clone())),
        }
    }
    for (index, reply) in transaction.accepted().iter().zip(accepted) {
        outcomes[*index] = RecipientOutcome::accepted(Arc::new(reply.clone()));
    }
    RecipientOutcomes::Each(outcomes)
}
