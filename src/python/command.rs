//! The binding of `command`.

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::twin;
use crate::command;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(check_command, module)?)?;
    module.add_function(wrap_pyfunction!(check_host_name, module)?)
}

/// Refuse a command line that holds a control character.
#[pyfunction]
fn check_command(text: &Bound<'_, PyString>) -> PyResult<()> {
    match text.to_str() {
        Ok(text) => Ok(command::check_command(text)?),
        Err(_) => twin::judge("check_command", text).map(drop),
    }
}

/// Refuse a name for EHLO, HELO or LHLO that is more than one word.
#[pyfunction]
fn check_host_name(name: &Bound<'_, PyString>) -> PyResult<()> {
    match name.to_str() {
        Ok(name) => Ok(command::check_host_name(name)?),
        Err(_) => twin::judge("check_host_name", name).map(drop),
    }
}
