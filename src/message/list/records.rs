//! Splits a recipients list in CSV (RFC 4180) into records.
//!
//! The file is UTF-8. `python/rapidsmtp/_compose/list_file.py` has converted other encodings and
//! workbooks, and has found the delimiter. A record ends at LF, CRLF or CR. Only a quote at the
//! start of a cell is syntax. The module `csv` of Python with `strict=True` gives the same cells
//! and refuses the same files, so the pure-Python backend uses that module.
//!
//! The crates `csv` and `csv-core` are as fast: they need 0.76 and 0.63 seconds for a list of 10
//! million rows, and this module needs 0.75 seconds, of 2.6 seconds for the whole check. They are
//! not used for two reasons:
//!
//! - They accept every file. A quote that is not closed makes the rest of the file one cell, without
//!   an error, so all recipients after it are lost. Text after a closing quote is appended to the
//!   cell. Both are errors here. To find them after `csv-core` has split a record, the quotes of its
//!   raw bytes must be read again by the same rules as in [`split`], which is all that `csv-core`
//!   would replace.
//! - They count only LF as a line end, and skip blank lines without an event. Errors here name the
//!   line that an editor shows, also in a file with CR, and the row of a sheet.
//!
//! The fuzz target `list` compares the cells with those of the crate `csv`.

use std::fmt;
use std::io::{self, Cursor, ErrorKind, Read, Seek, SeekFrom};

use memchr::{memchr, memchr_iter, memchr2, memchr3};

use crate::message::header::is_white;

/// The initial size of the read buffer, in bytes.
const BUFFER: usize = 1 << 16;

/// The maximum length of a cell, in characters. A longer cell is most likely the rest of the file
/// after a quote that is not closed. Python's module `csv` has the same limit.
const MAX_CELL: usize = 131_072;

/// The maximum length of a character in UTF-8, in bytes.
const MAX_CHARACTER: usize = 4;

/// Where a recipients list starts, and how errors name its places.
#[derive(Debug, Clone)]
pub struct ListFormat {
    /// The name of the file in error texts.
    pub name: String,
    /// The delimiter between two cells.
    pub delimiter: u8,
    /// The place of the first record after the header, in bytes from the start of the file.
    pub start: u64,
    /// The number of the first record after the header: of its line, or of its row in a sheet.
    pub number: u64,
    /// Whether the list comes from a workbook. Then records are counted, and not lines.
    pub sheet: bool,
    /// The number of columns in the header.
    pub width: usize,
}

impl ListFormat {
    /// Creates the error for a list that was changed after the check.
    #[must_use]
    pub fn changed(&self) -> ListError {
        ListError::Malformed(format!("{} was changed while it was read", self.name))
    }

    /// Creates an error about a record.
    pub fn error(&self, number: u64, text: &str) -> ListError {
        let unit = if self.sheet { "row" } else { "line" };
        ListError::Malformed(format!("{}, {unit} {number}: {text}", self.name))
    }
}

/// The reason why a recipients list cannot be read.
#[derive(Debug)]
pub enum ListError {
    /// Reading the file failed.
    Io(io::Error),
    /// The file is not a valid list. The text names the file and the line.
    Malformed(String),
}

impl fmt::Display for ListError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(formatter),
            Self::Malformed(text) => formatter.write_str(text),
        }
    }
}

impl std::error::Error for ListError {}

impl From<io::Error> for ListError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// One record of the list.
#[derive(Debug, Default)]
pub struct Record {
    /// The texts of all cells, one after the other.
    text: String,
    /// The end of each cell in `text`.
    ends: Vec<usize>,
    /// The number of the record: of its first line, or of its row in a sheet.
    pub number: u64,
    /// The place of the record, in bytes from the start of the file.
    pub offset: u64,
}

impl Record {
    /// Returns the number of cells.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether the record contains nothing except white space.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        is_blank(&self.text)
    }

    /// Returns the text of a cell; "" if the record ends before this column.
    #[must_use]
    pub fn cell(&self, column: usize) -> &str {
        let Some(&end) = self.ends.get(column) else {
            return "";
        };
        let start = column.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text.get(start..end).unwrap_or_default()
    }

    /// Returns the texts of all cells.
    pub fn cells(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|column| self.cell(column))
    }
}

/// The records of a list in memory.
pub type BytesRecords = ListRecords<Cursor<Vec<u8>>>;

/// Reads the records of a list, one by one.
pub struct ListRecords<R> {
    source: R,
    format: ListFormat,
    /// The bytes that were read and not yet parsed are `buffer[start..end]`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    at_end: bool,
    /// The place of `buffer[start]` in the file.
    offset: u64,
    /// The number of the next record.
    number: u64,
    record: Record,
}

