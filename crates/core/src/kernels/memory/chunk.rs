//! The chunk form: the predictions of many tokens at once, by one unit lower triangular solve.
//!
//! With the coefficients of [`super::coefficients`] and `W_0`, `S_0` the state at the start of the chunk,
//!
//! ```text
//! p_t = a_{t-1} W_0 k_t + m_{t-1} S_0 k_t + sum_{j<t} r[t-1,j] (k_j . k_t) c_j
//! c_t = rate_t (v_t - erase_t p_t)
//! y_t = a_t W_0 q_t + m_t S_0 q_t + sum_{j<=t} r[t,j] (k_j . q_t) c_j
//! ```
//!
//! is the rule itself, summed in another order: exact for every gate, 0 and 1 included. Matrices over tokens hold
//! one token a row; states are `[dv, dk]`, and lists that a state is multiplied with are turned, not the state.

use super::coefficients::{Coefficients, Gates};
use super::solve::{Solve, Triangle};
use super::tile::{self, Extent, Into, Left, Part};
use super::{Erase, Form, RankOne, Tokens, padded, row};
use crate::kernel::{Scratch, Sequence};
use crate::rule::Dims;
use crate::scan::CHECKPOINT_TOKENS;
use crate::simd::{Simd, Vectorized};
use std::ops::Range;

/// The most tokens of a chunk.
pub(super) const MOST: usize = 32;

// States are kept between chunks.
const _: () = assert!(CHECKPOINT_TOKENS.is_multiple_of(MOST));

/// Gates that a rule does not have.
static ONES: [f32; MOST] = [1.0; MOST];

/// See [`crate::Kernel::forward`].
pub(super) fn forward<R: RankOne>(
    _rule: &R,
    d: Dims,
    seq: Sequence<'_, f32>,
    state: &mut [f32],
    y: &mut [f32],
    saved: Option<&mut [f32]>,
    scratch: &mut Scratch,
) {
    let (x, z, isa) = (Tokens::new(R::FORM, d, seq), Size::new(R::FORM, d), scratch.isa());
    assert!(y.len() == x.count * d.dv && state.len() == z.matrices() * d.dk * d.dv);
    if z.is_exact(d) {
        let [work] = scratch.take([Forward::len(z)]);
        isa.run(Forward { z, d, x, state, y, saved, work });
        return;
    }
    let (keys, values) = (x.count * z.dk, x.count * z.dv);
    let [k, v, q, wide_y, wide_state, work] =
        scratch.take([keys, values, keys, values, z.matrices() * z.state(), Forward::len(z)]);
    let wide = z.widen(d, x, [k, v, q]);
    z.widen_state(d, state, wide_state);
    isa.run(Forward { z, d, x: wide, state: wide_state, y: wide_y, saved, work });
    z.narrow_state(d, wide_state, state);
    row::unpad(wide_y, z.dv, y, d.dv);
}

/// Sizes of a head, with rows of keys and of values padded to whole vectors.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) dk: usize,
    pub(super) dv: usize,
    /// Tokens of a chunk: products of the tokens among themselves grow with it, updates of the state shrink. The
    /// longer chunk was measured to pay off where the state is two large matrices.
    pub(super) chunk: usize,
    pub(super) form: Form,
}

impl Size {
    pub(super) fn new(form: Form, d: Dims) -> Self {
        let (dk, dv) = (padded(d.dk), padded(d.dv));
        let chunk = if form.momentum && dk.max(dv) > MOST { MOST } else { MOST / 2 };
        Self { dk, dv, chunk, form }
    }
    /// Whether nothing needs padding.
    pub(super) fn is_exact(self, d: Dims) -> bool {
        self.dims() == d
    }
    pub(super) fn dims(self) -> Dims {
        Dims::new(self.dk, self.dv)
    }
    /// `n` if the rule has momentum, else nothing.
    pub(super) fn if_momentum(self, n: usize) -> usize {
        if self.form.momentum { n } else { 0 }
    }
    /// Matrices of the state.
    pub(super) fn matrices(self) -> usize {
        1 + self.if_momentum(1)
    }
    /// Values of a matrix of the state.
    pub(super) fn state(self) -> usize {
        self.dk * self.dv
    }
    /// Values of a list over a chunk: of keys, of values.
    pub(super) fn lists(self) -> (usize, usize) {
        (self.chunk * self.dk, self.chunk * self.dv)
    }
    /// Values of a matrix with a row and a column per token.
    pub(super) fn square(self) -> usize {
        self.chunk * self.chunk
    }
    /// Values of a list with one entry before the first token and one behind each.
    pub(super) fn scalars(self) -> usize {
        self.chunk + super::PAD
    }
    /// The last row of a square for a chunk of `count` tokens.
    pub(super) fn last(self, count: usize) -> Range<usize> {
        (count - 1) * self.chunk..count * self.chunk
    }

