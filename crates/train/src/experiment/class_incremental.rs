//! Classes that come one after the other: what is kept of the old ones when the new ones are learned.

use super::draw::{rng, scaled};
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
               passes over digits 0 to 4 in batches of 16, then once 5 to 9 in batches of 16, class after class or mixed. A \
               block steps by rate / √C times the sum of its last C gradients, at 28 rates: one level has C = 16 in \
               all blocks, two 16, 64, 64, three 16, 64, 256. Elastic weight consolidation (EWC) at 4 weights of its \
               penalty; a Hebbian and a delta memory over the frozen features. Compared at the lowest rate at which the mean accuracy \
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
        ways.extend([0.01, 0.1, 1.0, 10.0].map(|h| way(&format!("EWC, {h}"), [16, 16, 16], h)));
        Self {
            hidden: 32,
            train: 1400,
            passes: 30,
            first_rate: 0.03,
            ways,
            rates: (0..28).map(|i| 1e-4 * 2.0_f64.powf(0.25 * f64::from(i))).collect(),
            memory_rates: vec![0.001, 0.003, 0.01, 0.03, 0.1, 0.3],
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

/// New classes that came in one order.
#[derive(Clone, Debug, PartialEq)]
struct Order {
    /// By way.
    ways: Vec<Runs>,
    hebbian: Vec<Scores>,
    delta: Runs,
}

impl Order {
    /// The accuracy on new classes at which ways are compared.
    fn target(&self) -> f64 {
        let most = |runs: &Runs| highest(&runs.iter().map(|r| new(r)).collect::<Vec<f64>>());
        0.9 * lowest(&self.ways[..3].iter().map(most).collect::<Vec<f64>>())
    }

    /// The lowest rate at which a way reaches it, if there is one.
    fn matched(&self, way: usize) -> Option<usize> {
        let target = self.target();
        self.ways[way].iter().position(|r| new(r) >= target)
    }

    /// What a way then keeps of the old classes. One that cannot reach it counts as having kept nothing.
    fn kept(&self, way: usize) -> f64 {
        self.matched(way).map_or(0.0, |at| old(&self.ways[way][at]))
    }

    /// The place of the lowest rate at which the delta memory reaches it, or else of the best one over all classes.
    fn delta_at(&self) -> usize {
        let reached = self.delta.iter().position(|r| new(r) >= self.target());
        reached.unwrap_or_else(|| best(&self.delta.iter().map(|r| old(r) + new(r)).collect::<Vec<f64>>()))
    }
}

struct Measured {
    frozen: Vec<Scores>,
    /// As in [`ORDERS`].
    orders: Vec<Order>,
}

/// In which order the new classes come.
const ORDERS: [&str; 2] = ["class after class", "mixed"];

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
    /// Of old classes.
    known: Vec<Sample>,
    /// Of new classes, in either order.
    arriving: [Vec<Sample>; 2],
    /// Of old classes and of new ones.
    test: [Vec<Sample>; 2],
    /// Mean squared gradients on the old classes, one in the mean over weights: how much each weight matters to them.
    fisher: Vec<f64>,
}

impl Task {
    fn new(setup: &Setup, seed: usize) -> Self {
        let mut draw = rng("class_incremental", seed);
        let chain = Chain::new(PIXELS, setup.hidden, 3, CLASSES, &mut draw);
        let mut p = chain.start(&mut draw);
        let mut all = digits::all().to_vec();
        draw.shuffle(&mut all);
        let samples = |part: &[digits::Digit], new: bool| {
            let these = part.iter().filter(|d| (d.label >= CLASSES / 2) == new);
            let sample = |d: &digits::Digit| Sample { x: d.pixels.map(|x| f64::from(x) - 0.5).into(), label: d.label };
            these.map(sample).collect::<Vec<_>>()
        };
        let (train, test) = all.split_at(setup.train);
        let test = [samples(test, false), samples(test, true)];
        let (mut known, mixed) = (samples(train, false), samples(train, true));
        let mut learner = Paces::new(&chain, &[BATCH; 3], setup.first_rate);
        for _ in 0..setup.passes {
            draw.shuffle(&mut known);
            for batch in known.chunks_exact(BATCH) {
                learner.learn(&chain, &mut p, batch, |_, _| ());
            }
        }
        let mut sorted = mixed.clone();
        sorted.sort_by_key(|s| s.label);
        let mut fisher = vec![0.0; chain.len()];
        for sample in &known {
            let mut g = vec![0.0; chain.len()];
            chain.loss(&p, sample, &mut g);
            fisher.iter_mut().zip(&g).for_each(|(f, g)| *f += g * g);
        }
        let fisher = scaled(&fisher, 1.0 / mean(&fisher));
        Self { chain, p, known, arriving: [sorted, mixed], test, fisher }
    }

