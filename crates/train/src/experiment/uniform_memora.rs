//! Hidden units that start alike stay alike.

use super::draw::{largest, rng, units};
use super::figure::{Figure, Scale, Series};
use super::memory::Arm;
use super::outcome::{Cell, Finding, Must, Table, highest, lowest};
use super::{Experiment, Result};
use hecate_core::Dims;
use serde_json::json;

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "uniform_memora",
    asks: "Can a simplex memory start from uniform weights?",
    source: "[Miras v1 eq.27]",
    protocol: "Memora of width 16, hidden width 64, without chunks, under 200 random tokens at retain 0.99 and rate \
               0.1; logits started all equal, with the norm of the memory's output and without, or at the rule's own \
               start. Spread: the largest difference between the input logits of two hidden units.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::full()? };
        Ok(setup.finding(&setup.measure()?))
    },
};

const EQUAL: usize = 0;
const BARE: usize = 1;
const OWN: usize = 2;

/// What is run: arms in the order of the constants, and whether their logits start equal.
struct Setup {
    width: usize,
    tokens: usize,
    seeds: usize,
    arms: Vec<(Arm, bool)>,
}

/// One arm: spread after each token, and change of the hidden units' logits at the end, by seed.
struct Measured {
    spread: Vec<Vec<f64>>,
    moved: Vec<f64>,
}

impl Setup {
    fn full() -> Result<Self> {
        let arm = |name, norm: bool| {
            let rule = json!({"name": "memora", "chunk": 1, "structure": {"name": "mlp", "norm": norm}});
            Arm::new(name, rule, &[("retain", 0.99), ("rate", 0.1)])
        };
        let arms = vec![
            (arm("equal logits", true)?, true),
            (arm("equal logits, no norm", false)?, true),
            (arm("own start", true)?, false),
        ];
        Ok(Self { width: 16, tokens: 200, seeds: super::SEEDS, arms })
    }

    /// Largest difference between two rows of the layer of the hidden units.
    fn spread(&self, logits: &[f64]) -> f64 {
        let column = |c: usize| logits.iter().skip(c).step_by(self.width).copied().collect::<Vec<f64>>();
        (0..self.width).map(|c| highest(&column(c)) - lowest(&column(c))).fold(0.0, f64::max)
    }

    fn one(&self, (arm, equal): &(Arm, bool), seed: usize) -> Result<(Vec<f64>, f64)> {
        let mut draw = rng("uniform_memora", seed);
        let mut memory = arm.memory(Dims::new(self.width, self.width), &mut draw)?;
        if *equal {
            memory.tensor("W1").fill(0.0);
            memory.tensor("W2").fill(0.0);
        }
        // The first token settles the logits, which may lie anywhere before it.
        let mut tokens = units(&mut draw, 2 * self.tokens, self.width).into_iter();
        let mut step = |memory: &mut super::memory::Memory| {
            if let (Some(k), Some(v)) = (tokens.next(), tokens.next()) {
                memory.step(&k, &v, &k);
            }
        };
        step(&mut memory);
        let start = memory.tensor("W2").to_vec();
        let mut spread = vec![self.spread(&start)];
        for _ in 1..self.tokens {
            step(&mut memory);
            spread.push(self.spread(memory.tensor("W2")));
        }
        let change: Vec<f64> = memory.tensor("W2").iter().zip(&start).map(|(a, b)| a - b).collect();
        Ok((spread, largest(&change)))
    }

    fn measure(&self) -> Result<Vec<Measured>> {
        let arm = |arm: &(Arm, bool)| {
            let seeds = (0..self.seeds).map(|s| self.one(arm, s)).collect::<Result<Vec<_>>>()?;
            let spread = (0..self.tokens).map(|t| seeds.iter().map(|s| s.0[t]).collect()).collect();
            Ok(Measured { spread, moved: seeds.iter().map(|s| s.1).collect() })
        };
        self.arms.iter().map(arm).collect()
    }

    fn musts(&self, m: &[Measured]) -> Vec<Must> {
        let equal = [EQUAL, BARE].map(|i| highest(&m[i].spread.concat()));
        let own = &m[OWN].spread[self.tokens - 1];
        vec![
            Must::new(
                "from equal logits all hidden units stay the same for ever: spread below 1e-12 throughout",
                highest(&equal) < 1e-12,
                format!("largest spread {:.1e}", highest(&equal)),
            ),
            Must::new(
                "and not because nothing moves: without the norm every seed moves a logit by more than 0.001",
                lowest(&m[BARE].moved) > 1e-3,
                format!(
                    "{:.3} at the least without the norm, {:.1e} at the most with it",
                    lowest(&m[BARE].moved),
                    highest(&m[EQUAL].moved)
                ),
            ),
            Must::new(
                "from the rule's own start they differ: spread above 0.01",
                lowest(own) > 0.01,
                format!("spread {:.3} at the least", lowest(own)),
            ),
        ]
    }

    fn finding(&self, m: &[Measured]) -> Finding {
        let columns = ["start", "spread after one token", "spread at the end", "largest change of a logit"];
        let mut table = Table::new(&columns);
        for ((arm, _), m) in self.arms.iter().zip(m) {
            let cells = [&m.spread[0], &m.spread[self.tokens - 1], &m.moved].map(|part| Cell::from(&part[..]));
            table.row([Cell::from(arm.name)].into_iter().chain(cells));
        }
        let points = |m: &Measured| m.spread.iter().enumerate().map(|(t, s)| (t as f64 + 1.0, s.clone())).collect();
        let series = self.arms.iter().zip(m).map(|((arm, _), m)| Series::new(arm.name, points(m))).collect();
        let figure = Figure::default().lines(
            "Largest difference between two hidden units",
            Scale::linear("tokens"),
            Scale::linear("difference of logits"),
            series,
        );
        let caption = format!(
            "Means over {} seeds, bands the lowest and the highest; both lines from equal logits lie on the axis. \
             Equal units get equal gradients, and what they do together is what one unit would do. With the norm it is \
             worse: all coordinates of the output are equal, the norm makes nothing of them, and no logit moves at \
             all. The rule's own start is random for this reason.",
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
        let tiny = || Setup { width: 4, tokens: 20, seeds: 2, ..Setup::full().unwrap() };
        let musts = tiny().musts(&tiny().measure().unwrap());
        assert!(musts.iter().all(|m| m.holds), "{musts:?}");
        // The own start in place of equal logits, the norm in place of none, equal logits in place of the own start.
        let mut wrong = tiny();
        wrong.arms = [OWN, EQUAL, BARE].map(|i| tiny().arms[i].clone()).into();
        let musts = wrong.musts(&wrong.measure().unwrap());
        assert!(musts.iter().all(|m| !m.holds), "{musts:?}");
    }
}
