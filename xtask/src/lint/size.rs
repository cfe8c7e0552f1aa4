//! Nothing longer than a reader can hold.

use super::Finding;
use super::source::{Source, functions, language};

/// Lines of a file of sources.
const FILE: usize = 400;
/// What a program wrote.
const GENERATED: &str = "src/device/bindings.rs";
/// Lines of a function, from its name to its brace.
const FUNCTION: usize = 80;
/// Where functions are measured.
const FOLDERS: [&str; 7] = ["cuda", "src", "crates", "tests", "examples", "benches", "xtask/src"];

pub fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        let lines = source.text.lines().count();
        if lines > FILE && is_short(source) {
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

/// Whether the file's lines are counted: device code, and what is compiled into a library or a program.
fn is_short(source: &Source) -> bool {
    let sources = source.is_in("cuda") || source.path.split('/').any(|folder| folder == "src");
    sources && language(&source.path).is_some() && source.path != GENERATED
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
        for path in ["cuda/gemm/a.cuh", "cuda/driver/a.cpp", "src/a.rs", "crates/a/src/b/c.rs"] {
            assert_eq!(messages(check, path, &"\n".repeat(FILE)), [""; 0]);
            assert_eq!(messages(check, path, &"\n".repeat(FILE + 1)).len(), 1);
        }
        for path in ["cuda/gemm/README.md", "src/device/bindings.rs", "tests/a.rs"] {
            assert_eq!(messages(check, path, &"\n".repeat(FILE + 1)), [""; 0]);
        }
    }
}
