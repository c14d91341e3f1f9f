//! Dot-stuffing and repair of line ends: they convert a message to the bytes that follow the reply
//! 354 (RFC 5321 4.5.2).
//!
//! First, every bare CR or LF becomes CRLF, because RFC 5321 2.3.8 forbids bare CR and LF. Some
//! servers accept a bare LF as a line end. Without the repair, such a server could read a part of
//! the message as the terminator, and the part after it as commands (SMTP smuggling). Second, each
//! dot at the start of a line is doubled. Third, the terminator CRLF.CRLF is added.
//!
//! # The scan
//!
//! A newsletter of 38 KB has about five hundred line ends. Usually all of them are correct, and no
//! line begins with a dot. Searching for each line end takes longer than copying the whole message.
//! So the scan does not search for line ends. Instead, it checks a whole block of bytes, without a
//! branch, for a place where a byte must be inserted.
//!
//! Whether a byte must be inserted between two neighbours `a` and `b` depends only on these two
//! bytes. It must be inserted in two cases:
//!
//! ```text
//!     (a is CR) differs from (b is LF)    a CR without its LF, or an LF without its CR
//!     a is LF and b is a dot              a dot at the start of a line
//! ```
//!
//! (A dot after a bare CR needs no third rule: the first rule already reports the CR.) The two
//! rules take four comparisons and four logical operations for each pair, and keep no state between
//! pairs. So the compiler can use vector instructions, which process sixteen or thirty-two pairs at
//! a time. The loop over the pairs is safe Rust code. A block is clean if the results of all its
//! pairs are zero. The same loop reports bytes above 127 in a separate bit of the results.
//!
//! A block has `BLOCK` bytes and `PAIRS` pairs. `PAIRS` is `BLOCK + 1`, because the first and the
//! last byte of the block are also compared with their neighbours outside the block. `PAIRS` is a
//! power of two, so that vector instructions process all pairs. With another number, a slower loop
//! would process the remaining pairs.
//!
//! In a block that is not clean, the scan searches the line ends one by one (`memchr`) and counts
//! the insertions. It stores the number of bytes to insert, and the start of each block with an
//! insertion. So the exact length of the result is known before the message is copied. The copy
//! therefore needs only one allocation. It copies all bytes between two insertions at once, and
//! does not search clean blocks again.
//!
//! The first and the last byte of a message have only one neighbour, so the rules above cannot be
//! applied to them. For the first byte, the scan assumes that a line end precedes it. In the block
//! of the first byte and in the last block, the line ends are always searched one by one.

use std::borrow::Cow;

use memchr::memchr2_iter;
use multiversion::multiversion;

/// The number of pairs of neighbours in a block.
const PAIRS: usize = 256;

/// The number of bytes in a block.
const BLOCK: usize = PAIRS - 1;

/// The bit that reports that a block may need an insertion.
const FAULT: u8 = 1;

/// The bit that reports that a block contains a byte above 127.
const EIGHT_BIT: u8 = 0x80;

/// The terminator after a message that ends with a line end.
const END: &[u8] = b".\r\n";

/// The terminator after a message that does not end with a line end.
const LINE_END_AND_END: &[u8] = b"\r\n.\r\n";

/// A scanned message, the number of bytes to insert, and the blocks into which they must be
/// inserted.
#[derive(Debug)]
pub struct Scan<'a> {
    data: &'a [u8],
    /// The position of the first byte of each block that needs an insertion.
    faulty: Vec<usize>,
    /// The number of CRs and LFs that are missing from line ends.
    missing: usize,
    /// The number of dots at the start of a line.
    dots: usize,
    /// Whether the message contains a byte above 127.
    eight_bit: bool,
}

