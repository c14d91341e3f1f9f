//! The Python binding of the modules `message::flatten`, `message::fold` and `charset`.

use pyo3::exceptions::{PyLookupError, PyTypeError, PyUnicodeEncodeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};

use crate::charset::{self, CharsetError};
use crate::message::flatten::{self, Assembly, FlattenPart};
use crate::message::fold::{self, ValueSource};

/// The maximum depth of the recursion in `append_text`. For deeper nodes, `append_text` calls
/// Python's `str`. The parse trees of usual addresses are less deep.
const DEEPEST_TREE: usize = 32;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(assemble, module)?)?;
    module.add_function(wrap_pyfunction!(decode_charset, module)?)?;
    module.add_function(wrap_pyfunction!(fold_field, module)?)?;
    module.add_function(wrap_pyfunction!(has_from_line, module)?)?;
    module.add_function(wrap_pyfunction!(mentions, module)?)?;
    module.add_function(wrap_pyfunction!(tree_text, module)?)
}

/// Join the parts of a message. In `str` parts, convert line ends to CRLF.
#[pyfunction]
fn assemble<'py>(py: Python<'py>, parts: Vec<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyBytes>> {
    let parts: Vec<FlattenPart<'_>> = parts.iter().map(part).collect::<PyResult<_>>()?;
    let assembly = Assembly::new(parts);
    PyBytes::new_with(py, assembly.length(), |out| {
        assembly.write_into(out);
        Ok(())
    })
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

/// Return whether a line of the text begins with "From ".
#[pyfunction]
fn has_from_line(text: &str) -> bool {
    flatten::has_from_line(text.as_bytes())
}

/// Return whether one of the parts contains these bytes.
#[pyfunction]
fn mentions(parts: Vec<Bound<'_, PyAny>>, needle: &[u8]) -> PyResult<bool> {
    let parts: Vec<FlattenPart<'_>> = parts.iter().map(part).collect::<PyResult<_>>()?;
    Ok(flatten::mentions(parts, needle))
}

/// Fold a header field. Return None in cases that only the pure-Python backend can fold.
#[pyfunction]
fn fold_field<'py>(
    name: &Bound<'py, PyString>,
    value: &Bound<'py, PyString>,
    limit: usize,
    source: &str,
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let source = match source {
        "parsed" => ValueSource::Parsed,
        "parameters" => ValueSource::Parameters,
        "lines" => ValueSource::Lines,
        "compat32" => ValueSource::Compat32,
        _ => return Err(PyValueError::new_err("the source is unknown")),
    };
    // `to_str` fails for a text with lone surrogates, because they cannot be encoded in UTF-8. Only
    // the pure-Python backend can fold such a text.
    let (Ok(name_text), Ok(value_text)) = (name.to_str(), value.to_str()) else {
        return Ok(None);
    };
    let field = fold::fold(name_text, value_text, limit, source);
    Ok(field.map(|field| PyBytes::new(name.py(), &field)))
}

/// Return `str` of a parse tree without a Python call for each node.
///
/// The dict `plain` contains the known types of nodes. Its value is True if the node is a list of
/// nodes, and False if the node is a string. For a node of any other type, call `str`. Return None
/// if the text contains lone surrogates.
#[pyfunction]
fn tree_text(tree: &Bound<'_, PyAny>, plain: &Bound<'_, PyDict>) -> PyResult<Option<String>> {
    let mut text = String::new();
    match append_text(tree, plain, DEEPEST_TREE, &mut text) {
        Err(error) if error.is_instance_of::<PyUnicodeEncodeError>(tree.py()) => Ok(None),
        result => result.map(|()| Some(text)),
    }
}

fn append_text(
    node: &Bound<'_, PyAny>,
    plain: &Bound<'_, PyDict>,
    depth: usize,
    text: &mut String,
) -> PyResult<()> {
    let is_list = match plain.get_item(node.get_type())? {
        Some(is_list) => is_list.is_truthy()?,
        None => {
            text.push_str(node.str()?.to_str()?);
            return Ok(());
        }
    };
    if !is_list {
        text.push_str(node.cast::<PyString>()?.to_str()?);
    } else if depth == 0 {
        text.push_str(node.str()?.to_str()?);
    } else {
        for element in node.cast::<PyList>()?.iter() {
            append_text(&element, plain, depth - 1, text)?;
        }
    }
    Ok(())
}

/// Converts a part: `str` is ASCII text, and `bytes` are written unchanged.
fn part<'a>(part: &'a Bound<'_, PyAny>) -> PyResult<FlattenPart<'a>> {
    if let Ok(bytes) = part.cast::<PyBytes>() {
        return Ok(FlattenPart::Bytes(bytes.as_bytes()));
    }
    let text = part.cast::<PyString>()?.to_str()?;
    if text.is_ascii() {
        return Ok(FlattenPart::Text(text.as_bytes()));
    }
    Err(PyTypeError::new_err("a text part must be ASCII"))
}
