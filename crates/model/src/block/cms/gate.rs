//! Which tokens a level learns from: those that surprise.

use super::{Cms, CmsTape, Unit, UnitTape};
use crate::config::{Surprise, SurpriseGate};
use hecate_core::Scalar;

/// Tokens over which the share of those learned from is a running mean.
const HORIZON: f64 = 1024.0;

/// What predictions say of each token of a slice; empty where nobody asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Predictions<'a, F> {
    /// Loss of the successor in nats.
    pub losses: &'a [F],
    /// Entropy in nats.
    pub entropies: &'a [F],
}

impl Cms {
    /// Takes out of the tape of a slice of `tokens` tokens what tokens below the threshold would have changed.
    pub fn shut_out<F: Scalar>(
        &self,
        tokens: usize,
        tape: &mut CmsTape<F>,
        predictions: Predictions<'_, F>,
        fast: &mut [F],
    ) {
        let Some(gate) = self.gate else { return };
        for (unit, own) in self.units.iter().zip(&mut tape.units) {
            unit.shut_out(gate, tokens, own, predictions, fast);
        }
    }

    /// Per level, or per perceptron that levels share: the first of its levels, and the share of tokens that it has
    /// learned from of late.
    pub fn written<'a, F: Scalar>(&'a self, fast: &'a [F]) -> impl Iterator<Item = (usize, f64)> + 'a {
        self.units.iter().filter_map(|unit| Some((unit.levels.start, fast[unit.written?].value())))
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
        let (share, new) = (open / tokens as f64, tokens as f64 / HORIZON);
        let old = fast[written].value();
        fast[written] = F::from_f64(old + (share - old) * new);
    }
}
