//! The same question to a model: a `cms` as users have it, over a stream of tokens whose table of successors drifts.

use super::super::draw::{rng, scaled};
use crate::error::{Error, Result};
use hecate_core::ops::Cpu;
use hecate_model::{Access, Logits, Model, ModelConfig, Params, Workspace};
use serde_json::json;

/// How the levels of a model stand to each other.
pub(super) struct Arrangement {
    pub name: &'static str,
    arrangement: &'static str,
    online: bool,
    /// Without the second level, and this many times as wide.
    alone: Option<usize>,
    /// The second level never learns.
    still: bool,
}

const fn way(name: &'static str, arrangement: &'static str) -> Arrangement {
    Arrangement { name, arrangement, online: false, alone: None, still: false }
}

pub(super) const ARRANGEMENTS: [Arrangement; 6] = [
    Arrangement { alone: Some(1), ..way("one level", "sequential") },
    Arrangement { alone: Some(2), ..way("one level, twice as wide", "sequential") },
    way("sequential", "sequential"),
    way("nested", "nested"),
    Arrangement { online: true, ..way("nested, online", "nested") },
    Arrangement { still: true, ..way("nested, slow one still", "nested") },
];

/// What is run.
pub(super) struct Tokens {
    pub vocab: usize,
    pub width: usize,
    pub hidden: usize,
    pub contexts: usize,
    pub length: usize,
    /// The share of the table that a context draws anew.
    pub redrawn: f64,
    /// The share of tokens that are any.
    pub any: f64,
    pub fast: Vec<f64>,
    pub slow: Vec<f64>,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            vocab: 16,
            width: 32,
            hidden: 64,
            contexts: 100,
            length: 64,
            redrawn: 0.5,
            any: 0.1,
            fast: vec![0.1, 0.3, 1.0, 3.0],
            slow: vec![0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
        }
    }
}

impl Tokens {
    /// Rates of the fast level and of the slow one.
    pub fn rates(&self, arrangement: &Arrangement) -> Vec<(f64, f64)> {
        let slow = if arrangement.alone.is_some() || arrangement.still { &[0.0][..] } else { &self.slow };
        self.fast.iter().flat_map(|&f| slow.iter().map(move |&s| (f, s))).collect()
    }

    /// The mean surprise, in nats, of one who knows the table of the context.
    pub fn least(&self) -> f64 {
        let other = self.any / self.vocab as f64;
        let next = 1.0 - self.any + other;
        -(next * next.ln() + (self.vocab - 1) as f64 * other * other.ln())
    }

    fn stream(&self, seed: usize) -> Vec<u32> {
        let mut draw = rng("nested_cms tokens", seed);
        let mut any = |n: usize| (draw.uniform() * n as f64) as usize;
        let table: Vec<usize> = (0..self.vocab).map(|_| any(self.vocab)).collect();
        let mut token = any(self.vocab);
        let mut stream = Vec::with_capacity(self.contexts * self.length + 1);
        for _ in 0..self.contexts {
            // In thousandths, so that one generator of whole numbers will do.
            let mut chance = |share: f64| (any(1000) as f64) < 1000.0 * share;
            let anew: Vec<bool> = (0..self.vocab).map(|_| chance(self.redrawn)).collect();
            let next = table.iter().zip(anew).map(|(&next, anew)| if anew { any(self.vocab) } else { next });
            let next: Vec<usize> = next.collect();
            for _ in 0..self.length {
                stream.push(token as u32);
                token = if (any(1000) as f64) < 1000.0 * self.any { any(self.vocab) } else { next[token] };
            }
        }
        stream.push(token as u32);
        stream
    }

    fn model(&self, arrangement: &Arrangement, fast: f64, slow: f64) -> Result<Model> {
        let mut levels = vec![json!({"period": 1, "rate": fast}), json!({"period": self.length, "rate": slow})];
        levels.truncate(if arrangement.alone.is_some() { 1 } else { 2 });
        let mut channel = json!({
            "type": "cms",
            "hidden": arrangement.alone.unwrap_or(1) * self.hidden,
            "arrangement": arrangement.arrangement,
            "levels": levels,
        });
        if arrangement.online {
            channel["online"] = json!(true);
        }
        let config = json!({
            "vocab": self.vocab,
            "width": self.width,
            "context": self.length,
            "blocks": [{"mixer": {"type": "none"}, "channel": channel}],
        });
        let config: ModelConfig = serde_json::from_value(config)
            .map_err(|e| Error::Config { origin: "the model of nested_cms".into(), reason: e.to_string() })?;
        Ok(Model::new(&config)?)
    }

    /// Loss in nats by place in the context, over the second half of all contexts; infinite where numbers overflowed.
    pub fn run(&self, arrangement: &Arrangement, fast: f64, slow: f64, seed: usize) -> Result<Vec<f64>> {
        let model = self.model(arrangement, fast, slow)?;
        let params: Params<f32> = model.params().init(seed as u64);
        let (mut state, mut ws, ops) = (model.new_state(), Workspace::default(), Cpu::inference());
        let stream = self.stream(seed);
        let (tokens, half) = (&stream[..stream.len() - 1], self.contexts / 2 * self.length);
        let result = model.forward(&ops, &params, &mut state, tokens, &Access::Learn, Logits::All, &mut ws);
        let logits = match result {
            Ok(logits) => logits,
            Err(hecate_model::Error::NonFinite { .. }) => return Ok(vec![f64::INFINITY; self.length]),
            Err(error) => return Err(error.into()),
        };
        let mut curve = vec![0.0; self.length];
        for (t, logits) in logits.chunks(self.vocab).enumerate().skip(half) {
            let logits: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
            let top = super::super::outcome::highest(&logits);
            let total: f64 = logits.iter().map(|l| (l - top).exp()).sum();
            curve[t % self.length] += top + total.ln() - logits[stream[t + 1] as usize];
        }
        Ok(scaled(&curve, self.length as f64 / (tokens.len() - half) as f64))
    }
}
