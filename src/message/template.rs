//! A compiled message. Constant parts are encoded only once, when the template is compiled. All
//! other parts are rendered for each row.
//!
//! ```text
//!     header fields   constant: encoded once        with merge fields: rendered, checked, folded
//!     body            delimiters, attachments,      texts with merge fields: rendered, encoded
//!                     constant texts: encoded once
//!     generated       Date and Message-ID if the template has none; MIME-Version; DKIM-Signature
//! ```
//!
//! Python splits the message into these parts (`python/rapidsmtp/_compose/parts.py`).

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::attachment::AttachedFile;
use super::dkim::Signer;
use super::encode::{Stretch, TextBody, TransferEncoding, encode_text};
use super::escape::{Format, escape_fields, is_c1, refuse_c1};
use super::header::encode_header;
use super::mailbox::{
    ENVELOPE_SENDER_PLACE, Mailbox, encode_addresses, parse_addresses, parse_envelope_sender,
};
use super::text::{Budget, Columns, Row, Text, Value};
use super::{RowError, TextKind};
use crate::content::{CleanBytes, ContentPart, SharedBytes};

/// The minimum length, in bytes, of a constant part that all messages share without a copy. A
/// shorter part is copied into each message.
const SHARED_SIZE: usize = 16 * 1024;

/// The field of a template with the sender of the envelope, in lower case. No message contains this
/// field.
const ENVELOPE_SENDER: &str = "x-rapidsmtp-envelope-sender";

/// The initial capacity for the header of a message, in bytes.
const HEADER_SIZE: usize = 2048;

/// The reason why a message is not a valid template, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError(pub String);

/// One of the consecutive sections of a message after its non-MIME header fields. The first section
/// starts with the first MIME header field, such as Content-Type.
pub enum PartSource {
    /// Bytes that are the same for every row.
    Bytes(Vec<u8>),
    /// A text. Rendering writes the fields Content-Type and Content-Transfer-Encoding, and the
    /// encoded text.
    Text {
        /// The value of its Content-Type.
        content_type: String,
        /// The template source.
        source: String,
        /// The kind of the text: `Text` or `Html`; `Header` for a text with a format.
        kind: TextKind,
        /// The format of a text that is neither plain text nor HTML.
        format: Option<Format>,
        /// The name of this text in error messages.
        place: String,
        /// The boundaries of the enclosing multiparts, each with its two dashes.
        boundaries: Vec<Vec<u8>>,
    },
    /// An attached file that is read for each row.
    File {
        /// The template source of the path below `root`.
        path: String,
        /// The name of this part in error messages.
        place: String,
        /// The folder that contains the files.
        root: PathBuf,
        /// The value of Content-Type; empty if it depends on the name of the file.
        content_type: String,
        /// The values of Content-Type by the suffix of the name.
        types: HashMap<String, String>,
    },
}

/// A compiled message.
pub struct Template {
    fields: Vec<HeaderField>,
    parts: Vec<TemplatePart>,
    /// Whether the message is resent (RFC 5322 section 3.6.6). For a resent message, the envelope
    /// comes from the `Resent-` fields.
    resent: bool,
    eight_bit: bool,
    required: BTreeSet<String>,
    /// The sorted names of all merge fields that the message uses.
    used: Vec<String>,
    /// The columns of the rows. They have the names in `used`, in the same order.
    columns: Arc<Columns>,
    signer: Option<Arc<Signer>>,
    size: usize,
}

struct HeaderField {
    role: HeaderRole,
    content: HeaderContent,
}

enum HeaderContent {
    /// A constant field, or adjacent constant fields with the role `Unstructured`.
    Constant(EncodedHeader),
    /// A field with merge fields.
    Rendered { name: String, text: Box<Text> },
}

