//! The transpose: weights are computed again from log-sum-exp, key block by key block.
#![allow(unsafe_code)]

use super::forward::score_scale;
use super::{Keys, Store, TILE, by_rows, turned};
use crate::kernels::gemm::{Product, Start, multiply, pack_right};
use crate::kernels::parallel::{Shared, for_each};
use crate::kernels::scratch;
use crate::kernels::vector::{add_to, dot, get, kernel, put};
use crate::ops::{AttentionShape, KEY_BLOCK, Prefix};
use crate::simd::{Isa, Simd};
use std::ops::Range;

/// What the backward pass adds into: `dq [heads, T, D]`, `dk, dv [kv_heads, T, D]`, and `[kv_heads, prefix, D]` twice.
/// Without the last, gradients go along columns: `dk, dv` of a token come from its own queries alone.
pub(crate) struct Gradients<'a> {
    pub dq: &'a mut [f32],
    pub dk: &'a mut [f32],
    pub dv: &'a mut [f32],
    pub dprefix: Option<Prefix<&'a mut [f32]>>,
}

/// What the forward pass took and gave, and the gradient of `y`.
#[derive(Clone, Copy)]
struct Tape<'a> {
    q: &'a [f32],
    lse: &'a [f32],
    dy: &'a [f32],
    /// `<dy, y>` per row.
    along: &'a [f32],
}

/// See [`crate::ops::Ops::attention_backward`] and [`crate::ops::Ops::attention_column_backward`]. Key heads run side
/// by side; each sums over the prefix and its key blocks, its query heads and their tiles in rising order.
pub(crate) fn backward(
    isa: Isa,
    parallel: bool,
    s: AttentionShape,
    store: Store<'_>,
    [q, y, lse, dy]: [&[f32]; 4],
    d: Gradients<'_>,
) {
    if s.tokens == 0 {
        return;
    }
    let group = s.heads / s.kv_heads;
    let (rows, own, fixed) = (group * s.tokens, s.tokens * s.width, s.prefix * s.width);
    let [dq, dk, dv] = [d.dq, d.dk, d.dv].map(Shared::new);
    let dprefix = d.dprefix.map(|d| [d.keys, d.values].map(Shared::new));
    for_each(parallel, s.kv_heads, |kv| {
        // SAFETY: each key head has rows of its own in every gradient.
        let d = unsafe {
            Gradients {
                dq: dq.part(kv * group * own, group * own),
                dk: dk.part(kv * own, own),
                dv: dv.part(kv * own, own),
                dprefix: dprefix.map(|[keys, values]| Prefix {
                    keys: keys.part(kv * fixed, fixed),
                    values: values.part(kv * fixed, fixed),
                }),
            }
        };
        let of_head =
            |x: &'_ [f32]| -> std::ops::Range<usize> { kv * x.len() / s.kv_heads..(kv + 1) * x.len() / s.kv_heads };
        let (q, y, dy, lse) = (&q[of_head(q)], &y[of_head(y)], &dy[of_head(dy)], &lse[of_head(lse)]);
        let mut scratch = scratch::borrow();
        let [along] = scratch.take([rows]);
        inner_products(isa, s.width, dy, y, along);
        key_head(isa, s, kv, store, Tape { q, lse, dy, along }, d);
    });
}

kernel! {
    /// `out_i = <a_i, b_i>` per row.
    fn inner_products(s: S, width: usize, a: &'a [f32], b: &'a [f32], out: &'a mut [f32]) {
        for ((a, b), out) in a.chunks_exact(width).zip(b.chunks_exact(width)).zip(out) {
            *out = dot(s, a, b);
        }
    }

    /// The prefix and all blocks of one key head; the tape and the gradients hold its rows.
    fn key_head(s: S, shape: AttentionShape, kv: usize, store: Store<'a>, tape: Tape<'a>, d: Gradients<'a>) {
        let Gradients { dq, dk, dv, mut dprefix } = d;
        let width = shape.width;
        let padded = width.next_multiple_of(S::LANES);
        let block_len = KEY_BLOCK * width;
        let mut scratch = scratch::borrow();
        let [key_columns, key_rows, value_columns, dkeys, dvalues, weights, dscores] = scratch.take([
            if shape.prefix > 0 { block_len } else { 0 },
            KEY_BLOCK * padded,
            block_len,
            block_len,
            block_len,
            TILE * KEY_BLOCK,
            TILE * KEY_BLOCK,
        ]);
        for keys in Keys::all(shape, 0, shape.tokens) {
            let operands = Operands::pack(s, shape, kv, store, keys, [key_columns, key_rows, value_columns]);
            dkeys.fill(0.0);
            dvalues.fill(0.0);
            for head in 0..shape.heads / shape.kv_heads {
                let tape = tape.head(shape, head);
                let dq = &mut dq[head * shape.tokens * width..][..shape.tokens * width];
                let seeing = keys.rows(shape, 0, shape.tokens);
                for first in seeing.clone().step_by(TILE) {
                    let rows = first..seeing.end.min(first + TILE);
                    let to = match dprefix {
                        Some(_) => To::Keys([&mut *dkeys, &mut *dvalues]),
                        None => To::Column([&mut *dk, &mut *dv]),
                    };
                    tile(s, shape, operands, tape, rows, [weights, dscores], dq, to);
                }
            }
            let Some(dprefix) = &mut dprefix else { continue };
            match keys {
                Keys::Prefix { first, count } => {
                    let part = first * width..(first + count) * width;
                    add_rows(s, &dkeys[..count * width], &mut dprefix.keys[part.clone()]);
                    add_rows(s, &dvalues[..count * width], &mut dprefix.values[part]);
                }
                Keys::Block(block) => {
                    add_own_keys(s, shape, block, dkeys, dk);
                    add_own_keys(s, shape, block, dvalues, dv);
                }
            }
        }
    }
}

