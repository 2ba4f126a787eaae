//! Learning a linear map from its examples, in one pass.

use super::draw::{distance2, dot, length, normals, rng, scaled};
use super::figure::{Figure, Scale, Series};
use super::memory::Arm;
use super::outcome::{Cell, Finding, Must, Table, mean};
use super::{Experiment, Result};
use hecate_core::Dims;
use hecate_model::rng::Rng;
use serde_json::json;

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "regression",
    asks: "Does a memory learn a linear map from examples, in context?",
    source: "[Titans v1 eq.12]",
    protocol: "T tokens (k, W k) with a random W of width 16; keys of unit length, whose directions have variances \
               from 1 to 1/30 in geometric steps. Rate 1 without momentum, 1 - momentum with it. Error on 200 fresh \
               keys: the mean of |M k - W k|^2 over the mean of |W k|^2, after 32, 64, 128 and 256 tokens.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::full()? };
        Ok(setup.finding(&setup.measure()?))
    },
};

const PLAIN: usize = 0;
const HALF: usize = 1;
const CONTROL: usize = 4;

/// What is run; the arms in the order of the constants.
struct Setup {
    width: usize,
    tokens: Vec<usize>,
    seeds: usize,
    arms: Vec<Arm>,
}

/// By arm, by number of tokens, by seed.
type Measured = Vec<Vec<Vec<f64>>>;

impl Setup {
    fn full() -> Result<Self> {
        let momentum = |name, momentum: f64| {
            Arm::new(name, json!("titans"), &[("retain", 1.0), ("rate", 1.0 - momentum), ("momentum", momentum)])
        };
        let arms = vec![
            Arm::new("delta", json!("delta"), &[("rate", 1.0)])?,
            momentum("momentum 0.5", 0.5)?,
            momentum("momentum 0.8", 0.8)?,
            momentum("momentum 0.9", 0.9)?,
            Arm::new("Hebbian (control)", json!("linear_attention"), &[("retain", 1.0), ("rate", 1.0)])?,
        ];
        Ok(Self { width: 16, tokens: vec![32, 64, 128, 256], seeds: super::SEEDS, arms })
    }

    /// A key: normal with the spectrum of the protocol, then of unit length.
    fn key(&self, draw: &mut Rng) -> Vec<f64> {
        let n = self.width;
        let deviation = |i: usize| 30.0_f64.powf(-0.5 * i as f64 / (n - 1) as f64);
        let x: Vec<f64> = normals(draw, n).iter().enumerate().map(|(i, x)| deviation(i) * x).collect();
        scaled(&x, 1.0 / length(&x))
    }

    /// Errors after each number of tokens.
    fn one(&self, arm: &Arm, seed: usize) -> Result<Vec<f64>> {
        let (mut draw, n) = (rng("regression", seed), self.width);
        let w = scaled(&normals(&mut draw, n * n), 1.0 / (n as f64).sqrt());
        let map = |k: &[f64]| w.chunks(n).map(|row| dot(row, k)).collect::<Vec<f64>>();
        let fresh: Vec<Vec<f64>> = (0..200).map(|_| self.key(&mut draw)).collect();
        let scale: f64 = fresh.iter().map(|k| dot(&map(k), &map(k))).sum();
        let mut memory = arm.memory(Dims::new(n, n), &mut draw)?;
        let mut errors = Vec::new();
        for t in 1..=self.tokens[self.tokens.len() - 1] {
            let k = self.key(&mut draw);
            memory.step(&k, &map(&k), &k);
            if self.tokens.contains(&t) {
                errors.push(fresh.iter().map(|k| distance2(&memory.read(k), &map(k))).sum::<f64>() / scale);
            }
        }
        Ok(errors)
    }

    fn measure(&self) -> Result<Measured> {
        let arm = |arm: &Arm| {
            let seeds = (0..self.seeds).map(|s| self.one(arm, s)).collect::<Result<Vec<_>>>()?;
            Ok((0..self.tokens.len()).map(|t| seeds.iter().map(|s| s[t]).collect()).collect())
        };
        self.arms.iter().map(arm).collect()
    }

    fn musts(&self, m: &Measured) -> Vec<Must> {
        let means = |arm: usize| m[arm].iter().map(|s| mean(s)).collect::<Vec<f64>>();
        let show = |arm: usize| {
            let numbers = means(arm).into_iter().map(|x| Cell::from(x).to_string()).collect::<Vec<_>>();
            format!("{} {}", self.arms[arm].name, numbers.join(", "))
        };
        let falls = |arm: usize| (0..self.seeds).all(|s| m[arm].windows(2).all(|pair| pair[1][s] < pair[0][s]));
        let (plain, half) = (means(PLAIN), means(HALF));
        vec![
            Must::new(
                "with gradient descent, with and without momentum 0.5, the error falls with every doubling, under \
                 every seed",
                falls(PLAIN) && falls(HALF),
                format!("{}; {}", show(PLAIN), show(HALF)),
            ),
            Must::new(
                "momentum 0.5 does not help: its error is not below 0.9 of the plain one at any length",
                plain.iter().zip(&half).all(|(p, h)| *h >= 0.9 * p),
                format!("{}; {}", show(PLAIN), show(HALF)),
            ),
            Must::new(
                "the map is learned, which the Hebbian rule cannot: at the end the error is below a hundredth of the \
                 control's",
                plain[plain.len() - 1] < 0.01 * mean(&m[CONTROL][plain.len() - 1]),
                format!("{}; {}", show(PLAIN), show(CONTROL)),
            ),
        ]
    }

    fn finding(&self, m: &Measured) -> Finding {
        let mut table = Table { columns: vec!["memory".into()], rows: Vec::new() };
        table.columns.extend(self.tokens.iter().map(|t| format!("{t} tokens")));
        for (arm, rows) in self.arms.iter().zip(m) {
            table.row([Cell::from(arm.name)].into_iter().chain(rows.iter().map(|r| Cell::from(&r[..]))));
        }
        let points = |rows: &Vec<Vec<f64>>| self.tokens.iter().map(|&t| t as f64).zip(rows.iter().cloned()).collect();
        let series = self.arms.iter().zip(m).map(|(arm, rows)| Series::new(arm.name, points(rows))).collect();
        let figure = Figure::default().lines(
            "Error on fresh keys",
            Scale::doubling("tokens"),
            Scale::log("|M k − W k|² over |W k|²"),
            series,
        );
        let caption = format!(
            "Means over {} seeds, bands the lowest and the highest. A memory that is off reads zero and has the error \
             1. The Hebbian rule adds W k kᵀ up without end, so what it reads grows with the number of tokens.",
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
        let tiny = || Setup { tokens: vec![16, 64, 256], seeds: 2, ..Setup::full().unwrap() };
        let right = tiny().measure().unwrap();
        let musts = tiny().musts(&right);
        assert!(musts[0].holds && musts[2].holds, "{musts:?}");
        // The Hebbian rule in place of the plain one: it gets worse, and momentum is far better.
        let mut wrong = tiny();
        wrong.arms[PLAIN] = wrong.arms[CONTROL].clone();
        let musts = wrong.musts(&wrong.measure().unwrap());
        assert!(musts.iter().all(|m| !m.holds), "{musts:?}");
    }
}
