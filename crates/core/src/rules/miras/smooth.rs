//! Small smooth functions that several knobs use, and their transposes.

use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// Inside norms: `sqrt(sum x^2 + NORM^2)`.
pub(crate) const NORM: f64 = 1e-12;
/// Inside absolute values: `sqrt(x^2 + ABS)`.
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

/// `x^s` for positive `x`; zero where `x` is zero and `s` is not.
pub(crate) fn power<F: Scalar>(x: F, s: f64) -> F {
    if s == 0.0 {
        F::one()
    } else if s == 1.0 {
        x
    } else if s == 2.0 {
        x * x
    } else if s == 3.0 {
        x * x * x
    } else if s == 4.0 {
        (x * x) * (x * x)
    } else if s == 0.5 && x.value() > 0.0 {
        x.sqrt()
    } else if x.value() > 0.0 {
        (x.ln() * F::from_f64(s)).exp()
    } else {
        F::zero()
    }
}

/// `|x|`.
pub(crate) fn magnitude<F: Scalar>(x: F) -> F {
    if x.value() < 0.0 { -x } else { x }
}

/// `(sum |x|^q)^(1/q)`, zero with a gradient of zero for zero.
pub(crate) fn norm_q<F: Scalar>(x: &[F], q: f64) -> F {
    let most = x.iter().fold(0.0, |m: f64, x| m.max(x.value().abs()));
    if most == 0.0 {
        return F::zero();
    }
    // Taken out, so that no power overflows.
    let most = F::from_f64(most);
    power(x.iter().map(|&x| power(magnitude(x) / most, q)).sum::<F>(), 1.0 / q) * most
}

/// Transpose of [`norm_q`], whose value is `norm`; adds into `dx`.
pub(crate) fn norm_q_backward<F: Scalar>(x: &[F], q: f64, norm: F, dnorm: F, dx: &mut [F]) {
    if norm.value() == 0.0 {
        return;
    }
    for (dx, &x) in dx.iter_mut().zip(x) {
        let slope = power(magnitude(x) / norm, q - 1.0);
        *dx += dnorm * if x.value() < 0.0 { -slope } else { slope };
    }
}

/// `x * min(1, most / |x|)`.
pub(crate) fn clip<F: Scalar>(most: F, x: &mut [F]) {
    let length = norm(x);
    if length > most {
        x.iter_mut().for_each(|x| *x *= most / length);
    }
}

/// Transpose of [`clip`] at the unclipped `x`; `dx` in place.
pub(crate) fn clip_backward<F: Scalar>(most: F, x: &[F], dx: &mut [F]) {
    let length = norm(x);
    if length > most {
        let dlength = -x.iter().zip(&*dx).map(|(&x, &d)| x * d).sum::<F>() * most / (length * length);
        dx.iter_mut().for_each(|d| *d *= most / length);
        norm_backward(x, dlength, dx);
    }
}

/// Softmax, without overflow; overwritten.
pub(crate) fn softmax<F: Scalar>(x: &[F], y: &mut [F]) {
    let most = x.iter().fold(x[0], |m, &x| if x > m { x } else { m }).detach();
    for (y, &x) in y.iter_mut().zip(x) {
        *y = (x - most).exp();
    }
    let sum = y.iter().copied().sum::<F>();
    y.iter_mut().for_each(|y| *y /= sum);
}

/// Transpose of [`softmax`] with result `y`; adds `scale` times it into `dx`.
pub(crate) fn softmax_backward<F: Scalar>(y: &[F], dy: &[F], scale: F, dx: &mut [F]) {
    let mean = y.iter().zip(dy).map(|(&y, &dy)| y * dy).sum::<F>();
    for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
        *dx += scale * y * (dy - mean);
    }
}

/// `ln sum exp x`.
pub(crate) fn log_sum_exp<F: Scalar>(x: &[F]) -> F {
    let most = x.iter().fold(x[0], |m, &x| if x > m { x } else { m }).detach();
    x.iter().map(|&x| (x - most).exp()).sum::<F>().ln() + most
}
