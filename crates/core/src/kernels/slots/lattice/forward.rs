//! From the first token to the last.

use super::Tokens;
use crate::kernels::slots::strips::{across, load, over_rows, over_slots, store, strips};
use crate::kernels::slots::{row, row_mut};
use crate::kernels::vector::{get, put};
use crate::rules::lattice::Variant;
use crate::simd::{Simd, Vectorized};

/// Inside the root of a length; that of the reference.
const LENGTH: f32 = 1e-24;

/// What a pass leaves behind. With `every` state kept, state 1 + t lies before token t and all other lists have a row
/// per token; else there is one row, and state 1 is changed in place. State 0 is the anchor of the first token.
pub(super) struct Trail<'a> {
    pub every: bool,
    /// `[states, rows, width]`, and one over the lengths of their slots, `[states, width]`.
    pub states: &'a mut [f32],
    pub inverses: &'a mut [f32],
    /// One over the lengths behind the step, before they are retracted.
    pub moved: &'a mut [f32],
    /// `phi_i . h`.
    pub along: &'a mut [f32],
    /// `[rows]` per token.
    pub h: &'a mut [f32],
    /// Gate, rate and what a read weighs slots with, `[width]`; not kept.
    pub g: &'a mut [f32],
    pub b: &'a mut [f32],
    pub weights: &'a mut [f32],
}

impl Trail<'_> {
    /// Lengths of its lists, for so many tokens of which every one is kept or none.
    pub fn lens(x: &Tokens<'_>, every: Option<usize>) -> [usize; 8] {
        let (states, tokens) = every.map_or((2, 1), |n| (n + 2, n));
        let wide = tokens * x.width;
        [states * x.len(), states * x.width, wide, wide, tokens * x.rows, x.width, x.width, x.width]
    }
}

/// Both halves of every token. Without `y` nothing is read.
pub(super) struct Forward<'a, 'b> {
    pub x: Tokens<'b>,
    pub trail: &'b mut Trail<'a>,
    pub y: &'b mut [f32],
}

impl Vectorized for Forward<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let x = self.x;
        let mut anchor = 0;
        for t in 0..x.count {
            let before = if self.trail.every { 1 + t } else { 1 };
            if x.rule.chunk <= 1 {
                anchor = before;
            } else if x.rule.begins(x.pos + t as u64) {
                anchor = self.anchor(before);
            }
            self.plan(s, t, anchor);
            self.write_and_read(s, t, before);
        }
    }
}

impl Forward<'_, '_> {
    /// Makes a state the anchor of those that follow; gives its number.
    #[inline(always)]
    fn anchor(&mut self, state: usize) -> usize {
        if self.trail.every {
            return state;
        }
        let Trail { states, inverses, .. } = &mut *self.trail;
        states.copy_within(self.x.len().., 0);
        inverses.copy_within(self.x.width.., 0);
        0
    }

    /// What token `t` does to the slots.
    #[inline(always)]
    fn plan<S: Simd>(&mut self, s: S, t: usize, anchor: usize) {
        let x = self.x;
        let Trail { every, states, inverses, along, h, g, b, weights, .. } = &mut *self.trail;
        let place = if *every { t } else { 0 };
        let (at, inverse) = (row(states, anchor, x.len()), row(inverses, anchor, x.width));
        let (key, h) = (row(x.key, t, x.width), row_mut(h, place, x.rows));
        let values = row(x.value, t, x.rows);
        if x.rule.variant == Variant::Decoding {
            for c in (0..x.width).step_by(S::LANES) {
                put(s, weights, c, s.mul(get(s, key, c), get(s, inverse, c)));
            }
            over_slots(s, x.width, at, weights, h);
            for c in (0..x.rows).step_by(S::LANES) {
                let rest = s.sub(get(s, values, c), get(s, h, c));
                put(s, h, c, rest);
            }
        } else {
            h.copy_from_slice(values);
        }
        let along = row_mut(along, place, x.width);
        over_rows(s, x.width, at, h, along);
        let (rate, retain) = (s.splat(x.rate[t]), s.splat(x.retain(t)));
        for c in (0..x.width).step_by(S::LANES) {
            let (inverse, key) = (get(s, inverse, c), get(s, key, c));
            let alike = s.mul(get(s, along, c), inverse);
            let w = if x.rule.variant == Variant::Encoding { s.sub(key, alike) } else { key };
            let by = s.mul(s.mul(rate, w), inverse);
            put(s, along, c, alike);
            put(s, b, c, by);
            put(s, g, c, s.sub(retain, s.mul(by, s.mul(alike, inverse))));
        }
    }

