//! Stuffing: a message to what follows the 354 (RFC 5321 4.5.2), line ends repaired.
//!
//! Every CR or LF that stands alone becomes CRLF first: a server that takes a bare LF for a line
//! end would otherwise find an end of data, and commands behind it, in the middle of a message
//! (SMTP smuggling). Then a dot at the start of a line is doubled, and CRLF dot CRLF ends it all.
//!
//! # The scan
//!
//! A newsletter of 38 KB has five hundred line ends, and nearly always not one of them is wrong
//! and not one is followed by a dot. Looking at each line end costs more than copying the whole
//! message. So the scan does not look for line ends at all: it asks, of a block of octets at
//! once, whether anything would have to be put in, and answers without a branch.
//!
//! Whether something belongs between two neighbours `a` and `b` depends on those two alone:
//!
//! ```text
//!     (a is CR) differs from (b is LF)    a CR without its LF, or an LF without its CR
//!     a is LF and b is a dot              a dot at the start of a line
//! ```
//!
//! (A dot behind a bare CR needs no third rule: the first one has already told of the CR.) These
//! are four comparisons and four logical operations on octets with no memory of what came before,
//! so the compiler turns the loop over a block and the same block shifted by one into vector
//! instructions, sixteen or thirty-two pairs at a time, in safe code; a block whose results are
//! all zero is clean. On the way the same pass sees whether an octet is above 127, in a bit of the
//! results of its own. A block of `BLOCK` octets takes part in `PAIRS` pairs, one more, from the pair
//! that ends at its first octet to the one that begins at its last; `PAIRS` is a power of two, so
//! that no pair is left over for a slow loop behind the fast one.
//!
//! Only in a block that is not clean are the line ends found one by one (`memchr`) and counted.
//! What is remembered is the number of octets to be put in, which gives the exact length of the
//! result before anything is copied, and the list of those blocks. So the copy needs one
//! allocation, copies everything between two faults at once, and looks at no clean block again.
//!
//! The first and the last octet have only one neighbour. In front of the first stands, for our
//! purpose, a line end, and behind the last nothing that means anything; the first octet and the
//! last block go the slow way.

use std::borrow::Cow;

use memchr::memchr2_iter;
use multiversion::multiversion;

/// Pairs of neighbours that the scan compares at once.
const PAIRS: usize = 256;

/// Octets of a block.
const BLOCK: usize = PAIRS - 1;

/// Something may have to be put in.
const FAULT: u8 = 1;

/// An octet is above 127.
const EIGHT_BIT: u8 = 0x80;

/// What follows a message that ends with a line end.
const END: &[u8] = b".\r\n";

/// What follows a message that does not.
const LINE_END_AND_END: &[u8] = b"\r\n.\r\n";

/// A message that has been looked through: what its repair and stuffing will put in, and where.
#[derive(Debug)]
pub struct Scan<'a> {
    data: &'a [u8],
    /// Where the blocks begin in which something has to be put in.
    faulty: Vec<usize>,
    /// Halves of a line end that are missing.
    halves: usize,
    /// Dots at the start of a line.
    dots: usize,
    /// Whether an octet is above 127.
    eight_bit: bool,
}

impl<'a> Scan<'a> {
    /// Looks through a message.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        let mut scan = Self {
            data,
            faulty: Vec::new(),
            halves: 0,
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

    /// The octets of the message with its line ends repaired: what SIZE declares (RFC 1870).
    #[must_use]
    pub fn repaired_len(&self) -> usize {
        self.data.len() + self.halves
    }

    /// The octets of the message made ready for the wire, end of data included.
    #[must_use]
    pub fn stuffed_len(&self) -> usize {
        self.repaired_len() + self.dots + self.end_of_data().len()
    }

    /// Whether an octet is above 127, which 8BITMIME is for (RFC 6152).
    #[must_use]
    pub fn is_eight_bit(&self) -> bool {
        self.eight_bit
    }

    /// Whether every line end is whole.
    #[must_use]
    pub fn is_repaired(&self) -> bool {
        self.halves == 0
    }

    /// Whether nothing needs to be put in: then the message and `end_of_data` are the result.
    #[must_use]
    pub fn is_stuffed(&self) -> bool {
        self.halves == 0 && self.dots == 0
    }

