//! Limits on the steps and the output of one rendering. If a limit is exceeded, rendering the row
//! fails.
//!
//! A template can come from an untrusted source, and `{{ "a" * 10 ** 9 }}` must not exhaust the
//! memory. Jinja2's sandbox limits only `range()`, and the subset does not allow `range()`. So this
//! module has its own limits. These limits are far above the needs of any message.

use num_bigint::BigInt;

use crate::message::RowError;

/// The maximum number of steps in one rendering. One step is the evaluation of an expression, or
/// the creation or comparison of a list item. A rendering with the maximum number of steps takes
/// about 0.1 s.
const STEPS: usize = 2_000_000;

/// The maximum number of bytes that one rendering writes or concatenates. It is larger than any
/// message that relays accept.
const WRITTEN_BYTES: usize = 64 << 20;

/// The maximum number of digits of an integer that Python converts to text
/// (`sys.int_info.default_max_str_digits`). Converting a longer integer is an error in both
/// backends.
pub(super) const DIGITS: usize = 4300;

/// The maximum size of an integer, in bits. Computing a larger integer is an error. An integer of
/// the maximum size has more than [`DIGITS`] digits, so every integer that can be converted to text
/// is allowed.
const BITS: u64 = 20 << 10;

/// The remaining budget of one rendering.
pub(super) struct Budget {
    steps: usize,
    bytes: usize,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self {
            steps: STEPS,
            bytes: WRITTEN_BYTES,
        }
    }

    /// Subtracts steps from the budget before they are executed. Returns an error if the budget is
    /// too small.
    #[inline]
    pub(super) fn work(&mut self, steps: usize) -> Result<(), RowError> {
        match self.steps.checked_sub(steps) {
            Some(left) => self.steps = left,
            None => return Err(RowError::new("rendering the template takes too many steps")),
        }
        Ok(())
    }

    /// Subtracts bytes from the budget before they are written. Returns an error if the budget is
    /// too small.
    #[inline]
    pub(super) fn write(&mut self, bytes: usize) -> Result<(), RowError> {
        match self.bytes.checked_sub(bytes) {
            Some(left) => self.bytes = left,
            None => return Err(RowError::new("the rendered text is too long")),
        }
        Ok(())
    }

    /// Checks the size of an integer, in bits, before the integer is computed, and subtracts the
    /// steps of this computation.
    pub(super) fn integer(&mut self, bits: u64) -> Result<(), RowError> {
        if bits > BITS {
            return Err(RowError::new("an integer is too large"));
        }
        let words = usize::try_from(bits / 64).unwrap_or(usize::MAX);
        self.work(words.saturating_mul(words) / 16)
    }

    /// Does the same as [`Budget::integer`] for an integer that already exists.
    pub(super) fn known_integer(&mut self, value: &BigInt) -> Result<(), RowError> {
        self.integer(value.bits())
    }
}
