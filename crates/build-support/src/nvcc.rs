//! Where nvcc is.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where `cargo xtask toolkit` puts a toolkit, below the crate's folder.
pub const FETCHED: &str = "toolkit/nvidia/cu13";

/// Variables that name a CUDA folder, in order of preference.
const FOLDER_VARIABLES: [&str; 4] = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"];

/// Folders that distributions and NVIDIA's installers use.
const USUAL_FOLDERS: [&str; 2] = ["/usr/local/cuda", "/opt/cuda"];

/// Variables that nvcc itself reads.
const NVCC_OWN_VARIABLES: [&str; 3] = ["NVCC_CCBIN", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"];

/// Variables, PATH aside, that change what is found or what nvcc does.
pub(crate) fn variables() -> impl Iterator<Item = &'static str> {
    ["NVCC"].into_iter().chain(FOLDER_VARIABLES).chain(NVCC_OWN_VARIABLES)
}

/// The first release that knows sm_90a and C++20.
const OLDEST: Release = Release { major: 12, minor: 0 };

/// A CUDA release, as in "release 13.0".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Release {
    major: u32,
    minor: u32,
}

/// A compiler that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nvcc {
    /// Without symbolic links: nvcc finds the rest of its tree from its own name.
    pub path: PathBuf,
    /// All that `nvcc --version` prints.
    pub version: String,
    release: Release,
}

impl Nvcc {
    /// The generation of CUDA: drivers of the same one load what this compiler makes.
    pub(crate) fn major(&self) -> u32 {
        self.release.major
    }
}

/// Finds nvcc in this process's environment. The error lists every place that was tried, and why it was left.
pub fn find(crate_folder: &Path) -> Result<Nvcc, String> {
    search(candidates(crate_folder, |name| env::var_os(name), &USUAL_FOLDERS), version)
}

type Candidate = (&'static str, PathBuf);

fn candidates(
    crate_folder: &Path,
    variable: impl Fn(&str) -> Option<OsString>,
    usual_folders: &[&str],
) -> Vec<Candidate> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let executable = format!("nvcc{}", env::consts::EXE_SUFFIX);
    let in_folder = |folder: &Path| folder.join("bin").join(&executable);

    let mut list = Vec::new();
    list.extend(set("NVCC").map(|path| ("NVCC", PathBuf::from(path))));
    for name in FOLDER_VARIABLES {
        list.extend(set(name).map(|folder| (name, in_folder(Path::new(&folder)))));
    }
    list.push(("fetched", in_folder(&crate_folder.join(FETCHED))));
    if let Some(path) = set("PATH") {
        let on_path =
            env::split_paths(&path).map(|folder| folder.join(&executable)).find(|file| file.is_file());
        list.extend(on_path.map(|file| ("PATH", file)));
    }
    list.extend(usual_folders.iter().map(|folder| ("usual", in_folder(Path::new(folder)))));
    list
}

fn search(
    candidates: Vec<Candidate>,
    version: impl Fn(&Path) -> Result<String, String>,
) -> Result<Nvcc, String> {
    let mut tried = Vec::new();
    for (origin, path) in candidates {
        match probe(&path, &version) {
            Ok(nvcc) => return Ok(nvcc),
            Err(reason) => tried.push(format!("{origin} {} ({reason})", path.display())),
        }
    }
    Err(format!("no nvcc of CUDA {} or newer; tried {}", OLDEST.major, tried.join(", ")))
}

fn probe(path: &Path, version: impl Fn(&Path) -> Result<String, String>) -> Result<Nvcc, String> {
    let path = path.canonicalize().map_err(|_| "not there".to_owned())?;
    let version = version(&path)?;
    let release = release(&version).ok_or("prints no release")?;
    if release < OLDEST {
        return Err(format!("release {}.{} is too old", release.major, release.minor));
    }
    Ok(Nvcc { path, version, release })
}

