//! What the start of a chunk and each of its writes are worth after each of its tokens.
//!
//! ```text
//! S_t = n_t S_0 + sum_{j<=t} s[t,j] c_j k_j^T        s[t,j] = momentum_t s[t-1,j] + [t = j]
//! W_t = a_t W_0 + m_t S_0 + sum_{j<=t} r[t,j] c_j k_j^T      r[t,j] = retain_t r[t-1,j] + s[t,j]
//! ```
//!
//! with `n_t = momentum_t n_{t-1}`, `m_t = retain_t m_{t-1} + n_t`, `a_t = retain_t a_{t-1}` from `n_0 = a_0 = 1`,
//! `m_0 = 0`. Without momentum `s` is the identity and the rest of its row is absent. Products are made by
//! recursion and nothing is divided, so that gates of exactly 0 and 1 are exact.

use super::Form;
use super::chunk::MOST;
use crate::simd::Simd;

/// The coefficients of one chunk. Matrices are `[chunk, chunk]`, zero above the diagonal; the scalars start with the
/// value before the first token.
pub(super) struct Coefficients<'a> {
    pub(super) r: &'a mut [f32],
    pub(super) s: &'a mut [f32],
    pub(super) a: &'a mut [f32],
    pub(super) m: &'a mut [f32],
    pub(super) n: &'a mut [f32],
}

/// Gates of one chunk, one value per token.
#[derive(Clone, Copy)]
pub(super) struct Gates<'a> {
    pub(super) retain: &'a [f32],
    pub(super) momentum: &'a [f32],
    pub(super) count: usize,
    /// Tokens of a whole chunk.
    pub(super) chunk: usize,
}

/// Gradients of the coefficients of one chunk.
pub(super) struct Gradients<'a> {
    /// Of `r`, as far as blocks on and below the diagonal reach, but for what the end of the chunk asks.
    pub(super) r: &'a mut [f32],
    /// What the end of the chunk asks of the last rows of `r` and `s`; no one else asks anything of `s`.
    pub(super) end_r: &'a mut [f32],
    pub(super) end_s: &'a mut [f32],
    pub(super) a: &'a mut [f32],
    pub(super) m: &'a mut [f32],
    pub(super) n: &'a mut [f32],
}

/// A one behind and before zeros: what lies `i` values before the one is row `i` of the identity.
static ONE: [f32; 2 * MOST] = {
    let mut one = [0.0; 2 * MOST];
    one[MOST] = 1.0;
    one
};

/// Row `i` of the identity, as far as its first columns.
#[inline(always)]
fn identity<S: Simd>(s: S, i: usize) -> S::V {
    let row = &ONE[MOST - i..][..S::LANES];
    // SAFETY: the row holds a vector.
    unsafe { s.load(row.as_ptr()) }
}

/// A vector of row `t` of a matrix with rows of `chunk` values.
#[inline(always)]
fn at<S: Simd>(s: S, matrix: &[f32], chunk: usize, t: usize, column: usize) -> S::V {
    let row = &matrix[t * chunk + column..][..S::LANES];
    // SAFETY: the row holds a vector.
    unsafe { s.load(row.as_ptr()) }
}

/// Writes it.
#[inline(always)]
fn set<S: Simd>(s: S, matrix: &mut [f32], chunk: usize, t: usize, column: usize, x: S::V) {
    let row = &mut matrix[t * chunk + column..][..S::LANES];
    // SAFETY: the row holds a vector.
    unsafe { s.store(row.as_mut_ptr(), x) }
}

impl Coefficients<'_> {
    /// Fills them, as far as a chunk has tokens.
    #[inline(always)]
    pub(super) fn fill<S: Simd>(&mut self, simd: S, form: Form, g: Gates<'_>) {
        let Self { r, s, a, m, n } = self;
        (a[0], m[0], n[0]) = (1.0, 0.0, 1.0);
        for t in 0..g.count {
            a[t + 1] = g.retain[t] * a[t];
            if form.momentum {
                n[t + 1] = g.momentum[t] * n[t];
                m[t + 1] = g.retain[t] * m[t] + n[t + 1];
            }
        }
        let zero = simd.splat(0.0);
        for column in (0..g.count).step_by(S::LANES) {
            for t in 0..column {
                set(simd, r, g.chunk, t, column, zero);
                if form.momentum {
                    set(simd, s, g.chunk, t, column, zero);
                }
            }
            let (mut r_row, mut s_row) = (zero, zero);
            for t in column..g.count {
                s_row = if form.momentum {
                    let row = simd.fma(simd.splat(g.momentum[t]), s_row, identity(simd, t - column));
                    set(simd, s, g.chunk, t, column, row);
                    row
                } else {
                    identity(simd, t - column)
                };
                r_row = simd.fma(simd.splat(g.retain[t]), r_row, s_row);
                set(simd, r, g.chunk, t, column, r_row);
            }
        }
    }
}

/// Transpose of [`Coefficients::fill`].
///
/// In: gradients `d` of the coefficients as far as reads, predictions and the end of the chunk determine them;
/// they are used up. Out: gradients of the gates, added into.
#[inline(always)]
pub(super) fn backward<S: Simd>(
    simd: S,
    form: Form,
    g: Gates<'_>,
    of: &Coefficients<'_>,
    d: &mut Gradients<'_>,
    (dretain, dmomentum): (&mut [f32], &mut [f32]),
) {
    for t in (0..g.count).rev() {
        // a[t+1] = retain_t a[t], m[t+1] = retain_t m[t] + n[t+1], n[t+1] = momentum_t n[t].
        dretain[t] += d.a[t + 1] * of.a[t];
        d.a[t] += g.retain[t] * d.a[t + 1];
        if form.momentum {
            dretain[t] += d.m[t + 1] * of.m[t];
            d.m[t] += g.retain[t] * d.m[t + 1];
            d.n[t + 1] += d.m[t + 1];
            dmomentum[t] += d.n[t + 1] * of.n[t];
            d.n[t] += g.momentum[t] * d.n[t + 1];
        }
    }
    for column in (0..g.count).step_by(S::LANES) {
        // What later rows, the end of the chunk at first, ask of rows `t` of `r` and `s`.
        let mut dr = at(simd, d.end_r, 0, 0, column);
        let mut ds = if form.momentum { at(simd, d.end_s, 0, 0, column) } else { dr };
        for t in (column..g.count).rev() {
            // r[t] = retain_t r[t-1] + s[t].
            dr = simd.add(dr, at(simd, d.r, g.chunk, t, column));
            if t > column {
                dretain[t] += simd.sum(simd.mul(dr, at(simd, of.r, g.chunk, t - 1, column)));
            }
            if form.momentum {
                // s[t] = momentum_t s[t-1] + [t = j].
                ds = simd.add(ds, dr);
                if t > column {
                    dmomentum[t] += simd.sum(simd.mul(ds, at(simd, of.s, g.chunk, t - 1, column)));
                }
                ds = simd.mul(simd.splat(g.momentum[t]), ds);
            }
            dr = simd.mul(simd.splat(g.retain[t]), dr);
        }
    }
}
