//! Classes that come one after the other: what is kept of the old ones when the new ones are learned.

use super::draw::{rng, scaled, shuffle};
use super::figure::{Figure, Scale, Series};
use super::memory::Arm;
use super::outcome::{Cell, Finding, Must, Table, highest, lowest, mean};
use super::residual::{Chain, Paces, Sample, best};
use super::{Experiment, Result};
use crate::digits::{self, CLASSES, PIXELS};
use hecate_core::Dims;
use rayon::prelude::*;
use serde_json::json;

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "class_incremental",
    asks: "Do more levels keep more of the old classes when new ones arrive?",
    source: "[NestedLearning v1 sec.7.1]",
    protocol: "Three residual blocks of width 64 with 32 hidden units before a read-out that is drawn and never learned, \
               10 classes; 1,400 of the 1,797 digits to learn from, the others to test, drawn anew under every seed. 30 \
               passes over digits 0 to 4 in batches of 16, then once 5 to 9, class after class, in batches of 16. A \
               block steps by rate / √C times the sum of its last C gradients, at 14 rates: one level has C = 16 in \
               all blocks, two 16, 64, 64, three 16, 64, 256. Elastic weight consolidation (EWC) at 4 weights of its \
               penalty; a delta memory over the frozen features. Compared at the lowest rate at which the mean accuracy \
               on the new classes reaches nine tenths of the most that one, two and three levels all reach.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::default() };
        Ok(setup.finding(&setup.measure()?))
    },
};

/// Images of a batch; a level steps after a whole number of them.
const BATCH: usize = 16;
/// A block that never steps.
const NEVER: usize = BATCH << 40;

/// A way of going on with new classes.
#[derive(Clone, Debug)]
struct Way {
    name: String,
    /// Images from one change of a block to its next.
    periods: [usize; 3],
    /// Weight of what holds weights where they were.
    hold: f64,
}

/// What is run.
struct Setup {
    hidden: usize,
    train: usize,
    passes: usize,
    first_rate: f64,
    /// One, two and three levels, then the others.
    ways: Vec<Way>,
    rates: Vec<f64>,
    memory_rates: Vec<f64>,
    seeds: usize,
}

impl Default for Setup {
    fn default() -> Self {
        let way = |name: &str, periods, hold| Way { name: name.into(), periods, hold };
        let mut ways = vec![
            way("one level (fine-tuning)", [16, 16, 16], 0.0),
            way("two levels", [16, 64, 64], 0.0),
            way("three levels", [16, 64, 256], 0.0),
            way("first block alone", [16, NEVER, NEVER], 0.0),
        ];
        ways.extend([10, 100, 1000, 10_000].map(|h| way(&format!("EWC, {h}"), [16, 16, 16], f64::from(h))));
        Self {
            hidden: 32,
            train: 1400,
            passes: 30,
            first_rate: 0.03,
            ways,
            rates: (0..14).map(|i| 0.001 * 2.0_f64.powf(0.5 * f64::from(i))).collect(),
            memory_rates: vec![0.01, 0.03, 0.1, 0.3, 1.0],
            seeds: super::SEEDS,
        }
    }
}

/// Accuracies on old classes and on new ones, among all.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scores {
    old: f64,
    new: f64,
}

/// By rate, by seed.
type Runs = Vec<Vec<Scores>>;

struct Measured {
    frozen: Vec<Scores>,
    /// By way.
    ways: Vec<Runs>,
    memory: Runs,
}

fn column(runs: &[Scores], of: fn(&Scores) -> f64) -> Vec<f64> {
    runs.iter().map(of).collect()
}
fn old(runs: &[Scores]) -> f64 {
    mean(&column(runs, |r| r.old))
}
fn new(runs: &[Scores]) -> f64 {
    mean(&column(runs, |r| r.new))
}

/// A chain that knows the old classes, and what it is to learn and tested on.
struct Task {
    chain: Chain,
    p: Vec<f64>,
    /// Of old classes and of new ones, these class after class.
    train: [Vec<Sample>; 2],
    test: [Vec<Sample>; 2],
    /// Mean squared gradients on the old classes.
    fisher: Vec<f64>,
}

