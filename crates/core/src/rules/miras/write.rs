//! Writing a token: the pull, the inner gradient, the step, the settling; and the transpose of each.
//!
//! ```text
//! anchor = Z                    at the first token of a chunk
//! Zd = retain Z + (1 - retain) target
//! G  = gradient at psi(anchor), or without chunks at psi(Z) or psi(Zd)
//! S' = momentum S - rate G
//! Z' = Zd + direction(S')       settled after every token, or at the end of the chunk
//! ```

use super::algorithm::{Algorithm, with_algorithm};
use super::gradient::Pair;
use super::plan::{Plan, Slots};
use super::retention::{Pull, Retention, with_retention};
use super::{GradientAt, Miras, Solve};
use crate::rules::matrix::add_scaled;
use crate::scalar::Scalar;

/// What a write moves.
#[derive(Clone, Debug)]
pub(super) struct Moving<F> {
    pub z: Vec<F>,
    pub s: Vec<F>,
    /// Gathered steps; empty unless the retention multiplies.
    pub step: Vec<F>,
    pub shrink: F,
    /// The sum of `ns_rate` since the last step; zero unless one is taken per chunk.
    pub reach: F,
}

impl<F: Scalar> Moving<F> {
    /// Puts it where it lies in the state, or its gradient in the state's.
    fn store(&self, plan: &Plan, state: &mut [F]) {
        let at = &plan.at;
        state[at.z.clone()].copy_from_slice(&self.z);
        state[at.s.clone()].copy_from_slice(&self.s);
        if !at.step.is_empty() {
            state[at.step.clone()].copy_from_slice(&self.step);
        }
        if !at.shrink.is_empty() {
            state[at.shrink.start] = self.shrink;
        }
        if !at.reach.is_empty() {
            state[at.reach.start] = self.reach;
        }
    }
}

/// What a write only looks at.
pub(super) struct Fixed<'a, F> {
    plan: &'a Plan,
    pub slots: &'a Slots,
    pub x: &'a [&'a [F]],
    anchor: Option<&'a [F]>,
    start: &'a [F],
    keys: &'a [F],
    values: &'a [F],
    thresholds: &'a [F],
    /// Slots of the window that hold a token.
    seen: std::ops::Range<usize>,
    /// Whether a step is taken at this token.
    steps: bool,
}

/// Where the gradients of [`Fixed`] go: added into.
struct DFixed<'a, 'b, F> {
    x: &'a mut [&'b mut [F]],
    anchor: Vec<F>,
    start: Vec<F>,
    keys: Vec<F>,
    values: Vec<F>,
    thresholds: Vec<F>,
}

/// What an inner step is made of on the way.
struct Inner<F> {
    pulled: Vec<F>,
    w: Vec<F>,
    /// The gradient before and after its projection.
    raw: Vec<F>,
    g: Vec<F>,
    /// The momentum after this step.
    s: Vec<F>,
    direction: Vec<F>,
}

impl<F: Scalar> Fixed<'_, F> {
    fn gate(&self, slot: Option<usize>, channel: usize) -> F {
        slot.map_or(F::one(), |i| self.x[i][if self.x[i].len() == 1 { 0 } else { channel }])
    }

    fn retain(&self, channel: usize) -> F {
        self.gate(self.slots.retain, channel)
    }

    /// The associations of inner step `n`, each with its place in the window; `None` is the token's own. A window is
    /// that of the first step.
    fn pairs(&self, rule: &Miras, n: usize) -> Vec<(Option<usize>, Pair<'_, F>)> {
        let (k, v, rate) = self.slots.steps[n];
        let implicit = with_algorithm!(&rule.algorithm, a => a.solve()) == Solve::Implicit;
        let window = self.slots.window.filter(|_| n == 0);
        let gamma = |i: usize| window.map_or(F::one(), |w| self.x[w][i]);
        let (dk, dv, past) = (self.plan.d.dk, self.plan.d.dv, rule.window.saturating_sub(1));
        let before = if n == 0 { self.seen.clone() } else { 0..0 };
        let before = before.map(|i| {
            let threshold = self.thresholds.get(i).copied().unwrap_or_default();
            let (k, v) = (&self.keys[i * dk..(i + 1) * dk], &self.values[i * dv..(i + 1) * dv]);
            (Some(i), Pair { k, v, threshold, gamma: gamma(i), implicit: None })
        });
        let own = Pair {
            k: self.x[k],
            v: self.x[v],
            threshold: self.slots.threshold.map_or(F::zero(), |i| self.x[i][0]),
            gamma: gamma(past),
            implicit: rate.or(window).filter(|_| implicit).map(|i| self.x[i]),
        };
        before.chain([(None, own)]).collect()
    }

    fn coefficients(&self) -> &[F] {
        self.slots.coefficients.map_or(&[], |i| self.x[i])
    }
}

