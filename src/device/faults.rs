//! What kernels report of data.

use std::fmt;

use super::bindings::{
    DeviceFault, FAULT_CACHE_SLOT, FAULT_EXPERT_ID, FAULT_NONFINITE_INPUT, FAULT_PAGE_ID, FAULT_POSITION,
    FAULT_SEGMENT, FAULT_SEQUENCE_LENGTH,
};

/// Bad data that kernels met and that the host cannot see without waiting: `DeviceFault` in `cuda/faults.h`, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataFaults(pub(super) u32);

impl DataFaults {
    fn met(self, fault: DeviceFault) -> bool {
        self.0 & (1 << fault) != 0
    }

    /// A quantiser met Inf (saturated) or NaN (kept), each in its own element only.
    pub fn nonfinite_input(self) -> bool {
        self.met(FAULT_NONFINITE_INPUT)
    }

    /// The rows of an expert were not within the rows there are, or not in order; they were cut.
    pub fn segment(self) -> bool {
        self.met(FAULT_SEGMENT)
    }

    /// A page table named a page that the cache does not have; its keys were zeros.
    pub fn page_id(self) -> bool {
        self.met(FAULT_PAGE_ID)
    }

    /// A sequence was longer than its pages, or its length negative; it was cut.
    pub fn sequence_length(self) -> bool {
        self.met(FAULT_SEQUENCE_LENGTH)
    }

    /// An expert id was neither -1 nor one of the experts; it was treated as -1.
    pub fn expert_id(self) -> bool {
        self.met(FAULT_EXPERT_ID)
    }

    /// A slot was neither -1 nor a row of the KV cache; its token was not stored.
    pub fn cache_slot(self) -> bool {
        self.met(FAULT_CACHE_SLOT)
    }

    /// A position was not in the table of angles; what it belongs to became zeros.
    pub fn position(self) -> bool {
        self.met(FAULT_POSITION)
    }
}

impl fmt::Display for DataFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = [
            (self.nonfinite_input(), "Inf or NaN in the input of a quantiser"),
            (self.segment(), "rows of an expert out of order or outside the rows there are"),
            (self.expert_id(), "ids of experts that there are not"),
            (self.page_id(), "pages that the cache does not have"),
            (self.sequence_length(), "sequences longer than their pages, or of negative length"),
            (self.cache_slot(), "slots that are no rows of the cache"),
            (self.position(), "positions beyond the table of angles"),
        ];
        let mut met = faults.iter().filter(|(met, _)| *met).map(|(_, text)| text);
        match met.next() {
            Some(first) => met.try_fold(f.write_str(first)?, |(), text| write!(f, "; {text}")),
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
            (1 << FAULT_SEQUENCE_LENGTH, "sequences longer than their pages, or of negative length"),
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
