//! Distance by Hellinger's divergence, `f(t) = 2 - 2 sqrt t` [Miras v1 eq.18]: weights are divided by
//! `(zeta - step)^2`.
//!
//! Every row of weights is positive and sums to its length; steps multiply, and `retain` mixes the uniform row back in.
//! The state holds the weights.

use super::{Pull, Retention, Start, Tensor};
use crate::rules::miras::divergence::{self, Divergence};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hellinger {}

impl Hellinger {
    /// Name in configs and tables.
    pub const NAME: &'static str = "hellinger";
}

impl Divergence for Hellinger {
    fn g<F: Scalar>(y: F) -> F {
        F::one() / (y * y)
    }

    fn slope<F: Scalar>(y: F) -> F {
        -(F::from_f64(2.0) / (y * y * y))
    }

    // No term is above the sum, and the sum is not above that of equal steps.
    fn bracket(row: &[(f64, f64)], mass: f64) -> (f64, f64) {
        let held: f64 = row.iter().map(|(w, _)| w).sum();
        let low = row.iter().fold(f64::NEG_INFINITY, |m, &(w, s)| m.max(s + (w / mass).sqrt()));
        let most = row.iter().fold(f64::NEG_INFINITY, |m, &(_, s)| m.max(s));
        (low, most + (held / mass).sqrt())
    }
}

impl Retention for Hellinger {
    // The uniform row whose entries sum to their number.
    fn pull(&self) -> Pull {
        Pull::Constant(1.0)
    }
    fn start(&self, _tensor: &Tensor) -> Start {
        Start::Learned { deviation: 1.0 }
    }
    fn multiplies(&self) -> bool {
        true
    }
    fn settles(&self) -> bool {
        true
    }
    fn is_bounded(&self) -> bool {
        true
    }

    fn weights<F: Scalar>(&self, _t: &Tensor, z: &[F], _frozen: &[F], w: &mut [F]) {
        divergence::size(z, w);
    }

    fn weights_backward<F: Scalar>(&self, _t: &Tensor, z: &[F], _f: &[F], dw: &[F], dz: &mut [F], _df: &mut [F]) {
        divergence::size_backward(z, dw, dz);
    }

    fn settle<F: Scalar>(&self, t: &Tensor, z: &mut [F], step: &[F], _shrink: F) {
        divergence::settle::<Self, F>(t.columns, z, step);
    }

    fn settle_backward<F: Scalar>(
        &self,
        t: &Tensor,
        z: &[F],
        step: &[F],
        _shrink: F,
        dz: &mut [F],
        dstep: &mut [F],
    ) -> F {
        divergence::settle_backward::<Self, F>(t.columns, z, step, dz, dstep);
        F::zero()
    }
}
