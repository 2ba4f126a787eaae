//! The transpose of a block, line by line.
//!
//! With `D` the gradient of the memory behind the block, `E` that of its momentum, `B_i` what flows back into the
//! results of a layer for gradient `i` and `h_i` its input (so that `G_i = B_i h_i^T`), `x_t` the input of the layer in
//! read `t` and `o_t` its result:
//!
//! ```text
//! end    dB_i += r[n,i] D h_i + s[n,i] E h_i        dh_i += r[n,i] D^T B_i + s[n,i] E^T B_i
//!        dr[n,i] = B_i . D h_i                       ds[n,i] = B_i . E h_i
//!        dZ_0 = a_n D,  dS_0 = n_n E + m_n D         da_n = D . Z_0, dm_n = D . S_0, dn_n = E . S_0
//! read   o_t = a_t Z_0 x_t + m_t S_0 x_t + sum_i r[t,i] (x_t . h_i) B_i
//!        dZ_0 += a_t do_t x_t^T                      dx_t += a_t Z_0^T do_t + m_t S_0^T do_t
//!        dS_0 += m_t do_t x_t^T                      da_t += x_t . Z_0^T do_t, dm_t likewise
//!        dB_i += r[t,i] (x_t . h_i) do_t             c[t,i] = do_t . B_i
//!        dr[t,i] += c[t,i] (x_t . h_i)               dx_t += r[t,i] c[t,i] h_i, dh_i += r[t,i] c[t,i] x_t
//! ```
//!
//! and the inner gradient itself at the anchor, second order: with `e = A^T B` of the layer above, a layer's
//! `B = act'(z) e` gives `de = act'(z) dB`, `dz = act''(z) e dB`, and the layer above gets `dB += A de`,
//! `dA += B de^T`. At the top, `B = J(z) r` for the norm's symmetric Jacobian `J`, so `dr = J dB`, and `dz` has the
//! derivative of `J`; the residual's own transpose leads to the prediction and the value. Then the activations' first
//! order, layer by layer from the output: `dA += dz h^T`, `dh += A^T dz`, `dz_below += act'(z_below) dh`.

use super::coefficients::{self, Coefficients};
use super::dual::Space;
use super::frame::{Engine, Frame, Tokens, cut, pair, room, seen};
use super::orthogonal::Orthogonal;
use super::pointwise as point;
use super::rows::{self, add_outer, apply, apply_back, row};
use super::shape::Shape;
use crate::kernels::gemm::Start;
use crate::rules::miras::retention::Pull;
use crate::scan::PerInput;
use std::ops::Range;

/// Gradients of what a [`Frame`] holds, and space for products.
pub(super) struct Work<'a> {
    pub h: &'a mut [f32],
    pub back: &'a mut [f32],
    z: &'a mut [f32],
    g: &'a mut [f32],
    pub zq: &'a mut [f32],
    square: &'a mut [f32],
    weighed: &'a mut [f32],
    pub c: Coefficients<'a>,
    wz: &'a mut [f32],
    ws: &'a mut [f32],
    pub keys: &'a mut [f32],
    pub values: &'a mut [f32],
    thresholds: &'a mut [f32],
    r: &'a mut [f32],
    p: &'a mut [f32],
    pub coefficients: &'a mut [f32],
    /// `Z_0 - target`, where the target is not zero: what the decay acts on, without cancellation in its gradient.
    ahead: &'a mut [f32],
    /// Where gradients are pairs: those of keys, values and thresholds, and of the roots of coefficients.
    held: &'a mut [f32],
    roots: &'a mut [f32],
}

