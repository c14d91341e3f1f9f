//! Message content: where it ends, what is unlawful in it, and how its dots come off.
//!
//! RFC 5321 4.1.1.4 ends the content at exactly CRLF dot CRLF. A server that takes a bare LF for a
//! line end there can be made to read a second message out of the first one's body (SMTP
//! smuggling), so nothing else ends it here.

use std::sync::LazyLock;

use memchr::memmem;
use multiversion::multiversion;

const END: &[u8] = b"\r\n.\r\n";

/// Pairs of neighbours that are looked at in one go; few enough for sums in a byte.
const BLOCK: usize = 128;

static FINDER: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(END));

/// Looks for the end of the content over any chunking, each byte once.
#[derive(Debug, Clone)]
pub struct EndOfData {
    /// The last bytes that were seen, as many as can begin the end.
    tail: Vec<u8>,
}

impl Default for EndOfData {
    /// The CRLF of the DATA command may be the one that begins the end: an empty message.
    fn default() -> Self {
        Self {
            tail: b"\r\n".to_vec(),
        }
    }
}

impl EndOfData {
    /// Begins a new content, as `default` does, without a new allocation.
    pub fn restart(&mut self) {
        self.tail.clear();
        self.tail.extend_from_slice(b"\r\n");
    }

    /// The length of the chunk's part of the content, its end included; `None` while there is no
    /// end in it.
    pub fn find(&mut self, chunk: &[u8]) -> Option<usize> {
        let reach = END.len() - 1;
        let known = self.tail.len();
        self.tail
            .extend_from_slice(&chunk[..chunk.len().min(reach)]);
        if let Some(start) = FINDER.find(&self.tail) {
            return Some(start + END.len() - known);
        }
        if chunk.len() > reach {
            if let Some(start) = FINDER.find(chunk) {
                return Some(start + END.len());
            }
            self.tail.clear();
            self.tail.extend_from_slice(&chunk[chunk.len() - reach..]);
        } else {
            self.tail.drain(..self.tail.len().saturating_sub(reach));
        }
        None
    }
}

/// Bytes that a client must not send, or must announce, counted over any chunking.
#[derive(Debug, Clone, Default)]
pub struct Census {
    /// CRs that no LF follows.
    pub bare_cr: u64,
    /// LFs that no CR precedes.
    pub bare_lf: u64,
    /// Bytes above 127.
    pub eight_bit: u64,
    ends_in_cr: bool,
}

impl Census {
    /// Counts one more chunk.
    pub fn take(&mut self, chunk: &[u8]) {
        let Some((&first, &last)) = chunk.first().zip(chunk.last()) else {
            return;
        };
        let counts = count(chunk);
        self.bare_cr += counts.bare_cr + u64::from(last == b'\r');
        self.bare_lf += counts.bare_lf + u64::from(first == b'\n');
        self.eight_bit += counts.eight_bit + u64::from(last >> 7);
        // A pair that lies across the border: its CR was called bare with the chunk before.
        if self.ends_in_cr && first == b'\n' {
            self.bare_cr -= 1;
            self.bare_lf -= 1;
        }
        self.ends_in_cr = last == b'\r';
    }
}

/// Counts what the pairs of neighbours in a chunk tell, and the bytes above 127 but the last.
///
/// Most blocks have nothing to count, which one pass tells; as with the client's scan
/// (`stuffing`), the loops become vector instructions.
#[multiversion(targets("x86_64+avx2"))]
fn count(chunk: &[u8]) -> Census {
    let mut census = Census::default();
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
        census.bare_cr += sum(|a, b| a == b'\r' && b != b'\n');
        census.bare_lf += sum(|a, b| a != b'\r' && b == b'\n');
        census.eight_bit += sum(|a, _| a > 127);
    }
    census
}

/// The content without its end and without the dots that transparency added (RFC 5321 4.5.2).
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

    fn naive_census(bytes: &[u8]) -> (u64, u64, u64) {
        let cr = (0..bytes.len())
            .filter(|&at| bytes[at] == b'\r' && bytes.get(at + 1) != Some(&b'\n'))
            .count();
        let lf = (0..bytes.len())
            .filter(|&at| bytes[at] == b'\n' && (at == 0 || bytes[at - 1] != b'\r'))
            .count();
        let high = bytes.iter().filter(|byte| **byte > 127).count();
        (cr as u64, lf as u64, high as u64)
    }

    /// Every string over the bytes that matter, up to a length.
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
    fn the_end_is_found_at_any_cut() {
        for prefix in strings(4) {
            let content = [&prefix[..], b"x\r\n.\r\n"].concat();
            let whole = [b"\r\n", &content[..]].concat();
            let expected = memmem::find(&whole, END).map(|start| start + END.len() - 2);
            for size in 1..=content.len() {
                let mut end = EndOfData::default();
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
    fn only_crlf_dot_crlf_ends() {
        for false_end in [
            &b"\n.\n"[..],
            b"\r\n.\n",
            b"\n.\r\n",
            b"\r.\r",
            b"\r\n.\r",
            b"\r\n. \r\n",
        ] {
            let content = [b"x", false_end, b"y"].concat();
            assert_eq!(EndOfData::default().find(&content), None, "{false_end:?}");
        }
        assert_eq!(EndOfData::default().find(b".\r\n"), Some(3));
    }

    #[test]
    fn the_census_is_the_naive_one_at_any_cut() {
        let long: Vec<u8> = b"a\r\nb\rc\n\xff"
            .iter()
            .cycle()
            .take(999)
            .copied()
            .collect();
        for bytes in strings(5).into_iter().chain([long]) {
            for size in [1, 2, 3, 1000] {
                let mut census = Census::default();
                bytes.chunks(size).for_each(|chunk| census.take(chunk));
                let counted = (census.bare_cr, census.bare_lf, census.eight_bit);
                assert_eq!(
                    counted,
                    naive_census(&bytes),
                    "{bytes:?} in chunks of {size}"
                );
            }
        }
    }

    #[test]
    fn dots_come_off_after_crlf_only() {
        assert_eq!(
            unstuff(b"..a\r\n...\r\n.b\r\n\n..c\r\n.\r\n"),
            b".a\r\n..\r\nb\r\n\n..c\r\n"
        );
        assert_eq!(unstuff(b".\r\n"), b"");
    }
}
