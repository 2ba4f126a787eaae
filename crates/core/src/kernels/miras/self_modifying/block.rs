//! A block of tokens forward: what anchors make of it, its reads and its write.

use super::super::frame::{Engine, Frame, Tokens, cut, room};
use super::super::rows::Rows;
use super::super::shape::Shape;
use super::erase::{Erase, Steps, Tensor, decays};
use super::point;
use crate::rule::Dims;
use crate::rules::SelfModifying;
use crate::rules::self_modifying::Targets;
use crate::rules::self_modifying::plan::{Place, Plan, Role};
use crate::scalar::Scalar;
use crate::simd::Isa;
use std::cell::RefCell;
use std::rc::Rc;

/// One memory: where it lies, its shape, and what each of its layers erases.
pub(super) struct Net {
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
        let net = |place: &Place| {
            let net = plan.net(place);
            let shape = Shape::of(net.rule(), net.dims());
            let last = shape.layers.len() - 1;
            let erase = |i: usize| match plan.erases(i, last + 1) {
                false => Erase::Nothing,
                true if i == last => Erase::Input,
                true => Erase::Unit,
            };
            Net { place: place.clone(), erases: (0..=last).map(erase).collect(), shape }
        };
        let nets: Vec<Net> = plan.memories.iter().map(net).collect();
        let widest = nets.iter().map(|n| n.shape.widest).max().unwrap_or(0);
        let biases = [rule.rate_bias(), rule.retain_bias].map(|b| b as f32);
        let [rate_bias, retain_bias] = biases;
        Self { rule: rule.clone(), d, nets, rate_bias, retain_bias, linear: rule.is_linear(), widest }
    }

    pub fn net(&self, role: Role) -> &Net {
        self.nets.iter().find(|n| n.place.role == role).expect("every role that is asked for has a memory")
    }

    /// Values that the frame of any memory needs.
    pub fn frame(&self, count: usize) -> usize {
        self.nets.iter().map(|n| Frame::len(&n.shape, count)).max().unwrap_or(0)
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
}

/// Buffers of a block.
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
    /// What one memory answers to the values, and its targets.
    pub answer: &'a mut [f32],
    pub target: &'a mut [f32],
    /// Its gates, and products of its decays.
    pub rate: &'a mut [f32],
    pub retain: &'a mut [f32],
    pub a: &'a mut [f32],
    /// A frame for answers, one for gradients, and the steps of a tensor.
    pub asked: &'a mut [f32],
    pub frame: &'a mut [f32],
    pub steps: &'a mut [f32],
}

