//! Finds repeated addresses in a list of any length, with 8 bytes of memory for each row.
//!
//! The table stores no addresses. For each row it stores a hash of the address and the place of the
//! row in the file. At the end, rows with equal hashes are read again from the file, and their
//! addresses are compared. So a row counts as a repetition only if its address is equal.
//!
//! The first bits of the hash select one of the partitions, and the next bits are stored together
//! with the place. With 34 bits in total, a list of 10 million rows has about 3,000 pairs of rows
//! with equal hashes and different addresses.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

const PARTITION_BITS: u32 = 10;
const TAG_BITS: u32 = 24;
const PLACE_BITS: u32 = 40;
/// The number of entries that are allocated at once. A growing `Vec` would use up to three times
/// the memory of its entries while it grows.
const PAGE: usize = 256;

/// The maximum size of a list, in bytes: a place has 40 bits.
pub const MAX_SIZE: u64 = 1 << PLACE_BITS;

/// The rows of a list by the hashes of their addresses.
pub struct AddressTable {
    // The keys of the hash are random, so nobody can write a list with many equal hashes.
    hasher: RandomState,
    partitions: Vec<Vec<Vec<u64>>>,
}

/// The rows whose address occurs in an earlier row.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Repeats {
    /// The sorted places of the rows.
    pub places: Vec<u64>,
    /// The first of these rows, each with the place of the earlier row.
    pub examples: Vec<(u64, u64)>,
    /// The number of rows whose address differs from the address of an earlier row only in the case
    /// of the local part. They are not in `places`.
    pub similar: u64,
    /// The first of these rows.
    pub similar_examples: Vec<u64>,
}

/// The number of examples.
pub const EXAMPLES: usize = 3;

impl Default for AddressTable {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            partitions: vec![Vec::new(); 1 << PARTITION_BITS],
        }
    }
}

impl AddressTable {
    /// Adds a row. `folded` is its address in lower case.
    pub fn add(&mut self, folded: &str, place: u64) {
        let hash = self.hasher.hash_one(folded);
        let number = hash >> (u64::BITS - PARTITION_BITS);
        let tag = (hash << PARTITION_BITS) >> (u64::BITS - TAG_BITS);
        let partition = &mut self.partitions[number as usize];
        if partition.last().is_none_or(|page| page.len() == PAGE) {
            partition.push(Vec::with_capacity(PAGE));
        }
        if let Some(page) = partition.last_mut() {
            page.push((tag << PLACE_BITS) | (place & (MAX_SIZE - 1)));
        }
    }

    /// Finds the repetitions. `address_at` returns the address of the row at a place, not in lower
    /// case.
    ///
    /// # Errors
    ///
    /// The errors of `address_at`.
    pub fn repeats<E>(
        self,
        mut address_at: impl FnMut(u64) -> Result<String, E>,
    ) -> Result<Repeats, E> {
        let mut found = Repeats::default();
        for pages in self.partitions {
            let mut entries = pages.concat();
            drop(pages);
            entries.sort_unstable();
            for same in entries.chunk_by(|one, other| one >> PLACE_BITS == other >> PLACE_BITS) {
                if same.len() > 1 {
                    found.compare(same, &mut address_at)?;
                }
            }
        }
        found.places.sort_unstable();
        Ok(found)
    }
}

impl Repeats {
    /// Compares the addresses of rows with the same hash, in the order of the file.
    fn compare<E>(
        &mut self,
        entries: &[u64],
        address_at: &mut impl FnMut(u64) -> Result<String, E>,
    ) -> Result<(), E> {
        let mut known = HashMap::new();
        let mut folded = HashSet::new();
        for entry in entries {
            let place = entry & (MAX_SIZE - 1);
            let address = address_at(place)?;
            let is_similar = !folded.insert(address.to_ascii_lowercase());
            match known.entry(address) {
                Entry::Occupied(first) => {
                    self.places.push(place);
                    insert(&mut self.examples, (place, *first.get()));
                }
                Entry::Vacant(new) => {
                    new.insert(place);
                    if is_similar {
                        self.similar += 1;
                        insert(&mut self.similar_examples, place);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Inserts an example into a sorted list, and keeps the first of the list.
fn insert<Example: Ord>(examples: &mut Vec<Example>, example: Example) {
    let place = examples.partition_point(|each| *each < example);
    examples.insert(place, example);
    examples.truncate(EXAMPLES);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn repeats(addresses: &[&str]) -> Repeats {
        let mut table = AddressTable::default();
        for (place, address) in (0..).zip(addresses) {
            table.add(&address.to_ascii_lowercase(), place);
        }
        let at = |place: u64| Ok::<_, Infallible>(addresses[place as usize].to_owned());
        table.repeats(at).unwrap()
    }

    #[test]
    fn equal_addresses_are_found() {
        let found = repeats(&["a@x", "b@x", "a@x", "A@x", "a@x", "A@x", "c@x"]);
        assert_eq!(found.places, [2, 4, 5]);
        assert_eq!(found.examples, [(2, 0), (4, 0), (5, 3)]);
        assert_eq!((found.similar, found.similar_examples), (1, vec![3]));
        assert_eq!(repeats(&["a@x", "b@x"]), Repeats::default());
    }

    #[test]
    fn equal_hashes_of_different_addresses_are_no_repetition() {
        let mut table = AddressTable::default();
        let names: HashMap<u64, &str> = HashMap::from([(0, "a@x"), (1, "b@x"), (2, "a@x")]);
        for place in 0..3 {
            table.add("same", place);
        }
        let found = table.repeats(|place| Ok::<_, Infallible>(names[&place].to_owned()));
        assert_eq!(found.map(|each| each.places), Ok(vec![2]));
    }

    #[test]
    fn many_rows_are_found_in_order() {
        let addresses: Vec<String> = (0..20_000)
            .map(|row| format!("{}@x", row % 7_000))
            .collect();
        let found = repeats(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(found.places, (7_000..20_000).collect::<Vec<u64>>());
        assert_eq!(found.examples, [(7_000, 0), (7_001, 1), (7_002, 2)]);
    }
}
