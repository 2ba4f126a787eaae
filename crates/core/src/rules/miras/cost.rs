//! Operations per token, the closed formulas behind every share of peak.

use super::algorithm::{Algorithm, with_algorithm};
use super::plan::Plan;
use super::structure::{Structure, with_structure};
use super::{Miras, ReadAt};
use crate::rule::Dims;

/// Tokens that are multiplied with one another at most, however long a chunk is.
const MOST_TOKENS: usize = 64;

/// Operations of one token of one head, forward, a multiply-add counted as two. With `w` weights, of which `u` lie above
/// the first layer, in the chunk form with `c = min(chunk, 64)`:
///
/// ```text
/// at the anchor   2 w forward, 2 u back; with a window of n, (1 + (n - 1) / c) times that, and 2 c n for its band
/// steps           2 w, with momentum 4 w
/// a read          2 w, with momentum 4 w, and 2 c for every input and every result of a layer
/// ```
///
/// Reads at the anchor need `2 w`. Token by token, per weight: predict 2, the step's outer product 2 (and 2 more back
/// through further layers), decay 1, read 2; momentum 2 more; a window and further inner steps repeat the gradient part.
/// A direction of its own costs what its products cost, at every token or once per chunk. Recursive least squares take 6
/// more per entry of the covariance.
pub(super) fn flops(rule: &Miras, d: Dims) -> f64 {
    let plan = Plan::new(rule, d);
    let (w, momentum) = (plan.weights() as f64, !plan.at.s.is_empty());
    let once = with_algorithm!(&rule.algorithm, a => a.once_per_chunk());
    let per_step: f64 =
        plan.tensors.iter().map(|(t, _)| with_algorithm!(&rule.algorithm, a => a.direction_flops(t))).sum();
    let direction = if once { per_step / rule.chunk.max(1) as f64 } else { per_step };
    if rule.chunk <= 1 {
        let linear = with_structure!(&rule.structure, s => s.is_linear());
        let gradient = if linear { 4.0 } else { 6.0 };
        let tokens = (rule.window.max(1) + rule.steps.max(1) - 1) as f64;
        let covariance = 6.0 * plan.at.p.len() as f64;
        let steps = rule.steps.max(1) as f64;
        return (gradient * tokens + 3.0 + if momentum { 2.0 } else { 0.0 }) * w + steps * direction + covariance;
    }
    let (c, n) = (rule.chunk.min(MOST_TOKENS) as f64, rule.window.max(1) as f64);
    let upper: usize = plan.tensors.iter().map(|(t, _)| t.rows * t.columns).sum::<usize>() - first_layer(rule, &plan);
    let anchored = (2.0 * w + 2.0 * upper as f64) * (1.0 + (n - 1.0) / c) * rule.steps.max(1) as f64;
    let band = if n > 1.0 { 2.0 * c * n } else { 0.0 };
    let by_two = if momentum { 4.0 } else { 2.0 };
    let rows: usize = plan.tensors.iter().map(|(t, _)| t.rows + t.columns).sum();
    let shared = with_structure!(&rule.structure, s => s.network())
        .filter(|net| net.gated)
        .map_or(0, |_| plan.tensors[1].0.columns);
    let read = if rule.read == ReadAt::Start { 2.0 * w } else { by_two * w + 2.0 * c * (rows - shared) as f64 };
    anchored + band + by_two * w + read + direction
}

/// Weights whose input is the key.
fn first_layer(rule: &Miras, plan: &Plan) -> usize {
    let gated = with_structure!(&rule.structure, s => s.network()).is_some_and(|net| net.gated);
    let last = plan.tensors.len() - if gated { 2 } else { 1 };
    plan.tensors[last..].iter().map(|(t, _)| t.len()).sum()
}
