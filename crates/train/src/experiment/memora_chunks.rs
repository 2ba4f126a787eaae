//! Two ways to run a simplex memory in chunks: in the logits, and as printed, with one exact token per chunk.

use super::draw::{distance2, dot, rng, units};
use super::figure::{Figure, Scale, Series};
use super::memory::{Memory, rule};
use super::outcome::{Cell, Finding, Must, Table, highest, mean};
use super::{Experiment, Result};
use hecate_core::{AnyRule, Dims};
use hecate_model::rng::Rng;
use serde_json::{Value, json};

/// See the module text.
pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "memora_chunks",
    asks: "Which chunk form of a simplex memory stays near the exact rule?",
    source: "[Miras v1 eq.30]",
    protocol: "Memora of width 8 (hidden width 32) over 64 random tokens in chunks of 8, retain 0.99, rates uniform up \
               to 0.045. Dual form: gradients at the chunk start, steps on the logits. Printed form: the first token \
               of a chunk takes the exact step, the others add to the weights, with gradients at the weights after the \
               first; the next chunk takes logarithms, of at least 1e-6. Error: distance of the weights from those of \
               the exact sequential rule, over their size; and the same for the reads.",
    random: true,
    run: |seeds| {
        let setup = Setup { seeds, ..Setup::full() };
        Ok(setup.finding(&setup.measure()?))
    },
};

const RETAIN: f64 = 0.99;
const TENSORS: [&str; 2] = ["W1", "W2"];

/// The exact rule.
fn sequential() -> Value {
    json!({"name": "memora", "chunk": 1})
}

/// What is run.
struct Setup {
    width: usize,
    tokens: usize,
    chunk: usize,
    /// Largest rate.
    rate: f64,
    seeds: usize,
}

/// A token: key, value, query, rate.
type Token = [Vec<f64>; 4];

/// Relative errors by token and seed, of the weights and of the reads.
struct Measured {
    dual: [Vec<Vec<f64>>; 2],
    lag: [Vec<Vec<f64>>; 2],
}

/// Weights of one memory and what it read, token by token.
type Run = Vec<(Vec<f64>, Vec<f64>)>;

/// The rows of a memory's tensors: their lengths, tensor by tensor.
struct Shape(Vec<(usize, usize)>);

impl Shape {
    fn new(rule: &AnyRule, d: Dims) -> Self {
        let tensors = rule.state(d).into_iter().filter(|t| TENSORS.contains(&&*t.name));
        Shape(tensors.map(|t| (t.shape[0], t.shape[1])).collect())
    }

    /// Weights of mass fan-in per row, from logits.
    fn softmax(&self, logits: &[f64]) -> Vec<f64> {
        let mut w = logits.to_vec();
        let mut rest = &mut w[..];
        for &(rows, columns) in &self.0 {
            let (here, behind) = rest.split_at_mut(rows * columns);
            for row in here.chunks_mut(columns) {
                let top = highest(row);
                row.iter_mut().for_each(|x| *x = (*x - top).exp());
                let by = columns as f64 / row.iter().sum::<f64>();
                row.iter_mut().for_each(|x| *x *= by);
            }
            rest = behind;
        }
        w
    }
}

/// A plain memory of the same structure: what gives gradients and reads at any weights.
struct Plain(Memory);

impl Plain {
    fn new(structure: &Value, d: Dims) -> Result<Self> {
        let plain = rule(json!({"name": "miras", "structure": structure, "retention": "none"}))?;
        Ok(Self(Memory::new(&plain, d, &[("rate", 1.0)], &mut Rng::new(0, "memora_chunks"))?))
    }
    /// The inner gradient at weights: what a step at rate 1 takes away.
    fn gradient(&self, w: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
        let mut memory = self.0.clone();
        memory.state().copy_from_slice(w);
        memory.step(k, v, k);
        w.iter().zip(memory.state().iter()).map(|(w, after)| w - after).collect()
    }
    fn read(&self, w: &[f64], q: &[f64]) -> Vec<f64> {
        let mut memory = self.0.clone();
        memory.state().copy_from_slice(w);
        memory.read(q)
    }
}

/// `a x - b g`.
fn moved(a: f64, x: &[f64], b: f64, g: &[f64]) -> Vec<f64> {
    x.iter().zip(g).map(|(x, g)| a * x - b * g).collect()
}

impl Setup {
    fn full() -> Self {
        Self { width: 8, tokens: 64, chunk: 8, rate: 0.045, seeds: super::SEEDS }
    }

    fn dims(&self) -> Dims {
        Dims::new(self.width, self.width)
    }

    /// A registered rule from its start.
    fn registered(&self, settings: Value, tokens: &[Token], seed: usize) -> Result<Run> {
        let rule = rule(settings)?;
        let shape = Shape::new(&rule, self.dims());
        let mut memory = self.start(&rule, seed)?;
        let step = |[k, v, q, rate]: &Token| {
            memory.set("rate", rate[0]);
            let y = memory.step(k, v, q);
            let logits = TENSORS.map(|t| memory.tensor(t).to_vec()).concat();
            (shape.softmax(&logits), y)
        };
        Ok(tokens.iter().map(step).collect())
    }

    fn start(&self, rule: &AnyRule, seed: usize) -> Result<Memory> {
        Memory::new(rule, self.dims(), &[("retain", RETAIN), ("rate", 0.0)], &mut rng("memora_chunks start", seed))
    }

