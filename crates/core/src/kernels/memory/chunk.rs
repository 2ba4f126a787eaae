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
//! one token a row; states are transposed, `[dk, dv]`.

use super::coefficients::{Coefficients, Gates};
use super::tile::{self, Extent, Into, Left, Part, Solve, Triangle};
use super::{Erase, Form, RankOne, Tokens, padded, row};
use crate::kernel::{Scratch, Sequence};
use crate::rule::Dims;
use crate::simd::{Simd, Vectorized};

/// Tokens of a chunk: products of the tokens among themselves grow with it, updates of the state shrink.
pub(super) const CHUNK: usize = 32;

/// Values of a list with one entry before the first token and one behind each.
pub(super) const SCALARS: usize = CHUNK + super::PAD;

/// Gates that a rule does not have.
static ONES: [f32; CHUNK] = [1.0; CHUNK];

/// See [`crate::Kernel::forward`].
pub(super) fn forward<R: RankOne>(
    _rule: &R,
    d: Dims,
    seq: Sequence<'_, f32>,
    state: &mut [f32],
    y: &mut [f32],
    scratch: &mut Scratch,
) {
    let (x, z, isa) = (Tokens::new(R::FORM, d, seq), Size::new(R::FORM, d), scratch.isa());
    assert!(y.len() == x.count * d.dv && state.len() == z.matrices() * d.dk * d.dv);
    if z.is_exact(d) {
        let [work] = scratch.take([Forward::len(z)]);
        isa.run(Forward { z, x, state, y, work });
        return;
    }
    let (keys, values) = (x.count * z.dk, x.count * z.dv);
    let [k, v, q, wide_y, wide_state, work] =
        scratch.take([keys, values, keys, values, z.matrices() * z.state(), Forward::len(z)]);
    let wide = z.widen(d, x, [k, v, q]);
    z.widen_state(d, state, wide_state);
    isa.run(Forward { z, x: wide, state: wide_state, y: wide_y, work });
    z.narrow_state(d, wide_state, state);
    row::unpad(wide_y, z.dv, y, d.dv);
}

/// Sizes of a head, with rows of keys and of values padded to whole vectors.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) dk: usize,
    pub(super) dv: usize,
    pub(super) form: Form,
}

impl Size {
    pub(super) fn new(form: Form, d: Dims) -> Self {
        Self { dk: padded(d.dk), dv: padded(d.dv), form }
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
        (CHUNK * self.dk, CHUNK * self.dv)
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

/// One chunk, with everything that its backward pass needs again.
pub(super) struct Frame<'a> {
    pub(super) z: Size,
    /// The inputs of this chunk, with padded rows, and its gates, 1 where the rule has none.
    pub(super) x: Tokens<'a>,
    pub(super) retain: &'a [f32],
    pub(super) momentum: &'a [f32],
    /// `rate` times what is erased.
    pub(super) erase: &'a mut [f32],
    /// State at the start, transposed.
    pub(super) w0: &'a mut [f32],
    pub(super) s0: &'a mut [f32],
    /// Keys, transposed: `[dk, CHUNK]`, zero behind the last token.
    pub(super) k_t: &'a mut [f32],
    /// Predictions and writes, `[CHUNK, dv]`.
    pub(super) p: &'a mut [f32],
    pub(super) c: &'a mut [f32],
    /// `k_t . k_j`, `[CHUNK, CHUNK]`, in the lower triangle.
    pub(super) kk: &'a mut [f32],
    /// `r[t-1, j] k_t . k_j`, `[CHUNK, CHUNK]`: what write `j` adds to prediction `t`.
    pub(super) mix: &'a mut [f32],
    pub(super) coefficients: Coefficients<'a>,
}

impl<'a> Frame<'a> {
    fn lens(z: Size) -> [usize; 13] {
        let (state, square, (keys, values)) = (z.state(), CHUNK * CHUNK, z.lists());
        let (s0, s) = (z.if_momentum(state), z.if_momentum(square));
        [CHUNK, state, s0, keys, values, values, square, square, square, s, SCALARS, SCALARS, SCALARS]
    }

