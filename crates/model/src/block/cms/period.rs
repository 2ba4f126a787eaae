//! Levels whose pace is learned: a gate says when one changes.
//!
//! ```text
//! open = sigmoid(<w, mean of what the level took since its last change> + b + 4 (tokens since then / period - 1))
//! ```
//!
//! It is asked at every multiple of the fastest level's period, and the level changes where `open >= 1/2`. With `w` and `b`
//! zero, where they start, that is the fixed schedule. A change is taken whole, with the derivative of `open`: a gate learns
//! from the changes that it let through, whether they were of use. The mean is a constant to derivatives.

use super::super::{Builder, Call};
use super::{Cms, Unit, UnitTape};
use crate::params::{Init, Kind};
use crate::pool::Pool;
use hecate_core::Scalar;
use hecate_core::ops::Ops;
use std::ops::Range;

/// How fast a gate opens as its period nears.
const SLOPE: f64 = 4.0;

pub(super) struct FrequencyGate {
    weight: Range<usize>,
    bias: usize,
    /// Tokens after which it is asked, and after which it opens at the start.
    every: u64,
    period: u64,
    /// In [`State::fast`](crate::State): the sum of what the level took, and the number of tokens.
    place: Range<usize>,
}

/// A change that a gate let through in a call.
struct Opened<F> {
    /// The call's tokens that were learned from, as far as they are the call's.
    rows: Range<usize>,
    mean: Vec<F>,
    opening: F,
    /// Size of the step.
    rate: F,
}

/// All of a call.
pub(super) struct Openings<F> {
    list: Vec<Opened<F>>,
    /// What earlier calls had gathered, if anything.
    before: Option<[Vec<F>; 2]>,
}

impl FrequencyGate {
    /// For the level called `part`.
    pub fn new(b: &mut Builder<'_>, part: &str, [every, period]: [u64; 2]) -> Self {
        let name = format!("{}.{part}.gate", b.prefix);
        let weight = b.params.add(format!("{name}.weight"), &[b.width], Kind::Gate, Init::Constant(0.0));
        let bias = b.params.add(format!("{name}.bias"), &[1], Kind::Gate, Init::Constant(0.0)).start;
        let place = b.state.add_fast(format!("{name}.seen"), vec![b.width + 1]);
        Self { weight, bias, every, period, place }
    }

    pub fn every(&self) -> u64 {
        self.every
    }
    pub fn place(&self) -> Range<usize> {
        self.place.clone()
    }

    /// Adds rows to what has been `seen`.
    pub fn take<F: Scalar>(&self, x: &[F], seen: &mut [F]) {
        let (count, sum) = seen.split_last_mut().expect("a count behind the sum");
        for row in x.chunks_exact(sum.len()) {
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.detach());
            *count += F::one();
        }
    }

    /// How far it is open after the token before `end`, if it is asked and opens.
    pub fn opens<F: Scalar>(&self, end: u64, params: &[F], seen: &[F]) -> Option<F> {
        let (&count, sum) = seen.split_last()?;
        if !end.is_multiple_of(self.every) || count.value() == 0.0 {
            return None;
        }
        let due = F::from_f64(SLOPE * (count.value() / self.period as f64 - 1.0));
        let product: F = params[self.weight.clone()].iter().zip(sum).map(|(&w, &s)| w * s).sum();
        let score = product / count + params[self.bias] + due;
        (score.value() >= 0.0).then(|| score.sigmoid())
    }
}

