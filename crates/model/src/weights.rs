//! Parameters and optimizer state as safetensors bytes, read back with checks.

use crate::buffer::Buffer;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::optim::AdamW;
use crate::params::{ParamLayout, Params};
use crate::tensorfile::{Encoding, Tensor, TensorFile};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Version of the weights file.
pub const FORMAT: u32 = 1;
/// Version of the optimizer file.
pub const OPTIMIZER_FORMAT: u32 = 1;

const WEIGHTS: &str = "weights file";
const OPTIMIZER: &str = "optimizer file";

/// sha256 of bytes, in lower-case hexadecimal: how a state names the weights that it belongs to.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// sha256 of a configuration in its canonical JSON form.
pub fn config_sha256(config: &ModelConfig) -> String {
    sha256(serde_json::to_string(config).expect("a config is plain data").as_bytes())
}

/// Weights as one safetensors file, `f32`, matrices `[in, out]`. Equal weights are equal bytes.
///
/// # Errors
/// [`Error::Format`] if the library refuses.
pub fn encode<'a>(layout: &ParamLayout, params: &'a Params<f32>, config: &ModelConfig) -> Result<Encoding<'a>> {
    let header = BTreeMap::from([
        ("format".to_string(), format!("hecate-weights {FORMAT}")),
        ("config_sha256".to_string(), config_sha256(config)),
    ]);
    Encoding::new(WEIGHTS, tensors(layout, "", &params.data), &header)
}

/// Reads [`encode`] back.
///
/// # Errors
/// [`Error::Base`] for another config, [`Error::Format`] for anything that is not exactly this model's tensors.
pub fn from_bytes(layout: &ParamLayout, config: &ModelConfig, bytes: Vec<u8>) -> Result<Params<f32>> {
    let file = open(bytes, WEIGHTS, &format!("hecate-weights {FORMAT}"))?;
    let (expected, got) = (config_sha256(config), file.metadata().get("config_sha256").cloned().unwrap_or_default());
    if expected != got {
        return Err(Error::Base { what: WEIGHTS, field: "config_sha256", expected, got });
    }
    let mut data = Buffer::zeros(layout.len);
    read(layout, WEIGHTS, &file, &mut [("", &mut data)])?;
    Ok(Params { data })
}

/// Optimizer state as one safetensors file.
///
/// # Errors
/// [`Error::Format`] if the library refuses.
pub fn encode_optimizer(optimizer: &AdamW) -> Result<Encoding<'_>> {
    let layout = optimizer.layout();
    let header = BTreeMap::from([
        ("format".to_string(), format!("hecate-adamw {OPTIMIZER_FORMAT}")),
        ("steps".to_string(), optimizer.steps.to_string()),
    ]);
    let mut list = tensors(layout, "m.", &optimizer.m);
    list.extend(tensors(layout, "v.", &optimizer.v));
    Encoding::new(OPTIMIZER, list, &header)
}

/// Reads [`encode_optimizer`] back into `optimizer`.
///
/// # Errors
/// [`Error::Format`] if it is another file or does not hold exactly the tensors that `optimizer` trains.
pub fn optimizer_from_bytes(bytes: Vec<u8>, optimizer: &mut AdamW) -> Result<()> {
    let layout = optimizer.layout().clone();
    let file = open(bytes, OPTIMIZER, &format!("hecate-adamw {OPTIMIZER_FORMAT}"))?;
    let steps = file.metadata().get("steps").and_then(|s| s.parse().ok());
    let steps = steps.ok_or_else(|| refused(OPTIMIZER, "`steps` is not a number".into()))?;
    read(&layout, OPTIMIZER, &file, &mut [("m.", &mut optimizer.m), ("v.", &mut optimizer.v)])?;
    optimizer.steps = steps;
    Ok(())
}

fn refused(what: &str, reason: String) -> Error {
    Error::Format { what: what.to_string(), reason }
}

fn tensors<'a>(layout: &ParamLayout, prefix: &str, data: &'a [f32]) -> Vec<Tensor<'a>> {
    let tensor = |s: &crate::ParamSpec| Tensor::f32(&format!("{prefix}{}", s.name), &s.shape, &data[s.range.clone()]);
    layout.specs.iter().map(tensor).collect()
}

/// Parses a file and checks that it is of the kind and version that this build reads.
pub(crate) fn open(bytes: Vec<u8>, what: &str, format: &str) -> Result<TensorFile> {
    let file = TensorFile::parse(bytes, what)?;
    match file.metadata().get("format") {
        Some(got) if got == format => Ok(file),
        got => {
            let got = got.map_or("no format".to_string(), |g| format!("`{g}`"));
            Err(refused(what, format!("{got} in its header, this build reads `{format}`")))
        }
    }
}

fn read(layout: &ParamLayout, what: &str, file: &TensorFile, sets: &mut [(&str, &mut [f32])]) -> Result<()> {
    let expected = layout.specs.len() * sets.len();
    if file.entries().len() != expected {
        let reason = format!("it holds {} tensors, the model needs {expected}", file.entries().len());
        return Err(refused(what, reason));
    }
    for (prefix, data) in sets {
        for spec in &layout.specs {
            let name = format!("{prefix}{}", spec.name);
            let values = file.f32(&name, &spec.shape)?;
            if !values.iter().all(|x| x.is_finite()) {
                return Err(refused(what, format!("tensor `{name}` holds a value that is not finite")));
            }
            data[spec.range.clone()].copy_from_slice(&values);
        }
    }
    Ok(())
}
