//! The one-pass scan: per token, each row of the transposed state is updated, read with the token's query and
//! multiplied with the next token's key while it is in registers.
//!
//! Columns of values never meet, so that a head is scanned strip by strip, each strip's state staying in the
//! nearest cache. The sums over keys run in one fixed order, whether the prediction is made while the token before
//! is written or from a state that a call starts with: hence the same bits for any cut.

use super::ahead::Ahead;
use super::{Erase, Form, RankOne, Tokens, tile, token};
use crate::kernel::{Scratch, Sequence};
use crate::rule::Dims;
use crate::scan::CHECKPOINT_TOKENS;
use crate::simd::{Simd, Vectorized};
use std::marker::PhantomData;

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
    let x = Tokens::new(R::FORM, d, seq);
    assert!(y.len() == x.count * d.dv && state.len() == matrices(R::FORM) * d.dv * d.dk);
    assert!(saved.as_ref().is_none_or(|saved| saved.len() == x.count.div_ceil(CHECKPOINT_TOKENS) * state.len()));
    match x.count {
        0 => {}
        1 => {
            if let Some(saved) = saved {
                saved.copy_from_slice(state);
            }
            scratch.isa().run(token::Step::<R> { d, x, state, y, scratch, rule: PhantomData });
        }
        _ => scratch.isa().run(Scan::<R> { d, x, state, y, saved, scratch, rule: PhantomData }),
    }
}

/// See [`crate::Kernel::read`].
pub(super) fn read<R: RankOne>(
    _rule: &R,
    d: Dims,
    seq: Sequence<'_, f32>,
    state: &[f32],
    y: &mut [f32],
    scratch: &mut Scratch,
) {
    let q = seq.inputs[2];
    assert!(q.len() == seq.tokens * d.dk && y.len() == seq.tokens * d.dv && state.len() >= d.dv * d.dk);
    match seq.tokens {
        0 => {}
        1 => scratch.isa().run(token::Read { d, q, state, y }),
        _ => scratch.isa().run(Read { d, q, state, y, scratch }),
    }
}

/// `W`, and `S` where there is momentum.
pub(super) fn matrices(form: Form) -> usize {
    1 + usize::from(form.momentum)
}

/// The columns that are worked on together: `N` vectors, of which the last may be cut.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub first: usize,
    pub count: usize,
    pub dims: Dims,
}

impl Columns {
    /// Copies these rows of `[dv, dk]` into the columns of `[dk, width]`, zeros behind.
    #[inline(always)]
    fn enter<S: Simd>(self, s: S, state: &[f32], strip: &mut [f32], width: usize) {
        if self.count < width {
            strip.fill(0.0);
        }
        let rows = &state[self.first * self.dims.dk..];
        tile::transpose(s, (self.count, self.dims.dk), rows, self.dims.dk, strip, width);
    }

    /// Copies them back.
    #[inline(always)]
    fn leave<S: Simd>(self, s: S, strip: &[f32], width: usize, state: &mut [f32]) {
        let rows = &mut state[self.first * self.dims.dk..];
        tile::transpose(s, (self.dims.dk, self.count), strip, width, rows, self.dims.dk);
    }

    /// Copies the columns of `W`, and of `S` unless it is empty, to the first of the states from `saved` on. Gives what
    /// the next of them will be written to.
    #[inline(always)]
    fn keep<S: Simd>(self, s: S, [w, m]: [&[f32]; 2], width: usize, saved: &mut [f32]) -> Ahead<2> {
        let matrix = self.dims.dk * self.dims.dv;
        self.leave(s, w, width, saved);
        if !m.is_empty() {
            self.leave(s, m, width, &mut saved[matrix..]);
        }
        let next = saved.get(if m.is_empty() { matrix } else { 2 * matrix }..).unwrap_or_default();
        let columns = self.first * self.dims.dk..(self.first + self.count) * self.dims.dk;
        let of_w = next.get(columns.clone()).unwrap_or_default();
        let of_s = next.get(matrix..).and_then(|s| s.get(columns)).filter(|_| !m.is_empty()).unwrap_or_default();
        Ahead::to([of_w, of_s], CHECKPOINT_TOKENS)
    }

