//! The outcome of a message for Python. An attribute is converted only when Python reads it,
//! because for most messages Python reads only the status.

use std::time::Duration;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::engine::job::FinishedMessage;
use crate::outcome::{MessageOutcome, RecipientOutcome, Status};

/// The outcome of a message, with the recipients, the number of attempts and the time.
#[pyclass(frozen, name = "MessageOutcome", module = "rapidsmtp._native")]
pub(in crate::python) struct NativeMessageOutcome {
    outcome: MessageOutcome,
    recipients: Vec<Box<str>>,
    attempts: u32,
    time: Duration,
}

/// The status, code, enhanced status code and text of a recipient.
type RecipientTuple = (&'static str, Option<i16>, Option<String>, String);

#[pymethods]
impl NativeMessageOutcome {
    /// The name of the message's `Status`.
    #[getter]
    fn status<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        match self.outcome.status() {
            Status::Accepted => intern!(py, "ACCEPTED").clone(),
            other => PyString::new(py, other.name()),
        }
    }

    /// Return all details as a tuple. Its items are the status of the message, one tuple for each
    /// recipient (status, code, enhanced status code, text), the reply to the body, the phase, the
    /// number of attempts, the time in seconds, and the reason.
    #[expect(clippy::type_complexity, reason = "a tuple for Python")]
    fn details<'py>(
        &self,
        py: Python<'py>,
    ) -> (
        &'static str,
        Vec<RecipientTuple>,
        Option<(i16, Bound<'py, PyBytes>)>,
        &'static str,
        u32,
        f64,
        String,
    ) {
        let outcomes = (0..self.recipients.len()).map(|index| self.outcome.recipients.get(index));
        let reply = self.outcome.reply.as_ref();
        (
            self.outcome.status().name(),
            outcomes.map(recipient_tuple).collect(),
            reply.map(|reply| (reply.code, PyBytes::new(py, &reply.text))),
            self.outcome.phase_name(),
            self.attempts,
            self.time.as_secs_f64(),
            self.reason(),
        )
    }
}

impl NativeMessageOutcome {
    pub(super) fn new(finished: FinishedMessage) -> Self {
        Self {
            outcome: finished.outcome,
            recipients: finished.recipients,
            attempts: finished.attempts,
            time: finished.time,
        }
    }

    /// Returns the text of the first failure. An ellipsis replaces the recipient's address in the
    /// text of a relay. So two recipients with the same failure have equal texts, and a report can
    /// count them together. The reason of an invalid message may name the invalid address.
    fn reason(&self) -> String {
        let Some((index, failure)) = self.outcome.first_failure() else {
            return String::new();
        };
        let text = match &failure.reply {
            Some(reply) => format!("{} {}", reply.code, failure.text()),
            None => failure.text(),
        };
        let path = self.recipients.get(index).map_or("", |path| path);
        let address = path.trim_start_matches('<').trim_end_matches('>');
        if address.is_empty() || failure.status == Status::Invalid {
            return text;
        }
        text.replace(address, "\u{2026}")
    }
}

fn recipient_tuple(outcome: &RecipientOutcome) -> RecipientTuple {
    let reply = outcome.reply.as_deref();
    (
        outcome.status.name(),
        reply.map(|reply| reply.code),
        reply.and_then(|reply| reply.enhanced_status().map(str::to_owned)),
        outcome.text(),
    )
}
