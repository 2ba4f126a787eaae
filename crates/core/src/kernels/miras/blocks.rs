//! A sequence, block after block, and back.

use super::dual::Space;
use super::frame::{Engine, Frame, Tokens};
use super::rows::{Rows, row};
use super::shape::{MOST_TOKENS, Shape};
use super::transpose::{DInputs, Work};
use crate::kernel::{Cotangents, Scratch, Sequence, rows_mut};
use crate::rule::Dims;
use crate::rules::Miras;

/// Up to this many states of blocks are kept on the way back; with more, states are recomputed once more.
const KEPT_STATES: usize = 8;

pub(super) fn tokens<'a>(seq: Sequence<'a, f32>) -> Tokens<'a> {
    Tokens { count: seq.tokens, pos: seq.pos, x: seq.inputs.iter().copied().collect() }
}

/// `(first, count)` of the blocks of a sequence.
pub(super) fn blocks(s: &Shape, x: &Tokens<'_>, products: bool) -> impl Iterator<Item = (usize, usize)> {
    let (pos, tokens, mut first) = (x.pos, x.count, 0);
    std::iter::from_fn(move || {
        let left = tokens - first;
        let count = if products { s.products(pos + first as u64, left) } else { s.block(pos + first as u64, left) };
        first += count;
        (count > 0).then_some((first - count, count))
    })
}

/// Tokens of the longest block of a sequence.
pub(super) fn longest(s: &Shape, tokens: usize) -> usize {
    s.rule.chunk.clamp(1, MOST_TOKENS).min(tokens)
}

/// Room for the frame of a token that reads by itself.
fn single(s: &Shape) -> usize {
    if s.orthogonal.is_some() || s.dual { Frame::len(s, 1) } else { 0 }
}