/// The result of parsing the start of the buffer.
enum Parsed {
    /// The record has this many bytes with its line end, and this many line ends.
    Record(usize, u64),
    /// The buffer contains only a part of the record.
    Incomplete,
    /// The record breaks a rule of the format. Its encoding must be checked up to this byte first,
    /// because a person corrects the encoding first.
    Malformed(&'static str, usize),
}

const NOT_CLOSED: &str = "the quote of a cell is not closed";
const AFTER_QUOTE: &str = "a cell has text after its closing quote; write a quote inside a cell \
                           twice";
const TOO_LONG: &str = "a cell has more than 131072 characters; its quote is probably not closed";
const NOT_UTF8: &str = "the text is not UTF-8; give its encoding, such as \
                        encoding=\"windows-1252\"";
const NUL: &str = "the text contains a NUL byte; the file is damaged, or its encoding is another \
                   one, such as encoding=\"utf-16-le\"";

impl<R: Read> ListRecords<R> {
    /// Creates a reader. `source` is at the place [`ListFormat::start`] of the file.
    pub fn new(source: R, format: ListFormat) -> Self {
        Self {
            source,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            at_end: false,
            offset: format.start,
            number: format.number,
            record: Record::default(),
            format,
        }
    }

    /// Returns the format of the list.
    #[must_use]
    pub fn format(&self) -> &ListFormat {
        &self.format
    }

    /// Returns the last record.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Returns the place after the last record, in bytes from the start of the file.
    #[must_use]
    pub fn place(&self) -> u64 {
        self.offset
    }

    /// Whether the last record is known to be the end of the file.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.at_end && self.start == self.end
    }

    /// Reads the next record that has a cell with text. Returns `None` at the end of the list.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or if the record is malformed or has too many cells.
    pub fn next_row(&mut self) -> Result<Option<&Record>, ListError> {
        loop {
            if !self.advance()? {
                return Ok(None);
            }
            if !self.record.is_empty() {
                break;
            }
        }
        self.check_width()?;
        Ok(Some(&self.record))
    }

    /// Reads the next record, also if none of its cells has text. Returns `None` at the end of the
    /// list.
    ///
    /// # Errors
    ///
    /// If the record is malformed or has too many cells.
    pub fn next_record(&mut self) -> Result<Option<&Record>, ListError> {
        if !self.advance()? {
            return Ok(None);
        }
        self.check_width()?;
        Ok(Some(&self.record))
    }

    /// Reads the next record into `record`. Returns whether the list has one more.
    fn advance(&mut self) -> Result<bool, ListError> {
        loop {
            if self.start == self.end && self.at_end {
                return Ok(false);
            }
            match self.parse() {
                Parsed::Record(size, lines) => {
                    self.check_text(size)?;
                    self.start += size;
                    self.offset += size as u64;
                    self.number += if self.format.sheet { 1 } else { lines };
                    return Ok(true);
                }
                Parsed::Incomplete => self.fill()?,
                Parsed::Malformed(text, size) => {
                    self.check_bytes(size)?;
                    return Err(self.format.error(self.number, text));
                }
            }
        }
    }

    /// Parses the record at the start of the buffer, and copies its cells to `record`.
    fn parse(&mut self) -> Parsed {
        let input = &self.buffer[self.start..self.end];
        let delimiter = self.format.delimiter;
        let mut text = std::mem::take(&mut self.record.text).into_bytes();
        text.clear();
        self.record.ends.clear();
        let parsed = split(
            input,
            delimiter,
            self.at_end,
            &mut text,
            &mut self.record.ends,
        );
        if matches!(parsed, Parsed::Record(..)) {
            // Invalid UTF-8 leaves the text empty; `check_text` then finds the place.
            self.record.text = String::from_utf8(text).unwrap_or_default();
            self.record.number = self.number;
            self.record.offset = self.offset;
        }
        parsed
    }

    /// Checks that the text of the parsed record is UTF-8 without NUL.
    fn check_text(&self, size: usize) -> Result<(), ListError> {
        // If the delimiter or a quote is inside a sequence of bytes, the joined cells may be UTF-8
        // although the cells are not.
        let text = &self.record.text;
        let is_valid = |ends: &[usize]| ends.iter().all(|&end| text.is_char_boundary(end));
        if text.len() == self.record.ends.last().copied().unwrap_or(0)
            && is_valid(&self.record.ends)
            && memchr(0, text.as_bytes()).is_none()
        {
            return Ok(());
        }
        self.check_bytes(size)
    }

