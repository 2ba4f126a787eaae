//! Counting bits in one number: which rules can turn a sign.

use super::draw::rng;
use super::figure::{Figure, Scale};
use super::memory::rule;
use super::outcome::{Cell, Finding, Must, Table, mean};
use super::dgd::{Candidate, Dgd};
use super::{Experiment, Result};
use hecate_core::Dims;
use serde_json::json;

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "parity",
    asks: "Can a write turn the sign of what is stored, so that a memory counts parity?",
    source: "[NestedLearning v1 eq.93]",
    protocol: "A memory of one number that starts at 1, and 1,000 random bits. On a zero it is left alone (retain 1, \
               rate 0); on a one it writes the value 0 under the key 1, with the gates that suit the rule best among \
               all of retain, rate = 0, 0.1, .. 1. A prefix is right where the number has the sign of the parity.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::full()? };
        Ok(setup.finding(&setup.measure()))
    },
};

const DGD: usize = 0;
const DECAY: usize = 1;
const DELTA: usize = 2;
const GATED: usize = 3;

/// What is run; the rules in the order of the constants.
struct Setup {
    bits: usize,
    seeds: usize,
    rules: Vec<(&'static str, Candidate)>,
}

/// One rule: what its writes can do, and how its best gates count.
struct Measured {
    /// Lowest factor over all gates.
    lowest: f64,
    /// Number of gates with the factor -1.
    turning: usize,
    /// The best gates: retain, rate.
    gates: [f64; 2],
    /// Share of right prefixes under each seed.
    right: Vec<f64>,
    /// Magnitude at the end under each seed.
    size: Vec<f64>,
    /// True if the number was exactly the parity all the time, under every seed.
    exact: bool,
}

/// A write with gates: the number after it.
struct Write {
    retain: f64,
    rate: f64,
    number: f64,
}

impl Write {
    fn with(self, rule: &Candidate) -> f64 {
        let (one, zero, retain, rate) = ([1.0], [0.0], [self.retain], [self.rate]);
        let value = |name: &str| match name {
            "k" | "q" => &one,
            "v" => &zero,
            "retain" => &retain,
            _ => &rate,
        };
        let inputs = rule.inputs();
        let x: Vec<&[f64]> = inputs.iter().map(|i| &value(i.name)[..]).collect();
        let mut state = [self.number];
        rule.over().write(Dims::new(1, 1), 0, &x, &mut state);
        state[0]
    }
}

impl Setup {
    fn full() -> Result<Self> {
        let registered = |name: &'static str| Ok::<_, crate::Error>((name, Candidate::Registered(rule(json!(name))?)));
        let rules = vec![
            ("dgd", Candidate::Dgd(Dgd {})),
            registered("decay_delta")?,
            registered("delta")?,
            registered("gated_delta")?,
        ];
        Ok(Self { bits: 1000, seeds: super::SEEDS, rules })
    }

    /// Share of right prefixes, magnitude at the end, whether it was exact.
    fn count(&self, rule: &Candidate, [retain, rate]: [f64; 2], seed: usize) -> (f64, f64, bool) {
        let mut draw = rng("parity", seed);
        let (mut number, mut parity, mut right, mut exact) = (1.0, 1.0, 0, true);
        for _ in 0..self.bits {
            let bit = draw.uniform() < 0.5;
            let (retain, rate) = if bit { (retain, rate) } else { (1.0, 0.0) };
            number = Write { retain, rate, number }.with(rule);
            parity *= if bit { -1.0 } else { 1.0 };
            right += usize::from(number * parity > 0.0);
            exact &= number == parity;
        }
        (right as f64 / self.bits as f64, number.abs(), exact)
    }

