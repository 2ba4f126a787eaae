//! Choosing the next token from its logits.

use crate::error::{Error, Result};
use crate::rng::Rng;
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

/// Draws tokens; equal seeds and logits give equal tokens. Allocates only on its first draw.
#[derive(Clone, Debug)]
pub struct Sampler {
    config: GenerationConfig,
    rng: Rng,
    order: Vec<(f64, u32)>,
}

impl Sampler {
    /// A sampler at the start of its stream.
    ///
    /// # Errors
    /// As [`GenerationConfig::check`].
    pub fn new(config: &GenerationConfig) -> Result<Self> {
        config.check()?;
        Ok(Self { config: config.clone(), rng: Rng::new(config.seed, "sample"), order: Vec::new() })
    }

    /// Numbers drawn so far; set it to go on where another sampler stopped.
    pub fn counter(&mut self) -> &mut u64 {
        &mut self.rng.counter
    }

    /// One token from `logits [vocab]`.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let largest = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
        let best = (0..logits.len()).fold(0, largest);
        if self.config.temperature == 0.0 {
            return best as u32;
        }
        let top = f64::from(logits[best]);
        let weight = |l: f32| ((f64::from(l) - top) / self.config.temperature).exp();
        self.order.clear();
        self.order.extend(logits.iter().enumerate().map(|(i, &l)| (weight(l), i as u32)));
        let all = self.config.top_k == 0 && self.config.top_p == 1.0;
        if !all {
            // Ties go to the smaller token, so that the order is one.
            self.order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            if self.config.top_k > 0 {
                self.order.truncate(self.config.top_k);
            }
            let mass = self.order.iter().map(|o| o.0).sum::<f64>() * self.config.top_p;
            let mut sum = 0.0;
            let enough = |o: &(f64, u32)| {
                sum += o.0;
                sum >= mass
            };
            let kept = self.order.iter().position(enough).map_or(self.order.len(), |i| i + 1);
            self.order.truncate(kept);
        }
        let mut left = self.rng.uniform() * self.order.iter().map(|o| o.0).sum::<f64>();
        let hit = self.order.iter().find(|o| {
            left -= o.0;
            left < 0.0
        });
        hit.unwrap_or(&self.order[self.order.len() - 1]).1
    }
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
