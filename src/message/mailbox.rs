//! Lists of addresses in a header (RFC 5322 section 3.4), with merge fields in them.
//!
//! What a merge field holds is one word, whatever characters are in it: a comma, a bracket or a
//! quote in somebody's name cannot add a recipient.

use std::mem;

use super::header::{LONGEST_WORD, PREFERRED_LINE, encode_words, is_white, refuse_controls};
use super::text::quoted;
use super::{FIELD_BEGINS, FIELD_ENDS, RowError};

/// RFC 5321 section 4.5.3.1.3: a path has 256 octets, two of them the angle brackets.
const MAXIMUM_ADDRESS: usize = 254;

/// A display name, "" for none, and an address with an ASCII domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// The display name.
    pub name: String,
    /// The address.
    pub address: String,
}

/// Reads a rendered list of addresses.
///
/// # Errors
///
/// A line break is in it, or something that is no address.
pub fn parse_mailboxes(value: &str, header: &str) -> Result<Vec<Mailbox>, RowError> {
    refuse_controls(value, header)?;
    let mut parser = Parser {
        header,
        mailboxes: Vec::new(),
        fields: 0,
        entry: Entry::default(),
    };
    for character in value.chars() {
        parser.feed(character)?;
    }
    parser.end()?;
    Ok(parser.mailboxes)
}