impl<'a> Work<'a> {
    fn lens(s: &Shape, count: usize, coefficients: usize) -> [usize; 23] {
        let all = s.all(count);
        let (inputs, results, square) = (s.made(s.net.layers - 1, count).end, all * s.results, count * all);
        let (keys, values, one) = (all * s.d.dk, all * s.d.dv, count + 1);
        [
            inputs,
            results,
            results,
            count * s.inputs,
            count * s.results,
            square,
            square,
            square,
            square,
            one,
            one,
            one,
            count,
            count,
            keys,
            values,
            all,
            values,
            values,
            count * coefficients,
            if s.pull == Pull::Start { s.plan.at.z.len() } else { 0 },
            if s.pairs { s.held(count) * (s.d.dk + s.d.dv + 1) } else { 0 },
            if s.pairs { count * s.parts.len() } else { 0 },
        ]
    }

    /// Values of its buffer.
    pub fn len(s: &Shape, count: usize, coefficients: usize) -> usize {
        room(Self::lens(s, count, coefficients))
    }

    /// Buffers for the transpose of reads that see nothing but the weights that they are given: of the gradients only
    /// those of their inputs are then of use, and nothing has to be cleared.
    pub fn alone(s: &Shape, count: usize, buffer: &'a mut [f32]) -> Self {
        Self::cut(s, count, 0, buffer)
    }

    /// With all gradients that are added into at zero.
    pub fn new(s: &Shape, count: usize, coefficients: usize, buffer: &'a mut [f32]) -> Self {
        let mut work = Self::cut(s, count, coefficients, buffer);
        work.clear();
        work
    }

    fn clear(&mut self) {
        let Coefficients { s, r, a, m, n, .. } = &mut self.c;
        for zeroed in [&mut *self.h, self.back, self.g, s, r, a, m, n, self.wz, self.ws] {
            zeroed.fill(0.0);
        }
        for zeroed in [&mut *self.keys, self.values, self.thresholds, self.coefficients, self.held, self.roots] {
            zeroed.fill(0.0);
        }
    }

    fn cut(s: &Shape, count: usize, coefficients: usize, buffer: &'a mut [f32]) -> Self {
        let lens = Self::lens(s, count, coefficients);
        let [
            h,
            back,
            z,
            g,
            zq,
            square,
            weighed,
            cs,
            cr,
            a,
            m,
            n,
            wz,
            ws,
            keys,
            values,
            thresholds,
            r,
            p,
            own,
            ahead,
            held,
            roots,
        ] = cut(buffer, lens);
        let all = s.all(count);
        let c = Coefficients { all, b: &mut [], s: cs, r: cr, a, m, n };
        Self {
            h,
            back,
            z,
            g,
            zq,
            square,
            weighed,
            c,
            wz,
            ws,
            keys,
            values,
            thresholds,
            r,
            p,
            coefficients: own,
            ahead,
            held,
            roots,
        }
    }
}

impl Work<'_> {
    /// Takes the gradient of the window behind a block.
    pub fn enter(&mut self, s: &Shape, dstate: &[f32]) {
        let at = &s.plan.at;
        let parts =
            [(&mut *self.keys, &at.keys), (&mut *self.values, &at.values), (&mut *self.thresholds, &at.thresholds)];
        for (to, from) in parts {
            let first = to.len() - from.len();
            to[first..].copy_from_slice(&dstate[from.clone()]);
        }
    }

    /// Space for `n` values, at most those of the block.
    pub fn space(&mut self, n: usize) -> &mut [f32] {
        &mut self.p[..n]
    }
}

/// Where gradients of inputs go: added into.
pub(super) type DInputs<'a> = PerInput<&'a mut [f32]>;

