//! Parameters and optimizer state as safetensors bytes, read back with checks.

use crate::buffer::Buffer;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::optim::{StateTensor, Stepper};
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
    Encoding::new(WEIGHTS, tensors(layout, &params.data), &header)
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
    check_count(WEIGHTS, &file, layout.specs.len())?;
    for spec in &layout.specs {
        data[spec.range.clone()].copy_from_slice(&finite(WEIGHTS, &file, &spec.name, &spec.shape)?);
    }
    Ok(Params { data })
}

/// Optimizer state as one safetensors file: tensors as [`Stepper::state_tensors`] names them. `steps` of the header is the
/// count of every tensor, or, where they differ, a table of counts by tensor.
///
/// # Errors
/// [`Error::Format`] if the library refuses.
pub fn encode_optimizer(optimizer: &Stepper<f32>) -> Result<Encoding<'_>> {
    let steps = optimizer.steps();
    let first = steps.first().copied().unwrap_or_default();
    let text = if steps.iter().all(|&s| s == first) {
        first.to_string()
    } else {
        let names = optimizer.layout().specs.iter().map(|spec| &spec.name);
        serde_json::to_string(&names.zip(steps).collect::<BTreeMap<_, _>>()).expect("counts are plain data")
    };
    let header = BTreeMap::from([("format".to_string(), optimizer_format(optimizer)), ("steps".to_string(), text)]);
    let tensor = |t: &StateTensor| Tensor::f32(&t.name, &t.shape, optimizer.values(t));
    Encoding::new(OPTIMIZER, optimizer.state_tensors().iter().map(tensor).collect(), &header)
}

fn optimizer_format(optimizer: &Stepper<f32>) -> String {
    format!("hecate-{} {OPTIMIZER_FORMAT}", optimizer.optimizer().name())
}

/// Reads [`encode_optimizer`] back into `optimizer`.
///
/// # Errors
/// [`Error::Format`] if it is that of another optimizer or does not hold exactly the state of the tensors that `optimizer`
/// trains; `optimizer` is then of no use.
pub fn optimizer_from_bytes(bytes: Vec<u8>, optimizer: &mut Stepper<f32>) -> Result<()> {
    let file = open(bytes, OPTIMIZER, &optimizer_format(optimizer))?;
    let steps = file.metadata().get("steps").map_or("", String::as_str);
    let steps = read_steps(steps, optimizer.layout()).map_err(|reason| refused(OPTIMIZER, reason))?;
    let tensors = optimizer.state_tensors().to_vec();
    check_count(OPTIMIZER, &file, tensors.len())?;
    for tensor in tensors {
        let values = finite(OPTIMIZER, &file, &tensor.name, &tensor.shape)?;
        optimizer.values_mut(&tensor.name).expect("its own tensor").copy_from_slice(&values);
    }
    optimizer.set_steps(&steps);
    Ok(())
}

/// The counts of [`encode_optimizer`], one for every tensor.
fn read_steps(text: &str, layout: &ParamLayout) -> Result<Vec<u64>, String> {
    if let Ok(steps) = text.parse() {
        return Ok(vec![steps; layout.specs.len()]);
    }
    let table: BTreeMap<String, u64> =
        serde_json::from_str(text).map_err(|_| "`steps` is neither a number nor a table of numbers".to_string())?;
    let count = |name: &String| table.get(name).copied().ok_or_else(|| format!("`steps` lacks `{name}`"));
    layout.specs.iter().map(|spec| count(&spec.name)).collect()
}

fn refused(what: &str, reason: String) -> Error {
    Error::Format { what: what.to_string(), reason }
}

fn tensors<'a>(layout: &ParamLayout, data: &'a [f32]) -> Vec<Tensor<'a>> {
    let tensor = |s: &crate::ParamSpec| Tensor::f32(&s.name, &s.shape, &data[s.range.clone()]);
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

fn check_count(what: &str, file: &TensorFile, expected: usize) -> Result<()> {
    match file.entries().len() {
        n if n == expected => Ok(()),
        n => Err(refused(what, format!("it holds {n} tensors, the model needs {expected}"))),
    }
}

/// The numbers of a tensor, all of them finite.
pub(crate) fn finite(what: &str, file: &TensorFile, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let values = file.f32(name, shape)?;
    if values.iter().all(|x| x.is_finite()) {
        return Ok(values);
    }
    Err(refused(what, format!("tensor `{name}` holds a value that is not finite")))
}
