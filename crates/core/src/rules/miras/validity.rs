//! Which settings exist; the others are refused when a config is read, with the reason.
//!
//! Numbers out of range aside, what is refused are closed forms that do not exist, settings that nothing would read, and
//! steps that have no meaning. Everything else composes.

use super::algorithm::{Algorithm, with_algorithm};
use super::bias::{Bias, Growth, with_bias};
use super::features::{Features, with_features};
use super::plan::{MOST_STEPS, Plan};
use super::retention::{Pull, Retention, with_retention};
use super::structure::{Structure, Tensor, with_structure};
use super::{Decay, Gates, GradientAt, Miras, RateScale, Solve};
use crate::error::{Error, Result};
use crate::rule::Dims;

/// Longest chunk and window: far beyond use, far below what an index can hold.
const MOST_TOKENS: usize = 1 << 20;
const MOST_WINDOW: usize = 1024;

pub(super) fn check(rule: &Miras, d: Dims) -> Result<()> {
    check_numbers(rule)?;
    with_features!(&rule.features, f => f.check(d.dk))?;
    with_bias!(&rule.bias, b => b.check())?;
    with_retention!(&rule.retention, r => r.check())?;
    with_algorithm!(&rule.algorithm, a => a.check())?;
    let plan = Plan::new(rule, d);
    with_structure!(&rule.structure, s => s.check(plan.inner))?;
    if with_structure!(&rule.structure, s => s.residual()) && d.dk != d.dv {
        let (k, v) = (d.dk, d.dv);
        let reason = "a residual adds keys to values: key width";
        return refuse(rule, format!("{reason} {k} must be value width {v}, or residual = false"));
    }
    check_retention(rule)?;
    match with_algorithm!(&rule.algorithm, a => a.solve()) {
        Solve::Explicit => {}
        Solve::Implicit => check_implicit(rule)?,
        Solve::Newton => check_newton(rule)?,
    }
    check_gates(rule, &plan)
}

fn refuse(rule: &Miras, reason: String) -> Result<()> {
    Err(Error::Invalid { place: format!("rule `{}`", rule.name), reason })
}

fn check_numbers(rule: &Miras) -> Result<()> {
    if !(1..=MOST_STEPS).contains(&rule.steps) {
        return refuse(rule, format!("steps = {}: from 1 to {MOST_STEPS}", rule.steps));
    }
    if !(1..=MOST_TOKENS).contains(&rule.chunk) {
        return refuse(rule, format!("chunk = {}: from 1 to {MOST_TOKENS}", rule.chunk));
    }
    if rule.window > MOST_WINDOW {
        return refuse(rule, format!("window = {}: at most {MOST_WINDOW}", rule.window));
    }
    if rule.chunk > 1 && rule.gradient == GradientAt::Decayed {
        return refuse(rule, "with chunks the gradient is taken at the chunk start: gradient = \"prev\"".into());
    }
    if rule.clip.is_some_and(|c| !(c.is_finite() && c > 0.0)) {
        return refuse(rule, "clip must be a positive number".into());
    }
    Ok(())
}

fn check_retention(rule: &Miras) -> Result<()> {
    let name = rule.retention.name();
    let (pull, dual, settles, multiplies) =
        with_retention!(&rule.retention, r => (r.pull(), r.is_dual(), r.settles(), r.multiplies()));
    let keeps_all = with_algorithm!(&rule.algorithm, a => a.keeps_all());
    // A map from all gradients to weights, or no retention at all.
    let maps = !multiplies && (dual || (pull == Pull::Keep && !settles));
    if keeps_all && !maps {
        let algorithm = rule.algorithm.name();
        return refuse(
            rule,
            format!("`{algorithm}` forgets nothing, retention `{name}` does: use a map to weights, or `none`"),
        );
    }
    if rule.decay != Decay::Gate && (keeps_all || pull == Pull::Keep) {
        return refuse(rule, "nothing decays here: decay = \"gate\"".into());
    }
    if with_retention!(&rule.retention, r => r.projects()) && with_structure!(&rule.structure, s => s.is_vector()) {
        let structure = rule.structure.name();
        return refuse(rule, format!("columns of unit length, retention `{name}`, do not exist in a `{structure}`"));
    }
    Ok(())
}

