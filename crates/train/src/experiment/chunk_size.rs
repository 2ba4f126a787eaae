//! What it costs to take all gradients of a chunk at its start.

use super::draw::{largest, length, rng, scaled, unit, units};
use super::figure::{Figure, Scale, Series};
use super::memory::{Arm, Memory};
use super::outcome::{Cell, Finding, Must, Table, highest, lowest, mean};
use super::{Experiment, Result};
use hecate_core::Dims;
use serde_json::{Value, json};

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "chunk_size",
    asks: "What does it cost to take the gradients of a chunk at its start?",
    source: "[Titans v1 eq.16]",
    protocol: "A linear memory of width 32 without decay, chunks of 1, 4, 16 and 64 tokens. (a) The rule with chunks \
               of 1 against the rule without chunks, and the Hebbian rule at every chunk size, 64 random tokens. (b) \
               Error after one pass over 32 random pairs at rate 1/2. (c) The largest entry of the memory after 64 \
               tokens whose keys have pairwise cosines of about 0.9, at rate 1 and at rate 1 / chunk.",
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
    chunks: Vec<usize>,
    /// Bias of the rule that is compared over all chunk sizes.
    same: &'static str,
    /// Exponent of the chunk size in the rate that must be stable.
    damping: f64,
}

impl Default for Setup {
    fn default() -> Self {
        Self { width: 32, seeds: super::SEEDS, chunks: vec![1, 4, 16, 64], same: "dot", damping: 1.0 }
    }
}

/// By chunk size, then by seed; differences of (a) are the largest over everything.
struct Measured {
    sequential: f64,
    hebbian: f64,
    error: Vec<Vec<f64>>,
    plain: Vec<Vec<f64>>,
    damped: Vec<Vec<f64>>,
}

fn frozen(bias: &str, chunk: usize) -> Value {
    json!({"name": "miras", "retention": "none", "bias": bias, "chunk": chunk})
}

impl Setup {
    fn memory(&self, rule: Value, rate: f64, seed: usize) -> Result<Memory> {
        let arm = Arm::new("", rule, &[("rate", rate), ("retain", 1.0)])?;
        arm.memory(Dims::new(self.width, self.width), &mut rng("chunk_size start", seed))
    }

    /// All reads of 64 random tokens.
    fn reads(&self, rule: Value, seed: usize) -> Result<Vec<f64>> {
        let mut draw = rng("chunk_size", seed);
        let mut memory = self.memory(rule, 0.5, seed)?;
        let mut token = || [0; 3].map(|_| unit(&mut draw, self.width));
        Ok((0..64).flat_map(|_| { let [k, v, q] = token(); memory.step(&k, &v, &q) }).collect())
    }

    fn error(&self, chunk: usize, seed: usize) -> Result<f64> {
        let mut draw = rng("chunk_size pairs", seed);
        let (keys, values) = (units(&mut draw, 32, self.width), units(&mut draw, 32, self.width));
        let mut memory = self.memory(frozen("l2", chunk), 0.5, seed)?;
        for (k, v) in keys.iter().zip(&values) {
            memory.step(k, v, k);
        }
        Ok(memory.error(&keys, &values))
    }

    /// The largest entry of the memory after 64 tokens with keys around one direction.
    fn size(&self, chunk: usize, rate: f64, seed: usize) -> Result<f64> {
        let mut draw = rng("chunk_size clustered", seed);
        let centre = unit(&mut draw, self.width);
        let mut memory = self.memory(frozen("l2", chunk), rate, seed)?;
        for _ in 0..64 {
            // Cosine 0.95 to the centre, hence about 0.9 to one another.
            let (off, v) = (unit(&mut draw, self.width), unit(&mut draw, self.width));
            let side = (1.0 - 0.95_f64.powi(2)).sqrt();
            let near: Vec<f64> = centre.iter().zip(&off).map(|(c, o)| 0.95 * c + side * o).collect();
            let k = scaled(&near, 1.0 / length(&near));
            memory.step(&k, &v, &k);
        }
        Ok(largest(&memory.matrix()))
    }

