//! Device code is sorted by use: a family is a folder and a namespace, uses the families below it, and `hopper` knows none.

use super::Finding;
use super::source::{Source, without_directives};

/// A family, and those it may include.
pub const FAMILIES: [(&str, &[&str]); 5] = [
    ("gemm", &["quant"]),
    ("quant", &[]),
    ("router", &[]),
    ("moe", &["gemm", "quant", "router"]),
    ("mla", &["quant"]),
];

/// What no text of `hopper` says.
const OPERATIONS: [&str; 4] = ["gemm", "mla", "moe", "expert"];

pub fn check(sources: &[Source]) -> Vec<Finding> {
    let rules = [namespace, layers, machine, safety];
    sources.iter().flat_map(|source| rules.iter().flat_map(|rule| rule(source))).collect()
}

/// The family whose device code a file is.
pub fn family(source: &Source) -> Option<(&'static str, &'static [&'static str])> {
    FAMILIES.into_iter().find(|(name, _)| source.is_in(&format!("cuda/{name}")))
}

/// All of a family's C++ stands in its namespace; its parameters are plain C.
fn namespace(source: &Source) -> Vec<Finding> {
    let Some((name, _)) = family(source) else { return Vec::new() };
    if source.path.ends_with("/params.h") || source.path.ends_with(".md") {
        return Vec::new();
    }
    let code = without_directives(&source.code);
    let outside =
        |at: usize| vec![Finding::new(source, source.line(at), format!("outside `namespace {name}`"))];
    let opening = format!("namespace {name} {{");
    let Some(begin) = code.find(&opening) else { return outside(0) };
    let inside = begin + opening.len();
    let end = closing_brace(&code, inside).unwrap_or(code.len());
    let stray = |from: usize, text: &str| text.find(|c: char| !c.is_whitespace()).map(|at| from + at);
    let after = code.get(end + 1..).unwrap_or_default();
    stray(0, &code[..begin]).or_else(|| stray(end + 1, after)).map(outside).unwrap_or_default()
}

/// Where the brace closes that was opened before `from`.
fn closing_brace(code: &str, from: usize) -> Option<usize> {
    let mut depth = 1;
    code[from..].char_indices().find_map(|(at, c)| {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        (depth == 0).then_some(from + at)
    })
}

/// A family includes its own files and those of families below it; `hopper` includes none of any.
fn layers(source: &Source) -> Vec<Finding> {
    let (own, below) = match family(source) {
        Some((name, below)) => (name, below),
        None if source.is_in("cuda/hopper") => ("hopper", &[][..]),
        None => return Vec::new(),
    };
    let mut findings = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        let Some(file) = line.strip_prefix("#include \"") else { continue };
        let folder = file.split('/').next().unwrap_or_default();
        let above =
            FAMILIES.iter().any(|(name, _)| *name == folder) && folder != own && !below.contains(&folder);
        if above {
            let message = format!("`{own}` does not stand above `{folder}`");
            findings.push(Finding::new(source, number + 1, message));
        }
    }
    findings
}

/// The machine's folder names no operation, in comments neither.
fn machine(source: &Source) -> Vec<Finding> {
    if !source.is_in("cuda/hopper") {
        return Vec::new();
    }
    let named = |line: &str| OPERATIONS.into_iter().find(|word| line.to_lowercase().contains(word));
    let lines = source.text.lines().enumerate();
    let found = lines.filter_map(|(number, line)| Some((number + 1, named(line)?)));
    found
        .map(|(line, word)| Finding::new(source, line, format!("names `{word}`; hopper/ knows no operation")))
        .collect()
}

/// A family's host code cannot be unsafe.
fn safety(source: &Source) -> Vec<Finding> {
    let is_root = FAMILIES.iter().any(|(name, _)| source.path == format!("src/{name}/mod.rs"));
    if is_root && !source.code.contains("#![forbid(unsafe_code)]") {
        return vec![Finding::new(source, 1, "a family says `#![forbid(unsafe_code)]`")];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::super::tests::messages;
    use super::*;

    const FINE: &str = "// A kernel.\n#pragma once\n#include \"quant/scale.h\"\n\nnamespace gemm {\nvoid f() {}\n}  // namespace gemm\n";

    #[test]
    fn code_outside_the_namespace_is_found() {
        assert_eq!(messages(check, "cuda/gemm/a.cuh", FINE), [""; 0]);
        let before = FINE.replace("namespace gemm {", "void g();\nnamespace gemm {");
        assert_eq!(
            messages(check, "cuda/gemm/a.cuh", &before),
            ["cuda/gemm/a.cuh:5: outside `namespace gemm`"]
        );
        let after = format!("{FINE}void g();\n");
        assert_eq!(
            messages(check, "cuda/gemm/a.cuh", &after),
            ["cuda/gemm/a.cuh:8: outside `namespace gemm`"]
        );
        assert_eq!(messages(check, "cuda/moe/a.cuh", FINE).len(), 1);
        assert_eq!(messages(check, "cuda/gemm/params.h", "typedef struct P { int m; } P;\n"), [""; 0]);
    }

    #[test]
    fn a_family_above_is_found() {
        let upwards = FINE.replace("quant/scale.h", "moe/params.h");
        let expected = ["cuda/gemm/a.cuh:3: `gemm` does not stand above `moe`"];
        assert_eq!(messages(check, "cuda/gemm/a.cuh", &upwards), expected);
        let found = messages(check, "cuda/hopper/cta/a.cuh", "#include \"quant/scale.h\"\n");
        assert_eq!(found, ["cuda/hopper/cta/a.cuh:1: `hopper` does not stand above `quant`"]);
    }

    #[test]
    fn an_operation_in_the_machine_is_found() {
        let found = messages(check, "cuda/hopper/tile/a.h", "// rows of a GEMM\n");
        assert_eq!(found, ["cuda/hopper/tile/a.h:1: names `gemm`; hopper/ knows no operation"]);
    }

    #[test]
    fn a_family_that_may_be_unsafe_is_found() {
        assert_eq!(messages(check, "src/moe/mod.rs", "mod combine;\n").len(), 1);
        assert_eq!(messages(check, "src/moe/mod.rs", "#![forbid(unsafe_code)]\nmod combine;\n"), [""; 0]);
        assert_eq!(messages(check, "src/moe/combine.rs", "fn f() {}\n"), [""; 0]);
    }
}
