//! Steps made orthogonal by an iterated polynomial, as products of matrices; see
//! [`crate::rules::miras::algorithm::Muon`] for the rule.
//!
//! ```text
//! X_0 = S / (|S| + 1e-7);   A = X X^T;   P = b A + c A A;   X' = a X + P X        with the shorter side as rows
//! dX = a dX' + P dX' + E X;   D = dX' X^T + X dX'^T;   E = b D + c (D A + A D)
//! ```
//!
//! `E` is the gradient of `A` and its transpose together; `D A` is the transpose of `A D`, since both are symmetric.

use super::frame::{cut, room as sum};
use super::pointwise as point;
use super::shape::{Layer, Shape};
use crate::kernels::gemm::{MatMut, MatRef, Start, product};
use crate::simd::Isa;

/// Added to the length that divides.
const LENGTH: f32 = 1e-7;
/// Inside the length's root.
const NORM: f32 = 1e-12;

/// A polynomial, how often it is applied, and to what size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Orthogonal {
    pub isa: Isa,
    /// Large products on all threads: for matrices beyond those of memories.
    parallel: bool,
    pub polynomial: [f32; 3],
    pub iterations: usize,
    rows: usize,
    columns: usize,
}

/// `out = direction(x)` for a matrix `x: [rows, columns]` of any size.
pub(crate) fn direction(
    isa: Isa,
    parallel: bool,
    polynomial: [f64; 3],
    iterations: usize,
    [rows, columns]: [usize; 2],
    x: &[f32],
    out: &mut [f32],
) {
    let polynomial = polynomial.map(|c| c as f32);
    let iterations = if rows.min(columns) > 1 { iterations } else { 0 };
    let way = Orthogonal { isa, parallel, polynomial, iterations, rows, columns };
    let mut last = Vec::new();
    way.last(x, &mut last);
    if rows <= columns {
        return out.copy_from_slice(&last);
    }
    for (r, out) in out.chunks_exact_mut(columns).enumerate() {
        out.iter_mut().enumerate().for_each(|(c, out)| *out = last[c * rows + r]);
    }
}

/// Values of the buffer that the largest tensor of a rule needs; none if its steps are not orthogonal.
pub(super) fn room(s: &Shape) -> usize {
    let len = |of, l| Orthogonal::new(Isa::Portable, of, l).len();
    s.orthogonal.map_or(0, |of| s.layers.iter().map(|l| len(of, l)).max().unwrap_or(0))
}

impl Orthogonal {
    pub fn new(isa: Isa, (polynomial, iterations): ([f64; 3], usize), l: &Layer) -> Self {
        let iterations = if l.rows.min(l.columns) > 1 { iterations } else { 0 };
        Self {
            isa,
            parallel: false,
            polynomial: polynomial.map(|c| c as f32),
            iterations,
            rows: l.rows,
            columns: l.columns,
        }
    }

    /// The shorter side, and the longer one.
    fn sides(&self) -> (usize, usize) {
        (self.rows.min(self.columns), self.rows.max(self.columns))
    }

    /// Iterates, `A` and `P` of each, and space.
    fn lens(&self) -> [usize; 7] {
        let (m, n) = self.sides();
        let squares = self.iterations * m * m;
        [(self.iterations + 1) * m * n, squares, squares, m * m, m * m, m * n, m * n]
    }

    /// Values of its buffer.
    pub fn len(&self) -> usize {
        sum(self.lens())
    }

    /// `out += scale direction(s)`.
    pub fn add(&self, s: &[f32], scale: f32, out: &mut [f32], buffer: &mut [f32]) {
        let [x, a, p, ..] = cut(buffer, self.lens());
        self.iterate(s, x, a, p);
        let len = s.len();
        let last = &x[self.iterations * len..];
        if self.rows <= self.columns {
            return point::add_scaled(self.isa, scale, last, out);
        }
        for (r, out) in out.chunks_exact_mut(self.columns).enumerate() {
            out.iter_mut().enumerate().for_each(|(c, out)| *out += scale * last[c * self.rows + r]);
        }
    }

