//! Reads a whole recipients list once before sending: checks every record, counts the rows, and
//! finds the rows that are not sent because their address is repeated or excluded.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;

use super::records::{ListError, ListFormat, ListRecords, Record};
use super::repeats::{AddressTable, Repeats};
use super::row_set::RowSet;
use crate::message::invisible;

/// The number of rows between two places that are kept to find the line of a row.
const CHECKPOINT: u64 = 1 << 16;

/// What to look for in a list.
#[derive(Debug, Default)]
pub struct CheckSettings {
    /// The columns with the addresses of the recipients.
    pub address_columns: Vec<usize>,
    /// Whether a cell without an `@` is no address. Otherwise the cells of all columns together are
    /// the address, if none of them has an `@`.
    pub needs_at: bool,
    /// Whether to find repeated addresses.
    pub finds_repeats: bool,
    /// Whether rows with a repeated address are not sent.
    pub drops_repeats: bool,
    /// The addresses that are not sent, in lower case.
    pub excluded: HashSet<String>,
    /// The maximum number of rows to use. The rows after them are only checked.
    pub limit: Option<u64>,
}

/// A row as an example: its number, its address, and the number of an earlier row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The number of the row.
    pub number: u64,
    /// The address of the row.
    pub address: String,
    /// The number of the first row with this address.
    pub first: u64,
}

/// The result of the check.
#[derive(Debug, Default)]
pub struct ListCheck {
    /// The number of rows to use, without empty rows.
    pub rows: u64,
    /// The place after the last of these rows, in bytes from the start of the file.
    pub end: u64,
    /// The number of rows with the address of an earlier row.
    pub repeated: u64,
    /// The first of these rows.
    pub examples: Vec<Example>,
    /// The number of rows whose address differs from an earlier one only in the case of the local
    /// part.
    pub similar: u64,
    /// The first of these rows.
    pub similar_examples: Vec<Example>,
    /// The number of rows with an excluded address.
    pub excluded: u64,
    /// The rows that are not sent, by their indexes.
    pub dropped: RowSet,
}

impl ListCheck {
    /// Checks a list.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or is not a valid list.
    pub fn run(
        path: &Path,
        format: &ListFormat,
        settings: &CheckSettings,
    ) -> Result<Self, ListError> {
        let mut check = Self::default();
        let mut table = AddressTable::default();
        let mut checkpoints = Vec::new();
        let mut address = String::new();
        let mut records = open(path, format)?;
        while let Some(record) = records.next_row()? {
            if settings.limit.is_some_and(|limit| check.rows >= limit) {
                continue;
            }
            if check.rows.is_multiple_of(CHECKPOINT) {
                checkpoints.push((record.offset, record.number));
            }
            let has_address = settings.has_address(record);
            let is_excluded = has_address && settings.is_excluded(record);
            if is_excluded {
                check.excluded += 1;
                check.dropped.insert(check.rows);
            }
            if settings.finds_repeats {
                if has_address && !is_excluded {
                    settings.write_address(record, &mut address);
                    table.add(&mut address);
                } else {
                    table.add_without_address();
                }
            }
            check.rows += 1;
            check.end = records.place();
        }
        let found = table.repeats();
        let mut rows = RowReader {
            records,
            settings,
            checkpoints,
        };
        check.add_repeats(found, settings.drops_repeats, &mut rows)?;
        Ok(check)
    }

    fn add_repeats(
        &mut self,
        found: Repeats,
        drops_repeats: bool,
        rows: &mut RowReader,
    ) -> Result<(), ListError> {
        self.repeated = found.rows.len();
        self.similar = found.similar;
        for (row, first) in found.examples {
            let (number, address) = rows.read(row)?;
            let (first, _) = rows.read(first)?;
            self.examples.push(Example {
                number,
                address: shown(&address),
                first,
            });
        }
        for (row, earlier) in found.similar_examples {
            let (number, address) = rows.read(row)?;
            if rows.read(earlier)?.1.eq_ignore_ascii_case(&address) {
                self.similar_examples.push(Example {
                    number,
                    address: shown(&address),
                    first: number,
                });
            } else {
                self.similar -= 1;
            }
        }
        if drops_repeats {
            self.dropped.insert_all(&found.rows);
        }
        Ok(())
    }
}

/// Reads single rows of a list again.
struct RowReader<'a> {
    records: ListRecords<File>,
    settings: &'a CheckSettings,
    /// The place and the number of each row whose index is a multiple of [`CHECKPOINT`].
    checkpoints: Vec<(u64, u64)>,
}

impl RowReader<'_> {
    /// Returns the number of a row and its address.
    fn read(&mut self, row: u64) -> Result<(u64, String), ListError> {
        let (offset, number) = self.checkpoints[(row / CHECKPOINT) as usize];
        self.records.seek(offset, number)?;
        for _ in 0..row % CHECKPOINT {
            self.records.next_row()?;
        }
        let mut address = String::new();
        let mut number = number;
        if let Some(record) = self.records.next_row()? {
            number = record.number;
            self.settings.write_address(record, &mut address);
        }
        Ok((number, address))
    }
}

impl CheckSettings {
    fn cells<'a>(&self, record: &'a Record) -> impl Iterator<Item = &'a str> {
        self.address_columns
            .iter()
            .map(|&column| invisible::trim(record.cell(column)))
    }

    pub(super) fn has_address(&self, record: &Record) -> bool {
        let is_address = |cell: &str| cell.contains('@') || !self.needs_at && !cell.is_empty();
        self.cells(record).any(is_address)
    }

    /// Writes the addresses of a row in the form in which they are compared. If a cell has an `@`,
    /// only cells with an `@` are addresses.
    pub(super) fn write_address(&self, record: &Record, address: &mut String) {
        address.clear();
        let has_at = self.cells(record).any(|cell| cell.contains('@'));
        for cell in self
            .cells(record)
            .filter(|cell| !has_at || cell.contains('@'))
        {
            if !address.is_empty() {
                address.push('\0');
            }
            write_comparable(cell, address);
        }
    }

    fn is_excluded(&self, record: &Record) -> bool {
        !self.excluded.is_empty()
            && self.cells(record).any(|cell| {
                let mut address = String::new();
                write_comparable(cell, &mut address);
                address.make_ascii_lowercase();
                self.excluded.contains(&address)
            })
    }
}

/// Appends an address with its domain in lower case and as A-labels.
fn write_comparable(cell: &str, address: &mut String) {
    let Some((local_part, domain)) = cell.rsplit_once('@') else {
        address.push_str(cell);
        return;
    };
    address.push_str(local_part);
    address.push('@');
    let converted = (!domain.is_ascii()).then(|| idna::domain_to_ascii(domain));
    match converted {
        Some(Ok(converted)) => address.push_str(&converted),
        _ => address.extend(domain.chars().map(|each| each.to_ascii_lowercase())),
    }
}

/// Returns the addresses of a row for an error text.
fn shown(address: &str) -> String {
    address.replace('\0', ", ")
}

/// Opens a list at its first record after the header.
pub(super) fn open(path: &Path, format: &ListFormat) -> Result<ListRecords<File>, ListError> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(format.start))?;
    Ok(ListRecords::new(file, format.clone()))
}
