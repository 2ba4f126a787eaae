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

use super::ahead::Ahead;
use super::chunk::{Frame, Size, State, cut, scale_rows, turn};
use super::coefficients;
use super::solve::{SolveTransposed, Triangle};
use super::tile::{self, Extent, Into, Left, Part};
use super::{Erase, RankOne, Tokens, gate_places, row};
use crate::kernel::{Cotangents, Scratch, Sequence};
use crate::rule::Dims;
use crate::scan::CHECKPOINT_TOKENS;
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
        isa.run(Backward { z, x, start, dy, d, work, has_earlier: seq.pos > 0 });
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
    isa.run(Backward { z, x, start: wide_start, dy: wide_dy, d: wide, work, has_earlier: false });
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
    /// Whether there were tokens before these. If so a scan comes to them next, and what they need lies right before
    /// what these need.
    has_earlier: bool,
}

impl Backward<'_, '_> {
    /// Frames, the states between them, and work.
    fn lens(z: Size, tokens: usize) -> [usize; 3] {
        let chunks = tokens.div_ceil(z.chunk);
        [chunks * Frame::len(z), chunks.saturating_sub(1) * z.matrices() * z.state(), Work::lens(z).iter().sum()]
    }
    fn len(z: Size, tokens: usize) -> usize {
        Self::lens(z, tokens).iter().sum()
    }
}

impl Vectorized for Backward<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { z, x, start, dy, d, work, has_earlier } = self;
        let [frames, states, work] = cut(work, Self::lens(z, x.count));
        let mut work = Work::new(z, work);
        recompute(s, z, x, start, frames, states, work.turned);
        let (g, h) = d.state.split_at_mut(z.state());
        for (i, buffer) in frames.chunks_exact_mut(Frame::len(z)).enumerate().rev() {
            let (first, count) = (i * z.chunk, z.chunk.min(x.count - i * z.chunk));
            let state = if i == 0 { start } else { &states[(i - 1) * start.len()..i * start.len()] };
            let frame = Frame::new(z, x.part(z.dims(), first, count), State::new(z, state), buffer);
            let (keys, values) = (first * z.dk..(first + count) * z.dk, first * z.dv..(first + count) * z.dv);
            let (dy, dk, dv, dq) = (&dy[values.clone()], &mut d.k[keys.clone()], &mut d.v[values], &mut d.q[keys]);
            let share = start.len() / x.count.div_ceil(z.chunk);
            let ahead = if has_earlier {
                let (of_keys, of_values) = (CHECKPOINT_TOKENS * z.dk, CHECKPOINT_TOKENS * z.dv);
                let keys = [frame.x.k, frame.x.q, dk, dq].map(|list| (list, of_keys));
                let values = [frame.x.v, dy, dv].map(|list| (list, of_values));
                let state = (&start[i * share..(i + 1) * share], start.len());
                let ([k, q, dk, dq], [v, dy, dv]) = (keys, values);
                Ahead::before([q, dy, k, dv, v, dk, dq, state], parts(z))
            } else {
                Ahead::nothing()
            };
            Pass { f: &frame, w: &mut work, dy, dk, dv, dq, g, h, ahead }.run(s);
            let gates = [&*work.dretain, &*work.drate, &*work.dmomentum];
            for (place, gradient) in gate_places(z.form).into_iter().zip(gates) {
                if let Some(place) = place {
                    row::unpad_add(&gradient[..count], 1, &mut d.gates[place - 3][first..first + count], 1);
                }
            }
        }
    }
}

/// Fills a frame per chunk, and the states between them, from the state at the start of the first; `values` is space
/// for a list of values.
#[inline(always)]
fn recompute<'a, S: Simd>(
    s: S,
    z: Size,
    x: Tokens<'_>,
    start: &'a [f32],
    frames: &mut [f32],
    states: &'a mut [f32],
    values: &mut [f32],
) {
    let (mut state, mut states) = (start, states);
    for (i, buffer) in frames.chunks_exact_mut(Frame::len(z)).enumerate() {
        let first = i * z.chunk;
        let x = x.part(z.dims(), first, z.chunk.min(x.count - first));
        let mut frame = Frame::new(z, x, State::new(z, state), buffer);
        frame.solve(s, values);
        if states.is_empty() {
            return;
        }
        let (next, behind) = std::mem::take(&mut states).split_at_mut(start.len());
        let (w, m) = next.split_at_mut(z.state());
        frame.end(s, w, m, values);
        (state, states) = (next, behind);
    }
}

