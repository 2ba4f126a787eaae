//! Passes over a matrix `[rows, width]` in strips of a few vectors, down all of whose rows they go with their sums in
//! registers.

use crate::simd::Simd;

/// Calls `$f::<S, V>` with the first column of each strip of `V` vectors of `width` columns.
macro_rules! strips {
    ($S:ident, $width:expr, |$at:ident| $f:ident($($arg:expr),* $(,)?)) => {{
        let (width, mut $at) = ($width, 0);
        while $at + 4 * $S::LANES <= width {
            $f::<$S, 4>($($arg),*);
            $at += 4 * $S::LANES;
        }
        while $at + 2 * $S::LANES <= width {
            $f::<$S, 2>($($arg),*);
            $at += 2 * $S::LANES;
        }
        while $at + $S::LANES <= width {
            $f::<$S, 1>($($arg),*);
            $at += $S::LANES;
        }
    }};
}
pub(super) use strips;

/// The vectors from `at` on.
#[inline(always)]
pub(super) fn load<S: Simd, const V: usize>(s: S, x: &[f32], at: usize) -> [S::V; V] {
    let part = &x[at..at + V * S::LANES];
    let mut out = [s.splat(0.0); V];
    for (v, out) in out.iter_mut().enumerate() {
        // SAFETY: the part holds V vectors.
        *out = unsafe { s.load(part.as_ptr().add(v * S::LANES)) };
    }
    out
}

/// Writes the vectors from `at` on.
#[inline(always)]
pub(super) fn store<S: Simd, const V: usize>(s: S, y: &mut [f32], at: usize, x: [S::V; V]) {
    let part = &mut y[at..at + V * S::LANES];
    for (v, &x) in x.iter().enumerate() {
        // SAFETY: the part holds V vectors.
        unsafe { s.store(part.as_mut_ptr().add(v * S::LANES), x) };
    }
}

/// Sum of `x y` over the lanes of a strip.
#[inline(always)]
pub(super) fn across<S: Simd, const V: usize>(s: S, x: [S::V; V], y: [S::V; V]) -> f32 {
    let mut sum = s.mul(x[0], y[0]);
    for v in 1..V {
        sum = s.fma(x[v], y[v], sum);
    }
    s.sum(sum)
}

/// `out = M x`, a sum over the slots per row.
#[inline(always)]
pub(super) fn over_slots<S: Simd>(s: S, width: usize, m: &[f32], x: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    strips!(S, width, |at| add_over_slots(s, at, width, m, x, out));
}

/// `out += M x` for the slots of a strip.
#[inline(always)]
pub(super) fn add_over_slots<S: Simd, const V: usize>(
    s: S,
    at: usize,
    width: usize,
    m: &[f32],
    x: &[f32],
    out: &mut [f32],
) {
    let x = load::<S, V>(s, x, at);
    for (row, out) in m.chunks_exact(width).zip(out) {
        *out += across(s, load::<S, V>(s, row, at), x);
    }
}

/// `out = M^T x`, a sum over the rows per slot.
#[inline(always)]
pub(super) fn over_rows<S: Simd>(s: S, width: usize, m: &[f32], x: &[f32], out: &mut [f32]) {
    strips!(S, width, |at| set_over_rows(s, at, width, m, x, out));
}

#[inline(always)]
fn set_over_rows<S: Simd, const V: usize>(s: S, at: usize, width: usize, m: &[f32], x: &[f32], out: &mut [f32]) {
    let mut sums = [s.splat(0.0); V];
    for (row, &x) in m.chunks_exact(width).zip(x) {
        let (row, x) = (load::<S, V>(s, row, at), s.splat(x));
        for v in 0..V {
            sums[v] = s.fma(x, row[v], sums[v]);
        }
    }
    store(s, out, at, sums);
}
