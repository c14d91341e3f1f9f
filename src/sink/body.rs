//! The sink's functions for message content: they find the terminator, count forbidden bytes, and
//! remove dot-stuffing.
//!
//! RFC 5321 4.1.1.4: the terminator is exactly CRLF dot CRLF. If a server also accepts a bare LF in
//! the terminator, an attacker can hide a second message in the body of the first (SMTP smuggling).
//! So the sink accepts only CRLF dot CRLF.

use std::sync::LazyLock;

use memchr::memmem;
use multiversion::multiversion;

const TERMINATOR: &[u8] = b"\r\n.\r\n";

/// The number of pairs of adjacent bytes that `count` examines as one block. It must not exceed
/// 255, because each sum over a block is stored in one byte.
const BLOCK: usize = 128;

static FINDER: LazyLock<memmem::Finder<'static>> =
    LazyLock::new(|| memmem::Finder::new(TERMINATOR));

/// A search for the terminator in content that arrives in chunks of any size. Each chunk is
/// searched once: the search continues after the preceding chunk, and does not start again at the
/// beginning of the content.
#[derive(Debug, Clone)]
pub struct TerminatorSearch {
    /// The last bytes that were searched. They can be the beginning of a terminator that the next
    /// chunk completes.
    tail: Vec<u8>,
}

impl Default for TerminatorSearch {
    /// The search begins with the CRLF of the DATA command. For an empty message, this CRLF is the
    /// first CRLF of the terminator.
    fn default() -> Self {
        Self {
            tail: b"\r\n".to_vec(),
        }
    }
}

impl TerminatorSearch {
    /// Restarts the search for the next content. Unlike a new object from `default`, this function
    /// allocates no memory.
    pub fn restart(&mut self) {
        self.tail.clear();
        self.tail.extend_from_slice(b"\r\n");
    }

    /// Searches the next chunk. If the terminator ends in this chunk, returns the number of the
    /// chunk's bytes up to the end of the terminator. Otherwise returns `None`.
    pub fn find(&mut self, chunk: &[u8]) -> Option<usize> {
        let reach = TERMINATOR.len() - 1;
        let known = self.tail.len();
        self.tail
            .extend_from_slice(&chunk[..chunk.len().min(reach)]);
        if let Some(start) = FINDER.find(&self.tail) {
            return Some(start + TERMINATOR.len() - known);
        }
        if chunk.len() > reach {
            if let Some(start) = FINDER.find(chunk) {
                return Some(start + TERMINATOR.len());
            }
            self.tail.clear();
            self.tail.extend_from_slice(&chunk[chunk.len() - reach..]);
        } else {
            self.tail.drain(..self.tail.len().saturating_sub(reach));
        }
        None
    }
}

/// The counts of the bytes that a client must not send (bare CR and LF) or must declare (bytes
/// above 127). The content may arrive in chunks of any size.
#[derive(Debug, Clone, Default)]
pub struct ContentCounts {
    /// The number of CRs without a following LF.
    pub bare_cr: u64,
    /// The number of LFs without a preceding CR.
    pub bare_lf: u64,
    /// Bytes above 127.
    pub eight_bit: u64,
    ends_in_cr: bool,
}

impl ContentCounts {
    /// Counts the next chunk.
    pub fn add(&mut self, chunk: &[u8]) {
        let Some((&first, &last)) = chunk.first().zip(chunk.last()) else {
            return;
        };
        let counts = count(chunk);
        self.bare_cr += counts.bare_cr + u64::from(last == b'\r');
        self.bare_lf += counts.bare_lf + u64::from(first == b'\n');
        self.eight_bit += counts.eight_bit + u64::from(last >> 7);
        // In this case, a CRLF was split between two chunks. Its CR and its LF were both counted as
        // bare, so both counts are corrected.
        if self.ends_in_cr && first == b'\n' {
            self.bare_cr -= 1;
            self.bare_lf -= 1;
        }
        self.ends_in_cr = last == b'\r';
    }
}

/// Examines the pairs of adjacent bytes in a chunk. Counts the bare CRs and LFs, and the bytes
/// above 127 that are the first byte of a pair. The caller counts the bytes that no pair shows: a
/// bare LF at the start of the chunk, and a bare CR or a byte above 127 at its end.
///
/// Most blocks contain no bytes to count. A first loop over each block detects such a block, and
/// the other loops are skipped for it. The compiler turns the loops into vector instructions, as in
/// the client's scan (`stuffing`).
#[multiversion(targets("x86_64+avx2"))]
fn count(chunk: &[u8]) -> ContentCounts {
    let mut counts = ContentCounts::default();
    for (here, next) in chunk.chunks(BLOCK).zip(chunk[1..].chunks(BLOCK)) {
        let pairs = || here.iter().zip(next);
        let found = pairs().fold(0, |found, (&a, &b)| {
            found | u8::from((a == b'\r') != (b == b'\n')) | (a & 0x80)
        });
        if found == 0 {
            continue;
        }
        let sum = |each: fn(u8, u8) -> bool| {
            u64::from(pairs().map(|(&a, &b)| u8::from(each(a, b))).sum::<u8>())
        };
        counts.bare_cr += sum(|a, b| a == b'\r' && b != b'\n');
        counts.bare_lf += sum(|a, b| a != b'\r' && b == b'\n');
        counts.eight_bit += sum(|a, _| a > 127);
    }
    counts
}

