//! The content of a message. The session does not copy a large content, but writes it directly from
//! the memory that holds it.
//!
//! A scan finds the line ends to repair and the dots to stuff. A caller's content is scanned when
//! its transaction starts, or shortly before. A rendered content is scanned on the thread that
//! renders it. The messages of a template may share parts. For example, an attachment is in memory
//! only once, and the session of each message writes the attachment from this memory.

use std::sync::Arc;

use crate::stuffing::{Scan, terminator};

/// Reference-counted bytes. The bytes stay in the object that holds them, for example in a Python
/// `bytes`, and are not copied.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The content of a message: header and body.
#[derive(Clone)]
pub enum Content {
    /// The caller's bytes.
    Given(SharedBytes),
    /// The scanned parts of a rendered message. They are written unchanged.
    Ready(Arc<[CleanBytes]>),
}

/// Bytes that need no repair of line ends and no dot-stuffing. This is also true if they directly
/// follow other `CleanBytes`.
#[derive(Clone)]
pub struct CleanBytes {
    bytes: SharedBytes,
    eight_bit: bool,
}

/// A part of a rendered message.
pub enum ContentPart {
    /// Bytes that only this message uses.
    Own(Vec<u8>),
    /// Bytes that several messages share.
    Shared(CleanBytes),
}

/// The result of scanning a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Survey {
    /// The size in bytes after the repair of line ends. The SIZE parameter of MAIL declares this
    /// size (RFC 1870 section 5).
    pub size: usize,
    /// Whether the content contains a byte above 127.
    pub eight_bit: bool,
    /// Whether all line ends are CRLF.
    pub is_repaired: bool,
    /// Whether the content can be written after DATA unchanged.
    pub is_stuffed: bool,
    /// The terminator to write after the content (RFC 5321 4.1.1.4).
    pub terminator: &'static [u8],
}

impl CleanBytes {
    /// Scans bytes; `None` if repair or stuffing would insert a byte.
    ///
    /// The scan assumes that the first byte starts a line and that no byte follows the last byte.
    /// So bytes that begin with a dot or an LF, or end with a CR, are not clean. This guarantees
    /// that no byte has to be inserted between two clean neighbours.
    #[must_use]
    pub fn new(bytes: SharedBytes) -> Option<Self> {
        let scan = Scan::new((*bytes).as_ref());
        let eight_bit = scan.is_eight_bit();
        scan.is_stuffed().then_some(Self { bytes, eight_bit })
    }
}

impl AsRef<[u8]> for CleanBytes {
    fn as_ref(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }
}

impl AsRef<[u8]> for ContentPart {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(clean) => clean.as_ref(),
        }
    }
}

impl ContentPart {
    /// Joins the parts of a message.
    #[must_use]
    pub fn joined(mut parts: Vec<Self>) -> Vec<u8> {
        match &mut parts[..] {
            [Self::Own(bytes)] => std::mem::take(bytes),
            _ => {
                let parts: Vec<&[u8]> = parts.iter().map(AsRef::as_ref).collect();
                parts.concat()
            }
        }
    }

    fn into_clean_bytes(self) -> Result<CleanBytes, Self> {
        match self {
            Self::Shared(clean) => Ok(clean),
            Self::Own(bytes) => {
                let bytes = Arc::new(bytes);
                let clean = CleanBytes::new(Arc::clone(&bytes) as SharedBytes);
                clean.ok_or_else(|| Self::Own(Arc::unwrap_or_clone(bytes)))
            }
        }
    }
}

impl Content {
    /// Creates a content from the caller's bytes.
    pub fn from_bytes(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self::Given(Arc::new(bytes))
    }

    /// Creates the content of a rendered message and scans its parts.
    #[must_use]
    pub fn from_parts(parts: Vec<ContentPart>) -> Self {
        let mut clean = Vec::with_capacity(parts.len());
        // `survey` chooses the terminator by the last byte of the last part. An empty part has no
        // last byte, so empty parts are removed.
        let mut parts = parts.into_iter().filter(|part| !part.as_ref().is_empty());
        while let Some(part) = parts.next() {
            match part.into_clean_bytes() {
                Ok(part) => clean.push(part),
                Err(part) => {
                    let before = clean.into_iter().map(ContentPart::Shared);
                    let all = before.chain([part]).chain(parts).collect();
                    return Self::from_bytes(ContentPart::joined(all));
                }
            }
        }
        Self::Ready(clean.into())
    }

