//! Learning again: pairs of what a perceptron took and what it should have given, kept in the state.

use super::super::{Builder, Call};
use super::{Cms, Gradients, Unit};
use crate::config::Replay;
use crate::pool::Pool;
use crate::rng::Rng;
use hecate_core::Scalar;
use hecate_core::ops::Ops;
use std::ops::Range;

/// The newest pairs of one perceptron.
pub(super) struct Ring {
    config: Replay,
    /// Tells the draws of different perceptrons apart.
    name: String,
    /// In [`State::fast`](crate::State): `[size, width]` each, and how far apart output and target were, `[size]`.
    inputs: Range<usize>,
    targets: Range<usize>,
    lengths: Range<usize>,
    /// How many there are, and where the next one goes.
    filled: usize,
    next: usize,
}

impl Ring {
    pub fn new(b: &mut Builder<'_>, part: &str, config: Replay) -> Self {
        let name = format!("{}.{part}.replay", b.prefix);
        let pairs = vec![config.size, b.width];
        let mut add = |what: &str, shape: Vec<usize>| b.state.add_fast(format!("{name}.{what}"), shape);
        let (inputs, targets) = (add("inputs", pairs.clone()), add("targets", pairs));
        let lengths = add("lengths", vec![config.size]);
        let mut count = |what: &str, most: usize| b.state.add_count(format!("{name}.{what}"), most as u64);
        let (filled, next) = (count("filled", config.size), count("next", config.size - 1));
        Self { config, name, inputs, targets, lengths, filled, next }
    }

    /// Keeps the pairs of some tokens: inputs, and outputs moved against their gradients. A token without a gradient, which
    /// a gate shut out or whose target is ignored, has nothing to teach: its pair would hold the unit to what it is.
    pub fn keep<F: Scalar>(&self, gradients: Gradients<'_, F>, tokens: usize, fast: &mut [F]) {
        let (size, width) = (self.config.size, gradients.x.len() / tokens);
        let rows = gradients.x.chunks_exact(width).zip(gradients.out.chunks_exact(width));
        let rows = rows.zip(gradients.dout.chunks_exact(width)).filter(|(_, d)| d.iter().any(|d| d.value() != 0.0));
        let count = rows.clone().count();
        let mut at = fast[self.next].value() as usize;
        for ((x, out), d) in rows.skip(count.saturating_sub(size)) {
            let inputs = &mut fast[self.inputs.start + at * width..][..width];
            inputs.iter_mut().zip(x).for_each(|(to, x)| *to = x.detach());
            let targets = &mut fast[self.targets.start + at * width..][..width];
            targets.iter_mut().zip(out.iter().zip(d)).for_each(|(to, (&y, &d))| *to = (y - d).detach());
            fast[self.lengths.start + at] = length(d).detach();
            at = (at + 1) % size;
        }
        let filled = (fast[self.filled].value() as usize + count).min(size);
        (fast[self.next], fast[self.filled]) = (F::from_f64(at as f64), F::from_f64(filled as f64));
    }

    /// The pairs that are drawn after the token before `pos`; none while there are none.
    fn draw<F: Scalar>(&self, pos: u64, fast: &[F]) -> Vec<usize> {
        let filled = fast[self.filled].value() as u64;
        if filled == 0 {
            return Vec::new();
        }
        let mut rng = Rng::new(self.config.seed ^ pos, &self.name);
        (0..self.config.draw).map(|_| (rng.bits() % filled) as usize).collect()
    }
}

/// Euclidean length.
fn length<F: Scalar>(row: &[F]) -> F {
    row.iter().map(|&x| x * x).sum::<F>().sqrt()
}

impl Cms {
    /// Adds to the gradients that a unit has gathered those of drawn pairs: of half the squared distance from what the unit
    /// should have given. Their mean counts like that of the period's tokens, times the weight. However far the unit has gone
    /// since, a pair pulls no harder than when it came: steps that grow with the distance would overshoot by more each time.
    pub(super) fn learn_again<O: Ops>(
        &self,
        unit: &Unit,
        ring: &Ring,
        call: &Call<'_, O>,
        fast: &mut [O::F],
        sums: &[O::F],
        pool: &mut Pool<O::F>,
    ) {
        let Some([up, down]) = &unit.fast else { return };
        let drawn = ring.draw(call.pos + call.tokens as u64, fast);
        if drawn.is_empty() {
            return;
        }
        let (n, width) = (drawn.len(), ring.inputs.len() / ring.config.size);
        let call = Call { fast: sums, ..call.with(n, call.pos) };
        let (mut x, mut out) = (pool.take(n * width), pool.take(n * width));
        for (row, &i) in x.chunks_exact_mut(width).zip(&drawn) {
            row.copy_from_slice(&fast[ring.inputs.start + i * width..][..width]);
        }
        let (mut tape, weights) = (Default::default(), unit.weights(&call));
        unit.mlp.forward(&call, weights, &x, &mut tape, &mut out);
        let period = self.levels[unit.levels.start].period as f64;
        let by = O::F::from_f64(ring.config.weight * period / n as f64);
        for (row, &i) in out.chunks_exact_mut(width).zip(&drawn) {
            let target = &fast[ring.targets.start + i * width..][..width];
            row.iter_mut().zip(target).for_each(|(y, &target)| *y -= target);
            let (now, then) = (length(row), fast[ring.lengths.start + i]);
            let by = if now > then { by * then / now } else { by };
            row.iter_mut().for_each(|d| *d *= by);
        }
        let mut dup = pool.zeros(tape.up.len());
        unit.mlp.input_backward(&call, weights, &tape.up, &out, &mut dup, None, pool);
        call.add_outer(&x, &dup, &mut fast[up.gathered.clone()]);
        call.add_outer(&tape.hidden, &out, &mut fast[down.gathered.clone()]);
        [x, out, dup].into_iter().for_each(|v| pool.give(v));
    }
}
