//! The binding of `message::template`: a message taken apart goes in, rows go in, drafts come out.
//!
//! A draft holds its row as plain values, so that the engine's threads can write its message
//! without the interpreter.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyFrozenSet};

use crate::content::Piece;
use crate::engine::list::List;
use crate::message::template::{self, Part, Stamp};
use crate::message::{Kind, RowError};
use crate::python::dkim::NativeSigner;
use crate::python::row;

/// A compiled message; `rapidsmtp.Template` is its face.
#[pyclass(frozen, module = "rapidsmtp._native")]
pub(super) struct Template {
    template: Arc<template::Template>,
}

/// A text of the body: Content-Type, source, kind, place, boundaries.
type TextTuple = (String, String, String, String, Vec<Vec<u8>>);

/// Sender, recipients, data, options of MAIL.
type MessageTuple<'py> = (String, Vec<String>, Bound<'py, PyBytes>, Vec<String>);

#[derive(FromPyObject)]
enum PartArgument {
    Bytes(Vec<u8>),
    Text(TextTuple),
}

impl From<PartArgument> for Part {
    fn from(argument: PartArgument) -> Self {
        match argument {
            PartArgument::Bytes(bytes) => Self::Bytes(bytes),
            PartArgument::Text((content_type, source, kind, place, boundaries)) => Self::Text {
                content_type,
                source,
                kind: if kind == "html" {
                    Kind::Html
                } else {
                    Kind::Text
                },
                place,
                boundaries,
            },
        }
    }
}

#[pymethods]
impl Template {
    #[new]
    #[pyo3(signature = (headers, parts, signer=None))]
    fn new(
        py: Python<'_>,
        headers: Vec<(String, String)>,
        parts: Vec<PartArgument>,
        signer: Option<&NativeSigner>,
    ) -> PyResult<Self> {
        let parts = parts.into_iter().map(Part::from).collect();
        let signer = signer.map(|each| Arc::clone(&each.signer));
        let template = py.detach(|| template::Template::new(headers, parts, signer));
        let template = template.map_err(|error| PyValueError::new_err(error.0))?;
        Ok(Self {
            template: Arc::new(template),
        })
    }

    /// The fields that a row must have.
    #[getter]
    fn required_fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyFrozenSet>> {
        PyFrozenSet::new(py, self.template.required())
    }

    /// Takes a row.
    fn draft(
        &self,
        row: &Bound<'_, PyAny>,
        tag: Py<PyAny>,
        date: &str,
        id: &str,
        time: u64,
    ) -> PyResult<Draft> {
        let values = row::values(row, self.template.fields())?;
        let row = self.template.row(values);
        Ok(Draft::new(&self.template, row, tag, date, id, time))
    }
}

/// A row on its way to a message.
#[pyclass(frozen, module = "rapidsmtp._native")]
pub(super) struct Draft {
    pub(super) draft: Arc<template::Draft>,
    #[pyo3(get)]
    tag: Py<PyAny>,
}

impl Draft {
    fn new(
        template: &Arc<template::Template>,
        row: crate::message::text::Row,
        tag: Py<PyAny>,
        date: &str,
        id: &str,
        time: u64,
    ) -> Self {
        let stamp = Stamp {
            date: date.into(),
            id: id.into(),
            time,
        };
        Self {
            draft: Arc::new(template::Draft {
                template: Arc::clone(template),
                row,
                stamp,
            }),
            tag,
        }
    }
}

#[pymethods]
impl Draft {
    /// Writes the message: sender, recipients, data, options of MAIL.
    fn compose<'py>(&self, py: Python<'py>) -> PyResult<MessageTuple<'py>> {
        let rendered = py.detach(|| self.draft.render()).map_err(value_error)?;
        Ok((
            rendered.sender,
            rendered.recipients,
            PyBytes::new(py, &Piece::joined(rendered.pieces)),
            rendered.mail_options,
        ))
    }
}

/// The lines of a CSV file that was checked, as drafts.
#[pyclass(frozen, module = "rapidsmtp._native")]
pub(super) struct CsvLines {
    template: Arc<template::Template>,
    state: Mutex<State>,
    tagged: bool,
}

struct State {
    list: List,
    tag: Option<String>,
}

#[pymethods]
impl CsvLines {
    #[new]
    fn new(template: &Bound<'_, Template>, path: PathBuf, tag: Option<&str>) -> PyResult<Self> {
        let template = Arc::clone(&template.get().template);
        let list = List::open(&path, &template, tag).map_err(read_error)?;
        Ok(Self {
            template,
            state: Mutex::new(State { list, tag: None }),
            tagged: tag.is_some(),
        })
    }

    /// The tag of the line that was read last.
    #[getter]
    fn tag(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.tag.clone()
    }

    /// Takes the next line; `None` behind the last one.
    fn next(&self, py: Python<'_>, date: &str, id: &str, time: u64) -> PyResult<Option<Draft>> {
        let line = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(line) = state.list.next_line().map_err(read_error)? else {
                return Ok(None);
            };
            state.tag.clone_from(&line.tag);
            line
        };
        let row = line.row.map_err(value_error)?;
        let tag = match line.tag.filter(|_| self.tagged) {
            Some(tag) => tag.into_pyobject(py)?.into_any().unbind(),
            None => py.None(),
        };
        Ok(Some(Draft::new(&self.template, row, tag, date, id, time)))
    }
}

fn value_error(error: RowError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn read_error(error: csv::Error) -> PyErr {
    PyOSError::new_err(error.to_string())
}
