//! Several pairs, then several of their keys: which memories find every value.

use super::draw::rng;
use super::figure::{Figure, Scale};
use super::outcome::{Cell, Finding, Must, Table, highest, mean};
use super::sequences::{Example, Trained, Training, Tuned, below, different, equal_in_size, model, slow_levels, tuned, unless_it_breaks};
use super::{Experiment, Result};
use hecate_model::rng::Rng;
use hecate_model::{Access, Parts};
use serde_json::{Value, json};

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "mqar",
    asks: "Which memories find the values of several pairs?",
    source: "[Zoology v1 sec.3.1]",
    protocol: "Sequences of 64 tokens: pairs of a key (of 32) and a value (of 32), then each key once more at random \
               places among random values; the value is asked at the second key. Two blocks of width 64 with one head \
               and a perceptron of 128 hidden units (`hope`: `self_modifying` with matrices and chunks of 16 and 4, and \
               two levels of 64 that are the optimizer's), perceptrons widened until all models have as many \
               parameters. Four pairs with keys of width 64, with the short \
               convolution and without; eight pairs with keys of width 4, the state of `delta` half as many numbers \
               as its values hold. Muon, 16 sequences a step, at most 2400 steps, and no more once every value of 64 other \
               sequences is found, asked every 100 steps; the rate the better of 1e-2 and 2e-2 by the loss under the first \
               seed; tested on 256 sequences, and once more with memories that may not write.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::full() }.of_equal_size()?;
        Ok(setup.finding(&setup.measure()?))
    },
};

/// What is run.
struct Setup {
    /// Keys, and as many values.
    names: usize,
    width: usize,
    length: usize,
    steps: u64,
    lanes: usize,
    tests: usize,
    seeds: usize,
    rates: Vec<f64>,
    arms: Vec<Arm>,
    /// Fewest and most parameters of a model, once they are equal in size.
    sizes: [usize; 2],
}

/// What a run gave.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Found {
    /// The share of values that are found.
    values: f64,
    /// The same where no memory may write.
    frozen: f64,
    /// The loss of a value in nats.
    loss: f64,
}

/// Sequences with which it is asked whether every value is found.
const ASKED: usize = 64;

/// Which question an arm belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Few,
    NoConv,
    Many,
}

/// Blocks that are compared.
struct Arm {
    mixer: &'static str,
    part: Part,
    block: Value,
    pairs: usize,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Few => "4 pairs",
            Part::NoConv => "4 pairs, no convolution",
            Part::Many => "8 pairs, narrow keys",
        }
    }
}