    /// These columns of row `t` of `[tokens, dv]`.
    ///
    /// # Safety
    /// `data` holds row `t`.
    #[inline(always)]
    pub(super) unsafe fn load<S: Simd, const N: usize>(self, s: S, data: &[f32], t: usize) -> [S::V; N] {
        debug_assert!(t * self.dims.dv + self.first + self.count <= data.len());
        let mut row = [s.splat(0.0); N];
        for (j, x) in row.iter_mut().enumerate() {
            // SAFETY: `count` values are readable there, and no more are read.
            *x = unsafe {
                let p = data.as_ptr().add(t * self.dims.dv + self.first + j * S::LANES);
                match self.count - j * S::LANES {
                    left if left >= S::LANES => s.load(p),
                    left => s.load_first(p, left),
                }
            };
        }
        row
    }

    /// Writes them.
    ///
    /// # Safety
    /// `data` holds row `t`.
    #[inline(always)]
    pub(super) unsafe fn store<S: Simd, const N: usize>(self, s: S, row: [S::V; N], data: &mut [f32], t: usize) {
        debug_assert!(t * self.dims.dv + self.first + self.count <= data.len());
        for (j, &x) in row.iter().enumerate() {
            // SAFETY: `count` values are writable there, and no more are written.
            unsafe {
                let p = data.as_mut_ptr().add(t * self.dims.dv + self.first + j * S::LANES);
                match self.count - j * S::LANES {
                    left if left >= S::LANES => s.store(p, x),
                    left => s.store_first(p, left, x),
                }
            }
        }
    }
}

/// Values of the state that a strip may hold: with the rows of its tokens they stay in the nearest cache.
pub(super) const STRIP_VALUES: usize = 8192;

/// Runs `$body` for strip after strip of the values, with its columns and, as constants, its vectors and the rows
/// that it takes together. Strips are as wide as the registers or the cache allow. Narrow strips keep several sums over
/// interleaved rows, so that one multiply-add need not wait for the last.
macro_rules! for_each_strip {
    ($S:ident, $d:expr, $matrices:expr, |$columns:ident, $N:ident, $ROWS:ident| $body:expr) => {{
        let d: Dims = $d;
        let most = (super::sequential::STRIP_VALUES / ($matrices * d.dk.max(1) * $S::LANES)).clamp(1, $S::STRIP);
        let mut first = 0;
        while first < d.dv {
            let vectors = (d.dv - first).div_ceil($S::LANES).min(most);
            let $columns =
                super::sequential::Columns { first, count: (d.dv - first).min(vectors * $S::LANES), dims: d };
            macro_rules! with {
                ($n:literal, $rows:literal) => {{
                    const $N: usize = $n;
                    const $ROWS: usize = $rows;
                    $body
                }};
            }
            match vectors {
                1 => with!(1, 4),
                2 => with!(2, 2),
                3 if $S::STRIP >= 3 => with!(3, 1),
                _ if $S::STRIP >= 4 => with!(4, 1),
                _ => unreachable!("a strip is at most STRIP vectors wide"),
            }
            first += vectors * $S::LANES;
        }
    }};
}
pub(super) use for_each_strip;

struct Scan<'a, R> {
    d: Dims,
    x: Tokens<'a>,
    state: &'a mut [f32],
    y: &'a mut [f32],
    saved: Option<&'a mut [f32]>,
    scratch: &'a mut Scratch,
    rule: PhantomData<R>,
}

impl<R: RankOne> Vectorized for Scan<'_, R> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { d, x, state, y, mut saved, scratch, .. } = self;
        let (w_state, s_state) = state.split_at_mut(d.dv * d.dk);
        for_each_strip!(S, d, matrices(R::FORM), |columns, N, ROWS| {
            let width = N * S::LANES;
            let has = usize::from(R::FORM.momentum);
            let [w, m] = scratch.take([d.dk * width, has * d.dk * width]);
            columns.enter(s, w_state, w, width);
            if R::FORM.momentum {
                columns.enter(s, s_state, m, width);
            }
            scan::<S, R, N, ROWS>(s, columns, x, w, m, y, saved.as_deref_mut());
            columns.leave(s, w, width, w_state);
            if R::FORM.momentum {
                columns.leave(s, m, width, s_state);
            }
        });
    }
}

