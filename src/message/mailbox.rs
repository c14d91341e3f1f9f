//! Address lists in header fields (RFC 5322 section 3.4), with merge fields in them.
//!
//! The value of a merge field is always parsed as text and never as syntax. So a comma, a bracket
//! or a quote in the value cannot add a recipient.

use std::fmt::Display;
use std::mem;
use std::ops::Range;

use super::header::{
    LONGEST_WORD, PREFERRED_LINE, encode_words, is_white, refuse_controls, without_marks,
};
use super::invisible;
use super::text::quoted;
use super::{FIELD_END, FIELD_START, RowError};

/// The maximum length of an address, in bytes. RFC 5321 section 4.5.3.1.3: the maximum length of a
/// path is 256 bytes, including the angle brackets.
const MAXIMUM_ADDRESS: usize = 254;

/// The maximum length of an address before its domain is converted to A-labels, in bytes. The
/// conversion takes quadratic time.
const MAX_UNCONVERTED: usize = 4 * MAXIMUM_ADDRESS;

/// The place of the sender of the envelope in error messages: the name of the parameter.
pub const ENVELOPE_SENDER_PLACE: &str = "envelope_sender";

/// An address with its display name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// The display name. It may be empty.
    pub name: String,
    /// The address. Its domain is ASCII.
    pub address: String,
}

/// A group of an address list (RFC 5322 section 3.4), such as `undisclosed-recipients:;`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The display name.
    pub name: String,
    /// The indices of the group's mailboxes in the list.
    pub members: Range<usize>,
}

/// An address list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressList {
    /// The mailboxes, also those in groups.
    pub mailboxes: Vec<Mailbox>,
    /// The groups, in order.
    pub groups: Vec<Group>,
}

/// Parses a rendered address list.
///
/// # Errors
///
/// If the value contains a line break or an invalid address.
pub fn parse_addresses(value: &str, header: &str) -> Result<AddressList, RowError> {
    refuse_controls(value, header)?;
    let mut parser = MailboxParser {
        header,
        addresses: AddressList::default(),
        group: None,
        fields: 0,
        entry: MailboxEntry::default(),
    };
    for character in value.chars() {
        parser.feed(character)?;
    }
    parser.end()?;
    parser.end_group();
    Ok(parser.addresses)
}

