//! Gradients through changes: the parts of it that are a continuum memory's own. `unroll.rs` of the model puts them together.

use super::super::Call;
use super::super::fast::{Change, Fast};
use super::{Cms, Known, Pace, Unit, UnitTape};
use crate::pool::Pool;
use hecate_core::Scalar;
use hecate_core::ops::Ops;

/// What the changes behind a token ask of what it was learned from it.
pub(crate) struct Asked {
    /// The gradient of the loss with respect to what the state has gathered, and the rest of the weights that a sequence
    /// changes; laid out like [`State::fast`](crate::State).
    pub fast: Vec<f64>,
    /// The direction along which gathered gradients give that of a learned rate; the same layout.
    pub rates: Vec<f64>,
}

impl Unit {
    /// The transpose of a unit over tokens whose weights are known. Adds their gradients too.
    pub(super) fn known_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        normed: &[O::F],
        own: &UnitTape<O::F>,
        dout: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        known: &mut [Known<O::F>],
        pool: &mut Pool<O::F>,
    ) {
        let mut dup = pool.zeros(own.mlp.up.len());
        for Known { rows, sums, grads } in known {
            let at = |all: usize| rows.start * (all / call.tokens)..rows.end * (all / call.tokens);
            let part = call.with(rows.len(), call.pos + rows.start as u64);
            let weights = self.weights(&Call { fast: sums, ..part });
            let (up, down, hidden) = (at(dup.len()), at(dout.len()), at(own.mlp.hidden.len()));
            let dx = Some(&mut dx[down.clone()]);
            self.mlp.input_backward(
                &part,
                weights,
                &own.mlp.up[up.clone()],
                &dout[down.clone()],
                &mut dup[up.clone()],
                dx,
                pool,
            );
            if let Some([first, second]) = &self.fast {
                part.add_outer(&normed[down.clone()], &dup[up], &mut grads[first.sum.clone()]);
                part.add_outer(&own.mlp.hidden[hidden], &dout[down], &mut grads[second.sum.clone()]);
            }
        }
        call.weight_backward(&self.mlp.down, &own.mlp.hidden, dout, grads);
        call.weight_backward(&self.mlp.up, normed, &dup, grads);
        pool.give(dup);
    }

    /// Whether anything is learned from a token of a call that has run through.
    fn learns_from<F: Scalar>(&self, own: &UnitTape<F>, tokens: usize, t: usize) -> bool {
        let row = |x: &[F]| x[t * (x.len() / tokens)..][..x.len() / tokens].iter().any(|x| x.value() != 0.0);
        row(&own.dout) || row(&own.dup)
    }
}

impl Cms {
    /// Goes back over what happens behind the token before `end`; `fast` is the state's from the start of the call at `pos`.
    pub fn changes_backward(&self, params: &[f64], fast: &[f64], [pos, end]: [u64; 2], pace: Pace, asked: &mut Asked) {
        for unit in &self.units {
            let (Some(matrices), level) = (&unit.fast, &self.levels[unit.levels.start]) else { continue };
            if !level.moves(pace) {
                continue;
            }
            if let Some(slower) = self.slower(unit).filter(|slower| end.is_multiple_of(slower.period)) {
                let rate = slower.rate(params, pace);
                matrices.iter().for_each(|m| m.restart_backward(rate, &mut asked.fast));
                matrices.iter().for_each(|m| asked.rates[m.gathered.clone()].fill(0.0));
            }
            if end.is_multiple_of(level.period) {
                let count = fast[level.count] + (end / level.period - pos / level.period) as f64;
                let warm = (count / level.config.warmup.max(1) as f64).min(1.0);
                let by = Change { rate: warm * level.rate(params, pace), decay: level.config.decay };
                for m in matrices {
                    let later = asked.fast[m.delta()].iter().map(|d| -warm / level.over * d);
                    asked.rates[m.gathered.clone()].iter_mut().zip(later).for_each(|(r, d)| *r = d);
                    m.change_backward(by, &mut asked.fast);
                }
            }
        }
    }

    /// Whether anything is asked of what is learned from a token.
    pub fn asks(&self, asked: &Asked, learns: &[bool]) -> bool {
        let mut matrices = self.learning_matrices(learns);
        matrices.any(|m| asked.fast[m.gathered.clone()].iter().any(|&by| by != 0.0))
    }

    /// Moves the weights of one token in `sums` along what is asked of what is learned from it, by the derivative that a dual
    /// number carries.
    pub fn ask<F: Scalar>(&self, asked: &Asked, learns: &[bool], sums: &mut [F], along: impl Fn(f64) -> F) {
        for m in self.learning_matrices(learns) {
            let by = &asked.fast[m.gathered.clone()];
            sums[m.sum.clone()].iter_mut().zip(by).for_each(|(sum, &by)| *sum += along(by));
        }
    }

    /// The matrices of the units that learn from a token.
    fn learning_matrices<'a>(&'a self, learns: &'a [bool]) -> impl Iterator<Item = &'a Fast> {
        let units = self.units.iter().zip(learns).filter(|(_, learns)| **learns);
        units.flat_map(|(unit, _)| unit.fast.iter().flatten())
    }

    /// Adds the gradients of weights that some tokens have met, as `value` has it, to that of what the sequence has added.
    pub fn add_to_delta<F: Scalar>(&self, grads: &[F], value: impl Fn(F) -> f64, dfast: &mut [f64]) {
        for m in self.units.iter().flat_map(|unit| unit.fast.iter().flatten()) {
            dfast[m.delta()].iter_mut().zip(&grads[m.sum.clone()]).for_each(|(d, &g)| *d += value(g));
        }
    }

    /// Adds what a token, whose weights have these gradients, gives learned rates.
    pub fn rates_backward<F: Scalar>(
        &self,
        params: &[f64],
        asked: &Asked,
        learns: &[bool],
        own: &[F],
        grads: &mut [f64],
    ) {
        for (unit, _) in self.units.iter().zip(learns).filter(|(_, learns)| **learns) {
            let Some(at) = self.levels[unit.levels.start].learned else { continue };
            for m in unit.fast.iter().flatten() {
                let pairs = asked.rates[m.gathered.clone()].iter().zip(&own[m.sum.clone()]);
                grads[at] += params[at].sigmoid() * pairs.map(|(r, g)| r * g.value()).sum::<f64>();
            }
        }
    }

    /// Adds what earlier calls have gathered gives learned rates; `fast` is the state's from the start of the call.
    pub fn rates_from_before(&self, params: &[f64], asked: &Asked, fast: &[f64], grads: &mut [f64]) {
        for unit in &self.units {
            let Some(at) = self.levels[unit.levels.start].learned else { continue };
            for m in unit.fast.iter().flatten() {
                let pairs = asked.rates[m.gathered.clone()].iter().zip(&fast[m.gathered.clone()]);
                grads[at] += params[at].sigmoid() * pairs.map(|(r, g)| r * g).sum::<f64>();
            }
        }
    }

    /// Which units learn from each token of a call that has run through.
    pub fn learning<F: Scalar>(&self, tape: &super::CmsTape<F>, tokens: usize) -> Vec<Vec<bool>> {
        let units = || self.units.iter().zip(&tape.units);
        (0..tokens).map(|t| units().map(|(unit, own)| unit.learns_from(own, tokens, t)).collect()).collect()
    }
}
