//! Which settings exist; the others are refused when a config is read, with the reason.

use super::algorithm::{Algorithm, AnyAlgorithm, with_algorithm};
use super::bias::{Bias, with_bias};
use super::features::{Features, with_features};
use super::plan::{MOST_STEPS, Plan};
use super::retention::{Pull, Retention, with_retention};
use super::structure::{Structure, with_structure};
use super::{Gates, GradientAt, Miras, Solve};
use crate::error::{Error, Result};
use crate::rule::Dims;

/// Longest chunk and window: far beyond use, far below what an index can hold.
const MOST_TOKENS: usize = 1 << 20;
const MOST_WINDOW: usize = 1024;

pub(super) fn check(rule: &Miras, d: Dims) -> Result<()> {
    let refuse = |reason: String| Err(Error::Invalid { place: format!("rule `{}`", rule.name), reason });
    with_features!(&rule.features, f => f.check(d.dk))?;
    let plan = Plan::new(rule, d);
    with_structure!(&rule.structure, s => s.check(plan.inner))?;
    if with_structure!(&rule.structure, s => s.residual()) && d.dk != d.dv {
        let (k, v) = (d.dk, d.dv);
        return refuse(format!("a residual adds keys to values: key width {k} must be value width {v}, or residual = false"));
    }
    if !(1..=MOST_STEPS).contains(&rule.steps) {
        return refuse(format!("steps = {}: from 1 to {MOST_STEPS}", rule.steps));
    }
    if !(1..=MOST_TOKENS).contains(&rule.chunk) {
        return refuse(format!("chunk = {}: from 1 to {MOST_TOKENS}", rule.chunk));
    }
    if rule.window > MOST_WINDOW {
        return refuse(format!("window = {}: at most {MOST_WINDOW}", rule.window));
    }
    if rule.window > 0 && rule.steps > 1 {
        return refuse("a window and several inner steps exclude one another: set window = 0 or steps = 1".into());
    }
    if rule.chunk > 1 && rule.gradient == GradientAt::Decayed {
        return refuse("with chunks the gradient is taken at the chunk start: gradient = \"prev\"".into());
    }
    if rule.clip.is_some_and(|c| !(c.is_finite() && c > 0.0)) {
        return refuse("clip must be a positive number".into());
    }
    check_algorithm(rule, refuse)?;
    check_gates(rule, &plan, refuse)
}

fn check_algorithm(rule: &Miras, refuse: impl Fn(String) -> Result<()>) -> Result<()> {
    let (solve, keeps_all) = with_algorithm!(&rule.algorithm, a => (a.solve(), a.keeps_all()));
    let name = rule.algorithm.name();
    let matrix = with_structure!(&rule.structure, s => s.is_matrix());
    let retention = rule.retention.name();
    let (pull, settles) = with_retention!(&rule.retention, r => (r.pull(), r.settles()));
    if keeps_all && (matches!(pull, Pull::Zero | Pull::Start) && !with_retention!(&rule.retention, r => r.is_dual())) {
        return refuse(format!("`{name}` forgets nothing, retention `{retention}` does: use a map to weights, or `none`"));
    }
    if solve != Solve::Explicit {
        if !matrix {
            return refuse(format!("`{name}` solves for a matrix; structure `{}` is none", rule.structure.name()));
        }
        if rule.window > 0 || rule.steps > 1 || rule.chunk > 1 {
            return refuse(format!("`{name}` takes one token at a time: window = 0, steps = 1, chunk = 1"));
        }
        let plain = !with_retention!(&rule.retention, r => r.is_dual()) && !settles;
        if !plain {
            return refuse(format!("the step of `{name}` and retention `{retention}` have no closed form together"));
        }
        if rule.clip.is_some() {
            return refuse(format!("`{name}` solves for its step: there is no residual to clip"));
        }
    }
    if solve == Solve::Implicit && !with_bias!(&rule.bias, b => b.has_implicit()) {
        return refuse(format!("bias `{}` has no closed form for an implicit step", rule.bias.name()));
    }
    if solve == Solve::Newton && !(rule.bias.name() == "l2" && pull != Pull::Start && rule.gates == Gates::Scalar) {
        return refuse(format!("`{name}` is for bias `l2`, retention `none` or `l2` and scalar gates"));
    }
    if solve == Solve::Implicit && rule.gates == Gates::Value {
        return refuse("an implicit step has one rate: gates = \"scalar\" or \"key\"".into());
    }
    let _: &AnyAlgorithm = &rule.algorithm;
    Ok(())
}

fn check_gates(rule: &Miras, plan: &Plan, refuse: impl Fn(String) -> Result<()>) -> Result<()> {
    let has = |axis: fn(&super::structure::Tensor) -> bool| plan.tensors.iter().all(|(t, _)| axis(t));
    let name = rule.structure.name();
    match rule.gates {
        Gates::Scalar => Ok(()),
        Gates::Value if has(|t| t.values.is_some()) => Ok(()),
        Gates::Key if has(|t| t.keys.is_some()) && plan.inner.dk == plan.d.dk => Ok(()),
        Gates::Value => refuse(format!("gates per value channel do not fit every tensor of this `{name}`")),
        Gates::Key => refuse(format!("gates per key channel need a structure over keys as they are, not this `{name}`")),
    }
}
