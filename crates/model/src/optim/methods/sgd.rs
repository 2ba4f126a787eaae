//! Stochastic gradient descent, with momentum or without.
//!
//! ```text
//! m = momentum m + g;   d = m, or g + momentum m under Nesterov
//! W = W - rate (d + decay W)
//! ```

use crate::error::{Error, Result};
use crate::optim::elementwise::{advance, each};
use crate::optim::step::{About, Optimizer, Shape, StateSpec, Step, within};
use hecate_core::Scalar;
use hecate_core::ops::Ops;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sgd {
    /// Decay of the sum of gradients; 0 keeps none.
    pub momentum: f64,
    /// Look ahead along the momentum.
    pub nesterov: bool,
    /// Weight decay per unit of rate, on matrices and embeddings only.
    pub weight_decay: f64,
}

impl Default for Sgd {
    fn default() -> Self {
        // Rates are a hundred times those of AdamW, and decay goes by the rate.
        Self { momentum: 0.9, nesterov: false, weight_decay: 1e-3 }
    }
}

impl Optimizer for Sgd {
    fn about(&self) -> About {
        About { equation: "m' = momentum m + g; W' = W - rate m'", source: "[NestedLearning v1 eq.30]" }
    }
    fn check(&self) -> Result<()> {
        within("momentum", self.momentum, 0.0, 1.0)?;
        within("weight_decay", self.weight_decay, 0.0, 1e3)?;
        if self.nesterov && self.momentum == 0.0 {
            return Err(Error::config("optimizer.nesterov", "there is no momentum to look ahead along"));
        }
        Ok(())
    }
    fn state(&self, s: Shape) -> Vec<StateSpec> {
        if self.momentum > 0.0 { vec![StateSpec::like("m", s)] } else { Vec::new() }
    }

    fn step<O: Ops>(&self, at: &Step<'_, O>, p: &mut [O::F], g: &[O::F], state: &mut [&mut [O::F]]) {
        let (keep, rate) = (at.keep(self.weight_decay), O::F::from_f64(at.rate));
        let [m] = state else { return advance(p, keep, -rate, g) };
        let (momentum, nesterov) = (O::F::from_f64(self.momentum), self.nesterov);
        each(p, g, [m], |p, g, [m]| {
            for i in 0..p.len() {
                m[i] = momentum * m[i] + g[i];
                let d = if nesterov { g[i] + momentum * m[i] } else { m[i] };
                p[i] = keep * p[i] - rate * d;
            }
        });
    }
}
