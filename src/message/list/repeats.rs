//! Finds repeated addresses in a list of any length, with 8 bytes of memory for each row.
//!
//! The table stores no addresses, only a hash of 64 bits for each row. Rows with equal hashes count
//! as rows with the same address. In a list of 10 million rows, the probability is 3 in a million
//! that two different addresses have equal hashes. A comparison of the texts would read two rows at
//! random places of the file for each repetition. If half of the rows are repetitions, these reads
//! take three times as long as all other work.
//!
//! The hash selects one of the partitions. Each partition has the other 56 bits for its rows, in the
//! order of the list, and `sequence` has the partition of each row. So no row number is stored.

use std::hash::{BuildHasher, RandomState};

use memchr::memchr_iter;

use super::row_set::RowSet;

/// The partition of a row without an address. The partitions of hashes have smaller numbers.
const NO_ADDRESS: u8 = u8::MAX;

/// The bits of a hash that are stored in a partition.
const TAG_BITS: u32 = 56;
type Tag = [u8; 7];

/// The low bits of a tag that depend on upper and lower case.
const CASE_BITS: u32 = 16;

/// The number of entries that are allocated at once. A growing `Vec` would use up to three times
/// the memory of its entries while it grows.
const TAG_PAGE: usize = 512;
const SEQUENCE_PAGE: usize = 1 << 16;

/// The hashes of the addresses in a list.
pub struct AddressTable {
    // The keys of the hash are random, so the author of a list cannot choose equal hashes.
    hasher: RandomState,
    sequence: Vec<Vec<u8>>,
    partitions: Vec<Vec<Vec<Tag>>>,
}

/// The rows whose address occurs in an earlier row.
#[derive(Debug, Default)]
pub struct Repeats {
    /// The rows with an address that is equal to the address of an earlier row.
    pub rows: RowSet,
    /// The first of these rows, each with the first row that has its address.
    pub examples: Vec<(u64, u64)>,
    /// The number of rows whose address differs from the address of an earlier row only in the case
    /// of the local part. They are not in `rows`. This is an estimate: only 48 bits are compared.
    pub similar: u64,
    /// The first of these rows, each with an earlier row.
    pub similar_examples: Vec<(u64, u64)>,
}

/// The maximum number of examples of each kind.
pub const EXAMPLES: usize = 3;

impl Default for AddressTable {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            sequence: Vec::new(),
            partitions: vec![Vec::new(); usize::from(NO_ADDRESS)],
        }
    }
}

impl AddressTable {
    /// Adds the next row with its address. `address` is changed to lower case.
    pub fn add(&mut self, address: &mut String) {
        let case = self.case_of(address);
        address.make_ascii_lowercase();
        let hash = self.hasher.hash_one(&*address);
        let partition = ((hash >> TAG_BITS) as u8).min(NO_ADDRESS - 1);
        push(&mut self.sequence, SEQUENCE_PAGE, partition);
        let [tag @ .., _] = (hash ^ case).to_le_bytes();
        push(&mut self.partitions[usize::from(partition)], TAG_PAGE, tag);
    }

    /// Adds the next row, which has no address.
    pub fn add_without_address(&mut self) {
        push(&mut self.sequence, SEQUENCE_PAGE, NO_ADDRESS);
    }

    /// Returns the bits for the case of an address: 0 if it has no upper case, otherwise another
    /// value. So the lower-case form of an address is always different from the other forms.
    fn case_of(&self, address: &str) -> u64 {
        if !address.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return 0;
        }
        let bits = self.hasher.hash_one(address) & ((1 << CASE_BITS) - 1);
        bits.max(1)
    }

    /// Finds the repetitions.
    #[must_use]
    pub fn repeats(self) -> Repeats {
        let mut found = Repeats::default();
        let mut entries = Vec::new();
        for (number, pages) in (0..NO_ADDRESS).zip(self.partitions) {
            let tags = pages.iter().flatten().map(|&tag| number_of(tag));
            entries.clear();
            entries.extend(tags.zip(rows_of(&self.sequence, number)));
            drop(pages);
            entries.sort_unstable();
            for same in entries.chunk_by(|one, other| one.0 >> CASE_BITS == other.0 >> CASE_BITS) {
                if same.len() > 1 {
                    found.add(same);
                }
            }
        }
        found
    }
}

