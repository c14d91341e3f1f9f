//! The Python binding of the module `diagnosis`.

use pyo3::prelude::*;

use crate::diagnosis::{self, Phase};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(diagnose, module)?)?;
    module.add_function(wrap_pyfunction!(retry_after, module)?)?;
    module.add_function(wrap_pyfunction!(says_full, module)?)
}

/// Return the object that a refusal concerns: `recipient`, `message`, `later` (unknown),
/// `connection`, `concurrency` (the number of connections), `slower` (the sending rate), `quota` (a
/// limit of the account) or `relay`.
#[pyfunction]
#[pyo3(signature = (phase, code, text, enhanced_status))]
fn diagnose(
    phase: &str,
    code: i64,
    text: &[u8],
    enhanced_status: Option<&str>,
) -> PyResult<&'static str> {
    let phase = Phase::from_name(phase)?;
    Ok(diagnosis::diagnose(phase, code, text, enhanced_status).text())
}

/// Return the time after which the relay may accept mail again, in seconds; None if the text states
/// no time.
#[pyfunction]
fn retry_after(code: i64, text: &[u8]) -> Option<f64> {
    diagnosis::retry_after(code, text).map(f64::from)
}

/// Return whether a text states that a connection has carried its maximum number of messages.
#[pyfunction]
fn says_full(text: &[u8]) -> bool {
    diagnosis::says_full(text)
}
