//! A set of rows, by their indexes in the list.

/// A set of rows, with one bit of memory for each row up to the last one in the set.
#[derive(Debug, Default)]
pub struct RowSet {
    words: Vec<u64>,
    count: u64,
}

impl RowSet {
    /// Adds a row that is not in the set.
    pub fn insert(&mut self, row: u64) {
        let (word, bit) = place(row);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= bit;
        self.count += 1;
    }

    /// Adds the rows of another set. The sets have no common row.
    pub fn insert_all(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, added) in self.words.iter_mut().zip(&other.words) {
            *word |= added;
        }
        self.count += other.count;
    }

    /// Whether a row is in the set.
    #[must_use]
    pub fn contains(&self, row: u64) -> bool {
        let (word, bit) = place(row);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

fn place(row: u64) -> (usize, u64) {
    ((row / 64) as usize, 1 << (row % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found() {
        let mut rows = RowSet::default();
        assert!(rows.is_empty() && !rows.contains(0));
        let added = [130, 0, 63, 64, 65, 10_000_000];
        for row in added {
            rows.insert(row);
        }
        assert_eq!(rows.len(), added.len() as u64);
        let found: Vec<u64> = (0..10_000_100).filter(|&row| rows.contains(row)).collect();
        assert_eq!(found, [0, 63, 64, 65, 130, 10_000_000]);
        let mut more = RowSet::default();
        more.insert(1);
        more.insert_all(&rows);
        assert_eq!(more.len(), 7);
        assert!((0..=1).all(|row| more.contains(row)) && more.contains(10_000_000));
    }
}