impl Repeats {
    /// Adds the rows of one address in all its cases. The entries are tags and rows, sorted.
    fn add(&mut self, same: &[(u64, u64)]) {
        let earliest = same.iter().map(|entry| entry.1).min().unwrap_or_default();
        for equal in same.chunk_by(|one, other| one.0 == other.0) {
            let first = equal[0].1;
            if first != earliest {
                self.similar += 1;
                insert(&mut self.similar_examples, (first, earliest));
            }
            for &(_, row) in &equal[1..] {
                self.rows.insert(row);
                insert(&mut self.examples, (row, first));
            }
        }
    }
}

/// Returns the rows of a partition, in order.
fn rows_of(sequence: &[Vec<u8>], partition: u8) -> impl Iterator<Item = u64> {
    let pages = (0..).step_by(SEQUENCE_PAGE).zip(sequence);
    pages.flat_map(move |(start, page)| {
        memchr_iter(partition, page).map(move |place| start + place as u64)
    })
}

fn number_of(tag: Tag) -> u64 {
    let mut bytes = [0; 8];
    bytes[..tag.len()].copy_from_slice(&tag);
    u64::from_le_bytes(bytes)
}

fn push<Entry>(pages: &mut Vec<Vec<Entry>>, size: usize, entry: Entry) {
    match pages.last_mut() {
        Some(page) if page.len() < size => page.push(entry),
        _ => {
            let mut page = Vec::with_capacity(size);
            page.push(entry);
            pages.push(page);
        }
    }
}

/// Inserts an example into a sorted list, and keeps the first of the list.
fn insert<Example: Ord>(examples: &mut Vec<Example>, example: Example) {
    if examples.len() == EXAMPLES && examples.last() < Some(&example) {
        return;
    }
    let place = examples.partition_point(|each| *each < example);
    examples.insert(place, example);
    examples.truncate(EXAMPLES);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows that repeat an address, and the result of the table. "" is a row without an address.
    fn repeats<'a>(addresses: impl IntoIterator<Item = &'a str>) -> (Vec<u64>, Repeats) {
        let mut table = AddressTable::default();
        let mut rows = 0;
        for address in addresses {
            rows += 1;
            if address.is_empty() {
                table.add_without_address();
            } else {
                table.add(&mut address.to_owned());
            }
        }
        let found = table.repeats();
        let repeated = (0..rows).filter(|&row| found.rows.contains(row)).collect();
        (repeated, found)
    }

    #[test]
    fn equal_addresses_are_found() {
        let (rows, found) = repeats(["a@x", "b@x", "a@x", "A@x", "a@x", "", "A@x", "c@x", ""]);
        assert_eq!(rows, [2, 4, 6]);
        assert_eq!((found.rows.len(), found.similar), (3, 1));
        assert_eq!(found.examples, [(2, 0), (4, 0), (6, 3)]);
        assert_eq!(found.similar_examples, [(3, 0)]);
        let (rows, found) = repeats(["A@x", "b@x", "A@x", "a@x", "B@x"]);
        assert_eq!((rows, found.examples), (vec![2], vec![(2, 0)]));
        assert_eq!(found.similar_examples, [(3, 0), (4, 1)]);
        let (rows, found) = repeats(["a@x", "b@x", "", ""]);
        assert_eq!((rows, found.similar), (vec![], 0));
        assert!(found.examples.is_empty() && found.similar_examples.is_empty());
    }

    #[test]
    fn many_rows_are_found_in_order() {
        // More than one page of each kind.
        const ROWS: u64 = 300_000;
        const DISTINCT: u64 = 200_000;
        let addresses: Vec<String> = (0..ROWS)
            .map(|row| match row % DISTINCT {
                number if number.is_multiple_of(3) => String::new(),
                number => format!("{number}@x"),
            })
            .collect();
        let (rows, found) = repeats(addresses.iter().map(String::as_str));
        let expected: Vec<u64> = (DISTINCT..ROWS)
            .filter(|row| !(row % DISTINCT).is_multiple_of(3))
            .collect();
        assert_eq!(rows, expected);
        let examples = expected.iter().map(|&row| (row, row - DISTINCT));
        assert!(found.examples.into_iter().eq(examples.take(EXAMPLES)));
        assert_eq!(found.similar, 0);
    }
}
