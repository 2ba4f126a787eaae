//! A power of the error, `(1/p) sum |p - v|^p`: the loss of Moneta [Miras v1 eq.10-11].
//!
//! Unlike the paper, which prints an approximate sign, the default is the gradient of a smooth loss,
//! `(1/p) sum (e^2 + 1e-6)^(p/2)`; `form = "tanh"` is the printed residual. For p above 2 the residual outgrows the
//! error: an explicit step overshoots for good once the rate times `|e|^(p-2)` passes 2. An implicit step never does.

use super::{Bias, Form, Growth, each, each_backward, signed};
use crate::error::{Error, Result};
use crate::rules::miras::smooth;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lp {
    /// The power, 1 to 8.
    pub p: f64,
    /// How it is made smooth.
    pub form: Form,
}

impl Default for Lp {
    fn default() -> Self {
        // The best of 1 to 4 in [Miras v1 sec.6].
        Self { p: 3.0, form: Form::Smooth }
    }
}

impl Lp {
    /// Name in configs and tables.
    pub const NAME: &'static str = "lp";

    /// The error `e*` that solves `e* + s r(e*) = e`. The left side grows with `e*`, so bisection finds it, in f64; one
    /// Newton step from there has the derivative of the solution.
    fn solve<F: Scalar>(&self, e: F, s: F) -> F {
        let (mut low, mut high) = (0.0, e.value().abs());
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            if middle <= low || middle >= high {
                break;
            }
            if middle + s.value() * self.form.residual(self.p, middle) > e.value().abs() {
                high = middle;
            } else {
                low = middle;
            }
        }
        let root = signed(e.detach(), F::from_f64(0.5 * (low + high)));
        let divisor = F::one() + s.detach() * self.form.slope(self.p, root);
        root - (root + s * self.form.residual(self.p, root) - e) / divisor
    }
}

impl Bias for Lp {
    fn check(&self) -> Result<()> {
        if (1.0..=8.0).contains(&self.p) {
            return Ok(());
        }
        Err(Error::Invalid { place: "bias `lp`".into(), reason: format!("p = {}: from 1 to 8", self.p) })
    }

    fn growth(&self) -> Growth {
        match self.p {
            p if p > 2.0 => Growth::Faster,
            p if p < 2.0 => Growth::Slower,
            _ => Growth::Alike,
        }
    }

    fn factor(&self) -> f64 {
        if self.form == Form::Tanh { self.p } else { 1.0 }
    }

    fn loss<F: Scalar>(&self, p: &[F], v: &[F], _threshold: F) -> Option<F> {
        let of = |(&p, &v): (&F, &F)| smooth::power((p - v) * (p - v) + F::from_f64(smooth::ABS), 0.5 * self.p);
        let sum = p.iter().zip(v).map(of).sum::<F>();
        (self.form == Form::Smooth).then_some(sum / F::from_f64(self.p))
    }

    fn residual<F: Scalar>(&self, p: &[F], v: &[F], _threshold: F, r: &mut [F]) {
        each(p, v, r, |e| self.form.residual(self.p, e));
    }

    fn residual_backward<F: Scalar>(&self, p: &[F], v: &[F], _t: F, dr: &[F], dp: &mut [F], dv: &mut [F]) -> F {
        each_backward(p, v, dr, dp, dv, |e| self.form.slope(self.p, e));
        F::zero()
    }

    // The printed form is the gradient of no loss, so there is nothing to solve.
    fn has_implicit(&self) -> bool {
        self.form == Form::Smooth
    }

    fn implicit<F: Scalar>(&self, p: &[F], v: &[F], _threshold: F, s: F, r: &mut [F]) {
        each(p, v, r, |e| self.form.residual(self.p, self.solve(e, s)));
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
            // de* = (de - r ds) / (1 + s r')
            let root = self.solve(p[i] - v[i], s);
            let slope = self.form.slope(self.p, root);
            let de = dr * slope / (F::one() + s * slope);
            dp[i] += de;
            dv[i] += -de;
            ds += -de * self.form.residual(self.p, root);
        }
        (F::zero(), ds)
    }
}
