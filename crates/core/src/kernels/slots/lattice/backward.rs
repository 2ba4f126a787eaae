//! From the last token to the first, over what [`super::forward`] left behind.
//!
//! A read and a retraction look at directions alone, so what flows into a slot through them is what came, less its part
//! along the slot; with X the slots behind a token, n their lengths and dX what came from the tokens after it,
//!
//! ```text
//! dq_i = phi_i . dy
//! ds'  = (dX + (q / n) dy - X (q dq / n^2 + [retracts] X . dX)) / |s'|     the last factor if it retracts
//! ```
//!
//! and through g, b and h one sum per slot or channel after the other, line by line the transpose of the plan.

use super::Tokens;
use super::forward::Trail;
use crate::kernels::slots::strips::{across, add_over_slots, load, over_rows, store, strips};
use crate::kernels::slots::{row, row_mut};
use crate::kernels::vector::{get, put};
use crate::rules::lattice::Variant;
use crate::simd::{Simd, Vectorized};

/// Gradients and what they are made in.
pub(super) struct Grads<'a> {
    /// Of the slots and of the anchor, `[rows, width]` each; the second is empty without chunks.
    pub slots: &'a mut [f32],
    pub anchor: &'a mut [f32],
    /// Of the lists, `[count, ..]`, overwritten.
    pub key: &'a mut [f32],
    pub query: &'a mut [f32],
    pub value: &'a mut [f32],
    pub retain: &'a mut [f32],
    pub rate: &'a mut [f32],
    /// `[width]` each.
    pub lanes: [&'a mut [f32]; LANES],
}

/// Lists of [`Grads::lanes`].
pub(super) const LANES: usize = 6;

/// Back through the tokens.
pub(super) struct Backward<'a, 'b> {
    pub x: Tokens<'b>,
    pub trail: &'b mut Trail<'a>,
    pub dy: &'b [f32],
    pub d: Grads<'b>,
}

impl Vectorized for Backward<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let x = self.x;
        for t in (0..x.count).rev() {
            self.read_and_retraction(s, t);
            self.step(s, t);
            let anchor = x.anchor(t);
            self.gates(s, t, anchor);
            self.plan(s, t, anchor);
            if x.rule.begins(x.pos + t as u64) {
                for c in (0..x.len()).step_by(S::LANES) {
                    let sum = s.add(get(s, self.d.slots, c), get(s, self.d.anchor, c));
                    put(s, self.d.slots, c, sum);
                }
                self.d.anchor.fill(0.0);
            }
        }
    }
}

impl Backward<'_, '_> {
    /// What the slots behind the token weigh in their own gradient, and the query's.
    #[inline(always)]
    fn read_and_retraction<S: Simd>(&mut self, s: S, t: usize) {
        let x = self.x;
        let (behind, inverse) = (row(self.trail.states, t + 2, x.len()), row(self.trail.inverses, t + 2, x.width));
        let [keep, read, less, onto, ..] = &mut self.d.lanes;
        let (query, dquery) = (row(x.query, t, x.width), row_mut(self.d.query, t, x.width));
        let (dy, retracts) = (row(self.dy, t, x.rows), x.rule.retracts_at(x.pos + t as u64));
        if retracts {
            strips!(S, x.width, |at| over_rows_twice(s, at, x.width, [behind, dy, self.d.slots], dquery, onto));
        } else {
            over_rows(s, x.width, behind, dy, dquery);
            onto.fill(0.0);
        }
        let moved = row(self.trail.moved, t, x.width);
        for c in (0..x.width).step_by(S::LANES) {
            let (inverse, onto) = (get(s, inverse, c), get(s, onto, c));
            let scale = if retracts { get(s, moved, c) } else { s.splat(1.0) };
            let dq = s.mul(get(s, dquery, c), inverse);
            let q = s.mul(get(s, query, c), inverse);
            put(s, dquery, c, dq);
            put(s, keep, c, scale);
            put(s, read, c, s.mul(q, scale));
            put(s, less, c, s.mul(s.fma(s.mul(q, dq), inverse, onto), scale));
        }
    }