    /// The printed form, from the same start.
    fn lag(&self, tokens: &[Token], seed: usize) -> Result<Run> {
        let exact = rule(sequential())?;
        let shape = Shape::new(&exact, self.dims());
        let structure = serde_json::to_value(&exact).map_or(Value::Null, |table| table["structure"].clone());
        let plain = Plain::new(&structure, self.dims())?;
        let mut memory = self.start(&exact, seed)?;
        let mut w = shape.softmax(&TENSORS.map(|t| memory.tensor(t).to_vec()).concat());
        let mut run = Run::new();
        for chunk in tokens.chunks(self.chunk) {
            let [k, v, _, rate] = &chunk[0];
            let logs: Vec<f64> = w.iter().map(|w| w.max(1e-6).ln()).collect();
            w = shape.softmax(&moved(RETAIN, &logs, rate[0], &plain.gradient(&w, k, v)));
            let first = w.clone();
            for (t, [k, v, q, rate]) in chunk.iter().enumerate() {
                if t > 0 {
                    w = moved(RETAIN, &w, rate[0], &plain.gradient(&first, k, v));
                }
                run.push((w.clone(), plain.read(&w, q)));
            }
        }
        Ok(run)
    }

    fn tokens(&self, seed: usize) -> Vec<Token> {
        let mut draw = rng("memora_chunks", seed);
        let mut token = |_| {
            let [k, v, q] = [0; 3].map(|_| units(&mut draw, 1, self.width).remove(0));
            [k, v, q, vec![self.rate * draw.uniform()]]
        };
        (0..self.tokens).map(&mut token).collect()
    }

    /// The chunk form `dual` against the exact rule, and the printed one.
    fn measure_with(&self, dual: &Value) -> Result<Measured> {
        let mut all = Vec::new();
        for seed in 0..self.seeds {
            let tokens = self.tokens(seed);
            let exact = self.registered(sequential(), &tokens, seed)?;
            let apart = |run: Run| {
                let off = |a: &[f64], b: &[f64]| distance2(a, b).sqrt() / dot(b, b).sqrt();
                run.iter().zip(&exact).map(|(r, e)| [off(&r.0, &e.0), off(&r.1, &e.1)]).collect::<Vec<_>>()
            };
            all.push([apart(self.registered(dual.clone(), &tokens, seed)?), apart(self.lag(&tokens, seed)?)]);
        }
        let part = |form: usize, what: usize| {
            (0..self.tokens).map(|t| all.iter().map(|seed| seed[form][t][what]).collect()).collect()
        };
        Ok(Measured { dual: [0, 1].map(|w| part(0, w)), lag: [0, 1].map(|w| part(1, w)) })
    }

    fn measure(&self) -> Result<Measured> {
        self.measure_with(&json!({"name": "memora", "chunk": self.chunk}))
    }

    fn musts(&self, m: &Measured) -> Vec<Must> {
        let worst = |e: &[Vec<f64>]| highest(&e.concat());
        let first = highest(&[&m.dual[0][0][..], &m.lag[0][0][..]].concat());
        let [dual, lag] = [&m.dual, &m.lag].map(|form| worst(&form[0]));
        let [dual_y, lag_y] = [&m.dual, &m.lag].map(|form| worst(&form[1]));
        vec![
            Must::new(
                "both forms take the first token exactly: weights to 1e-10",
                first < 1e-10,
                format!("largest error {first:.1e}"),
            ),
            Must::new(
                "the dual form stays within 0.02 of the exact weights",
                dual < 0.02,
                format!("{dual:.4} at the most; reads {dual_y:.4}"),
            ),
            Must::new(
                "the printed form is at least ten times as far away",
                lag > 10.0 * dual,
                format!("{lag:.3} at the most against {dual:.4}; reads {lag_y:.3} against {dual_y:.4}"),
            ),
        ]
    }

    fn finding(&self, m: &Measured) -> Finding {
        let mut table = Table::new(&["form", "weights, mean", "weights, largest", "reads, mean", "reads, largest"]);
        let names = ["dual", "printed"];
        for (name, form) in names.iter().zip([&m.dual, &m.lag]) {
            let seeds = |e: &Vec<Vec<f64>>, of: fn(&[f64]) -> f64| {
                let one = |s| of(&e.iter().map(|t| t[s]).collect::<Vec<f64>>());
                Cell::Seeds((0..self.seeds).map(one).collect())
            };
            let cells = [0, 1].map(|w| [seeds(&form[w], mean), seeds(&form[w], highest)]).concat();
            table.row([Cell::from(*name)].into_iter().chain(cells));
        }
        let points = |e: &Vec<Vec<f64>>| (1..self.tokens).map(|t| (t as f64 + 1.0, e[t].clone())).collect();
        let series = |w: usize| {
            names.iter().zip([&m.dual, &m.lag]).map(|(n, form)| Series::new(*n, points(&form[w]))).collect::<Vec<_>>()
        };
        let x = Scale::linear("tokens");
        let figure = Figure::default()
            .lines("Weights", x, Scale::log("relative error"), series(0))
            .lines("Reads", x, Scale::log("relative error"), series(1));
        let caption = format!(
            "Means over {} seeds, bands the lowest and the highest; the first token, where both are exact, is not \
             drawn. The printed form adds to weights what the rule multiplies them with, and its decay takes mass away \
             that the exact rule keeps. The source gives no sizes for its error: these are ours.",
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
        let tiny = || Setup { tokens: 32, seeds: 2, ..Setup::full() };
        let musts = tiny().musts(&tiny().measure().unwrap());
        assert!(musts.iter().all(|m| m.holds), "{musts:?}");
        // Another bias in place of the dual form's.
        let other = json!({"name": "memora", "chunk": 8, "bias": "dot"});
        let musts = tiny().musts(&tiny().measure_with(&other).unwrap());
        assert!(musts.iter().all(|m| !m.holds), "{musts:?}");
    }
}
