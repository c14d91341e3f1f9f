//! The Python binding of the module `message::template`.
//!
//! A pending message holds the values of its row as Rust values. So the engine's threads can render
//! the message without the interpreter lock.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyFrozenSet};

use crate::content::ContentPart;
use crate::message::escape::Format;
use crate::message::template::{MergeRow, PartSource, Stamp, Template};
use crate::message::text::Row;
use crate::message::{RowError, TextKind};
use crate::python::dkim::NativeSigner;
use crate::python::row;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<NativePendingMessage>()?;
    module.add_class::<NativeTemplate>()
}

/// A compiled template, the implementation of `rapidsmtp.Template`.
#[pyclass(frozen, name = "Template", module = "rapidsmtp._native")]
pub(super) struct NativeTemplate {
    pub(super) template: Arc<Template>,
}

/// A text part of the body: its Content-Type, its source, its kind, its name in error messages, and
/// the boundaries of the enclosing multiparts.
type TextTuple = (String, String, String, String, Vec<Vec<u8>>);

/// An attached file that is read for each row: its path, its name in error messages, the folder of
/// the files, its Content-Type, and the types by suffix.
type FileTuple = (String, String, PathBuf, String, HashMap<String, String>);

/// A rendered message: the sender, the recipients, the data and the parameters of MAIL.
type MessageTuple<'py> = (String, Vec<String>, Bound<'py, PyBytes>, Vec<String>);

#[derive(FromPyObject)]
enum PartArgument {
    Bytes(Vec<u8>),
    Text(TextTuple),
    File(FileTuple),
}

impl From<PartArgument> for PartSource {
    fn from(argument: PartArgument) -> Self {
        match argument {
            PartArgument::Bytes(bytes) => Self::Bytes(bytes),
            PartArgument::File((path, place, root, content_type, types)) => Self::File {
                path,
                place,
                root,
                content_type,
                types,
            },
            PartArgument::Text((content_type, source, kind, place, boundaries)) => {
                let (kind, format) = match &*kind {
                    "html" => (TextKind::Html, None),
                    "calendar" => (TextKind::Header, Some(Format::Calendar)),
                    "json" => (TextKind::Header, Some(Format::Json)),
                    "rtf" => (TextKind::Header, Some(Format::Rtf)),
                    _ => (TextKind::Text, None),
                };
                Self::Text {
                    content_type,
                    source,
                    kind,
                    format,
                    place,
                    boundaries,
                }
            }
        }
    }
}

#[pymethods]
impl NativeTemplate {
    #[new]
    #[pyo3(signature = (headers, parts, signer=None))]
    fn new(
        py: Python<'_>,
        headers: Vec<(String, String)>,
        parts: Vec<PartArgument>,
        signer: Option<&NativeSigner>,
    ) -> PyResult<Self> {
        let parts = parts.into_iter().map(PartSource::from).collect();
        let signer = signer.map(|each| Arc::clone(&each.signer));
        let template = py.detach(|| Template::new(headers, parts, signer));
        let template = template.map_err(|error| PyValueError::new_err(error.0))?;
        Ok(Self {
            template: Arc::new(template),
        })
    }

    /// The merge fields that a row must have.
    #[getter]
    fn required_fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyFrozenSet>> {
        PyFrozenSet::new(py, self.template.required())
    }

    /// All merge fields that the message uses, in order.
    #[getter]
    fn fields(&self) -> Vec<String> {
        self.template.fields().to_vec()
    }

    /// Create the pending message of a row. `date` and `id` are the values of Date and Message-ID.
    /// `time` is the time of the DKIM signature, in seconds since 1970.
    fn pending(
        &self,
        row: &Bound<'_, PyAny>,
        tag: Py<PyAny>,
        date: &str,
        id: &str,
        time: u64,
    ) -> PyResult<NativePendingMessage> {
        let values = row::values(row, self.template.fields())?;
        let row = self.template.row(values);
        Ok(NativePendingMessage::new(
            &self.template,
            row,
            tag,
            date,
            id,
            time,
        ))
    }
}

/// A message that is not rendered yet. Either Python calls `render`, or the engine renders the
/// message.
#[pyclass(frozen, name = "PendingMessage", module = "rapidsmtp._native")]
pub(super) struct NativePendingMessage {
    pub(super) row: Arc<MergeRow>,
    #[pyo3(get)]
    tag: Py<PyAny>,
}

impl NativePendingMessage {
    pub(super) fn new(
        template: &Arc<Template>,
        row: Row,
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
            row: Arc::new(MergeRow {
                template: Arc::clone(template),
                row,
                stamp,
                parts: None,
            }),
            tag,
        }
    }
}

#[pymethods]
impl NativePendingMessage {
    /// Render the message. Return the sender, the recipients, the data and the parameters of MAIL.
    fn render<'py>(&self, py: Python<'py>) -> PyResult<MessageTuple<'py>> {
        let rendered = py.detach(|| self.row.render()).map_err(value_error)?;
        Ok((
            rendered.sender,
            rendered.recipients,
            PyBytes::new(py, &ContentPart::joined(rendered.parts)),
            rendered.mail_options,
        ))
    }
}

fn value_error(error: RowError) -> PyErr {
    PyValueError::new_err(error.to_string())
}
