//! Attached files that are read for each row.
//!
//! The value of a merge field is a name and no path: it cannot leave the folder of the attachments,
//! and it cannot choose another folder in it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::encode::base64_lines;
use super::header::{PREFERRED_LINE, is_control, without_marks};
use super::text::{Budget, Row, Text, quoted};
use super::{FIELD_END, FIELD_START, RowError};

/// The type of a file with an unknown suffix.
const UNKNOWN_TYPE: &str = "application/octet-stream";

/// The characters that a value must not contain. On Windows, a colon begins a drive or a stream of a
/// file.
const NOT_IN_VALUE: &[char] = if cfg!(windows) {
    &['/', '\\', ':']
} else {
    &['/', '\\']
};

/// The maximum length of a parameter's value in one line, without the name of the parameter.
const PIECE: usize = 50;

/// An attached file whose path has merge fields.
pub struct AttachedFile {
    /// The path below `root`.
    pub path: Text,
    /// The folder that contains the files.
    pub root: PathBuf,
    /// The value of Content-Type; empty if it depends on the name of the file.
    pub content_type: String,
    /// The values of Content-Type by the suffix of the name, such as ".pdf", in lower case.
    pub types: HashMap<String, String>,
}

impl AttachedFile {
    /// Appends the header fields of the part and the file in base64.
    ///
    /// # Errors
    ///
    /// If the path leads out of the root, or if the file cannot be read.
    pub fn write(
        &self,
        row: &Row,
        budget: &mut Budget,
        data: &mut Vec<u8>,
    ) -> Result<(), RowError> {
        let mut marked = String::new();
        self.path.render(row, budget, &mut marked)?;
        let path = without_marks(&marked);
        let fault = |fact: &str| RowError::new(format!("attachment {}: {fact}", quoted(&path)));
        check_path(&marked, &path).map_err(|fact| fault(&fact))?;
        let content = budget.read(|limit| {
            let content = read(&self.root, &path, limit).map_err(|error| fault(&error))?;
            if content.len() > limit {
                return Err(fault("the texts and files of the message are too large"));
            }
            Ok(content)
        })?;
        let name = path.rsplit('/').next().unwrap_or_default();
        data.extend_from_slice(file_header(self.type_of(name), name).as_bytes());
        base64_lines(&content, data);
        Ok(())
    }

    fn type_of(&self, name: &str) -> &str {
        if !self.content_type.is_empty() {
            return &self.content_type;
        }
        let suffix = Path::new(name)
            .extension()
            .and_then(|suffix| suffix.to_str());
        let suffix = suffix.map(|suffix| format!(".{}", suffix.to_lowercase()));
        let found = suffix.and_then(|suffix| self.types.get(&suffix));
        found.map_or(UNKNOWN_TYPE, String::as_str)
    }
}

/// Checks a rendered path. Returns the reason why it is not allowed.
fn check_path(marked: &str, path: &str) -> Result<(), String> {
    if path.contains(is_control) {
        return Err("the path contains a line break or control character".to_owned());
    }
    for piece in marked.split(FIELD_START).skip(1) {
        let value = piece.split(FIELD_END).next().unwrap_or_default();
        if let Some(found) = value.chars().find(|each| NOT_IN_VALUE.contains(each)) {
            let found = quoted(&found.to_string());
            return Err(format!("the value {} contains {found}", quoted(value)));
        }
    }
    let is_wrong = |name: &str| matches!(name, "" | "." | "..");
    if path.contains('\\') || path.split('/').any(is_wrong) {
        return Err("the path has an empty name, '.', '..' or a backslash".to_owned());
    }
    Ok(())
}

