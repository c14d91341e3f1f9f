//! The Python binding of the module `address`.

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::pure_fallback;
use crate::address;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(plain_path, module)?)?;
    module.add_function(wrap_pyfunction!(check_path, module)?)
}

/// Return the path of a plain address, or None for any other address.
#[pyfunction]
fn plain_path<'py>(address: &Bound<'py, PyAny>) -> Option<Bound<'py, PyString>> {
    let address = address.cast::<PyString>().ok()?;
    // `to_str` fails for a text that cannot be encoded in UTF-8. Such a text is not ASCII, so it is
    // not a plain address.
    let path = address::plain_path(address.to_str().ok()?)?;
    Some(PyString::new(address.py(), &path))
}

/// Raise an error if a path contains characters that could add parameters to MAIL or RCPT.
#[pyfunction]
fn check_path(path: &Bound<'_, PyString>) -> PyResult<()> {
    match path.to_str() {
        Ok(path) => Ok(address::check_path(path)?),
        Err(_) => pure_fallback::call("check_path", path).map(drop),
    }
}
