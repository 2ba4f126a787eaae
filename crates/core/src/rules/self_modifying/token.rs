//! One token: what the memories make of it, the write of all of them, and the read.

use super::memory::{self, Gates, Step, soft, soft_backward, unit, unit_backward};
use super::plan::{Place, Plan, Role};
use super::{Momentum, Targets};
use crate::rules::matrix::add_scaled;
use crate::scalar::Scalar;

/// What the anchors make of a token.
struct Made<F> {
    /// The key before it has unit length, and then.
    raw: Vec<F>,
    k: Vec<F>,
    v: Vec<F>,
    /// Shares of the ranges of step size and retention.
    rate: F,
    retain: F,
    momentum: F,
}

/// Gradients of what is [`Made`].
struct DMade<F> {
    k: Vec<F>,
    v: Vec<F>,
    rate: F,
    retain: F,
    momentum: F,
}

impl Plan<'_> {
    fn made<F: Scalar>(&self, x: &[&[F]], state: &[F]) -> Made<F> {
        let answer = |role| {
            let m = self.memory(role);
            self.net(m).predict(&state[m.anchor.clone()], x[0])
        };
        let (raw, v) = (answer(Role::Key), answer(Role::Value));
        let share = |role, bias: f64| (answer(role)[0] + F::from_f64(bias)).sigmoid();
        Made {
            k: unit(&raw),
            raw,
            v,
            rate: share(Role::Rate, self.rule.rate_bias()),
            retain: share(Role::Retain, self.rule.retain_bias),
            momentum: match self.rule.momentum {
                Momentum::None => F::zero(),
                Momentum::Constant(momentum) => F::from_f64(momentum),
                Momentum::Gate => x[self.rule.slots().1.expect("a gate is an input")][0],
            },
        }
    }

    /// Transpose of [`Plan::made`]; adds into `dx` and, at the anchors, into `dstate`.
    fn made_backward<F: Scalar>(
        &self,
        x: &[&[F]],
        state: &[F],
        made: &Made<F>,
        d: &DMade<F>,
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        let mut back = |role, dy: &[F]| {
            let m = self.memory(role);
            let (w, dw) = (&state[m.anchor.clone()], &mut dstate[m.anchor.clone()]);
            self.net(m).predict_backward(w, x[0], dy, dw, dx[0]);
        };
        let mut draw = vec![F::zero(); made.raw.len()];
        unit_backward(&made.raw, &d.k, &mut draw);
        back(Role::Key, &draw);
        back(Role::Value, &d.v);
        back(Role::Rate, &[d.rate * made.rate * (F::one() - made.rate)]);
        back(Role::Retain, &[d.retain * made.retain * (F::one() - made.retain)]);
        if let Some(slot) = self.rule.slots().1 {
            dx[slot][0] += d.momentum;
        }
    }

    /// The gates of one memory: its shares of its ranges. A matrix whose error is erased twice keeps at least the
    /// opposite of what it held for `rate <= (1 + retain) / 2`.
    fn gates<F: Scalar>(&self, m: &Place, made: &Made<F>) -> Gates<F> {
        let retain = F::from_f64(m.least) + F::from_f64(1.0 - m.least) * made.retain;
        let mut rate = F::from_f64(m.most) * made.rate * (F::one() - made.momentum);
        if self.rule.is_linear() {
            rate *= (F::one() + retain) * F::from_f64(0.5);
        }
        Gates { retain, rate, momentum: made.momentum }
    }

    /// Transpose of [`Plan::gates`].
    fn gates_backward<F: Scalar>(&self, m: &Place, made: &Made<F>, mut d: Gates<F>, dmade: &mut DMade<F>) {
        let (most, open) = (F::from_f64(m.most), F::one() - made.momentum);
        let mut drate = d.rate;
        if self.rule.is_linear() {
            let half = F::from_f64(0.5);
            d.retain += d.rate * most * made.rate * open * half;
            drate *= (F::one() + self.gates(m, made).retain) * half;
        }
        dmade.retain += F::from_f64(1.0 - m.least) * d.retain;
        dmade.rate += most * open * drate;
        dmade.momentum += d.momentum - most * made.rate * drate;
    }

    fn target<F: Scalar>(&self, answer: &[F]) -> Vec<F> {
        if self.rule.targets == Targets::Soft { soft(answer) } else { answer.to_vec() }
    }

    pub(super) fn write<F: Scalar>(&self, pos: u64, x: &[&[F]], state: &mut [F]) {
        let prev = state.to_vec();
        let made = self.made(x, &prev);
        for m in &self.memories {
            let (net, anchor) = (self.net(m), &prev[m.anchor.clone()]);
            let target = self.target(&net.predict(anchor, &made.v));
            let (g, z) = (net.gradient(anchor, &made.k, &target), net.directions(anchor, &made.k));
            let mut own = prev[m.own.clone()].to_vec();
            let mut s = prev[m.momentum.clone()].to_vec();
            let n = z.len();
            for (i, (_, at)) in net.tensors().iter().enumerate() {
                let s = if s.is_empty() { &mut [][..] } else { &mut s[at.clone()] };
                let z = self.erases(i, n).then_some(&z[i][..]);
                memory::step(self.gates(m, &made), &g[at.clone()], z, &mut own[at.clone()], s);
            }
            state[m.momentum.clone()].copy_from_slice(&s);
            state[m.own.clone()].copy_from_slice(&own);
            if m.settles(pos) {
                state[m.anchor.clone()].copy_from_slice(&own);
            }
        }
    }

    pub(super) fn write_backward<F: Scalar>(
        &self,
        pos: u64,
        x: &[&[F]],
        prev: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        let made = self.made(x, prev);
        let width = made.k.len();
        let nothing = || vec![F::zero(); width];
        let mut d = DMade { k: nothing(), v: nothing(), rate: F::zero(), retain: F::zero(), momentum: F::zero() };
        for m in &self.memories {
            if m.settles(pos) {
                for i in 0..m.own.len() {
                    let back = std::mem::take(&mut dstate[m.anchor.start + i]);
                    dstate[m.own.start + i] += back;
                }
            }
            self.memory_backward(m, prev, &made, &mut d, dstate);
        }
        self.made_backward(x, prev, &made, &d, dx, dstate);
    }

    /// Transpose of one memory's write. In: dL/d of its weights and momentum after it; out: before it.
    fn memory_backward<F: Scalar>(
        &self,
        m: &Place,
        prev: &[F],
        made: &Made<F>,
        d: &mut DMade<F>,
        dstate: &mut [F],
    ) {
        let (net, anchor, own) = (self.net(m), &prev[m.anchor.clone()], &prev[m.own.clone()]);
        let answer = net.predict(anchor, &made.v);
        let target = self.target(&answer);
        let (g, z) = (net.gradient(anchor, &made.k, &target), net.directions(anchor, &made.k));
        let mut dg = vec![F::zero(); g.len()];
        let mut dz: Vec<Vec<F>> = z.iter().map(|z| vec![F::zero(); z.len()]).collect();
        let mut dgates = Gates { retain: F::zero(), rate: F::zero(), momentum: F::zero() };
        for (i, (_, at)) in net.tensors().iter().enumerate() {
            let within = |all: &std::ops::Range<usize>| match all.is_empty() {
                true => 0..0,
                false => all.start + at.start..all.start + at.end,
            };
            let z = self.erases(i, z.len()).then_some(&z[i][..]);
            let step = Step { s: &prev[within(&m.momentum)], g: &g[at.clone()], z };
            let ds = dstate[within(&m.momentum)].to_vec();
            let dw = &mut dstate[within(&m.own)];
            let back = memory::step_backward(self.gates(m, made), &own[at.clone()], &step, dw, &ds, &mut dgates);
            dstate[within(&m.momentum)].copy_from_slice(&back.s);
            dg[at.clone()].copy_from_slice(&back.g);
            if z.is_some() {
                dz[i] = back.z;
            }
        }
        let danchor = &mut dstate[m.anchor.clone()];
        net.directions_backward(anchor, &made.k, dz, danchor, &mut d.k);
        let mut dtarget = net.gradient_backward(anchor, &made.k, &target, &dg, danchor, &mut d.k);
        if self.rule.targets == Targets::Soft {
            dtarget = soft_backward(&answer, &dtarget);
        }
        net.predict_backward(anchor, &made.v, &dtarget, danchor, &mut d.v);
        self.gates_backward(m, made, dgates, d);
    }

    /// The query: an input, or made by its memory and then of unit length.
    fn query<F: Scalar>(&self, x: &[&[F]], state: &[F]) -> (Vec<F>, Vec<F>) {
        match self.rule.slots().0 {
            Some(slot) => (Vec::new(), x[slot].to_vec()),
            None => {
                let m = self.memory(Role::Query);
                let raw = self.net(m).predict(&state[m.anchor.clone()], x[0]);
                let q = unit(&raw);
                (raw, q)
            }
        }
    }

    pub(super) fn read<F: Scalar>(&self, x: &[&[F]], state: &[F], y: &mut [F]) {
        let m = self.memory(Role::Memory);
        let q = self.query(x, state).1;
        y.copy_from_slice(&self.net(m).predict(&state[m.anchor.clone()], &q));
    }

    pub(super) fn read_backward<F: Scalar>(
        &self,
        x: &[&[F]],
        state: &[F],
        dy: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        let m = self.memory(Role::Memory);
        let (raw, q) = self.query(x, state);
        let mut dq = vec![F::zero(); q.len()];
        self.net(m).predict_backward(&state[m.anchor.clone()], &q, dy, &mut dstate[m.anchor.clone()], &mut dq);
        if let Some(slot) = self.rule.slots().0 {
            return add_scaled(dx[slot], F::one(), &dq);
        }
        let m = self.memory(Role::Query);
        let mut draw = vec![F::zero(); raw.len()];
        unit_backward(&raw, &dq, &mut draw);
        let (w, dw) = (&state[m.anchor.clone()], &mut dstate[m.anchor.clone()]);
        self.net(m).predict_backward(w, x[0], &draw, dw, dx[0]);
    }
}