    /// Pieces of a square that together cover these rows on and below the diagonal: rows as far as the block that holds
    /// the diagonal reaches, or all in one where a chunk is a block.
    pub(super) fn lower(self, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let (chunk, end) = (self.chunk, rows.end);
        let step = if chunk == super::PAD { rows.len().max(1) } else { 1 };
        rows.step_by(step)
            .map(move |t| if step == 1 { t * chunk..t * chunk + padded(t + 1) } else { t * chunk..end * chunk })
    }

    /// The inputs with padded rows.
    pub(super) fn widen<'a>(self, d: Dims, x: Tokens<'a>, [k, v, q]: [&'a mut [f32]; 3]) -> Tokens<'a> {
        row::pad(x.k, d.dk, k, self.dk);
        row::pad(x.v, d.dv, v, self.dv);
        row::pad(x.q, d.dk, q, self.dk);
        Tokens { k, v, q, ..x }
    }
    /// The state with padded rows, and padding rows behind each matrix.
    pub(super) fn widen_state(self, d: Dims, state: &[f32], wide: &mut [f32]) {
        for (wide, state) in wide.chunks_exact_mut(self.state()).zip(state.chunks_exact(d.dk * d.dv)) {
            row::pad(state, d.dk, wide, self.dk);
        }
    }
    /// Transpose of [`Size::widen_state`].
    pub(super) fn narrow_state(self, d: Dims, wide: &[f32], state: &mut [f32]) {
        for (wide, state) in wide.chunks_exact(self.state()).zip(state.chunks_exact_mut(d.dk * d.dv)) {
            row::unpad(wide, self.dk, state, d.dk);
        }
    }
}

/// Cuts pieces off a buffer.
pub(super) fn cut<const N: usize>(mut rest: &mut [f32], lens: [usize; N]) -> [&mut [f32]; N] {
    lens.map(|n| {
        let (head, tail) = std::mem::take(&mut rest).split_at_mut(n);
        rest = tail;
        head
    })
}

/// A state: `W`, and `S` or nothing.
#[derive(Clone, Copy)]
pub(super) struct State<'a> {
    pub(super) w: &'a [f32],
    pub(super) s: &'a [f32],
}

impl<'a> State<'a> {
    pub(super) fn new(z: Size, data: &'a [f32]) -> Self {
        let (w, s) = data.split_at(z.state());
        Self { w, s }
    }
}

/// One chunk, with everything that its backward pass needs again.
pub(super) struct Frame<'a> {
    pub(super) z: Size,
    /// The inputs of this chunk, with padded rows, and its gates, 1 where the rule has none.
    pub(super) x: Tokens<'a>,
    pub(super) retain: &'a [f32],
    pub(super) momentum: &'a [f32],
    /// State at the start.
    pub(super) start: State<'a>,
    /// `rate` times what is erased.
    pub(super) erase: &'a mut [f32],
    /// Keys, transposed: `[dk, chunk]`, zero behind the last token.
    pub(super) k_t: &'a mut [f32],
    /// Predictions and writes, `[chunk, dv]`.
    pub(super) p: &'a mut [f32],
    pub(super) c: &'a mut [f32],
    /// `k_t . k_j`, `[chunk, chunk]`, in the lower triangle.
    pub(super) kk: &'a mut [f32],
    /// `r[t-1, j] k_t . k_j`, `[chunk, chunk]`: what write `j` adds to prediction `t`.
    pub(super) mix: &'a mut [f32],
    pub(super) coefficients: Coefficients<'a>,
}

impl<'a> Frame<'a> {
    fn lens(z: Size) -> [usize; 11] {
        let (square, (keys, values)) = (z.square(), z.lists());
        let [a, m, n] = [z.scalars(); 3];
        [padded(z.chunk), keys, values, values, square, square, square, z.if_momentum(square), a, m, n]
    }

