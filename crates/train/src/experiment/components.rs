//! A component less: what it costs on a text.

use super::draw::rng;
use super::figure::{Figure, Scale, Series};
use super::outcome::{Cell, Finding, Must, Table, highest, lowest, mean};
use super::sequences::{Example, Trained, Training, below, equal_in_size, model, side_by_side};
use super::{Experiment, Result};
use crate::corpus::{Corpus, HELD_OUT};
use hecate_model::rng::Rng;
use hecate_model::{Access, Parts};
use serde_json::{Value, json};

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "components",
    asks: "What does a model of bytes lose with each of its components?",
    source: "[NestedLearning v1 sec.9.6]",
    protocol: "Two blocks of width 64 on the bytes of the embedded novel: Titans is a `titans_mlp_chunk8` memory with \
               convolution, four persistent tokens and a perceptron; HOPE a `self_modifying` memory with chunks of 16 \
               and 16, momentum by a gate, and a continuum memory of periods 32 (in the sequence) and 256 (the \
               optimizer's); as a control attention with a window of 64, which no memory stands beside. Perceptrons (in \
               continuum memories those of the levels) are widened until all models have as many parameters. Muon at \
               1e-2, 150 steps of 4 random stretches of 256 bytes of the training part, the same \
               stretches for every arm of a seed; bits per byte on 128 stretches of the held-out part, and the \
               difference from the whole model under the same seed, and once more with memories that may not write. Few \
               steps, so that 13 arms take minutes.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::full() }.of_equal_size()?;
        Ok(setup.finding(&setup.measure()?))
    },
};

/// What is run.
struct Setup {
    width: usize,
    length: usize,
    steps: u64,
    lanes: usize,
    tests: usize,
    seeds: usize,
    arms: Vec<Arm>,
    /// Fewest and most parameters of a model, once they are equal in size.
    sizes: [usize; 2],
}

/// A model, whole or with something less.
struct Arm {
    family: &'static str,
    change: &'static str,
    block: Value,
}

const WHOLE: &str = "whole";
const FAMILIES: [&str; 2] = ["titans", "hope"];
/// The control without a memory.
const ATTENTION: &str = "attention";
const MODELS: [&str; 3] = [FAMILIES[0], FAMILIES[1], ATTENTION];

/// What a run gave, in bits per byte.
#[derive(Clone, Debug, PartialEq)]
struct Loss {
    /// At every position.
    curve: Vec<f64>,
    /// Mean where no memory may write.
    frozen: f64,
}

impl Loss {
    fn mean(&self) -> f64 {
        mean(&self.curve)
    }
}

/// `over` in place of what `base` has.
fn with(base: &Value, over: Value) -> Value {
    let mut out = base.clone();
    if let (Some(out), Some(over)) = (out.as_object_mut(), over.as_object()) {
        out.extend(over.clone());
    }
    out
}

fn titans(width: usize) -> Vec<Arm> {
    let rule = json!({"name": "titans_mlp_chunk8"});
    let memory = json!({"type": "memory", "rule": rule, "heads": 1, "persistent": 4});
    let arm = |change, memory: Value| {
        let channel = json!({"type": "mlp", "hidden": 2 * width});
        Arm { family: "titans", change, block: json!([{"repeat": 2, "mixer": memory, "channel": channel}]) }
    };
    let of = |over: Value| with(&memory, json!({"rule": with(&rule, over)}));
    vec![
        arm(WHOLE, memory.clone()),
        arm("no decay", of(json!({"retention": "none"}))),
        arm("no momentum", of(json!({"algorithm": "gd"}))),
        arm("no convolution", with(&memory, json!({"conv": 0}))),
        arm("linear memory", of(json!({"structure": "matrix"}))),
        arm("no persistent tokens", with(&memory, json!({"persistent": 0}))),
    ]
}

fn hope(width: usize, length: usize) -> Vec<Arm> {
    let rule = json!({"name": "self_modifying", "chunk": 16, "chunk_memory": 16, "momentum": "gate"});
    let cms = json!({"type": "cms", "hidden": width, "levels": [{"period": length / 8}, {"period": length}]});
    let arm = |change, over: Value, channel: &Value| {
        let memory = json!({"type": "memory", "rule": with(&rule, over), "heads": 1});
        Arm { family: "hope", change, block: json!([{"repeat": 2, "mixer": memory, "channel": channel}]) }
    };
    vec![
        arm(WHOLE, json!({}), &cms),
        arm("no DGD", json!({"precond": "none"}), &cms),
        arm("no momentum", json!({"momentum": "none"}), &cms),
        // A gate that is shut: 1 - retain is below 1e-12 whatever the memory of the gate answers.
        arm("no decay", json!({"retain_bias": 30.0}), &cms),
        arm("no continuum memory", json!({}), &json!({"type": "mlp", "hidden": 2 * width})),
        arm("adaptive queries", json!({"adaptive_q": true}), &cms),
    ]
}