    /// Returns the content if it is the caller's bytes, and drops it otherwise.
    #[must_use]
    pub fn into_given(self) -> Option<Self> {
        matches!(self, Self::Given(_)).then_some(self)
    }

    /// The parts of the content, in order.
    pub fn parts(&self) -> impl Iterator<Item = &SharedBytes> {
        let (given, ready) = match self {
            Self::Given(bytes) => (Some(bytes), &[][..]),
            Self::Ready(parts) => (None, &**parts),
        };
        given
            .into_iter()
            .chain(ready.iter().map(|part| &part.bytes))
    }

    /// The size in bytes, before repair and dot-stuffing.
    #[must_use]
    pub fn size(&self) -> usize {
        self.parts().map(|part| (**part).as_ref().len()).sum()
    }

    /// Returns the survey. This call scans a `Given` content. A `Ready` content was scanned when it
    /// was created.
    #[must_use]
    pub fn survey(&self) -> Survey {
        match self {
            Self::Given(bytes) => {
                let scan = Scan::new((**bytes).as_ref());
                Survey {
                    size: scan.repaired_len(),
                    eight_bit: scan.is_eight_bit(),
                    is_repaired: scan.is_repaired(),
                    is_stuffed: scan.is_stuffed(),
                    terminator: scan.terminator(),
                }
            }
            Self::Ready(parts) => Survey {
                size: self.size(),
                eight_bit: parts.iter().any(|part| part.eight_bit),
                is_repaired: true,
                is_stuffed: true,
                terminator: terminator(parts.last().map_or(&[], AsRef::as_ref)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stuffing::stuff;

    /// Returns all strings of up to three bytes that consist of CR, LF, a dot, a letter and a byte
    /// above 127.
    fn strings() -> Vec<Vec<u8>> {
        let mut all = vec![Vec::new()];
        for _ in 0..3 {
            let longer = all.iter().flat_map(|text: &Vec<u8>| {
                b"\r\n.x\xe4".map(|letter| [&text[..], &[letter]].concat())
            });
            all = all.iter().cloned().chain(longer).collect();
            all.sort_unstable();
            all.dedup();
        }
        all
    }

    fn written(content: &Content, survey: Survey) -> Vec<u8> {
        let bytes: Vec<&[u8]> = content.parts().map(|part| (**part).as_ref()).collect();
        let bytes = bytes.concat();
        if survey.is_stuffed {
            return [&bytes[..], survey.terminator].concat();
        }
        let mut out = Vec::new();
        stuff(&bytes, &mut out);
        out
    }

    #[test]
    fn parts_are_written_as_the_whole() {
        let strings = strings();
        let mut ready = 0;
        for first in &strings {
            for second in &strings {
                let whole = Content::from_bytes([&first[..], second].concat());
                let shared = CleanBytes::new(Arc::new(second.clone()));
                let second =
                    shared.map_or_else(|| ContentPart::Own(second.clone()), ContentPart::Shared);
                let made = Content::from_parts(vec![ContentPart::Own(first.clone()), second]);
                ready += usize::from(matches!(made, Content::Ready(_)));
                assert_eq!(made.survey(), whole.survey());
                let (made_survey, survey) = (made.survey(), whole.survey());
                assert_eq!(written(&made, made_survey), written(&whole, survey));
            }
        }
        assert!(ready > 1000, "{ready}");
    }

    #[test]
    fn a_shared_part_is_not_copied() {
        let shared = CleanBytes::new(Arc::new(b"attachment\r\n".to_vec())).unwrap();
        let parts = || {
            vec![
                ContentPart::Own(b"a: b\r\n".to_vec()),
                ContentPart::Shared(shared.clone()),
            ]
        };
        let content = Content::from_parts(parts());
        let last = content.parts().last().unwrap();
        assert_eq!((**last).as_ref().as_ptr(), shared.as_ref().as_ptr());
        assert_eq!(ContentPart::joined(parts()), b"a: b\r\nattachment\r\n");
    }
}
