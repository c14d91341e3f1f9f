//! The Python binding of the module `reply_code`.

use pyo3::prelude::*;

use crate::diagnosis::Phase;
use crate::reply_code::{self, SuccessCodes};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(leaves_state_known, module)?)?;
    module.add_function(wrap_pyfunction!(refuses, module)?)?;
    module.add_function(wrap_pyfunction!(succeeds, module)?)
}

/// Return whether the state of the server is known after a reply to a command of the drop-in.
#[pyfunction]
fn leaves_state_known(phase: &str, code: i16) -> PyResult<bool> {
    let phase = Phase::from_name(phase)?;
    let codes = SuccessCodes::Exact;
    Ok(reply_code::leaves_state_known(phase, code, codes))
}

/// Return whether a code is a refusal, 4yz or 5yz.
#[pyfunction]
fn refuses(code: i16) -> bool {
    reply_code::refuses(code)
}

/// Return whether a code means success for a command of the drop-in: `mail`, `rcpt`, `data`, `body`
/// or `rset`.
#[pyfunction]
fn succeeds(phase: &str, code: i16) -> PyResult<bool> {
    let phase = Phase::from_name(phase)?;
    Ok(reply_code::succeeds(phase, code, SuccessCodes::Exact))
}
