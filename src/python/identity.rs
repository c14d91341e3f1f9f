//! Checks that find replaced methods: the comparison of objects by identity, and of names.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(are_same, module)?)?;
    module.add_function(wrap_pyfunction!(has_any, module)?)
}

/// Return whether two tuples contain the same objects.
#[pyfunction]
fn are_same(first: &Bound<'_, PyTuple>, second: &Bound<'_, PyTuple>) -> bool {
    first.len() == second.len() && first.iter().zip(second).all(|(one, other)| one.is(&other))
}

/// Return whether a dictionary has one of the names as a key.
#[pyfunction]
fn has_any(dictionary: &Bound<'_, PyDict>, names: &Bound<'_, PyTuple>) -> PyResult<bool> {
    for name in names {
        if dictionary.contains(name)? {
            return Ok(true);
        }
    }
    Ok(false)
}