/// One strip through all tokens.
#[inline(always)]
fn scan<S: Simd, R: RankOne, const N: usize, const ROWS: usize>(
    s: S,
    columns: Columns,
    x: Tokens<'_>,
    w: &mut [f32],
    m: &mut [f32],
    y: &mut [f32],
    mut saved: Option<&mut [f32]>,
) {
    let (form, dk) = (R::FORM, columns.dims.dk);
    let mut ahead = Ahead::nothing();
    let key = |t: usize| &x.k[t * dk..(t + 1) * dk];
    let mut p = [s.splat(0.0); N];
    if form.erase != Erase::Nothing {
        p = product::<S, N, ROWS>(s, w, key(0));
    }
    for t in 0..x.count {
        if let Some(saved) = &mut saved {
            if t.is_multiple_of(CHECKPOINT_TOKENS) {
                let at = t / CHECKPOINT_TOKENS * matrices(form) * dk * columns.dims.dv;
                ahead = columns.keep(s, [w, m], N * S::LANES, &mut saved[at..]);
            }
            ahead.ask(s);
        }
        let gates = Gates::of(s, form, x, t);
        // SAFETY: `v` holds `count` rows of values (checked when the tokens were named).
        let v: [S::V; N] = unsafe { columns.load(s, x.v, t) };
        let c = gates.coefficients(s, form, v, p);
        let rows = Rows { k: key(t), q: &x.q[t * dk..(t + 1) * dk], next: key((t + 1).min(x.count - 1)) };
        let (read, prediction) = pass::<S, R, N, ROWS>(s, w, m, rows, gates, c);
        p = prediction;
        // SAFETY: `y` holds `count` rows of values (checked on entry).
        unsafe { columns.store(s, read, y, t) };
    }
}

/// `W x` for the transposed strip `w [dk, N vectors]`, in the order of [`pass`].
#[inline(always)]
fn product<S: Simd, const N: usize, const ROWS: usize>(s: S, w: &[f32], x: &[f32]) -> [S::V; N] {
    let width = N * S::LANES;
    assert!(w.len() >= x.len() * width);
    let mut sums = [[s.splat(0.0); N]; ROWS];
    let whole = x.len() - x.len() % ROWS;
    let mut i = 0;
    while i < x.len() {
        for (r, sum) in sums.iter_mut().enumerate() {
            if i < whole || i + r < x.len() {
                let a = s.splat(x[i + r]);
                for (n, sum) in sum.iter_mut().enumerate() {
                    // SAFETY: row `i + r` lies inside the strip (checked above).
                    *sum = s.fma(a, unsafe { s.load(w.as_ptr().add((i + r) * width + n * S::LANES)) }, *sum);
                }
            }
        }
        i += ROWS;
    }
    combine(s, sums)
}

/// Sums of interleaved rows, as a tree.
#[inline(always)]
pub(super) fn combine<S: Simd, const N: usize, const ROWS: usize>(s: S, mut sums: [[S::V; N]; ROWS]) -> [S::V; N] {
    let mut half = ROWS / 2;
    while half > 0 {
        for r in 0..half {
            for n in 0..N {
                sums[r][n] = s.add(sums[r][n], sums[r + half][n]);
            }
        }
        half /= 2;
    }
    sums[0]
}

/// The keys and the query that a pass needs, each `[dk]`.
#[derive(Clone, Copy)]
struct Rows<'a> {
    k: &'a [f32],
    q: &'a [f32],
    next: &'a [f32],
}

/// One token's gates in every lane; those that the rule does not have are neutral.
#[derive(Clone, Copy)]
pub(super) struct Gates<V> {
    retain: V,
    minus_retain: V,
    rate: V,
    momentum: V,
}

impl<V: Copy> Gates<V> {
    /// The gates of token `t`.
    #[inline(always)]
    pub(super) fn of<S: Simd<V = V>>(s: S, form: Form, x: Tokens<'_>, t: usize) -> Self {
        let retain = if form.retain { x.retain[t] } else { 1.0 };
        let momentum = if form.momentum { x.momentum[t] } else { 0.0 };
        Self {
            retain: s.splat(retain),
            minus_retain: s.splat(-retain),
            rate: s.splat(x.rate[t]),
            momentum: s.splat(momentum),
        }
    }

