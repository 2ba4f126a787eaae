//! Files and folders that are there whole or not at all.
//!
//! Everything is written beside its final place under a temporary name, synced, and renamed. Whatever goes wrong
//! on the way (a full disk, a missing permission, the end of the process), the old content stays as it was; what
//! failed while the process lives is also removed.
//!
//! **Invariant:** nothing else in this crate opens a file of a run for writing, except the append-only logs.

use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What temporary names contain, so that leftovers of a killed process can be told from content.
pub const TEMPORARY: &str = ".tmp-";

/// The largest file that is read whole.
pub const MAX_READ_BYTES: u64 = 16 << 30;

/// Reads a whole file.
///
/// # Errors
/// [`Error::Io`] with the path and the cause, [`Error::Unsuitable`] for what is no file or is larger than
/// [`MAX_READ_BYTES`].
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    if !file.metadata().map_err(Error::io("read", path))?.is_file() {
        return Err(Error::unsuitable(path, "is no file"));
    }
    let mut bytes = vec![];
    file.take(MAX_READ_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > MAX_READ_BYTES {
        return Err(Error::unsuitable(path, format!("is larger than {MAX_READ_BYTES} bytes")));
    }
    Ok(bytes)
}

/// Replaces the file at `path` by `bytes`.
///
/// # Errors
/// [`Error::Io`] with the path and the cause, [`Error::Unsuitable`] where `path` is read-only, a device or a folder.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |out| out.write_all(bytes))
}

/// Replaces the file at `path` by what `fill` writes.
///
/// A symbolic link stays, and the file that it names is replaced; an existing file's permissions stay too.
///
/// # Errors
/// As [`write()`]; an error of `fill` counts as an error of writing `path`.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let target = replaceable(path)?;
    let temporary = Temporary::beside(&target)?;
    let file = OpenOptions::new().write(true).create_new(true).open(&temporary.path);
    let file = file.map_err(Error::io("create", &target))?;
    if let Ok(old) = fs::metadata(&target) {
        file.set_permissions(old.permissions()).map_err(Error::io("write", &target))?;
    }
    fill_and_sync(file, fill).map_err(Error::io("write", &target))?;
    temporary.rename_to(&target)
}

/// Makes sure that a file at `path` could be replaced, before the work that its content takes.
///
/// # Errors
/// As [`write()`].
pub fn check_replaceable(path: &Path) -> Result<()> {
    let target = replaceable(path)?;
    let temporary = Temporary::beside(&target)?;
    let file = OpenOptions::new().write(true).create_new(true).open(&temporary.path);
    file.map(drop).map_err(Error::io("create", &target))
}

/// Runs `fill` on a buffered `file`, then makes sure that every byte is on the disk.
pub(crate) fn fill_and_sync(file: File, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, file);
    fill(&mut out)?;
    out.flush()?;
    out.get_ref().sync_all()
}

/// The regular file, present or future, that `path` names.
///
/// Renaming onto a device such as `/dev/null` would replace the device itself, so only files are accepted.
fn replaceable(path: &Path) -> Result<PathBuf> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() && meta.permissions().readonly() => Err(Error::unsuitable(path, "is read-only")),
        Ok(meta) if meta.is_file() => fs::canonicalize(path).map_err(Error::io("open", path)),
        Ok(meta) if meta.is_dir() => Err(Error::unsuitable(path, "is a folder, expected a file")),
        Ok(_) => Err(Error::unsuitable(path, "is a device or a pipe, expected a file that can be replaced")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(path.to_path_buf()),
        Err(e) => Err(Error::io("open", path)(e)),
    }
}

/// A path for something unfinished, removed when dropped.
pub(crate) struct Temporary {
    pub(crate) path: PathBuf,
    armed: bool,
}

impl Temporary {
    /// A fresh name in the folder of `target`, so that renaming stays within one file system.
    pub(crate) fn beside(target: &Path) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = target.file_name().ok_or_else(|| Error::unsuitable(target, "does not name a file or folder"))?;
        let unique = format!("{TEMPORARY}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut temporary = name.to_os_string();
        temporary.push(unique);
        let path = target.with_file_name(temporary);
        // A name of an earlier process with the same number may still lie here.
        remove(&path).map_err(Error::io("remove", &path))?;
        Ok(Self { path, armed: true })
    }