fn attention(width: usize, length: usize) -> Vec<Arm> {
    let mixer = json!({"type": "attention", "heads": 1, "window": length / 4});
    let block = json!([{"repeat": 2, "mixer": mixer, "channel": {"type": "mlp", "hidden": 2 * width}}]);
    vec![Arm { family: ATTENTION, change: WHOLE, block }]
}

/// A text, of which stretches are learned.
fn stretch(bytes: &[u8], from: usize, length: usize) -> Example {
    let byte = |i: usize| u32::from(bytes[from + i]);
    Example { tokens: (0..length).map(byte).collect(), targets: (1..=length).map(byte).collect() }
}

impl Setup {
    fn full() -> Self {
        let (width, length) = (64, 256);
        let arms = titans(width).into_iter().chain(hope(width, length)).chain(attention(width, length)).collect();
        Self { width, length, steps: 150, lanes: 4, tests: 128, seeds: super::SEEDS, arms, sizes: [0; 2] }
    }

    fn of_equal_size(mut self) -> Result<Self> {
        let blocks = self.arms.iter_mut().map(|arm| &mut arm.block);
        self.sizes = equal_in_size([256, self.width, self.length], blocks)?;
        Ok(self)
    }

    fn run(&self, arm: &Arm, text: [&[u8]; 2], seed: usize) -> Result<Loss> {
        let [train, test] = text;
        let mut trained = Trained::new(&model(256, self.width, self.length, arm.block.clone())?, seed)?;
        let mut draw = rng("components", seed);
        let any = |draw: &mut Rng| stretch(train, below(draw, train.len() - self.length), self.length);
        let how = Training::muon(1e-2, self.steps, self.lanes);
        trained.train(&how, seed, &mut || any(&mut draw))?;
        let mut curve = |access: Access| {
            let mut curve = vec![0.0; self.length];
            for i in 0..self.tests {
                let from = i * (test.len() - self.length - 1) / self.tests;
                let answers = trained.answers(&stretch(test, from, self.length), &access)?;
                let bits = answers.iter().map(|a| a.0 / std::f64::consts::LN_2 / self.tests as f64);
                curve.iter_mut().zip(bits).for_each(|(sum, bits)| *sum += bits);
            }
            Ok(curve) as Result<Vec<f64>>
        };
        Ok(Loss { curve: curve(Access::Learn)?, frozen: mean(&curve(Access::Frozen(Parts::all()))?) })
    }

    fn measure(&self) -> Result<Vec<Vec<Loss>>> {
        let corpus = Corpus::moby_dick();
        let (train, test) = corpus.split(HELD_OUT)?;
        side_by_side(&self.arms, self.seeds, |arm, seed| self.run(arm, [train.bytes, test.bytes], seed))
    }

    fn at(&self, family: &str, change: &str) -> usize {
        let is = |arm: &Arm| (arm.family, arm.change) == (family, change);
        self.arms.iter().position(is).expect("the experiment lists this arm")
    }

    /// Bits per byte by which an arm is worse than the whole model, by seed.
    fn loss(&self, m: &[Vec<Loss>], i: usize) -> Vec<f64> {
        let whole = &m[self.at(self.arms[i].family, WHOLE)];
        m[i].iter().zip(whole).map(|(a, b)| a.mean() - b.mean()).collect()
    }

    fn musts(&self, m: &[Vec<Loss>]) -> Vec<Must> {
        let mut musts = Vec::new();
        for (i, arm) in self.arms.iter().enumerate().filter(|(_, arm)| arm.change != WHOLE) {
            let by = self.loss(m, i);
            musts.push(Must::new(
                format!("{}, {}: no better than the whole, in the mean over seeds", arm.family, arm.change),
                mean(&by) >= 0.0,
                format!("{:+.4} ({:+.4} to {:+.4}) bits per byte", mean(&by), lowest(&by), highest(&by)),
            ));
        }
        for family in FAMILIES {
            let part = |from: usize, to: usize| {
                mean(&m[self.at(family, WHOLE)].iter().map(|c| mean(&c.curve[from..to])).collect::<Vec<f64>>())
            };
            let (eighth, half) = (self.length / 8, self.length / 2);
            let (early, late) = (part(0, eighth), part(half, self.length));
            musts.push(Must::new(
                format!("{family}: the loss falls with the position, from the first eighth to the second half"),
                late < early,
                format!("{early:.3} and {late:.3} bits per byte"),
            ));
            let of = |family: &str| &m[self.at(family, WHOLE)];
            let bits = |family: &str| mean(&of(family).iter().map(Loss::mean).collect::<Vec<f64>>());
            let frozen = mean(&of(family).iter().map(|loss| loss.frozen).collect::<Vec<f64>>());
            musts.push(Must::new(
                format!("{family}: a memory that may not write is worse, by at least 0.05"),
                frozen >= bits(family) + 0.05,
                format!("{:.3} and {frozen:.3} bits per byte", bits(family)),
            ));
            musts.push(Must::new(
                format!("{family}: no worse than attention alone"),
                bits(family) <= bits(ATTENTION),
                format!("{:.3} and {:.3} bits per byte", bits(family), bits(ATTENTION)),
            ));
        }
        musts
    }

