//! Backward is the exact transpose of forward: <ybar, J xdot> = <J^T ybar, xdot>.
//!
//! The left side is an exact derivative, the forward source run on dual numbers; the right side is the backward
//! pass. There is no step size to tune. Every input and every state tensor gets a direction of its own, so that a
//! failure names it.
//!
//! A derivative is known only as well as it stands still when its arguments move by their last bits. Where it does not,
//! in a memory whose normalised values are nearly equal, say, the two sides may differ by as much as each of them moves,
//! and never by more than 1e-5 of what the function and its derivative are made of.

use super::random::Random;
use super::stream::{self, Stream, backward, forward};
use super::{Check, Extent, Report};
use crate::erased::ErasedRule;
use crate::rule::Dims;
use crate::scalar::Dual;

/// Relative to the sum of absolute terms: a few roundings of f64 for one token.
const STEP_TOLERANCE: f64 = 1e-12;
/// The same over a stream of [`SCAN_TOKENS`] tokens, whose roundings add up.
const SCAN_TOLERANCE: f64 = 1e-10;
const SCAN_TOKENS: usize = 16;

/// The function whose transpose is checked.
#[derive(Clone, Copy, Debug)]
enum Half {
    Step,
    Write,
    Read,
}

pub(super) fn check(rule: &dyn ErasedRule, extent: Extent, report: &mut Report) {
    let mut draw = Random::new(1);
    let all = [(1, 1), (2, 1), (1, 3), (4, 4), (5, 3), (3, 7), (8, 8)];
    for d in extent.sizes(rule, &all, &[(4, 4), (5, 3)]) {
        let s = stream::mixed(rule, d, 2, 1.0, &mut draw);
        for half in [Half::Step, Half::Write, Half::Read] {
            check_token(rule, half, &s, &mut draw, report);
        }
    }
    // A memory with a residual takes square heads only.
    for d in extent.sizes(rule, &[(8, 5), (3, 6), (6, 6)], &[(5, 3), (4, 4)]) {
        check_scan(rule, &stream::mixed(rule, d, SCAN_TOKENS, 1.0, &mut draw), &mut draw, report);
    }
}

/// A part of the arguments: one input, or one state tensor.
struct Group {
    name: String,
    /// Index of the input; the state tensors lie in the buffer behind the inputs.
    buffer: usize,
    range: std::ops::Range<usize>,
}

fn groups(rule: &dyn ErasedRule, d: Dims, tokens: usize) -> Vec<Group> {
    let list = rule.inputs();
    let mut groups: Vec<Group> = list
        .iter()
        .enumerate()
        .map(|(i, x)| Group { name: x.name.to_string(), buffer: i, range: 0..tokens * x.width.of(d) })
        .collect();
    let mut at = 0;
    for tensor in rule.state(d) {
        groups.push(Group { name: format!("state {}", tensor.name), buffer: list.len(), range: at..at + tensor.len() });
        at += tensor.len();
    }
    groups
}

/// The stream with a random direction on one group, and that direction.
fn along(s: &Stream<f64>, group: &Group, draw: &mut Random) -> (Stream<Dual<f64>>, Vec<f64>) {
    let mut dual = s.map(|x| Dual::new(x, 0.0));
    let direction = draw.normals(group.range.len());
    let buffer = if group.buffer < s.inputs.len() { &mut dual.inputs[group.buffer] } else { &mut dual.start };
    for (x, &dir) in buffer[group.range.clone()].iter_mut().zip(&direction) {
        x.eps = dir;
    }
    (dual, direction)
}

/// Both sides of one comparison.
struct Sides {
    jvp: f64,
    vjp: f64,
    /// Sum of the absolute terms of both.
    scale: f64,
    /// Sum of the absolute terms of <bar, outputs>.
    values: f64,
}

fn sides(bar: &[f64], dot: &[Dual<f64>], gradient: &[f64], direction: &[f64]) -> Sides {
    let left: Vec<f64> = bar.iter().zip(dot).map(|(b, y)| b * y.eps).collect();
    let right: Vec<f64> = gradient.iter().zip(direction).map(|(g, x)| g * x).collect();
    let scale = left.iter().chain(&right).map(|x| x.abs()).sum();
    let values = bar.iter().zip(dot).map(|(b, y)| (b * y.re).abs()).sum();
    Sides { jvp: left.iter().sum(), vjp: right.iter().sum(), scale, values }
}

/// The most that a derivative may be uncertain, relative to what it is made of.
const MOST_UNCERTAIN: f64 = 1e-5;
/// How often, and by how much, arguments are moved to see it.
const MOVES: usize = 6;
const LAST_BITS: f64 = 4.0 * f64::EPSILON;

/// Compares both sides at `s`, which `here` are. `at` gives them at any stream, along the direction that `s` carries.
fn compare(
    what: &str,
    group: &Group,
    s: &Stream<Dual<f64>>,
    here: &Sides,
    at: impl Fn(&Stream<Dual<f64>>) -> Sides,
    tolerance: f64,
    report: &mut Report,
) {
    let &Sides { jvp, vjp, scale, values } = here;
    let off = (jvp - vjp).abs();
    if off <= tolerance * scale {
        return;
    }
    let mut draw = Random::new(11);
    let mut spread = 0.0_f64;
    for _ in 0..MOVES {
        let mut moved = s.clone();
        for x in moved.inputs.iter_mut().flatten().chain(&mut moved.start) {
            x.re *= 1.0 + LAST_BITS * draw.uniform(-1.0, 1.0);
        }
        let there = at(&moved);
        spread = spread.max((there.jvp - jvp).abs()).max((there.vjp - vjp).abs());
    }
    let holds = off <= 8.0 * spread && off <= MOST_UNCERTAIN * (scale + values);
    report.uncertain += usize::from(holds);
    report.expect(Check::Transpose, holds, || {
        let name = &group.name;
        format!("{what}: gradient of `{name}` is wrong: jvp {jvp:.9e}, vjp {vjp:.9e}, uncertain by {spread:.1e}")
    });
}