    /// Gives the finished thing its name, and makes the name itself durable.
    pub(crate) fn rename_to(mut self, target: &Path) -> Result<()> {
        fs::rename(&self.path, target).map_err(Error::io("write", target))?;
        self.armed = false;
        sync_folder(parent(target)).map_err(Error::io("write", target))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.armed {
            // The error that led here is the one to report; a leftover is harmless and is cleaned by the next run.
            let _ = remove(&self.path);
        }
    }
}

/// Removes a file or a folder with all that is in it; what is not there counts as removed.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The folder that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in a folder durable. Systems other than Unix do it with the file.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Removes what killed processes left in `folder`: entries with a temporary name. Returns how many there were.
///
/// Call it only while nothing else writes into the folder.
///
/// # Errors
/// [`Error::Io`] where the folder cannot be listed or an entry cannot be removed.
pub fn remove_leftovers(folder: &Path) -> Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        if entry.file_name().to_string_lossy().contains(TEMPORARY) {
            remove(&entry.path()).map_err(Error::io("remove", &entry.path()))?;
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(dir.path()), ["a.json"]);
    }

    #[test]
    fn a_failure_half_way_keeps_the_old_content_and_removes_the_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        write(&path, b"old").unwrap();
        let error = write_with(&path, |out| {
            out.write_all(&[7; 100_000])?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        let line = error.unwrap_err().to_string();
        assert!(line.contains("cannot write") && line.contains("a.bin") && line.contains("storage"), "{line}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["a.bin"]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_noticed_even_for_bytes_that_fit_the_buffer() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = fill_and_sync(full, |out| out.write_all(b"x")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("file");
        fs::write(&blocked, b"not a folder").unwrap();
        let line = write(&blocked.join("a.json"), b"x").unwrap_err().to_string();
        assert!(line.contains("a.json") && line.starts_with("cannot "), "{line}");
        let line = write(&dir.path().join("missing/a.json"), b"x").unwrap_err().to_string();
        assert!(line.starts_with("cannot create") && line.contains("missing"), "{line}");
    }

    #[test]
    #[cfg(unix)]
    fn a_folder_without_permission_is_an_error_that_leaves_the_file_as_it_was() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write(&path, b"old").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
        let outcome = write(&path, b"new");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // A superuser may write everywhere; then the write must be whole.
        match outcome {
            Ok(()) => assert_eq!(fs::read(&path).unwrap(), b"new"),
            Err(e) => {
                assert!(e.to_string().starts_with("cannot create"), "{e}");
                assert_eq!(fs::read(&path).unwrap(), b"old");
            }
        }
    }

    #[test]
    fn a_read_only_file_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write(&path, b"old").unwrap();
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&path, permissions).unwrap();
        assert!(write(&path, b"new").unwrap_err().to_string().ends_with("a.json: is read-only"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }

    #[test]
    #[cfg(unix)]
    fn a_private_file_stays_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write(&path, b"old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn folders_and_devices_are_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(write(dir.path(), b"x"), Err(Error::Unsuitable { .. })));
        if cfg!(unix) {
            assert!(matches!(write(Path::new("/dev/null"), b"x"), Err(Error::Unsuitable { .. })));
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_symbolic_link_stays_and_its_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        write(&file, b"old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
    }

    #[test]
    fn leftovers_of_killed_processes_are_removed_and_content_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("step-5.tmp-9-0")).unwrap();
        fs::write(dir.path().join("step-5.tmp-9-0/x"), b"x").unwrap();
        fs::write(dir.path().join("log.jsonl.tmp-9-1"), b"x").unwrap();
        fs::write(dir.path().join("log.jsonl"), b"x").unwrap();
        assert_eq!(remove_leftovers(dir.path()).unwrap(), 2);
        assert_eq!(names(dir.path()), ["log.jsonl"]);
    }
}
