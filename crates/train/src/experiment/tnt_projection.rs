//! What the projection of queries on the keys of a chunk does to their length.

use super::draw::{dot, length, rng, scaled, unit, units};
use super::figure::{Figure, Scale};
use super::outcome::{Cell, Finding, Must, Table, highest, lowest, mean};
use super::Experiment;
use hecate_model::rng::Rng;

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "tnt_projection",
    asks: "Is the projection of queries onto the keys of a chunk a projection?",
    source: "[TNT v1 eq.7]",
    protocol: "12 keys of width 6: random directions, and directions with pairwise cosines of about 0.9. P is the sum \
               of k kᵀ / |k|² over the keys, as printed; beside it P over the number of keys, the orthogonal projector \
               onto their span, and P q brought back to unit length. Inflation: the mean of |P q| over 500 queries of \
               unit length, random ones and, for the similar keys, the keys themselves.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::default() };
        Ok(setup.finding(&setup.measure()))
    },
};

/// How a query is projected.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Gram,
    Mean,
    Orthogonal,
    Unit,
}

/// What is run.
struct Setup {
    width: usize,
    keys: usize,
    queries: usize,
    seeds: usize,
    modes: Vec<(&'static str, Mode)>,
}

impl Default for Setup {
    fn default() -> Self {
        let modes = vec![
            ("as printed", Mode::Gram),
            ("over the number of keys", Mode::Mean),
            ("orthogonal projector", Mode::Orthogonal),
            ("unit length", Mode::Unit),
        ];
        Self { width: 6, keys: 12, queries: 500, seeds: super::SEEDS, modes }
    }
}

/// One mode: inflation by seed with random keys, with similar ones; and how much a second application changes a
/// projected query, over its length, at the most.
struct Measured {
    random: Vec<f64>,
    similar: Vec<f64>,
    twice: f64,
}

/// An orthonormal basis of what the keys span.
fn basis(keys: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for key in keys {
        let mut x = key.clone();
        // Twice, so that rounding leaves nothing of the others.
        for _ in 0..2 {
            for b in &basis {
                let along = dot(&x, b);
                x.iter_mut().zip(b).for_each(|(x, b)| *x -= along * b);
            }
        }
        if length(&x) > 1e-9 {
            basis.push(scaled(&x, 1.0 / length(&x)));
        }
    }
    basis
}

/// The projected query.
fn project(mode: Mode, keys: &[Vec<f64>], q: &[f64]) -> Vec<f64> {
    let sum = |rows: &[Vec<f64>]| {
        let mut y = vec![0.0; q.len()];
        for k in rows {
            let by = dot(k, q) / dot(k, k);
            y.iter_mut().zip(k).for_each(|(y, k)| *y += by * k);
        }
        y
    };
    let y = sum(keys);
    match mode {
        Mode::Gram => y,
        Mode::Mean => scaled(&y, 1.0 / keys.len() as f64),
        Mode::Orthogonal => sum(&basis(keys)),
        Mode::Unit => scaled(&y, 1.0 / length(&y)),
    }
}

/// Directions around one, with pairwise cosines of about 0.9.
fn similar(draw: &mut Rng, count: usize, width: usize) -> Vec<Vec<f64>> {
    let centre = unit(draw, width);
    let near = |off: Vec<f64>| {
        let x: Vec<f64> = centre.iter().zip(&off).map(|(c, o)| 0.95 * c + 0.31 * o).collect();
        scaled(&x, 1.0 / length(&x))
    };
    units(draw, count, width).into_iter().map(near).collect()
}

impl Setup {
    fn measure(&self) -> Vec<Measured> {
        let one = |&(_, mode): &(&str, Mode)| {
            let mut m = Measured { random: vec![], similar: vec![], twice: 0.0 };
            for seed in 0..self.seeds {
                let mut draw = rng("tnt_projection", seed);
                let keys = units(&mut draw, self.keys, self.width);
                let close = similar(&mut draw, self.keys, self.width);
                let queries = units(&mut draw, self.queries, self.width);
                let inflated = |keys: &[Vec<f64>], queries: &[Vec<f64>]| {
                    mean(&queries.iter().map(|q| length(&project(mode, keys, q))).collect::<Vec<_>>())
                };
                m.random.push(inflated(&keys, &queries));
                m.similar.push(inflated(&close, &close));
                for q in &queries {
                    let once = project(mode, &keys, q);
                    let twice = project(mode, &keys, &once);
                    let off: Vec<f64> = twice.iter().zip(&once).map(|(a, b)| a - b).collect();
                    m.twice = m.twice.max(length(&off) / length(&once));
                }
            }
            m
        };
        self.modes.iter().map(one).collect()
    }

    fn musts(&self, m: &[Measured]) -> Vec<Must> {
        let [gram, _, orthogonal, unit] = [0, 1, 2, 3].map(|i| &m[i]);
        let n = self.keys as f64;
        vec![
            Must::new(
                "the printed sum lengthens queries: by more than 1.8 with random keys, under every seed",
                lowest(&gram.random) > 1.8,
                format!("{} times", Cell::from(&gram.random[..])),
            ),
            Must::new(
                "with similar keys by nearly their number: more than 0.8 of it",
                lowest(&gram.similar) > 0.8 * n,
                format!("{:.2} times with {n} keys", mean(&gram.similar)),
            ),
            Must::new(
                "it is no projector: applied twice it is not itself, where the orthogonal one is, to 1e-9",
                gram.twice > 0.1 && orthogonal.twice < 1e-9,
                format!("changes by {:.2} and {:.1e} of the length", gram.twice, orthogonal.twice),
            ),
            Must::new(
                "the orthogonal projector and unit length never lengthen a query",
                [orthogonal, unit].iter().all(|m| highest(&m.random) < 1.0 + 1e-9 && highest(&m.similar) < 1.0 + 1e-9),
                format!("{:.3} and {:.3} times", mean(&orthogonal.random), mean(&unit.random)),
            ),
        ]
    }

    fn finding(&self, m: &[Measured]) -> Finding {
        let columns = ["projection", "inflation, random keys", "inflation, similar keys", "change by a second one"];
        let mut table = Table::new(&columns);
        for ((name, _), m) in self.modes.iter().zip(m) {
            table.row([Cell::from(*name), Cell::from(&m.random[..]), Cell::from(&m.similar[..]), Cell::from(m.twice)]);
        }
        let rows = self.modes.iter().zip(m);
        let rows = rows.map(|((name, _), m)| (name.to_string(), vec![m.random.clone(), m.similar.clone()])).collect();
        let figure = Figure::default().rows(
            "Length of a projected query of unit length",
            Scale::log("mean length"),
            &["random keys", "similar keys"],
            rows,
        );
        let caption = format!(
            "Large dots are means over {} seeds, small ones the seeds. This is the formula by itself, without a memory \
             around it. With 12 random keys of width 6 the span is everything, so that the orthogonal projector is the \
             identity; the printed sum has the trace 12, hence two on average along a direction.",
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
        let tiny = || Setup { queries: 40, seeds: 2, ..Setup::default() };
        let musts = tiny().musts(&tiny().measure());
        assert!(musts.iter().all(|m| m.holds), "{musts:?}");
        let wrong = Setup { modes: tiny().modes.into_iter().rev().collect(), ..tiny() };
        let mut measured = wrong.measure();
        // Unit length in place of the printed sum, which stands where nothing may lengthen.
        measured.swap(2, 3);
        let musts = wrong.musts(&measured);
        assert!(musts.iter().all(|m| !m.holds), "{musts:?}");
    }
}
