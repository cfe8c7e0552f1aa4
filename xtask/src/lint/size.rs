//! Nothing longer than a reader can hold.

use super::Finding;
use super::source::{Source, functions};

/// Lines of a file of kernels or of the fake driver.
const FILE: usize = 400;
/// Where files are measured.
const SHORT_FILES: [&str; 6] =
    ["cuda/driver", "cuda/gemm", "cuda/mla", "cuda/moe", "cuda/quant", "cuda/router"];
/// Lines of a function, from its name to its brace.
const FUNCTION: usize = 80;
/// Where functions are measured.
const FOLDERS: [&str; 8] =
    ["cuda", "src", "build", "crates", "tests/driver", "examples", "benches", "xtask/src"];

pub fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        let lines = source.text.lines().count();
        let code = !source.path.ends_with(".md");
        if code && lines > FILE && SHORT_FILES.iter().any(|folder| source.is_in(folder)) {
            findings.push(Finding::new(source, 0, format!("{lines} lines; a file here has at most {FILE}")));
        }
        if FOLDERS.iter().any(|folder| source.is_in(folder)) {
            let long = functions(source).into_iter().filter(|function| function.lines > FUNCTION);
            findings.extend(long.map(|function| {
                let message = format!("`{}` has {} lines; at most {FUNCTION}", function.name, function.lines);
                Finding::new(source, function.first_line, message)
            }));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tests::messages;
    use super::*;

    fn function(opening: &str, lines: usize) -> String {
        format!("\n{opening} {{\n{}}}\n", "    x();\n".repeat(lines - 2))
    }

    #[test]
    fn long_functions_are_found() {
        for (path, opening) in [
            ("src/a/b.rs", "fn long()"),
            ("cuda/hopper/emulated/machine/a.cpp", "void long()"),
            ("cuda/driver/a.cpp", "DRIVER_API Result long(int x)"),
            ("cuda/hopper/emulated/ptx/a.h", "PTX_DEVICE void long(int x)"),
        ] {
            assert_eq!(messages(check, path, &function(opening, FUNCTION)), [""; 0]);
            let expected = format!("{path}:2: `long` has 81 lines; at most 80");
            assert_eq!(messages(check, path, &function(opening, FUNCTION + 1)), [expected]);
        }
    }

    #[test]
    fn long_files_are_found() {
        for path in ["cuda/gemm/a.cuh", "cuda/driver/a.cpp"] {
            assert_eq!(messages(check, path, &"\n".repeat(FILE)), [""; 0]);
            assert_eq!(messages(check, path, &"\n".repeat(FILE + 1)).len(), 1);
        }
        assert_eq!(messages(check, "cuda/gemm/README.md", &"\n".repeat(FILE + 1)), [""; 0]);
    }
}
