//! Gradients through tokens between which weights changed.

use super::super::Call;
use super::super::fast::Change;
use super::{Again, Cms, Gradients, Unit, UnitTape, next_change};
use crate::pool::Pool;
use hecate_core::Scalar;
use hecate_core::ops::{LinearShape, Ops};
use std::ops::Range;

/// Tokens that are gone through with the weights of the first of them, what changed in between added row by row: longer
/// groups have more pairs of rows, shorter ones read all weights more often.
const GROUP: usize = 64;

/// One unit on the way back.
struct Back<'a, F> {
    /// What the passes over the slices left, of the whole call.
    own: &'a UnitTape<F>,
    dout: &'a [F],
    dup: &'a mut [F],
    dx: &'a mut [F],
}

impl Cms {
    /// The transpose of a unit over tokens that have run through while its weights changed. The changes are made once more,
    /// from the start of the call, so that every token meets the weights that it has met.
    pub(super) fn replay_backward<O: Ops>(
        &self,
        unit: &Unit,
        call: &Call<'_, O>,
        normed: &[O::F],
        own: &UnitTape<O::F>,
        dout: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        again: &mut Again<O::F>,
        pool: &mut Pool<O::F>,
    ) {
        let learned = self.added_by_steps(unit, call, own, normed, &again.fast, pool);
        let opened = self.opened(unit, call, own, &again.fast);
        let mut dup = pool.zeros(own.mlp.up.len());
        let mut back = Back { own, dout, dup: &mut dup, dx };
        let stretches = self.stretches(unit, call);
        let mut at = 0;
        while at < stretches.len() {
            let group = self.group(unit, &stretches[at..], &again.fast);
            match &stretches[at..at + group] {
                [one] => self.stretch_backward(unit, call, one.clone(), &mut back, again, pool),
                several => self.group_backward(unit, call, several, &mut back, again, pool),
            }
            at += group;
        }
        call.weight_backward(&unit.mlp.down, &own.mlp.hidden, dout, grads);
        call.weight_backward(&unit.mlp.up, normed, &dup, grads);
        if let Some(opened) = opened {
            self.openings_backward(unit, call, own, opened, [normed, &dup, dout], grads, pool);
        }
        if let Some(added) = learned {
            self.rate_backward(unit, call, added, &dup, dout, grads, pool);
        }
        pool.give(dup);
    }

    /// The stretches of a call's tokens between changes of a unit.
    pub(super) fn stretches<O: Ops>(&self, unit: &Unit, call: &Call<'_, O>) -> Vec<Range<usize>> {
        let periods: Vec<u64> = self.unit_periods(unit, call.pace).collect();
        let (mut from, mut list) = (0, Vec::new());
        while from < call.tokens {
            let next = next_change(&periods, call.pos + from as u64) - call.pos;
            let to = usize::try_from(next).unwrap_or(usize::MAX).min(call.tokens);
            list.push(from..to);
            from = to;
        }
        list
    }

    /// How many of the stretches to come are gone through as one: those at whose ends one level takes a step, and nothing
    /// else happens.
    fn group<F: Scalar>(&self, unit: &Unit, stretches: &[Range<usize>], fast: &[F]) -> usize {
        let level = &self.levels[unit.levels.start];
        let alone = unit.levels.len() == 1 && self.slower(unit).is_none();
        let plain = alone && level.config.decay == 0.0 && unit.ring.is_none() && unit.frequency.is_none();
        // A slow copy moves at every change; what an earlier call gathered belongs to the first one alone.
        let plain = plain && unit.fast.as_ref().is_some_and(|[up, _]| !up.consolidates());
        if !plain || unit.waits(fast) {
            return 1;
        }
        let from = stretches[0].start;
        stretches.iter().take_while(|s| s.end - from <= GROUP).count().max(1)
    }

    /// One stretch, with its weights as they are.
    fn stretch_backward<O: Ops>(
        &self,
        unit: &Unit,
        call: &Call<'_, O>,
        rows: Range<usize>,
        back: &mut Back<'_, O::F>,
        again: &mut Again<O::F>,
        pool: &mut Pool<O::F>,
    ) {
        let n = call.tokens;
        let at = |all: usize| rows.start * (all / n)..rows.end * (all / n);
        let own = call.with(rows.len(), call.pos + rows.start as u64);
        let weights = unit.weights(&Call { fast: &again.sums, ..own });
        let (up, down) = (at(back.dup.len()), at(back.dout.len()));
        let (dup, dx) = (&mut back.dup[up.clone()], Some(&mut back.dx[down.clone()]));
        unit.mlp.input_backward(&own, weights, &back.own.mlp.up[up], &back.dout[down], dup, dx, pool);
        if rows.end < n {
            let taken = of(back.own).rows(rows.start, rows.end, n);
            self.take_in(unit, &own, taken, &mut again.fast, &mut again.sums, pool);
        }
    }

