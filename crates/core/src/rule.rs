//! What a memory rule is: one file with an equation, a reference and its exact transpose.
//!
//! A rule turns a stream of tokens into reads of a memory that it writes as it goes. A token brings named
//! inputs (`k`, `v`, `q`, gates, and whatever else the rule lists in [`MemoryRule::inputs`]); the state is a
//! list of named tensors. Two halves make a step: [`MemoryRule::write`] changes the state,
//! [`MemoryRule::read`] only looks. Access rights (a frozen block, a level that is not due) are expressed by
//! calling one half alone, so no rule knows about them.
//!
//! **Invariant:** inputs are final values. Projections, convolutions, activations and scalings of a gate
//! happen in the mixer, as the input's [`Activation`] says, never in the rule.

use crate::error::Result;
use crate::kernel::Kernel;
use crate::scalar::Scalar;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::fmt::Debug;

/// Sizes of one head of a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dims {
    /// Width of keys and queries.
    pub dk: usize,
    /// Width of values and reads.
    pub dv: usize,
}

impl Dims {
    /// Keys of width `dk`, values of width `dv`.
    pub fn new(dk: usize, dv: usize) -> Self {
        Self { dk, dv }
    }
}

/// How many values of an input one token of one head brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// A scalar per head: the usual gate.
    One,
    /// As wide as a key.
    Key,
    /// As wide as a value.
    Value,
    /// A number that the rule's configuration fixes: a window of gates, a latent target.
    Fixed(usize),
}

impl Width {
    /// The number of values for a head of size `d`.
    pub fn of(self, d: Dims) -> usize {
        match self {
            Width::One => 1,
            Width::Key => d.dk,
            Width::Value => d.dv,
            Width::Fixed(n) => n,
        }
    }
}

/// How a mixer makes an input from the block's input `x`, so that the rule is stable by construction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// Projection, short convolution, SiLU, then unit length: keys and queries.
    Unit,
    /// Projection, short convolution, SiLU: values.
    Silu,
    /// The head's own channels of the block's input, short convolution: no projection, so heads together are as wide as
    /// the stream, and no SiLU.
    Share,
    /// `floor + (max - floor) sigmoid(x w + bias)`, times `1 - g` where `damped_by` names another gate `g`.
    Sigmoid {
        /// Lower end of the range.
        floor: f64,
        /// Upper end of the range.
        max: f64,
        /// Initial bias; the weights start small, so this is the gate's value at the start.
        bias: f64,
        /// The gate whose complement scales this one: a rate under momentum.
        damped_by: Option<&'static str>,
    },
    /// `floor + softplus(x w + bias)`: thresholds and coefficients, which are positive.
    Softplus {
        /// Lower end of the range.
        floor: f64,
        /// Initial biases, one per value and repeated; the weights start small.
        bias: &'static [f64],
        /// True for what is compared with the length of a vector of values: it starts at the root of their number times
        /// what its biases say.
        lengths: bool,
    },
    /// `softmax(x w)` over the input's width: latent targets, which are shares of one. No gate: the weights start at
    /// ordinary size, since equal shares tell a memory nothing.
    Softmax,
    /// One number per head that nothing learns, the same for every token.
    PerHead(HeadDecay),
}

/// Decays that differ from head to head and are not learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadDecay {
    /// `1 - 2^(-5 - h)` for head `h`, from 0 [RetNet v4 eq.8].
    RetNet,
    /// `exp(-2^(-8 (h + 1) / H))` for head `h` of `H`, the slopes of linear position biases [Lightning v2 sec.3].
    Lightning,
}

impl HeadDecay {
    /// The decay of one head.
    pub fn of(self, head: usize, heads: usize) -> f64 {
        match self {
            HeadDecay::RetNet => 1.0 - 2.0_f64.powi(-5 - head.min(1000) as i32),
            HeadDecay::Lightning => (-(2.0_f64.powf(-8.0 * (head + 1) as f64 / heads as f64))).exp(),
        }
    }
}

impl Activation {
    /// The biases that a gate's columns start from, repeated over its width.
    pub fn biases(self, d: Dims) -> Vec<f64> {
        match self {
            Activation::Sigmoid { bias, .. } => vec![bias],
            Activation::Softplus { bias, lengths: false, .. } => bias.to_vec(),
            Activation::Softplus { bias, lengths: true, .. } => {
                let size = (d.dv as f64).sqrt();
                // The inverse of softplus is ln(e^x - 1).
                bias.iter().map(|b| (size * b.softplus()).exp_m1().ln()).collect()
            }
            Activation::Softmax => vec![0.0],
            Activation::Unit | Activation::Silu | Activation::Share | Activation::PerHead(_) => Vec::new(),
        }
    }