impl Miras {
    /// See [`crate::MemoryRule::write`]; not for `newton`.
    pub(super) fn write_explicit<F: Scalar>(
        &self,
        plan: &Plan,
        slots: &Slots,
        pos: u64,
        x: &[&[F]],
        state: &mut [F],
    ) {
        let at = &plan.at;
        if self.begins(pos) {
            state.copy_within(at.z.clone(), at.anchor.start);
        }
        let prev = state.to_vec();
        let fixed = self.fixed(plan, slots, pos, x, &prev);
        let mut moving = self.moving(plan, &prev);
        for n in 0..slots.steps.len() {
            self.inner_step(&fixed, n, &mut moving);
        }
        if self.settles_at(pos) {
            self.settle(plan, &mut moving);
        }
        moving.store(plan, state);
        let own = slots.threshold.map_or(&[][..], |i| x[i]);
        push(&mut state[at.keys.clone()], x[0]);
        push(&mut state[at.values.clone()], x[1]);
        push(&mut state[at.thresholds.clone()], own);
    }

    /// See [`crate::MemoryRule::write_backward`]; not for `newton`.
    pub(super) fn write_explicit_backward<F: Scalar>(
        &self,
        plan: &Plan,
        slots: &Slots,
        pos: u64,
        x: &[&[F]],
        prev: &[F],
        dx: &mut [&mut [F]],
        dstate: &mut [F],
    ) {
        let at = &plan.at;
        let mut before = prev.to_vec();
        if self.begins(pos) {
            before.copy_within(at.z.clone(), at.anchor.start);
        }
        let fixed = self.fixed(plan, slots, pos, x, &before);
        let mut moving = vec![self.moving(plan, &before)];
        for n in 0..slots.steps.len() {
            let mut next = moving[n].clone();
            self.inner_step(&fixed, n, &mut next);
            moving.push(next);
        }

        let part = |range: &std::ops::Range<usize>| dstate[range.clone()].to_vec();
        let mut d = self.moving(plan, dstate);
        let mut dkeys = part(&at.keys);
        let mut dvalues = part(&at.values);
        let mut dthresholds = part(&at.thresholds);
        pull(&mut dkeys, dx[0]);
        pull(&mut dvalues, dx[1]);
        if let Some(i) = slots.threshold {
            pull(&mut dthresholds, dx[i]);
        }
        let mut dfixed = DFixed {
            x: dx,
            anchor: part(&at.anchor),
            start: part(&at.start),
            keys: dkeys,
            values: dvalues,
            thresholds: dthresholds,
        };
        if self.settles_at(pos) {
            self.settle_backward(plan, &moving[slots.steps.len()], &mut d);
        }
        for n in (0..slots.steps.len()).rev() {
            self.inner_step_backward(&fixed, n, &moving[n], &mut d, &mut dfixed);
        }
        if self.begins(pos) {
            add_scaled(&mut d.z, F::one(), &dfixed.anchor);
            dfixed.anchor.fill(F::zero());
        }
        d.store(plan, dstate);
        let parts = [
            (&at.anchor, &dfixed.anchor),
            (&at.start, &dfixed.start),
            (&at.keys, &dfixed.keys),
            (&at.values, &dfixed.values),
            (&at.thresholds, &dfixed.thresholds),
        ];
        for (range, values) in parts {
            dstate[range.clone()].copy_from_slice(values);
        }
    }

    /// True at the first token of a chunk, for rules with chunks.
    fn begins(&self, pos: u64) -> bool {
        self.chunk > 1 && pos.is_multiple_of(self.chunk as u64)
    }

    /// True at the last token of a chunk: at every token without chunks.
    fn ends(&self, pos: u64) -> bool {
        (pos + 1).is_multiple_of(self.chunk.max(1) as u64)
    }

    fn settles_at(&self, pos: u64) -> bool {
        self.ends(pos) && with_retention!(&self.retention, r => r.settles())
    }

