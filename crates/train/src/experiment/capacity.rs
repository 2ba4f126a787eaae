//! How many pairs a memory holds, by what it does with a pair that it already half knows.

use super::draw::{distance2, rng, units};
use super::figure::{Figure, Scale, Series};
use super::memory::Arm;
use super::outcome::{Cell, Finding, Must, Table, highest, mean};
use super::{Experiment, Result};
use hecate_core::Dims;
use rayon::prelude::*;
use serde_json::json;

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "capacity",
    asks: "How many random pairs does a memory hold?",
    source: "[Titans v1 sec.5.5]",
    protocol: "Keys and values of width 32, unit length, 8 to 96 pairs; error is the mean of |M(k) - v|^2 over all \
               pairs after one pass, or after eight. Linear memories start at zero; the two-layer ones (hidden width \
               128, SiLU, rate 0.15) at normal weights of variance 1 / fan-in, one of them with a first layer of \
               deviation 1/2.",
    random: true,
    run: |seeds| {
        let setup = Setup::full(seeds)?;
        Ok(setup.finding(&setup.measure()?))
    },
};

const HEBBIAN: usize = 0;
const DELTA: usize = 1;
const MOMENTUM: usize = 2;
const LINEAR_8: usize = 3;
const MLP_8: usize = 4;
const WIDE_8: usize = 5;

/// What is run; the arms in the order of the constants.
struct Setup {
    width: usize,
    pairs: Vec<usize>,
    seeds: usize,
    arms: Vec<Entry>,
}

/// A memory, how often it sees the pairs, and the deviation of its first layer where it is not the rule's own.
#[derive(Clone)]
struct Entry {
    arm: Arm,
    passes: usize,
    first_layer: Option<f64>,
}

/// Errors and shares of pairs whose own value is the nearest, each by arm, number of pairs and seed.
struct Measured {
    error: Vec<Vec<Vec<f64>>>,
    nearest: Vec<Vec<Vec<f64>>>,
}