impl<'a> Scan<'a> {
    /// Scans a message.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        let mut scan = Self {
            data,
            faulty: Vec::new(),
            missing: 0,
            dots: usize::from(data.first() == Some(&b'.')),
            eight_bit: false,
        };
        let mut start = 0;
        while start < data.len() {
            scan.count(start);
            start = skip_clean(data, block_end(start), &mut scan.eight_bit);
        }
        scan
    }

    /// The size in bytes of the message with repaired line ends. The client declares this size with
    /// SIZE (RFC 1870 section 5).
    #[must_use]
    pub fn repaired_len(&self) -> usize {
        self.data.len() + self.missing
    }

    /// The size in bytes of the stuffed message with the terminator.
    #[must_use]
    pub fn stuffed_len(&self) -> usize {
        self.repaired_len() + self.dots + self.terminator().len()
    }

    /// Whether the message contains a byte above 127. Such a message needs 8BITMIME (RFC 6152).
    #[must_use]
    pub fn is_eight_bit(&self) -> bool {
        self.eight_bit
    }

    /// Whether every line end is CRLF.
    #[must_use]
    pub fn is_repaired(&self) -> bool {
        self.missing == 0
    }

    /// Whether the message needs no insertion. If so, the stuffed message is the unchanged message
    /// and the `terminator`.
    #[must_use]
    pub fn is_stuffed(&self) -> bool {
        self.missing == 0 && self.dots == 0
    }

    /// The terminator CRLF.CRLF, without its first CRLF if the message ends with a line end.
    #[must_use]
    pub fn terminator(&self) -> &'static [u8] {
        terminator(self.data)
    }

    /// Writes the stuffed message and the terminator into `out`, a buffer of `stuffed_len` bytes.
    ///
    /// # Panics
    ///
    /// If `out` is shorter.
    pub fn stuff_into(&self, out: &mut [u8]) {
        let mut fill = Fill { out };
        self.copy(true, |part| fill.put(part));
        fill.put(self.terminator());
    }

    /// Writes the message with repaired line ends into `out`, a buffer of `repaired_len` bytes.
    ///
    /// # Panics
    ///
    /// If `out` is shorter.
    pub fn repair_into(&self, out: &mut [u8]) {
        let mut fill = Fill { out };
        self.copy(false, |part| fill.put(part));
    }

    fn count(&mut self, start: usize) {
        let (missing, dots) = (self.missing, self.dots);
        for line_end in line_ends(self.data, start) {
            self.missing += usize::from(line_end.missing_cr || line_end.missing_lf);
            self.dots += usize::from(line_end.dot_follows);
        }
        if (missing, dots) != (self.missing, self.dots) {
            self.faulty.push(start);
        }
        self.eight_bit |= !block(self.data, start).is_ascii();
    }

    fn copy(&self, stuffed: bool, mut put: impl FnMut(&[u8])) {
        if stuffed && self.data.first() == Some(&b'.') {
            put(b".");
        }
        let mut copied = 0;
        for &start in &self.faulty {
            for line_end in line_ends(self.data, start) {
                let place = line_end.place;
                if line_end.missing_cr {
                    put(&self.data[copied..place]);
                    put(b"\r");
                    copied = place;
                }
                if line_end.missing_lf {
                    put(&self.data[copied..=place]);
                    put(b"\n");
                    copied = place + 1;
                }
                if line_end.dot_follows && stuffed {
                    put(&self.data[copied..=place]);
                    put(b".");
                    copied = place + 1;
                }
            }
        }
        put(&self.data[copied..]);
    }
}

/// The terminator CRLF.CRLF for a message, without its first CRLF if the message ends with a line
/// end.
#[must_use]
pub fn terminator(data: &[u8]) -> &'static [u8] {
    // A bare CR or LF at the end counts as a line end too, because the repair makes it CRLF.
    match data.last() {
        Some(b'\r' | b'\n') => END,
        _ => LINE_END_AND_END,
    }
}

/// Appends the stuffed message with the terminator to `out`.
///
/// Returns the size to declare with SIZE: the size of the repaired message before stuffing, in
/// bytes.
pub fn stuff(data: &[u8], out: &mut Vec<u8>) -> usize {
    let scan = Scan::new(data);
    out.reserve(scan.stuffed_len());
    scan.copy(true, |part| out.extend_from_slice(part));
    out.extend_from_slice(scan.terminator());
    scan.repaired_len()
}

/// Makes every line end CRLF. If every line end is already CRLF, the result borrows the message and
/// does not copy it.
#[must_use]
pub fn repair(data: &[u8]) -> Cow<'_, [u8]> {
    let scan = Scan::new(data);
    if scan.is_repaired() {
        return Cow::Borrowed(data);
    }
    let mut repaired = Vec::with_capacity(scan.repaired_len());
    scan.copy(false, |part| repaired.extend_from_slice(part));
    Cow::Owned(repaired)
}

/// The end of the block that begins at `start`. The first byte of a message is a block of its own,
/// because no neighbour precedes it.
fn block_end(start: usize) -> usize {
    if start == 0 { 1 } else { start + BLOCK }
}

fn block(data: &[u8], start: usize) -> &[u8] {
    &data[start..data.len().min(block_end(start))]
}

/// Returns the start of the first block, from `start` on, that may need an insertion. The result
/// may be beyond the end of `data`.
///
/// Sets `eight_bit` to true if a block before the result contains a byte above 127.
///
/// The function is compiled twice, with and without AVX2. The first call selects the version for
/// this processor. There is no version with AVX-512, because it is slower here. Its comparisons
/// write mask registers, and only one execution unit of the processor can use these registers.
#[multiversion(targets("x86_64+avx2"))]
fn skip_clean(data: &[u8], mut start: usize, eight_bit: &mut bool) -> usize {
    let mut seen = 0;
    loop {
        let found = look(data, start);
        if found & FAULT != 0 {
            *eight_bit |= seen & EIGHT_BIT != 0;
            return start;
        }
        seen |= found;
        start += BLOCK;
    }
}

