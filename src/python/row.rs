//! A row's Python values, made into plain ones.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple};

use crate::message::text::Value;

/// Lists within lists; Python's own limit on recursion is somewhat higher.
const DEPTH: usize = 60;

/// The values of the fields of these names, each `None` where the row has no such field.
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

/// str, int, float, bool, None, lists and dicts of them; anything else is `str()` of it.
///
/// The exact types alone: markup in a row would otherwise pass the escaping, and text from outside
/// is never markup.
fn value(object: &Bound<'_, PyAny>, depth: usize) -> PyResult<Value> {
    if depth > DEPTH {
        return Err(PyValueError::new_err("lists within lists, too deeply"));
    }
    if let Ok(text) = object.cast_exact::<PyString>() {
        return Ok(Value::from(unicode(text)?));
    }
    if object.is_none() {
        return Ok(Value::None);
    }
    if object.is_exact_instance_of::<PyBool>() {
        return Ok(Value::Bool(object.is_truthy()?));
    }
    if object.is_exact_instance_of::<PyInt>() {
        return integer(object);
    }
    if let Ok(float) = object.cast_exact::<PyFloat>() {
        return Ok(Value::Float(float.value()));
    }
    if let Ok(mapping) = object.cast::<PyMapping>() {
        let mut pairs = Vec::new();
        for item in mapping.items()? {
            let (key, each): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
            pairs.push((unicode(&key.str()?)?.to_owned(), value(&each, depth + 1)?));
        }
        return Value::dict(pairs).map_err(too_deep);
    }
    if object.is_instance_of::<PyList>() || object.is_instance_of::<PyTuple>() {
        let items = object.try_iter()?;
        let items: PyResult<Vec<Value>> = items.map(|each| value(&each?, depth + 1)).collect();
        return Value::list(items?).map_err(too_deep);
    }
    Ok(Value::from(unicode(&object.str()?)?))
}

fn integer(object: &Bound<'_, PyAny>) -> PyResult<Value> {
    if let Ok(small) = object.extract::<i64>() {
        return Ok(Value::Integer(small));
    }
    let digits = object.str()?;
    Value::integer(unicode(&digits)?).ok_or_else(|| PyValueError::new_err("no integer"))
}

fn unicode<'a>(text: &'a Bound<'_, PyString>) -> PyResult<&'a str> {
    let reason = "text that is not Unicode: surrogates not allowed";
    text.to_str().map_err(|_| PyValueError::new_err(reason))
}

fn too_deep(error: crate::message::RowError) -> PyErr {
    PyValueError::new_err(error.to_string())
}
