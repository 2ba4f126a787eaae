//! The log of a run: `log.jsonl`, one JSON object per line, each with a `type` and a `step`.
//!
//! Lines are appended whole, with one write each, so that a kill can tear at most the last one. Everything about a
//! step must be logged before the step's checkpoint is written; resuming from it removes what came after.

use crate::atomic;
use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// One line of the log. Numbers that are not finite are written as `null` and read back as NaN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Record {
    /// A process began to work on the run.
    Run(Run),
    /// An optimizer step.
    Step(Step),
    /// A measurement on held-out text.
    Eval(Eval),
    /// Text that the model wrote.
    Sample(Sample),
    /// A process stopped working on the run, of its own accord.
    End(End),
}

/// See [`Record::Run`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Steps done before: 0, or those of the checkpoint that was resumed.
    pub step: u64,
    /// Version of the program.
    pub version: String,
    /// Seconds since 1970, UTC.
    pub unix_secs: u64,
    /// The resolved configuration.
    pub config: serde_json::Value,
    /// What the machine is: see `machine`.
    pub machine: serde_json::Value,
}

/// See [`Record::Step`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Steps done, this one included.
    pub step: u64,
    /// Tokens predicted so far.
    pub tokens: u64,
    /// Mean loss of the step, in nats per token.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// The same in bits per byte.
    #[serde(deserialize_with = "number")]
    pub bits_per_byte: f64,
    /// Norm of the whole gradient before clipping.
    #[serde(deserialize_with = "number")]
    pub grad_norm: f64,
    /// Learning rate.
    #[serde(deserialize_with = "number")]
    pub lr: f64,
    /// Tokens per second of this step.
    #[serde(deserialize_with = "number")]
    pub tokens_per_sec: f64,
    /// Arithmetic of the step as a share of the machine's measured peak, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_of_peak: Option<f64>,
    /// Seconds that the step took.
    #[serde(deserialize_with = "number")]
    pub secs: f64,
    /// Further values by name: mean gates, norms of memories.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "numbers")]
    pub traces: BTreeMap<String, f64>,
}

/// See [`Record::Eval`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Eval {
    /// Steps done.
    pub step: u64,
    /// What was measured: `held_out`, or the name of a control such as `frozen`.
    pub name: String,
    /// Bytes scored.
    pub bytes: u64,
    /// Bits per byte over all of them.
    #[serde(deserialize_with = "number")]
    pub bits_per_byte: f64,
    /// The same by position, where that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_position: Vec<PositionBin>,
    /// Seconds that it took.
    #[serde(deserialize_with = "number")]
    pub secs: f64,
}

/// Positions from the end of the bin before up to `end`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PositionBin {
    /// The first position that is no longer part of it.
    pub end: u64,
    /// Bytes scored.
    pub bytes: u64,
    /// Bits per byte.
    #[serde(deserialize_with = "number")]
    pub bits_per_byte: f64,
}

/// See [`Record::Sample`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Steps done.
    pub step: u64,
    /// What the model was given.
    pub prompt: String,
    /// What it wrote.
    pub text: String,
}

/// See [`Record::End`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Steps done.
    pub step: u64,
    /// Why: `finished`, `interrupted`, or an error's line.
    pub reason: String,
    /// Seconds since the process began.
    #[serde(deserialize_with = "number")]
    pub secs: f64,
}

impl Record {
    /// Steps done when it was written.
    pub fn step(&self) -> u64 {
        match self {
            Record::Run(r) => r.step,
            Record::Step(r) => r.step,
            Record::Eval(r) => r.step,
            Record::Sample(r) => r.step,
            Record::End(r) => r.step,
        }
    }
}

/// JSON has no NaN and no infinity; both are written as `null`.
fn number<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(d)?.unwrap_or(f64::NAN))
}

fn numbers<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let map = BTreeMap::<String, Option<f64>>::deserialize(d)?;
    Ok(map.into_iter().map(|(k, v)| (k, v.unwrap_or(f64::NAN))).collect())
}

/// Appends to a log.
#[derive(Debug)]
pub struct LogWriter {
    file: File,
    path: PathBuf,
}

/// What [`LogWriter::resume`] did with the lines that it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Lines that stay.
    pub kept: usize,
    /// Lines about steps after the checkpoint, removed.
    pub later: usize,
    /// Lines that were torn or are no record, removed.
    pub unreadable: usize,
}

impl LogWriter {
    /// A new log.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be created, or exists.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create_new(path).map_err(Error::io("create", path))?;
        Ok(Self { file, path: path.to_path_buf() })
    }

    /// Goes on with a log after the checkpoint of `step`: later lines are removed, and the file is replaced in one
    /// go, so that a kill leaves the old log or the new one. A missing log is begun anew.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read or written.
    pub fn resume(path: &Path, step: u64) -> Result<(Self, Trimmed)> {
        let mut trimmed = Trimmed::default();
        if path.exists() {
            let text = fs::read(path).map_err(Error::io("read", path))?;
            let mut kept = vec![];
            for line in text.split_inclusive(|&b| b == b'\n') {
                match parse(line) {
                    Some(Ok(record)) if record.step() <= step => {
                        kept.extend_from_slice(line);
                        trimmed.kept += 1;
                    }
                    Some(Ok(_)) => trimmed.later += 1,
                    Some(Err(_)) | None => trimmed.unreadable += 1,
                }
            }
            if trimmed.later + trimmed.unreadable > 0 {
                atomic::write(path, &kept)?;
            }
        }
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(Error::io("open", path))?;
        Ok((Self { file, path: path.to_path_buf() }, trimmed))
    }

    /// Appends a line.
    ///
    /// # Errors
    /// [`Error::Io`] with the path and the cause; what was written of the line is removed then.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record).expect("a record is plain data");
        line.push(b'\n');
        append_whole(&mut self.file, &line).map_err(Error::io("write", &self.path))
    }
}

