//! What happens to rows between the products: activations and norms with their first and second derivatives, and the
//! weighting of rows by coefficients. Rows are `[rows, width]`, row-major.
#![allow(unsafe_code)]

use crate::kernels::vector::{add_to, dot, get, kernel, put};
use crate::rules::miras::HiddenActivation as Activation;
use crate::simd::Simd;

/// Inside a norm's root; that of the reference.
const NORM_EPS: f32 = 1e-6;

/// `act(z)`, its slope and the slope of its slope.
#[inline(always)]
pub(in crate::kernels) fn activation<S: Simd>(s: S, kind: Activation, z: S::V) -> [S::V; 3] {
    let (one, two) = (s.splat(1.0), s.splat(2.0));
    match kind {
        Activation::Gelu => {
            let (tail, bell) = s.normal_tail(z);
            let size = s.max(z, s.sub(s.splat(0.0), z));
            let half = s.splat(0.5);
            let below = s.fma(s.sign(z), s.sub(half, tail), half);
            let density = s.mul(bell, s.splat(0.398_942_3));
            [
                // z times what lies below it, without the cancellation of large negative z.
                s.sub(s.max(z, s.splat(0.0)), s.mul(size, tail)),
                s.fma(z, density, below),
                s.mul(density, s.sub(two, s.mul(z, z))),
            ]
        }
        Activation::Silu => {
            let p = s.sigmoid(z);
            let slope = s.mul(p, s.sub(one, p));
            let bend = s.fma(z, s.sub(one, s.mul(two, p)), two);
            [s.mul(z, p), s.fma(z, slope, p), s.mul(slope, bend)]
        }
    }
}

/// The first `n` lanes of a vector, and zeros behind them.
#[inline(always)]
pub(super) fn first<S: Simd>(s: S, v: S::V, n: usize) -> S::V {
    if n >= S::LANES {
        return v;
    }
    let mut lanes = [0.0; 16];
    // SAFETY: no instruction set has more than sixteen lanes, and the first `n` of them are written.
    unsafe {
        s.store_first(lanes.as_mut_ptr(), n, v);
        s.load(lanes.as_ptr())
    }
}

/// Mean and `1 / sqrt(var + eps)` of a row.
#[inline(always)]
pub(in crate::kernels) fn moments<S: Simd>(s: S, x: &[f32]) -> (f32, f32) {
    let n = x.len() as f32;
    let mut sum = s.splat(0.0);
    for c in (0..x.len()).step_by(S::LANES) {
        sum = s.add(sum, get(s, x, c));
    }
    let mean = s.sum(sum) / n;
    let mut squares = s.splat(0.0);
    for c in (0..x.len()).step_by(S::LANES) {
        // Lanes behind the end hold -mean by now, not zero.
        let d = first(s, s.sub(get(s, x, c), s.splat(mean)), x.len() - c);
        squares = s.fma(d, d, squares);
    }
    let var = s.sum(squares) / n;
    (mean, 1.0 / (var + NORM_EPS).sqrt())
}

/// Sum of a row.
#[inline(always)]
pub(in crate::kernels) fn total<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut sum = s.splat(0.0);
    for c in (0..x.len()).step_by(S::LANES) {
        sum = s.add(sum, get(s, x, c));
    }
    s.sum(sum)
}

/// Sum of `n y` with `n` the normalised `x`.
#[inline(always)]
pub(in crate::kernels) fn along<S: Simd>(s: S, x: &[f32], (mean, inverse): (f32, f32), y: &[f32]) -> f32 {
    let mut sum = s.splat(0.0);
    for c in (0..x.len()).step_by(S::LANES) {
        sum = s.fma(s.sub(get(s, x, c), s.splat(mean)), get(s, y, c), sum);
    }
    s.sum(sum) * inverse
}

