//! Muon: momentum made orthogonal, for matrices; AdamW for the rest [Muon v1 sec.2], [NestedLearning v1 eq.42].
//!
//! ```text
//! M = momentum M + g;   D = M, or g + momentum M under Nesterov
//! W = W - rate (scale NS(D) + decay W)
//! ```
//!
//! NS is the iteration of Newton and Schulz, see [`hecate_core::rules::miras::algorithm::Muon`].

use crate::error::Result;
use crate::optim::Rest;
use crate::optim::elementwise::{advance, each};
use crate::optim::step::{About, Optimizer, Shape, StateSpec, Step, counted, within};
use hecate_core::Scalar;
use hecate_core::ops::{Ops, Polynomial};
use serde::{Deserialize, Serialize};

/// What an orthogonal step is multiplied by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Nothing: singular values near 1.
    None,
    /// `sqrt(max(1, out / in))`: the largest change of an output of unit inputs.
    Spectral,
    /// `0.2 sqrt(max(in, out))`: as large per number as AdamW's steps, so that one rate does for all tensors.
    #[default]
    Rms,
}

impl Scale {
    /// The factor for a weight `[in, out]`.
    pub(super) fn factor(self, s: Shape) -> f64 {
        match self {
            Scale::None => 1.0,
            Scale::Spectral => (s.columns as f64 / s.rows as f64).max(1.0).sqrt(),
            Scale::Rms => 0.2 * (s.long() as f64).sqrt(),
        }
    }
}

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Muon {
    /// Decay of the sum of gradients.
    pub momentum: f64,
    /// Look ahead along the momentum.
    pub nesterov: bool,
    /// The polynomial of the iteration.
    pub polynomial: Polynomial,
    /// How often it is applied, 1 to 50.
    pub iterations: usize,
    /// The size of a step.
    pub scale: Scale,
    /// Weight decay per unit of rate.
    pub weight_decay: f64,
    /// All other tensors.
    pub rest: Rest,
}

impl Default for Muon {
    fn default() -> Self {
        // [Muon v1 sec.2]: momentum 0.95, five iterations, decay as under AdamW.
        Self {
            momentum: 0.95,
            nesterov: true,
            polynomial: Polynomial::Muon,
            iterations: 5,
            scale: Scale::Rms,
            weight_decay: 0.1,
            rest: Rest::default(),
        }
    }
}

/// Values that an iteration holds: input, two iterates, two squares of the shorter side, result.
pub(super) fn scratch(s: Shape) -> usize {
    4 * s.len() + 2 * s.short() * s.short()
}

impl Optimizer for Muon {
    fn about(&self) -> About {
        About { equation: "M' = momentum M + g; W' = W - rate scale NS(g + momentum M')", source: "[Muon v1 sec.2]" }
    }
    fn check(&self) -> Result<()> {
        within("momentum", self.momentum, 0.0, 1.0)?;
        within("weight_decay", self.weight_decay, 0.0, 1e3)?;
        counted("iterations", self.iterations, 1, 50)?;
        self.rest.check()
    }
    fn rest(&self) -> Option<&Rest> {
        Some(&self.rest)
    }
    fn state(&self, s: Shape) -> Vec<StateSpec> {
        vec![StateSpec::like("m", s)]
    }
    fn scratch(&self, s: Shape) -> usize {
        scratch(s)
    }

    fn step<O: Ops>(&self, at: &Step<'_, O>, p: &mut [O::F], g: &[O::F], state: &mut [&mut [O::F]]) {
        let [m] = state else { unreachable!("one momentum") };
        let (momentum, nesterov) = (O::F::from_f64(self.momentum), self.nesterov);
        let [mut d, mut o] = [(); 2].map(|()| vec![O::F::zero(); p.len()]);
        each(&mut d, g, [m], |d, g, [m]| {
            for i in 0..d.len() {
                m[i] = momentum * m[i] + g[i];
                d[i] = if nesterov { g[i] + momentum * m[i] } else { m[i] };
            }
        });
        at.ops.orthogonal(self.polynomial, self.iterations, at.shape.columns, &d, &mut o);
        let by = O::F::from_f64(-at.rate * self.scale.factor(at.shape));
        advance(p, at.keep(self.weight_decay), by, &o);
    }
}
