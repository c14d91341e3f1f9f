//! The Python binding of the module `message::list`.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::message::list::RecipientsList;
use crate::message::list::list_check::{CheckSettings, Example, ListCheck};
use crate::message::list::list_chunks::{ListChunks, RowKey};
use crate::message::list::records::{ListError, ListFormat};
use crate::message::list::repeated_keys::RepeatedKeys;
use crate::python::template::{NativePendingMessage, NativeTemplate};

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<NativeListCheck>()?;
    module.add_class::<NativeListChunks>()?;
    module.add_class::<NativeRecipientsList>()?;
    module.add_function(wrap_pyfunction!(repeated_keys, module)?)
}

/// A `rapidsmtp._compose.list_file.ListFile`.
#[derive(FromPyObject)]
struct FileArgument {
    path: PathBuf,
    name: String,
    delimiter: char,
    start: u64,
    number: u64,
    sheet: bool,
    width: usize,
}

impl FileArgument {
    fn format(&self) -> PyResult<ListFormat> {
        let delimiter = u8::try_from(self.delimiter);
        let delimiter = delimiter.ok().filter(u8::is_ascii);
        Ok(ListFormat {
            name: self.name.clone(),
            delimiter: delimiter
                .ok_or_else(|| PyValueError::new_err("the delimiter must be ASCII"))?,
            start: self.start,
            number: self.number,
            sheet: self.sheet,
            width: self.width,
        })
    }
}

/// A `rapidsmtp._compose.list_file.CheckSettings`.
#[derive(FromPyObject)]
struct SettingsArgument {
    address_columns: Vec<usize>,
    needs_at: bool,
    finds_repeats: bool,
    drops_repeats: bool,
    excluded: HashSet<String>,
    limit: Option<u64>,
}

/// The result of the check of a recipients list.
#[pyclass(frozen, name = "ListCheck", module = "rapidsmtp._native")]
pub(super) struct NativeListCheck {
    check: Arc<ListCheck>,
}

/// The numbers and the address of a row as an example: its number, its address, and the number of
/// the first row with this address.
type ExampleTuple = (u64, String, u64);

#[pymethods]
impl NativeListCheck {
    /// Check the whole list `file`.
    #[new]
    fn new(py: Python<'_>, file: &Bound<'_, PyAny>, settings: &Bound<'_, PyAny>) -> PyResult<Self> {
        let file: FileArgument = file.extract()?;
        let settings: SettingsArgument = settings.extract()?;
        let format = file.format()?;
        let settings = CheckSettings {
            address_columns: settings.address_columns,
            needs_at: settings.needs_at,
            finds_repeats: settings.finds_repeats,
            drops_repeats: settings.drops_repeats,
            excluded: settings.excluded,
            limit: settings.limit,
        };
        let check = py.detach(|| ListCheck::run(&file.path, &format, &settings));
        Ok(Self {
            check: Arc::new(check.map_err(list_error)?),
        })
    }

    /// The number of rows.
    #[getter]
    fn rows(&self) -> u64 {
        self.check.rows
    }

    /// The number of rows that are not sent.
    #[getter]
    fn dropped(&self) -> u64 {
        self.check.dropped.len()
    }

    /// Whether a row is not sent. `row` is its index, from 0.
    fn is_dropped(&self, row: u64) -> bool {
        self.check.dropped.contains(row)
    }

    /// The number of rows with the address of an earlier row.
    #[getter]
    fn repeated(&self) -> u64 {
        self.check.repeated
    }

    /// The first of these rows.
    #[getter]
    fn examples(&self) -> Vec<ExampleTuple> {
        self.check.examples.iter().map(tuple).collect()
    }

    /// The number of rows whose address differs from an earlier one only in upper and lower case.
    #[getter]
    fn similar(&self) -> u64 {
        self.check.similar
    }

    /// The first of these rows.
    #[getter]
    fn similar_examples(&self) -> Vec<ExampleTuple> {
        self.check.similar_examples.iter().map(tuple).collect()
    }

    /// The number of rows with an excluded address.
    #[getter]
    fn excluded(&self) -> u64 {
        self.check.excluded
    }
}

/// The rows of a checked recipients list, as pending messages.
#[pyclass(frozen, name = "RecipientsList", module = "rapidsmtp._native")]
pub(super) struct NativeRecipientsList {
    template: Py<NativeTemplate>,
    list: Mutex<RecipientsList>,
    numbered: bool,
}

