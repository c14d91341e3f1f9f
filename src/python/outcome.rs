//! The Python binding of the module `outcome`.

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

use crate::outcome::{self, Status};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(refusal_status, module)?)?;
    module.add_function(wrap_pyfunction!(message_status, module)?)
}

/// Return the status of a recipient that a reply code did not accept.
#[pyfunction]
fn refusal_status(code: i16, body_sent: bool) -> &'static str {
    outcome::refusal_status(code, body_sent).name()
}

/// Return the status of a message, derived from the statuses of its recipients.
#[pyfunction]
fn message_status(recipients: Vec<PyBackedStr>) -> PyResult<&'static str> {
    let statuses: Result<Vec<_>, _> = recipients
        .iter()
        .map(|name| Status::from_name(name))
        .collect();
    Ok(outcome::message_status(&statuses?)?.name())
}
