//! Products of rows with weight tensors, and what a rule's own knobs do to rows: features and residuals.

use super::shape::{Layer, Shape};
use crate::kernels::gemm::{MatMut, MatRef, Start, product};
use crate::kernels::vector::{dot, get, kernel};
use crate::rules::miras::bias::{Bias, with_bias};
use crate::rules::miras::features::{Features, with_features};
use crate::rules::miras::smooth::{clip, clip_backward};
use crate::simd::Isa;

/// How rows are multiplied with a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// As suits their number.
    Fast,
    /// In an order that does not depend on it.
    Canonical,
}

/// Up to this many rows are multiplied one by one, because a tensor would have to be turned for them.
const FEW: usize = 2;

/// `out = x w^T` or `out += x w^T`: `x [rows, columns]` through a layer, `out [rows, rows of w]`.
pub(super) fn apply(isa: Isa, rows: Rows, l: &Layer, w: &[f32], x: &[f32], out: &mut [f32], start: Start) {
    let n = x.len() / l.columns;
    if rows == Rows::Canonical || n <= FEW {
        return dots(isa, l.columns, w, x, out, start == Start::Current);
    }
    let w = MatRef::new(w, l.rows, l.columns).transposed();
    product(isa, false, MatRef::new(x, n, l.columns), w, MatMut::new(out, n, l.rows), start);
}

/// `dx = dout w` or `dx += dout w`: back through a layer.
pub(super) fn apply_back(isa: Isa, l: &Layer, w: &[f32], dout: &[f32], dx: &mut [f32], start: Start) {
    let n = dout.len() / l.rows;
    let w = MatRef::new(w, l.rows, l.columns);
    product(isa, false, MatRef::new(dout, n, l.rows), w, MatMut::new(dx, n, l.columns), start);
}

/// `dw += dout^T x`.
pub(super) fn add_outer(isa: Isa, l: &Layer, dout: &[f32], x: &[f32], dw: &mut [f32]) {
    let n = dout.len() / l.rows;
    let dout = MatRef::new(dout, n, l.rows).transposed();
    product(isa, false, dout, MatRef::new(x, n, l.columns), MatMut::new(dw, l.rows, l.columns), Start::Current);
}

/// `out [n, all] = x y^T`, for rows of `width` values.
pub(super) fn among(isa: Isa, width: usize, x: &[f32], y: &[f32], out: &mut [f32], start: Start) {
    let (n, all) = (x.len() / width, y.len() / width);
    let y = MatRef::new(y, all, width).transposed();
    product(isa, false, MatRef::new(x, n, width), y, MatMut::new(out, n, all), start);
}

/// `out += p y`: `p [n, all]`, `y [all, width]`.
pub(super) fn add_mixed(isa: Isa, width: usize, p: &[f32], y: &[f32], out: &mut [f32]) {
    let all = y.len() / width;
    let n = p.len() / all.max(1);
    let p = MatRef::new(p, n, all);
    product(isa, false, p, MatRef::new(y, all, width), MatMut::new(out, n, width), Start::Current);
}

/// `out += p^T y`: `p [n, all]`, `y [n, width]`, `out [all, width]`.
pub(super) fn add_mixed_back(isa: Isa, width: usize, p: &[f32], y: &[f32], out: &mut [f32]) {
    let n = y.len() / width;
    let all = p.len() / n.max(1);
    let p = MatRef::new(p, n, all).transposed();
    product(isa, false, p, MatRef::new(y, n, width), MatMut::new(out, all, width), Start::Current);
}

