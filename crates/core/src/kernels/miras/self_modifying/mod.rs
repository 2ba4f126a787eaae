//! Kernels of [`SelfModifying`]: all memories over blocks of tokens that no anchor divides.
//!
//! Inside of a block anchors stand still, so that keys, values, gates, targets, reads and gradients of all its tokens are
//! products of matrices: those of the frozen kernels beside this folder, a memory at a time. What they do to the weights
//! is no sum, since every step erases what the steps before it wrote; see [`erase`] for the way through.

mod block;
mod erase;
mod momentum;
mod point;
mod transpose;

use crate::kernel::{Cotangents, Kernel, Scratch, Sequence, rows_mut};
use crate::rule::Dims;
use crate::rules::SelfModifying;
use crate::scan::CHECKPOINT_TOKENS;
use block::{Block, Known, Pass, Space};

/// Tokens of a block at most.
const MOST_TOKENS: usize = 64;
/// Shortest chunk at which blocks are worth their setting up.
const LEAST_CHUNK: usize = 4;

/// The kernels, in order of measured speed.
pub(crate) const KERNELS: &[Kernel<SelfModifying>] = &[
    Kernel {
        name: "blocks",
        about: "all tokens under one anchor at once, their erasing steps through a triangular solve",
        canonical: false,
        is_available: |rule, _| rule.chunk.min(rule.chunk_memory) >= LEAST_CHUNK,
        forward: forward::<MOST_TOKENS>,
        backward,
        read,
        column: Some(column),
    },
    Kernel {
        name: "token",
        about: "one token after the other; blocks backward",
        canonical: true,
        is_available: |_, _| true,
        forward: forward::<1>,
        backward,
        read,
        column: Some(column),
    },
];

/// `(first, count)` of the blocks of a sequence: no anchor and no kept state divides them.
fn blocks(rule: &SelfModifying, pos: u64, tokens: usize, most: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
    let (chunks, mut first) = ([rule.chunk as u64, rule.chunk_memory as u64], 0);
    std::iter::from_fn(move || {
        let rest = chunks.map(|c| usize::try_from(c - (pos + first as u64) % c).unwrap_or(usize::MAX));
        let kept = CHECKPOINT_TOKENS - first % CHECKPOINT_TOKENS;
        let count = (tokens - first).min(most).min(kept).min(rest[0]).min(rest[1]);
        first += count;
        (count > 0).then_some((first - count, count))
    })
}

/// A block of a sequence.
fn part<'a>(rule: &SelfModifying, seq: Sequence<'a, f32>, first: usize, count: usize) -> Block<'a> {
    let (inputs, (q, momentum)) = (seq.rows(first, count), rule.slots());
    let input = |slot: Option<usize>| slot.map(|i| inputs[i]);
    Block { count, pos: seq.pos + first as u64, x: inputs[0], q: input(q), momentum: input(momentum) }
}

/// See [`Kernel::forward`].
fn forward<const MOST: usize>(
    rule: &SelfModifying,
    d: Dims,
    seq: Sequence<'_, f32>,
    state: &mut [f32],
    y: &mut [f32],
    mut saved: Option<&mut [f32]>,
    scratch: &mut Scratch,
) {
    let (known, isa) = (Known::of(rule, d), scratch.isa());
    let most = MOST.min(seq.tokens);
    let [space] = scratch.take([Space::len(&known, most, false)]);
    let pass = if MOST == 1 { Pass::canonical(&known, isa) } else { Pass::fast(&known, isa) };
    for (first, count) in blocks(rule, seq.pos, seq.tokens, MOST) {
        if let (Some(saved), 0) = (&mut saved, first % CHECKPOINT_TOKENS) {
            saved[first / CHECKPOINT_TOKENS * state.len()..][..state.len()].copy_from_slice(state);
        }
        let (block, mut space) = (part(rule, seq, first, count), Space::new(&known, count, false, space));
        pass.make(&block, state, &mut space);
        pass.read(state, &mut space, &mut y[first * d.dv..(first + count) * d.dv]);
        pass.write(&block, state, &mut space);
    }
}

