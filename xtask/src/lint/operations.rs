//! The tables of operations, README's and the library's, name what the code has.

use std::collections::BTreeSet;

use super::Finding;
use super::families::FAMILIES;
use super::source::{Source, identifiers};

/// The files with a table.
const TABLES: [&str; 2] = ["README.md", "src/lib.rs"];

pub fn check(sources: &[Source]) -> Vec<Finding> {
    let planned: BTreeSet<String> = sources.iter().flat_map(planned).collect();
    let tables = sources.iter().filter(|source| TABLES.contains(&source.path.as_str()));
    tables.flat_map(|table| compare(table, &planned, sources)).collect()
}

fn compare(table: &Source, planned: &BTreeSet<String>, sources: &[Source]) -> Vec<Finding> {
    let named: BTreeSet<String> = table.text.lines().filter(|line| is_row(line)).flat_map(names).collect();
    let missing = planned.difference(&named).map(|name| format!("no row names `{name}`"));
    let strangers = named.iter().filter(|name| !sources.iter().any(|source| declares(source, name)));
    let strange = strangers.map(|name| format!("`{name}` is no type of that family"));
    missing.chain(strange).map(|message| Finding::new(table, 0, message)).collect()
}

/// The family of a file of operations.
fn family(source: &Source) -> Option<&str> {
    let (family, _) = source.path.strip_prefix("src/")?.split_once('/')?;
    FAMILIES.iter().any(|(name, _)| *name == family).then_some(family)
}

/// `family::Type` of every type with a plan.
fn planned(source: &Source) -> Vec<String> {
    let Some(family) = family(source) else { return Vec::new() };
    let code = &source.code;
    let types = code.match_indices("pub fn plan(").filter_map(|(at, _)| {
        let start = code[..at].rfind("\nimpl")? + "\nimpl".len();
        let head = code[start..].split('{').next()?;
        // Past the parameters of `impl<D: Output> Gemm<D>`.
        let head =
            head.strip_prefix('<').and_then(|rest| rest.split_once('>')).map_or(head, |(_, rest)| rest);
        identifiers(head).next().map(|(_, name)| name)
    });
    types.map(|name| format!("{family}::{name}")).collect()
}

/// Whether the file declares the type that `family::Type` names.
fn declares(source: &Source, name: &str) -> bool {
    let Some((wanted, kind)) = name.split_once("::") else { return false };
    let declaration = format!("pub struct {kind}");
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let mut found = source.code.match_indices(&declaration);
    family(source) == Some(wanted) && found.any(|(at, _)| ends(&source.code[at + declaration.len()..]))
}

/// A row of a table, in a document or in a comment.
fn is_row(line: &str) -> bool {
    line.trim_start_matches("//! ").starts_with("| ")
}

/// Every `family::Type` between backticks.
fn names(line: &str) -> Vec<String> {
    let quoted = line.split('`').skip(1).step_by(2);
    let is_name = |text: &&str| {
        text.split_once("::").is_some_and(|(family, kind)| {
            family.chars().all(|c| c.is_ascii_lowercase())
                && kind.starts_with(|c: char| c.is_ascii_uppercase())
        })
    };
    quoted.filter(is_name).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "pub struct Fp8Gemm<D>(D);\n\nimpl<D: Output> Fp8Gemm<D> {\n    pub fn plan() {}\n}\n\
                        pub struct Table;\n\nimpl Table {\n    pub fn new() {}\n}\n";

    fn messages(table: &str) -> Vec<String> {
        let sources = [Source::new("src/gemm/fp8_gemm.rs", CODE), Source::new("README.md", table)];
        check(&sources).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_table_that_names_what_there_is_passes() {
        assert_eq!(messages("| `gemm::Fp8Gemm`: a GEMM, `gemm::Table` | `x::y` |\n"), [""; 0]);
    }

    #[test]
    fn missing_and_invented_operations_are_found() {
        assert_eq!(messages("`gemm::Fp8Gemm`\n"), ["README.md: no row names `gemm::Fp8Gemm`"]);
        let found = messages("| `gemm::Fp8Gemm`, `moe::Fp8Gemm`, `gemm::Fp8` |\n");
        let expected = ["gemm::Fp8", "moe::Fp8Gemm"]
            .map(|name| format!("README.md: `{name}` is no type of that family"));
        assert_eq!(found, expected);
    }
}