/// Writes a field of addresses with its CRLF, one line for as many as fit.
///
/// An address with a local part beyond ASCII stays as it is, in UTF-8 (RFC 6532).
pub fn encode_addresses(header: &str, mailboxes: &[Mailbox], out: &mut Vec<u8>) {
    out.extend_from_slice(header.as_bytes());
    out.push(b':');
    let mut column = header.len() + 1;
    for (number, mailbox) in mailboxes.iter().enumerate() {
        let mut words = mailbox.words(header.len() + 2);
        if let Some(word) = words.last_mut().filter(|_| number + 1 < mailboxes.len()) {
            word.push(',');
        }
        let length: usize = words.iter().map(|word| 1 + word.len()).sum();
        if number > 0 && column + length > PREFERRED_LINE {
            out.extend_from_slice(b"\r\n");
            column = 0;
        }
        // Only what has more than a line is broken between its words.
        for (place, word) in words.iter().enumerate() {
            if place > 0 && column + 1 + word.len() > PREFERRED_LINE {
                out.extend_from_slice(b"\r\n");
                column = 0;
            }
            out.push(b' ');
            out.extend_from_slice(word.as_bytes());
            column += 1 + word.len();
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Checks an address and writes its domain in A-labels (RFC 5890, UTS 46).
///
/// # Errors
///
/// It is not one that can be sent to.
pub fn check_address(address: &str, header: &str) -> Result<String, RowError> {
    let fault = || {
        RowError::new(format!(
            "header {header}: {} is not an address",
            quoted(address)
        ))
    };
    let (local_part, domain) = address.rsplit_once('@').ok_or_else(fault)?;
    if !is_local_part(local_part) {
        return Err(fault());
    }
    let checked = if domain.is_ascii() {
        address.to_owned()
    } else {
        let domain = idna::domain_to_ascii(domain).map_err(|_| fault())?;
        format!("{local_part}@{domain}")
    };
    if !is_domain(&checked[local_part.len() + 1..]) || checked.len() > MAXIMUM_ADDRESS {
        return Err(fault());
    }
    Ok(checked)
}

impl Mailbox {
    /// What it is written in, without the blanks between; `column` is where it begins.
    fn words(&self, column: usize) -> Vec<String> {
        let address = header_address(&self.address);
        if self.name.is_empty() {
            return vec![address];
        }
        let mut words = phrase(&self.name, column);
        words.push(format!("<{address}>"));
        words
    }
}

/// A display name: as it is, in quotes, or in encoded words.
fn phrase(name: &str, column: usize) -> Vec<String> {
    if name.split(' ').all(is_plain) {
        if !name.contains(|each| "()<>[]:;@\\,.\"".contains(each)) {
            return name.split(' ').map(str::to_owned).collect();
        }
        let escaped = name.replace('\\', "\\\\").replace('"', "\\\"");
        let quoted = format!("\"{escaped}\"");
        return quoted.split(' ').map(str::to_owned).collect();
    }
    let whole = encoded(name, column);
    if whole.len() == 1 || name.is_ascii() {
        return whole;
    }
    // Python's parser, and not it alone, reads a blank between two encoded words of a phrase, where
    // there is none (RFC 2047 section 6.2): what can do without them does.
    let mut words = Vec::new();
    let mut run = String::new();
    for word in name.split(' ') {
        if !word.is_empty() && is_plain(word) && word.bytes().all(is_atom) {
            words.append(&mut encoded(&mem::take(&mut run), column));
            words.push(word.to_owned());
        } else {
            run.extend((!run.is_empty()).then_some(' '));
            run.push_str(word);
        }
    }
    words.append(&mut encoded(&run, column));
    words
}

/// Whether a word needs no encoding: it is ASCII, fits into a line and looks like no encoded word.
fn is_plain(word: &str) -> bool {
    word.is_ascii() && !word.contains("=?") && word.len() < LONGEST_WORD
}

fn encoded(text: &str, column: usize) -> Vec<String> {
    let mut written = Vec::new();
    if !text.is_empty() {
        encode_words(text, column, &mut written);
    }
    let words = String::from_utf8_lossy(&written);
    words.split_whitespace().map(str::to_owned).collect()
}

/// An atom's character (RFC 5322 section 3.2.3).
fn is_atom(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&octet)
}

/// An address as a header has it: dots where an atom has none stand in quotes there (RFC 5322
/// section 3.2.3), though servers take them without.
fn header_address(address: &str) -> String {
    match address.rsplit_once('@') {
        Some((local_part, domain))
            if !local_part.starts_with('"') && local_part.split('.').any(str::is_empty) =>
        {
            format!("\"{local_part}\"@{domain}")
        }
        _ => address.to_owned(),
    }
}

/// One pass over the characters.
struct Parser<'a> {
    header: &'a str,
    mailboxes: Vec<Mailbox>,
    /// Merge fields that are open.
    fields: usize,
    entry: Entry,
}

/// What stands between two commas.
#[derive(Default)]
struct Entry {
    /// The text before an angle bracket, without its quotes.
    phrase: String,
    /// The same as it is written: the address where no angle bracket follows.
    bare: String,
    /// The text within angle brackets, once there are any.
    angle: Option<String>,
    in_angle: bool,
    in_quotes: bool,
    escaped: bool,
    comments: usize,
}

impl Parser<'_> {
    fn feed(&mut self, character: char) -> Result<(), RowError> {
        let entry = &mut self.entry;
        match character {
            FIELD_BEGINS => self.fields += 1,
            FIELD_ENDS => self.fields = self.fields.saturating_sub(1),
            _ if self.fields > 0 || entry.escaped => {
                entry.escaped = false;
                return self.text(Some(character), character);
            }
            '\\' if entry.in_quotes || entry.comments > 0 => {
                entry.escaped = true;
                return self.text(None, character);
            }
            '(' if !entry.in_quotes => entry.comments += 1,
            _ if entry.comments > 0 => entry.comments -= usize::from(character == ')'),
            '"' => {
                entry.in_quotes = !entry.in_quotes;
                return self.text(None, character);
            }
            _ if entry.in_quotes => return self.text(Some(character), character),
            _ => return self.syntax(character),
        }
        Ok(())
    }

    /// Adds a character: `shown` to a display name, `literal` where it may be an address.
    fn text(&mut self, shown: Option<char>, literal: char) -> Result<(), RowError> {
        let entry = &mut self.entry;
        if entry.comments > 0 {
            return Ok(());
        }
        match &mut entry.angle {
            Some(angle) if entry.in_angle => angle.push(literal),
            // A second address, most likely: nobody may be lost without a word.
            Some(_) if !is_white(literal) => {
                return Err(self.fault("a comma is missing behind an address"));
            }
            Some(_) => {}
            None => {
                entry.phrase.extend(shown);
                entry.bare.push(literal);
            }
        }
        Ok(())
    }

    fn syntax(&mut self, character: char) -> Result<(), RowError> {
        let entry = &mut self.entry;
        match character {
            '<' if entry.angle.is_none() => {
                entry.angle = Some(String::new());
                entry.in_angle = true;
            }
            '>' if entry.in_angle => entry.in_angle = false,
            _ if entry.in_angle => return self.text(Some(character), character),
            ',' | ';' => return self.end(),
            // What stood before it was the name of a group.
            ':' if entry.angle.is_none() => *entry = Entry::default(),
            _ => return self.text(Some(character), character),
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), RowError> {
        let entry = mem::take(&mut self.entry);
        if entry.in_angle || entry.in_quotes || entry.comments > 0 {
            return Err(self.fault("a bracket or a quote is left open"));
        }
        // No-break and ideographic spaces are somebody's own.
        let phrase = entry.phrase.split([' ', '\t']);
        let phrase = phrase.filter(|word| !word.is_empty());
        let phrase = phrase.collect::<Vec<_>>().join(" ");
        let is_named = entry.angle.is_some();
        let literal = entry.angle.unwrap_or(entry.bare);
        let literal = literal.trim_matches(is_white);
        if !literal.is_empty() || !phrase.is_empty() || is_named {
            let address = check_address(literal, self.header)?;
            let name = if is_named { phrase } else { String::new() };
            self.mailboxes.push(Mailbox { name, address });
        }
        Ok(())
    }

    fn fault(&self, what: &str) -> RowError {
        RowError::new(format!("header {}: {what}", self.header))
    }
}

/// An atom with dots anywhere, or a quoted string (RFC 5321 section 4.1.2).
fn is_local_part(text: &str) -> bool {
    let Some(quoted) = text.strip_prefix('"') else {
        let is_special = |each: char| is_white(each) || "()<>[]:;@\\,\"".contains(each);
        return !text.is_empty() && !text.contains(is_special);
    };
    let mut escaped = false;
    let mut ends = None;
    for (place, character) in quoted.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => {
                ends = Some(place);
                break;
            }
            _ => {}
        }
    }
    ends.is_some_and(|place| place + 1 == quoted.len())
}

