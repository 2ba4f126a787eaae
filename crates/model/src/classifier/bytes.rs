//! A classifier that learns as one safetensors file: parameters, optimizer, scaling, kept samples, counts.

use super::learner::Counts;
use super::replay::Replay;
use super::scaling::Scaling;
use super::{Classifier, ClassifierConfig, Learner, Samples};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::params::{ParamLayout, Params};
use crate::tensorfile::{Data, Dtype, Encoding, Tensor, TensorFile};
use crate::weights::{finite, open};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// Version of the file.
pub const FORMAT: u32 = 1;
const FILE: &str = "classifier";

fn refused(reason: impl Into<String>) -> Error {
    Error::Format { what: FILE.into(), reason: reason.into() }
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data")
}

impl Learner {
    /// The whole learner as the bytes of a file. `note` is the caller's own, and comes back as it was.
    ///
    /// # Errors
    /// [`Error::Format`] if the library refuses.
    pub fn to_bytes(&self, note: &str) -> Result<Vec<u8>> {
        let counts = Counts { seen: self.replay.seen, drawn: self.replay.rng.counter, ..self.counts.clone() };
        let header = BTreeMap::from([
            ("format".to_string(), format!("hecate-classifier {FORMAT}")),
            ("config".to_string(), text(self.classifier.config())),
            ("counts".to_string(), text(&counts)),
            ("steps".to_string(), text(&self.optimizer.steps())),
            ("note".to_string(), note.to_string()),
        ]);
        let layout = self.classifier.params();
        let mut tensors = all_of("", layout, &self.params.data);
        for tensor in self.optimizer.state_tensors() {
            let name = format!("optimizer.{}", tensor.name);
            tensors.push(Tensor::f32(&name, &tensor.shape, self.optimizer.values(tensor)));
        }
        if !self.anchor.is_empty() {
            tensors.extend(all_of("anchor.", layout, &self.anchor));
        }
        if let Some(Scaling { mean, deviation }) = &self.scaling {
            tensors.push(Tensor::f32("scaling.mean", &[mean.len()], mean));
            tensors.push(Tensor::f32("scaling.deviation", &[mean.len()], deviation));
        }
        let (kept, features) = (self.replay.len(), self.classifier.config().features);
        let [labels, tasks] = [&self.replay.labels, &self.replay.tasks].map(|x| little_endian(x));
        tensors.push(Tensor::f32("replay.values", &[kept, features], &self.replay.values));
        for (name, bytes) in [("replay.labels", &labels), ("replay.tasks", &tasks)] {
            let data = Data::Bytes(Dtype::U32, bytes);
            tensors.push(Tensor { name: name.into(), shape: vec![kept], data });
        }
        Ok(Encoding::new(FILE, tensors, &header)?.to_vec())
    }

    /// Reads [`Learner::to_bytes`] back, with the note.
    ///
    /// # Errors
    /// [`Error::Format`] for bytes that are no such file, or not of this version; [`Error::Config`] for a configuration that
    /// cannot be built.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<(Self, String)> {
        let held = bytes.len();
        let file = open(bytes, FILE, &format!("hecate-classifier {FORMAT}"))?;
        let config: ClassifierConfig = parsed(&file, "config")?;
        let classifier = Classifier::new(&config)?;
        let layout = classifier.params();
        // Before room is made for as much as the configuration says.
        if layout.count().saturating_mul(size_of::<f32>()) > held {
            return Err(refused(format!("{held} bytes cannot hold {} parameters", layout.count())));
        }
        let params = Params { data: Buffer::from(read_all("", layout, &file)?) };
        let counts: Counts = parsed(&file, "counts")?;
        let replay = read_replay(&classifier, &file, &counts)?;
        let anchored = file.entries().iter().any(|entry| entry.name.starts_with("anchor."));
        let anchor = if anchored { read_all("anchor.", layout, &file)? } else { Vec::new() };
        let mut learner = Self::assemble(classifier, params, replay, counts);
        for tensor in learner.optimizer.state_tensors().to_vec() {
            let values = finite(FILE, &file, &format!("optimizer.{}", tensor.name), &tensor.shape)?;
            learner.optimizer.values_mut(&tensor.name).expect("its own tensor").copy_from_slice(&values);
        }
        let steps: Vec<u64> = parsed(&file, "steps")?;
        if steps.len() != learner.optimizer.steps().len() {
            return Err(refused(format!("{} counts of steps do not fit its tensors", steps.len())));
        }
        learner.optimizer.set_steps(&steps);
        if file.entries().iter().any(|entry| entry.name == "scaling.mean") {
            let [mean, deviation] =
                ["mean", "deviation"].map(|part| finite(FILE, &file, &format!("scaling.{part}"), &[config.features]));
            learner.scaling = Some(Scaling { mean: mean?, deviation: deviation? });
        }
        learner.anchor = anchor;
        let note = file.metadata().get("note").cloned().unwrap_or_default();
        Ok((learner, note))
    }
}

fn all_of<'a>(prefix: &str, layout: &ParamLayout, data: &'a [f32]) -> Vec<Tensor<'a>> {
    let specs = layout.specs.iter();
    specs.map(|s| Tensor::f32(&format!("{prefix}{}", s.name), &s.shape, &data[s.range.clone()])).collect()
}

fn read_all(prefix: &str, layout: &ParamLayout, file: &TensorFile) -> Result<Vec<f32>> {
    let mut data = vec![0.0; layout.len];
    for spec in &layout.specs {
        let values = finite(FILE, file, &format!("{prefix}{}", spec.name), &spec.shape)?;
        data[spec.range.clone()].copy_from_slice(&values);
    }
    Ok(data)
}

fn parsed<T: DeserializeOwned>(file: &TensorFile, key: &str) -> Result<T> {
    let text = file.metadata().get(key).map_or("", String::as_str);
    serde_json::from_str(text).map_err(|e| refused(format!("`{key}` of its header: {e}")))
}

fn little_endian(x: &[u32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The kept samples, each with a label that its head has.
fn read_replay(classifier: &Classifier, file: &TensorFile, counts: &Counts) -> Result<Replay> {
    let config = classifier.config();
    let mut replay = Replay::new(config.learning.replay, config.features, counts.seed);
    let column = |name: &str| match file.entries().iter().find(|entry| entry.name == name) {
        Some(e) if e.dtype == Dtype::U32 && e.shape.len() == 1 => {
            let words = file.data(e).as_chunks::<4>().0;
            Ok(words.iter().map(|&word| u32::from_le_bytes(word)).collect::<Vec<u32>>())
        }
        _ => Err(refused(format!("tensor `{name}` is missing or of another type"))),
    };
    (replay.labels, replay.tasks) = (column("replay.labels")?, column("replay.tasks")?);
    let kept = replay.labels.len();
    if kept > config.learning.replay || replay.tasks.len() != kept {
        return Err(refused(format!("{kept} kept samples do not fit a ring of {}", config.learning.replay)));
    }
    replay.values = finite(FILE, file, "replay.values", &[kept, config.features])?;
    let [labels, tasks] = [&replay.labels, &replay.tasks].map(|x| x.iter().map(|&x| x as usize).collect::<Vec<_>>());
    classifier.check_labels(&Samples { values: &replay.values, tasks: &tasks }, &labels)?;
    (replay.seen, replay.rng.counter) = (counts.seen, counts.drawn);
    Ok(replay)
}
