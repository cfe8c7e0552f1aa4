//! Which of several compiled kernels computes an operation.

use std::fmt;

/// One of the kernels that an operation has for its shapes, by name. All give the same bits; `plan` takes the one that is
/// expected to be fastest, and `plan_with` another one: for tuning, and for those who measured.
///
/// Names stay as long as the kernels do: they may be kept in files, and one that a version does not have any more is an error
/// of `plan_with`, not another kernel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tuning(String);

impl Tuning {
    /// The tuning of this name; whether there is one, `plan_with` says.
    pub fn named(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