    fn scores(&self, p: &[f64]) -> Scores {
        Scores { old: self.chain.accuracy(p, &self.test[0]), new: self.chain.accuracy(p, &self.test[1]) }
    }

    /// Learns the new classes one way.
    fn go_on(&self, order: usize, way: &Way, rate: f64) -> Scores {
        let (mut p, mut learner) = (self.p.clone(), Paces::new(&self.chain, &way.periods, rate));
        let by = way.hold * BATCH as f64;
        for batch in self.arriving[order].chunks_exact(BATCH) {
            learner.learn(&self.chain, &mut p, batch, |p, g| {
                for i in 0..g.len() {
                    g[i] += by * self.fisher[i] * (p[i] - self.p[i]);
                }
            });
        }
        self.scores(&p)
    }

    /// A memory over what the frozen chain gives to its read-out, written once with everything, old classes first.
    fn remember(&self, order: usize, rule: &str, rate: f64) -> Result<Scores> {
        let center = {
            let all: Vec<Vec<f64>> = self.known.iter().map(|s| self.chain.features(&self.p, &s.x)).collect();
            (0..PIXELS).map(|i| mean(&all.iter().map(|x| x[i]).collect::<Vec<f64>>())).collect::<Vec<f64>>()
        };
        let key = |s: &Sample| {
            let mut x = self.chain.features(&self.p, &s.x);
            x.iter_mut().zip(&center).for_each(|(x, c)| *x -= c);
            scaled(&x, 1.0 / super::draw::length(&x))
        };
        let arm = Arm::new("memory", json!(rule), &[("retain", 1.0), ("rate", rate)])?;
        let mut memory = arm.memory(Dims::new(PIXELS, CLASSES), &mut rng("class_incremental memory", 0))?;
        for sample in self.known.iter().chain(&self.arriving[order]) {
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
        let order = |order: usize| {
            let one = |i: usize| {
                let (way, rest) = (&self.ways[i / each], i % each);
                tasks[rest % self.seeds].go_on(order, way, self.rates[rest / self.seeds])
            };
            let all: Vec<Scores> = (0..self.ways.len() * each).into_par_iter().map(one).collect();
            let remember = |rule: &str, rate: f64| {
                tasks.iter().map(|task| task.remember(order, rule, rate)).collect::<Result<Vec<Scores>>>()
            };
            Ok(Order {
                ways: all.chunks(each).map(|runs| runs.chunks(self.seeds).map(<[_]>::to_vec).collect()).collect(),
                hebbian: remember("linear_attention", 1.0)?,
                delta: self.memory_rates.iter().map(|&rate| remember("delta", rate)).collect::<Result<_>>()?,
            })
        };
        Ok(Measured {
            frozen: tasks.iter().map(|t| t.scores(&t.p)).collect(),
            orders: (0..ORDERS.len()).map(order).collect::<Result<_>>()?,
        })
    }

    /// Of the weights of EWC that reach the target, the one that keeps most.
    fn best_hold(&self, order: &Order) -> Option<usize> {
        let held = (0..self.ways.len()).filter(|&w| self.ways[w].hold > 0.0);
        let kept = held.filter_map(|w| order.matched(w).map(|at| (w, old(&order.ways[w][at]))));
        kept.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(w, _)| w)
    }

    fn musts(&self, m: &Measured) -> Vec<Must> {
        let before = old(&m.frozen);
        let known = Must::new(
            "the old classes are known first: 95 % or more",
            before >= 0.95,
            format!("{:.1} %", 100.0 * before),
        );
        let each = ORDERS.iter().zip(&m.orders).flat_map(|(name, order)| self.order_musts(name, order, before));
        [known].into_iter().chain(each).collect()
    }

    /// Verdicts on one order of the new classes.
    fn order_musts(&self, name: &str, order: &Order, before: f64) -> Vec<Must> {
        let levels = [0, 1, 2].map(|w| order.kept(w));
        let (target, ewc) = (order.target(), self.best_hold(order));
        let shown = format!(
            "one level {:.3}, two {:.3}, three {:.3} (before: {before:.3}), at {target:.3} on new classes",
            levels[0], levels[1], levels[2]
        );
        let most = highest(&(0..self.ways.len()).map(|w| order.kept(w)).collect::<Vec<f64>>());
        let memories = [&order.hebbian, &order.delta[order.delta_at()]];
        let memory = |(name, runs): (&str, &Vec<Scores>)| format!("{name} old {:.3}, new {:.3}", old(runs), new(runs));
        vec![
            Must::new(
                format!("new classes {name}: fine-tuning forgets 0.2 or more of the accuracy on old ones"),
                before - levels[0] >= 0.2,
                shown.clone(),
            ),
            Must::new(
                format!(
                    "new classes {name}: more levels, less drop at equal accuracy on new ones; each level more keeps \
                     0.01 or more"
                ),
                levels[1] >= levels[0] + 0.01 && levels[2] >= levels[1] + 0.01,
                shown,
            ),
            Must::new(
                format!("new classes {name}: EWC keeps 0.05 more than fine-tuning"),
                ewc.is_some_and(|w| order.kept(w) >= levels[0] + 0.05),
                ewc.map_or("no weight reaches the accuracy on new classes".to_string(), |w| {
                    format!("{} {:.3} against {:.3}", self.ways[w].name, order.kept(w), levels[0])
                }),
            ),
            Must::new(
                format!(
                    "new classes {name}: one of the memories over frozen features learns as much of them and keeps more \
                     of the old ones than any of the others"
                ),
                memories.iter().any(|runs| new(runs) >= target && old(runs) > most),
                ["Hebbian", "delta"].into_iter().zip(memories).map(memory).collect::<Vec<_>>().join("; "),
            ),
        ]
    }