impl Task {
    fn new(setup: &Setup, seed: usize) -> Self {
        let mut draw = rng("class_incremental", seed);
        let chain = Chain::new(PIXELS, setup.hidden, 3, CLASSES, &mut draw);
        let mut p = chain.start(&mut draw);
        let mut all = digits::all().to_vec();
        shuffle(&mut draw, &mut all);
        let samples = |part: &[digits::Digit], new: bool| {
            let these = part.iter().filter(|d| (d.label >= CLASSES / 2) == new);
            let sample = |d: &digits::Digit| Sample { x: d.pixels.map(|x| f64::from(x) - 0.5).into(), label: d.label };
            these.map(sample).collect::<Vec<_>>()
        };
        let (train, test) = all.split_at(setup.train);
        let [mut train, test] = [train, test].map(|part| [samples(part, false), samples(part, true)]);
        let mut learner = Paces::new(&chain, &[BATCH; 3], setup.first_rate);
        for _ in 0..setup.passes {
            shuffle(&mut draw, &mut train[0]);
            for batch in train[0].chunks_exact(BATCH) {
                learner.learn(&chain, &mut p, batch, |_, _| ());
            }
        }
        train[1].sort_by_key(|s| s.label);
        let mut fisher = vec![0.0; chain.len()];
        for sample in &train[0] {
            let mut g = vec![0.0; chain.len()];
            chain.loss(&p, sample, &mut g);
            fisher.iter_mut().zip(&g).for_each(|(f, g)| *f += g * g / train[0].len() as f64);
        }
        Self { chain, p, train, test, fisher }
    }

    fn scores(&self, p: &[f64]) -> Scores {
        Scores { old: self.chain.accuracy(p, &self.test[0]), new: self.chain.accuracy(p, &self.test[1]) }
    }

    /// Learns the new classes one way.
    fn go_on(&self, way: &Way, rate: f64) -> Scores {
        let (mut p, mut learner) = (self.p.clone(), Paces::new(&self.chain, &way.periods, rate));
        let by = way.hold * BATCH as f64;
        for batch in self.train[1].chunks_exact(BATCH) {
            learner.learn(&self.chain, &mut p, batch, |p, g| {
                for i in 0..g.len() {
                    g[i] += by * self.fisher[i] * (p[i] - self.p[i]);
                }
            });
        }
        self.scores(&p)
    }

    /// A memory over what the frozen chain gives to its read-out, written once with everything, old classes first.
    fn remember(&self, rate: f64, seed: usize) -> Result<Scores> {
        let center = {
            let all: Vec<Vec<f64>> = self.train[0].iter().map(|s| self.chain.features(&self.p, &s.x)).collect();
            (0..PIXELS).map(|i| mean(&all.iter().map(|x| x[i]).collect::<Vec<f64>>())).collect::<Vec<f64>>()
        };
        let key = |s: &Sample| {
            let mut x = self.chain.features(&self.p, &s.x);
            x.iter_mut().zip(&center).for_each(|(x, c)| *x -= c);
            scaled(&x, 1.0 / super::draw::length(&x))
        };
        let arm = Arm::new("delta", json!({"name": "delta"}), &[("rate", rate)])?;
        let mut memory = arm.memory(Dims::new(PIXELS, CLASSES), &mut rng("class_incremental memory", seed))?;
        for sample in self.train.iter().flatten() {
            let value: Vec<f64> = (0..CLASSES).map(|c| f64::from(c == sample.label)).collect();
            let k = key(sample);
            memory.step(&k, &value, &k);
        }
        let accuracy = |samples: &[Sample]| {
            let right = samples.iter().filter(|s| best(&memory.read(&key(s))) == s.label).count();
            right as f64 / samples.len() as f64
        };
        Ok(Scores { old: accuracy(&self.test[0]), new: accuracy(&self.test[1]) })
    }
}

