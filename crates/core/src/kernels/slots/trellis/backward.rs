//! From the last token to the first, over what [`super::forward`] left behind.
//!
//! Each memory is gone over twice per token: for the read and what flows back into `u`, and, once the code has turned
//! that into the gradient of z, for the write vector and for what came before the token.

use super::Tokens;
use super::code;
use super::forward::Trail;
use crate::kernels::slots::strips::{across, load, store, strips};
use crate::kernels::slots::{row, row_mut};
use crate::kernels::vector::{add_to, dot, get, put};
use crate::simd::{Simd, Vectorized};

/// Gradients and what they are made in.
pub(super) struct Grads<'a> {
    /// Of the memories and of their anchors, `[dk + dv, width]` each; the second is empty without chunks.
    pub memories: &'a mut [f32],
    pub anchors: &'a mut [f32],
    /// Of keys and values, queries, gates and targets, `[count, ..]`, overwritten.
    pub written: [&'a mut [f32]; 2],
    pub query: &'a mut [f32],
    pub retain: &'a mut [f32],
    pub rate: &'a mut [f32],
    pub target: &'a mut [f32],
    /// Of `o`, `[dv]`.
    pub o: &'a mut [f32],
    /// `[width]` each, zero behind the last slot: of r, zq and z; what flows into `u`, and `-rate u`.
    pub lanes: [&'a mut [f32]; LANES],
}

/// Lists of [`Grads::lanes`].
pub(super) const LANES: usize = 5;

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
        let (x, z) = (self.x, self.x.lens);
        self.d.target[..x.count * z.slots].fill(0.0);
        for lane in &mut self.d.lanes {
            lane.fill(0.0);
        }
        for t in (0..x.count).rev() {
            (self.d.retain[t], self.d.rate[t]) = (0.0, 0.0);
            self.read_values(s, t);
            self.write(s, t, 1);
            self.read_keys(s, t);
            self.write(s, t, 0);
            if x.rule.begins(x.pos + t as u64) {
                for c in (0..z.len()).step_by(S::LANES) {
                    add_to(s, self.d.memories, c, get(s, self.d.anchors, c));
                }
                self.d.anchors.fill(0.0);
            }
        }
    }
}

impl Backward<'_, '_> {
    /// Through `y = out(Mv' r)` to r, to the memory, and to what its step adds.
    #[inline(always)]
    fn read_values<S: Simd>(&mut self, s: S, t: usize) {
        let (x, z) = (self.x, self.x.lens);
        let Trail { states, r, o, lists, .. } = &mut *self.trail;
        let [dr, _, _, back, _] = &mut self.d.lanes;
        code::apply_backward(s, x.rule.out, row(o, t, z.dv), row(self.dy, t, z.dv), self.d.o, lists);
        let m = &row(states, t + 2, z.len())[z.memory(1)];
        let (r, d) = (row(r, t, z.width), &mut self.d.memories[z.memory(1)]);
        let rows = [&*self.d.o, x.written(t, 1)];
        strips!(S, z.width, |at| read_values(s, at, z.width, [m, r], rows, d, [dr, back]));
    }

    /// Through `r = f(Mk' q)` to the query, to the memory, and to what its step adds.
    #[inline(always)]
    fn read_keys<S: Simd>(&mut self, s: S, t: usize) {
        let (x, z) = (self.x, self.x.lens);
        let Trail { states, zq, lists, .. } = &mut *self.trail;
        let [dr, dzq, _, back, _] = &mut self.d.lanes;
        code::apply_backward(
            s,
            x.rule.read,
            &row(zq, t, z.width)[..z.slots],
            &dr[..z.slots],
            &mut dzq[..z.slots],
            lists,
        );
        let m = &row(states, t + 2, z.len())[z.memory(0)];
        let (d, dquery) = (&mut self.d.memories[z.memory(0)], row_mut(self.d.query, t, z.dk));
        dquery.fill(0.0);
        let rows = [row(x.query, t, z.dk), x.written(t, 0)];
        strips!(S, z.width, |at| read_keys(s, at, z.width, [m, dzq], rows, d, back, dquery));
    }

    /// Through `M' = retain M - rate u w^T` and the code of w.
    #[inline(always)]
    fn write<S: Simd>(&mut self, s: S, t: usize, which: usize) {
        let (x, z) = (self.x, self.x.lens);
        let Trail { states, z: codes, u, lists, .. } = &mut *self.trail;
        let [_, _, dz, back, by_u] = &mut self.d.lanes;
        let (u, code) = (row(u[which], t, z.width), &row(codes[which], t, z.width)[..z.slots]);
        self.d.rate[t] -= dot(s, back, u);
        let rate = s.splat(-x.rate[t]);
        for c in (0..z.width).step_by(S::LANES) {
            put(s, by_u, c, s.mul(rate, get(s, u, c)));
            let du = s.mul(rate, get(s, back, c));
            put(s, back, c, du);
        }
        let target = row(x.target, t, z.slots);
        let dtarget = row_mut(self.d.target, t, z.slots);
        let of_u = &back[..z.slots];
        code::error_backward(s, x.rule.write, [code, target, of_u], &mut dz[..z.slots], dtarget, lists);
        let m = &row(states, t + 1, z.len())[z.memory(which)];
        let at_anchor = &row(states, x.anchor(t), z.len())[z.memory(which)];
        let w = x.written(t, which);
        let dw = row_mut(self.d.written[which], t, w.len());
        dw.fill(0.0);
        let (d, retain) = (&mut self.d.memories[z.memory(which)], x.retain[t]);
        let (lanes, dretain) = ([&**by_u, &**dz], &mut self.d.retain[t]);
        if x.rule.frozen() {
            let danchor = &mut self.d.anchors[z.memory(which)];
            strips!(S, z.width, |at| leave(s, at, z.width, retain, [m, by_u], d, dw, dretain));
            strips!(S, z.width, |at| leave_anchor(s, at, z.width, [at_anchor, dz, w], danchor, dw));
        } else {
            strips!(S, z.width, |at| leave_both(s, at, z.width, retain, [m, w], lanes, d, dw, dretain));
        }
    }
}

