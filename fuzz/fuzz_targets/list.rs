//! Checks the reader of recipients lists. It must not panic. Its rows must not depend on the size
//! of the buffer. If it reads the whole list, the crate csv must give the same cells.
#![no_main]

use std::io::Cursor;

use csv::{ReaderBuilder, StringRecord};
use libfuzzer_sys::fuzz_target;
use rapidsmtp::message::list::records::{ListFormat, ListRecords};

type Rows = Result<Vec<(u64, u64, Vec<String>)>, String>;

fn rows(text: &[u8], delimiter: u8, buffer: usize) -> Rows {
    let format = ListFormat {
        name: "list.csv".to_owned(),
        delimiter,
        start: 0,
        number: 1,
        sheet: false,
        width: usize::MAX,
    };
    let mut records = ListRecords::new(Cursor::new(text), format).with_buffer(buffer);
    let mut found = Vec::new();
    while let Some(record) = records.next_row().map_err(|error| error.to_string())? {
        let cells = record.cells().map(str::to_owned).collect();
        found.push((record.offset, record.number, cells));
    }
    Ok(found)
}

fn is_blank(cells: &[String]) -> bool {
    let is_white = |each: char| each.is_whitespace() || matches!(each, '\x1c'..='\x1f');
    cells.iter().all(|cell| cell.chars().all(is_white))
}

// Each `unwrap` is a part of the check: a place outside the text, or an error of the crate for a text
// that the reader has read, is a finding.
fuzz_target!(|input: (u8, u8, &[u8])| {
    let (choice, size, text) = input;
    let delimiter = b",;\t|"[usize::from(choice) % 4];
    let found = rows(text, delimiter, 1 << 16);
    assert_eq!(rows(text, delimiter, usize::from(size).max(1)), found);
    let Ok(found) = found else {
        return;
    };
    // A row can be read again at its place.
    for (offset, number, cells) in &found {
        let rest = &text[usize::try_from(*offset).unwrap()..];
        let again = rows(rest, delimiter, 512).unwrap_or_default();
        assert_eq!(again.first().map(|row| &row.2), Some(cells));
        let before = &text[..usize::try_from(*offset).unwrap()];
        let ends = before.iter().filter(|&&byte| byte == b'\n').count();
        let returns = before
            .windows(2)
            .filter(|pair| pair[0] == b'\r' && pair[1] != b'\n');
        let last = usize::from(before.last() == Some(&b'\r'));
        assert_eq!(*number, (1 + ends + returns.count() + last) as u64);
    }
    if text.starts_with(b"\xef\xbb\xbf") {
        return; // the crate csv removes a byte order mark, and Python removes it before this reader
    }
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .from_reader(text);
    let mut record = StringRecord::new();
    let mut expected = Vec::new();
    while reader.read_record(&mut record).unwrap() {
        let cells: Vec<String> = record.iter().map(str::to_owned).collect();
        if !is_blank(&cells) {
            expected.push(cells);
        }
    }
    let cells: Vec<Vec<String>> = found.into_iter().map(|row| row.2).collect();
    assert_eq!(cells, expected);
});
