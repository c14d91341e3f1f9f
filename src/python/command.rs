//! The Python binding of the module `command`.

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::pure_fallback;
use crate::command;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(check_command, module)?)?;
    module.add_function(wrap_pyfunction!(check_host_name, module)?)
}

/// Raise an error if a command line contains a control character.
#[pyfunction]
fn check_command(text: &Bound<'_, PyString>) -> PyResult<()> {
    match text.to_str() {
        Ok(text) => Ok(command::check_command(text)?),
        Err(_) => pure_fallback::call("check_command", text).map(drop),
    }
}

/// Raise an error if a host name for EHLO, HELO or LHLO is not one word.
#[pyfunction]
fn check_host_name(name: &Bound<'_, PyString>) -> PyResult<()> {
    match name.to_str() {
        Ok(name) => Ok(command::check_host_name(name)?),
        Err(_) => pure_fallback::call("check_host_name", name).map(drop),
    }
}