kernel! {
    /// `out[j] = w x_j` or `out[j] += w x_j`: every value is one sum, lane by lane, then across.
    fn dots(s: S, columns: usize, w: &'a [f32], x: &'a [f32], out: &'a mut [f32], add: bool) {
        let rows = w.len() / columns;
        for (x, out) in x.chunks_exact(columns).zip(out.chunks_exact_mut(rows)) {
            let whole = rows - rows % 4;
            for (four, out) in w.chunks_exact(4 * columns).zip(out.chunks_exact_mut(4)) {
                let mut sums = [s.splat(0.0); 4];
                for c in (0..columns).step_by(S::LANES) {
                    let x = get(s, x, c);
                    for (j, sum) in sums.iter_mut().enumerate() {
                        *sum = s.fma(get(s, &four[j * columns..(j + 1) * columns], c), x, *sum);
                    }
                }
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = s.sum(sum) + if add { *out } else { 0.0 };
                }
            }
            for (w, out) in w[whole * columns..].chunks_exact(columns).zip(&mut out[whole..]) {
                *out = dot(s, w, x) + if add { *out } else { 0.0 };
            }
        }
    }
}

impl Shape {
    /// Features of rows of keys or queries; `coefficients` has a row for each, or none.
    pub fn features(&self, x: &[f32], coefficients: &[f32], phi: &mut [f32]) {
        let rows = x.len() / self.d.dk;
        let per = coefficients.len() / rows.max(1);
        with_features!(&self.rule.features, f => {
            for (j, (x, phi)) in x.chunks_exact(self.d.dk).zip(phi.chunks_exact_mut(self.plan.inner.dk)).enumerate() {
                f.forward(x, &coefficients[j * per..(j + 1) * per], phi);
            }
        });
    }

    /// Transpose of [`Shape::features`]; adds.
    pub fn features_backward(
        &self,
        x: &[f32],
        coefficients: &[f32],
        dphi: &[f32],
        dx: &mut [f32],
        dcoefficients: &mut [f32],
    ) {
        let rows = x.len() / self.d.dk;
        let per = coefficients.len() / rows.max(1);
        with_features!(&self.rule.features, f => {
            for j in 0..rows {
                let (key, phi, c) = (row(j, self.d.dk), row(j, self.plan.inner.dk), row(j, per));
                f.backward(&x[key.clone()], &coefficients[c.clone()], &dphi[phi], &mut dx[key], &mut dcoefficients[c]);
            }
        });
    }

    /// The residuals of rows of predictions, before and after their bound.
    pub fn residuals(&self, p: &[f32], v: &[f32], thresholds: &[f32], raw: &mut [f32], r: &mut [f32]) {
        let width = self.d.dv;
        with_bias!(&self.rule.bias, b => {
            for (j, raw) in raw.chunks_exact_mut(width).enumerate() {
                b.residual(&p[row(j, width)], &v[row(j, width)], thresholds[j], raw);
            }
        });
        r.copy_from_slice(raw);
        if let Some(most) = self.rule.clip {
            r.chunks_exact_mut(width).for_each(|r| clip(most as f32, r));
        }
    }

    /// Transpose of [`Shape::residuals`]: `dr` is used up, `dp` is overwritten, the others are added into.
    pub fn residuals_backward(
        &self,
        [p, v, thresholds, raw]: [&[f32]; 4],
        dr: &mut [f32],
        dp: &mut [f32],
        dv: &mut [f32],
        dthresholds: &mut [f32],
    ) {
        let width = self.d.dv;
        if let Some(most) = self.rule.clip {
            for (raw, dr) in raw.chunks_exact(width).zip(dr.chunks_exact_mut(width)) {
                clip_backward(most as f32, raw, dr);
            }
        }
        dp.fill(0.0);
        with_bias!(&self.rule.bias, b => {
            for (j, dt) in dthresholds.iter_mut().enumerate() {
                let at = row(j, width);
                let (dp, dv) = (&mut dp[at.clone()], &mut dv[at.clone()]);
                *dt += b.residual_backward(&p[at.clone()], &v[at.clone()], thresholds[j], &dr[at], dp, dv);
            }
        });
    }
}

/// Row `j` of a matrix with rows of `width` values.
pub(super) fn row(j: usize, width: usize) -> std::ops::Range<usize> {
    j * width..(j + 1) * width
}
