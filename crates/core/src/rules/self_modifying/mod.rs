//! Self-referential Titans: memories that make their own keys, values, gates and targets, and all learn from them.
//!
//! ```text
//! k = unit(A_k(x));  v = A_v(x);  r = sigmoid(b_r + A_rate(x));  s = sigmoid(b_s + A_retain(x))
//! y = A_mem(q)                                                                     [NestedLearning v1 eq.83]
//! for every memory M with anchor A, and each of its tensors W, whose product takes z where A sees k:
//!     t  = soft(A(v))                    its own target, a constant for G          [NestedLearning v1 eq.84]
//!     G  = d/dA loss(A(k), t)
//!     S' = momentum S - rate G           (no momentum: S' = -rate G)
//!     W' = W (retain I - rate z z^T) + S'                                          [NestedLearning v1 eq.88]
//! ```
//!
//! The memories are `k`, `v`, `rate`, `retain`, `mem` and, with `adaptive_q`, `q`. An anchor is the memory as it was at
//! the start of the open chunk, of `chunk` tokens for all of them but `mem`, whose chunks have `chunk_memory`
//! [NestedLearning v1 eq.90]; all that a token reads or makes comes from anchors. `x` is the head's own share of the
//! block's input: nothing else projects it, so heads together are as wide as the stream. `r` and `s` are shares of a
//! range that each memory has of its own (see `ranges`). The erased direction z is the key for the layer at
//! the input, and what comes out of the layer below, at unit length, for one above it. The L2 loss erases too, so that
//! a constant target leaves less than itself: half of it where everything is kept.
//!
//! Unlike the paper, targets pass through `soft(t) = t / sqrt(1 + |t|^2 / n)` for n values: what a memory answers grows
//! with the memory, and it would learn to answer more with every token. `targets = "raw"` is the printed form. So is
//! `norm = false` for a perceptron, which here is normalised as that of `mlp`.

pub(crate) mod memory;
pub(crate) mod plan;
mod token;

use super::miras::RateScale;
use super::miras::bias::{self, AnyBias};
use super::miras::smooth::Activation as Hidden;
use super::miras::structure::{self, AnyStructure, Structure, with_structure};
use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::rule::{About, Activation, ChunkForm, Dims, Input, MemoryRule, StateTensor, Width, input};
use crate::scalar::Scalar;
use plan::Plan;
use serde::{Deserialize, Serialize};

/// Which layers erase what they held in the direction that they write to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precond {
    /// Every layer, each in the direction of its own input.
    #[default]
    PerLayer,
    /// The layer that takes the key; the others only keep `retain`.
    FirstOnly,
    /// None: plain gradient descent.
    None,
}

/// What memories learn to answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Targets {
    /// Bounded: no value is longer than the root of its width.
    #[default]
    Soft,
    /// As they come [NestedLearning v1 eq.84].
    Raw,
}

/// Where the decay of the inner momentum comes from: the equations have none, the ablations of the paper do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Momentum {
    /// There is none.
    #[default]
    None,
    /// A gate that the token opens.
    Gate,
    /// One number, from 0 to below 1.
    Constant(f64),
}

/// Memories that modify themselves; see the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SelfModifying {
    #[serde(skip)]
    name: &'static str,
    /// What every memory is: `matrix` or `mlp`. Those of the gates give one number and have no residual and no norm.
    pub structure: AnyStructure,
    /// What every memory is learned for: `l2` or `dot`.
    pub bias: AnyBias,
    /// Which layers erase.
    pub precond: Precond,
    /// What memories learn to answer.
    pub targets: Targets,
    /// Tokens of a chunk of all memories but `mem`.
    pub chunk: usize,
    /// Tokens of a chunk of `mem`.
    pub chunk_memory: usize,
    /// The inner momentum.
    pub momentum: Momentum,
    /// Queries come from a memory of their own, instead of a projection.
    pub adaptive_q: bool,
    /// The most that the step size may be without chunks; 1 for a matrix and 0.1 for an MLP where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_max: Option<f64>,
    /// How that depends on the memory's chunk.
    pub rate_scale: RateScale,
    /// What is added to the answer of the memory `rate`; where absent, what makes an answer of zero a step of 0.05: -3
    /// for a matrix and 0 for an MLP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_bias: Option<f64>,
    /// What is added to the answer of the memory `retain`.
    pub retain_bias: f64,
}

