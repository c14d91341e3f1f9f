//! Reads the rows of a recipients list, one by one.
//!
//! Python opens the list and finds its encoding, its delimiter, its header and the columns of the
//! template's fields (`python/rapidsmtp/_compose/recipients_list.py`). [`ListCheck`] then reads the
//! whole file once before sending. During the sending, [`RecipientsList`] reads it again, and
//! converts only the cells that the template uses.

pub mod chunk_rows;
pub mod list_check;
pub mod list_chunks;
pub mod records;
pub mod repeated_keys;
pub mod repeats;
pub mod row_set;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use list_check::{ListCheck, open};
use records::{ListError, ListFormat, ListRecords, Record};

use super::template::Template;
use super::text::{Row, Value};

/// An open recipients list.
pub struct RecipientsList {
    rows: CheckedRows,
    template: Arc<Template>,
    /// The columns of the template's fields; `None` for a field without a column.
    columns: Vec<Option<usize>>,
    tag: Option<usize>,
}

/// One row of a recipients list.
pub struct RecipientRow {
    /// The values of the template's fields.
    pub values: Row,
    /// The cell in the tag column; `None` without a tag column.
    pub tag: Option<String>,
    /// The number of the row among all rows, from 1.
    pub row: u64,
    /// The number of the row's first line, or of its row in a sheet.
    pub number: u64,
    /// The place of the row, in bytes from the start of the file.
    pub place: u64,
}

impl RecipientsList {
    /// Opens a list that was checked.
    ///
    /// # Arguments
    ///
    /// - `columns`: the columns of [`Template::fields`], in order.
    /// - `tag`: the column whose cell identifies the row in the outcome of its message.
    /// - `check`: the result of the check; the rows in `dropped` are skipped.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened.
    pub fn open(
        path: &Path,
        format: &ListFormat,
        template: &Arc<Template>,
        columns: Vec<Option<usize>>,
        tag: Option<usize>,
        check: Arc<ListCheck>,
    ) -> Result<Self, ListError> {
        Ok(Self {
            rows: CheckedRows::open(path, format, check)?,
            template: Arc::clone(template),
            columns,
            tag,
        })
    }

    /// Reads the next row that is sent. Returns `None` after the last row.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or was changed after the check. Rows that were appended to the
    /// file are ignored.
    pub fn next_row(&mut self) -> Result<Option<RecipientRow>, ListError> {
        while self.rows.advance()? {
            if self.rows.is_dropped() {
                continue;
            }
            let record = self.rows.record();
            return Ok(Some(RecipientRow {
                values: row(&self.template, &self.columns, record),
                tag: self.tag.map(|column| record.cell(column).to_owned()),
                row: self.rows.count,
                number: record.number,
                place: record.offset,
            }));
        }
        Ok(None)
    }
}

/// The rows of a list that was checked.
struct CheckedRows {
    records: ListRecords<File>,
    check: Arc<ListCheck>,
    /// The number of rows that were read.
    count: u64,
}

impl CheckedRows {
    /// Opens the list at its first row.
    fn open(path: &Path, format: &ListFormat, check: Arc<ListCheck>) -> Result<Self, ListError> {
        Ok(Self {
            records: open(path, format)?,
            check,
            count: 0,
        })
    }

    /// Reads the next row. Returns whether there is one.
    fn advance(&mut self) -> Result<bool, ListError> {
        if self.count >= self.check.rows {
            return Ok(false);
        }
        if self.records.next_row()?.is_none() {
            return Err(self.records.format().changed());
        }
        self.count += 1;
        // If the file ends too early, its last row may be incomplete.
        let is_last = self.count == self.check.rows;
        if is_last && self.records.place() != self.check.end || !is_last && self.records.is_at_end()
        {
            return Err(self.records.format().changed());
        }
        Ok(true)
    }

    /// Returns the last row.
    fn record(&self) -> &Record {
        self.records.record()
    }

    /// Whether the last row is not sent.
    fn is_dropped(&self) -> bool {
        self.check.dropped.contains(self.count - 1)
    }
}

fn row(template: &Template, columns: &[Option<usize>], record: &Record) -> Row {
    let value = |column: &Option<usize>| Some(Value::from(record.cell((*column)?)));
    template.row(columns.iter().map(value).collect())
}
