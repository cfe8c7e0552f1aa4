//! What the packages' documents say holds for one who has nothing but the package: there the registry shows them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Chores and programs that only the repository has.
const ELSEWHERE: [&str; 3] = ["cargo xtask", "cargo run", "--example"];

/// Checks the document that the registry shows, whose links it does not resolve, and the links of all the others.
pub fn check(package: &Path, readme: &str) -> Result<()> {
    let text = fs::read_to_string(package.join(readme)).with_context(|| readme.to_owned())?;
    let problems = problems(&text, |path| package.join(path).exists());
    ensure!(problems.is_empty(), "{readme}: {}", problems.join("; "));
    for document in documents(package)? {
        let text = fs::read_to_string(&document)?;
        let folder = document.parent().context("a file is in a folder")?;
        for link in links(&text).filter(|link| is_relative(link)) {
            let path = link.split('#').next().unwrap_or(link);
            ensure!(folder.join(path).exists(), "{}: {link} is not in the package", document.display());
        }
    }
    Ok(())
}

/// The first block of Rust in a document.
pub fn example(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("```rust\n")?;
    rest.split_once("```\n").map(|(block, _)| block)
}

fn problems(text: &str, in_package: impl Fn(&str) -> bool) -> Vec<String> {
    let commands = ELSEWHERE.iter().filter(|command| text.contains(**command));
    let commands = commands.map(|command| format!("`{command}` needs the repository"));
    let links = links(text).filter(|link| is_relative(link));
    let links = links.map(|link| format!("the registry cannot follow the link to {link}"));
    let missing = paths(text).filter(|path| !in_package(path));
    let missing = missing.map(|path| format!("{path} is not in the package"));
    commands.chain(links).chain(missing).collect()
}

/// Targets of links.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

fn is_relative(link: &str) -> bool {
    !link.contains("://") && !link.starts_with('#')
}

/// Code that is the path of a file.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split('`').skip(1).step_by(2);
    code.filter(|code| code.contains('/') && !code.contains(|c: char| c.is_whitespace() || c == '='))
}

fn documents(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(documents(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "md") {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_package_lacks_is_found() {
        let of = |text: &str| problems(text, |path| path == "docs/numerics.md");
        assert_eq!(of("`docs/numerics.md`, `run`, `a / b`, [x](https://a.b/c), [y](#there)"), [""; 0]);
        assert_eq!(of("try `cargo xtask test`"), ["`cargo xtask` needs the repository"]);
        assert_eq!(of("[x](docs/numerics.md)"), ["the registry cannot follow the link to docs/numerics.md"]);
        assert_eq!(of("see `docs/other.md`"), ["docs/other.md is not in the package"]);
    }

    #[test]
    fn examples_are_found() {
        assert_eq!(example("a\n```sh\nb\n```\n```rust\nc\n```\n```rust\nd\n```\n"), Some("c\n"));
        assert_eq!(example("```sh\n```\n"), None);
    }
}
