//! Retentions whose state is not the weights, or is settled: the maps between them, tensor by tensor. A map is not linear,
//! so each read needs the weights of its own token; only reads at the chunk start share theirs.

use super::frame::Engine;
use super::maps::{self, DWeights, Map};
use super::pointwise as point;
use super::rows::{Rows, add_outer, apply};
use super::shape::Shape;
use crate::kernels::gemm::Start;
use crate::rules::miras::retention::{Retention, with_retention};
use std::ops::Range;

/// Space for weights and their gradients, each as long as the memory.
pub(super) struct Space<'a> {
    /// The weights at the anchor, and their gradient.
    pub anchor: &'a mut [f32],
    pub danchor: &'a mut [f32],
    /// The weights of a read.
    pub weights: &'a mut [f32],
    /// For maps in the rule's own words: the state that a read settles, gradients of weights and of frozen norms.
    state: &'a mut [f32],
    dweights: &'a mut [f32],
    dfrozen: &'a mut [f32],
    /// Norms of the tensors at the anchor, those that reads use, and gradients of either.
    anchor_norms: &'a mut [f32],
    norms: &'a mut [f32],
    dnorms: &'a mut [f32],
}

impl<'a> Space<'a> {
    /// Values that it needs: none for a rule whose state is its weights.
    pub fn len(s: &Shape) -> usize {
        if s.dual { 6 * s.plan.at.z.len() + 3 * s.layers.len() } else { 0 }
    }

    pub fn new(s: &Shape, mut buffer: &'a mut [f32]) -> Self {
        let [z, norms] = if s.dual { [s.plan.at.z.len(), s.layers.len()] } else { [0; 2] };
        let mut next = |len| {
            let (head, tail) = std::mem::take(&mut buffer).split_at_mut(len);
            buffer = tail;
            head
        };
        let [anchor, danchor, weights, state, dweights, dfrozen] = [z; 6].map(&mut next);
        let [anchor_norms, norms, dnorms] = [norms; 3].map(next);
        dfrozen.fill(0.0);
        dnorms.fill(0.0);
        Self { anchor, danchor, weights, state, dweights, dfrozen, anchor_norms, norms, dnorms }
    }

    /// Keeps a state that is about to be settled, in the space of the anchor's gradient, which comes later.
    pub fn keep(&mut self, z: &[f32]) {
        self.danchor.copy_from_slice(z);
    }
    /// What [`Space::keep`] kept.
    pub fn kept(&self) -> &[f32] {
        self.danchor
    }
}

impl Shape {
    /// Whether every token reads weights that only it sees.
    pub fn reads_maps(&self) -> bool {
        self.dual && !self.reads_anchor()
    }

    /// Where the state lies that gradients of a block at `pos` are taken at, before its first token.
    pub fn anchor_at(&self, pos: u64) -> Range<usize> {
        let at = &self.plan.at;
        if self.anchored() && !self.begins(pos) { at.anchor.clone() } else { at.z.clone() }
    }
}

