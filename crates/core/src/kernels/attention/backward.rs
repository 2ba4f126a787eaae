//! The transpose: weights are computed again from log-sum-exp, key block by key block.
#![allow(unsafe_code)]

use super::forward::score_scale;
use super::{TILE, block_start, blocks, by_rows, keys_of_row, keys_of_rows, rows_of_block};
use crate::kernels::gemm::{Product, Start, View, multiply, pack_right};
use crate::kernels::parallel::{Shared, for_each};
use crate::kernels::scratch;
use crate::kernels::vector::{add_to, dot, get, kernel, put};
use crate::ops::{AttentionShape, KEY_BLOCK};
use crate::simd::{Isa, Simd};
use std::ops::Range;

/// What the backward pass adds into: `dq [heads, T, D]`, `dk, dv [kv_heads, T, D]`.
pub(crate) struct Gradients<'a> {
    pub dq: &'a mut [f32],
    pub dk: &'a mut [f32],
    pub dv: &'a mut [f32],
}

/// What the forward pass took and gave, and the gradient of `y`.
#[derive(Clone, Copy)]
struct Tape<'a> {
    q: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    lse: &'a [f32],
    dy: &'a [f32],
    /// `<dy, y>` per row.
    along: &'a [f32],
}

/// See [`crate::ops::Ops::attention_backward`]. Key heads run side by side; each sums over its key blocks, its query
/// heads and their tiles in rising order.
pub(crate) fn backward(
    isa: Isa,
    parallel: bool,
    s: AttentionShape,
    [q, keys, values, y, lse, dy]: [&[f32]; 6],
    d: Gradients<'_>,
) {
    if s.tokens == 0 {
        return;
    }
    let group = s.heads / s.kv_heads;
    let (rows, own) = (group * s.tokens, s.tokens * s.width);
    let (dq, dk, dv) = (Shared::new(d.dq), Shared::new(d.dk), Shared::new(d.dv));
    for_each(parallel, s.kv_heads, |kv| {
        // SAFETY: each key head has rows of its own in all three gradients.
        let (dq, dk, dv) =
            unsafe { (dq.part(kv * group * own, group * own), dk.part(kv * own, own), dv.part(kv * own, own)) };
        let of_head =
            |x: &'_ [f32]| -> std::ops::Range<usize> { kv * x.len() / s.kv_heads..(kv + 1) * x.len() / s.kv_heads };
        let (q, y, dy, lse) = (&q[of_head(q)], &y[of_head(y)], &dy[of_head(dy)], &lse[of_head(lse)]);
        let mut scratch = scratch::borrow();
        let [along] = scratch.take([rows]);
        inner_products(isa, s.width, dy, y, along);
        let tape = Tape { q, keys, values, lse, dy, along };
        key_head(isa, s, kv, tape, dq, dk, dv);
    });
}

kernel! {
    /// `out_i = <a_i, b_i>` per row.
    fn inner_products(s: S, width: usize, a: &'a [f32], b: &'a [f32], out: &'a mut [f32]) {
        for ((a, b), out) in a.chunks_exact(width).zip(b.chunks_exact(width)).zip(out) {
            *out = dot(s, a, b);
        }
    }

    /// All blocks of one key head; the tape and `dq` hold the rows of its query heads.
    fn key_head(
        s: S,
        shape: AttentionShape,
        kv: usize,
        tape: Tape<'a>,
        dq: &'a mut [f32],
        dk: &'a mut [f32],
        dv: &'a mut [f32],
    ) {
        let width = shape.width;
        let padded = width.next_multiple_of(S::LANES);
        let block_len = KEY_BLOCK * width;
        let mut scratch = scratch::borrow();
        let [key_rows, value_columns, dkeys, dvalues, weights, dscores] = scratch.take([
            KEY_BLOCK * padded,
            block_len,
            block_len,
            block_len,
            TILE * KEY_BLOCK,
            TILE * KEY_BLOCK,
        ]);
        for block in blocks(shape, 0, shape.tokens) {
            let at = block_start(shape, kv, block);
            let (keys, values) = (&tape.keys[at..][..block_len], &tape.values[at..][..block_len]);
            let turned = |data: &[f32], stride| View { data: data.as_ptr(), row_stride: 1, col_stride: stride };
            // SAFETY: a block of keys is [D, KEY_BLOCK], of values [KEY_BLOCK, D]; the scratch holds both turned.
            unsafe {
                pack_right(s, turned(keys, KEY_BLOCK), KEY_BLOCK, width, padded, key_rows.as_mut_ptr());
                pack_right(s, turned(values, width), width, KEY_BLOCK, KEY_BLOCK, value_columns.as_mut_ptr());
            }
            dkeys.fill(0.0);
            dvalues.fill(0.0);
            let operands = Block { block, keys, key_rows, value_columns };
            for head in 0..shape.heads / shape.kv_heads {
                let tape = tape.head(shape, head);
                let dq = &mut dq[head * shape.tokens * width..][..shape.tokens * width];
                let seeing = rows_of_block(shape, block, 0, shape.tokens);
                for first in seeing.clone().step_by(TILE) {
                    let rows = first..seeing.end.min(first + TILE);
                    tile(s, shape, operands, tape, rows, [weights, dscores, dkeys, dvalues], dq);
                }
            }
            add_own_keys(s, shape, block, dkeys, dk);
            add_own_keys(s, shape, block, dvalues, dv);
        }
    }
}