impl Engine<'_> {
    /// Transpose of a block. `f` holds its gradients and reads; the states lie before and, if an orthogonal step is taken,
    /// behind it. `dstate` goes from behind to
    /// before.
    pub fn backward(
        &self,
        x: &Tokens<'_>,
        (state, after): (&[f32], &[f32]),
        f: &mut Frame<'_>,
        d: &mut Work<'_>,
        space: &mut Space<'_>,
        dy: &[f32],
        dx: &mut DInputs<'_>,
        dstate: &mut [f32],
    ) {
        let (s, at) = (self.shape, &self.shape.plan.at);
        self.leap_backward(x, state, after, f, dx, dstate);
        d.enter(s, dstate);
        if s.pull == Pull::Start {
            d.ahead.copy_from_slice(&state[at.z.clone()]);
            point::add_scaled(self.isa, -1.0, &state[at.start.clone()], d.ahead);
        }
        self.advance_backward(state, f, d, dstate);
        let anchor = self.anchor_behind(x.pos, dstate);
        if s.dual {
            let Space { anchor: weights, danchor, .. } = &mut *space;
            danchor.fill(0.0);
            if s.reads_anchor() {
                self.read_backward(x, weights, &at.z, f, d, dy, dx, danchor);
            }
            self.gradients_backward(x, weights, f, d, danchor);
            self.anchor_backward(&state[anchor.clone()], space, &mut dstate[anchor]);
        } else {
            self.read_backward(x, state, &anchor, f, d, dy, dx, dstate);
            self.gradients_backward(x, &state[anchor.clone()], f, d, &mut dstate[anchor]);
        }
        self.gates_backward(x, f, d, dx);
        self.keys_backward(x.count, d, dx, dstate);
        if let Some(i) = s.slots.coefficients {
            point::add_scaled(self.isa, 1.0, d.coefficients, dx[i]);
        }
    }

    /// Where the gradient of the state lies that a block at `pos` takes gradients at, with that of the blocks behind it.
    pub fn anchor_behind(&self, pos: u64, dstate: &mut [f32]) -> Range<usize> {
        let (s, at) = (self.shape, &self.shape.plan.at);
        if s.anchored() && s.begins(pos) {
            let (z, rest) = dstate.split_at_mut(at.z.end);
            let behind = &mut rest[at.anchor.start - at.z.end..at.anchor.end - at.z.end];
            point::add_scaled(self.isa, 1.0, behind, &mut z[at.z.clone()]);
            behind.fill(0.0);
        }
        s.anchor_at(pos)
    }

    /// Transpose of the orthogonal step of a block, and of what its tokens add to the length of the next.
    fn leap_backward(
        &self,
        x: &Tokens<'_>,
        state: &[f32],
        after: &[f32],
        f: &mut Frame<'_>,
        dx: &mut DInputs<'_>,
        dstate: &mut [f32],
    ) {
        let (s, at, last) = (self.shape, &self.shape.plan.at, x.count - 1);
        let Some(of) = s.orthogonal else { return };
        let rates = x.gate(s.slots.ns_rate);
        let mut dreach = at.reach.clone().next().map_or(0.0, |i| dstate[i]);
        if s.leaps(x.pos + last as u64) {
            let before = at.reach.clone().next().map_or(0.0, |i| state[i]);
            let reach = if at.reach.is_empty() { rates[last] } else { before + rates.iter().sum::<f32>() };
            let (dz, ds) = dstate[at.z.start..at.s.end].split_at_mut(at.z.len());
            dreach = 0.0;
            for l in &s.layers {
                let (way, part) = (Orthogonal::new(self.isa, of, l), l.at.clone());
                let momentum = &after[at.s.clone()][part.clone()];
                dreach += way.add_backward(momentum, reach, &dz[part.clone()], &mut ds[part], f.space);
            }
        }
        if let Some(i) = s.slots.ns_rate {
            dx[i].iter_mut().for_each(|d| *d += dreach);
        }
        if let Some(i) = at.reach.clone().next() {
            dstate[i] = dreach;
        }
    }

    /// Transpose of [`Engine::advance`], but for the anchor and the window.
    fn advance_backward(&self, state: &[f32], f: &mut Frame<'_>, d: &mut Work<'_>, dstate: &mut [f32]) {
        let (s, isa, at) = (self.shape, self.isa, &self.shape.plan.at);
        let (n, all) = (f.count, f.all);
        let last = f.c.row(n - 1);
        let parts = [(&at.z, &*f.c.r, &mut *d.c.r), (&at.s, &*f.c.s, &mut *d.c.s)];
        for (place, coefficients, dcoefficients) in
            parts.into_iter().take(1 + usize::from(s.kind.momentum)).skip(usize::from(!s.kind.steps))
        {
            let weights = &coefficients[last.clone()];
            for (i, l) in s.layers.iter().enumerate() {
                let dw = &dstate[place.clone()][l.at.clone()];
                let (result, input) = (s.result(i, all), s.made(l.level, n));
                let (back, h, space) = (&f.back[result.clone()], &f.h[input.clone()], &mut f.rows[..all * l.rows]);
                let dweights = &mut dcoefficients[last.clone()];
                if s.pairs_at(l.level) {
                    s.grid(isa, n).apply(&mut f.pairs, l, dw, h, space, Start::Zero);
                } else {
                    apply(isa, self.rows, l, dw, h, space, Start::Zero);
                }
                point::add_rows_weighed(isa, l.rows, weights, space, &mut d.back[result], back, dweights);
                point::scale_rows(isa, l.rows, weights, back, space);
                if s.pairs_at(l.level) {
                    s.grid(isa, n).apply_back(&mut f.pairs, l, dw, h, space, &mut d.h[input], d.roots);
                } else {
                    apply_back(isa, l, dw, space, &mut d.h[input], Start::Current);
                }
            }
        }
        let mut dot = 0.0;
        let (a, m) = (f.c.a[n], f.c.m[n]);
        let ahead = if s.pull == Pull::Start { &*d.ahead } else { &state[at.z.clone()] };
        point::inner(isa, &dstate[at.z.clone()], ahead, &mut dot);
        d.c.a[n] += dot;
        if s.pull == Pull::Start {
            let (z, rest) = dstate.split_at_mut(at.z.end);
            let dstart = &mut rest[at.start.start - at.z.end..at.start.end - at.z.end];
            point::add_scaled(isa, 1.0 - a, &z[at.z.clone()], dstart);
        }
        if s.kind.momentum {
            let (dz, ds) = dstate[at.z.start..at.s.end].split_at_mut(at.z.len());
            let momentum = &state[at.s.clone()];
            point::inner(isa, dz, momentum, &mut dot);
            d.c.m[n] += dot;
            point::inner(isa, ds, momentum, &mut dot);
            d.c.n[n] += dot;
            point::scale(isa, f.c.n[n], ds);
            point::add_scaled(isa, m, dz, ds);
        }
        point::scale(isa, a, &mut dstate[at.z.clone()]);
    }

    /// Transpose of [`Engine::read`]. `anchor` is where the state that gradients are taken at lies; without `dstate`, the
    /// gradients of the tensors are left as the products that they are made of.
    pub fn read_backward(
        &self,
        x: &Tokens<'_>,
        state: &[f32],
        anchor: &Range<usize>,
        f: &mut Frame<'_>,
        d: &mut Work<'_>,
        dy: &[f32],
        dx: &mut DInputs<'_>,
        dstate: &mut [f32],
    ) {
        let (s, isa, n) = (self.shape, self.isa, f.count);
        let top = s.result(0, n);
        if s.net.norm {
            point::layer_norm_backward(isa, s.d.dv, &f.zq[top.clone()], dy, &mut d.zq[top]);
        } else {
            d.zq[top].copy_from_slice(dy);
        }
        // A read that sees what the block's own orthogonal step made is a read of its own.
        let own = if !self.alone && s.reads_aside(x.pos + n as u64 - 1) { n - 1 } else { n };
        d.zq[own * s.d.dv..n * s.d.dv].fill(0.0);
        if s.residual {
            point::add_scaled(isa, 1.0, &dy[..own * s.d.dv], &mut dx[2][..own * s.d.dv]);
        }
        let base = if self.alone { anchor } else { &s.plan.at.z };
        for level in 0..s.net.layers {
            self.base_backward(level, base, state, f, d, dstate);
            if !self.alone && s.kind.steps {
                self.mix_backward(level, f, d);
            }
            if level + 1 < s.net.layers {
                let (own, gate) = pair(s, level + 1, n, d.zq);
                let (z, by) = (&f.zq[s.result(level + 1, n)], &f.zq[s.gate(level + 1, n)]);
                point::hidden_backward(isa, s.net.activation, z, by, &d.g[s.input(level, n)], own, gate);
            }
        }
        let dphi = &d.g[s.input(s.net.layers - 1, n)];
        s.features_backward(x.x[2], x.gate(s.slots.coefficients), dphi, dx[2], d.coefficients);
        if !self.alone {
            let first = usize::from(!s.reads_before());
            point::add_scaled(isa, 1.0, d.wz, &mut d.c.a[first..first + n]);
            point::add_scaled(isa, 1.0, d.ws, &mut d.c.m[first..first + n]);
        }
    }

    /// What reads of one level send to the state that they start from.
    fn base_backward(
        &self,
        level: usize,
        base: &Range<usize>,
        state: &[f32],
        f: &mut Frame<'_>,
        d: &mut Work<'_>,
        dstate: &mut [f32],
    ) {
        let (s, isa, n, at) = (self.shape, self.isa, f.count, &self.shape.plan.at);
        let momentum = s.kind.momentum && s.kind.steps && !self.alone;
        let pulled = s.pull == Pull::Start && !self.alone;
        for (at_level, i) in s.at_level(level).enumerate() {
            let l = &s.layers[i];
            let (g, dz) = (&f.g[s.input(level, n)], &d.zq[s.result(i, n)]);
            if self.alone {
                let dg = &mut d.g[s.input(level, n)];
                let start = if at_level == 0 { Start::Zero } else { Start::Current };
                apply_back(isa, l, &state[base.clone()][l.at.clone()], dz, dg, start);
                if !dstate.is_empty() {
                    add_outer(isa, l, dz, g, &mut dstate[base.start + l.at.start..base.start + l.at.end]);
                }
                continue;
            }
            let from = if pulled { &d.ahead[l.at.clone()] } else { &state[base.clone()][l.at.clone()] };
            let sources = [
                Some((from, base, &*f.wz, &mut *d.wz)),
                momentum.then(|| (&state[at.s.clone()][l.at.clone()], &at.s, &*f.ws, &mut *d.ws)),
            ];
            for (from, place, weights, dweights) in sources.into_iter().flatten() {
                let space = &mut f.rows[..g.len()];
                apply_back(isa, l, from, dz, space, Start::Zero);
                let dg = &mut d.g[s.input(level, n)];
                point::add_rows_weighed(isa, l.columns, weights, space, dg, g, dweights);
                let space = &mut f.rows[..dz.len()];
                point::scale_rows(isa, l.rows, weights, dz, space);
                if !dstate.is_empty() {
                    add_outer(isa, l, space, g, &mut dstate[place.start + l.at.start..place.start + l.at.end]);
                }
            }
            if pulled {
                let part = at.start.start + l.at.start..at.start.start + l.at.end;
                apply_back(isa, l, &state[part.clone()], dz, &mut d.g[s.input(level, n)], Start::Current);
                let space = &mut f.rows[..dz.len()];
                point::scale_rows(isa, l.rows, f.wt, dz, space);
                add_outer(isa, l, space, g, &mut dstate[part]);
            }
        }
    }

    /// What reads of one level send to the gradients before them.
    fn mix_backward(&self, level: usize, f: &mut Frame<'_>, d: &mut Work<'_>) {
        let (s, isa, n, all) = (self.shape, self.isa, f.count, f.all);
        let square = level * n * all..(level + 1) * n * all;
        let mut start = Start::Zero;
        for i in s.at_level(level) {
            let (dz, width) = (&d.zq[s.result(i, n)], s.layers[i].rows);
            rows::among(isa, width, dz, &f.back[s.result(i, all)], d.square, start);
            rows::add_mixed_back(isa, width, &f.weighed[square.clone()], dz, &mut d.back[s.result(i, all)]);
            start = Start::Current;
        }
        let shift = if s.reads_before() { all.min(n * all) } else { 0 };
        let kept = n * all - shift;
        point::add_times(isa, &d.square[shift..], &f.mix[square][shift..], &mut d.c.r[..kept]);
        d.weighed[..shift].fill(0.0);
        point::times(isa, &d.square[shift..], &f.c.r[..kept], &mut d.weighed[shift..]);
        let (width, input) = (s.layers[level].columns, s.made(level, n));
        if s.pairs_at(level) {
            let (made, dg) = ([&*d.weighed, &f.g[s.input(level, n)], &f.h[input.clone()]], &mut d.g[s.input(level, n)]);
            return s.grid(isa, n).among_backward(&mut f.pairs, made, dg, &mut d.h[input], d.roots);
        }
        rows::add_mixed(isa, width, d.weighed, &f.h[input.clone()], &mut d.g[s.input(level, n)]);
        rows::add_mixed_back(isa, width, d.weighed, &f.g[s.input(level, n)], &mut d.h[input]);
    }

    /// Transpose of [`Engine::gradients`] at the anchor, whose gradient is added into.
    pub fn gradients_backward(
        &self,
        x: &Tokens<'_>,
        anchor: &[f32],
        f: &mut Frame<'_>,
        d: &mut Work<'_>,
        danchor: &mut [f32],
    ) {
        let (s, isa, all) = (self.shape, self.isa, f.all);
        let (kind, last) = (s.net.activation, s.net.layers - 1);
        for level in (1..=last).rev() {
            let (l, input) = (&s.layers[level - 1], s.made(level - 1, f.count));
            let (own, gate) = (s.result(level, all), s.gate(level, all));
            let de = &mut f.rows[..input.len()];
            let (dz, dgate) = pair(s, level, all, d.z);
            let (db, dback_gate) = (&d.back[own.clone()], &d.back[gate.clone()]);
            point::hidden_second(isa, kind, &f.z[own], &f.z[gate], &f.e[input], db, dback_gate, de, dz, dgate);
            let above = s.result(level - 1, all);
            apply(isa, self.rows, l, &anchor[l.at.clone()], de, &mut d.back[above.clone()], Start::Current);
            add_outer(isa, l, &f.back[above], de, &mut danchor[l.at.clone()]);
        }
        self.residuals_backward(f, d);
        for level in 0..=last {
            let input = s.made(level, f.count);
            for i in s.at_level(level) {
                let (l, dz, w) = (&s.layers[i], &d.z[s.result(i, all)], &anchor[s.layers[i].at.clone()]);
                self.outer_made(l, dz, f.h, &mut f.pairs, f.count, &mut danchor[l.at.clone()]);
                let (h, dh) = (&f.h[input.clone()], &mut d.h[input.clone()]);
                if s.pairs_at(level) {
                    s.grid(isa, f.count).apply_back(&mut f.pairs, l, w, h, dz, dh, d.roots);
                } else {
                    apply_back(isa, l, w, dz, dh, Start::Current);
                }
            }
            if level < last {
                let (dz, dgate) = pair(s, level + 1, all, d.z);
                let (z, by) = (&f.z[s.result(level + 1, all)], &f.z[s.gate(level + 1, all)]);
                point::hidden_backward_add(isa, kind, z, by, &d.h[input], dz, dgate);
            }
        }
        let (dphi, coefficients) = (&d.h[s.made(last, f.count)], x.gate(s.slots.coefficients));
        if s.pairs {
            let dkeys = &mut d.held[..f.pairs.keys.len()];
            s.basis_backward(f.pairs.keys, coefficients, [dphi, d.roots], dkeys, d.coefficients);
        } else {
            s.features_backward(f.keys, coefficients, dphi, d.keys, d.coefficients);
        }
    }

    /// From what flows back into the last layer's result to predictions and values.
    fn residuals_backward(&self, f: &mut Frame<'_>, d: &mut Work<'_>) {
        let (s, isa) = (self.shape, self.isa);
        let (width, top) = (s.d.dv, s.result(0, f.all));
        let (z, db, dz) = (&f.z[top.clone()], &d.back[top.clone()], &mut d.z[top.clone()]);
        dz.fill(0.0);
        if s.net.norm {
            point::layer_norm_backward(isa, width, z, db, d.r);
            point::layer_norm_second(isa, width, z, f.r, &f.back[top], db, d.r, dz);
        } else {
            d.r.copy_from_slice(db);
        }
        s.residuals_backward([f.p, f.values, f.thresholds, f.raw], d.r, d.p, d.values, d.thresholds);
        if s.residual {
            point::add_scaled(isa, 1.0, d.p, d.keys);
        }
        if s.net.norm {
            point::layer_norm_backward(isa, width, z, d.p, d.r);
            point::add_scaled(isa, 1.0, d.r, dz);
        } else {
            point::add_scaled(isa, 1.0, d.p, dz);
        }
    }

    /// From the coefficients to the gates.
    fn gates_backward(&self, x: &Tokens<'_>, f: &Frame<'_>, d: &mut Work<'_>, dx: &mut DInputs<'_>) {
        let s = self.shape;
        let (mut none, mut nothing): ([f32; 0], [f32; 0]) = ([], []);
        let (mut dretain, mut dmomentum): (&mut [f32], &mut [f32]) = (&mut none, &mut nothing);
        for (i, dx) in dx.iter_mut().enumerate() {
            match Some(i) {
                slot if slot == s.slots.retain => dretain = dx,
                slot if slot == s.slots.momentum => dmomentum = dx,
                _ => {}
            }
        }
        coefficients::backward(self.isa, s.kind, x.gates(s), &f.c, &mut d.c, (dretain, dmomentum));
        self.rates_backward(x, f, d, dx);
    }

    /// From what each gradient's weight in the step of each token gets to rates, or to the gates of windows.
    pub fn rates_backward(&self, x: &Tokens<'_>, f: &Frame<'_>, d: &Work<'_>, dx: &mut DInputs<'_>) {
        let (s, all) = (self.shape, f.all);
        if let Some(i) = s.slots.steps[0].2 {
            (0..f.count).for_each(|t| dx[i][t] -= d.c.s[t * all + t]);
        }
        if let Some(i) = s.slots.window {
            let c = s.rule.window;
            for t in 0..f.count {
                for (place, dgate) in dx[i][row(t, c)].iter_mut().enumerate().filter(|(p, _)| seen(x.pos, t, c, *p)) {
                    *dgate -= d.c.s[t * all + s.gradients_of(t).start + place];
                }
            }
        }
    }

    /// Gradients of keys, values and thresholds go to the tokens, those of the window's past to the state.
    pub fn keys_backward(&self, count: usize, d: &mut Work<'_>, dx: &mut DInputs<'_>, dstate: &mut [f32]) {
        let (s, at) = (self.shape, &self.shape.plan.at);
        let (mut keys, mut values, mut thresholds) = (&*d.keys, &*d.values, &*d.thresholds);
        if s.pairs {
            let held = s.held(count);
            let (to_keys, rest) = d.held.split_at_mut(held * s.d.dk);
            let (to_values, to_thresholds) = rest.split_at_mut(held * s.d.dv);
            let to_thresholds = &mut to_thresholds[..held];
            let grid = s.grid(self.isa, count);
            grid.fold(keys, to_keys);
            grid.fold(values, to_values);
            grid.fold(thresholds, to_thresholds);
            (keys, values, thresholds) = (to_keys, to_values, to_thresholds);
        }
        let threshold = s.slots.threshold.map(|i| (i, thresholds, &at.thresholds));
        let parts = [Some((0, keys, &at.keys)), Some((1, values, &at.values)), threshold];
        for (i, from, past) in parts.into_iter().flatten() {
            dstate[past.clone()].copy_from_slice(&from[..past.len()]);
            point::add_scaled(self.isa, 1.0, &from[past.len()..], dx[i]);
        }
    }
}
