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

use super::chunk::CHUNK;
use super::{Form, row};
use crate::simd::Simd;

/// The coefficients of one chunk. Matrices are `[CHUNK, CHUNK]`, zero above the diagonal; the scalars start with the value before the first token.
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
}

impl Coefficients<'_> {
    /// Fills them, as far as a chunk has tokens.
    #[inline(always)]
    pub(super) fn fill<S: Simd>(&mut self, simd: S, form: Form, g: Gates<'_>) {
        let Self { r, s, a, m, n } = self;
        r[..g.count * CHUNK].fill(0.0);
        if form.momentum {
            s[..g.count * CHUNK].fill(0.0);
        }
        (a[0], m[0], n[0]) = (1.0, 0.0, 1.0);
        for t in 0..g.count {
            let (before, now) = (t.saturating_sub(1) * CHUNK..t * CHUNK, t * CHUNK);
            a[t + 1] = g.retain[t] * a[t];
            if form.momentum {
                n[t + 1] = g.momentum[t] * n[t];
                m[t + 1] = g.retain[t] * m[t] + n[t + 1];
                let (past, row) = s.split_at_mut(now);
                if t > 0 {
                    row::scaled(simd, g.momentum[t], &past[before.clone()], &mut row[..CHUNK]);
                }
                row[t] = 1.0;
            }
            let (past, row) = r.split_at_mut(now);
            if t > 0 {
                row::scaled(simd, g.retain[t], &past[before], &mut row[..CHUNK]);
            }
            if form.momentum {
                row::add_scaled(simd, 1.0, &s[now..now + CHUNK], &mut row[..CHUNK]);
            } else {
                row[t] = 1.0;
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
    d: &mut Coefficients<'_>,
    (dretain, dmomentum): (&mut [f32], &mut [f32]),
) {
    for t in (0..g.count).rev() {
        let (before, now) = (t.saturating_sub(1) * CHUNK..t * CHUNK, t * CHUNK);
        // a[t+1] = retain_t a[t], and so r[t] = retain_t r[t-1] + s[t].
        dretain[t] += d.a[t + 1] * of.a[t];
        d.a[t] += g.retain[t] * d.a[t + 1];
        let (past, row) = d.r.split_at_mut(now);
        let row = &row[..CHUNK];
        if t > 0 {
            dretain[t] += row::dot(simd, row, &of.r[before.clone()]);
            row::add_scaled(simd, g.retain[t], row, &mut past[before.clone()]);
        }
        if !form.momentum {
            continue;
        }
        // m[t+1] = retain_t m[t] + n[t+1].
        dretain[t] += d.m[t + 1] * of.m[t];
        d.m[t] += g.retain[t] * d.m[t + 1];
        d.n[t + 1] += d.m[t + 1];
        // n[t+1] = momentum_t n[t], and so s[t] = momentum_t s[t-1] + [t = j].
        dmomentum[t] += d.n[t + 1] * of.n[t];
        d.n[t] += g.momentum[t] * d.n[t + 1];
        let (past, ds) = d.s.split_at_mut(now);
        let ds = &mut ds[..CHUNK];
        row::add_scaled(simd, 1.0, row, ds);
        if t > 0 {
            dmomentum[t] += row::dot(simd, ds, &of.s[before.clone()]);
            row::add_scaled(simd, g.momentum[t], ds, &mut past[before]);
        }
    }
}
