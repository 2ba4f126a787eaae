//! Transpose of the chunk form, chunk after chunk from the end.
//!
//! With `g` and `h` the gradients of `W` and `S` at the end of the chunk, and `dc`, `dp` those of writes and
//! predictions, line by line the transpose of [`super::chunk`]:
//!
//! ```text
//! dc_j  = r[C,j] g k_j + s[C,j] h k_j + sum_{t>=j} r[t,j] (k_j . q_t) dy_t + sum_{t>j} r[t-1,j] (k_j . k_t) dp_t
//! dp_t  = -erase_t dc_t                                        one transposed solve
//! dq_t  = a_t W_0' dy_t + m_t S_0' dy_t + sum_{j<=t} r[t,j] (dy_t . c_j) k_j
//! dk_t  = a_{t-1} W_0' dp_t + m_{t-1} S_0' dp_t + r[C,t] g' c_t + s[C,t] h' c_t
//!         + sum_{j<t} r[t-1,j] (dp_t . c_j) k_j + sum_{i>t} r[i-1,t] (dp_i . c_t) k_i
//!         + sum_{i>=t} r[i,t] (dy_i . c_t) q_i
//! ```
//!
//! The gradient of each coefficient is what stands beside it, and the gates get theirs through
//! [`super::coefficients::backward`].

use super::chunk::{CHUNK, Frame, SCALARS, Size, cut, scale_rows, transpose_list};
use super::coefficients::{self, Coefficients};
use super::tile::{self, Extent, Into, Left, Part, SolveTransposed, Triangle};
use super::{Erase, RankOne, Tokens, gate_places, row};
use crate::kernel::{Cotangents, Scratch, Sequence};
use crate::rule::Dims;
use crate::simd::{Simd, Vectorized};

/// See [`crate::Kernel::backward`].
pub(super) fn backward<R: RankOne>(
    _rule: &R,
    d: Dims,
    seq: Sequence<'_, f32>,
    ct: Cotangents<'_>,
    scratch: &mut Scratch,
) {
    let (x, z, isa) = (Tokens::new(R::FORM, d, seq), Size::new(R::FORM, d), scratch.isa());
    let Cotangents { start, dy, dinputs, dstate } = ct;
    assert!(dy.len() == x.count * d.dv && start.len() == dstate.len());
    assert!(start.len() == z.matrices() * d.dk * d.dv);
    assert!(dinputs.iter().zip(seq.inputs).all(|(d, x)| d.len() == x.len()));
    let [dk, dv, dq, gates @ ..] = dinputs else { unreachable!("a rule of the family has keys, values and queries") };
    if z.is_exact(d) {
        let [work] = scratch.take([Backward::len(z, x.count)]);
        let d = Gradients { k: dk, v: dv, q: dq, gates, state: dstate };
        isa.run(Backward { z, x, start, dy, d, work });
        return;
    }
    let (keys, values, states) = (x.count * z.dk, x.count * z.dv, z.matrices() * z.state());
    let lens = [keys, values, keys, values, states, keys, values, keys, states, Backward::len(z, x.count)];
    let [k, v, q, wide_dy, wide_start, wide_dk, wide_dv, wide_dq, wide_dstate, work] = scratch.take(lens);
    let x = z.widen(d, x, [k, v, q]);
    row::pad(dy, d.dv, wide_dy, z.dv);
    z.widen_state(d, start, wide_start);
    z.widen_state(d, dstate, wide_dstate);
    [&mut *wide_dk, wide_dv, wide_dq].into_iter().for_each(|d| d.fill(0.0));
    let wide = Gradients { k: wide_dk, v: wide_dv, q: wide_dq, gates, state: wide_dstate };
    isa.run(Backward { z, x, start: wide_start, dy: wide_dy, d: wide, work });
    z.narrow_state(d, wide_dstate, dstate);
    row::unpad_add(wide_dk, z.dk, dk, d.dk);
    row::unpad_add(wide_dv, z.dv, dv, d.dv);
    row::unpad_add(wide_dq, z.dk, dq, d.dk);
}

/// Where gradients go: added into, except that of the state, which moves from the end to the start.
struct Gradients<'a, 'g> {
    k: &'a mut [f32],
    v: &'a mut [f32],
    q: &'a mut [f32],
    gates: &'a mut [&'g mut [f32]],
    state: &'a mut [f32],
}

