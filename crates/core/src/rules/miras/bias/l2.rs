//! Squared error, `1/2 |p - v|^2`; its implicit step is Longhorn's [Miras v1 sec.3], [Longhorn v1 sec.3].

use super::{Bias, Growth};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct L2 {}

impl L2 {
    /// Name in configs and tables.
    pub const NAME: &'static str = "l2";
}

impl Bias for L2 {
    fn growth(&self) -> Growth {
        Growth::Alike
    }

    fn loss<F: Scalar>(&self, p: &[F], v: &[F], _threshold: F) -> Option<F> {
        Some(p.iter().zip(v).map(|(&p, &v)| (p - v) * (p - v)).sum::<F>() * F::from_f64(0.5))
    }

    fn residual<F: Scalar>(&self, p: &[F], v: &[F], _threshold: F, r: &mut [F]) {
        for ((r, &p), &v) in r.iter_mut().zip(p).zip(v) {
            *r = p - v;
        }
    }

    fn residual_backward<F: Scalar>(&self, _p: &[F], _v: &[F], _t: F, dr: &[F], dp: &mut [F], dv: &mut [F]) -> F {
        for ((&dr, dp), dv) in dr.iter().zip(dp).zip(dv) {
            *dp += dr;
            *dv += -dr;
        }
        F::zero()
    }

    fn has_implicit(&self) -> bool {
        true
    }

    fn implicit<F: Scalar>(&self, p: &[F], v: &[F], _threshold: F, s: F, r: &mut [F]) {
        let by = F::one() / (F::one() + s);
        for ((r, &p), &v) in r.iter_mut().zip(p).zip(v) {
            *r = (p - v) * by;
        }
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
        let by = F::one() / (F::one() + s);
        let mut ds = F::zero();
        for (i, &dr) in dr.iter().enumerate() {
            dp[i] += dr * by;
            dv[i] += -(dr * by);
            ds += -(dr * (p[i] - v[i]) * by * by);
        }
        (F::zero(), ds)
    }
}
