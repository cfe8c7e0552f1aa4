//! What kernels report of data.

use std::fmt;
use std::ops::BitOr;

use super::bindings::{
    FAULT_CACHE_SLOT, FAULT_EXPERT_ID, FAULT_KINDS, FAULT_NONFINITE_INPUT, FAULT_NONFINITE_SCORE,
    FAULT_PAGE_ID, FAULT_POSITION, FAULT_SEGMENT, FAULT_SEQUENCE_LENGTH,
};

/// Bad data that kernels met and that the host cannot see without waiting: `DeviceFault` in `cuda/faults.h`, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataFaults(pub(super) u32);

/// The table of faults: a constant, a question and a text for each.
macro_rules! faults {
    ($($(#[$doc:meta])* $constant:ident, $method:ident, $fault:ident, $text:literal;)*) => {
        impl DataFaults {
            $($(#[$doc])* pub const $constant: Self = Self(1 << $fault);)*

            $($(#[$doc])*
            pub const fn $method(self) -> bool {
                self.0 & Self::$constant.0 != 0
            })*

            const TEXTS: [(Self, &str); FAULT_KINDS as usize] = [$((Self::$constant, $text)),*];
        }
    };
}

faults! {
    /// A quantiser met Inf (saturated) or NaN (kept), each in its own element only, or was given a scale of 0, Inf or NaN.
    NONFINITE_INPUT, nonfinite_input, FAULT_NONFINITE_INPUT,
        "Inf or NaN in the input of a quantiser, or a scale of 0 for it";
    /// The rows of an expert were not within the rows there are, or not in order; they were cut.
    SEGMENT, segment, FAULT_SEGMENT, "rows of an expert out of order or outside the rows there are";
    /// An expert id was neither -1 nor one of the experts; it was treated as -1.
    EXPERT_ID, expert_id, FAULT_EXPERT_ID, "ids of experts that there are not";
    /// A page table named a page that the cache does not have; its keys were zeros.
    PAGE_ID, page_id, FAULT_PAGE_ID, "pages that the cache does not have";
    /// A sequence was longer than its pages, or than there are rows, or its length negative, as where offsets are out of order;
    /// it was cut.
    SEQUENCE_LENGTH, sequence_length, FAULT_SEQUENCE_LENGTH,
        "sequences longer than their pages, or together than said, or of negative length";
    /// A slot was neither -1 nor a row of the KV cache; its token was not stored.
    CACHE_SLOT, cache_slot, FAULT_CACHE_SLOT, "slots that are no rows of the cache";
    /// A position was not in the table of angles; what it belongs to became zeros.
    POSITION, position, FAULT_POSITION, "positions beyond the table of angles";
    /// A router met Inf or NaN in the logits of a token that is not padding, or in its bias, where only -Inf means something;
    /// or attention met a row of a split whose every visible score is -Inf. The choice, and the row, follow their rule.
    NONFINITE_SCORE, nonfinite_score, FAULT_NONFINITE_SCORE,
        "Inf or NaN in the scores of a router or of attention";
}

impl DataFaults {
    /// Nothing.
    pub const NONE: Self = Self(0);
}

impl BitOr for DataFaults {
    type Output = Self;

    /// The faults of both.
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for DataFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut met = Self::TEXTS.iter().filter(|(fault, _)| self.0 & fault.0 != 0).map(|(_, text)| text);
        match met.next() {
            Some(first) => met.try_fold(f.write_str(first)?, |(), text| write!(f, "; {text}")),
            None if *self == Self::NONE => f.write_str("nothing"),
            None => write!(f, "unknown bits {:#x}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn bad_data_are_named_in_words() {
        for (bits, text) in [
            (1 << FAULT_PAGE_ID, "pages that the cache does not have"),
            (
                1 << FAULT_SEQUENCE_LENGTH,
                "sequences longer than their pages, or together than said, or of negative length",
            ),
            (1 << FAULT_CACHE_SLOT, "slots that are no rows of the cache"),
            (1 << FAULT_POSITION, "positions beyond the table of angles"),
            (
                1 << FAULT_POSITION | 1 << FAULT_CACHE_SLOT,
                "slots that are no rows of the cache; positions beyond the table of angles",
            ),
            (1 << 31, "unknown bits 0x80000000"),
        ] {
            let error = Error::Data(DataFaults(bits));
            assert_eq!(error.to_string(), format!("kernels reported bad data: {text}"));
        }
    }
}
