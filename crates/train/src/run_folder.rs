//! The folder of a run: what lies where, and who may write it.
//!
//! ```text
//! runs/titans-1/
//!   run.toml                 the resolved configuration of the run
//!   config.json              the model, in the layout that other tools expect
//!   model.safetensors        the final weights
//!   tokenizer_config.json    the tokenizer
//!   generation_config.json   defaults for generating
//!   log.jsonl                the log
//!   report.html              the report
//!   checkpoints/step-N/      what resuming needs
//!   events/                  TensorBoard event files, on request
//!   .lock                    held by the process that writes the run
//! ```
//!
//! The lock is one of the operating system and ends with the process, however it ends: there are no stale locks.

use crate::checkpoint::Checkpoints;
use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// The resolved configuration of the run.
pub const RUN_CONFIG: &str = "run.toml";
/// The model.
pub const MODEL_CONFIG: &str = "config.json";
/// The final weights.
pub const WEIGHTS: &str = "model.safetensors";
/// The tokenizer.
pub const TOKENIZER: &str = crate::tokenizer::FILE_NAME;
/// Defaults for generating.
pub const GENERATION_CONFIG: &str = "generation_config.json";
/// The log.
pub const LOG: &str = "log.jsonl";
/// The report.
pub const REPORT: &str = "report.html";
/// The folder of the checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";
/// The folder of TensorBoard event files.
pub const EVENTS: &str = "events";
const LOCK: &str = ".lock";
/// Where runs lie that were given no name.
pub const DEFAULT_PARENT: &str = "runs";

/// A run folder that this process may write. Dropped, it is free for others.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Holds the lock while it is open.
    _lock: File,
}

impl RunFolder {
    /// Makes a new run folder, with its parents.
    ///
    /// # Errors
    /// [`Error::RunExists`] where the folder exists and holds anything, [`Error::RunLocked`] where another process
    /// was faster, [`Error::Io`] with the cause, [`Error::Unsuitable`] where the path is a file.
    pub fn create(path: &Path) -> Result<Self> {
        match fs::metadata(path) {
            Ok(meta) if !meta.is_dir() => return Err(Error::unsuitable(path, "is a file, expected a folder")),
            Ok(_) if !is_free(path)? => return Err(Error::RunExists { path: path.to_path_buf() }),
            _ => {}
        }
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        let run = Self::lock(path)?;
        // Another process may have come, written and gone since the first look.
        if !is_free(path)? {
            return Err(Error::RunExists { path: path.to_path_buf() });
        }
        Checkpoints::open(&run.join(CHECKPOINTS))?;
        Ok(run)
    }

    /// Makes the first of `PARENT/NAME-1`, `PARENT/NAME-2`, ... that does not exist.
    ///
    /// # Errors
    /// As [`RunFolder::create`].
    pub fn create_numbered(parent: &Path, name: &str) -> Result<Self> {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        for n in 1_u64.. {
            let path = parent.join(format!("{name}-{n}"));
            // Making the folder is the claim: of two processes only one succeeds.
            match fs::create_dir(&path) {
                Ok(()) => return Self::create(&path),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io("create", &path)(e)),
            }
        }
        unreachable!("the numbers do not end")
    }

    /// Opens an existing run to go on with it.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] where it is no run, [`Error::RunLocked`] where another process writes it, [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        check_is_run(path)?;
        Self::lock(path)
    }

    fn lock(path: &Path) -> Result<Self> {
        let lock = path.join(LOCK);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&lock);
        let mut file = file.map_err(Error::io("write", &lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Where the lock also forbids reading, the process stays unnamed.
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(Error::RunLocked { path: path.to_path_buf(), pid });
            }
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", &lock)(e)),
        }
        // The number is a courtesy for the message above; the lock itself is the operating system's.
        let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(Error::io("write", &lock))?;
        Ok(Self { path: path.to_path_buf(), _lock: file })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Something inside of it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Its checkpoints, without what killed processes have left.
    ///
    /// # Errors
    /// [`Error::Io`] where they cannot be listed or cleaned.
    pub fn checkpoints(&self) -> Result<Checkpoints> {
        crate::atomic::remove_leftovers(&self.path)?;
        let checkpoints = Checkpoints::open(&self.join(CHECKPOINTS))?;
        checkpoints.remove_leftovers()?;
        Ok(checkpoints)
    }
}

