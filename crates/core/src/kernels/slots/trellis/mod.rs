//! Kernel of [`Trellis`]. Its memories `[slots, width]` are turned once per call, so that codes are vectors.
//!
//! Per token: the codes of both write vectors, one step of each memory, and the read, each memory's part of it while its
//! step is made.

mod backward;
mod code;
mod forward;

use super::strips::{over_rows, over_slots};
use super::{LANES, add, anchor, pieces, row, starts};
use crate::kernel::{Cotangents, Kernel, Scratch, Sequence};
use crate::kernels::memory::tile::transpose;
use crate::kernels::scratch;
use crate::rule::Dims;
use crate::rules::Trellis;
use crate::scan::CHECKPOINT_TOKENS;
use crate::simd::{Isa, Simd, Vectorized};
use backward::{Backward, Grads};
use forward::{Forward, Trail};
use std::ops::Range;

/// The kernel.
pub(crate) const KERNELS: &[Kernel<Trellis>] = &[Kernel {
    name: "slots",
    about: "token after token, slots side by side in vectors",
    canonical: true,
    is_available: |_, _| true,
    forward,
    backward,
    read,
    column: None,
}];

/// Sizes of both memories.
#[derive(Clone, Copy)]
struct Lens {
    dk: usize,
    dv: usize,
    slots: usize,
    /// Slots, padded.
    width: usize,
}

impl Lens {
    fn of(rule: &Trellis, d: Dims) -> Self {
        let slots = rule.slots(d);
        Self { dk: d.dk, dv: d.dv, slots, width: slots.next_multiple_of(LANES) }
    }
    /// Values of both memories, padded.
    fn len(self) -> usize {
        (self.dk + self.dv) * self.width
    }
    /// Where a memory is: 0 that of keys, 1 that of values.
    #[inline(always)]
    fn memory(self, which: usize) -> Range<usize> {
        let split = self.dk * self.width;
        if which == 0 { 0..split } else { split..self.len() }
    }
    /// Values of both memories in a state.
    fn plain(self) -> usize {
        (self.dk + self.dv) * self.slots
    }
}

/// The inputs of a run of tokens, `[count, ..]`.
#[derive(Clone, Copy)]
struct Tokens<'a> {
    rule: &'a Trellis,
    lens: Lens,
    pos: u64,
    count: usize,
    key: &'a [f32],
    value: &'a [f32],
    query: &'a [f32],
    retain: &'a [f32],
    rate: &'a [f32],
    target: &'a [f32],
}

impl<'a> Tokens<'a> {
    /// Tokens `first..first + count` of a sequence.
    fn new(rule: &'a Trellis, d: Dims, seq: Sequence<'a, f32>, (first, count): (usize, usize)) -> Self {
        let x = seq.rows(first, count);
        let (key, value, query, retain, rate, target) = (x[0], x[1], x[2], x[3], x[4], x[5]);
        let pos = seq.pos + first as u64;
        Self { rule, lens: Lens::of(rule, d), pos, count, key, value, query, retain, rate, target }
    }
    /// What token `t` writes into a memory.
    #[inline(always)]
    fn written(&self, t: usize, which: usize) -> &'a [f32] {
        if which == 0 { row(self.key, t, self.lens.dk) } else { row(self.value, t, self.lens.dv) }
    }
    /// Which state of a [`Trail`] with every state the codes of token `t` are taken from.
    fn anchor(&self, t: usize) -> usize {
        anchor(self.rule.frozen().then_some(self.rule.chunk), self.pos, t)
    }
}

/// Turns both memories of a state into padded rows per channel.
struct Enter<'a> {
    z: Lens,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Vectorized for Enter<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { z, from, to } = self;
        if z.width > z.slots {
            to.fill(0.0);
        }
        let (mk, mv) = from.split_at(z.slots * z.dk);
        let (keys, values) = to.split_at_mut(z.dk * z.width);
        transpose(s, (z.slots, z.dk), mk, z.dk, keys, z.width);
        transpose(s, (z.slots, z.dv), mv, z.dv, values, z.width);
    }
}

/// Turns them back.
struct Leave<'a> {
    z: Lens,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Vectorized for Leave<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { z, from, to } = self;
        let (mk, mv) = to.split_at_mut(z.slots * z.dk);
        let (keys, values) = from.split_at(z.dk * z.width);
        transpose(s, (z.dk, z.slots), keys, z.width, mk, z.dk);
        transpose(s, (z.dv, z.slots), values, z.width, mv, z.dv);
    }
}

/// From a state to the padded memories, and to their anchors where the rule has them.
fn enter(isa: Isa, z: Lens, state: &[f32], memories: &mut [f32], anchors: &mut [f32]) {
    let (own, rest) = state.split_at(z.plain());
    isa.run(Enter { z, from: own, to: memories });
    if !rest.is_empty() {
        isa.run(Enter { z, from: rest, to: anchors });
    }
}

/// Back into a state.
fn leave(isa: Isa, z: Lens, memories: &[f32], anchors: &[f32], state: &mut [f32]) {
    let (own, rest) = state.split_at_mut(z.plain());
    isa.run(Leave { z, from: memories, to: own });
    if !rest.is_empty() {
        isa.run(Leave { z, from: anchors, to: rest });
    }
}