    fn measure(&self) -> Vec<Measured> {
        let grid: Vec<[f64; 2]> = (0..121).map(|i| [(i / 11) as f64 / 10.0, (i % 11) as f64 / 10.0]).collect();
        let one = |(_, rule): &(&str, Candidate)| {
            let factor = |g: &[f64; 2]| Write { retain: g[0], rate: g[1], number: 1.0 }.with(rule);
            let runs = |g: &[f64; 2]| (0..self.seeds).map(|s| self.count(rule, *g, s)).collect::<Vec<_>>();
            // Most right prefixes first, then a magnitude near 1.
            let worth = |g: &[f64; 2]| {
                let runs = runs(g);
                let off: f64 = runs.iter().map(|r| (r.1 - 1.0).abs()).sum();
                (runs.iter().map(|r| r.0).sum::<f64>(), -off)
            };
            let gates = *grid.iter().max_by(|a, b| worth(a).partial_cmp(&worth(b)).expect("finite")).expect("a grid");
            let best = runs(&gates);
            Measured {
                lowest: grid.iter().map(factor).fold(f64::INFINITY, f64::min),
                turning: grid.iter().filter(|g| (factor(g) + 1.0).abs() < 1e-12).count(),
                gates,
                right: best.iter().map(|r| r.0).collect(),
                size: best.iter().map(|r| r.1).collect(),
                exact: best.iter().all(|r| r.2),
            }
        };
        self.rules.iter().map(one).collect()
    }

    fn musts(&self, m: &[Measured]) -> Vec<Must> {
        let parts = |i: usize| {
            let m = &m[i];
            let right = mean(&m.right);
            format!("{}: lowest factor {:.2}, right {:.1} %", self.rules[i].0, m.lowest, 100.0 * right)
        };
        let blind = |i: usize| m[i].lowest >= 0.0 && m[i].right.iter().all(|&r| r < 0.7);
        vec![
            Must::new(
                "erasing twice counts exactly: the number is the parity after every bit, under every seed",
                m[DGD].exact,
                format!("{}, with retain {} and rate {}", parts(DGD), m[DGD].gates[0], m[DGD].gates[1]),
            ),
            Must::new(
                "the delta rule and the gated delta rule have no negative factor, and lose the sign",
                blind(DELTA) && blind(GATED),
                format!("{}; {}", parts(DELTA), parts(GATED)),
            ),
            Must::new(
                "Titans without momentum reaches the factor -1 only in the corner retain 0, rate 1",
                m[DECAY].turning == 1 && m[DECAY].gates == [0.0, 1.0] && m[DECAY].exact,
                format!("{}; {} of 121 gates with the factor -1", parts(DECAY), m[DECAY].turning),
            ),
        ]
    }

    fn finding(&self, m: &[Measured]) -> Finding {
        let columns = ["rule", "lowest factor", "gates with factor -1", "retain", "rate", "right", "size at the end"];
        let mut table = Table::new(&columns);
        for ((name, _), m) in self.rules.iter().zip(m) {
            table.row([
                Cell::from(*name),
                Cell::from(m.lowest),
                Cell::from(m.turning),
                Cell::from(m.gates[0]),
                Cell::from(m.gates[1]),
                Cell::from(&m.right[..]),
                Cell::from(&m.size[..]),
            ]);
        }
        let rows = |part: &dyn Fn(&Measured) -> Vec<f64>| {
            self.rules.iter().zip(m).map(|(r, m)| (r.0.to_string(), vec![part(m)])).collect::<Vec<_>>()
        };
        let figure = Figure::default()
            .rows("Lowest factor of a write along its key", Scale::linear("factor"), &[""], rows(&|m| vec![m.lowest]))
            .rows("Prefixes with the right sign", Scale::linear("share"), &[""], rows(&|m| m.right.clone()));
        let caption = format!(
            "{} seeds. `dgd` is the linear memory of self-referential Titans, which is not a rule of the registry: W' \
             = retain W - 2 rate (W k) kᵀ + rate v kᵀ, so the factor along the key is retain - 2 rate; `decay_delta` \
             has retain - rate, `delta` 1 - rate, `gated_delta` retain (1 - rate). Half of all prefixes have the \
             parity 0, so a memory that never turns its sign is right about half of the time.",
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
        let tiny = || Setup { bits: 60, seeds: 2, ..Setup::full().unwrap() };
        let musts = tiny().musts(&tiny().measure());
        assert!(musts.iter().all(|m| m.holds), "{musts:?}");
        let mut wrong = tiny();
        wrong.rules.swap(DGD, DELTA);
        wrong.rules[DECAY] = wrong.rules[DELTA].clone();
        let musts = wrong.musts(&wrong.measure());
        assert!(musts.iter().all(|m| !m.holds), "{musts:?}");
    }
}
