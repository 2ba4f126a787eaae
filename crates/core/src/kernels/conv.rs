//! The short causal convolution, SiLU and unit length, from tokens to heads.
#![allow(unsafe_code)]

use super::parallel::{Shared, for_each, for_parts, rows_per_part};
use super::scratch;
use super::vector::{add_to, get, kernel, put, silu, silu_slope_from};
use crate::ops::conv::UNIT_EPS;
use crate::ops::{ConvShape, HeadShape};
use crate::simd::{Isa, Simd};

/// What a convolution reads: `x [T, C]`, `w [taps, C]`, `tail [taps - 1, C]`.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub x: &'a [f32],
    pub w: &'a [f32],
    pub tail: &'a [f32],
}

impl<'a> Inputs<'a> {
    /// Head `h` of row `i` of tail and call seen as one sequence.
    #[inline(always)]
    fn row(self, s: ConvShape, i: usize, h: usize) -> &'a [f32] {
        let HeadShape { heads, width, .. } = s.heads;
        let before = s.taps.saturating_sub(1);
        let (data, i) = if i < before { (self.tail, i) } else { (self.x, i - before) };
        &data[(i * heads + h) * width..][..width]
    }
    /// Tap `j` of head `h`.
    #[inline(always)]
    fn tap(self, s: ConvShape, j: usize, h: usize) -> &'a [f32] {
        &self.w[(j * s.heads.heads + h) * s.heads.width..][..s.heads.width]
    }
}

/// See [`crate::ops::Ops::conv_forward`].
pub(crate) fn forward(isa: Isa, parallel: bool, s: ConvShape, inputs: Inputs<'_>, y: &mut [f32]) {
    for_parts(parallel, rows_per_part(s.heads.width), s.heads.width, y, |row, y| rows(isa, s, row, inputs, y));
}

/// See [`crate::ops::Ops::conv_backward`]. Heads run side by side; each sums over its tokens in rising order.
pub(crate) fn backward(
    isa: Isa,
    parallel: bool,
    s: ConvShape,
    inputs: Inputs<'_>,
    dy: &[f32],
    dx: &mut [f32],
    dw: &mut [f32],
) {
    let (dx, dw) = (Shared::new(dx), Shared::new(dw));
    for_each(parallel && s.heads.tokens > 1, s.heads.heads, |h| {
        let len = s.heads.tokens * s.heads.width;
        let mut scratch = scratch::borrow();
        let [dz, p] = scratch.take([len, s.heads.width]);
        before_activation(isa, s, h, inputs, &dy[h * len..][..len], dz, p);
        gradients(isa, s, h, inputs, dz, dx, dw);
    });
}

/// See [`crate::ops::Ops::conv_column_backward`]. Heads run side by side.
pub(crate) fn column_backward(isa: Isa, parallel: bool, s: ConvShape, inputs: Inputs<'_>, dy: &[f32], dx: &mut [f32]) {
    let dx = Shared::new(dx);
    for_each(parallel && s.heads.tokens > 1, s.heads.heads, |h| {
        let len = s.heads.tokens * s.heads.width;
        let mut scratch = scratch::borrow();
        let [dz, p] = scratch.take([len, s.heads.width]);
        before_activation(isa, s, h, inputs, &dy[h * len..][..len], dz, p);
        newest_gradients(isa, s, h, inputs, dz, dx);
    });
}

/// The convolution's output for tokens `first..` of head `h`, before any non-linearity, into the rows of `z [_, D]`:
/// taps in rising order.
#[inline(always)]
fn convolve<S: Simd>(s: S, shape: ConvShape, inputs: Inputs<'_>, h: usize, first: usize, z: &mut [f32]) {
    match shape.taps {
        0 => {
            for (i, z) in z.chunks_exact_mut(shape.heads.width).enumerate() {
                z.copy_from_slice(inputs.row(shape, first + i, h));
            }
        }
        2 => with_taps::<S, 2>(s, shape, inputs, h, first, z),
        3 => with_taps::<S, 3>(s, shape, inputs, h, first, z),
        4 => with_taps::<S, 4>(s, shape, inputs, h, first, z),
        _ => with_any_taps(s, shape, inputs, h, first, z),
    }
}

