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
    protocol: "Memora of width 16, hidden width 64, under 200 random tokens at retain 0.99 and rate 0.1; logits started all \
               equal, or at the rule's own start. Spread: the largest difference between the input weights of two hidden \
               units.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::full()? };
        Ok(setup.finding(&setup.measure()?))
    },
};

/// What is run.
struct Setup {
    width: usize,
    tokens: usize,
    seeds: usize,
    arm: Arm,
    /// Whether the arm that must not break its symmetry starts from equal logits.
    uniform: bool,
}

/// Spread after each token and change of the weights at the end, by seed: from equal logits, and from the own start.
struct Measured {
    spread: [Vec<Vec<f64>>; 2],
    moved: [Vec<f64>; 2],
}

impl Setup {
    fn full() -> Result<Self> {
        let arm = Arm::new("memora", json!("memora"), &[("retain", 0.99), ("rate", 0.1)])?;
        Ok(Self { width: 16, tokens: 200, seeds: super::SEEDS, arm, uniform: true })
    }

    /// Largest difference between two rows of the layer of the hidden units.
    fn spread(&self, logits: &[f64]) -> f64 {
        let column = |c: usize| logits.iter().skip(c).step_by(self.width).copied().collect::<Vec<f64>>();
        (0..self.width).map(|c| highest(&column(c)) - lowest(&column(c))).fold(0.0, f64::max)
    }

    fn one(&self, uniform: bool, seed: usize) -> Result<(Vec<f64>, f64)> {
        let mut draw = rng("uniform_memora", seed);
        let mut memory = self.arm.memory(Dims::new(self.width, self.width), &mut draw)?;
        if uniform {
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

    fn measure(&self) -> Result<Measured> {
        let start = |uniform: bool| {
            let seeds = (0..self.seeds).map(|s| self.one(uniform, s)).collect::<Result<Vec<_>>>()?;
            let spread = (0..self.tokens).map(|t| seeds.iter().map(|s| s.0[t]).collect()).collect();
            Ok::<_, crate::Error>((spread, seeds.iter().map(|s| s.1).collect()))
        };
        let (uniform, own) = (start(self.uniform)?, start(false)?);
        Ok(Measured { spread: [uniform.0, own.0], moved: [uniform.1, own.1] })
    }

    fn musts(&self, m: &Measured) -> Vec<Must> {
        let end = |i: usize| &m.spread[i][self.tokens - 1];
        vec![
            Must::new(
                "from equal logits all hidden units stay the same for ever: spread below 1e-12 throughout",
                highest(&m.spread[0].concat()) < 1e-12,
                format!("largest spread {:.1e}", highest(&m.spread[0].concat())),
            ),
            Must::new(
                "although the weights do change: by more than 0.001",
                lowest(&m.moved[0]) > 1e-3,
                format!("largest change of a logit {:.4} at the least", lowest(&m.moved[0])),
            ),
            Must::new(
                "from the rule's own start they differ: spread above 0.01",
                lowest(end(1)) > 0.01,
                format!("spread {:.3} at the least", lowest(end(1))),
            ),
        ]
    }

    fn finding(&self, m: &Measured) -> Finding {
        let mut table = Table::new(&["start", "spread after one token", "spread at the end", "largest change of a logit"]);
        let names = ["equal logits", "own start"];
        for (i, name) in names.iter().enumerate() {
            let cells = [&m.spread[i][0], &m.spread[i][self.tokens - 1], &m.moved[i]].map(|part| Cell::from(&part[..]));
            table.row([Cell::from(*name)].into_iter().chain(cells));
        }
        let points = |s: &Vec<Vec<f64>>| s.iter().enumerate().map(|(t, s)| (t as f64 + 1.0, s.clone())).collect();
        let series = names.iter().zip(&m.spread).map(|(name, s)| Series::new(*name, points(s))).collect();
        let figure = Figure::default().lines(
            "Largest difference between two hidden units",
            Scale::linear("tokens"),
            Scale::linear("difference of logits"),
            series,
        );
        let caption = format!(
            "Means over {} seeds, bands the lowest and the highest. Equal units get equal gradients, and what they do together \
             is what one unit would do; the rule's own start is random for this reason.",
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
        let right = tiny().measure().unwrap();
        let musts = tiny().musts(&right);
        assert!(musts.iter().all(|m| m.holds), "{musts:?}");
        let wrong = Setup { uniform: false, ..tiny() };
        assert!(!wrong.musts(&wrong.measure().unwrap())[0].holds);
        let [uniform, _] = right.spread;
        let still = Measured { spread: [uniform.clone(), uniform], moved: [vec![0.0], vec![0.0]] };
        let musts = tiny().musts(&still);
        assert!(!musts[1].holds && !musts[2].holds, "{musts:?}");
    }
}
