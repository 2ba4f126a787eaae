//! A chain of residual perceptrons that learns while it runs, every block at its own pace.
//!
//! ```text
//! x = x + W_b silu(W_a rms(x))              block by block;  logits = R x, R never learned
//! W = W - rate / sqrt C sum of the gradients of the last C samples,   at every multiple of C
//! ```
//!
//! A continuum memory as its equations say, in double precision and small enough to be run a few hundred times; the
//! channel part `cms` of a model is the same with sequences, batches and kernels.

use super::draw::dot;
use hecate_core::Scalar;
use hecate_model::rng::Rng;
use std::ops::Range;

/// Keeps the norm of a zero vector finite.
const EPS: f64 = 1e-6;

/// Sizes, and the read-out. Parameters are a flat buffer: of every block `W_a [hidden, width]`, then
/// `W_b [width, hidden]`.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub width: usize,
    pub hidden: usize,
    pub blocks: usize,
    /// `[classes, width]`.
    pub readout: Vec<f64>,
}

/// What the way back needs of one block.
struct Tape {
    normed: Vec<f64>,
    /// One over the root of the mean square of what was normed.
    by: f64,
    z: Vec<f64>,
    h: Vec<f64>,
}

/// `W x`.
fn apply(w: &[f64], x: &[f64]) -> Vec<f64> {
    w.chunks(x.len()).map(|row| dot(row, x)).collect()
}

/// `W^T y`, of so many columns.
fn transposed(w: &[f64], columns: usize, y: &[f64]) -> Vec<f64> {
    let mut x = vec![0.0; columns];
    for (row, &y) in w.chunks(columns).zip(y) {
        x.iter_mut().zip(row).for_each(|(x, w)| *x += w * y);
    }
    x
}

/// `W += y x^T`.
fn add_outer(w: &mut [f64], y: &[f64], x: &[f64]) {
    for (row, &y) in w.chunks_mut(x.len()).zip(y) {
        row.iter_mut().zip(x).for_each(|(w, x)| *w += y * x);
    }
}

impl Chain {
    /// With a read-out of directions that are drawn once.
    pub fn new(width: usize, hidden: usize, blocks: usize, classes: usize, draw: &mut Rng) -> Self {
        let readout = super::draw::units(draw, classes, width).concat();
        Self { width, hidden, blocks, readout }
    }

    /// Parameters.
    pub fn len(&self) -> usize {
        2 * self.width * self.hidden * self.blocks
    }

    /// Where those of a block lie.
    pub fn block(&self, b: usize) -> Range<usize> {
        let each = 2 * self.width * self.hidden;
        b * each..(b + 1) * each
    }

    /// A start at which every block adds a little.
    pub fn start(&self, draw: &mut Rng) -> Vec<f64> {
        let half = self.width * self.hidden;
        let up = 1.0 / (self.width as f64).sqrt();
        let down = 0.1 / (self.hidden as f64).sqrt();
        (0..self.len()).map(|i| draw.normal() * if (i / half).is_multiple_of(2) { up } else { down }).collect()
    }

    /// Adds every block to `x`; gives what the way back needs.
    fn run(&self, p: &[f64], x: &mut [f64]) -> Vec<Tape> {
        let half = self.width * self.hidden;
        let mut tapes = Vec::with_capacity(self.blocks);
        for b in 0..self.blocks {
            let (up, down) = p[self.block(b)].split_at(half);
            let by = 1.0 / (dot(x, x) / self.width as f64 + EPS).sqrt();
            let normed = super::draw::scaled(x, by);
            let z = apply(up, &normed);
            let h: Vec<f64> = z.iter().map(|z| z.silu()).collect();
            x.iter_mut().zip(apply(down, &h)).for_each(|(x, y)| *x += y);
            tapes.push(Tape { normed, by, z, h });
        }
        tapes
    }

    /// What the read-out is given.
    pub fn features(&self, p: &[f64], x: &[f64]) -> Vec<f64> {
        let mut x = x.to_vec();
        self.run(p, &mut x);
        x
    }

    /// The most probable class.
    pub fn predict(&self, p: &[f64], x: &[f64]) -> usize {
        best(&apply(&self.readout, &self.features(p, x)))
    }

    /// The share of samples put into the right class.
    pub fn accuracy(&self, p: &[f64], samples: &[Sample]) -> f64 {
        let right = samples.iter().filter(|s| self.predict(p, &s.x) == s.label).count();
        right as f64 / samples.len() as f64
    }

