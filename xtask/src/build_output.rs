//! What cargo says it built.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::process;

/// An executable of the build.
pub struct Executable {
    /// Name of the target: the crate, a test, a bench or a program.
    pub name: String,
    /// "lib", "bin", "test" or "bench".
    pub kind: String,
    /// Whether it is a test harness.
    pub test: bool,
    pub path: PathBuf,
}

/// The executables of a build, and where build.rs left the kernels.
pub struct Built {
    pub executables: Vec<Executable>,
    pub kernel_folder: PathBuf,
}

/// A kernel of the build.
#[derive(Deserialize)]
pub struct Kernel {
    pub name: String,
    pub family: String,
    /// Dynamic shared memory of a CTA.
    pub smem_bytes: u32,
}

impl Built {
    /// The kernels of the families, in the order of their table; test kernels are left out.
    pub fn kernels(&self) -> Result<Vec<Kernel>> {
        let list = self.kernel_folder.join(build_support::KERNEL_LIST);
        let text = fs::read_to_string(&list).with_context(|| list.display().to_string())?;
        let mut kernels: Vec<Kernel> =
            serde_json::from_str(&text).with_context(|| list.display().to_string())?;
        kernels.retain(|kernel| kernel.family != "hopper");
        Ok(kernels)
    }
}

/// Builds or checks the crate as `arguments` say, showing cargo's progress.
pub fn cargo(root: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Built> {
    let mut cargo = process::cargo(root);
    cargo.args(arguments).args([crate::FEATURES, "--message-format=json-render-diagnostics"]);
    parse(&process::read(cargo.envs(variables.iter().copied()))?)
}

fn parse(messages: &str) -> Result<Built> {
    let mut executables = Vec::new();
    let mut kernel_folder = None;
    for message in messages.lines() {
        let message: Value = serde_json::from_str(message).context("cargo printed no JSON")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match message["reason"].as_str() {
            Some("compiler-artifact") if message["executable"].is_string() => executables.push(Executable {
                name: text(&message["target"]["name"]),
                kind: text(&message["target"]["kind"][0]),
                test: message["profile"]["test"] == true,
                path: PathBuf::from(text(&message["executable"])),
            }),
            Some("build-script-executed") => {
                let variables = message["env"].as_array().into_iter().flatten();
                let folder =
                    variables.filter(|pair| pair[0] == "DK_KERNEL_DIR").map(|pair| text(&pair[1])).next();
                kernel_folder = folder.map(PathBuf::from).or(kernel_folder);
            }
            _ => {}
        }
    }
    Ok(Built { executables, kernel_folder: kernel_folder.context("build.rs names no folder of kernels")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_and_the_kernel_folder_are_read() {
        let messages = [
            r#"{"reason":"build-script-executed","package_id":"libc","env":[]}"#,
            r#"{"reason":"build-script-executed","package_id":"ours","env":[["DK_KERNEL_DIR","out/kernels"]]}"#,
            r#"{"reason":"compiler-artifact","target":{"name":"x","kind":["test"]},"profile":{"test":true},"executable":"deps/x-1"}"#,
            r#"{"reason":"compiler-artifact","target":{"name":"lib","kind":["lib"]},"profile":{"test":false},"executable":null}"#,
            r#"{"reason":"build-finished","success":true}"#,
        ];
        let built = parse(&messages.join("\n")).unwrap();
        assert_eq!(built.kernel_folder, Path::new("out/kernels"));
        assert_eq!(built.executables.len(), 1);
        assert!(built.executables[0].test && built.executables[0].kind == "test");
        assert!(parse("").is_err());
    }
}
