//! A block of tokens forward: what anchors make of it, its reads and its write.

use super::super::frame::{Engine, Frame, Tokens, cut, room};
use super::super::rows::Rows;
use super::super::shape::{Layer, Shape};
use super::erase::{Erase, Steps, Tensor, decays};
use super::momentum::carries;
use super::point;
use crate::rule::Dims;
use crate::rules::SelfModifying;
use crate::rules::self_modifying::plan::{Place, Plan, Role};
use crate::rules::self_modifying::{Momentum, Targets};
use crate::scalar::Scalar;
use crate::simd::Isa;
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

/// One memory: where it lies, its shape, and what each of its layers erases.
pub(super) struct Net {
    /// Among the memories.
    pub index: usize,
    pub place: Place,
    pub shape: Rc<Shape>,
    pub erases: Vec<Erase>,
}

impl Net {
    /// Width of what it answers.
    pub fn width(&self) -> usize {
        self.shape.d.dv
    }
}

/// A rule at one size.
pub(super) struct Known {
    pub rule: SelfModifying,
    pub d: Dims,
    pub nets: Vec<Net>,
    /// What is added to the answers of the gates' memories, and whether a step is bounded by what is kept.
    rate_bias: f32,
    retain_bias: f32,
    pub linear: bool,
    /// The widest layer.
    pub widest: usize,
}

thread_local! {
    static KNOWN: RefCell<Vec<Rc<Known>>> = const { RefCell::new(Vec::new()) };
}
/// Sizes that a thread remembers, so that a call for a single token allocates little; a model has a few.
const KEPT: usize = 16;

impl Known {
    /// The rule at that size, kept for the next call.
    pub fn of(rule: &SelfModifying, d: Dims) -> Rc<Known> {
        KNOWN.with_borrow_mut(|kept| {
            let at = kept.iter().position(|k| k.d == d && k.rule == *rule).unwrap_or_else(|| {
                kept.truncate(KEPT - 1);
                kept.insert(0, Rc::new(Self::new(rule, d)));
                0
            });
            kept[at].clone()
        })
    }

    fn new(rule: &SelfModifying, d: Dims) -> Self {
        let plan = Plan::new(rule, d);
        let net = |(index, place): (usize, &Place)| {
            let net = plan.net(place);
            let shape = Shape::of(net.rule(), net.dims());
            let last = shape.layers.len() - 1;
            let erase = |i: usize| match plan.erases(i, last + 1) {
                false => Erase::Nothing,
                true if i == last => Erase::Input,
                true => Erase::Unit,
            };
            Net { index, place: place.clone(), erases: (0..=last).map(erase).collect(), shape }
        };
        let nets: Vec<Net> = plan.memories.iter().enumerate().map(net).collect();
        let widest = nets.iter().map(|n| n.shape.widest).max().unwrap_or(0);
        let biases = [rule.rate_bias(), rule.retain_bias].map(|b| b as f32);
        let [rate_bias, retain_bias] = biases;
        Self { rule: rule.clone(), d, nets, rate_bias, retain_bias, linear: rule.is_linear(), widest }
    }

    pub fn net(&self, role: Role) -> &Net {
        self.nets.iter().find(|n| n.place.role == role).expect("every role that is asked for has a memory")
    }

    /// Whether there is a momentum.
    pub fn carries(&self) -> bool {
        self.rule.momentum != Momentum::None
    }

    /// The most that one of the memories needs.
    fn most(&self, of: impl Fn(&Net) -> usize) -> usize {
        self.nets.iter().map(of).max().unwrap_or(0)
    }
}

/// The inputs of a block.
pub(super) struct Block<'a> {
    pub count: usize,
    pub pos: u64,
    /// `[count, d]`.
    pub x: &'a [f32],
    /// Queries, unless a memory makes them.
    pub q: Option<&'a [f32]>,
    /// The gate of the momentum, `[count]`, where it has one.
    pub momentum: Option<&'a [f32]>,
}

