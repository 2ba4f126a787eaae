//! Every optimizer of the list on the same small task, each at its best rate.

mod net;

use super::draw::rng;
use super::figure::{Figure, Scale, Series};
use super::outcome::{Cell, Finding, Must, Table, highest, mean};
use super::{Experiment, Result};
use crate::digits::{self, Digit};
use crate::error::Error;
use hecate_model::optim::methods::AnyOptimizer;
use hecate_model::optim::Stepper;
use hecate_model::Params;
use net::Net;
use rayon::prelude::*;
use serde_json::{Value, json};

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "optimizers_on_digits",
    asks: "Which optimizers train a small classifier best, each at its own rate?",
    source: "[NestedLearning v1 eq.75]",
    protocol: "A perceptron 64-64-64-10 (SiLU) on 1,400 of the 1,797 digits, the others held out, drawn anew under every \
               seed. 300 steps of 64 images in single precision; constant rates, no weight decay. Every optimizer of the \
               list at its defaults, and M3 and DGD in their other forms, at 13 rates from 1e-6 to 1; the best rate is \
               the one of the lowest mean cross-entropy on the training images after the last step. The last layer and \
               the biases of optimizers of matrices are AdamW's, at the same rate.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::full()? };
        Ok(setup.finding(&setup.measure()))
    },
};

/// An optimizer under its name.
struct Entry {
    name: String,
    optimizer: AnyOptimizer,
}

/// What is run.
struct Setup {
    entries: Vec<Entry>,
    hidden: usize,
    train: usize,
    batch: usize,
    steps: usize,
    rates: Vec<f64>,
    seeds: usize,
}

/// Cross-entropies of one run, on the images that it learned from and on the others.
#[derive(Clone, Copy, Debug)]
struct Losses {
    train: f64,
    test: f64,
}

/// Of one optimizer, by rate, by seed.
type Runs = Vec<Vec<Losses>>;

fn column(runs: &[Losses], of: fn(&Losses) -> f64) -> Vec<f64> {
    runs.iter().map(of).collect()
}

/// An optimizer with some settings, and without weight decay.
fn entry(name: impl Into<String>, settings: Value) -> Result<Entry> {
    let refuse = |e: String| Error::Config { origin: format!("optimizer {settings}"), reason: e };
    let whole: AnyOptimizer = serde_json::from_value(settings.clone()).map_err(|e| refuse(e.to_string()))?;
    let mut whole = serde_json::to_value(&whole).map_err(|e| refuse(e.to_string()))?;
    for at in ["/weight_decay", "/rest/weight_decay"] {
        if let Some(decay) = whole.pointer_mut(at) {
            *decay = json!(0.0);
        }
    }
    let optimizer = serde_json::from_value(whole).map_err(|e| refuse(e.to_string()))?;
    Ok(Entry { name: name.into(), optimizer })
}

impl Setup {
    fn full() -> Result<Self> {
        let mut entries = Vec::new();
        for optimizer in AnyOptimizer::all() {
            entries.push(entry(optimizer.name(), json!({"name": optimizer.name()}))?);
        }
        for (name, settings) in [
            ("m3, ema_v", json!({"name": "m3", "form": "ema_v"})),
            ("m3, literal", json!({"name": "m3", "form": "literal"})),
            ("dgd, decay_scale 1", json!({"name": "dgd", "decay_scale": 1.0})),
        ] {
            entries.push(entry(name, settings)?);
        }
        let rates = (0..13).map(|i| 10.0_f64.powi(-6 + i / 2) * if i % 2 == 0 { 1.0 } else { 3.0 }).collect();
        Ok(Self { entries, hidden: 64, train: 1400, batch: 64, steps: 300, rates, seeds: super::SEEDS })
    }

