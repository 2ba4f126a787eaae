//! Growing a trained model on the disk.

use crate::error::{Error, Result};
use crate::loaded::{Loaded, describe, export};
use crate::run_config::RunConfig;
use crate::{atomic, run_folder};
use hecate_core::ops::Cpu;
use hecate_model::{Access, Growth, GrowthStart, Logits, Model, Params, Workspace};
use serde::Serialize;
use std::path::Path;

/// Tokens on which the two models are compared.
const COMPARED: u32 = 64;

/// What growing did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Grown {
    /// Parameters of the old model.
    pub parameters_before: usize,
    /// Parameters of the new one.
    pub parameters: usize,
    /// The largest difference of their logits on a few tokens: 0 where norms stand before their parts.
    pub logits_moved: f64,
}

/// Writes the grown model of the run or checkpoint in `from` into the new folder `to`, with a `run.toml` that trains it
/// further.
///
/// # Errors
/// [`Error::RunExists`] if `to` holds anything; a model that cannot be read, or cannot grow so.
pub fn grow(from: &Path, to: &Path, growth: Growth, start: GrowthStart) -> Result<Grown> {
    if to.exists() {
        return Err(Error::RunExists { path: to.to_path_buf() });
    }
    let old = Loaded::open(from)?;
    let (model, params) = hecate_model::grow(&old.model, &old.params, growth, start)?;
    let logits_moved = largest_difference((&old.model, &old.params), (&model, &params))?;
    let mut config = old.run_config()?;
    config.model = model.config().clone();
    config.train.from = Some(std::path::absolute(to).unwrap_or_else(|_| to.to_path_buf()));
    config.train.only = Vec::new();
    let text = toml::to_string(&config).map_err(|e| Error::unsuitable(to, e.to_string()))?;
    // Under another name until all of it is there.
    let name = to.file_name().ok_or_else(|| Error::unsuitable(to, "it is not the name of a folder"))?;
    let unfinished = to.with_file_name(format!(".{}.unfinished", name.to_string_lossy()));
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished).map_err(Error::io("clear", &unfinished))?;
    }
    std::fs::create_dir_all(&unfinished).map_err(Error::io("create", &unfinished))?;
    export(&unfinished, &model, &params)?;
    atomic::write(&unfinished.join(run_folder::RUN_CONFIG), text.as_bytes())?;
    describe(&unfinished, &model, &old.tokenizer, &old.generation)?;
    std::fs::rename(&unfinished, to).map_err(Error::io("rename", &unfinished))?;
    Ok(Grown { parameters_before: old.model.params().count(), parameters: model.params().count(), logits_moved })
}

impl Loaded {
    /// The config of the run that made it; the default where the folder says nothing of a run.
    fn run_config(&self) -> Result<RunConfig> {
        let file = self.home().join(run_folder::RUN_CONFIG);
        if file.exists() { RunConfig::read(&file) } else { Ok(RunConfig::default()) }
    }
}

fn largest_difference(old: (&Model, &Params<f32>), new: (&Model, &Params<f32>)) -> Result<f64> {
    let tokens: Vec<u32> = (0..COMPARED).map(|i| (i * i + i) % old.0.config().vocab as u32).collect();
    let logits = |(model, params): (&Model, &Params<f32>)| -> Result<Vec<f32>> {
        let (mut state, mut ws, ops) = (model.new_state(), Workspace::default(), Cpu::inference());
        Ok(model.forward(&ops, params, &mut state, &tokens, &Access::Read, Logits::All, &mut ws)?.to_vec())
    };
    let (old, new) = (logits(old)?, logits(new)?);
    Ok(old.iter().zip(&new).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max))
}
