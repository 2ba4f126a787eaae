//! Whether blocks that change at different paces forget less, with nothing else changed. A control.

use super::draw::{distance2, normals, rng};
use super::figure::{Figure, Scale, Series};
use super::outcome::{Cell, Finding, Must, Table, highest, lowest, mean};
use super::residual::{Chain, Paces, Sample};
use super::Experiment;
use rayon::prelude::*;

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "naive_cms",
    asks: "Does a mixture of paces, by itself, make a chain of blocks forget less?",
    source: "[NestedLearning v1 eq.71]",
    protocol: "Three residual blocks of width 16 with 32 hidden units before a read-out that is drawn and never learned, \
               10 classes. Task A is a stream of 2,000 tokens from 5 Gaussian classes (means normal, deviation 0.5), task \
               B 2,000 tokens from the 5 others. Every block steps by rate / √C times the sum of its last C gradients, \
               at 20 rates. Compared at the lowest rate at which the mean accuracy on B reaches 0.99, on 500 fresh \
               tokens of each task.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::default() };
        Ok(setup.finding(&setup.measure()))
    },
};

/// Classes of a task.
const CLASSES: usize = 5;

/// What is run.
struct Setup {
    width: usize,
    hidden: usize,
    tokens: usize,
    tests: usize,
    deviation: f64,
    /// Tokens from one change of a block to its next, first block first. The first entry has one pace of one token.
    paces: Vec<[usize; 3]>,
    rates: Vec<f64>,
    /// The accuracy on B at which all are compared.
    matched: f64,
    seeds: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            width: 16,
            hidden: 32,
            tokens: 2000,
            tests: 500,
            deviation: 0.5,
            paces: vec![[1, 1, 1], [64, 64, 64], [1, 8, 64], [64, 8, 1], [1, 64, 512]],
            rates: (0..20).map(|i| 1e-4 * 2.0_f64.powf(0.5 * i as f64)).collect(),
            matched: 0.99,
            seeds: super::SEEDS,
        }
    }
}

/// One run.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Accuracy on A before B.
    before: f64,
    /// Accuracies after B.
    a: f64,
    b: f64,
    /// How far the weights moved during B, in a straight line.
    moved: f64,
}

/// One way of setting paces: by rate, by seed.
type Runs = Vec<Vec<Run>>;

fn column(runs: &[Run], of: fn(&Run) -> f64) -> Vec<f64> {
    runs.iter().map(of).collect()
}

