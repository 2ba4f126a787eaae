//! The short causal convolution with SiLU and unit length, from tokens to heads.
#![allow(unsafe_code)]

use super::parallel::{Shared, for_each, for_parts, rows_per_part};
use super::scratch;
use super::vector::{add_to, dot, get, kernel, put, silu, silu_slope};
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
        let [dz] = scratch.take([len]);
        before_silu(isa, s, h, inputs, &dy[h * len..][..len], dz);
        gradients(isa, s, h, inputs, dz, dx, dw);
    });
}

/// The convolution's output for channels `c..` of a head of a token, before any non-linearity: taps in rising order.
#[inline(always)]
fn convolved<S: Simd>(s: S, shape: ConvShape, inputs: Inputs<'_>, h: usize, t: usize, c: usize) -> S::V {
    if shape.taps == 0 {
        return get(s, inputs.row(shape, t, h), c);
    }
    let mut z = s.splat(0.0);
    for j in 0..shape.taps {
        z = s.fma(get(s, inputs.tap(shape, j, h), c), get(s, inputs.row(shape, t + j, h), c), z);
    }
    z
}

#[inline(always)]
fn inverse_length(squares: f32) -> f32 {
    1.0 / (squares + UNIT_EPS as f32).sqrt()
}

kernel! {
    /// Rows of `y [H, T, D]` from row `first` on.
    fn rows(s: S, shape: ConvShape, first: usize, inputs: Inputs<'a>, y: &'a mut [f32]) {
        let HeadShape { tokens, width, .. } = shape.heads;
        for (i, y) in y.chunks_exact_mut(width).enumerate() {
            let (h, t) = ((first + i) / tokens, (first + i) % tokens);
            for c in (0..width).step_by(S::LANES) {
                put(s, y, c, silu(s, convolved(s, shape, inputs, h, t, c)));
            }
            if shape.unit {
                let r = s.splat(inverse_length(dot(s, y, y)));
                for c in (0..width).step_by(S::LANES) {
                    put(s, y, c, s.mul(get(s, y, c), r));
                }
            }
        }
    }

    /// From the gradients of one head's results, `dy [T, D]`, to those of the convolution's output, `dz [T, D]`.
    fn before_silu(s: S, shape: ConvShape, h: usize, inputs: Inputs<'a>, dy: &'a [f32], dz: &'a mut [f32]) {
        let width = shape.heads.width;
        for (t, (dy, dz)) in dy.chunks_exact(width).zip(dz.chunks_exact_mut(width)).enumerate() {
            let (mut squares, mut along) = (s.splat(0.0), s.splat(0.0));
            for c in (0..width).step_by(S::LANES) {
                let z = convolved(s, shape, inputs, h, t, c);
                put(s, dz, c, z);
                let a = silu(s, z);
                squares = s.fma(a, a, squares);
                along = s.fma(a, get(s, dy, c), along);
            }
            // y = r a, and da = r (dy - y <y, dy>).
            let r = if shape.unit { inverse_length(s.sum(squares)) } else { 1.0 };
            let back = if shape.unit { -r * r * s.sum(along) } else { 0.0 };
            for c in (0..width).step_by(S::LANES) {
                let z = get(s, dz, c);
                let da = s.mul(s.splat(r), s.fma(silu(s, z), s.splat(back), get(s, dy, c)));
                put(s, dz, c, s.mul(da, silu_slope(s, z)));
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
        let before = shape.taps.saturating_sub(1);
        for t in 0..tokens {
            let dx = columns(dx, t);
            for c in (0..width).step_by(S::LANES) {
                let mut d = get(s, dx, c);
                if shape.taps == 0 {
                    d = s.add(d, get(s, &dz[t * width..][..width], c));
                }
                // Token t is tap j of the output at t + before - j.
                for j in (0..shape.taps).filter(|j| t + before - j < tokens) {
                    let dz = &dz[(t + before - j) * width..][..width];
                    d = s.fma(get(s, inputs.tap(shape, j, h), c), get(s, dz, c), d);
                }
                put(s, dx, c, d);
            }
        }
        for j in 0..shape.taps {
            let dw = columns(dw, j);
            for c in (0..width).step_by(S::LANES) {
                let mut sum = s.splat(0.0);
                for t in 0..tokens {
                    sum = s.fma(get(s, &dz[t * width..][..width], c), get(s, inputs.row(shape, t + j, h), c), sum);
                }
                add_to(s, dw, c, sum);
            }
        }
    }
}