/// Appends a header field of addresses with its CRLF. Each line contains as many addresses as fit
/// in the preferred length.
///
/// An address with a local part beyond ASCII is written in UTF-8 (RFC 6532).
pub fn encode_addresses(header: &str, addresses: &AddressList, out: &mut Vec<u8>) {
    out.extend_from_slice(header.as_bytes());
    out.push(b':');
    let mut column = header.len() + 1;
    for (number, words) in addresses.entries(header.len() + 2).iter().enumerate() {
        let length: usize = words.iter().map(|word| 1 + word.len()).sum();
        if number > 0 && column + length > PREFERRED_LINE {
            out.extend_from_slice(b"\r\n");
            column = 0;
        }
        // A mailbox is folded between its words only if the mailbox is longer than a line.
        for (index, word) in words.iter().enumerate() {
            if index > 0 && column + 1 + word.len() > PREFERRED_LINE {
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

/// Returns the address in a rendered sender of the envelope (RFC 5321 section 4.1.2), or an empty
/// text for the null reverse-path.
///
/// `is_constant` states that the value is the same for each row: only then it may be empty, so that
/// an empty field does not make a message without bounces.
///
/// # Errors
///
/// If the value is not an address.
pub fn parse_envelope_sender(value: &str, is_constant: bool) -> Result<String, RowError> {
    let error = |fact| Err(RowError::new(format!("{ENVELOPE_SENDER_PLACE}: {fact}")));
    if refuse_controls(value, "").is_err() {
        return error("the value contains a line break or control character");
    }
    let value = without_marks(value);
    let address = invisible::trim(&value);
    if !address.is_empty() {
        return check_address(address, &ENVELOPE_SENDER_PLACE);
    }
    if is_constant {
        return Ok(String::new());
    }
    error("the address is empty; only a constant empty text is the null sender")
}

/// Checks an address and returns it with its domain as A-labels (RFC 5890, UTS 46). `place` is the
/// place of the address in error messages, such as "header To".
///
/// # Errors
///
/// If the address is invalid.
pub fn check_address(address: &str, place: &dyn Display) -> Result<String, RowError> {
    let error = || RowError::new(format!("{place}: {} is not an address", quoted(address)));
    let (local_part, domain) = address.rsplit_once('@').ok_or_else(error)?;
    if let Some(character) = invisible::refused(local_part) {
        return Err(RowError::new(format!(
            "{}: it contains {character}",
            error()
        )));
    }
    if address.len() > MAX_UNCONVERTED || !is_local_part(local_part) {
        return Err(error());
    }
    if local_part.contains("=?") && local_part.contains("?=") {
        // Some readers decode such a word, so they see another address.
        return Err(RowError::new(format!(
            "{place}: an encoded word is not allowed in an address (RFC 2047 section 5)"
        )));
    }
    let checked = if domain.is_ascii() {
        address.to_owned()
    } else {
        let domain = idna::domain_to_ascii(domain).map_err(|_| error())?;
        format!("{local_part}@{domain}")
    };
    if !is_domain(&checked[local_part.len() + 1..]) || checked.len() > MAXIMUM_ADDRESS {
        return Err(error());
    }
    Ok(checked)
}

impl AddressList {
    /// Whether the list has neither mailboxes nor groups.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mailboxes.is_empty() && self.groups.is_empty()
    }

    /// Returns the words of each mailbox and of each start of a group, with their punctuation.
    fn entries(&self, column: usize) -> Vec<Vec<String>> {
        fn add(entries: &mut Vec<Vec<String>>, words: Vec<String>) {
            if let Some(last) = entries.last_mut().and_then(|words| words.last_mut())
                && !last.ends_with(':')
            {
                last.push(',');
            }
            entries.push(words);
        }
        let mut entries = Vec::with_capacity(self.mailboxes.len());
        let mut groups = self.groups.iter().peekable();
        let mut end = None;
        for index in 0..=self.mailboxes.len() {
            while let Some(group) = groups.next_if(|group| group.members.start == index) {
                let mut words = phrase(&group.name, column);
                if let Some(word) = words.last_mut() {
                    word.push_str(if group.members.is_empty() { ":;" } else { ":" });
                }
                add(&mut entries, words);
                end = Some(group.members.end);
            }
            let Some(mailbox) = self.mailboxes.get(index) else {
                break;
            };
            let mut words = mailbox.words(column);
            if let Some(word) = words.last_mut().filter(|_| end == Some(index + 1)) {
                word.push(';');
            }
            add(&mut entries, words);
        }
        entries
    }
}

impl Mailbox {
    /// Splits the encoded mailbox into words, without the spaces between them. `column` is the
    /// number of bytes before the first mailbox: the name of the header, a colon and a space. The
    /// first encoded word must fit in the line after these bytes.
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

/// Encodes a display name. The result is the unchanged name, a quoted string or encoded words.
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
    // RFC 2047 section 6.2: white space between two encoded words is not part of the text. But some
    // parsers, such as Python's, keep this white space in a phrase. So words that need no encoding
    // are written unchanged. This makes adjacent encoded words rare.
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

/// Whether a word needs no encoding. Such a word is ASCII, fits in a line and does not contain the
/// start of an encoded word.
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

/// Whether the byte is allowed in an atom (RFC 5322 section 3.2.3).
fn is_atom(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

/// Returns the address as it is written in a header: a local part with misplaced dots is quoted, as
/// RFC 5322 section 3.2.3 requires. The envelope contains the address without these quotes, because
/// servers accept the address in this form.
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

/// Parses an address list in one pass over its characters.
struct MailboxParser<'a> {
    header: &'a str,
    addresses: AddressList,
    /// The name of the current group, and the index of its first mailbox.
    group: Option<(String, usize)>,
    /// The number of merge fields that contain the current character. If it is not 0, the character
    /// is never syntax.
    fields: usize,
    entry: MailboxEntry,
}

/// The parsed text between two commas.
#[derive(Default)]
struct MailboxEntry {
    /// The text before an angle bracket, without quotes.
    phrase: String,
    /// The text before an angle bracket, with quotes. If no angle bracket follows, this is the
    /// address.
    bare: String,
    /// The text in angle brackets; `None` without angle brackets.
    angle: Option<String>,
    in_angle: bool,
    /// Whether an "@" occurred that is syntax. A colon after it begins no group: `a@[IPv6:::1]`.
    has_at: bool,
    in_quotes: bool,
    escaped: bool,
    comments: usize,
}

impl MailboxParser<'_> {
    fn feed(&mut self, character: char) -> Result<(), RowError> {
        let entry = &mut self.entry;
        match character {
            FIELD_START => self.fields += 1,
            FIELD_END => self.fields = self.fields.saturating_sub(1),
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

    /// Adds one character: `shown` to the display name, and `literal` to the address. `shown` is
    /// `None` for a quote and for the backslash of an escape.
    fn text(&mut self, shown: Option<char>, literal: char) -> Result<(), RowError> {
        let entry = &mut self.entry;
        if entry.comments > 0 {
            return Ok(());
        }
        match &mut entry.angle {
            Some(angle) if entry.in_angle => angle.push(literal),
            // A character after the closing bracket probably starts a second address. The parser
            // reports an error, because otherwise this address would receive no message.
            Some(_) if !is_white(literal) => {
                return Err(self.error("a comma is missing after an address"));
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
            ',' => return self.end(),
            ';' => {
                self.end()?;
                self.end_group();
            }
            // The text before the colon is the name of a group.
            ':' if entry.angle.is_none() && !entry.has_at => {
                let name = words_of(&mem::take(entry).phrase);
                self.end_group();
                self.group = Some((name, self.addresses.mailboxes.len()));
            }
            _ => {
                entry.has_at |= character == '@';
                return self.text(Some(character), character);
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), RowError> {
        let entry = mem::take(&mut self.entry);
        if entry.in_angle || entry.in_quotes || entry.comments > 0 {
            return Err(self.error("a bracket or quote is not closed"));
        }
        let phrase = words_of(&entry.phrase);
        let is_named = entry.angle.is_some();
        let literal = entry.angle.unwrap_or(entry.bare);
        let literal = invisible::trim(&literal);
        if !literal.is_empty() || !phrase.is_empty() || is_named {
            let address = check_address(literal, &format_args!("header {}", self.header))?;
            let name = if is_named { phrase } else { String::new() };
            self.addresses.mailboxes.push(Mailbox { name, address });
        }
        Ok(())
    }

    fn end_group(&mut self) {
        if let Some((name, start)) = self.group.take()
            && !name.is_empty()
        {
            let members = start..self.addresses.mailboxes.len();
            self.addresses.groups.push(Group { name, members });
        }
    }

    fn error(&self, what: &str) -> RowError {
        RowError::new(format!("header {}: {what}", self.header))
    }
}

/// Joins the words of a phrase with single spaces. Only spaces and tabs separate words. Other spaces,
/// such as no-break and ideographic spaces, are part of the name.
fn words_of(phrase: &str) -> String {
    let words = phrase.split([' ', '\t']).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// Whether the text is an atom, with dots at any place, or a quoted string (RFC 5321 section
/// 4.1.2).
fn is_local_part(text: &str) -> bool {
    let Some(quoted) = text.strip_prefix('"') else {
        let is_special = |each: char| is_white(each) || "()<>[]:;@\\,\"".contains(each);
        return !text.is_empty() && !text.contains(is_special);
    };
    let mut escaped = false;
    let mut ends = None;
    for (index, character) in quoted.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => {
                ends = Some(index);
                break;
            }
            _ => {}
        }
    }
    ends.is_some_and(|index| index + 1 == quoted.len())
}

/// Whether the text is a domain name or an address literal (RFC 5321 sections 4.1.2 and 4.1.3).
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
        format!("{FIELD_START}{text}{FIELD_END}")
    }

    fn parsed(value: &str) -> Result<Vec<(String, String)>, String> {
        let addresses = parse_addresses(value, "To").map_err(|error| error.to_string())?;
        let pairs = addresses
            .mailboxes
            .into_iter()
            .map(|each| (each.name, each.address));
        Ok(pairs.collect())
    }

    fn one(name: &str, address: &str) -> Result<Vec<(String, String)>, String> {
        Ok(vec![(name.to_owned(), address.to_owned())])
    }

    #[test]
    fn addresses_are_parsed() {
        assert_eq!(parsed("a@x.org"), one("", "a@x.org"));
        assert_eq!(parsed("  Ann  B <a@x.org> , "), one("Ann B", "a@x.org"));
        assert_eq!(
            parsed("\"B, Ann\" (c (d)) <a@x.org>"),
            one("B, Ann", "a@x.org")
        );
        assert_eq!(parsed("\"a \\\" b\"@x.org"), one("", "\"a \\\" b\"@x.org"));
        assert_eq!(parsed("group: a@x.org;"), one("", "a@x.org"));
        assert_eq!(parsed("a@[127.0.0.1]"), one("", "a@[127.0.0.1]"));
        assert_eq!(parsed("a@[IPv6:::1]"), one("", "a@[IPv6:::1]"));
        assert!(parsed("a@x.org: b@x.org").is_err());
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
    fn groups_are_kept() {
        let write = |value: &str| {
            let mut out = Vec::new();
            encode_addresses("To", &parse_addresses(value, "To").unwrap(), &mut out);
            String::from_utf8(out).unwrap().replace("\r\n", "")
        };
        for (value, field) in [
            ("undisclosed-recipients:;", "To: undisclosed-recipients:;"),
            (
                "Team: a@x.org, B <b@x.org>;",
                "To: Team: a@x.org, B <b@x.org>;",
            ),
            (
                "c@x.org, Team: a@x.org;, d@x.org",
                "To: c@x.org, Team: a@x.org;, d@x.org",
            ),
            ("A:;, B:;c@x.org", "To: A:;, B:;, c@x.org"),
            ("\"A, b\": a@x.org", "To: \"A, b\": a@x.org;"),
            ("Größe: a@x.org;", "To: =?utf-8?b?R3LDtsOfZQ==?=: a@x.org;"),
            (":a@x.org;", "To: a@x.org"),
            ("a@x.org; b@x.org", "To: a@x.org, b@x.org"),
        ] {
            assert_eq!(write(value), field);
        }
    }

    #[test]
    fn no_break_and_ideographic_spaces_are_kept() {
        let name = "山田\u{3000}太郎\u{a0}x";
        assert_eq!(
            parsed(&format!("{}  y <a@x.org>", field(name))),
            one(&format!("{name} y"), "a@x.org")
        );
    }

    #[test]
    fn misplaced_dots_are_quoted_in_a_header() {
        for (address, shown) in [
            ("a..b@x.org", "\"a..b\"@x.org"),
            (".a@x.org", "\".a\"@x.org"),
            ("a.@x.org", "\"a.\"@x.org"),
            ("\"a..b\"@x.org", "\"a..b\"@x.org"),
            ("a.b@x.org", "a.b@x.org"),
        ] {
            let addresses = parse_addresses(address, "To").unwrap();
            assert_eq!(addresses.mailboxes[0].address, address);
            let mut out = Vec::new();
            encode_addresses("To", &addresses, &mut out);
            assert_eq!(out, format!("To: {shown}\r\n").as_bytes());
        }
    }

    #[test]
    fn a_merge_field_is_one_word() {
        let name = field("B, Ann <x@y> \"(:;");
        let value = format!("{name} <{}>", field("a@x.org"));
        assert_eq!(parsed(&value), one("B, Ann <x@y> \"(:;", "a@x.org"));
        assert!(parsed(&field("a@x.org, b@x.org")).is_err());
        assert!(parsed(&field("a@x.org> <b@x.org")).is_err());
    }

    #[test]
    fn invalid_addresses_are_refused() {
        let cases = [
            ("nobody", "header To: 'nobody' is not an address"),
            ("Ann", "header To: 'Ann' is not an address"),
            ("<>", "header To: '' is not an address"),
            ("a b@x", "header To: 'a b@x' is not an address"),
            ("a@b..c", "header To: 'a@b..c' is not an address"),
            (
                "=?utf-8?q?a?=@x",
                "header To: an encoded word is not allowed in an address (RFC 2047 section 5)",
            ),
            (
                "<a@x> b@y",
                "header To: a comma is missing after an address",
            ),
            ("<a@x", "header To: a bracket or quote is not closed"),
            ("\"a@x", "header To: a bracket or quote is not closed"),
            ("(a@x", "header To: a bracket or quote is not closed"),
            (
                "a@x\n",
                "header To: the value contains a line break or control character",
            ),
        ];
        for (value, text) in cases {
            assert_eq!(parsed(value), Err(text.to_owned()), "{value}");
        }
        assert!(check_address(&format!("a@{}", "b".repeat(253)), &"To").is_err());
        assert!(check_address(&format!("a@{}", "é".repeat(508)), &"To").is_err());
        assert!(check_address(&format!("a@{}", "b".repeat(252)), &"To").is_ok());
    }

    #[test]
    fn display_names_are_encoded() {
        let write = |names: &[&str]| {
            let mailboxes: Vec<_> = names
                .iter()
                .map(|name| Mailbox {
                    name: (*name).to_owned(),
                    address: "a@x.org".to_owned(),
                })
                .collect();
            let mut out = Vec::new();
            let groups = Vec::new();
            encode_addresses("To", &AddressList { mailboxes, groups }, &mut out);
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
