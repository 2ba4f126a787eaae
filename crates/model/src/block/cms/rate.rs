//! Gradients of learned rates.
//!
//! With what was gathered taken for constant, all that a level has added since the call began is proportional to its rate,
//! decay and warm-up included. So the derivative by the rate's logarithm is that of the loss along `delta`: over all tokens
//! `<d out, delta_t^T in>`, where `delta_t^T in` is what the level gave less what it gives without its changes.

use super::super::Call;
use super::learn::is_due;
use super::{Cms, Level, Unit, UnitTape};
use crate::pool::Pool;
use hecate_core::Scalar;
use hecate_core::ops::Ops;

impl Cms {
    /// The level of a unit whose rate is learned and moves in a call.
    fn learned(&self, unit: &Unit, call: &Call<'_, impl Ops>) -> Option<(usize, &Level)> {
        let level = &self.levels[unit.levels.start];
        level.learned.filter(|_| level.moves(call.pace)).map(|at| (at, level))
    }

    /// What the steps of a call have added to the outputs of both matrices, if a rate is learned; `fast` is from before the
    /// call.
    pub(super) fn added_by_steps<O: Ops>(
        &self,
        unit: &Unit,
        call: &Call<'_, O>,
        own: &UnitTape<O::F>,
        normed: &[O::F],
        fast: &[O::F],
        pool: &mut Pool<O::F>,
    ) -> Option<[Vec<O::F>; 2]> {
        let ((_, level), matrices) = (self.learned(unit, call)?, unit.fast.as_ref()?);
        let kept = self.kept(unit, level, call);
        let mut added = |m: usize, x: &[O::F], y: &[O::F]| {
            let [theta, before] = matrices[m].parts(call.params, fast);
            let (mut without, cols) = (pool.take(y.len()), y.len() / call.tokens);
            call.product(theta, x, &mut without);
            let mut out = pool.take(y.len());
            out.iter_mut().zip(y.iter().zip(&without)).for_each(|(out, (&y, &w))| *out = y - w);
            if before.iter().any(|d| d.value() != 0.0) {
                call.product(before, x, &mut without);
                for ((out, without), &kept) in out.chunks_exact_mut(cols).zip(without.chunks_exact(cols)).zip(&kept) {
                    out.iter_mut().zip(without).for_each(|(out, &w)| *out -= kept * w);
                }
            }
            pool.give(without);
            out
        };
        Some([added(0, normed, &own.mlp.up), added(1, &own.mlp.hidden, &own.out)])
    }

    /// The share of what was added before a call that each of its tokens still meets.
    fn kept<O: Ops>(&self, unit: &Unit, level: &Level, call: &Call<'_, O>) -> Vec<O::F> {
        let mut share = 1.0;
        let mut kept = Vec::with_capacity(call.tokens);
        for stretch in self.stretches(unit, call) {
            kept.extend(stretch.clone().map(|_| O::F::from_f64(share)));
            let until = call.with(stretch.len(), call.pos + stretch.start as u64);
            if is_due(level, &until) {
                share *= 1.0 - level.config.decay;
            }
            if self.slower(unit).is_some_and(|slower| is_due(slower, &until)) {
                share = 0.0;
            }
        }
        kept
    }

    /// Adds the gradient of a learned rate; `added` comes from [`Cms::added_by_steps`].
    pub(super) fn rate_backward<O: Ops>(
        &self,
        unit: &Unit,
        call: &Call<'_, O>,
        added: [Vec<O::F>; 2],
        dup: &[O::F],
        dout: &[O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) {
        let Some((at, _)) = self.learned(unit, call) else { return };
        let mut along = O::F::zero();
        for (added, d) in added.into_iter().zip([dup, dout]) {
            along += added.iter().zip(d).map(|(&a, &d)| a * d).sum::<O::F>();
            pool.give(added);
        }
        let raw = call.params[at];
        // d ln softplus(raw) / d raw; where the rate has run into zero nothing was added.
        let rate = raw.softplus();
        if rate.value() > 0.0 {
            grads[at] += along * raw.sigmoid() / rate;
        }
    }
}
