//! Squared error up to a threshold and absolute error beyond it, per coordinate [Miras v1 eq.13-14].

use super::{Bias, Growth, Threshold, each, error, within};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Huber {}

impl Huber {
    /// Name in configs and tables.
    pub const NAME: &'static str = "huber";
}

/// Gradients of `clip(e * by, -threshold, threshold)` for `e = p - v`: adds into `dp` and `dv`, gives those of the
/// threshold and of `by`.
fn clip_backward<F: Scalar>(
    by: F,
    (p, v): (&[F], &[F]),
    threshold: F,
    dr: &[F],
    dp: &mut [F],
    dv: &mut [F],
) -> (F, F) {
    let (mut dthreshold, mut dby) = (F::zero(), F::zero());
    for (i, &dr) in dr.iter().enumerate() {
        let e = p[i] - v[i];
        let x = e * by;
        if x > threshold {
            dthreshold += dr;
        } else if x < -threshold {
            dthreshold += -dr;
        } else {
            dp[i] += dr * by;
            dv[i] += -dr * by;
            dby += dr * e;
        }
    }
    (dthreshold, dby)
}

impl Bias for Huber {
    fn growth(&self) -> Growth {
        Growth::Slower
    }

    fn threshold(&self) -> Option<Threshold> {
        Some(Threshold::Values)
    }

    fn loss<F: Scalar>(&self, p: &[F], v: &[F], threshold: F) -> Option<F> {
        let half = F::from_f64(0.5);
        let of = |e: F| {
            let size = if e.value() < 0.0 { -e } else { e };
            if size > threshold { threshold * (size - half * threshold) } else { half * e * e }
        };
        Some(error(p, v).into_iter().map(of).sum())
    }

    fn residual<F: Scalar>(&self, p: &[F], v: &[F], threshold: F, r: &mut [F]) {
        each(p, v, r, |e| within(e, threshold));
    }

    fn residual_backward<F: Scalar>(&self, p: &[F], v: &[F], t: F, dr: &[F], dp: &mut [F], dv: &mut [F]) -> F {
        clip_backward(F::one(), (p, v), t, dr, dp, dv).0
    }

    fn has_implicit(&self) -> bool {
        true
    }

    fn implicit<F: Scalar>(&self, p: &[F], v: &[F], threshold: F, s: F, r: &mut [F]) {
        each(p, v, r, |e| within(e * (F::one() / (F::one() + s)), threshold));
    }

    fn implicit_backward<F: Scalar>(
        &self,
        p: &[F],
        v: &[F],
        threshold: F,
        s: F,
        dr: &[F],
        dp: &mut [F],
        dv: &mut [F],
    ) -> (F, F) {
        let by = F::one() / (F::one() + s);
        let (dthreshold, dby) = clip_backward(by, (p, v), threshold, dr, dp, dv);
        (dthreshold, -dby * by * by)
    }
}
