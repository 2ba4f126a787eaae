//! Whether a fast level gains by starting anew, at every slow boundary, from what a slow level has learned.

mod tokens;

use super::draw::{dot, normals, rng, scaled};
use super::figure::{Figure, Scale, Series};
use super::outcome::{Cell, Finding, Must, Table, lowest, mean};
use super::{Experiment, Result};
use rayon::prelude::*;
use tokens::{Arrangement, Tokens};

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "nested_cms",
    asks: "Does a fast level gain by starting anew from what a slow one learned?",
    source: "[NestedLearning v1 eq.72]",
    protocol: "Numbers: y = (w_0 + delta_c) x + 0.1 noise in 20 dimensions, 200 contexts of 64 tokens, each with a new \
               delta_c 0.7 times as long as w_0. The fast level steps at every token by rate e x / |x|², the slow one \
               after every context by rate times the mean of e x; at 13 fast and 6 slow rates, the best of each way \
               over all seeds. Tokens: a model of one block without a mixer, its channel a `cms` as users have it, \
               from random parameters that are not trained; 16 tokens, 100 contexts of 64, in each of which half of \
               the successors of a fixed table are drawn anew, and one token in ten is any; periods 1 and 64, 4 \
               fast and 6 slow rates. The error or the loss of a token before it is learned, over the second half of all contexts.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::default() };
        Ok(setup.finding(&setup.measure()?))
    },
};

/// How the two levels of numbers stand to each other.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// The fast one alone.
    Single,
    /// Both, and neither ever starts anew.
    Continued,
    /// The fast one starts from zero, and there is no slow one.
    Zero,
    /// The fast one starts from the slow one, which learns from the error of both together.
    NestedTask,
    /// The same, and the slow one learns from its own error.
    NestedOwn,
    /// The fast one starts from w_0, which nobody can know: the bound.
    Told,
}

const WAYS: [(Way, &str); 6] = [
    (Way::Single, "one level"),
    (Way::Continued, "two levels, no new start"),
    (Way::Zero, "one level, from zero"),
    (Way::NestedTask, "nested"),
    (Way::NestedOwn, "nested, own error"),
    (Way::Told, "told the common part"),
];

/// What is run.
struct Setup {
    width: usize,
    contexts: usize,
    length: usize,
    /// Length of delta over that of w_0.
    scale: f64,
    noise: f64,
    fast: Vec<f64>,
    slow: Vec<f64>,
    tokens: Tokens,
    seeds: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            width: 20,
            contexts: 200,
            length: 64,
            scale: 0.7,
            noise: 0.1,
            fast: (1..=13).map(|i| 0.1 * f64::from(i)).collect(),
            slow: vec![0.01, 0.03, 0.1, 0.3, 1.0, 3.0],
            tokens: Tokens::default(),
            seeds: super::SEEDS,
        }
    }
}

/// One way at its best rates.
#[derive(Clone, Debug)]
pub(super) struct Best {
    fast: f64,
    slow: f64,
    /// By seed, then by place in the context: the mean over contexts.
    curves: Vec<Vec<f64>>,
}

impl Best {
    /// The mean of everything, by seed.
    fn means(&self) -> Vec<f64> {
        self.curves.iter().map(|c| mean(c)).collect()
    }

    /// The best of a grid, all of it run side by side; `run` is given the rates and the seed.
    fn of(rates: &[(f64, f64)], seeds: usize, run: impl Fn(f64, f64, usize) -> Result<Vec<f64>> + Sync) -> Result<Self> {
        let one = |i: usize| run(rates[i / seeds].0, rates[i / seeds].1, i % seeds);
        let all = (0..rates.len() * seeds).into_par_iter().map(one).collect::<Result<Vec<_>>>()?;
        let each = rates.iter().zip(all.chunks(seeds));
        let all = each.map(|(&(fast, slow), curves)| Best { fast, slow, curves: curves.to_vec() });
        // A mean that is no number comes last.
        let total = |b: &Best| Some(mean(&b.means())).filter(|m| m.is_finite()).unwrap_or(f64::INFINITY);
        Ok(all.min_by(|a, b| total(a).total_cmp(&total(b))).expect("some rates"))
    }

    /// As points of a line.
    fn points(&self) -> Vec<(f64, Vec<f64>)> {
        let at = |t: usize| self.curves.iter().map(|c| c[t]).collect();
        (0..self.curves[0].len()).map(|t| (t as f64 + 1.0, at(t))).collect()
    }
}

/// Everything.
struct Measured {
    /// By way.
    numbers: Vec<Best>,
    /// By arrangement.
    tokens: Vec<Best>,
}