/// What every algorithm that solves for its step needs: one matrix, one token at a time, a state that is the weights.
fn check_solved(rule: &Miras) -> Result<()> {
    let (name, retention) = (rule.algorithm.name(), rule.retention.name());
    if !with_structure!(&rule.structure, s => s.is_matrix()) {
        return refuse(rule, format!("`{name}` solves for a matrix; structure `{}` is none", rule.structure.name()));
    }
    if rule.window > 1 || rule.chunk > 1 {
        return refuse(rule, format!("`{name}` takes one token at a time: window = 0 or 1, chunk = 1"));
    }
    if with_retention!(&rule.retention, r => r.is_dual() || r.settles()) {
        return refuse(rule, format!("the step of `{name}` and retention `{retention}` have no closed form together"));
    }
    Ok(())
}

fn check_implicit(rule: &Miras) -> Result<()> {
    check_solved(rule)?;
    if !with_bias!(&rule.bias, b => b.has_implicit()) {
        return refuse(rule, format!("bias `{}` has no closed form for an implicit step", rule.bias.name()));
    }
    Ok(())
}

fn check_newton(rule: &Miras) -> Result<()> {
    check_solved(rule)?;
    let name = rule.algorithm.name();
    if rule.bias.name() != "l2" {
        return refuse(rule, format!("`{name}` is for bias `l2`: the Hessian of `{}` is no covariance", rule.bias.name()));
    }
    if with_retention!(&rule.retention, r => r.pull()) == Pull::Start {
        return refuse(rule, format!("`{name}` discounts old errors, which is no pull to a start: retention `l2` or `none`"));
    }
    // One covariance of keys, one discount, and a minimiser that is reached whatever the step.
    let plain = rule.gates == Gates::Scalar && rule.clip.is_none() && rule.window == 0 && rule.steps == 1;
    if !plain {
        return refuse(rule, format!("`{name}` has no rate and no residual: gates = \"scalar\", no clip, window = 0, steps = 1"));
    }
    Ok(())
}

fn check_gates(rule: &Miras, plan: &Plan) -> Result<()> {
    let has = |axis: fn(&Tensor) -> bool| plan.tensors.iter().all(|(t, _)| axis(t));
    let name = rule.structure.name();
    match rule.gates {
        Gates::Scalar => Ok(()),
        Gates::Value if has(|t| t.values.is_some()) => Ok(()),
        Gates::Key if has(|t| t.keys.is_some()) && plan.inner.dk == plan.d.dk => Ok(()),
        Gates::Value => refuse(rule, format!("gates per value channel do not fit every tensor of this `{name}`")),
        Gates::Key => {
            refuse(rule, format!("gates per key channel need a structure over keys as they are, not this `{name}`"))
        }
    }
}

/// Why a memory may grow beyond all bounds under gates that a mixer makes.
pub(super) fn unbounded(rule: &Miras) -> Option<&'static str> {
    let solved = with_algorithm!(&rule.algorithm, a => a.solve()) != Solve::Explicit;
    let bounded = rule.clip.is_some()
        || with_structure!(&rule.structure, s => s.is_bounded())
        || with_retention!(&rule.retention, r => r.is_bounded());
    if solved || bounded {
        return None;
    }
    let growth = with_bias!(&rule.bias, b => b.growth());
    if growth == Growth::Faster {
        return Some("the residual grows faster than the error: no rate is small enough for every error");
    }
    let linear = with_structure!(&rule.structure, s => s.is_linear());
    let scaled = matches!(rule.rate_scale, RateScale::Auto | RateScale::Inv);
    if growth == Growth::Alike && linear && rule.chunk > 1 && !scaled {
        return Some("the steps of a whole chunk add up at one point, and the rate is not divided by its length");
    }
    None
}
