//! The transpose of a block: of the write of every memory, of the reads, and of what anchors made of the tokens.

use super::super::frame::{Frame, cut, room};
use super::super::pointwise;
use super::super::transpose::{DInputs, Work};
use super::block::{self, Block, Known, Net, Pass, asking, within};
use super::erase::{DSteps, decays_backward};
use super::momentum::{DGates, carries_backward};
use super::point;
use crate::rules::self_modifying::Targets;
use crate::rules::self_modifying::plan::Role;

/// Gradients of what a block's [`block::Space`] holds.
pub(super) struct Space<'a> {
    k: &'a mut [f32],
    raw: &'a mut [f32],
    v: &'a mut [f32],
    q: &'a mut [f32],
    r: &'a mut [f32],
    s: &'a mut [f32],
    answer: &'a mut [f32],
    rate: &'a mut [f32],
    retain: &'a mut [f32],
    a: &'a mut [f32],
    carried: &'a mut [f32],
    /// Over all memories; empty without momentum.
    momentum: &'a mut [f32],
    momenta: &'a mut [f32],
    work: &'a mut [f32],
    steps: &'a mut [f32],
}

impl<'a> Space<'a> {
    fn lens(k: &Known, n: usize) -> [usize; 15] {
        let row = n * k.d.dk;
        let work = k.nets.iter().map(|net| Work::len(&net.shape, n, 0)).max().unwrap_or(0);
        let steps = DSteps::len(n, k.widest);
        let square = (n + 1) * (n + 1);
        let [momentum, products] = if k.carries() { [n, square] } else { [0; 2] };
        [row, row, row, row, n, n, row, n, n, square, products, momentum, products, work, steps]
    }
    /// Values of its buffer.
    pub fn len(k: &Known, n: usize) -> usize {
        room(Self::lens(k, n))
    }
    pub fn new(known: &Known, n: usize, buffer: &'a mut [f32]) -> Self {
        let [k, raw, v, q, r, s, answer, rate, retain, a, carried, momentum, momenta, work, steps] =
            cut(buffer, Self::lens(known, n));
        Self { k, raw, v, q, r, s, answer, rate, retain, a, carried, momentum, momenta, work, steps }
    }
}

