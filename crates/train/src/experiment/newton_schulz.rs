//! How near the iterations of Newton and Schulz come to the orthogonal matrix that they are meant to give.

use super::draw::{distance2, dot, largest, rng, scaled, unit};
use super::figure::{Figure, Scale, Series};
use super::memory::Arm;
use super::outcome::{Cell, Finding, Must, Table, highest, lowest, mean};
use super::{Experiment, Result};
use hecate_core::Dims;
use hecate_model::rng::Rng;
use serde_json::json;

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "newton_schulz",
    asks: "Do the iterations of Newton and Schulz give the polar factor?",
    source: "[Atlas v1 eq.32]",
    protocol: "A momentum of width 16 with random singular vectors and singular values from 0.05 to 1 in geometric \
               steps is put into a memory that steps by Newton-Schulz; one token that adds nothing moves the memory \
               from zero by what the iteration gives. Distance: its difference from the product of the singular \
               vectors, over the root of the width. The same for a momentum a thousand times smaller.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::default() };
        Ok(setup.finding(&setup.measure()?))
    },
};

/// What is run.
struct Setup {
    width: usize,
    seeds: usize,
    polynomials: [&'static str; 3],
    iterations: Vec<usize>,
    /// How much smaller the small momentum is.
    small: f64,
}

impl Default for Setup {
    fn default() -> Self {
        let iterations = vec![1, 2, 3, 5, 8, 12, 20, 30, 50];
        Self { width: 16, seeds: super::SEEDS, polynomials: ["muon", "cubic", "quintic"], iterations, small: 1e-3 }
    }
}

/// One polynomial.
struct Measured {
    /// By number of iterations, by seed.
    distance: Vec<Vec<f64>>,
    /// Singular values after five iterations, lowest and highest, by seed.
    after5: [Vec<f64>; 2],
    /// Size of a step from the small momentum over that from the large one after five iterations, by seed.
    size: Vec<f64>,
}

/// Random orthonormal rows.
fn orthonormal(draw: &mut Rng, n: usize) -> Vec<Vec<f64>> {
    let mut rows: Vec<Vec<f64>> = Vec::new();
    while rows.len() < n {
        let mut x = unit(draw, n);
        for row in &rows {
            let along = dot(&x, row);
            x.iter_mut().zip(row).for_each(|(x, r)| *x -= along * r);
        }
        let size = dot(&x, &x).sqrt();
        rows.push(scaled(&x, 1.0 / size));
    }
    rows
}

impl Setup {
    /// What one token moves a memory by whose momentum is `s`.
    fn direction(&self, polynomial: &str, iterations: usize, s: &[f64]) -> Result<Vec<f64>> {
        let muon = json!({"name": "muon", "polynomial": polynomial, "iterations": iterations});
        let settings = json!({"name": "miras", "retention": "none", "algorithm": muon});
        // The momentum is kept whole, and the token's own gradient has no rate.
        let arm = Arm::new("", settings, &[("rate", 0.0), ("momentum", 1.0), ("ns_rate", 1.0)])?;
        let mut memory = arm.memory(Dims::new(self.width, self.width), &mut rng("newton_schulz start", 0))?;
        memory.tensor("S_W").copy_from_slice(s);
        let none = vec![0.0; self.width];
        memory.step(&none, &none, &none);
        Ok(memory.matrix())
    }

    /// Distances, singular values after five iterations, and the ratio of sizes, of one polynomial and seed.
    fn one(&self, polynomial: &str, seed: usize) -> Result<(Vec<f64>, Vec<f64>, f64)> {
        let (mut draw, n) = (rng("newton_schulz", seed), self.width);
        let (u, v) = (orthonormal(&mut draw, n), orthonormal(&mut draw, n));
        let build = |value: &dyn Fn(usize) -> f64| {
            let entry = |at: usize| (0..n).map(|i| value(i) * u[i][at / n] * v[i][at % n]).sum::<f64>();
            (0..n * n).map(entry).collect::<Vec<f64>>()
        };
        let s = build(&|i| 0.05_f64.powf(i as f64 / (n - 1) as f64));
        let polar = build(&|_| 1.0);
        let off = |&k: &usize| Ok((distance2(&self.direction(polynomial, k, &s)?, &polar) / n as f64).sqrt());
        let distances = self.iterations.iter().map(off).collect::<Result<Vec<f64>>>()?;
        let five = self.direction(polynomial, 5, &s)?;
        // An odd polynomial keeps singular vectors, so that each value can be read off along its own.
        let along = |i: usize| (0..n).map(|r| u[i][r] * dot(&five[r * n..(r + 1) * n], &v[i])).sum::<f64>();
        let small = self.direction(polynomial, 5, &scaled(&s, self.small))?;
        Ok((distances, (0..n).map(along).collect(), (dot(&small, &small) / dot(&five, &five)).sqrt()))
    }

