//! What a program prints.

use std::io::{self, Write};

use crate::output::OutputFile;

/// Where people read the results.
#[derive(Clone, Copy)]
pub enum Console {
    Stdout,
    Stderr,
}

impl Console {
    /// Beside what is written to files: standard output, unless one of them is that.
    pub fn beside<'f>(files: impl IntoIterator<Item = &'f OutputFile>) -> Self {
        if files.into_iter().any(OutputFile::is_stdout) { Self::Stderr } else { Self::Stdout }
    }

    /// A reader that has seen enough, as `head` has, is no error.
    ///
    /// # Errors
    /// Why nobody can read it.
    pub fn print(self, text: &str) -> Result<(), String> {
        let written = match self {
            Self::Stdout => io::stdout().lock().write_all(text.as_bytes()),
            Self::Stderr => io::stderr().lock().write_all(text.as_bytes()),
        };
        match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(format!("cannot write the results: {error}"))
            }
            _ => Ok(()),
        }
    }
}
