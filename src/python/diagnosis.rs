//! The binding of `diagnosis`.

use pyo3::prelude::*;

use crate::diagnosis::{self, Phase};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(diagnose, module)?)
}

/// Say whom a reply concerns that refuses or defers.
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
