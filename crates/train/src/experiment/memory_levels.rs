//! A second, slower level of a memory: whether it remembers more, and whether it keeps a memory stable.

use super::draw::{largest, rng, scaled, unit};
use super::figure::{Figure, Scale};
use super::memory::Memory;
use super::outcome::{Cell, Finding, Must, Table, lowest, mean};
use super::sequences::{
    Example, Trained, Training, Tuned, below, model, side_by_side, tuned, unless_it_breaks,
};
use super::{Experiment, Result};
use hecate_core::rules::Paced;
use hecate_core::{AnyRule, Dims};
use hecate_model::rng::Rng;
use hecate_model::{Access, ModelConfig};
use serde_json::{Value, json};

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "memory_levels",
    asks: "Does a second, slower level make a memory better, or more stable?",
    source: "[NestedLearning v1 sec.3]",
    protocol: "Streams of 64 tokens over four slow keys, set once at the start, and four fast ones, set anew at \
               random (set, key, value); in between, a key of either kind that was set is asked for (get, key), 8 \
               values. One block of width 32, a memory of the rule `titans` with one head of width 6, which is \
               fewer than the facts: one level; two levels that both change at every token, as a control; two \
               levels of periods 1 and 8. The perceptron of the first is wider, so that parameters are equal within \
               1 %. Muon, 800 steps of 8 streams, the rate the best of 2.5e-3 to 2e-2 in doublings under the first \
               seed; mean loss of an answer on 256 streams. Stability: `decay_delta` memories of width 16 with \
               nothing forgotten and a fixed rate, 512 tokens whose unit keys have pairwise cosines of about 0.5; \
               the largest rate, in twelfths of a doubling from 0.25, up to which no read exceeds 1,000.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::full() };
        Ok(setup.finding(&setup.measure()?))
    },
};

/// Tokens: a mark before a key that is set and one before a key that is asked for, slow keys, fast keys, values.
const SET: u32 = 0;
const GET: u32 = 1;
const KEYS: usize = 4;
const SLOW: u32 = 2;
const FAST: u32 = SLOW + KEYS as u32;
const FIRST_VALUE: u32 = FAST + KEYS as u32;
const VALUES: usize = 8;
const VOCAB: usize = FIRST_VALUE as usize + VALUES;

/// A read beyond it has left every bound.
const BOUND: f64 = 1e3;

/// What is run.
struct Setup {
    width: usize,
    /// Width of the head: fewer channels than facts, so that there is something to forget.
    memory: usize,
    inner_width: usize,
    length: usize,
    steps: u64,
    lanes: usize,
    tests: usize,
    rates: Vec<f64>,
    inner_rates: Vec<f64>,
    inner_tokens: usize,
    seeds: usize,
}

/// A memory's levels, by their periods.
struct Arm {
    name: &'static str,
    periods: &'static [u64],
}

/// In this order everywhere; the last stands in the stability test alone, where the control would be the first.
const ONE: Arm = Arm { name: "1 level", periods: &[1] };
const SAME: Arm = Arm { name: "2 levels, periods 1 and 1", periods: &[1, 1] };
const TWO: Arm = Arm { name: "2 levels, periods 1 and 8", periods: &[1, 8] };
const SLOW_ONLY: Arm = Arm { name: "1 level, period 8", periods: &[8] };
const TRAINED: [Arm; 3] = [ONE, SAME, TWO];
const STEPPED: [Arm; 3] = [ONE, TWO, SLOW_ONLY];

/// Mean loss of all answers, of slow keys and of fast ones, in nats.
type Losses = [f64; 3];

struct Measured {
    trained: Vec<Tuned<Losses>>,
    /// By arm of [`STEPPED`], then by seed.
    stable: Vec<Vec<f64>>,
}

