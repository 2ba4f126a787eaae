//! One block of tokens under one anchor: its gradients at the anchor, its reads, and the state behind it.

use super::coefficients::{Coefficients, Gates};
use super::orthogonal::{self, Orthogonal};
use super::pairs::Pairs;
use super::pointwise as point;
use super::rows::{self, Rows, apply, apply_back};
use super::shape::{Layer, Shape};
use crate::kernels::gemm::Start;
use crate::rules::miras::retention::Pull;
use crate::scan::PerInput;
use crate::simd::Isa;

/// The inputs of a block.
#[derive(Clone)]
pub(super) struct Tokens<'a> {
    pub count: usize,
    pub pos: u64,
    pub x: PerInput<&'a [f32]>,
}

impl<'a> Tokens<'a> {
    /// Tokens `first..first + count`.
    pub fn part(&self, first: usize, count: usize) -> Tokens<'a> {
        let cut = |x: &&'a [f32]| {
            let width = x.len() / self.count.max(1);
            &x[first * width..(first + count) * width]
        };
        Tokens { count, pos: self.pos + first as u64, x: self.x.iter().map(cut).collect() }
    }
    /// An input that the rule may not have.
    pub fn gate(&self, slot: Option<usize>) -> &'a [f32] {
        slot.map_or(&[], |i| self.x[i])
    }
    pub fn gates(&self, shape: &Shape) -> Gates<'a> {
        Gates { retain: self.gate(shape.slots.retain), momentum: self.gate(shape.slots.momentum) }
    }
}

/// Cuts pieces off a buffer, each at a cache line if the buffer starts at one.
pub(super) fn cut<const N: usize>(mut rest: &mut [f32], lens: [usize; N]) -> [&mut [f32]; N] {
    lens.map(|n| {
        let (head, tail) = std::mem::take(&mut rest).split_at_mut(n.next_multiple_of(16));
        rest = tail;
        &mut head[..n]
    })
}

/// Values that [`cut`] needs.
pub(super) fn room<const N: usize>(lens: [usize; N]) -> usize {
    lens.iter().map(|n| n.next_multiple_of(16)).sum()
}

/// Buffers of a block. `all` counts its tokens and, before them, those of the window's past.
pub(super) struct Frame<'a> {
    pub count: usize,
    pub all: usize,
    /// Keys, values and thresholds, `[all, ..]`.
    pub keys: &'a mut [f32],
    pub values: &'a mut [f32],
    pub thresholds: &'a mut [f32],
    /// At the anchor: inputs and results of all layers, what flows back into results and inputs, `[all, ..]`.
    pub h: &'a mut [f32],
    pub z: &'a mut [f32],
    pub back: &'a mut [f32],
    pub e: &'a mut [f32],
    /// Predictions, and residuals before and after their bound, `[all, dv]`.
    pub p: &'a mut [f32],
    pub raw: &'a mut [f32],
    pub r: &'a mut [f32],
    /// Reads: inputs and results of all layers, `[count, ..]`.
    pub g: &'a mut [f32],
    pub zq: &'a mut [f32],
    /// Products of a read's inputs with those of the gradients, `[levels, count, all]`; weighed with coefficients.
    pub mix: &'a mut [f32],
    pub weighed: &'a mut [f32],
    pub c: Coefficients<'a>,
    /// What `Z_0`, `S_0` and the target are worth in each read.
    pub wz: &'a mut [f32],
    pub ws: &'a mut [f32],
    pub wt: &'a mut [f32],
    /// Rows of the widest kind.
    pub rows: &'a mut [f32],
    /// What an orthogonal step is made in.
    pub space: &'a mut [f32],
    pub pairs: Pairs<'a>,
}