impl Cms {
    /// Per level whose gate decides, the level and its tokens per change after `tokens`; all of them, if it never changed.
    pub fn mean_periods<'a, F: Scalar>(
        &'a self,
        tokens: u64,
        fast: &'a [F],
    ) -> impl Iterator<Item = (usize, f64)> + 'a {
        let gated = self.units.iter().filter(|unit| unit.frequency.is_some()).map(|unit| unit.levels.start);
        gated.map(move |l| (l, tokens as f64 / fast[self.levels[l].count].value().max(1.0)))
    }

    /// The changes of a call that a unit's gate lets through, if it has one; `fast` is from before the call.
    pub(super) fn opened<O: Ops>(
        &self,
        unit: &Unit,
        call: &Call<'_, O>,
        own: &UnitTape<O::F>,
        fast: &[O::F],
    ) -> Option<Openings<O::F>> {
        let (gate, matrices, level) = (unit.frequency.as_ref()?, unit.fast.as_ref()?, &self.levels[unit.levels.start]);
        let mut seen = fast[gate.place()].to_vec();
        let (mut list, mut from, mut count) = (Vec::new(), 0, fast[level.count].value());
        let width = own.x.len() / call.tokens;
        for stretch in self.stretches(unit, call) {
            gate.take(&own.x[stretch.start * width..stretch.end * width], &mut seen);
            let Some(opening) = gate.opens(call.pos + stretch.end as u64, call.params, &seen) else { continue };
            count += 1.0;
            let warm = O::F::from_f64((count / level.config.warmup.max(1) as f64).min(1.0));
            let rate = warm * level.rate(call.params, call.pace);
            let (&seen_tokens, sum) = seen.split_last()?;
            let mean = sum.iter().map(|&s| s / seen_tokens).collect();
            list.push(Opened { rows: from..stretch.end, mean, opening, rate });
            seen.fill(O::F::zero());
            from = stretch.end;
        }
        let before = unit.waits(fast).then(|| [0, 1].map(|m| fast[matrices[m].gathered.clone()].to_vec()));
        Some(Openings { list, before })
    }

    /// Adds the gradient of a gate: with `later` the gradient of the weights that tokens behind a change meet, that of the
    /// change's size is `-rate <later, gathered>`.
    pub(super) fn openings_backward<O: Ops>(
        &self,
        unit: &Unit,
        call: &Call<'_, O>,
        own: &UnitTape<O::F>,
        openings: Openings<O::F>,
        [normed, dup, dout]: [&[O::F]; 3],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) {
        let Some(gate) = &unit.frequency else { return };
        let n = call.tokens;
        let part = |x: &'_ [O::F], rows: &Range<usize>| rows.start * (x.len() / n)..rows.end * (x.len() / n);
        // Inputs, gradients of outputs, and what was gathered, of either matrix.
        let all = [(normed, dup, &own.dup), (&own.mlp.hidden, dout, &own.dout)];
        let mut later = [unit.mlp.up.len(), unit.mlp.down.len()].map(|len| pool.zeros(len));
        let mut end = n;
        for (i, opened) in openings.list.iter().enumerate().rev() {
            let (behind, rows) = (opened.rows.end..end, &opened.rows);
            end = opened.rows.end;
            let mut along = O::F::zero();
            for (m, ((x, dy, d), later)) in all.iter().zip(&mut later).enumerate() {
                if !behind.is_empty() {
                    let call = call.with(behind.len(), call.pos);
                    call.add_outer(&x[part(x, &behind)], &dy[part(dy, &behind)], later);
                }
                let (x, d) = (&x[part(x, rows)], &d[part(d, rows)]);
                let mut answer = pool.zeros(x.len());
                call.with(rows.len(), call.pos).product_backward(later, d, &mut answer);
                along += answer.iter().zip(x).map(|(&a, &x)| a * x).sum::<O::F>();
                if let (0, Some(before)) = (i, &openings.before) {
                    along += later.iter().zip(&before[m]).map(|(&l, &g)| l * g).sum::<O::F>();
                }
                pool.give(answer);
            }
            let open = opened.opening;
            let by = -along * opened.rate * open * (O::F::one() - open);
            grads[gate.bias] += by;
            grads[gate.weight.clone()].iter_mut().zip(&opened.mean).for_each(|(g, &m)| *g += by * m);
        }
        later.into_iter().for_each(|v| pool.give(v));
    }
}
