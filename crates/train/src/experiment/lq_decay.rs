//! The L_q retention as printed and as derived, under decay alone.

use super::draw::{distance2, length, normals, rng, scaled};
use super::figure::{Figure, Scale, Series};
use super::memory::{Arm, Memory};
use super::outcome::{Cell, Finding, Must, Table, highest, lowest, mean};
use super::{Experiment, Result};
use hecate_core::Dims;
use serde_json::json;

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "lq_decay",
    asks: "Does a memory under L_q retention fade when nothing is written?",
    source: "[Miras v1 eq.24]",
    protocol: "A linear memory of width 16 under L_q retention with q = 4 starts from a random state (normal, \
               deviation 1000); then 24 tokens that keep one half and write nothing. Growth: the size of the weights \
               at the end over that at the start. Degree: how many doublings of the weights follow one doubling of the \
               state. Residual: the distance between the directions of the state and of the gradient of the norm with \
               exponent 4/3 at the weights, which the true map makes equal.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::full()? };
        Ok(setup.finding(&setup.measure()?))
    },
};

const LITERAL: usize = 0;
const FLOORED: usize = 1;
const EXACT: usize = 2;

/// Tokens without a write.
const TOKENS: usize = 24;

/// What is run; the arms in the order of the constants.
struct Setup {
    width: usize,
    seeds: usize,
    arms: Vec<Arm>,
}

/// One rule under every seed.
struct Measured {
    /// Sizes of the weights over their start, token by token.
    sizes: Vec<Vec<f64>>,
    degree: Vec<f64>,
    residual: Vec<f64>,
}

impl Setup {
    fn full() -> Result<Self> {
        let gates = [("retain", 0.5), ("rate", 0.0)];
        let arm = |name, retention: serde_json::Value| {
            Arm::new(name, json!({"name": "miras", "retention": retention}), &gates)
        };
        let arms = vec![
            // A floor so low that it never acts.
            arm("as printed", json!({"name": "lq_literal", "q": 4.0, "floor": 1e-12}))?,
            arm("as printed, floor 1", json!({"name": "lq_literal", "q": 4.0, "floor": 1.0}))?,
            arm("exact", json!({"name": "lq_exact", "q": 4.0}))?,
            arm("l2 (control)", json!("l2"))?,
        ];
        Ok(Self { width: 16, seeds: super::SEEDS, arms })
    }

    fn at(&self, arm: &Arm, z: &[f64]) -> Result<Memory> {
        let mut memory = arm.memory(Dims::new(self.width, self.width), &mut rng("lq_decay start", 0))?;
        memory.tensor("W").copy_from_slice(z);
        Ok(memory)
    }

    fn one(&self, arm: &Arm, seed: usize) -> Result<(Vec<f64>, f64, f64)> {
        // Large, so that no floor of a norm is reached on the way down but the one that is asked for.
        let z = scaled(&normals(&mut rng("lq_decay", seed), self.width * self.width), 1000.0);
        let mut memory = self.at(arm, &z)?;
        let w = memory.matrix();
        let none = vec![0.0; self.width];
        let mut sizes = vec![1.0];
        for _ in 0..TOKENS {
            memory.step(&none, &none, &none);
            sizes.push(length(&memory.matrix()) / length(&w));
        }
        let degree = (length(&self.at(arm, &scaled(&z, 2.0))?.matrix()) / length(&w)).log2();
        // The direction of the gradient of |W|_p, p = 4/3, entry by entry; at zero it would have none.
        let gradient: Vec<f64> = w.iter().map(|w| w.signum() * w.abs().powf(1.0 / 3.0)).collect();
        let (g, z) = (scaled(&gradient, 1.0 / length(&gradient)), scaled(&z, 1.0 / length(&z)));
        Ok((sizes, degree, distance2(&g, &z).sqrt()))
    }

    fn measure(&self) -> Result<Vec<Measured>> {
        let arm = |arm: &Arm| {
            let seeds = (0..self.seeds).map(|s| self.one(arm, s)).collect::<Result<Vec<_>>>()?;
            Ok(Measured {
                sizes: (0..=TOKENS).map(|t| seeds.iter().map(|s| s.0[t]).collect()).collect(),
                degree: seeds.iter().map(|s| s.1).collect(),
                residual: seeds.iter().map(|s| s.2).collect(),
            })
        };
        self.arms.iter().map(arm).collect()
    }