/// Correlation of the ranks of two lists.
fn rank_correlation(a: &[f64], b: &[f64]) -> f64 {
    let ranks = |x: &[f64]| x.iter().map(|v| x.iter().filter(|w| *w < v).count() as f64).collect::<Vec<f64>>();
    let (a, b) = (ranks(a), ranks(b));
    let (am, bm) = (mean(&a), mean(&b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(&b).map(|(a, b)| f(a - am, b - bm)).sum::<f64>();
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

impl Setup {
    fn run(&self, paces: &[usize; 3], rate: f64, seed: usize) -> Run {
        let mut draw = rng("naive_cms", seed);
        let chain = Chain::new(self.width, self.hidden, paces.len(), 2 * CLASSES, &mut draw);
        let mut p = chain.start(&mut draw);
        let means: Vec<Vec<f64>> = (0..2 * CLASSES).map(|_| normals(&mut draw, self.width)).collect();
        let mut stream = |task: usize, count: usize| {
            let token = |_| {
                let label = task * CLASSES + (draw.uniform() * CLASSES as f64) as usize;
                let noise = normals(&mut draw, self.width);
                Sample { x: means[label].iter().zip(noise).map(|(m, n)| m + self.deviation * n).collect(), label }
            };
            (0..count).map(token).collect::<Vec<Sample>>()
        };
        let tests = [0, 1].map(|task| stream(task, self.tests));
        let tasks = [0, 1].map(|task| stream(task, self.tokens));
        let mut learner = Paces::new(&chain, paces, rate);
        let mut learn = |p: &mut Vec<f64>, task: &[Sample]| {
            task.chunks(1).for_each(|token| {
                learner.learn(&chain, p, token, |_, _| ());
            });
        };
        learn(&mut p, &tasks[0]);
        let (before, after_a) = (chain.accuracy(&p, &tests[0]), p.clone());
        learn(&mut p, &tasks[1]);
        let [a, b] = [0, 1].map(|task| chain.accuracy(&p, &tests[task]));
        Run { before, a, b, moved: distance2(&p, &after_a).sqrt() }
    }

    fn measure(&self) -> Vec<Runs> {
        let each = self.rates.len() * self.seeds;
        let one = |i: usize| {
            let (paces, rest) = (&self.paces[i / each], i % each);
            self.run(paces, self.rates[rest / self.seeds], rest % self.seeds)
        };
        let all: Vec<Run> = (0..self.paces.len() * each).into_par_iter().map(one).collect();
        all.chunks(each).map(|runs| runs.chunks(self.seeds).map(<[_]>::to_vec).collect()).collect()
    }

    /// The lowest rate that is good enough on B; the best one where none is.
    fn matched(&self, runs: &Runs) -> usize {
        let b: Vec<f64> = runs.iter().map(|r| mean(&column(r, |r| r.b))).collect();
        (0..b.len()).find(|&i| b[i] >= self.matched).unwrap_or_else(|| super::residual::best(&b))
    }

    fn musts(&self, m: &[Runs]) -> Vec<Must> {
        let at: Vec<&Vec<Run>> = m.iter().map(|runs| &runs[self.matched(runs)]).collect();
        let of = |f: fn(&Run) -> f64| at.iter().map(|r| mean(&column(r, f))).collect::<Vec<f64>>();
        let (before, a, b) = (of(|r| r.before), of(|r| r.a), of(|r| r.b));
        let named = |x: &[f64]| {
            let one = |(p, x): (&[usize; 3], &f64)| format!("{} {x:.3}", name(p));
            self.paces.iter().zip(x).map(one).collect::<Vec<_>>().join("; ")
        };
        let all: Vec<&Run> = m.iter().flatten().flatten().filter(|r| r.b.is_finite() && r.moved.is_finite()).collect();
        let (moved, drop): (Vec<f64>, Vec<f64>) = all.iter().map(|r| (r.moved, r.before - r.a)).unzip();
        let follows = rank_correlation(&moved, &drop);
        vec![
            Must::new(
                format!("all are compared at equal skill: accuracy on B of {} or more", self.matched),
                lowest(&b) >= self.matched,
                named(&b),
            ),
            Must::new(
                "they do forget: accuracy on A falls by 0.2 or more under every choice of paces",
                before.iter().zip(&a).all(|(before, a)| before - a >= 0.2),
                format!("before {}; after {}", named(&before), named(&a)),
            ),
            Must::new(
                "mixed paces alone do not help: none keeps 0.05 more of A than one pace of one token",
                highest(&a[1..]) < a[0] + 0.05,
                named(&a),
            ),
            Must::new(
                "what is forgotten follows how far the weights move: over all runs the ranks of the distance and of the \
                 fall on A correlate above 0.7",
                follows > 0.7,
                format!("{follows:.3}"),
            ),
        ]
    }

    fn finding(&self, m: &[Runs]) -> Finding {
        let mut table =
            Table::new(&["tokens per change", "rate", "A before B", "A after B", "B", "distance moved during B"]);
        for (paces, runs) in self.paces.iter().zip(m) {
            let at = self.matched(runs);
            let cell = |f: fn(&Run) -> f64| Cell::from(&column(&runs[at], f)[..]);
            let cells = [cell(|r| r.before), cell(|r| r.a), cell(|r| r.b), cell(|r| r.moved)];
            table.row([Cell::Text(name(paces)), Cell::from(self.rates[at])].into_iter().chain(cells));
        }
        let series = |x: fn(&Run) -> f64, y: fn(&Run) -> f64| {
            let points = |runs: &Runs| {
                runs.iter().map(|r| (mean(&column(r, x)), column(r, y))).collect::<Vec<_>>()
            };
            self.paces.iter().zip(m).map(|(p, runs)| Series::new(name(p), points(runs))).collect::<Vec<_>>()
        };
        let figure = Figure::default()
            .lines(
                "Accuracy on A after B, by accuracy on B",
                Scale::linear("accuracy on B"),
                Scale::linear("accuracy on A"),
                series(|r| r.b, |r| r.a),
            )
            .lines(
                "Fall on A, by how far the weights moved",
                Scale::log("distance moved during B"),
                Scale::linear("accuracy before B less that after"),
                series(|r| r.moved, |r| r.before - r.a),
            );
        let caption = format!(
            "{} seeds. Names are tokens from one change to the next of the three blocks, from input to output. All have \
             the same parameters, the same data and the gradient of the task through the chain; accuracy is among all \
             10 classes. Each point of a line is one rate: beyond the one compared, \
             where B is learned to the last, mixed paces lose less of A than one pace that moved the weights as far.",
            self.seeds
        );
        Finding { table, musts: self.musts(m), caption, figure }
    }
}

fn name(paces: &[usize; 3]) -> String {
    paces.map(|p| p.to_string()).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Setup {
        Setup {
            tokens: 256,
            tests: 100,
            paces: vec![[1, 1, 1], [1, 8, 64]],
            rates: vec![0.05],
            matched: 0.5,
            seeds: 2,
            ..Setup::default()
        }
    }

    #[test]
    fn every_must_can_fail() {
        let run = |before, a, b, moved| Run { before, a, b, moved };
        let runs = |x: [Run; 2]| vec![vec![vec![x[0]]], vec![vec![x[1]]]];
        let setup = Setup { paces: vec![[1, 1, 1], [1, 8, 64]], rates: vec![0.1], seeds: 1, ..Setup::default() };
        let good = setup.musts(&runs([run(1.0, 0.5, 1.0, 1.0), run(1.0, 0.4, 1.0, 2.0)]));
        assert!(good.iter().all(|m| m.holds), "{good:?}");
        let bad = setup.musts(&runs([run(1.0, 0.5, 0.9, 1.0), run(1.0, 0.9, 0.9, 2.0)]));
        assert!(bad.iter().all(|m| !m.holds), "{bad:?}");
    }

    #[test]
    fn a_small_run_learns_and_gives_the_same_numbers_again() {
        let (first, again) = (tiny().measure(), tiny().measure());
        assert_eq!(format!("{first:?}"), format!("{again:?}"));
        let learned = |runs: &Runs| mean(&column(&runs[0], |r| r.b)) > 0.5;
        assert!(first.iter().all(learned), "{first:?}");
    }
}
