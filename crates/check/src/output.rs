//! Files that a program writes where its user says.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;

use crate::escape::escaped;

/// A place that can be written, found before the work starts: what cannot be written costs no run.
#[derive(Debug)]
pub struct OutputFile {
    /// As the user gave it.
    path: PathBuf,
    way: Way,
    stdout: bool,
}

/// How it is written.
#[derive(Debug)]
enum Way {
    /// A file, or none yet, at the end of all links: it is there whole or not at all. Opened is what stands there now.
    Replace { place: PathBuf, old: Option<File> },
    /// A file in a folder that takes no other.
    Overwrite(File),
    /// What is no regular file, and what somebody has opened for us: a pipe, a device, standard output.
    Through(File),
}

/// Links that are followed, as Linux does.
const MAX_LINKS: usize = 40;

impl OutputFile {
    /// Looks for a way to write to `path` without writing; `-` is standard output.
    ///
    /// # Errors
    /// Why it cannot be written, or that it is one of `inputs`, by whatever name.
    pub fn open<'a>(path: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<Self, String> {
        let failed = |reason: String| format!("cannot write {}: {reason}", path.display());
        let (way, stdout) = way_to(path, inputs).map_err(failed)?;
        Ok(Self { path: path.to_owned(), way, stdout })
    }

    /// Whether standard output is what it writes, and nothing else should be there: so with a file and with a pipe.
    pub fn is_stdout(&self) -> bool {
        self.stdout
    }

    /// Writes all of it. A reader that has seen enough is no error.
    ///
    /// # Errors
    /// Why it could not be written.
    pub fn write(self, bytes: &[u8]) -> Result<(), String> {
        let written = match self.way {
            Way::Replace { place, old } => replace(&place, old, bytes),
            Way::Overwrite(file) => overwrite(file, bytes),
            Way::Through(mut file) => match file.write_all(bytes) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                written => written,
            },
        };
        written.map_err(|error| format!("cannot write {}: {error}", self.path.display()))
    }
}

fn way_to<'a>(path: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<(Way, bool), String> {
    if path == Path::new("-") {
        return Ok((Way::Through(standard(&io::stdout()).map_err(text)?), true));
    }
    if path.as_os_str().as_bytes().ends_with(b"/") || path.file_name().is_none() {
        return Err("it names no file".to_owned());
    }
    let there = match fs::metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let way = new_file(path).map_err(text)?;
            return Ok((way, false));
        }
        Err(error) => return Err(text(error)),
    };
    for input in inputs {
        if fs::metadata(input).is_ok_and(|input| same(&input, &there)) {
            return Err(format!("it is {}, which is read", input.display()));
        }
    }
    let kind = there.file_type();
    if kind.is_dir() {
        return Err("it is a directory".to_owned());
    }
    // What a shell has opened has its own position, which no other opening of it would share.
    let streams = [standard(&io::stdout()), standard(&io::stderr())];
    for (stream, stdout) in streams.into_iter().zip([true, false]) {
        let stream = stream.map_err(text)?;
        if stream.metadata().is_ok_and(|stream| same(&stream, &there)) {
            return Ok((Way::Through(stream), stdout && !kind.is_char_device()));
        }
    }
    let way = if kind.is_fifo() {
        fifo(path)
    } else if kind.is_file() {
        regular(path, &there)
    } else {
        OpenOptions::new().write(true).open(path).map(Way::Through)
    };
    Ok((way.map_err(text)?, false))
}

fn standard(stream: &impl AsFd) -> io::Result<File> {
    stream.as_fd().try_clone_to_owned().map(File::from)
}

fn same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// A pipe that stays one. It takes a reader to open it, as in a shell.
fn fifo(path: &Path) -> io::Result<Way> {
    let mut options = OpenOptions::new();
    options.write(true);
    match options.clone().custom_flags(OFlags::NONBLOCK.bits() as i32).open(path) {
        // From here on it waits, as any other file.
        Ok(file) => fcntl_setfl(&file, OFlags::empty()).map(|()| Way::Through(file)).map_err(io::Error::from),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => {
            eprintln!("waiting for a reader of {}", escaped(&path.to_string_lossy()));
            options.open(path).map(Way::Through)
        }
        Err(error) => Err(error),
    }
}

/// A file that is there.
fn regular(path: &Path, there: &Metadata) -> io::Result<Way> {
    let old = OpenOptions::new().write(true).open(path)?;
    let Some(place) = end_of_links(path)? else {
        // A name of something that somebody has opened, in `/proc`: what is written comes behind what is there.
        return OpenOptions::new().append(true).open(path).map(Way::Through);
    };
    let found = fs::metadata(&place).is_ok_and(|place| same(&place, there));
    if found && takes_files(folder_of(&place)).is_ok() {
        return Ok(Way::Replace { place, old: Some(old) });
    }
    Ok(Way::Overwrite(old))
}

/// A file that is not there, perhaps at the end of a link.
fn new_file(path: &Path) -> io::Result<Way> {
    let place = end_of_links(path)?.ok_or(Errno::NOENT)?;
    takes_files(folder_of(&place))?;
    Ok(Way::Replace { place, old: None })
}

/// Where links lead, whether something is there or not; nothing for a name that the system makes up.
fn end_of_links(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut place = path.to_owned();
    for _ in 0..MAX_LINKS {
        if fs::canonicalize(folder_of(&place)).is_ok_and(|folder| folder.starts_with("/proc")) {
            return Ok(None);
        }
        match fs::read_link(&place) {
            Ok(target) => place = folder_of(&place).join(target),
            Err(_) => return Ok(Some(place)),
        }
    }
    Err(Errno::LOOP.into())
}

fn folder_of(place: &Path) -> &Path {
    match place.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Whether a folder takes a file, by one that has no name and leaves nothing behind.
fn takes_files(folder: &Path) -> io::Result<()> {
    fs::metadata(folder)?;
    // The reason alone: the name that was tried is nobody's.
    tempfile::tempfile_in(folder).map(drop).map_err(|error| error.kind().into())
}

/// Writes it beside its place and gives it the name, the owner and the mode of what stood there.
fn replace(place: &Path, old: Option<File>, bytes: &[u8]) -> io::Result<()> {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, ResourceBusy};
    match (beside(place, old.as_ref(), bytes), old) {
        // A mount point, another's file in a folder of all: only the file itself can be written.
        (Err(error), Some(old))
            if matches!(error.kind(), CrossesDevices | PermissionDenied | ResourceBusy) =>
        {
            overwrite(old, bytes)
        }
        (written, _) => written,
    }
}

fn beside(place: &Path, old: Option<&File>, bytes: &[u8]) -> io::Result<()> {
    let name = place.file_name().unwrap_or_default();
    let mut fresh = tempfile::Builder::new()
        .prefix(".report.")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder_of(place))?;
    fresh.write_all(bytes)?;
    if let Some(old) = old {
        let (old, new) = (old.metadata()?, fresh.as_file().metadata()?);
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            fchown(fresh.as_file(), Some(old.uid()), Some(old.gid()))?;
        }
        fresh.as_file().set_permissions(old.permissions())?;
    }
    fresh.as_file().sync_all()?;
    fresh.persist(folder_of(place).join(name))?;
    Ok(())
}

fn overwrite(mut file: File, bytes: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn text(error: io::Error) -> String {
    error.to_string()
}
