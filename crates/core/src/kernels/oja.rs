//! Kernel of [`crate::rules::Oja`]: what a value recalls is a sum down the rows of the memory, what a query reads one along
//! them, so that a token takes two passes over it, and its transpose two.
//!
//! ```text
//! b  = k - W^T v                                       db = D^T v, D behind the token with its read
//! W' = retain W + rate v b^T                           dv = rate D b - W db, drate = b . db, dretain = D . W
//! y  = W' q                                            D <- retain D - v db^T, with db <- rate db, dk = db
//! ```

use crate::kernel::{Cotangents, Kernel, Scratch, Sequence};
use crate::kernels::replay;
use crate::kernels::vector::{add_to, dot, get, kernel, put};
use crate::rule::Dims;
use crate::rules::Oja;
use crate::simd::Simd;

/// The kernel of the rule.
pub(crate) const KERNELS: &[Kernel<Oja>] = &[Kernel {
    name: "sequential",
    about: "two passes over the state per token",
    canonical: true,
    is_available: |_, _| true,
    forward,
    backward,
    read,
    column: None,
}];

/// Vectors whose sums stay in registers.
const STRIP: usize = 4;

/// One token's inputs.
#[derive(Clone, Copy)]
struct Token<'a> {
    k: &'a [f32],
    v: &'a [f32],
    q: &'a [f32],
    retain: f32,
    rate: f32,
}

fn token<'a>(d: Dims, seq: Sequence<'a, f32>, t: usize) -> Token<'a> {
    let (key, value, x) = (t * d.dk..(t + 1) * d.dk, t * d.dv..(t + 1) * d.dv, seq.inputs);
    Token { k: &x[0][key.clone()], v: &x[1][value], q: &x[2][key], retain: x[3][t], rate: x[4][t] }
}

fn forward(
    _: &Oja,
    d: Dims,
    seq: Sequence<'_, f32>,
    state: &mut [f32],
    y: &mut [f32],
    mut saved: Option<&mut [f32]>,
    scratch: &mut Scratch,
) {
    let (isa, [b]) = (scratch.isa(), scratch.take([d.dk]));
    for (t, y) in y.chunks_exact_mut(d.dv).enumerate() {
        replay::keep(&mut saved, t, state);
        step(isa, token(d, seq, t), state, b, y);
    }
}

fn read(_: &Oja, d: Dims, seq: Sequence<'_, f32>, state: &[f32], y: &mut [f32], scratch: &mut Scratch) {
    for (q, y) in seq.inputs[2].chunks_exact(d.dk).zip(y.chunks_exact_mut(d.dv)) {
        along(scratch.isa(), state, q, y);
    }
}

fn backward(_: &Oja, d: Dims, seq: Sequence<'_, f32>, ct: Cotangents<'_>, scratch: &mut Scratch) {
    let (n, isa) = (seq.tokens, scratch.isa());
    let [states, mut b, mut db, mut unused] = scratch.take([replay::room(n, d.dk * d.dv), d.dk, d.dk, d.dv]);
    let Cotangents { start, dy, dinputs, dstate } = ct;
    let [dk, dv, dq, dretain, drate] = dinputs else { unreachable!("the rule has five inputs") };
    let mut with = ([&mut b, &mut db, &mut unused], [dk, dv, dq], [dretain, drate], dstate);
    replay::backward(
        n,
        start,
        states,
        &mut with,
        |([b, _, unused], ..), t, w| step(isa, token(d, seq, t), w, b, unused),
        |([b, db, _], [dk, dv, dq], [dretain, drate], dw), t, [prev, next]| {
            let (key, value) = (t * d.dk..(t + 1) * d.dk, t * d.dv..(t + 1) * d.dv);
            let rows = [&mut dk[key.clone()], &mut dv[value.clone()], &mut dq[key]];
            let gates = [&mut dretain[t], &mut drate[t]];
            step_backward(isa, token(d, seq, t), [prev, next], &dy[value], dw, [b, db], rows, gates);
        },
    );
}

/// Where vector `j` of a strip starts, or the end of the row.
#[inline(always)]
fn place<S: Simd>(first: usize, j: usize, columns: usize) -> usize {
    (first + j * S::LANES).min(columns)
}