impl<'a> Frame<'a> {
    fn lens(s: &Shape, count: usize) -> [usize; 30] {
        let all = s.all(count);
        let (inputs, results, square) = (s.made(s.net.layers - 1, count).end, all * s.results, count * all);
        let (keys, values, squares) = (all * s.d.dk, all * s.d.dv, square * s.net.layers);
        let (g, zq, one) = (count * s.inputs, count * s.results, count + 1);
        let space = orthogonal::room(s);
        let [held, roots, expanded, left, right] = s.pairs_lens(count);
        [
            keys,
            values,
            all,
            inputs,
            results,
            results,
            inputs,
            values,
            values,
            values,
            g,
            zq,
            squares,
            squares,
            square,
            square,
            square,
            one,
            one,
            one,
            count,
            count,
            count,
            s.widest_rows(count),
            space,
            held,
            roots,
            expanded,
            left,
            right,
        ]
    }

    /// Values of the buffer of a block of so many tokens.
    pub fn len(s: &Shape, count: usize) -> usize {
        room(Self::lens(s, count))
    }

    pub fn new(s: &Shape, count: usize, buffer: &'a mut [f32]) -> Self {
        let [
            keys,
            values,
            thresholds,
            h,
            z,
            back,
            e,
            p,
            raw,
            r,
            g,
            zq,
            mix,
            weighed,
            b,
            cs,
            cr,
            a,
            m,
            n,
            wz,
            ws,
            wt,
            rows,
            space,
            held,
            roots,
            expanded,
            left,
            right,
        ] = cut(buffer, Self::lens(s, count));
        let all = s.all(count);
        let pairs = Pairs { keys: held, roots, expanded, space: [left, right] };
        let c = Coefficients { all, b, s: cs, r: cr, a, m, n };
        Self {
            count,
            all,
            keys,
            values,
            thresholds,
            h,
            z,
            back,
            e,
            p,
            raw,
            r,
            g,
            zq,
            mix,
            weighed,
            c,
            wz,
            ws,
            wt,
            rows,
            space,
            pairs,
        }
    }
}

/// A rule's settings and the machine's.
#[derive(Clone, Copy)]
pub(super) struct Engine<'a> {
    pub shape: &'a Shape,
    pub isa: Isa,
    pub rows: Rows,
    /// Whether reads see nothing but the weights that they are given.
    pub alone: bool,
}

impl<'a> Engine<'a> {
    pub fn new(shape: &'a Shape, isa: Isa, rows: Rows) -> Self {
        Self { shape, isa, rows, alone: shape.reads_anchor() }
    }

    /// Keys, values, thresholds and coefficients of a block whose state before it is `state`.
    pub fn enter(&self, x: &Tokens<'_>, state: &[f32], f: &mut Frame<'_>) {
        let (s, at) = (self.shape, &self.shape.plan.at);
        f.thresholds.fill(0.0);
        let threshold = s.slots.threshold.map(|i| (&mut *f.thresholds, &at.thresholds, x.x[i]));
        let parts = [Some((&mut *f.keys, &at.keys, x.x[0])), Some((&mut *f.values, &at.values, x.x[1])), threshold];
        for (to, past, own) in parts.into_iter().flatten() {
            let past = &state[past.clone()];
            if s.pairs {
                lay(s.rule.window, past, own, to);
            } else {
                to[..past.len()].copy_from_slice(past);
                to[past.len()..].copy_from_slice(own);
            }
        }
        if s.pairs {
            f.pairs.keys[..at.keys.len()].copy_from_slice(&state[at.keys.clone()]);
            f.pairs.keys[at.keys.len()..].copy_from_slice(x.x[0]);
        }
        f.c.b.fill(0.0);
        let (all, rate) = (f.all, x.gate(s.slots.steps[0].2));
        match s.slots.window {
            None => rate.iter().enumerate().for_each(|(t, rate)| f.c.b[t * all + t] = -rate),
            Some(i) => {
                let c = s.rule.window;
                for (t, gates) in x.x[i].chunks_exact(c).enumerate() {
                    for (place, gate) in gates.iter().enumerate().filter(|(p, _)| seen(x.pos, t, c, *p)) {
                        f.c.b[t * all + s.gradients_of(t).start + place] = -gate;
                    }
                }
            }
        }
    }

