//! The gradient of the squared error while its length is below a threshold, and that of the absolute error, threshold
//! times, beyond it: Yaad as printed [Miras v1 eq.16].
//!
//! The two do not meet: the residual jumps by up to the root of the value width at the threshold, so it is the gradient
//! of no loss. `huber_norm` is the continuous relative.

use super::{Bias, Form, Growth, Threshold, each, each_backward, error};
use crate::rules::miras::smooth;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HuberSwitch {}

impl HuberSwitch {
    /// Name in configs and tables.
    pub const NAME: &'static str = "huber_switch";
}

impl Bias for HuberSwitch {
    fn growth(&self) -> Growth {
        Growth::Slower
    }

    fn threshold(&self) -> Option<Threshold> {
        Some(Threshold::Length)
    }

    fn loss<F: Scalar>(&self, _p: &[F], _v: &[F], _threshold: F) -> Option<F> {
        None
    }

    fn residual<F: Scalar>(&self, p: &[F], v: &[F], threshold: F, r: &mut [F]) {
        each(p, v, r, |e| e);
        if smooth::norm(r) > threshold {
            each(p, v, r, |e| threshold * Form::Smooth.residual(1.0, e));
        }
    }

    fn residual_backward<F: Scalar>(&self, p: &[F], v: &[F], t: F, dr: &[F], dp: &mut [F], dv: &mut [F]) -> F {
        let e = error(p, v);
        if smooth::norm(&e) > t {
            each_backward(p, v, dr, dp, dv, |e| t * Form::Smooth.slope(1.0, e));
            return e.iter().zip(dr).map(|(&e, &dr)| dr * Form::Smooth.residual(1.0, e)).sum();
        }
        each_backward(p, v, dr, dp, dv, |_| F::one());
        F::zero()
    }
}