    /// The step, the read and, where it is due, the way back to unit length.
    #[inline(always)]
    fn write_and_read<S: Simd>(&mut self, s: S, t: usize, before: usize) {
        let x = self.x;
        let Trail { every, states, inverses, moved, h, g, b, weights, .. } = &mut *self.trail;
        let (place, behind) = if *every { (t, before + 1) } else { (0, before) };
        let (head, tail) = states.split_at_mut(behind * x.len());
        let (from, to) = (if *every { row(head, before, x.len()) } else { &[] }, &mut tail[..x.len()]);
        let (moved, h) = (row_mut(moved, place, x.width), row(h, place, x.rows));
        strips!(S, x.width, |at| step(s, at, x.width, [from, g, b, h], to, moved));
        invert(s, moved);
        let retracts = x.rule.retracts_at(x.pos + t as u64);
        let inverse = row_mut(inverses, behind, x.width);
        inverse.copy_from_slice(moved);
        let y = self.y.get_mut(t * x.rows..(t + 1) * x.rows).unwrap_or_default();
        if !y.is_empty() {
            let query = row(x.query, t, x.width);
            for c in (0..x.width).step_by(S::LANES) {
                put(s, weights, c, s.mul(get(s, query, c), get(s, moved, c)));
            }
        }
        match (retracts, y.is_empty()) {
            (true, true) => strips!(S, x.width, |at| retract(s, at, x.width, moved, to, inverse)),
            (true, false) => {
                y.fill(0.0);
                strips!(S, x.width, |at| retract_and_read(s, at, x.width, [moved, weights], to, inverse, y));
            }
            (false, true) => {}
            (false, false) => over_slots(s, x.width, to, weights, y),
        }
        if retracts {
            invert(s, inverse);
        }
    }
}

/// From sums of squares to one over lengths.
#[inline(always)]
pub(super) fn invert<S: Simd>(s: S, squares: &mut [f32]) {
    for c in (0..squares.len()).step_by(S::LANES) {
        let length = s.sqrt(s.add(get(s, squares, c), s.splat(LENGTH)));
        put(s, squares, c, s.div(s.splat(1.0), length));
    }
}

/// Sums of squares of the slots of a state.
#[inline(always)]
pub(super) fn squares<S: Simd, const V: usize>(s: S, at: usize, width: usize, m: &[f32], squares: &mut [f32]) {
    let mut sums = [s.splat(0.0); V];
    for row in m.chunks_exact(width) {
        let row = load::<S, V>(s, row, at);
        for v in 0..V {
            sums[v] = s.fma(row[v], row[v], sums[v]);
        }
    }
    store(s, squares, at, sums);
}

/// `to = g from + b h`, of `to` itself where `from` is empty, and sums of its squares.
#[inline(always)]
fn step<S: Simd, const V: usize>(
    s: S,
    at: usize,
    width: usize,
    [from, g, b, h]: [&[f32]; 4],
    to: &mut [f32],
    squares: &mut [f32],
) {
    let (g, b) = (load::<S, V>(s, g, at), load::<S, V>(s, b, at));
    let mut sums = [s.splat(0.0); V];
    for (r, (to, &h)) in to.chunks_exact_mut(width).zip(h).enumerate() {
        let mut x = if from.is_empty() { load::<S, V>(s, to, at) } else { load(s, from, r * width + at) };
        let h = s.splat(h);
        for v in 0..V {
            x[v] = s.fma(b[v], h, s.mul(g[v], x[v]));
            sums[v] = s.fma(x[v], x[v], sums[v]);
        }
        store(s, to, at, x);
    }
    store(s, squares, at, sums);
}

/// `m = m inverse`, and sums of its squares.
#[inline(always)]
fn retract<S: Simd, const V: usize>(
    s: S,
    at: usize,
    width: usize,
    inverse: &[f32],
    m: &mut [f32],
    squares: &mut [f32],
) {
    let inverse = load::<S, V>(s, inverse, at);
    let mut sums = [s.splat(0.0); V];
    for row in m.chunks_exact_mut(width) {
        let mut x = load::<S, V>(s, row, at);
        for v in 0..V {
            x[v] = s.mul(x[v], inverse[v]);
            sums[v] = s.fma(x[v], x[v], sums[v]);
        }
        store(s, row, at, x);
    }
    store(s, squares, at, sums);
}

/// The same; before it, `y += m weights`.
#[inline(always)]
fn retract_and_read<S: Simd, const V: usize>(
    s: S,
    at: usize,
    width: usize,
    [inverse, weights]: [&[f32]; 2],
    m: &mut [f32],
    squares: &mut [f32],
    y: &mut [f32],
) {
    let (inverse, weights) = (load::<S, V>(s, inverse, at), load::<S, V>(s, weights, at));
    let mut sums = [s.splat(0.0); V];
    for (row, y) in m.chunks_exact_mut(width).zip(y) {
        let mut x = load::<S, V>(s, row, at);
        *y += across(s, x, weights);
        for v in 0..V {
            x[v] = s.mul(x[v], inverse[v]);
            sums[v] = s.fma(x[v], x[v], sums[v]);
        }
        store(s, row, at, x);
    }
    store(s, squares, at, sums);
}