/// Space that one chunk after the other uses.
struct Work<'a> {
    /// Gradients of writes and predictions, `[chunk, dv]`, and a list of their kind or its transpose.
    dc: &'a mut [f32],
    dp: &'a mut [f32],
    turned: &'a mut [f32],
    /// Writes, transposed: `[dv, chunk]`, zero behind the last token.
    c_t: &'a mut [f32],
    /// `k_j . q_t`, `r[t, j] k_j . q_t`, and gradients of weights, `[chunk, chunk]`.
    qk: &'a mut [f32],
    weights: &'a mut [f32],
    dweights: &'a mut [f32],
    /// Gradients of the coefficients and of the gates.
    d: coefficients::Gradients<'a>,
    dretain: &'a mut [f32],
    drate: &'a mut [f32],
    dmomentum: &'a mut [f32],
}

impl<'a> Work<'a> {
    fn lens(z: Size) -> [usize; 16] {
        let (x, (_, v)) = (z.square(), z.lists());
        let [r, s, a, m, n, retain, rate, momentum] = [z.scalars(); 8];
        [v, v, v, v, x, x, x, x, r, s, a, m, n, retain, rate, momentum]
    }

    fn new(z: Size, buffer: &'a mut [f32]) -> Self {
        let [dc, dp, turned, c_t, qk, weights, dweights, r, end_r, end_s, a, m, n, dretain, drate, dmomentum] =
            cut(buffer, Self::lens(z));
        let d = coefficients::Gradients { r, end_r, end_s, a, m, n };
        Self { dc, dp, turned, c_t, qk, weights, dweights, d, dretain, drate, dmomentum }
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
    /// What the call for the tokens before these will need.
    ahead: Ahead<8>,
}

/// How often a pass asks [`Pass::ahead`] for a part.
fn parts(z: Size) -> usize {
    6 + 4 * z.matrices()
}

impl Pass<'_, '_, '_> {
    #[inline(always)]
    fn run<S: Simd>(&mut self, s: S) {
        let (f, w) = (self.f, &mut *self.w);
        let (z, n) = (f.z, f.x.count);
        let d = &mut w.d;
        for sums in [&mut *d.end_r, d.end_s, d.a, d.m, d.n, w.dretain, w.dmomentum] {
            sums.fill(0.0);
        }
        turn(s, &f.c[..n * z.dv], z.dv, self.w.c_t, z.chunk);
        self.end_to_writes(s);
        self.ahead.ask(s);
        self.reads_to_writes(s);
        self.ahead.ask(s);
        if z.form.erase != Erase::Nothing {
            let m = Triangle { data: f.mix, stride: z.chunk, rows: n, width: z.dv };
            SolveTransposed { m, erase: f.erase, dc: self.w.dc, dp: self.w.dp }.run(s);
        }
        self.writes_to_inputs(s);
        self.ahead.ask(s);
        self.reads_to_keys(s);
        self.ahead.ask(s);
        if z.form.erase != Erase::Nothing {
            self.predictions_to_keys(s);
        }
        self.ahead.ask(s);
        self.end_to_keys(s);
        self.ahead.ask(s);
        self.start(s);
        let w = &mut *self.w;
        coefficients::backward(s, z.form, f.gates(), &f.coefficients, &mut w.d, (w.dretain, w.dmomentum));
    }

