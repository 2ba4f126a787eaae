//! The squared error at the worst value within `shift` of the one given, `1/2 (|e| + shift)^2` [Miras v1 eq.17].
//!
//! Near a fitted value the residual keeps a length of `shift`, so the memory chatters there by the rate times that; the
//! length is smooth, `sqrt(sum e^2 + 1e-6)`, so that it comes to rest.

use super::{Bias, Growth, each, error, error_backward};
use crate::error::{Error, Result};
use crate::rules::matrix::{add_scaled, dot};
use crate::rules::miras::smooth;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Robust {
    /// How far the true value may lie from the one given.
    pub shift: f64,
}

impl Default for Robust {
    fn default() -> Self {
        Self { shift: 0.1 }
    }
}

impl Robust {
    /// Name in configs and tables.
    pub const NAME: &'static str = "robust";

    fn length<F: Scalar>(e: &[F]) -> F {
        (dot(e, e) + F::from_f64(smooth::ABS)).sqrt()
    }
}

impl Bias for Robust {
    fn growth(&self) -> Growth {
        Growth::Alike
    }

    fn check(&self) -> Result<()> {
        if self.shift.is_finite() && self.shift >= 0.0 {
            return Ok(());
        }
        Err(Error::Invalid { place: "bias `robust`".into(), reason: format!("shift = {}: not negative", self.shift) })
    }

    fn loss<F: Scalar>(&self, p: &[F], v: &[F], _threshold: F) -> Option<F> {
        let e = error(p, v);
        let (half, shift) = (F::from_f64(0.5), F::from_f64(self.shift));
        Some(half * dot(&e, &e) + shift * Self::length(&e) + half * shift * shift)
    }

    fn residual<F: Scalar>(&self, p: &[F], v: &[F], _threshold: F, r: &mut [F]) {
        each(p, v, r, |e| e);
        let by = F::one() + F::from_f64(self.shift) / Self::length(r);
        r.iter_mut().for_each(|r| *r *= by);
    }

    fn residual_backward<F: Scalar>(&self, p: &[F], v: &[F], _t: F, dr: &[F], dp: &mut [F], dv: &mut [F]) -> F {
        let e = error(p, v);
        let length = Self::length(&e);
        let shift = F::from_f64(self.shift);
        let mut de: Vec<F> = dr.iter().map(|&d| d * (F::one() + shift / length)).collect();
        add_scaled(&mut de, -shift * dot(dr, &e) / (length * length * length), &e);
        error_backward(&de, dp, dv);
        F::zero()
    }
}
