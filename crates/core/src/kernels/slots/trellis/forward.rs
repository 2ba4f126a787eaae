//! From the first token to the last.

use super::code::{self, LISTS};
use super::{Lens, Tokens};
use crate::kernels::slots::strips::{across, load, over_rows, store, strips};
use crate::kernels::slots::{row, row_mut};
use crate::simd::{Simd, Vectorized};

/// What a pass leaves behind. With `every` state kept, state 1 + t lies before token t and all other lists have a row
/// per token; else there is one row, and state 1 is changed in place. State 0 is the anchor of the first token.
pub(super) struct Trail<'a> {
    pub every: bool,
    /// `[states, dk + dv, width]`: both memories turned, a row per channel of what is written.
    pub states: &'a mut [f32],
    /// For keys and for values, the code before it is one, and the gradient with respect to it, `[width]` per token.
    pub z: [&'a mut [f32]; 2],
    pub u: [&'a mut [f32]; 2],
    /// What the query reads, and its code, `[width]` per token.
    pub zq: &'a mut [f32],
    pub r: &'a mut [f32],
    /// What that code reads, `[dv]` per token.
    pub o: &'a mut [f32],
    /// What codes are made in.
    pub lists: [&'a mut [f32]; LISTS],
}

impl<'a> Trail<'a> {
    /// Lengths of its buffers, for so many tokens of which every one is kept or none.
    pub fn lens(z: Lens, every: Option<usize>) -> [usize; 8 + LISTS] {
        let (states, tokens) = every.map_or((2, 1), |n| (n + 2, n));
        let (wide, list) = (tokens * z.width, z.slots.max(z.dv));
        [states * z.len(), wide, wide, wide, wide, wide, wide, tokens * z.dv, list, list, list, list, list, list, list]
    }

    /// Lanes behind the last slot are zero from here on.
    pub fn new(every: bool, buffers: [&'a mut [f32]; 8 + LISTS]) -> Self {
        let [states, zk, zv, uk, uv, zq, r, o, a, b, c, d, e, f, g] = buffers;
        let mut trail = Self { every, states, z: [zk, zv], u: [uk, uv], zq, r, o, lists: [a, b, c, d, e, f, g] };
        let [uk, uv] = &mut trail.u;
        [uk, uv, &mut trail.r].into_iter().for_each(|list| list.fill(0.0));
        trail
    }
}

/// Both halves of every token; the last step of a read, `out`, into `y`, unless that is empty.
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
            if !x.rule.frozen() || x.rule.begins(x.pos + t as u64) {
                anchor = before;
                if x.rule.frozen() && !self.trail.every {
                    self.trail.states.copy_within(x.lens.len().., 0);
                    anchor = 0;
                }
            }
            let place = if self.trail.every { t } else { 0 };
            for which in [0, 1] {
                self.code(s, t, place, anchor, which);
            }
            self.write_and_read(s, t, place, before);
        }
    }
}

impl Forward<'_, '_> {
    /// The gradient with respect to a write vector's code.
    #[inline(always)]
    fn code<S: Simd>(&mut self, s: S, t: usize, place: usize, anchor: usize, which: usize) {
        let (x, z) = (self.x, self.x.lens);
        let Trail { states, z: codes, u, lists, .. } = &mut *self.trail;
        let at = &row(states, anchor, z.len())[z.memory(which)];
        let (code, u) = (row_mut(codes[which], place, z.width), row_mut(u[which], place, z.width));
        over_rows(s, z.width, at, x.written(t, which), code);
        code::error(s, x.rule.write, &code[..z.slots], row(x.target, t, z.slots), &mut u[..z.slots], lists);
    }

    /// The step of both memories, each read while it is at hand.
    #[inline(always)]
    fn write_and_read<S: Simd>(&mut self, s: S, t: usize, place: usize, before: usize) {
        let (x, z) = (self.x, self.x.lens);
        let Trail { every, states, u: [uk, uv], zq, r, o, .. } = &mut *self.trail;
        let behind = if *every { before + 1 } else { before };
        let (head, tail) = states.split_at_mut(behind * z.len());
        let from = |which| if *every { &row(head, before, z.len())[z.memory(which)] } else { &[][..] };
        let (mk, mv) = tail[..z.len()].split_at_mut(z.dk * z.width);
        let (uk, uv) = (row(uk, place, z.width), row(uv, place, z.width));
        let (zq, r) = (row_mut(zq, place, z.width), row_mut(r, place, z.width));
        let (gates, query) = ([x.retain[t], -x.rate[t]], row(x.query, t, z.dk));
        let (old, key, values) = ([from(0), from(1)], x.written(t, 0), x.written(t, 1));
        strips!(S, z.width, |at| step_over_rows(s, at, z.width, gates, [old[0], uk, key, query], mk, zq));
        code::apply(s, x.rule.read, &zq[..z.slots], &mut r[..z.slots]);
        let o = row_mut(o, place, z.dv);
        o.fill(0.0);
        strips!(S, z.width, |at| step_over_slots(s, at, z.width, gates, [old[1], uv, values, r], mv, o));
        if let Some(y) = self.y.get_mut(t * z.dv..(t + 1) * z.dv) {
            code::apply(s, x.rule.out, o, y);
        }
    }
}

/// `to = retain from + step w u` row by row, of `to` itself where `from` is empty, and `out = to^T q`.
#[inline(always)]
fn step_over_rows<S: Simd, const V: usize>(
    s: S,
    at: usize,
    width: usize,
    [retain, step]: [f32; 2],
    [from, u, w, q]: [&[f32]; 4],
    to: &mut [f32],
    out: &mut [f32],
) {
    let (u, retain) = (load::<S, V>(s, u, at), s.splat(retain));
    let mut sums = [s.splat(0.0); V];
    for (r, (to, (&w, &q))) in to.chunks_exact_mut(width).zip(w.iter().zip(q)).enumerate() {
        let mut x = if from.is_empty() { load::<S, V>(s, to, at) } else { load(s, from, r * width + at) };
        let (by, q) = (s.splat(step * w), s.splat(q));
        for v in 0..V {
            x[v] = s.fma(by, u[v], s.mul(retain, x[v]));
            sums[v] = s.fma(q, x[v], sums[v]);
        }
        store(s, to, at, x);
    }
    store(s, out, at, sums);
}

/// The same, and `out += to q`.
#[inline(always)]
fn step_over_slots<S: Simd, const V: usize>(
    s: S,
    at: usize,
    width: usize,
    [retain, step]: [f32; 2],
    [from, u, w, q]: [&[f32]; 4],
    to: &mut [f32],
    out: &mut [f32],
) {
    let (u, q, retain) = (load::<S, V>(s, u, at), load::<S, V>(s, q, at), s.splat(retain));
    for (r, (to, (&w, out))) in to.chunks_exact_mut(width).zip(w.iter().zip(out)).enumerate() {
        let mut x = if from.is_empty() { load::<S, V>(s, to, at) } else { load(s, from, r * width + at) };
        let by = s.splat(step * w);
        for v in 0..V {
            x[v] = s.fma(by, u[v], s.mul(retain, x[v]));
        }
        *out += across(s, x, q);
        store(s, to, at, x);
    }
}
