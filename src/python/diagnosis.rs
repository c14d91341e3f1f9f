//! The Python binding of the module `diagnosis`.

use pyo3::prelude::*;

use crate::diagnosis::{self, Phase};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(diagnose, module)?)
}

/// Return the object that a refusal concerns: `recipient`, `message`, `connection`, `slower` (the
/// sending rate) or `relay`.
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
