//! A message's content on its way from whoever made it to the wire: octets that are never copied.
//!
//! What a caller gives is looked through when its turn comes. What a template makes is looked
//! through on the thread that makes it, and may have pieces that all its messages share: an
//! attachment of a megabyte is in memory once, and written from there for every recipient.

use std::sync::Arc;

use crate::stuffing::{Scan, end_of_data};

/// Octets, kept by whoever made them.
pub type Octets = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A message, header and body.
#[derive(Clone)]
pub enum Content {
    /// As the caller gave it.
    Given(Octets),
    /// In pieces that go out as they are.
    Ready(Arc<[Clean]>),
}

/// Octets to which neither repair nor stuffing adds anything, nor beside others that are like that.
#[derive(Clone)]
pub struct Clean {
    octets: Octets,
    eight_bit: bool,
}

/// A piece of a message that a template made.
pub enum Piece {
    /// Of this message alone.
    Own(Vec<u8>),
    /// The same in others.
    Shared(Clean),
}

/// What a session has to know of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Survey {
    /// Octets with whole line ends: what SIZE declares (RFC 1870).
    pub size: usize,
    /// Whether an octet is above 127.
    pub eight_bit: bool,
    /// Whether all line ends are whole.
    pub is_repaired: bool,
    /// Whether it can go out behind DATA as it is.
    pub is_stuffed: bool,
    /// What follows it there.
    pub end_of_data: &'static [u8],
}

impl Clean {
    /// Looks through octets; `None` where something has to be added.
    ///
    /// The scan takes a line end to stand in front of the first octet, and nothing behind the last:
    /// a dot or an LF at the beginning is not clean, nor a CR at the end. So no two neighbours that
    /// are clean can make a fault together.
    #[must_use]
    pub fn new(octets: Octets) -> Option<Self> {
        let scan = Scan::new((*octets).as_ref());
        let eight_bit = scan.is_eight_bit();
        scan.is_stuffed().then_some(Self { octets, eight_bit })
    }
}

impl AsRef<[u8]> for Clean {
    fn as_ref(&self) -> &[u8] {
        (*self.octets).as_ref()
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Own(octets) => octets,
            Self::Shared(clean) => clean.as_ref(),
        }
    }
}

impl Piece {
    /// The pieces of a message as one.
    #[must_use]
    pub fn joined(mut pieces: Vec<Self>) -> Vec<u8> {
        match &mut pieces[..] {
            [Self::Own(octets)] => std::mem::take(octets),
            _ => {
                let pieces: Vec<&[u8]> = pieces.iter().map(AsRef::as_ref).collect();
                pieces.concat()
            }
        }
    }

    fn into_clean(self) -> Result<Clean, Self> {
        match self {
            Self::Shared(clean) => Ok(clean),
            Self::Own(octets) => {
                let octets = Arc::new(octets);
                let clean = Clean::new(Arc::clone(&octets) as Octets);
                clean.ok_or_else(|| Self::Own(Arc::unwrap_or_clone(octets)))
            }
        }
    }
}

impl Content {
    /// As the caller gave it.
    pub fn given(octets: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self::Given(Arc::new(octets))
    }

    /// The message that these pieces make, looked through.
    #[must_use]
    pub fn made(pieces: Vec<Piece>) -> Self {
        let mut clean = Vec::with_capacity(pieces.len());
        // The last octet tells what ends the message: no piece may be without one.
        let mut pieces = pieces
            .into_iter()
            .filter(|piece| !piece.as_ref().is_empty());
        while let Some(piece) = pieces.next() {
            match piece.into_clean() {
                Ok(piece) => clean.push(piece),
                Err(piece) => {
                    let before = clean.into_iter().map(Piece::Shared);
                    let all = before.chain([piece]).chain(pieces).collect();
                    return Self::given(Piece::joined(all));
                }
            }
        }
        Self::Ready(clean.into())
    }

    /// Its octets, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &Octets> {
        let (given, ready) = match self {
            Self::Given(octets) => (Some(octets), &[][..]),
            Self::Ready(pieces) => (None, &**pieces),
        };
        given
            .into_iter()
            .chain(ready.iter().map(|piece| &piece.octets))
    }

    /// How many octets there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.pieces().map(|piece| (**piece).as_ref().len()).sum()
    }

    /// What a session has to know of it.
    #[must_use]
    pub fn survey(&self) -> Survey {
        match self {
            Self::Given(octets) => {
                let scan = Scan::new((**octets).as_ref());
                Survey {
                    size: scan.repaired_len(),
                    eight_bit: scan.is_eight_bit(),
                    is_repaired: scan.is_repaired(),
                    is_stuffed: scan.is_stuffed(),
                    end_of_data: scan.end_of_data(),
                }
            }
            Self::Ready(pieces) => Survey {
                size: self.size(),
                eight_bit: pieces.iter().any(|piece| piece.eight_bit),
                is_repaired: true,
                is_stuffed: true,
                end_of_data: end_of_data(pieces.last().map_or(&[], AsRef::as_ref)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stuffing::stuff;

    /// Strings over the letters that matter, up to three of them.
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
        let octets: Vec<&[u8]> = content.pieces().map(|piece| (**piece).as_ref()).collect();
        let octets = octets.concat();
        if survey.is_stuffed {
            return [&octets[..], survey.end_of_data].concat();
        }
        let mut out = Vec::new();
        stuff(&octets, &mut out);
        out
    }

    #[test]
    fn pieces_are_written_as_the_whole() {
        let strings = strings();
        let mut ready = 0;
        for first in &strings {
            for second in &strings {
                let whole = Content::given([&first[..], second].concat());
                let shared = Clean::new(Arc::new(second.clone()));
                let second = shared.map_or_else(|| Piece::Own(second.clone()), Piece::Shared);
                let made = Content::made(vec![Piece::Own(first.clone()), second]);
                ready += usize::from(matches!(made, Content::Ready(_)));
                assert_eq!(made.survey(), whole.survey());
                let (made_survey, survey) = (made.survey(), whole.survey());
                assert_eq!(written(&made, made_survey), written(&whole, survey));
            }
        }
        assert!(ready > 1000, "{ready}");
    }

    #[test]
    fn a_shared_piece_is_not_copied() {
        let shared = Clean::new(Arc::new(b"attachment\r\n".to_vec())).unwrap();
        let pieces = || {
            vec![
                Piece::Own(b"a: b\r\n".to_vec()),
                Piece::Shared(shared.clone()),
            ]
        };
        let content = Content::made(pieces());
        let last = content.pieces().last().unwrap();
        assert_eq!((**last).as_ref().as_ptr(), shared.as_ref().as_ptr());
        assert_eq!(Piece::joined(pieces()), b"a: b\r\nattachment\r\n");
    }
}