    /// What the end of the chunk asks of each write: `dc_j = r[C,j] g k_j + s[C,j] h k_j`.
    #[inline(always)]
    fn end_to_writes<S: Simd>(&mut self, s: S) {
        let (f, w) = (self.f, &mut *self.w);
        let (z, n) = (f.z, f.x.count);
        w.turned.fill(0.0);
        let of_w = (&f.coefficients.r, &*self.g, &mut *w.d.end_r);
        let of_s = (&f.coefficients.s, &*self.h, &mut *w.d.end_s);
        for (of, g, gradient) in [of_w, of_s].into_iter().take(z.matrices()) {
            let into = Into::AddByColumnAndGradient { weights: &of[z.last(n)], with: w.c_t, gradient };
            tile::product(s, f.turned(), Left::plain(g, z.dk), f.k_t, w.turned, into);
        }
        tile::transpose(s, (z.dv, z.chunk), w.turned, z.chunk, w.dc, z.dv);
    }

    /// What the reads ask of each write: `dc_j += sum_{t>=j} r[t,j] (k_j . q_t) dy_t`.
    #[inline(always)]
    fn reads_to_writes<S: Simd>(&mut self, s: S) {
        let (f, w) = (self.f, &mut *self.w);
        let (z, n) = (f.z, f.x.count);
        let e = f.extent(z.dk, z.chunk, Part::LowerResult);
        tile::product(s, e, Left::plain(f.x.q, z.dk), f.k_t, w.qk, Into::Set);
        for at in z.lower(0..n) {
            row::times(s, &f.coefficients.r[at.clone()], &w.qk[at.clone()], &mut w.weights[at]);
        }
        let e = f.extent(n, z.dv, Part::UpperLeft);
        tile::product(s, e, Left::transposed(w.weights, z.chunk), self.dy, w.dc, Into::Add);
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
        let e = f.extent(z.dv, z.chunk, Part::LowerResult);
        tile::product(s, e, Left::plain(self.dy, z.dv), w.c_t, w.dweights, Into::Set);
        for at in z.lower(0..n) {
            let (r, qk, dr) = (&f.coefficients.r[at.clone()], &w.qk[at.clone()], &mut w.d.r[at.clone()]);
            row::times_backward(s, r, qk, false, dr, &mut w.dweights[at]);
        }
        let e = f.extent(n, z.dk, Part::LowerLeft);
        tile::product(s, e, Left::plain(w.dweights, z.chunk), f.x.k, self.dq, Into::Add);
        let e = Extent { part: Part::UpperLeft, ..e };
        tile::product(s, e, Left::transposed(w.dweights, z.chunk), f.x.q, self.dk, Into::Add);
    }

    /// The predictions among the tokens of the chunk: `dk`, and the coefficients.
    #[inline(always)]
    fn predictions_to_keys<S: Simd>(&mut self, s: S) {
        let (f, w) = (self.f, &mut *self.w);
        let (z, n) = (f.z, f.x.count);
        let e = f.extent(z.dv, z.chunk, Part::LowerResult);
        tile::product(s, e, Left::plain(w.dp, z.dv), w.c_t, w.dweights, Into::Set);
        w.dweights[..z.chunk].fill(0.0);
        for at in z.lower(1..n) {
            let before = at.start - z.chunk..at.end - z.chunk;
            let (r, kk, dr) = (&f.coefficients.r[before.clone()], &f.kk[at.clone()], &mut w.d.r[before]);
            row::times_backward(s, r, kk, true, dr, &mut w.dweights[at]);
        }
        let e = f.extent(n, z.dk, Part::LowerLeft);
        tile::product(s, e, Left::plain(w.dweights, z.chunk), f.x.k, self.dk, Into::Add);
        let e = Extent { part: Part::UpperLeft, ..e };
        tile::product(s, e, Left::transposed(w.dweights, z.chunk), f.x.k, self.dk, Into::Add);
    }

    /// What the end of the chunk asks of each key: `dk_j += r[C,j] g' c_j + s[C,j] h' c_j`.
    #[inline(always)]
    fn end_to_keys<S: Simd>(&mut self, s: S) {
        let (f, z, n) = (self.f, self.f.z, self.f.x.count);
        let ends = [(&f.coefficients.r, &*self.g), (&f.coefficients.s, &*self.h)];
        for (weights, g) in ends.into_iter().take(z.matrices()) {
            let into = Into::AddByRow(&weights[z.last(n)]);
            tile::product(s, f.extent(z.dv, z.dk, Part::Full), Left::plain(f.c, z.dv), g, self.dk, into);
        }
    }

