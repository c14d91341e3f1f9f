//! A transaction in window mode: RSET, MAIL, RCPT… and BDAT with the whole content (RFC 3030),
//! written together.
//!
//! ```text
//!     reply to    2yz                  anything else
//!     RSET        continue             the connection ends; this and later messages not executed
//!     MAIL        continue             refused; the later replies repeat the refusal
//!     RCPT        accepted             this recipient is refused
//!     BDAT        accepted             refused; the earliest refusal is the reason
//! ```
//!
//! The content is written before the reply to MAIL is known. A server that refuses the transaction
//! must discard the chunk of BDAT. Otherwise the server would execute the content as commands. So
//! the session uses window mode only after the discard test (`setup`).

use std::sync::Arc;

use crate::diagnosis::Phase;
use crate::outcome::{MessageOutcome, RecipientOutcome, RecipientOutcomes};
use crate::reply::Reply;
use crate::reply_code::{SuccessCodes, succeeds};

/// A written transaction and its replies so far.
#[derive(Debug)]
pub(super) struct ChunkTransaction {
    recipients: usize,
    /// The number of replies read. The first reply belongs to RSET.
    read: usize,
    mail: Option<Arc<Reply>>,
    refused: Vec<(usize, Arc<Reply>)>,
}

/// The state of a transaction after one of its replies.
pub(super) enum Step {
    /// More replies are awaited.
    Open,
    /// The outcome is known.
    Decided(MessageOutcome),
}

impl ChunkTransaction {
    pub(super) fn new(recipients: usize) -> Self {
        Self {
            recipients,
            read: 0,
            mail: None,
            refused: Vec::new(),
        }
    }

    /// The command to which the next reply belongs.
    pub(super) fn phase(&self) -> Phase {
        match self.read {
            0 => Phase::Rset,
            1 => Phase::Mail,
            read if read < 2 + self.recipients => Phase::Rcpt,
            _ => Phase::Body,
        }
    }

    /// Matches a reply to the oldest command without a reply. The caller handles a reply that ends
    /// the session.
    pub(super) fn receive_reply(&mut self, reply: Reply) -> Step {
        let phase = self.phase();
        let accepts = succeeds(phase, reply.code, SuccessCodes::FirstDigit);
        self.read += 1;
        match phase {
            Phase::Body => return Step::Decided(self.decide(reply, accepts)),
            Phase::Mail if !accepts => self.mail = Some(Arc::new(reply)),
            // `read` also counts RSET, MAIL and this reply, so `read - 3` is the index of the
            // recipient.
            Phase::Rcpt if !accepts => self.refused.push((self.read - 3, Arc::new(reply))),
            _ => {}
        }
        Step::Open
    }

    /// The outcomes of the recipients so far. `others` is the outcome of the recipients without a
    /// refusal.
    pub(super) fn outcomes(&self, others: RecipientOutcome) -> RecipientOutcomes {
        if let Some(mail) = &self.mail {
            let refused = RecipientOutcome::refused(Phase::Mail, Arc::clone(mail));
            return RecipientOutcomes::Same(refused);
        }
        if self.refused.is_empty() {
            return RecipientOutcomes::Same(others);
        }
        let mut outcomes = vec![others; self.recipients];
        for (index, reply) in &self.refused {
            outcomes[*index] = RecipientOutcome::refused(Phase::Rcpt, Arc::clone(reply));
        }
        RecipientOutcomes::Each(outcomes)
    }

    /// The outcome after the reply to BDAT.
    fn decide(&self, reply: Reply, accepts: bool) -> MessageOutcome {
        let reply = Arc::new(reply);
        if accepts && self.mail.is_none() && self.refused.is_empty() {
            return MessageOutcome::accepted(reply);
        }
        let all_refused = self.refused.len() == self.recipients;
        let others = if accepts && (self.mail.is_some() || all_refused) {
            // RFC 5321 3.3: a server refuses content without a sender or a recipient. This server
            // accepted such content, so the actual recipients are unknown.
            RecipientOutcome::unknown(
                "the relay accepted a message without a sender or a recipient",
            )
        } else if accepts {
            RecipientOutcome::accepted(Arc::clone(&reply))
        } else {
            RecipientOutcome::refused(Phase::Body, Arc::clone(&reply))
        };
        let recipients = if accepts && self.mail.is_some() {
            RecipientOutcomes::Same(others)
        } else {
            self.outcomes(others)
        };
        MessageOutcome {
            recipients,
            reply: Some(reply),
        }
    }
}