    /// True for inputs that pass through the short convolution: vectors, not gates.
    pub fn is_convolved(self) -> bool {
        matches!(self, Activation::Unit | Activation::Silu | Activation::Share)
    }

    /// True for inputs that are made without convolution, each value from one projection of the block's input.
    pub fn is_gate(self) -> bool {
        matches!(self, Activation::Sigmoid { .. } | Activation::Softplus { .. })
    }
}

/// One input of a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Input {
    /// Name in configs, Python and documents: a word, or `k`, `v`, `q`.
    pub name: &'static str,
    /// Values per token and head.
    pub width: Width,
    /// How it is made from the block's input.
    pub activation: Activation,
    /// What it means, in one line.
    pub about: &'static str,
}

/// The inputs and gates that most rules share, with the defaults of docs/notation.md.
pub mod input {
    use super::{Activation, Input, Width};

    /// The key under which the token writes: unit length, `[dk]`.
    pub const K: Input =
        Input { name: "k", width: Width::Key, activation: Activation::Unit, about: "key to write under" };
    /// The value to be written, `[dv]`.
    pub const V: Input =
        Input { name: "v", width: Width::Value, activation: Activation::Silu, about: "value to write" };
    /// The query to read with: unit length, `[dk]`.
    pub const Q: Input =
        Input { name: "q", width: Width::Key, activation: Activation::Unit, about: "query to read with" };
    /// The fraction of the memory that is kept, in [0, 1]; 0.982 at the start.
    pub const RETAIN: Input = Input {
        name: "retain",
        width: Width::One,
        activation: Activation::Sigmoid { floor: 0.0, max: 1.0, bias: 4.0, damped_by: None },
        about: "fraction of the memory kept this token",
    };
    /// The inner step size of a matrix memory, in (0, 1).
    pub const RATE: Input = Input {
        name: "rate",
        width: Width::One,
        activation: Activation::Sigmoid { floor: 0.0, max: 1.0, bias: 0.0, damped_by: None },
        about: "inner step size",
    };
    /// The decay of the inner momentum, in [0, 1); 0.731 at the start.
    pub const MOMENTUM: Input = Input {
        name: "momentum",
        width: Width::One,
        activation: Activation::Sigmoid { floor: 0.0, max: 1.0, bias: 1.0, damped_by: None },
        about: "decay of the inner momentum",
    };
    /// [`RATE`] for rules with momentum: scaled by `1 - momentum`, so that a long run of equal steps stays bounded.
    pub const DAMPED_RATE: Input = Input {
        activation: Activation::Sigmoid { floor: 0.0, max: 1.0, bias: 0.0, damped_by: Some("momentum") },
        ..RATE
    };
}

/// What a tensor of the state holds before the first token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// Zeros.
    Zero,
    /// A learned parameter of the model, drawn normal with this standard deviation: memories that would be dead at
    /// zero.
    Learned {
        /// Standard deviation of its own start.
        deviation: f64,
    },
    /// This multiple of the identity; the tensor is square.
    Identity(f64),
    /// A learned parameter whose columns start orthonormal, or of unit length where there are more columns than rows.
    UnitColumns,
    /// What the tensor with this index starts with.
    Same(usize),
}

/// What a tensor of the state is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// The memory: what a write moves by what it has learned, momenta too.
    Memory,
    /// What stands beside it: windows of keys and values, covariances of keys, copies from an earlier moment.
    Past,
    /// Numbers that only count tokens: no read and no gradient follows them.
    Counts,
}

/// One named tensor of a rule's state. All of them lie one after the other in one flat buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct StateTensor {
    /// Name in state files, diffs and Python: `W`, `S`.
    pub name: Cow<'static, str>,
    /// Shape of one head's tensor, slowest axis first, row-major.
    pub shape: Vec<usize>,
    /// What it holds before the first token.
    pub start: Start,
    /// What it is for.
    pub holds: Holds,
}