    /// What stands behind the message: CRLF dot CRLF, less the CRLF that the message ends with.
    #[must_use]
    pub fn end_of_data(&self) -> &'static [u8] {
        end_of_data(self.data)
    }

    /// Writes the message made ready for the wire into `out`, which has `stuffed_len` octets.
    ///
    /// # Panics
    ///
    /// Where `out` is shorter.
    pub fn stuff_into(&self, out: &mut [u8]) {
        let mut fill = Fill { out };
        self.copy(true, |piece| fill.put(piece));
        fill.put(self.end_of_data());
    }

    /// Writes the message with its line ends repaired into `out`, which has `repaired_len` octets.
    ///
    /// # Panics
    ///
    /// Where `out` is shorter.
    pub fn repair_into(&self, out: &mut [u8]) {
        let mut fill = Fill { out };
        self.copy(false, |piece| fill.put(piece));
    }

    fn count(&mut self, start: usize) {
        let (halves, dots) = (self.halves, self.dots);
        for line_end in line_ends(self.data, start) {
            self.halves += usize::from(line_end.lacks_cr || line_end.lacks_lf);
            self.dots += usize::from(line_end.dot_follows);
        }
        if (halves, dots) != (self.halves, self.dots) {
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
                if line_end.lacks_cr {
                    put(&self.data[copied..place]);
                    put(b"\r");
                    copied = place;
                }
                if line_end.lacks_lf {
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

/// What stands behind a message: CRLF dot CRLF, less the CRLF that the message ends with.
#[must_use]
pub fn end_of_data(data: &[u8]) -> &'static [u8] {
    // A lone half at the end is made whole.
    match data.last() {
        Some(b'\r' | b'\n') => END,
        _ => LINE_END_AND_END,
    }
}

/// Writes a message made ready for the wire behind what `out` holds.
///
/// Returns the size that SIZE declares: the octets of the repaired message before stuffing.
pub fn stuff(data: &[u8], out: &mut Vec<u8>) -> usize {
    let scan = Scan::new(data);
    out.reserve(scan.stuffed_len());
    scan.copy(true, |piece| out.extend_from_slice(piece));
    out.extend_from_slice(scan.end_of_data());
    scan.repaired_len()
}

/// Makes every line end CRLF; a message without fault comes back as it is.
#[must_use]
pub fn repair(data: &[u8]) -> Cow<'_, [u8]> {
    let scan = Scan::new(data);
    if scan.is_repaired() {
        return Cow::Borrowed(data);
    }
    let mut repaired = Vec::with_capacity(scan.repaired_len());
    scan.copy(false, |piece| repaired.extend_from_slice(piece));
    Cow::Owned(repaired)
}

/// Where the block ends that begins at `start`. The first octet is a block of its own, since it
/// could not be compared anyway.
fn block_end(start: usize) -> usize {
    if start == 0 { 1 } else { start + BLOCK }
}

fn block(data: &[u8], start: usize) -> &[u8] {
    &data[start..data.len().min(block_end(start))]
}

/// The first block from `start` on that is not known to need nothing, or beyond the end;
/// `eight_bit` is set where one before it has an octet above 127.
///
/// It is compiled twice, the second time for AVX2, and the machine is asked which it takes when
/// the first mail is sent. AVX-512 was tried and is slower here: its comparisons end in mask
/// registers, and only one unit works on those.
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

/// What one block holds: bits of `FAULT` and `EIGHT_BIT`. The former is no proof: at both ends of a
/// message there is not enough to compare.
#[inline(always)]
fn look(data: &[u8], start: usize) -> u8 {
    // A block at an end has no neighbour there, and `start` may be beyond the end.
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

/// A CR or an LF, and what it lacks; the LF of a whole line end is one too, lacking nothing.
struct LineEnd {
    place: usize,
    lacks_cr: bool,
    lacks_lf: bool,
    dot_follows: bool,
}

fn line_ends(data: &[u8], start: usize) -> impl Iterator<Item = LineEnd> + '_ {
    memchr2_iter(b'\r', b'\n', block(data, start)).map(move |offset| {
        let place = start + offset;
        let next = data.get(place + 1);
        let is_cr = data[place] == b'\r';
        let lacks_lf = is_cr && next != Some(&b'\n');
        LineEnd {
            place,
            lacks_cr: !is_cr && (place == 0 || data[place - 1] != b'\r'),
            lacks_lf,
            // Behind the CR of a whole line end stands its LF, never a dot.
            dot_follows: next == Some(&b'.'),
        }
    })
}

/// A buffer that is filled from its beginning.
struct Fill<'a> {
    out: &'a mut [u8],
}

impl Fill<'_> {
    fn put(&mut self, piece: &[u8]) {
        let (head, rest) = std::mem::take(&mut self.out).split_at_mut(piece.len());
        head.copy_from_slice(piece);
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
        let octets = stuffed.chars().skip(1).chain(end.chars()).map(|c| c as u8);
        (octets.collect(), repaired.chars().count())
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
            wire.len() == data.len() + scan.end_of_data().len()
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
    fn an_octet_above_127_at_every_place_of_a_block() {
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
                // Mostly text, so that some blocks are clean.
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
    fn a_whole_message_is_borrowed() {
        assert!(matches!(repair(b"a\r\n.b\r\n"), Cow::Borrowed(_)));
        assert!(matches!(repair(b"a\n"), Cow::Owned(_)));
    }
}