    /// Checks that the next `size` bytes are UTF-8 without NUL.
    fn check_bytes(&self, size: usize) -> Result<(), ListError> {
        let raw = &self.buffer[self.start..self.start + size];
        let found = std::str::from_utf8(raw).err();
        let found = found.map(|error| error.valid_up_to());
        let nul = memchr(0, &raw[..found.unwrap_or(raw.len())]);
        let (place, text) = match (nul, found) {
            (Some(place), _) => (place, NUL),
            (None, Some(place)) => (place, NOT_UTF8),
            (None, None) => return Ok(()),
        };
        let lines = if self.format.sheet {
            0
        } else {
            line_ends(&raw[..place])
        };
        Err(self.format.error(self.number + lines, text))
    }

    /// Refuses a record with more cells than columns. Empty cells at its end are ignored, because
    /// spreadsheets write them.
    fn check_width(&self) -> Result<(), ListError> {
        let record = &self.record;
        let width = self.format.width;
        if record.len() <= width || record.cells().skip(width).all(is_blank) {
            return Ok(());
        }
        let text = format!("{} cells but {width} columns", record.len());
        Err(self.format.error(record.number, &text))
    }

    /// Reads more bytes into the buffer.
    fn fill(&mut self) -> Result<(), ListError> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            self.buffer.resize(2 * self.end, 0);
        }
        loop {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    self.at_end = count == 0;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl BytesRecords {
    /// Creates a reader of a list in memory.
    #[must_use]
    pub fn of_bytes(data: Vec<u8>, format: ListFormat) -> Self {
        Self::new(Cursor::new(data), format)
    }
}

impl<R: Read + Seek> ListRecords<R> {
    /// Continues with the record at another place of the file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn seek(&mut self, offset: u64, number: u64) -> Result<(), ListError> {
        self.source.seek(SeekFrom::Start(offset))?;
        (self.start, self.end, self.at_end) = (0, 0, false);
        (self.offset, self.number) = (offset, number);
        Ok(())
    }

    /// Sets the initial size of the read buffer in bytes, for tests.
    #[must_use]
    pub fn with_buffer(mut self, size: usize) -> Self {
        self.buffer = vec![0; size];
        self
    }
}

/// Splits the record at the start of `input` into cells: their texts and the ends of the texts.
fn split(
    input: &[u8],
    delimiter: u8,
    at_end: bool,
    text: &mut Vec<u8>,
    ends: &mut Vec<usize>,
) -> Parsed {
    let (mut at, mut lines) = (0, 1);
    loop {
        let begin = text.len();
        let is_quoted = input.get(at) == Some(&b'"');
        let is_whole = if is_quoted {
            at += 1;
            let is_whole = quoted_cell(input, &mut at, at_end, text);
            lines += line_ends(&text[begin..]);
            is_whole
        } else {
            let length = memchr3(delimiter, b'\n', b'\r', &input[at..]);
            text.extend_from_slice(&input[at..][..length.unwrap_or(input.len() - at)]);
            at += length.unwrap_or(input.len() - at);
            length.is_some() || at_end
        };
        if is_too_long(&text[begin..]) {
            return Parsed::Malformed(TOO_LONG, 0);
        }
        if !is_whole && at_end {
            return Parsed::Malformed(NOT_CLOSED, input.len());
        }
        if !is_whole {
            return Parsed::Incomplete;
        }
        ends.push(text.len());
        match input.get(at) {
            None => return Parsed::Record(at, lines),
            Some(b'\n') => return Parsed::Record(at + 1, lines),
            // A LF may follow that is not read yet.
            Some(b'\r') if at + 1 == input.len() && !at_end => return Parsed::Incomplete,
            Some(b'\r') => {
                let size = if input.get(at + 1) == Some(&b'\n') {
                    2
                } else {
                    1
                };
                return Parsed::Record(at + size, lines);
            }
            Some(&byte) if byte == delimiter => at += 1,
            Some(_) => {
                return match memchr2(b'\n', b'\r', &input[at..]) {
                    Some(length) => Parsed::Malformed(AFTER_QUOTE, at + length),
                    None if at_end => Parsed::Malformed(AFTER_QUOTE, input.len()),
                    None => Parsed::Incomplete,
                };
            }
        }
    }
}

/// Copies a cell in quotes. `at` is the place after the opening quote, and then the place after the
/// closing quote. Returns whether the whole cell was found.
fn quoted_cell(input: &[u8], at: &mut usize, at_end: bool, text: &mut Vec<u8>) -> bool {
    loop {
        let Some(length) = memchr(b'"', &input[*at..]) else {
            text.extend_from_slice(&input[*at..]);
            return false;
        };
        text.extend_from_slice(&input[*at..*at + length]);
        *at += length + 1;
        match input.get(*at) {
            Some(b'"') => {
                text.push(b'"');
                *at += 1;
            }
            next => return next.is_some() || at_end,
        }
    }
}

