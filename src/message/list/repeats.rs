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

use super::places::{PAGE, Places};

const PARTITION_BITS: u32 = 10;
const TAG_BITS: u32 = 24;
const PLACE_BITS: u32 = 40;
/// The maximum size of a list, in bytes: a place has 40 bits.
pub const MAX_SIZE: u64 = 1 << PLACE_BITS;

/// The rows of a list by the hashes of their addresses.
pub struct AddressTable {
    // The keys of the hash are random, so the author of a list cannot choose equal hashes.
    hasher: RandomState,
    partitions: Vec<Vec<Vec<u64>>>,
}

/// The rows whose address occurs in an earlier row.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Repeats {
    /// The number of rows.
    pub count: u64,
    /// The first of these rows, each with the place of the earlier row.
    pub examples: Vec<(u64, u64)>,
    /// The number of rows whose address differs from the address of an earlier row only in the case
    /// of the local part. They are not counted in `count`.
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

    /// Finds the repetitions, and adds their places to `places`.
    ///
    /// `address_at` writes the address of the row at a place, not in lower case.
    ///
    /// # Errors
    ///
    /// The errors of `address_at`.
    pub fn repeats<E>(
        self,
        places: &mut Places,
        mut address_at: impl FnMut(u64, &mut String) -> Result<(), E>,
    ) -> Result<Repeats, E> {
        let mut found = Repeats::default();
        let mut texts = (String::new(), String::new());
        for pages in self.partitions {
            let mut entries = pages.concat();
            drop(pages);
            entries.sort_unstable();
            for same in entries.chunk_by(|one, other| one >> PLACE_BITS == other >> PLACE_BITS) {
                match same {
                    [_] => {}
                    [first, other] => {
                        let (first, other) = (place_of(*first), place_of(*other));
                        address_at(first, &mut texts.0)?;
                        address_at(other, &mut texts.1)?;
                        if texts.0 == texts.1 {
                            found.add(places, other, first);
                        } else if texts.0.eq_ignore_ascii_case(&texts.1) {
                            found.add_similar(other);
                        }
                    }
                    _ => found.compare(same, places, &mut address_at)?,
                }
            }
        }
        Ok(found)
    }
}

/// Returns the place of a row in the file.
fn place_of(entry: u64) -> u64 {
    entry & (MAX_SIZE - 1)
}

impl Repeats {
    /// Compares the addresses of rows with the same hash, in the order of the file.
    fn compare<E>(
        &mut self,
        entries: &[u64],
        places: &mut Places,
        address_at: &mut impl FnMut(u64, &mut String) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut known = HashMap::new();
        let mut folded = HashSet::new();
        for entry in entries {
            let place = place_of(*entry);
            let mut address = String::new();
            address_at(place, &mut address)?;
            let is_similar = !folded.insert(address.to_ascii_lowercase());
            match known.entry(address) {
                Entry::Occupied(first) => self.add(places, place, *first.get()),
                Entry::Vacant(new) => {
                    new.insert(place);
                    if is_similar {
                        self.add_similar(place);
                    }
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, places: &mut Places, place: u64, first: u64) {
        self.count += 1;
        places.insert(place);
        insert(&mut self.examples, (place, first));
    }

    fn add_similar(&mut self, place: u64) {
        self.similar += 1;
        insert(&mut self.similar_examples, place);
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
    use std::convert::Infallible;

    fn repeats(addresses: &[&str]) -> (Vec<u64>, Repeats) {
        let mut table = AddressTable::default();
        for (place, address) in (0..).zip(addresses) {
            table.add(&address.to_ascii_lowercase(), place);
        }
        let mut places = Places::new(addresses.len() as u64);
        let at = |place: u64, text: &mut String| {
            text.replace_range(.., addresses[place as usize]);
            Ok::<_, Infallible>(())
        };
        let found = table.repeats(&mut places, at).unwrap();
        places.sort();
        let rows = 0..addresses.len() as u64;
        (
            rows.filter(|&place| places.contains(place)).collect(),
            found,
        )
    }

    #[test]
    fn equal_addresses_are_found() {
        let (places, found) = repeats(&["a@x", "b@x", "a@x", "A@x", "a@x", "A@x", "c@x"]);
        assert_eq!(places, [2, 4, 5]);
        assert_eq!((found.count, found.similar), (3, 1));
        assert_eq!(found.examples, [(2, 0), (4, 0), (5, 3)]);
        assert_eq!(found.similar_examples, [3]);
        let (places, found) = repeats(&["a@x", "b@x", "a@x", "B@x"]);
        assert_eq!((places, found.examples), (vec![2], vec![(2, 0)]));
        assert_eq!(found.similar_examples, [3]);
        assert_eq!(repeats(&["a@x", "b@x"]), (vec![], Repeats::default()));
    }

    #[test]
    fn equal_hashes_of_different_addresses_are_no_repetition() {
        for names in [vec!["a@x", "b@x", "a@x"], vec!["a@x", "b@x"]] {
            let mut table = AddressTable::default();
            for place in 0..names.len() as u64 {
                table.add("same", place);
            }
            let mut places = Places::new(10);
            let at = |place: u64, text: &mut String| {
                text.replace_range(.., names[place as usize]);
                Ok::<_, Infallible>(())
            };
            let found = table.repeats(&mut places, at).unwrap();
            assert_eq!(found.count, names.len() as u64 - 2);
            assert_eq!(places.contains(2), names.len() == 3);
        }
    }

    #[test]
    fn many_rows_are_found_in_order() {
        let addresses: Vec<String> = (0..20_000)
            .map(|row| format!("{}@x", row % 7_000))
            .collect();
        let (places, found) = repeats(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(places, (7_000..20_000).collect::<Vec<u64>>());
        assert_eq!(found.examples, [(7_000, 0), (7_001, 1), (7_002, 2)]);
    }
}
