//! `cuda/hopper/sm90/ptx` and `cuda/hopper/emulated/ptx` are one interface: the same files, the same functions.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::source::{Source, identifiers, without_directives};

const MACHINES: [&str; 2] = ["cuda/hopper/sm90/ptx", "cuda/hopper/emulated/ptx"];

pub fn check(sources: &[Source]) -> Vec<Finding> {
    let [gpu, emulated] = MACHINES.map(|folder| {
        let files = sources.iter().filter(|source| source.is_in(folder));
        files.map(|source| (&source.path[folder.len() + 1..], source)).collect::<BTreeMap<_, _>>()
    });
    let mut findings = Vec::new();
    for (here, there, other) in [(&gpu, &emulated, MACHINES[1]), (&emulated, &gpu, MACHINES[0])] {
        for (name, source) in here {
            let Some(twin) = there.get(name) else {
                findings.push(Finding::new(source, 0, format!("there is no {other}/{name}")));
                continue;
            };
            let known = signatures(twin).into_keys().collect::<BTreeSet<_>>();
            for (signature, line) in signatures(source) {
                let same = |other: &String| {
                    *other == signature || is_instance(other, &signature) || is_instance(&signature, other)
                };
                if !known.iter().any(same) {
                    findings.push(Finding::new(
                        source,
                        line,
                        format!("`{signature}` is not in {other}/{name}"),
                    ));
                }
            }
        }
    }
    findings
}

/// Whether `concrete` is `template` with a number in the place of its parameter: one machine may write out the
/// overloads that the other derives.
fn is_instance(template: &str, concrete: &str) -> bool {
    let Some((parameter, general)) =
        template.strip_prefix("template <int ").and_then(|rest| rest.split_once("> "))
    else {
        return false;
    };
    let (general, concrete) = (words(general), words(concrete));
    let differing: Vec<_> = general.iter().zip(&concrete).filter(|(a, b)| a != b).collect();
    general.len() == concrete.len()
        && !differing.is_empty()
        && differing.iter().all(|(a, b)| **a == parameter && b.parse::<u32>().is_ok())
}

fn words(code: &str) -> Vec<&str> {
    identifiers(code).map(|(_, word)| word).collect()
}

/// Every device function, as `template <int> void name(uint32_t, float (&)[])`, and its line.
fn signatures(source: &Source) -> BTreeMap<String, usize> {
    const MARK: &str = "PTX_DEVICE";
    let code = without_directives(&source.code);
    let mut found = BTreeMap::new();
    for (at, _) in code.match_indices(MARK) {
        let template = code[..at].rfind([';', '}', '{']).map_or("", |end| code[end + 1..at].trim());
        let declaration = &code[at + MARK.len()..];
        let declaration = &declaration[..declaration.find(['{', ';']).unwrap_or(declaration.len())];
        found.insert(signature(template, declaration), source.line(at));
    }
    for (name, parameters, body) in macros(&source.code) {
        let Some(declaration) = body.split(MARK).nth(1).and_then(|rest| rest.split('{').next()) else {
            continue;
        };
        let template = body.split(MARK).next().unwrap_or_default().trim();
        for (at, arguments) in calls(&code, &name) {
            let replaced = |text: &str| substitute(text, &parameters, &arguments);
            found.insert(signature(&replaced(template), &replaced(declaration)), source.line(at));
        }
    }
    found
}

/// Function-like macros: name, parameters, body.
fn macros(code: &str) -> Vec<(String, Vec<String>, String)> {
    let joined = code.replace("\\\n", "  ");
    let define = |line: &str| {
        let (head, rest) = line.trim_start().strip_prefix("#define ")?.split_once('(')?;
        let (parameters, body) = rest.split_once(')')?;
        Some((head.to_owned(), parameters.split(',').map(|p| p.trim().to_owned()).collect(), body.to_owned()))
    };
    joined.lines().filter_map(define).collect()
}

/// Uses of the macro `name`: where, and the arguments.
fn calls<'c>(code: &'c str, name: &str) -> Vec<(usize, Vec<&'c str>)> {
    let call = |(at, word): (usize, &str)| {
        let rest = code[at + word.len()..].strip_prefix('(')?;
        Some((at, rest[..rest.find(')')?].split(',').map(str::trim).collect()))
    };
    identifiers(code).filter(|&(_, word)| word == name).filter_map(call).collect()
}