/// Adds `from` to `to`.
#[inline(always)]
fn add_rows<S: Simd>(s: S, from: &[f32], to: &mut [f32]) {
    for c in (0..to.len()).step_by(S::LANES) {
        add_to(s, to, c, get(s, from, c));
    }
}

/// Adds the rows of `from [KEY_BLOCK, D]` that are keys of the call to `to [T, D]`: older ones are constants.
#[inline(always)]
fn add_own_keys<S: Simd>(s: S, shape: AttentionShape, block: u64, from: &[f32], to: &mut [f32]) {
    for (p, row) in (block * KEY_BLOCK as u64..).zip(from.chunks_exact(shape.width)) {
        let Some(t) = p.checked_sub(shape.pos).filter(|&t| t < shape.tokens as u64) else { continue };
        add_rows(s, row, &mut to[t as usize * shape.width..][..shape.width]);
    }
}

impl<'a> Tape<'a> {
    /// The rows of one query head.
    fn head(self, s: AttentionShape, head: usize) -> Self {
        let (from, len) = (head * s.tokens, s.tokens);
        let rows = |x: &'a [f32]| &x[from * s.width..][..len * s.width];
        Self { q: rows(self.q), dy: rows(self.dy), lse: &self.lse[from..][..len], along: &self.along[from..][..len] }
    }
}

/// Up to [`KEY_BLOCK`] keys and values, in the orders in which the products read them.
#[derive(Clone, Copy)]
struct Operands<'a> {
    keys: Keys,
    /// `[D, KEY_BLOCK]`, as blocks lie in the cache.
    key_columns: &'a [f32],
    /// `[KEY_BLOCK, D]`, rows padded to whole vectors.
    key_rows: &'a [f32],
    /// Values turned, `[D, KEY_BLOCK]`.
    value_columns: &'a [f32],
}