impl Pass<'_> {
    /// Back through a block that is made, whose reads were looked at and from which all memories have learned, each in a part
    /// of its own; `state` lies before it, and `dstate` goes from behind to before.
    pub fn back(
        &self,
        x: &Block<'_>,
        state: &[f32],
        w: &mut block::Space<'_>,
        d: &mut Space<'_>,
        dy: &[f32],
        dx: &mut DInputs<'_>,
        dstate: &mut [f32],
    ) {
        for zeroed in [&mut *d.k, d.v, d.q, d.r, d.s, d.momentum, d.momenta] {
            zeroed.fill(0.0);
        }
        for net in &self.known.nets {
            if net.place.settles(x.pos + x.count as u64 - 1) {
                let (own, behind) = dstate.split_at_mut(net.place.anchor.start);
                let behind = &mut behind[..net.place.anchor.len()];
                pointwise::add_scaled(self.isa, 1.0, behind, &mut own[net.place.own.clone()]);
                behind.fill(0.0);
            }
            self.memory_back(x, net, state, w, d, dstate);
        }
        if let (true, Some(slot)) = (self.known.carries(), self.known.rule.slots().1) {
            decays_backward(w.momentum, w.momenta, d.momenta, d.momentum);
            pointwise::add_scaled(self.isa, 1.0, d.momentum, dx[slot]);
        }
        let memory = self.known.net(Role::Memory);
        self.asked_back(memory, (w.q, state, w.parts.of(memory).asked), d.work, dy, d.q, dstate);
        if x.q.is_some() {
            pointwise::add_scaled(self.isa, 1.0, d.q, dx[1]);
        }
        self.make_back(x, state, w, d, dx[0], dstate);
    }

    /// Back through the reads alone, which were looked at, and through queries that a memory makes; `dstate` is scratch.
    pub fn reads_back(
        &self,
        x: &Block<'_>,
        state: &[f32],
        w: &mut block::Space<'_>,
        d: &mut Space<'_>,
        dy: &[f32],
        dx: &mut DInputs<'_>,
        dstate: &mut [f32],
    ) {
        d.q.fill(0.0);
        let memory = self.known.net(Role::Memory);
        self.asked_back(memory, (w.q, state, w.parts.of(memory).asked), d.work, dy, d.q, dstate);
        if x.q.is_some() {
            pointwise::add_scaled(self.isa, 1.0, d.q, dx[1]);
        } else {
            self.query_back(x, state, w, d, dx[0], dstate);
        }
    }

    /// Transpose of [`Pass::queries`] where a memory makes them; adds into `dx`.
    fn query_back(
        &self,
        x: &Block<'_>,
        state: &[f32],
        w: &mut block::Space<'_>,
        d: &mut Space<'_>,
        dx: &mut [f32],
        dstate: &mut [f32],
    ) {
        d.raw.fill(0.0);
        point::unit_backward(self.isa, self.known.d.dk, w.raw_q, w.by_q, d.q, d.raw);
        let net = self.known.net(Role::Query);
        self.asked_back(net, (x.x, state, w.parts.of(net).asked), d.work, d.raw, dx, dstate);
    }

    /// Transpose of [`Pass::ask`], whose frame still holds what the answers are made of: adds into `drows` and, at the anchor,
    /// into `dstate`.
    fn asked_back(
        &self,
        net: &Net,
        (rows, state, frame): (&[f32], &[f32], &mut [f32]),
        work: &mut [f32],
        dy: &[f32],
        drows: &mut [f32],
        dstate: &mut [f32],
    ) {
        let count = rows.len() / net.shape.d.dk;
        let (engine, tokens, anchor) = (self.engine(net), asking(count, rows), net.place.anchor.clone());
        let mut f = Frame::new(&net.shape, count, frame);
        let mut d = Work::alone(&net.shape, count, work);
        let mut dx: DInputs<'_> = [&mut [][..], &mut [], drows].into_iter().collect();
        engine.read_backward(&tokens, state, &anchor, &mut f, &mut d, dy, &mut dx, dstate);
    }

    /// Transpose of the write of one memory.
    fn memory_back(
        &self,
        x: &Block<'_>,
        net: &Net,
        state: &[f32],
        w: &mut block::Space<'_>,
        d: &mut Space<'_>,
        dstate: &mut [f32],
    ) {
        let (shape, place) = (&net.shape, &net.place);
        let (count, part) = (x.count, w.parts.of(net));
        let mut frame = Frame::new(shape, count, part.frame);
        let mut work = Work::new(shape, count, 0, d.work);
        let mut dsteps = DSteps::new(count, self.known.widest, d.steps);
        for zeroed in [&mut *d.a, d.rate, d.retain, d.carried] {
            zeroed.fill(0.0);
        }
        let mut gates = DGates { rate: d.rate, a: d.a, carried: d.carried, momenta: d.momenta };
        for (i, layer) in shape.layers.iter().enumerate() {
            let tensor = self.tensor(net, i, [part.rate, part.a, w.momenta, part.carried]);
            let mut steps = block::steps_of(i, count, self.known.widest, part.steps);
            let (input, result) = (shape.input(layer.level, count), shape.result(i, count));
            let (h, b) = (&frame.h[input.clone()], &frame.back[result.clone()]);
            let to = (&mut work.h[input], &mut work.back[result]);
            let (at, carried) = (within(&place.own, layer), within(&place.momentum, layer));
            if tensor.carries() {
                let given = [h, b, &state[at.clone()], &state[carried]];
                // The momentum lies behind the weights.
                let (own, momentum) = dstate.split_at_mut(place.momentum.start);
                let moved = [&mut own[at], &mut momentum[layer.at.clone()]];
                tensor.carried_backward(given, &mut steps, &mut dsteps, moved, to, &mut gates);
            } else {
                let (w, dw) = (&state[at.clone()], &mut dstate[at]);
                tensor.advance_backward(h, b, w, &mut steps, &mut dsteps, dw, to, &mut gates);
            }
        }
        if self.known.carries() {
            carries_backward(part.retain, part.carried, d.carried, d.momenta, d.retain);
        }
        decays_backward(part.retain, part.a, d.a, d.retain);
        let anchor = place.anchor.clone();
        let (engine, tokens) = (self.engine(net), asking(count, &[]));
        let danchor = &mut dstate[anchor.clone()];
        engine.gradients_backward(&tokens, &state[anchor], &mut frame, &mut work, danchor);
        pointwise::add_scaled(self.isa, 1.0, work.keys, d.k);
        let danswer = &mut d.answer[..part.answer.len()];
        danswer.copy_from_slice(work.values);
        if self.known.rule.targets == Targets::Soft {
            point::soft_backward(self.isa, net.width(), part.answer, danswer);
        }
        self.asked_back(net, (w.v, state, part.asked_values), d.work, danswer, d.v, dstate);
        self.gates_back(net, w.r, w.momentum, part.retain, d);
    }

    /// Transpose of [`Pass::gates`] but for the products.
    fn gates_back(&self, net: &Net, r: &[f32], momentum: &[f32], retain: &[f32], d: &mut Space<'_>) {
        let (most, kept) = (net.place.most as f32, (1.0 - net.place.least) as f32);
        for t in 0..r.len() {
            let open = 1.0 - momentum.get(t).copied().unwrap_or(0.0);
            let (mut drate, mut dretain) = (d.rate[t], d.retain[t]);
            if self.known.linear {
                dretain += 0.5 * most * r[t] * open * drate;
                drate *= 0.5 * (1.0 + retain[t]);
            }
            d.r[t] += most * open * drate;
            d.s[t] += kept * dretain;
            if let Some(d) = d.momentum.get_mut(t) {
                *d -= most * r[t] * drate;
            }
        }
    }

    /// Transpose of [`Pass::make`]; adds into `dx`.
    fn make_back(
        &self,
        x: &Block<'_>,
        state: &[f32],
        w: &mut block::Space<'_>,
        d: &mut Space<'_>,
        dx: &mut [f32],
        dstate: &mut [f32],
    ) {
        let (k, width) = (self.known, self.known.d.dk);
        d.raw.fill(0.0);
        point::unit_backward(self.isa, width, w.raw, w.by, d.k, d.raw);
        for (share, dshare) in [(&*w.r, &mut *d.r), (&*w.s, &mut *d.s)] {
            dshare.iter_mut().zip(share).for_each(|(d, s)| *d *= s * (1.0 - s));
        }
        for (role, dy) in [(Role::Key, &*d.raw), (Role::Value, d.v), (Role::Rate, d.r), (Role::Retain, d.s)] {
            let net = k.net(role);
            self.asked_back(net, (x.x, state, w.parts.of(net).asked), d.work, dy, dx, dstate);
        }
        if x.q.is_none() {
            self.query_back(x, state, w, d, dx, dstate);
        }
    }
}
