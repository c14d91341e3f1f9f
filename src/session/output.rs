//! What a session has to write: commands and message contents in their order, without copies.
//!
//! Small pieces are put together in one buffer; a large content stays where it is and is written
//! from there. The count of octets tells what has been handed over and so, of each message, whether
//! the octet that ends it may have left.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::content::{Content, Octets, Survey};
use crate::stuffing::stuff;

/// A content shorter than this is copied behind the commands: cheaper than a slice of its own.
const COPIED: usize = 4096;

/// Pieces that one write takes.
const SLICES: usize = 64;

enum Piece {
    Own(Vec<u8>),
    Content(Octets),
}

impl Piece {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Own(octets) => octets,
            Self::Content(octets) => (**octets).as_ref(),
        }
    }
}

/// The octets that wait to be written, and the count of all that ever did.
#[derive(Default)]
pub(super) struct Output {
    pieces: VecDeque<Piece>,
    /// Of the first piece, how much is written.
    start: usize,
    queued: u64,
    sent: u64,
}

impl Output {
    /// The end of the last piece, to write to.
    pub(super) fn write<R>(&mut self, fill: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        if !matches!(self.pieces.back(), Some(Piece::Own(_))) {
            self.pieces.push_back(Piece::Own(Vec::with_capacity(512)));
        }
        let Some(Piece::Own(octets)) = self.pieces.back_mut() else {
            // The line above put one there.
            return fill(&mut Vec::new());
        };
        let before = octets.len();
        let result = fill(octets);
        self.queued += (octets.len() - before) as u64;
        result
    }

    /// A content with whole line ends, as it is.
    pub(super) fn content(&mut self, content: &Content) {
        for piece in content.pieces() {
            let octets = (**piece).as_ref();
            if octets.len() < COPIED {
                self.write(|out| out.extend_from_slice(octets));
            } else {
                self.queued += octets.len() as u64;
                self.pieces.push_back(Piece::Content(Arc::clone(piece)));
            }
        }
    }

    /// A content made ready for DATA: line ends whole, dots doubled, end of data behind it.
    pub(super) fn body(&mut self, content: &Content, survey: &Survey) {
        if let Content::Given(octets) = content
            && !survey.is_stuffed
        {
            self.write(|out| stuff((**octets).as_ref(), out));
        } else {
            self.content(content);
            self.write(|out| out.extend_from_slice(survey.end_of_data));
        }
    }

    /// How many octets were put here since the beginning.
    pub(super) fn queued(&self) -> u64 {
        self.queued
    }

    /// How many of them were taken.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queued == self.sent
    }

    /// The octets to be written next, as many pieces as one write takes.
    pub(super) fn slices<'a>(&'a self, slices: &mut Vec<&'a [u8]>) {
        let mut start = self.start;
        for piece in self.pieces.iter().take(SLICES) {
            let octets = &piece.as_slice()[start..];
            if !octets.is_empty() {
                slices.push(octets);
            }
            start = 0;
        }
    }

    /// So many octets are written.
    pub(super) fn advance(&mut self, mut count: usize) {
        self.sent += count as u64;
        let mut pieces = self.pieces.len();
        while let Some(piece) = self.pieces.front_mut() {
            let left = piece.as_slice().len() - self.start;
            if count < left {
                self.start += count;
                return;
            }
            count -= left;
            self.start = 0;
            match piece {
                // The last buffer is kept, so that small flights need no allocation.
                Piece::Own(octets) if pieces == 1 => {
                    octets.clear();
                    return;
                }
                _ => drop(self.pieces.pop_front()),
            }
            pieces -= 1;
        }
    }

    /// Forgets what is not written.
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.start = 0;
        self.sent = self.queued;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(output: &Output) -> Vec<u8> {
        let mut slices = Vec::new();
        output.slices(&mut slices);
        slices.concat()
    }

    #[test]
    fn pieces_leave_in_their_order_whatever_a_write_takes() {
        let large = Content::given(vec![b'x'; COPIED]);
        let small = Content::given(b".small");
        for step in [1, 5, 4000, usize::MAX] {
            let mut output = Output::default();
            output.write(|out| out.extend_from_slice(b"DATA\r\n"));
            output.body(&large, &large.survey());
            output.body(&small, &small.survey());
            let expected = [
                b"DATA\r\n",
                &[b'x'; COPIED][..],
                b"\r\n.\r\n..small\r\n.\r\n",
            ]
            .concat();
            let mut sent = Vec::new();
            while !output.is_empty() {
                let next = written(&output);
                let count = next.len().min(step);
                sent.extend_from_slice(&next[..count]);
                output.advance(count);
            }
            assert_eq!(sent, expected);
            assert_eq!(output.queued(), expected.len() as u64);
        }
    }
}
