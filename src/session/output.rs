//! The bytes that a session writes: commands and message contents, in order.
//!
//! Small parts are copied into one buffer. Large contents are written without a copy. The output
//! also counts the bytes that were passed to the network. This count shows whether the server may
//! have received the last byte of a message.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::content::{Content, SharedBytes, Survey};
use crate::stuffing::stuff;

/// The size in bytes below which a part is copied, because a copy is cheaper than a slice.
const COPIED: usize = 4096;

enum OutputPart {
    Own(Vec<u8>),
    Content(SharedBytes),
}

impl OutputPart {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Content(bytes) => (**bytes).as_ref(),
        }
    }
}

/// The bytes to write, and two totals since the start of the session: the bytes that were queued,
/// and those that were sent.
#[derive(Default)]
pub(super) struct Output {
    parts: VecDeque<OutputPart>,
    /// The number of bytes of the first part that were already written.
    start: usize,
    queued: u64,
    sent: u64,
}

impl Output {
    /// Calls `fill` with the buffer at the end of the output, and returns its result. `fill` may
    /// change only the bytes that it appends to this buffer.
    pub(super) fn write<R>(&mut self, fill: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        if !matches!(self.parts.back(), Some(OutputPart::Own(_))) {
            self.parts
                .push_back(OutputPart::Own(Vec::with_capacity(512)));
        }
        let Some(OutputPart::Own(bytes)) = self.parts.back_mut() else {
            // Unreachable: the statement above has added a buffer.
            return fill(&mut Vec::new());
        };
        let before = bytes.len();
        let result = fill(bytes);
        self.queued += (bytes.len() - before) as u64;
        result
    }

    /// Appends a content unchanged, for example the chunk of a BDAT. The caller guarantees that
    /// every line end in the content is CRLF.
    pub(super) fn content(&mut self, content: &Content) {
        for part in content.parts() {
            let bytes = (**part).as_ref();
            if bytes.len() < COPIED {
                self.write(|out| out.extend_from_slice(bytes));
            } else {
                self.queued += bytes.len() as u64;
                self.parts.push_back(OutputPart::Content(Arc::clone(part)));
            }
        }
    }

    /// Appends a content in the form that DATA requires (RFC 5321 4.5.2). Every line end is CRLF, a
    /// dot at the start of a line is doubled, and the terminator follows.
    pub(super) fn body(&mut self, content: &Content, survey: &Survey) {
        if let Content::Given(bytes) = content
            && !survey.is_stuffed
        {
            self.write(|out| stuff((**bytes).as_ref(), out));
        } else {
            self.content(content);
            self.write(|out| out.extend_from_slice(survey.terminator));
        }
    }

    /// The total number of bytes appended.
    pub(super) fn queued(&self) -> u64 {
        self.queued
    }

    /// The total number of bytes passed to the network.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queued == self.sent
    }

    /// Returns the bytes to write, in order. No slice is empty.
    pub(super) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(self.start).chain(std::iter::repeat(0));
        let slices = self.parts.iter().zip(starts);
        slices
            .map(|(part, start)| &part.as_slice()[start..])
            .filter(|bytes| !bytes.is_empty())
    }

    /// Removes the first `count` bytes, which were written.
    pub(super) fn advance(&mut self, mut count: usize) {
        self.sent += count as u64;
        let mut parts = self.parts.len();
        while let Some(part) = self.parts.front_mut() {
            let left = part.as_slice().len() - self.start;
            if count < left {
                self.start += count;
                return;
            }
            count -= left;
            self.start = 0;
            match part {
                // The last buffer is kept, so that small flights need no allocation.
                OutputPart::Own(bytes) if parts == 1 => {
                    bytes.clear();
                    return;
                }
                _ => drop(self.parts.pop_front()),
            }
            parts -= 1;
        }
    }

    /// Discards the bytes that were not written. The total `sent` then includes these bytes, so
    /// that `is_empty` returns true.
    pub(super) fn clear(&mut self) {
        self.parts.clear();
        self.start = 0;
        self.sent = self.queued;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(output: &Output) -> Vec<u8> {
        output.slices().collect::<Vec<_>>().concat()
    }

    #[test]
    fn parts_are_written_in_order_at_any_size_of_a_write() {
        let large = Content::from_bytes(vec![b'x'; COPIED]);
        let small = Content::from_bytes(b".small");
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
