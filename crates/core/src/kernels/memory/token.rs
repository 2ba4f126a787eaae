//! A single token, as in decoding: the state is read and written where it lies, `[dv, dk]`.
//!
//! To turn a state and turn it back costs several times what one token costs. Here the sums over keys take the rows
//! of a vector of values together, four keys at a time turned in registers, and the write goes along the rows.
//!
//! **Invariant:** results have the bits of [`super::sequential`]. Sums run over the keys in rising order, in as many
//! interleaved parts as its strips keep; writes are the same multiply-adds.

use super::sequential::{Columns, Gates, combine, for_each_strip, matrices};
use super::{Erase, Form, RankOne, Tokens};
use crate::kernel::Scratch;
use crate::rule::Dims;
use crate::simd::{Simd, Vectorized};
use std::marker::PhantomData;

/// The most lanes of an instruction set.
const MOST_LANES: usize = super::PAD;
/// The most values of a strip.
const MOST_COLUMNS: usize = 4 * MOST_LANES;

/// Writes one token and reads it.
pub(super) struct Step<'a, R> {
    pub d: Dims,
    pub x: Tokens<'a>,
    pub state: &'a mut [f32],
    pub y: &'a mut [f32],
    pub scratch: &'a mut Scratch,
    pub rule: PhantomData<R>,
}

impl<R: RankOne> Vectorized for Step<'_, R> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { d, x, state, y, scratch, .. } = self;
        for_each_strip!(S, d, matrices(R::FORM), |columns, N, ROWS| {
            step::<S, R, N, ROWS>(s, columns, x, state, y, scratch);
        });
    }
}

/// Reads with one query.
pub(super) struct Read<'a> {
    pub d: Dims,
    pub q: &'a [f32],
    pub state: &'a [f32],
    pub y: &'a mut [f32],
}

impl Vectorized for Read<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { d, q, state, y } = self;
        for_each_strip!(S, d, 1, |columns, N, ROWS| {
            let read = product::<S, N, ROWS>(s, columns, state, q);
            // SAFETY: `y` is one row of values (checked on entry).
            unsafe { columns.store(s, read, y, 0) };
        });
    }
}

/// One strip of values. All of it is written before any of it is read, so that reads do not wait for writes that are
/// still on their way to the cache.
#[inline(always)]
fn step<S: Simd, R: RankOne, const N: usize, const ROWS: usize>(
    s: S,
    columns: Columns,
    x: Tokens<'_>,
    state: &mut [f32],
    y: &mut [f32],
    scratch: &mut Scratch,
) {
    let (form, gates) = (R::FORM, Gates::of(s, R::FORM, x, 0));
    // SAFETY: `v` is one row of values (checked when the tokens were named).
    let v: [S::V; N] = unsafe { columns.load(s, x.v, 0) };
    let read = if form.erase != Erase::Nothing && !form.momentum {
        // What the prediction turned, the read takes again: one update more, but nothing to turn.
        let [turned] = scratch.take([x.k.len() * N * S::LANES]);
        let p = product_keeping::<S, N, ROWS, true>(s, columns, state, x.k, turned);
        let c = gates.coefficients(s, form, v, p);
        write::<S, R, N>(s, columns, x.k, gates, c, state);
        read_updated::<S, N, ROWS>(s, form, turned, [x.k, x.q], gates, c)
    } else {
        let p = if form.erase == Erase::Nothing { v } else { product::<S, N, ROWS>(s, columns, state, x.k) };
        let c = gates.coefficients(s, form, v, p);
        write::<S, R, N>(s, columns, x.k, gates, c, state);
        product::<S, N, ROWS>(s, columns, state, x.q)
    };
    // SAFETY: `y` is one row of values (checked on entry).
    unsafe { columns.store(s, read, y, 0) };
}

/// `W x` for one strip; lanes behind the last value hold anything.
#[inline(always)]
fn product<S: Simd, const N: usize, const ROWS: usize>(s: S, columns: Columns, w: &[f32], x: &[f32]) -> [S::V; N] {
    product_keeping::<S, N, ROWS, false>(s, columns, w, x, &mut [])
}

/// [`product`], which leaves the strip turned, `[dk, N vectors]`, if `KEEP`.
#[inline(always)]
fn product_keeping<S: Simd, const N: usize, const ROWS: usize, const KEEP: bool>(
    s: S,
    columns: Columns,
    w: &[f32],
    x: &[f32],
    turned: &mut [f32],
) -> [S::V; N] {
    let (count, dk) = (columns.count, columns.dims.dk);
    let w = &w[columns.first * dk..][..count * dk];
    let mut sums = [s.splat(0.0); N];
    for n in 0..count.div_ceil(S::LANES) {
        let (w, rows) = (&w[n * S::LANES * dk..], count - n * S::LANES);
        let turned = if KEEP { &mut turned[n * S::LANES..] } else { &mut *turned };
        // In the usual case the number of rows is a constant.
        sums[n] = if rows >= S::LANES {
            vector_product::<S, N, ROWS, KEEP>(s, S::LANES, w, x, turned)
        } else {
            vector_product::<S, N, ROWS, KEEP>(s, rows, w, x, turned)
        };
    }
    sums
}