    /// Activations and gradients of all keys at the anchor.
    pub fn gradients(&self, x: &Tokens<'_>, anchor: &[f32], f: &mut Frame<'_>) {
        let (s, isa, all) = (self.shape, self.isa, f.all);
        let kind = s.net.activation;
        let last = s.net.layers - 1;
        let coefficients = x.gate(s.slots.coefficients);
        if s.pairs {
            s.basis(f.pairs.keys, coefficients, &mut f.h[s.made(last, f.count)], f.pairs.roots);
        } else {
            s.features(f.keys, coefficients, &mut f.h[s.made(last, f.count)]);
        }
        for level in (0..=last).rev() {
            for i in s.at_level(level) {
                self.apply_made(i, &anchor[s.layers[i].at.clone()], f, None);
            }
            if level > 0 {
                let h = &mut f.h[s.made(level - 1, f.count)];
                point::hidden(isa, kind, &f.z[s.result(level, all)], &f.z[s.gate(level, all)], h);
            }
        }
        let (width, top) = (s.d.dv, s.result(0, all));
        if s.net.norm {
            point::layer_norm(isa, width, &f.z[top.clone()], f.p);
        } else {
            f.p.copy_from_slice(&f.z[top.clone()]);
        }
        if s.residual {
            point::add_scaled(isa, 1.0, f.keys, f.p);
        }
        s.residuals(f.p, f.values, f.thresholds, f.raw, f.r);
        if s.net.norm {
            point::layer_norm_backward(isa, width, &f.z[top.clone()], f.r, &mut f.back[top]);
        } else {
            f.back[top].copy_from_slice(f.r);
        }
        for level in 0..last {
            let (l, e) = (&s.layers[level], &mut f.e[s.input(level, all)]);
            apply_back(isa, l, &anchor[l.at.clone()], &f.back[s.result(level, all)], e, Start::Zero);
            let (own, gate) = pair(s, level + 1, all, f.back);
            point::hidden_backward(
                isa,
                kind,
                &f.z[s.result(level + 1, all)],
                &f.z[s.gate(level + 1, all)],
                e,
                own,
                gate,
            );
        }
    }

    /// The results of layer `i` for the inputs of all gradients: those of the gradients themselves, or `out`.
    pub fn apply_made(&self, i: usize, w: &[f32], f: &mut Frame<'_>, out: Option<&mut [f32]>) {
        let (s, l) = (self.shape, &self.shape.layers[i]);
        let h = &f.h[s.made(l.level, f.count)];
        let out = out.unwrap_or(&mut f.z[s.result(i, f.all)]);
        if s.pairs_at(l.level) {
            s.grid(self.isa, f.count).apply(&mut f.pairs, l, w, h, out, Start::Zero);
        } else {
            apply(self.isa, self.rows, l, w, h, out, Start::Zero);
        }
    }

    /// `dw += dout^T h`, with `h` the inputs of all gradients of a block of `n` tokens.
    pub fn outer_made(&self, l: &Layer, dout: &[f32], h: &[f32], pairs: &mut Pairs<'_>, n: usize, dw: &mut [f32]) {
        let (s, h) = (self.shape, &h[self.shape.made(l.level, n)]);
        if s.pairs_at(l.level) {
            s.grid(self.isa, n).add_outer(pairs, l, dout, h, dw);
        } else {
            rows::add_outer(self.isa, l, dout, h, dw);
        }
    }

    /// What each read is made of.
    pub fn weigh(&self, f: &mut Frame<'_>) {
        let s = self.shape;
        if self.alone {
            f.wz.fill(1.0);
            f.ws.fill(0.0);
        } else {
            let first = usize::from(!s.reads_before());
            f.wz.copy_from_slice(&f.c.a[first..first + f.count]);
            f.ws.copy_from_slice(&f.c.m[first..first + f.count]);
        }
        f.wt.iter_mut().zip(&*f.wz).for_each(|(t, z)| *t = 1.0 - z);
    }

