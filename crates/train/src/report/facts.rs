//! What a run folder says about its run.

use crate::atomic;
use crate::checkpoint::Checkpoints;
use crate::error::{Error, Result};
use crate::log::{self, End, Eval, Record, Run, Sample, Step};
use crate::run_folder::{CHECKPOINTS, LOG, MODEL_CONFIG, RUN_CONFIG, WEIGHTS};
use hecate_model::tensorfile::TensorFile;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Everything that the page is made from.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The folder's own name.
    pub name: String,
    /// Processes that worked on the run, in order.
    pub runs: Vec<Run>,
    /// Steps, ascending.
    pub steps: Vec<Step>,
    /// Measurements, by step; of the same name and step only the last.
    pub evals: Vec<Eval>,
    /// Samples, by step.
    pub samples: Vec<Sample>,
    /// How the last process ended, if it said so.
    pub end: Option<End>,
    /// `config.json`, or what the log says of the model where there is no such file; null where neither is there.
    pub model: Value,
    /// `run.toml`, where it is there.
    pub run_config: Option<String>,
    /// The final weights or else the newest complete checkpoint, where there is one.
    pub weights: Option<Weights>,
}

/// Weights that can be loaded.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    /// What the commands load, within the folder of the run: empty for the run itself.
    pub place: String,
    /// Number of parameters.
    pub parameters: u64,
}

impl Facts {
    /// Reads a run folder; see [`super::write`].
    pub fn read(folder: &Path) -> Result<Self> {
        let mut facts = Self::default();
        log::read(&folder.join(LOG))?.into_iter().for_each(|record| facts.add(record));
        let full = fs::canonicalize(folder).map_err(Error::io("open", folder))?;
        facts.name = full.file_name().map_or_else(|| "run".into(), |n| n.to_string_lossy().into_owned());
        let config = folder.join(MODEL_CONFIG);
        facts.model = match text(&config)? {
            Some(text) => serde_json::from_str(&text).map_err(|e| Error::unsuitable(&config, e.to_string()))?,
            None => facts.config()["model"].clone(),
        };
        facts.run_config = text(&folder.join(RUN_CONFIG))?;
        facts.weights = weights(folder)?;
        Ok(facts)
    }

    /// Takes one record. A process that resumes from a step makes what came after that step undone.
    pub fn add(&mut self, record: Record) {
        match record {
            Record::Run(run) => {
                let step = run.step;
                self.steps.retain(|s| s.step <= step);
                self.evals.retain(|e| e.step <= step);
                self.samples.retain(|s| s.step <= step);
                self.end = None;
                self.runs.push(run);
            }
            Record::Step(step) => self.steps.push(step),
            Record::Eval(eval) => {
                self.evals.retain(|e| (e.step, &e.name) != (eval.step, &eval.name));
                self.evals.push(eval);
            }
            Record::Sample(sample) => self.samples.push(sample),
            Record::End(end) => self.end = Some(end),
        }
    }

    /// The resolved config of the last process; null where no process logged one.
    pub fn config(&self) -> &Value {
        self.runs.last().map_or(&Value::Null, |run| &run.config)
    }

    /// Steps done.
    pub fn done(&self) -> u64 {
        self.steps.last().map_or(0, |s| s.step)
    }

    /// Steps that the config asks for.
    pub fn planned(&self) -> Option<u64> {
        self.config()["train"]["steps"].as_u64()
    }

    /// Tokens seen when `step` steps were done.
    pub fn tokens_at(&self, step: u64) -> f64 {
        let after = self.steps.partition_point(|s| s.step <= step);
        after.checked_sub(1).map_or(0.0, |i| self.steps[i].tokens as f64)
    }

    /// Names of the measurements, the one with writing memories first.
    pub fn eval_names(&self) -> Vec<&str> {
        let names: BTreeSet<(bool, &str)> =
            self.evals.iter().map(|e| (!is_carried(&e.name), e.name.as_str())).collect();
        names.into_iter().map(|n| n.1).collect()
    }

    /// The last measurement of a name.
    pub fn last_eval(&self, name: &str) -> Option<&Eval> {
        self.evals.iter().rev().find(|e| e.name == name)
    }

    /// The last measurement of a name that has its values by position.
    pub fn last_eval_by_position(&self, name: &str) -> Option<&Eval> {
        self.evals.iter().rev().find(|e| e.name == name && !e.by_position.is_empty())
    }

    /// Blocks of the model, with `repeat` written out as a number.
    pub fn blocks(&self) -> Vec<(u64, &Value)> {
        let blocks = self.model["blocks"].as_array().map_or(&[][..], Vec::as_slice);
        blocks.iter().map(|b| (b["repeat"].as_u64().unwrap_or(1), b)).collect()
    }

    /// Whether some block has a memory; a model that is not known counts as one that has.
    pub fn has_memory(&self) -> bool {
        let blocks = self.blocks();
        blocks.is_empty()
            || blocks
                .iter()
                .any(|(_, block)| find(&block["mixer"], "rule").is_some() || block["channel"]["type"] == "cms")
    }

    /// Attention windows of the blocks, ascending, each once.
    pub fn windows(&self) -> BTreeSet<u64> {
        self.blocks().iter().filter_map(|(_, block)| window(block)).collect()
    }

    /// How many tokens back a stack of windows can look at most; `None` where a block has no window.
    pub fn stacked_reach(&self) -> Option<u64> {
        let reaches =
            self.blocks().into_iter().map(|(n, block)| Some(n.saturating_mul(window(block)?.saturating_sub(1))));
        reaches.sum::<Option<u64>>().filter(|&reach| reach > 0)
    }
}

/// Whether a measurement is the plain one: state carried, memories writing.
pub(super) fn is_carried(name: &str) -> bool {
    matches!(name, "learn" | "held_out")
}

/// The window of a block's attention.
pub(super) fn window(block: &Value) -> Option<u64> {
    find(&block["mixer"], "window").and_then(Value::as_u64)
}

/// The first value of a key anywhere inside `value`.
pub(super) fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map.get(key).or_else(|| map.values().find_map(|v| find(v, key))),
        Value::Array(list) => list.iter().find_map(|v| find(v, key)),
        _ => None,
    }
}

/// A file's text; `None` where there is no such file.
fn text(path: &Path) -> Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => {
            String::from_utf8(bytes).map(Some).map_err(|_| Error::unsuitable(path, "is no text: it is not valid UTF-8"))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path)(e)),
    }
}

/// The final weights, or else those of the newest complete checkpoint; `None` where there are neither.
fn weights(folder: &Path) -> Result<Option<Weights>> {
    let mut place = String::new();
    if !folder.join(WEIGHTS).is_file() {
        let checkpoints = folder.join(CHECKPOINTS);
        if !checkpoints.is_dir() {
            return Ok(None);
        }
        match Checkpoints::open(&checkpoints)?.latest_complete() {
            Ok(newest) => place = format!("{CHECKPOINTS}/{}", newest.path.file_name().unwrap_or_default().display()),
            Err(Error::NoCheckpoint { .. }) => return Ok(None),
            Err(e) => return Err(e),
        }
    }
    let path = folder.join(&place).join(WEIGHTS);
    let file = TensorFile::parse(atomic::read(&path)?, &path.display().to_string())?;
    let sizes = file.entries().iter().map(|e| e.shape.iter().map(|&n| n as u64).product::<u64>());
    Ok(Some(Weights { place, parameters: sizes.sum() }))
}
