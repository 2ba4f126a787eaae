//! AdamW: Adam with weight decay apart from the gradient [AdamW v3 sec.2].
//!
//! ```text
//! m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//! p = p - lr (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + decay p)
//! ```

use crate::error::{Error, Result};
use crate::params::{ParamLayout, ParamSpec, Params};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Settings of [`AdamW`]; the rate comes from the schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squares.
    pub beta2: f64,
    /// Keeps the quotient finite.
    pub eps: f64,
    /// Weight decay per unit of rate, on matrices and embeddings only.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        // beta2 below the usual 0.999, because runs are short and gradients change fast.
        Self { beta1: 0.9, beta2: 0.98, eps: 1e-8, weight_decay: 0.1 }
    }
}

impl AdamWConfig {
    /// Refuses settings without meaning.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn check(&self) -> Result<()> {
        for (key, x, top) in [
            ("beta1", self.beta1, 1.0),
            ("beta2", self.beta2, 1.0),
            ("eps", self.eps, 1.0),
            ("weight_decay", self.weight_decay, 1e3),
        ] {
            if !(0.0..top).contains(&x) {
                return Err(Error::config(format!("optimizer.{key}"), format!("{x} is not in [0, {top})")));
            }
        }
        Ok(())
    }
}

/// The optimizer with its state: two means per parameter and the number of steps.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    config: AdamWConfig,
    /// The tensors that it trains, in buffers of their own.
    layout: ParamLayout,
    /// Where each of them lies among the parameters.
    places: Vec<Range<usize>>,
    /// Mean of gradients, laid out as [`AdamW::layout`] says.
    pub m: Vec<f32>,
    /// Mean of squared gradients.
    pub v: Vec<f32>,
    /// Steps taken, for the bias correction.
    pub steps: u64,
}

impl AdamW {
    /// Before its first step, for the tensors of `params` that `trained` picks; it never touches the others.
    pub fn new(config: AdamWConfig, params: &ParamLayout, trained: impl Fn(&ParamSpec) -> bool) -> Self {
        let (mut layout, mut places) = (ParamLayout::default(), Vec::new());
        for spec in params.specs.iter().filter(|spec| trained(spec)) {
            layout.add(spec.name.clone(), &spec.shape, spec.kind, spec.init.clone());
            places.push(spec.range.clone());
        }
        let (m, v) = (vec![0.0; layout.len], vec![0.0; layout.len]);
        Self { config, layout, places, m, v, steps: 0 }
    }

    /// The tensors that it trains, and where their means lie.
    pub fn layout(&self) -> &ParamLayout {
        &self.layout
    }

    /// One step at rate `lr`; `grads` is laid out like the parameters. Each parameter is on its own, so the number of
    /// threads does not matter.
    pub fn step(&mut self, params: &mut Params<f32>, grads: &[f32], lr: f64) {
        self.steps += 1;
        let c = &self.config;
        let t = self.steps as f64;
        let (beta1, beta2) = (c.beta1 as f32, c.beta2 as f32);
        let correct1 = (1.0 / (1.0 - c.beta1.powf(t))) as f32;
        let correct2 = (1.0 / (1.0 - c.beta2.powf(t))) as f32;
        let (lr32, eps) = (lr as f32, c.eps as f32);
        for (spec, place) in self.layout.specs.iter().zip(&self.places) {
            let keep = if spec.kind.decays() { (1.0 - lr * c.weight_decay) as f32 } else { 1.0 };
            let r = spec.range.clone();
            let update = |p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]| {
                for i in 0..p.len() {
                    m[i] = beta1 * m[i] + (1.0 - beta1) * g[i];
                    v[i] = beta2 * v[i] + (1.0 - beta2) * g[i] * g[i];
                    p[i] = keep * p[i] - lr32 * (m[i] * correct1) / ((v[i] * correct2).sqrt() + eps);
                }
            };
            const CHUNK: usize = 1 << 14;
            params.data[place.clone()]
                .par_chunks_mut(CHUNK)
                .zip(grads[place.clone()].par_chunks(CHUNK))
                .zip(self.m[r.clone()].par_chunks_mut(CHUNK))
                .zip(self.v[r].par_chunks_mut(CHUNK))
                .for_each(|(((p, g), m), v)| update(p, g, m, v));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{Init, Kind};

    #[test]
    fn tensors_that_are_not_trained_stay_as_they_are_and_take_no_memory() {
        let mut layout = ParamLayout::default();
        for name in ["a", "b", "c"] {
            layout.add(name.into(), &[20], Kind::Matrix, Init::Constant(1.0));
        }
        let mut params: Params<f32> = layout.init(0);
        let mut opt = AdamW::new(AdamWConfig::default(), &layout, |spec| spec.name == "b");
        let mut all = AdamW::new(AdamWConfig::default(), &layout, |_| true);
        let grads: Vec<f32> = (0..layout.len).map(|i| i as f32).collect();
        let mut whole = params.clone();
        opt.step(&mut params, &grads, 0.01);
        all.step(&mut whole, &grads, 0.01);
        let ranges: Vec<_> = layout.specs.iter().map(|spec| spec.range.clone()).collect();
        assert_eq!(params.data[ranges[1].clone()], whole.data[ranges[1].clone()]);
        assert!([0, 2].iter().all(|&i| params.data[ranges[i].clone()].iter().all(|&x| x == 1.0)));
        assert_eq!((opt.layout().count(), opt.m.len()), (20, 20));
    }

    /// Three steps by hand in double precision.
    #[test]
    fn a_short_trajectory_matches_the_formula() {
        let mut layout = ParamLayout::default();
        layout.add("w".into(), &[2], Kind::Matrix, Init::Constant(1.0));
        layout.add("b".into(), &[1], Kind::Gate, Init::Constant(1.0));
        let mut params: Params<f32> = layout.init(0);
        let mut opt = AdamW::new(AdamWConfig::default(), &layout, |_| true);
        let places: Vec<usize> = layout.specs.iter().flat_map(|spec| spec.range.clone()).collect();
        let c = AdamWConfig::default();
        let (mut m, mut v, mut p) = ([0.0; 3], [0.0; 3], [1.0; 3]);
        for t in 1..=3 {
            let g = [0.5 * f64::from(t), -1.0, 0.25];
            let mut grads = vec![0.0; layout.len];
            places.iter().zip(g).for_each(|(&at, g)| grads[at] = g as f32);
            opt.step(&mut params, &grads, 0.01);
            for i in 0..3 {
                m[i] = c.beta1 * m[i] + (1.0 - c.beta1) * g[i];
                v[i] = c.beta2 * v[i] + (1.0 - c.beta2) * g[i] * g[i];
                let (mh, vh) = (m[i] / (1.0 - c.beta1.powi(t)), v[i] / (1.0 - c.beta2.powi(t)));
                let decay = if i < 2 { c.weight_decay } else { 0.0 };
                p[i] -= 0.01 * (mh / (vh.sqrt() + c.eps) + decay * p[i]);
            }
        }
        for (&at, want) in places.iter().zip(p) {
            let got = params.data[at];
            assert!((f64::from(got) - want).abs() < 1e-6, "{got} {want}");
        }
    }
}
