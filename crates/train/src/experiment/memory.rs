//! One memory under fixed gates, stepped through its reference in double precision.

use crate::error::{Error, Result};
use hecate_core::{AnyRule, Dims, start_state};
use hecate_model::rng::Rng;
use serde_json::Value;

/// The rule of these settings, as a config file would write them.
pub(super) fn rule(settings: Value) -> Result<AnyRule> {
    let origin = format!("rule {settings}");
    serde_json::from_value(settings).map_err(|e| Error::Config { origin, reason: e.to_string() })
}

/// A rule with the gates that it is given for every token.
#[derive(Clone, Debug)]
pub(super) struct Arm {
    /// Name in tables and figures.
    pub name: &'static str,
    pub rule: AnyRule,
    pub gates: Vec<(&'static str, f64)>,
}

impl Arm {
    /// Names a rule; see [`rule`].
    pub fn new(name: &'static str, settings: Value, gates: &[(&'static str, f64)]) -> Result<Self> {
        Ok(Self { name, rule: rule(settings)?, gates: gates.to_vec() })
    }
    /// A memory of this rule at its start.
    pub fn memory(&self, d: Dims, rng: &mut Rng) -> Result<Memory> {
        Memory::new(&self.rule, d, &self.gates, rng)
    }
}

/// A memory with its state.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    rule: AnyRule,
    d: Dims,
    gates: Vec<(&'static str, f64)>,
    state: Vec<f64>,
    pos: u64,
}

impl Memory {
    /// At its start; what is learned there is drawn from `rng`.
    pub fn new(rule: &AnyRule, d: Dims, gates: &[(&'static str, f64)], rng: &mut Rng) -> Result<Self> {
        rule.check(d)?;
        for input in rule.inputs().iter().filter(|i| !["k", "v", "q"].contains(&i.name)) {
            if !gates.iter().any(|g| g.0 == input.name) {
                let reason = format!("the experiment gives no value to the input `{}`", input.name);
                return Err(hecate_core::Error::Invalid { place: format!("rule `{}`", rule.name()), reason }.into());
            }
        }
        let state = start_state(&rule.state(d), &mut || rng.normal());
        Ok(Self { rule: rule.clone(), d, gates: gates.to_vec(), state, pos: 0 })
    }

    /// Changes a gate from here on.
    pub fn set(&mut self, name: &'static str, value: f64) {
        self.gates.retain(|g| g.0 != name);
        self.gates.push((name, value));
    }

    /// One token; gives the read.
    pub fn step(&mut self, k: &[f64], v: &[f64], q: &[f64]) -> Vec<f64> {
        let mut y = vec![0.0; self.d.dv];
        let gates = self.gate_values();
        let x = inputs(&self.rule, &gates, k, v, q);
        self.rule.step(self.d, self.pos, &x, &mut self.state, &mut y);
        self.pos += 1;
        y
    }

    /// Reads without writing.
    pub fn read(&self, q: &[f64]) -> Vec<f64> {
        let (mut y, none) = (vec![0.0; self.d.dv], vec![0.0; self.d.dv]);
        let gates = self.gate_values();
        let x = inputs(&self.rule, &gates, q, &none, q);
        self.rule.read(self.d, self.pos, &x, &self.state, &mut y);
        y
    }

    /// The matrix of a linear memory, `[dv, dk]`: its reads of the unit vectors.
    pub fn matrix(&self) -> Vec<f64> {
        let Dims { dk, dv } = self.d;
        let mut w = vec![0.0; dv * dk];
        for c in 0..dk {
            let unit: Vec<f64> = (0..dk).map(|i| f64::from(i == c)).collect();
            for (r, y) in self.read(&unit).into_iter().enumerate() {
                w[r * dk + c] = y;
            }
        }
        w
    }

    /// Mean over pairs of `|M(k) - v|^2`.
    pub fn error(&self, keys: &[Vec<f64>], values: &[Vec<f64>]) -> f64 {
        let off = |(k, v): (&Vec<f64>, &Vec<f64>)| super::draw::distance2(&self.read(k), v);
        keys.iter().zip(values).map(off).sum::<f64>() / keys.len() as f64
    }

    /// A tensor of the state.
    ///
    /// # Panics
    /// If the rule has no tensor of that name: the experiment chose the rule.
    pub fn tensor(&mut self, name: &str) -> &mut [f64] {
        let mut at = 0;
        for t in self.rule.state(self.d) {
            if t.name == name {
                return &mut self.state[at..at + t.len()];
            }
            at += t.len();
        }
        panic!("`{}` has no tensor `{name}`", self.rule.name())
    }

    /// The whole state.
    pub fn state(&mut self) -> &mut [f64] {
        &mut self.state
    }

    /// Values of every input that is no vector, as wide as it is.
    fn gate_values(&self) -> Vec<Vec<f64>> {
        let value = |name: &str| self.gates.iter().find(|g| g.0 == name).map_or(0.0, |g| g.1);
        self.rule.inputs().iter().map(|i| vec![value(i.name); i.width.of(self.d)]).collect()
    }
}

fn inputs<'a>(rule: &AnyRule, gates: &'a [Vec<f64>], k: &'a [f64], v: &'a [f64], q: &'a [f64]) -> Vec<&'a [f64]> {
    let choose = |(i, gate): (&hecate_core::Input, &'a Vec<f64>)| match i.name {
        "k" => k,
        "v" => v,
        "q" => q,
        _ => &gate[..],
    };
    rule.inputs().iter().zip(gates).map(choose).collect()
}