/// `W x` for one vector of values, whose `rows` rows `w` starts with; with `KEEP`, its columns are left in `turned`,
/// `N` vectors apart.
#[inline(always)]
fn vector_product<S: Simd, const N: usize, const ROWS: usize, const KEEP: bool>(
    s: S,
    rows: usize,
    w: &[f32],
    x: &[f32],
    turned: &mut [f32],
) -> S::V {
    const { assert!(4 % ROWS == 0) };
    let (dk, width) = (x.len(), N * S::LANES);
    let whole = dk - dk % 4;
    assert!(rows <= S::LANES && w.len() >= rows * dk);
    assert!(!KEEP || dk == 0 || turned.len() >= (dk - 1) * width + S::LANES);
    let mut sums = [[s.splat(0.0)]; ROWS];
    for j in (0..whole).step_by(4) {
        // SAFETY: `rows` rows of `dk` values lie there (checked above), four values of each from `j` on.
        let quad = unsafe { s.columns(rows, w.as_ptr().add(j), dk) };
        for (i, column) in quad.into_iter().enumerate() {
            if KEEP {
                // SAFETY: a vector fits there (checked above).
                unsafe { s.store(turned.as_mut_ptr().add((j + i) * width), column) };
            }
            sums[i % ROWS] = [s.fma(s.splat(x[j + i]), column, sums[i % ROWS][0])];
        }
    }
    for j in whole..dk {
        let mut column = [0.0; MOST_LANES];
        for (to, row) in column[..rows].iter_mut().zip(w.chunks_exact(dk)) {
            *to = row[j];
        }
        // SAFETY: the array holds a vector of any instruction set.
        let column = unsafe { s.load(column.as_ptr()) };
        if KEEP {
            // SAFETY: a vector fits there (checked above).
            unsafe { s.store(turned.as_mut_ptr().add(j * width), column) };
        }
        sums[j % ROWS] = [s.fma(s.splat(x[j]), column, sums[j % ROWS][0])];
    }
    let [sum] = combine(s, sums);
    sum
}

/// `W' q` for a strip that is given turned as it was before the write of `c k^T`, `[dk, N vectors]`.
#[inline(always)]
fn read_updated<S: Simd, const N: usize, const ROWS: usize>(
    s: S,
    form: Form,
    turned: &[f32],
    [k, q]: [&[f32]; 2],
    gates: Gates<S::V>,
    c: [S::V; N],
) -> [S::V; N] {
    let (dk, width) = (k.len(), N * S::LANES);
    assert!(q.len() == dk && turned.len() >= dk * width);
    let mut sums = [[s.splat(0.0); N]; ROWS];
    let mut j = 0;
    while j < dk {
        for (r, sum) in sums.iter_mut().enumerate() {
            if j + r < dk {
                let (k, q) = (s.splat(k[j + r]), s.splat(q[j + r]));
                for n in 0..N {
                    // SAFETY: row `j + r` lies inside the strip (checked above).
                    let old = unsafe { s.load(turned.as_ptr().add((j + r) * width + n * S::LANES)) };
                    let [new, _] = gates.update(s, form, [old, old], k, c[n]);
                    sum[n] = s.fma(q, new, sum[n]);
                }
            }
        }
        j += ROWS;
    }
    combine(s, sums)
}

/// Writes `c k^T` into the rows of one strip.
#[inline(always)]
fn write<S: Simd, R: RankOne, const N: usize>(
    s: S,
    columns: Columns,
    k: &[f32],
    gates: Gates<S::V>,
    c: [S::V; N],
    state: &mut [f32],
) {
    let (form, dk) = (R::FORM, columns.dims.dk);
    let (w, m) = state.split_at_mut(columns.dims.dv * dk);
    let rows = columns.first * dk..(columns.first + columns.count) * dk;
    let (w, m) = (&mut w[rows.clone()], if form.momentum { &mut m[rows] } else { &mut [][..] });
    assert!(k.len() == dk);
    let mut coefficients = [0.0; MOST_COLUMNS];
    for (n, &c) in c.iter().enumerate() {
        // SAFETY: the array holds a strip of any instruction set.
        unsafe { s.store(coefficients[n * S::LANES..].as_mut_ptr(), c) };
    }
    for (r, &c) in coefficients[..columns.count].iter().enumerate() {
        let row = Row { k: k.as_ptr(), w: w[r * dk..].as_mut_ptr(), m: m.as_mut_ptr().wrapping_add(r * dk) };
        let (c, mut j) = (s.splat(c), 0);
        // SAFETY: key and rows hold `dk` values, `S` only with momentum.
        unsafe {
            while j + 2 * S::LANES <= dk {
                row.update(s, form, gates, c, j, S::LANES);
                row.update(s, form, gates, c, j + S::LANES, S::LANES);
                j += 2 * S::LANES;
            }
            while j < dk {
                row.update(s, form, gates, c, j, S::LANES.min(dk - j));
                j += S::LANES;
            }
        }
    }
}

/// A row of `W`, and of `S` where there is momentum, beside the key.
#[derive(Clone, Copy)]
struct Row {
    k: *const f32,
    w: *mut f32,
    m: *mut f32,
}

impl Row {
    /// Writes to the `n <= LANES` values from `j` on.
    ///
    /// # Safety
    /// They are there.
    #[inline(always)]
    unsafe fn update<S: Simd>(self, s: S, form: Form, gates: Gates<S::V>, c: S::V, j: usize, n: usize) {
        // SAFETY: the caller promises the values.
        unsafe {
            let load = |p: *const f32| if n == S::LANES { s.load(p.add(j)) } else { s.load_first(p.add(j), n) };
            let old = load(self.w);
            let step = if form.momentum { load(self.m) } else { old };
            let [new, step] = gates.update(s, form, [old, step], load(self.k), c);
            let store =
                |p: *mut f32, x| if n == S::LANES { s.store(p.add(j), x) } else { s.store_first(p.add(j), n, x) };
            store(self.w, new);
            if form.momentum {
                store(self.m, step);
            }
        }
    }
}