    /// Values of its buffer.
    pub(super) fn len(z: Size) -> usize {
        Self::lens(z).iter().sum()
    }

    /// A frame in `buffer` for a chunk with the inputs `x` that begins with the state `start`; what the buffer holds
    /// is kept.
    pub(super) fn new(z: Size, x: Tokens<'a>, start: State<'a>, buffer: &'a mut [f32]) -> Self {
        let [erase, k_t, p, c, kk, mix, r, s, a, m, n] = cut(buffer, Self::lens(z));
        let gate = |gate: &'a [f32]| if gate.is_empty() { &ONES[..x.count] } else { gate };
        let (retain, momentum) = (gate(x.retain), gate(x.momentum));
        let coefficients = Coefficients { r, s, a, m, n };
        Self { z, x, retain, momentum, start, erase, k_t, p, c, kk, mix, coefficients }
    }

    pub(super) fn gates(&self) -> Gates<'a> {
        Gates { retain: self.retain, momentum: self.momentum, count: self.x.count, chunk: self.z.chunk }
    }

    /// A product with a row per token.
    pub(super) fn extent(&self, inner: usize, columns: usize, part: Part) -> Extent {
        Extent { rows: self.x.count, inner, columns, part }
    }

    /// A product of a matrix of the state with turned keys or queries: a column per token.
    pub(super) fn turned(&self) -> Extent {
        Extent { rows: self.z.dv, inner: self.z.dk, columns: self.z.chunk, part: Part::Full }
    }

    /// Finds coefficients, predictions and writes; `turned` is space for a list of values.
    #[inline(always)]
    pub(super) fn solve<S: Simd>(&mut self, s: S, turned: &mut [f32]) {
        let (z, x, n) = (self.z, self.x, self.x.count);
        let gates = self.gates();
        self.coefficients.fill(s, z.form, gates);
        turn(s, x.k, z.dk, self.k_t, z.chunk);
        if z.form.erase == Erase::Nothing {
            for ((c, v), &rate) in self.c.chunks_exact_mut(z.dv).zip(x.v.chunks_exact(z.dv)).zip(x.rate) {
                row::scaled(s, rate, v, c);
            }
            return;
        }
        self.erase[..n].copy_from_slice(x.rate);
        if z.form.erase == Erase::Decayed {
            self.erase.iter_mut().zip(x.retain).for_each(|(erase, retain)| *erase *= retain);
        }
        let e = self.extent(z.dk, z.chunk, Part::LowerResult);
        tile::product(s, e, Left::plain(x.k, z.dk), self.k_t, self.kk, Into::Set);
        self.mix[..z.chunk].fill(0.0);
        for at in z.lower(1..n) {
            let r = &self.coefficients.r[at.start - z.chunk..at.end - z.chunk];
            row::times(s, r, &self.kk[at.clone()], &mut self.mix[at]);
        }
        self.read_start(s, 0, self.k_t, turned);
        tile::transpose(s, (z.dv, z.chunk), turned, z.chunk, self.p, z.dv);
        let m = Triangle { data: self.mix, stride: z.chunk, rows: n, width: z.dv };
        Solve { m, rate: x.rate, erase: self.erase, v: x.v, p: self.p, c: self.c }.run(s);
    }

    /// `out_t = a W_0 x_t + m S_0 x_t` with the coefficients after token `t - 1 + shift`, for the list `x [dk, chunk]`
    /// into `out [dv, chunk]`.
    #[inline(always)]
    fn read_start<S: Simd>(&self, s: S, shift: usize, x: &[f32], out: &mut [f32]) {
        let (z, f) = (self.z, &self.coefficients);
        out.fill(0.0);
        for (matrix, by) in [(self.start.w, &f.a), (self.start.s, &f.m)].into_iter().take(z.matrices()) {
            let into = Into::AddByColumn(&by[shift..]);
            tile::product(s, self.turned(), Left::plain(matrix, z.dk), x, out, into);
        }
    }

    /// The reads: `y [count, dv]`.
    #[inline(always)]
    fn read<S: Simd>(&self, s: S, y: &mut [f32], w: &mut Reading<'_>) {
        let (z, x, n) = (self.z, self.x, self.x.count);
        turn(s, x.q, z.dk, w.q_t, z.chunk);
        self.read_start(s, 1, w.q_t, w.turned);
        tile::transpose(s, (z.dv, n), w.turned, z.chunk, y, z.dv);
        let e = self.extent(z.dk, z.chunk, Part::LowerResult);
        tile::product(s, e, Left::plain(x.q, z.dk), self.k_t, w.qk, Into::Set);
        for at in z.lower(0..n) {
            row::scale_each(s, &self.coefficients.r[at.clone()], &mut w.qk[at]);
        }
        let e = self.extent(n, z.dv, Part::LowerLeft);
        tile::product(s, e, Left::plain(w.qk, z.chunk), self.c, y, Into::Add);
    }

    /// The state at the end of the chunk; `weighted` is space for a list of values.
    #[inline(always)]
    pub(super) fn end<S: Simd>(&self, s: S, w: &mut [f32], m: &mut [f32], weighted: &mut [f32]) {
        let (z, f, n) = (self.z, &self.coefficients, self.x.count);
        let e = Extent { rows: z.dv, inner: n, columns: z.dk, part: Part::Full };
        if z.form.momentum {
            row::combine(s, f.a[n], self.start.w, f.m[n], self.start.s, w);
            row::scaled(s, f.n[n], self.start.s, m);
            scale_rows(s, &f.s[z.last(n)], self.c, weighted, z.dv);
            tile::product(s, e, Left::transposed(weighted, z.dv), self.x.k, m, Into::Add);
        } else {
            row::scaled(s, f.a[n], self.start.w, w);
        }
        scale_rows(s, &f.r[z.last(n)], self.c, weighted, z.dv);
        tile::product(s, e, Left::transposed(weighted, z.dv), self.x.k, w, Into::Add);
    }
}