/// Puts arguments in the place of parameters.
fn substitute(text: &str, parameters: &[String], arguments: &[&str]) -> String {
    let mut out = String::new();
    let mut copied = 0;
    for (at, word) in identifiers(text) {
        if let Some(index) = parameters.iter().position(|parameter| parameter == word) {
            out.push_str(&text[copied..at]);
            out.push_str(arguments.get(index).copied().unwrap_or_default());
            copied = at + word.len();
        }
    }
    out + &text[copied..]
}

/// One spelling of a declaration: single blanks, no names of parameters.
fn signature(template: &str, declaration: &str) -> String {
    let declaration = declaration.split_whitespace().collect::<Vec<_>>().join(" ");
    let (head, rest) = declaration.split_once('(').unwrap_or((&declaration, ""));
    let parameters = rest.rsplit_once(')').map_or(rest, |(inside, _)| inside);
    // The emulator's functions also take the place of their call.
    let passed = parameters.split(',').filter(|parameter| !parameter.contains("Where "));
    let types = passed.map(without_name).filter(|kind| !kind.is_empty()).collect::<Vec<_>>();
    let template = template.split_whitespace().collect::<Vec<_>>().join(" ");
    let gap = if template.is_empty() { "" } else { " " };
    format!("{template}{gap}{}({})", head.trim(), types.join(", "))
}

/// `const float& x` to `const float&`, `float (&d)[4]` to `float (&)[4]`.
fn without_name(parameter: &str) -> String {
    let parameter = parameter.split('=').next().unwrap_or_default().trim();
    let words: Vec<_> = identifiers(parameter).filter(|&(_, word)| word != "const").collect();
    let name = match (parameter.find("(&"), words.as_slice()) {
        (Some(reference), _) => words.iter().find(|&&(at, _)| at > reference),
        (None, [_, .., last]) => Some(last),
        _ => None,
    };
    match name {
        Some(&(at, word)) => format!("{}{}", parameter[..at].trim_end(), &parameter[at + word.len()..]),
        None => parameter.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(gpu: &str, emulated: &str) -> Vec<String> {
        let sources = [
            Source::new("cuda/hopper/sm90/ptx/a.h", gpu),
            Source::new("cuda/hopper/emulated/ptx/a.h", emulated),
        ];
        check(&sources).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn the_same_interface_in_two_spellings_passes() {
        let gpu = "namespace ptx {\ntemplate <int N>\nPTX_DEVICE void f(float (&d)[N], const void* p) { asm(\"\"); }\n\
                   #define TWO(name, R) \\\n  PTX_DEVICE void name(float (&d)[R], uint64_t desc) { \\\n  }\nTWO(g, 4)\nTWO(g, 8)\n}\n";
        let emulated = "namespace ptx {\n\ntemplate <int N>\nPTX_DEVICE void f(float (&x)[N], const void* /*p*/,\n  Where where = Where::here()) {\n}\n\
                        template <int R>\nPTX_DEVICE void g(float (&d)[R], uint64_t a) {}\n}\n";
        assert_eq!(compare(gpu, emulated), [""; 0]);
    }

    #[test]
    fn differences_are_found() {
        let base = "PTX_DEVICE void f(uint32_t bar, uint32_t count) {}\n";
        for other in [
            "PTX_DEVICE void g(uint32_t bar, uint32_t count) {}\n",
            "PTX_DEVICE void f(uint32_t bar) {}\n",
            "PTX_DEVICE void f(uint32_t bar, uint64_t count) {}\n",
            "PTX_DEVICE bool f(uint32_t bar, uint32_t count) {}\n",
            "template <int N>\nPTX_DEVICE void f(uint32_t bar, uint32_t count) {}\n",
        ] {
            let other = format!("\n;{other}");
            assert_eq!(compare(base, &other).len(), 2, "{other}");
        }
        let missing = "PTX_DEVICE void h() {}\n";
        let expected = ["cuda/hopper/sm90/ptx/a.h:2: `void h()` is not in cuda/hopper/emulated/ptx/a.h"];
        assert_eq!(compare(&format!("{base}{missing}"), base), expected);
    }

    #[test]
    fn a_missing_file_is_found() {
        let found = check(&[Source::new("cuda/hopper/sm90/ptx/a.h", "")]);
        assert_eq!(
            found[0].to_string(),
            "cuda/hopper/sm90/ptx/a.h: there is no cuda/hopper/emulated/ptx/a.h"
        );
    }
}