/// An encoded header field and its addresses.
#[derive(Clone)]
struct EncodedHeader {
    line: Vec<u8>,
    mailboxes: Vec<Mailbox>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeaderRole {
    From,
    Sender,
    To,
    Cc,
    /// A field whose addresses are used only for the envelope. The field itself is not written into
    /// the message.
    Bcc,
    /// A Bcc field that is used neither for the envelope nor in the message: `Bcc` of a resent
    /// message, or `Resent-Bcc` of a message that is not resent.
    Hidden,
    /// A field of addresses that is not used for the envelope.
    Mentioned,
    /// The sender of the envelope. The field itself is not written into the message.
    EnvelopeSender,
    /// Date and Message-ID, which are generated if they are absent or empty.
    Date,
    MessageId,
    Unstructured,
}

enum TemplatePart {
    Bytes(Vec<u8>),
    Shared(CleanBytes),
    Text(Box<BodyText>),
    File(Box<AttachedFile>),
}

/// A text of the body with merge fields.
struct BodyText {
    content_type: String,
    text: Text,
    /// The name of this text in error messages.
    place: String,
    format: Option<Format>,
    /// Whether the source has C1 control characters. If it has none, a rendered one is an error.
    has_c1: bool,
    /// The constant lines, encoded once.
    stretches: Vec<Stretch>,
    boundaries: Vec<Vec<u8>>,
    /// The transfer encoding of the first rendered row. `write` assumes this encoding for each row
    /// and corrects it afterwards if necessary.
    first_encoding: OnceLock<TransferEncoding>,
}

/// The values that the caller generates for one message.
#[derive(Debug, Clone)]
pub struct Stamp {
    /// The value of Date.
    pub date: Box<str>,
    /// The Message-ID without its angle brackets. If it has no `@`, the domain of the author follows.
    pub id: Box<str>,
    /// The time of the signature, in seconds since 1970.
    pub time: u64,
}

/// A rendered message with its envelope.
pub struct RenderedRow {
    /// The sender of the envelope.
    pub sender: String,
    /// The recipients of the envelope, each once.
    pub recipients: Vec<String>,
    /// The ESMTP parameters of MAIL.
    pub mail_options: Vec<String>,
    /// The header and the body with CRLF line ends, in order.
    pub parts: Vec<ContentPart>,
}

/// A row that waits to be rendered.
pub struct MergeRow {
    /// The template that renders the row.
    pub template: Arc<Template>,
    /// The values of the merge fields.
    pub row: Row,
    /// The generated values of the message.
    pub stamp: Stamp,
    /// The recipients to send to, by their places among the recipients of the message; `None` for
    /// all recipients. The content is the same for all recipients.
    pub parts: Option<Box<[u16]>>,
}

impl MergeRow {
    /// Renders the message.
    ///
    /// # Errors
    ///
    /// If a merge field is missing or empty, or if its value is not allowed at its place in the
    /// message.
    pub fn render(&self) -> Result<RenderedRow, RowError> {
        let mut rendered = self.template.render(&self.row, &self.stamp)?;
        rendered.recipients = self.chosen(rendered.recipients);
        Ok(rendered)
    }

    /// Renders only the header and returns the sender and the recipients.
    ///
    /// # Errors
    ///
    /// The errors of [`MergeRow::render`] that concern the header.
    pub fn envelope(&self) -> Result<(String, Vec<String>), RowError> {
        let encoded = self.template.header(&self.row, &mut Budget::default())?;
        let (sender, recipients) = self.template.envelope(&encoded)?;
        Ok((sender, self.chosen(recipients)))
    }

    fn chosen(&self, mut recipients: Vec<String>) -> Vec<String> {
        if let Some(parts) = &self.parts {
            let mut place = 0..;
            recipients.retain(|_| {
                let place = place.next();
                parts.iter().any(|part| Some(usize::from(*part)) == place)
            });
        }
        recipients
    }
}

impl Template {
    /// Compiles a message.
    ///
    /// # Arguments
    ///
    /// - `fields`: the names and values of the header fields that are not MIME fields, in order,
    ///   decoded and unfolded.
    /// - `parts`: the sections after these fields, from the first MIME header field on.
    /// - `signer`: adds a DKIM signature to each message.
    ///
    /// # Errors
    ///
    /// If a header field or a text is not a valid template.
    pub fn new(
        fields: Vec<(String, String)>,
        parts: Vec<PartSource>,
        signer: Option<Arc<Signer>>,
    ) -> Result<Self, TemplateError> {
        let has = |name: &str| {
            fields
                .iter()
                .any(|(each, _)| each.eq_ignore_ascii_case(name))
        };
        let resent = has("resent-date");
        let mut template = Self {
            resent,
            fields: Vec::new(),
            parts: Vec::new(),
            eight_bit: false,
            required: BTreeSet::new(),
            used: Vec::new(),
            columns: Arc::default(),
            signer,
            size: HEADER_SIZE,
        };
        for (name, value) in fields {
            template.add_field(name, &value)?;
        }
        for part in parts {
            template.add_part(part)?;
        }
        template.share();
        template.used.sort_unstable();
        template.used.dedup();
        template.columns = Arc::new(Columns::new(template.used.iter().map(String::as_str)));
        Ok(template)
    }