    /// Values of its buffer.
    pub(super) fn len(z: Size) -> usize {
        Self::lens(z).iter().sum()
    }

    /// A frame in `buffer` for a chunk with the inputs `x`; what the buffer holds is kept.
    pub(super) fn new(z: Size, x: Tokens<'a>, buffer: &'a mut [f32]) -> Self {
        let [erase, w0, s0, k_t, p, c, kk, mix, r, s, a, m, n] = cut(buffer, Self::lens(z));
        let gate = |gate: &'a [f32]| if gate.is_empty() { &ONES[..x.count] } else { gate };
        let (retain, momentum) = (gate(x.retain), gate(x.momentum));
        let coefficients = Coefficients { r, s, a, m, n };
        Self { z, x, retain, momentum, erase, w0, s0, k_t, p, c, kk, mix, coefficients }
    }

    pub(super) fn gates(&self) -> Gates<'a> {
        Gates { retain: self.retain, momentum: self.momentum, count: self.x.count }
    }

    /// A product with a row per token.
    pub(super) fn extent(&self, inner: usize, columns: usize, part: Part) -> Extent {
        Extent { rows: self.x.count, inner, columns, part }
    }

    /// Row `t` of a square, as far as the tile that holds the diagonal reaches.
    pub(super) fn lower(t: usize) -> std::ops::Range<usize> {
        t * CHUNK..t * CHUNK + padded(t + 1)
    }

    /// Finds coefficients, predictions and writes.
    #[inline(always)]
    pub(super) fn solve<S: Simd>(&mut self, s: S) {
        let (z, x, n) = (self.z, self.x, self.x.count);
        let gates = self.gates();
        self.coefficients.fill(s, z.form, gates);
        transpose_list(s, x.k, z.dk, self.k_t);
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
        let e = self.extent(z.dk, CHUNK, Part::LowerResult);
        tile::product(s, e, Left::plain(x.k, z.dk), self.k_t, self.kk, Into::Set);
        self.mix[..CHUNK].fill(0.0);
        for t in 1..n {
            let (at, before) = (Self::lower(t), (t - 1) * CHUNK);
            let r = &self.coefficients.r[before..before + at.len()];
            row::times(s, r, &self.kk[at.clone()], &mut self.mix[at]);
        }
        let p = std::mem::take(&mut self.p);
        self.read_start(s, 0, x.k, p);
        let m = Triangle { data: self.mix, stride: CHUNK, rows: n, width: z.dv };
        Solve { m, rate: x.rate, erase: self.erase, v: x.v, p, c: self.c }.run(s);
        self.p = p;
    }

    /// `out_t = a W_0 x_t + m S_0 x_t` with the coefficients after token `t - 1 + shift`.
    #[inline(always)]
    fn read_start<S: Simd>(&self, s: S, shift: usize, x: &[f32], out: &mut [f32]) {
        let (z, f) = (self.z, &self.coefficients);
        let e = self.extent(z.dk, z.dv, Part::Full);
        tile::product(s, e, Left::plain(x, z.dk), self.w0, out, Into::SetWeighted(&f.a[shift..]));
        if z.form.momentum {
            tile::product(s, e, Left::plain(x, z.dk), self.s0, out, Into::AddWeighted(&f.m[shift..]));
        }
    }

    /// The reads: `y [count, dv]`; `qk` is a square.
    #[inline(always)]
    fn read<S: Simd>(&self, s: S, y: &mut [f32], qk: &mut [f32]) {
        let (z, x, n) = (self.z, self.x, self.x.count);
        self.read_start(s, 1, x.q, y);
        let e = self.extent(z.dk, CHUNK, Part::LowerResult);
        tile::product(s, e, Left::plain(x.q, z.dk), self.k_t, qk, Into::Set);
        for at in (0..n).map(Self::lower) {
            row::scale_each(s, &self.coefficients.r[at.clone()], &mut qk[at]);
        }
        let e = self.extent(n, z.dv, Part::LowerLeft);
        tile::product(s, e, Left::plain(qk, CHUNK), self.c, y, Into::Add);
    }

