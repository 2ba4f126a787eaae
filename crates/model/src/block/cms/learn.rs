//! How a level changes.

use super::super::Call;
use super::super::fast::Change;
use super::{Cms, CmsTape, Gradients, Level, Unit, UnitTape, next_change};
use crate::config::Objective;
use crate::pool::{Pool, fit};
use hecate_core::Scalar;
use hecate_core::ops::Ops;

impl Cms {
    /// After a pass along columns over a slice: gradients of levels with an objective of their own.
    pub fn look_at_itself<O: Ops>(&self, call: &Call<'_, O>, tape: &mut CmsTape<O::F>, pool: &mut Pool<O::F>) {
        if self.objective != Objective::LocalL2 {
            return;
        }
        for (stage, side) in self.stages.iter().zip(&tape.sides) {
            for u in stage.units.clone() {
                self.units[u].local(call, &side.normed, &mut tape.units[u], pool);
            }
        }
    }

    /// Takes in the tape of a slice, and changes what is due after it.
    pub fn learn<O: Ops>(
        &self,
        call: &Call<'_, O>,
        tape: &CmsTape<O::F>,
        fast: &mut [O::F],
        sums: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) {
        for (stage, side) in self.stages.iter().zip(&tape.sides) {
            for u in stage.units.clone() {
                let UnitTape { mlp, out, dup, dout, .. } = &tape.units[u];
                let gradients = Gradients { x: &side.normed, hidden: &mlp.hidden, out, dup, dout };
                self.take_in(&self.units[u], call, gradients, fast, sums, pool);
            }
        }
    }

    /// Appends the rows of a slice to the tape of the whole call.
    pub fn collect<F: Scalar>(&self, slice: &CmsTape<F>, whole: &mut CmsTape<F>, first: bool) {
        whole.units.resize_with(self.units.len(), UnitTape::default);
        whole.played = true;
        for (stage, side) in self.stages.iter().zip(&slice.sides) {
            for u in stage.units.clone() {
                let (from, to) = (&slice.units[u], &mut whole.units[u]);
                for (from, to) in [
                    (&side.normed, &mut to.x),
                    (&from.mlp.up, &mut to.mlp.up),
                    (&from.mlp.hidden, &mut to.mlp.hidden),
                    (&from.out, &mut to.out),
                    (&from.dup, &mut to.dup),
                    (&from.dout, &mut to.dout),
                ] {
                    if first {
                        to.clear();
                    }
                    to.extend_from_slice(from);
                }
                if first {
                    to.taken = 0;
                }
            }
        }
    }

    /// [`Cms::learn`] from the rows collected so far, `tokens` of them in a call that begins where `call` does. A unit takes
    /// them in when something of it is due, or at the `last` of them: gradients that only gather can wait.
    pub fn learn_collected<O: Ops>(
        &self,
        call: &Call<'_, O>,
        whole: &mut CmsTape<O::F>,
        last: bool,
        fast: &mut [O::F],
        sums: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) {
        for (unit, own) in self.units.iter().zip(&mut whole.units) {
            let periods: Vec<u64> = self.unit_periods(unit, call.pace).collect();
            let (begin, end) = (call.pos + own.taken as u64, call.pos + call.tokens as u64);
            if !last && next_change(&periods, begin) > end {
                continue;
            }
            let UnitTape { x, mlp, out, dup, dout, .. } = &*own;
            let all = Gradients { x, hidden: &mlp.hidden, out, dup, dout };
            let stretch = call.with(call.tokens - own.taken, begin);
            self.take_in(unit, &stretch, all.rows(own.taken, call.tokens, call.tokens), fast, sums, pool);
            own.taken = call.tokens;
        }
    }

    /// Whether a level moves in a call.
    pub(super) fn moves(&self, l: usize, call: &Call<'_, impl Ops>) -> bool {
        self.levels[l].moves(call.pace) && call.access.writes(call.block, l)
    }

    /// Takes in the gradients of a call's tokens, between which nothing of the unit changes, and changes what is due after
    /// them.
    pub(super) fn take_in<O: Ops>(
        &self,
        unit: &Unit,
        call: &Call<'_, O>,
        gradients: Gradients<'_, O::F>,
        fast: &mut [O::F],
        sums: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) {
        let (Some([up, down]), l) = (&unit.fast, unit.levels.start) else { return };
        let (level, due) = (&self.levels[l], self.due(unit, call, gradients.x, fast));
        // Where nothing waits from before, what is gathered goes straight into the weights: the same numbers.
        let whole = unit.levels.len() == 1 && !unit.waits(fast) && unit.ring.is_none() && self.moves(l, call);
        if let (Some(due), true) = (due, whole) {
            let by = self.next_step(level, due, call, fast);
            up.change_at_once(call, gradients.x, gradients.dup, by, fast, sums, pool);
            down.change_at_once(call, gradients.hidden, gradients.dout, by, fast, sums, pool);
        } else {
            self.gather(unit, call, gradients, fast, pool);
            if let (Some(ring), true) = (&unit.ring, self.moves(l, call)) {
                ring.keep(gradients, call.tokens, fast);
                if due.is_some() {
                    self.learn_again(unit, ring, call, fast, sums, pool);
                }
            }
            self.change(unit, due, call, fast, sums);
        }
        self.restart(unit, call, fast, sums);
    }

