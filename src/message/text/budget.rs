//! What one rendering may cost.
//!
//! A template can come from outside, and `{{ "a" * 10 ** 9 }}` must not end the process. Jinja2's
//! sandbox bounds `range()` alone, which is refused here anyway; these bounds are ours, and far
//! beyond what any message needs.

use num_bigint::BigInt;

use crate::message::RowError;

/// Expressions looked at, items of lists made or compared: about 0.1 s of work.
const STEPS: usize = 2_000_000;

/// Octets written or joined together on the way: more than any relay takes as a message.
const OCTETS: usize = 64 << 20;

/// Digits of an integer that Python turns into text (`sys.int_info.default_max_str_digits`).
pub(super) const DIGITS: usize = 4300;

/// Bits of the largest integer: well over [`DIGITS`] digits.
const BITS: u64 = 20 << 10;

/// What is left to spend.
pub(super) struct Budget {
    steps: usize,
    octets: usize,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self {
            steps: STEPS,
            octets: OCTETS,
        }
    }

    /// Spend steps, before they are done.
    #[inline]
    pub(super) fn work(&mut self, steps: usize) -> Result<(), RowError> {
        match self.steps.checked_sub(steps) {
            Some(left) => self.steps = left,
            None => return Err(RowError::new("the template takes too much work")),
        }
        Ok(())
    }

    /// Spend octets, before they are written.
    #[inline]
    pub(super) fn write(&mut self, octets: usize) -> Result<(), RowError> {
        match self.octets.checked_sub(octets) {
            Some(left) => self.octets = left,
            None => return Err(RowError::new("the text becomes too long")),
        }
        Ok(())
    }

    /// Bound an integer by its bits before it is computed, and spend what that costs.
    pub(super) fn integer(&mut self, bits: u64) -> Result<(), RowError> {
        if bits > BITS {
            return Err(RowError::new("an integer becomes too large"));
        }
        let words = usize::try_from(bits / 64).unwrap_or(usize::MAX);
        self.work(words.saturating_mul(words) / 16)
    }

    /// The same for an integer that is there already.
    pub(super) fn known_integer(&mut self, value: &BigInt) -> Result<(), RowError> {
        self.integer(value.bits())
    }
}
