//! A transaction in window mode: RSET, MAIL, RCPT… and the whole content by BDAT (RFC 3030), all
//! written at once and answered in this order.
//!
//! ```text
//!     reply to    2yz                  anything else
//!     RSET        go on                the end of the connection: not executed, nor what is behind
//!     MAIL        go on                refused; the rest answers that there is no sender
//!     RCPT        left                 this recipient is refused
//!     BDAT        accepted             refused, by the first refusal that made it so
//! ```
//!
//! A server discards the chunk of a BDAT that it refuses: that is what the discard test is for.

use std::sync::Arc;

use super::{Fate, Word};
use crate::diagnosis::Phase;
use crate::reply::Reply;

/// The replies that are still to come, and what the earlier ones said.
#[derive(Debug)]
pub(super) struct Chunk {
    recipients: usize,
    /// How many replies were read.
    read: usize,
    mail: Option<Arc<Reply>>,
    refused: Vec<(usize, Arc<Reply>)>,
}

/// What a reply made of a transaction.
pub(super) enum Step {
    /// More replies are due.
    Open,
    /// It is decided.
    Decided(Fate),
}

impl Chunk {
    pub(super) fn new(recipients: usize) -> Self {
        Self {
            recipients,
            read: 0,
            mail: None,
            refused: Vec::new(),
        }
    }

    /// The command that the next reply answers.
    pub(super) fn phase(&self) -> Phase {
        match self.read {
            0 => Phase::Rset,
            1 => Phase::Mail,
            read if read < 2 + self.recipients => Phase::Rcpt,
            _ => Phase::Body,
        }
    }

    /// Takes the reply to the oldest command that has none; not one that ends the session.
    pub(super) fn receive_reply(&mut self, reply: Reply) -> Step {
        let phase = self.phase();
        let accepts = reply.code / 100 == 2;
        self.read += 1;
        match phase {
            Phase::Body => return Step::Decided(self.decide(reply, accepts)),
            Phase::Mail if !accepts => self.mail = Some(Arc::new(reply)),
            Phase::Rcpt if !accepts => self.refused.push((self.read - 3, Arc::new(reply))),
            _ => {}
        }
        Step::Open
    }

    /// What is known where the final reply will never come.
    pub(super) fn words(&self, others: &Word) -> Vec<Word> {
        let mut words = vec![others.clone(); self.recipients];
        if let Some(mail) = &self.mail {
            words.fill(Word::Refused(Phase::Mail, Arc::clone(mail)));
        } else {
            for (index, reply) in &self.refused {
                words[*index] = Word::Refused(Phase::Rcpt, Arc::clone(reply));
            }
        }
        words
    }

    fn decide(&self, reply: Reply, accepts: bool) -> Fate {
        if accepts && self.mail.is_none() && self.refused.is_empty() {
            return Fate::Accepted(reply);
        }
        let reply = Arc::new(reply);
        let all_refused = self.refused.len() == self.recipients;
        let others = if accepts && (self.mail.is_some() || all_refused) {
            // It took a body that had no sender or nobody to go to: who has it, nobody can say.
            Word::Unknown("the relay took a message that has nobody to go to".into())
        } else if accepts {
            Word::Accepted(Arc::clone(&reply))
        } else {
            Word::Refused(Phase::Body, Arc::clone(&reply))
        };
        let words = if accepts && self.mail.is_some() {
            vec![others; self.recipients]
        } else {
            self.words(&others)
        };
        Fate::Words {
            words,
            reply: Some(reply),
        }
    }
}