    /// The merge fields that a row must have.
    #[must_use]
    pub fn required(&self) -> &BTreeSet<String> {
        &self.required
    }

    /// The names of all merge fields that the message uses.
    #[must_use]
    pub fn fields(&self) -> &[String] {
        &self.used
    }

    /// Creates a row from the values of [`Template::fields`], in order. `None` means that the field
    /// is missing.
    #[must_use]
    pub fn row(&self, values: Vec<Option<Value>>) -> Row {
        Row::of_table(Arc::clone(&self.columns), &self.used, values)
    }

    /// Renders the message for one row.
    ///
    /// # Errors
    ///
    /// If a merge field is missing or empty, or if its value is not allowed at its place in the
    /// message.
    pub fn render(&self, row: &Row, stamp: &Stamp) -> Result<RenderedRow, RowError> {
        let mut budget = Budget::default();
        let encoded = self.header(row, &mut budget)?;
        let (sender, recipients) = self.envelope(&encoded)?;
        let mut data = Vec::with_capacity(self.size);
        for field in &encoded {
            data.extend_from_slice(&field.line);
        }
        self.add_generated_fields(&encoded, stamp, &mut data)?;
        let mut text = String::new();
        let mut parts = Vec::with_capacity(1);
        for part in &self.parts {
            match part {
                TemplatePart::Bytes(bytes) => data.extend_from_slice(bytes),
                TemplatePart::Shared(clean) => {
                    parts.push(ContentPart::Own(std::mem::take(&mut data)));
                    parts.push(ContentPart::Shared(clean.clone()));
                }
                TemplatePart::Text(each) => each.write(row, &mut budget, &mut text, &mut data)?,
                TemplatePart::File(each) => each.write(row, &mut budget, &mut data)?,
            }
        }
        let last = parts.last().map_or(&[][..], AsRef::as_ref);
        if !(if data.is_empty() { last } else { &data }).ends_with(b"\r\n") {
            data.extend_from_slice(b"\r\n");
        }
        parts.push(ContentPart::Own(data));
        Ok(RenderedRow {
            mail_options: self.mail_options(&encoded),
            parts: self.sign(parts, stamp.time)?,
            sender,
            recipients,
        })
    }

    /// Shares large constant parts between all messages. Signed messages share no parts, because
    /// the signer needs the whole message in one buffer.
    fn share(&mut self) {
        if self.signer.is_some() {
            return;
        }
        for part in &mut self.parts {
            if let TemplatePart::Bytes(bytes) = part
                && bytes.len() >= SHARED_SIZE
            {
                let shared_bytes: Arc<Vec<u8>> = Arc::new(std::mem::take(bytes));
                match CleanBytes::new(Arc::clone(&shared_bytes) as SharedBytes) {
                    Some(clean) => {
                        self.size -= shared_bytes.len();
                        *part = TemplatePart::Shared(clean);
                    }
                    None => *bytes = Arc::unwrap_or_clone(shared_bytes),
                }
            }
        }
    }