/// Returns the content without the terminator and without dot-stuffing (RFC 5321 4.5.2).
#[must_use]
pub fn unstuff(stuffed: &[u8]) -> Vec<u8> {
    let content = stuffed.strip_suffix(b".\r\n").unwrap_or(stuffed);
    let mut plain = Vec::with_capacity(content.len());
    let mut rest = content.strip_prefix(b".").unwrap_or(content);
    while let Some(at) = memmem::find(rest, b"\r\n.") {
        plain.extend_from_slice(&rest[..at + 2]);
        rest = &rest[at + 3..];
    }
    plain.extend_from_slice(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive_counts(bytes: &[u8]) -> (u64, u64, u64) {
        let cr = (0..bytes.len())
            .filter(|&at| bytes[at] == b'\r' && bytes.get(at + 1) != Some(&b'\n'))
            .count();
        let lf = (0..bytes.len())
            .filter(|&at| bytes[at] == b'\n' && (at == 0 || bytes[at - 1] != b'\r'))
            .count();
        let high = bytes.iter().filter(|byte| **byte > 127).count();
        (cr as u64, lf as u64, high as u64)
    }

    /// Returns all strings that consist of CR, LF, dot and the byte 0xE4, and have at most `length`
    /// bytes.
    fn strings(length: usize) -> Vec<Vec<u8>> {
        let mut all = vec![Vec::new()];
        let mut last = all.clone();
        for _ in 0..length {
            last = last
                .iter()
                .flat_map(|text| {
                    b"\r\n.\xe4"
                        .iter()
                        .map(|byte| [text, &[*byte][..]].concat())
                })
                .collect();
            all.extend(last.iter().cloned());
        }
        all
    }

    #[test]
    fn the_end_is_found_in_any_chunks() {
        for prefix in strings(4) {
            let content = [&prefix[..], b"x\r\n.\r\n"].concat();
            let whole = [b"\r\n", &content[..]].concat();
            let expected =
                memmem::find(&whole, TERMINATOR).map(|start| start + TERMINATOR.len() - 2);
            for size in 1..=content.len() {
                let mut end = TerminatorSearch::default();
                let mut before = 0;
                let found = content.chunks(size).find_map(|chunk| {
                    let found = end.find(chunk).map(|length| before + length);
                    before += chunk.len();
                    found
                });
                assert_eq!(found, expected, "{content:?} in chunks of {size}");
            }
        }
    }

    #[test]
    fn only_crlf_dot_crlf_ends_the_content() {
        for false_end in [
            &b"\n.\n"[..],
            b"\r\n.\n",
            b"\n.\r\n",
            b"\r.\r",
            b"\r\n.\r",
            b"\r\n. \r\n",
        ] {
            let content = [b"x", false_end, b"y"].concat();
            assert_eq!(
                TerminatorSearch::default().find(&content),
                None,
                "{false_end:?}"
            );
        }
        assert_eq!(TerminatorSearch::default().find(b".\r\n"), Some(3));
    }

    #[test]
    fn counts_equal_the_naive_counts_in_any_chunks() {
        let long: Vec<u8> = b"a\r\nb\rc\n\xff"
            .iter()
            .cycle()
            .take(999)
            .copied()
            .collect();
        for bytes in strings(5).into_iter().chain([long]) {
            for size in [1, 2, 3, 1000] {
                let mut counts = ContentCounts::default();
                bytes.chunks(size).for_each(|chunk| counts.add(chunk));
                let counted = (counts.bare_cr, counts.bare_lf, counts.eight_bit);
                assert_eq!(
                    counted,
                    naive_counts(&bytes),
                    "{bytes:?} in chunks of {size}"
                );
            }
        }
    }

    #[test]
    fn dots_are_removed_after_crlf_only() {
        assert_eq!(
            unstuff(b"..a\r\n...\r\n.b\r\n\n..c\r\n.\r\n"),
            b".a\r\n..\r\nb\r\n\n..c\r\n"
        );
        assert_eq!(unstuff(b".\r\n"), b"");
    }
}
