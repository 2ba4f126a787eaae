//! Choosing the next token from its logits.

use crate::error::{Error, Result};
use crate::rng::Rng;
use hecate_core::simd::{Portable, Simd};
use serde::{Deserialize, Serialize};

/// How to choose, `generation_config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GenerationConfig {
    /// Divides the logits; 0 takes the largest.
    pub temperature: f64,
    /// Keeps the so many likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the likeliest tokens that together have this probability; 1 keeps all.
    pub top_p: f64,
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self { temperature: 0.8, top_k: 0, top_p: 0.95, max_tokens: 256, seed: 0 }
    }
}

impl GenerationConfig {
    /// Refuses settings without meaning.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(Error::config("temperature", format!("{} is not a number from 0 up", self.temperature)));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::config("top_p", format!("{} is not in (0, 1]", self.top_p)));
        }
        Ok(())
    }
}

/// Tokens whose weights are worked on together.
const GROUP: usize = Portable::LANES;

/// Draws tokens; equal seeds and logits give equal tokens. Allocates only on its first draw.
#[derive(Clone, Debug)]
pub struct Sampler {
    config: GenerationConfig,
    rng: Rng,
    weights: Vec<[f32; GROUP]>,
    sums: Vec<f64>,
    order: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler at the start of its stream.
    ///
    /// # Errors
    /// As [`GenerationConfig::check`].
    pub fn new(config: &GenerationConfig) -> Result<Self> {
        config.check()?;
        let rng = Rng::new(config.seed, "sample");
        Ok(Self { config: config.clone(), rng, weights: Vec::new(), sums: Vec::new(), order: Vec::new() })
    }

    /// Numbers drawn so far; set it to go on where another sampler stopped.
    pub fn counter(&mut self) -> &mut u64 {
        &mut self.rng.counter
    }

    /// One token from `logits [vocab]`.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let top = largest(logits);
        if self.config.temperature == 0.0 {
            return logits.iter().position(|&l| l == top).unwrap_or(0) as u32;
        }
        self.weigh(logits, top);
        let u = self.rng.uniform();
        if self.config.top_k > 0 {
            return self.draw_ordered(u);
        }
        let (token, rest) = self.draw(u);
        if self.config.top_p == 1.0 || self.is_kept(token) {
            return token;
        }
        // The token is cut off. Where the draw fell within the token's share is as random as a new draw.
        self.draw_ordered(rest)
    }

    /// Fills in `e^((logit - top) / temperature)`, zeros behind the last, and the sum of each group.
    fn weigh(&mut self, logits: &[f32], top: f32) {
        // What a draw from the ordered tokens needs, should it ever come to that.
        self.order.reserve(logits.len().saturating_sub(self.order.capacity()));
        let scale = (1.0 / self.config.temperature) as f32;
        let weight = |group: [f32; GROUP]| Portable.exp(group.map(|l| (l - top) * scale));
        let (groups, rest) = logits.as_chunks::<GROUP>();
        self.weights.clear();
        self.weights.extend(groups.iter().map(|&group| weight(group)));
        if !rest.is_empty() {
            let mut group = [f32::NEG_INFINITY; GROUP];
            group[..rest.len()].copy_from_slice(rest);
            self.weights.push(weight(group));
        }
        self.sums.clear();
        self.sums.extend(self.weights.iter().map(|group| sum(group.map(f64::from))));
    }

    /// The token at the place `u` in [0, 1) of all weights in a row, and the place within its own weight.
    fn draw(&self, u: f64) -> (u32, f64) {
        let mut left = u * self.sums.iter().sum::<f64>();
        let mut last = (0, 0.0);
        for (g, (group, &sum)) in self.weights.iter().zip(&self.sums).enumerate() {
            if left >= sum {
                left -= sum;
                continue;
            }
            for (i, weight) in group.iter().map(|&w| f64::from(w)).enumerate().filter(|(_, w)| *w > 0.0) {
                last = ((g * GROUP + i) as u32, (left / weight).min(1.0 - f64::EPSILON));
                if left < weight {
                    return last;
                }
                left -= weight;
            }
            // Rounding left something behind the last token of the group.
            return last;
        }
        (self.likeliest(), 0.0)
    }

    /// Whether the tokens before `token` in order, the likeliest first, leave it within the kept mass.
    fn is_kept(&self, token: u32) -> bool {
        let (own, lane) = (token as usize / GROUP, token as usize % GROUP);
        let weight = self.weights[own][lane];
        let mut ahead = [0.0_f64; GROUP];
        for (g, group) in self.weights.iter().enumerate() {
            for (i, (ahead, &w)) in ahead.iter_mut().zip(group).enumerate() {
                // Ties go to the smaller token, so that the order is one.
                let first = w > weight || (w == weight && (g < own || (g == own && i < lane)));
                *ahead += if first { f64::from(w) } else { 0.0 };
            }
        }
        sum(ahead) < self.config.top_p * self.sums.iter().sum::<f64>()
    }

    /// The token at the place `u` in [0, 1) of the weights that `top_k` and `top_p` keep, the likeliest first.
    fn draw_ordered(&mut self, u: f64) -> u32 {
        let weights = self.weights.as_flattened().iter().zip(0..);
        self.order.clear();
        self.order.extend(weights.map(|(&w, token)| (w, token)).filter(|(w, _)| *w > 0.0));
        self.order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        if self.config.top_k > 0 {
            self.order.truncate(self.config.top_k);
        }
        let mass = self.order.iter().map(|o| f64::from(o.0)).sum::<f64>() * self.config.top_p;
        let mut sum = 0.0;
        let enough = |o: &(f32, u32)| {
            sum += f64::from(o.0);
            sum >= mass
        };
        let kept = self.order.iter().position(enough).map_or(self.order.len(), |i| i + 1);
        self.order.truncate(kept);
        let mut left = u * self.order.iter().map(|o| f64::from(o.0)).sum::<f64>();
        let hit = self.order.iter().find(|o| {
            left -= f64::from(o.0);
            left < 0.0
        });
        hit.or(self.order.last()).map_or(0, |o| o.1)
    }

    /// The first token of the largest weight.
    fn likeliest(&self) -> u32 {
        self.weights.as_flattened().iter().position(|&w| w == 1.0).unwrap_or(0) as u32
    }
}