impl Setup {
    fn full(seeds: usize) -> Result<Self> {
        let mlp = json!({"name": "miras", "retention": "none", "structure": {"name": "mlp", "layers": 2,
            "expansion": 4, "activation": "silu", "residual": false, "norm": false}});
        let entry = |name, rule, gates: &[(&'static str, f64)], passes, first_layer| {
            Ok::<_, crate::Error>(Entry { arm: Arm::new(name, rule, gates)?, passes, first_layer })
        };
        let (all, momentum) = ([("retain", 1.0), ("rate", 1.0)], [("retain", 1.0), ("rate", 0.5), ("momentum", 0.5)]);
        let arms = vec![
            entry("Hebbian", json!("linear_attention"), &all, 1, None)?,
            entry("delta", json!("delta"), &all, 1, None)?,
            entry("delta with momentum", json!("titans"), &momentum, 1, None)?,
            entry("delta, 8 passes", json!("delta"), &all, 8, None)?,
            entry("two layers, 8 passes", mlp.clone(), &[("rate", 0.15)], 8, None)?,
            entry("two layers, wide start, 8 passes", mlp, &[("rate", 0.15)], 8, Some(0.5))?,
        ];
        Ok(Self { width: 32, pairs: vec![8, 16, 32, 48, 64, 96], seeds, arms })
    }

    /// One memory after its passes: the error, and the share of pairs that are decoded to their own value.
    fn one(&self, entry: &Entry, pairs: usize, seed: usize) -> Result<(f64, f64)> {
        let mut draw = rng("capacity", seed);
        let (keys, values) = (units(&mut draw, pairs, self.width), units(&mut draw, pairs, self.width));
        let mut memory = entry.arm.memory(Dims::new(self.width, self.width), &mut draw)?;
        if let Some(deviation) = entry.first_layer {
            let by = deviation * (self.width as f64).sqrt();
            memory.tensor("W2").iter_mut().for_each(|w| *w *= by);
        }
        for _ in 0..entry.passes {
            for (k, v) in keys.iter().zip(&values) {
                memory.step(k, v, k);
            }
        }
        let own = |i: usize| {
            let y = memory.read(&keys[i]);
            let to = |j: usize| distance2(&y, &values[j]);
            (0..pairs).all(|j| j == i || to(i) < to(j))
        };
        let right = (0..pairs).filter(|&i| own(i)).count();
        Ok((memory.error(&keys, &values), right as f64 / pairs as f64))
    }

    fn measure(&self) -> Result<Measured> {
        let (counts, seeds) = (self.pairs.len(), self.seeds);
        let cell = |i: usize| {
            let (arm, n, seed) = (i / (counts * seeds), i / seeds % counts, i % seeds);
            self.one(&self.arms[arm], self.pairs[n], seed)
        };
        let all = (0..self.arms.len() * counts * seeds).into_par_iter().map(cell).collect::<Result<Vec<_>>>()?;
        let part = |f: fn(&(f64, f64)) -> f64| {
            let rows = all.chunks(seeds).map(|s| s.iter().map(f).collect()).collect::<Vec<Vec<f64>>>();
            rows.chunks(counts).map(<[_]>::to_vec).collect()
        };
        Ok(Measured { error: part(|c| c.0), nearest: part(|c| c.1) })
    }

    fn musts(&self, m: &Measured) -> Vec<Must> {
        let at = |arm: usize, n: usize| mean(&m.error[arm][n]);
        let pairs = |from: usize| self.pairs.iter().enumerate().filter(move |p| *p.1 >= from);
        let listed = |arm: usize, other: usize, from: usize| {
            let show = |(n, pairs)| format!("{:.3} against {:.3} at {pairs}", at(arm, n), at(other, n));
            pairs(from).map(show).collect::<Vec<_>>().join(", ")
        };
        let (half, double) = (self.width / 2, 2 * self.width);
        let index = |n: usize| self.pairs.iter().position(|&p| p == n).unwrap_or(0);
        let (low, full) = (at(LINEAR_8, index(half)), at(LINEAR_8, index(double)));
        let deep = |arm: usize| {
            let seeds = &m.error[arm][index(double)];
            (highest(seeds) < 0.5 * full, format!("{:.3} against {full:.3}", mean(seeds)))
        };
        let (wide, narrow) = (deep(WIDE_8), deep(MLP_8));
        vec![
            Must::new(
                "the delta rule is below the Hebbian rule at every number of pairs",
                pairs(0).all(|(n, _)| at(DELTA, n) < at(HEBBIAN, n)),
                listed(DELTA, HEBBIAN, 0),
            ),
            Must::new(
                format!("momentum lowers the delta rule's error a little from {half} pairs on"),
                pairs(half).all(|(n, _)| at(MOMENTUM, n) < at(DELTA, n)),
                listed(MOMENTUM, DELTA, half),
            ),
            Must::new(
                format!("a linear memory is full at about {} pairs: below 0.05 at {half}, above 0.5 at \
                         {double}", self.width),
                low < 0.05 && full > 0.5,
                format!("{low:.4} and {full:.3}"),
            ),
            Must::new(
                format!("a two-layer memory goes on beyond: at {double} pairs below half of that error, with the wide \
                         start"),
                wide.0,
                wide.1,
            ),
            Must::new("and with the start of variance 1 / fan-in", narrow.0, narrow.1),
        ]
    }

    fn finding(&self, m: &Measured) -> Finding {
        let mut head = vec!["memory".to_string(), "measure".to_string()];
        head.extend(self.pairs.iter().map(|n| format!("{n} pairs")));
        let mut table = Table { columns: head, rows: Vec::new() };
        for (part, label) in [(&m.error, "error"), (&m.nearest, "own value nearest")] {
            for (entry, rows) in self.arms.iter().zip(part) {
                let cells = rows.iter().map(|seeds| Cell::from(&seeds[..]));
                table.row([Cell::from(entry.arm.name), Cell::from(label)].into_iter().chain(cells));
            }
        }
        let series = |part: &[Vec<Vec<f64>>]| {
            let points = |rows: &Vec<Vec<f64>>| {
                self.pairs.iter().map(|&n| n as f64).zip(rows.iter().cloned()).collect()
            };
            self.arms.iter().zip(part).map(|(e, rows)| Series::new(e.arm.name, points(rows))).collect::<Vec<_>>()
        };
        let x = Scale::linear("pairs");
        let figure = Figure::default()
            .lines("Error of what is read back", x, Scale::linear("mean |M(k) − v|²"), series(&m.error))
            .lines("Pairs whose own value is the nearest", x, Scale::linear("share"), series(&m.nearest));
        let caption = format!(
            "Lines are means over {} seeds, bands the lowest and the highest. A memory that is off reads zero and has \
             the error 1. The linear memories hold {} numbers, the two-layer one {}. Nearest-value accuracy after one \
             pass turns the order round for many pairs, because the delta rule forgets the oldest pairs and the \
             Hebbian rule blurs all alike; the error tells them apart. Keys of unit length hardly bend hidden units \
             that start at variance 1 / fan-in, so that start learns more slowly.",
            self.seeds,
            self.width * self.width,
            8 * self.width * self.width,
        );
        Finding { table, musts: self.musts(m), caption, figure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Setup {
        Setup { width: 16, pairs: vec![8, 16, 32], seeds: 2, ..Setup::full(2).unwrap() }
    }

    #[test]
    fn every_must_can_fail() {
        let setup = tiny();
        let musts = setup.musts(&setup.measure().unwrap());
        assert!(musts[0].holds && musts[2].holds && musts[3].holds, "{musts:?}");
        // Hebbian in place of delta, delta in place of momentum, linear in place of deep.
        let mut wrong = tiny();
        let swapped = [HEBBIAN, HEBBIAN, HEBBIAN, HEBBIAN, LINEAR_8, LINEAR_8];
        wrong.arms = swapped.map(|i| setup.arms[i].clone()).into();
        let musts = wrong.musts(&wrong.measure().unwrap());
        assert!(musts.iter().all(|m| !m.holds), "{musts:?}");
    }
}
