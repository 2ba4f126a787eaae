//! A run's checkpoints: everything that the next step depends on, written whole, read back bit for bit.

use super::Trainer;
use crate::checkpoint::{Checkpoint, Checkpoints};
use crate::error::{Error, Result};
use crate::run_config::RunConfig;
use crate::stream::{Lanes, LanesPosition, Stream};
use hecate_core::simd::Isa;
use hecate_model::weights::{config_sha256, encode, encode_optimizer, from_bytes, optimizer_from_bytes, sha256};
use hecate_model::{Lineage, Model, State};
use serde::{Deserialize, Serialize};

/// Version of `trainer.json`.
const FORMAT: u64 = 1;

/// `trainer.json`: what is neither a weight nor a state.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    format: u64,
    step: u64,
    lanes: LanesPosition,
}

impl Trainer {
    /// Writes a checkpoint of this moment, then drops the oldest.
    ///
    /// # Errors
    /// What the disk says; a checkpoint is there whole or not at all.
    pub fn save(&self, checkpoints: &Checkpoints) -> Result<()> {
        // Every file goes to the disk from where its numbers are: no copy of the run is made in memory.
        let layout = self.model.params();
        let weights = encode(layout, &self.params, self.model.config())?;
        let optimizer = encode_optimizer(&self.optimizer)?;
        let mut writer = checkpoints.begin(self.step)?;
        let entry = writer.file_with("model.safetensors", |out| weights.write_to(out))?;
        let lineage = lineage(&self.model, entry.sha256.clone());
        writer.file_with("optimizer.safetensors", |out| optimizer.write_to(out))?;
        for (lane, state) in self.states.iter().enumerate() {
            let state = state.encode(&lineage)?;
            writer.file_with(&state_name(lane), |out| state.write_to(out))?;
        }
        let progress = Progress { format: FORMAT, step: self.step, lanes: self.lanes.position().clone() };
        let text = serde_json::to_string_pretty(&progress).expect("progress is plain data");
        writer.file("trainer.json", text.as_bytes())?;
        writer.finish()?;
        checkpoints.prune()
    }

    /// The run as it was when `checkpoint` was written.
    ///
    /// # Errors
    /// If the checkpoint does not belong to this config and text.
    pub fn resume(config: &RunConfig, stream: Stream, checkpoint: &Checkpoint) -> Result<Self> {
        config.check()?;
        let model = Model::new(&config.model)?;
        let text = checkpoint.read("trainer.json")?;
        let progress: Progress = serde_json::from_slice(&text)
            .map_err(|e| Error::unsuitable(&checkpoint.path.join("trainer.json"), e.to_string()))?;
        if progress.format != FORMAT {
            let reason = format!("it is of version {}, this build reads {FORMAT}", progress.format);
            return Err(Error::unsuitable(&checkpoint.path.join("trainer.json"), reason));
        }
        let lanes = Lanes::resume(stream, config.train.lanes, config.model.context, progress.lanes)?;
        let weights = checkpoint.read("model.safetensors")?;
        let lineage = lineage(&model, sha256(&weights));
        let params = from_bytes(model.params(), model.config(), weights)?;
        let mut optimizer = super::optimizer(config, &model)?;
        optimizer_from_bytes(checkpoint.read("optimizer.safetensors")?, &mut optimizer)?;
        let read = |lane| -> Result<State<f32>> {
            let bytes = checkpoint.read(&state_name(lane))?;
            Ok(State::from_bytes(model.state_layout().clone(), &lineage, bytes)?)
        };
        let states = (0..config.train.lanes).map(read).collect::<Result<Vec<_>>>()?;
        let mut trainer = Self::assemble(config.clone(), model, params, optimizer, lanes);
        trainer.states = states;
        trainer.step = progress.step;
        Ok(trainer)
    }
}

fn state_name(lane: usize) -> String {
    format!("state-{lane:04}.safetensors")
}

/// How states name the weights that they belong to; `base` is the sha256 of the weights' file.
pub fn lineage(model: &Model, base: String) -> Lineage {
    Lineage { base, config: config_sha256(model.config()), isa: Isa::best().name().into() }
}
