//! The binding of `outcome`.

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;

use crate::outcome::{self, Status};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(recipient_status, module)?)?;
    module.add_function(wrap_pyfunction!(message_status, module)?)
}

/// What a reply means for the recipient that it was the last word on.
#[pyfunction]
fn recipient_status(code: i64) -> &'static str {
    outcome::recipient_status(code).name()
}

/// The status of a message, from those of its recipients.
#[pyfunction]
fn message_status(recipients: Vec<PyBackedStr>) -> PyResult<&'static str> {
    let statuses: Result<Vec<_>, _> = recipients
        .iter()
        .map(|name| Status::from_name(name))
        .collect();
    Ok(outcome::message_status(&statuses?)?.name())
}