    fn run(&self, optimizer: &AnyOptimizer, rate: f64, seed: usize) -> Losses {
        let mut draw = rng("optimizers_on_digits", seed);
        let mut images: Vec<Digit> = digits::all().to_vec();
        draw.shuffle(&mut images);
        let (train, test) = images.split_at(self.train);
        let net = Net::new(self.hidden);
        let mut params: Params<f32> = net.layout.init(seed as u64);
        let mut stepper = Stepper::new(optimizer.clone(), &net.layout, seed as u64, |_| true);
        let (mut order, mut at) = (train.to_vec(), train.len());
        for _ in 0..self.steps {
            if at + self.batch > order.len() {
                draw.shuffle(&mut order);
                at = 0;
            }
            let gathered = net.gradient(&params, &order[at..at + self.batch], optimizer.needs_inputs());
            at += self.batch;
            stepper.step(net.ops(), &mut params, gathered.gradient(), rate, |_| true);
            if !params.data.iter().all(|p| p.is_finite()) {
                return Losses { train: f64::INFINITY, test: f64::INFINITY };
            }
        }
        Losses { train: net.loss(&params, train), test: net.loss(&params, test) }
    }

    fn measure(&self) -> Vec<Runs> {
        let each = self.rates.len() * self.seeds;
        let one = |i: usize| {
            let (entry, rest) = (&self.entries[i / each], i % each);
            self.run(&entry.optimizer, self.rates[rest / self.seeds], rest % self.seeds)
        };
        let all: Vec<Losses> = (0..self.entries.len() * each).into_par_iter().map(one).collect();
        all.chunks(each).map(|runs| runs.chunks(self.seeds).map(<[_]>::to_vec).collect()).collect()
    }

    /// The place of the best rate.
    fn best(&self, runs: &Runs) -> usize {
        let train: Vec<f64> = runs.iter().map(|r| mean(&column(r, |r| r.train))).collect();
        (0..train.len()).min_by(|&a, &b| train[a].total_cmp(&train[b])).expect("some rates")
    }

    /// Mean losses at the best rate, and how many rates bring the training loss below 0.1.
    fn at_best(&self, runs: &Runs) -> (f64, f64, usize) {
        let best = &runs[self.best(runs)];
        let good = runs.iter().filter(|r| mean(&column(r, |r| r.train)) < 0.1).count();
        (mean(&column(best, |r| r.train)), mean(&column(best, |r| r.test)), good)
    }

    fn musts(&self, m: &[Runs]) -> Vec<Must> {
        let all: Vec<(f64, f64, usize)> = m.iter().map(|runs| self.at_best(runs)).collect();
        let of = |name: &str| all[self.entries.iter().position(|e| e.name == name).expect("an optimizer of the list")];
        let train = |names: &[&str]| names.iter().map(|n| format!("{n} {:.4}", of(n).0)).collect::<Vec<_>>().join(", ");
        let chance = (digits::CLASSES as f64).ln();
        let untrained = |e: &(&Entry, &(f64, f64, usize))| !e.0.name.contains(',') && e.1.0 >= 0.1 * chance;
        let failed: Vec<&str> = self.entries.iter().zip(&all).filter(untrained).map(|e| &e.0.name[..]).collect();
        let rest = ["m3", "muon", "adamw"].map(|n| format!("{n} {:.3}", of(n).1)).join(", ");
        let windows = ["adamw", "m3", "m3, ema_v"].map(|n| format!("{n} {} rates", of(n).2)).join(", ");
        vec![
            Must::new(
                "Muon and M3 (means, without the second moment) end with a lower training loss than AdamW",
                highest(&[of("muon").0, of("m3").0]) < of("adamw").0,
                train(&["adamw", "muon", "m3"]),
            ),
            Must::new(
                "M3 as printed hardly trains at any rate: a training loss above 1, where chance is 2.30",
                of("m3, literal").0 > 1.0,
                train(&["m3, literal"]),
            ),
            Must::new(
                "with the second moment M3 trains at fewer rates than without: a training loss below 0.1",
                of("m3, ema_v").2 < of("m3").2,
                windows,
            ),
            Must::new(
                "the paper's claim: M3 has a lower loss than Muon and AdamW on images that it has not seen",
                of("m3").1 < of("muon").1 && of("m3").1 < of("adamw").1,
                rest,
            ),
            Must::new(
                "DGD as printed (decay_scale 1) ends higher than with little of its decay (0.01)",
                of("dgd, decay_scale 1").0 > of("dgd").0,
                train(&["dgd, decay_scale 1", "dgd"]),
            ),
            Must::new(
                "every optimizer at its defaults trains at some rate: below a tenth of chance",
                failed.is_empty(),
                if failed.is_empty() { "all do".to_string() } else { format!("not {}", failed.join(", ")) },
            ),
        ]
    }

