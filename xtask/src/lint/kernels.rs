//! Families, `cta`, `tile` and `probes` are plain C++: every instruction lies behind `ptx::`, so that they mean the same on
//! both machines and the emulator sees every access.

use super::Finding;
use super::families::family;
use super::source::{Source, identifiers};

/// The plain folders besides those of the families.
const FOLDERS: [&str; 3] = ["cuda/hopper/cta", "cuda/hopper/probes", "cuda/hopper/tile"];

pub fn check(sources: &[Source]) -> Vec<Finding> {
    let pointers: Vec<&str> = sources
        .iter()
        .filter(|source| source.is_in("cuda") && source.path.ends_with("/params.h"))
        .flat_map(|source| source.code.lines().filter_map(pointer_field))
        .collect();
    let plain = sources.iter().filter(|source| is_plain(source));
    plain
        .flat_map(|source| [words(source), directives(source), accesses(source, &pointers)].concat())
        .collect()
}

fn is_plain(source: &Source) -> bool {
    family(source).is_some() || FOLDERS.iter().any(|folder| source.is_in(folder))
}

fn words(source: &Source) -> Vec<Finding> {
    let forbid = |(at, word): (usize, &str)| {
        let why = match word {
            "asm" => "inline assembly belongs in cuda/hopper/sm90/ptx",
            "threadIdx" | "blockIdx" | "blockDim" | "gridDim" | "warpSize" => {
                "use the functions of ptx/regs.h"
            }
            "reinterpret_cast" => "memory is reached through ptx::, which needs no such cast",
            _ if word.starts_with("__") => {
                "a compiler's builtin: wrap it in cuda/hopper/sm90/ptx and cuda/hopper/emulated/ptx"
            }
            _ if word.starts_with("atomic") => "atomics belong in ptx/gmem.h",
            _ => return None,
        };
        Some(Finding::new(source, source.line(at), format!("`{word}`: {why}")))
    };
    source.identifiers().filter_map(forbid).collect()
}

fn directives(source: &Source) -> Vec<Finding> {
    const CONDITIONALS: [&str; 6] = ["if", "ifdef", "ifndef", "elif", "else", "endif"];
    let check = |(number, line): (usize, &str)| {
        let directive = line.trim_start().strip_prefix('#')?.trim_start();
        let word = identifiers(directive).next()?.1;
        let message = if CONDITIONALS.contains(&word) {
            format!("`#{word}`: one text serves both machines; use `if constexpr`")
        } else if word == "include" && (line.contains("<cuda") || line.contains("<cooperative_groups")) {
            "a CUDA header: kernels include ptx/ only".to_owned()
        } else {
            return None;
        };
        Some(Finding::new(source, number + 1, message))
    };
    // The text, not the code: the name of an included file is a literal.
    source.text.lines().enumerate().filter_map(check).collect()
}

/// A cast to a pointer to other than `void` or bytes, or a parameter's pointer read directly.
fn accesses(source: &Source, pointers: &[&str]) -> Vec<Finding> {
    let code = &source.code;
    let mut findings = Vec::new();
    for (at, word) in source.identifiers() {
        let before = code[..at].trim_end();
        let after = code[at + word.len()..].trim_start();
        let of_params = before.ends_with("params.");
        if of_params && pointers.contains(&word) && (after.starts_with('[') || is_dereferenced(before)) {
            let message = format!("`{word}` is global memory: read and write it through ptx::");
            findings.push(Finding::new(source, source.line(at), message));
        }
        if before.ends_with('(') && is_c_style_pointer_cast(after) {
            let message = format!("a C-style cast to `{word}*`: there are no pointers to shared memory");
            findings.push(Finding::new(source, source.line(at), message));
        }
    }
    findings
}

/// `*params.` but not `a * params.`.
fn is_dereferenced(before: &str) -> bool {
    let is_value = |c: char| c.is_alphanumeric() || ")]_".contains(c);
    let object = before.trim_end_matches("params.").trim_end();
    object.strip_suffix('*').is_some_and(|rest| !rest.trim_end().ends_with(is_value))
}

/// `*) x`, after the name of a type.
fn is_c_style_pointer_cast(after: &str) -> bool {
    let Some(rest) = after.strip_prefix('*') else { return false };
    let Some(operand) = rest.trim_start_matches(['*', ' ']).strip_prefix(')') else { return false };
    operand.trim_start().starts_with(|c: char| c.is_alphanumeric() || "_(&".contains(c))
}

/// The name in `const float* sfb;`.
fn pointer_field(line: &str) -> Option<&str> {
    let declaration = line.trim().strip_suffix(';')?;
    let name = declaration.rsplit_once('*')?.1.trim();
    (!name.is_empty() && !declaration.contains('(')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::super::tests::messages;
    use super::*;

    #[test]
    fn assembly_builtins_and_casts_are_found() {
        for (code, word) in [
            ("asm volatile(\"\");", "`asm`"),
            ("int t = threadIdx.x;", "`threadIdx`"),
            ("__syncthreads();", "`__syncthreads`"),
            ("__shared__ float x[4];", "`__shared__`"),
            ("atomicAdd(p, 1);", "`atomicAdd`"),
            ("__shfl_sync(1, 2, 3);", "`__shfl_sync`"),
            ("auto p = reinterpret_cast<float*>(addr);", "`reinterpret_cast`"),
            ("float x = *(float*)addr;", "`float*`"),
        ] {
            for folder in FOLDERS.into_iter().chain(["cuda/gemm", "cuda/router"]) {
                let found = messages(check, &format!("{folder}/x.cuh"), &format!("// asm\n{code}\n"));
                assert_eq!(found.len(), 1, "{code}: {found:?}");
                assert!(
                    found[0].starts_with(&format!("{folder}/x.cuh:2: ")) && found[0].contains(word),
                    "{found:?}"
                );
            }
        }
        assert_eq!(messages(check, "cuda/hopper/sm90/ptx/x.h", "asm volatile(\"\");"), [""; 0]);
        assert_eq!(messages(check, "cuda/gemm/x.cuh", "f(const float* x, int (*g)(int)); // __x\n"), [""; 0]);
    }

    #[test]
    fn conditionals_and_cuda_headers_are_found() {
        let found =
            messages(check, "cuda/gemm/x.cuh", "#pragma once\n#ifdef EMU\n#endif\n#include <cuda_fp8.h>\n");
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[2].starts_with("cuda/gemm/x.cuh:4: "), "{found:?}");
    }

    #[test]
    fn direct_reads_of_global_memory_are_found() {
        let params = Source::new(
            "cuda/gemm/params.h",
            "typedef struct P {\n  const float* sfb;  // [n]\n  uint32_t m;\n} P;\n",
        );
        let kernel = "void f(const P& params) {\n  g(params.sfb + 1, a * params.m);\n  float x = params.sfb[3];\n  float y = *params.sfb;\n}\n";
        let found = check(&[params, Source::new("cuda/gemm/x.cuh", kernel)]);
        let lines: Vec<usize> = found.iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [3, 4], "{found:?}");
    }
}