#[pymethods]
impl NativeRecipientsList {
    /// Open a checked list. `columns` are the columns of the template's fields. If `numbered` is
    /// true, a tag is a tuple: the number of the row, its line, the cell of the column `tag`, and
    /// the place of the row in the file.
    #[new]
    fn new(
        template: Py<NativeTemplate>,
        file: &Bound<'_, PyAny>,
        columns: Vec<Option<usize>>,
        tag: Option<usize>,
        check: &NativeListCheck,
        numbered: bool,
    ) -> PyResult<Self> {
        let file: FileArgument = file.extract()?;
        let format = file.format()?;
        let compiled = &template.get().template;
        let check = Arc::clone(&check.check);
        let list = RecipientsList::open(&file.path, &format, compiled, columns, tag, check);
        let list = list.map_err(|error| read_error(&error))?;
        Ok(Self {
            template,
            list: Mutex::new(list),
            numbered,
        })
    }

    /// Read the next row and create its pending message. Return None after the last row.
    fn next(
        &self,
        py: Python<'_>,
        date: &str,
        id: &str,
        time: u64,
    ) -> PyResult<Option<NativePendingMessage>> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let next = list.next_row().map_err(|error| read_error(&error))?;
        let Some(recipient) = next else {
            return Ok(None);
        };
        let tag = if self.numbered {
            let tag = (
                recipient.row,
                recipient.number,
                recipient.tag,
                recipient.place,
            );
            tag.into_pyobject(py)?.into_any()
        } else {
            recipient.tag.into_pyobject(py)?
        };
        let template = &self.template.get().template;
        Ok(Some(NativePendingMessage::new(
            template,
            recipient.values,
            tag.unbind(),
            date,
            id,
            time,
        )))
    }
}

/// A checked recipients list that is read chunk by chunk, for the journal of a campaign.
#[pyclass(frozen, name = "ListChunks", module = "rapidsmtp._native")]
pub(super) struct NativeListChunks {
    chunks: Mutex<ListChunks>,
}

/// The number of rows, the rows in CSV, and the hashes of their keys.
type ChunkTuple<'py> = (usize, Bound<'py, PyBytes>, Bound<'py, PyBytes>);

#[pymethods]
impl NativeListChunks {
    /// Open a checked list. The cell of the column `key` identifies a row; if `key` is None, the
    /// addresses in the columns `addresses` do. Hashes are computed only if `hashes` is true.
    #[new]
    fn new(
        file: &Bound<'_, PyAny>,
        check: &NativeListCheck,
        size: usize,
        key: Option<usize>,
        addresses: Vec<usize>,
        hashes: bool,
    ) -> PyResult<Self> {
        let file: FileArgument = file.extract()?;
        let format = file.format()?;
        let key = match key {
            Some(column) => RowKey::Column(column),
            None => RowKey::Addresses(CheckSettings {
                address_columns: addresses,
                needs_at: true,
                ..CheckSettings::default()
            }),
        };
        let check = Arc::clone(&check.check);
        let chunks = ListChunks::open(&file.path, &format, check, size, hashes.then_some(key));
        Ok(Self {
            chunks: Mutex::new(chunks.map_err(|error| read_error(&error))?),
        })
    }

    /// Read the next chunk. Return None after the last row.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<ChunkTuple<'py>>> {
        let chunk = py.detach(|| {
            let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
            chunks.next_chunk()
        });
        let chunk = chunk.map_err(|error| read_error(&error))?;
        Ok(chunk.map(|chunk| {
            let hashes: Vec<u8> = chunk
                .hashes
                .iter()
                .flat_map(|hash| hash.to_ne_bytes())
                .collect();
            let data = PyBytes::new(py, &chunk.data);
            (chunk.count, data, PyBytes::new(py, &hashes))
        }))
    }
}

/// Return the rows of a part of a list whose key occurs in an earlier row, each with the first row
/// that has this key. `hashes` are the hashes of all rows in order, as `ListChunks` returns them.
#[pyfunction]
fn repeated_keys(hashes: &Bound<'_, PyAny>, part: u64, parts: u64) -> PyResult<Vec<(u64, u64)>> {
    if !parts.is_power_of_two() {
        return Err(PyValueError::new_err("parts must be a power of two"));
    }
    let mut keys = RepeatedKeys::new(part, parts);
    for block in hashes.try_iter()? {
        let block = block?;
        let (words, _) = block.cast::<PyBytes>()?.as_bytes().as_chunks();
        keys.add(words.iter().map(|&word| u64::from_ne_bytes(word)));
    }
    Ok(keys.finish())
}

fn tuple(example: &Example) -> ExampleTuple {
    (example.number, example.address.clone(), example.first)
}

fn list_error(error: ListError) -> PyErr {
    match error {
        ListError::Io(error) => error.into(),
        ListError::Malformed(text) => PyValueError::new_err(text),
    }
}

/// The error of a list that was valid when it was checked. It ends the sending.
fn read_error(error: &ListError) -> PyErr {
    PyOSError::new_err(error.to_string())
}