/// `half` of the first token: its outputs, the read before the state.
fn apply(rule: &dyn ErasedRule, half: Half, s: &Stream<Dual<f64>>) -> Vec<Dual<f64>> {
    let (mut y, mut state) = (vec![Dual::default(); s.d.dv], s.start.clone());
    let x = s.token(0);
    match half {
        Half::Step => rule.step(s.d, s.pos, &x, &mut state, &mut y),
        Half::Write => rule.write(s.d, s.pos, &x, &mut state),
        Half::Read => rule.read(s.d, s.pos, &x, &state, &mut y),
    }
    match half {
        Half::Step => [y, state].concat(),
        Half::Write => state,
        Half::Read => y,
    }
}

/// Transpose of `half`: gradients of the token's inputs, then of the state. Inputs start at `prior`.
fn transpose(rule: &dyn ErasedRule, half: Half, s: &Stream<f64>, bar: &[f64], prior: f64) -> Vec<Vec<f64>> {
    let x = s.token(0);
    let mut dx: Vec<Vec<f64>> = s.widths.iter().map(|&w| vec![prior; w]).collect();
    let mut refs: Vec<&mut [f64]> = dx.iter_mut().map(|x| &mut x[..]).collect();
    let (pos, start) = (s.pos, &s.start[..]);
    let dstate = match half {
        Half::Step => {
            let mut dstate = bar[s.d.dv..].to_vec();
            rule.step_backward(s.d, pos, &x, start, &bar[..s.d.dv], &mut refs, &mut dstate);
            dstate
        }
        Half::Write => {
            let mut dstate = bar.to_vec();
            rule.write_backward(s.d, pos, &x, start, &mut refs, &mut dstate);
            dstate
        }
        Half::Read => {
            let mut dstate = vec![prior; start.len()];
            rule.read_backward(s.d, pos, &x, start, bar, &mut refs, &mut dstate);
            dstate
        }
    };
    dx.push(dstate);
    dx
}

fn check_token(rule: &dyn ErasedRule, half: Half, s: &Stream<f64>, draw: &mut Random, report: &mut Report) {
    let s = s.part(0, 1, s.start.clone());
    let outputs = apply(rule, half, &s.map(|x| Dual::new(x, 0.0))).len();
    let bar = draw.normals(outputs);
    let gradients = transpose(rule, half, &s, &bar, 0.0);
    let what = format!("{half:?} at {}x{}", s.d.dk, s.d.dv);
    for group in groups(rule, s.d, 1) {
        let (dual, direction) = along(&s, &group, draw);
        let at = |s: &Stream<Dual<f64>>| {
            let gradients = transpose(rule, half, &s.double(), &bar, 0.0);
            sides(&bar, &apply(rule, half, s), &gradients[group.buffer][group.range.clone()], &direction)
        };
        let gradient = &gradients[group.buffer][group.range.clone()];
        let here = sides(&bar, &apply(rule, half, &dual), gradient, &direction);
        compare(&what, &group, &dual, &here, at, STEP_TOLERANCE, report);
    }

    // Backward adds: what was there before must still be there.
    let added = transpose(rule, half, &s, &bar, 1.0);
    let mut buffers = s.inputs.len();
    buffers += usize::from(matches!(half, Half::Read));
    for group in groups(rule, s.d, 1).iter().filter(|g| g.buffer < buffers) {
        let range = group.range.clone();
        for (with, without) in added[group.buffer][range.clone()].iter().zip(&gradients[group.buffer][range]) {
            let holds = (with - without - 1.0).abs() <= STEP_TOLERANCE * (1.0 + without.abs());
            report.expect(Check::Transpose, holds, || {
                format!("{what}: gradient of `{}` is not added: {with} on top of 1, alone {without}", group.name)
            });
        }
    }
}

fn check_scan(rule: &dyn ErasedRule, s: &Stream<f64>, draw: &mut Random, report: &mut Report) {
    let (dy, dend) = stream::cotangents(s, draw);
    let gradients = backward(rule, s, &dy, &dend);
    let bar = [&dy[..], &dend].concat();
    let what = format!("{} tokens at {}x{}", s.tokens, s.d.dk, s.d.dv);
    for group in groups(rule, s.d, s.tokens) {
        let (dual, direction) = along(s, &group, draw);
        let at = |s: &Stream<Dual<f64>>| {
            let run = forward(rule, s);
            let gradients = backward(rule, &s.double(), &dy, &dend);
            let gradient = gradients.inputs.get(group.buffer).unwrap_or(&gradients.start);
            sides(&bar, &[run.y, run.end].concat(), &gradient[group.range.clone()], &direction)
        };
        let gradient = &gradients.inputs.get(group.buffer).unwrap_or(&gradients.start)[group.range.clone()];
        let run = forward(rule, &dual);
        let here = sides(&bar, &[run.y, run.end].concat(), gradient, &direction);
        compare(&what, &group, &dual, &here, at, SCAN_TOLERANCE, report);
    }
}