    fn measure(&self) -> Result<Vec<Measured>> {
        let one = |polynomial: &&str| {
            let seeds = (0..self.seeds).map(|s| self.one(polynomial, s)).collect::<Result<Vec<_>>>()?;
            Ok(Measured {
                distance: (0..self.iterations.len()).map(|i| seeds.iter().map(|s| s.0[i]).collect()).collect(),
                after5: [lowest, highest].map(|of: fn(&[f64]) -> f64| seeds.iter().map(|s| of(&s.1)).collect()),
                size: seeds.iter().map(|s| s.2).collect(),
            })
        };
        self.polynomials.iter().map(one).collect()
    }

    fn musts(&self, m: &[Measured]) -> Vec<Must> {
        let [muon, cubic, quintic] = [0, 1, 2].map(|i| &m[i]);
        let end = |m: &Measured| m.distance[m.distance.len() - 1].clone();
        let most = self.iterations[self.iterations.len() - 1];
        let sizes = m.iter().flat_map(|m| m.size.iter().map(|s| s - 1.0)).collect::<Vec<f64>>();
        let band = [lowest(&muon.after5[0]), highest(&muon.after5[1])];
        vec![
            Must::new(
                format!("Muon's constants do not converge: after {most} iterations still 0.05 or more away"),
                lowest(&end(muon)) >= 0.05,
                format!("{:.3} away", mean(&end(muon))),
            ),
            Must::new(
                format!("the cubic and the quintic polynomial do: after {most} iterations within 1e-9"),
                highest(&[end(cubic), end(quintic)].concat()) < 1e-9,
                format!("{:.1e} and {:.1e} away", highest(&end(cubic)), highest(&end(quintic))),
            ),
            Must::new(
                "after 5 iterations Muon's singular values lie between 0.65 and 1.25",
                band[0] > 0.65 && band[1] < 1.25,
                format!("{:.3} to {:.3}", band[0], band[1]),
            ),
            Must::new(
                "a step has the same size whatever the surprise: from a momentum a thousand times smaller, within a \
                 hundredth",
                largest(&sizes) < 0.01,
                format!("sizes differ by {:.3} % at the most", 100.0 * largest(&sizes)),
            ),
        ]
    }

    fn finding(&self, m: &[Measured]) -> Finding {
        let mut table = Table { columns: vec!["polynomial".into()], rows: Vec::new() };
        let columns = [1, 5, 12, 20, 50];
        let all = 0..self.iterations.len();
        let shown: Vec<usize> = all.filter(|&i| columns.contains(&self.iterations[i])).collect();
        table.columns.extend(shown.iter().map(|&i| format!("distance after {}", self.iterations[i])));
        let rest = ["lowest value after 5", "highest value after 5", "size from a small momentum"];
        table.columns.extend(rest.map(String::from));
        for (name, m) in self.polynomials.iter().zip(m) {
            let distances = shown.iter().map(|&i| &m.distance[i]);
            let rest = [&m.after5[0], &m.after5[1], &m.size];
            table.row([Cell::from(*name)].into_iter().chain(distances.chain(rest).map(|c| Cell::from(&c[..]))));
        }
        let points = |m: &Measured| self.iterations.iter().map(|&i| i as f64).zip(m.distance.iter().cloned()).collect();
        let series = self.polynomials.iter().zip(m).map(|(name, m)| Series::new(*name, points(m))).collect();
        let figure = Figure::default().lines(
            "Distance from the polar factor",
            Scale::linear("iterations"),
            Scale::log("distance"),
            series,
        );
        let caption = format!(
            "Means over {} seeds. Muon's constants trade the limit for speed: they lift small singular values faster, \
             and then move about 1 for ever. The cubic one is still far after 5 iterations.",
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
        let tiny = || Setup { width: 4, seeds: 2, iterations: vec![5, 50], ..Setup::default() };
        let musts = tiny().musts(&tiny().measure().unwrap());
        assert!(musts[0].holds && musts[1].holds && musts[3].holds, "{musts:?}");
        let wrong = Setup { polynomials: ["cubic", "muon", "muon"], small: 1e-9, ..tiny() };
        let musts = wrong.musts(&wrong.measure().unwrap());
        assert!(!musts[0].holds && !musts[1].holds && !musts[3].holds, "{musts:?}");
        let values = |low: f64| Measured { distance: vec![vec![0.0]], after5: [vec![low], vec![1.0]], size: vec![1.0] };
        let musts = tiny().musts(&[values(0.1), values(1.0), values(1.0)]);
        assert!(!musts[2].holds, "{musts:?}");
    }
}