/// `D += x r^T`; `dr = M^T x` and `back = D^T w`, for x and w per row.
#[inline(always)]
fn read_values<S: Simd, const V: usize>(
    s: S,
    at: usize,
    width: usize,
    [m, r]: [&[f32]; 2],
    [x, w]: [&[f32]; 2],
    d: &mut [f32],
    [dr, back]: [&mut [f32]; 2],
) {
    let r = load::<S, V>(s, r, at);
    let (mut of_r, mut of_u) = ([s.splat(0.0); V], [s.splat(0.0); V]);
    for ((d, m), (&x, &w)) in d.chunks_exact_mut(width).zip(m.chunks_exact(width)).zip(x.iter().zip(w)) {
        let (m, x, w) = (load::<S, V>(s, m, at), s.splat(x), s.splat(w));
        let mut sum = load::<S, V>(s, d, at);
        for v in 0..V {
            sum[v] = s.fma(x, r[v], sum[v]);
            of_r[v] = s.fma(x, m[v], of_r[v]);
            of_u[v] = s.fma(w, sum[v], of_u[v]);
        }
        store(s, d, at, sum);
    }
    store(s, dr, at, of_r);
    store(s, back, at, of_u);
}

/// `D += q z^T`; `back = D^T w` and `dq += M z`, for q and w per row.
#[inline(always)]
fn read_keys<S: Simd, const V: usize>(
    s: S,
    at: usize,
    width: usize,
    [m, z]: [&[f32]; 2],
    [q, w]: [&[f32]; 2],
    d: &mut [f32],
    back: &mut [f32],
    dq: &mut [f32],
) {
    let z = load::<S, V>(s, z, at);
    let mut of_u = [s.splat(0.0); V];
    for (r, (d, dq)) in d.chunks_exact_mut(width).zip(dq).enumerate() {
        let (q, w) = (s.splat(q[r]), s.splat(w[r]));
        let mut sum = load::<S, V>(s, d, at);
        for v in 0..V {
            sum[v] = s.fma(q, z[v], sum[v]);
            of_u[v] = s.fma(w, sum[v], of_u[v]);
        }
        *dq += across(s, load::<S, V>(s, m, r * width + at), z);
        store(s, d, at, sum);
    }
    store(s, back, at, of_u);
}

/// `dw += D u + M z`, `dretain += D . M`, `D = retain D + w z^T`, for u and z per slot.
#[inline(always)]
fn leave_both<S: Simd, const V: usize>(
    s: S,
    at: usize,
    width: usize,
    retain: f32,
    [m, w]: [&[f32]; 2],
    [u, z]: [&[f32]; 2],
    d: &mut [f32],
    dw: &mut [f32],
    dretain: &mut f32,
) {
    let (u, z, retain) = (load::<S, V>(s, u, at), load::<S, V>(s, z, at), s.splat(retain));
    let mut of_retain = [s.splat(0.0); V];
    for (r, (d, dw)) in d.chunks_exact_mut(width).zip(dw).enumerate() {
        let (m, w) = (load::<S, V>(s, m, r * width + at), s.splat(w[r]));
        let mut x = load::<S, V>(s, d, at);
        let mut sum = s.splat(0.0);
        for v in 0..V {
            sum = s.fma(m[v], z[v], s.fma(x[v], u[v], sum));
            of_retain[v] = s.fma(x[v], m[v], of_retain[v]);
            x[v] = s.fma(retain, x[v], s.mul(w, z[v]));
        }
        *dw += s.sum(sum);
        store(s, d, at, x);
    }
    for of_retain in of_retain {
        *dretain += s.sum(of_retain);
    }
}

/// `dw += D u`, `dretain += D . M`, `D = retain D`.
#[inline(always)]
fn leave<S: Simd, const V: usize>(
    s: S,
    at: usize,
    width: usize,
    retain: f32,
    [m, u]: [&[f32]; 2],
    d: &mut [f32],
    dw: &mut [f32],
    dretain: &mut f32,
) {
    let (u, retain) = (load::<S, V>(s, u, at), s.splat(retain));
    let mut of_retain = [s.splat(0.0); V];
    for (r, (d, dw)) in d.chunks_exact_mut(width).zip(dw).enumerate() {
        let m = load::<S, V>(s, m, r * width + at);
        let mut x = load::<S, V>(s, d, at);
        *dw += across(s, x, u);
        for v in 0..V {
            of_retain[v] = s.fma(x[v], m[v], of_retain[v]);
            x[v] = s.mul(retain, x[v]);
        }
        store(s, d, at, x);
    }
    for of_retain in of_retain {
        *dretain += s.sum(of_retain);
    }
}

/// `dw += A z`, `D += w z^T`.
#[inline(always)]
fn leave_anchor<S: Simd, const V: usize>(
    s: S,
    at: usize,
    width: usize,
    [a, z, w]: [&[f32]; 3],
    d: &mut [f32],
    dw: &mut [f32],
) {
    let z = load::<S, V>(s, z, at);
    for (r, (d, dw)) in d.chunks_exact_mut(width).zip(dw).enumerate() {
        let (mut x, w) = (load::<S, V>(s, d, at), s.splat(w[r]));
        *dw += across(s, load::<S, V>(s, a, r * width + at), z);
        for v in 0..V {
            x[v] = s.fma(w, z[v], x[v]);
        }
        store(s, d, at, x);
    }
}