fn version(nvcc: &Path) -> Result<String, String> {
    let output = Command::new(nvcc).arg("--version").output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("--version: {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn release(version: &str) -> Option<Release> {
    let number = version.split("release ").nth(1)?.split(',').next()?;
    let (major, minor) = number.trim().split_once('.')?;
    Some(Release { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;

    use super::*;

    /// A folder with fake compilers. Each file's text is what `nvcc --version` would print.
    struct Tree {
        root: tempfile::TempDir,
        variables: HashMap<&'static str, OsString>,
    }

    impl Tree {
        fn new() -> Self {
            Self { root: tempfile::tempdir().unwrap(), variables: HashMap::new() }
        }

        fn path(&self, path: &str) -> PathBuf {
            self.root.path().canonicalize().unwrap().join(path)
        }

        fn nvcc(&self, folder: &str, release: &str) -> PathBuf {
            let file = self.path(folder).join(format!("nvcc{}", env::consts::EXE_SUFFIX));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, format!("Cuda compilation tools, release {release}, V{release}.1")).unwrap();
            file
        }

        fn set(&mut self, name: &'static str, path: &str) {
            self.variables.insert(name, self.path(path).into_os_string());
        }

        fn search(&self) -> Result<PathBuf, String> {
            let usual = self.path("usual");
            let variable = |name: &str| self.variables.get(name).cloned();
            let read = |path: &Path| fs::read_to_string(path).map_err(|error| error.to_string());
            let places = candidates(&self.path("crate"), variable, &[usual.to_str().unwrap()]);
            search(places, read).map(|nvcc| nvcc.path)
        }
    }

    #[test]
    fn earlier_places_win() {
        let mut tree = Tree::new();
        tree.nvcc("usual/bin", "13.0");
        assert_eq!(tree.search().unwrap(), tree.path("usual/bin/nvcc"));

        tree.nvcc("on_path", "13.0");
        tree.set("PATH", "on_path");
        assert_eq!(tree.search().unwrap(), tree.path("on_path/nvcc"));

        tree.nvcc("crate/toolkit/nvidia/cu13/bin", "13.0");
        assert_eq!(tree.search().unwrap(), tree.path("crate/toolkit/nvidia/cu13/bin/nvcc"));

        for variable in FOLDER_VARIABLES.into_iter().rev() {
            tree.nvcc(&format!("{variable}/bin"), "12.9");
            tree.set(variable, variable);
            assert_eq!(tree.search().unwrap(), tree.path(variable).join("bin/nvcc"));
        }

        tree.nvcc("explicit", "13.1");
        tree.set("NVCC", "explicit/nvcc");
        assert_eq!(tree.search().unwrap(), tree.path("explicit/nvcc"));
    }

    #[test]
    fn old_and_missing_compilers_are_passed_over_and_named() {
        let mut tree = Tree::new();
        tree.set("NVCC", "nowhere/nvcc");
        tree.nvcc("old/bin", "11.8");
        tree.set("CUDA_HOME", "old");
        tree.nvcc("good/bin", "12.0");
        tree.set("CUDA_PATH", "good");
        assert_eq!(tree.search().unwrap(), tree.path("good/bin/nvcc"));

        tree.variables.remove("CUDA_PATH");
        let message = tree.search().unwrap_err();
        for part in [
            "nowhere/nvcc (not there)",
            "old/bin/nvcc (release 11.8 is too old)",
            "usual/bin/nvcc (not there)",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        let mut tree = Tree::new();
        tree.variables.insert("NVCC", OsString::new());
        tree.variables.insert("CUDA_HOME", OsString::new());
        tree.nvcc("crate/toolkit/nvidia/cu13/bin", "13.0");
        assert_eq!(tree.search().unwrap(), tree.path("crate/toolkit/nvidia/cu13/bin/nvcc"));
    }

    #[cfg(unix)]
    #[test]
    fn a_linked_compiler_is_found_at_its_own_tree() {
        let mut tree = Tree::new();
        let real = tree.nvcc("cuda/bin", "13.0");
        fs::create_dir_all(tree.path("links")).unwrap();
        std::os::unix::fs::symlink(&real, tree.path("links/nvcc")).unwrap();
        tree.set("PATH", "links");
        assert_eq!(tree.search().unwrap(), real);
    }

    #[test]
    fn releases_are_read_from_the_banner() {
        let banner =
            "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 13.0, V13.0.88\n";
        assert_eq!(release(banner), Some(Release { major: 13, minor: 0 }));
        assert_eq!(release("gcc 12.2"), None);
        assert!(Release { major: 12, minor: 10 } > Release { major: 12, minor: 9 });
    }
}
