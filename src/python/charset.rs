//! The Python binding of the module `charset`.

use pyo3::exceptions::{PyLookupError, PyValueError};
use pyo3::prelude::*;

use crate::charset::{self, CharsetError};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(decode_charset, module)?)
}

/// Decode bytes by a label of the WHATWG Encoding standard, in lower case.
#[pyfunction]
fn decode_charset(label: &str, data: &[u8]) -> PyResult<String> {
    charset::decode(label, data).map_err(|error| match error {
        CharsetError::Unknown => {
            PyLookupError::new_err(format!("the charset '{label}' is unknown"))
        }
        CharsetError::Invalid => {
            PyValueError::new_err(format!("the text is not valid in its charset, {label}"))
        }
    })
}