impl<'a> Space<'a> {
    fn lens(k: &Known, n: usize) -> [usize; 17] {
        let (row, frame) = (n * k.d.dk, k.frame(n));
        let steps = Steps::len(n, k.widest);
        [row, row, n, row, row, n, row, n, n, row, row, n, n, (n + 1) * (n + 1), frame, frame, steps]
    }
    /// Values of its buffer.
    pub fn len(k: &Known, n: usize) -> usize {
        room(Self::lens(k, n))
    }
    pub fn new(known: &Known, n: usize, buffer: &'a mut [f32]) -> Self {
        let [raw, k, by, raw_q, q, by_q, v, r, s, answer, target, rate, retain, a, asked, frame, steps] =
            cut(buffer, Self::lens(known, n));
        Self { raw, k, by, raw_q, q, by_q, v, r, s, answer, target, rate, retain, a, asked, frame, steps }
    }
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
                self.ask(self.known.net(Role::Query), x.x, state, w.asked, w.raw_q);
                point::unit(self.isa, self.known.d.dk, w.raw_q, w.q, w.by_q);
            }
        }
    }

    /// Keys, values, shares of gates and queries of a block.
    pub fn make(&self, x: &Block<'_>, state: &[f32], w: &mut Space<'_>) {
        let k = self.known;
        self.ask(k.net(Role::Key), x.x, state, w.asked, w.raw);
        point::unit(self.isa, k.d.dk, w.raw, w.k, w.by);
        self.ask(k.net(Role::Value), x.x, state, w.asked, w.v);
        self.ask(k.net(Role::Rate), x.x, state, w.asked, w.r);
        self.ask(k.net(Role::Retain), x.x, state, w.asked, w.s);
        w.r.iter_mut().for_each(|r| *r = (*r + k.rate_bias).sigmoid());
        w.s.iter_mut().for_each(|s| *s = (*s + k.retain_bias).sigmoid());
        self.queries(x, state, w);
    }

    /// The reads of a block whose queries are made.
    pub fn read(&self, state: &[f32], w: &mut Space<'_>, y: &mut [f32]) {
        self.ask(self.known.net(Role::Memory), w.q, state, w.asked, y);
    }

    /// Gates and decays of one memory.
    pub fn gates(&self, net: &Net, w: &mut Space<'_>) {
        let (least, most) = (net.place.least as f32, net.place.most as f32);
        let kept = 1.0 - net.place.least;
        for (retain, &s) in w.retain.iter_mut().zip(&*w.s) {
            *retain = least + kept as f32 * s;
        }
        for ((rate, &r), &retain) in w.rate.iter_mut().zip(&*w.r).zip(&*w.retain) {
            *rate = most * r * if self.known.linear { 0.5 * (1.0 + retain) } else { 1.0 };
        }
        decays(w.retain, w.a);
    }

    /// The targets of one memory, and its gradients at the anchor, which stay in the frame.
    pub fn learn<'f>(&self, net: &'f Net, state: &[f32], w: &'f mut Space<'_>) -> Learning<'f> {
        let count = w.rate.len();
        let n = count * net.width();
        self.ask(net, w.v, state, w.asked, &mut w.answer[..n]);
        if self.known.rule.targets == Targets::Soft {
            point::soft(self.isa, net.width(), &w.answer[..n], &mut w.target[..n]);
        } else {
            w.target[..n].copy_from_slice(&w.answer[..n]);
        }
        self.gates(net, w);
        let mut frame = Frame::new(&net.shape, count, w.frame);
        frame.keys.copy_from_slice(w.k);
        frame.values.copy_from_slice(&w.target[..n]);
        frame.thresholds.fill(0.0);
        self.engine(net).gradients(&asking(count, &[]), &state[net.place.anchor.clone()], &mut frame);
        Learning {
            frame,
            steps: Steps::new(count, self.known.widest, w.steps),
            answer: &w.answer[..n],
            rate: w.rate,
            a: w.a,
            retain: w.retain,
        }
    }

    /// Layer `i` of a memory.
    pub fn tensor<'t>(&self, net: &'t Net, i: usize, rate: &'t [f32], a: &'t [f32]) -> Tensor<'t> {
        Tensor { isa: self.isa, rows: self.rows, layer: &net.shape.layers[i], erase: net.erases[i], rate, a }
    }

    /// The write of a block that is made.
    pub fn write(&self, x: &Block<'_>, state: &mut [f32], w: &mut Space<'_>) {
        for net in &self.known.nets {
            let (shape, own) = (&net.shape, net.place.own.clone());
            let mut learned = self.learn(net, state, w);
            for (i, layer) in shape.layers.iter().enumerate() {
                let tensor = self.tensor(net, i, learned.rate, learned.a);
                let f = &learned.frame;
                let (h, b) = (&f.h[shape.input(layer.level, x.count)], &f.back[shape.result(i, x.count)]);
                tensor.advance(h, b, &mut state[own.clone()][layer.at.clone()], &mut learned.steps);
            }
            if net.place.settles(x.pos + x.count as u64 - 1) {
                state.copy_within(own, net.place.anchor.start);
            }
        }
    }
}

/// One memory's part of a block.
pub(super) struct Learning<'a> {
    pub frame: Frame<'a>,
    pub steps: Steps<'a>,
    pub answer: &'a [f32],
    pub rate: &'a [f32],
    pub retain: &'a [f32],
    pub a: &'a [f32],
}