impl Setup {
    fn full() -> Self {
        let inner_rates = (0..=60).map(|i| 0.25 * f64::exp2(f64::from(i) / 12.0)).collect();
        Self {
            width: 32,
            memory: 6,
            inner_width: 16,
            length: 64,
            steps: 800,
            lanes: 8,
            tests: 256,
            rates: vec![2.5e-3, 5e-3, 1e-2, 2e-2],
            inner_rates,
            inner_tokens: 512,
            seeds: super::SEEDS,
        }
    }

    fn config(&self, arm: &Arm, hidden: usize) -> Result<ModelConfig> {
        let levels: Vec<Value> = arm.periods.iter().map(|period| json!({"period": period})).collect();
        let mut memory = json!({"type": "memory", "rule": "titans", "heads": 1, "levels": levels});
        (memory["key_width"], memory["value_width"]) = (json!(self.memory), json!(self.memory));
        let channel = json!({"type": "mlp", "hidden": hidden});
        model(VOCAB, self.width, self.length, json!([{"mixer": memory, "channel": channel}]))
    }

    /// The arm with as many parameters as two levels and a perceptron of twice the width have, as nearly as can be.
    fn equal(&self, arm: &Arm) -> Result<ModelConfig> {
        let count = |config: &ModelConfig| Ok::<_, crate::Error>(hecate_model::Model::new(config)?.params().count());
        let want = count(&self.config(&TWO, 2 * self.width)?)?;
        let mut best = self.config(arm, 2 * self.width)?;
        for hidden in 2 * self.width..8 * self.width {
            let next = self.config(arm, hidden)?;
            if count(&next)?.abs_diff(want) < count(&best)?.abs_diff(want) {
                best = next;
            }
        }
        Ok(best)
    }

    fn example(&self, draw: &mut Rng) -> Example {
        let mut example = Example::default();
        let value = |draw: &mut Rng| FIRST_VALUE + below(draw, VALUES) as u32;
        let mut held = [None; 2 * KEYS];
        let set = |example: &mut Example, held: &mut [Option<u32>], key: usize, value: u32| {
            held[key] = Some(value);
            [SET, SLOW + key as u32, value].into_iter().for_each(|token| example.push(token));
        };
        for key in 0..KEYS {
            let value = value(draw);
            set(&mut example, &mut held, key, value);
        }
        while example.tokens.len() + 3 <= self.length {
            let key = if draw.uniform() < 0.4 { below(draw, KEYS) } else { KEYS + below(draw, KEYS) };
            match held[key].filter(|_| key < KEYS || draw.uniform() < 0.5) {
                Some(value) => {
                    example.push(GET);
                    example.ask(SLOW + key as u32, value);
                }
                None => {
                    let value = value(draw);
                    set(&mut example, &mut held, key, value);
                }
            }
        }
        example
    }

    fn run(&self, arm: &Arm, rate: f64, seed: usize) -> Result<Losses> {
        let mut trained = Trained::new(&self.equal(arm)?, seed)?;
        let (mut draw, mut test) = (rng("memory_levels", seed), rng("memory_levels test", seed));
        let how = Training::muon(rate, self.steps, self.lanes);
        trained.train(&how, seed, &mut || self.example(&mut draw))?;
        let mut sums = [(0.0, 0.0); 3];
        for _ in 0..self.tests {
            let example = self.example(&mut test);
            let asked = example.tokens.iter().zip(&example.targets).filter(|t| *t.1 != hecate_model::IGNORED);
            for ((&key, _), (loss, _)) in asked.zip(trained.answers(&example, &Access::Learn)?) {
                for i in [0, if key < FAST { 1 } else { 2 }] {
                    sums[i] = (sums[i].0 + loss, sums[i].1 + 1.0);
                }
            }
        }
        Ok(sums.map(|(sum, count)| sum / count))
    }

