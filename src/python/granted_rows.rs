//! The rows of a chunk that the engine may send. The engine reads the rows from here, so Python
//! handles no row of a CSV chunk.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memchr::memchr;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::engine::progress::{ProgressFile, RowProgress};
use crate::message::list::chunk_rows::{ChunkRows, FieldSource};
use crate::message::list::records::ListFormat;
use crate::message::template::{MergeRow, Stamp, Template};
use crate::message::text::{Row, Value};
use crate::python::row;
use crate::python::template::NativeTemplate;

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<NativeGrantedRows>()?;
    module.add_class::<NativeProgressFile>()
}

/// A progress file that the engine writes.
#[pyclass(frozen, name = "ProgressFile", module = "rapidsmtp._native")]
pub(super) struct NativeProgressFile {
    file: Arc<ProgressFile>,
    rows: usize,
}

#[pymethods]
impl NativeProgressFile {
    /// Open a file that contains a header of `offset` bytes, and a zero for each of the `rows` rows.
    #[new]
    fn new(path: PathBuf, offset: u64, rows: usize) -> PyResult<Self> {
        let file = ProgressFile::open(&path, offset, rows)?;
        Ok(Self {
            file: Arc::new(file),
            rows,
        })
    }
}

/// A `rapidsmtp._models.chunk.Chunk`.
#[derive(FromPyObject)]
struct ChunkArgument {
    data: Vec<u8>,
    format: String,
    name: String,
    delimiter: char,
    width: usize,
    columns: std::collections::HashMap<String, usize>,
    id_field: Option<String>,
    first: u64,
    count: usize,
    id_prefix: String,
    date: String,
    time: u64,
}

/// A row that the engine may send.
pub(super) struct GrantedRow {
    pub(super) number: u64,
    /// The recipients to send to; `None` for all recipients.
    pub(super) parts: Option<Box<[u16]>>,
}

/// A row that was read: a message to render, or the reason why it cannot be one.
pub(super) type ReadRow = Result<Arc<MergeRow>, String>;

/// The rows of a chunk that the engine may send.
#[pyclass(frozen, name = "GrantedRows", module = "rapidsmtp._native")]
pub(super) struct NativeGrantedRows {
    source: RowSource,
    granted: Mutex<VecDeque<GrantedRow>>,
    template: Arc<Template>,
    id_field: Option<usize>,
    first: u64,
    count: usize,
    id_prefix: String,
    date: Box<str>,
    time: u64,
    progress: Option<Arc<ProgressFile>>,
}

enum RowSource {
    Csv(Box<Mutex<ChunkRows>>),
    /// A JSON object in each line. The objects are read by Python's module `json`, so they have the
    /// same values in both backends.
    JsonLines {
        name: String,
        lines: Vec<Box<[u8]>>,
    },
}

#[pymethods]
impl NativeGrantedRows {
    /// Create the rows of a `Chunk`. The engine records in `progress` which rows it has begun.
    #[new]
    #[pyo3(signature = (template, chunk, progress=None))]
    fn new(
        template: &NativeTemplate,
        chunk: &Bound<'_, PyAny>,
        progress: Option<&NativeProgressFile>,
    ) -> PyResult<Self> {
        let chunk: ChunkArgument = chunk.extract()?;
        if progress.is_some_and(|progress| progress.rows < chunk.count) {
            return Err(PyValueError::new_err(
                "the progress file has fewer rows than the chunk",
            ));
        }
        let template = Arc::clone(&template.template);
        let fields = template.fields();
        let id_field = chunk
            .id_field
            .and_then(|name| fields.iter().position(|field| *field == name));
        let source = if chunk.format == "csv" {
            let delimiter = u8::try_from(chunk.delimiter);
            let delimiter = delimiter.ok().filter(u8::is_ascii);
            let format = ListFormat {
                name: chunk.name,
                delimiter: delimiter
                    .ok_or_else(|| PyValueError::new_err("the delimiter must be ASCII"))?,
                start: 0,
                number: 1,
                sheet: true,
                width: chunk.width,
            };
            let source = |(place, field): (usize, &String)| match chunk.columns.get(field) {
                _ if id_field == Some(place) => FieldSource::Id,
                Some(column) => FieldSource::Column(*column),
                None => FieldSource::Missing,
            };
            let sources = fields.iter().enumerate().map(source).collect();
            let rows = ChunkRows::new(chunk.data, format, &template, sources);
            RowSource::Csv(Box::new(Mutex::new(rows)))
        } else {
            RowSource::JsonLines {
                name: chunk.name,
                lines: lines(&chunk.data),
            }
        };
        Ok(Self {
            source,
            granted: Mutex::default(),
            template,
            id_field,
            first: chunk.first,
            count: chunk.count,
            id_prefix: chunk.id_prefix,
            date: chunk.date.into(),
            time: chunk.time,
            progress: progress.map(|progress| Arc::clone(&progress.file)),
        })
    }

