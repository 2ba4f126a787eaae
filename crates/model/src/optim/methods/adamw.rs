//! AdamW: Adam with weight decay apart from the gradient [AdamW v3 sec.2].
//!
//! ```text
//! m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//! p = p - lr (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + decay p)
//! ```

use crate::error::Result;
use crate::optim::elementwise::each;
use crate::optim::step::{About, Optimizer, Shape, StateSpec, Step, within};
use hecate_core::Scalar;
use hecate_core::ops::Ops;
use serde::{Deserialize, Serialize};

/// See the module text; the rate comes from the schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamW {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squares.
    pub beta2: f64,
    /// Keeps the quotient finite.
    pub eps: f64,
    /// Weight decay per unit of rate, on matrices and embeddings only.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        // beta2 below the usual 0.999, because runs are short and gradients change fast.
        Self { beta1: 0.9, beta2: 0.98, eps: 1e-8, weight_decay: 0.1 }
    }
}

impl Optimizer for AdamW {
    fn about(&self) -> About {
        About {
            equation: "m' = beta1 m + (1 - beta1) g; v' = beta2 v + (1 - beta2) g²; W' = W - rate m'/√v'",
            source: "[AdamW v3 sec.2]",
        }
    }
    fn check(&self) -> Result<()> {
        within("beta1", self.beta1, 0.0, 1.0)?;
        within("beta2", self.beta2, 0.0, 1.0)?;
        within("eps", self.eps, 0.0, 1.0)?;
        within("weight_decay", self.weight_decay, 0.0, 1e3)
    }
    fn state(&self, s: Shape) -> Vec<StateSpec> {
        ["m", "v"].map(|name| StateSpec::like(name, s)).into()
    }

    fn step<O: Ops>(&self, at: &Step<'_, O>, p: &mut [O::F], g: &[O::F], state: &mut [&mut [O::F]]) {
        let [m, v] = state else { unreachable!("two means") };
        let [beta1, beta2, eps, rate] = [self.beta1, self.beta2, self.eps, at.rate].map(O::F::from_f64);
        let (correct1, correct2) = (at.correction(self.beta1), at.correction(self.beta2));
        let (keep, one) = (at.keep(self.weight_decay), O::F::one());
        each(p, g, [m, v], |p, g, [m, v]| {
            for i in 0..p.len() {
                m[i] = beta1 * m[i] + (one - beta1) * g[i];
                v[i] = beta2 * v[i] + (one - beta2) * g[i] * g[i];
                p[i] = keep * p[i] - rate * (m[i] * correct1) / ((v[i] * correct2).sqrt() + eps);
            }
        });
    }
}
