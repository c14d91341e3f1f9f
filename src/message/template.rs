//! One message, compiled: what never changes is bytes, the rest is rendered for each row.
//!
//! ```text
//!     header fields   constant: encoded once        with merge fields: rendered, checked, folded
//!     the body        delimiters, attachments,      texts with merge fields: rendered, encoded
//!                     constant texts: encoded once
//!     made here       Date, Message-ID where the template has none; MIME-Version; DKIM-Signature
//! ```
//!
//! A message is taken apart by the Python face, once; see `python/rapidsmtp/_skeleton.py`.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, OnceLock};

use super::dkim::Signer;
use super::encode::{Body, Stretch, TransferEncoding, encode_text};
use super::header::encode_header;
use super::mailbox::{Mailbox, encode_addresses, parse_mailboxes};
use super::text::{Columns, Row, Text, Value};
use super::{Kind, RowError};
use crate::content::{self, Clean};

/// What never changes and has so many octets is shared by all messages rather than copied to each.
const SHARED: usize = 16 * 1024;

/// Room for the header, beside what is known of a message's size.
const HEADER: usize = 2048;

/// Why something is no template, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError(pub String);

/// A piece of what stands behind the message's own header fields.
pub enum Part {
    /// It is the same for every row.
    Bytes(Vec<u8>),
    /// A text; its Content-Transfer-Encoding and the end of its header are written with it.
    Text {
        /// The value of its Content-Type.
        content_type: String,
        /// What is rendered.
        source: String,
        /// `Text` or `Html`.
        kind: Kind,
        /// What errors call it.
        place: String,
        /// Those of the multiparts around it, each with its two dashes.
        boundaries: Vec<Vec<u8>>,
    },
}

/// A compiled message.
pub struct Template {
    fields: Vec<Field>,
    pieces: Vec<Piece>,
    /// Whether the envelope is that of a resent message (RFC 5322 section 3.6.6).
    resent: bool,
    has_date: bool,
    has_message_id: bool,
    eight_bit: bool,
    required: BTreeSet<String>,
    /// The names of all fields that something is made of, in order, and the same for the rows.
    used: Vec<String>,
    columns: Arc<Columns>,
    signer: Option<Arc<Signer>>,
    size: usize,
}

struct Field {
    name: String,
    role: Role,
    text: Text,
    constant: Option<Written>,
}

/// A written field, and the addresses in it.
#[derive(Clone)]
struct Written {
    line: Vec<u8>,
    mailboxes: Vec<Mailbox>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    From,
    Sender,
    To,
    Cc,
    /// For the envelope alone.
    Bcc,
    /// Bcc of the other header: the resent one, or the one that was resent.
    Hidden,
    /// Addresses that are none of the envelope's.
    Mentioned,
    Unstructured,
}

enum Piece {
    Bytes(Vec<u8>),
    Shared(Clean),
    Text(Box<BodyText>),
}

/// A text of the body with merge fields.
struct BodyText {
    content_type: String,
    text: Text,
    /// Its constant lines.
    stretches: Vec<Stretch>,
    boundaries: Vec<Vec<u8>>,
    /// How the first row's was written.
    first: OnceLock<TransferEncoding>,
}

/// What a message is told of the world.
#[derive(Debug, Clone)]
pub struct Stamp {
    /// The value of its Date.
    pub date: Box<str>,
    /// What stands before the `@` of its Message-ID; no other message has it.
    pub id: Box<str>,
    /// Seconds since 1970, for its signature.
    pub time: u64,
}

/// A message that was written.
pub struct Rendered {
    /// The envelope's sender.
    pub sender: String,
    /// The envelope's recipients, each once.
    pub recipients: Vec<String>,
    /// ESMTP parameters of MAIL.
    pub mail_options: Vec<String>,
    /// Header and body with CRLF line ends, in order.
    pub pieces: Vec<content::Piece>,
}