impl StateTensor {
    /// A matrix `[rows, cols]` that starts at zero.
    pub fn matrix(name: &'static str, rows: usize, cols: usize) -> Self {
        Self::zeros(name, vec![rows, cols])
    }
    /// A tensor of this shape that starts at zero.
    pub fn zeros(name: impl Into<Cow<'static, str>>, shape: Vec<usize>) -> Self {
        Self { name: name.into(), shape, start: Start::Zero, holds: Holds::Memory }
    }
    /// A vector of counts that start at zero.
    pub fn counts(name: impl Into<Cow<'static, str>>, len: usize) -> Self {
        Self { holds: Holds::Counts, ..Self::zeros(name, vec![len]) }
    }
    /// The same tensor with another start.
    pub fn starting(self, start: Start) -> Self {
        Self { start, ..self }
    }
    /// The same tensor as one that stands beside the memory.
    pub fn of_the_past(self) -> Self {
        Self { holds: Holds::Past, ..self }
    }
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// True if the tensor holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What the tensors of one head hold before the first token, one after the other; learned ones at their own start,
/// drawn with `normal`, which gives numbers of mean zero and variance one.
pub fn start_state(tensors: &[StateTensor], normal: &mut dyn FnMut() -> f64) -> Vec<f64> {
    let mut all: Vec<Vec<f64>> = Vec::new();
    for tensor in tensors {
        let n = tensor.len();
        all.push(match tensor.start {
            Start::Zero => vec![0.0; n],
            Start::Learned { deviation } => (0..n).map(|_| deviation * normal()).collect(),
            Start::Identity(scale) => {
                let side = tensor.shape[0];
                (0..n).map(|i| if i / side == i % side { scale } else { 0.0 }).collect()
            }
            Start::UnitColumns => unit_columns(tensor.shape[0], tensor.shape[1], normal),
            Start::Same(i) => all[i].clone(),
        });
    }
    all.concat()
}

/// A random `[rows, columns]` whose columns have unit length; the first `rows` of them are orthogonal.
fn unit_columns(rows: usize, columns: usize, normal: &mut dyn FnMut() -> f64) -> Vec<f64> {
    let mut list: Vec<Vec<f64>> = Vec::new();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for c in 0..columns {
        let mut x: Vec<f64> = (0..rows).map(|_| normal()).collect();
        for other in list.iter().take(if c < rows { c } else { 0 }) {
            let along = dot(&x, other);
            x.iter_mut().zip(other).for_each(|(x, o)| *x -= along * o);
        }
        let length = dot(&x, &x).sqrt();
        x.iter_mut().for_each(|x| *x /= length);
        list.push(x);
    }
    (0..rows * columns).map(|i| list[i % columns][i / columns]).collect()
}

/// Whether a rule has a form that takes many tokens at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkForm {
    /// The chunk length is a speed setting: the same function for every length.
    Exact,
    /// Gradients are taken at the chunk start: the length is part of the model.
    Frozen,
    /// Token by token only.
    Sequential,
}

/// What the tables of documentation say of a rule. Equations use the letters of docs/notation.md.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// The recurrence, on one line.
    pub equation: &'static str,
    /// Where it comes from: `[Key vN eq.M]`, keys in docs/papers.toml.
    pub source: &'static str,
    /// Knob 1: the shape of the memory.
    pub structure: &'static str,
    /// What keys and queries pass through before the memory sees them; `none` for themselves.
    pub features: &'static str,
    /// Knob 2: the inner loss.
    pub bias: &'static str,
    /// Knob 3: how the past is kept.
    pub retention: &'static str,
    /// Knob 4: the inner optimizer.
    pub algorithm: &'static str,
    /// Which chunk form it has.
    pub chunk: ChunkForm,
}