impl Engine<'_> {
    /// A block's gradients and coefficients.
    fn prepare(&self, x: &Tokens<'_>, state: &[f32], f: &mut Frame<'_>, space: &mut Space<'_>) {
        self.enter(x, state, f);
        f.c.fill(self.isa, self.shape.kind, x.gates(self.shape));
        self.gradients(x, self.anchor_weights(x.pos, state, space), f);
    }

    /// The reads of a block but for those that are made by themselves.
    fn read_block(&self, x: &Tokens<'_>, state: &[f32], f: &mut Frame<'_>, space: &Space<'_>, y: &mut [f32]) {
        let s = self.shape;
        let anchor = if s.dual { &*space.anchor } else { &state[s.anchor_at(x.pos)] };
        self.read(x, state, anchor, f, y);
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
    let lens = [Frame::len(&shape, longest(&shape, x.count)), single(&shape), Space::len(&shape)];
    let [buffer, one, space] = scratch.take(lens);
    let mut space = Space::new(&shape, space);
    for (first, count) in blocks(&shape, &x, true) {
        let part = x.part(first, count);
        let last = part.pos + count as u64 - 1;
        let mut frame = Frame::new(&shape, count, buffer);
        engine.prepare(&part, state, &mut frame, &mut space);
        let y = &mut y[first * d.dv..(first + count) * d.dv];
        engine.read_block(&part, state, &mut frame, &space, y);
        engine.advance(&part, state, &mut frame);
        engine.settle_at(last, &mut state[shape.plan.at.z.clone()]);
        if shape.reads_aside(last) {
            let alone = Engine { alone: true, ..engine };
            let (token, from) = (part.part(count - 1, 1), engine.read_weights(state, &mut space));
            alone.read(&token, &[], from, &mut Frame::new(&shape, 1, one), &mut y[(count - 1) * d.dv..]);
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
    let count = blocks(&shape, &x, true).count();
    let group = if count <= KEPT_STATES { count } else { count.isqrt() };
    let most = blocks(&shape, &x, true).map(|(_, count)| count).max().unwrap_or(0);
    let coefficients = x.gate(shape.slots.coefficients).len() / x.count;
    let len = ct.start.len();
    let aside = |n: usize| if shape.orthogonal.is_some() || shape.dual { n } else { 0 };
    let moves = if shape.reads_maps() { shape.plan.at.z.len() + shape.plan.at.s.len() } else { 0 };
    let lens = [
        Frame::len(&shape, most),
        Work::len(&shape, most, coefficients),
        count.div_ceil(group) * len,
        group * len,
        single(&shape),
        aside(Work::len(&shape, 1, coefficients)),
        aside(len),
        Space::len(&shape),
        most * moves,
    ];
    let [frame, work, outer, inner, one, one_back, after, space, moved] = scratch.take(lens);
    let space = Space::new(&shape, space);
    let list: Vec<(usize, usize)> = blocks(&shape, &x, true).collect();
    let mut pass = Pass { engine, x: &x, frame, work, one: [one, one_back], after, space, moved, coefficients };
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
pub(super) struct Pass<'a, 'x> {
    pub engine: Engine<'a>,
    pub x: &'a Tokens<'x>,
    pub frame: &'a mut [f32],
    pub work: &'a mut [f32],
    /// A frame and its work for a token that reads by itself, and the state behind its block.
    pub one: [&'a mut [f32]; 2],
    pub after: &'a mut [f32],
    pub space: Space<'a>,
    /// What moves, behind every token of a block whose tokens read weights of their own.
    pub moved: &'a mut [f32],
    pub coefficients: usize,
}

impl Pass<'_, '_> {
    /// The state from before a block to behind it.
    fn step(&mut self, (first, count): (usize, usize), state: &mut [f32]) {
        let part = self.x.part(first, count);
        let (engine, z) = (self.engine, self.engine.shape.plan.at.z.clone());
        let mut frame = Frame::new(engine.shape, count, self.frame);
        if engine.shape.reads_maps() {
            return engine.advance_mapped(&part, state, &mut frame, &mut self.space);
        }
        engine.prepare(&part, state, &mut frame, &mut self.space);
        engine.advance(&part, state, &mut frame);
        engine.settle_at(part.pos + count as u64 - 1, &mut state[z]);
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
        let (part, width, all) = (self.x.part(first, count), shape.d.dv, self.x.count);
        let mut dx = rows_mut(dinputs, all, first, count);
        let dy = &dy[first * width..(first + count) * width];
        if shape.reads_maps() {
            return self.back_mapped(&part, state, dy, &mut dx, dstate);
        }
        let last = part.pos + count as u64 - 1;
        let mut frame = Frame::new(shape, count, self.frame);
        self.engine.prepare(&part, state, &mut frame, &mut self.space);
        if shape.leaps(last) || shape.dual {
            self.after.copy_from_slice(state);
            self.engine.advance(&part, self.after, &mut frame);
        }
        self.aside_back(&part, dy, &mut dx, dstate);
        // The same buffer, and what is in it, again.
        let mut frame = Frame::new(shape, count, self.frame);
        let mut work = Work::new(shape, count, self.coefficients, self.work);
        // The reads themselves are not needed, what they are made of is.
        self.engine.read_block(&part, state, &mut frame, &self.space, work.space(count * width));
        let states = (state, &*self.after);
        self.engine.backward(&part, states, &mut frame, &mut work, &mut self.space, dy, &mut dx, dstate);
    }

    /// Back through a read by itself, or through the settling behind a block.
    fn aside_back(&mut self, x: &Tokens<'_>, dy: &[f32], dx: &mut DInputs<'_>, dstate: &mut [f32]) {
        let (shape, z, count) = (self.engine.shape, self.engine.shape.plan.at.z.clone(), x.count);
        let (last, width) = (x.pos + count as u64 - 1, shape.d.dv);
        if shape.dual {
            self.space.keep(&self.after[z.clone()]);
        }
        if shape.reads_aside(last) {
            let [one, back] = &mut self.one;
            let (mut one, mut back) = (Frame::new(shape, 1, one), Work::new(shape, 1, self.coefficients, back));
            let (engine, token) = (Engine { alone: true, ..self.engine }, x.part(count - 1, 1));
            let from = engine.read_weights(self.after, &mut self.space);
            engine.read(&token, &[], from, &mut one, back.space(width));
            let mut dx: DInputs<'_> = dx
                .iter_mut()
                .map(|d| {
                    let width = d.len() / count;
                    &mut d[row(count - 1, width)]
                })
                .collect();
            let dy = &dy[row(count - 1, width)];
            engine.read_backward(&token, self.after, &z, &mut one, &mut back, dy, &mut dx, dstate);
            if let Some(i) = shape.slots.coefficients {
                dx[i].iter_mut().zip(&*back.coefficients).for_each(|(d, &own)| *d += own);
            }
        }
        if shape.dual && shape.begins(last + 1) {
            self.engine.settle_backward(self.space.kept(), &mut dstate[z]);
        }
    }
}