    /// Name, rate, runs and the most of the new classes at any rate, of everything where it is compared.
    fn compared<'a>(&self, frozen: &'a [Scores], order: &'a Order) -> Vec<(String, Option<f64>, &'a [Scores], f64)> {
        let most = |runs: &[Vec<Scores>]| highest(&runs.iter().map(|r| new(r)).collect::<Vec<f64>>());
        let (hebbian, delta) = (&order.hebbian, order.delta_at());
        let mut all = vec![
            ("frozen".to_string(), None, frozen, new(frozen)),
            ("frozen, Hebbian memory".into(), Some(1.0), &hebbian[..], new(hebbian)),
            (
                "frozen, delta memory".into(),
                Some(self.memory_rates[delta]),
                &order.delta[delta][..],
                most(&order.delta),
            ),
        ];
        for (w, way) in self.ways.iter().enumerate() {
            let runs = &order.ways[w];
            // Where the target is out of reach, the rate that comes nearest.
            let at = order.matched(w).unwrap_or_else(|| best(&runs.iter().map(|r| new(r)).collect::<Vec<f64>>()));
            all.push((way.name.clone(), Some(self.rates[at]), &runs[at], most(runs)));
        }
        all
    }

    fn finding(&self, m: &Measured) -> Finding {
        let mut table =
            Table::new(&["new classes", "way", "rate", "accuracy on old", "accuracy on new", "most of new at any rate"]);
        let mut figure = Figure::default();
        for (order_name, order) in ORDERS.iter().zip(&m.orders) {
            let mut rows = Vec::new();
            for (name, rate, runs, most) in self.compared(&m.frozen, order) {
                let (o, n) = (column(runs, |r| r.old), column(runs, |r| r.new));
                let head = [Cell::from(*order_name), Cell::from(&name[..]), rate.map_or("none".into(), Cell::from)];
                table.row(head.into_iter().chain([Cell::from(&o[..]), Cell::from(&n[..]), Cell::from(most)]));
                rows.push((name, vec![o, n]));
            }
            let line = |w: usize| {
                let points = order.ways[w].iter().map(|r| (new(r), column(r, |r| r.old))).collect();
                Series::new(self.ways[w].name.clone(), points)
            };
            figure = figure
                .rows(
                    format!("New classes {order_name}: where compared"),
                    Scale::linear("accuracy"),
                    &["old classes", "new classes"],
                    rows,
                )
                .lines(
                    format!("New classes {order_name}: as the rate grows"),
                    Scale::linear("accuracy on new classes"),
                    Scale::linear("accuracy on old classes"),
                    (0..4).chain(self.best_hold(order)).map(line).collect(),
                );
        }
        let caption = format!(
            "{} seeds. Compared at {:.3} on the new classes where they come one after the other and at {:.3} where they \
             are mixed; a way that does not reach it is shown where it comes nearest. Accuracy is among all 10 classes. \
             One level is fine-tuning by gradient descent, number for number. The first block alone shows what is owed \
             to slower blocks that hardly move: there are about 700 new images, so that a block of period 256 changes \
             twice. A memory was written once with everything, old classes first.",
            self.seeds,
            m.orders[0].target(),
            m.orders[1].target()
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
            orders: vec![
                Order {
                    ways: (0..setup.ways.len()).map(|w| vec![scores(*levels.get(w).unwrap_or(&ewc), 0.5)]).collect(),
                    hebbian: scores(memory, 0.9),
                    delta: vec![scores(memory, 0.9)],
                };
                2
            ],
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
        assert_eq!((&first.frozen, &first.orders), (&again.frozen, &again.orders));
        assert!(first.frozen[0].old > 0.8 && first.frozen[0].new < 0.1, "{:?}", first.frozen);
        assert!(first.orders[1].ways[0][0][0].new > 0.1, "{:?}", first.orders);
    }
}
