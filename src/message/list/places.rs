//! A set of rows, by their places in the file.

/// The number of entries that are allocated at once. A growing `Vec` would use up to three times
/// the memory of its entries while it grows.
pub const PAGE: usize = 256;

const BUCKET_BITS: u32 = 10;

/// A set of places. The file is divided into equal parts, with one sorted bucket for each part. The
/// buckets are small, so they fit into the memory that other small allocations have released.
#[derive(Debug, Default)]
pub struct Places {
    buckets: Vec<Vec<u64>>,
    /// The number of low bits of a place that do not select the bucket.
    shift: u32,
    count: usize,
}

impl Places {
    /// Creates an empty set for a file with this size in bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        let bits = u64::BITS - size.leading_zeros();
        Self {
            buckets: vec![Vec::new(); 1 << BUCKET_BITS],
            shift: bits.saturating_sub(BUCKET_BITS),
            count: 0,
        }
    }

    /// Adds a place that is not in the set. `sort` must be called before `contains`.
    pub fn insert(&mut self, place: u64) {
        if let Some(bucket) = self.buckets.get_mut((place >> self.shift) as usize) {
            if bucket.len() == bucket.capacity() {
                bucket.reserve_exact(PAGE);
            }
            bucket.push(place);
            self.count += 1;
        }
    }

    /// Sorts the set, so that `contains` finds its places.
    pub fn sort(&mut self) {
        for bucket in &mut self.buckets {
            bucket.sort_unstable();
        }
    }

    /// Whether a place is in the set.
    #[must_use]
    pub fn contains(&self, place: u64) -> bool {
        let bucket = self.buckets.get((place >> self.shift) as usize);
        bucket.is_some_and(|bucket| bucket.binary_search(&place).is_ok())
    }

    /// The number of places.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_files_of_all_sizes_are_found() {
        for size in [0, 1, 1000, 1024, 1025, 5_000_000, 1 << 39] {
            let mut places = Places::new(size);
            assert!(places.is_empty());
            let step = size / 3000 + 1;
            let inside = |number: u64| (number * step).min(size);
            for number in (0..3000).rev().filter(|number| number * step <= size) {
                places.insert(inside(number));
            }
            places.sort();
            assert_eq!(places.len() as u64, (size / step).min(2999) + 1);
            assert!((0..3000).all(|number| places.contains(inside(number).min(2999 * step))));
            assert!(step == 1 || !places.contains(1));
        }
    }
}