    /// Transpose of [`Orthogonal::add`]: adds into `ds` what `dout` sends to `s`, and gives the gradient of the scale.
    pub fn add_backward(&self, s: &[f32], scale: f32, dout: &[f32], ds: &mut [f32], buffer: &mut [f32]) -> f32 {
        let (isa, len, (m, n)) = (self.isa, s.len(), self.sides());
        let [b, c] = [self.polynomial[1], self.polynomial[2]];
        let [x, a, p, dp, da, d, next] = cut(buffer, self.lens());
        self.iterate(s, x, a, p);
        self.widen(dout, d);
        let mut dscale = 0.0;
        point::inner(isa, d, &x[self.iterations * len..], &mut dscale);
        point::scale(isa, scale, d);
        for i in (0..self.iterations).rev() {
            let x = MatRef::new(&x[i * len..(i + 1) * len], m, n);
            let (a, p) = (MatRef::new(&a[i * m * m..(i + 1) * m * m], m, m), MatRef::new(&p[i * m * m..], m, m));
            product(isa, false, MatRef::new(d, m, n), x.transposed(), MatMut::new(dp, m, m), Start::Zero);
            add_transposed(m, dp);
            product(isa, false, MatRef::new(dp, m, m), a, MatMut::new(da, m, m), Start::Zero);
            add_transposed(m, da);
            point::scale(isa, c, da);
            point::add_scaled(isa, b, dp, da);
            product(isa, false, p, MatRef::new(d, m, n), MatMut::new(next, m, n), Start::Zero);
            product(isa, false, MatRef::new(da, m, m), x, MatMut::new(next, m, n), Start::Current);
            point::add_scaled(isa, self.polynomial[0], d, next);
            d.copy_from_slice(next);
        }
        // x = s / (|s| + 1e-7)
        let (norm, mut along) = (self.norm(s), 0.0);
        let by = 1.0 / (norm + LENGTH);
        self.widen(s, next);
        point::inner(isa, d, next, &mut along);
        let back = -along * by * by / norm;
        if self.rows <= self.columns {
            point::add_scaled(isa, by, d, ds);
        } else {
            for (r, ds) in ds.chunks_exact_mut(self.columns).enumerate() {
                ds.iter_mut().enumerate().for_each(|(c, ds)| *ds += by * d[c * self.rows + r]);
            }
        }
        point::add_scaled(isa, back, s, ds);
        dscale
    }

    /// The last iterate alone, in `x`: [`Orthogonal::iterate`] without what its transpose needs.
    fn last(&self, s: &[f32], x: &mut Vec<f32>) {
        let (isa, parallel, (m, n)) = (self.isa, self.parallel, self.sides());
        x.resize(s.len(), 0.0);
        self.widen(s, x);
        point::scale(isa, 1.0 / (self.norm(s) + LENGTH), x);
        let squares = if self.iterations > 0 { m * m } else { 0 };
        let (mut a, mut p, mut next) = (vec![0.0; squares], vec![0.0; squares], vec![0.0; s.len()]);
        for _ in 0..self.iterations {
            self.polynomial(MatRef::new(x, m, n), &mut a, &mut p);
            let (p, old, new) = (MatRef::new(&p, m, m), MatRef::new(x, m, n), MatMut::new(&mut next, m, n));
            product(isa, parallel, p, old, new, Start::Zero);
            point::add_scaled(isa, self.polynomial[0], x, &mut next);
            std::mem::swap(x, &mut next);
        }
    }

    fn norm(&self, s: &[f32]) -> f32 {
        let mut squares = 0.0;
        point::inner(self.isa, s, s, &mut squares);
        (squares + NORM * NORM).sqrt()
    }

    /// All iterates.
    fn iterate(&self, s: &[f32], x: &mut [f32], a: &mut [f32], p: &mut [f32]) {
        let (isa, len, (m, n)) = (self.isa, s.len(), self.sides());
        self.widen(s, &mut x[..len]);
        point::scale(isa, 1.0 / (self.norm(s) + LENGTH), &mut x[..len]);
        for i in 0..self.iterations {
            let (old, new) = x.split_at_mut((i + 1) * len);
            let (old, new) = (&old[i * len..], &mut new[..len]);
            let p = &mut p[i * m * m..(i + 1) * m * m];
            self.polynomial(MatRef::new(old, m, n), &mut a[i * m * m..(i + 1) * m * m], p);
            product(isa, false, MatRef::new(p, m, m), MatRef::new(old, m, n), MatMut::new(new, m, n), Start::Zero);
            point::add_scaled(isa, self.polynomial[0], old, new);
        }
    }

    /// `A = x x^T` and `P = b A + c A A`.
    fn polynomial(&self, x: MatRef<'_>, a: &mut [f32], p: &mut [f32]) {
        let (isa, m, [_, b, c]) = (self.isa, self.sides().0, self.polynomial);
        product(isa, self.parallel, x, x.transposed(), MatMut::new(a, m, m), Start::Zero);
        if c == 0.0 {
            p.fill(0.0);
        } else {
            product(isa, self.parallel, MatRef::new(a, m, m), MatRef::new(a, m, m), MatMut::new(p, m, m), Start::Zero);
            point::scale(isa, c, p);
        }
        point::add_scaled(isa, b, a, p);
    }

    /// A matrix with its shorter side as rows.
    fn widen(&self, from: &[f32], to: &mut [f32]) {
        if self.rows <= self.columns {
            return to.copy_from_slice(from);
        }
        for (c, to) in to.chunks_exact_mut(self.rows).enumerate() {
            to.iter_mut().enumerate().for_each(|(r, to)| *to = from[r * self.columns + c]);
        }
    }
}

/// `x += x^T`.
fn add_transposed(m: usize, x: &mut [f32]) {
    for i in 0..m {
        for j in 0..=i {
            let sum = x[i * m + j] + x[j * m + i];
            (x[i * m + j], x[j * m + i]) = (sum, sum);
        }
    }
}
