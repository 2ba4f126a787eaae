//! The map of Moneta as printed, `W = Z / norm_q(Z)^(q-2)` per tensor [Miras v1 eq.24], with a floor under the norm.
//!
//! Unlike the paper, which has no floor: for `q` above 3 a longer state has smaller weights, so that without one pure
//! decay makes the weights grow (by 2 per token at `retain` 1/2 and q = 4). Below the floor the map keeps scale.
//! `lq_exact` is the map that the objective asks for. Inside a chunk the norm is that of the chunk's start.

use super::lq_exact::check_exponent;
use super::{Pull, Retention, Tensor};
use crate::error::Result;
use crate::rules::matrix::{add_scaled, dot};
use crate::rules::miras::smooth;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LqLiteral {
    /// The exponent, 2 to 8.
    pub q: f64,
    /// Smallest norm that divides.
    pub floor: f64,
}

impl Default for LqLiteral {
    fn default() -> Self {
        Self { q: 4.0, floor: 1.0 }
    }
}

impl LqLiteral {
    /// Name in configs and tables.
    pub const NAME: &'static str = "lq_literal";

    /// What the state is multiplied by, and the norm if it is above the floor.
    fn factor<F: Scalar>(&self, frozen: &[F]) -> (F, Option<F>) {
        let norm = smooth::norm_q(frozen, self.q);
        let above = norm.value() > self.floor;
        let at = if above { norm } else { F::from_f64(self.floor) };
        (F::one() / smooth::power(at, self.q - 2.0), above.then_some(norm))
    }
}

impl Retention for LqLiteral {
    fn check(&self) -> Result<()> {
        check_exponent(Self::NAME, self.q)?;
        super::positive(Self::NAME, "floor", self.floor)
    }
    fn pull(&self) -> Pull {
        Pull::Zero
    }
    fn is_dual(&self) -> bool {
        true
    }

    fn weights<F: Scalar>(&self, _t: &Tensor, z: &[F], frozen: &[F], w: &mut [F]) {
        let (by, _) = self.factor(frozen);
        w.iter_mut().zip(z).for_each(|(w, &z)| *w = z * by);
    }

    fn weights_backward<F: Scalar>(
        &self,
        _t: &Tensor,
        z: &[F],
        frozen: &[F],
        dw: &[F],
        dz: &mut [F],
        dfrozen: &mut [F],
    ) {
        let (by, norm) = self.factor(frozen);
        add_scaled(dz, by, dw);
        if let Some(norm) = norm {
            let dnorm = -(dot(dw, z) * by * F::from_f64(self.q - 2.0)) / norm;
            smooth::norm_q_backward(frozen, self.q, norm, dnorm, dfrozen);
        }
    }
}