/// See [`Kernel::read`].
fn read(rule: &SelfModifying, d: Dims, seq: Sequence<'_, f32>, state: &[f32], y: &mut [f32], scratch: &mut Scratch) {
    let (known, isa) = (Known::of(rule, d), scratch.isa());
    let [space] = scratch.take([Space::len(&known, 1, false)]);
    let pass = Pass::canonical(&known, isa);
    for (t, y) in y.chunks_exact_mut(d.dv).enumerate() {
        let (block, mut space) = (part(rule, seq, t, 1), Space::new(&known, 1, false, space));
        pass.queries(&block, state, &mut space);
        pass.read(state, &mut space, y);
    }
}

/// See [`Kernel::backward`]. Everything that the blocks are made of is computed again from the start, once, and kept: the
/// caller sees to it that they are few.
fn backward(rule: &SelfModifying, d: Dims, seq: Sequence<'_, f32>, ct: Cotangents<'_>, scratch: &mut Scratch) {
    let Cotangents { start, dy, dinputs, dstate } = ct;
    let (known, isa, len) = (Known::of(rule, d), scratch.isa(), start.len());
    let list: Vec<(usize, usize)> = blocks(rule, seq.pos, seq.tokens, MOST_TOKENS).collect();
    let most = list.iter().map(|b| b.1).max().unwrap_or(0);
    let room = Space::len(&known, most, true);
    let [spaces, back, states] =
        scratch.take([list.len() * room, transpose::Space::len(&known, most), list.len() * len]);
    let pass = Pass::fast(&known, isa);
    if !list.is_empty() {
        states[..len].copy_from_slice(start);
    }
    for (i, (&(first, count), space)) in list.iter().zip(spaces.chunks_exact_mut(room)).enumerate() {
        let (block, mut space) = (part(rule, seq, first, count), Space::new(&known, count, true, space));
        let (before, behind) = states[i * len..].split_at_mut(len);
        pass.make(&block, before, &mut space);
        pass.look(before, &mut space);
        pass.learn_all(before, &mut space);
        if i + 1 < list.len() {
            pass.step_all(&block, before, &mut behind[..len], &mut space);
        }
    }
    for (i, &(first, count)) in list.iter().enumerate().rev() {
        let mut dx = rows_mut(dinputs, seq.tokens, first, count);
        let space = &mut spaces[i * room..(i + 1) * room];
        let (block, mut space) = (part(rule, seq, first, count), Space::new(&known, count, true, space));
        let mut back = transpose::Space::new(&known, count, back);
        let dy = &dy[first * d.dv..(first + count) * d.dv];
        pass.back(&block, &states[i * len..(i + 1) * len], &mut space, &mut back, dy, &mut dx, dstate);
    }
}

/// See [`Kernel::column`]. A token's read asks anchors, which its own write does not reach: back through the read, and
/// through the query where a memory makes it. States are computed again only as far as anchors change.
fn column(rule: &SelfModifying, d: Dims, seq: Sequence<'_, f32>, ct: Cotangents<'_>, scratch: &mut Scratch) {
    let Cotangents { start, dy, dinputs, dstate } = ct;
    let (known, isa) = (Known::of(rule, d), scratch.isa());
    let most = MOST_TOKENS.min(seq.tokens);
    let lens = [Space::len(&known, most, true), transpose::Space::len(&known, most), start.len()];
    let [space, back, state] = scratch.take(lens);
    state.copy_from_slice(start);
    let pass = Pass::fast(&known, isa);
    for (first, count) in blocks(rule, seq.pos, seq.tokens, MOST_TOKENS) {
        let mut dx = rows_mut(dinputs, seq.tokens, first, count);
        let (block, mut space) = (part(rule, seq, first, count), Space::new(&known, count, true, space));
        let mut back = transpose::Space::new(&known, count, back);
        pass.queries(&block, state, &mut space);
        pass.look(state, &mut space);
        let dy = &dy[first * d.dv..(first + count) * d.dv];
        pass.reads_back(&block, state, &mut space, &mut back, dy, &mut dx, dstate);
        if first + count < seq.tokens {
            pass.make(&block, state, &mut space);
            pass.write(&block, state, &mut space);
        }
    }
}
