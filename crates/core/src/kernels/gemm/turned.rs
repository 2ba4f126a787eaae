//! Few rows against a transposed matrix: what goes backward through a weight, for some tokens.
//!
//! Turning the matrix so that its columns become vectors would cost as much as the product. Here a vector holds one
//! column of the *left* operand, so that the matrix is read where it is, value by value, and the result comes out
//! transposed: a small block of it at a time is put where it belongs.

use super::tile::{self, Ahead, Left, Operands, max_rows};
use super::{FEW_ROWS, LINE, NEAR, Product, Start, View, even_parts, pack, scratch};
use crate::simd::{Simd, Vectorized};

/// Values of the matrix's rows that are gone through at a time: while they are at work the next ones are asked for.
const DEPTH: usize = 8 * LINE;

/// Whether this way is the faster one: for few rows a vector is mostly empty, and a small matrix is soon turned.
#[inline(always)]
pub(super) fn is_worth(p: &Product) -> bool {
    let few = p.m <= FEW_ROWS && p.b.row_stride == 1;
    few && (p.m > 8 && p.k >= 64 || p.m > 4 && p.k * p.n > NEAR)
}

/// A product with `k` > 0, at most [`FEW_ROWS`] rows, and a right operand of contiguous columns.
pub(super) struct Turned(pub Product);

impl Vectorized for Turned {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(p) = self;
        debug_assert!(p.b.row_stride == 1 && p.m <= 4 * S::LANES);
        let vectors = p.m.div_ceil(S::LANES).next_power_of_two();
        let width = vectors * S::LANES;
        let mut scratch = scratch::borrow();
        let [left, block] = scratch.take([p.k * width, S::LANES * width]);
        let turned = View { data: p.a.data, row_stride: p.a.col_stride, col_stride: p.a.row_stride };
        // SAFETY: whoever made the product vouches for its matrices; blocks lie inside of them.
        unsafe {
            pack::right(s, turned, p.k, p.m, width, left.as_mut_ptr());
            for j in (0..p.n).step_by(S::LANES) {
                let columns = S::LANES.min(p.n - j);
                let part = Product { n: columns, b: p.b.at(0, j), c: p.c.add(j), ..p };
                if p.start == Start::Current {
                    fetch(s, part, block, width);
                }
                let following = S::LANES.min(p.n - j - columns);
                fill(s, part, left, block, vectors, following);
                put(s, part, block, width);
            }
        }
    }
}

/// Computes the transposed block `[n, width]`; behind the block's columns the matrix has `following` more.
#[inline(always)]
unsafe fn fill<S: Simd>(s: S, p: Product, left: &[f32], block: &mut [f32], vectors: usize, following: usize) {
    let width = vectors * S::LANES;
    for l in (0..p.k).step_by(DEPTH) {
        let depth = DEPTH.min(p.k - l);
        // The next columns are one run of memory behind these, unless the matrix is a part of another.
        let whole = p.b.col_stride == p.k;
        let next = p.b.at(0, p.n).data.wrapping_add(l * following);
        let ahead = if whole { Ahead::run(next, depth * following) } else { Ahead::NOTHING };
        for (i, rows) in even_parts(p.n, max_rows::<S>(vectors, Left::ByRow)) {
            let operands = Operands {
                depth,
                a: p.b.at(l, i).data,
                a_stride: p.b.col_stride,
                b: left[l * width..].as_ptr(),
                b_stride: width,
                c: block[i * width..].as_mut_ptr(),
                c_stride: width,
                columns: width,
                fresh: l == 0 && p.start == Start::Zero,
                ahead: if i == 0 { ahead } else { Ahead::NOTHING },
            };
            // SAFETY: the columns exist, and `left` and `block` are as long as they have to be.
            unsafe { tile::run(s, rows, vectors, Left::ByRow, operands) };
        }
    }
}

/// Copies the result as it is into the transposed block.
#[inline(always)]
unsafe fn fetch<S: Simd>(s: S, p: Product, block: &mut [f32], width: usize) {
    for i in (0..width).step_by(S::LANES) {
        let rows = p.m.saturating_sub(i).min(S::LANES);
        // SAFETY: the rows and columns exist; whole vectors of the block are written.
        unsafe { s.transpose(rows, p.n, p.c.add(i * p.c_stride), p.c_stride, block[i..].as_mut_ptr(), width) };
    }
}

/// Copies the transposed block into the result.
#[inline(always)]
unsafe fn put<S: Simd>(s: S, p: Product, block: &[f32], width: usize) {
    // SAFETY: the rows and columns exist; whole vectors are written only where all of their columns do.
    unsafe {
        if p.n == S::LANES {
            for i in (0..p.m).step_by(S::LANES) {
                let rows = S::LANES.min(p.m - i);
                s.transpose(p.n, rows, block[i..].as_ptr(), width, p.c.add(i * p.c_stride), p.c_stride);
            }
        } else {
            for i in 0..p.m {
                for j in 0..p.n {
                    *p.c.add(i * p.c_stride + j) = block[j * width + i];
                }
            }
        }
    }
}
