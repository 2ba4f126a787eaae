//! What can go wrong around a run: facts with the path and the cause, each printed as one line.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the training crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused: no such file, no permission, no space.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb: `read`, `write`, `create`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file or folder that is there, but is not what it should be.
    #[error("{}: {reason}", path.display())]
    Unsuitable {
        /// The file or folder.
        path: PathBuf,
        /// What it is, and what was expected.
        reason: String,
    },
    /// Text that holds fewer predictions than one step needs.
    #[error(
        "{origin}: the training part holds {have} predictions, but one step needs {need} ({lanes} lanes x {tokens} \
         tokens); give more text, fewer lanes or shorter sequences"
    )]
    TooShort {
        /// Where the text comes from.
        origin: String,
        /// Predictions in the training part.
        have: usize,
        /// Predictions that one step asks for.
        need: usize,
        /// Lanes read side by side.
        lanes: usize,
        /// Tokens of each lane in one step.
        tokens: usize,
    },
    /// A saved cursor that does not belong to this text or these settings.
    #[error("cannot continue on this text: {what} is {got}, but the checkpoint was written with {expected}")]
    Cursor {
        /// What differs.
        what: &'static str,
        /// In the checkpoint.
        expected: String,
        /// Here.
        got: String,
    },
    /// A token that the vocabulary does not have.
    #[error("token {id} is outside of the vocabulary of {vocab}")]
    Token {
        /// The token.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A file in a format version that this build does not know.
    #[error("{}: format version {found}, but this build reads version {known}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: u64,
        /// Version that can be read.
        known: u64,
    },
    /// What was asked to stop has stopped.
    #[error("stopped as asked")]
    Stopped,
    /// The model refused or broke.
    #[error(transparent)]
    Model(#[from] hecate_model::Error),
    /// A step of a run that broke.
    #[error("step {step}: {source}")]
    Step {
        /// Step, from 1.
        step: u64,
        /// What broke, and where in the model.
        source: hecate_model::Error,
    },
    /// A run folder that exists already.
    #[error("{0} exists and is not empty: continue it with `--resume {0}`, or choose another folder with `--out`", path.display())]
    RunExists {
        /// The folder.
        path: PathBuf,
    },
    /// A run that another process is writing.
    #[error("{} is being written by another process{}", path.display(), owner(.pid))]
    RunLocked {
        /// The run folder.
        path: PathBuf,
        /// The other process, where it could be read.
        pid: Option<u32>,
    },
    /// A run from which nothing can be resumed.
    #[error("{}: no complete checkpoint ({found} incomplete)", path.display())]
    NoCheckpoint {
        /// The folder of the checkpoints.
        path: PathBuf,
        /// Number of folders that look like checkpoints but are broken.
        found: usize,
    },
    /// A checkpoint of this step is there already.
    #[error("{} is already complete", path.display())]
    CheckpointExists {
        /// The checkpoint's folder.
        path: PathBuf,
    },
    /// A line of a log that cannot be read.
    #[error("{}:{line}: {reason}", path.display())]
    Log {
        /// The log file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Why not.
        reason: String,
    },
    /// A `key=value` argument that cannot be applied.
    #[error("`{argument}`: {reason}")]
    Override {
        /// The argument as given.
        argument: String,
        /// Why not, and what would be possible.
        reason: String,
    },
    /// A configuration that cannot be read.
    #[error("{origin}: {reason}")]
    Config {
        /// The file, or the words `command line`.
        origin: String,
        /// Which key or value, and what is known in its place.
        reason: String,
    },
    /// A tensor that is missing or has another type or shape than expected.
    #[error("{}: tensor `{name}` is {got}, expected {expected}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What was expected: type and shape.
        expected: String,
        /// What the file holds.
        got: String,
    },
    /// The handler for Ctrl-C could not be installed.
    #[error("cannot watch for Ctrl-C: {source}")]
    Signal {
        /// The system's reason.
        source: ctrlc::Error,
    },
    /// An error of the mathematics.
    #[error(transparent)]
    Core(#[from] hecate_core::Error),
}

/// Result of the training crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps an error of the operating system; use as `.map_err(Error::io("read", path))`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path, source }
    }

    /// A file or folder that is not what it should be.
    pub fn unsuitable(path: &Path, reason: impl Into<String>) -> Error {
        Error::Unsuitable { path: path.to_path_buf(), reason: reason.into() }
    }
}

fn owner(pid: &Option<u32>) -> String {
    pid.map_or_else(String::new, |p| format!(" (process {p})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_is_one_line_that_names_its_facts() {
        let path = PathBuf::from("runs/a");
        let cases: Vec<(Error, &[&str])> = vec![
            (
                Error::io("write", &path)(io::Error::from(io::ErrorKind::StorageFull)),
                &["cannot write runs/a: ", "no storage space"],
            ),
            (Error::unsuitable(&path, "is a folder"), &["runs/a: is a folder"]),
            (
                Error::TooShort { origin: "x.txt".into(), have: 7, need: 64, lanes: 4, tokens: 16 },
                &["x.txt", "holds 7", "needs 64 (4 lanes x 16 tokens)"],
            ),
            (
                Error::Cursor { what: "the number of lanes", expected: "4".into(), got: "2".into() },
                &["the number of lanes is 2", "with 4"],
            ),
            (Error::Token { id: 300, vocab: 256 }, &["token 300", "vocabulary of 256"]),
            (Error::Version { path: path.clone(), found: 9, known: 1 }, &["runs/a: format version 9", "version 1"]),
            (Error::RunExists { path: path.clone() }, &["runs/a exists", "--resume runs/a", "--out"]),
            (Error::RunLocked { path: path.clone(), pid: Some(7) }, &["runs/a is being written", "(process 7)"]),
            (Error::NoCheckpoint { path: path.clone(), found: 2 }, &["runs/a: no complete checkpoint", "2 incomplete"]),
            (Error::CheckpointExists { path: path.clone() }, &["runs/a is already complete"]),
            (Error::Log { path: path.clone(), line: 3, reason: "not JSON".into() }, &["runs/a:3: not JSON"]),
            (Error::Override { argument: "a.b".into(), reason: "no value".into() }, &["`a.b`: no value"]),
            (Error::Config { origin: "c.toml".into(), reason: "unknown".into() }, &["c.toml: unknown"]),
            (
                Error::Tensor { path, name: "w".into(), expected: "F32 [2]".into(), got: "missing".into() },
                &["runs/a: tensor `w` is missing, expected F32 [2]"],
            ),
            (Error::Signal { source: ctrlc::Error::MultipleHandlers }, &["cannot watch for Ctrl-C: "]),
            (hecate_core::Error::Invalid { place: "p".into(), reason: "r".into() }.into(), &["p: r"]),
        ];
        for (error, facts) in cases {
            let line = error.to_string();
            assert!(!line.contains('\n'), "{line:?}");
            for fact in facts {
                assert!(line.contains(fact), "{line:?} does not say {fact:?}");
            }
        }
    }
}
