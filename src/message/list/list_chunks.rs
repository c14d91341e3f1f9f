//! Divides a checked recipients list into the chunks of a campaign's journal.
//!
//! The cells of a row are written as Python's module `csv` writes them, so both backends give the
//! same bytes.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;

use memchr::{memchr, memchr_iter, memchr3};

use super::CheckedRows;
use super::list_check::{CheckSettings, ListCheck};
use super::records::{ListError, ListFormat, Record};
use crate::message::header::is_white;

/// What identifies a row.
pub enum RowKey {
    /// The cell of a column.
    Column(usize),
    /// The addresses of the recipients.
    Addresses(CheckSettings),
}

/// The next rows of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ListChunk {
    /// The number of rows.
    pub count: usize,
    /// The rows in CSV, without a header.
    pub data: Vec<u8>,
    /// The hashes of the rows' keys; 0 for a row without a key. Empty if no hashes are needed.
    pub hashes: Vec<u64>,
}

/// A checked list that is read chunk by chunk.
pub struct ListChunks {
    rows: CheckedRows,
    delimiter: u8,
    /// The maximum number of rows in a chunk.
    size: usize,
    key: Option<RowKey>,
    // The keys of the hash are random, so the author of a list cannot choose equal hashes.
    hasher: RandomState,
    text: String,
}

impl ListChunks {
    /// Opens a list that was checked.
    ///
    /// # Arguments
    ///
    /// - `size`: the maximum number of rows in a chunk.
    /// - `key`: what identifies a row; `None` if no hashes are needed.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened.
    pub fn open(
        path: &Path,
        format: &ListFormat,
        check: Arc<ListCheck>,
        size: usize,
        key: Option<RowKey>,
    ) -> Result<Self, ListError> {
        Ok(Self {
            rows: CheckedRows::open(path, format, check)?,
            delimiter: format.delimiter,
            size,
            key,
            hasher: RandomState::new(),
            text: String::new(),
        })
    }

    /// Reads the next chunk of the rows that are sent. Returns `None` after the last row.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or was changed after the check.
    pub fn next_chunk(&mut self) -> Result<Option<ListChunk>, ListError> {
        let mut chunk = ListChunk::default();
        while chunk.count < self.size && self.rows.advance()? {
            if self.rows.is_dropped() {
                continue;
            }
            let record = self.rows.record();
            write_record(record, self.delimiter, &mut chunk.data);
            if let Some(key) = &self.key {
                let has_key = key.write(record, &mut self.text);
                // 0 is the hash of a row without a key.
                let hash = has_key.then(|| self.hasher.hash_one(&*self.text).max(1));
                chunk.hashes.push(hash.unwrap_or(0));
            }
            chunk.count += 1;
        }
        Ok((chunk.count > 0).then_some(chunk))
    }
}

impl RowKey {
    /// Writes the key of a row to `text`. Returns whether the row has one.
    fn write(&self, record: &Record, text: &mut String) -> bool {
        text.clear();
        match self {
            Self::Column(column) => text.push_str(record.cell(*column).trim_matches(is_white)),
            Self::Addresses(settings) if settings.has_address(record) => {
                settings.write_address(record, text);
            }
            Self::Addresses(_) => {}
        }
        !text.is_empty()
    }
}

/// Writes a record. It has a cell with text.
fn write_record(record: &Record, delimiter: u8, data: &mut Vec<u8>) {
    for (column, cell) in record.cells().enumerate() {
        if column > 0 {
            data.push(delimiter);
        }
        let cell = cell.as_bytes();
        if memchr3(delimiter, b'"', b'\n', cell).is_none() && memchr(b'\r', cell).is_none() {
            data.extend_from_slice(cell);
            continue;
        }
        data.push(b'"');
        let mut start = 0;
        for quote in memchr_iter(b'"', cell) {
            // A quote inside a cell is written twice.
            data.extend_from_slice(&cell[start..=quote]);
            start = quote;
        }
        data.extend_from_slice(&cell[start..]);
        data.push(b'"');
    }
    data.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::list::records::BytesRecords;

    fn format() -> ListFormat {
        ListFormat {
            name: "list.csv".to_owned(),
            delimiter: b';',
            start: 0,
            number: 1,
            sheet: false,
            width: 3,
        }
    }

    #[test]
    fn cells_are_written_as_csv() {
        let text = "a;\"b;\"\"c\"\"\";\"d\ne\rf\"\n\"\";x, y;;\n";
        let mut records = BytesRecords::of_bytes(text.into(), format());
        let mut written = Vec::new();
        while let Some(record) = records.next_row().unwrap() {
            write_record(record, b';', &mut written);
        }
        let expected = "a;\"b;\"\"c\"\"\";\"d\ne\rf\"\r\n;x, y;;\r\n";
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }

    #[test]
    fn keys_are_compared_by_cell_or_by_addresses() {
        let keys = |key: &RowKey, text: &str| {
            let mut records = BytesRecords::of_bytes(text.into(), format());
            let mut found = Vec::new();
            while let Some(record) = records.next_row().unwrap() {
                let mut text = String::new();
                found.push(key.write(record, &mut text).then_some(text));
            }
            found
        };
        let some = |text: &str| Some(text.to_owned());
        let text = "\u{1f} 1 ;A@X.org;b@y.org\n ; none ;b@Y.org\n2;;\n";
        assert_eq!(keys(&RowKey::Column(0), text), [some("1"), None, some("2")]);
        let addresses = RowKey::Addresses(CheckSettings {
            address_columns: vec![1, 2],
            needs_at: true,
            ..CheckSettings::default()
        });
        let expected = [some("A@x.org\0b@y.org"), some("b@y.org"), None];
        assert_eq!(keys(&addresses, text), expected);
    }
}