    /// Through `s' = g s + b h`: leaves `g ds'` for the slots, and the gradients of g, b and h.
    #[inline(always)]
    fn step<S: Simd>(&mut self, s: S, t: usize) {
        let x = self.x;
        let Trail { states, inverses, along, h, g, b, .. } = &mut *self.trail;
        let anchor = x.anchor(t);
        let (inverse, along, key) = (row(inverses, anchor, x.width), row(along, t, x.width), row(x.key, t, x.width));
        let (rate, retain) = (s.splat(x.rate[t]), s.splat(x.retain(t)));
        for c in (0..x.width).step_by(S::LANES) {
            let (inverse, key, alike) = (get(s, inverse, c), get(s, key, c), get(s, along, c));
            let w = if x.rule.variant == Variant::Encoding { s.sub(key, alike) } else { key };
            let by = s.mul(s.mul(rate, w), inverse);
            put(s, b, c, by);
            put(s, g, c, s.sub(retain, s.mul(by, s.mul(alike, inverse))));
        }
        let (before, behind) = states[(t + 1) * x.len()..(t + 3) * x.len()].split_at(x.len());
        let [keep, read, less, dg, db, _] = &mut self.d.lanes;
        let dvalue = row_mut(self.d.value, t, x.rows);
        dvalue.fill(0.0);
        let lists = Step {
            states: [before, behind],
            lanes: [keep, read, less, g, b],
            rows: [row(self.dy, t, x.rows), row(h, t, x.rows)],
        };
        strips!(S, x.width, |at| step_backward(s, at, x.width, &lists, self.d.slots, [dg, db], dvalue));
    }

    /// From the gradients of g and b to those of rate, `retain`, w (to the key's), `phi . h` over the length, and of the
    /// logarithm of the length.
    #[inline(always)]
    fn gates<S: Simd>(&mut self, s: S, t: usize, anchor: usize) {
        let x = self.x;
        let Trail { inverses, along, b, .. } = &mut *self.trail;
        let [dalong, dlength, _, dg, db, _] = &mut self.d.lanes;
        let (inverse, along, key) = (row(inverses, anchor, x.width), row(along, t, x.width), row(x.key, t, x.width));
        let (rate, dkey) = (s.splat(x.rate[t]), row_mut(self.d.key, t, x.width));
        let (mut drate, mut dretain) = (s.splat(0.0), s.splat(0.0));
        for c in (0..x.width).step_by(S::LANES) {
            let (inverse, key, alike) = (get(s, inverse, c), get(s, key, c), get(s, along, c));
            let w = if x.rule.variant == Variant::Encoding { s.sub(key, alike) } else { key };
            let (dg, db, by) = (get(s, dg, c), get(s, db, c), get(s, b, c));
            // g = retain - b per, b = rate w / n, per = along / n
            let per = s.mul(alike, inverse);
            let db = s.sub(db, s.mul(dg, per));
            let dper = s.sub(s.splat(0.0), s.mul(dg, by));
            dretain = s.add(dretain, dg);
            drate = s.fma(s.mul(db, w), inverse, drate);
            put(s, dkey, c, s.mul(s.mul(db, rate), inverse));
            put(s, dalong, c, s.mul(dper, inverse));
            put(s, dlength, c, s.sub(s.splat(0.0), s.fma(db, by, s.mul(dper, per))));
        }
        self.d.rate[t] = s.sum(drate);
        if let Some(d) = self.d.retain.get_mut(t) {
            *d = s.sum(dretain);
        }
    }

    /// Through h, w and `phi . h` to the slots that they were taken from.
    #[inline(always)]
    fn plan<S: Simd>(&mut self, s: S, t: usize, anchor: usize) {
        let x = self.x;
        let Trail { states, inverses, along, h, .. } = &*self.trail;
        let (at, inverse) = (row(states, anchor, x.len()), row(inverses, anchor, x.width));
        let (along, key, h) = (row(along, t, x.width), row(x.key, t, x.width), row(h, t, x.rows));
        let [dalong, dlength, of_h, of_dh, of_slot, sums] = &mut self.d.lanes;
        let (dkey, dvalue) = (row_mut(self.d.key, t, x.width), row_mut(self.d.value, t, x.rows));
        for c in (0..x.width).step_by(S::LANES) {
            let mut d = get(s, dalong, c);
            if x.rule.variant == Variant::Encoding {
                d = s.sub(d, get(s, dkey, c));
            }
            put(s, dalong, c, d);
            put(s, of_h, c, s.mul(d, get(s, inverse, c)));
        }
        strips!(S, x.width, |c| add_over_slots(s, c, x.width, at, of_h, dvalue));
        let decodes = x.rule.variant == Variant::Decoding;
        if decodes {
            over_rows(s, x.width, at, dvalue, sums);
        }
        for c in (0..x.width).step_by(S::LANES) {
            let (inverse, d) = (get(s, inverse, c), get(s, dalong, c));
            // phi . dphi
            let mut onto = s.mul(d, get(s, along, c));
            if decodes {
                let (key, e) = (get(s, key, c), s.mul(get(s, sums, c), inverse));
                onto = s.sub(onto, s.mul(key, e));
                let dk = s.sub(get(s, dkey, c), e);
                put(s, dkey, c, dk);
                put(s, of_dh, c, s.mul(s.sub(s.splat(0.0), key), inverse));
            }
            let scale = s.mul(inverse, inverse);
            put(s, of_slot, c, s.mul(s.sub(get(s, dlength, c), onto), scale));
        }
        let to = if x.rule.chunk <= 1 { &mut *self.d.slots } else { &mut *self.d.anchor };
        if decodes {
            strips!(S, x.width, |c| add_all(s, c, x.width, [at, h, dvalue], [of_slot, of_h, of_dh], to));
        } else {
            strips!(S, x.width, |c| add_two(s, c, x.width, [at, h], [of_slot, of_h], to));
        }
    }
}

