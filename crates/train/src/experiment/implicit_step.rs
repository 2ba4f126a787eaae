//! The third power of the error: where a gradient step explodes and an implicit one does not.

use super::draw::{largest, normals, rng, scaled, unit, units};
use super::figure::{Figure, Scale, Series};
use super::memory::{Arm, Memory};
use super::outcome::{Cell, Finding, Must, Table, highest, lowest, mean};
use super::{Experiment, Result};
use hecate_core::Dims;
use serde_json::json;

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "implicit_step",
    asks: "Does a memory with the bias l_3 stay bounded?",
    source: "[Miras v1 eq.10]",
    protocol: "A linear memory of width 8 under the bias l_p with p = 3, rate 1, no decay. (a) One pair, its value \
               normal with deviation 3, written 12 times: the largest error of a coordinate before each write. (b) 200 \
               random pairs under the implicit step: the largest entry of the memory.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::full()? };
        Ok(setup.finding(&setup.measure()?))
    },
};

const EXPLICIT: usize = 0;
const IMPLICIT: usize = 1;

/// What is run; the arms in the order of the constants.
struct Setup {
    width: usize,
    writes: usize,
    pairs: usize,
    seeds: usize,
    arms: Vec<Arm>,
}

/// By arm, then by number of writes, then by seed: errors on one pair; and sizes under many pairs, implicit only.
struct Measured {
    error: Vec<Vec<Vec<f64>>>,
    size: Vec<Vec<f64>>,
}

impl Setup {
    fn full() -> Result<Self> {
        let settings = |p: f64, algorithm: &str| {
            json!({"name": "miras", "retention": "none", "bias": {"name": "lp", "p": p, "form": "smooth"},
                "algorithm": algorithm})
        };
        let arms = vec![
            Arm::new("gradient step", settings(3.0, "gd"), &[("rate", 1.0)])?,
            Arm::new("implicit step", settings(3.0, "implicit"), &[("rate", 1.0)])?,
            Arm::new("gradient step at a tenth of the rate", settings(3.0, "gd"), &[("rate", 0.1)])?,
        ];
        Ok(Self { width: 8, writes: 12, pairs: 200, seeds: super::SEEDS, arms })
    }

    fn memory(&self, arm: &Arm, seed: usize) -> Result<Memory> {
        arm.memory(Dims::new(self.width, self.width), &mut rng("implicit_step start", seed))
    }

    /// The error before each write and after the last.
    fn one_pair(&self, arm: &Arm, seed: usize) -> Result<Vec<f64>> {
        let mut draw = rng("implicit_step", seed);
        let (k, v) = (unit(&mut draw, self.width), scaled(&normals(&mut draw, self.width), 3.0));
        let mut memory = self.memory(arm, seed)?;
        let off = |memory: &Memory| largest(&memory.read(&k).iter().zip(&v).map(|(y, v)| y - v).collect::<Vec<_>>());
        let mut errors = vec![off(&memory)];
        for _ in 0..self.writes {
            memory.step(&k, &v, &k);
            errors.push(off(&memory));
        }
        Ok(errors)
    }

    fn many_pairs(&self, seed: usize) -> Result<Vec<f64>> {
        let mut draw = rng("implicit_step pairs", seed);
        let mut memory = self.memory(&self.arms[IMPLICIT], seed)?;
        let keys = units(&mut draw, self.pairs, self.width);
        let write = |k: &Vec<f64>| {
            let v = scaled(&normals(&mut draw, self.width), 3.0);
            memory.step(k, &v, k);
            largest(&memory.matrix())
        };
        Ok(keys.iter().map(write).collect())
    }

    fn measure(&self) -> Result<Measured> {
        let turned = |seeds: Vec<Vec<f64>>| {
            (0..seeds[0].len()).map(|t| seeds.iter().map(|s| s[t]).collect()).collect::<Vec<Vec<f64>>>()
        };
        let all = |of: &dyn Fn(usize) -> Result<Vec<f64>>| {
            (0..self.seeds).map(of).collect::<Result<Vec<_>>>().map(turned)
        };
        let error = self.arms.iter().map(|arm| all(&|s| self.one_pair(arm, s))).collect::<Result<_>>()?;
        Ok(Measured { error, size: all(&|s| self.many_pairs(s))? })
    }

    fn musts(&self, m: &Measured) -> Vec<Must> {
        let explicit = lowest(&m.error[EXPLICIT][6]);
        let implicit = &m.error[IMPLICIT];
        let falls = (0..self.seeds).all(|s| implicit.windows(2).all(|pair| pair[1][s] < pair[0][s]));
        let [first, last] = [0, self.writes].map(|t| highest(&implicit[t]));
        let size = highest(&m.size.concat());
        vec![
            Must::new(
                "gradient steps at rate 1 explode: after 6 writes the error is above 1e10 under every seed",
                // What overflowed is above everything.
                m.error[EXPLICIT][6].iter().all(|x| !x.is_finite() || *x > 1e10),
                format!("{} at the least", Cell::from(explicit)),
            ),
            Must::new(
                "implicit steps at the same rate come nearer with every write, under every seed",
                falls,
                format!("largest error of all seeds {first:.2} at the start, {:.3} after 6 writes, {last:.3} after {}",
                    highest(&implicit[6]), self.writes),
            ),
            Must::new(
                "implicit steps stay bounded on random pairs: no entry above 100",
                size < 100.0,
                format!("largest entry {}", Cell::from(size)),
            ),
        ]
    }

    fn finding(&self, m: &Measured) -> Finding {
        let columns = ["step", "error before", "after 1 write", "after 3 writes", "after 6 writes", "after 12 writes"];
        let mut table = Table::new(&columns);
        for (arm, errors) in self.arms.iter().zip(&m.error) {
            let cells = [0, 1, 3, 6, self.writes].map(|t| Cell::from(&errors[t][..]));
            table.row([Cell::from(arm.name)].into_iter().chain(cells));
        }
        let points = |e: &[Vec<f64>], most: f64| {
            let shown = e.iter().enumerate().take_while(|(_, s)| highest(s) < most);
            shown.map(|(t, s)| (t as f64, s.clone())).collect()
        };
        let series = self.arms.iter().zip(&m.error).map(|(arm, e)| Series::new(arm.name, points(e, 1e30))).collect();
        let y = Scale::log("largest error of a coordinate");
        let figure = Figure::default()
            .lines("One pair, written again and again", Scale::linear("writes"), y, series)
            .lines(
                "Random pairs, implicit step",
                Scale::linear("tokens"),
                Scale::linear("largest entry of the memory"),
                vec![Series::new("implicit step", points(&m.size, f64::INFINITY))],
            );
        let caption = format!(
            "Means over {} seeds, bands the lowest and the highest. With p = 3 a gradient step multiplies the error by \
             1 - rate |e|, which overshoots by more than it corrects once rate |e| is above 2, each time by the square \
             of the time before; the line ends where it passes 1e30. The mean size in (b) at the end is {}.",
            self.seeds,
            Cell::from(mean(&m.size[m.size.len() - 1]))
        );
        Finding { table, musts: self.musts(m), caption, figure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_must_can_fail() {
        let tiny = || Setup { pairs: 20, seeds: 2, ..Setup::full().unwrap() };
        let musts = tiny().musts(&tiny().measure().unwrap());
        assert!(musts.iter().all(|m| m.holds), "{musts:?}");
        let mut wrong = tiny();
        wrong.arms.swap(EXPLICIT, IMPLICIT);
        let musts = wrong.musts(&wrong.measure().unwrap());
        assert!(musts.iter().all(|m| !m.holds), "{musts:?}");
    }
}