    fn fixed<'a, F: Scalar>(
        &self,
        plan: &'a Plan,
        slots: &'a Slots,
        pos: u64,
        x: &'a [&'a [F]],
        state: &'a [F],
    ) -> Fixed<'a, F> {
        let at = &plan.at;
        let part = |range: &std::ops::Range<usize>| &state[range.clone()];
        let past = self.window.saturating_sub(1);
        let seen = past - usize::try_from(pos).unwrap_or(usize::MAX).min(past)..past;
        let once = with_algorithm!(&self.algorithm, a => a.once_per_chunk());
        Fixed {
            plan,
            slots,
            x,
            anchor: (self.chunk > 1).then(|| part(&at.anchor)),
            start: part(&at.start),
            keys: part(&at.keys),
            values: part(&at.values),
            thresholds: part(&at.thresholds),
            seen,
            steps: !once || self.ends(pos),
        }
    }

    /// What moves, as it lies in a state, or its gradient as it lies in the state's.
    pub(super) fn moving<F: Scalar>(&self, plan: &Plan, state: &[F]) -> Moving<F> {
        let at = &plan.at;
        let gathers = with_retention!(&self.retention, r => r.multiplies());
        let step = match (gathers, at.step.is_empty()) {
            (false, _) => Vec::new(),
            (true, true) => vec![F::zero(); plan.weights()],
            (true, false) => state[at.step.clone()].to_vec(),
        };
        let shrink = if at.shrink.is_empty() { F::zero() } else { state[at.shrink.start] };
        let reach = if at.reach.is_empty() { F::zero() } else { state[at.reach.start] };
        Moving { z: state[at.z.clone()].to_vec(), s: state[at.s.clone()].to_vec(), step, shrink, reach }
    }

    /// The state that `retain` pulls towards, element `i` of a flat memory.
    fn target<F: Scalar>(&self, fixed: &Fixed<'_, F>, i: usize) -> F {
        match with_retention!(&self.retention, r => r.pull()) {
            Pull::Keep | Pull::Zero => F::zero(),
            Pull::Start => fixed.start[i],
            Pull::Constant(c) => F::from_f64(c),
        }
    }

    /// Everything of inner step `n` up to its direction.
    fn inner<F: Scalar>(&self, fixed: &Fixed<'_, F>, n: usize, m: &Moving<F>) -> Inner<F> {
        let plan = fixed.plan;
        let mut pulled = m.z.clone();
        if n == 0 && fixed.slots.retain.is_some() {
            for (t, range) in &plan.tensors {
                for (i, at) in range.clone().enumerate() {
                    let (retain, target) = (fixed.retain(plan.channel(t, i)), self.target(fixed, at));
                    pulled[at] = retain * m.z[at] + (F::one() - retain) * target;
                }
            }
        }
        let at = fixed.anchor.unwrap_or(if self.at_decayed() { &pulled } else { &m.z });
        let w = self.weights(plan, at, at);
        let mut raw = vec![F::zero(); w.len()];
        for (_, pair) in fixed.pairs(self, n) {
            self.add_gradient(plan, &w, pair, fixed.coefficients(), &mut raw);
        }
        let mut g = raw.clone();
        with_retention!(&self.retention, r => if r.projects() {
            plan.tensors.iter().for_each(|(t, at)| r.project(t, &w[at.clone()], &mut g[at.clone()]));
        });
        let mut s = vec![F::zero(); w.len()];
        for (t, range) in &plan.tensors {
            for (i, at) in range.clone().enumerate() {
                let channel = plan.channel(t, i);
                let kept = m.s.get(at).map_or(F::zero(), |&s| fixed.gate(fixed.slots.momentum, channel) * s);
                s[at] = kept - fixed.gate(fixed.slots.steps[n].2, channel) * g[at];
            }
        }
        let mut direction = vec![F::zero(); w.len()];
        if fixed.steps {
            with_algorithm!(&self.algorithm, a => for (t, at) in &plan.tensors {
                a.direction(t, &s[at.clone()], &mut direction[at.clone()]);
            });
        }
        Inner { pulled, w, raw, g, s, direction }
    }

    fn at_decayed(&self) -> bool {
        self.gradient == GradientAt::Decayed || with_algorithm!(&self.algorithm, a => a.solve()) == Solve::Implicit
    }

    /// How far the direction goes: its scale where it has none of its own, with that of the tokens before it where one
    /// step is taken for all of them.
    fn reach<F: Scalar>(&self, fixed: &Fixed<'_, F>, m: &Moving<F>) -> F {
        m.reach + fixed.gate(fixed.slots.ns_rate, 0)
    }

    /// What `retain` multiplies a step of inner step `n` by.
    fn kept<F: Scalar>(&self, fixed: &Fixed<'_, F>, n: usize, channel: usize) -> F {
        let scales = n == 0 && with_retention!(&self.retention, r => r.scales_steps());
        if scales { fixed.retain(channel) } else { F::one() }
    }

    /// True if the scale of this token's direction waits for a later one.
    fn waits<F>(&self, fixed: &Fixed<'_, F>) -> bool {
        !fixed.plan.at.reach.is_empty() && !fixed.steps
    }

    fn inner_step<F: Scalar>(&self, fixed: &Fixed<'_, F>, n: usize, m: &mut Moving<F>) {
        let plan = fixed.plan;
        let inner = self.inner(fixed, n, m);
        let reach = self.reach(fixed, m);
        m.z = inner.pulled;
        for (t, range) in &plan.tensors {
            for (i, at) in range.clone().enumerate() {
                let channel = plan.channel(t, i);
                let step = reach * self.kept(fixed, n, channel) * inner.direction[at];
                match m.step.get_mut(at) {
                    Some(gathered) => *gathered = if n == 0 { fixed.retain(channel) * *gathered } else { *gathered } + step,
                    None => m.z[at] += step,
                }
            }
        }
        if !m.s.is_empty() {
            m.s = inner.s;
        }
        m.shrink += self.shrink(fixed, n);
        m.reach = if self.waits(fixed) { reach } else { F::zero() };
    }

    /// Transpose of [`Miras::inner_step`] at `m` before it: `d` goes from after to before.
    fn inner_step_backward<F: Scalar>(
        &self,
        fixed: &Fixed<'_, F>,
        n: usize,
        m: &Moving<F>,
        d: &mut Moving<F>,
        out: &mut DFixed<'_, '_, F>,
    ) {
        let (plan, slots) = (fixed.plan, fixed.slots);
        let inner = self.inner(fixed, n, m);
        self.shrink_backward(fixed, n, d.shrink, out.x);
        let mut dpulled = d.z.clone();
        let ddirection = self.steps_backward(fixed, n, m, &inner, d, out);

        // S' = momentum S - rate G
        let mut ds = vec![F::zero(); plan.weights()];
        if !d.s.is_empty() {
            ds.copy_from_slice(&d.s);
        }
        if fixed.steps {
            with_algorithm!(&self.algorithm, a => for (t, at) in &plan.tensors {
                let at = at.clone();
                a.direction_backward(t, &inner.s[at.clone()], &ddirection[at.clone()], &mut ds[at]);
            });
        }
        let mut dg = vec![F::zero(); plan.weights()];
        for (t, range) in &plan.tensors {
            for (i, at) in range.clone().enumerate() {
                let channel = plan.channel(t, i);
                if !d.s.is_empty() {
                    d.s[at] = fixed.gate(slots.momentum, channel) * ds[at];
                    add_gate(out.x, slots.momentum, channel, ds[at] * m.s[at]);
                }
                dg[at] = -fixed.gate(slots.steps[n].2, channel) * ds[at];
                add_gate(out.x, slots.steps[n].2, channel, -ds[at] * inner.g[at]);
            }
        }

        // G at the weights
        let mut dw = vec![F::zero(); plan.weights()];
        with_retention!(&self.retention, r => if r.projects() {
            for (t, at) in &plan.tensors {
                let at = at.clone();
                let (w, g) = (&inner.w[at.clone()], &inner.raw[at.clone()]);
                r.project_backward(t, w, g, &mut dg[at.clone()], &mut dw[at]);
            }
        });
        self.pairs_backward(fixed, n, &inner.w, &dg, &mut dw, out);
        let at = fixed.anchor.unwrap_or(if self.at_decayed() { &inner.pulled } else { &m.z });
        let mut dat = vec![F::zero(); plan.weights()];
        let mut dfrozen = dat.clone();
        self.weights_backward(plan, at, at, &dw, &mut dat, &mut dfrozen);
        add_scaled(&mut dat, F::one(), &dfrozen);
        d.z.fill(F::zero());
        match fixed.anchor {
            Some(_) => add_scaled(&mut out.anchor, F::one(), &dat),
            None if self.at_decayed() => add_scaled(&mut dpulled, F::one(), &dat),
            None => d.z.copy_from_slice(&dat),
        }
        self.pull_backward(fixed, n, m, &dpulled, &mut d.z, out);
    }

    /// From the state after a step to its direction; the gathered steps go from after to before.
    fn steps_backward<F: Scalar>(
        &self,
        fixed: &Fixed<'_, F>,
        n: usize,
        m: &Moving<F>,
        inner: &Inner<F>,
        d: &mut Moving<F>,
        out: &mut DFixed<'_, '_, F>,
    ) -> Vec<F> {
        let (plan, slots) = (fixed.plan, fixed.slots);
        let scales = n == 0 && with_retention!(&self.retention, r => r.scales_steps());
        let reach = self.reach(fixed, m);
        let mut dreach = if self.waits(fixed) { d.reach } else { F::zero() };
        let mut ddirection = vec![F::zero(); plan.weights()];
        for (t, range) in &plan.tensors {
            for (i, at) in range.clone().enumerate() {
                let channel = plan.channel(t, i);
                let dstep = if m.step.is_empty() { d.z[at] } else { d.step[at] };
                let kept = self.kept(fixed, n, channel);
                ddirection[at] = reach * kept * dstep;
                dreach += dstep * inner.direction[at] * kept;
                if scales {
                    add_gate(out.x, slots.retain, channel, dstep * inner.direction[at] * reach);
                }
                if !m.step.is_empty() && n == 0 {
                    add_gate(out.x, slots.retain, channel, d.step[at] * m.step[at]);
                    d.step[at] *= fixed.retain(channel);
                }
            }
        }
        add_gate(out.x, slots.ns_rate, 0, dreach);
        d.reach = dreach;
        ddirection
    }

    fn pull_backward<F: Scalar>(
        &self,
        fixed: &Fixed<'_, F>,
        n: usize,
        m: &Moving<F>,
        dpulled: &[F],
        dz: &mut [F],
        out: &mut DFixed<'_, '_, F>,
    ) {
        let plan = fixed.plan;
        if n > 0 || fixed.slots.retain.is_none() {
            return add_scaled(dz, F::one(), dpulled);
        }
        for (t, range) in &plan.tensors {
            for (i, at) in range.clone().enumerate() {
                let channel = plan.channel(t, i);
                let retain = fixed.retain(channel);
                dz[at] += retain * dpulled[at];
                add_gate(out.x, fixed.slots.retain, channel, dpulled[at] * (m.z[at] - self.target(fixed, at)));
                if !out.start.is_empty() {
                    out.start[at] += (F::one() - retain) * dpulled[at];
                }
            }
        }
    }

    fn pairs_backward<F: Scalar>(
        &self,
        fixed: &Fixed<'_, F>,
        n: usize,
        w: &[F],
        dg: &[F],
        dw: &mut [F],
        out: &mut DFixed<'_, '_, F>,
    ) {
        let (plan, slots) = (fixed.plan, fixed.slots);
        let (k, v, rate) = slots.steps[n];
        let (dk, dv) = (plan.d.dk, plan.d.dv);
        let window = slots.window.filter(|_| n == 0);
        let mut dcoefficients = vec![F::zero(); fixed.coefficients().len()];
        for (place, pair) in fixed.pairs(self, n) {
            let d = self.add_gradient_backward(plan, w, pair, fixed.coefficients(), dg, dw, &mut dcoefficients);
            add_gate(out.x, window, place.unwrap_or(self.window.saturating_sub(1)), d.gamma);
            match place {
                Some(i) => {
                    add_scaled(&mut out.keys[i * dk..(i + 1) * dk], F::one(), &d.k);
                    add_scaled(&mut out.values[i * dv..(i + 1) * dv], F::one(), &d.v);
                    if let Some(threshold) = out.thresholds.get_mut(i) {
                        *threshold += d.threshold;
                    }
                }
                None => {
                    add_scaled(out.x[k], F::one(), &d.k);
                    add_scaled(out.x[v], F::one(), &d.v);
                    add_gate(out.x, slots.threshold, 0, d.threshold);
                    d.rate.iter().enumerate().for_each(|(j, &d)| add_gate(out.x, rate.or(window), j, d));
                }
            }
        }
        if let Some(i) = slots.coefficients {
            add_scaled(out.x[i], F::one(), &dcoefficients);
        }
    }
}

/// Adds into a gate's gradient: its one value, or that of the channel.
fn add_gate<F: Scalar>(dx: &mut [&mut [F]], slot: Option<usize>, channel: usize, d: F) {
    if let Some(i) = slot {
        let channel = if dx[i].len() == 1 { 0 } else { channel };
        dx[i][channel] += d;
    }
}

/// Shifts a window by one token.
fn push<F: Scalar>(window: &mut [F], x: &[F]) {
    if !window.is_empty() {
        let rest = window.len() - x.len();
        window.copy_within(x.len().., 0);
        window[rest..].copy_from_slice(x);
    }
}

/// Transpose of [`push`]: the window's gradient goes from after to before, the token's is added into.
fn pull<F: Scalar>(window: &mut [F], dx: &mut [F]) {
    if !window.is_empty() {
        let rest = window.len() - dx.len();
        add_scaled(dx, F::one(), &window[rest..]);
        window.copy_within(..rest, dx.len());
        window[..dx.len()].fill(F::zero());
    }
}
