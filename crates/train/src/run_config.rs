//! What a run is: the model, the text, the steps, the rate. A preset is such a file, and so is `run.toml`.

use crate::error::{Error, Result};
use crate::settings;
use crate::stream::Boundary;
use hecate_model::optim::{AnyOptimizer, Schedule};
use hecate_model::{GenerationConfig, ModelConfig};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Seed of the initial weights.
    pub seed: u64,
    /// The text.
    pub data: DataConfig,
    /// The steps.
    pub train: TrainConfig,
    /// The learning rate.
    pub schedule: Schedule,
    /// The optimizer.
    pub optimizer: AnyOptimizer,
    /// The samples shown on the way and at the end, and the defaults of `hecate generate`.
    pub sample: GenerationConfig,
    /// The model.
    pub model: ModelConfig,
}

/// Where the text comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// A file or a folder; the embedded novel where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Share of the text, at its end, that is never trained on.
    pub held_out: f64,
    /// What happens to the state between documents.
    pub boundary: Boundary,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self { path: None, held_out: crate::corpus::HELD_OUT, boundary: Boundary::Reset }
    }
}

/// The steps of a run. Their number is fixed: a run never stops by the clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Optimizer steps.
    pub steps: u64,
    /// Streams read side by side; each takes `model.context` tokens a step.
    pub lanes: usize,
    /// Reads of all lanes whose gradients are averaged into one step.
    pub accumulate: usize,
    /// Longest gradient, global norm; 0 leaves every gradient as it is.
    pub clip: f64,
    /// Start every step from a new state instead of carrying it on.
    pub reset_each_step: bool,
    /// Start each lane from a new state every so many steps, the lanes in turn; 0: only where a document starts. What
    /// a memory starts from is learned at such moments alone, so deep memories need them.
    pub reset_every: u64,
    /// Start from the weights of this run or checkpoint, whose tensors must have the names and shapes of this model's:
    /// settings that change no shape may differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Train only the tensors whose names match one of these patterns, where `*` stands for any text; all where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Steps between checkpoints; 0 writes only the first and the last.
    pub checkpoint_every: u64,
    /// Steps between printed samples; 0 prints only the last.
    pub sample_every: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            lanes: 8,
            accumulate: 1,
            clip: 1.0,
            reset_each_step: false,
            reset_every: 0,
            from: None,
            only: Vec::new(),
            checkpoint_every: 250,
            sample_every: 250,
        }
    }
}

impl TrainConfig {
    /// Whether a lane starts its `read`-th stretch of a step, counted from 0 as steps and lanes are, from a new state.
    pub fn starts_anew(&self, step: u64, lane: usize, read: usize) -> bool {
        let turn = self.reset_every > 0 && (step + lane as u64).is_multiple_of(self.reset_every);
        self.reset_each_step || (turn && read == 0)
    }
}

impl RunConfig {
    /// Reads a run's table; `origin` is named in errors. An optimizer without a name is AdamW, so that one setting of it
    /// can be changed alone.
    ///
    /// # Errors
    /// As [`settings::into`].
    pub fn from_table(mut table: toml::Table, origin: &str) -> Result<Self> {
        if let Some(toml::Value::Table(optimizer)) = table.get_mut("optimizer") {
            optimizer.entry("name").or_insert_with(|| "adamw".into());
        }
        settings::into(table, origin)
    }

    /// Reads a TOML file.
    ///
    /// # Errors
    /// As [`settings::read_file`] and [`settings::into`].
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_table(settings::read_file(path)?, &path.display().to_string())
    }

    /// See [`settings::words`]. Here and not where it is asked, so that the reading of a run is compiled once.
    pub fn words(table: toml::Table) -> Vec<String> {
        settings::words::<Self>(table)
    }

    /// Refuses what cannot run, naming the key.
    ///
    /// # Errors
    /// [`Error::Config`] or what the model says.
    pub fn check(&self) -> Result<()> {
        let bad = |reason: &str| Err(Error::Config { origin: "the run's config".into(), reason: reason.into() });
        self.model.check().map_err(inside("model"))?;
        self.optimizer.check()?;
        self.sample.check().map_err(inside("sample"))?;
        if self.train.lanes == 0 || self.train.accumulate == 0 {
            return bad("`train.lanes` and `train.accumulate` must be at least 1");
        }
        if !(self.train.clip.is_finite() && self.train.clip >= 0.0) {
            return bad("`train.clip` must be a number from 0 up");
        }
        if !(self.schedule.peak.is_finite() && self.schedule.peak > 0.0) {
            return bad("`schedule.peak` must be a number above 0");
        }
        if !(0.0..=1.0).contains(&self.schedule.floor) {
            return bad("`schedule.floor` must lie in [0, 1]");
        }
        if !(self.data.held_out > 0.0 && self.data.held_out < 1.0) {
            return bad("`data.held_out` must lie in (0, 1): a run without held-out text cannot say what it learned");
        }
        Ok(())
    }
}

/// Names a key of a part by its path in the whole.
fn inside(part: &str) -> impl Fn(hecate_model::Error) -> hecate_model::Error {
    move |error| match error {
        hecate_model::Error::Config { key, reason } => {
            hecate_model::Error::Config { key: format!("{part}.{key}"), reason }
        }
        other => other,
    }
}

/// The presets that are compiled in: name and text.
pub const PRESETS: &[(&str, &str)] = &[
    ("default", include_str!("../../../configs/default.toml")),
    ("transformer", include_str!("../../../configs/transformer.toml")),
    ("no_memory", include_str!("../../../configs/no_memory.toml")),
];
