//! One token after the other: the gradient at the anchor, each tensor's step, and the read while it is at hand.
//!
//! Gradients of the tokens of a call that share an anchor are found together, in an order of summation that does not
//! depend on how many they are; a read is one sum per row of a tensor. So every token has the same bits wherever the
//! sequence is cut.

use super::blocks::{blocks, longest, tokens};
use super::dual::Space;
use super::frame::{Engine, Frame, Tokens, cut, room};
use super::pointwise as point;
use super::rows::{Rows, row};
use super::shape::{Layer, Shape};
use crate::kernel::{Scratch, Sequence};
use crate::kernels::gemm::Start;
use crate::kernels::vector::{get, kernel, put};
use crate::rule::Dims;
use crate::rules::Miras;
use crate::rules::miras::retention::Pull;

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
    let engine = Engine::new(&shape, scratch.isa(), Rows::Canonical);
    let one = [shape.inputs, shape.results];
    let lens = [Frame::len(&shape, longest(&shape, x.count)), room(one), Space::len(&shape)];
    let [buffer, own, space] = scratch.take(lens);
    let mut space = Space::new(&shape, space);
    let at = &shape.plan.at;
    for (first, count) in blocks(&shape, &x, false) {
        let part = x.part(first, count);
        let mut f = Frame::new(&shape, count, buffer);
        let fresh = !shape.anchored() || shape.begins(part.pos);
        if fresh && shape.anchored() {
            state.copy_within(at.z.clone(), at.anchor.start);
        }
        engine.enter(&part, state, &mut f);
        engine.gradients(&part, engine.anchor_weights(part.pos, state, &mut space), &mut f);
        let [g, z] = cut(own, one);
        for t in 0..count {
            engine.one(&part, t, state, &mut f, &mut space, g, z, &mut y[row(first + t, d.dv)]);
        }
        engine.keep_window(state, &f);
    }
}

/// See [`crate::Kernel::read`].
pub(super) fn read(rule: &Miras, d: Dims, seq: Sequence<'_, f32>, state: &[f32], y: &mut [f32], scratch: &mut Scratch) {
    let (shape, x) = (Shape::of(rule, d), tokens(seq));
    let engine = Engine::new(&shape, scratch.isa(), Rows::Canonical);
    let one = [shape.inputs, shape.results];
    let [own, space] = scratch.take([room(one), Space::len(&shape)]);
    let [g, z] = cut(own, one);
    let mut space = Space::new(&shape, space);
    engine.freeze(state, &mut space);
    let from = engine.read_weights(state, &mut space);
    for t in 0..x.count {
        engine.read_from(&x, t, from, g, z, &mut y[row(t, d.dv)]);
    }
}

/// What turns one row of a tensor into the next: see [`step_row`].
#[derive(Clone, Copy)]
pub(super) struct Gates {
    pub retain: f32,
    pub momentum: Option<f32>,
    /// 1 if the step reaches the memory, else 0.
    pub steps: f32,
}

/// What a step moves of a state, and where it is pulled to.
pub(super) struct Moving<'a> {
    pub z: &'a mut [f32],
    pub s: &'a mut [f32],
    pub start: &'a [f32],
}

impl Shape {
    /// The parts of a state.
    pub fn moving<'a>(&self, state: &'a mut [f32]) -> Moving<'a> {
        let at = &self.plan.at;
        let (z, rest) = state.split_at_mut(at.z.end);
        let (s, rest) = rest.split_at_mut(at.s.len());
        let start =
            if self.pull == Pull::Start { &rest[at.start.start - at.s.end..at.start.end - at.s.end] } else { &[] };
        Moving { z: &mut z[at.z.clone()], s, start }
    }
}

