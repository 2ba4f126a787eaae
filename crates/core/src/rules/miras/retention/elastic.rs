//! Squared distance and a preference for zero weights: soft thresholding after every step [Miras v1 eq.22].
//!
//! ```text
//! argmin over W of <W, G> + |W - W'|^2 / (2 eta) + |W|^2 / (2 beta) + sparsity |W|_1
//!     = S(retain (W' - eta G)),   retain = beta / (beta + eta),   S shrinks by sparsity * eta * retain
//! ```
//!
//! So `retain` scales the step too, and how far weights shrink grows with the rate.

use super::{Pull, Retention, Tensor};
use crate::error::Result;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Elastic {
    /// Weight of the sum of sizes in the objective.
    pub sparsity: f64,
}

impl Default for Elastic {
    fn default() -> Self {
        Self { sparsity: 0.01 }
    }
}

impl Elastic {
    /// Name in configs and tables.
    pub const NAME: &'static str = "elastic";
}

/// `sign(z) max(|z| - by, 0)`.
pub(super) fn soft<F: Scalar>(z: F, by: F) -> F {
    if z > by {
        z - by
    } else if z < -by {
        z + by
    } else {
        F::zero()
    }
}

/// The sign of what soft thresholding leaves of `z`.
pub(super) fn side<F: Scalar>(z: F, by: F) -> f64 {
    if z > by {
        1.0
    } else if z < -by {
        -1.0
    } else {
        0.0
    }
}

impl Retention for Elastic {
    fn check(&self) -> Result<()> {
        super::positive(Self::NAME, "sparsity", self.sparsity)
    }
    fn pull(&self) -> Pull {
        Pull::Zero
    }
    fn settles(&self) -> bool {
        true
    }
    fn shrinks(&self) -> bool {
        true
    }
    fn scales_steps(&self) -> bool {
        true
    }

    fn settle<F: Scalar>(&self, _t: &Tensor, z: &mut [F], _step: &[F], shrink: F) {
        let by = F::from_f64(self.sparsity) * shrink;
        z.iter_mut().for_each(|z| *z = soft(*z, by));
    }

    fn settle_backward<F: Scalar>(&self, _t: &Tensor, z: &[F], _s: &[F], shrink: F, dz: &mut [F], _ds: &mut [F]) -> F {
        let sparsity = F::from_f64(self.sparsity);
        let mut dshrink = F::zero();
        for (dz, &z) in dz.iter_mut().zip(z) {
            let side = F::from_f64(side(z, sparsity * shrink));
            dshrink += -(side * *dz * sparsity);
            *dz *= side * side;
        }
        dshrink
    }
}
