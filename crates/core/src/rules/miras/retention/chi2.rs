//! Distance by chi-square, `f(t) = (t - 1)^2 / 2` [Miras v1 eq.18]: weights are multiplied by `max(0, 1 + step - zeta)`.
//!
//! Every row of weights is positive and sums to its length; steps multiply, and `retain` mixes the uniform row back in.
//! The state holds the weights. A weight that falls to zero stays there unless `retain` is below one.

use super::{Pull, Retention, Start, Tensor};
use crate::rules::miras::divergence::{self, Divergence};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chi2 {}

impl Chi2 {
    /// Name in configs and tables.
    pub const NAME: &'static str = "chi2";
}

impl Divergence for Chi2 {
    fn g<F: Scalar>(y: F) -> F {
        let t = F::one() + y;
        if t.value() > 0.0 { t } else { F::zero() }
    }

    fn slope<F: Scalar>(y: F) -> F {
        if y.value() > -1.0 { F::one() } else { F::zero() }
    }

    fn bracket(row: &[(f64, f64)], mass: f64) -> (f64, f64) {
        let held: f64 = row.iter().map(|(w, _)| w).sum();
        let least = row.iter().fold(f64::INFINITY, |m, &(_, s)| m.min(s));
        let most = row.iter().fold(f64::NEG_INFINITY, |m, &(_, s)| m.max(s));
        (least + 1.0 - mass / held, most + 1.0)
    }
}

impl Retention for Chi2 {
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
