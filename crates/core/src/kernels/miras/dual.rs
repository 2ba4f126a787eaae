//! Retentions whose state is not the weights, or is settled: the maps between them, tensor by tensor, in the rule's own
//! words. A map is not linear, so each read needs the weights of its own token; only reads at the chunk start share
//! theirs.

use super::frame::Engine;
use super::pointwise as point;
use super::shape::Shape;
use crate::rules::miras::retention::{Retention, with_retention};
use std::ops::Range;

/// Space for weights and their gradients, each as long as the memory.
pub(super) struct Space<'a> {
    /// The weights at the anchor, and their gradient.
    pub anchor: &'a mut [f32],
    pub danchor: &'a mut [f32],
    /// The state that a read settles, its weights and their gradients.
    state: &'a mut [f32],
    weights: &'a mut [f32],
    dweights: &'a mut [f32],
    dfrozen: &'a mut [f32],
}

impl<'a> Space<'a> {
    /// Values that it needs: none for a rule whose state is its weights.
    pub fn len(s: &Shape) -> usize {
        if s.dual { 6 * s.plan.at.z.len() } else { 0 }
    }

    pub fn new(s: &Shape, mut buffer: &'a mut [f32]) -> Self {
        let len = Self::len(s) / 6;
        let mut next = || {
            let (head, tail) = std::mem::take(&mut buffer).split_at_mut(len);
            buffer = tail;
            head
        };
        let [anchor, danchor, state] = [next(), next(), next()];
        Self { anchor, danchor, state, weights: next(), dweights: next(), dfrozen: next() }
    }

    /// Keeps a state that is about to be settled, in the space of the anchor's gradient, which comes later.
    pub fn keep(&mut self, z: &[f32]) {
        self.danchor.copy_from_slice(z);
    }
    /// What [`Space::keep`] kept.
    pub fn kept(&self) -> &[f32] {
        self.danchor
    }
    /// The weights of a read, and space for their gradient, zero.
    pub fn read(&mut self) -> (&[f32], &mut [f32]) {
        self.dweights.fill(0.0);
        (self.weights, self.dweights)
    }
}

impl Shape {
    /// `psi(z)`, with the norms of `frozen`.
    fn map(&self, z: &[f32], frozen: &[f32], w: &mut [f32]) {
        with_retention!(&self.rule.retention, r => for (t, at) in &self.plan.tensors {
            r.weights(t, &z[at.clone()], &frozen[at.clone()], &mut w[at.clone()]);
        });
    }

    /// Transpose of [`Shape::map`]; adds.
    fn map_backward(&self, z: &[f32], frozen: &[f32], dw: &[f32], dz: &mut [f32], dfrozen: &mut [f32]) {
        with_retention!(&self.rule.retention, r => for (t, at) in &self.plan.tensors {
            let (z, frozen, dw) = (&z[at.clone()], &frozen[at.clone()], &dw[at.clone()]);
            r.weights_backward(t, z, frozen, dw, &mut dz[at.clone()], &mut dfrozen[at.clone()]);
        });
    }

    fn settle(&self, z: &mut [f32]) {
        with_retention!(&self.rule.retention, r => if r.settles() {
            self.plan.tensors.iter().for_each(|(t, at)| r.settle(t, &mut z[at.clone()], &[], 0.0));
        });
    }

    /// Transpose of [`Shape::settle`] at `z` before it; `dz` in place.
    pub fn settle_backward(&self, z: &[f32], dz: &mut [f32]) {
        with_retention!(&self.rule.retention, r => if r.settles() {
            for (t, at) in &self.plan.tensors {
                r.settle_backward(t, &z[at.clone()], &[], 0.0, &mut dz[at.clone()], &mut []);
            }
        });
    }

    /// Settles the memory where the chunk of the token at `pos` ends.
    pub fn settle_at(&self, pos: u64, state: &mut [f32]) {
        if self.dual && self.begins(pos + 1) {
            self.settle(&mut state[self.plan.at.z.clone()]);
        }
    }

    /// Where the state lies that gradients of a block at `pos` are taken at, before its first token.
    pub fn anchor_at(&self, pos: u64) -> Range<usize> {
        let at = &self.plan.at;
        if self.anchored() && !self.begins(pos) { at.anchor.clone() } else { at.z.clone() }
    }

    /// The weights at the anchor of a block at `pos`.
    pub fn anchor_weights<'w>(&self, pos: u64, state: &'w [f32], space: &'w mut Space<'_>) -> &'w [f32] {
        let anchor = &state[self.anchor_at(pos)];
        if !self.dual {
            return anchor;
        }
        self.map(anchor, anchor, space.anchor);
        space.anchor
    }

    /// The state whose scalar norms the reads of `state` use.
    fn frozen(&self) -> &Range<usize> {
        if self.anchored() { &self.plan.at.anchor } else { &self.plan.at.z }
    }

    /// The weights that a read of `state` sees.
    pub fn read_weights<'w>(&self, state: &'w [f32], space: &'w mut Space<'_>) -> &'w [f32] {
        let at = &self.plan.at;
        if !self.dual {
            return &state[if self.reads_anchor() { at.anchor.clone() } else { at.z.clone() }];
        }
        if self.reads_anchor() {
            let anchor = &state[at.anchor.clone()];
            self.map(anchor, anchor, space.weights);
            return space.weights;
        }
        space.state.copy_from_slice(&state[at.z.clone()]);
        if self.anchored() {
            self.settle(space.state);
        }
        let frozen = if self.anchored() { &state[at.anchor.clone()] } else { &*space.state };
        self.map(space.state, frozen, space.weights);
        space.weights
    }

    /// Transpose of [`Shape::read_weights`] for reads behind a write: from the gradient in `space` to the state's.
    pub fn read_weights_backward(&self, state: &[f32], space: &mut Space<'_>, dstate: &mut [f32]) {
        let at = &self.plan.at;
        space.dfrozen.fill(0.0);
        space.weights.fill(0.0);
        let frozen = if self.anchored() { &state[self.frozen().clone()] } else { &*space.state };
        self.map_backward(space.state, frozen, space.dweights, space.weights, space.dfrozen);
        if self.anchored() {
            self.settle_backward(&state[at.z.clone()], space.weights);
        }
        add(&mut dstate[at.z.clone()], space.weights);
        add(&mut dstate[self.frozen().clone()], space.dfrozen);
    }
}

impl Engine<'_> {
    /// The gradient of the anchor's weights, to the state that they are made of.
    pub fn anchor_backward(&self, anchor: &[f32], space: &mut Space<'_>, danchor: &mut [f32]) {
        space.dfrozen.fill(0.0);
        self.shape.map_backward(anchor, anchor, space.danchor, danchor, space.dfrozen);
        point::add_scaled(self.isa, 1.0, space.dfrozen, danchor);
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}