/// Adds the rows of `from [KEY_BLOCK, D]` that are keys of the call to `to [T, D]`: older ones are constants.
#[inline(always)]
fn add_own_keys<S: Simd>(s: S, shape: AttentionShape, block: u64, from: &[f32], to: &mut [f32]) {
    for (p, row) in (block * KEY_BLOCK as u64..).zip(from.chunks_exact(shape.width)) {
        let Some(t) = p.checked_sub(shape.pos).filter(|&t| t < shape.tokens as u64) else { continue };
        let to = &mut to[t as usize * shape.width..][..shape.width];
        for c in (0..shape.width).step_by(S::LANES) {
            add_to(s, to, c, get(s, row, c));
        }
    }
}

impl<'a> Tape<'a> {
    /// The rows of one query head.
    fn head(self, s: AttentionShape, head: usize) -> Self {
        let (from, len) = (head * s.tokens, s.tokens);
        let rows = |x: &'a [f32]| &x[from * s.width..][..len * s.width];
        Self {
            q: rows(self.q),
            dy: rows(self.dy),
            lse: &self.lse[from..][..len],
            along: &self.along[from..][..len],
            ..self
        }
    }
}

/// One key block, in the orders in which the products read it.
#[derive(Clone, Copy)]
struct Block<'a> {
    block: u64,
    /// Keys as they lie in the cache, `[D, KEY_BLOCK]`.
    keys: &'a [f32],
    /// `[KEY_BLOCK, D]`, rows padded to whole vectors.
    key_rows: &'a [f32],
    /// Values turned, `[D, KEY_BLOCK]`.
    value_columns: &'a [f32],
}

/// One tile of query rows against one block: adds into `dq [T, D]` and into the block's `dkeys, dvalues
/// [KEY_BLOCK, D]`, the last two of `work`.
#[inline(always)]
fn tile<S: Simd>(
    s: S,
    shape: AttentionShape,
    b: Block<'_>,
    tape: Tape<'_>,
    rows: Range<usize>,
    [weights, dscores, dkeys, dvalues]: [&mut [f32]; 4],
    dq: &mut [f32],
) {
    let seen = keys_of_rows(shape, b.block, &rows, S::LANES);
    tile_weights(s, shape, b, tape, &rows, &seen, [weights, dscores]);
    let (width, padded) = (shape.width, shape.width.next_multiple_of(S::LANES));
    let turned = |data: &[f32]| View { data: data.as_ptr(), row_stride: 1, col_stride: KEY_BLOCK };
    let to_values = Product {
        m: seen.len(),
        n: width,
        k: rows.len(),
        a: turned(weights),
        b: by_rows(&tape.dy[rows.start * width..], width),
        c: dvalues[seen.start * width..].as_mut_ptr(),
        c_stride: width,
        start: Start::Current,
    };
    let to_keys = Product {
        a: turned(dscores),
        b: by_rows(&tape.q[rows.start * width..], width),
        c: dkeys[seen.start * width..].as_mut_ptr(),
        ..to_values
    };
    let to_queries = Product {
        m: rows.len(),
        k: seen.len(),
        a: by_rows(dscores, KEY_BLOCK),
        b: by_rows(&b.key_rows[seen.start * padded..], padded),
        c: dq[rows.start * width..].as_mut_ptr(),
        ..to_values
    };
    // SAFETY: both tiles were just computed for the rows, and every result exists.
    unsafe {
        multiply(s, to_values);
        multiply(s, to_keys);
        multiply(s, to_queries);
    }
}

/// Weights of a tile, and the gradients of its unscaled scores: `[rows, KEY_BLOCK]` each, of which the first
/// `seen.len()` columns are written, zeros where a row does not see a key.
#[inline(always)]
fn tile_weights<S: Simd>(
    s: S,
    shape: AttentionShape,
    b: Block<'_>,
    tape: Tape<'_>,
    rows: &Range<usize>,
    seen: &Range<usize>,
    [weights, dscores]: [&mut [f32]; 2],
) {
    let width = shape.width;
    let scores = Product {
        m: rows.len(),
        n: seen.len(),
        k: width,
        a: by_rows(&tape.q[rows.start * width..], width),
        b: by_rows(&b.keys[seen.start..], KEY_BLOCK),
        c: weights.as_mut_ptr(),
        c_stride: KEY_BLOCK,
        start: Start::Zero,
    };
    let dweights = Product {
        a: by_rows(&tape.dy[rows.start * width..], width),
        b: by_rows(&b.value_columns[seen.start..], KEY_BLOCK),
        c: dscores.as_mut_ptr(),
        ..scores
    };
    // SAFETY: the rows exist, the block's operands are [D, KEY_BLOCK], and both tiles hold the results.
    unsafe {
        multiply(s, scores);
        multiply(s, dweights);
    }
    for (i, t) in rows.clone().enumerate() {
        let own = keys_of_row(shape, b.block, t);
        let row = i * KEY_BLOCK..i * KEY_BLOCK + seen.len();
        let (p, d) = (&mut weights[row.clone()], &mut dscores[row]);
        score_gradients(s, score_scale(shape), tape.lse[t], tape.along[t], p, d);
        for x in [p, d] {
            x[..own.start - seen.start].fill(0.0);
            x[own.end - seen.start..].fill(0.0);
        }
    }
}

/// In: scores and the gradients of the weights. Out: weights and the gradients of the unscaled scores.
#[inline(always)]
fn score_gradients<S: Simd>(s: S, scale: f32, lse: f32, along: f32, scores: &mut [f32], d: &mut [f32]) {
    for at in (0..scores.len()).step_by(S::LANES) {
        let x = s.fma(get(s, scores, at), s.splat(scale), s.splat(-lse));
        let weight = s.exp(x);
        put(s, scores, at, weight);
        let slope = s.mul(s.sub(get(s, d, at), s.splat(along)), s.splat(scale));
        put(s, d, at, s.mul(weight, slope));
    }
}
