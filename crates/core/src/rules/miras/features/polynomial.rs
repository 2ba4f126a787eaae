//! Monomials up to a degree, so that `phi(x) . phi(y) = sum_i a_i (x . y)^i`, the start of an exponential
//! [Atlas v1 eq.5].
//!
//! One feature per monomial: a matrix memory over them holds `C(d_k + degree, degree)` associations. The coefficients
//! `a_i` are learned, start at `1/i!`, and come with each token as the input `coefficients`.
//!
//! Unlike in the paper, they are divided by their sum: unit keys then have features of unit length, whatever the
//! coefficients do, which is what the range of the rate counts on. A common factor of all features is one that the
//! memory learns anyway.

use super::{Features, MOST_PARTS};
use crate::error::{Error, Result};
use crate::rule::{Activation, Input, Width};
use crate::rules::matrix::{add_scaled, dot};
use crate::scalar::Scalar;
use arrayvec::ArrayVec;
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

    fn parts(&self, n: usize) -> ArrayVec<usize, MOST_PARTS> {
        let all = [1, n, n * (n + 1) / 2, n * (n + 1) * (n + 2) / 6];
        all.into_iter().take(self.degree + 1).collect()
    }

    /// Monomials, each with the root of the number of its orders: 1, the variables, the squares, the mixed products, and for
    /// degree 3 the cubes, `x_i^2 x_j` and `x_i x_j x_k`.
    fn basis<F: Scalar>(&self, x: &[F], y: &mut [F]) {
        let n = x.len();
        let [two, three, six] = ROOTS.map(F::from_f64);
        y[0] = F::one();
        y[1..=n].copy_from_slice(x);
        let (squares, mut rest) = y[1 + n..].split_at_mut(n);
        squares.iter_mut().zip(x).for_each(|(y, &x)| *y = x * x);
        for (i, &a) in x.iter().enumerate() {
            times(two * a, &x[i + 1..], cut(&mut rest, n - i - 1));
        }
        if self.degree < 3 {
            return;
        }
        cut(&mut rest, n).iter_mut().zip(x).for_each(|(y, &x)| *y = x * x * x);
        for (i, &a) in x.iter().enumerate() {
            times(three * a * a, &x[..i], cut(&mut rest, i));
            times(three * a * a, &x[i + 1..], cut(&mut rest, n - i - 1));
        }
        for (i, &a) in x.iter().enumerate() {
            for (j, &b) in x.iter().enumerate().skip(i + 1) {
                times(six * a * b, &x[j + 1..], cut(&mut rest, n - j - 1));
            }
        }
    }

    fn basis_backward<F: Scalar>(&self, x: &[F], dy: &[F], dx: &mut [F]) {
        let n = x.len();
        let [two, three, six] = ROOTS.map(F::from_f64);
        add_scaled(dx, F::one(), &dy[1..=n]);
        let (squares, mut rest) = dy[1 + n..].split_at(n);
        for (i, &d) in squares.iter().enumerate() {
            dx[i] += (x[i] + x[i]) * d;
        }
        for i in 0..n {
            let along = times_backward(two * x[i], &x[i + 1..], part(&mut rest, n - i - 1), &mut dx[i + 1..]);
            dx[i] += two * along;
        }
        if self.degree < 3 {
            return;
        }
        for (i, &d) in part(&mut rest, n).iter().enumerate() {
            dx[i] += F::from_f64(3.0) * x[i] * x[i] * d;
        }
        for i in 0..n {
            let by = three * x[i] * x[i];
            let before = times_backward(by, &x[..i], part(&mut rest, i), &mut dx[..i]);
            let behind = times_backward(by, &x[i + 1..], part(&mut rest, n - i - 1), &mut dx[i + 1..]);
            dx[i] += (three + three) * x[i] * (before + behind);
        }
        for i in 0..n {
            for j in i + 1..n {
                let d = part(&mut rest, n - j - 1);
                let along = six * times_backward(six * x[i] * x[j], &x[j + 1..], d, &mut dx[j + 1..]);
                dx[i] += x[j] * along;
                dx[j] += x[i] * along;
            }
        }
    }

    /// `sqrt(a_i / sum a)`. The activation makes coefficients positive; what is not counts as zero.
    fn roots<F: Scalar>(&self, coefficients: &[F], roots: &mut [F]) {
        let sum = positive_sum(coefficients);
        for (root, &a) in roots.iter_mut().zip(coefficients) {
            *root = if a.value() > 0.0 { (a / sum).sqrt() } else { F::zero() };
        }
    }

    fn roots_backward<F: Scalar>(&self, coefficients: &[F], droots: &[F], dcoefficients: &mut [F]) {
        // root_i^2 = a_i / sum
        let sum = positive_sum(coefficients);
        let mut dsum = F::zero();
        for (i, &a) in coefficients.iter().enumerate().filter(|(_, a)| a.value() > 0.0) {
            let root = (a / sum).sqrt();
            let dshare = droots[i] / (root + root);
            dcoefficients[i] += dshare / sum;
            dsum += -(dshare * a) / (sum * sum);
        }
        for (dc, _) in dcoefficients.iter_mut().zip(coefficients).filter(|(_, a)| a.value() > 0.0) {
            *dc += dsum;
        }
    }

    fn forward<F: Scalar>(&self, x: &[F], coefficients: &[F], y: &mut [F]) {
        let mut roots = [F::zero(); MOST_PARTS];
        self.roots(coefficients, &mut roots);
        self.basis(x, y);
        let mut rest = y;
        for (width, &root) in self.parts(x.len()).into_iter().zip(&roots) {
            cut(&mut rest, width).iter_mut().for_each(|y| *y *= root);
        }
    }

    fn backward<F: Scalar>(&self, x: &[F], coefficients: &[F], dy: &[F], dx: &mut [F], dcoefficients: &mut [F]) {
        let (mut roots, mut droots) = ([F::zero(); MOST_PARTS], [F::zero(); MOST_PARTS]);
        self.roots(coefficients, &mut roots);
        let mut y = vec![F::zero(); dy.len()];
        self.basis(x, &mut y);
        let mut rest = (&y[..], dy);
        let mut dbasis = Vec::with_capacity(dy.len());
        for (i, width) in self.parts(x.len()).into_iter().enumerate() {
            let (y, dy) = (part(&mut rest.0, width), part(&mut rest.1, width));
            droots[i] = dot(y, dy);
            dbasis.extend(dy.iter().map(|&d| d * roots[i]));
        }
        self.basis_backward(x, &dbasis, dx);
        self.roots_backward(coefficients, &droots, dcoefficients);
    }
}

