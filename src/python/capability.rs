//! The binding of `capability`.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::capability;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(parse_ehlo, module)?)?;
    module.add_function(wrap_pyfunction!(exceeds_size, module)?)
}

/// Read the capabilities out of the text of an EHLO reply.
#[pyfunction]
fn parse_ehlo<'py>(py: Python<'py>, text: &[u8]) -> PyResult<Bound<'py, PyDict>> {
    let features = PyDict::new(py);
    for (keyword, parameters) in capability::parse_ehlo(text) {
        features.set_item(keyword, parameters)?;
    }
    Ok(features)
}

/// Whether a message is larger than the server said it takes.
#[pyfunction]
fn exceeds_size(parameter: &Bound<'_, PyString>, size: i64) -> bool {
    // A parameter without a UTF-8 form is unreadable; nothing exceeds with less than no octets.
    match (parameter.to_str(), u64::try_from(size)) {
        (Ok(parameter), Ok(size)) => capability::exceeds_size(parameter, size),
        _ => false,
    }
}