impl Setup {
    fn measure(&self) -> Result<Measured> {
        let tasks: Vec<Task> = (0..self.seeds).into_par_iter().map(|seed| Task::new(self, seed)).collect();
        let each = self.rates.len() * self.seeds;
        let one = |i: usize| {
            let (way, rest) = (&self.ways[i / each], i % each);
            tasks[rest % self.seeds].go_on(way, self.rates[rest / self.seeds])
        };
        let all: Vec<Scores> = (0..self.ways.len() * each).into_par_iter().map(one).collect();
        let remember = |&rate: &f64| tasks.iter().enumerate().map(|(i, t)| t.remember(rate, i)).collect();
        Ok(Measured {
            frozen: tasks.iter().map(|t| t.scores(&t.p)).collect(),
            ways: all.chunks(each).map(|runs| runs.chunks(self.seeds).map(<[_]>::to_vec).collect()).collect(),
            memory: self.memory_rates.iter().map(remember).collect::<Result<_>>()?,
        })
    }

    /// The accuracy on new classes at which ways are compared.
    fn target(&self, m: &Measured) -> f64 {
        let most = |runs: &Runs| highest(&runs.iter().map(|r| new(r)).collect::<Vec<f64>>());
        0.9 * lowest(&m.ways[..3].iter().map(most).collect::<Vec<f64>>())
    }

    /// The lowest rate that reaches it, if one does.
    fn matched(&self, m: &Measured, way: usize) -> Option<usize> {
        let target = self.target(m);
        m.ways[way].iter().position(|r| new(r) >= target)
    }

