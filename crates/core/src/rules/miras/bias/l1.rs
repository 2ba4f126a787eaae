//! The absolute error, `sum |p - v|`: only the sign of an error counts [Miras v1 eq.12].
//!
//! Explicit steps see it smooth, `sum sqrt(e^2 + 1e-6)`, or with an approximate sign, `tanh(10 e)`; the implicit step is
//! that of the absolute value itself, in closed form.

use super::{Bias, Growth, Form, SHARP, each, each_backward, error, within};
use crate::rules::miras::smooth;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct L1 {
    /// How the sign is made smooth.
    pub form: Form,
}

impl L1 {
    /// Name in configs and tables.
    pub const NAME: &'static str = "l1";
}

impl Bias for L1 {
    fn growth(&self) -> Growth {
        Growth::Slower
    }

    fn loss<F: Scalar>(&self, p: &[F], v: &[F], _threshold: F) -> Option<F> {
        // ln cosh(a e) / a has the derivative tanh(a e).
        let sharp = F::from_f64(SHARP);
        let of = |e: F| match self.form {
            Form::Smooth => (e * e + F::from_f64(smooth::ABS)).sqrt(),
            Form::Tanh => (sharp * (e + e)).softplus() / sharp - e,
        };
        Some(error(p, v).into_iter().map(of).sum())
    }

    fn residual<F: Scalar>(&self, p: &[F], v: &[F], _threshold: F, r: &mut [F]) {
        each(p, v, r, |e| self.form.residual(1.0, e));
    }

    fn residual_backward<F: Scalar>(&self, p: &[F], v: &[F], _t: F, dr: &[F], dp: &mut [F], dv: &mut [F]) -> F {
        each_backward(p, v, dr, dp, dv, |e| self.form.slope(1.0, e));
        F::zero()
    }

    // An approximate sign would be a setting that the closed form does not read.
    fn has_implicit(&self) -> bool {
        self.form == Form::Smooth
    }

    // clip(e / s, -1, 1); a step of no size leaves the sign.
    fn implicit<F: Scalar>(&self, p: &[F], v: &[F], _threshold: F, s: F, r: &mut [F]) {
        each(p, v, r, |e| if s.value() > 0.0 { within(e / s, F::one()) } else { super::signed(e, F::one()) });
    }

    fn implicit_backward<F: Scalar>(
        &self,
        p: &[F],
        v: &[F],
        _threshold: F,
        s: F,
        dr: &[F],
        dp: &mut [F],
        dv: &mut [F],
    ) -> (F, F) {
        let mut ds = F::zero();
        for (i, &dr) in dr.iter().enumerate() {
            let e = p[i] - v[i];
            if s.value() > 0.0 && e.value().abs() <= s.value() {
                dp[i] += dr / s;
                dv[i] += -dr / s;
                ds += -(dr * e) / (s * s);
            }
        }
        (F::zero(), ds)
    }
}