impl Setup {
    /// Squared error by place in the context, over the second half of all contexts.
    fn numbers(&self, way: Way, fast: f64, slow: f64, seed: usize) -> Vec<f64> {
        let (mut draw, n) = (rng("nested_cms", seed), self.width);
        let vector = |draw: &mut _, length: f64| scaled(&normals(draw, n), length / (n as f64).sqrt());
        let common = vector(&mut draw, 1.0);
        // Of the fast level, what it added to the slow one, where that exists.
        let (mut added, mut start) = (vec![0.0; n], vec![0.0; n]);
        let mut curve = vec![0.0; self.length];
        for context in 0..self.contexts {
            let delta = vector(&mut draw, self.scale);
            let truth: Vec<f64> = common.iter().zip(&delta).map(|(a, b)| a + b).collect();
            match way {
                Way::Single | Way::Continued => (),
                Way::Zero | Way::NestedTask | Way::NestedOwn => added.fill(0.0),
                Way::Told => added.copy_from_slice(&common),
            }
            let mut waiting = vec![0.0; n];
            for place in &mut curve {
                let x = normals(&mut draw, n);
                let y = dot(&truth, &x) + self.noise * draw.normal();
                let own = y - dot(&start, &x);
                let e = own - dot(&added, &x);
                if 2 * context >= self.contexts {
                    *place += e * e;
                }
                let [by, slow_e] = [fast * e / dot(&x, &x), if way == Way::NestedOwn { own } else { e }];
                for i in 0..n {
                    added[i] += by * x[i];
                    waiting[i] += slow_e * x[i];
                }
            }
            if matches!(way, Way::Continued | Way::NestedTask | Way::NestedOwn) {
                start.iter_mut().zip(&waiting).for_each(|(s, w)| *s += slow * w / self.length as f64);
            }
        }
        let counted = (self.contexts - self.contexts.div_ceil(2)) as f64;
        scaled(&curve, 1.0 / counted)
    }

    fn measure(&self) -> Result<Measured> {
        let grid = |slow: &[f64]| self.fast.iter().flat_map(|&f| slow.iter().map(move |&s| (f, s))).collect::<Vec<_>>();
        let way = |&(way, _): &(Way, &str)| {
            let alone = matches!(way, Way::Single | Way::Zero | Way::Told);
            let rates = grid(if alone { &[0.0] } else { &self.slow });
            Best::of(&rates, self.seeds, |fast, slow, seed| Ok(self.numbers(way, fast, slow, seed)))
        };
        let numbers = WAYS.iter().map(way).collect::<Result<Vec<_>>>()?;
        let arrangement = |a: &Arrangement| {
            Best::of(&self.tokens.rates(a), self.seeds, |fast, slow, seed| self.tokens.run(a, fast, slow, seed))
        };
        Ok(Measured { numbers, tokens: tokens::ARRANGEMENTS.iter().map(arrangement).collect::<Result<Vec<_>>>()? })
    }

    fn musts(&self, m: &Measured) -> Vec<Must> {
        let n: Vec<Vec<f64>> = m.numbers.iter().map(Best::means).collect();
        let t: Vec<Vec<f64>> = m.tokens.iter().map(Best::means).collect();
        let all = |names: &[&str], of: &[Vec<f64>]| {
            let one = |(name, x): (&&str, &Vec<f64>)| format!("{name} {:.3}", mean(x));
            names.iter().zip(of).map(one).collect::<Vec<_>>().join("; ")
        };
        let (numbers, tokens) = (all(&WAYS.map(|w| w.1), &n), all(&tokens::ARRANGEMENTS.map(|a| a.name), &t));
        let below = |a: &[f64], b: &[f64], share: f64| a.iter().zip(b).all(|(a, b)| *a < share * b);
        let [single, continued, task, own] = [0, 1, 3, 4].map(|i| &n[i]);
        let apart = lowest(&[mean(task) / mean(own), mean(own) / mean(task)]);
        let alone = if mean(&t[0]) <= mean(&t[1]) { &t[0] } else { &t[1] };
        vec![
            Must::new(
                "numbers: nested is a quarter below the best single level, under every seed",
                below(task, single, 0.75),
                numbers.clone(),
            ),
            Must::new(
                "a second level without a new start gains nothing: not 2 % below the single one",
                mean(continued) >= 0.98 * mean(single),
                numbers.clone(),
            ),
            Must::new(
                "whether the slow level learns from the error of both or from its own matters less than a tenth",
                apart > 0.9,
                numbers,
            ),
            Must::new(
                "tokens, `cms` as users have it: `nested` with `online` has a lower loss than the best single level \
                 (small or as large as both), under every seed",
                below(&t[4], alone, 1.0),
                tokens.clone(),
            ),
            Must::new(
                "tokens: two levels in a row without a new start (`sequential`) are not 2 % below the best single level",
                mean(&t[2]) >= 0.98 * mean(alone),
                tokens.clone(),
            ),
            Must::new(
                "tokens: it is what the slow level learned: where that one stands still, `nested` loses to `nested` with \
                 `online`, under every seed",
                below(&t[4], &t[5], 1.0),
                tokens,
            ),
        ]
    }

