//! Similarity, `-<p, v>`: the loss of Hebbian writes. Unlike in [Atlas v1 eq.19], its sign is that of a loss.

use super::{Bias, Growth};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dot {}

impl Dot {
    /// Name in configs and tables.
    pub const NAME: &'static str = "dot";
}

impl Bias for Dot {
    fn growth(&self) -> Growth {
        Growth::Slower
    }

    fn loss<F: Scalar>(&self, p: &[F], v: &[F], _threshold: F) -> Option<F> {
        Some(-p.iter().zip(v).map(|(&p, &v)| p * v).sum::<F>())
    }

    fn residual<F: Scalar>(&self, _p: &[F], v: &[F], _threshold: F, r: &mut [F]) {
        for (r, &v) in r.iter_mut().zip(v) {
            *r = -v;
        }
    }

    fn residual_backward<F: Scalar>(&self, _p: &[F], _v: &[F], _t: F, dr: &[F], _dp: &mut [F], dv: &mut [F]) -> F {
        for (&dr, dv) in dr.iter().zip(dv) {
            *dv += -dr;
        }
        F::zero()
    }

    // The loss is linear in the prediction, so the implicit step is the explicit one.
    fn has_implicit(&self) -> bool {
        true
    }

    fn implicit<F: Scalar>(&self, p: &[F], v: &[F], threshold: F, _s: F, r: &mut [F]) {
        self.residual(p, v, threshold, r);
    }

    fn implicit_backward<F: Scalar>(
        &self,
        p: &[F],
        v: &[F],
        threshold: F,
        _s: F,
        dr: &[F],
        dp: &mut [F],
        dv: &mut [F],
    ) -> (F, F) {
        (self.residual_backward(p, v, threshold, dr, dp, dv), F::zero())
    }
}
