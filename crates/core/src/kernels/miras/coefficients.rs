//! What the start of a block and each of its gradients are worth after each of its tokens.
//!
//! Token `t` adds `b[t,i] G_i` to its step: `-rate_t` at its own place, or minus the gates of its window. Then
//!
//! ```text
//! S_t = n_t S_0 + sum_i s[t,i] G_i                                   s[t,i] = momentum_t s[t-1,i] + b[t,i]
//! Z_t = a_t Z_0 + m_t S_0 + (1 - a_t) target + sum_i r[t,i] G_i      r[t,i] = retain_t r[t-1,i] + s[t,i]
//! ```
//!
//! with `n_t = momentum_t n_{t-1}`, `m_t = retain_t m_{t-1} + n_t`, `a_t = retain_t a_{t-1}` from `n_0 = a_0 = 1`,
//! `m_0 = 0`. Without momentum `s = b` and `m = 0`. Where steps are taken once per chunk, at its end, only the decay
//! remains of the second line: `r = 0` and `m = 0`. Nothing is divided, so gates of exactly 0 and 1 are exact.

use super::pointwise::{add_scaled, inner};
use crate::simd::Isa;

/// Which of the recurrences a rule has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub momentum: bool,
    /// Whether steps reach the memory at every token.
    pub steps: bool,
}

/// The coefficients of a block of `n` tokens and `all` gradients. Matrices are `[n, all]`; scalars start with the
/// value before the first token.
pub(super) struct Coefficients<'a> {
    pub all: usize,
    pub b: &'a mut [f32],
    pub s: &'a mut [f32],
    pub r: &'a mut [f32],
    pub a: &'a mut [f32],
    pub m: &'a mut [f32],
    pub n: &'a mut [f32],
}

/// Gates of a block, one value per token; empty where the rule has none.
#[derive(Clone, Copy)]
pub(super) struct Gates<'a> {
    pub retain: &'a [f32],
    pub momentum: &'a [f32],
}

impl Gates<'_> {
    fn retain(&self, t: usize) -> f32 {
        self.retain.get(t).copied().unwrap_or(1.0)
    }
    fn momentum(&self, t: usize) -> f32 {
        self.momentum.get(t).copied().unwrap_or(0.0)
    }
}

impl Coefficients<'_> {
    /// Tokens of the block.
    pub fn tokens(&self) -> usize {
        self.a.len() - 1
    }

    /// Finds all from `b`.
    pub fn fill(&mut self, isa: Isa, kind: Kind, g: Gates<'_>) {
        let (all, tokens) = (self.all, self.tokens());
        self.s.copy_from_slice(self.b);
        self.r.fill(0.0);
        (self.a[0], self.m[0], self.n[0]) = (1.0, 0.0, 1.0);
        for t in 0..tokens {
            let (now, next) = (t * all, (t + 1) * all);
            let (retain, momentum) = (g.retain(t), g.momentum(t));
            self.a[t + 1] = retain * self.a[t];
            self.n[t + 1] = momentum * self.n[t];
            self.m[t + 1] = if kind.steps && kind.momentum { retain * self.m[t] + self.n[t + 1] } else { 0.0 };
            if t > 0 && kind.momentum {
                let (past, row) = self.s.split_at_mut(now);
                add_scaled(isa, momentum, &past[now - all..], &mut row[..all]);
            }
            if kind.steps {
                let (past, row) = self.r.split_at_mut(now);
                row[..all].copy_from_slice(&self.s[now..next]);
                if t > 0 {
                    add_scaled(isa, retain, &past[now - all..], &mut row[..all]);
                }
            }
        }
    }

    /// Row `t` of a matrix.
    pub fn row(&self, t: usize) -> std::ops::Range<usize> {
        t * self.all..(t + 1) * self.all
    }
}

/// Transpose of [`Coefficients::fill`]. In: gradients `d` of all coefficients but `b`. Out: `d.s` is that of `b`, and
/// those of the gates, added into; empty where the rule has none.
pub(super) fn backward(
    isa: Isa,
    kind: Kind,
    g: Gates<'_>,
    of: &Coefficients<'_>,
    d: &mut Coefficients<'_>,
    (dretain, dmomentum): (&mut [f32], &mut [f32]),
) {
    let (all, mut dot) = (of.all, 0.0);
    for t in (0..of.tokens()).rev() {
        let (now, before) = (t * all, t.saturating_sub(1) * all..t.saturating_sub(1) * all + all);
        let (retain, momentum) = (g.retain(t), g.momentum(t));
        let mut to_retain = d.a[t + 1] * of.a[t];
        d.a[t] += retain * d.a[t + 1];
        if kind.steps {
            let (past, row) = d.r.split_at_mut(now);
            add_scaled(isa, 1.0, &row[..all], &mut d.s[now..now + all]);
            if t > 0 {
                inner(isa, &row[..all], &of.r[before.clone()], &mut dot);
                to_retain += dot;
                add_scaled(isa, retain, &row[..all], &mut past[before.clone()]);
            }
        }
        if kind.momentum {
            if kind.steps {
                to_retain += d.m[t + 1] * of.m[t];
                d.m[t] += retain * d.m[t + 1];
                d.n[t + 1] += d.m[t + 1];
            }
            let mut to_momentum = d.n[t + 1] * of.n[t];
            d.n[t] += momentum * d.n[t + 1];
            if t > 0 {
                let (past, row) = d.s.split_at_mut(now);
                inner(isa, &row[..all], &of.s[before.clone()], &mut dot);
                to_momentum += dot;
                add_scaled(isa, momentum, &row[..all], &mut past[before]);
            }
            if let Some(d) = dmomentum.get_mut(t) {
                *d += to_momentum;
            }
        }
        if let Some(d) = dretain.get_mut(t) {
            *d += to_retain;
        }
    }
}