/// A backward pass with padded rows.
struct Backward<'a, 'g> {
    z: Size,
    x: Tokens<'a>,
    start: &'a [f32],
    dy: &'a [f32],
    d: Gradients<'a, 'g>,
    work: &'a mut [f32],
}

impl Backward<'_, '_> {
    fn len(z: Size, tokens: usize) -> usize {
        tokens.div_ceil(CHUNK) * Frame::len(z) + Work::lens(z).iter().sum::<usize>()
    }
}

impl Vectorized for Backward<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { z, x, start, dy, d, work } = self;
        let (frames, work) = work.split_at_mut(x.count.div_ceil(CHUNK) * Frame::len(z));
        let mut work = Work::new(z, work);
        recompute(s, z, x, start, frames, work.values);
        let (g, h) = d.state.split_at_mut(z.state());
        for (i, buffer) in frames.chunks_exact_mut(Frame::len(z)).enumerate().rev() {
            let (first, count) = (i * CHUNK, CHUNK.min(x.count - i * CHUNK));
            let frame = Frame::new(z, x.part(z.dims(), first, count), buffer);
            let (keys, values) = (first * z.dk..(first + count) * z.dk, first * z.dv..(first + count) * z.dv);
            let mut pass = Pass {
                f: &frame,
                w: &mut work,
                dy: &dy[values.clone()],
                dk: &mut d.k[keys.clone()],
                dv: &mut d.v[values],
                dq: &mut d.q[keys],
                g,
                h,
                start: (i == 0).then_some(start),
            };
            pass.run(s);
            let gates = [&*work.dretain, &*work.drate, &*work.dmomentum];
            for (place, gradient) in gate_places(z.form).into_iter().zip(gates) {
                if let Some(place) = place {
                    row::unpad_add(&gradient[..count], 1, &mut d.gates[place - 3][first..first + count], 1);
                }
            }
        }
    }
}

/// Fills a frame per chunk, from the state at the start of the first; `weighted` is space for a list of values.
#[inline(always)]
fn recompute<S: Simd>(s: S, z: Size, x: Tokens<'_>, start: &[f32], frames: &mut [f32], weighted: &mut [f32]) {
    let mut first = 0;
    let part = |first: usize| x.part(z.dims(), first, CHUNK.min(x.count - first));
    let mut frames = frames.chunks_exact_mut(Frame::len(z));
    let Some(buffer) = frames.next() else { return };
    let mut frame = Frame::new(z, part(0), buffer);
    tile::transpose(s, (z.dv, z.dk), start, z.dk, frame.w0, z.dv);
    if z.form.momentum {
        tile::transpose(s, (z.dv, z.dk), &start[z.state()..], z.dk, frame.s0, z.dv);
    }
    loop {
        frame.solve(s);
        first += CHUNK;
        let Some(buffer) = frames.next() else { return };
        let next = Frame::new(z, part(first), buffer);
        next.w0.copy_from_slice(frame.w0);
        next.s0.copy_from_slice(frame.s0);
        frame.advance(s, next.w0, next.s0, weighted);
        frame = next;
    }
}

/// Space that one chunk after the other uses.
struct Work<'a> {
    /// A matrix of the state or its gradient, transposed.
    turned: &'a mut [f32],
    /// Gradients of writes and predictions, `[CHUNK, dv]`, and a list of their kind.
    dc: &'a mut [f32],
    dp: &'a mut [f32],
    values: &'a mut [f32],
    /// Writes, transposed: `[dv, CHUNK]`.
    c_t: &'a mut [f32],
    /// `k_j . q_t`, `r[t, j] k_j . q_t`, and gradients of weights, `[CHUNK, CHUNK]`.
    qk: &'a mut [f32],
    weights: &'a mut [f32],
    dweights: &'a mut [f32],
    /// Gradients of the coefficients and of the gates.
    d: Coefficients<'a>,
    dretain: &'a mut [f32],
    drate: &'a mut [f32],
    dmomentum: &'a mut [f32],
}

impl<'a> Work<'a> {
    fn lens(z: Size) -> [usize; 16] {
        let (x, (_, v)) = (CHUNK * CHUNK, z.lists());
        let [a, m, n] = [SCALARS; 3];
        let [retain, rate, momentum] = [CHUNK; 3];
        [z.state(), v, v, v, v, x, x, x, x, z.if_momentum(x), a, m, n, retain, rate, momentum]
    }

