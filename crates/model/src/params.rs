//! Outer parameters: one flat buffer with names, learned by the optimizer, immutable while serving.

use crate::buffer::{Buffer, place};
use crate::rng::Rng;
use hecate_core::{Scalar, Start, StateTensor, start_state};
use std::ops::Range;

/// How the optimizer treats a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A matrix product's weight: decayed.
    Matrix,
    /// An embedding table or head: decayed.
    Embedding,
    /// A norm's scale: not decayed.
    Norm,
    /// A gate's weight or bias: not decayed, so that memory habits are not pulled to one half.
    Gate,
    /// A short convolution: not decayed.
    Conv,
    /// What a memory starts from: not decayed, since zero may be a dead start.
    Start,
    /// Rows before a sequence: not decayed, they are tokens.
    Persistent,
    /// What is added to every row: not decayed.
    Bias,
}

impl Kind {
    /// Its name in tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Matrix => "matrix",
            Kind::Embedding => "embedding",
            Kind::Norm => "norm",
            Kind::Gate => "gate",
            Kind::Conv => "conv",
            Kind::Start => "start",
            Kind::Persistent => "persistent",
            Kind::Bias => "bias",
        }
    }
    /// Whether weight decay applies.
    pub fn decays(self) -> bool {
        matches!(self, Kind::Matrix | Kind::Embedding)
    }
}

/// Where a tensor starts.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// Normal with this standard deviation.
    Normal(f64),
    /// One constant.
    Constant(f64),
    /// This row, repeated.
    Row(Vec<f64>),
    /// A causal convolution that starts near the identity: 1 on the newest tap, normal noise on the others.
    NewestTap(f64),
    /// Matrices `[.., rows, columns]` whose columns have unit length; the first `rows` of each are orthogonal.
    UnitColumns,
}

/// One named tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// Name in `model.safetensors`.
    pub name: String,
    /// Shape, slowest axis first; matrices are `[in, out]`.
    pub shape: Vec<usize>,
    /// Place in the flat buffer.
    pub range: Range<usize>,
    /// Treatment.
    pub kind: Kind,
    /// Start.
    pub init: Init,
}

/// All tensors of a model, in the order of the flat buffer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParamLayout {
    /// The tensors.
    pub specs: Vec<ParamSpec>,
    /// Length of the flat buffer, gaps between tensors included.
    pub len: usize,
}

impl ParamLayout {
    /// Number of parameters.
    pub fn count(&self) -> usize {
        self.specs.iter().map(|spec| spec.range.len()).sum()
    }

    /// Appends a tensor and gives its place.
    pub fn add(&mut self, name: String, shape: &[usize], kind: Kind, init: Init) -> Range<usize> {
        let range = place(self.len, shape.iter().product());
        self.len = range.end;
        self.specs.push(ParamSpec { name, shape: shape.to_vec(), range: range.clone(), kind, init });
        range
    }

    /// Initial values under `seed`. Each tensor draws from a stream of its own name, so that adding one leaves the
    /// others as they were.
    pub fn init<F: Scalar>(&self, seed: u64) -> Params<F> {
        let mut data = Buffer::zeros(self.len);
        for spec in &self.specs {
            let mut rng = Rng::new(seed, &spec.name);
            if spec.init == Init::UnitColumns {
                fill_unit_columns(spec, &mut rng, &mut data[spec.range.clone()]);
                continue;
            }
            let cols = spec.shape.last().copied().unwrap_or(1).max(1);
            let newest = spec.range.len() - cols.min(spec.range.len());
            for (i, x) in data[spec.range.clone()].iter_mut().enumerate() {
                *x = F::from_f64(match &spec.init {
                    Init::Normal(std) => std * rng.normal(),
                    Init::Constant(c) => *c,
                    Init::Row(row) => row[i % cols],
                    Init::NewestTap(std) => std * rng.normal() + if i >= newest { 1.0 } else { 0.0 },
                    Init::UnitColumns => unreachable!("drawn as a whole"),
                });
            }
        }
        Params { data }
    }
}

/// See [`Init::UnitColumns`].
fn fill_unit_columns<F: Scalar>(spec: &ParamSpec, rng: &mut Rng, data: &mut [F]) {
    let shape = spec.shape[spec.shape.len() - 2..].to_vec();
    let tensor = StateTensor::zeros("", shape).starting(Start::UnitColumns);
    for matrix in data.chunks_exact_mut(tensor.len().max(1)) {
        let values = start_state(std::slice::from_ref(&tensor), &mut || rng.normal());
        matrix.iter_mut().zip(values).for_each(|(x, v)| *x = F::from_f64(v));
    }
}

/// The values: `[layout.len]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Params<F> {
    /// Flat buffer, laid out by [`ParamLayout`].
    pub data: Buffer<F>,
}
