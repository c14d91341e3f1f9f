//! The binding of `address`.

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::twin;
use crate::address;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(plain_path, module)?)?;
    module.add_function(wrap_pyfunction!(check_path, module)?)
}

/// The path of a plain address, or None.
#[pyfunction]
fn plain_path<'py>(address: &Bound<'py, PyAny>) -> Option<Bound<'py, PyString>> {
    let address = address.cast::<PyString>().ok()?;
    // Where there is no UTF-8 form there is something beyond ASCII.
    let path = address::plain_path(address.to_str().ok()?)?;
    Some(PyString::new(address.py(), &path))
}

/// Refuse a path through which parameters could be smuggled into MAIL or RCPT.
#[pyfunction]
fn check_path(path: &Bound<'_, PyString>) -> PyResult<()> {
    match path.to_str() {
        Ok(path) => Ok(address::check_path(path)?),
        Err(_) => twin::judge("check_path", path).map(drop),
    }
}