    fn add_field(&mut self, name: String, value: &str) -> Result<(), TemplateError> {
        let role = HeaderRole::of(&name, self.resent);
        let place = match role {
            HeaderRole::EnvelopeSender => ENVELOPE_SENDER_PLACE.to_owned(),
            _ => format!("header {name}"),
        };
        let text = self.compile(value, TextKind::Header, &place)?;
        let content = if text.constant().is_none() {
            let text = Box::new(text);
            HeaderContent::Rendered { name, text }
        } else {
            HeaderContent::Constant(role.write(
                &name,
                &text,
                &Row::default(),
                &mut Budget::default(),
            )?)
        };
        match (self.fields.last_mut(), content) {
            // A template may have many constant fields, so they need no memory except their bytes.
            (
                Some(HeaderField {
                    role: HeaderRole::Unstructured,
                    content: HeaderContent::Constant(before),
                }),
                HeaderContent::Constant(encoded),
            ) if role == HeaderRole::Unstructured => before.line.extend_from_slice(&encoded.line),
            (_, content) => self.fields.push(HeaderField { role, content }),
        }
        Ok(())
    }

    fn add_part(&mut self, part: PartSource) -> Result<(), TemplateError> {
        let bytes = match part {
            PartSource::Bytes(bytes) => bytes,
            PartSource::File {
                path,
                place,
                root,
                content_type,
                types,
            } => {
                let path = self.compile(&path, TextKind::Header, &place)?;
                self.parts.push(TemplatePart::File(Box::new(AttachedFile {
                    path,
                    root,
                    content_type,
                    types,
                })));
                return Ok(());
            }
            PartSource::Text {
                content_type,
                source,
                kind,
                format,
                place,
                boundaries,
            } => {
                let text = self.compile(&source, kind, &place)?;
                let text = Box::new(BodyText {
                    content_type,
                    has_c1: source.contains(is_c1),
                    place,
                    format,
                    stretches: text.stretches().map(Stretch::new).collect(),
                    text,
                    boundaries,
                    first_encoding: OnceLock::new(),
                });
                if text.text.constant().is_none() {
                    self.size += source.len() + source.len() / 8;
                    self.parts.push(TemplatePart::Text(text));
                    return Ok(());
                }
                let mut bytes = Vec::new();
                let mut budget = Budget::default();
                text.write(&Row::default(), &mut budget, &mut String::new(), &mut bytes)?;
                bytes
            }
        };
        self.size += bytes.len();
        self.eight_bit |= !bytes.is_ascii();
        match self.parts.last_mut() {
            Some(TemplatePart::Bytes(before)) => before.extend_from_slice(&bytes),
            _ => self.parts.push(TemplatePart::Bytes(bytes)),
        }
        Ok(())
    }

    /// Compiles a text, and collects the names of its merge fields.
    fn compile(
        &mut self,
        source: &str,
        kind: TextKind,
        place: &str,
    ) -> Result<Text, TemplateError> {
        let text = Text::compile(source, kind, place);
        let text = text.map_err(|error| TemplateError(error.to_string()))?;
        self.required.extend(text.required().iter().cloned());
        self.used.extend(text.fields().iter().cloned());
        Ok(text)
    }

    fn header(
        &self,
        row: &Row,
        budget: &mut Budget,
    ) -> Result<Vec<Cow<'_, EncodedHeader>>, RowError> {
        let fields = self.fields.iter();
        fields
            .map(|field| match &field.content {
                HeaderContent::Constant(encoded) => Ok(Cow::Borrowed(encoded)),
                HeaderContent::Rendered { name, text } => {
                    field.role.write(name, text, row, budget).map(Cow::Owned)
                }
            })
            .collect()
    }