/// As many taps as fit into registers.
#[inline(always)]
fn with_taps<S: Simd, const TAPS: usize>(
    s: S,
    shape: ConvShape,
    inputs: Inputs<'_>,
    h: usize,
    first: usize,
    z: &mut [f32],
) {
    let HeadShape { heads, width, .. } = shape.heads;
    let (step, rows) = (heads * width, z.len() / width);
    // Rows that see the tail are few.
    let early = (TAPS - 1).saturating_sub(first).min(rows);
    let (z_early, z) = z.split_at_mut(early * width);
    with_any_taps(s, shape, inputs, h, first, z_early);
    if rows == early {
        return;
    }
    let x = &inputs.x[(first + early + 1 - TAPS) * step + h * width..];
    assert!(x.len() >= (rows - early + TAPS - 2) * step + width);
    for c in (0..width).step_by(S::LANES) {
        let n = (width - c).min(S::LANES);
        let mut w = [s.splat(0.0); TAPS];
        for (j, w) in w.iter_mut().enumerate() {
            *w = get(s, inputs.tap(shape, j, h), c);
        }
        for i in 0..rows - early {
            let mut sum = s.splat(0.0);
            for (j, &w) in w.iter().enumerate() {
                let p = x.as_ptr().wrapping_add((i + j) * step + c);
                // SAFETY: `n` values lie there (checked above).
                sum = s.fma(w, unsafe { if n == S::LANES { s.load(p) } else { s.load_first(p, n) } }, sum);
            }
            put(s, &mut z[i * width..][..width], c, sum);
        }
    }
}

/// Any number of taps, and rows that see the tail.
#[inline(always)]
fn with_any_taps<S: Simd>(s: S, shape: ConvShape, inputs: Inputs<'_>, h: usize, first: usize, z: &mut [f32]) {
    for (i, z) in z.chunks_exact_mut(shape.heads.width).enumerate() {
        for c in (0..z.len()).step_by(S::LANES) {
            let mut sum = s.splat(0.0);
            for j in 0..shape.taps {
                sum = s.fma(get(s, inputs.tap(shape, j, h), c), get(s, inputs.row(shape, first + i + j, h), c), sum);
            }
            put(s, z, c, sum);
        }
    }
}

#[inline(always)]
fn inverse_length(squares: f32) -> f32 {
    1.0 / (squares + UNIT_EPS as f32).sqrt()
}

kernel! {
    /// Rows of `y [H, T, D]` from row `first` on.
    fn rows(s: S, shape: ConvShape, first: usize, inputs: Inputs<'a>, y: &'a mut [f32]) {
        let HeadShape { tokens, width, .. } = shape.heads;
        let (mut row, mut rest) = (first, y);
        while !rest.is_empty() {
            let (h, t) = (row / tokens, row % tokens);
            let count = (tokens - t).min(rest.len() / width);
            let (y, behind) = rest.split_at_mut(count * width);
            (row, rest) = (row + count, behind);
            convolve(s, shape, inputs, h, t, y);
            for y in y.chunks_exact_mut(width) {
                let mut squares = s.splat(0.0);
                for c in (0..width).step_by(S::LANES) {
                    let z = get(s, y, c);
                    let a = if shape.silu { silu(s, z) } else { z };
                    squares = s.fma(a, a, squares);
                    put(s, y, c, a);
                }
                if shape.unit {
                    let r = s.splat(inverse_length(s.sum(squares)));
                    for c in (0..width).step_by(S::LANES) {
                        put(s, y, c, s.mul(get(s, y, c), r));
                    }
                }
            }
        }
    }

    /// From the gradients of one head's results, `dy [T, D]`, to those of the convolution's output, `dz [T, D]`;
    /// `p [D]` is space.
    fn before_activation(
        s: S,
        shape: ConvShape,
        h: usize,
        inputs: Inputs<'a>,
        dy: &'a [f32],
        dz: &'a mut [f32],
        p: &'a mut [f32],
    ) {
        let width = shape.heads.width;
        convolve(s, shape, inputs, h, 0, dz);
        for (dy, dz) in dy.chunks_exact(width).zip(dz.chunks_exact_mut(width)) {
            let (mut squares, mut along) = (s.splat(0.0), s.splat(0.0));
            for c in (0..width).step_by(S::LANES) {
                let z = get(s, dz, c);
                // One leaves z as it is, and its slope at one.
                let half = if shape.silu { s.sigmoid(z) } else { s.splat(1.0) };
                let a = s.mul(z, half);
                put(s, p, c, half);
                squares = s.fma(a, a, squares);
                along = s.fma(a, get(s, dy, c), along);
            }
            // y = r a, and da = r (dy - y <y, dy>).
            let r = if shape.unit { inverse_length(s.sum(squares)) } else { 1.0 };
            let back = if shape.unit { -r * r * s.sum(along) } else { 0.0 };
            for c in (0..width).step_by(S::LANES) {
                let (z, half) = (get(s, dz, c), get(s, p, c));
                let da = s.mul(s.splat(r), s.fma(s.mul(z, half), s.splat(back), get(s, dy, c)));
                put(s, dz, c, s.mul(da, silu_slope_from(s, z, half)));
            }
        }
    }

    /// From `dz [T, D]` of one head to its columns of `dx [T, C]`, each token through the newest tap.
    fn newest_gradients(s: S, shape: ConvShape, h: usize, inputs: Inputs<'a>, dz: &'a [f32], dx: Shared<'a>) {
        let HeadShape { heads, width, .. } = shape.heads;
        for (t, dz) in dz.chunks_exact(width).enumerate() {
            // SAFETY: each head writes its own columns only.
            let dx = unsafe { dx.part((t * heads + h) * width, width) };
            for c in (0..width).step_by(S::LANES) {
                let tap = if shape.taps == 0 { s.splat(1.0) } else { get(s, inputs.tap(shape, shape.taps - 1, h), c) };
                put(s, dx, c, s.fma(tap, get(s, dz, c), get(s, dx, c)));
            }
        }
    }

    /// From `dz [T, D]` of one head to its columns of `dx [T, C]` and `dw [taps, C]`.
    fn gradients(
        s: S,
        shape: ConvShape,
        h: usize,
        inputs: Inputs<'a>,
        dz: &'a [f32],
        dx: Shared<'a>,
        dw: Shared<'a>,
    ) {
        let HeadShape { tokens, heads, width } = shape.heads;
        // SAFETY: each head writes its own columns only.
        let columns = |x: Shared<'a>, row: usize| unsafe { x.part((row * heads + h) * width, width) };
        for t in 0..tokens {
            input_gradient(s, shape, inputs, h, t, dz, columns(dx, t));
        }
        for j in 0..shape.taps {
            tap_gradient(s, shape, inputs, (h, j), dz, columns(dw, j));
        }
    }
}