    /// Whether memories of these periods, read together, stay bounded at this rate.
    fn is_stable(&self, arm: &Arm, rate: f64, seed: usize) -> Result<bool> {
        let (d, mut draw) = (Dims::new(self.inner_width, self.inner_width), rng("memory_levels stable", seed));
        let rule = super::memory::rule(json!("decay_delta"))?;
        let level = |&period: &u64| {
            let paced = Paced { rule: Box::new(rule.clone()), period };
            let rule = if period == 1 { rule.clone() } else { AnyRule::from(paced) };
            Memory::new(&rule, d, &[("retain", 1.0), ("rate", rate)], &mut rng("memory_levels start", seed))
        };
        let mut levels = arm.periods.iter().map(level).collect::<Result<Vec<_>>>()?;
        let centre = unit(&mut draw, self.inner_width);
        for _ in 0..self.inner_tokens {
            let (off, v) = (unit(&mut draw, self.inner_width), unit(&mut draw, self.inner_width));
            let near: Vec<f64> = centre.iter().zip(&off).map(|(c, o)| c + o).collect();
            let k = scaled(&near, 1.0 / super::draw::length(&near));
            let reads: Vec<Vec<f64>> = levels.iter_mut().map(|m| m.step(&k, &v, &k)).collect();
            // A number that is none is beyond every bound too.
            if !reads.iter().all(|read| largest(read) < BOUND) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The largest rate up to which every one is stable; 0 where none is.
    fn stable(&self, arm: &Arm, seed: usize) -> Result<f64> {
        let mut last = 0.0;
        for &rate in &self.inner_rates {
            if !self.is_stable(arm, rate, seed)? {
                break;
            }
            last = rate;
        }
        Ok(last)
    }

    fn measure(&self) -> Result<Measured> {
        let run = |arm: &Arm, rate, seed| unless_it_breaks(self.run(arm, rate, seed), [f64::INFINITY; 3]);
        let trained = tuned(&TRAINED, &self.rates, self.seeds, run, |losses| -losses[0])?;
        let stable = side_by_side(&STEPPED, self.seeds, |arm, seed| self.stable(arm, seed))?;
        Ok(Measured { trained, stable })
    }

    fn musts(&self, m: &Measured) -> Vec<Must> {
        let column = |arm: usize, i: usize| m.trained[arm].runs.iter().map(|l| l[i]).collect::<Vec<f64>>();
        let [one, same, two] = [0, 1, 2].map(|arm| mean(&column(arm, 0)));
        let losses = format!("{one:.3} with one level, {two:.3} with periods 1 and 8, {same:.3} with 1 and 1");
        let [fast, both, slow] = [0, 1, 2].map(|arm| &m.stable[arm][..]);
        let rates = format!(
            "up to {:.2} at period 1, {:.2} with both, {:.2} at period 8 alone",
            lowest(fast),
            lowest(both),
            lowest(slow)
        );
        vec![
            Must::new("a second level of period 8 lowers the loss by 62 %", two <= 0.38 * one, losses.clone()),
            Must::new("it lowers the loss at all, by a tenth", two <= 0.9 * one, losses.clone()),
            Must::new("its period is what helps: a tenth below two levels of period 1", two <= 0.9 * same, losses),
            Must::new(
                "with a second level the memory is stable at a rate where one level is not",
                both.iter().zip(fast).all(|(both, fast)| both > fast),
                rates.clone(),
            ),
            Must::new(
                "a level of period 8 is stable at higher rates than one of period 1, under every seed",
                slow.iter().zip(fast).all(|(slow, fast)| slow > fast),
                rates,
            ),
        ]
    }

    fn finding(&self, m: &Measured) -> Finding {
        let head = ["levels", "loss", "slow keys", "fast keys", "rate", "largest stable inner rate"];
        let mut table = Table::new(&head);
        let mut rows = Vec::new();
        let stable = |name| STEPPED.iter().position(|arm| arm.name == name).map(|i| &m.stable[i][..]);
        let cell = |name| stable(name).map_or(Cell::from("not run"), Cell::from);
        for (arm, t) in TRAINED.iter().zip(&m.trained) {
            let columns = [0, 1, 2].map(|i| t.runs.iter().map(|l| l[i]).collect::<Vec<f64>>());
            let numbers = columns.iter().map(|c| Cell::from(&c[..]));
            table.row([arm.name.into()].into_iter().chain(numbers).chain([t.rate.into(), cell(arm.name)]));
            rows.push((arm.name.to_string(), columns[1..].to_vec()));
        }
        let none = || Cell::from("not run");
        let name = SLOW_ONLY.name;
        table.row([name.into(), none(), none(), none(), none(), cell(name)]);
        let stable = STEPPED.iter().zip(&m.stable).map(|(arm, x)| (arm.name.to_string(), vec![x.clone()])).collect();
        let figure = Figure::default()
            .rows("Loss of an answer", Scale::linear("nats"), &["slow keys", "fast keys"], rows)
            .rows("Largest stable inner rate", Scale::linear("rate"), &["rate"], stable);
        let caption = format!(
            "{} seeds, of which the first chose the rate. By guessing {:.2} nats. In a model the gate of a matrix memory \
             is below 1, where every level is stable: the stability test steps memories under a rate that nothing \
             bounds. Levels are read together, so that they are stable where all of them are.",
            self.seeds,
            (VALUES as f64).ln()
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
        let musts = |[one, same, two]: [f64; 3], stable: [f64; 3]| {
            let tuned = |loss| Tuned { rate: 0.01, runs: vec![[loss; 3]; 2] };
            let measured =
                Measured { trained: [one, same, two].map(tuned).into(), stable: stable.map(|rate| vec![rate; 2]).into() };
            setup.musts(&measured)
        };
        assert!(musts([1.0, 0.5, 0.3], [1.0, 2.0, 2.0]).iter().all(|m| m.holds));
        assert!(musts([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]).iter().all(|m| !m.holds));
    }

    #[test]
    fn what_is_asked_for_is_what_was_set_last() {
        let (setup, mut draw) = (Setup::full(), rng("memory_levels", 2));
        for _ in 0..20 {
            let Example { tokens, targets } = setup.example(&mut draw);
            assert!(tokens.len() <= setup.length && tokens.len() + 3 > setup.length);
            let mut held = std::collections::BTreeMap::new();
            let (mut t, mut asked) = (0, 0);
            while t < tokens.len() {
                if tokens[t] == SET {
                    held.insert(tokens[t + 1], tokens[t + 2]);
                    t += 3;
                } else {
                    assert_eq!(targets[t + 1], held[&tokens[t + 1]]);
                    (t, asked) = (t + 2, asked + 1);
                }
            }
            assert!(asked > 5);
        }
    }

    #[test]
    fn arms_have_equal_parameters_within_one_per_cent() {
        let setup = Setup::full();
        let counts = TRAINED.map(|arm| {
            hecate_model::Model::new(&setup.equal(&arm).unwrap()).unwrap().params().count() as f64
        });
        assert!(counts.iter().all(|c| (c / counts[2] - 1.0).abs() < 0.01), "{counts:?}");
    }

    /// The delta rule is stable up to a rate of two; a small run is the same again.
    #[test]
    fn a_rate_beyond_two_breaks_a_level_of_period_one() {
        let small = Setup { width: 8, memory: 4, inner_width: 4, length: 32, steps: 20, lanes: 2, tests: 8, seeds: 1, ..Setup::full() };
        let setup = Setup { rates: vec![1e-2], inner_tokens: 256, ..small };
        let found = setup.measure().unwrap();
        assert!((1.8..2.3).contains(&found.stable[0][0]), "{:?}", found.stable);
        assert!(found.stable[2][0] > found.stable[0][0], "{:?}", found.stable);
        assert!(found.trained.iter().all(|t| t.runs[0][0] < 3.0));
        assert_eq!(found.trained, setup.measure().unwrap().trained);
    }
}