/// Checks that `path` is a run folder; reading a run needs no lock.
///
/// # Errors
/// [`Error::Io`] where it is not there, [`Error::Unsuitable`] where it is no run.
pub fn check_is_run(path: &Path) -> Result<()> {
    let meta = fs::metadata(path).map_err(Error::io("open", path))?;
    if !meta.is_dir() || !path.join(RUN_CONFIG).is_file() {
        return Err(Error::unsuitable(path, format!("is no run folder: it has no {RUN_CONFIG}")));
    }
    Ok(())
}

/// Whether a folder holds nothing but what an attempt to create a run leaves before its first file.
fn is_free(path: &Path) -> Result<bool> {
    for entry in fs::read_dir(path).map_err(Error::io("list", path))? {
        let entry = entry.map_err(Error::io("list", path))?;
        let name = entry.file_name();
        let is_empty_folder = || fs::read_dir(entry.path()).is_ok_and(|mut d| d.next().is_none());
        if name != LOCK && !(name == CHECKPOINTS && is_empty_folder()) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_anything_in_it_is_never_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/run");
        let run = RunFolder::create(&path).unwrap();
        fs::write(run.join(RUN_CONFIG), "").unwrap();
        drop(run);
        let line = RunFolder::create(&path).unwrap_err().to_string();
        assert!(line.contains("exists and is not empty") && line.contains("--resume") && line.contains("--out"));
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(RunFolder::create(&file).unwrap_err().to_string().ends_with("is a file, expected a folder"));
        assert_eq!(fs::read(&file).unwrap(), b"x");
    }

    #[test]
    fn an_empty_folder_and_one_of_a_run_that_died_at_birth_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        drop(RunFolder::create(dir.path()).unwrap());
        assert!(dir.path().join(".lock").exists() && dir.path().join(CHECKPOINTS).is_dir());
        drop(RunFolder::create(dir.path()).unwrap());
    }

    #[test]
    fn default_names_count_up() {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().join(DEFAULT_PARENT);
        let names: Vec<_> = (0..3)
            .map(|_| RunFolder::create_numbered(&parent, "titans").unwrap())
            .map(|r| r.path().file_name().unwrap().to_str().unwrap().to_string())
            .collect();
        assert_eq!(names, ["titans-1", "titans-2", "titans-3"]);
    }

    #[test]
    fn a_second_writer_is_refused_by_the_number_of_the_first_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunFolder::create(dir.path()).unwrap();
        fs::write(run.join(RUN_CONFIG), "").unwrap();
        let error = RunFolder::open(dir.path()).unwrap_err();
        let own = std::process::id();
        assert!(matches!(error, Error::RunLocked { pid, .. } if pid == Some(own) || pid.is_none()), "{error}");
        drop(run);
        RunFolder::open(dir.path()).unwrap();
    }

    #[test]
    fn the_lock_file_of_a_dead_process_is_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(RUN_CONFIG), "").unwrap();
        fs::write(dir.path().join(".lock"), "4000000\n").unwrap();
        let run = RunFolder::open(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(run.join(".lock")).unwrap(), format!("{}\n", std::process::id()));
    }

    #[test]
    fn what_is_no_run_cannot_be_resumed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(RunFolder::open(dir.path()).unwrap_err().to_string().contains("is no run folder: it has no run.toml"));
        assert!(matches!(RunFolder::open(&dir.path().join("none")), Err(Error::Io { .. })));
    }

    #[test]
    fn leftovers_of_a_kill_are_cleaned_when_the_checkpoints_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunFolder::create(dir.path()).unwrap();
        fs::write(run.join("log.jsonl.tmp-1-0"), "x").unwrap();
        fs::create_dir(run.join("checkpoints/step-3.tmp-1-1")).unwrap();
        assert!(run.checkpoints().unwrap().steps().unwrap().is_empty());
        assert_eq!(fs::read_dir(run.join(CHECKPOINTS)).unwrap().count(), 0);
        assert!(!run.join("log.jsonl.tmp-1-0").exists());
    }
}