/// `b = k - W^T v`, overwritten.
#[inline(always)]
fn unrecalled<S: Simd>(s: S, x: Token<'_>, w: &[f32], b: &mut [f32]) {
    let columns = x.k.len();
    for first in (0..columns).step_by(STRIP * S::LANES) {
        let mut sums = [s.splat(0.0); STRIP];
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum = get(s, x.k, place::<S>(first, j, columns));
        }
        for (w, &v) in w.chunks_exact(columns).zip(x.v) {
            let v = s.splat(-v);
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum = s.fma(v, get(s, w, place::<S>(first, j, columns)), *sum);
            }
        }
        for (j, &sum) in sums.iter().enumerate() {
            put(s, b, place::<S>(first, j, columns), sum);
        }
    }
}

kernel! {
    /// A token's write and read; `b` is what the value did not recall, overwritten.
    fn step(s: S, x: Token<'a>, w: &'a mut [f32], b: &'a mut [f32], y: &'a mut [f32]) {
        let (columns, retain) = (x.k.len(), s.splat(x.retain));
        y.fill(0.0);
        unrecalled(s, x, w, b);
        for first in (0..columns).step_by(STRIP * S::LANES) {
            let (mut sums, mut q) = ([s.splat(0.0); STRIP], [s.splat(0.0); STRIP]);
            for j in 0..STRIP {
                sums[j] = get(s, b, place::<S>(first, j, columns));
                q[j] = get(s, x.q, place::<S>(first, j, columns));
            }
            for ((w, y), &v) in w.chunks_exact_mut(columns).zip(y.iter_mut()).zip(x.v) {
                let (by, mut read) = (s.splat(x.rate * v), s.splat(0.0));
                for j in 0..STRIP {
                    let c = place::<S>(first, j, columns);
                    let new = s.fma(by, sums[j], s.mul(retain, get(s, w, c)));
                    put(s, w, c, new);
                    read = s.fma(new, q[j], read);
                }
                *y += s.sum(read);
            }
        }
    }

    fn along(s: S, w: &'a [f32], q: &'a [f32], y: &'a mut [f32]) {
        for (w, y) in w.chunks_exact(q.len()).zip(y) {
            *y = dot(s, w, q);
        }
    }

    /// Transpose of `step` between the states before and behind it; `d` goes from behind to before.
    fn step_backward(
        s: S,
        x: Token<'a>,
        states: [&'a [f32]; 2],
        dy: &'a [f32],
        d: &'a mut [f32],
        space: [&'a mut [f32]; 2],
        rows: [&'a mut [f32]; 3],
        gates: [&'a mut f32; 2],
    ) {
        let (columns, [prev, next], [dk, dv, dq], [b, db]) = (x.k.len(), states, rows, space);
        unrecalled(s, x, prev, b);
        let mut decayed = s.splat(0.0);
        for first in (0..columns).step_by(STRIP * S::LANES) {
            let zero = [s.splat(0.0); STRIP];
            let (mut to_b, mut to_q) = (zero, zero);
            for (r, d) in d.chunks_exact_mut(columns).enumerate() {
                let (prev, next) = (&prev[r * columns..(r + 1) * columns], &next[r * columns..(r + 1) * columns]);
                let (dy, v, mut to_v) = (s.splat(dy[r]), s.splat(x.v[r]), s.splat(0.0));
                for j in 0..STRIP {
                    let c = place::<S>(first, j, columns);
                    let own = s.fma(dy, get(s, x.q, c), get(s, d, c));
                    put(s, d, c, own);
                    to_q[j] = s.fma(dy, get(s, next, c), to_q[j]);
                    to_b[j] = s.fma(v, own, to_b[j]);
                    to_v = s.fma(own, get(s, b, c), to_v);
                    decayed = s.fma(own, get(s, prev, c), decayed);
                }
                dv[r] += x.rate * s.sum(to_v);
            }
            for j in 0..STRIP {
                add_to(s, dq, place::<S>(first, j, columns), to_q[j]);
                put(s, db, place::<S>(first, j, columns), to_b[j]);
            }
        }
        *gates[0] += s.sum(decayed);
        *gates[1] += dot(s, db, b);
        for c in (0..columns).step_by(S::LANES) {
            let scaled = s.mul(s.splat(x.rate), get(s, db, c));
            put(s, db, c, scaled);
            add_to(s, dk, c, scaled);
        }
        for (r, d) in d.chunks_exact_mut(columns).enumerate() {
            let (prev, back) = (&prev[r * columns..(r + 1) * columns], s.splat(-x.v[r]));
            let (retain, mut to_v) = (s.splat(x.retain), s.splat(0.0));
            for c in (0..columns).step_by(S::LANES) {
                let db = get(s, db, c);
                to_v = s.fma(get(s, prev, c), db, to_v);
                put(s, d, c, s.fma(back, db, s.mul(retain, get(s, d, c))));
            }
            dv[r] -= s.sum(to_v);
        }
    }
}
