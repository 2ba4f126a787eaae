//! Monomials up to a degree, so that `phi(x) . phi(y) = sum_i a_i (x . y)^i`, the start of an exponential
//! [Atlas v1 eq.5].
//!
//! One feature per monomial: a matrix memory over them holds `C(d_k + degree, degree)` associations. The coefficients
//! `a_i` are learned, start at `1/i!`, and come with each token as the input `coefficients`.
//!
//! Unlike in the paper, they are divided by their sum: unit keys then have features of unit length, whatever the
//! coefficients do, which is what the range of the rate counts on. A common factor of all features is one that the
//! memory learns anyway.

use super::Features;
use crate::error::{Error, Result};
use crate::rule::{Activation, Input, Width};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Polynomial {
    /// Highest degree, 2 or 3.
    pub degree: usize,
}

impl Default for Polynomial {
    fn default() -> Self {
        Self { degree: 2 }
    }
}

/// Where softplus gives 1, 1, 1/2, 1/6.
const BIASES: [f64; 4] =
    [0.541_324_854_612_918_1, 0.541_324_854_612_918_1, -0.432_752_129_567_188_6, -1.707_268_996_287_627_3];

impl Polynomial {
    /// Name in configs and tables.
    pub const NAME: &'static str = "polynomial";

    /// Calls `f` with the degree, the number of orders and the factors of every monomial: 1, the variables, the squares,
    /// the mixed products, and for degree 3 the cubes, `x_i^2 x_j` and `x_i x_j x_k`.
    fn monomials(&self, n: usize, mut f: impl FnMut(usize, f64, &[usize])) {
        f(0, 1.0, &[]);
        (0..n).for_each(|i| f(1, 1.0, &[i]));
        (0..n).for_each(|i| f(2, 1.0, &[i, i]));
        (0..n).for_each(|i| (i + 1..n).for_each(|j| f(2, 2.0, &[i, j])));
        if self.degree < 3 {
            return;
        }
        (0..n).for_each(|i| f(3, 1.0, &[i, i, i]));
        (0..n).for_each(|i| (0..n).filter(|&j| j != i).for_each(|j| f(3, 3.0, &[i, i, j])));
        (0..n).for_each(|i| (i + 1..n).for_each(|j| (j + 1..n).for_each(|k| f(3, 6.0, &[i, j, k]))));
    }

    /// `sqrt(a_i / sum a)`. The activation makes coefficients positive; what is not counts as zero.
    fn roots<F: Scalar>(&self, coefficients: &[F]) -> (Vec<F>, F) {
        let positive = coefficients.iter().filter(|a| a.value() > 0.0);
        let sum = positive.copied().sum::<F>();
        let root = |&a: &F| if a.value() > 0.0 { (a / sum).sqrt() } else { F::zero() };
        (coefficients.iter().map(root).collect(), sum)
    }
}

impl Features for Polynomial {
    fn check(&self, _dk: usize) -> Result<()> {
        if [2, 3].contains(&self.degree) {
            return Ok(());
        }
        let reason = format!("degree = {}: 2 or 3", self.degree);
        Err(Error::Invalid { place: "feature map `polynomial`".into(), reason })
    }

    fn width(&self, n: usize) -> usize {
        let square = 1 + n + n * (n + 1) / 2;
        if self.degree < 3 { square } else { square + n * (n + 1) * (n + 2) / 6 }
    }

    fn coefficients(&self) -> Option<Input> {
        Some(Input {
            name: "coefficients",
            width: Width::Fixed(self.degree + 1),
            activation: Activation::Softplus { floor: 0.0, bias: &BIASES[..self.degree.min(3) + 1], lengths: false },
            about: "weight of each degree in the feature map",
        })
    }

    fn forward<F: Scalar>(&self, x: &[F], coefficients: &[F], y: &mut [F]) {
        let (roots, _) = self.roots(coefficients);
        let mut at = 0;
        self.monomials(x.len(), |degree, orders, factors| {
            let product = factors.iter().fold(F::one(), |p, &i| p * x[i]);
            y[at] = roots[degree] * F::from_f64(orders.sqrt()) * product;
            at += 1;
        });
    }

    fn backward<F: Scalar>(&self, x: &[F], coefficients: &[F], dy: &[F], dx: &mut [F], dcoefficients: &mut [F]) {
        let (roots, sum) = self.roots(coefficients);
        let mut droots = vec![F::zero(); roots.len()];
        let mut at = 0;
        self.monomials(x.len(), |degree, orders, factors| {
            let d = dy[at] * F::from_f64(orders.sqrt());
            droots[degree] += d * factors.iter().fold(F::one(), |p, &i| p * x[i]);
            for (n, &i) in factors.iter().enumerate() {
                let others = factors.iter().enumerate().filter(|&(m, _)| m != n);
                dx[i] += d * roots[degree] * others.fold(F::one(), |p, (_, &j)| p * x[j]);
            }
            at += 1;
        });
        // root_i^2 = a_i / sum
        let mut dsum = F::zero();
        for (i, &a) in coefficients.iter().enumerate().filter(|(_, a)| a.value() > 0.0) {
            let dshare = droots[i] / (roots[i] + roots[i]);
            dcoefficients[i] += dshare / sum;
            dsum += -(dshare * a) / (sum * sum);
        }
        for (dc, _) in dcoefficients.iter_mut().zip(coefficients).filter(|(_, a)| a.value() > 0.0) {
            *dc += dsum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::matrix::dot;

    #[test]
    fn features_multiply_to_the_polynomial_of_the_product_and_start_at_the_exponential() {
        for degree in [2, 3] {
            let map = Polynomial { degree };
            let Some(Activation::Softplus { bias, .. }) = map.coefficients().map(|i| i.activation) else { panic!() };
            let a: Vec<f64> = bias.iter().map(|b| b.softplus()).collect();
            let sum: f64 = a.iter().sum();
            let phi = |x: &[f64]| {
                let mut y = vec![f64::NAN; map.width(x.len())];
                map.forward(x, &a, &mut y);
                y
            };
            let (x, y) = ([0.3, -0.5, 0.2, 0.7], [0.1, 0.4, -0.9, 0.2]);
            let xy: f64 = dot(&x, &y);
            let want: f64 = (0..=degree).map(|i| a[i] / sum * xy.powi(i as i32)).sum();
            assert!((dot(&phi(&x), &phi(&y)) - want).abs() < 1e-15);
            for (a, factorial) in a.iter().zip([1.0, 1.0, 2.0, 6.0]) {
                assert!((a * factorial - 1.0).abs() < 1e-12);
            }
        }
    }
}