/// Names with dots between them, or an address literal (RFC 5321 section 4.1.2 and 4.1.3).
fn is_domain(text: &str) -> bool {
    let is_name = |each: u8| each.is_ascii_alphanumeric() || matches!(each, b'_' | b'-');
    if let Some(literal) = text.strip_prefix('[') {
        let literal = literal.strip_suffix(']').unwrap_or_default();
        let is_literal = |each: u8| is_name(each) || matches!(each, b'.' | b':');
        return !literal.is_empty() && literal.bytes().all(is_literal);
    }
    let mut labels = text.split('.');
    labels.all(|label| !label.is_empty() && label.bytes().all(is_name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::encode::MAXIMUM_LINE;

    fn field(text: &str) -> String {
        format!("{FIELD_BEGINS}{text}{FIELD_ENDS}")
    }

    fn parsed(value: &str) -> Result<Vec<(String, String)>, String> {
        let mailboxes = parse_mailboxes(value, "To").map_err(|error| error.to_string())?;
        let pairs = mailboxes.into_iter().map(|each| (each.name, each.address));
        Ok(pairs.collect())
    }

    fn one(name: &str, address: &str) -> Result<Vec<(String, String)>, String> {
        Ok(vec![(name.to_owned(), address.to_owned())])
    }

    #[test]
    fn addresses_are_found() {
        assert_eq!(parsed("a@x.org"), one("", "a@x.org"));
        assert_eq!(parsed("  Ann  B <a@x.org> , "), one("Ann B", "a@x.org"));
        assert_eq!(
            parsed("\"B, Ann\" (c (d)) <a@x.org>"),
            one("B, Ann", "a@x.org")
        );
        assert_eq!(parsed("\"a \\\" b\"@x.org"), one("", "\"a \\\" b\"@x.org"));
        assert_eq!(parsed("group: a@x.org;"), one("", "a@x.org"));
        assert_eq!(parsed("a@[127.0.0.1]"), one("", "a@[127.0.0.1]"));
        assert_eq!(
            parsed("a@münchen.example"),
            one("", "a@xn--mnchen-3ya.example")
        );
        assert_eq!(parsed("a@faß.example"), one("", "a@xn--fa-hia.example"));
        assert_eq!(parsed("é@x.org"), one("", "é@x.org"));
        assert_eq!(parsed("a@x.org, b@x.org").unwrap().len(), 2);
        assert_eq!(parsed(""), Ok(vec![]));
    }

    #[test]
    fn spaces_that_are_no_blanks_are_kept() {
        let name = "山田\u{3000}太郎\u{a0}x";
        assert_eq!(
            parsed(&format!("{}  y <a@x.org>", field(name))),
            one(&format!("{name} y"), "a@x.org")
        );
    }

    #[test]
    fn dots_of_no_atom_are_quoted_in_a_header() {
        for (address, shown) in [
            ("a..b@x.org", "\"a..b\"@x.org"),
            (".a@x.org", "\".a\"@x.org"),
            ("a.@x.org", "\"a.\"@x.org"),
            ("\"a..b\"@x.org", "\"a..b\"@x.org"),
            ("a.b@x.org", "a.b@x.org"),
        ] {
            let mailboxes = parse_mailboxes(address, "To").unwrap();
            assert_eq!(mailboxes[0].address, address);
            let mut out = Vec::new();
            encode_addresses("To", &mailboxes, &mut out);
            assert_eq!(out, format!("To: {shown}\r\n").as_bytes());
        }
    }

    #[test]
    fn a_field_is_one_word() {
        let name = field("B, Ann <x@y> \"(:;");
        let value = format!("{name} <{}>", field("a@x.org"));
        assert_eq!(parsed(&value), one("B, Ann <x@y> \"(:;", "a@x.org"));
        assert!(parsed(&field("a@x.org, b@x.org")).is_err());
        assert!(parsed(&field("a@x.org> <b@x.org")).is_err());
    }

    #[test]
    fn what_is_no_address_is_said() {
        let cases = [
            ("nobody", "header To: 'nobody' is not an address"),
            ("Ann", "header To: 'Ann' is not an address"),
            ("<>", "header To: '' is not an address"),
            ("a b@x", "header To: 'a b@x' is not an address"),
            ("a@b..c", "header To: 'a@b..c' is not an address"),
            (
                "<a@x> b@y",
                "header To: a comma is missing behind an address",
            ),
            ("<a@x", "header To: a bracket or a quote is left open"),
            ("\"a@x", "header To: a bracket or a quote is left open"),
            ("(a@x", "header To: a bracket or a quote is left open"),
            (
                "a@x\n",
                "header To: a line break or control character in a field",
            ),
        ];
        for (value, text) in cases {
            assert_eq!(parsed(value), Err(text.to_owned()), "{value}");
        }
        assert!(check_address(&format!("a@{}", "b".repeat(253)), "To").is_err());
        assert!(check_address(&format!("a@{}", "b".repeat(252)), "To").is_ok());
    }

    #[test]
    fn names_are_written_so_that_they_are_read_again() {
        let write = |names: &[&str]| {
            let mailboxes: Vec<_> = names
                .iter()
                .map(|name| Mailbox {
                    name: (*name).to_owned(),
                    address: "a@x.org".to_owned(),
                })
                .collect();
            let mut out = Vec::new();
            encode_addresses("To", &mailboxes, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(write(&["Ann"]), "To: Ann <a@x.org>\r\n");
        assert_eq!(
            write(&["B, \"A\\\""]),
            "To: \"B, \\\"A\\\\\\\"\" <a@x.org>\r\n"
        );
        assert_eq!(write(&["é"]), "To: =?utf-8?b?w6k=?= <a@x.org>\r\n");
        let long = "Society for the Study of Everything, Section ".repeat(3);
        let field = write(&[long.trim_end()]);
        assert_eq!(
            field.replace("\r\n", ""),
            format!("To: \"{}\" <a@x.org>", long.trim_end())
        );
        assert!(field.split("\r\n").all(|line| line.len() <= PREFERRED_LINE));
        assert_eq!(
            write(&["Gesellschaft für Erdkunde und Vermessung der Länder am großen Meer"]),
            "To: Gesellschaft =?utf-8?q?f=C3=BCr?= Erdkunde und Vermessung der\r\n \
             =?utf-8?q?L=C3=A4nder?= am =?utf-8?q?gro=C3=9Fen?= Meer <a@x.org>\r\n"
        );
        for name in ["x".repeat(400), "\"".repeat(460), "x".repeat(900)] {
            let field = write(&[&name, &name]);
            assert!(field.split("\r\n").all(|line| line.len() <= MAXIMUM_LINE));
        }
        let many = write(&["Somebody"; 12]);
        assert_eq!(many.matches("<a@x.org>").count(), 12);
        assert!(many.split("\r\n").all(|line| line.len() <= PREFERRED_LINE));
    }
}
