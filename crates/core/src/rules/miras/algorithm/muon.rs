//! Momentum whose step is made orthogonal: every singular value of it comes near one, whatever the surprise
//! [Atlas v1 eq.32-33].
//!
//! ```text
//! X = S / (|S| + 1e-7);   A = X X^T;   X <- a X + (b A + c A^2) X      `iterations` times
//! ```
//!
//! The input `ns_rate` says how far the step then goes, so a memory changes by that much even when nothing surprises it.
//! `muon` has the constants that bring singular values near one fast and never quite there (0.7 to 1.2); `cubic` and
//! `quintic` converge. A vector is divided by its length. Under chunks, `when = "chunk"` takes one step at the end of
//! each, as long as the `ns_rate` of its tokens together: an extension of ours.

use super::Algorithm;
use crate::error::{Error, Result};
use crate::rule::Start;
use crate::rules::matrix::{add_scaled, dot};
use crate::rules::miras::smooth;
use crate::rules::miras::structure::Tensor;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// Which polynomial is iterated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Polynomial {
    /// Constants tuned for speed.
    #[default]
    Muon,
    /// Converges, third degree.
    Cubic,
    /// Converges, fifth degree.
    Quintic,
}

impl Polynomial {
    /// `a`, `b` and `c`.
    pub(crate) fn coefficients(self) -> [f64; 3] {
        match self {
            Polynomial::Muon => [3.4445, -4.7750, 2.0315],
            Polynomial::Cubic => [1.5, -0.5, 0.0],
            Polynomial::Quintic => [15.0 / 8.0, -10.0 / 8.0, 3.0 / 8.0],
        }
    }

    /// What `iterations` of it make of `x: [rows, columns]`, overwritten: see the module text.
    pub(crate) fn iterate<F: Scalar>(self, iterations: usize, columns: usize, x: &[F], out: &mut [F]) {
        let rows = x.len() / columns.max(1);
        let tensor = Tensor { number: 0, rows, columns, values: None, keys: None, start: Start::Zero };
        Muon { polynomial: self, iterations, ..Muon::default() }.direction(&tensor, x, out);
    }
}

/// At which tokens a step is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// At every one.
    #[default]
    Token,
    /// At the last of each chunk.
    Chunk,
}

/// See the module text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Muon {
    /// The polynomial.
    pub polynomial: Polynomial,
    /// How often it is applied, 1 to 50.
    pub iterations: usize,
    /// When a step is taken.
    pub when: When,
}

impl Default for Muon {
    fn default() -> Self {
        // [Atlas v1 eq.33]: five iterations.
        Self { polynomial: Polynomial::Muon, iterations: 5, when: When::Token }
    }
}

/// Added to the length that divides.
const LENGTH: f64 = 1e-7;

impl Muon {
    /// Name in configs and tables.
    pub const NAME: &'static str = "muon";

    /// One application of the polynomial to `x: [m, n]`; also `A` and `b A + c A^2`.
    fn iterate<F: Scalar>(&self, m: usize, x: &[F]) -> (Vec<F>, Vec<F>, Vec<F>) {
        let [a, b, c] = self.polynomial.coefficients().map(F::from_f64);
        let gram = times_transposed(m, m, x, x);
        // A is symmetric, so A A^T is its square.
        let square = times_transposed(m, m, &gram, &gram);
        let poly: Vec<F> = gram.iter().zip(&square).map(|(&g, &s)| b * g + c * s).collect();
        let mut next = times(m, &poly, x);
        add_scaled(&mut next, a, x);
        (next, gram, poly)
    }

