//! Where `unsafe` may stand, what the fake driver may know, and what must not be committed.

use super::Finding;
use super::source::Source;

/// The folders and files that may say `unsafe`, of the folders that are looked through. `device` calls the driver where
/// cudarc does not, and lets a caller vouch for an emulator or kernels of another build; what judges looks for a driver
/// before cudarc does, stops cudarc's events for benches, and gives operands by address; the programs for GPU hosts do so too, and vouch for kernels.
const UNSAFE: [&str; 7] = [
    "src/device",
    "src/launch",
    "crates/check/src/bench/timing.rs",
    "crates/check/src/devices.rs",
    "crates/check/src/memory/far.rs",
    "crates/check/src/memory/raw.rs",
    "crates/hardware/src/device.rs",
];
const LOOKED_THROUGH: [&str; 5] =
    ["src", "crates/build-support/src", "crates/check/src", "crates/hardware/src", "crates/oracles/src"];

pub fn check(sources: &[Source]) -> Vec<Finding> {
    let rules = [unsafe_code, driver_includes, places, modules];
    sources.iter().flat_map(|source| rules.iter().flat_map(|rule| rule(source))).collect()
}

/// The fake driver sees the emulator as any caller does, and no header of NVIDIA's.
fn driver_includes(source: &Source) -> Vec<Finding> {
    if !source.is_in("cuda/driver") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        let Some(file) = line.strip_prefix("#include ") else { continue };
        let own = file.starts_with("\"driver/") || file == "\"hopper/emulated/machine/emu.h\"";
        if !own && (!file.starts_with('<') || file.contains("cuda")) {
            let message = format!(
                "includes {file}; the fake driver knows driver/ and hopper/emulated/machine/emu.h alone"
            );
            findings.push(Finding::new(source, number + 1, message));
        }
    }
    findings
}

fn may_be_unsafe(source: &Source) -> bool {
    UNSAFE.iter().any(|place| source.path == *place || source.is_in(place))
}

fn unsafe_code(source: &Source) -> Vec<Finding> {
    if !LOOKED_THROUGH.iter().any(|folder| source.is_in(folder)) || may_be_unsafe(source) {
        return Vec::new();
    }
    let found = source.identifiers().filter(|&(_, word)| word == "unsafe");
    let message = format!("`unsafe` stands only in {}", UNSAFE.join(", "));
    found.map(|(at, _)| Finding::new(source, source.line(at), message.as_str())).collect()
}

/// A module lies where its name says, or belongs in a crate; but `build.rs` shares the table of kernels with the library.
fn modules(source: &Source) -> Vec<Finding> {
    if source.path == "build.rs" {
        return Vec::new();
    }
    let elsewhere =
        source.text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("#[path"));
    let message = "`#[path]` stands only in build.rs: code that two crates need is a crate";
    elsewhere.map(|(number, _)| Finding::new(source, number + 1, message)).collect()
}

/// Folders of one machine, and hosts of package registries: neither exists where the crate is built next.
fn places(source: &Source) -> Vec<Finding> {
    // Cargo writes the registry's name there.
    if source.path == "Cargo.lock" {
        return Vec::new();
    }
    let folders = ["work", "tmp", "home", "root"].map(|name| format!("/{name}"));
    let hosts = ["pypi", "pythonhosted", "crates"]
        .map(|name| format!("{name}.{}", if name == "crates" { "io" } else { "org" }));
    let mut findings = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        let folder = folders
            .iter()
            .find(|folder| line.match_indices(*folder).any(|(at, _)| is_absolute(line, at, folder)));
        let host = hosts.iter().find(|host| line.contains(*host));
        if let Some(place) = folder.or(host) {
            findings.push(Finding::new(
                source,
                number + 1,
                format!("names {place}, a place of one machine or registry"),
            ));
        }
    }
    findings
}

/// Whether the path at `at` begins there, and its first part ends where `folder` ends.
fn is_absolute(line: &str, at: usize, folder: &str) -> bool {
    let continues = |c: char| c.is_alphanumeric() || "_-.".contains(c);
    let before = line[..at].chars().next_back().is_none_or(|c| !continues(c) && !"/*}>)]~".contains(c));
    let after = line[at + folder.len()..].chars().next().is_none_or(|c| !continues(c));
    before && after
}

#[cfg(test)]
mod tests {
    use super::super::tests::messages;
    use super::*;

    #[test]
    fn the_driver_knows_the_emulator_by_one_header() {
        let fine = "#include <map>\n#include \"driver/api.h\"\n#include \"hopper/emulated/machine/emu.h\"\n";
        assert_eq!(messages(check, "cuda/driver/a.cpp", fine), [""; 0]);
        for file in ["<cuda.h>", "\"hopper/emulated/machine/model.h\"", "\"gemm/params.h\""] {
            let found = messages(check, "cuda/driver/a.cpp", &format!("#include {file}\n"));
            let why = "the fake driver knows driver/ and hopper/emulated/machine/emu.h alone";
            assert_eq!(found, [format!("cuda/driver/a.cpp:1: includes {file}; {why}")]);
        }
        assert_eq!(
            messages(
                check,
                "cuda/hopper/emulated/machine/a.cpp",
                "#include \"hopper/emulated/machine/model.h\"\n"
            ),
            [""; 0]
        );
    }

    #[test]
    fn unsafe_outside_its_files_is_found() {
        let text = "#![deny(unsafe_code)]\n// unsafe\nfn f() { unsafe { g() } }\n";
        assert_eq!(messages(check, "src/gemm/fp8_gemm.rs", text).len(), 1);
        assert!(messages(check, "src/gemm/fp8_gemm.rs", text)[0].starts_with("src/gemm/fp8_gemm.rs:3: "));
        assert_eq!(messages(check, "crates/hardware/src/timing.rs", text).len(), 1);
        assert_eq!(messages(check, "src/launch/mod.rs", text), [""; 0]);
    }

    #[test]
    fn a_module_from_elsewhere_is_found() {
        let text = "mod a;\n#[path = \"../b.rs\"]\nmod b;\n";
        let found = messages(check, "xtask/src/main.rs", text);
        assert!(found.len() == 1 && found[0].starts_with("xtask/src/main.rs:2: "), "{found:?}");
        assert_eq!(messages(check, "build.rs", text), [""; 0]);
    }

    #[test]
    fn machine_paths_and_registries_are_found() {
        for (name, rest) in [("work", "/main"), ("tmp", "/x"), ("home", "/me"), ("root", "")] {
            let folder = format!("/{name}");
            let found = messages(check, "README.md", &format!("ok\nsee `{folder}{rest}`\n"));
            assert_eq!(found.len(), 1, "{folder}: {found:?}");
            assert!(found[0].starts_with("README.md:2: "), "{found:?}");
            let relative = format!("src{folder}{rest} and {folder}ing and ${{X}}{folder}");
            assert_eq!(messages(check, "README.md", &relative), [""; 0]);
        }
        let index = ["https://py", "pi.org/simple"].concat();
        assert_eq!(messages(check, "xtask/toolkit.txt", &index).len(), 1);
        assert_eq!(messages(check, "Cargo.lock", &index), [""; 0]);
    }
}
