//! What became of a message, recipient by recipient.

use std::sync::Arc;

use crate::diagnosis::{Phase, says_full};
use crate::reply::{MALFORMED, Reply};
use crate::transaction::{Transaction, Verdict};

/// What the server's last word on a recipient was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It has the mail.
    Accepted(Arc<Reply>),
    /// Refused, for good or for now, in answer to that command.
    Refused(Phase, Arc<Reply>),
    /// Not executed; the reply that ended the session, if one did.
    Returned(Option<Arc<Reply>>),
    /// The body went out and no valid reply came, for that reason.
    Unknown(Arc<str>),
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// The server has it for all its recipients.
    Accepted(Reply),
    /// The recipients, in their order.
    Words {
        /// The last word on each.
        words: Vec<Word>,
        /// The reply to the body.
        reply: Option<Arc<Reply>>,
    },
}

impl Fate {
    /// Whether the server dealt with the message: it took it, or refused it for any other reason
    /// than that there were too many.
    #[must_use]
    pub fn is_dealt_with(&self) -> bool {
        match self {
            Self::Accepted(_) => true,
            Self::Words { words, .. } => words.iter().any(|word| match word {
                Word::Accepted(_) => true,
                Word::Refused(_, reply) => !says_full(&reply.text),
                Word::Returned(_) | Word::Unknown(_) => false,
            }),
        }
    }
}

/// What a transaction's verdict means for each recipient; `out` is whether its terminator is.
pub(super) fn fate_of(
    transaction: &Transaction,
    recipients: usize,
    out: bool,
    reason: &Arc<str>,
) -> Fate {
    let reply = transaction.reply();
    let unheard = unheard(out, reason);
    let others = match (transaction.verdict(), reply) {
        (Some(Verdict::Accepted), Some(reply)) => {
            if transaction.refused().is_empty() && transaction.accepting().is_empty() {
                return Fate::Accepted(reply.clone());
            }
            Word::Accepted(Arc::new(reply.clone()))
        }
        (Some(Verdict::SenderRefused | Verdict::DataRefused), Some(reply)) => {
            let phase = match transaction.verdict() {
                Some(Verdict::SenderRefused) => Phase::Mail,
                _ if transaction.body_sent() => Phase::Body,
                _ => Phase::Data,
            };
            match reply.code {
                MALFORMED => unheard,
                _ => Word::Refused(phase, Arc::new(reply.clone())),
            }
        }
        (Some(Verdict::RecipientsRefused), _) => Word::Returned(None),
        _ => unheard,
    };
    Fate::Words {
        words: words_of(transaction, recipients, &others, reason),
        reply: reply.filter(|_| out).cloned().map(Arc::new),
    }
}

/// What is known of a recipient of whom the server said nothing.
pub(super) fn unheard(out: bool, reason: &Arc<str>) -> Word {
    if out {
        Word::Unknown(Arc::clone(reason))
    } else {
        Word::Returned(None)
    }
}

pub(super) fn words_of(
    transaction: &Transaction,
    recipients: usize,
    others: &Word,
    reason: &Arc<str>,
) -> Vec<Word> {
    let mut words = vec![others.clone(); recipients];
    if transaction.verdict() == Some(Verdict::SenderRefused) {
        return words;
    }
    for (index, reply) in transaction.refused() {
        let phase = if transaction.refused_last().contains(index) {
            Phase::Body
        } else {
            Phase::Rcpt
        };
        words[*index] = match (reply.code, phase) {
            (MALFORMED, Phase::Body) => Word::Unknown(Arc::clone(reason)),
            (MALFORMED, _) => others.clone(),
            _ => Word::Refused(phase, Arc::new(reply.clone())),
        };
    }
    for (index, reply) in transaction.accepted().iter().zip(transaction.accepting()) {
        words[*index] = Word::Accepted(Arc::new(reply.clone()));
    }
    words
}
