//! Squared error while its length is below a threshold, and the length beyond it: the error keeps its direction and
//! loses its excess [Miras v1 eq.15]. Continuous where `huber_switch` jumps; recommended for new models.

use super::{Bias, Growth, Threshold, each, error, error_backward};
use crate::rules::matrix::dot;
use crate::rules::miras::smooth;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HuberNorm {}

impl HuberNorm {
    /// Name in configs and tables.
    pub const NAME: &'static str = "huber_norm";
}

impl Bias for HuberNorm {
    fn growth(&self) -> Growth {
        Growth::Slower
    }

    fn threshold(&self) -> Option<Threshold> {
        Some(Threshold::Length)
    }

    fn loss<F: Scalar>(&self, p: &[F], v: &[F], threshold: F) -> Option<F> {
        let length = smooth::norm(&error(p, v));
        let half = F::from_f64(0.5);
        let beyond = length > threshold;
        Some(if beyond { threshold * (length - half * threshold) } else { half * length * length })
    }

    fn residual<F: Scalar>(&self, p: &[F], v: &[F], threshold: F, r: &mut [F]) {
        each(p, v, r, |e| e);
        smooth::clip(threshold, r);
    }

    fn residual_backward<F: Scalar>(&self, p: &[F], v: &[F], t: F, dr: &[F], dp: &mut [F], dv: &mut [F]) -> F {
        let e = error(p, v);
        let length = smooth::norm(&e);
        let dthreshold = if length > t { dot(dr, &e) / length } else { F::zero() };
        let mut de = dr.to_vec();
        smooth::clip_backward(t, &e, &mut de);
        error_backward(&de, dp, dv);
        dthreshold
    }
}