    fn new(z: Size, buffer: &'a mut [f32]) -> Self {
        let [turned, dc, dp, values, c_t, qk, weights, dweights, r, s, a, m, n, dretain, drate, dmomentum] =
            cut(buffer, Self::lens(z));
        let d = Coefficients { r, s, a, m, n };
        Self { turned, dc, dp, values, c_t, qk, weights, dweights, d, dretain, drate, dmomentum }
    }
}

/// The backward pass of one chunk.
struct Pass<'a, 'f, 'w> {
    f: &'a Frame<'f>,
    w: &'a mut Work<'w>,
    /// Gradients of this chunk's reads and, added into, of its inputs.
    dy: &'a [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
    dq: &'a mut [f32],
    /// Gradients of `W` and `S`, `[dv, dk]`: in at the end of the chunk, out at its start.
    g: &'a mut [f32],
    h: &'a mut [f32],
    /// The state at the start of the chunk, `[dv, dk]`, where it is at hand.
    start: Option<&'a [f32]>,
}

impl Pass<'_, '_, '_> {
    #[inline(always)]
    fn run<S: Simd>(&mut self, s: S) {
        let (f, w) = (self.f, &mut *self.w);
        let (z, n) = (f.z, f.x.count);
        let d = &mut w.d;
        for sums in [&mut d.r[..n * CHUNK], &mut d.s[..z.if_momentum(n * CHUNK)], d.a, d.m, d.n, w.dretain, w.dmomentum]
        {
            sums.fill(0.0);
        }
        self.end_to_writes(s);
        self.reads_to_writes(s);
        if z.form.erase != Erase::Nothing {
            let m = Triangle { data: f.mix, stride: CHUNK, rows: n, width: z.dv };
            SolveTransposed { m, erase: f.erase, dc: self.w.dc, dp: self.w.dp }.run(s);
        }
        self.writes_to_inputs(s);
        transpose_list(s, &f.c[..n * z.dv], z.dv, self.w.c_t);
        self.reads_to_keys(s);
        if z.form.erase != Erase::Nothing {
            self.predictions_to_keys(s);
        }
        self.end_to_keys(s);
        self.start(s);
        let w = &mut *self.w;
        coefficients::backward(s, z.form, f.gates(), &f.coefficients, &mut w.d, (w.dretain, w.dmomentum));
    }

    /// What the end of the chunk asks of each write: `dc_j = r[C,j] g k_j + s[C,j] h k_j`.
    #[inline(always)]
    fn end_to_writes<S: Simd>(&mut self, s: S) {
        let (f, w) = (self.f, &mut *self.w);
        let (z, n) = (f.z, f.x.count);
        let last = (n - 1) * CHUNK..n * CHUNK;
        w.dc.fill(0.0);
        let of_w = (&f.coefficients.r, &*self.g, &mut w.d.r);
        let of_s = (&f.coefficients.s, &*self.h, &mut w.d.s);
        for (of, g, d) in [of_w, of_s].into_iter().take(z.matrices()) {
            tile::transpose(s, (z.dv, z.dk), g, z.dk, w.turned, z.dv);
            let (weights, gradient) = (&of[last.clone()], &mut d[last.clone()]);
            let into = Into::AddWeightedAndGradient { weights, with: f.c, gradient };
            tile::product(s, f.extent(z.dk, z.dv, Part::Full), Left::plain(f.x.k, z.dk), w.turned, w.dc, into);
        }
    }

    /// What the reads ask of each write: `dc_j += sum_{t>=j} r[t,j] (k_j . q_t) dy_t`.
    #[inline(always)]
    fn reads_to_writes<S: Simd>(&mut self, s: S) {
        let (f, w) = (self.f, &mut *self.w);
        let (z, n) = (f.z, f.x.count);
        let e = f.extent(z.dk, CHUNK, Part::LowerResult);
        tile::product(s, e, Left::plain(f.x.q, z.dk), f.k_t, w.qk, Into::Set);
        for at in (0..n).map(Frame::lower) {
            row::times(s, &f.coefficients.r[at.clone()], &w.qk[at.clone()], &mut w.weights[at]);
        }
        let e = f.extent(n, z.dv, Part::UpperLeft);
        tile::product(s, e, Left::transposed(w.weights, CHUNK), self.dy, w.dc, Into::Add);
    }

    /// `c = rate (v - erase p)`.
    #[inline(always)]
    fn writes_to_inputs<S: Simd>(&mut self, s: S) {
        let (f, w) = (self.f, &mut *self.w);
        for t in 0..f.x.count {
            let at = t * f.z.dv..(t + 1) * f.z.dv;
            let (dc, rate) = (&w.dc[at.clone()], f.x.rate[t]);
            row::add_scaled(s, rate, dc, &mut self.dv[at.clone()]);
            w.drate[t] = row::dot(s, dc, &f.x.v[at.clone()]);
            match f.z.form.erase {
                Erase::Nothing => {}
                Erase::Previous => w.drate[t] -= row::dot(s, dc, &f.p[at]),
                Erase::Decayed => {
                    let dc_p = row::dot(s, dc, &f.p[at]);
                    w.drate[t] -= f.retain[t] * dc_p;
                    w.dretain[t] -= rate * dc_p;
                }
            }
        }
    }

    /// The reads among the tokens of the chunk: `dq`, `dk`, and the coefficients.
    #[inline(always)]
    fn reads_to_keys<S: Simd>(&mut self, s: S) {
        let (f, w) = (self.f, &mut *self.w);
        let (z, n) = (f.z, f.x.count);
        let e = f.extent(z.dv, CHUNK, Part::LowerResult);
        tile::product(s, e, Left::plain(self.dy, z.dv), w.c_t, w.dweights, Into::Set);
        for at in (0..n).map(Frame::lower) {
            row::add_times(s, &w.dweights[at.clone()], &w.qk[at.clone()], &mut w.d.r[at.clone()]);
            row::scale_each(s, &f.coefficients.r[at.clone()], &mut w.dweights[at]);
        }
        let e = f.extent(n, z.dk, Part::LowerLeft);
        tile::product(s, e, Left::plain(w.dweights, CHUNK), f.x.k, self.dq, Into::Add);
        let e = Extent { part: Part::UpperLeft, ..e };
        tile::product(s, e, Left::transposed(w.dweights, CHUNK), f.x.q, self.dk, Into::Add);
    }

    /// The predictions among the tokens of the chunk: `dk`, and the coefficients.
    #[inline(always)]
    fn predictions_to_keys<S: Simd>(&mut self, s: S) {
        let (f, w) = (self.f, &mut *self.w);
        let (z, n) = (f.z, f.x.count);
        let e = f.extent(z.dv, CHUNK, Part::LowerResult);
        tile::product(s, e, Left::plain(w.dp, z.dv), w.c_t, w.dweights, Into::Set);
        w.dweights[..CHUNK].fill(0.0);
        for t in 1..n {
            let at = Frame::lower(t);
            let before = (t - 1) * CHUNK..(t - 1) * CHUNK + at.len();
            row::add_times(s, &w.dweights[at.clone()], &f.kk[at.clone()], &mut w.d.r[before.clone()]);
            row::scale_each(s, &f.coefficients.r[before], &mut w.dweights[at]);
        }
        let e = f.extent(n, z.dk, Part::LowerLeft);
        tile::product(s, e, Left::plain(w.dweights, CHUNK), f.x.k, self.dk, Into::Add);
        let e = Extent { part: Part::UpperLeft, ..e };
        tile::product(s, e, Left::transposed(w.dweights, CHUNK), f.x.k, self.dk, Into::Add);
    }

    /// What the end of the chunk asks of each key: `dk_j += r[C,j] g' c_j + s[C,j] h' c_j`.
    #[inline(always)]
    fn end_to_keys<S: Simd>(&mut self, s: S) {
        let (f, z, n) = (self.f, self.f.z, self.f.x.count);
        let ends = [(&f.coefficients.r, &*self.g), (&f.coefficients.s, &*self.h)];
        for (weights, g) in ends.into_iter().take(z.matrices()) {
            let into = Into::AddWeighted(&weights[(n - 1) * CHUNK..n * CHUNK]);
            tile::product(s, f.extent(z.dv, z.dk, Part::Full), Left::plain(f.c, z.dv), g, self.dk, into);
        }
    }

    /// All that reaches back to the start of the chunk: `dq`, `dk`, the scalar coefficients, and the gradients of
    /// the state, which move from the end to the start.
    #[inline(always)]
    fn start<S: Simd>(&mut self, s: S) {
        let (f, z, n) = (self.f, self.f.z, self.f.x.count);
        let at_hand = self.start.map(|start| start.split_at(z.state()));
        let (w, d) = (&mut *self.w, &f.coefficients);

        let w0 = natural(s, z, at_hand.map(|start| start.0), f.w0, w.turned);
        w.d.a[n] += row::dot(s, self.g, w0);
        let lists = Lists { dy: self.dy, dp: w.dp, dq: self.dq, dk: self.dk };
        from_start(s, f, w0, d.a, w.d.a, lists);
        if z.form.momentum {
            let s0 = natural(s, z, at_hand.map(|start| start.1), f.s0, w.turned);
            w.d.m[n] += row::dot(s, self.g, s0);
            w.d.n[n] += row::dot(s, self.h, s0);
            let lists = Lists { dy: self.dy, dp: w.dp, dq: self.dq, dk: self.dk };
            from_start(s, f, s0, d.m, w.d.m, lists);
            row::scale(s, d.n[n], self.h);
            row::add_scaled(s, d.m[n], self.g, self.h);
            to_start(s, f, d.m, self.dy, w.dp, w.values, self.h);
        }
        row::scale(s, d.a[n], self.g);
        to_start(s, f, d.a, self.dy, w.dp, w.values, self.g);
    }
}

