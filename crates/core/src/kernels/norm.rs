//! Root-mean-square norms: of rows, and of each head on the memory's way out.
#![allow(unsafe_code)]

use super::parallel::{Shared, for_rows, rows_per_part};
use super::scratch;
use super::vector::{add_to, dot, get, kernel, put, silu, silu_slope};
use crate::ops::{HeadShape, NORM_EPS};
use crate::simd::Isa;

/// See [`crate::ops::Ops::rms_norm_forward`].
pub(crate) fn rms_norm_forward(isa: Isa, parallel: bool, width: usize, x: &[f32], scale: &[f32], y: &mut [f32]) {
    for_rows(parallel, width, y, |row, y| rms_rows(isa, width, &x[row * width..][..y.len()], scale, y));
}

/// See [`crate::ops::Ops::rms_norm_backward`]. The gradient of the scale is summed over the rows of each part, then
/// over the parts, in rising order.
pub(crate) fn rms_norm_backward(
    isa: Isa,
    parallel: bool,
    width: usize,
    [x, scale, dy]: [&[f32]; 3],
    dx: &mut [f32],
    dscale: &mut [f32],
) {
    let rows = rows_per_part(width);
    let parts = (dx.len() / width).div_ceil(rows);
    let mut scratch = scratch::borrow();
    let [sums] = scratch.take([parts * width]);
    let shared = Shared::new(sums);
    for_rows(parallel, width, dx, |row, dx| {
        let (x, dy) = (&x[row * width..][..dx.len()], &dy[row * width..][..dx.len()]);
        // SAFETY: each part has a row of sums of its own.
        rms_rows_backward(isa, width, x, scale, dy, dx, unsafe { shared.part(row / rows * width, width) });
    });
    add_rows(isa, sums, dscale);
}

/// See [`crate::ops::Ops::gated_norm_forward`].
pub(crate) fn gated_norm_forward(isa: Isa, parallel: bool, s: HeadShape, [x, scale, g]: [&[f32]; 3], y: &mut [f32]) {
    for_rows(parallel, s.heads * s.width, y, |token, y| gated_rows(isa, s, token, x, scale, g, y));
}

/// See [`crate::ops::Ops::gated_norm_backward`]. The gradient of the scale is summed as in [`rms_norm_backward`].
pub(crate) fn gated_norm_backward(
    isa: Isa,
    parallel: bool,
    s: HeadShape,
    [x, scale, g, dy]: [&[f32]; 4],
    dx: &mut [f32],
    dscale: &mut [f32],
    dg: &mut [f32],
) {
    let channels = s.heads * s.width;
    let rows = rows_per_part(channels);
    let parts = s.tokens.div_ceil(rows);
    let mut scratch = scratch::borrow();
    let [sums] = scratch.take([parts * channels]);
    let (shared, dx) = (Shared::new(sums), Shared::new(dx));
    for_rows(parallel, channels, dg, |token, dg| {
        // SAFETY: each part has a row of sums of its own, and rows of `dx` that no other part touches.
        let sums = unsafe { shared.part(token / rows * channels, channels) };
        gated_rows_backward(isa, s, token, [x, scale, g, dy], dx, sums, dg);
    });
    add_rows(isa, sums, dscale);
}

/// `1 / sqrt(squares / width + NORM_EPS)`.
#[inline(always)]
fn inverse_rms(squares: f32, width: usize) -> f32 {
    1.0 / (squares / width as f32 + NORM_EPS as f32).sqrt()
}

