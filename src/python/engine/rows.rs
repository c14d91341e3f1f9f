//! Rows of a campaign in the engine, and outcomes as plain tuples. For both, Python handles batches:
//! it creates no object for a row except the tuple of its outcome, which a database takes as it is.

use std::collections::HashMap;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::engine::job::FinishedMessage;
use crate::engine::queue::OutboxId;
use crate::engine::render::{PendingMessage, unrendered};
use crate::outcome::{RecipientOutcome, Status};
use crate::printable::brief;
use crate::python::granted_rows::{GrantedRow, NativeGrantedRows};

/// The bit that marks the token of a row. The token of a Python message is a place in a list, which
/// is never that large.
const ROW: u64 = 1 << 63;

/// The parts of the submitted rows that are not sent to all of their recipients.
#[derive(Default)]
pub(super) struct RowParts(HashMap<(OutboxId, u64), Box<[u16]>>);

impl RowParts {
    pub(super) fn insert(&mut self, outbox: OutboxId, granted: &GrantedRow) {
        if let Some(parts) = &granted.parts {
            self.0.insert((outbox, granted.number), parts.clone());
        }
    }

    pub(super) fn remove(&mut self, outbox: OutboxId, token: u64) -> Option<Box<[u16]>> {
        if self.0.is_empty() {
            return None;
        }
        self.0.remove(&(outbox, token & !ROW))
    }

    pub(super) fn close_outbox(&mut self, closed: OutboxId) {
        self.0.retain(|(outbox, _), _| *outbox != closed);
    }
}

/// Reads granted rows: as pending messages, or as finished messages if they cannot be sent. With a
/// `reason`, all rows are finished as not attempted.
pub(super) fn read_rows(
    py: Python<'_>,
    rows: &NativeGrantedRows,
    outbox: OutboxId,
    granted: &[GrantedRow],
    reason: Option<&str>,
) -> PyResult<(Vec<PendingMessage>, Vec<FinishedMessage>)> {
    let mut pending = Vec::with_capacity(granted.len());
    let mut finished = Vec::new();
    for each in granted {
        let token = ROW | each.number;
        match rows.read(py, each)? {
            Ok(source) => {
                let message = PendingMessage {
                    outbox,
                    token,
                    source,
                    progress: rows.progress(each.number),
                };
                match reason {
                    Some(reason) => finished.push(unrendered(&message, reason)),
                    None => pending.push(message),
                }
            }
            Err(reason) => {
                let (none, status) = (Vec::new(), Status::Invalid);
                finished.push(FinishedMessage::unsent(
                    outbox, token, none, status, &reason,
                ));
            }
        }
    }
    Ok((pending, finished))
}

/// Appends a tuple for each recipient of a finished message: the row, the part, the number of the
/// status, the code, the enhanced status code, the text, the address, the attempts and the time in
/// milliseconds. The row of a Python message is its tag. The address is None if the message has one
/// recipient and was accepted.
pub(super) fn append_outcome(
    into: &Bound<'_, PyList>,
    finished: &FinishedMessage,
    message: Option<&Py<PyAny>>,
    parts: Option<&[u16]>,
) -> PyResult<()> {
    let py = into.py();
    let row = match message {
        Some(message) => message.bind(py).getattr(intern!(py, "tag"))?,
        None => (finished.token & !ROW).into_pyobject(py)?.into_any(),
    };
    let is_single = finished.recipients.len() <= 1 && parts.is_none();
    // A message that could not be built has no recipients, but has an outcome.
    for index in 0..finished.recipients.len().max(1) {
        let outcome = finished.outcome.recipients.get(index);
        let part = match parts {
            Some(parts) => parts.get(index).map_or(index, |part| usize::from(*part)),
            None => index,
        };
        let is_omitted = is_single && outcome.status == Status::Accepted;
        let path = finished.recipients.get(index).filter(|_| !is_omitted);
        into.append(tuple(
            py,
            &row,
            part,
            outcome,
            path.map(|path| address(path)),
            finished,
        )?)?;
    }
    Ok(())
}

fn tuple<'py>(
    py: Python<'py>,
    row: &Bound<'py, PyAny>,
    part: usize,
    outcome: &RecipientOutcome,
    address: Option<&str>,
    finished: &FinishedMessage,
) -> PyResult<Bound<'py, PyTuple>> {
    let reply = outcome.reply.as_deref();
    (
        row,
        part,
        outcome.status.number(),
        reply.map(|reply| reply.code),
        reply.and_then(|reply| reply.enhanced_status()),
        brief(outcome.text()),
        address,
        finished.attempts,
        u64::try_from(finished.time.as_millis()).unwrap_or(u64::MAX),
    )
        .into_pyobject(py)
}

/// The address in a path: without the angle brackets.
fn address(path: &str) -> &str {
    let inner = path
        .strip_prefix('<')
        .and_then(|path| path.strip_suffix('>'));
    inner.unwrap_or(path)
}