impl Engine<'_> {
    /// The norms that a map uses, of each tensor of `z`.
    fn norms(&self, z: &[f32], norms: &mut [f32]) {
        if let Some(q) = self.shape.map.exponent() {
            for (l, norm) in self.shape.layers.iter().zip(norms) {
                maps::norm(self.isa, q, &z[l.at.clone()], norm);
            }
        }
    }

    /// Transpose of [`Engine::norms`]: adds into `dz`, and leaves none of `dnorms`.
    fn norms_backward(&self, z: &[f32], norms: &[f32], dnorms: &mut [f32], dz: &mut [f32]) {
        let Some(q) = self.shape.map.exponent() else { return };
        for (l, (&norm, dnorm)) in self.shape.layers.iter().zip(norms.iter().zip(dnorms)) {
            maps::norm_backward(self.isa, q, norm, *dnorm, &z[l.at.clone()], &mut dz[l.at.clone()]);
            *dnorm = 0.0;
        }
    }

    /// `psi(z)`, with the norms of `frozen`.
    fn map(&self, z: &[f32], frozen: &[f32], norms: &[f32], w: &mut [f32]) {
        let (s, isa) = (self.shape, self.isa);
        for (i, (l, (t, _))) in s.layers.iter().zip(&s.plan.tensors).enumerate() {
            let (z, frozen, w) = (&z[l.at.clone()], &frozen[l.at.clone()], &mut w[l.at.clone()]);
            match s.map {
                Map::Own => with_retention!(&s.rule.retention, r => r.weights(t, z, frozen, w)),
                Map::Softmax => maps::softmax(isa, l.columns, z, w),
                Map::Power(q) => maps::powers(isa, q, self.norm_of(q, z, norms[i]), z, w),
                Map::Scale(q, floor) => {
                    w.copy_from_slice(z);
                    point::scale(isa, factor(q, floor, norms[i]), w);
                }
                Map::Sigmoid => maps::sigmoid(isa, z, w),
            }
        }
    }

    /// Whether a read needs no weights, only their products with its rows: see [`Engine::apply_mapped`].
    pub fn maps_on_the_way(&self) -> bool {
        self.shape.reads_maps() && !matches!(self.shape.map, Map::Own | Map::Sigmoid)
    }

    /// The norms that reads of a state use, under chunks those of its anchor.
    pub fn read_norms<'w>(&self, z: &[f32], space: &'w mut Space<'_>) -> &'w [f32] {
        if !self.shape.anchored() {
            self.norms(z, space.norms);
        }
        space.norms
    }

    /// `psi(z) g` for tensor `i` of a state.
    pub fn apply_mapped(&self, i: usize, z: &[f32], norms: &[f32], g: &[f32], out: &mut [f32]) {
        let (l, isa) = (&self.shape.layers[i], self.isa);
        let z = &z[l.at.clone()];
        match self.shape.map {
            Map::Softmax => maps::softmax_dots(isa, l.columns, z, g, out),
            Map::Power(q) => maps::powers_dots(isa, q, self.norm_of(q, z, norms[i]), l.columns, z, g, out),
            Map::Scale(q, floor) => {
                apply(isa, Rows::Canonical, l, z, g, out, Start::Zero);
                point::scale(isa, factor(q, floor, norms[i]), out);
            }
            Map::Own | Map::Sigmoid => unreachable!("such maps form weights"),
        }
    }

    /// The norm that divides: where what is frozen has none, `z` brings its own.
    fn norm_of(&self, q: u32, z: &[f32], frozen: f32) -> f32 {
        let mut own = frozen;
        if frozen == 0.0 {
            maps::norm(self.isa, q, z, &mut own);
        }
        own
    }

    /// Transpose of tensor `i` of [`Engine::map`] with result `w`: adds into `dz`, and into the gradients of `frozen` or of
    /// its norm.
    fn map_backward(
        &self,
        i: usize,
        [z, frozen, w]: [&[f32]; 3],
        norm: f32,
        dw: DWeights<'_>,
        dz: &mut [f32],
        dfrozen: &mut [f32],
        dnorm: &mut f32,
    ) {
        let (s, isa) = (self.shape, self.isa);
        let (l, (t, at)) = (&s.layers[i], &s.plan.tensors[i]);
        let (z, frozen, w) = (&z[at.clone()], &frozen[at.clone()], &w[at.clone()]);
        let (dz, dfrozen) = (&mut dz[at.clone()], &mut dfrozen[at.clone()]);
        match s.map {
            Map::Own => with_retention!(&s.rule.retention, r => r.weights_backward(t, z, frozen, dw.full, dz, dfrozen)),
            Map::Softmax => maps::softmax_backward(isa, l.columns, w, dw, dz),
            Map::Sigmoid => maps::sigmoid_backward(isa, l.columns, w, dw, dz),
            Map::Power(q) if norm > 0.0 => maps::powers_backward(isa, q, norm, l.columns, z, dw, dz, dnorm),
            Map::Power(q) => {
                let (own, mut down) = (self.norm_of(q, z, norm), 0.0);
                maps::powers_backward(isa, q, own, l.columns, z, dw, dz, &mut down);
                maps::norm_backward(isa, q, own, down, z, dz);
            }
            Map::Scale(q, floor) => {
                let (by, mut along) = (factor(q, floor, norm), 0.0);
                maps::scale_backward(isa, by, l.columns, z, dw, dz, &mut along);
                *dnorm -= if norm > floor { along * by * (q - 2) as f32 / norm } else { 0.0 };
            }
        }
    }

    /// Settles the memory where the chunk of the token at `pos` ends.
    pub fn settle_at(&self, pos: u64, z: &mut [f32]) {
        if self.shape.dual && self.shape.begins(pos + 1) {
            self.settle(z);
        }
    }

    fn settle(&self, z: &mut [f32]) {
        let s = self.shape;
        with_retention!(&s.rule.retention, r => if r.settles() {
            for (t, at) in &s.plan.tensors {
                match s.map {
                    Map::Softmax => maps::settle(self.isa, t.columns, &mut z[at.clone()]),
                    _ => r.settle(t, &mut z[at.clone()], &[], 0.0),
                }
            }
        });
    }

    /// Transpose of settling at `z` before it; `dz` in place.
    pub fn settle_backward(&self, z: &[f32], dz: &mut [f32]) {
        let s = self.shape;
        with_retention!(&s.rule.retention, r => if r.settles() {
            for (t, at) in &s.plan.tensors {
                let (z, dz) = (&z[at.clone()], &mut dz[at.clone()]);
                match s.map {
                    Map::Softmax => maps::settle_backward(self.isa, t.columns, z, dz),
                    _ => {
                        r.settle_backward(t, z, &[], 0.0, dz, &mut []);
                    }
                }
            }
        });
    }

    /// The weights at the anchor of a block at `pos`; reads under chunks use its norms.
    pub fn anchor_weights<'w>(&self, pos: u64, state: &'w [f32], space: &'w mut Space<'_>) -> &'w [f32] {
        let anchor = &state[self.shape.anchor_at(pos)];
        if !self.shape.dual {
            return anchor;
        }
        self.norms(anchor, space.anchor_norms);
        self.map(anchor, anchor, space.anchor_norms, space.anchor);
        if self.shape.anchored() {
            space.norms.copy_from_slice(space.anchor_norms);
        }
        space.anchor
    }

    /// From the gradient of the anchor's weights to that of the state that they are made of. Under chunks, what reads have
    /// gathered for its norms is added.
    pub fn anchor_backward(&self, anchor: &[f32], space: &mut Space<'_>, danchor: &mut [f32]) {
        let Space { anchor: w, danchor: dw, dfrozen, anchor_norms, dnorms, .. } = space;
        for (i, l) in self.shape.layers.iter().enumerate() {
            let dw = DWeights { full: &dw[l.at.clone()], rows: &[], columns: &[] };
            self.map_backward(i, [anchor, anchor, w], anchor_norms[i], dw, danchor, dfrozen, &mut dnorms[i]);
        }
        self.norms_backward(anchor, anchor_norms, dnorms, danchor);
        self.frozen_backward(dfrozen, danchor);
    }

    fn frozen_backward(&self, dfrozen: &mut [f32], dz: &mut [f32]) {
        if self.shape.map == Map::Own {
            point::add_scaled(self.isa, 1.0, dfrozen, dz);
            dfrozen.fill(0.0);
        }
    }

    /// Finds the norms that reads of a state use, where no anchor has brought them.
    pub fn freeze(&self, state: &[f32], space: &mut Space<'_>) {
        if self.shape.dual && self.shape.anchored() {
            self.norms(&state[self.shape.plan.at.anchor.clone()], space.norms);
        }
    }

    /// The weights that a read sees, of a state `z` and under chunks of its `anchor`.
    pub fn map_state(&self, z: &[f32], anchor: &[f32], space: &mut Space<'_>) {
        if !self.shape.anchored() {
            self.norms(z, space.norms);
            return self.map(z, z, space.norms, space.weights);
        }
        if self.shape.map != Map::Own {
            return self.map(z, anchor, space.norms, space.weights);
        }
        space.state.copy_from_slice(z);
        self.settle(space.state);
        self.map(space.state, anchor, space.norms, space.weights);
    }

    /// Transpose of [`Engine::map_state`], which has just run: from the rows and columns that the gradient of each tensor is
    /// made of to `dz`. Norms of an anchor are gathered for [`Engine::anchor_backward`].
    pub fn map_state_backward<'g>(
        &self,
        z: &[f32],
        anchor: &[f32],
        space: &mut Space<'_>,
        gradient: impl Fn(usize) -> (&'g [f32], &'g [f32]),
        dz: &mut [f32],
    ) {
        let (s, own, anchored) = (self.shape, self.shape.map == Map::Own, self.shape.anchored());
        let Space { weights, danchor: gathered, state, dweights, dfrozen, norms, dnorms, .. } = space;
        let from = if own && anchored { &**state } else { z };
        let frozen = if anchored { anchor } else { z };
        if own {
            dweights.fill(0.0);
            gathered.fill(0.0);
        }
        for (i, l) in s.layers.iter().enumerate() {
            let (rows, columns) = gradient(i);
            let parts = [from, frozen, weights];
            if !own {
                let dw = DWeights { full: &[], rows, columns };
                self.map_backward(i, parts, norms[i], dw, dz, dfrozen, &mut dnorms[i]);
                continue;
            }
            add_outer(self.isa, l, rows, columns, &mut dweights[l.at.clone()]);
            let dw = DWeights { full: &dweights[l.at.clone()], rows: &[], columns: &[] };
            self.map_backward(i, parts, norms[i], dw, gathered, dfrozen, &mut dnorms[i]);
        }
        if own {
            if anchored {
                self.settle_backward(z, gathered);
            }
            point::add_scaled(self.isa, 1.0, gathered, dz);
        }
        if !anchored {
            self.norms_backward(z, norms, dnorms, dz);
            self.frozen_backward(dfrozen, dz);
        }
    }

    /// The weights that a read of `state` sees.
    pub fn read_weights<'w>(&self, state: &'w [f32], space: &'w mut Space<'_>) -> &'w [f32] {
        let (s, at) = (self.shape, &self.shape.plan.at);
        if !s.dual {
            return &state[if s.reads_anchor() { at.anchor.clone() } else { at.z.clone() }];
        }
        let anchor = &state[at.anchor.clone()];
        if s.reads_anchor() {
            self.map(anchor, anchor, space.norms, space.weights);
        } else {
            self.map_state(&state[at.z.clone()], anchor, space);
        }
        space.weights
    }
}

/// What [`Map::Scale`] multiplies with.
fn factor(q: u32, floor: f32, norm: f32) -> f32 {
    1.0 / norm.max(floor).powi(q as i32 - 2)
}