/// A memory rule: the reference of its mathematics, generic over the number type.
///
/// `x` holds one token's inputs in the order of [`MemoryRule::inputs`], each as wide as it says; `dx` their
/// gradients, which are **added into**. `state` is one head's flat buffer, laid out as [`MemoryRule::state`]
/// lists it. `pos` counts the tokens that this state has taken since it was made or reset: rules with chunk
/// semantics derive their phase from it.
///
/// References are slow and obvious; they are law. Change one only together with its golden file.
pub trait MemoryRule:
    Clone + Debug + Default + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Name of the type in configs, files and documents.
    const NAME: &'static str;
    /// Fused `f32` forward/backward pairs over whole sequences; each must equal the reference.
    const KERNELS: &'static [Kernel<Self>] = &[];

    /// Name of this configuration: [`MemoryRule::NAME`], or that of the preset that it started from.
    fn name(&self) -> &'static str {
        Self::NAME
    }
    /// This configuration under the name of another one of its type.
    fn named_like(self, _other: &Self) -> Self {
        self
    }
    /// Named configurations of this type, besides its default: each is a rule of the registry too.
    fn presets() -> Vec<Self> {
        Vec::new()
    }
    /// Why this configuration may grow beyond all bounds under gates that a mixer makes; `None` if it does not.
    fn unbounded(&self) -> Option<&'static str> {
        None
    }
    /// This rule with chunks so short that a stream of some dozen tokens crosses several of their borders: what the
    /// checks of short streams look at. Itself, for rules without long chunks.
    fn brief(&self) -> Self {
        self.clone()
    }
    /// True if a token reads the memory as it was before its own write.
    fn reads_first(&self) -> bool {
        false
    }
    /// True if what a token does depends on its position, as it does in chunks, windows and periods.
    fn positional(&self) -> bool {
        false
    }
    /// True if a read looks at this input: the query and gates, unless a rule says otherwise. What it does not look at need
    /// not be made for a read alone.
    fn reads(&self, input: &Input) -> bool {
        input.name == input::Q.name || !input.activation.is_convolved()
    }
    /// What documentation says of it.
    fn about(&self) -> About;
    /// What a token brings, in the order in which every function takes it.
    fn inputs(&self) -> Vec<Input>;
    /// The tensors of one head's state, in the order in which they lie in memory.
    fn state(&self, d: Dims) -> Vec<StateTensor>;
    /// Floating-point operations of one token of one head, forward, a multiply-add counted as two:
    /// the closed formula behind every share of peak. A backward pass counts twice this.
    fn flops(&self, d: Dims) -> f64;
    /// Refuses configurations and sizes that do not exist, with the reason.
    fn check(&self, _d: Dims) -> Result<()> {
        Ok(())
    }

    /// Writes one token into the memory: state_{t-1} becomes state_t.
    fn write<F: Scalar>(&self, d: Dims, pos: u64, x: &[&[F]], state: &mut [F]);
    /// Transpose of [`MemoryRule::write`]; `prev` is state_{t-1}.
    /// In: `dstate` = dL/dstate_t. Out: dL/dstate_{t-1}.
    fn write_backward<F: Scalar>(
        &self,
        d: Dims,
        pos: u64,
        x: &[&[F]],
        prev: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    );
    /// Reads the memory for one token, `y: [dv]`, overwritten; the state does not change.
    fn read<F: Scalar>(&self, d: Dims, pos: u64, x: &[&[F]], state: &[F], y: &mut [F]);
    /// Transpose of [`MemoryRule::read`]; adds into `dx` and into `dstate`.
    fn read_backward<F: Scalar>(
        &self,
        d: Dims,
        pos: u64,
        x: &[&[F]],
        state: &[F],
        dy: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    );

    /// One token: write, then read what was written; the other way round where the rule [reads first].
    ///
    /// [reads first]: MemoryRule::reads_first
    fn step<F: Scalar>(&self, d: Dims, pos: u64, x: &[&[F]], state: &mut [F], y: &mut [F]) {
        if self.reads_first() {
            self.read(d, pos, x, state, y);
            self.write(d, pos, x, state);
        } else {
            self.write(d, pos, x, state);
            self.read(d, pos, x, state, y);
        }
    }
    /// Transpose of [`MemoryRule::step`]; `prev` is state_{t-1}, `dy` the gradient of the read.
    /// In: `dstate` = dL/dstate_t. Out: dL/dstate_{t-1}.
    fn step_backward<F: Scalar>(
        &self,
        d: Dims,
        pos: u64,
        x: &[&[F]],
        prev: &[F],
        dy: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        if self.reads_first() {
            self.write_backward(d, pos, x, prev, dx, dstate);
            self.read_backward(d, pos, x, prev, dy, dx, dstate);
            return;
        }
        let mut post = prev.to_vec();
        self.write(d, pos, x, &mut post);
        self.read_backward(d, pos, x, &post, dy, dx, dstate);
        self.write_backward(d, pos, x, prev, dx, dstate);
    }
}

/// Names a token's inputs: `let [k, v, q, rate] = named(x);`.
///
/// # Panics
/// If the token does not bring exactly `N` inputs, which the checked entry points rule out.
pub fn named<'a, F, const N: usize>(x: &[&'a [F]]) -> [&'a [F]; N] {
    x.try_into().expect("a token brings the inputs that its rule lists")
}

/// Names the gradients of a token's inputs, like [`named`].
///
/// # Panics
/// If there are not exactly `N` of them.
pub fn named_mut<'a, 'b, F, const N: usize>(dx: &'a mut [&'b mut [F]]) -> &'a mut [&'b mut [F]; N] {
    dx.try_into().expect("a token brings the inputs that its rule lists")
}