kernel! {
    /// `h = act(z)`, times `gate` where there is one.
    pub(super) fn hidden(s: S, kind: Activation, z: &'a [f32], gate: &'a [f32], h: &'a mut [f32]) {
        for c in (0..h.len()).step_by(S::LANES) {
            let [mut value, ..] = activation(s, kind, get(s, z, c));
            if !gate.is_empty() {
                value = s.mul(value, get(s, gate, c));
            }
            put(s, h, c, value);
        }
    }

    /// Transpose of `hidden`: `dz = act'(z) gate dh`, and `dgate = act(z) dh` where there is a gate.
    pub(super) fn hidden_backward(
        s: S,
        kind: Activation,
        z: &'a [f32],
        gate: &'a [f32],
        dh: &'a [f32],
        dz: &'a mut [f32],
        dgate: &'a mut [f32],
    ) {
        for c in (0..dh.len()).step_by(S::LANES) {
            let ([value, slope, _], dh) = (activation(s, kind, get(s, z, c)), get(s, dh, c));
            let mut d = s.mul(slope, dh);
            if !gate.is_empty() {
                d = s.mul(d, get(s, gate, c));
                put(s, dgate, c, s.mul(value, dh));
            }
            put(s, dz, c, d);
        }
    }

    /// Transpose of `hidden_backward` at `e = dh`, and of `hidden` at the gradient `dh` of its result, in one:
    /// `de`, `dz` and `dgate` are overwritten; `dback` and `dback_gate` are the gradients of what it gave.
    pub(super) fn hidden_second(
        s: S,
        kind: Activation,
        z: &'a [f32],
        gate: &'a [f32],
        e: &'a [f32],
        dback: &'a [f32],
        dback_gate: &'a [f32],
        de: &'a mut [f32],
        dz: &'a mut [f32],
        dgate: &'a mut [f32],
    ) {
        for c in (0..e.len()).step_by(S::LANES) {
            let [value, slope, bend] = activation(s, kind, get(s, z, c));
            let (e, db) = (get(s, e, c), get(s, dback, c));
            if gate.is_empty() {
                put(s, de, c, s.mul(slope, db));
                put(s, dz, c, s.mul(bend, s.mul(e, db)));
                continue;
            }
            let (g, dg) = (get(s, gate, c), get(s, dback_gate, c));
            put(s, de, c, s.fma(s.mul(slope, g), db, s.mul(value, dg)));
            put(s, dz, c, s.mul(e, s.fma(s.mul(bend, g), db, s.mul(slope, dg))));
            put(s, dgate, c, s.mul(slope, s.mul(e, db)));
        }
    }

    /// `dz += act'(z) gate dh`, and `dgate += act(z) dh` where there is a gate.
    pub(super) fn hidden_backward_add(
        s: S,
        kind: Activation,
        z: &'a [f32],
        gate: &'a [f32],
        dh: &'a [f32],
        dz: &'a mut [f32],
        dgate: &'a mut [f32],
    ) {
        for c in (0..dh.len()).step_by(S::LANES) {
            let ([value, slope, _], dh) = (activation(s, kind, get(s, z, c)), get(s, dh, c));
            let mut d = s.mul(slope, dh);
            if !gate.is_empty() {
                d = s.mul(d, get(s, gate, c));
                add_to(s, dgate, c, s.mul(value, dh));
            }
            add_to(s, dz, c, d);
        }
    }

    /// Rows of mean zero and variance one.
    pub(super) fn layer_norm(s: S, width: usize, x: &'a [f32], y: &'a mut [f32]) {
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let (mean, inverse) = moments(s, x);
            for c in (0..width).step_by(S::LANES) {
                put(s, y, c, s.mul(s.sub(get(s, x, c), s.splat(mean)), s.splat(inverse)));
            }
        }
    }

    /// Transpose of `layer_norm`, `dx = J dy`, overwritten; `J` is symmetric.
    pub(super) fn layer_norm_backward(s: S, width: usize, x: &'a [f32], dy: &'a [f32], dx: &'a mut [f32]) {
        let rows = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for ((x, dy), dx) in rows {
            let at = moments(s, x);
            let n = width as f32;
            let (mean_dy, back) = (total(s, dy) / n, along(s, x, at, dy) / n);
            for c in (0..width).step_by(S::LANES) {
                let unit = s.mul(s.sub(get(s, x, c), s.splat(at.0)), s.splat(at.1));
                let d = s.sub(s.sub(get(s, dy, c), s.splat(mean_dy)), s.mul(unit, s.splat(back)));
                put(s, dx, c, s.mul(s.splat(at.1), d));
            }
        }
    }

    /// Transpose of `layer_norm_backward` in `x`, added into `dx`. With `n` values in a row, `u` the normalised row,
    /// `i` its inverse deviation, `g = J r` and `dr = J dg` at hand, and `a = u . dg`, `b = u . r`:
    /// `dx -= i^2 / n (dg . r - (sum dg)(sum r) / n - a b / n) u + i / n (b dr + a g)`.
    pub(super) fn layer_norm_second(
        s: S,
        width: usize,
        x: &'a [f32],
        r: &'a [f32],
        g: &'a [f32],
        dg: &'a [f32],
        dr: &'a [f32],
        dx: &'a mut [f32],
    ) {
        let n = width as f32;
        for (row, dx) in dx.chunks_exact_mut(width).enumerate() {
            let part = row * width..(row + 1) * width;
            let (x, r, g, dg, dr) =
                (&x[part.clone()], &r[part.clone()], &g[part.clone()], &dg[part.clone()], &dr[part.clone()]);
            let at = moments(s, x);
            let (a, b) = (along(s, x, at, dg), along(s, x, at, r));
            let both = dot(s, dg, r) - total(s, dg) * total(s, r) / n - a * b / n;
            let by = s.splat(-both * at.1 * at.1 / n * at.1);
            let (a, b) = (s.splat(-a * at.1 / n), s.splat(-b * at.1 / n));
            for c in (0..width).step_by(S::LANES) {
                let d = s.mul(by, s.sub(get(s, x, c), s.splat(at.0)));
                add_to(s, dx, c, s.fma(b, get(s, dr, c), s.fma(a, get(s, g, c), d)));
            }
        }
    }

    /// `y = weight x`, row by row.
    pub(super) fn scale_rows(s: S, width: usize, weights: &'a [f32], x: &'a [f32], y: &'a mut [f32]) {
        for ((x, y), &w) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)).zip(weights) {
            for c in (0..width).step_by(S::LANES) {
                put(s, y, c, s.mul(s.splat(w), get(s, x, c)));
            }
        }
    }

    /// `y += weight x`, row by row, and the gradient of the weights where `x` was multiplied with them:
    /// `dweights += x . with`.
    pub(super) fn add_rows_weighed(
        s: S,
        width: usize,
        weights: &'a [f32],
        x: &'a [f32],
        y: &'a mut [f32],
        with: &'a [f32],
        dweights: &'a mut [f32],
    ) {
        for (row, (x, y)) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)).enumerate() {
            let w = s.splat(weights[row]);
            for c in (0..width).step_by(S::LANES) {
                put(s, y, c, s.fma(w, get(s, x, c), get(s, y, c)));
            }
            dweights[row] += dot(s, x, &with[row * width..][..width]);
        }
    }

    /// `z = x y`.
    pub(super) fn times(s: S, x: &'a [f32], y: &'a [f32], z: &'a mut [f32]) {
        for c in (0..z.len()).step_by(S::LANES) {
            put(s, z, c, s.mul(get(s, x, c), get(s, y, c)));
        }
    }

    /// `z += x y`.
    pub(super) fn add_times(s: S, x: &'a [f32], y: &'a [f32], z: &'a mut [f32]) {
        for c in (0..z.len()).step_by(S::LANES) {
            put(s, z, c, s.fma(get(s, x, c), get(s, y, c), get(s, z, c)));
        }
    }

    /// `y += a x`.
    pub(super) fn add_scaled(s: S, a: f32, x: &'a [f32], y: &'a mut [f32]) {
        for c in (0..y.len()).step_by(S::LANES) {
            put(s, y, c, s.fma(s.splat(a), get(s, x, c), get(s, y, c)));
        }
    }

    /// `y *= a`.
    pub(super) fn scale(s: S, a: f32, y: &'a mut [f32]) {
        for c in (0..y.len()).step_by(S::LANES) {
            put(s, y, c, s.mul(s.splat(a), get(s, y, c)));
        }
    }

    /// `out[0] = x . y`, over long rows: four sums side by side.
    pub(super) fn inner(s: S, x: &'a [f32], y: &'a [f32], out: &'a mut f32) {
        let mut sums = [s.splat(0.0); 4];
        for c in (0..x.len()).step_by(4 * S::LANES) {
            for (j, sum) in sums.iter_mut().enumerate() {
                let c = c + j * S::LANES;
                if c < x.len() {
                    *sum = s.fma(get(s, x, c), get(s, y, c), *sum);
                }
            }
        }
        *out = s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])));
    }
}
