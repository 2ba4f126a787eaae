//! A trained model from a run folder or a checkpoint, ready to be used.

use crate::error::{Error, Result};
use crate::run_config::RunConfig;
use crate::stream::Stream;
use crate::tokenizer::Tokenizer;
use crate::trainer::lineage;
use crate::{atomic, checkpoint, run, run_folder};
use hecate_model::{GenerationConfig, Lineage, Model, ModelConfig, Params, State, weights};
use std::path::{Path, PathBuf};

/// The longest `config.json` that is read.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// A model with its numbers, its tokenizer and its defaults for generation.
pub struct Loaded {
    /// The layout.
    pub model: Model,
    /// The numbers.
    pub params: Params<f32>,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// Defaults of `hecate generate`.
    pub generation: GenerationConfig,
    /// How states name this model.
    pub lineage: Lineage,
    /// The run folder.
    home: PathBuf,
}

impl Loaded {
    /// Reads a run folder, or one of its checkpoints (whose run folder lies two levels up).
    ///
    /// # Errors
    /// A missing, truncated or foreign file, by its path.
    pub fn open(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::unsuitable(folder, "it is not a folder; expected a run folder or a checkpoint"));
        }
        let is_checkpoint = folder.join("trainer.json").exists();
        let home = if is_checkpoint { folder.join("../..") } else { folder.to_path_buf() };
        if !is_checkpoint && folder.join(run_folder::RUN_CONFIG).exists() && !folder.join(run_folder::WEIGHTS).exists()
        {
            let home = folder.display();
            let reason = format!(
                "its run has not ended: `hecate train --resume {home}` goes on with it, and a checkpoint in {home}/checkpoints \
                 is a model too"
            );
            return Err(Error::unsuitable(folder, reason));
        }
        let config: ModelConfig = read_json(&home.join("config.json"))?;
        let model = Model::new(&config)?;
        let file = folder.join(run_folder::WEIGHTS);
        let bytes =
            if is_checkpoint { checkpoint::verify(folder)?.read(run_folder::WEIGHTS)? } else { atomic::read(&file)? };
        let lineage = lineage(&model, weights::sha256(&bytes));
        let params = weights::from_bytes(model.params(), model.config(), bytes).map_err(in_file(&file))?;
        let generation: GenerationConfig = read_json(&home.join("generation_config.json"))?;
        generation.check()?;
        let tokenizer = Tokenizer::load(&home)?;
        if tokenizer.vocab() != config.vocab {
            let reason = format!("its vocabulary of {} is not the model's {}", tokenizer.vocab(), config.vocab);
            return Err(Error::unsuitable(&home.join("tokenizer_config.json"), reason));
        }
        Ok(Self { model, params, tokenizer, generation, lineage, home })
    }

    /// The run folder.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// The text that the model's run held out; that of the embedded novel where the folder says nothing of a run.
    ///
    /// # Errors
    /// A text that is no longer there, or a run that cannot be read.
    pub fn held_out(&self) -> Result<Stream> {
        let file = self.home.join(run_folder::RUN_CONFIG);
        let config = if file.exists() { RunConfig::read(&file)? } else { RunConfig::default() };
        Ok(run::text(&config)?.1.held_out)
    }

    /// Reads a state that was learned on this model, or starts one where the file does not exist and `create` is set.
    ///
    /// # Errors
    /// A state of another model or version, a truncated file.
    pub fn state(&self, file: &Path, create: bool) -> Result<State<f32>> {
        if create && !file.exists() {
            return Ok(self.model.new_state());
        }
        let bytes = atomic::read(file)?;
        Ok(State::from_bytes(self.model.state_layout().clone(), &self.lineage, bytes).map_err(in_file(file))?)
    }

    /// Writes a state whole or not at all.
    ///
    /// # Errors
    /// What the disk says.
    pub fn save_state(&self, state: &State<f32>, file: &Path) -> Result<()> {
        let state = state.encode(&self.lineage)?;
        atomic::write_with(file, |out| state.write_to(out))
    }
}

/// The weights of the run or checkpoint in `folder` for `model`, which may differ in settings that change no tensor.
///
/// # Errors
/// As [`Loaded::open`]; [`Error::Unsuitable`] naming the first tensor that only one of the two has, or whose shape
/// differs.
pub fn weights_for(model: &Model, folder: &Path) -> Result<Params<f32>> {
    let old = Loaded::open(folder)?;
    let (ours, theirs) = (&model.params().specs, &old.model.params().specs);
    if let Some(more) = theirs.iter().find(|t| ours.iter().all(|s| s.name != t.name)) {
        return Err(Error::unsuitable(folder, format!("its tensor `{}` has no place in this model", more.name)));
    }
    let mut params = model.params().init(0);
    for spec in ours {
        let Some(found) = theirs.iter().find(|t| t.name == spec.name) else {
            return Err(Error::unsuitable(folder, format!("it has no tensor `{}`", spec.name)));
        };
        if found.shape != spec.shape {
            let (got, expected) = (&found.shape, &spec.shape);
            let reason = format!("its tensor `{}` has shape {got:?}, this model's has {expected:?}", spec.name);
            return Err(Error::unsuitable(folder, reason));
        }
        params.data[spec.range.clone()].copy_from_slice(&old.params.data[found.range.clone()]);
    }
    Ok(params)
}

/// Writes what [`Loaded::open`] reads besides the weights, in the layout of Hugging Face: with it a checkpoint can be
/// used before its run has ended.
///
/// # Errors
/// What the disk says.
pub fn describe(folder: &Path, model: &Model, tokenizer: &Tokenizer, generation: &GenerationConfig) -> Result<()> {
    let json = |value: serde_json::Value| serde_json::to_string_pretty(&value).expect("plain data") + "\n";
    let config = serde_json::to_value(model.config()).expect("a config is plain data");
    let generation = serde_json::to_value(generation).expect("a config is plain data");
    atomic::write(&folder.join(run_folder::MODEL_CONFIG), json(config).as_bytes())?;
    atomic::write(&folder.join(run_folder::GENERATION_CONFIG), json(generation).as_bytes())?;
    tokenizer.save(folder)
}

/// Writes the weights beside [`describe`]: the final form of a run.
///
/// # Errors
/// What the disk says.
pub fn export(folder: &Path, model: &Model, params: &Params<f32>) -> Result<()> {
    let weights = weights::encode(model.params(), params, model.config())?;
    atomic::write_with(&folder.join(run_folder::WEIGHTS), |out| weights.write_to(out))
}

/// Names the file that is not what it should be.
fn in_file(path: &Path) -> impl FnOnce(hecate_model::Error) -> hecate_model::Error {
    let what = path.display().to_string();
    move |error| match error {
        hecate_model::Error::Format { reason, .. } => hecate_model::Error::Format { what, reason },
        other => other,
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = atomic::read(path)?;
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        return Err(Error::unsuitable(path, format!("it is larger than {MAX_CONFIG_BYTES} bytes")));
    }
    serde_json::from_slice(&bytes).map_err(|e| Error::unsuitable(path, e.to_string()))
}
