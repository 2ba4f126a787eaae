//! Both passes over one head, row after row of its state.
//!
//! Four rows are worked on together, so that what a token brings per channel is loaded once for four of them. Rows are
//! padded to whole vectors and to a multiple of four; zeros stay zeros.

use crate::kernels::vector::{get, put};
use crate::simd::{Simd, Vectorized};

/// Rows that are worked on together.
pub(super) const ROWS: usize = 4;

/// What tokens bring: `[tokens, width]` each, values `[tokens, rows]`.
#[derive(Clone, Copy)]
pub(super) struct Lists<'a> {
    pub tokens: usize,
    pub width: usize,
    pub rows: usize,
    /// What is kept of each channel.
    pub keep: &'a [f32],
    /// The key that is predicted with and the one that is erased under; empty where nothing is erased.
    pub ask: &'a [f32],
    pub erase: &'a [f32],
    /// The key that is written under.
    pub key: &'a [f32],
    pub query: &'a [f32],
    pub value: &'a [f32],
}

/// Their gradients, overwritten.
pub(super) struct Gradients<'a> {
    pub keep: &'a mut [f32],
    pub ask: &'a mut [f32],
    pub erase: &'a mut [f32],
    pub key: &'a mut [f32],
    pub query: &'a mut [f32],
    pub value: &'a mut [f32],
}

impl<'a> Lists<'a> {
    fn erases(&self) -> bool {
        !self.ask.is_empty()
    }
    /// Row `t` of a list; empty if the list is.
    fn row(&self, list: &'a [f32], t: usize) -> &'a [f32] {
        list.get(t * self.width..(t + 1) * self.width).unwrap_or_default()
    }
    fn values(&self, t: usize) -> &'a [f32] {
        &self.value[t * self.rows..(t + 1) * self.rows]
    }
    fn state_len(&self) -> usize {
        self.rows * self.width
    }
}

/// Writes and reads token after token. `kept`, unless empty, receives the state behind each token, and
/// `asked` what each token predicts, `[tokens, rows]`.
pub(super) struct Forward<'a> {
    pub x: Lists<'a>,
    pub state: &'a mut [f32],
    pub y: &'a mut [f32],
    pub kept: &'a mut [f32],
    pub asked: &'a mut [f32],
}

impl Vectorized for Forward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.x.erases() { self.tokens::<S, true>(s) } else { self.tokens::<S, false>(s) }
    }
}

impl Forward<'_> {
    #[inline(always)]
    fn tokens<S: Simd, const ERASES: bool>(self, s: S) {
        let Self { x, state, y, kept, asked } = self;
        for t in 0..x.tokens {
            let asked = asked.get_mut(t * x.rows..(t + 1) * x.rows).unwrap_or_default();
            let y = &mut y[t * x.rows..(t + 1) * x.rows];
            for (g, rows) in state.chunks_exact_mut(ROWS * x.width).enumerate() {
                let at = g * ROWS..(g + 1) * ROWS;
                let [read, predicted] = write_rows::<S, ERASES>(s, x, t, &x.values(t)[at.clone()], rows);
                y[at.clone()].copy_from_slice(&read);
                if let Some(asked) = asked.get_mut(at) {
                    asked.copy_from_slice(&predicted);
                }
            }
            if let Some(kept) = kept.get_mut(t * x.state_len()..(t + 1) * x.state_len()) {
                kept.copy_from_slice(state);
            }
        }
    }
}

/// A token's write to four rows; gives what they read then, and what they predicted before.
#[inline(always)]
fn write_rows<S: Simd, const ERASES: bool>(
    s: S,
    x: Lists<'_>,
    t: usize,
    values: &[f32],
    rows: &mut [f32],
) -> [[f32; ROWS]; 2] {
    let mut predicted = [0.0; ROWS];
    if ERASES {
        let ask = x.row(x.ask, t);
        let mut sums = [s.splat(0.0); ROWS];
        for at in (0..x.width).step_by(S::LANES) {
            let p = get(s, ask, at);
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = s.fma(get(s, rows, i * x.width + at), p, *sum);
            }
        }
        for i in 0..ROWS {
            predicted[i] = s.sum(sums[i]);
        }
    }
    let (keep, erase, key, query) = (x.row(x.keep, t), x.row(x.erase, t), x.row(x.key, t), x.row(x.query, t));
    let (mut less, mut value) = ([s.splat(0.0); ROWS], [s.splat(0.0); ROWS]);
    for i in 0..ROWS {
        (less[i], value[i]) = (s.splat(-predicted[i]), s.splat(values[i]));
    }
    let mut sums = [s.splat(0.0); ROWS];
    for at in (0..x.width).step_by(S::LANES) {
        let (a, b, q) = (get(s, keep, at), get(s, key, at), get(s, query, at));
        let e = if ERASES { get(s, erase, at) } else { b };
        for i in 0..ROWS {
            let here = i * x.width + at;
            let mut w = s.mul(a, get(s, rows, here));
            if ERASES {
                w = s.fma(less[i], e, w);
            }
            w = s.fma(value[i], b, w);
            put(s, rows, here, w);
            sums[i] = s.fma(w, q, sums[i]);
        }
    }
    let mut read = [0.0; ROWS];
    for i in 0..ROWS {
        read[i] = s.sum(sums[i]);
    }
    [read, predicted]
}