    /// Carries a state from the start of the chunk to its end; `weighted` is space for a list of values.
    #[inline(always)]
    pub(super) fn advance<S: Simd>(&self, s: S, w: &mut [f32], m: &mut [f32], weighted: &mut [f32]) {
        let (z, f, n) = (self.z, &self.coefficients, self.x.count);
        let e = Extent { rows: z.dk, inner: n, columns: z.dv, part: Part::Full };
        row::scale(s, f.a[n], w);
        if z.form.momentum {
            row::add_scaled(s, f.m[n], m, w);
            row::scale(s, f.n[n], m);
            scale_rows(s, &f.s[(n - 1) * CHUNK..n * CHUNK], self.c, weighted, z.dv);
            tile::product(s, e, Left::transposed(self.x.k, z.dk), weighted, m, Into::Add);
        }
        scale_rows(s, &f.r[(n - 1) * CHUNK..n * CHUNK], self.c, weighted, z.dv);
        tile::product(s, e, Left::transposed(self.x.k, z.dk), weighted, w, Into::Add);
    }
}

/// `to[t] = weights[t] from[t]`, for rows of `width` values.
#[inline(always)]
pub(super) fn scale_rows<S: Simd>(s: S, weights: &[f32], from: &[f32], to: &mut [f32], width: usize) {
    for ((from, to), &weight) in from.chunks_exact(width).zip(to.chunks_exact_mut(width)).zip(weights) {
        row::scaled(s, weight, from, to);
    }
}

/// `to [width, CHUNK]` is the transpose of the list `from [count, width]`, zero behind the last token.
#[inline(always)]
pub(super) fn transpose_list<S: Simd>(s: S, from: &[f32], width: usize, to: &mut [f32]) {
    let count = from.len() / width;
    if count < CHUNK {
        to.fill(0.0);
    }
    tile::transpose(s, (count, width), from, width, to, CHUNK);
}

/// A forward pass with padded rows.
struct Forward<'a> {
    z: Size,
    x: Tokens<'a>,
    state: &'a mut [f32],
    y: &'a mut [f32],
    work: &'a mut [f32],
}

impl Forward<'_> {
    fn lens(z: Size) -> [usize; 3] {
        [Frame::len(z), CHUNK * CHUNK, z.lists().1]
    }
    fn len(z: Size) -> usize {
        Self::lens(z).iter().sum()
    }
}

impl Vectorized for Forward<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { z, x, state, y, work } = self;
        let (w, m) = state.split_at_mut(z.state());
        let [buffer, qk, weighted] = cut(work, Self::lens(z));
        let frame = Frame::new(z, x.part(z.dims(), 0, 0), buffer);
        tile::transpose(s, (z.dv, z.dk), w, z.dk, frame.w0, z.dv);
        if z.form.momentum {
            tile::transpose(s, (z.dv, z.dk), m, z.dk, frame.s0, z.dv);
        }
        for first in (0..x.count).step_by(CHUNK) {
            let count = CHUNK.min(x.count - first);
            let mut frame = Frame::new(z, x.part(z.dims(), first, count), buffer);
            frame.solve(s);
            frame.read(s, &mut y[first * z.dv..(first + count) * z.dv], qk);
            let (w0, s0) = (std::mem::take(&mut frame.w0), std::mem::take(&mut frame.s0));
            frame.advance(s, w0, s0, weighted);
        }
        let frame = Frame::new(z, x.part(z.dims(), 0, 0), buffer);
        tile::transpose(s, (z.dk, z.dv), frame.w0, z.dv, w, z.dk);
        if z.form.momentum {
            tile::transpose(s, (z.dk, z.dv), frame.s0, z.dv, m, z.dk);
        }
    }
}