impl Default for SelfModifying {
    fn default() -> Self {
        // Hidden layers as wide as keys; 16 tokens, the paper's only number; four times that for what is read.
        let structure = structure::Mlp { expansion: 1, activation: Hidden::Silu, ..structure::Mlp::default() };
        Self {
            name: Self::NAME,
            structure: structure.into(),
            bias: bias::L2::default().into(),
            precond: Precond::PerLayer,
            targets: Targets::Soft,
            chunk: 16,
            chunk_memory: 64,
            momentum: Momentum::None,
            adaptive_q: false,
            rate_max: None,
            rate_scale: RateScale::Auto,
            rate_bias: None,
            retain_bias: 4.0,
        }
    }
}

/// Longest chunk: far beyond use, far below what an index can hold.
const MOST_TOKENS: usize = 1 << 20;
/// Name of the preset without hidden layers and chunks.
const MATRIX: &str = "self_modifying_matrix";
/// Chunks of the brief form.
const BRIEF: [usize; 2] = [2, 3];

/// The input that memories share.
const X: Input = Input {
    name: "x",
    width: Width::Key,
    activation: Activation::Share,
    about: "the head's channels of the block's input, from which memories make keys, values and gates",
};

impl SelfModifying {
    pub(crate) fn is_linear(&self) -> bool {
        with_structure!(&self.structure, s => s.is_linear())
    }

    fn rate_max(&self) -> f64 {
        self.rate_max.unwrap_or_else(|| with_structure!(&self.structure, s => s.rate_max()))
    }

    /// What makes the step size about 0.05 at the start, without chunks.
    pub(crate) fn rate_bias(&self) -> f64 {
        self.rate_bias.unwrap_or(if self.is_linear() { -3.0 } else { 0.0 })
    }

    /// Index of the query and of the momentum among the inputs.
    pub(crate) fn slots(&self) -> (Option<usize>, Option<usize>) {
        let query = (!self.adaptive_q).then_some(1);
        (query, (self.momentum == Momentum::Gate).then_some(1 + usize::from(query.is_some())))
    }
}

impl MemoryRule for SelfModifying {
    const NAME: &'static str = "self_modifying";
    const KERNELS: &'static [Kernel<Self>] = crate::kernels::miras::self_modifying::KERNELS;

