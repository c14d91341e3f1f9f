//! Finds the rows of a campaign's list whose key occurs in an earlier row, and the first row with
//! this key.
//!
//! The caller stores the hashes of all keys, for example in a temporary file. They are read several
//! times. Each time, only one part of the hashes is kept in memory. So the memory does not depend on
//! the number of rows. `repeats` is faster, keeps 8 bytes for each row in memory, and finds the
//! first row only for examples.

/// One part of the keys of a list.
pub struct RepeatedKeys {
    mask: u64,
    part: u64,
    row: u64,
    entries: Vec<(u64, u64)>,
}

impl RepeatedKeys {
    /// Creates an empty part.
    ///
    /// # Arguments
    ///
    /// - `part`: the number of the part, from 0.
    /// - `parts`: the number of parts, a power of two.
    #[must_use]
    pub fn new(part: u64, parts: u64) -> Self {
        Self {
            mask: parts - 1,
            part,
            row: 0,
            entries: Vec::new(),
        }
    }

    /// Adds the hashes of the next rows; 0 for a row without a key.
    pub fn add(&mut self, hashes: impl IntoIterator<Item = u64>) {
        for hash in hashes {
            self.row += 1;
            if hash & self.mask == self.part && hash != 0 {
                self.entries.push((hash, self.row));
            }
        }
    }

    /// Returns the rows of this part whose key occurs in an earlier row, and the first row with this
    /// key. Rows are counted from 1.
    #[must_use]
    pub fn finish(mut self) -> Vec<(u64, u64)> {
        self.entries.sort_unstable();
        let same = self.entries.chunk_by(|one, other| one.0 == other.0);
        same.flat_map(|rows| rows[1..].iter().map(|&(_, row)| (row, rows[0].1)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_finds_its_rows() {
        let hashes = [5, 6, 0, 5, 7, 0, 6, 5, 8];
        let mut found = Vec::new();
        for part in 0..4 {
            let mut keys = RepeatedKeys::new(part, 4);
            keys.add(hashes[..4].iter().copied());
            keys.add(hashes[4..].iter().copied());
            found.extend(keys.finish());
        }
        found.sort_unstable();
        assert_eq!(found, [(4, 1), (7, 2), (8, 1)]);
    }
}