    /// The reads of a block, by products of its tokens with one another.
    pub fn read(&self, x: &Tokens<'_>, state: &[f32], anchor: &[f32], f: &mut Frame<'_>, y: &mut [f32]) {
        let (s, isa, n, all) = (self.shape, self.isa, f.count, f.all);
        let last = s.net.layers - 1;
        let from = if self.alone { anchor } else { &state[s.plan.at.z.clone()] };
        self.weigh(f);
        s.features(x.x[2], x.gate(s.slots.coefficients), &mut f.g[s.input(last, n)]);
        for level in (0..=last).rev() {
            let (g, width) = (&f.g[s.input(level, n)], s.layers[level].columns);
            let square = level * n * all..(level + 1) * n * all;
            if !self.alone && s.kind.steps {
                let (h, mix) = (&f.h[s.made(level, n)], &mut f.mix[square.clone()]);
                if s.pairs_at(level) {
                    s.grid(isa, n).among(&mut f.pairs, g, h, mix);
                } else {
                    rows::among(isa, width, g, h, mix, Start::Zero);
                }
                self.weigh_square(&f.c, &f.mix[square.clone()], &mut f.weighed[square.clone()]);
            }
            for i in s.at_level(level) {
                let (l, out) = (&s.layers[i], &mut f.zq[s.result(i, n)]);
                let g = &f.g[s.input(level, n)];
                if self.alone {
                    apply(isa, self.rows, l, &from[l.at.clone()], g, out, Start::Zero);
                    continue;
                }
                let scaled = &mut f.rows[..g.len()];
                point::scale_rows(isa, width, f.wz, g, scaled);
                apply(isa, self.rows, l, &from[l.at.clone()], scaled, out, Start::Zero);
                if s.kind.momentum && s.kind.steps {
                    point::scale_rows(isa, width, f.ws, g, scaled);
                    apply(isa, self.rows, l, &state[s.plan.at.s.clone()][l.at.clone()], scaled, out, Start::Current);
                }
                if s.pull == Pull::Start {
                    point::scale_rows(isa, width, f.wt, g, scaled);
                    let start = &state[s.plan.at.start.clone()][l.at.clone()];
                    apply(isa, self.rows, l, start, scaled, out, Start::Current);
                }
                if s.kind.steps {
                    rows::add_mixed(isa, l.rows, &f.weighed[square.clone()], &f.back[s.result(i, all)], out);
                }
            }
            if level > 0 {
                let g = &mut f.g[s.input(level - 1, n)];
                point::hidden(isa, s.net.activation, &f.zq[s.result(level, n)], &f.zq[s.gate(level, n)], g);
            }
        }
        self.leave(x.x[2], &f.zq[s.result(0, n)], y);
    }

    /// From the result of the last layer to the read.
    pub fn leave(&self, q: &[f32], top: &[f32], y: &mut [f32]) {
        let s = self.shape;
        if s.net.norm {
            point::layer_norm(self.isa, s.d.dv, top, y);
        } else {
            y.copy_from_slice(top);
        }
        if s.residual {
            point::add_scaled(self.isa, 1.0, q, y);
        }
    }

    /// `mix` times the coefficients that the reads see.
    fn weigh_square(&self, c: &Coefficients<'_>, mix: &[f32], weighed: &mut [f32]) {
        let shift = if self.shape.reads_before() { c.all.min(weighed.len()) } else { 0 };
        weighed[..shift].fill(0.0);
        let kept = mix.len() - shift;
        point::times(self.isa, &mix[shift..], &c.r[..kept], &mut weighed[shift..]);
    }

