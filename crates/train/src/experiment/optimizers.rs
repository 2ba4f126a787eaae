//! Which optimizer learns most of a text in equal steps, each at its best rate.

use super::figure::{Figure, Scale, Series};
use super::outcome::{Cell, Finding, Must, Table, highest, lowest, mean};
use super::{Experiment, Result};
use crate::error::Error;
use crate::run::text;
use crate::run_config::{RunConfig, TrainConfig};
use crate::stream::Stream;
use crate::trainer::Trainer;
use hecate_model::ModelConfig;
use hecate_model::config::{AttentionConfig, BlockConfig, MixerConfig};
use hecate_model::optim::{AnyOptimizer, Schedule};
use serde_json::{Value, json};

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "optimizers",
    asks: "Which optimizer learns most of a text in equal steps?",
    source: "[NestedLearning v1 eq.75]",
    protocol: "A Transformer of width 32 (two blocks, 4 heads, context 64) reads 8 lanes of the first half of the embedded \
               novel for 200 steps, once; loss: the mean over the last 20, in nats per byte, none of which was seen before. \
               Peak rates from 1e-4 to 1 in steps of about three, the best under the first seed; ten steps of warm-up, then \
               half a cosine. What optimizers of matrices leave over has AdamW at 5e-3.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::default() };
        Ok(setup.finding(&setup.measure()?))
    },
};

/// Rate of what is no matrix under optimizers of matrices.
const REST: f64 = 5e-3;
/// Steps whose losses are averaged.
const LAST: usize = 20;

/// One optimizer with settings.
#[derive(Clone, Debug)]
struct Arm {
    name: &'static str,
    settings: Value,
}

/// What is run.
struct Setup {
    arms: Vec<Arm>,
    rates: Vec<f64>,
    steps: u64,
    width: usize,
    seeds: usize,
}

impl Default for Setup {
    fn default() -> Self {
        let arm = |name, settings| Arm { name, settings };
        let arms = vec![
            arm("sgd", json!({"name": "sgd"})),
            arm("adamw", json!({"name": "adamw"})),
            arm("muon", json!({"name": "muon"})),
            arm("adamuon", json!({"name": "adamuon"})),
            arm("m3", json!({"name": "m3"})),
            arm("m3, ema_v", json!({"name": "m3", "form": "ema_v"})),
            arm("m3, literal", json!({"name": "m3", "form": "literal", "weight_decay": 0.0})),
            arm("dgd", json!({"name": "dgd"})),
            arm("dgd, as printed", json!({"name": "dgd", "decay_scale": 1.0})),
            arm("momentum", json!({"name": "momentum"})),
            arm("momentum, adam", json!({"name": "momentum", "precondition": {"name": "adam"}})),
            arm("delta_momentum", json!({"name": "delta_momentum"})),
            arm("deep_momentum", json!({"name": "deep_momentum"})),
            arm("generalised_momentum", json!({"name": "generalised_momentum"})),
            arm("ggd", json!({"name": "ggd"})),
        ];
        let rates = vec![1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0];
        Self { arms, rates, steps: 200, width: 32, seeds: super::SEEDS }
    }
}

/// One arm: by rate under the first seed, then the losses of every seed at the best rate.
struct Measured {
    grid: Vec<f64>,
    best: f64,
    losses: Vec<f64>,
}

impl Setup {
    /// The optimizer of an arm whose matrices have the peak rate `peak`.
    fn optimizer(&self, arm: &Arm, peak: f64) -> Result<AnyOptimizer> {
        let read = |settings: Value| -> Result<AnyOptimizer> {
            let wrong = |e: serde_json::Error| Error::Config { origin: arm.name.into(), reason: e.to_string() };
            serde_json::from_value(settings).map_err(wrong)
        };
        let optimizer = read(arm.settings.clone())?;
        if optimizer.rest().is_none() {
            return Ok(optimizer);
        }
        let mut settings = arm.settings.clone();
        settings["rest"] = json!({"rate": REST / peak});
        read(settings)
    }

    fn config(&self, optimizer: AnyOptimizer, peak: f64, seed: usize) -> RunConfig {
        let mixer = MixerConfig::Attention(AttentionConfig::default());
        let blocks = vec![BlockConfig { repeat: 2, mixer, ..BlockConfig::default() }];
        RunConfig {
            seed: seed as u64,
            train: TrainConfig { steps: self.steps, lanes: 8, ..TrainConfig::default() },
            schedule: Schedule { peak, warmup_steps: 10, floor: 0.05 },
            model: ModelConfig { width: self.width, context: 64, blocks, ..ModelConfig::default() },
            optimizer,
            ..RunConfig::default()
        }
    }

    /// The mean of the last losses; infinite where the run broke off.
    fn train(&self, arm: &Arm, peak: f64, seed: usize) -> Result<f64> {
        let mut config = self.config(self.optimizer(arm, peak)?, peak, seed);
        config.data.held_out = 0.5;
        let (stream, _): (Stream, _) = text(&config)?;
        let mut trainer = Trainer::new(&config, stream)?;
        let mut losses = Vec::new();
        for _ in 0..self.steps {
            match trainer.step() {
                Ok(report) => losses.push(report.loss),
                Err(Error::Step { .. }) => return Ok(f64::INFINITY),
                Err(other) => return Err(other),
            }
        }
        Ok(mean(&losses[losses.len() - LAST.min(losses.len())..]))
    }

