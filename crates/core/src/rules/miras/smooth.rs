//! Small smooth functions that several knobs use, and their transposes.

use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// Inside norms: `sqrt(sum x^2 + NORM^2)`.
pub(crate) const NORM: f64 = 1e-12;
/// Inside absolute values: `sqrt(x^2 + ABS)`.
#[allow(dead_code)]
pub(crate) const ABS: f64 = 1e-6;
/// Inside LayerNorm.
const LAYER_NORM: f64 = 1e-6;

/// A non-linearity between the layers of a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x Phi(x)`, exact.
    Gelu,
    /// `x sigmoid(x)`.
    Silu,
}

impl Activation {
    /// The function.
    pub fn value<F: Scalar>(self, x: F) -> F {
        match self {
            Activation::Gelu => x * normal_cdf(x),
            Activation::Silu => x.silu(),
        }
    }
    /// Its derivative.
    pub fn slope<F: Scalar>(self, x: F) -> F {
        match self {
            Activation::Gelu => normal_cdf(x) + x * normal_pdf(x),
            Activation::Silu => x.silu_slope(),
        }
    }
}

/// The normal distribution up to `x`.
fn normal_cdf<F: Scalar>(x: F) -> F {
    let half = F::from_f64(0.5);
    half + half * (x * F::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf()
}

/// The normal density at `x`.
fn normal_pdf<F: Scalar>(x: F) -> F {
    let scale = F::from_f64(1.0 / (2.0 * std::f64::consts::PI).sqrt());
    scale * (-(x * x) * F::from_f64(0.5)).exp()
}

/// `y = (x - mean) / sqrt(var + 1e-6)`, without scale and offset.
pub(crate) fn layer_norm<F: Scalar>(x: &[F], y: &mut [F]) {
    let (mean, inverse) = moments(x);
    for (y, &x) in y.iter_mut().zip(x) {
        *y = (x - mean) * inverse;
    }
}

/// Transpose of [`layer_norm`]; adds into `dx`.
pub(crate) fn layer_norm_backward<F: Scalar>(x: &[F], dy: &[F], dx: &mut [F]) {
    let (mean, inverse) = moments(x);
    let n = F::from_f64(x.len() as f64);
    let mean_dy = dy.iter().copied().sum::<F>() / n;
    let along = x.iter().zip(dy).map(|(&x, &dy)| (x - mean) * inverse * dy).sum::<F>() / n;
    for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
        *dx += inverse * (dy - mean_dy - (x - mean) * inverse * along);
    }
}

/// Mean and `1 / sqrt(var + eps)`.
fn moments<F: Scalar>(x: &[F]) -> (F, F) {
    let n = F::from_f64(x.len() as f64);
    let mean = x.iter().copied().sum::<F>() / n;
    let var = x.iter().map(|&x| (x - mean) * (x - mean)).sum::<F>() / n;
    (mean, F::one() / (var + F::from_f64(LAYER_NORM)).sqrt())
}

/// `sqrt(sum x^2 + NORM^2)`: zero has a norm, and a gradient.
pub(crate) fn norm<F: Scalar>(x: &[F]) -> F {
    (x.iter().map(|&x| x * x).sum::<F>() + F::from_f64(NORM * NORM)).sqrt()
}

/// Transpose of [`norm`]; adds into `dx`.
pub(crate) fn norm_backward<F: Scalar>(x: &[F], dnorm: F, dx: &mut [F]) {
    let by = dnorm / norm(x);
    for (dx, &x) in dx.iter_mut().zip(x) {
        *dx += by * x;
    }
}
