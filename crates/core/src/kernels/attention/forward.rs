//! The forward pass.
#![allow(unsafe_code)]

use super::{Keys, Store, TILE, by_rows, turned};
use crate::kernels::gemm::{Product, Start, View, multiply};
use crate::kernels::parallel::{Shared, for_each};
use crate::kernels::scratch;
use crate::kernels::vector::{get, kernel, put};
use crate::ops::{AttentionShape, KEY_BLOCK};
use crate::simd::{Isa, Simd};
use std::ops::Range;

/// Work below which a call stays on its thread: some ten microseconds, several times what a fork costs.
const SPLIT_FLOPS: usize = 1_000_000;

/// See [`crate::ops::Ops::attention_forward`].
pub(crate) fn forward(
    isa: Isa,
    parallel: bool,
    s: AttentionShape,
    q: &[f32],
    store: Store<'_>,
    y: &mut [f32],
    lse: &mut [f32],
) {
    let (tiles, width) = (s.tokens.div_ceil(TILE), s.width);
    let (y, lse) = (Shared::new(y), Shared::new(lse));
    let flops = 4 * s.heads * s.tokens * s.width * (s.prefix + s.window.min(s.pos as usize + s.tokens));
    for_each(parallel && flops > SPLIT_FLOPS, s.heads * tiles, |part| {
        let (head, first) = (part / tiles, part % tiles * TILE);
        let rows = TILE.min(s.tokens - first);
        let row = head * s.tokens + first;
        // SAFETY: each part has rows of its own.
        let (y, lse) = unsafe { (y.part(row * width, rows * width), lse.part(row, rows)) };
        tile(isa, s, head, first, rows, &q[row * width..][..rows * width], store, y, lse);
    });
}

kernel! {
    /// One tile: `rows` queries `q` of one head from row `first` on.
    fn tile(
        s: S,
        shape: AttentionShape,
        head: usize,
        first: usize,
        rows: usize,
        q: &'a [f32],
        store: Store<'a>,
        y: &'a mut [f32],
        lse: &'a mut [f32],
    ) {
        let (width, kv) = (shape.width, head / (shape.heads / shape.kv_heads));
        let scale = score_scale(shape);
        let mut scratch = scratch::borrow();
        let [weights, max, shrink, sums] = scratch.take([TILE * KEY_BLOCK, TILE, TILE, TILE * S::LANES]);
        y.fill(0.0);
        max[..rows].fill(f32::NEG_INFINITY);
        sums[..rows * S::LANES].fill(0.0);
        for keys in Keys::all(shape, first, rows) {
            let seeing = keys.rows(shape, first, rows);
            let (from, count) = (seeing.start - first, seeing.len());
            let seen = keys.of_rows(shape, &seeing, S::LANES);
            let operands = Operands::new(shape, store, kv, keys, &seen);
            let scores = Product {
                m: count,
                n: operands.count,
                k: width,
                a: by_rows(&q[from * width..], width),
                b: operands.keys,
                c: weights.as_mut_ptr(),
                c_stride: KEY_BLOCK,
                start: Start::Zero,
            };
            // SAFETY: the rows and the keys exist, and the tile of weights holds the scores.
            unsafe { multiply(s, scores) };
            hide_unseen(shape, keys, seeing, &seen, weights);
            let (max, sums) = (&mut max[from..][..count], &mut sums[from * S::LANES..][..count * S::LANES]);
            let y = &mut y[from * width..][..count * width];
            soften(s, scale, seen.len(), weights, max, &mut shrink[..count], sums);
            scale_rows(s, width, &shrink[..count], y);
            let weighted = Product {
                m: count,
                n: width,
                k: operands.count,
                a: by_rows(weights, KEY_BLOCK),
                b: operands.values,
                c: y.as_mut_ptr(),
                c_stride: width,
                start: Start::Current,
            };
            // SAFETY: the weights were just computed, and the values and the rows of y exist.
            unsafe { multiply(s, weighted) };
        }
        for (i, lse) in lse.iter_mut().enumerate() {
            let sum = s.sum(get(s, &sums[i * S::LANES..][..S::LANES], 0));
            *lse = scale * max[i] + sum.ln();
            shrink[i] = 1.0 / sum;
        }
        scale_rows(s, width, &shrink[..rows], y);
    }
}