/// A row on its way to a message.
pub struct Draft {
    /// What it is merged with.
    pub template: Arc<Template>,
    /// Its values.
    pub row: Row,
    /// What is made for it alone.
    pub stamp: Stamp,
}

impl Draft {
    /// Writes the message.
    ///
    /// # Errors
    ///
    /// The row lacks something, or has something that cannot stand where it is used.
    pub fn render(&self) -> Result<Rendered, RowError> {
        self.template.render(&self.row, &self.stamp)
    }

    /// The sender and the recipients alone.
    ///
    /// # Errors
    ///
    /// As of `render`, for the header.
    pub fn envelope(&self) -> Result<(String, Vec<String>), RowError> {
        let written = self.template.header(&self.row)?;
        self.template.envelope(&written)
    }
}

impl Template {
    /// Compiles a message.
    ///
    /// # Arguments
    ///
    /// - `fields`: names and values of the message's own header, in order, decoded and unfolded.
    /// - `parts`: what follows them, from the first MIME field on.
    /// - `signer`: who signs it.
    ///
    /// # Errors
    ///
    /// Something in it is not a template.
    pub fn new(
        fields: Vec<(String, String)>,
        parts: Vec<Part>,
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
            has_date: has("date"),
            has_message_id: has("message-id"),
            fields: Vec::new(),
            pieces: Vec::new(),
            eight_bit: false,
            required: BTreeSet::new(),
            used: Vec::new(),
            columns: Arc::default(),
            signer,
            size: HEADER,
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

    /// The fields that a row must have.
    #[must_use]
    pub fn required(&self) -> &BTreeSet<String> {
        &self.required
    }

    /// The names of all fields that something is made of.
    #[must_use]
    pub fn fields(&self) -> &[String] {
        &self.used
    }

    /// A row of the values of these fields, in their order; `None` for one that is not there.
    #[must_use]
    pub fn row(&self, values: Vec<Option<Value>>) -> Row {
        let values = self.used.iter().zip(values);
        let values = values.map(|(name, value)| value.unwrap_or_else(|| Value::missing(name)));
        Row::of_table(Arc::clone(&self.columns), values.collect())
    }

    /// Writes the message for one row.
    ///
    /// # Errors
    ///
    /// The row lacks something, or has something that cannot stand where it is used.
    pub fn render(&self, row: &Row, stamp: &Stamp) -> Result<Rendered, RowError> {
        let written = self.header(row)?;
        let (sender, recipients) = self.envelope(&written)?;
        let mut data = Vec::with_capacity(self.size);
        for field in &written {
            data.extend_from_slice(&field.line);
        }
        self.add_made_fields(&sender, stamp, &mut data);
        let mut text = String::new();
        let mut pieces = Vec::with_capacity(1);
        for piece in &self.pieces {
            match piece {
                Piece::Bytes(bytes) => data.extend_from_slice(bytes),
                Piece::Shared(clean) => {
                    pieces.push(content::Piece::Own(std::mem::take(&mut data)));
                    pieces.push(content::Piece::Shared(clean.clone()));
                }
                Piece::Text(each) => each.write(row, &mut text, &mut data)?,
            }
        }
        let last = pieces.last().map_or(&[][..], AsRef::as_ref);
        if !(if data.is_empty() { last } else { &data }).ends_with(b"\r\n") {
            data.extend_from_slice(b"\r\n");
        }
        pieces.push(content::Piece::Own(data));
        Ok(Rendered {
            mail_options: self.mail_options(&written),
            pieces: self.signed(pieces, stamp.time)?,
            sender,
            recipients,
        })
    }

    /// Makes what is large and never changes one for all messages. A signature has to see them
    /// whole.
    fn share(&mut self) {
        if self.signer.is_some() {
            return;
        }
        for piece in &mut self.pieces {
            if let Piece::Bytes(bytes) = piece
                && bytes.len() >= SHARED
            {
                let octets: Arc<Vec<u8>> = Arc::new(std::mem::take(bytes));
                match Clean::new(Arc::clone(&octets) as content::Octets) {
                    Some(clean) => {
                        self.size -= octets.len();
                        *piece = Piece::Shared(clean);
                    }
                    None => *bytes = Arc::unwrap_or_clone(octets),
                }
            }
        }
    }

    fn add_field(&mut self, name: String, value: &str) -> Result<(), TemplateError> {
        let text = Text::compile(value, Kind::Header, &format!("header {name}"))
            .map_err(|error| TemplateError(error.to_string()))?;
        self.take_names(&text);
        let mut field = Field {
            role: Role::of(&name, self.resent),
            name,
            text,
            constant: None,
        };
        if field.text.constant().is_some() {
            field.constant = Some(field.write(&Row::default())?);
        }
        self.fields.push(field);
        Ok(())
    }

    fn add_part(&mut self, part: Part) -> Result<(), TemplateError> {
        let bytes = match part {
            Part::Bytes(bytes) => bytes,
            Part::Text {
                content_type,
                source,
                kind,
                place,
                boundaries,
            } => {
                let text = Text::compile(&source, kind, &place)
                    .map_err(|error| TemplateError(error.to_string()))?;
                self.take_names(&text);
                let text = Box::new(BodyText {
                    content_type,
                    stretches: text.stretches().map(Stretch::new).collect(),
                    text,
                    boundaries,
                    first: OnceLock::new(),
                });
                if text.text.constant().is_none() {
                    self.size += source.len() + source.len() / 8;
                    self.pieces.push(Piece::Text(text));
                    return Ok(());
                }
                let mut bytes = Vec::new();
                text.write(&Row::default(), &mut String::new(), &mut bytes)?;
                bytes
            }
        };
        self.size += bytes.len();
        self.eight_bit |= !bytes.is_ascii();
        match self.pieces.last_mut() {
            Some(Piece::Bytes(before)) => before.extend_from_slice(&bytes),
            _ => self.pieces.push(Piece::Bytes(bytes)),
        }
        Ok(())
    }

    fn take_names(&mut self, text: &Text) {
        self.required.extend(text.required().iter().cloned());
        self.used.extend(text.fields().iter().cloned());
    }

    fn header(&self, row: &Row) -> Result<Vec<Cow<'_, Written>>, RowError> {
        let fields = self.fields.iter();
        fields
            .map(|field| match &field.constant {
                Some(written) => Ok(Cow::Borrowed(written)),
                None => field.write(row).map(Cow::Owned),
            })
            .collect()
    }