/// A matrix of the state as `[dv, dk]`: what is at hand, or turned from its transpose.
#[inline(always)]
fn natural<'a, S: Simd>(s: S, z: Size, at_hand: Option<&'a [f32]>, from: &[f32], turned: &'a mut [f32]) -> &'a [f32] {
    at_hand.unwrap_or_else(|| {
        tile::transpose(s, (z.dk, z.dv), from, z.dv, turned, z.dk);
        turned
    })
}

/// Gradients of reads and predictions, and those of queries and keys that follow from them.
struct Lists<'a> {
    dy: &'a [f32],
    dp: &'a [f32],
    dq: &'a mut [f32],
    dk: &'a mut [f32],
}

/// `dq_t += by_t M' dy_t` and `dk_t += by_{t-1} M' dp_t` for a matrix `M [dv, dk]` of the state, with the gradient of
/// `by`.
#[inline(always)]
fn from_start<S: Simd>(s: S, f: &Frame<'_>, matrix: &[f32], by: &[f32], dby: &mut [f32], lists: Lists<'_>) {
    let (z, e) = (f.z, f.extent(f.z.dv, f.z.dk, Part::Full));
    let into = Into::AddWeightedAndGradient { weights: &by[1..], with: f.x.q, gradient: &mut dby[1..] };
    tile::product(s, e, Left::plain(lists.dy, z.dv), matrix, lists.dq, into);
    if z.form.erase != Erase::Nothing {
        let into = Into::AddWeightedAndGradient { weights: by, with: f.x.k, gradient: dby };
        tile::product(s, e, Left::plain(lists.dp, z.dv), matrix, lists.dk, into);
    }
}

/// `M += sum_t by_t dy_t q_t' + by_{t-1} dp_t k_t'` for the gradient `M [dv, dk]` of a matrix of the state; `weighted`
/// is space for a list of values.
#[inline(always)]
fn to_start<S: Simd>(
    s: S,
    f: &Frame<'_>,
    by: &[f32],
    dy: &[f32],
    dp: &[f32],
    weighted: &mut [f32],
    matrix: &mut [f32],
) {
    let z = f.z;
    let e = Extent { rows: z.dv, inner: f.x.count, columns: z.dk, part: Part::Full };
    scale_rows(s, &by[1..], dy, weighted, z.dv);
    tile::product(s, e, Left::transposed(weighted, z.dv), f.x.q, matrix, Into::Add);
    if z.form.erase != Erase::Nothing {
        scale_rows(s, by, &dp[..f.x.count * z.dv], weighted, z.dv);
        tile::product(s, e, Left::transposed(weighted, z.dv), f.x.k, matrix, Into::Add);
    }
}