/// Reads for every token from one state.
pub(super) struct Read<'a> {
    pub width: usize,
    pub query: &'a [f32],
    pub state: &'a [f32],
    pub y: &'a mut [f32],
}

impl Vectorized for Read<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.state.len() / self.width;
        for (q, y) in self.query.chunks_exact(self.width).zip(self.y.chunks_exact_mut(rows)) {
            for (row, y) in self.state.chunks_exact(self.width).zip(y) {
                let mut sum = s.splat(0.0);
                for at in (0..self.width).step_by(S::LANES) {
                    sum = s.fma(get(s, row, at), get(s, q, at), sum);
                }
                *y = s.sum(sum);
            }
        }
    }
}

/// Back through the tokens; `kept` and `asked` as [`Forward`] leaves them, behind the state before the first token.
pub(super) struct Backward<'a> {
    pub x: Lists<'a>,
    pub kept: &'a [f32],
    pub asked: &'a [f32],
    pub dy: &'a [f32],
    pub dstate: &'a mut [f32],
    pub dx: Gradients<'a>,
    /// `[rows]`.
    pub dasked: &'a mut [f32],
}

impl Vectorized for Backward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.x.erases() { self.tokens::<S, true>(s) } else { self.tokens::<S, false>(s) }
    }
}

impl Backward<'_> {
    #[inline(always)]
    fn tokens<S: Simd, const ERASES: bool>(mut self, s: S) {
        for t in (0..self.x.tokens).rev() {
            self.first::<S, ERASES>(s, t);
            self.second::<S, ERASES>(s, t);
        }
    }

    /// The read, and what sums over channels: gradients of the values and of what was predicted.
    #[inline(always)]
    fn first<S: Simd, const ERASES: bool>(&mut self, s: S, t: usize) {
        let x = self.x;
        let (query, key, erase) = (x.row(x.query, t), x.row(x.key, t), x.row(x.erase, t));
        let dy = &self.dy[t * x.rows..(t + 1) * x.rows];
        let dvalue = &mut self.dx.value[t * x.rows..(t + 1) * x.rows];
        for (g, rows) in self.dstate.chunks_exact_mut(ROWS * x.width).enumerate() {
            let (mut of_value, mut of_asked) = ([s.splat(0.0); ROWS], [s.splat(0.0); ROWS]);
            for at in (0..x.width).step_by(S::LANES) {
                let (q, b) = (get(s, query, at), get(s, key, at));
                let e = if ERASES { get(s, erase, at) } else { b };
                for i in 0..ROWS {
                    let here = i * x.width + at;
                    let dw = s.fma(s.splat(dy[g * ROWS + i]), q, get(s, rows, here));
                    put(s, rows, here, dw);
                    of_value[i] = s.fma(dw, b, of_value[i]);
                    if ERASES {
                        of_asked[i] = s.fma(dw, e, of_asked[i]);
                    }
                }
            }
            for i in 0..ROWS {
                dvalue[g * ROWS + i] = s.sum(of_value[i]);
                if ERASES {
                    self.dasked[g * ROWS + i] = -s.sum(of_asked[i]);
                }
            }
        }
    }

    /// What sums over rows: gradients of the channels; and the state before the token.
    #[inline(always)]
    fn second<S: Simd, const ERASES: bool>(&mut self, s: S, t: usize) {
        let x = self.x;
        let len = x.state_len();
        let (before, behind) = self.kept[t * len..(t + 2) * len].split_at(len);
        let (dy, values) = (&self.dy[t * x.rows..(t + 1) * x.rows], x.values(t));
        let asked = self.asked.get(t * x.rows..(t + 1) * x.rows).unwrap_or_default();
        let (keep, ask) = (x.row(x.keep, t), x.row(x.ask, t));
        for at in (0..x.width).step_by(S::LANES) {
            let a = get(s, keep, at);
            let p = if ERASES { get(s, ask, at) } else { a };
            let [mut dq, mut db, mut de, mut da, mut dp] = [s.splat(0.0); 5];
            for r in 0..x.rows {
                let here = r * x.width + at;
                let (w, next, dw) = (get(s, before, here), get(s, behind, here), get(s, self.dstate, here));
                dq = s.fma(s.splat(dy[r]), next, dq);
                db = s.fma(s.splat(values[r]), dw, db);
                da = s.fma(dw, w, da);
                let mut dprev = s.mul(a, dw);
                if ERASES {
                    let ds = s.splat(self.dasked[r]);
                    de = s.fma(s.splat(-asked[r]), dw, de);
                    dp = s.fma(ds, w, dp);
                    dprev = s.fma(ds, p, dprev);
                }
                put(s, self.dstate, here, dprev);
            }
            let here = t * x.width + at;
            put(s, self.dx.query, here, dq);
            put(s, self.dx.key, here, db);
            put(s, self.dx.keep, here, da);
            if ERASES {
                put(s, self.dx.erase, here, de);
                put(s, self.dx.ask, here, dp);
            }
        }
    }
}
