//! Between tokens and heads, with rotary positions on the way.
#![allow(unsafe_code)]

use super::parallel::for_rows;
use super::vector::{add_to, get, kernel, put};
use crate::ops::HeadShape;
use crate::simd::{Isa, Simd};

/// See [`crate::ops::Ops::rope_forward`].
pub(crate) fn rope_forward(isa: Isa, parallel: bool, s: HeadShape, table: &[f32], x: &[f32], y: &mut [f32]) {
    for_rows(parallel, s.width, y, |row, y| rotate_to_heads(isa, s, row, table, x, y));
}

/// See [`crate::ops::Ops::rope_backward`].
pub(crate) fn rope_backward(isa: Isa, parallel: bool, s: HeadShape, table: &[f32], dy: &[f32], dx: &mut [f32]) {
    for_rows(parallel, s.heads * s.width, dx, |token, dx| rotate_back(isa, s, token, table, dy, dx));
}

/// See [`crate::ops::Ops::merge_forward`].
pub(crate) fn merge_forward(parallel: bool, s: HeadShape, x: &[f32], y: &mut [f32]) {
    for_rows(parallel, s.heads * s.width, y, |token, y| {
        for (i, y) in y.chunks_exact_mut(s.width).enumerate() {
            y.copy_from_slice(&x[s.by_head(i % s.heads, token + i / s.heads)..][..s.width]);
        }
    });
}

/// See [`crate::ops::Ops::merge_backward`].
pub(crate) fn merge_backward(isa: Isa, parallel: bool, s: HeadShape, dy: &[f32], dx: &mut [f32]) {
    for_rows(parallel, s.width, dx, |row, dx| add_to_heads(isa, s, row, dy, dx));
}

/// Head and token of a row of `[H, T, D]`.
fn head_and_token(s: HeadShape, row: usize) -> (usize, usize) {
    (row / s.tokens, row % s.tokens)
}

kernel! {
    /// Rows of `y [H, T, D]` from row `first` on.
    fn rotate_to_heads(s: S, shape: HeadShape, first: usize, table: &'a [f32], x: &'a [f32], y: &'a mut [f32]) {
        for (i, y) in y.chunks_exact_mut(shape.width).enumerate() {
            let (h, t) = head_and_token(shape, first + i);
            let x = &x[shape.by_token(h, t)..][..shape.width];
            if table.is_empty() {
                y.copy_from_slice(x);
                continue;
            }
            let (cos, sin) = angles(shape, table, t);
            let half = shape.width / 2;
            let ((x0, x1), (y0, y1)) = (x.split_at(half), y.split_at_mut(half));
            for c in (0..half).step_by(S::LANES) {
                let (a, b) = turned(s, get(s, x0, c), get(s, x1, c), get(s, cos, c), get(s, sin, c));
                put(s, y0, c, a);
                put(s, y1, c, b);
            }
        }
    }

    /// Rows of `dx [T, H * D]` from token `first` on.
    fn rotate_back(s: S, shape: HeadShape, first: usize, table: &'a [f32], dy: &'a [f32], dx: &'a mut [f32]) {
        for (i, dx) in dx.chunks_exact_mut(shape.width).enumerate() {
            let (h, t) = (i % shape.heads, first + i / shape.heads);
            let dy = &dy[shape.by_head(h, t)..][..shape.width];
            if table.is_empty() {
                for c in (0..shape.width).step_by(S::LANES) {
                    add_to(s, dx, c, get(s, dy, c));
                }
                continue;
            }
            let (cos, sin) = angles(shape, table, t);
            let half = shape.width / 2;
            let ((d0, d1), (dx0, dx1)) = (dy.split_at(half), dx.split_at_mut(half));
            for c in (0..half).step_by(S::LANES) {
                let back = s.sub(s.splat(0.0), get(s, sin, c));
                let (a, b) = turned(s, get(s, d0, c), get(s, d1, c), get(s, cos, c), back);
                add_to(s, dx0, c, a);
                add_to(s, dx1, c, b);
            }
        }
    }

    /// Rows of `dx [H, T, D]` from row `first` on.
    fn add_to_heads(s: S, shape: HeadShape, first: usize, dy: &'a [f32], dx: &'a mut [f32]) {
        for (i, dx) in dx.chunks_exact_mut(shape.width).enumerate() {
            let (h, t) = head_and_token(shape, first + i);
            let dy = &dy[shape.by_token(h, t)..][..shape.width];
            for c in (0..shape.width).step_by(S::LANES) {
                add_to(s, dx, c, get(s, dy, c));
            }
        }
    }
}

/// Cosines and sines of a token.
fn angles(s: HeadShape, table: &[f32], t: usize) -> (&[f32], &[f32]) {
    table[t * s.width..][..s.width].split_at(s.width / 2)
}

/// Pairs `(a, b)` turned by an angle.
#[inline(always)]
fn turned<S: Simd>(s: S, a: S::V, b: S::V, cos: S::V, sin: S::V) -> (S::V, S::V) {
    (s.sub(s.mul(a, cos), s.mul(b, sin)), s.fma(a, sin, s.mul(b, cos)))
}
