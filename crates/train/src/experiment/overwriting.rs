//! What is left of old values once the same keys got new ones.

use super::draw::{dot, rng, units};
use super::figure::{Figure, Scale};
use super::memory::Arm;
use super::outcome::{Cell, Finding, Must, Table, highest, lowest, mean};
use super::{Experiment, Result};
use hecate_core::Dims;
use serde_json::json;

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "overwriting",
    asks: "Does a memory replace an old value, or keep the sum?",
    source: "[Titans v1 eq.13]",
    protocol: "24 keys of width 32 get values A, then values B (all of unit length, one pass each, rate 1). Read back: \
               the mean of |M(k) - b|^2, and how much of a and of b is in what is read (the mean of M(k) . a and M(k) \
               . b).",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::full()? };
        Ok(setup.finding(&setup.measure()?))
    },
};

const HEBBIAN: usize = 0;
const DELTA: usize = 2;

/// What is run; the arms in the order of the constants.
struct Setup {
    width: usize,
    keys: usize,
    seeds: usize,
    arms: Vec<Arm>,
}

/// Error to B, share of A, share of B, each by seed.
type Measured = Vec<[Vec<f64>; 3]>;

impl Setup {
    fn full() -> Result<Self> {
        let gates = |retain| [("retain", retain), ("rate", 1.0)];
        let arms = vec![
            Arm::new("Hebbian", json!("linear_attention"), &gates(1.0))?,
            Arm::new("Hebbian, keeps 0.9", json!("linear_attention"), &gates(0.9))?,
            Arm::new("delta", json!("delta"), &gates(1.0))?,
            Arm::new("decay_delta, keeps 0.95", json!("decay_delta"), &gates(0.95))?,
            Arm::new("gated_delta, keeps 0.95", json!("gated_delta"), &gates(0.95))?,
        ];
        Ok(Self { width: 32, keys: 24, seeds: super::SEEDS, arms })
    }

    fn one(&self, arm: &Arm, seed: usize) -> Result<[f64; 3]> {
        let mut draw = rng("overwriting", seed);
        let keys = units(&mut draw, self.keys, self.width);
        let both = [units(&mut draw, self.keys, self.width), units(&mut draw, self.keys, self.width)];
        let mut memory = arm.memory(Dims::new(self.width, self.width), &mut draw)?;
        for values in &both {
            for (k, v) in keys.iter().zip(values) {
                memory.step(k, v, k);
            }
        }
        let share = |values: &[Vec<f64>]| {
            let along = |(k, v): (&Vec<f64>, &Vec<f64>)| dot(&memory.read(k), v);
            keys.iter().zip(values).map(along).sum::<f64>() / keys.len() as f64
        };
        Ok([memory.error(&keys, &both[1]), share(&both[0]), share(&both[1])])
    }

    fn measure(&self) -> Result<Measured> {
        let arm = |arm: &Arm| {
            let seeds = (0..self.seeds).map(|s| self.one(arm, s)).collect::<Result<Vec<_>>>()?;
            Ok([0, 1, 2].map(|i| seeds.iter().map(|s| s[i]).collect()))
        };
        self.arms.iter().map(arm).collect()
    }

    fn musts(&self, m: &Measured) -> Vec<Must> {
        let [hebbian, delta] = [HEBBIAN, DELTA].map(|i| &m[i]);
        let parts = |x: &[Vec<f64>; 3]| {
            format!("{:.2} of A and {:.2} of B, error {:.2}", mean(&x[1]), mean(&x[2]), mean(&x[0]))
        };
        vec![
            Must::new(
                "without forgetting, the Hebbian rule keeps the sum: as much of A as of B, within 0.25",
                lowest(&hebbian[1]) > 0.5 && (mean(&hebbian[1]) - mean(&hebbian[2])).abs() < 0.25,
                parts(hebbian),
            ),
            Must::new(
                "the delta rule replaces: less than 0.25 of A, more than 0.5 of B, under every seed",
                highest(&delta[1]) < 0.25 && lowest(&delta[2]) > 0.5,
                parts(delta),
            ),
            Must::new(
                "the delta rule's error is below half of the Hebbian rule's",
                mean(&delta[0]) < 0.5 * mean(&hebbian[0]),
                format!("{:.3} against {:.3}", mean(&delta[0]), mean(&hebbian[0])),
            ),
        ]
    }

    fn finding(&self, m: &Measured) -> Finding {
        let mut table = Table::new(&["memory", "error to B", "share of A", "share of B"]);
        for (arm, parts) in self.arms.iter().zip(m) {
            table.row([Cell::from(arm.name)].into_iter().chain(parts.iter().map(|p| Cell::from(&p[..]))));
        }
        let rows = |parts: &[usize]| {
            let row = |(arm, m): (&Arm, &[Vec<f64>; 3])| {
                (arm.name.to_string(), parts.iter().map(|&p| m[p].clone()).collect())
            };
            self.arms.iter().zip(m).map(row).collect::<Vec<_>>()
        };
        let figure = Figure::default()
            .rows("Error to the new values", Scale::linear("mean |M(k) − b|²"), &["B"], rows(&[0]))
            .rows("What is read", Scale::linear("share"), &["old value A", "new value B"], rows(&[1, 2]));
        let caption = format!(
            "Large dots are means over {} seeds, small ones the seeds. A memory that is off reads zero and has the \
             error 1. Forgetting helps the Hebbian rule because what it forgets is old.",
            self.seeds
        );
        Finding { table, musts: self.musts(m), caption, figure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_must_can_fail() {
        let tiny = || Setup { seeds: 2, ..Setup::full().unwrap() };
        let musts = tiny().musts(&tiny().measure().unwrap());
        assert!(musts.iter().all(|m| m.holds), "{musts:?}");
        let mut wrong = tiny();
        wrong.arms.swap(HEBBIAN, DELTA);
        let musts = wrong.musts(&wrong.measure().unwrap());
        assert!(musts.iter().all(|m| !m.holds), "{musts:?}");
    }
}