    /// Transpose of [`Muon::iterate`]'s result: from `dnext` to `dx`.
    fn iterate_backward<F: Scalar>(&self, m: usize, x: &[F], dnext: &[F]) -> Vec<F> {
        let [a, b, c] = self.polynomial.coefficients().map(F::from_f64);
        let (_, gram, poly) = self.iterate(m, x);
        // next = a x + poly x, and poly is symmetric.
        let mut dx = times(m, &poly, dnext);
        add_scaled(&mut dx, a, dnext);
        let dpoly = times_transposed(m, m, dnext, x);
        // poly = b A + c A A
        let transposed = transpose(m, m, &gram);
        let mut dgram: Vec<F> = dpoly.iter().map(|&d| b * d).collect();
        add_scaled(&mut dgram, c, &times(m, &dpoly, &transposed));
        add_scaled(&mut dgram, c, &times(m, &transposed, &dpoly));
        // A = x x^T
        let both: Vec<F> = dgram.iter().zip(&transpose(m, m, &dgram)).map(|(&d, &t)| d + t).collect();
        add_scaled(&mut dx, F::one(), &times(m, &both, x));
        dx
    }
}

/// `a x` with `a: [m, k]` and `x: [k, n]`; `m` rows.
fn times<F: Scalar>(m: usize, a: &[F], x: &[F]) -> Vec<F> {
    let k = a.len() / m;
    let n = x.len() / k;
    let mut out = vec![F::zero(); m * n];
    for (a, out) in a.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        for (&a, x) in a.iter().zip(x.chunks_exact(n)) {
            add_scaled(out, a, x);
        }
    }
    out
}

/// `a x^T` with `a: [m, k]` and `x: [n, k]`.
fn times_transposed<F: Scalar>(m: usize, n: usize, a: &[F], x: &[F]) -> Vec<F> {
    let k = a.len() / m;
    (0..m * n).map(|i| dot(&a[i / n * k..][..k], &x[i % n * k..][..k])).collect()
}

/// The transpose of `x: [m, n]`.
fn transpose<F: Scalar>(m: usize, n: usize, x: &[F]) -> Vec<F> {
    (0..m * n).map(|i| x[i % m * n + i / m]).collect()
}

/// `s` as it is iterated, with its shorter side as rows.
fn wide<F: Scalar>(t: &Tensor, s: &[F]) -> Vec<F> {
    if t.rows > t.columns { transpose(t.rows, t.columns, s) } else { s.to_vec() }
}

/// Transpose of [`wide`].
fn back<F: Scalar>(t: &Tensor, x: Vec<F>) -> Vec<F> {
    if t.rows > t.columns { transpose(t.columns, t.rows, &x) } else { x }
}

impl Algorithm for Muon {
    fn check(&self) -> Result<()> {
        if (1..=50).contains(&self.iterations) {
            return Ok(());
        }
        let reason = format!("iterations = {}: from 1 to 50", self.iterations);
        Err(Error::Invalid { place: "algorithm `muon`".into(), reason })
    }
    fn momentum(&self) -> bool {
        true
    }
    fn unit_scale(&self) -> bool {
        true
    }
    fn once_per_chunk(&self) -> bool {
        self.when == When::Chunk
    }

    /// Per iteration `A`, its square and the product with `X`: `4 m^2 n + 2 m^3` for `m` rows of `n >= m`;
    /// a vector is divided by its length.
    fn direction_flops(&self, t: &Tensor) -> f64 {
        let (m, n) = (t.rows.min(t.columns) as f64, t.rows.max(t.columns) as f64);
        if m > 1.0 { self.iterations as f64 * (4.0 * m * m * n + 2.0 * m * m * m) } else { 3.0 * n }
    }
    fn orthogonal(&self) -> Option<([f64; 3], usize)> {
        Some((self.polynomial.coefficients(), self.iterations))
    }

    fn direction<F: Scalar>(&self, t: &Tensor, s: &[F], out: &mut [F]) {
        let by = F::one() / (smooth::norm(s) + F::from_f64(LENGTH));
        let mut x: Vec<F> = wide(t, s).iter().map(|&s| s * by).collect();
        let m = t.rows.min(t.columns);
        for _ in 0..if m > 1 { self.iterations } else { 0 } {
            x = self.iterate(m, &x).0;
        }
        out.copy_from_slice(&back(t, x));
    }