/// The largest value.
fn largest(values: &[f32]) -> f32 {
    let (groups, rest) = values.as_chunks::<GROUP>();
    let lanes = groups.iter().fold([f32::NEG_INFINITY; GROUP], |lanes, &group| Portable.max(group, lanes));
    rest.iter().fold(Portable.max_lane(lanes), |a, &b| a.max(b))
}

/// Sum of a group, as a tree.
fn sum([a, b, c, d, e, f, g, h]: [f64; GROUP]) -> f64 {
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(config: GenerationConfig, logits: &[f32], n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(&config).unwrap();
        (0..n).map(|_| sampler.sample(logits)).collect()
    }

    #[test]
    fn temperature_zero_takes_the_largest() {
        let config = GenerationConfig { temperature: 0.0, ..GenerationConfig::default() };
        assert_eq!(draws(config, &[0.0, 3.0, 3.0, -1.0], 3), [1, 1, 1]);
    }

    #[test]
    fn top_k_and_top_p_leave_out_the_tail() {
        let logits = [2.0, 1.0, 0.0, -1.0];
        let base = GenerationConfig { temperature: 1.0, top_p: 1.0, ..GenerationConfig::default() };
        let two = draws(GenerationConfig { top_k: 2, ..base.clone() }, &logits, 500);
        assert!(two.iter().all(|&t| t < 2) && two.contains(&1));
        // The first two hold 0.87 of the probability, so 0.7 needs both and 0.6 only the first.
        assert!(draws(GenerationConfig { top_p: 0.6, ..base.clone() }, &logits, 500).iter().all(|&t| t == 0));
        assert!(draws(GenerationConfig { top_p: 0.7, ..base.clone() }, &logits, 500).contains(&1));
        assert!(draws(base, &logits, 500).contains(&3));
    }

    #[test]
    fn what_top_p_cuts_off_is_shared_out_among_the_others() {
        let mut rng = Rng::new(4, "test");
        let logits: Vec<f32> = (0..21).map(|_| rng.normal() as f32).collect();
        let base = GenerationConfig { temperature: 0.7, top_p: 0.6, ..GenerationConfig::default() };
        // As the definition says: the smallest number of the likeliest tokens that have the probability.
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let weight = |i: usize| (f64::from(logits[i]) / base.temperature).exp();
        let total: f64 = (0..logits.len()).map(weight).sum();
        let mut mass = 0.0;
        let before = |i: &&usize| {
            mass += weight(**i) / total;
            mass - weight(**i) / total < base.top_p
        };
        let kept: Vec<usize> = order.iter().take_while(before).copied().collect();
        assert!(kept.len() > 2 && kept.len() < 15);
        let share: f64 = kept.iter().map(|&i| weight(i)).sum();
        // With a limit on their number that changes nothing, draws go the long way from the start.
        for config in [base.clone(), GenerationConfig { top_k: 21, ..base.clone() }] {
            let n = 40_000;
            let tokens = draws(config, &logits, n);
            for i in 0..logits.len() {
                let p = if kept.contains(&i) { weight(i) / share } else { 0.0 };
                let got = tokens.iter().filter(|&&t| t as usize == i).count() as f64;
                let spread = 4.5 * (n as f64 * p * (1.0 - p)).sqrt();
                assert!((got - n as f64 * p).abs() <= spread, "token {i}: {got} of {n}, not {p}");
            }
        }
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_seed() {
        let config = GenerationConfig { temperature: 1.0, top_p: 1.0, ..GenerationConfig::default() };
        let logits = [0.0, (3.0_f32).ln()];
        let ones = draws(config.clone(), &logits, 4000).iter().filter(|&&t| t == 1).count();
        assert!((2900..3100).contains(&ones), "{ones}");
        assert_eq!(draws(config.clone(), &logits, 50), draws(config.clone(), &logits, 50));
        let other = GenerationConfig { seed: 9, ..config.clone() };
        assert_ne!(draws(config, &logits, 50), draws(other, &logits, 50));
    }
}