    /// All that reaches back to the start of the chunk: `dq`, `dk`, the scalar coefficients, and the gradients of
    /// the state, which move from the end to the start.
    #[inline(always)]
    fn start<S: Simd>(&mut self, s: S) {
        let (f, z, n) = (self.f, self.f.z, self.f.x.count);
        let (w, d, start) = (&mut *self.w, &f.coefficients, f.start);
        let (dy, dp, dq, dk) = (self.dy, &*w.dp, &mut *self.dq, &mut *self.dk);
        let mut lists = Lists { dy, dp, dq, dk, weighted: w.turned, ahead: &mut self.ahead };
        from_start(s, f, start.w, d.a, w.d.a, &mut lists);
        if z.form.momentum {
            from_start(s, f, start.s, d.m, w.d.m, &mut lists);
            let (other, mut dots) = (Some((d.m[n], &*self.g)), [0.0; 2]);
            let carry = Into::Carry { keep: d.n[n], other, with: start.s, dots: &mut dots };
            to_start(s, f, self.h, d.m, &mut lists, carry);
            w.d.n[n] += dots[0];
            w.d.m[n] += dots[1];
        }
        let mut dots = [0.0; 2];
        let carry = Into::Carry { keep: d.a[n], other: None, with: start.w, dots: &mut dots };
        to_start(s, f, self.g, d.a, &mut lists, carry);
        w.d.a[n] += dots[0];
    }
}

/// Gradients of reads and predictions, and those of queries and keys that follow from them.
struct Lists<'a> {
    dy: &'a [f32],
    dp: &'a [f32],
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    /// Space for a list of values.
    weighted: &'a mut [f32],
    /// As in [`Pass`].
    ahead: &'a mut Ahead<8>,
}

/// `dq_t += by_t M' dy_t` and `dk_t += by_{t-1} M' dp_t` for a matrix `M [dv, dk]` of the state, with the gradient of
/// `by`.
#[inline(always)]
fn from_start<S: Simd>(s: S, f: &Frame<'_>, matrix: &[f32], by: &[f32], dby: &mut [f32], lists: &mut Lists<'_>) {
    let (z, e) = (f.z, f.extent(f.z.dv, f.z.dk, Part::Full));
    let into = Into::AddByRowAndGradient { weights: &by[1..], with: f.x.q, gradient: &mut dby[1..] };
    tile::product(s, e, Left::plain(lists.dy, z.dv), matrix, lists.dq, into);
    lists.ahead.ask(s);
    if z.form.erase != Erase::Nothing {
        let into = Into::AddByRowAndGradient { weights: by, with: f.x.k, gradient: dby };
        tile::product(s, e, Left::plain(lists.dp, z.dv), matrix, lists.dk, into);
    }
    lists.ahead.ask(s);
}

/// `M += sum_t by_t dy_t q_t' + by_{t-1} dp_t k_t'` for the gradient `M [dv, dk]` of a matrix of the state, after what
/// `carry` does to it.
#[inline(always)]
fn to_start<S: Simd>(s: S, f: &Frame<'_>, matrix: &mut [f32], by: &[f32], lists: &mut Lists<'_>, carry: Into<'_>) {
    let (z, n) = (f.z, f.x.count);
    let e = Extent { rows: z.dv, inner: n, columns: z.dk, part: Part::Full };
    scale_rows(s, &by[1..], lists.dy, lists.weighted, z.dv);
    tile::product(s, e, Left::transposed(lists.weighted, z.dv), f.x.q, matrix, carry);
    lists.ahead.ask(s);
    if z.form.erase != Erase::Nothing {
        scale_rows(s, by, &lists.dp[..n * z.dv], lists.weighted, z.dv);
        tile::product(s, e, Left::transposed(lists.weighted, z.dv), f.x.k, matrix, Into::Add);
    }
    lists.ahead.ask(s);
}