    fn direction_backward<F: Scalar>(&self, t: &Tensor, s: &[F], dout: &[F], ds: &mut [F]) {
        let length = smooth::norm(s) + F::from_f64(LENGTH);
        let by = F::one() / length;
        let m = t.rows.min(t.columns);
        let mut steps: Vec<Vec<F>> = vec![wide(t, s).iter().map(|&s| s * by).collect()];
        for i in 1..if m > 1 { self.iterations } else { 0 } {
            steps.push(self.iterate(m, &steps[i - 1]).0);
        }
        let mut dx = wide(t, dout);
        if m > 1 {
            for x in steps.iter().rev() {
                dx = self.iterate_backward(m, x, &dx);
            }
        }
        let dx = back(t, dx);
        // x = s / (|s| + 1e-7)
        add_scaled(ds, by, &dx);
        smooth::norm_backward(s, -dot(&dx, s) * by * by, ds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::Dual;

    fn tensor(rows: usize, columns: usize) -> Tensor {
        Tensor { number: 0, rows, columns, values: None, keys: None, start: Start::Zero }
    }

    fn wave(n: usize) -> Vec<f64> {
        (0..n).map(|i| ((i * 7919 % 1009) as f64 + 0.5) / 1009.0 - 0.5).collect()
    }

    #[test]
    fn the_convergent_polynomials_give_orthogonal_steps_and_muons_constants_come_near() {
        for (polynomial, iterations, off) in
            [(Polynomial::Cubic, 40, 1e-9), (Polynomial::Quintic, 30, 1e-9), (Polynomial::Muon, 5, 0.6)]
        {
            let muon = Muon { polynomial, iterations, ..Muon::default() };
            for (rows, columns) in [(3, 3), (3, 5), (6, 2)] {
                let mut x = vec![f64::NAN; rows * columns];
                muon.direction(&tensor(rows, columns), &wave(rows * columns), &mut x);
                let x = wide(&tensor(rows, columns), &x);
                let m = rows.min(columns);
                for (i, g) in times_transposed(m, m, &x, &x).iter().enumerate() {
                    let want = f64::from(u8::from(i / m == i % m));
                    assert!((g - want).abs() < off, "{polynomial:?} {rows}x{columns}: {g}");
                }
            }
        }
    }

    #[test]
    fn a_vector_is_divided_by_its_length() {
        let mut x = [f64::NAN; 3];
        Muon::default().direction(&tensor(1, 3), &[3.0, 0.0, 4.0], &mut x);
        assert!(x.iter().zip([0.6, 0.0, 0.8]).all(|(x, w)| (x - w).abs() < 1e-7), "{x:?}");
    }

    #[test]
    fn the_backward_pass_is_the_exact_transpose() {
        for polynomial in [Polynomial::Muon, Polynomial::Cubic, Polynomial::Quintic] {
            let muon = Muon { polynomial, ..Muon::default() };
            for (rows, columns) in [(1, 4), (3, 3), (2, 5), (5, 2)] {
                let (t, n) = (tensor(rows, columns), rows * columns);
                let (s, dout) = (wave(n), wave(2 * n)[n..].to_vec());
                let mut ds = vec![0.0; n];
                muon.direction_backward(&t, &s, &dout, &mut ds);
                for (i, &vjp) in ds.iter().enumerate() {
                    let dual: Vec<_> = (0..n).map(|j| Dual::new(s[j], f64::from(u8::from(i == j)))).collect();
                    let mut out = vec![Dual::default(); n];
                    muon.direction(&t, &dual, &mut out);
                    let jvp: f64 = out.iter().zip(&dout).map(|(o, d)| o.eps * d).sum();
                    assert!((jvp - vjp).abs() < 1e-11, "{polynomial:?} {rows}x{columns}: {jvp} {vjp}");
                }
            }
        }
    }
}
