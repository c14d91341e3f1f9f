//! The rows of a chunk, which is a part of the frozen list of a campaign.
//!
//! A journal holds the list in chunks. A row is known by its number, so a process can continue with
//! any row. Rows are usually taken in order. For an earlier row, the chunk is read again from its
//! start, which takes less than a millisecond.

use std::sync::Arc;

use super::records::{BytesRecords, ListError, ListFormat, Record};
use crate::message::template::Template;
use crate::message::text::{Row, Value};

/// The source of the value of a template's field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldSource {
    /// A column of the list.
    Column(usize),
    /// The row's identifier in the campaign, which the caller provides.
    Id,
    /// None: the field is missing.
    Missing,
}

/// The rows of a chunk in CSV without a header.
pub struct ChunkRows {
    records: BytesRecords,
    template: Arc<Template>,
    /// The sources of the template's fields, in their order.
    sources: Vec<FieldSource>,
    /// The number of records read.
    next: usize,
}

impl ChunkRows {
    /// Creates the rows. `format` states the delimiter and the number of columns.
    #[must_use]
    pub fn new(
        data: Vec<u8>,
        format: ListFormat,
        template: &Arc<Template>,
        sources: Vec<FieldSource>,
    ) -> Self {
        Self {
            records: BytesRecords::of_bytes(data, format),
            template: Arc::clone(template),
            sources,
            next: 0,
        }
    }

    /// Returns the row at this place of the chunk, from 0, whose identifier is `id`. `None` if the
    /// chunk has fewer rows.
    ///
    /// # Errors
    ///
    /// If a record is malformed. The journal is then damaged.
    pub fn row(&mut self, place: usize, id: &str) -> Result<Option<Row>, ListError> {
        if place < self.next {
            let number = self.records.format().number;
            self.records.seek(0, number)?;
            self.next = 0;
        }
        loop {
            let Some(record) = self.records.next_record()? else {
                return Ok(None);
            };
            self.next += 1;
            if self.next > place {
                return Ok(Some(row(&self.template, &self.sources, record, id)));
            }
        }
    }
}

fn row(template: &Template, sources: &[FieldSource], record: &Record, id: &str) -> Row {
    let value = |source: &FieldSource| match source {
        FieldSource::Column(column) => Some(Value::from(record.cell(*column))),
        FieldSource::Id => Some(Value::from(id)),
        FieldSource::Missing => None,
    };
    template.row(sources.iter().map(value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::TextKind;
    use crate::message::template::{MergeRow, PartSource, Stamp};

    fn template() -> Arc<Template> {
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let fields = vec![
            field("From", "s@a.example"),
            field("To", "{{ email }}"),
            field("Cc", "c@b.example"),
            field("X-Id", "{{ _id }}"),
        ];
        let text = PartSource::Text {
            content_type: "text/plain".to_owned(),
            source: "[{{ name }}{{ other|default('-') }}]".to_owned(),
            kind: TextKind::Text,
            format: None,
            place: "text".to_owned(),
            boundaries: Vec::new(),
        };
        Arc::new(Template::new(fields, vec![text], None).unwrap())
    }

    fn rows(data: &[u8]) -> (Arc<Template>, ChunkRows) {
        let template = template();
        assert_eq!(template.fields(), ["_id", "email", "name", "other"]);
        let format = ListFormat {
            name: "chunk 0".to_owned(),
            delimiter: b';',
            start: 0,
            number: 1,
            sheet: false,
            width: 2,
        };
        let sources = vec![
            FieldSource::Id,
            FieldSource::Column(1),
            FieldSource::Column(0),
            FieldSource::Missing,
        ];
        let rows = ChunkRows::new(data.to_vec(), format, &template, sources);
        (template, rows)
    }

    fn rendered(
        template: &Arc<Template>,
        row: Row,
        parts: Option<&[u16]>,
    ) -> (Vec<String>, String) {
        let row = MergeRow {
            template: Arc::clone(template),
            row,
            stamp: Stamp {
                date: "now".into(),
                id: "c.1".into(),
                time: 0,
            },
            parts: parts.map(Into::into),
        };
        let (_, recipients) = row.envelope().unwrap();
        let rendered = row.render().unwrap();
        assert_eq!(rendered.recipients, recipients);
        let parts = rendered.parts.iter().map(AsRef::as_ref);
        let data = parts.collect::<Vec<_>>().concat();
        (recipients, String::from_utf8(data).unwrap())
    }

    #[test]
    fn rows_are_found_by_their_places() {
        let (template, mut rows) = rows(b"Ann;a@x\n;\n\"B\nb\";b@x\r\nCid;c@x");
        for (place, name) in [
            (0, "[Ann-]"),
            (3, "[Cid-]"),
            (2, "[B\r\nb-]"),
            (3, "[Cid-]"),
        ] {
            let row = rows.row(place, &format!("c.{place}")).unwrap().unwrap();
            let (_, data) = rendered(&template, row, None);
            assert!(data.contains(name), "{data}");
            assert!(data.contains(&format!("X-Id: c.{place}\r\n")), "{data}");
        }
        assert!(rows.row(4, "").unwrap().is_none());
        assert!(rows.row(1, "").unwrap().is_some());
    }

    #[test]
    fn a_part_is_sent_with_the_same_content() {
        let (template, mut rows) = rows(b"Ann;a@x\n");
        let row = rows.row(0, "c.0").unwrap().unwrap();
        let (recipients, whole) = rendered(&template, row.clone(), None);
        assert_eq!(recipients, ["a@x", "c@b.example"]);
        let (recipients, part) = rendered(&template, row, Some(&[1]));
        assert_eq!(recipients, ["c@b.example"]);
        assert_eq!(part, whole);
    }

    #[test]
    fn a_damaged_chunk_is_reported() {
        let (_, mut rows) = rows(b"Ann;a@x\n\"B;b@x\n");
        assert!(rows.row(0, "").unwrap().is_some());
        let error = rows.row(1, "").unwrap_err().to_string();
        assert_eq!(error, "chunk 0, line 2: the quote of a cell is not closed");
    }
}
