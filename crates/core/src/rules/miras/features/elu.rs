//! Positive features, `phi(x) = (elu(x) + 1) / (1 + sqrt(d_k))` [LinearAttention v3 eq.7].
//!
//! Unlike in the paper, they are divided by a constant: unit keys then have features of at most unit length, which is
//! what the range of the rate counts on.

use super::Features;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Elu {}

impl Elu {
    /// Name in configs and tables.
    pub const NAME: &'static str = "elu";
}

fn scale<F: Scalar>(dk: usize) -> F {
    F::from_f64(1.0 / (1.0 + (dk as f64).sqrt()))
}

impl Features for Elu {
    fn width(&self, dk: usize) -> usize {
        dk
    }

    fn forward<F: Scalar>(&self, x: &[F], _coefficients: &[F], y: &mut [F]) {
        for (y, &a) in y.iter_mut().zip(x) {
            *y = if a.value() > 0.0 { a + F::one() } else { a.exp() } * scale(x.len());
        }
    }

    fn backward<F: Scalar>(&self, x: &[F], _coefficients: &[F], dy: &[F], dx: &mut [F], _dcoefficients: &mut [F]) {
        for ((dx, &a), &dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx += dy * if a.value() > 0.0 { F::one() } else { a.exp() } * scale(x.len());
        }
    }
}