/// Counts the line ends: LF, CRLF and CR.
fn line_ends(text: &[u8]) -> u64 {
    if memchr2(b'\r', b'\n', text).is_none() {
        return 0;
    }
    let feeds = memchr_iter(b'\n', text).count();
    let returns = memchr_iter(b'\r', text).filter(|&place| text.get(place + 1) != Some(&b'\n'));
    (feeds + returns.count()) as u64
}

fn is_blank(text: &str) -> bool {
    text.chars().all(is_white)
}

fn is_too_long(cell: &[u8]) -> bool {
    if cell.len() <= MAX_CELL {
        return false;
    }
    // The bytes that begin a character in UTF-8.
    let characters = || cell.iter().filter(|&&byte| byte & 0xc0 != 0x80).count();
    cell.len() > MAX_CELL * MAX_CHARACTER || characters() > MAX_CELL
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(width: usize) -> ListFormat {
        ListFormat {
            name: "list.csv".to_owned(),
            delimiter: b',',
            start: 0,
            number: 1,
            sheet: false,
            width,
        }
    }

    /// Reads all rows with a buffer of `size` bytes: their numbers and cells.
    fn read(text: &[u8], size: usize) -> Result<Vec<(u64, Vec<String>)>, String> {
        let mut records = ListRecords::new(Cursor::new(text), format(3)).with_buffer(size);
        let mut found = Vec::new();
        while let Some(record) = records.next_row().map_err(|error| error.to_string())? {
            found.push((record.number, record.cells().map(str::to_owned).collect()));
        }
        Ok(found)
    }

    fn rows(text: &[u8]) -> Result<Vec<(u64, Vec<String>)>, String> {
        let whole = read(text, BUFFER);
        for size in 1..text.len().min(20) {
            assert_eq!(read(text, size), whole, "{size}");
        }
        whole
    }

    fn row(number: u64, cells: &[&str]) -> (u64, Vec<String>) {
        (number, cells.iter().map(|&cell| cell.to_owned()).collect())
    }

    #[test]
    fn all_line_ends_and_quoted_cells_are_read() {
        let expected = vec![
            row(1, &["a", "b,\"\r\nc", ""]),
            row(4, &["d\"e", "", "f"]),
            row(5, &["g"]),
        ];
        for end in ["\n", "\r\n", "\r"] {
            let text = [
                "a,\"b,\"\"\r\nc\",",
                end,
                ",, ",
                end,
                "d\"e,\"\",f,,",
                end,
                "g",
                end,
                end,
            ];
            let mut expected = expected.clone();
            expected[1].1.extend([String::new(), String::new()]);
            assert_eq!(rows(text.concat().as_bytes()), Ok(expected));
        }
    }

    #[test]
    fn errors_name_the_line() {
        let error = |text: &[u8]| rows(text).unwrap_err();
        let at = |line: u64, text: &str| format!("list.csv, line {line}: {text}");
        assert_eq!(error(b"a\r\n\"b\nc"), at(2, NOT_CLOSED));
        assert_eq!(error(b"a\n\"b\"c\n"), at(2, AFTER_QUOTE));
        assert_eq!(error(b"a\na,b,c,d\n"), at(2, "4 cells but 3 columns"));
        assert_eq!(error(b"a\n\"x\ny\",\xe9\n"), at(3, NOT_UTF8));
        assert_eq!(error(b"a\n\xc3,\xa9\n"), at(2, NOT_UTF8));
        assert_eq!(error(b"a\nb\0\n"), at(2, NUL));
        let long = ["a\n\"", &"é".repeat(MAX_CELL + 1)].concat();
        assert_eq!(read(long.as_bytes(), BUFFER), Err(at(2, TOO_LONG)));
        let fits = ["\"", &"é".repeat(MAX_CELL), "\""].concat();
        assert!(read(fits.as_bytes(), BUFFER).is_ok());
    }

    #[test]
    fn rows_of_a_sheet_are_counted() {
        let sheet = ListFormat {
            sheet: true,
            ..format(2)
        };
        let text = b"\"a\nb\",c\n\nd,e\n".as_slice();
        let mut records = ListRecords::new(Cursor::new(text), sheet);
        let numbers: Vec<u64> = std::iter::from_fn(|| {
            records
                .next_row()
                .ok()
                .flatten()
                .map(|record| record.number)
        })
        .collect();
        assert_eq!(numbers, [1, 3]);
    }
}
