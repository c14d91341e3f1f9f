//! Reads the rows of a recipients list in CSV (RFC 4180), one by one.
//!
//! Python first checks the whole file (`check_csv`), with a parser that is strict about quotes and
//! supports every encoding. Then the parser in this module reads the rows. It supports only UTF-8,
//! and converts only the cells that the template uses.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use csv::{Reader, ReaderBuilder, StringRecord};

use super::RowError;
use super::template::Template;
use super::text::{Row, Value};

/// The size of the read buffer, in bytes.
const READ_SIZE: usize = 1 << 16;

/// An open recipients list.
pub struct RecipientsList {
    reader: Reader<BufReader<File>>,
    template: Arc<Template>,
    columns: ColumnIndices,
    record: StringRecord,
}

/// One row of a recipients list.
pub struct RecipientRow {
    /// The values of the template's fields, or the reason why the row is invalid.
    pub values: Result<Row, RowError>,
    /// The cell in the tag column; `None` if the row has no such cell.
    pub tag: Option<String>,
}

impl RecipientsList {
    /// Opens a file in UTF-8, with or without a byte order mark, and reads its header row. `tag` is
    /// the name of a column. The cell in this column identifies the row in the outcome of its
    /// message.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened, or if its header row cannot be read or is not UTF-8.
    pub fn open(
        path: &Path,
        template: &Arc<Template>,
        tag: Option<&str>,
    ) -> Result<Self, csv::Error> {
        let file = BufReader::with_capacity(READ_SIZE, File::open(path)?);
        // `flexible`: if a row has a wrong number of cells, only this row is invalid, and the next
        // rows are still read.
        let mut reader = ReaderBuilder::new().flexible(true).from_reader(file);
        let columns = ColumnIndices::find(reader.headers()?, template, tag);
        Ok(Self {
            reader,
            template: Arc::clone(template),
            columns,
            record: StringRecord::new(),
        })
    }

    /// Reads the next row. Returns `None` after the last row.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or if the row is not UTF-8.
    pub fn next_row(&mut self) -> Result<Option<RecipientRow>, csv::Error> {
        if !self.reader.read_record(&mut self.record)? {
            return Ok(None);
        }
        Ok(Some(RecipientRow {
            values: self.columns.values(&self.record, &self.template),
            tag: self.columns.tag(&self.record).map(str::to_owned),
        }))
    }
}

/// The positions of the template's fields and of the tag in a row.
struct ColumnIndices {
    fields: Vec<Option<usize>>,
    tag: Option<usize>,
    count: usize,
}

impl ColumnIndices {
    fn find(header: &StringRecord, template: &Template, tag: Option<&str>) -> Self {
        let column = |name: &str| header.iter().position(|each| each == name);
        Self {
            fields: template.fields().iter().map(|name| column(name)).collect(),
            tag: tag.and_then(column),
            count: header.len(),
        }
    }

    fn values(&self, record: &StringRecord, template: &Template) -> Result<Row, RowError> {
        if record.len() != self.count {
            let text = format!("{} cells but {} columns", record.len(), self.count);
            return Err(RowError::new(text));
        }
        let cell = |column: &Option<usize>| record.get((*column)?).map(Value::from);
        Ok(template.row(self.fields.iter().map(cell).collect()))
    }

    fn tag<'a>(&self, record: &'a StringRecord) -> Option<&'a str> {
        self.tag.and_then(|column| record.get(column))
    }
}