    /// The means of a curve between powers of two.
    fn buckets(&self, curves: &[Loss]) -> Vec<(f64, Vec<f64>)> {
        let ends = (1..).map(|i| 1 << i).take_while(|&end| end <= self.length);
        ends.map(|end| (end as f64, curves.iter().map(|c| mean(&c.curve[end / 2..end])).collect())).collect()
    }

    fn finding(&self, m: &[Vec<Loss>]) -> Finding {
        let mut table = Table::new(&["model", "with", "bits per byte", "worse than the whole by", "memory frozen"]);
        let mut figure = Figure::default();
        for family in MODELS {
            let mut rows = Vec::new();
            for (i, arm) in self.arms.iter().enumerate().filter(|(_, arm)| arm.family == family) {
                let (bits, by) = (m[i].iter().map(Loss::mean).collect::<Vec<f64>>(), self.loss(m, i));
                let frozen: Vec<f64> = m[i].iter().map(|loss| loss.frozen).collect();
                let numbers = [bits, by.clone(), frozen].map(|seeds| Cell::from(&seeds[..]));
                table.row([family.into(), arm.change.into()].into_iter().chain(numbers));
                if arm.change != WHOLE {
                    rows.push((arm.change.to_string(), vec![by]));
                }
            }
            if rows.is_empty() {
                continue;
            }
            figure = figure.rows(format!("{family}: worse than the whole"), Scale::linear("bits per byte"), &["seed"], rows);
        }
        let line = |family: &str| Series::new(family, self.buckets(&m[self.at(family, WHOLE)]));
        let [x, y] = [Scale::doubling("position, in bytes"), Scale::linear("bits per byte")];
        figure = figure.lines("Loss by position", x, y, MODELS.map(line).into());
        let caption = format!(
            "{} seeds. Differences of a hundredth are noise at this size. Models of {} to {} parameters. A frozen \
             memory is read but never written, the continuum memory's first level with it; attention has none. Keys and \
             values that are not memories of their own are no setting of `self_modifying`. The first eighth of all \
             stretches is 4096 bytes of text, the same under every seed.",
            self.seeds, self.sizes[0], self.sizes[1]
        );
        Finding { table, musts: self.musts(m), caption, figure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_must_can_fail() {
        let setup = Setup::full();
        let losses = |of: &dyn Fn(&Arm, usize) -> f64, frozen: f64| {
            let loss = |a: &Arm| Loss { curve: (0..256).map(|t| of(a, t)).collect(), frozen };
            setup.arms.iter().map(|a| vec![loss(a); 2]).collect::<Vec<_>>()
        };
        let whole = |arm: &Arm| f64::from(u8::from(arm.change == WHOLE && arm.family != ATTENTION));
        let good = losses(&|arm, t| 4.0 - 0.01 * t as f64 - 0.1 * whole(arm), 4.0);
        let bad = losses(&|arm, t| 4.0 + 0.01 * t as f64 + 0.1 * whole(arm), 4.0);
        assert!(setup.musts(&good).iter().all(|m| m.holds));
        assert!(setup.musts(&bad).iter().all(|m| !m.holds));
    }

    #[test]
    fn every_arm_is_another_model() {
        let configs = Setup::full().arms.into_iter().map(|arm| model(256, 64, 256, arm.block).unwrap());
        let mut texts: Vec<String> = configs.map(|c| serde_json::to_string(&c).unwrap()).collect();
        let count = texts.len();
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), count);
    }

    #[test]
    fn every_arm_has_as_many_parameters() {
        let [fewest, most] = Setup::full().of_equal_size().unwrap().sizes;
        assert!(fewest > 0 && most as f64 <= 1.01 * fewest as f64, "{fewest} {most}");
    }

    /// Every arm takes a few steps, and the same ones again.
    #[test]
    fn a_short_run_is_the_same_again() {
        let setup = Setup { width: 16, length: 32, steps: 3, lanes: 2, tests: 2, seeds: 1, arms: Vec::new(), sizes: [0; 2] };
        let setup = Setup { arms: titans(16).into_iter().chain(hope(16, 32)).chain(attention(16, 32)).collect(), ..setup };
        let found = setup.measure().unwrap();
        let usual = |bits: &f64| (4.0..12.0).contains(bits);
        assert!(found.iter().all(|losses| losses[0].curve.iter().all(usual) && usual(&losses[0].frozen)));
        assert_eq!(found, setup.measure().unwrap());
        assert_eq!(setup.finding(&found).table.rows.len(), setup.arms.len());
    }
}
