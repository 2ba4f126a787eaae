//! Which tokens a level learns from: those that surprise.

use super::super::Call;
use super::{Cms, CmsTape, Unit, UnitTape};
use crate::config::{Surprise, SurpriseGate};
use hecate_core::Scalar;
use hecate_core::ops::Ops;
use hecate_core::rules::SurpriseGated;

/// What predictions say of each token of a slice; empty where nobody asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Predictions<'a, F> {
    /// Loss of the successor in nats.
    pub losses: &'a [F],
    /// Entropy in nats.
    pub entropies: &'a [F],
}

impl Cms {
    /// Takes out of the tape of a slice what tokens below the threshold would have changed, of levels that move.
    pub fn shut_out<O: Ops>(
        &self,
        call: &Call<'_, O>,
        tape: &mut CmsTape<O::F>,
        predictions: Predictions<'_, O::F>,
        fast: &mut [O::F],
    ) {
        let Some(gate) = self.gate else { return };
        for (unit, own) in self.units.iter().zip(&mut tape.units) {
            if unit.levels.clone().any(|level| self.moves(level, call)) {
                unit.shut_out(gate, call.tokens, own, predictions, fast);
            }
        }
    }

    /// Per level, or per perceptron that levels share: the first of its levels, and the share of tokens that it has
    /// learned from of late.
    pub fn written<'a, F: Scalar>(&'a self, fast: &'a [F]) -> impl Iterator<Item = (usize, f64)> + 'a {
        let share = |at: usize| SurpriseGated::share(&fast[at..at + 2]);
        self.units.iter().filter_map(move |unit| Some((unit.levels.start, share(unit.written?))))
    }
}

impl Unit {
    fn shut_out<F: Scalar>(
        &self,
        gate: SurpriseGate,
        tokens: usize,
        own: &mut UnitTape<F>,
        predictions: Predictions<'_, F>,
        fast: &mut [F],
    ) {
        let Some(written) = self.written else { return };
        let (width, up) = (own.dout.len() / tokens, own.dup.len() / tokens);
        let mut open = 0.0;
        for (t, (dout, dup)) in own.dout.chunks_exact_mut(width).zip(own.dup.chunks_exact_mut(up)).enumerate() {
            let surprise = match gate.signal {
                Surprise::Norm => dout.iter().map(|d| d.value() * d.value()).sum::<f64>().sqrt(),
                Surprise::Loss => predictions.losses[t].value(),
                Surprise::Entropy => predictions.entropies[t].value(),
            };
            if surprise < gate.threshold {
                dout.fill(F::zero());
                dup.fill(F::zero());
            } else {
                open += 1.0;
            }
        }
        let (share, new) = (open / tokens as f64, tokens as f64 / SurpriseGated::HORIZON);
        // Beside it the same mean of ones, so that a young one is a mean too.
        for (at, value) in [(written, share), (written + 1, 1.0)] {
            let old = fast[at].value();
            fast[at] = F::from_f64(old + (value - old) * new);
        }
    }
}