/// Appends all of `bytes`, or nothing.
fn append_whole(file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    let before = file.seek(SeekFrom::End(0))?;
    file.write_all(bytes).inspect_err(|_| {
        // The error that led here is the one to report; a torn line is skipped by every reader.
        let _ = file.set_len(before);
    })
}

/// A line's record; `None` for a line without an end.
fn parse(line: &[u8]) -> Option<serde_json::Result<Record>> {
    let line = line.strip_suffix(b"\n")?;
    Some(serde_json::from_slice(line))
}

/// All records of a log. A torn last line, which a kill may leave, is left out.
///
/// # Errors
/// [`Error::Io`] where it cannot be read, [`Error::Log`] with the first line that is no record.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let text = fs::read(path).map_err(Error::io("read", path))?;
    let mut records = vec![];
    for (i, line) in text.split_inclusive(|&b| b == b'\n').enumerate() {
        match parse(line) {
            Some(Ok(record)) => records.push(record),
            Some(Err(e)) => {
                let reason = format!("no record of a log: {e}");
                return Err(Error::Log { path: path.to_path_buf(), line: i + 1, reason });
            }
            None => {}
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> Record {
        let traces = [("blocks.0.retain".to_string(), 0.98)].into();
        Record::Step(Step { step, tokens: 64 * step, loss: 2.5, share_of_peak: Some(0.4), traces, ..Step::default() })
    }

    fn every_record() -> Vec<Record> {
        let bin = PositionBin { end: 64, bytes: 100, bits_per_byte: 2.25 };
        vec![
            Record::Run(Run {
                step: 0,
                version: "0.1.0".into(),
                unix_secs: 1,
                config: serde_json::json!({"model": {"d": 64}}),
                machine: serde_json::json!({}),
            }),
            step(1),
            Record::Eval(Eval { step: 1, name: "held_out".into(), by_position: vec![bin], ..Eval::default() }),
            Record::Sample(Sample { step: 1, prompt: "Call".into(), text: " me\n\u{1b}\"—".into() }),
            Record::End(End { step: 1, reason: "finished".into(), secs: 0.1 }),
        ]
    }

    #[test]
    fn every_kind_of_record_is_one_line_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let mut log = LogWriter::create(&path).unwrap();
        every_record().iter().for_each(|r| log.write(r).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 5);
        assert_eq!(read(&path).unwrap(), every_record());
        assert!(matches!(LogWriter::create(&path), Err(Error::Io { .. })), "a log is never overwritten");
    }

    #[test]
    fn numbers_that_are_not_finite_come_back_as_nan() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let traces = [("x".to_string(), f64::NAN)].into();
        let record = Step { loss: f64::NAN, grad_norm: f64::INFINITY, traces, ..Step::default() };
        LogWriter::create(&path).unwrap().write(&Record::Step(record)).unwrap();
        let Record::Step(back) = read(&path).unwrap().remove(0) else { panic!("a step was written") };
        assert!(back.loss.is_nan() && back.grad_norm.is_nan() && back.traces["x"].is_nan());
    }

    #[test]
    fn resuming_removes_what_came_after_the_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let mut log = LogWriter::create(&path).unwrap();
        (1..=9).for_each(|s| log.write(&step(s)).unwrap());
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"type\":\"step\",\"st").unwrap();
        let (mut log, trimmed) = LogWriter::resume(&path, 6).unwrap();
        assert_eq!(trimmed, Trimmed { kept: 6, later: 3, unreadable: 1 });
        log.write(&step(7)).unwrap();
        let steps: Vec<u64> = read(&path).unwrap().iter().map(Record::step).collect();
        assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7]);
        let (_, trimmed) = LogWriter::resume(&path, 7).unwrap();
        assert_eq!(trimmed, Trimmed { kept: 7, later: 0, unreadable: 0 });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_a_broken_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let line = serde_json::to_string(&step(1)).unwrap();
        fs::write(&path, format!("{line}\n{}", &line[..20])).unwrap();
        assert_eq!(read(&path).unwrap(), [step(1)]);
        fs::write(&path, format!("{line}\n{{\"type\":\"dance\"}}\n{line}\n")).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("log.jsonl:2: ") && error.contains("dance"), "{error}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_one_clear_line() {
        let mut log = LogWriter {
            file: OpenOptions::new().write(true).open("/dev/full").unwrap(),
            path: PathBuf::from("runs/a/log.jsonl"),
        };
        let line = log.write(&step(1)).unwrap_err().to_string();
        assert!(line.starts_with("cannot write runs/a/log.jsonl: No space left"), "{line}");
    }
}
