//! Kernels of memories made of slots that are worked on side by side: [`Lattice`](crate::rules::Lattice) and
//! [`Trellis`](crate::rules::Trellis).
//!
//! A matrix is held as `[rows, width]`: a lane per slot, padded to whole vectors, and a row per channel of what the slots
//! hold. What a slot has by itself, its length, its gate, its code, is then a lane of a vector, and all but the sums
//! over slots run down the rows in registers. Tokens follow one another, and every sum runs in an order that depends
//! on the size alone, so that a token has the same bits wherever the sequence is cut.
#![allow(unsafe_code)]

pub(crate) mod lattice;
mod strips;
pub(crate) mod trellis;

use crate::kernel::{Forward, Scratch, Sequence};
use crate::kernels::scratch::Borrowed;
use crate::rule::Dims;
use crate::scan::CHECKPOINT_TOKENS;

/// Rows are padded to a multiple of the longest vector.
const LANES: usize = 16;

/// `(first, count)` of the pieces of a sequence between two kept states.
fn pieces(tokens: usize) -> impl DoubleEndedIterator<Item = (usize, usize)> + ExactSizeIterator {
    (0..tokens.div_ceil(CHECKPOINT_TOKENS))
        .map(move |i| (i * CHECKPOINT_TOKENS, CHECKPOINT_TOKENS.min(tokens - i * CHECKPOINT_TOKENS)))
}

/// Which of the states that a pass keeps, every one, a token's step is taken from: state 1 + t lies before token t, state
/// 0 is the anchor of the first. Without chunks that is the state before the token.
fn anchor(chunk: Option<usize>, pos: u64, t: usize) -> usize {
    let Some(chunk) = chunk else { return 1 + t };
    let phase = (pos + t as u64) % chunk as u64;
    usize::try_from(phase).ok().and_then(|phase| (t + 1).checked_sub(phase)).unwrap_or(0)
}

/// Row `t` of a list of rows.
#[inline(always)]
fn row(x: &[f32], t: usize, width: usize) -> &[f32] {
    &x[t * width..(t + 1) * width]
}

/// Row `t` of a list of rows, to be written.
#[inline(always)]
fn row_mut(x: &mut [f32], t: usize, width: usize) -> &mut [f32] {
    &mut x[t * width..(t + 1) * width]
}

/// States before each of the [`pieces`] of a sequence, from the first on, in `space`.
fn starts<'a, R>(
    forward: Forward<R>,
    rule: &R,
    d: Dims,
    seq: Sequence<'_, f32>,
    start: &[f32],
    space: &'a mut Borrowed,
    scratch: &mut Scratch,
) -> &'a [f32] {
    let (count, len) = (pieces(seq.tokens).len(), start.len());
    let before = count.saturating_sub(1) * CHECKPOINT_TOKENS;
    let [states, unread] = space.take([count * len, before * d.dv]);
    if let Some(at) = count.checked_sub(1) {
        let (earlier, last) = states.split_at_mut(at * len);
        last.copy_from_slice(start);
        if at > 0 {
            let inputs = seq.rows(0, before);
            let head = Sequence { tokens: before, pos: seq.pos, inputs: &inputs };
            forward(rule, d, head, last, unread, Some(earlier), scratch);
        }
    }
    states
}

/// Adds rows of `wide` values, as far as they count, to those of tokens `first..first + count` of an input's gradient.
fn add(to: &mut [f32], tokens: usize, (first, count): (usize, usize), from: &[f32], wide: usize) {
    let width = to.len() / tokens;
    for (to, from) in to[first * width..(first + count) * width].chunks_exact_mut(width).zip(from.chunks_exact(wide)) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
    }
}
