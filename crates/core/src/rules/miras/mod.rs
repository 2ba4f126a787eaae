//! One rule with four knobs: any structure, bias, retention and algorithm that fit together [Miras v1 sec.3].
//!
//! ```text
//! G  = sum_i gamma_i dM(W, k_i)/dW^T r(M(W, k_i), v_i)       structure and bias; a window of tokens, or one
//! S' = momentum S - rate G                                   algorithm
//! Z' = settle(retain Z + (1 - retain) target + direction(S')), W = psi(Z')            retention
//! y  = M(W, q)
//! ```
//!
//! Each knob is a list of files: [`structure`], [`bias`], [`retention`], [`algorithm`]; [`features`] widen keys and
//! queries. The inner gradient is taken at the state before the token; with `chunk` above one, at the state at the
//! start of the token's chunk, which the state carries. Gradients through an inner step are exact, second order
//! included.
//!
//! Named rules of the literature are settings of this one: see [`Preset`].

mod cost;
mod divergence;
pub(crate) mod gradient;
pub(crate) mod knob;
mod newton;
pub(crate) mod plan;
mod presets;
mod read;
mod settle;
pub(crate) mod smooth;
mod validity;
mod write;

pub mod algorithm;
pub mod bias;
pub mod features;
pub mod retention;
pub mod structure;

pub use presets::Preset;
pub use smooth::Activation as HiddenActivation;

use crate::error::Result;
use crate::kernel::Kernel;
use crate::kernels;
use crate::rule::{About, Activation, ChunkForm, Dims, HeadDecay, Input, MemoryRule, StateTensor, Width};
use crate::scalar::Scalar;
use algorithm::{Algorithm, AnyAlgorithm, Solve, with_algorithm};
use bias::{AnyBias, Bias, with_bias};
use features::AnyFeatures;
use plan::Plan;
use retention::AnyRetention;
use serde::{Deserialize, Serialize};
use structure::{AnyStructure, Structure, with_structure};

/// Whether gates are one number per head or one per channel [Miras v1 sec.5.4].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gates {
    /// One number per head.
    #[default]
    Scalar,
    /// `retain`, `rate` and `momentum` per channel of the values. The gates of a window have no channels, nor then has
    /// the momentum.
    Value,
    /// `retain` per channel of the keys.
    Key,
}

/// Least that a memory under a norm keeps over a chunk, see `Miras::least_kept`.
const LEAST_KEPT: f64 = 1.0 / 16.0;

/// Where the decay `retain` comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// A gate that the token opens.
    #[default]
    Gate,
    /// A constant per head, see [`HeadDecay::RetNet`].
    Retnet,
    /// A constant per head, see [`HeadDecay::Lightning`].
    Lightning,
}

impl Decay {
    fn activation(self, floor: f64) -> Activation {
        match self {
            Decay::Gate => Activation::Sigmoid { floor, max: 1.0, bias: 4.0, damped_by: None },
            Decay::Retnet => Activation::PerHead(HeadDecay::RetNet),
            Decay::Lightning => Activation::PerHead(HeadDecay::Lightning),
        }
    }
}

/// Where the inner gradient of a rule without chunks is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GradientAt {
    /// At the state before the token.
    #[default]
    Prev,
    /// At that state after its decay.
    Decayed,
}

/// Which state a token reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadAt {
    /// The state after its own write.
    #[default]
    Post,
    /// The state before its own write.
    Pre,
    /// The state at the start of its chunk.
    Start,
}

/// How chunks scale the range of the inner step size: the gradients of a whole chunk add up at one point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateScale {
    /// `inv` for a memory that is linear in its weights, which is stable then; `inv_sqrt` for deeper ones.
    #[default]
    Auto,
    /// Not at all.
    None,
    /// By one over the root of the chunk length.
    InvSqrt,
    /// By one over the chunk length.
    Inv,
}

/// The rule; see the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Miras {
    #[serde(skip)]
    name: &'static str,
    /// Knob 1.
    pub structure: AnyStructure,
    /// What keys and queries pass through.
    pub features: AnyFeatures,
    /// Knob 2.
    pub bias: AnyBias,
    /// Tokens whose loss each write descends, itself included; 0 for its own alone under a `rate`. With a window, the
    /// gates of the window take the place of the rate of the first inner step [Atlas v1 eq.9].
    pub window: usize,
    /// Knob 3.
    pub retention: AnyRetention,
    /// A decay that tokens decide on, or a constant one.
    pub decay: Decay,
    /// Knob 4.
    pub algorithm: AnyAlgorithm,
    /// Inner steps per token, each with a key, a value and a rate of its own, 1 to 4 [DeltaProduct v4 eq.3].
    pub steps: usize,
    /// One gate per head, or per channel.
    pub gates: Gates,
    /// Where the inner gradient is taken without chunks.
    pub gradient: GradientAt,
    /// Which state a token reads.
    pub read: ReadAt,
    /// Tokens whose inner gradients are taken at the same state; part of the model.
    pub chunk: usize,
    /// How the range of the rate depends on `chunk`.
    pub rate_scale: RateScale,
    /// Longest residual; longer ones are shortened to it. Absent: faithful, without a bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
}

impl Default for Miras {
    fn default() -> Self {
        Self {
            name: Self::NAME,
            structure: structure::Matrix::default().into(),
            features: features::None::default().into(),
            bias: bias::L2::default().into(),
            window: 0,
            retention: retention::L2::default().into(),
            decay: Decay::Gate,
            algorithm: algorithm::Gd::default().into(),
            steps: 1,
            gates: Gates::Scalar,
            gradient: GradientAt::Prev,
            read: ReadAt::Post,
            chunk: 1,
            rate_scale: RateScale::Auto,
            clip: None,
        }
    }
}

