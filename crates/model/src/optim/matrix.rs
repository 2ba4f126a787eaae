//! What optimizers of matrices are made of: products with the square matrix of a side, inverse roots, solutions.

use super::step::Shape;
use hecate_core::Scalar;
use hecate_core::ops::{LinearShape, Ops};

/// Which side of a matrix a square matrix stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `a x` with `a [rows, rows]`.
    Left,
    /// `x a` with `a [columns, columns]`.
    Right,
}

impl Side {
    /// The shorter one.
    pub fn short(s: Shape) -> Self {
        if s.rows <= s.columns { Side::Left } else { Side::Right }
    }

    /// `out += x x^T` or `x^T x`.
    pub(super) fn add_gram<O: Ops>(self, ops: &O, s: Shape, x: &[O::F], out: &mut [O::F]) {
        match self {
            Side::Right => ops.add_gram(s.columns, x, out),
            Side::Left => {
                let mut gram = vec![O::F::zero(); s.rows * s.rows];
                let shape = LinearShape { rows: s.rows, inner: s.columns, outer: s.rows };
                ops.linear_transposed_forward(shape, x, x, &mut gram);
                out.iter_mut().zip(gram).for_each(|(o, g)| *o += g);
            }
        }
    }

    /// `out = a x` or `x a`.
    pub(super) fn apply<O: Ops>(self, ops: &O, s: Shape, a: &[O::F], x: &[O::F], out: &mut [O::F]) {
        match self {
            Side::Left => {
                ops.linear_forward(LinearShape { rows: s.rows, inner: s.rows, outer: s.columns }, a, x, out);
            }
            Side::Right => {
                ops.linear_forward(LinearShape { rows: s.rows, inner: s.columns, outer: s.columns }, x, a, out);
            }
        }
    }
}

/// Sum of the diagonal of `a [n, n]`.
pub(super) fn trace<F: Scalar>(n: usize, a: &[F]) -> f64 {
    (0..n).map(|i| a[i * n + i].value()).sum()
}

/// Euclidean norm, summed in one order in double precision.
pub(super) fn norm<F: Scalar>(x: &[F]) -> f64 {
    x.iter().map(|x| x.value() * x.value()).sum::<f64>().sqrt()
}

/// `(a + ridge trace(a) / n)^(-1/2)` of a symmetric matrix `a [n, n]` without negative eigenvalues; zero where `a` is.
///
/// ```text
/// Y = A / |A|, Z = 1;   T = (3 - Z Y) / 2;   Y' = Y T;   Z' = T Z      until Y Z = 1;   A^(-1/2) = Z / sqrt |A|
/// ```
pub(super) fn inverse_root<O: Ops>(ops: &O, n: usize, a: &[O::F], ridge: f64) -> Vec<O::F> {
    let mut y = a.to_vec();
    let more = O::F::from_f64(ridge * trace(n, a) / n as f64);
    (0..n).for_each(|i| y[i * n + i] += more);
    let size = norm(&y);
    if size == 0.0 {
        return y;
    }
    y.iter_mut().for_each(|y| *y /= O::F::from_f64(size));
    let mut z = vec![O::F::zero(); n * n];
    (0..n).for_each(|i| z[i * n + i] = O::F::one());
    let (mut t, mut next) = (z.clone(), z.clone());
    let s = LinearShape { rows: n, inner: n, outer: n };
    let (half, three_halves) = (O::F::from_f64(0.5), O::F::from_f64(1.5));
    for _ in 0..root_iterations(n, ridge) {
        ops.linear_forward(s, &z, &y, &mut t);
        t.iter_mut().for_each(|t| *t = -half * *t);
        (0..n).for_each(|i| t[i * n + i] += three_halves);
        ops.linear_forward(s, &y, &t, &mut next);
        std::mem::swap(&mut y, &mut next);
        ops.linear_forward(s, &t, &z, &mut next);
        std::mem::swap(&mut z, &mut next);
    }
    let by = O::F::from_f64(size.powf(-0.5));
    z.iter_mut().for_each(|z| *z *= by);
    z
}

/// The smallest eigenvalue of the scaled matrix is at least `ridge / n`; its root grows by half in every iteration,
/// and the last few double the number of digits.
fn root_iterations(n: usize, ridge: f64) -> usize {
    ((n as f64 / ridge).sqrt().ln() / 1.5_f64.ln()).ceil() as usize + 7
}

/// `b = a^-1 b` for a symmetric `a [n, n]` with positive eigenvalues, which is overwritten, and `b [n, columns]`.
pub(super) fn solve<F: Scalar>(n: usize, a: &mut [F], columns: usize, b: &mut [F]) {
    // a = l l^T, row by row.
    for i in 0..n {
        let (above, row) = a.split_at_mut(i * n);
        for j in 0..i {
            let l = &above[j * n..j * n + n];
            let sum: F = row[..j].iter().zip(&l[..j]).map(|(&x, &y)| x * y).sum();
            row[j] = (row[j] - sum) / l[j];
        }
        let sum: F = row[..i].iter().map(|&x| x * x).sum();
        row[i] = (row[i] - sum).sqrt();
    }
    for i in 0..n {
        let (above, row) = b.split_at_mut(i * columns);
        (0..i).for_each(|k| subtract(&mut row[..columns], a[i * n + k], &above[k * columns..]));
        row[..columns].iter_mut().for_each(|x| *x /= a[i * n + i]);
    }
    for i in (0..n).rev() {
        let (row, below) = b[i * columns..].split_at_mut(columns);
        (i + 1..n).for_each(|k| subtract(row, a[k * n + i], &below[(k - i - 1) * columns..]));
        row.iter_mut().for_each(|x| *x /= a[i * n + i]);
    }
}

fn subtract<F: Scalar>(row: &mut [F], by: F, other: &[F]) {
    row.iter_mut().zip(other).for_each(|(x, &y)| *x += -(by * y));
}
