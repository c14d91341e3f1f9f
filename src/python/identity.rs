//! The comparison of Python objects by identity.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(are_same, module)?)
}

/// Return whether two tuples contain the same objects.
#[pyfunction]
fn are_same(first: &Bound<'_, PyTuple>, second: &Bound<'_, PyTuple>) -> bool {
    first.len() == second.len() && first.iter().zip(second).all(|(one, other)| one.is(&other))
}