impl Miras {
    /// The gate activation of the rate; see [`RateScale`].
    fn rate_activation(&self, momentum: bool) -> Activation {
        let bias = with_structure!(&self.structure, s => s.rate_bias());
        let damped_by = momentum.then_some("momentum");
        Activation::Sigmoid { floor: 0.0, max: self.rate_max(), bias, damped_by }
    }

    /// The least that the gate `retain` may be. A step of a memory whose result is normalised is as large as the inverse
    /// of the memory, so that with nothing kept each memory is the inverse of the one before and rounding grows. What
    /// stays pulls towards the size in between: a memory of size `r` becomes `a r + c / r`, whose slope there is
    /// `2 a - 1`. `a` is what a whole chunk keeps.
    fn least_kept(&self) -> f64 {
        let normed = with_structure!(&self.structure, s => s.network()).is_some_and(|network| network.norm);
        if normed { LEAST_KEPT.powf(1.0 / self.chunk.max(1) as f64) } else { 0.0 }
    }

    /// The most that a step size, or the gates of a window together, may be.
    fn rate_max(&self) -> f64 {
        let max = with_structure!(&self.structure, s => s.rate_max());
        max * self.chunk_scale() / with_bias!(&self.bias, b => b.factor())
    }

    fn chunk_scale(&self) -> f64 {
        let c = self.chunk.max(1) as f64;
        let scale = match self.rate_scale {
            RateScale::Auto if with_structure!(&self.structure, s => s.is_linear()) => RateScale::Inv,
            RateScale::Auto => RateScale::InvSqrt,
            scale => scale,
        };
        match scale {
            RateScale::Inv => 1.0 / c,
            RateScale::InvSqrt => 1.0 / c.sqrt(),
            _ => 1.0,
        }
    }

    /// The gates of the window, which add up to at most what a rate may be.
    fn window_input(&self, momentum: bool) -> Input {
        let max = self.rate_max() / self.window as f64;
        Input {
            name: "window",
            width: Width::Fixed(self.window),
            activation: Activation::Sigmoid { floor: 0.0, max, bias: 2.0, damped_by: momentum.then_some("momentum") },
            about: "step size for each token of the window, oldest first",
        }
    }

    fn is_newton(&self) -> bool {
        with_algorithm!(&self.algorithm, a => a.solve()) == Solve::Newton
    }

    fn preset(&self) -> Option<&'static Preset> {
        Preset::named(self.name)
    }
}

impl MemoryRule for Miras {
    const NAME: &'static str = "miras";
    const KERNELS: &'static [Kernel<Self>] = kernels::miras::KERNELS;

    fn name(&self) -> &'static str {
        self.name
    }
    fn presets() -> Vec<Self> {
        presets::PRESETS.iter().map(Preset::rule).collect()
    }
    fn named_like(self, other: &Self) -> Self {
        Self { name: other.name, ..self }
    }
    fn unbounded(&self) -> Option<&'static str> {
        validity::unbounded(self)
    }
    fn positional(&self) -> bool {
        self.chunk > 1 || self.window > 1
    }
    fn reads_first(&self) -> bool {
        self.read == ReadAt::Pre || (self.read == ReadAt::Start && self.chunk <= 1)
    }

    fn about(&self) -> About {
        let preset = self.preset();
        let general = "S' = momentum S - rate G; Z' = settle(retain Z + S'); y = M(psi(Z'), q)";
        About {
            equation: preset.map_or(general, |p| p.equation),
            source: preset.map_or("[Miras v1 sec.3]", |p| p.source),
            structure: self.structure.name(),
            features: self.features.name(),
            bias: self.bias.name(),
            retention: self.retention.name(),
            algorithm: self.algorithm.name(),
            chunk: match self.chunk {
                0 | 1 if crate::kernels::miras::rank_one::covers(self) => ChunkForm::Exact,
                0 | 1 => ChunkForm::Sequential,
                _ => ChunkForm::Frozen,
            },
        }
    }

    fn inputs(&self) -> Vec<Input> {
        plan::inputs(self).0
    }

    fn state(&self, d: Dims) -> Vec<StateTensor> {
        Plan::new(self, d).state(self)
    }

    /// In the chunk form where there is one; the formula is that of the module `cost`.
    fn flops(&self, d: Dims) -> f64 {
        cost::flops(self, d)
    }

    fn check(&self, d: Dims) -> Result<()> {
        validity::check(self, d)
    }

    fn write<F: Scalar>(&self, d: Dims, pos: u64, x: &[&[F]], state: &mut [F]) {
        let (plan, slots) = (Plan::new(self, d), plan::inputs(self).1);
        if self.is_newton() {
            self.write_newton(&plan, &slots, x, state);
        } else {
            self.write_explicit(&plan, &slots, pos, x, state);
        }
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
        let (plan, slots) = (Plan::new(self, d), plan::inputs(self).1);
        if self.is_newton() {
            self.write_newton_backward(&plan, &slots, x, prev, dx, dstate);
        } else {
            self.write_explicit_backward(&plan, &slots, pos, x, prev, dx, dstate);
        }
    }

    fn read<F: Scalar>(&self, d: Dims, _pos: u64, x: &[&[F]], state: &[F], y: &mut [F]) {
        self.read_state(&Plan::new(self, d), &plan::inputs(self).1, x, state, y);
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
        self.read_state_backward(&Plan::new(self, d), &plan::inputs(self).1, x, state, dy, dx, dstate);
    }
}
