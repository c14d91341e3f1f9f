//! A list of recipients in CSV (RFC 4180): which of its cells a template wants.
//!
//! The file was read through before (`check_csv`), by a parser that is strict about quotes and
//! knows every encoding; here only those cells are taken that something is made of.

use csv::StringRecord;

use super::RowError;
use super::template::Template;
use super::text::{Row, Value};

/// In which cells of a line the values of a template's fields are.
pub struct Places {
    fields: Vec<Option<usize>>,
    tag: Option<usize>,
    count: usize,
}

impl Places {
    /// Finds columns by the first line's names; `tag` is that of the cell that names a line for
    /// its sender.
    #[must_use]
    pub fn find(header: &StringRecord, template: &Template, tag: Option<&str>) -> Self {
        let place = |name: &str| header.iter().position(|each| each == name);
        Self {
            fields: template.fields().iter().map(|name| place(name)).collect(),
            tag: tag.and_then(place),
            count: header.len(),
        }
    }

    /// The values of one line.
    ///
    /// # Errors
    ///
    /// It has more or fewer cells than there are columns.
    pub fn row(&self, line: &StringRecord, template: &Template) -> Result<Row, RowError> {
        if line.len() != self.count {
            let text = format!("{} cells, but {} columns", line.len(), self.count);
            return Err(RowError::new(text));
        }
        let cell = |place: &Option<usize>| line.get((*place)?).map(Value::from);
        Ok(template.row(self.fields.iter().map(cell).collect()))
    }

    /// The cell that names the line for its sender.
    #[must_use]
    pub fn tag<'a>(&self, line: &'a StringRecord) -> Option<&'a str> {
        self.tag.and_then(|place| line.get(place))
    }
}
