//! A perceptron memory that starts at zero never learns.

use super::draw::{largest, rng, units};
use super::figure::{Figure, Scale, Series};
use super::memory::Arm;
use super::outcome::{Cell, Finding, Must, Table, highest, lowest};
use super::{Experiment, Result};
use hecate_core::Dims;
use serde_json::{Value, json};

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "dead_mlp",
    asks: "Does a two-layer memory that starts at zero ever learn?",
    source: "[Miras v1 sec.5.3]",
    protocol: "Two-layer memories of width 16, hidden width 64, with and without residual and norm, under 200 random \
               tokens at rate 0.1, with momentum 0.5 and without decay; started with all weights zero, with the output \
               layer alone zero, and at the rule's own start. The largest magnitude among weights and momenta, and the \
               largest change.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::full() };
        Ok(setup.finding(&setup.measure()?))
    },
};

/// Which tensors are set to zero at the start.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Zero {
    All,
    Output,
    Nothing,
}

/// A structure and how it starts.
struct Case {
    name: &'static str,
    structure: Value,
    zero: Zero,
}

/// What is run.
struct Setup {
    width: usize,
    tokens: usize,
    seeds: usize,
    cases: Vec<Case>,
}

/// One case: largest weight after each token, and the largest change of any weight at the end, by seed.
struct Measured {
    size: Vec<Vec<f64>>,
    moved: Vec<f64>,
}

impl Setup {
    fn full() -> Self {
        let bare = json!({"name": "mlp", "residual": false, "norm": false});
        let case = |name, structure: &Value, zero| Case { name, structure: structure.clone(), zero };
        let full = json!("mlp");
        let cases = vec![
            case("all zero", &full, Zero::All),
            case("all zero, bare", &bare, Zero::All),
            case("output layer zero", &full, Zero::Output),
            case("output layer zero, bare", &bare, Zero::Output),
            case("own start", &full, Zero::Nothing),
            case("own start, bare", &bare, Zero::Nothing),
        ];
        Self { width: 16, tokens: 200, seeds: super::SEEDS, cases }
    }

    fn one(&self, case: &Case, seed: usize) -> Result<(Vec<f64>, f64)> {
        // Without decay, so that only gradients move anything.
        let rule =
            json!({"name": "miras", "structure": case.structure, "retention": "none", "algorithm": "momentum"});
        let arm = Arm::new(case.name, rule, &[("rate", 0.1), ("momentum", 0.5)])?;
        let mut draw = rng("dead_mlp", seed);
        let mut memory = arm.memory(Dims::new(self.width, self.width), &mut draw)?;
        match case.zero {
            Zero::All => memory.state().fill(0.0),
            Zero::Output => memory.tensor("W1").fill(0.0),
            Zero::Nothing => (),
        }
        let start = memory.state().to_vec();
        let mut sizes = vec![largest(memory.state())];
        for token in units(&mut draw, 2 * self.tokens, self.width).chunks(2) {
            memory.step(&token[0], &token[1], &token[0]);
            sizes.push(largest(memory.state()));
        }
        let moved: Vec<f64> = memory.state().iter().zip(&start).map(|(a, b)| a - b).collect();
        Ok((sizes, largest(&moved)))
    }

    fn measure(&self) -> Result<Vec<Measured>> {
        let case = |case: &Case| {
            let seeds = (0..self.seeds).map(|s| self.one(case, s)).collect::<Result<Vec<_>>>()?;
            Ok(Measured {
                size: (0..=self.tokens).map(|t| seeds.iter().map(|s| s.0[t]).collect()).collect(),
                moved: seeds.iter().map(|s| s.1).collect(),
            })
        };
        self.cases.iter().map(case).collect()
    }

    fn musts(&self, m: &[Measured]) -> Vec<Must> {
        let which = |dead: bool| {
            let here = move |p: &(&Case, &Measured)| (p.0.zero == Zero::All) == dead;
            self.cases.iter().zip(m).filter(here).flat_map(|p| p.1.moved.clone()).collect::<Vec<f64>>()
        };
        let (dead, alive) = (which(true), which(false));
        vec![
            Must::new(
                "with all weights zero nothing ever moves: exactly zero after all tokens",
                highest(&dead) == 0.0,
                format!("largest change {:.1e}", highest(&dead)),
            ),
            Must::new(
                "with one layer zero, or from the rule's own start, weights move: by more than 0.001",
                lowest(&alive) > 1e-3,
                format!("smallest largest change {:.3}", lowest(&alive)),
            ),
        ]
    }

    fn finding(&self, m: &[Measured]) -> Finding {
        let mut table = Table::new(&["start", "largest weight or momentum at the end", "largest change"]);
        for (case, m) in self.cases.iter().zip(m) {
            table.row([Cell::from(case.name), Cell::from(&m.size[self.tokens][..]), Cell::from(&m.moved[..])]);
        }
        let points = |m: &Measured| m.size.iter().enumerate().map(|(t, s)| (t as f64, s.clone())).collect();
        let series = self.cases.iter().zip(m).map(|(case, m)| Series::new(case.name, points(m))).collect();
        let figure = Figure::default().lines(
            "Largest weight or momentum",
            Scale::linear("tokens"),
            Scale::log("largest magnitude"),
            series,
        );
        let caption = format!(
            "Means over {} seeds, bands the lowest and the highest; the two memories that start at zero stay exactly \
             zero, which has no place on this axis. The gradient of each layer is proportional to the other layer, so \
             both vanish at zero. Under the norm an output of zero gets a gradient a thousand times larger, which is \
             the jump of the line on top. `bare` is without residual and norm.",
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
        let tiny = || Setup { width: 4, tokens: 20, seeds: 2, ..Setup::full() };
        let musts = tiny().musts(&tiny().measure().unwrap());
        assert!(musts.iter().all(|m| m.holds), "{musts:?}");
        // A matrix memory moves from zero; a dead memory does not from where it is not zero.
        let mut wrong = tiny();
        wrong.cases[0].structure = json!("matrix");
        let measured = wrong.measure().unwrap();
        assert!(!wrong.musts(&measured)[0].holds);
        let dead: Vec<Measured> = (0..6).map(|_| Measured { size: vec![], moved: vec![0.0] }).collect();
        assert!(!tiny().musts(&dead)[1].holds);
    }
}