/// `a = M^T x` and, slot by slot, `b = M . N`, for the lists M, x, N.
#[inline(always)]
fn over_rows_twice<S: Simd, const V: usize>(
    s: S,
    at: usize,
    width: usize,
    [m, x, n]: [&[f32]; 3],
    a: &mut [f32],
    b: &mut [f32],
) {
    let (mut of_x, mut of_n) = ([s.splat(0.0); V], [s.splat(0.0); V]);
    for ((m, n), &x) in m.chunks_exact(width).zip(n.chunks_exact(width)).zip(x) {
        let (m, n, x) = (load::<S, V>(s, m, at), load::<S, V>(s, n, at), s.splat(x));
        for v in 0..V {
            of_x[v] = s.fma(x, m[v], of_x[v]);
            of_n[v] = s.fma(m[v], n[v], of_n[v]);
        }
    }
    store(s, a, at, of_x);
    store(s, b, at, of_n);
}

/// What [`step_backward`] reads: slots before and behind; what the gradient, dy and X weigh in `ds'`, g and b; dy and h.
struct Step<'a> {
    states: [&'a [f32]; 2],
    lanes: [&'a [f32]; 5],
    rows: [&'a [f32]; 2],
}

/// See [`Backward::step`].
#[inline(always)]
fn step_backward<S: Simd, const V: usize>(
    s: S,
    at: usize,
    width: usize,
    x: &Step<'_>,
    d: &mut [f32],
    [dg, db]: [&mut [f32]; 2],
    dh: &mut [f32],
) {
    let [keep, read, less, g, b] = x.lanes.map(|list| list);
    let (keep, read, less) = (load::<S, V>(s, keep, at), load::<S, V>(s, read, at), load::<S, V>(s, less, at));
    let (g, b) = (load::<S, V>(s, g, at), load::<S, V>(s, b, at));
    let (mut of_g, mut of_b) = ([s.splat(0.0); V], [s.splat(0.0); V]);
    for (r, (d, dh)) in d.chunks_exact_mut(width).zip(dh).enumerate() {
        let [before, behind] = [load::<S, V>(s, x.states[0], r * width + at), load(s, x.states[1], r * width + at)];
        let (dy, h) = (s.splat(x.rows[0][r]), s.splat(x.rows[1][r]));
        let mut ds = load::<S, V>(s, d, at);
        for v in 0..V {
            let along = s.mul(less[v], behind[v]);
            ds[v] = s.fma(keep[v], ds[v], s.sub(s.mul(read[v], dy), along));
            of_g[v] = s.fma(ds[v], before[v], of_g[v]);
            of_b[v] = s.fma(ds[v], h, of_b[v]);
        }
        *dh += across(s, ds, b);
        for v in 0..V {
            ds[v] = s.mul(ds[v], g[v]);
        }
        store(s, d, at, ds);
    }
    store(s, dg, at, of_g);
    store(s, db, at, of_b);
}

/// `to += a M + b x + c y`, for M the slots, x and y per row, a, b and c per slot.
#[inline(always)]
fn add_all<S: Simd, const V: usize>(
    s: S,
    at: usize,
    width: usize,
    [m, x, y]: [&[f32]; 3],
    [a, b, c]: [&[f32]; 3],
    to: &mut [f32],
) {
    let (a, b, c) = (load::<S, V>(s, a, at), load::<S, V>(s, b, at), load::<S, V>(s, c, at));
    for (r, to) in to.chunks_exact_mut(width).enumerate() {
        let (m, x, y) = (load::<S, V>(s, m, r * width + at), s.splat(x[r]), s.splat(y[r]));
        let mut sum = load::<S, V>(s, to, at);
        for v in 0..V {
            sum[v] = s.fma(c[v], y, s.fma(b[v], x, s.fma(a[v], m[v], sum[v])));
        }
        store(s, to, at, sum);
    }
}

/// `to += a M + b x`.
#[inline(always)]
fn add_two<S: Simd, const V: usize>(
    s: S,
    at: usize,
    width: usize,
    [m, x]: [&[f32]; 2],
    [a, b]: [&[f32]; 2],
    to: &mut [f32],
) {
    let (a, b) = (load::<S, V>(s, a, at), load::<S, V>(s, b, at));
    for (r, to) in to.chunks_exact_mut(width).enumerate() {
        let (m, x) = (load::<S, V>(s, m, r * width + at), s.splat(x[r]));
        let mut sum = load::<S, V>(s, to, at);
        for v in 0..V {
            sum[v] = s.fma(b[v], x, s.fma(a[v], m[v], sum[v]));
        }
        store(s, to, at, sum);
    }
}