impl<'a> Operands<'a> {
    /// Keys of head `kv`; the space is that of the three orders, the first of them for the prefix alone.
    #[inline(always)]
    fn pack<S: Simd>(
        s: S,
        shape: AttentionShape,
        kv: usize,
        store: Store<'a>,
        keys: Keys,
        [key_columns, key_rows, value_columns]: [&'a mut [f32]; 3],
    ) -> Self {
        let width = shape.width;
        let padded = width.next_multiple_of(S::LANES);
        let key_columns = match keys {
            Keys::Prefix { first, count } => {
                let [k, v] = store.prefix(shape, kv, first, count);
                // SAFETY: both are [count, D]; the space holds the first as it is and both of them turned.
                unsafe {
                    pack_right(s, turned(k, width), width, count, KEY_BLOCK, key_columns.as_mut_ptr());
                    pack_right(s, by_rows(k, width), count, width, padded, key_rows.as_mut_ptr());
                    pack_right(s, turned(v, width), width, count, KEY_BLOCK, value_columns.as_mut_ptr());
                }
                // Tiles reach to whole vectors of keys.
                key_rows[count * padded..].fill(0.0);
                key_columns
            }
            Keys::Block(block) => {
                let [k, v] = store.block(shape, kv, block);
                // SAFETY: a block of keys is [D, KEY_BLOCK], of values [KEY_BLOCK, D]; the space holds both turned.
                unsafe {
                    pack_right(s, turned(k, KEY_BLOCK), KEY_BLOCK, width, padded, key_rows.as_mut_ptr());
                    pack_right(s, turned(v, width), width, KEY_BLOCK, KEY_BLOCK, value_columns.as_mut_ptr());
                }
                k
            }
        };
        Self { keys, key_columns, key_rows, value_columns }
    }
}

/// Where a tile leaves the gradients of keys and values.
enum To<'a> {
    /// Those of the keys at hand, `[KEY_BLOCK, D]` each.
    Keys([&'a mut [f32]; 2]),
    /// What each query gives to the key and value of its own token, `[T, D]` each.
    Column([&'a mut [f32]; 2]),
}

/// One tile of query rows against some keys: adds into `dq [T, D]` and into the gradients of keys and values.
#[inline(always)]
fn tile<S: Simd>(
    s: S,
    shape: AttentionShape,
    b: Operands<'_>,
    tape: Tape<'_>,
    rows: Range<usize>,
    [weights, dscores]: [&mut [f32]; 2],
    dq: &mut [f32],
    to: To<'_>,
) {
    let seen = b.keys.of_rows(shape, &rows, S::LANES);
    tile_weights(s, shape, b, tape, &rows, &seen, [weights, dscores]);
    let (width, padded) = (shape.width, shape.width.next_multiple_of(S::LANES));
    let to_queries = Product {
        m: rows.len(),
        n: width,
        k: seen.len(),
        a: by_rows(dscores, KEY_BLOCK),
        b: by_rows(&b.key_rows[seen.start * padded..], padded),
        c: dq[rows.start * width..].as_mut_ptr(),
        c_stride: width,
        start: Start::Current,
    };
    // SAFETY: the tile was just computed for the rows, and the result exists.
    unsafe { multiply(s, to_queries) };
    match to {
        To::Column(to) => own_columns(s, shape, b.keys, tape, &rows, &seen, [weights, dscores], to),
        To::Keys([dkeys, dvalues]) => {
            let to_values = Product {
                m: seen.len(),
                k: rows.len(),
                a: turned(weights, KEY_BLOCK),
                b: by_rows(&tape.dy[rows.start * width..], width),
                c: dvalues[seen.start * width..].as_mut_ptr(),
                ..to_queries
            };
            let to_keys = Product {
                a: turned(dscores, KEY_BLOCK),
                b: by_rows(&tape.q[rows.start * width..], width),
                c: dkeys[seen.start * width..].as_mut_ptr(),
                ..to_values
            };
            // SAFETY: both tiles were just computed for the rows, and the results exist.
            unsafe {
                multiply(s, to_values);
                multiply(s, to_keys);
            }
        }
    }
}

/// Adds to the rows of `dk, dv [T, D]` what the queries of a tile give to the keys of their own tokens, as far as those
/// are among `keys`.
#[inline(always)]
fn own_columns<S: Simd>(
    s: S,
    shape: AttentionShape,
    keys: Keys,
    tape: Tape<'_>,
    rows: &Range<usize>,
    seen: &Range<usize>,
    [weights, dscores]: [&[f32]; 2],
    [dk, dv]: [&mut [f32]; 2],
) {
    let Keys::Block(block) = keys else { return };
    for (i, t) in rows.clone().enumerate() {
        let p = shape.pos + t as u64;
        if p / KEY_BLOCK as u64 != block {
            continue;
        }
        let at = i * KEY_BLOCK + (p % KEY_BLOCK as u64) as usize - seen.start;
        let row = t * shape.width..(t + 1) * shape.width;
        for (to, factor, from) in [(&mut *dk, dscores[at], tape.q), (&mut *dv, weights[at], tape.dy)] {
            let (to, from) = (&mut to[row.clone()], &from[row.clone()]);
            for c in (0..shape.width).step_by(S::LANES) {
                put(s, to, c, s.fma(s.splat(factor), get(s, from, c), get(s, to, c)));
            }
        }
    }
}

/// Weights of a tile, and the gradients of its unscaled scores: `[rows, KEY_BLOCK]` each, of which the first
/// `seen.len()` columns are written, zeros where a row does not see a key.
#[inline(always)]
fn tile_weights<S: Simd>(
    s: S,
    shape: AttentionShape,
    b: Operands<'_>,
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
        b: by_rows(&b.key_columns[seen.start..], KEY_BLOCK),
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
    // SAFETY: the rows exist, the operands are [D, KEY_BLOCK], and both tiles hold the results.
    unsafe {
        multiply(s, scores);
        multiply(s, dweights);
    }
    for (i, t) in rows.clone().enumerate() {
        let own = b.keys.of_row(shape, t);
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
