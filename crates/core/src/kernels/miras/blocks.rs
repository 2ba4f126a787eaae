//! A sequence, block after block, and back.

use super::frame::{Engine, Frame, Tokens};
use super::rows::Rows;
use super::shape::{MOST_TOKENS, Shape};
use super::transpose::{DInputs, Work};
use crate::kernel::{Cotangents, Scratch, Sequence};
use crate::rule::Dims;
use crate::rules::Miras;

/// Up to this many states of blocks are kept on the way back; with more, states are recomputed once more.
const KEPT_STATES: usize = 8;

pub(super) fn tokens<'a>(seq: Sequence<'a, f32>) -> Tokens<'a> {
    Tokens { count: seq.tokens, pos: seq.pos, x: seq.inputs.iter().copied().collect() }
}

/// `(first, count)` of the blocks of a sequence.
pub(super) fn blocks(s: &Shape, x: &Tokens<'_>) -> impl Iterator<Item = (usize, usize)> {
    let (pos, tokens, mut first) = (x.pos, x.count, 0);
    std::iter::from_fn(move || {
        let count = s.block(pos + first as u64, tokens - first);
        first += count;
        (count > 0).then_some((first - count, count))
    })
}

/// Tokens of the longest block of a sequence.
pub(super) fn longest(s: &Shape, tokens: usize) -> usize {
    s.rule.chunk.clamp(1, MOST_TOKENS).min(tokens)
}

/// Room for the frame of a token that reads what its own orthogonal step made.
fn single(s: &Shape) -> usize {
    if s.orthogonal.is_some() { Frame::len(s, 1) } else { 0 }
}

impl Engine<'_> {
    /// A block's gradients and coefficients.
    fn prepare(&self, x: &Tokens<'_>, state: &[f32], f: &mut Frame<'_>) {
        let (s, at) = (self.shape, &self.shape.plan.at);
        self.enter(x, state, f);
        f.c.fill(self.isa, s.kind, x.gates(s));
        let fresh = !s.anchored() || s.begins(x.pos);
        self.gradients(x, &state[if fresh { at.z.clone() } else { at.anchor.clone() }], f);
    }

    fn read_block(&self, x: &Tokens<'_>, state: &[f32], f: &mut Frame<'_>, y: &mut [f32]) {
        let (s, at) = (self.shape, &self.shape.plan.at);
        let fresh = !s.anchored() || s.begins(x.pos);
        self.read(x, state, &state[if fresh { at.z.clone() } else { at.anchor.clone() }], f, y);
    }
}

/// See [`crate::Kernel::forward`].
pub(super) fn forward(
    rule: &Miras,
    d: Dims,
    seq: Sequence<'_, f32>,
    state: &mut [f32],
    y: &mut [f32],
    scratch: &mut Scratch,
) {
    let (shape, x) = (Shape::of(rule, d), tokens(seq));
    let engine = Engine::new(&shape, scratch.isa(), Rows::Fast);
    let [buffer, one] = scratch.take([Frame::len(&shape, longest(&shape, x.count)), single(&shape)]);
    for (first, count) in blocks(&shape, &x) {
        let part = x.part(first, count);
        let mut frame = Frame::new(&shape, count, buffer);
        engine.prepare(&part, state, &mut frame);
        let y = &mut y[first * d.dv..(first + count) * d.dv];
        engine.read_block(&part, state, &mut frame, y);
        engine.advance(&part, state, &mut frame);
        if shape.reads_leap(part.pos + count as u64 - 1) {
            let alone = Engine { alone: true, ..engine };
            let (token, from) = (part.part(count - 1, 1), &state[shape.plan.at.z.clone()]);
            alone.read(&token, state, from, &mut Frame::new(&shape, 1, one), &mut y[(count - 1) * d.dv..]);
        }
    }
}