    /// The state from before the block to behind it.
    pub fn advance(&self, x: &Tokens<'_>, state: &mut [f32], f: &mut Frame<'_>) {
        let (s, isa, at) = (self.shape, self.isa, &self.shape.plan.at);
        let (n, all) = (f.count, f.all);
        if s.anchored() && s.begins(x.pos) {
            state.copy_within(at.z.clone(), at.anchor.start);
        }
        let last = f.c.row(n - 1);
        point::scale(isa, f.c.a[n], &mut state[at.z.clone()]);
        if s.kind.momentum {
            let (z, momentum) = state[at.z.start..at.s.end].split_at_mut(at.z.len());
            point::add_scaled(isa, f.c.m[n], momentum, z);
            point::scale(isa, f.c.n[n], momentum);
        }
        if s.pull == Pull::Start {
            let (z, rest) = state.split_at_mut(at.z.end);
            let start = &rest[at.start.start - at.z.end..at.start.end - at.z.end];
            point::add_scaled(isa, 1.0 - f.c.a[n], start, &mut z[at.z.clone()]);
        }
        for (i, l) in s.layers.iter().enumerate() {
            let back = &f.back[s.result(i, all)];
            let scaled = &mut f.rows[..back.len()];
            if s.kind.steps {
                point::scale_rows(isa, l.rows, &f.c.r[last.clone()], back, scaled);
                self.outer_made(l, scaled, f.h, &mut f.pairs, n, &mut state[at.z.clone()][l.at.clone()]);
            }
            if s.kind.momentum {
                point::scale_rows(isa, l.rows, &f.c.s[last.clone()], back, scaled);
                self.outer_made(l, scaled, f.h, &mut f.pairs, n, &mut state[at.s.clone()][l.at.clone()]);
            }
        }
        for t in 0..n {
            self.leap(x, t, state, f.space);
        }
        let halo = s.halo();
        for (from, to, width) in [(&*f.keys, &at.keys, s.d.dk), (&*f.values, &at.values, s.d.dv)] {
            state[to.clone()].copy_from_slice(&from[(all - halo) * width..]);
        }
        if !at.thresholds.is_empty() {
            state[at.thresholds.clone()].copy_from_slice(&f.thresholds[all - halo..]);
        }
    }
}

impl Engine<'_> {
    /// The orthogonal step behind token `t`, or what it adds to the length of the next one.
    pub fn leap(&self, x: &Tokens<'_>, t: usize, state: &mut [f32], space: &mut [f32]) {
        let (s, at) = (self.shape, &self.shape.plan.at);
        let Some(of) = s.orthogonal else { return };
        let own = x.gate(s.slots.ns_rate)[t];
        let reach = at.reach.clone().next().map_or(0.0, |i| state[i]) + own;
        let leaps = s.leaps(x.pos + t as u64);
        if let Some(i) = at.reach.clone().next() {
            state[i] = if leaps { 0.0 } else { reach };
        }
        if leaps {
            let (z, momentum) = state[at.z.start..at.s.end].split_at_mut(at.z.len());
            for l in &s.layers {
                let way = Orthogonal::new(self.isa, of, l);
                way.add(&momentum[l.at.clone()], reach, &mut z[l.at.clone()], space);
            }
        }
    }
}

/// Rows of a window per token, out of the window's past and the block's own.
fn lay(window: usize, past: &[f32], own: &[f32], to: &mut [f32]) {
    let width = past.len() / (window - 1);
    for (pair, to) in to.chunks_exact_mut(width).enumerate() {
        let first = (pair / window + pair % window) * width;
        let from = if first < past.len() { &past[first..] } else { &own[first - past.len()..] };
        to.copy_from_slice(&from[..width]);
    }
}

/// Whether place `place` of a window of `c` holds a token, `t` tokens behind position `pos`.
pub(super) fn seen(pos: u64, t: usize, c: usize, place: usize) -> bool {
    pos + (t + place + 1) as u64 >= c as u64
}

/// The parts of a list of results that hidden values are made from: layer `i`'s and its gate's.
pub(super) fn pair<'a>(s: &Shape, i: usize, rows: usize, list: &'a mut [f32]) -> (&'a mut [f32], &'a mut [f32]) {
    let (own, gate) = (s.result(i, rows), s.gate(i, rows));
    if gate.is_empty() {
        return (&mut list[own], &mut []);
    }
    let (head, tail) = list.split_at_mut(own.end);
    (&mut head[own.clone()], &mut tail[gate.start - own.end..gate.end - own.end])
}
