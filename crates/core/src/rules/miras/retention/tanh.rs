//! Weights between `-bound` and `bound`, `W = bound tanh(Z / bound)`: a memory that is bounded whatever is written.
//! An extension of ours, the signed relative of `sigmoid`.
//!
//! Small weights are the state itself, and `retain` fades them as it fades the state. The state settles within 15 bounds
//! on either side, where `sigmoid` at twice the argument does.

use super::{Pull, Retention, Tensor, clamp, clamp_backward};
use crate::error::Result;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tanh {
    /// Largest weight.
    pub bound: f64,
}

impl Default for Tanh {
    fn default() -> Self {
        Self { bound: 1.0 }
    }
}

/// Largest state of a settled memory, in bounds.
const MOST: f64 = 15.0;

impl Tanh {
    /// Name in configs and tables.
    pub const NAME: &'static str = "tanh";
}

impl Retention for Tanh {
    fn check(&self) -> Result<()> {
        super::positive(Self::NAME, "bound", self.bound)
    }
    fn pull(&self) -> Pull {
        Pull::Zero
    }
    fn is_dual(&self) -> bool {
        true
    }
    fn settles(&self) -> bool {
        true
    }
    fn is_bounded(&self) -> bool {
        true
    }

    fn weights<F: Scalar>(&self, _t: &Tensor, z: &[F], _frozen: &[F], w: &mut [F]) {
        let bound = F::from_f64(self.bound);
        w.iter_mut().zip(z).for_each(|(w, &z)| *w = bound * (z / bound).tanh());
    }

    fn weights_backward<F: Scalar>(&self, _t: &Tensor, z: &[F], _f: &[F], dw: &[F], dz: &mut [F], _df: &mut [F]) {
        for ((dz, &dw), &z) in dz.iter_mut().zip(dw).zip(z) {
            let t = (z / F::from_f64(self.bound)).tanh();
            *dz += dw * (F::one() - t * t);
        }
    }

    fn settle<F: Scalar>(&self, _t: &Tensor, z: &mut [F], _step: &[F], _shrink: F) {
        clamp(MOST * self.bound, z);
    }

    fn settle_backward<F: Scalar>(&self, _t: &Tensor, z: &[F], _s: &[F], _h: F, dz: &mut [F], _ds: &mut [F]) -> F {
        clamp_backward(MOST * self.bound, z, dz);
        F::zero()
    }
}
