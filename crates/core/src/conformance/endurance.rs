//! Through the mixer's activations the memory stays finite, in f32: pre-activations at any constant level and at
//! random from token to token, on random, equal and clustered tokens.
//!
//! Bounds that hold for every constant setting need not hold for gates that change. Under momentum they do not: with
//! `retain` at 1 and `rate` at its maximum, a momentum gate that swings widely from token to token lets the memory grow
//! by up to about a per cent a token (`retain` below 0.98 holds it), and one chosen against the rule triples an error
//! every four tokens. So settings in which some gates are held and others swing are run for [`MIXED_TOKENS`] at most.

use super::random::Random;
use super::stream::{self, Stream};
use super::{Check, Extent, Report, affordable, sizes};
use crate::erased::{BoundKernel, ErasedRule};
use crate::kernel::Scratch;
use crate::rule::Dims;

/// Length of the streams of the suite.
pub(super) const TOKENS: usize = 2000;
/// Length of the streams of the quick suite.
pub(super) const QUICK_TOKENS: usize = 120;
/// Length of the streams in which some gates are held and others swing.
const MIXED_TOKENS: usize = 2000;
/// Most operations of a token, of head sizes that go through every setting.
const MOST_FLOPS: f64 = 1e4;
/// Gates that are set to every combination.
const MOST_GATES: usize = 3;
/// Spread of a swinging pre-activation beside gates that are held.
const SWING: f64 = 3.0;
/// Tokens between two looks at the state.
const BLOCK: usize = 250;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Tokens {
    Random,
    Equal,
    Clustered,
}

/// The pre-activation of one gate, over its bias.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gate {
    /// One level for the whole stream.
    Held(f64),
    /// Normal from token to token, this wide.
    Swings(f64),
}

pub(super) fn check(rule: &dyn ErasedRule, tokens: usize, report: &mut Report) {
    if let Some(why) = rule.unbounded() {
        report.skipped.push(format!("endurance: {why}"));
        return;
    }
    // Rules that cannot afford all settings take those of the quick suite.
    let Ok(sizes) = affordable(rule, &[(8, 8), (12, 9), (16, 16)], MOST_FLOPS) else {
        return check_quick(rule, tokens, report);
    };
    let mut draw = Random::new(9);
    let count = rule.inputs().iter().filter(|i| i.activation.is_gate()).count();
    let mut sizes = sizes.into_iter().cycle();
    for kind in [Tokens::Random, Tokens::Equal, Tokens::Clustered] {
        let all = [1.0, 10.0].map(|spread| vec![Gate::Swings(spread); count]);
        for gates in settings(count).into_iter().chain(all) {
            let held = gates.iter().filter(|g| matches!(g, Gate::Held(_))).count();
            let mixed = 0 < held && held < count;
            if let Some(d) = sizes.next() {
                let tokens = if mixed { tokens.min(MIXED_TOKENS) } else { tokens };
                endure(rule, d, kind, &gates, tokens, Extent::Full, &mut draw, report);
            }
        }
    }
}

/// The reference alone on small heads, all gates shut, open, or swinging together.
pub(super) fn check_quick(rule: &dyn ErasedRule, tokens: usize, report: &mut Report) {
    if let Some(why) = rule.unbounded() {
        report.skipped.push(format!("endurance: {why}"));
        return;
    }
    let mut draw = Random::new(9);
    let count = rule.inputs().iter().filter(|i| i.activation.is_gate()).count();
    let (shut, open) = (Gate::Held(-60.0), Gate::Held(60.0));
    let streams = [
        (Tokens::Random, shut),
        (Tokens::Random, open),
        (Tokens::Equal, open),
        (Tokens::Clustered, open),
        (Tokens::Clustered, Gate::Swings(SWING)),
        (Tokens::Equal, Gate::Swings(10.0)),
    ];
    for d in sizes(rule, &[(4, 4)]) {
        for (kind, gate) in streams {
            endure(rule, d, kind, &vec![gate; count], tokens, Extent::Quick, &mut draw, report);
        }
    }
}