    fn musts(&self, m: &[Measured]) -> Vec<Must> {
        let end = |i: usize| &m[i].sizes[TOKENS];
        let near = |x: &[f64], to: f64| x.iter().all(|x| (x - to).abs() < 1e-6);
        let floored = &m[FLOORED].sizes;
        let peak: Vec<f64> = floored.iter().map(|s| highest(s)).collect();
        let last: Vec<f64> = floored[TOKENS].iter().zip(&floored[TOKENS - 1]).map(|(a, b)| a / b).collect();
        let apart = |i: usize| format!("{:.2e}", mean(&m[i].residual));
        vec![
            Must::new(
                "the printed map has degree -1: twice the state is half the weights",
                near(&m[LITERAL].degree, -1.0),
                format!("degree {:.6}", mean(&m[LITERAL].degree)),
            ),
            Must::new(
                "under decay alone the printed map makes the weights grow, by 2^24 = 1.7e7 in 24 tokens",
                end(LITERAL).iter().all(|x| (x / 2.0_f64.powi(24) - 1.0).abs() < 1e-4),
                format!("{:.3e} times", mean(end(LITERAL))),
            ),
            Must::new(
                "the printed map is not the dual of its norm: residual above 0.1, the exact map's below 1e-9",
                lowest(&m[LITERAL].residual) > 0.1 && highest(&m[EXACT].residual) < 1e-9,
                format!("{} against {}", apart(LITERAL), apart(EXACT)),
            ),
            Must::new(
                "the exact map has degree 1 and fades by 2^-24",
                near(&m[EXACT].degree, 1.0) && end(EXACT).iter().all(|x| (x * 2.0_f64.powi(24) - 1.0).abs() < 1e-4),
                format!("degree {:.6}, {:.3e} times", mean(&m[EXACT].degree), mean(end(EXACT))),
            ),
            Must::new(
                "with the floor 1 the printed map's weights grow too, and fade only once the state is below the floor",
                highest(&peak) > 2.0 && last.iter().all(|x| (x - 0.5).abs() < 1e-6),
                format!("{:.3e} times at the most; the last token times {:.4}", highest(&peak), mean(&last)),
            ),
        ]
    }

    fn finding(&self, m: &[Measured]) -> Finding {
        let mut table = Table::new(&["retention", "degree", "growth in 24 tokens", "residual"]);
        for (arm, m) in self.arms.iter().zip(m) {
            let cells = [&m.degree, &m.sizes[TOKENS], &m.residual].map(|part| Cell::from(&part[..]));
            table.row([Cell::from(arm.name)].into_iter().chain(cells));
        }
        let points = |m: &Measured| m.sizes.iter().enumerate().map(|(t, s)| (t as f64, s.clone())).collect();
        let series = self.arms.iter().zip(m).map(|(arm, m)| Series::new(arm.name, points(m))).collect();
        let figure = Figure::default().lines(
            "Size of the weights while nothing is written, retain 1/2",
            Scale::linear("tokens"),
            Scale::log("size over the start"),
            series,
        );
        let caption = format!(
            "Means over {} seeds. The printed map divides the state by its 4-norm squared, so a state that shrinks \
             gives weights that grow; a floor of 1 under the norm stops that once the norm is below 1. The control is \
             no L_q retention, so that its residual is that of a wrong map.",
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
        let tiny = || Setup { width: 6, seeds: 2, ..Setup::full().unwrap() };
        let musts = tiny().musts(&tiny().measure().unwrap());
        assert!(musts.iter().all(|m| m.holds), "{musts:?}");
        let mut wrong = tiny();
        wrong.arms = [EXACT, LITERAL, LITERAL].map(|i| tiny().arms[i].clone()).into();
        let musts = wrong.musts(&wrong.measure().unwrap());
        assert!(musts.iter().all(|m| !m.holds), "{musts:?}");
    }
}