    /// Returns the mailboxes of the fields with this role.
    fn mailboxes<'a>(
        &'a self,
        encoded: &'a [Cow<'_, EncodedHeader>],
        role: HeaderRole,
    ) -> impl Iterator<Item = &'a Mailbox> {
        let fields = self.fields.iter().zip(encoded);
        fields
            .filter(move |(field, _)| field.role == role)
            .flat_map(|(_, encoded)| &encoded.mailboxes)
    }

    /// Returns the address in the field Sender. Without this field, it is the first address in From.
    fn author<'a>(&'a self, encoded: &'a [Cow<'_, EncodedHeader>]) -> Result<&'a str, RowError> {
        let of = |role| self.mailboxes(encoded, role);
        let author = of(HeaderRole::Sender).chain(of(HeaderRole::From)).next();
        let author = author.map(|mailbox| mailbox.address.as_str());
        author.ok_or_else(|| RowError::new("the message has no sender: From is empty"))
    }

    /// Returns the sender and the recipients. The sender is the one that the template sets for the
    /// envelope, or else the author. The recipients are the addresses of To, Cc and Bcc, in this
    /// order, each once.
    fn envelope(
        &self,
        encoded: &[Cow<'_, EncodedHeader>],
    ) -> Result<(String, Vec<String>), RowError> {
        let of = |role| self.mailboxes(encoded, role);
        let author = self.author(encoded)?;
        let sender = of(HeaderRole::EnvelopeSender).next();
        let sender = sender.map_or(author, |mailbox| &mailbox.address);
        let mut seen = HashSet::new();
        let named = of(HeaderRole::To)
            .chain(of(HeaderRole::Cc))
            .chain(of(HeaderRole::Bcc));
        let recipients: Vec<String> = named
            .filter(|mailbox| {
                // RFC 5321 section 2.4: only the local part is case-sensitive.
                let at = mailbox.address.rfind('@').unwrap_or_default();
                let (local_part, domain) = mailbox.address.split_at(at);
                seen.insert((local_part, domain.to_ascii_lowercase()))
            })
            .map(|mailbox| mailbox.address.clone())
            .collect();
        if recipients.is_empty() {
            return Err(RowError::new(
                "the message has no recipient: To, Cc and Bcc are empty",
            ));
        }
        Ok((sender.to_owned(), recipients))
    }

    /// Appends the fields that the message does not have, and MIME-Version. They are Date and
    /// Message-ID (RFC 5322 section 3.6), and an empty group for a message that shows no recipients.
    fn add_generated_fields(
        &self,
        encoded: &[Cow<'_, EncodedHeader>],
        stamp: &Stamp,
        data: &mut Vec<u8>,
    ) -> Result<(), RowError> {
        let is_written = |role: HeaderRole| {
            let mut fields = self.fields.iter().zip(encoded);
            fields.any(|(field, encoded)| field.role == role && !encoded.line.is_empty())
        };
        if !self.resent && !is_written(HeaderRole::To) && !is_written(HeaderRole::Cc) {
            data.extend_from_slice(b"To: undisclosed-recipients:;\r\n");
        }
        if !is_written(HeaderRole::Date) {
            data.extend_from_slice(format!("Date: {}\r\n", stamp.date).as_bytes());
        }
        if !is_written(HeaderRole::MessageId) {
            let mut id = format!("Message-ID: <{}", stamp.id);
            if !stamp.id.contains('@') {
                let author = self.author(encoded)?;
                id.extend(author.rfind('@').map(|at| &author[at..]));
            }
            data.extend_from_slice(id.as_bytes());
            data.extend_from_slice(b">\r\n");
        }
        data.extend_from_slice(b"MIME-Version: 1.0\r\n");
        Ok(())
    }

    fn mail_options(&self, encoded: &[Cow<'_, EncodedHeader>]) -> Vec<String> {
        let mut mailboxes = encoded.iter().flat_map(|encoded| &encoded.mailboxes);
        let international = mailboxes.any(|mailbox| !mailbox.address.is_ascii());
        let options = [
            (international, "SMTPUTF8"),
            (self.eight_bit, "BODY=8BITMIME"),
        ];
        let options = options.into_iter().filter(|(needed, _)| *needed);
        options.map(|(_, option)| option.to_owned()).collect()
    }

    /// Signs the message, if the template has a signer. Signing is the last step of rendering, so
    /// that the signature covers exactly the bytes that are sent.
    fn sign(&self, parts: Vec<ContentPart>, time: u64) -> Result<Vec<ContentPart>, RowError> {
        let Some(signer) = &self.signer else {
            return Ok(parts);
        };
        let data = ContentPart::joined(parts);
        let mut signed = Vec::with_capacity(data.len() + HEADER_SIZE);
        signer
            .sign(&data, time, &mut signed)
            .map_err(|error| RowError::new(error.to_string()))?;
        signed.extend_from_slice(&data);
        Ok(vec![ContentPart::Own(signed)])
    }
}

impl From<RowError> for TemplateError {
    fn from(error: RowError) -> Self {
        Self(error.to_string())
    }
}

impl HeaderRole {
    fn of(name: &str, resent: bool) -> Self {
        let lower = name.to_ascii_lowercase();
        let (in_resent, bare) = match lower.strip_prefix("resent-") {
            Some(bare) => (true, bare),
            None => (false, &*lower),
        };
        let in_envelope = in_resent == resent;
        match bare {
            "from" if in_envelope => Self::From,
            "sender" if in_envelope => Self::Sender,
            "to" if in_envelope => Self::To,
            "cc" if in_envelope => Self::Cc,
            "bcc" if in_envelope => Self::Bcc,
            "bcc" => Self::Hidden,
            "date" if !in_resent => Self::Date,
            "message-id" if !in_resent => Self::MessageId,
            ENVELOPE_SENDER if !in_resent => Self::EnvelopeSender,
            "from" | "sender" | "to" | "cc" | "reply-to" => Self::Mentioned,
            _ => Self::Unstructured,
        }
    }

    /// Renders and encodes a header field with this role.
    fn write(
        self,
        name: &str,
        text: &Text,
        row: &Row,
        budget: &mut Budget,
    ) -> Result<EncodedHeader, RowError> {
        let mut value = String::new();
        text.render(row, budget, &mut value)?;
        let mut line = Vec::new();
        if self == Self::EnvelopeSender {
            let name = String::new();
            let address = parse_envelope_sender(&value, text.constant().is_some())?;
            let mailboxes = vec![Mailbox { name, address }];
            return Ok(EncodedHeader { line, mailboxes });
        }
        if matches!(self, Self::Unstructured | Self::Date | Self::MessageId) {
            encode_header(name, &value, &mut line)?;
            return Ok(EncodedHeader {
                line,
                mailboxes: Vec::new(),
            });
        }
        let addresses = parse_addresses(&value, name)?;
        let hidden = matches!(self, Self::Bcc | Self::Hidden);
        // RFC 5322 section 3.6.3: an address field is optional, but must not be empty. So if a row
        // gives no addresses and groups for a field, the field is not written.
        if !hidden && !addresses.is_empty() {
            encode_addresses(name, &addresses, &mut line);
        }
        Ok(EncodedHeader {
            line,
            mailboxes: addresses.mailboxes,
        })
    }
}

impl BodyText {
    /// Escapes and checks the values in a rendered text.
    fn finish(&self, text: &mut String) -> Result<(), RowError> {
        let at_its_place = |error: RowError| RowError::new(format!("{}: {error}", self.place));
        if let Some(format) = self.format {
            *text = escape_fields(text, format).map_err(at_its_place)?;
        }
        if !self.has_c1 {
            refuse_c1(text).map_err(at_its_place)?;
        }
        Ok(())
    }

    /// Appends Content-Type, Content-Transfer-Encoding and the body. `text` is a buffer that all
    /// texts of a message share.
    fn write(
        &self,
        row: &Row,
        budget: &mut Budget,
        text: &mut String,
        data: &mut Vec<u8>,
    ) -> Result<(), RowError> {
        text.clear();
        let mut gaps = Vec::with_capacity(self.stretches.len());
        self.text.render_around(row, budget, text, &mut gaps)?;
        self.finish(text)?;
        let body = TextBody {
            text,
            gaps: &gaps,
            stretches: &self.stretches,
        };
        let encode = |out: &mut Vec<u8>| encode_text(&body, &self.boundaries, out);
        data.extend_from_slice(b"Content-Type: ");
        data.extend_from_slice(self.content_type.as_bytes());
        data.extend_from_slice(b"\r\nContent-Transfer-Encoding: ");
        // The name of the encoding precedes the body, but is known only after the body is encoded.
        // Most rows have the encoding of the first row, so that name is written first. If the row
        // has another encoding, the name is replaced afterwards.
        let name = data.len();
        let guess = *self.first_encoding.get_or_init(|| encode(&mut Vec::new()));
        data.extend_from_slice(guess.as_str().as_bytes());
        data.extend_from_slice(b"\r\n\r\n");
        let encoding = encode(data);
        if encoding != guess {
            let guessed = name..name + guess.as_str().len();
            data.splice(guessed, encoding.as_str().bytes());
        }
        Ok(())
    }
}