    /// The sender: that of Sender, or else the first of From. The recipients: those of To, Cc and
    /// Bcc, in this order, each once.
    fn envelope(&self, written: &[Cow<'_, Written>]) -> Result<(String, Vec<String>), RowError> {
        let of = |role: Role| {
            let fields = self.fields.iter().zip(written);
            fields
                .filter(move |(field, _)| field.role == role)
                .flat_map(|(_, written)| &written.mailboxes)
        };
        let sender = of(Role::Sender)
            .chain(of(Role::From))
            .next()
            .ok_or_else(|| RowError::new("no sender"))?;
        let mut seen = HashSet::new();
        let named = of(Role::To).chain(of(Role::Cc)).chain(of(Role::Bcc));
        let recipients: Vec<String> = named
            .filter(|mailbox| seen.insert(&*mailbox.address))
            .map(|mailbox| mailbox.address.clone())
            .collect();
        if recipients.is_empty() {
            return Err(RowError::new("no recipient"));
        }
        Ok((sender.address.clone(), recipients))
    }

    /// Date, Message-ID and MIME-Version (RFC 5322 section 3.6, RFC 2045 section 4).
    fn add_made_fields(&self, sender: &str, stamp: &Stamp, data: &mut Vec<u8>) {
        if !self.has_date {
            data.extend_from_slice(format!("Date: {}\r\n", stamp.date).as_bytes());
        }
        if !self.has_message_id {
            let domain = sender
                .rsplit_once('@')
                .map_or("localhost", |(_, domain)| domain);
            let id = format!("Message-ID: <{}@{domain}>\r\n", stamp.id);
            data.extend_from_slice(id.as_bytes());
        }
        data.extend_from_slice(b"MIME-Version: 1.0\r\n");
    }

    fn mail_options(&self, written: &[Cow<'_, Written>]) -> Vec<String> {
        let mut mailboxes = written.iter().flat_map(|written| &written.mailboxes);
        let international = mailboxes.any(|mailbox| !mailbox.address.is_ascii());
        let options = [
            (international, "SMTPUTF8"),
            (self.eight_bit, "BODY=8BITMIME"),
        ];
        let options = options.into_iter().filter(|(needed, _)| *needed);
        options.map(|(_, option)| option.to_owned()).collect()
    }

    /// Signed last, over exactly what is sent.
    fn signed(
        &self,
        pieces: Vec<content::Piece>,
        time: u64,
    ) -> Result<Vec<content::Piece>, RowError> {
        let Some(signer) = &self.signer else {
            return Ok(pieces);
        };
        let data = content::Piece::joined(pieces);
        let mut signed = Vec::with_capacity(data.len() + HEADER);
        signer
            .sign(&data, time, &mut signed)
            .map_err(|error| RowError::new(error.to_string()))?;
        signed.extend_from_slice(&data);
        Ok(vec![content::Piece::Own(signed)])
    }
}

impl From<RowError> for TemplateError {
    fn from(error: RowError) -> Self {
        Self(error.to_string())
    }
}

impl Role {
    fn of(name: &str, resent: bool) -> Self {
        let lower = name.to_ascii_lowercase();
        let (in_resent, bare) = match lower.strip_prefix("resent-") {
            Some(bare) => (true, bare),
            None => (false, &*lower),
        };
        let ours = in_resent == resent;
        match bare {
            "from" if ours => Self::From,
            "sender" if ours => Self::Sender,
            "to" if ours => Self::To,
            "cc" if ours => Self::Cc,
            "bcc" if ours => Self::Bcc,
            "bcc" => Self::Hidden,
            "from" | "sender" | "to" | "cc" | "reply-to" => Self::Mentioned,
            _ => Self::Unstructured,
        }
    }
}

impl Field {
    fn write(&self, row: &Row) -> Result<Written, RowError> {
        let mut value = String::new();
        self.text.render(row, &mut value)?;
        let mut line = Vec::new();
        if self.role == Role::Unstructured {
            encode_header(&self.name, &value, &mut line)?;
            return Ok(Written {
                line,
                mailboxes: Vec::new(),
            });
        }
        let mailboxes = parse_mailboxes(&value, &self.name)?;
        let hidden = matches!(self.role, Role::Bcc | Role::Hidden);
        // An address field may stay away from a message, but cannot be there and be empty.
        if !hidden && !mailboxes.is_empty() {
            encode_addresses(&self.name, &mailboxes, &mut line);
        }
        Ok(Written { line, mailboxes })
    }
}

impl BodyText {
    /// Writes the end of its header, and its body; `text` is a buffer that is used again.
    fn write(&self, row: &Row, text: &mut String, data: &mut Vec<u8>) -> Result<(), RowError> {
        text.clear();
        let mut gaps = Vec::with_capacity(self.stretches.len());
        self.text.render_around(row, text, &mut gaps)?;
        let body = Body {
            text,
            gaps: &gaps,
            stretches: &self.stretches,
        };
        let encode = |out: &mut Vec<u8>| encode_text(&body, &self.boundaries, out);
        data.extend_from_slice(b"Content-Type: ");
        data.extend_from_slice(self.content_type.as_bytes());
        data.extend_from_slice(b"\r\nContent-Transfer-Encoding: ");
        // Its name stands before the body and is known behind it: most rows have the encoding of
        // the first.
        let name = data.len();
        let guess = *self.first.get_or_init(|| encode(&mut Vec::new()));
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