/// See [`crate::Kernel::backward`].
///
/// The state before every block is recomputed from the start. Of a long list of blocks only every so-manieth is kept,
/// and those between are recomputed from it, so that states take the root of the number of blocks.
pub(super) fn backward(rule: &Miras, d: Dims, seq: Sequence<'_, f32>, ct: Cotangents<'_>, scratch: &mut Scratch) {
    let (shape, x) = (Shape::of(rule, d), tokens(seq));
    if x.count == 0 {
        return;
    }
    let engine = Engine::new(&shape, scratch.isa(), Rows::Fast);
    let count = blocks(&shape, &x).count();
    let group = if count <= KEPT_STATES { count } else { count.isqrt() };
    let most = longest(&shape, x.count);
    let coefficients = x.gate(shape.slots.coefficients).len() / x.count;
    let len = ct.start.len();
    let leaps = |n: usize| if shape.orthogonal.is_some() { n } else { 0 };
    let lens = [
        Frame::len(&shape, most),
        Work::len(&shape, most, coefficients),
        count.div_ceil(group) * len,
        group * len,
        single(&shape),
        leaps(Work::len(&shape, 1, coefficients)),
        leaps(len),
    ];
    let [frame, work, outer, inner, one, one_back, after] = scratch.take(lens);
    let list: Vec<(usize, usize)> = blocks(&shape, &x).collect();
    let mut pass = Pass { engine, x: &x, frame, work, one: [one, one_back], after, coefficients };
    let running = &mut inner[..len];
    running.copy_from_slice(ct.start);
    for (i, (list, kept)) in list.chunks(group).zip(outer.chunks_exact_mut(len)).enumerate() {
        kept.copy_from_slice(running);
        if (i + 1) * group < count {
            list.iter().for_each(|&block| pass.step(block, running));
        }
    }
    let Cotangents { dy, dinputs, dstate, .. } = ct;
    for (group, state) in list.chunks(group).zip(outer.chunks_exact(len)).rev() {
        inner[..len].copy_from_slice(state);
        for (j, &block) in group.iter().enumerate().take(group.len() - 1) {
            inner.copy_within(j * len..(j + 1) * len, (j + 1) * len);
            pass.step(block, &mut inner[(j + 1) * len..(j + 2) * len]);
        }
        for (&block, state) in group.iter().zip(inner.chunks_exact(len)).rev() {
            pass.back(block, state, dy, dinputs, dstate);
        }
    }
}

/// What the steps of a backward pass share.
struct Pass<'a, 'x> {
    engine: Engine<'a>,
    x: &'a Tokens<'x>,
    frame: &'a mut [f32],
    work: &'a mut [f32],
    /// A frame and its work for a token that reads what its own orthogonal step made, and the state behind that.
    one: [&'a mut [f32]; 2],
    after: &'a mut [f32],
    coefficients: usize,
}

impl Pass<'_, '_> {
    /// The state from before a block to behind it.
    fn step(&mut self, (first, count): (usize, usize), state: &mut [f32]) {
        let part = self.x.part(first, count);
        let mut frame = Frame::new(self.engine.shape, count, self.frame);
        self.engine.prepare(&part, state, &mut frame);
        self.engine.advance(&part, state, &mut frame);
    }

    /// Back through a block; `state` lies before it.
    fn back(
        &mut self,
        (first, count): (usize, usize),
        state: &[f32],
        dy: &[f32],
        dinputs: &mut [&mut [f32]],
        dstate: &mut [f32],
    ) {
        let shape = self.engine.shape;
        let (part, width) = (self.x.part(first, count), shape.d.dv);
        let mut frame = Frame::new(shape, count, self.frame);
        let mut work = Work::new(shape, count, self.coefficients, self.work);
        self.engine.prepare(&part, state, &mut frame);
        // The reads themselves are not needed, what they are made of is.
        self.engine.read_block(&part, state, &mut frame, work.space(count * width));
        let all = self.x.count;
        let mut dx: DInputs<'_> = dinputs
            .iter_mut()
            .map(|d| {
                let width = d.len() / all;
                &mut d[first * width..(first + count) * width]
            })
            .collect();
        let dy = &dy[first * width..(first + count) * width];
        if shape.leaps(part.pos + count as u64 - 1) {
            self.after.copy_from_slice(state);
            self.engine.advance(&part, self.after, &mut frame);
        }
        if shape.reads_leap(part.pos + count as u64 - 1) {
            let [one, back] = &mut self.one;
            let (mut one, mut back) = (Frame::new(shape, 1, one), Work::new(shape, 1, self.coefficients, back));
            let (engine, at, after) = (Engine { alone: true, ..self.engine }, &shape.plan.at, &*self.after);
            let (token, last) = (part.part(count - 1, 1), count - 1);
            engine.read(&token, after, &after[at.z.clone()], &mut one, back.space(width));
            let mut dx: DInputs<'_> = dx
                .iter_mut()
                .map(|d| {
                    let width = d.len() / count;
                    &mut d[last * width..]
                })
                .collect();
            engine.read_backward(&token, after, &at.z, &mut one, &mut back, &dy[last * width..], &mut dx, dstate);
            if let Some(i) = shape.slots.coefficients {
                dx[i].iter_mut().zip(&*back.coefficients).for_each(|(d, &own)| *d += own);
            }
        }
        let states = (state, &*self.after);
        self.engine.backward(&part, states, &mut frame, &mut work, dy, &mut dx, dstate);
    }
}