kernel! {
    /// Adds every row of `rows`, each as long as `out`, in rising order.
    fn add_rows(s: S, rows: &'a [f32], out: &'a mut [f32]) {
        for row in rows.chunks_exact(out.len()) {
            for c in (0..out.len()).step_by(S::LANES) {
                add_to(s, out, c, get(s, row, c));
            }
        }
    }

    fn rms_rows(s: S, width: usize, x: &'a [f32], scale: &'a [f32], y: &'a mut [f32]) {
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let r = s.splat(inverse_rms(dot(s, x, x), width));
            for c in (0..width).step_by(S::LANES) {
                put(s, y, c, s.mul(s.mul(get(s, scale, c), get(s, x, c)), r));
            }
        }
    }

    /// `dx += r (dn - n mean(n dn))` with `n = r x`, `dn = scale dy`; `sums = sum_rows n dy`.
    fn rms_rows_backward(
        s: S,
        width: usize,
        x: &'a [f32],
        scale: &'a [f32],
        dy: &'a [f32],
        dx: &'a mut [f32],
        sums: &'a mut [f32],
    ) {
        sums.fill(0.0);
        for ((x, dy), dx) in x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let (mut squares, mut along) = (s.splat(0.0), s.splat(0.0));
            for c in (0..width).step_by(S::LANES) {
                let x = get(s, x, c);
                squares = s.fma(x, x, squares);
                along = s.fma(x, s.mul(get(s, dy, c), get(s, scale, c)), along);
            }
            let r = inverse_rms(s.sum(squares), width);
            let back = s.splat(-(r * r * s.sum(along) / width as f32));
            let r = s.splat(r);
            for c in (0..width).step_by(S::LANES) {
                let (x, dy) = (get(s, x, c), get(s, dy, c));
                add_to(s, sums, c, s.mul(dy, s.mul(x, r)));
                add_to(s, dx, c, s.mul(r, s.fma(x, back, s.mul(dy, get(s, scale, c)))));
            }
        }
    }

    /// Rows of tokens from `first` on: `g` and `x` whole, `y` the rows.
    fn gated_rows(
        s: S,
        shape: HeadShape,
        first: usize,
        x: &'a [f32],
        scale: &'a [f32],
        g: &'a [f32],
        y: &'a mut [f32],
    ) {
        let width = shape.width;
        for (row, y) in y.chunks_exact_mut(shape.heads * width).enumerate() {
            for (h, y) in y.chunks_exact_mut(width).enumerate() {
                let x = &x[shape.by_head(h, first + row)..][..width];
                let g = &g[shape.by_token(h, first + row)..][..width];
                let scale = &scale[h * width..][..width];
                let r = s.splat(inverse_rms(dot(s, x, x), width));
                for c in (0..width).step_by(S::LANES) {
                    let n = s.mul(s.mul(get(s, scale, c), get(s, x, c)), r);
                    put(s, y, c, s.mul(n, silu(s, get(s, g, c))));
                }
            }
        }
    }

    /// Transpose of `gated_rows`: `dx` whole, `dg` the rows, `sums` the gradient of the scale over them.
    fn gated_rows_backward(
        s: S,
        shape: HeadShape,
        first: usize,
        inputs: [&'a [f32]; 4],
        dx: Shared<'a>,
        sums: &'a mut [f32],
        dg: &'a mut [f32],
    ) {
        let width = shape.width;
        sums.fill(0.0);
        for (row, dg) in dg.chunks_exact_mut(shape.heads * width).enumerate() {
            for (h, dg) in dg.chunks_exact_mut(width).enumerate() {
                let (at, by_token) = (shape.by_head(h, first + row), shape.by_token(h, first + row));
                // SAFETY: nobody else writes this head of this token.
                let dx = unsafe { dx.part(at, width) };
                let [x, scale, g, dy] = inputs;
                let (x, scale) = (&x[at..][..width], &scale[h * width..][..width]);
                let (g, dy) = (&g[by_token..][..width], &dy[by_token..][..width]);
                gated_row_backward(s, [x, scale, g, dy], dx, &mut sums[h * width..][..width], dg);
            }
        }
    }
}

/// One head of one token; see [`rms_rows_backward`], with `dn = scale silu(g) dy`.
#[inline(always)]
fn gated_row_backward<S: crate::simd::Simd>(
    s: S,
    [x, scale, g, dy]: [&[f32]; 4],
    dx: &mut [f32],
    sums: &mut [f32],
    dg: &mut [f32],
) {
    let width = x.len();
    let (mut squares, mut along) = (s.splat(0.0), s.splat(0.0));
    for c in (0..width).step_by(S::LANES) {
        let x = get(s, x, c);
        squares = s.fma(x, x, squares);
        let dn = s.mul(s.mul(get(s, dy, c), get(s, scale, c)), silu(s, get(s, g, c)));
        along = s.fma(x, dn, along);
    }
    let r = inverse_rms(s.sum(squares), width);
    let back = s.splat(-(r * r * s.sum(along) / width as f32));
    let r = s.splat(r);
    for c in (0..width).step_by(S::LANES) {
        let (x, dy, g, scale) = (get(s, x, c), get(s, dy, c), get(s, g, c), get(s, scale, c));
        let (n, gate) = (s.mul(x, r), silu(s, g));
        add_to(s, sums, c, s.mul(s.mul(dy, n), gate));
        add_to(s, dg, c, s.mul(s.mul(dy, scale), s.mul(n, silu_slope(s, g))));
        add_to(s, dx, c, s.mul(r, s.fma(x, back, s.mul(s.mul(dy, scale), gate))));
    }
}