    /// Of the weights of EWC that reach it, the one that keeps most.
    fn best_hold(&self, m: &Measured) -> Option<usize> {
        let held = (0..self.ways.len()).filter(|&w| self.ways[w].hold > 0.0);
        let kept = held.filter_map(|w| self.matched(m, w).map(|at| (w, old(&m.ways[w][at]))));
        kept.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(w, _)| w)
    }

    /// The runs of a memory at the rate that is best over all classes.
    fn best_memory<'a>(&self, m: &'a Measured) -> (f64, &'a [Scores]) {
        let at = best(&m.memory.iter().map(|r| old(r) + new(r)).collect::<Vec<f64>>());
        (self.memory_rates[at], &m.memory[at])
    }

    fn musts(&self, m: &Measured) -> Vec<Must> {
        // What cannot reach the target counts as having kept nothing.
        let kept = |way: usize| self.matched(m, way).map_or(0.0, |at| old(&m.ways[way][at]));
        let levels = [0, 1, 2].map(kept);
        let (before, memory) = (old(&m.frozen), self.best_memory(m).1);
        let (target, ewc) = (self.target(m), self.best_hold(m));
        let shown = format!(
            "one level {:.3}, two {:.3}, three {:.3} (before: {before:.3}), at {target:.3} on new classes",
            levels[0], levels[1], levels[2]
        );
        vec![
            Must::new(
                "the old classes are known first: 95 % or more",
                before >= 0.95,
                format!("{:.1} %", 100.0 * before),
            ),
            Must::new(
                "fine-tuning forgets: 0.2 or more of the accuracy on old classes",
                before - levels[0] >= 0.2,
                shown.clone(),
            ),
            Must::new(
                "more levels, less drop at equal accuracy on new classes: each level more keeps 0.01 or more",
                levels[1] >= levels[0] + 0.01 && levels[2] >= levels[1] + 0.01,
                shown,
            ),
            Must::new(
                "EWC keeps 0.05 more than fine-tuning",
                ewc.is_some_and(|w| kept(w) >= levels[0] + 0.05),
                ewc.map_or("no weight reaches the accuracy on new classes".to_string(), |w| {
                    format!("{} {:.3} against {:.3}", self.ways[w].name, kept(w), levels[0])
                }),
            ),
            Must::new(
                "a memory over frozen features learns as much of the new classes and keeps more of the old ones than any \
                 of them",
                new(memory) >= target && old(memory) > highest(&(0..self.ways.len()).map(kept).collect::<Vec<f64>>()),
                format!("old {:.3}, new {:.3}", old(memory), new(memory)),
            ),
        ]
    }

    fn finding(&self, m: &Measured) -> Finding {
        let mut table = Table::new(&["way", "rate", "old classes", "new classes", "most of the new at any rate"]);
        let mut rows = Vec::new();
        let mut add = |name: &str, rate: Cell, runs: &[Scores], most: f64| {
            let (o, n) = (column(runs, |r| r.old), column(runs, |r| r.new));
            table.row([Cell::from(name), rate, Cell::from(&o[..]), Cell::from(&n[..]), Cell::from(most)]);
            rows.push((name.to_string(), vec![o, n]));
        };
        add("frozen", Cell::from("none"), &m.frozen, new(&m.frozen));
        let (rate, memory) = self.best_memory(m);
        add("frozen, delta memory", Cell::from(rate), memory, highest(&m.memory.iter().map(|r| new(r)).collect::<Vec<_>>()));
        for (w, way) in self.ways.iter().enumerate() {
            let all: Vec<f64> = m.ways[w].iter().map(|r| new(r)).collect();
            // Where the target is out of reach, the rate that comes nearest.
            let at = self.matched(m, w).unwrap_or_else(|| best(&all));
            add(&way.name, Cell::from(self.rates[at]), &m.ways[w][at], highest(&all));
        }
        let line = |w: usize| {
            let points = m.ways[w].iter().map(|r| (new(r), column(r, |r| r.old))).collect();
            Series::new(self.ways[w].name.clone(), points)
        };
        let lines = (0..4).chain(self.best_hold(m)).map(line).collect();
        let figure = Figure::default()
            .rows("Accuracy where compared", Scale::linear("accuracy"), &["old classes", "new classes"], rows)
            .lines(
                "Old classes by new ones, as the rate grows",
                Scale::linear("accuracy on new classes"),
                Scale::linear("accuracy on old classes"),
                lines,
            );
        let caption = format!(
            "{} seeds. Compared at {:.3} on the new classes; a way that does not reach it is shown where it comes \
             nearest. Accuracy is among all 10 classes. One level is fine-tuning by gradient descent, number for number. \
             The first block alone shows what is owed to slower blocks that hardly move. The memory holds the old \
             classes as well: it was written with both, old ones first.",
            self.seeds,
            self.target(m)
        );
        Finding { table, musts: self.musts(m), caption, figure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_must_can_fail() {
        let setup = Setup { seeds: 1, rates: vec![0.1], memory_rates: vec![0.1], ..Setup::default() };
        let scores = |old, new| vec![Scores { old, new }];
        let measured = |frozen: f64, levels: [f64; 3], ewc: f64, memory: f64| Measured {
            frozen: scores(frozen, 0.0),
            ways: (0..setup.ways.len()).map(|w| vec![scores(*levels.get(w).unwrap_or(&ewc), 0.5)]).collect(),
            memory: vec![scores(memory, 0.9)],
        };
        let good = setup.musts(&measured(0.99, [0.5, 0.6, 0.7], 0.8, 0.9));
        assert!(good.iter().all(|m| m.holds), "{good:?}");
        let bad = setup.musts(&measured(0.9, [0.8, 0.8, 0.9], 0.8, 0.5));
        assert!(bad.iter().all(|m| !m.holds), "{bad:?}");
    }

    #[test]
    fn a_small_run_learns_old_classes_then_new_ones_and_gives_the_same_again() {
        let tiny = || {
            let mut setup = Setup { hidden: 4, passes: 4, rates: vec![0.03], memory_rates: vec![0.1], ..Setup::default() };
            setup.ways.truncate(3);
            Setup { seeds: 1, ..setup }
        };
        let (first, again) = (tiny().measure().unwrap(), tiny().measure().unwrap());
        assert_eq!((&first.frozen, &first.ways, &first.memory), (&again.frozen, &again.ways, &again.memory));
        assert!(first.frozen[0].old > 0.8 && first.frozen[0].new < 0.1, "{:?}", first.frozen);
        assert!(first.ways[0][0][0].new > 0.1, "{:?}", first.ways);
    }
}
