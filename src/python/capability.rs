//! The Python binding of the module `capability`.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::capability;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(parse_ehlo, module)?)?;
    module.add_function(wrap_pyfunction!(exceeds_size, module)?)
}

/// Parse the text of an EHLO reply into a dict of capabilities and their parameters.
#[pyfunction]
fn parse_ehlo<'py>(py: Python<'py>, text: &[u8]) -> PyResult<Bound<'py, PyDict>> {
    let features = PyDict::new(py);
    for (keyword, parameters) in capability::parse_ehlo(text) {
        features.set_item(keyword, parameters)?;
    }
    Ok(features)
}

/// Return whether `size`, in bytes, exceeds the limit in the server's SIZE parameter (RFC 1870).
#[pyfunction]
fn exceeds_size(parameter: &Bound<'_, PyString>, size: i64) -> bool {
    // `to_str` fails for a parameter that cannot be encoded in UTF-8. Such a parameter is not a
    // number, so it defines no limit.
    match (parameter.to_str(), u64::try_from(size)) {
        (Ok(parameter), Ok(size)) => capability::exceeds_size(parameter, size),
        _ => false,
    }
}
