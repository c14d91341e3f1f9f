//! The binding of `message::flatten` and `message::fold`.

use pyo3::exceptions::{PyTypeError, PyUnicodeEncodeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};

use crate::message::flatten::{self, Assembly, Piece};
use crate::message::fold::{self, Source};

/// Deeper parse trees than any address has are left to Python's own recursion.
const DEEPEST_TREE: usize = 32;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(assemble, module)?)?;
    module.add_function(wrap_pyfunction!(fold_field, module)?)?;
    module.add_function(wrap_pyfunction!(has_from_line, module)?)?;
    module.add_function(wrap_pyfunction!(mentions, module)?)?;
    module.add_function(wrap_pyfunction!(tree_text, module)?)
}

/// Join pieces; the line ends of those that are text become CRLF.
#[pyfunction]
fn assemble<'py>(py: Python<'py>, pieces: Vec<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyBytes>> {
    let pieces: Vec<Piece<'_>> = pieces.iter().map(piece).collect::<PyResult<_>>()?;
    let assembly = Assembly::new(pieces);
    PyBytes::new_with(py, assembly.length(), |out| {
        assembly.write_into(out);
        Ok(())
    })
}

/// Whether a line of the text begins with "From ".
#[pyfunction]
fn has_from_line(text: &str) -> bool {
    flatten::has_from_line(text.as_bytes())
}

/// Whether one of the pieces holds these octets.
#[pyfunction]
fn mentions(pieces: Vec<Bound<'_, PyAny>>, needle: &[u8]) -> PyResult<bool> {
    let pieces: Vec<Piece<'_>> = pieces.iter().map(piece).collect::<PyResult<_>>()?;
    Ok(flatten::mentions(pieces, needle))
}

/// Fold a header field where that is plain.
#[pyfunction]
fn fold_field<'py>(
    name: &Bound<'py, PyString>,
    value: &Bound<'py, PyString>,
    limit: usize,
    source: &str,
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let source = match source {
        "parsed" => Source::Parsed,
        "parameters" => Source::Parameters,
        "lines" => Source::Lines,
        "compat32" => Source::Compat32,
        _ => return Err(PyValueError::new_err("no such source")),
    };
    // Surrogates have no UTF-8.
    let (Ok(name_text), Ok(value_text)) = (name.to_str(), value.to_str()) else {
        return Ok(None);
    };
    let field = fold::fold(name_text, value_text, limit, source);
    Ok(field.map(|field| PyBytes::new(name.py(), &field)))
}

/// The text of a parse tree: what `str` of it is, without a call for each node.
///
/// `plain` says of a node's type whether it is a list whose text is that of its elements (true)
/// or a text itself (false); of any other node the `str` is asked for. Surrogates, which have no
/// UTF-8, give None.
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

/// `str` is text, and ASCII; `bytes` are octets.
fn piece<'a>(piece: &'a Bound<'_, PyAny>) -> PyResult<Piece<'a>> {
    if let Ok(octets) = piece.cast::<PyBytes>() {
        return Ok(Piece::Octets(octets.as_bytes()));
    }
    let text = piece.cast::<PyString>()?.to_str()?;
    if text.is_ascii() {
        return Ok(Piece::Text(text.as_bytes()));
    }
    Err(PyTypeError::new_err("a piece of text must be ASCII"))
}