/// See [`Kernel::forward`].
fn forward(
    rule: &Trellis,
    d: Dims,
    seq: Sequence<'_, f32>,
    state: &mut [f32],
    y: &mut [f32],
    mut saved: Option<&mut [f32]>,
    scratch: &mut Scratch,
) {
    let (z, isa) = (Lens::of(rule, d), scratch.isa());
    let len = z.len();
    let mut trail = Trail::new(false, scratch.take(Trail::lens(z, None)));
    let (anchors, memories) = trail.states.split_at_mut(len);
    enter(isa, z, state, memories, anchors);
    for (i, (first, count)) in pieces(seq.tokens).enumerate() {
        let (anchors, memories) = trail.states.split_at(len);
        if let Some(saved) = &mut saved {
            leave(isa, z, memories, anchors, &mut saved[i * state.len()..(i + 1) * state.len()]);
        }
        let y = &mut y[first * d.dv..(first + count) * d.dv];
        isa.run(Forward { x: Tokens::new(rule, d, seq, (first, count)), trail: &mut trail, y });
    }
    let (anchors, memories) = trail.states.split_at(len);
    leave(isa, z, memories, anchors, state);
}

/// Reads for every token from turned memories.
struct Read<'a> {
    rule: &'a Trellis,
    z: Lens,
    query: &'a [f32],
    memories: &'a [f32],
    zq: &'a mut [f32],
    r: &'a mut [f32],
    o: &'a mut [f32],
    y: &'a mut [f32],
}

impl Vectorized for Read<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let z = self.z;
        for (query, y) in self.query.chunks_exact(z.dk).zip(self.y.chunks_exact_mut(z.dv)) {
            over_rows(s, z.width, &self.memories[z.memory(0)], query, self.zq);
            code::apply(s, self.rule.read, &self.zq[..z.slots], &mut self.r[..z.slots]);
            over_slots(s, z.width, &self.memories[z.memory(1)], self.r, self.o);
            code::apply(s, self.rule.out, self.o, y);
        }
    }
}

/// See [`Kernel::read`].
fn read(rule: &Trellis, d: Dims, seq: Sequence<'_, f32>, state: &[f32], y: &mut [f32], scratch: &mut Scratch) {
    let (z, isa) = (Lens::of(rule, d), scratch.isa());
    let Trail { states, zq, r, o, .. } = Trail::new(false, scratch.take(Trail::lens(z, None)));
    let memories = &mut states[..z.len()];
    enter(isa, z, &state[..z.plain()], memories, &mut []);
    isa.run(Read { rule, z, query: seq.inputs[2], memories, zq, r, o, y });
}

/// See [`Kernel::backward`]. States are recomputed piece by piece from those at the pieces' starts.
fn backward(rule: &Trellis, d: Dims, seq: Sequence<'_, f32>, ct: Cotangents<'_>, scratch: &mut Scratch) {
    let (z, isa, most) = (Lens::of(rule, d), scratch.isa(), seq.tokens.min(CHECKPOINT_TOKENS));
    let mut known = scratch::borrow();
    let starts = starts(KERNELS[0].forward, rule, d, seq, ct.start, &mut known, scratch);
    let (len, w) = (z.len(), z.width);
    let anchors = if rule.frozen() { len } else { 0 };
    let (keys, values, targets) = (most * z.dk, most * z.dv, most * z.slots);
    let mut grads = scratch::borrow();
    let [memories, anchors, dkey, dvalue, dquery, dretain, drate, dtarget, d_o, l0, l1, l2, l3, l4] =
        grads.take([len, anchors, keys, values, keys, most, most, targets, z.dv, w, w, w, w, w]);
    let mut lanes = [l0, l1, l2, l3, l4];
    let mut trail = Trail::new(true, scratch.take(Trail::lens(z, Some(most))));
    enter(isa, z, ct.dstate, memories, anchors);
    for ((first, count), start) in pieces(seq.tokens).zip(starts.chunks_exact(ct.start.len())).rev() {
        let x = Tokens::new(rule, d, seq, (first, count));
        let (before, rest) = trail.states.split_at_mut(len);
        enter(isa, z, start, &mut rest[..len], before);
        isa.run(Forward { x, trail: &mut trail, y: &mut [] });
        let d = Grads {
            memories: &mut *memories,
            anchors: &mut *anchors,
            written: [&mut *dkey, &mut *dvalue],
            query: &mut *dquery,
            retain: &mut *dretain,
            rate: &mut *drate,
            target: &mut *dtarget,
            o: &mut *d_o,
            lanes: lanes.each_mut().map(|list| &mut **list),
        };
        isa.run(Backward { x, trail: &mut trail, dy: &ct.dy[first * z.dv..(first + count) * z.dv], d });
        let lists =
            [(&*dkey, z.dk), (&*dvalue, z.dv), (&*dquery, z.dk), (&*dretain, 1), (&*drate, 1), (&*dtarget, z.slots)];
        for (to, (from, width)) in ct.dinputs.iter_mut().zip(lists) {
            add(to, seq.tokens, (first, count), from, width);
        }
    }
    leave(isa, z, memories, anchors, ct.dstate);
}
