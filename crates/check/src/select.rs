//! The cases that a command takes, chosen by operation and by shape.

use std::collections::BTreeSet;

use clap::Args;

use crate::case::{Case, Cases};
use crate::families::FAMILIES;

/// Which cases of all there are.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Take only these operations: `fp8_gemm`, `gemm::fp8_gemm`, all of a family (`gemm`), or all of a name that others
    /// lengthen (`mla_decode`)
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    pub op: Vec<String>,

    /// Take only cases of this shape, or with this part of one: `64x2112x7168`, `7168`
    #[arg(long, value_name = "TEXT")]
    pub shape: Option<String>,
}

/// Names that a message has room for.
const NAMED: usize = 12;

impl Selection {
    /// The cases that are asked for, in their order.
    ///
    /// # Errors
    /// In one line: an operation that no case has, or a shape that none of the operations' cases has, and what there is.
    pub fn select(&self, cases: Cases) -> Result<Cases, String> {
        for name in &self.op {
            if !cases.iter().any(|case| is_of(&**case, name)) {
                let there = listed(cases.iter().map(|case| case.operation().to_owned()));
                return Err(format!("no operation is called {name}; there are {there}"));
            }
        }
        let asked = |case: &dyn Case| self.op.is_empty() || self.op.iter().any(|name| is_of(case, name));
        let cases: Cases = cases.into_iter().filter(|case| asked(&**case)).collect();
        let Some(shape) = &self.shape else { return Ok(cases) };
        let there = listed(cases.iter().map(|case| spelt(&case.shape())));
        let chosen: Cases = cases.into_iter().filter(|case| has_shape(&**case, shape)).collect();
        if chosen.is_empty() {
            return Err(format!("no case has the shape {shape}; there are {there}"));
        }
        Ok(chosen)
    }
}

/// Whether a name is the operation's, its family's, or that of a longer one. What is called so itself is meant alone.
fn is_of(case: &dyn Case, name: &str) -> bool {
    let (family, name) = match name.split_once("::") {
        Some((family, name)) => (Some(family), name),
        None => (None, name),
    };
    let families: Vec<_> = FAMILIES.iter().map(|family| (family.name, operations(family.name))).collect();
    let own = families.iter().find(|(_, operations)| operations.contains(case.operation()));
    let own = own.map_or("", |&(family, _)| family);
    if family.is_some_and(|family| family != own) {
        return false;
    }
    let whole = families.iter().any(|(_, operations)| operations.contains(name));
    let longer = || case.operation().strip_prefix(name).is_some_and(|rest| rest.starts_with('_'));
    case.operation() == name || (family.is_none() && own == name) || (!whole && longer())
}

/// What a family's cases are of.
fn operations(family: &str) -> BTreeSet<&'static str> {
    let cases = FAMILIES.iter().filter(|of| of.name == family).flat_map(|of| (of.smoke)());
    cases.map(|case| case.operation()).collect()
}

/// Whether the text is the case's shape or label, or a part of it that cuts no number.
fn has_shape(case: &dyn Case, text: &str) -> bool {
    let text = spelt(text);
    let within = |whole: String| {
        whole.match_indices(&text).any(|(at, _)| {
            let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
            let (before, behind) = (&whole[..at], &whole[at + text.len()..]);
            let cut_before = digit(before.chars().next_back()) && digit(text.chars().next());
            let cut_behind = digit(behind.chars().next()) && digit(text.chars().next_back());
            !cut_before && !cut_behind
        })
    };
    !text.is_empty() && (within(spelt(&case.shape())) || within(case.label()))
}

/// A shape as an option has it.
fn spelt(shape: &str) -> String {
    let letters = shape.chars().filter(|c| !c.is_whitespace());
    letters.map(|c| if matches!(c, 'X' | '\u{d7}') { 'x' } else { c }).collect()
}

/// Each once, and no more than a line takes.
fn listed(names: impl Iterator<Item = String>) -> String {
    let mut seen = BTreeSet::new();
    let names: Vec<String> = names.filter(|name| seen.insert(name.clone())).collect();
    let more = names.len().saturating_sub(NAMED);
    let few = names[..names.len() - more].join(", ");
    if more == 0 { few } else { format!("{few} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::{self, Extent};

    fn selected(op: &[&str], shape: Option<&str>) -> Result<Vec<String>, String> {
        let op = op.iter().map(ToString::to_string).collect();
        let selection = Selection { op, shape: shape.map(str::to_owned) };
        let mut cases = families::all(|family| (family.smoke)());
        cases.extend(families::all(|family| (family.timed)(Extent::Reduced)));
        Ok(selection.select(cases)?.iter().map(|case| case.name()).collect())
    }

    fn operations_of(names: &[String]) -> BTreeSet<&str> {
        names.iter().filter_map(|name| Some(name.split_once('/')?.0)).collect()
    }

    #[test]
    fn an_operation_has_several_names() {
        for (op, operations) in [
            (&["fp8_gemm"][..], &["fp8_gemm"][..]),
            (&["gemm::fp8_gemm"], &["fp8_gemm"]),
            (&["gemm"], &["fp8_gemm", "grouped_fp8_gemm"]),
            (&["gate", "expert_map"], &["expert_map", "gate"]),
            (&["quantize"], &["quantize_128x128", "quantize_1x128"]),
            (&["mla::mla_decode"], &["mla_decode_bf16", "mla_decode_fp8", "mla_decode_fp8_per_tensor"]),
            (&["mla_decode_fp8"], &["mla_decode_fp8"]),
        ] {
            let names = selected(op, None).unwrap();
            assert_eq!(operations_of(&names), operations.iter().copied().collect(), "{op:?}");
        }
    }

    #[test]
    fn nothing_asked_for_is_everything_and_in_order() {
        let all = selected(&[], None).unwrap();
        assert!(operations_of(&all).len() > 20);
        let some = selected(&["gemm"], None).unwrap();
        let kept: Vec<_> = all.iter().filter(|name| some.contains(name)).collect();
        assert_eq!(kept, some.iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_shape_is_found_whole_or_in_part_and_no_number_is_cut() {
        let names = selected(&["fp8_gemm"], Some("200 x 2112 x 256")).unwrap();
        assert_eq!(names, ["fp8_gemm/200x2112x256_bf16"]);
        assert_eq!(selected(&["fp8_gemm"], Some("200X2112\u{d7}256")).unwrap(), names);
        assert_eq!(selected(&["fp8_gemm"], Some("200x2112x256_bf16")).unwrap(), names);
        assert_eq!(selected(&["fp8_gemm"], Some("2112x256")).unwrap().len(), 3);
        assert!(selected(&["fp8_gemm"], Some("112x256")).is_err());
        assert!(selected(&["fp8_gemm"], Some("")).is_err());
    }

    #[test]
    fn what_nothing_has_is_told_with_what_there_is() {
        let message = selected(&["bf16_gemm"], None).unwrap_err();
        assert!(
            message.starts_with("no operation is called bf16_gemm; there are fp8_gemm, grouped_fp8_gemm, "),
            "{message}"
        );
        assert!(message.ends_with(" more") && !message.contains('\n'), "{message}");
        let message = selected(&["router::fp8_gemm"], None).unwrap_err();
        assert!(message.starts_with("no operation is called router::fp8_gemm; "), "{message}");
        let message = selected(&["bias_update"], Some("9x9")).unwrap_err();
        assert_eq!(message, "no case has the shape 9x9; there are 258, 600, 32");
        let message = selected(&["fp8_gemm"], Some("1x8x128")).unwrap_err();
        assert!(message.starts_with("no case has the shape 1x8x128; there are "), "{message}");
    }
}