/// The bits `FAULT` and `EIGHT_BIT` of one block. For the first and the last block of a message,
/// the result is always `FAULT`, because the first and the last byte of a message have only one
/// neighbour.
#[inline(always)]
fn look(data: &[u8], start: usize) -> u8 {
    // `checked_sub` returns `None` for the first block. `get` returns `None` for the last block,
    // and if `start` is beyond the end of `data`.
    let neighbours = start
        .checked_sub(1)
        .and_then(|before| data.get(before..=before + PAIRS));
    let Some(neighbours) = neighbours else {
        return FAULT;
    };
    let pairs = neighbours[..PAIRS].iter().zip(&neighbours[1..]);
    pairs.fold(0, |found, (&a, &b)| {
        let fault = ((a == b'\r') != (b == b'\n')) | ((a == b'\n') & (b == b'.'));
        found | u8::from(fault) | (a & EIGHT_BIT)
    })
}

/// A CR or LF, and the bytes that are missing next to it. A CRLF gives two `LineEnd`s, one for its
/// CR and one for its LF. No byte is missing next to either of them.
struct LineEnd {
    place: usize,
    missing_cr: bool,
    missing_lf: bool,
    dot_follows: bool,
}

fn line_ends(data: &[u8], start: usize) -> impl Iterator<Item = LineEnd> + '_ {
    memchr2_iter(b'\r', b'\n', block(data, start)).map(move |offset| {
        let place = start + offset;
        let next = data.get(place + 1);
        let is_cr = data[place] == b'\r';
        let missing_lf = is_cr && next != Some(&b'\n');
        LineEnd {
            place,
            missing_cr: !is_cr && (place == 0 || data[place - 1] != b'\r'),
            missing_lf,
            // For a CRLF, only the LF can have a dot after it, so the dot is counted once.
            dot_follows: next == Some(&b'.'),
        }
    })
}

/// The part of a buffer that is not filled yet. The buffer is filled from its beginning.
struct Fill<'a> {
    out: &'a mut [u8],
}

impl Fill<'_> {
    fn put(&mut self, part: &[u8]) {
        let (head, rest) = std::mem::take(&mut self.out).split_at_mut(part.len());
        head.copy_from_slice(part);
        self.out = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(data: &[u8]) -> (Vec<u8>, usize) {
        let text: String = data.iter().copied().map(char::from).collect();
        let repaired = text
            .replace("\r\n", "\n")
            .replace('\r', "\n")
            .replace('\n', "\r\n");
        let stuffed = format!("\n{repaired}").replace("\n.", "\n..");
        let end = if repaired.ends_with("\r\n") {
            ".\r\n"
        } else {
            "\r\n.\r\n"
        };
        let bytes = stuffed.chars().skip(1).chain(end.chars()).map(|c| c as u8);
        (bytes.collect(), repaired.chars().count())
    }

    fn check(data: &[u8]) {
        let (wire, size) = naive(data);
        let mut out = b"before".to_vec();
        assert_eq!(stuff(data, &mut out), size);
        assert_eq!(out, [b"before", &wire[..]].concat());
        let scan = Scan::new(data);
        assert_eq!(scan.stuffed_len(), wire.len());
        let mut exact = vec![0; wire.len()];
        scan.stuff_into(&mut exact);
        assert_eq!(exact, wire);
        assert_eq!(repair(data).len(), size);
        assert_eq!(scan.is_eight_bit(), !data.is_ascii());
        assert_eq!(
            scan.is_stuffed(),
            wire.len() == data.len() + scan.terminator().len()
        );
    }

    #[test]
    fn every_short_message() {
        let letters = b"\r\n.x";
        for length in 0..7u32 {
            for number in 0..letters.len().pow(length) {
                let letter = |place| letters[number / letters.len().pow(place) % letters.len()];
                check(&(0..length).map(letter).collect::<Vec<u8>>());
            }
        }
    }

    #[test]
    fn every_fault_at_every_place_of_a_block() {
        for fault in [
            b"\r".as_slice(),
            b"\n",
            b"\r\n.",
            b"\n.",
            b"\r.",
            b"\r\n",
            b".",
            b"\n\r",
        ] {
            for place in 0..3 * BLOCK {
                let mut data = vec![b'x'; 3 * BLOCK + 7];
                data.splice(place..place, fault.iter().copied());
                check(&data);
            }
        }
    }

    #[test]
    fn a_byte_above_127_at_every_place_of_a_block() {
        for place in 0..3 * BLOCK {
            let mut data = vec![b'x'; 3 * BLOCK];
            data[place] = 0xe4;
            check(&data);
        }
    }

    #[test]
    fn random_messages() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..2000 {
            let mut data = Vec::new();
            for _ in 0..round {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Most of the random bytes are letters, so that some blocks are clean.
                match state % 97 {
                    0 => data.push(b'\r'),
                    1 => data.push(b'\n'),
                    2..5 => data.extend_from_slice(b"\r\n"),
                    5..9 => data.push(b'.'),
                    letter => data.push(b'a' + (letter % 26) as u8),
                }
            }
            check(&data);
        }
    }

    #[test]
    fn a_correct_message_is_borrowed() {
        assert!(matches!(repair(b"a\r\n.b\r\n"), Cow::Borrowed(_)));
        assert!(matches!(repair(b"a\n"), Cow::Owned(_)));
    }
}