    /// Cross-entropy of one sample in nats; adds its gradient to `g`.
    pub fn loss(&self, p: &[f64], sample: &Sample, g: &mut [f64]) -> f64 {
        let (half, mut x) = (self.width * self.hidden, sample.x.clone());
        let tapes = self.run(p, &mut x);
        let logits = apply(&self.readout, &x);
        let top = super::outcome::highest(&logits);
        let total: f64 = logits.iter().map(|l| (l - top).exp()).sum();
        let mut dlogits: Vec<f64> = logits.iter().map(|l| (l - top).exp() / total).collect();
        dlogits[sample.label] -= 1.0;
        let mut dx = transposed(&self.readout, self.width, &dlogits);
        for (b, Tape { normed, by, z, h }) in tapes.iter().enumerate().rev() {
            let (up, down) = p[self.block(b)].split_at(half);
            let (dup, ddown) = g[self.block(b)].split_at_mut(half);
            add_outer(ddown, &dx, h);
            let mut dz = transposed(down, self.hidden, &dx);
            dz.iter_mut().zip(z).for_each(|(d, z)| *d *= z.silu_slope());
            add_outer(dup, &dz, normed);
            let dnormed = transposed(up, self.width, &dz);
            let along = dot(&dnormed, normed) / self.width as f64;
            dx.iter_mut().zip(&dnormed).zip(normed).for_each(|((dx, d), n)| *dx += by * (d - along * n));
        }
        top + total.ln() - logits[sample.label]
    }
}

/// The place of the largest of some numbers.
pub(super) fn best(x: &[f64]) -> usize {
    (0..x.len()).max_by(|&a, &b| x[a].total_cmp(&x[b])).expect("a number")
}

/// One thing to classify.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub x: Vec<f64>,
    pub label: usize,
}

/// The pace of every block, and the gradients that wait.
#[derive(Clone, Debug)]
pub(super) struct Paces {
    /// Samples from one change of a block to its next.
    periods: Vec<usize>,
    rate: f64,
    waiting: Vec<f64>,
    seen: usize,
}

impl Paces {
    pub fn new(chain: &Chain, periods: &[usize], rate: f64) -> Self {
        debug_assert_eq!(periods.len(), chain.blocks);
        Self { periods: periods.to_vec(), rate, waiting: vec![0.0; chain.len()], seen: 0 }
    }

    /// Takes in some samples, between which no block is due, and changes the blocks that are due after them. `also` may
    /// add to their gradient. Gives their mean loss.
    pub fn learn(
        &mut self,
        chain: &Chain,
        p: &mut [f64],
        samples: &[Sample],
        also: impl Fn(&[f64], &mut [f64]),
    ) -> f64 {
        let loss: f64 = samples.iter().map(|s| chain.loss(p, s, &mut self.waiting)).sum();
        also(p, &mut self.waiting);
        self.seen += samples.len();
        for (b, &period) in self.periods.iter().enumerate() {
            debug_assert!(period.is_multiple_of(samples.len()));
            if self.seen.is_multiple_of(period) {
                let by = self.rate / (period as f64).sqrt();
                for i in chain.block(b) {
                    p[i] -= by * std::mem::take(&mut self.waiting[i]);
                }
            }
        }
        loss / samples.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::super::draw::{normals, rng};
    use super::*;

    fn small() -> (Chain, Vec<f64>, Vec<Sample>) {
        let mut draw = rng("residual", 0);
        let chain = Chain::new(5, 7, 3, 4, &mut draw);
        let p = normals(&mut draw, chain.len());
        let samples = (0..8).map(|i| Sample { x: normals(&mut draw, 5), label: i % 4 }).collect();
        (chain, p, samples)
    }

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let (chain, p, samples) = small();
        let mut g = vec![0.0; chain.len()];
        chain.loss(&p, &samples[1], &mut g);
        for i in 0..p.len() {
            let moved = |by: f64| {
                let mut p = p.clone();
                p[i] += by;
                chain.loss(&p, &samples[1], &mut vec![0.0; chain.len()])
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((slope - g[i]).abs() < 1e-8, "{i}: {slope} {}", g[i]);
        }
    }

    /// A block that is due after four samples moves by half the sum of their gradients at a rate of one.
    #[test]
    fn a_block_moves_when_it_is_due_and_by_the_sum_of_what_waited() {
        let (chain, start, samples) = small();
        let mut p = start.clone();
        let mut paces = Paces::new(&chain, &[4, 8, 16], 1.0);
        let mut g = vec![0.0; chain.len()];
        for sample in &samples[..4] {
            chain.loss(&start, sample, &mut g);
            assert_eq!(p, start);
            paces.learn(&chain, &mut p, std::slice::from_ref(sample), |_, _| ());
        }
        for i in 0..p.len() {
            let by = if chain.block(0).contains(&i) { 0.5 * g[i] } else { 0.0 };
            assert!((p[i] - start[i] + by).abs() < 1e-12);
        }
        let slow = p[chain.block(1)].to_vec();
        paces.learn(&chain, &mut p, &samples[4..], |_, _| ());
        assert_ne!(p[chain.block(1)], slow);
        assert_eq!(p[chain.block(2)], start[chain.block(2)]);
    }
}