/// What a block's tokens are made into, and how its memories learn from them.
pub(super) struct Space<'a> {
    /// Keys and queries before and at unit length, with what they were multiplied with; values; `[count, d]`.
    pub raw: &'a mut [f32],
    pub k: &'a mut [f32],
    pub by: &'a mut [f32],
    pub raw_q: &'a mut [f32],
    pub q: &'a mut [f32],
    pub by_q: &'a mut [f32],
    pub v: &'a mut [f32],
    /// Shares of the ranges of gates, `[count]`.
    pub r: &'a mut [f32],
    pub s: &'a mut [f32],
    /// The decay of the momentum, and its products; empty without one.
    pub momentum: &'a mut [f32],
    pub momenta: &'a mut [f32],
    pub parts: Parts<'a>,
}

/// Buffers of the memories: for each of them where the way back needs them, else one for whichever is at work.
pub(super) struct Parts<'a> {
    buffer: &'a mut [f32],
    lens: [usize; PART],
    kept: bool,
}

/// Buffers of one memory over a block.
pub(super) struct Part<'a> {
    /// Frames of what its anchor is asked: the block's inputs, or queries where reads come from it; and the values.
    pub asked: &'a mut [f32],
    pub asked_values: &'a mut [f32],
    /// Its answers to the values, and its targets.
    pub answer: &'a mut [f32],
    pub target: &'a mut [f32],
    /// Its gates, and products of its decays.
    pub rate: &'a mut [f32],
    pub retain: &'a mut [f32],
    pub a: &'a mut [f32],
    /// What a step is worth through the momentum; empty without one.
    pub carried: &'a mut [f32],
    /// The frame of its gradients, and the steps of its tensors.
    pub frame: &'a mut [f32],
    pub steps: &'a mut [f32],
}

/// Pieces of [`Part`].
const PART: usize = 10;

impl<'a> Space<'a> {
    fn lens(k: &Known, n: usize, kept: bool) -> [usize; 12] {
        let (row, parts) = (n * k.d.dk, if kept { k.nets.len() } else { 1 });
        let gates = if k.carries() { [n, (n + 1) * (n + 1)] } else { [0; 2] };
        [row, row, n, row, row, n, row, n, n, gates[0], gates[1], parts * room(Part::lens(k, n))]
    }
    /// Values of its buffer, with every memory's part `kept` or not.
    pub fn len(k: &Known, n: usize, kept: bool) -> usize {
        room(Self::lens(k, n, kept))
    }
    pub fn new(known: &Known, n: usize, kept: bool, buffer: &'a mut [f32]) -> Self {
        let [raw, k, by, raw_q, q, by_q, v, r, s, momentum, momenta, buffer] = cut(buffer, Self::lens(known, n, kept));
        let parts = Parts { buffer, lens: Part::lens(known, n), kept };
        Self { raw, k, by, raw_q, q, by_q, v, r, s, momentum, momenta, parts }
    }
}

impl Parts<'_> {
    /// The part of a memory.
    pub fn of(&mut self, net: &Net) -> Part<'_> {
        let first = if self.kept { net.index * room(self.lens) } else { 0 };
        let [asked, asked_values, answer, target, rate, retain, a, carried, frame, steps] =
            cut(&mut self.buffer[first..], self.lens);
        let n = rate.len() * net.width();
        let (answer, target) = (&mut answer[..n], &mut target[..n]);
        Part { asked, asked_values, answer, target, rate, retain, a, carried, frame, steps }
    }
}

impl Part<'_> {
    fn lens(k: &Known, n: usize) -> [usize; PART] {
        let (row, frame) = (n * k.d.dk, k.most(|net| Frame::len(&net.shape, n)));
        let steps = k.most(|net| net.shape.layers.len() * Steps::len(n, k.widest));
        let square = (n + 1) * (n + 1);
        [frame, frame, row, row, n, n, square, if k.carries() { square } else { 0 }, frame, steps]
    }
}

/// Where a layer lies in the state, for weights or a momentum at `all`; nowhere if there is none.
pub(super) fn within(all: &Range<usize>, layer: &Layer) -> Range<usize> {
    if all.is_empty() { 0..0 } else { all.start + layer.at.start..all.start + layer.at.end }
}

/// The steps of tensor `i`, whose widest row has `widest` values.
pub(super) fn steps_of(i: usize, n: usize, widest: usize, all: &mut [f32]) -> Steps<'_> {
    let len = Steps::len(n, widest);
    Steps::new(n, widest, &mut all[i * len..(i + 1) * len])
}

