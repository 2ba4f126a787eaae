//! Divergence of distributions, `KL(softmax(v) // softmax(p))`: predictions and values are read as logits. An extension
//! of ours; the residual, `softmax(p) - softmax(v)`, is never longer than 2.

use super::{Bias, Growth};
use crate::rules::miras::smooth;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kl {}

impl Kl {
    /// Name in configs and tables.
    pub const NAME: &'static str = "kl";
}

fn softmax<F: Scalar>(x: &[F]) -> Vec<F> {
    let mut y = vec![F::zero(); x.len()];
    smooth::softmax(x, &mut y);
    y
}

impl Bias for Kl {
    fn growth(&self) -> Growth {
        Growth::Slower
    }

    fn loss<F: Scalar>(&self, p: &[F], v: &[F], _threshold: F) -> Option<F> {
        let (of_p, of_v) = (smooth::log_sum_exp(p), smooth::log_sum_exp(v));
        let term = |((&s, &v), &p): ((&F, &F), &F)| s * ((v - of_v) - (p - of_p));
        Some(softmax(v).iter().zip(v).zip(p).map(term).sum())
    }

    fn residual<F: Scalar>(&self, p: &[F], v: &[F], _threshold: F, r: &mut [F]) {
        smooth::softmax(p, r);
        r.iter_mut().zip(softmax(v)).for_each(|(r, v)| *r += -v);
    }

    fn residual_backward<F: Scalar>(&self, p: &[F], v: &[F], _t: F, dr: &[F], dp: &mut [F], dv: &mut [F]) -> F {
        smooth::softmax_backward(&softmax(p), dr, F::one(), dp);
        smooth::softmax_backward(&softmax(v), dr, -F::one(), dv);
        F::zero()
    }
}