impl Engine<'_> {
    /// Token `t` of a block: step and read, in the rule's order.
    fn one(
        &self,
        x: &Tokens<'_>,
        t: usize,
        state: &mut [f32],
        f: &mut Frame<'_>,
        space: &mut Space<'_>,
        g: &mut [f32],
        z: &mut [f32],
        y: &mut [f32],
    ) {
        let s = self.shape;
        if s.pairs {
            s.grid(self.isa, f.count).expand(&mut f.pairs, t, &f.h[s.made(s.net.layers - 1, f.count)]);
        }
        if s.reads_before() || s.reads_anchor() {
            let from = if s.dual { &*space.anchor } else { self.read_weights(state, space) };
            self.read_from(x, t, from, g, z, y);
        }
        if s.reads_before() || s.reads_anchor() || s.orthogonal.is_some() || s.dual {
            self.step_all(x, t, &mut s.moving(state), f);
            self.leap(x, t, state, f.space);
            self.settle_at(x.pos + t as u64, &mut state[s.plan.at.z.clone()]);
            if self.maps_on_the_way() {
                let from = &state[s.plan.at.z.clone()];
                let norms = self.read_norms(from, space);
                self.through(x, t, g, z, y, |i, g, out| self.apply_mapped(i, from, norms, g, out));
            } else if !(s.reads_before() || s.reads_anchor()) {
                self.read_from(x, t, self.read_weights(state, space), g, z, y);
            }
            return;
        }
        let (gates, mut moving) = (self.gates(x, t), s.moving(state));
        self.through(x, t, g, z, y, |i, g, out| self.step(i, t, gates, &mut moving, f, g, out));
    }

    /// Reads token `t` from the weights `w`.
    fn read_from(&self, x: &Tokens<'_>, t: usize, w: &[f32], g: &mut [f32], z: &mut [f32], y: &mut [f32]) {
        self.through(x, t, g, z, y, |i, g, out| {
            let l = &self.shape.layers[i];
            super::rows::apply(self.isa, Rows::Canonical, l, &w[l.at.clone()], g, out, Start::Zero);
        });
    }

    /// One query through all layers; `layer` makes the result of one from its input.
    fn through(
        &self,
        x: &Tokens<'_>,
        t: usize,
        g: &mut [f32],
        z: &mut [f32],
        y: &mut [f32],
        mut layer: impl FnMut(usize, &[f32], &mut [f32]),
    ) {
        let (s, last) = (self.shape, self.shape.net.layers - 1);
        let q = &x.x[2][row(t, s.d.dk)];
        let coefficients = x.gate(s.slots.coefficients);
        let per = coefficients.len() / x.count.max(1);
        s.features(q, &coefficients[row(t, per)], &mut g[s.input(last, 1)]);
        for level in (0..=last).rev() {
            for i in s.at_level(level) {
                layer(i, &g[s.input(level, 1)], &mut z[s.result(i, 1)]);
            }
            if level > 0 {
                let (own, gate) = (&z[s.result(level, 1)], &z[s.gate(level, 1)]);
                point::hidden(self.isa, s.net.activation, own, gate, &mut g[s.input(level - 1, 1)]);
            }
        }
        self.leave(q, &z[s.result(0, 1)], y);
    }

    /// The gates of the step of token `t`.
    pub(super) fn gates(&self, x: &Tokens<'_>, t: usize) -> Gates {
        let s = self.shape;
        let momentum = s.kind.momentum.then(|| x.gate(s.slots.momentum)[t]);
        let retain = x.gate(s.slots.retain).get(t).copied().unwrap_or(1.0);
        Gates { retain, momentum, steps: if s.kind.steps { 1.0 } else { 0.0 } }
    }

    /// The step of every tensor at token `t`.
    pub(super) fn step_all(&self, x: &Tokens<'_>, t: usize, to: &mut Moving<'_>, f: &Frame<'_>) {
        let gates = self.gates(x, t);
        (0..self.shape.layers.len()).for_each(|i| self.step(i, t, gates, to, f, &[], &mut []));
    }

    /// The step of tensor `i` at token `t`, and its product with `g` where that is not empty.
    fn step(&self, i: usize, t: usize, gates: Gates, to: &mut Moving<'_>, f: &Frame<'_>, g: &[f32], out: &mut [f32]) {
        let s = self.shape;
        let l: &Layer = &s.layers[i];
        let start = if s.pull == Pull::Start { &to.start[l.at.clone()] } else { &[] };
        let momentum = if s.kind.momentum { &mut to.s[l.at.clone()] } else { &mut [] };
        // The gradients that this token's step is made of, and what each is worth.
        let own = s.gradients_of(t);
        let weights = &f.c.b[f.c.row(t)][own.clone()];
        let back = &f.back[s.result(i, f.all)][own.start * l.rows..own.end * l.rows];
        let h = if s.pairs_at(l.level) {
            &*f.pairs.expanded
        } else {
            &f.h[s.made(l.level, f.count)][own.start * l.columns..own.end * l.columns]
        };
        step_rows(self.isa, l.columns, gates, weights, back, h, &mut to.z[l.at.clone()], momentum, start, g, out);
    }

    /// The window behind a block.
    pub(super) fn keep_window(&self, state: &mut [f32], f: &Frame<'_>) {
        let (s, at) = (self.shape, &self.shape.plan.at);
        let behind = f.all - s.halo();
        state[at.keys.clone()].copy_from_slice(&f.keys[behind * s.d.dk..]);
        state[at.values.clone()].copy_from_slice(&f.values[behind * s.d.dv..]);
        if !at.thresholds.is_empty() {
            state[at.thresholds.clone()].copy_from_slice(&f.thresholds[behind..]);
        }
    }
}

kernel! {
    /// `S' = momentum S + sum_j w_j B_j h_j^T`, `Z' = retain Z + (1 - retain) start + S'`, `out = Z' g`, row by row;
    /// without momentum the sum itself is added. `start`, `g` and `momentum` are empty where there is none.
    fn step_rows(
        s: S,
        columns: usize,
        gates: Gates,
        weights: &'a [f32],
        back: &'a [f32],
        h: &'a [f32],
        z: &'a mut [f32],
        momentum: &'a mut [f32],
        start: &'a [f32],
        g: &'a [f32],
        out: &'a mut [f32],
    ) {
        let rows = z.len() / columns;
        let (retain, pull) = (s.splat(gates.retain), s.splat(1.0 - gates.retain));
        let (kept, steps) = (s.splat(gates.momentum.unwrap_or(0.0)), s.splat(gates.steps));
        for r in 0..rows {
            let z = &mut z[r * columns..(r + 1) * columns];
            let mut sum = s.splat(0.0);
            for c in (0..columns).step_by(S::LANES) {
                let mut step = if momentum.is_empty() {
                    s.splat(0.0)
                } else {
                    s.mul(kept, get(s, &momentum[r * columns..(r + 1) * columns], c))
                };
                for (j, &w) in weights.iter().enumerate() {
                    let by = s.splat(w * back[j * rows + r]);
                    step = s.fma(by, get(s, &h[j * columns..(j + 1) * columns], c), step);
                }
                if !momentum.is_empty() {
                    put(s, &mut momentum[r * columns..(r + 1) * columns], c, step);
                }
                let mut new = s.fma(retain, get(s, z, c), s.mul(steps, step));
                if !start.is_empty() {
                    new = s.fma(pull, get(s, &start[r * columns..(r + 1) * columns], c), new);
                }
                put(s, z, c, new);
                if !g.is_empty() {
                    sum = s.fma(new, get(s, g, c), sum);
                }
            }
            if !g.is_empty() {
                out[r] = s.sum(sum);
            }
        }
    }
}