/// `to[t] = weights[t] from[t]`, for rows of `width` values.
#[inline(always)]
pub(super) fn scale_rows<S: Simd>(s: S, weights: &[f32], from: &[f32], to: &mut [f32], width: usize) {
    for ((from, to), &weight) in from.chunks_exact(width).zip(to.chunks_exact_mut(width)).zip(weights) {
        row::scaled(s, weight, from, to);
    }
}

/// `to [width, chunk]` is the transpose of the list `from [count, width]`, zero behind the last token.
#[inline(always)]
pub(super) fn turn<S: Simd>(s: S, from: &[f32], width: usize, to: &mut [f32], chunk: usize) {
    let count = from.len() / width;
    if count < chunk {
        to.fill(0.0);
    }
    tile::transpose(s, (count, width), from, width, to, chunk);
}

/// A forward pass with padded rows.
struct Forward<'a> {
    z: Size,
    /// The size without padding, as which states are kept.
    d: Dims,
    x: Tokens<'a>,
    state: &'a mut [f32],
    y: &'a mut [f32],
    saved: Option<&'a mut [f32]>,
    work: &'a mut [f32],
}

/// Space for reads.
struct Reading<'a> {
    /// Queries, transposed: `[dk, chunk]`.
    q_t: &'a mut [f32],
    /// A list of values, or its transpose.
    turned: &'a mut [f32],
    /// `r[t, j] k_j . q_t`, `[chunk, chunk]`.
    qk: &'a mut [f32],
}

impl Forward<'_> {
    fn lens(z: Size) -> [usize; 5] {
        let (keys, values) = z.lists();
        [Frame::len(z), z.matrices() * z.state(), keys, values, z.square()]
    }
    fn len(z: Size) -> usize {
        Self::lens(z).iter().sum()
    }
}

impl Vectorized for Forward<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { z, d, x, state, y, mut saved, work } = self;
        let [buffer, start, q_t, turned, qk] = cut(work, Self::lens(z));
        let mut reading = Reading { q_t, turned, qk };
        for first in (0..x.count).step_by(z.chunk) {
            let count = z.chunk.min(x.count - first);
            if let (Some(saved), true) = (&mut saved, first.is_multiple_of(CHECKPOINT_TOKENS)) {
                let len = z.matrices() * d.dk * d.dv;
                z.narrow_state(d, state, &mut saved[first / CHECKPOINT_TOKENS * len..][..len]);
            }
            start.copy_from_slice(state);
            let mut frame = Frame::new(z, x.part(z.dims(), first, count), State::new(z, start), buffer);
            frame.solve(s, reading.turned);
            frame.read(s, &mut y[first * z.dv..(first + count) * z.dv], &mut reading);
            let (w, m) = state.split_at_mut(z.state());
            frame.end(s, w, m, reading.turned);
        }
    }
}