/// The roots of the numbers of orders: of two factors, of three of which two are equal, of three.
const ROOTS: [f64; 3] = [std::f64::consts::SQRT_2, 1.732_050_807_568_877_2, 2.449_489_742_783_178];

/// The sum of what is positive.
fn positive_sum<F: Scalar>(coefficients: &[F]) -> F {
    coefficients.iter().copied().filter(|a| a.value() > 0.0).sum()
}

/// Cuts the first `n` values off.
fn cut<'a, F>(rest: &mut &'a mut [F], n: usize) -> &'a mut [F] {
    let (head, tail) = std::mem::take(rest).split_at_mut(n);
    *rest = tail;
    head
}

/// Cuts the first `n` values off.
fn part<'a, F>(rest: &mut &'a [F], n: usize) -> &'a [F] {
    let (head, tail) = rest.split_at(n);
    *rest = tail;
    head
}

/// `y = by x`.
fn times<F: Scalar>(by: F, x: &[F], y: &mut [F]) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y = by * x);
}

/// Transpose of [`times`]: adds into `dx`, gives the gradient of `by`.
fn times_backward<F: Scalar>(by: F, x: &[F], dy: &[F], dx: &mut [F]) -> F {
    add_scaled(dx, by, dy);
    dot(x, dy)
}

#[cfg(test)]
mod tests {
    use super::*;

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
