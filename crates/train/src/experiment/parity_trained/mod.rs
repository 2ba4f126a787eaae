//! Counting bits, learned: which rules can be trained to, and go on with longer strings.

mod model;

use super::dgd::{Candidate, Dgd};
use super::draw::rng;
use super::figure::{Figure, Scale};
use super::memory::rule;
use super::outcome::{Cell, Finding, Must, Table, highest, lowest, mean};
use super::{Experiment, Result};
use hecate_model::rng::Rng;
use model::{Parity, Places, Sizes};
use rayon::prelude::*;
use serde_json::json;

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "parity_trained",
    asks: "Which rules learn parity, and go on with longer strings?",
    source: "[NestedLearning v1 eq.93]",
    protocol: "One memory of width 12 with a learned start, keys and queries of unit length, retain and rate by \
               sigmoids (bias 3 and 0), a head 12-32-2 on the read (tanh), the parity asked at every position. Adam at \
               5e-3, gradient norm clipped to 1, 500 steps of 64 random strings of 24 bits; gradients through the \
               memory are the rules' own, exact. Tested on 256 strings of 24, 48 and 96 bits: the share of strings \
               with every position right.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::full()? };
        Ok(setup.finding(&setup.measure()))
    },
};

/// One rule.
struct Entry {
    name: &'static str,
    rule: Candidate,
    /// `retain` stays 1.
    keeps_all: bool,
    /// Whether the factor along a key can be negative, which is what the claim is about.
    turns: bool,
}

/// What is run.
struct Setup {
    sizes: Sizes,
    steps: usize,
    lanes: usize,
    bits: usize,
    tests: usize,
    seeds: usize,
    entries: Vec<Entry>,
}

/// Lengths of the test strings, in units of the training length.
const LENGTHS: [usize; 3] = [1, 2, 4];

/// One trained model: shares of whole strings by length, then of positions at the training length.
type Scores = [f64; 4];

/// Trains and tests the model over a rule.
struct Train<'a> {
    setup: &'a Setup,
    keeps_all: bool,
    seed: usize,
}

/// Adam with the usual constants.
struct Adam {
    m: Vec<f64>,
    v: Vec<f64>,
    steps: i32,
}

impl Adam {
    fn step(&mut self, p: &mut [f64], g: &[f64], rate: f64) {
        let (b1, b2) = (0.9, 0.999_f64);
        self.steps += 1;
        let (c1, c2) = (1.0 - f64::powi(b1, self.steps), 1.0 - b2.powi(self.steps));
        for i in 0..p.len() {
            self.m[i] = b1 * self.m[i] + (1.0 - b1) * g[i];
            self.v[i] = b2 * self.v[i] + (1.0 - b2) * g[i] * g[i];
            p[i] -= rate * (self.m[i] / c1) / ((self.v[i] / c2).sqrt() + 1e-8);
        }
    }
}

fn strings(draw: &mut Rng, count: usize, bits: usize) -> Vec<Vec<bool>> {
    (0..count).map(|_| (0..bits).map(|_| draw.uniform() < 0.5).collect()).collect()
}

/// Matrices normal with variance 1 / fan-in, the embedding of unit variance, gates at their bias.
fn start(sizes: Sizes, draw: &mut Rng) -> Vec<f64> {
    let at = Places::new(sizes);
    let mut p = vec![0.0; at.len];
    let mut fill = |range: &std::ops::Range<usize>, fan_in: usize| {
        p[range.clone()].iter_mut().for_each(|p| *p = draw.normal() / (fan_in as f64).sqrt());
    };
    fill(&at.embedding, 1);
    at.projections.iter().chain([&at.start, &at.head1]).for_each(|r| fill(r, sizes.width));
    fill(&at.head2, sizes.hidden);
    p[at.gates[0].end - 1] = 3.0;
    p
}

impl Train<'_> {
    fn run(self, rule: &Candidate) -> Scores {
        let s = self.setup;
        let model = Parity { rule, sizes: s.sizes, keeps_all: self.keeps_all };
        let mut draw = rng("parity_trained", self.seed);
        let mut p = start(s.sizes, &mut draw);
        let mut adam = Adam { m: vec![0.0; p.len()], v: vec![0.0; p.len()], steps: 0 };
        for _ in 0..s.steps {
            let mut g = vec![0.0; p.len()];
            model.loss(&p, &strings(&mut draw, s.lanes, s.bits), &mut g);
            let norm = super::draw::length(&g);
            if norm > 1.0 {
                g.iter_mut().for_each(|g| *g /= norm);
            }
            adam.step(&mut p, &g, 5e-3);
        }
        let mut draw = rng("parity_trained test", self.seed);
        let scores = LENGTHS.map(|n| model.accuracy(&p, &strings(&mut draw, s.tests, n * s.bits)));
        [scores[0].0, scores[1].0, scores[2].0, scores[0].1]
    }
}

impl Setup {
    fn full() -> Result<Self> {
        let entry = |name, rule, keeps_all, turns| Entry { name, rule, keeps_all, turns };
        let registered = |name: &'static str| Ok::<_, crate::Error>(Candidate::Registered(rule(json!(name))?));
        let entries = vec![
            entry("Hebbian (linear_attention)", registered("linear_attention")?, false, false),
            entry("delta", registered("delta")?, false, false),
            entry("gated_delta", registered("gated_delta")?, false, false),
            entry("decay_delta", registered("decay_delta")?, false, true),
            entry("dgd", Candidate::Dgd(Dgd {}), false, true),
            entry("dgd, retain 1", Candidate::Dgd(Dgd {}), true, true),
        ];
        let sizes = Sizes { width: 12, hidden: 32 };
        Ok(Self { sizes, steps: 500, lanes: 64, bits: 24, tests: 256, seeds: super::SEEDS, entries })
    }