    /// What each value is written with: the rate times the error of its prediction `p`.
    #[inline(always)]
    pub(super) fn coefficients<S: Simd<V = V>, const N: usize>(self, s: S, form: Form, v: [V; N], p: [V; N]) -> [V; N] {
        let mut c = v;
        for n in 0..N {
            let error = match form.erase {
                Erase::Nothing => v[n],
                Erase::Previous => s.sub(v[n], p[n]),
                Erase::Decayed => s.fma(self.minus_retain, p[n], v[n]),
            };
            c[n] = s.mul(self.rate, error);
        }
        c
    }

    /// What becomes of values of `W` and `S` where key `k` meets coefficient `c`; lanes may run over keys or over
    /// values. Without momentum the second is given back as it came.
    #[inline(always)]
    pub(super) fn update<S: Simd<V = V>>(self, s: S, form: Form, [w, m]: [V; 2], k: V, c: V) -> [V; 2] {
        if form.momentum {
            let step = s.fma(k, c, s.mul(self.momentum, m));
            [if form.retain { s.fma(self.retain, w, step) } else { s.add(w, step) }, step]
        } else if form.retain {
            [s.fma(k, c, s.mul(self.retain, w)), m]
        } else {
            [s.fma(k, c, w), m]
        }
    }
}

/// One token's pass over a strip of the state: writes `c k^T`, returns the read and the next token's prediction.
#[inline(always)]
fn pass<S: Simd, R: RankOne, const N: usize, const ROWS: usize>(
    s: S,
    w: &mut [f32],
    m: &mut [f32],
    x: Rows<'_>,
    gates: Gates<S::V>,
    c: [S::V; N],
) -> ([S::V; N], [S::V; N]) {
    let (form, dk, width) = (R::FORM, x.k.len(), N * S::LANES);
    assert!(x.q.len() == dk && x.next.len() == dk && w.len() >= dk * width);
    assert!(!form.momentum || m.len() >= dk * width);
    let zero = [[s.splat(0.0); N]; ROWS];
    let (mut read, mut prediction) = (zero, zero);
    let (k, q, next) = (x.k.as_ptr(), x.q.as_ptr(), x.next.as_ptr());
    let whole = dk - dk % ROWS;
    let mut i = 0;
    while i < dk {
        for r in 0..ROWS {
            if i < whole || i + r < dk {
                // SAFETY: row `i + r` lies inside the strips and the rows of `x` (checked above).
                unsafe {
                    let (k, q, next) = (s.splat(*k.add(i + r)), s.splat(*q.add(i + r)), s.splat(*next.add(i + r)));
                    for n in 0..N {
                        let at = (i + r) * width + n * S::LANES;
                        let old = s.load(w.as_ptr().add(at));
                        let step = if form.momentum { s.load(m.as_ptr().add(at)) } else { old };
                        let [new, step] = gates.update(s, form, [old, step], k, c[n]);
                        s.store(w.as_mut_ptr().add(at), new);
                        if form.momentum {
                            s.store(m.as_mut_ptr().add(at), step);
                        }
                        read[r][n] = s.fma(q, new, read[r][n]);
                        if form.erase != Erase::Nothing {
                            prediction[r][n] = s.fma(next, new, prediction[r][n]);
                        }
                    }
                }
            }
        }
        i += ROWS;
    }
    (combine(s, read), combine(s, prediction))
}

struct Read<'a> {
    d: Dims,
    q: &'a [f32],
    state: &'a [f32],
    y: &'a mut [f32],
    scratch: &'a mut Scratch,
}

impl Vectorized for Read<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { d, q, state, y, scratch } = self;
        for_each_strip!(S, d, 1, |columns, N, ROWS| {
            let [w] = scratch.take([d.dk * N * S::LANES]);
            columns.enter(s, state, w, N * S::LANES);
            for t in 0..y.len() / d.dv {
                let read = product::<S, N, ROWS>(s, w, &q[t * d.dk..(t + 1) * d.dk]);
                // SAFETY: `y` holds a row of values for each of its tokens.
                unsafe { columns.store(s, read, y, t) };
            }
        });
    }
}
