//! Momentum of preconditioned gradients, its rate inside [NestedLearning v1 eq.47].
//!
//! ```text
//! m = momentum m - rate P g;   W = W + m - rate decay W
//! ```
//!
//! Without a preconditioner it is [NestedLearning v1 eq.33]. Unlike in [`Sgd`](super::Sgd), a change of the rate acts on new
//! gradients alone.

use crate::error::Result;
use crate::optim::Preconditioner;
use crate::optim::elementwise::{advance, gather};
use crate::optim::step::{About, Optimizer, Shape, StateSpec, Step, within};
use hecate_core::Scalar;
use hecate_core::ops::Ops;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Momentum {
    /// Decay of the momentum.
    pub momentum: f64,
    /// What gradients are multiplied by.
    pub precondition: Preconditioner,
    /// Weight decay per unit of rate, on matrices and embeddings only.
    pub weight_decay: f64,
}

impl Default for Momentum {
    fn default() -> Self {
        Self { momentum: 0.9, precondition: Preconditioner::default(), weight_decay: 1e-3 }
    }
}

impl Optimizer for Momentum {
    fn about(&self) -> About {
        About { equation: "m' = momentum m - rate P g; W' = W + m'", source: "[NestedLearning v1 eq.47]" }
    }
    fn check(&self) -> Result<()> {
        within("momentum", self.momentum, 0.0, 1.0)?;
        within("weight_decay", self.weight_decay, 0.0, 1e3)?;
        self.precondition.check()
    }
    fn state(&self, s: Shape) -> Vec<StateSpec> {
        [StateSpec::like("m", s)].into_iter().chain(self.precondition.state(s)).collect()
    }
    fn scratch(&self, s: Shape) -> usize {
        self.precondition.scratch(s)
    }

    fn step<O: Ops>(&self, at: &Step<'_, O>, p: &mut [O::F], g: &[O::F], state: &mut [&mut [O::F]]) {
        let [m, scale @ ..] = state else { unreachable!("a momentum") };
        let g = self.precondition.apply(at, g, scale.first_mut());
        gather(m, O::F::from_f64(self.momentum), O::F::from_f64(-at.rate), &g);
        advance(p, at.keep(self.weight_decay), O::F::one(), m);
    }
}