/// Adds to the gradient of head `h` of token `t`, `dx [D]`: the token is tap `j` of the output `taps - 1 - j` later.
#[inline(always)]
fn input_gradient<S: Simd>(s: S, shape: ConvShape, inputs: Inputs<'_>, h: usize, t: usize, dz: &[f32], dx: &mut [f32]) {
    let (taps, width) = (shape.taps, dx.len());
    if taps == 0 {
        for c in (0..width).step_by(S::LANES) {
            add_to(s, dx, c, get(s, &dz[t * width..][..width], c));
        }
        return;
    }
    let first = (t + taps).saturating_sub(shape.heads.tokens);
    for c in (0..width).step_by(S::LANES) {
        let mut d = get(s, dx, c);
        for j in first..taps {
            d = s.fma(get(s, inputs.tap(shape, j, h), c), get(s, &dz[(t + taps - 1 - j) * width..][..width], c), d);
        }
        put(s, dx, c, d);
    }
}

/// Vectors of a head's row that are summed side by side, so that one multiply-add need not wait for the last.
const SIDE_BY_SIDE: usize = 4;

/// Adds to the gradient of tap `j` of head `h`, `dw [D]`: a sum over tokens in rising order.
#[inline(always)]
fn tap_gradient<S: Simd>(
    s: S,
    shape: ConvShape,
    inputs: Inputs<'_>,
    (h, j): (usize, usize),
    dz: &[f32],
    dw: &mut [f32],
) {
    let width = dw.len();
    for first in (0..width).step_by(SIDE_BY_SIDE * S::LANES) {
        let mut sums = [s.splat(0.0); SIDE_BY_SIDE];
        for (t, dz) in dz.chunks_exact(width).enumerate() {
            let x = inputs.row(shape, t + j, h);
            for (i, sum) in sums.iter_mut().enumerate() {
                let c = first + i * S::LANES;
                if c < width {
                    *sum = s.fma(get(s, dz, c), get(s, x, c), *sum);
                }
            }
        }
        for (i, &sum) in sums.iter().enumerate() {
            let c = first + i * S::LANES;
            if c < width {
                add_to(s, dw, c, sum);
            }
        }
    }
}