    /// Several stretches with the weights of the first: a change by `-rate x^T d` takes `rate (dy d^T) x` from `dy w^T`,
    /// for the rows behind it.
    fn group_backward<O: Ops>(
        &self,
        unit: &Unit,
        call: &Call<'_, O>,
        stretches: &[Range<usize>],
        back: &mut Back<'_, O::F>,
        again: &mut Again<O::F>,
        pool: &mut Pool<O::F>,
    ) {
        let (n, level) = (call.tokens, &self.levels[unit.levels.start]);
        let rows = stretches[0].start..stretches[stretches.len() - 1].end;
        let own = call.with(rows.len(), call.pos + rows.start as u64);
        let all = of(back.own).rows(rows.start, rows.end, n);
        // Size of the change in which each row takes part, and the row from which it shows.
        let mut parts: Vec<(O::F, usize)> = Vec::with_capacity(rows.len());
        for stretch in stretches {
            let due = (call.pos + stretch.end as u64).is_multiple_of(level.period);
            let rate = if due { self.next_step(level, O::F::one(), &own, &mut again.fast).rate } else { O::F::zero() };
            parts.extend(stretch.clone().map(|_| (rate, stretch.end - rows.start)));
        }
        let [up_weight, down_weight] = unit.weights(&Call { fast: &again.sums, ..own });
        let at = |all: usize| rows.start * (all / n)..rows.end * (all / n);
        let (up, down) = (at(back.dup.len()), at(back.dout.len()));
        let (dout, dup) = (&back.dout[down.clone()], &mut back.dup[up.clone()]);
        let mut dhidden = pool.zeros(all.hidden.len());
        own.product_backward(down_weight, dout, &mut dhidden);
        take_changes(&own, dout, all.dout, all.hidden, &parts, &mut dhidden, pool);
        unit.mlp.point_backward(&own, &back.own.mlp.up[up], &dhidden, dup);
        let dx = &mut back.dx[down];
        own.product_backward(up_weight, dup, dx);
        take_changes(&own, dup, all.dup, all.x, &parts, dx, pool);
        pool.give(dhidden);
        if rows.end < n {
            let Some([up, down]) = &unit.fast else { return };
            let mut scaled = pool.take(all.dup.len().max(all.dout.len()));
            for (matrix, x, d) in [(up, all.x, all.dup), (down, all.hidden, all.dout)] {
                let width = d.len() / rows.len();
                for ((row, d), (rate, _)) in scaled.chunks_exact_mut(width).zip(d.chunks_exact(width)).zip(&parts) {
                    row.iter_mut().zip(d).for_each(|(s, &d)| *s = *rate * d);
                }
                let by = Change { rate: O::F::one(), decay: 0.0 };
                matrix.change_at_once(&own, x, &scaled[..d.len()], by, &mut again.fast, &mut again.sums, pool);
            }
            pool.give(scaled);
        }
    }
}

/// What changes a unit, over a whole call.
fn of<F>(own: &UnitTape<F>) -> Gradients<'_, F> {
    Gradients { x: &own.x, hidden: &own.mlp.hidden, out: &own.out, dup: &own.dup, dout: &own.dout }
}

/// `dx_t -= sum_s rate_s <dy_t, d_s> x_s` over the rows s whose change shows at row t.
fn take_changes<O: Ops>(
    call: &Call<'_, O>,
    dy: &[O::F],
    d: &[O::F],
    x: &[O::F],
    parts: &[(O::F, usize)],
    dx: &mut [O::F],
    pool: &mut Pool<O::F>,
) {
    let n = parts.len();
    let (mut pairs, mut change) = (pool.take(n * n), pool.take(dx.len()));
    call.ops.linear_transposed_forward(LinearShape { rows: n, inner: d.len() / n, outer: n }, dy, d, &mut pairs);
    for (t, row) in pairs.chunks_exact_mut(n).enumerate() {
        for (pair, &(rate, from)) in row.iter_mut().zip(parts) {
            *pair = if from <= t { -rate * *pair } else { O::F::zero() };
        }
    }
    call.product(x, &pairs, &mut change);
    super::super::add(dx, &change);
    pool.give(pairs);
    pool.give(change);
}
