//! A list of recipients, read from its file line by line.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use csv::{Reader, ReaderBuilder, StringRecord};

use crate::message::RowError;
use crate::message::list::Places;
use crate::message::template::Template;
use crate::message::text::Row;

/// Octets that are read at once.
const BLOCK: usize = 1 << 16;

/// An open list.
pub struct List {
    reader: Reader<BufReader<File>>,
    template: Arc<Template>,
    places: Places,
    line: StringRecord,
}

/// A line of it.
pub struct Line {
    /// Its values, if it is whole.
    pub row: Result<Row, RowError>,
    /// What its sender calls it.
    pub tag: Option<String>,
}

impl List {
    /// Opens a file in UTF-8, with or without a byte order mark, and reads its first line.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn open(
        path: &Path,
        template: &Arc<Template>,
        tag: Option<&str>,
    ) -> Result<Self, csv::Error> {
        let file = BufReader::with_capacity(BLOCK, File::open(path)?);
        // A line of another length is told as such, and the next one is read.
        let mut reader = ReaderBuilder::new().flexible(true).from_reader(file);
        let places = Places::find(reader.headers()?, template, tag);
        Ok(Self {
            reader,
            template: Arc::clone(template),
            places,
            line: StringRecord::new(),
        })
    }

    /// The next line; `None` behind the last one.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is not in UTF-8.
    pub fn next_line(&mut self) -> Result<Option<Line>, csv::Error> {
        if !self.reader.read_record(&mut self.line)? {
            return Ok(None);
        }
        Ok(Some(Line {
            row: self.places.row(&self.line, &self.template),
            tag: self.places.tag(&self.line).map(str::to_owned),
        }))
    }
}