/// A rule on a machine.
pub(super) struct Pass<'a> {
    pub known: &'a Known,
    pub isa: Isa,
    pub rows: Rows,
}

/// A memory's view of rows that it is asked.
pub(super) fn asking<'a>(count: usize, rows: &'a [f32]) -> Tokens<'a> {
    Tokens { count, pos: 0, x: [&[][..], &[], rows].into_iter().collect() }
}

impl<'a> Pass<'a> {
    /// As fast as can be.
    pub fn fast(known: &'a Known, isa: Isa) -> Self {
        Self { known, isa, rows: Rows::Fast }
    }
    /// In an order that does not depend on the number of tokens.
    pub fn canonical(known: &'a Known, isa: Isa) -> Self {
        Self { known, isa, rows: Rows::Canonical }
    }

    pub fn engine<'s>(&self, net: &'s Net) -> Engine<'s> {
        Engine { alone: true, ..Engine::new(&net.shape, self.isa, self.rows) }
    }

    /// What a memory's anchor answers to rows.
    pub fn ask(&self, net: &Net, rows: &[f32], state: &[f32], frame: &mut [f32], y: &mut [f32]) {
        let count = rows.len() / net.shape.d.dk;
        let mut f = Frame::new(&net.shape, count, frame);
        self.engine(net).read(&asking(count, rows), &[], &state[net.place.anchor.clone()], &mut f, y);
    }

    /// Queries of a block.
    pub fn queries(&self, x: &Block<'_>, state: &[f32], w: &mut Space<'_>) {
        match x.q {
            Some(q) => w.q.copy_from_slice(q),
            None => {
                let net = self.known.net(Role::Query);
                self.ask(net, x.x, state, w.parts.of(net).asked, w.raw_q);
                point::unit(self.isa, self.known.d.dk, w.raw_q, w.q, w.by_q);
            }
        }
    }

    /// Keys, values, shares of gates and queries of a block.
    pub fn make(&self, x: &Block<'_>, state: &[f32], w: &mut Space<'_>) {
        let k = self.known;
        let roles = [Role::Key, Role::Value, Role::Rate, Role::Retain];
        for (role, to) in roles.into_iter().zip([&mut *w.raw, &mut *w.v, &mut *w.r, &mut *w.s]) {
            let net = k.net(role);
            self.ask(net, x.x, state, w.parts.of(net).asked, to);
        }
        point::unit(self.isa, k.d.dk, w.raw, w.k, w.by);
        w.r.iter_mut().for_each(|r| *r = (*r + k.rate_bias).sigmoid());
        w.s.iter_mut().for_each(|s| *s = (*s + k.retain_bias).sigmoid());
        match (k.rule.momentum, x.momentum) {
            (Momentum::None, _) => {}
            (Momentum::Constant(momentum), _) => w.momentum.fill(momentum as f32),
            (Momentum::Gate, gate) => w.momentum.copy_from_slice(gate.expect("a gate is an input")),
        }
        if k.carries() {
            decays(w.momentum, w.momenta);
        }
        self.queries(x, state, w);
    }

    /// The reads of a block whose queries are made.
    pub fn read(&self, state: &[f32], w: &mut Space<'_>, y: &mut [f32]) {
        let net = self.known.net(Role::Memory);
        self.ask(net, w.q, state, w.parts.of(net).asked, y);
    }

    /// The same where nobody wants the reads themselves, but what they are made of.
    pub fn look(&self, state: &[f32], w: &mut Space<'_>) {
        let net = self.known.net(Role::Memory);
        let part = w.parts.of(net);
        self.ask(net, w.q, state, part.asked, part.answer);
    }

    /// Gates of one memory and their products, from the shares of their ranges and from the momentum's.
    fn gates(&self, net: &Net, [r, s, momentum, momenta]: [&[f32]; 4], part: &mut Part<'_>) {
        let (least, most) = (net.place.least as f32, net.place.most as f32);
        let kept = 1.0 - net.place.least;
        for (retain, &s) in part.retain.iter_mut().zip(s) {
            *retain = least + kept as f32 * s;
        }
        for ((rate, &r), &retain) in part.rate.iter_mut().zip(r).zip(&*part.retain) {
            *rate = most * r * if self.known.linear { 0.5 * (1.0 + retain) } else { 1.0 };
        }
        decays(part.retain, part.a);
        if self.known.carries() {
            part.rate.iter_mut().zip(momentum).for_each(|(rate, momentum)| *rate *= 1.0 - momentum);
            carries(part.retain, momenta, part.carried);
        }
    }

    /// What a memory is to learn from a block that is made, from `state` before it: targets, gradients at the anchor, steps.
    /// They stay in its part.
    fn learn(&self, net: &Net, state: &[f32], w: &mut Space<'_>) {
        let (shape, mut part) = (&net.shape, w.parts.of(net));
        let count = part.rate.len();
        self.ask(net, w.v, state, part.asked_values, part.answer);
        if self.known.rule.targets == Targets::Soft {
            point::soft(self.isa, net.width(), part.answer, part.target);
        } else {
            part.target.copy_from_slice(part.answer);
        }
        self.gates(net, [w.r, w.s, w.momentum, w.momenta], &mut part);
        let mut f = Frame::new(shape, count, part.frame);
        f.keys.copy_from_slice(w.k);
        f.values.copy_from_slice(part.target);
        f.thresholds.fill(0.0);
        self.engine(net).gradients(&asking(count, &[]), &state[net.place.anchor.clone()], &mut f);
        for (i, layer) in shape.layers.iter().enumerate() {
            let (h, b) = (&f.h[shape.input(layer.level, count)], &f.back[shape.result(i, count)]);
            let tensor = self.tensor(net, i, [part.rate, part.a, w.momenta, part.carried]);
            let (own, momentum) = (&state[within(&net.place.own, layer)], &state[within(&net.place.momentum, layer)]);
            tensor.steps(own, momentum, h, b, &mut steps_of(i, count, self.known.widest, part.steps));
        }
    }

    /// Layer `i` of a memory.
    pub fn tensor<'t>(&self, net: &'t Net, i: usize, [rate, a, momenta, carried]: [&'t [f32]; 4]) -> Tensor<'t> {
        let (layer, erase) = (&net.shape.layers[i], net.erases[i]);
        Tensor { isa: self.isa, rows: self.rows, layer, erase, rate, a, momenta, carried }
    }

    /// What all memories are to learn from a block that is made.
    pub fn learn_all(&self, state: &[f32], w: &mut Space<'_>) {
        self.known.nets.iter().for_each(|net| self.learn(net, state, w));
    }

    /// What a memory has learned, into its weights and its momentum, and at the end of a chunk into its anchor.
    fn step(&self, net: &Net, x: &Block<'_>, state: &mut [f32], w: &mut Space<'_>) {
        let (place, part) = (&net.place, w.parts.of(net));
        for (i, layer) in net.shape.layers.iter().enumerate() {
            let mut steps = steps_of(i, x.count, self.known.widest, part.steps);
            let tensor = self.tensor(net, i, [part.rate, part.a, w.momenta, part.carried]);
            if tensor.carries() {
                // The momentum lies behind the weights.
                let (own, momentum) = state.split_at_mut(place.momentum.start);
                let momentum = &mut momentum[layer.at.clone()];
                tensor.carried_advance(&mut own[within(&place.own, layer)], momentum, &mut steps);
            } else {
                tensor.advance(&mut state[within(&place.own, layer)], &mut steps);
            }
        }
        if place.settles(x.pos + x.count as u64 - 1) {
            state.copy_within(place.own.clone(), place.anchor.start);
        }
    }

    /// The write of a block that is made.
    pub fn write(&self, x: &Block<'_>, state: &mut [f32], w: &mut Space<'_>) {
        for net in &self.known.nets {
            self.learn(net, state, w);
            self.step(net, x, state, w);
        }
    }

    /// The state behind a block from which all memories have learned, out of that before it.
    pub fn step_all(&self, x: &Block<'_>, before: &[f32], state: &mut [f32], w: &mut Space<'_>) {
        for net in &self.known.nets {
            let Place { own, momentum, anchor, .. } = &net.place;
            for moves in [own, momentum] {
                state[moves.clone()].copy_from_slice(&before[moves.clone()]);
            }
            if !net.place.settles(x.pos + x.count as u64 - 1) {
                state[anchor.clone()].copy_from_slice(&before[anchor.clone()]);
            }
            self.step(net, x, state, w);
        }
    }
}
