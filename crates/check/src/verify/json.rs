//! The report as a file.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process;

use super::report::Report;

/// A file that appears whole or not at all: written beside its place and then renamed.
pub struct JsonFile {
    target: PathBuf,
    temporary: PathBuf,
    file: File,
}

impl JsonFile {
    /// Opens it before the work starts, so that a path that cannot be written costs no run.
    pub fn create(target: &Path) -> Result<Self, String> {
        let failed = |reason: String| format!("cannot write {}: {reason}", target.display());
        let name = target.file_name().ok_or_else(|| failed("it names no file".to_owned()))?;
        let mut temporary = name.to_owned();
        temporary.push(format!(".{}.tmp", process::id()));
        let temporary = target.with_file_name(temporary);
        if target.is_dir() {
            return Err(failed("it is a directory".to_owned()));
        }
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = file.map_err(|error| failed(error.to_string()))?;
        Ok(Self { target: target.to_owned(), temporary, file })
    }

    /// Writes the report and puts the file in its place.
    pub fn commit(self, report: &Report) -> Result<(), String> {
        let write = || -> std::io::Result<()> {
            let mut writer = BufWriter::new(&self.file);
            serde_json::to_writer_pretty(&mut writer, report)?;
            writeln!(writer)?;
            writer.flush()?;
            drop(writer);
            self.file.sync_all()?;
            fs::rename(&self.temporary, &self.target)
        };
        write().map_err(|error| format!("cannot write {}: {error}", self.target.display()))
    }
}

impl Drop for JsonFile {
    /// After a commit there is nothing left to remove.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary);
    }
}
