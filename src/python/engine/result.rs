//! An outcome for Python, unfolded when somebody looks at it.

use std::sync::Arc;
use std::time::Duration;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::engine::job::{Decided, Result, Results};
use crate::outcome::Status;

/// What the engine knows of a message whose fate is decided.
#[pyclass(frozen, name = "Result", module = "rapidsmtp._native")]
pub(in crate::python) struct NativeResult {
    status: Status,
    paths: Vec<Box<str>>,
    results: Results,
    reply: Option<Arc<crate::reply::Reply>>,
    phase: &'static str,
    attempts: u32,
    time: Duration,
}

/// Status, code, enhanced status code and text of a recipient.
type RecipientTuple = (&'static str, Option<i16>, Option<String>, String);

#[pymethods]
impl NativeResult {
    /// The name of a `Status`.
    #[getter]
    fn status<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        match self.status {
            Status::Accepted => intern!(py, "ACCEPTED").clone(),
            other => PyString::new(py, other.name()),
        }
    }

    /// Status, recipients in their order, reply, phase, attempts, seconds, reason.
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
        let reply = self.reply.as_ref();
        (
            self.status.name(),
            (0..self.paths.len())
                .map(|index| recipient(self.result(index)))
                .collect(),
            reply.map(|reply| (reply.code, PyBytes::new(py, &reply.text))),
            self.phase,
            self.attempts,
            self.time.as_secs_f64(),
            self.reason(),
        )
    }
}

impl NativeResult {
    pub(super) fn new(decided: Decided) -> Self {
        Self {
            status: decided.status,
            paths: decided.recipients,
            results: decided.results,
            reply: decided.reply,
            phase: decided.phase,
            attempts: decided.attempts,
            time: decided.time,
        }
    }

    fn result(&self, index: usize) -> &Result {
        match &self.results {
            Results::Same(result) => result,
            Results::Each(results) => &results[index],
        }
    }

    /// The first recipient's that has not got it, without the address: a report can count it.
    fn reason(&self) -> String {
        let indices = 0..self.paths.len().max(1);
        let not_accepted = indices
            .map(|index| (index, self.result(index)))
            .find(|(_, result)| result.status != Status::Accepted);
        let Some((index, result)) = not_accepted else {
            return String::new();
        };
        let text = match &result.reply {
            Some(reply) => format!("{} {}", reply.code, result.text()),
            None => result.text(),
        };
        let path = self.paths.get(index).map_or("", |path| path);
        let address = path.trim_start_matches('<').trim_end_matches('>');
        if address.is_empty() {
            return text;
        }
        text.replace(address, "\u{2026}")
    }
}

fn recipient(result: &Result) -> RecipientTuple {
    let reply = result.reply.as_deref();
    (
        result.status.name(),
        reply.map(|reply| reply.code),
        reply.and_then(|reply| reply.enhanced_status().map(str::to_owned)),
        result.text(),
    )
}