    fn finding(&self, m: &Measured) -> Finding {
        let mut table = Table::new(&["stream", "levels", "fast rate", "slow rate", "second half", "first 8", "last 8"]);
        let mut rows = |stream: &str, names: &[&str], all: &[Best]| {
            for (name, best) in names.iter().zip(all) {
                let part = |from: usize, to: usize| best.curves.iter().map(|c| mean(&c[from..to])).collect::<Vec<f64>>();
                let last = best.curves[0].len();
                let numbers = [part(0, last), part(0, 8.min(last)), part(last.saturating_sub(8), last)];
                let slow = if best.slow > 0.0 { Cell::from(best.slow) } else { Cell::from("none") };
                let head = [Cell::from(stream), Cell::from(*name), Cell::from(best.fast), slow];
                table.row(head.into_iter().chain(numbers.iter().map(|n| Cell::from(&n[..]))));
            }
        };
        let (ways, arrangements) = (WAYS.map(|w| w.1), tokens::ARRANGEMENTS.map(|a| a.name));
        rows("numbers", &ways, &m.numbers);
        rows("tokens", &arrangements, &m.tokens);
        let series = |names: &[&str], all: &[Best]| {
            names.iter().zip(all).map(|(name, best)| Series::new(*name, best.points())).collect::<Vec<_>>()
        };
        let place = || Scale::linear("place in the context");
        let figure = Figure::default()
            .lines("Numbers: squared error", place(), Scale::log("error"), series(&ways, &m.numbers))
            .lines("Tokens: loss", place(), Scale::linear("nats"), series(&arrangements, &m.tokens));
        let caption = format!(
            "{} seeds. For numbers, the slow level is what `nested` with `online` calls the start of a level: it learns \
             at the pace of the slow period from the fast one's gradients, and the fast one starts anew from it; there \
             the slow perceptron has a part of its own as well. Without `online` the fast perceptron starts anew from \
             random parameters. Where a best rate is the highest of the grid, a higher one may be better still. The error cannot be below {:.2}, the noise; the loss not below {:.2}, the surprise of \
             one who knows the table.",
            self.seeds,
            self.noise * self.noise,
            self.tokens.least()
        );
        Finding { table, musts: self.musts(m), caption, figure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Setup {
        Setup {
            contexts: 60,
            fast: vec![0.5, 0.8],
            slow: vec![0.1],
            tokens: Tokens { contexts: 4, fast: vec![0.3], slow: vec![0.1], ..Tokens::default() },
            seeds: 2,
            ..Setup::default()
        }
    }

    #[test]
    fn every_must_can_fail() {
        let constant = |x: f64| Best { fast: 0.1, slow: 0.0, curves: vec![vec![x]] };
        let measured = |numbers: [f64; 6], tokens: [f64; 6]| Measured {
            numbers: numbers.map(constant).to_vec(),
            tokens: tokens.map(constant).to_vec(),
        };
        let good = tiny().musts(&measured([1.0, 1.0, 1.0, 0.5, 0.5, 0.4], [2.0, 1.9, 1.95, 1.8, 1.5, 2.0]));
        assert!(good.iter().all(|m| m.holds), "{good:?}");
        let bad = tiny().musts(&measured([1.0, 0.9, 1.0, 0.8, 0.6, 0.4], [2.0, 1.9, 1.5, 1.8, 1.9, 1.8]));
        assert!(bad.iter().all(|m| !m.holds), "{bad:?}");
    }

    #[test]
    fn a_small_run_shows_the_gain_of_numbers_and_gives_the_same_again() {
        let first = tiny().measure().unwrap();
        let musts = tiny().musts(&first);
        assert!(musts[0].holds && musts[1].holds, "{musts:?}");
        let again = tiny().measure().unwrap();
        assert_eq!(format!("{:?}{:?}", first.numbers, first.tokens), format!("{:?}{:?}", again.numbers, again.tokens));
        assert!(first.tokens.iter().all(|b| b.means().iter().all(|x| x.is_finite())));
    }
}