/// The mixers with a memory, and their rules.
fn memories() -> [(&'static str, Value); 5] {
    let hope = json!({"name": "self_modifying", "structure": {"name": "matrix"}, "chunk": 16, "chunk_memory": 4});
    [
        ("hebbian", json!("linear_attention")),
        ("delta", json!("delta")),
        ("gated_delta", json!("gated_delta")),
        ("titans", json!("titans")),
        ("hope", hope),
    ]
}

impl Setup {
    fn full() -> Self {
        let (width, length) = (64, 64);
        let block = |mixer: Value, hope: bool| {
            let channel =
                if hope { slow_levels(length, width) } else { json!({"type": "mlp", "hidden": 2 * width}) };
            json!([{"repeat": 2, "mixer": mixer, "channel": channel}])
        };
        let attention = block(json!({"type": "attention", "heads": 1}), false);
        let mut arms = Vec::new();
        for (part, conv, pairs) in [(Part::Few, 4, 4), (Part::NoConv, 0, 4), (Part::Many, 4, 8)] {
            if part != Part::NoConv {
                arms.push(Arm { mixer: "attention", part, block: attention.clone(), pairs });
            }
            for (mixer, rule) in memories() {
                let mut memory = json!({"type": "memory", "rule": rule, "heads": 1, "conv": conv});
                match (mixer, part) {
                    // What is self-modifying makes values as wide as keys.
                    ("hope", Part::Many) | ("gated_delta", Part::NoConv | Part::Many) => continue,
                    (_, Part::Many) => (memory["key_width"], memory["value_width"]) = (json!(4), json!(width)),
                    _ => (),
                }
                arms.push(Arm { mixer, part, block: block(memory, mixer == "hope"), pairs });
            }
        }
        let rates = vec![1e-2, 2e-2];
        Self { names: 32, width, length, steps: 2400, lanes: 16, tests: 256, seeds: super::SEEDS, rates, arms, sizes: [0; 2] }
    }

    fn of_equal_size(mut self) -> Result<Self> {
        let blocks = self.arms.iter_mut().map(|arm| &mut arm.block);
        self.sizes = equal_in_size([2 * self.names, self.width, self.length], blocks)?;
        Ok(self)
    }

    fn example(&self, draw: &mut Rng, pairs: usize) -> Example {
        let keys = different(draw, pairs, self.names);
        let value = |draw: &mut Rng| (self.names + below(draw, self.names)) as u32;
        let values: Vec<u32> = keys.iter().map(|_| value(draw)).collect();
        let mut example = Example::default();
        for (&key, &value) in keys.iter().zip(&values) {
            example.push(key as u32);
            example.push(value);
        }
        let rest = self.length - 2 * pairs;
        let places = different(draw, pairs, rest);
        for t in 0..rest {
            match places.iter().position(|&place| place == t) {
                Some(i) => example.ask(keys[i] as u32, values[i]),
                None => example.push(value(draw)),
            }
        }
        example
    }

    /// What is found after training at this rate.
    fn run(&self, arm: &Arm, rate: f64, seed: usize) -> Result<Found> {
        let config = model(2 * self.names, self.width, self.length, arm.block.clone())?;
        let mut trained = Trained::new(&config, seed)?;
        let (mut draw, mut test) = (rng("mqar", seed), rng("mqar test", seed));
        let how = Training::muon(rate, self.steps, self.lanes);
        let mut check = rng("mqar validation", seed);
        let known = [(0..ASKED).map(|_| self.example(&mut check, arm.pairs)).collect()];
        trained.train_until(&how, seed, &mut || self.example(&mut draw, arm.pairs), &known)?;
        let tests: Vec<Example> = (0..self.tests).map(|_| self.example(&mut test, arm.pairs)).collect();
        let score = trained.score(&tests, &Access::Learn)?;
        let frozen = trained.score(&tests, &Access::Frozen(Parts::all()))?;
        Ok(Found { values: score.answers, frozen: frozen.answers, loss: score.loss })
    }

    /// By arm, then by seed.
    fn measure(&self) -> Result<Vec<Tuned<Found>>> {
        // A run that breaks says nothing of a memory that may not write.
        let nothing = Found { values: 0.0, frozen: f64::NAN, loss: f64::INFINITY };
        let run = |arm: &Arm, rate, seed| unless_it_breaks(self.run(arm, rate, seed), nothing);
        tuned(&self.arms, &self.rates, self.seeds, run, |found| -found.loss)
    }

    fn musts(&self, m: &[Tuned<Found>]) -> Vec<Must> {
        let found = |mixer: &str, part: Part| {
            let at = self.arms.iter().position(|a| (a.mixer, a.part) == (mixer, part));
            at.map_or(f64::NAN, |i| mean(&values(&m[i])))
        };
        // What is found where no memory may write: the most of any model with one.
        let with_memory = self.arms.iter().zip(m).filter(|(arm, _)| arm.mixer != "attention");
        let still = highest(&with_memory.map(|(_, tuned)| mean(&frozen(tuned))).collect::<Vec<f64>>());
        let of = |mixers: &[&str], part| {
            let shown = |mixer: &&str| format!("{mixer} {:.3}", found(mixer, part));
            mixers.iter().map(shown).collect::<Vec<_>>().join(", ")
        };
        let (few, many) = (found("attention", Part::Few), Part::Many);
        let fast = ["delta", "gated_delta", "titans"];
        let bare = ["hebbian", "delta", "titans", "hope"];
        let drop = |mixer: &str| found(mixer, Part::Few) - found(mixer, Part::NoConv);
        vec![
            Must::new("attention finds 99 % of four values", few >= 0.99, of(&["attention"], Part::Few)),
            Must::new(
                "memories that correct what they hold are within 0.02 of it",
                fast.iter().all(|mixer| found(mixer, Part::Few) >= few - 0.02),
                of(&fast, Part::Few),
            ),
            Must::new("so is `hope`", found("hope", Part::Few) >= few - 0.02, of(&["hope"], Part::Few)),
            Must::new(
                "without the short convolution every memory finds less by at least 0.3",
                bare.iter().all(|mixer| drop(mixer) >= 0.3),
                of(&bare, Part::NoConv),
            ),
            Must::new(
                "with more pairs than a key has channels, the Hebbian memory falls by at least 0.1",
                found("hebbian", Part::Few) - found("hebbian", many) >= 0.1,
                of(&["hebbian"], many),
            ),
            Must::new(
                "where `delta` and `titans` find at least 0.05 more",
                ["delta", "titans"].iter().all(|mixer| found(mixer, many) >= found("hebbian", many) + 0.05),
                of(&["attention", "hebbian", "delta", "titans"], many),
            ),
            Must::new(
                "a memory that may not write finds at most twice as many as by guessing, whatever the mixer and the task",
                still <= 2.0 / self.names as f64,
                format!("{still:.3} at the most, by guessing {:.3}", 1.0 / self.names as f64),
            ),
        ]
    }

    fn finding(&self, m: &[Tuned<Found>]) -> Finding {
        let mut table = Table::new(&["mixer", "task", "values found", "memory frozen", "rate"]);
        let mut rows = [Part::Few, Part::NoConv, Part::Many].map(|part| (part, Vec::new()));
        for (arm, tuned) in self.arms.iter().zip(m) {
            let (values, frozen) = (values(tuned), frozen(tuned));
            let numbers = [Cell::from(&values[..]), Cell::from(&frozen[..]), tuned.rate.into()];
            table.row([arm.mixer.into(), arm.part.name().into()].into_iter().chain(numbers));
            let row = (arm.mixer.to_string(), vec![values]);
            rows.iter_mut().filter(|(part, _)| *part == arm.part).for_each(|(_, rows)| rows.push(row.clone()));
        }
        let figure = rows.into_iter().fold(Figure::default(), |figure, (part, rows)| {
            figure.rows(part.name(), Scale::linear("values found"), &["share"], rows)
        });
        let caption = format!(
            "{} seeds, of which the first chose the rate. By guessing {:.3}. Models of {} to {} parameters. A \
             frozen memory is read but never written; attention has none. `hebbian` is linear attention. Memories \
             that modify themselves make values as wide as keys, so that `hope` has no row with narrow keys. There is no \
             LSTM among the blocks.",
            self.seeds,
            1.0 / self.names as f64,
            self.sizes[0],
            self.sizes[1]
        );
        Finding { table, musts: self.musts(m), caption, figure }
    }
}

/// The share of values that are found, by seed.
fn values(tuned: &Tuned<Found>) -> Vec<f64> {
    tuned.runs.iter().map(|found| found.values).collect()
}
/// The same where no memory may write.
fn frozen(tuned: &Tuned<Found>) -> Vec<f64> {
    tuned.runs.iter().map(|found| found.frozen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arm_has_as_many_parameters() {
        let [fewest, most] = Setup::full().of_equal_size().unwrap().sizes;
        assert!(fewest > 0 && most as f64 <= 1.01 * fewest as f64, "{fewest} {most}");
    }

    #[test]
    fn every_must_can_fail() {
        let setup = Setup::full();
        let musts = |of: &dyn Fn(&Arm) -> f64, frozen: f64| {
            let found = |arm| Found { values: of(arm), frozen, loss: 0.0 };
            let tuned = |arm| Tuned { rate: 0.01, runs: vec![found(arm); 2] };
            setup.musts(&setup.arms.iter().map(tuned).collect::<Vec<_>>())
        };
        let good = |arm: &Arm| match (arm.part, arm.mixer) {
            (Part::NoConv, _) => 0.3,
            (Part::Many, "hebbian") => 0.5,
            _ => 1.0,
        };
        let bad = |arm: &Arm| match (arm.part, arm.mixer) {
            (Part::Few, "attention") => 0.95,
            _ => 0.9,
        };
        assert!(musts(&good, 0.03).iter().all(|m| m.holds));
        assert!(musts(&bad, 0.1).iter().all(|m| !m.holds), "{:?}", musts(&bad, 0.1));
    }

    #[test]
    fn every_key_is_asked_for_once() {
        let (setup, mut draw) = (Setup::full(), rng("mqar", 1));
        for pairs in [1, 8] {
            let Example { tokens, targets } = setup.example(&mut draw, pairs);
            assert_eq!(tokens.len(), 64);
            let asked: Vec<usize> = (0..64).filter(|&t| targets[t] != hecate_model::IGNORED).collect();
            assert_eq!(asked.len(), pairs);
            for t in asked {
                let first = tokens.iter().position(|&x| x == tokens[t]).unwrap();
                assert!(first % 2 == 0 && first < 2 * pairs && t >= 2 * pairs && tokens[first + 1] == targets[t]);
            }
        }
    }

    /// Two pairs of four names are found in a moment, and the same again.
    #[test]
    fn two_pairs_are_found_by_a_memory() {
        let small = Setup { names: 4, width: 16, length: 10, steps: 250, lanes: 8, tests: 64, ..Setup::full() };
        let mut setup = Setup { seeds: 1, rates: vec![2e-2], ..small };
        setup.arms.retain(|arm| arm.part == Part::Few && ["hebbian", "hope"].contains(&arm.mixer));
        setup.arms.iter_mut().for_each(|arm| arm.pairs = 2);
        let found = setup.measure().unwrap();
        assert!(found[0].runs[0].values > 0.7 && found[0].runs[0].frozen < 0.5, "{found:?}");
        assert_eq!(found, setup.measure().unwrap());
    }
}