    fn measure(&self) -> Result<Vec<Measured>> {
        let one = |arm: &Arm| {
            let grid = self.rates.iter().map(|&r| self.train(arm, r, 0)).collect::<Result<Vec<f64>>>()?;
            let at = (0..grid.len()).min_by(|&a, &b| grid[a].total_cmp(&grid[b])).expect("some rate");
            let best = self.rates[at];
            let others = (1..self.seeds).map(|s| self.train(arm, best, s));
            let losses = std::iter::once(Ok(grid[at])).chain(others).collect::<Result<Vec<f64>>>()?;
            Ok(Measured { grid, best, losses })
        };
        self.arms.iter().map(one).collect()
    }

    fn musts(&self, m: &[Measured]) -> Vec<Must> {
        let of = |name: &str| &m[self.arms.iter().position(|a| a.name == name).expect("an arm")].losses;
        let against = |a: &str, b: &str| format!("{:.3} against {:.3}", mean(of(a)), mean(of(b)));
        let below = |a: &str| Must::new(
            format!("{a} ends below AdamW, under every seed"),
            of(a).iter().zip(of("adamw")).all(|(a, b)| a < b),
            against(a, "adamw"),
        );
        vec![
            below("muon"),
            below("m3"),
            Must::new(
                "as printed, M3 is no match for its means: its best seed ends above their worst",
                lowest(of("m3, literal")) > highest(of("m3")),
                against("m3, literal", "m3"),
            ),
            Must::new(
                "as printed, DGD hardly trains: its best seed ends above the worst with a decay scale of 0.01",
                lowest(of("dgd, as printed")) > highest(of("dgd")),
                against("dgd, as printed", "dgd"),
            ),
            Must::new(
                "a preconditioner is what momentum lacks: with adam's it ends below, under every seed",
                of("momentum, adam").iter().zip(of("momentum")).all(|(a, b)| a < b),
                against("momentum, adam", "momentum"),
            ),
        ]
    }

    fn finding(&self, m: &[Measured]) -> Finding {
        let mut table = Table::new(&["optimizer", "best rate", "loss"]);
        table.columns.extend(self.rates.iter().map(|r| format!("at {r}")));
        for (arm, m) in self.arms.iter().zip(m) {
            let grid = m.grid.iter().map(|&l| Cell::from(l));
            table.row([Cell::from(arm.name), Cell::from(m.best), Cell::from(&m.losses[..])].into_iter().chain(grid));
        }
        let row = |(arm, m): (&Arm, &Measured)| (arm.name.to_string(), vec![m.losses.clone()]);
        let points = |m: &Measured| {
            let shown = self.rates.iter().zip(&m.grid).filter(|(_, l)| l.is_finite() && **l < 6.0);
            shown.map(|(&r, &l)| (r, vec![l])).collect()
        };
        let lines = ["sgd", "adamw", "muon", "m3", "m3, literal", "deep_momentum", "ggd"];
        let series = self.arms.iter().zip(m).filter(|(a, _)| lines.contains(&a.name));
        let series = series.map(|(a, m)| Series::new(a.name, points(m))).collect();
        let rows = self.arms.iter().zip(m).map(row).collect();
        let figure = Figure::default()
            .rows("Loss at the best rate", Scale::linear("nats per byte"), &["loss"], rows)
            .lines("By rate, first seed", Scale::log("peak rate"), Scale::linear("nats per byte"), series);
        let caption = format!(
            "Large dots are means over {} seeds. A small model, few steps and one grid of rates: what is near another here \
             may lie on its other side elsewhere. Other settings are the defaults.",
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
        let setup = Setup::default();
        let values = |by: &dyn Fn(usize) -> f64| -> Vec<Measured> {
            let one = |i| Measured { grid: vec![by(i)], best: 1.0, losses: vec![by(i)] };
            (0..setup.arms.len()).map(one).collect()
        };
        let at = |name: &str| setup.arms.iter().position(|a| a.name == name).unwrap();
        let good = [at("muon"), at("m3"), at("dgd"), at("momentum, adam")];
        let is_good = |i: usize| good.contains(&i);
        assert!(setup.musts(&values(&|i| if is_good(i) { 1.0 } else { 2.0 })).iter().all(|m| m.holds));
        assert!(setup.musts(&values(&|i| if is_good(i) { 2.0 } else { 1.0 })).iter().all(|m| !m.holds));
        assert!(setup.musts(&values(&|_| f64::NAN)).iter().all(|m| !m.holds));
    }

    #[test]
    fn a_run_gives_a_loss_or_says_that_it_broke_off() {
        let tiny = Setup { steps: 3, width: 16, seeds: 1, rates: vec![3e-3], ..Setup::default() };
        let all = tiny.measure().unwrap();
        assert!(all.iter().all(|m| m.losses.len() == 1 && m.losses[0] < 7.0), "{:?}", all[0].losses);
        let arm = Arm { name: "sgd", settings: json!({"name": "sgd"}) };
        assert_eq!(tiny.train(&arm, 1e30, 0).unwrap(), f64::INFINITY);
    }
}