    /// Adds gradients to those that a unit has gathered, for the levels that move.
    fn gather<O: Ops>(
        &self,
        unit: &Unit,
        call: &Call<'_, O>,
        gradients: Gradients<'_, O::F>,
        fast: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) {
        let Some([up, down]) = &unit.fast else { return };
        let Gradients { x, hidden, dup, dout, .. } = gradients;
        let moving = unit.levels.clone().filter(|&l| self.moves(l, call)).count();
        if moving > 0 {
            fast[unit.waiting] = O::F::one();
        }
        if moving == unit.levels.len() {
            call.add_outer(x, dup, &mut fast[up.gathered.clone()]);
            call.add_outer(hidden, dout, &mut fast[down.gathered.clone()]);
        } else if moving > 0 {
            // Hidden units of levels that stand still add nothing.
            let (mut own_dup, mut own_hidden) = (pool.take(dup.len()), pool.take(hidden.len()));
            own_dup.copy_from_slice(dup);
            own_hidden.copy_from_slice(hidden);
            for l in unit.levels.clone().filter(|&l| !self.moves(l, call)) {
                let [ups, downs] = &self.levels[l].patches;
                for row in own_dup.chunks_exact_mut(unit.mlp.up_width()) {
                    ups.iter().for_each(|patch| row[patch.cols.clone()].fill(O::F::zero()));
                }
                for row in own_hidden.chunks_exact_mut(unit.mlp.hidden) {
                    downs.iter().for_each(|patch| row[patch.rows.clone()].fill(O::F::zero()));
                }
            }
            call.add_outer(x, &own_dup, &mut fast[up.gathered.clone()]);
            call.add_outer(&own_hidden, dout, &mut fast[down.gathered.clone()]);
            pool.give(own_dup);
            pool.give(own_hidden);
        }
    }

    /// Whether the first level of a unit is due after the call, and how much of a step it takes then: all of it, with the
    /// derivative of a gate's opening where that decides. `x` is what the unit took.
    fn due<O: Ops>(&self, unit: &Unit, call: &Call<'_, O>, x: &[O::F], fast: &mut [O::F]) -> Option<O::F> {
        match &unit.frequency {
            Some(gate) if self.moves(unit.levels.start, call) => {
                gate.take(x, &mut fast[gate.place()]);
                let end = call.pos + call.tokens as u64;
                let opening = gate.opens(end, call.params, &fast[gate.place()])?;
                fast[gate.place()].fill(O::F::zero());
                Some(O::F::straight_through(O::F::one(), opening))
            }
            _ => is_due(&self.levels[unit.levels.start], call).then(O::F::one),
        }
    }

    /// Changes the levels of a unit that are due after the call, fastest first; `due` is the first one's.
    fn change<O: Ops>(&self, unit: &Unit, due: Option<O::F>, call: &Call<'_, O>, fast: &mut [O::F], sums: &mut [O::F]) {
        let Some(matrices) = &unit.fast else { return };
        for l in unit.levels.clone().filter(|&l| self.moves(l, call)) {
            let level = &self.levels[l];
            let due = if l == unit.levels.start { due } else { is_due(level, call).then(O::F::one) };
            let Some(due) = due else { continue };
            let by = self.next_step(level, due, call, fast);
            for (matrix, patches) in matrices.iter().zip(&level.patches) {
                patches.iter().for_each(|patch| matrix.change(patch, by, call.params, fast, sums));
            }
            if unit.levels.len() == 1 {
                fast[unit.waiting] = O::F::zero();
            }
        }
    }

    /// Starts a unit anew if the next slower level is due after the call.
    fn restart<O: Ops>(&self, unit: &Unit, call: &Call<'_, O>, fast: &mut [O::F], sums: &mut [O::F]) {
        let (Some(matrices), Some(slower)) = (&unit.fast, self.slower(unit)) else { return };
        if is_due(slower, call) && unit.levels.clone().any(|l| self.moves(l, call)) {
            let rate = slower.rate(call.params, call.pace);
            matrices.iter().for_each(|m| m.restart(rate, call.params, fast, sums));
            fast[unit.waiting] = O::F::zero();
        }
    }

    /// Counts a change of a level, `due` of a whole one, and says how large it is.
    pub(super) fn next_step<O: Ops>(
        &self,
        level: &Level,
        due: O::F,
        call: &Call<'_, O>,
        fast: &mut [O::F],
    ) -> Change<O::F> {
        let count = &mut fast[level.count];
        *count += O::F::one();
        let warm = O::F::from_f64((count.value() / level.config.warmup.max(1) as f64).min(1.0));
        Change { rate: due * warm * level.rate(call.params, call.pace), decay: level.config.decay }
    }
}

/// Whether a level is due after a call.
pub(super) fn is_due(level: &Level, call: &Call<'_, impl Ops>) -> bool {
    (call.pos + call.tokens as u64).is_multiple_of(level.period)
}

impl Unit {
    /// Whether gradients wait for a change: of this period, or of an earlier one that the unit was not allowed to end.
    pub(super) fn waits<F: Scalar>(&self, fast: &[F]) -> bool {
        fast[self.waiting] != F::zero()
    }

    /// Leaves in the tape the gradients of half the mean squared distance of the output from the input.
    fn local<O: Ops>(&self, call: &Call<'_, O>, normed: &[O::F], own: &mut UnitTape<O::F>, pool: &mut Pool<O::F>) {
        let by = O::F::from_f64(call.tokens as f64 / normed.len() as f64);
        let UnitTape { mlp, out, dup, dout, .. } = own;
        dout.clear();
        dout.extend(out.iter().zip(normed).map(|(&y, &x)| by * (y - x)));
        fit(dup, mlp.up.len()).fill(O::F::zero());
        self.mlp.input_backward(call, self.weights(call), &mlp.up, dout, dup, None, pool);
    }
}
