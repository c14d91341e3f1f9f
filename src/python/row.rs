//! The conversion of the Python values of a row to template values.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple};

use crate::message::text::Value;

/// The maximum nesting depth of lists and dicts in a row; a deeper value is an error. The maximum
/// is far below Python's recursion limit, so that the pure-Python backend can have the same limit.
const DEPTH: usize = 60;

/// Returns the values of the fields `names`; `None` for a missing field.
pub(super) fn values(row: &Bound<'_, PyAny>, names: &[String]) -> PyResult<Vec<Option<Value>>> {
    let copy;
    let row = match row.cast::<PyDict>() {
        Ok(row) => row,
        Err(_) => {
            copy = PyDict::new(row.py());
            copy.update(row.cast::<PyMapping>().map_err(PyErr::from)?)?;
            &copy
        }
    };
    let field = |name: &String| row.get_item(name)?.map(|each| value(&each, 0)).transpose();
    names.iter().map(field).collect()
}

/// Converts a value. Strings, numbers, booleans, None, and lists and dicts of these keep their
/// types. For any other object, the result is the text that Python's `str` returns.
///
/// An instance of a subclass of str, int or float is also converted by `str`. So an instance of
/// `Markup`, a subclass of str, becomes plain text and is escaped: the text of a row is never
/// markup.
fn value(object: &Bound<'_, PyAny>, depth: usize) -> PyResult<Value> {
    if depth > DEPTH {
        return Err(PyValueError::new_err("a list or dict is nested too deeply"));
    }
    if let Ok(text) = object.cast_exact::<PyString>() {
        return Ok(Value::from(unicode(text)?));
    }
    if object.is_none() {
        return Ok(Value::from(()));
    }
    if object.is_exact_instance_of::<PyBool>() {
        return Ok(Value::from(object.is_truthy()?));
    }
    if object.is_exact_instance_of::<PyInt>() {
        return integer(object);
    }
    if let Ok(float) = object.cast_exact::<PyFloat>() {
        return Ok(Value::from(float.value()));
    }
    if let Ok(mapping) = object.cast::<PyMapping>() {
        let mut pairs = Vec::new();
        for item in mapping.items()? {
            let (key, each): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
            pairs.push((Value::from(unicode(&key.str()?)?), value(&each, depth + 1)?));
        }
        return Ok(Value::from_pairs(pairs));
    }
    if object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>() {
        let items = object.try_iter()?;
        let items: PyResult<Vec<Value>> = items.map(|each| value(&each?, depth + 1)).collect();
        return Ok(Value::from(items?));
    }
    let text = object.str()?;
    let text = unicode(&text)?;
    Ok(if is_missing(object, text) {
        Value::from(())
    } else {
        Value::from(text)
    })
}

/// Whether an object is a missing value: it is not equal to itself (`Decimal("NaN")`, pandas' `NaT`),
/// or it has no truth value for this question (pandas' `NA`).
fn is_missing(object: &Bound<'_, PyAny>, text: &str) -> bool {
    match object.ne(object) {
        Ok(is_other) => is_other,
        Err(_) => matches!(text, "<NA>" | "sNaN" | "-sNaN"),
    }
}

fn integer(object: &Bound<'_, PyAny>) -> PyResult<Value> {
    if let Ok(small) = object.extract::<i64>() {
        return Ok(Value::from(small));
    }
    // An integer of more than 128 bits becomes a text.
    let digits = object.str()?;
    let digits = unicode(&digits)?;
    let number = digits.parse::<i128>();
    Ok(number.map_or_else(|_| Value::from(digits), Value::from))
}

fn unicode<'a>(text: &'a Bound<'_, PyString>) -> PyResult<&'a str> {
    let reason = "the text is not valid Unicode: surrogates not allowed";
    text.to_str().map_err(|_| PyValueError::new_err(reason))
}