    /// Let `Engine.submit_rows` submit these rows, after the rows of earlier calls. `parts` are the
    /// recipients to send to, for rows that are not sent to all of their recipients.
    #[pyo3(signature = (rows, parts=None))]
    fn grant(
        &self,
        rows: Vec<u64>,
        parts: Option<std::collections::HashMap<u64, Vec<u16>>>,
    ) -> PyResult<()> {
        let end = self.first + self.count as u64;
        if let Some(row) = rows.iter().find(|row| !(self.first..end).contains(row)) {
            return Err(PyValueError::new_err(format!(
                "row {row} is not in the chunk, which has the rows {} to {}",
                self.first,
                end.saturating_sub(1)
            )));
        }
        let mut parts = parts.unwrap_or_default();
        let granted = rows.into_iter().map(|number| GrantedRow {
            number,
            parts: parts.remove(&number).map(Vec::into_boxed_slice),
        });
        self.lock().extend(granted);
        Ok(())
    }

    /// The number of granted rows that were not submitted yet.
    #[getter]
    fn left(&self) -> usize {
        self.lock().len()
    }

    /// Remove the granted rows that were not submitted yet, and return their numbers.
    fn withdraw(&self) -> Vec<u64> {
        let granted = std::mem::take(&mut *self.lock());
        granted.into_iter().map(|each| each.number).collect()
    }

    /// Return the recipients of a row, in order. For a row that makes no message, return None.
    fn recipients(&self, py: Python<'_>, row: u64) -> PyResult<Option<Vec<String>>> {
        let granted = GrantedRow {
            number: row,
            parts: None,
        };
        let read = self.read(py, &granted)?;
        let envelope = read.ok().and_then(|row| row.envelope().ok());
        Ok(envelope.map(|(_, recipients)| recipients))
    }
}

impl NativeGrantedRows {
    fn lock(&self) -> MutexGuard<'_, VecDeque<GrantedRow>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes and returns the next granted rows.
    pub(super) fn take(&self, limit: usize) -> Vec<GrantedRow> {
        let mut granted = self.lock();
        let count = limit.min(granted.len());
        granted.drain(..count).collect()
    }

    /// Puts rows back that were not submitted.
    pub(super) fn put_back(&self, rows: Vec<GrantedRow>) {
        let mut granted = self.lock();
        for each in rows.into_iter().rev() {
            granted.push_front(each);
        }
    }

    /// Returns the row's place in the progress file.
    pub(super) fn progress(&self, number: u64) -> Option<RowProgress> {
        Some(RowProgress {
            file: Arc::clone(self.progress.as_ref()?),
            place: u32::try_from(number - self.first).ok()?,
        })
    }

    /// Reads a granted row.
    ///
    /// # Errors
    ///
    /// If the chunk is damaged.
    pub(super) fn read(&self, py: Python<'_>, granted: &GrantedRow) -> PyResult<ReadRow> {
        let place = usize::try_from(granted.number - self.first)?;
        let id = format!("{}{}", self.id_prefix, granted.number);
        let found = match &self.source {
            RowSource::Csv(rows) => rows
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .row(place, &id)
                .map_err(|error| PyValueError::new_err(error.to_string()))?
                .map(Ok),
            RowSource::JsonLines { name, lines } => match lines.get(place) {
                Some(line) => Some(self.json_row(py, line, name, &id)?),
                None => None,
            },
        };
        let row = found.ok_or_else(|| {
            PyValueError::new_err(format!("the chunk has no row {}", granted.number))
        })?;
        Ok(row.map(|row| {
            Arc::new(MergeRow {
                template: Arc::clone(&self.template),
                row,
                stamp: Stamp {
                    date: self.date.clone(),
                    id: id.into_boxed_str(),
                    time: self.time,
                },
                parts: granted.parts.clone(),
            })
        }))
    }

    fn json_row(
        &self,
        py: Python<'_>,
        line: &[u8],
        name: &str,
        id: &str,
    ) -> PyResult<Result<Row, String>> {
        let loads = py.import("json")?.getattr("loads")?;
        let object = match loads.call1((PyBytes::new(py, line),)) {
            Err(error) if error.is_instance_of::<PyValueError>(py) => {
                let text = format!("{name}: a row is not JSON: {}", error.value(py));
                return Err(PyValueError::new_err(text));
            }
            object => object?,
        };
        let mut values = match row::values(&object, self.template.fields()) {
            Ok(values) => values,
            Err(error) if error.is_instance_of::<PyValueError>(py) => {
                return Ok(Err(error.value(py).to_string()));
            }
            Err(error) => return Err(error),
        };
        if let Some(field) = self.id_field {
            values[field] = Some(Value::from(id));
        }
        Ok(Ok(self.template.row(values)))
    }
}

/// Splits the lines of a text. The last line needs no line end.
fn lines(mut data: &[u8]) -> Vec<Box<[u8]>> {
    let mut lines = Vec::new();
    while !data.is_empty() {
        // JSON escapes a line break inside a text.
        let end = memchr(b'\n', data).unwrap_or(data.len());
        lines.push(data[..end].into());
        data = data.get(end + 1..).unwrap_or_default();
    }
    lines
}
