//! The binding: registers, unwraps, calls, wraps. It decides nothing.

use pyo3::prelude::*;

mod error;
mod sink;

/// The compiled half of `rapidsmtp._core`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<sink::NativeSink>()?;
    Ok(())
}