    fn name(&self) -> &'static str {
        self.name
    }
    fn presets() -> Vec<Self> {
        let structure = structure::Matrix::default().into();
        vec![Self { name: MATRIX, structure, chunk: 1, chunk_memory: 1, ..Self::default() }]
    }
    fn named_like(self, other: &Self) -> Self {
        Self { name: other.name, ..self }
    }
    fn unbounded(&self) -> Option<&'static str> {
        let normed = with_structure!(&self.structure, s => s.is_bounded());
        if self.targets == Targets::Raw {
            return Some("a memory learns to answer what it answers: nothing bounds its own targets");
        }
        (!normed && !self.is_linear()).then_some("nothing bounds the product of layers without a norm")
    }
    fn brief(&self) -> Self {
        Self { chunk: self.chunk.min(BRIEF[0]), chunk_memory: self.chunk_memory.min(BRIEF[1]), ..self.clone() }
    }
    fn positional(&self) -> bool {
        self.chunk.max(self.chunk_memory) > 1
    }
    fn reads_first(&self) -> bool {
        true
    }
    fn reads(&self, input: &Input) -> bool {
        input.name == if self.adaptive_q { X.name } else { input::Q.name }
    }

    fn about(&self) -> About {
        About {
            equation: "k, v, rate, retain = A(x); y = A(q); W' = W (retain I - rate z zᵀ) - rate G(A; k, A(v))",
            source: if self.name == MATRIX { "[NestedLearning v1 eq.93]" } else { "[NestedLearning v1 eq.88]" },
            structure: match (self.is_linear(), self.adaptive_q) {
                (true, false) => "5 matrices",
                (true, true) => "6 matrices",
                (false, false) => "5 mlps",
                (false, true) => "6 mlps",
            },
            features: "none",
            bias: self.bias.name(),
            retention: "l2",
            algorithm: match (self.precond, self.momentum) {
                (Precond::None, Momentum::None) => "gd",
                (Precond::None, _) => "momentum",
                (_, Momentum::None) => "dgd",
                _ => "dgd, momentum",
            },
            chunk: if self.chunk.max(self.chunk_memory) > 1 { ChunkForm::Frozen } else { ChunkForm::Sequential },
        }
    }

    fn inputs(&self) -> Vec<Input> {
        let momentum = (self.momentum == Momentum::Gate).then_some(input::MOMENTUM);
        [X].into_iter().chain((!self.adaptive_q).then_some(input::Q)).chain(momentum).collect()
    }

    fn state(&self, d: Dims) -> Vec<StateTensor> {
        Plan::new(self, d).state()
    }

    /// Per weight: what the memory makes of x or q 2, its target 2, its prediction 2, its step 2; 2 more for what it
    /// erases and 2 for a momentum of its own; above the first layer, 2 for the way back.
    fn flops(&self, d: Dims) -> f64 {
        let plan = Plan::new(self, d);
        let erase = if self.precond == Precond::None { 0.0 } else { 2.0 };
        let momentum = if self.momentum == Momentum::None { 0.0 } else { 2.0 };
        let of = |m: &plan::Place| {
            let net = plan.net(m);
            (8.0 + erase + momentum) * net.len() as f64 + 2.0 * net.upper() as f64
        };
        plan.memories.iter().map(of).sum()
    }

    fn check(&self, d: Dims) -> Result<()> {
        let refuse = |reason: String| Err(Error::Invalid { place: format!("rule `{}`", self.name), reason });
        if d.dk != d.dv {
            return refuse(format!("values made of keys are as wide as they: {} is not {}", d.dk, d.dv));
        }
        if !matches!(self.structure, AnyStructure::Matrix(_) | AnyStructure::Mlp(_)) {
            return refuse(format!("structure `{}`: one of matrix, mlp", self.structure.name()));
        }
        if !matches!(self.bias, AnyBias::L2(_) | AnyBias::Dot(_)) {
            return refuse(format!("bias `{}`: one of l2, dot", self.bias.name()));
        }
        for (key, chunk) in [("chunk", self.chunk), ("chunk_memory", self.chunk_memory)] {
            if !(1..=MOST_TOKENS).contains(&chunk) {
                return refuse(format!("{key} = {chunk}: from 1 to {MOST_TOKENS}"));
            }
        }
        if let Momentum::Constant(momentum) = self.momentum
            && !(0.0..1.0).contains(&momentum)
        {
            return refuse(format!("momentum = {momentum}: from 0 to below 1"));
        }
        if !(self.rate_max() > 0.0 && self.rate_max() <= 1.0) {
            return refuse(format!("rate_max = {}: above 0, at most 1", self.rate_max()));
        }
        if !(self.rate_bias().is_finite() && self.retain_bias.is_finite()) {
            return refuse("rate_bias and retain_bias are finite numbers".into());
        }
        match with_structure!(&self.structure, s => s.check(d)) {
            Err(Error::Invalid { reason, .. }) => refuse(reason),
            other => other,
        }
    }

    fn write<F: Scalar>(&self, d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
        Plan::new(self, d).write(pos, x, state);
    }

    fn write_backward<F: Scalar>(
        &self,
        d: Dims,
        pos: u64,
        x: &[&[F]],
        prev: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        Plan::new(self, d).write_backward(pos, x, prev, dx, dstate);
    }

    fn read<F: Scalar>(&self, d: Dims, _pos: u64, x: &[&[F]], state: &[F], y: &mut [F]) {
        Plan::new(self, d).read(x, state, y);
    }

    fn read_backward<F: Scalar>(
        &self,
        d: Dims,
        _pos: u64,
        x: &[&[F]],
        state: &[F],
        dy: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        Plan::new(self, d).read_backward(x, state, dy, dx, dstate);
    }
}