/// Every gate shut, at its bias, open, and swinging, in all combinations: 60 saturates a sigmoid in f32 and f64 alike.
/// Rules with more gates than [`MOST_GATES`] hold the others at their bias.
fn settings(count: usize) -> Vec<Vec<Gate>> {
    let one = [Gate::Held(-60.0), Gate::Held(0.0), Gate::Held(60.0), Gate::Swings(SWING)];
    if count > MOST_GATES {
        let rest = vec![Gate::Held(0.0); count - MOST_GATES];
        return settings(MOST_GATES).into_iter().map(|l| [l, rest.clone()].concat()).collect();
    }
    let mut all = vec![Vec::new()];
    for _ in 0..count {
        all = all.iter().flat_map(|l| one.map(|x| [&l[..], &[x]].concat())).collect();
    }
    all
}

fn endure(
    rule: &dyn ErasedRule,
    d: Dims,
    kind: Tokens,
    gates: &[Gate],
    tokens: usize,
    extent: Extent,
    draw: &mut Random,
    report: &mut Report,
) {
    let list = rule.inputs();
    let centres: Vec<Vec<Vec<f64>>> =
        (0..4).map(|_| list.iter().map(|i| draw.normals(i.width.of(d))).collect()).collect();
    let kernels = extent.kernels(rule).into_iter().filter(|k| k.is_available(d)).map(Some);
    let start: Vec<f32> = stream::starts(rule, d, draw).iter().map(|&x| x as f32).collect();
    let mut runners: Vec<Runner<'_>> =
        [None].into_iter().chain(kernels).map(|kernel| Runner { kernel, state: start.clone() }).collect();
    let mut scratch = Scratch::new();
    for from in (0..tokens).step_by(BLOCK) {
        let n = BLOCK.min(tokens - from);
        let mut s = block(rule, d, kind, gates, n, &centres, draw);
        s.pos = from as u64;
        for runner in &mut runners {
            s.start = std::mem::take(&mut runner.state);
            let (name, run) = match &runner.kernel {
                None => ("reference", stream::forward(rule, &s)),
                Some(kernel) => (kernel.name(), stream::kernel_forward(&**kernel, &s, &mut scratch)),
            };
            if !(stream::scale(&run.y).is_finite() && stream::scale(&run.end).is_finite()) {
                let size = format!("{}x{}", d.dk, d.dv);
                let what = format!("{name}: not finite by token {} at {size}, {kind:?} tokens, {gates:?}", from + n);
                report.fail(Check::Endurance, what);
                return;
            }
            runner.state = run.end;
        }
    }
}

/// The reference, or a kernel, on its way through one stream.
struct Runner<'a> {
    kernel: Option<Box<dyn BoundKernel + 'a>>,
    state: Vec<f32>,
}

fn block(
    rule: &dyn ErasedRule,
    d: Dims,
    kind: Tokens,
    gates: &[Gate],
    tokens: usize,
    centres: &[Vec<Vec<f64>>],
    draw: &mut Random,
) -> Stream<f32> {
    let list = rule.inputs();
    let mut pre: Vec<Vec<f64>> = vec![Vec::new(); list.len()];
    for _ in 0..tokens {
        let centre = &centres[draw.below(centres.len())];
        let mut gate = 0;
        for (i, input) in list.iter().enumerate() {
            let noise = draw.normals(input.width.of(d));
            if input.activation.is_gate() {
                pre[i].extend(match gates[gate] {
                    Gate::Held(level) => vec![level; noise.len()],
                    Gate::Swings(spread) => noise.iter().map(|x| spread * x).collect(),
                });
                gate += 1;
                continue;
            }
            let near = |at: &[f64], by: f64| at.iter().zip(&noise).map(|(c, x)| c + by * x).collect::<Vec<f64>>();
            pre[i].extend(match kind {
                Tokens::Random => noise,
                Tokens::Equal => centres[0][i].clone(),
                Tokens::Clustered => near(&centre[i], 0.1),
            });
        }
    }
    stream::cold(rule, d, tokens, stream::activate(&list, d, &pre)).single()
}