    fn measure(&self) -> Result<Measured> {
        let seeds = |of: &dyn Fn(usize) -> Result<f64>| (0..self.seeds).map(of).collect::<Result<Vec<f64>>>();
        let chunks = |of: &dyn Fn(usize, usize) -> Result<f64>| {
            self.chunks.iter().map(|&c| seeds(&|seed| of(c, seed))).collect::<Result<Vec<_>>>()
        };
        let apart = |a: Value, b: Value, seed| {
            let (a, b) = (self.reads(a, seed)?, self.reads(b, seed)?);
            Ok(largest(&a.iter().zip(&b).map(|(a, b)| a - b).collect::<Vec<_>>()))
        };
        let hebbian = chunks(&|c, seed| apart(frozen(self.same, c), json!("linear_attention"), seed))?;
        Ok(Measured {
            sequential: highest(&seeds(&|seed| apart(frozen("l2", 1), json!("delta"), seed))?),
            hebbian: highest(&hebbian.concat()),
            error: chunks(&|c, seed| self.error(c, seed))?,
            plain: chunks(&|c, seed| self.size(c, 1.0, seed))?,
            damped: chunks(&|c, seed| self.size(c, (c as f64).powf(-self.damping), seed))?,
        })
    }

    fn musts(&self, m: &Measured) -> Vec<Must> {
        let at = |chunk: usize| self.chunks.iter().position(|&c| c == chunk).unwrap_or(0);
        let (one, sixteen) = (mean(&m.error[at(1)]), mean(&m.error[at(16)]));
        let damped = highest(&m.damped.concat());
        vec![
            Must::new(
                "with chunks of 1 the rule is the one without chunks, to 1e-10",
                m.sequential <= 1e-10,
                format!("largest difference {:.1e}", m.sequential),
            ),
            Must::new(
                "the Hebbian rule does not depend on the chunk size, to 1e-10",
                m.hebbian <= 1e-10,
                format!("largest difference {:.1e}", m.hebbian),
            ),
            Must::new(
                "on random keys chunks of 16 raise the error by less than a tenth",
                sixteen < 1.1 * one,
                format!("{one:.3} with chunks of 1, {sixteen:.3} with 16"),
            ),
            Must::new(
                "on clustered keys, chunks of 4 at rate 1 grow beyond all use: an entry above 1,000 under every seed",
                lowest(&m.plain[at(4)]) > 1e3,
                format!("{:.2e} at the least", lowest(&m.plain[at(4)])),
            ),
            Must::new(
                "with rate 1 / chunk it stays bounded: below 10 at every chunk size",
                damped < 10.0,
                format!("{damped:.2} at the most"),
            ),
        ]
    }

    fn finding(&self, m: &Measured) -> Finding {
        let columns = ["chunk", "error, random keys", "largest entry, rate 1", "largest entry, rate 1/chunk"];
        let mut table = Table::new(&columns);
        for (i, &chunk) in self.chunks.iter().enumerate() {
            let cells = [&m.error, &m.plain, &m.damped].map(|part| Cell::from(&part[i][..]));
            table.row([Cell::from(chunk)].into_iter().chain(cells));
        }
        let points = |part: &[Vec<f64>]| self.chunks.iter().map(|&c| c as f64).zip(part.iter().cloned()).collect();
        let x = Scale::doubling("tokens of a chunk");
        let error = Series::new("error", points(&m.error));
        let figure = Figure::default()
            .lines("Random keys, rate 1/2", x, Scale::linear("mean |M k − v|²"), vec![error])
            .lines(
                "Clustered keys",
                x,
                Scale::log("largest entry after 64 tokens"),
                vec![Series::new("rate 1", points(&m.plain)), Series::new("rate 1 / chunk", points(&m.damped))],
            );
        let caption = format!(
            "Means over {} seeds, bands the lowest and the highest. A chunk of n clustered keys takes n times the step \
             along their common direction, from an error that was measured once; above a step of 2 each chunk \
             overshoots more than it corrects. Fewer chunks fit into 64 tokens the longer they are, so the growth \
             falls again on the right.",
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
        let tiny = || Setup { seeds: 2, ..Setup::default() };
        let right = tiny().measure().unwrap();
        let musts = tiny().musts(&right);
        assert!(musts.iter().all(|m| m.holds), "{musts:?}");
        // An error-correcting rule depends on the chunk size, and no damping is none.
        let wrong = Setup { same: "l2", damping: 0.0, ..tiny() };
        let measured = wrong.measure().unwrap();
        let musts = wrong.musts(&measured);
        assert!(!musts[1].holds && !musts[4].holds, "{musts:?}");
        // Numbers of another memory in place of the measured ones.
        let other = Measured { sequential: right.hebbian + 1e-9, error: right.plain, plain: right.damped, ..measured };
        let musts = tiny().musts(&other);
        assert!(!musts[0].holds && !musts[2].holds && !musts[3].holds, "{musts:?}");
    }
}
