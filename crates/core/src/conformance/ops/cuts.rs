//! Streams cut into calls: what a model does with tails and rings, so that any cut can be compared with one call.

use super::case::{slices, slices_mut};
use crate::ops::{AttentionShape, ConvShape, HeadShape, Ops, Prefix, attention, conv};
use crate::rules::AnyRule;
use crate::scalar::Scalar;
use crate::scan::{ScanShape, Write};
use std::ops::Range;

/// [`Ops::conv_forward`] over `x [T, C]`, cut after every number of tokens in `pieces`, the tail carried over.
/// Gives `y [H, T, D]`.
///
/// # Panics
/// If the pieces do not add up to the tokens of `s`.
pub fn conv_in_pieces<O: Ops>(
    ops: &O,
    s: ConvShape,
    x: &[O::F],
    w: &[O::F],
    tail: &[O::F],
    pieces: &[usize],
) -> Vec<O::F> {
    let HeadShape { tokens, heads, width } = s.heads;
    let channels = heads * width;
    let (mut tail, mut y) = (tail.to_vec(), vec![O::F::zero(); x.len()]);
    for at in ranges(tokens, pieces) {
        let piece = ConvShape { heads: HeadShape { tokens: at.len(), ..s.heads }, ..s };
        let x = &x[at.start * channels..at.end * channels];
        let mut part = vec![O::F::zero(); x.len()];
        ops.conv_forward(piece, x, w, &tail, &mut part);
        conv::push_tail(channels, s.taps, x, &mut tail);
        put(&part, heads, tokens, width, at, &mut y);
    }
    y
}

/// [`Ops::attention_forward`] over `q [heads, T, D]`, `k, v [kv_heads, T, D]`, cut after every number of tokens in
/// `pieces`, each with the same prefix. Between calls the keys live in the smallest ring; each call carries them into
/// one that holds its own. Gives `y [heads, T, D]`. The stream starts at `s.pos`, with nothing before it in the cache
/// (`s.ring` is unused).
///
/// # Panics
/// If the pieces do not add up to the tokens of `s`.
pub fn attention_in_pieces<O: Ops>(
    ops: &O,
    s: AttentionShape,
    q: &[O::F],
    k: &[O::F],
    v: &[O::F],
    prefix: Prefix<&[O::F]>,
    pieces: &[usize],
) -> Vec<O::F> {
    let resting = AttentionShape { ring: AttentionShape::ring_for(s.window, 1), tokens: 0, ..s };
    let mut rest = [vec![O::F::zero(); resting.cache_len()], vec![O::F::zero(); resting.cache_len()]];
    let mut y = vec![O::F::zero(); q.len()];
    for at in ranges(s.tokens, pieces) {
        let pos = s.pos + at.start as u64;
        let ring = AttentionShape::ring_for(s.window, at.len());
        let call = AttentionShape { tokens: at.len(), pos, ring, ..s };
        let mut keys = vec![O::F::zero(); call.cache_len()];
        let mut values = keys.clone();
        attention::carry(AttentionShape { pos, ..resting }, &rest[0], &rest[1], ring, &mut keys, &mut values);
        let take = |x: &[O::F], heads| get(x, heads, s.tokens, s.width, at.clone());
        attention::store(call, &take(k, s.kv_heads), &take(v, s.kv_heads), &mut keys, &mut values);
        let q = take(q, s.heads);
        let (mut part, mut lse) = (vec![O::F::zero(); q.len()], vec![O::F::zero(); s.heads * at.len()]);
        ops.attention_forward(call, &q, &keys, &values, prefix, &mut part, &mut lse);
        let [rest_keys, rest_values] = &mut rest;
        attention::carry(call, &keys, &values, resting.ring, rest_keys, rest_values);
        put(&part, s.heads, s.tokens, s.width, at, &mut y);
    }
    y
}

/// What [`Ops::scan_column_backward`] adds to the gradients of `inputs`, by calls of one token each: that is what
/// columns are. `dy [heads, T, dv]`; `state` goes from its start to its end.
///
/// # Panics
/// If the rule cannot run.
pub fn scan_columns_in_pieces<O: Ops>(
    ops: &O,
    rule: &AnyRule,
    s: ScanShape,
    inputs: &[&[O::F]],
    state: &mut [O::F],
    dy: &[O::F],
) -> Vec<Vec<O::F>> {
    let zeros = |n| vec![O::F::zero(); n];
    let widths: Vec<usize> = rule.inputs().iter().map(|input| input.width.of(s.dims)).collect();
    let mut all: Vec<Vec<O::F>> = inputs.iter().map(|x| zeros(x.len())).collect();
    for at in ranges(s.tokens, &vec![1; s.tokens]) {
        let one = ScanShape { tokens: 1, pos: s.pos + at.start as u64, ..s };
        let take = |(x, &width): (&&[O::F], &usize)| get(x, s.heads, s.tokens, width, at.clone());
        let x: Vec<Vec<O::F>> = inputs.iter().zip(&widths).map(take).collect();
        let dy = get(dy, s.heads, s.tokens, s.dims.dv, at.clone());
        let mut d: Vec<Vec<O::F>> = x.iter().map(|x| zeros(x.len())).collect();
        let (mut y, mut saved, mut dstate) = (zeros(dy.len()), zeros(state.len()), zeros(state.len()));
        let written = ops.scan_forward(rule, one, &slices(&x), state, &mut y, Some(&mut saved), Write::Yes);
        let back = ops.scan_backward(rule, one, &slices(&x), &saved, &dy, &mut slices_mut(&mut d), &mut dstate);
        written.and(back).expect("the rule can run");
        for ((d, &width), all) in d.iter().zip(&widths).zip(&mut all) {
            put(d, s.heads, s.tokens, width, at.clone(), all);
        }
    }
    all
}

/// Tokens of each piece.
fn ranges(tokens: usize, pieces: &[usize]) -> Vec<Range<usize>> {
    let mut end = 0;
    let ranges = pieces.iter().map(|n| {
        end += n;
        end - n..end
    });
    let ranges = ranges.collect();
    assert_eq!(end, tokens, "the pieces add up to the stream");
    ranges
}

/// The tokens `at` of every head of `x [heads, tokens, width]`.
fn get<F: Scalar>(x: &[F], heads: usize, tokens: usize, width: usize, at: Range<usize>) -> Vec<F> {
    (0..heads).flat_map(|h| &x[(h * tokens + at.start) * width..(h * tokens + at.end) * width]).copied().collect()
}

/// Writes `part [heads, at.len(), width]` to the tokens `at` of `x [heads, tokens, width]`.
fn put<F: Scalar>(part: &[F], heads: usize, tokens: usize, width: usize, at: Range<usize>, x: &mut [F]) {
    let len = at.len() * width;
    for h in 0..heads {
        x[(h * tokens + at.start) * width..][..len].copy_from_slice(&part[h * len..][..len]);
    }
}