    fn finding(&self, m: &[Runs]) -> Finding {
        let mut table = Table::new(&["optimizer", "best rate", "training loss", "held-out loss", "rates below 0.1"]);
        for (entry, runs) in self.entries.iter().zip(m) {
            let (at, good) = (self.best(runs), self.at_best(runs).2);
            let [train, test]: [fn(&Losses) -> f64; 2] = [|r| r.train, |r| r.test];
            let cell = |of| Cell::from(&column(&runs[at], of)[..]);
            let head = [Cell::Text(entry.name.clone()), Cell::from(self.rates[at])];
            table.row(head.into_iter().chain([cell(train), cell(test), Cell::from(good)]));
        }
        let row = |(entry, runs): (&Entry, &Runs)| {
            let best = &runs[self.best(runs)];
            (entry.name.clone(), vec![column(best, |r| r.train), column(best, |r| r.test)])
        };
        let shown = ["adamw", "muon", "adamuon", "m3", "m3, ema_v", "m3, literal", "dgd"];
        let series = |name: &&str| {
            let at = self.entries.iter().position(|e| e.name == *name).expect("an optimizer of the list");
            // What overflowed or is far above chance would hide the rest.
            let seen = |r: &&(f64, Vec<f64>)| highest(&r.1) < 10.0;
            let points = self.rates.iter().copied().zip(m[at].iter().map(|r| column(r, |r| r.train)));
            let points: Vec<(f64, Vec<f64>)> = points.collect();
            Series::new(*name, points.iter().filter(seen).cloned().collect())
        };
        let figure = Figure::default()
            .rows(
                "Loss after the last step, at the best rate",
                Scale::log("nats"),
                &["training images", "held-out images"],
                self.entries.iter().zip(m).map(row).collect(),
            )
            .lines(
                "Training loss by rate",
                Scale::log("rate"),
                Scale::log("nats"),
                shown.iter().map(series).collect(),
            );
        let caption = format!(
            "{} seeds. Held-out losses are at the rate that is best on training images, not at their own best. Losses \
             above 10 are not drawn. `m3` is the form `ema`. The head learns by AdamW under every optimizer of matrices, \
             also where the matrices hardly move.",
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
        let setup = Setup { seeds: 1, rates: vec![0.1, 0.2], ..Setup::full().unwrap() };
        let runs = |of: &dyn Fn(&str) -> [f64; 3]| {
            let entry = |e: &Entry| {
                let [train, test, other] = of(&e.name);
                vec![vec![Losses { train, test }], vec![Losses { train: other, test }]]
            };
            setup.entries.iter().map(entry).collect::<Vec<Runs>>()
        };
        let good = setup.musts(&runs(&|name| match name {
            "muon" => [0.01, 0.3, 1.0],
            "m3" => [0.01, 0.2, 0.02],
            "m3, literal" => [2.0, 2.0, 2.0],
            "dgd" => [0.03, 0.3, 1.0],
            _ => [0.05, 0.3, 1.0],
        }));
        assert!(good.iter().all(|m| m.holds), "{good:?}");
        let bad = setup.musts(&runs(&|name| match name {
            "muon" => [0.06, 0.3, 1.0],
            "dgd" => [0.5, 0.3, 1.0],
            _ => [0.05, 0.3, 0.05],
        }));
        assert!(bad.iter().all(|m| !m.holds), "{bad:?}");
    }

    #[test]
    fn every_optimizer_runs_and_gives_the_same_numbers_again() {
        let tiny = Setup { hidden: 8, batch: 16, steps: 15, rates: vec![3e-3], seeds: 1, ..Setup::full().unwrap() };
        let first = tiny.measure();
        assert_eq!(format!("{first:?}"), format!("{:?}", tiny.measure()));
        let adamw = tiny.entries.iter().position(|e| e.name == "adamw").unwrap();
        let before = tiny.run(&tiny.entries[adamw].optimizer, 0.0, 0);
        assert!(first[adamw][0][0].train < 0.95 * before.train, "{first:?} {before:?}");
    }
}