/// Keys as `[D, count]` and values as `[count, D]`, where they lie.
struct Operands {
    keys: View,
    values: View,
    count: usize,
}

impl Operands {
    /// Those among `keys` that any row of a tile sees. Of a block of the ring, whole vectors: what lies behind the last
    /// key exists, and is hidden later.
    #[inline(always)]
    fn new(s: AttentionShape, store: Store<'_>, kv: usize, keys: Keys, seen: &Range<usize>) -> Self {
        match keys {
            Keys::Prefix { first, count } => {
                let [keys, values] = store.prefix(s, kv, first, count);
                Self { keys: turned(keys, s.width), values: by_rows(values, s.width), count }
            }
            Keys::Block(block) => {
                let [keys, values] = store.block(s, kv, block);
                let values = by_rows(&values[seen.start * s.width..], s.width);
                Self { keys: by_rows(&keys[seen.start..], KEY_BLOCK), values, count: seen.len() }
            }
        }
    }
}

/// Gives every score of a key that its row does not see, or that does not exist, the value that has no weight.
fn hide_unseen(s: AttentionShape, keys: Keys, rows: Range<usize>, seen: &Range<usize>, scores: &mut [f32]) {
    for (row, t) in scores.chunks_exact_mut(KEY_BLOCK).zip(rows) {
        let own = keys.of_row(s, t);
        row[..own.start - seen.start].fill(f32::NEG_INFINITY);
        row[own.end - seen.start..seen.len()].fill(f32::NEG_INFINITY);
    }
}

/// What scores are multiplied with.
pub(super) fn score_scale(s: AttentionShape) -> f32 {
    (1.0 / (s.width as f64).sqrt()) as f32
}

/// Turns the first `n` scores of each row of `weights [rows, KEY_BLOCK]` into weights relative to the row's largest
/// score so far, and adds them to `sums [rows, LANES]`. `shrink` receives the factors for what the rows have summed
/// before: below one where the block raises the maximum, exactly one elsewhere.
#[inline(always)]
fn soften<S: Simd>(
    s: S,
    scale: f32,
    n: usize,
    weights: &mut [f32],
    max: &mut [f32],
    shrink: &mut [f32],
    sums: &mut [f32],
) {
    for (i, (max, old)) in max.iter_mut().zip(&mut *shrink).enumerate() {
        let mut largest = s.splat(*max);
        for at in (0..n).step_by(S::LANES) {
            largest = s.max(get(s, &weights[i * KEY_BLOCK..][..KEY_BLOCK], at), largest);
        }
        *old = *max;
        *max = s.max_lane(largest);
    }
    // All rows at once: an exponential costs the same for one value and for a vector.
    for at in (0..max.len()).step_by(S::LANES) {
        let fall = s.sub(get(s, shrink, at), get(s, max, at));
        put(s, shrink, at, s.exp(s.mul(fall, s.splat(scale))));
    }
    for (i, sum) in sums.chunks_exact_mut(S::LANES).enumerate() {
        let max = s.splat(max[i]);
        let mut total = s.mul(get(s, sum, 0), s.splat(shrink[i]));
        let weights = &mut weights[i * KEY_BLOCK..][..KEY_BLOCK];
        for at in (0..n).step_by(S::LANES) {
            let weight = s.exp(s.mul(s.sub(get(s, weights, at), max), s.splat(scale)));
            put(s, weights, at, weight);
            total = s.add(total, weight);
        }
        put(s, sum, 0, total);
    }
}

/// Multiplies each row of `y [factors, width]` with its factor.
#[inline(always)]
fn scale_rows<S: Simd>(s: S, width: usize, factors: &[f32], y: &mut [f32]) {
    for (y, &factor) in y.chunks_exact_mut(width).zip(factors) {
        for at in (0..width).step_by(S::LANES) {
            // Adding zero turns -0 into 0, so that a weight of zero leaves every bit of y as it is.
            put(s, y, at, s.fma(get(s, y, at), s.splat(factor), s.splat(0.0)));
        }
    }
}