    /// By entry, then by seed.
    fn measure(&self) -> Vec<Vec<Scores>> {
        let one = |i: usize| {
            let entry = &self.entries[i / self.seeds];
            Train { setup: self, keeps_all: entry.keeps_all, seed: i % self.seeds }.run(&entry.rule)
        };
        let all: Vec<Scores> = (0..self.entries.len() * self.seeds).into_par_iter().map(one).collect();
        all.chunks(self.seeds).map(<[_]>::to_vec).collect()
    }

    fn musts(&self, m: &[Vec<Scores>]) -> Vec<Must> {
        let column = |scores: &[Scores], i: usize| scores.iter().map(|s| s[i]).collect::<Vec<f64>>();
        let which = |turns: bool| self.entries.iter().zip(m).filter(move |(e, _)| e.turns == turns);
        let shown = |turns: bool, i: usize, of: fn(&[f64]) -> f64| {
            let one = |(e, s): (&Entry, &Vec<Scores>)| format!("{} {:.1} %", e.name, 100.0 * of(&column(s, i)));
            which(turns).map(one).collect::<Vec<_>>().join(", ")
        };
        let [short, long] = [self.bits, LENGTHS[2] * self.bits];
        let least = |i: usize, bound: f64, these: &dyn Fn(&Entry) -> bool| {
            which(true).filter(|(e, _)| these(e)).all(|(_, s)| lowest(&column(s, i)) >= bound)
        };
        let blind = which(false).all(|(_, s)| (0..3).all(|i| highest(&column(s, i)) <= 0.05));
        vec![
            Must::new(
                format!("rules that can turn a sign learn parity: at least 99 % of strings of {short} bits under every \
                         seed"),
                least(0, 0.99, &|_| true),
                format!("lowest: {}", shown(true, 0, lowest)),
            ),
            Must::new(
                format!("they go on with longer strings: at least 95 % of strings of {long} bits under every seed"),
                least(2, 0.95, &|e| !e.keeps_all),
                format!("lowest: {}", shown(true, 2, lowest)),
            ),
            Must::new(
                "and the one that keeps everything (retain 1) as well",
                least(2, 0.95, &|e| e.keeps_all),
                format!("lowest: {}", shown(true, 2, lowest)),
            ),
            Must::new(
                "rules that cannot stay near zero: at most 5 % of strings at every length and seed",
                blind,
                format!("highest at {short} bits: {}", shown(false, 0, highest)),
            ),
            Must::new(
                "erasing twice is not what makes it possible: the mean of decay_delta is within 0.05 of the best",
                {
                    let means: Vec<f64> = m.iter().map(|s| mean(&column(s, 2))).collect();
                    let decay = self.entries.iter().position(|e| e.name == "decay_delta").map_or(0.0, |i| means[i]);
                    decay > 0.5 && decay >= highest(&means) - 0.05
                },
                format!("mean at {long} bits: {}", shown(true, 2, mean)),
            ),
        ]
    }

    fn finding(&self, m: &[Vec<Scores>]) -> Finding {
        let bits = LENGTHS.map(|n| format!("{} bits", n * self.bits));
        let mut table = Table { columns: vec!["rule".into()], rows: Vec::new() };
        table.columns.extend(bits.iter().cloned().chain([format!("positions at {}", bits[0])]));
        let column = |scores: &[Scores], i: usize| scores.iter().map(|s| s[i]).collect::<Vec<f64>>();
        for (entry, scores) in self.entries.iter().zip(m) {
            let cells = (0..4).map(|i| Cell::from(&column(scores, i)[..]));
            table.row([Cell::from(entry.name)].into_iter().chain(cells));
        }
        let rows = |parts: std::ops::Range<usize>| {
            let row = |(e, s): (&Entry, &Vec<Scores>)| {
                (e.name.to_string(), parts.clone().map(|i| column(s, i)).collect())
            };
            self.entries.iter().zip(m).map(row).collect::<Vec<_>>()
        };
        let lengths = bits.each_ref().map(|b| &b[..]);
        let figure = Figure::default()
            .rows("Strings right at every position", Scale::linear("share"), &lengths, rows(0..3))
            .rows("Positions right, at the training length", Scale::linear("share"), &["positions"], rows(3..4));
        let caption = format!(
            "{} seeds. `dgd` is the linear memory of self-referential Titans, W' = retain W - 2 rate (W k) kᵀ + rate v \
             kᵀ, which is not a rule of the registry; `decay_delta` is Titans without momentum. Along a key a write \
             multiplies the memory by retain - rate (decay_delta), retain - 2 rate (dgd), 1 - rate (delta), retain (1 \
             - rate) (gated_delta): only the first two can be negative.",
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
        let setup = Setup { seeds: 1, ..Setup::full().unwrap() };
        let scores = |turning: f64, other: f64| {
            setup.entries.iter().map(|e| vec![[if e.turns { turning } else { other }; 4]]).collect::<Vec<_>>()
        };
        assert!(setup.musts(&scores(1.0, 0.0)).iter().all(|m| m.holds));
        assert!(setup.musts(&scores(0.4, 0.2)).iter().all(|m| !m.holds));
    }

    /// Three bits are learned in a moment by the rule that can turn a sign, and not by the one that cannot.
    #[test]
    fn a_short_parity_is_learned_by_a_rule_that_can_turn_a_sign() {
        let mut setup = Setup { steps: 200, lanes: 16, bits: 6, tests: 64, seeds: 1, ..Setup::full().unwrap() };
        setup.entries.retain(|e| ["delta", "dgd, retain 1"].contains(&e.name));
        let scores = setup.measure();
        assert!(scores[1][0][0] > 0.95 && scores[0][0][2] < 0.5, "{scores:?}");
    }
}