/// Reads a file. Of a file that is larger than `limit`, only the first `limit` + 1 bytes are read.
fn read(root: &Path, path: &str, limit: usize) -> Result<Vec<u8>, String> {
    let reason = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            format!("there is no such file in {}", shown(root))
        }
        io::ErrorKind::PermissionDenied => "permission to read the file is denied".to_owned(),
        _ => "the file cannot be read".to_owned(),
    };
    let real = fs::canonicalize(root.join(path)).map_err(reason)?;
    if !real.starts_with(fs::canonicalize(root).map_err(reason)?) {
        return Err(format!("a symbolic link leads out of {}", shown(root)));
    }
    // The type is checked before the file is opened, because opening a FIFO waits for a writer.
    let metadata = fs::metadata(&real).map_err(reason)?;
    if !metadata.is_file() {
        return Err("it is no file".to_owned());
    }
    let size = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    let mut content = Vec::with_capacity(size.min(limit).saturating_add(1));
    let file = File::open(&real).map_err(reason)?;
    let maximum = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(maximum)
        .read_to_end(&mut content)
        .map_err(reason)?;
    Ok(content)
}

fn shown(root: &Path) -> String {
    quoted(&root.to_string_lossy())
}

/// Returns the header fields of an attached file, and the empty line after them.
fn file_header(content_type: &str, name: &str) -> String {
    let disposition = "Content-Disposition: attachment;";
    let parameter = encode_parameter("filename", name);
    let fits = disposition.len() + 1 + parameter.len() <= PREFERRED_LINE;
    let space = if fits { " " } else { "\r\n " };
    format!(
        "Content-Type: {content_type}\r\nContent-Transfer-Encoding: base64\r\n\
         {disposition}{space}{parameter}\r\n\r\n"
    )
}

/// Encodes a parameter of a MIME header field (RFC 2045 section 5.1, RFC 2231). The value is a
/// literal. Some readers decode an encoded word in quotes, although RFC 2047 section 5 forbids it,
/// so a value with "=?" is written as RFC 2231 defines.
fn encode_parameter(name: &str, value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
    let is_plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if is_plain && !value.contains("=?") && escaped.len() <= PIECE {
        return format!("{name}=\"{escaped}\"");
    }
    let mut pieces = vec![String::new()];
    for character in value.chars() {
        let encoded = percent_encoded(character);
        match pieces.last_mut() {
            Some(piece) if piece.len() + encoded.len() <= PIECE => piece.push_str(&encoded),
            _ => pieces.push(encoded),
        }
    }
    pieces[0].insert_str(0, "utf-8''");
    if let [piece] = &pieces[..] {
        return format!("{name}*={piece}");
    }
    let numbered = pieces.iter().enumerate();
    let numbered = numbered.map(|(number, piece)| format!("{name}*{number}*={piece}"));
    numbered.collect::<Vec<_>>().join(";\r\n ")
}

/// Encodes a character as `urllib.parse.quote` does.
fn percent_encoded(character: char) -> String {
    if character.is_ascii_alphanumeric() || "_.-~".contains(character) {
        return character.to_string();
    }
    let mut buffer = [0; 4];
    let bytes = character.encode_utf8(&mut buffer).bytes();
    bytes.map(|byte| format!("%{byte:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_a_name() {
        let checked = |before: &str, value: &str| {
            let marked = format!("{before}{FIELD_START}{value}{FIELD_END}.pdf");
            check_path(&marked, &without_marks(&marked))
        };
        assert_eq!(checked("tickets/", "17"), Ok(()));
        assert_eq!(checked("", "ü 1"), Ok(()));
        for (before, value) in [
            ("", "a/b"),
            ("", "/a"),
            ("", "../a"),
            ("", "a\\b"),
            ("", "a\nb"),
            ("", "\0"),
            ("a\\", "b"),
            ("/", "a"),
            ("a//", "b"),
            ("a/../", "b"),
            ("./", "b"),
        ] {
            assert!(checked(before, value).is_err(), "{before:?} {value:?}");
        }
    }

    #[test]
    fn names_are_literals() {
        let long = "x".repeat(60);
        let pieces = format!(
            "f*0*=utf-8''{};\r\n f*1*={}",
            "x".repeat(50),
            "x".repeat(10)
        );
        for (value, parameter) in [
            ("a b.pdf", "f=\"a b.pdf\""),
            ("a\"\\", "f=\"a\\\"\\\\\""),
            ("ü.pdf", "f*=utf-8''%C3%BC.pdf"),
            ("=?x", "f*=utf-8''%3D%3Fx"),
            (&long, &pieces),
        ] {
            assert_eq!(encode_parameter("f", value), parameter);
        }
    }
}
