//! Backward is the exact transpose of forward: <ybar, J xdot> = <J^T ybar, xdot>.
//!
//! The left side is an exact derivative, the forward source run on dual numbers; the right side is the backward
//! pass. There is no step size to tune. Every input and every state tensor gets a direction of its own, so that a
//! failure names it.

use super::random::Random;
use super::stream::{self, Stream, backward, forward};
use super::{Check, Report, sizes};
use crate::rule::{Dims, MemoryRule};
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

pub(super) fn check<R: MemoryRule>(rule: &R, report: &mut Report) {
    let mut draw = Random::new(1);
    for d in sizes(rule, &[(1, 1), (2, 1), (1, 3), (4, 4), (5, 3), (3, 7), (8, 8)]) {
        let s = stream::mixed(rule, d, 2, 1.0, &mut draw);
        for half in [Half::Step, Half::Write, Half::Read] {
            check_token(rule, half, &s, &mut draw, report);
        }
    }
    for d in sizes(rule, &[(8, 5), (3, 6)]) {
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

fn groups<R: MemoryRule>(rule: &R, d: Dims, tokens: usize) -> Vec<Group> {
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

fn compare(
    what: &str,
    group: &Group,
    (bar, dot): (&[f64], &[Dual<f64>]),
    (gradient, direction): (&[f64], &[f64]),
    tolerance: f64,
    report: &mut Report,
) {
    let left: Vec<f64> = bar.iter().zip(dot).map(|(b, y)| b * y.eps).collect();
    let right: Vec<f64> = gradient.iter().zip(direction).map(|(g, x)| g * x).collect();
    let (jvp, vjp) = (left.iter().sum::<f64>(), right.iter().sum::<f64>());
    let scale: f64 = left.iter().chain(&right).map(|x| x.abs()).sum();
    report.expect(Check::Transpose, (jvp - vjp).abs() <= tolerance * scale, || {
        format!("{what}: gradient of `{}` is wrong: jvp {jvp:.9e}, vjp {vjp:.9e}", group.name)
    });
}

/// `half` of the first token: its outputs, the read before the state.
fn apply<R: MemoryRule>(rule: &R, half: Half, s: &Stream<Dual<f64>>) -> Vec<Dual<f64>> {
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
fn transpose<R: MemoryRule>(rule: &R, half: Half, s: &Stream<f64>, bar: &[f64], prior: f64) -> Vec<Vec<f64>> {
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

fn check_token<R: MemoryRule>(rule: &R, half: Half, s: &Stream<f64>, draw: &mut Random, report: &mut Report) {
    let s = s.part(0, 1, s.start.clone());
    let outputs = apply(rule, half, &s.map(|x| Dual::new(x, 0.0))).len();
    let bar = draw.normals(outputs);
    let gradients = transpose(rule, half, &s, &bar, 0.0);
    let what = format!("{half:?} at {}x{}", s.d.dk, s.d.dv);
    for group in groups(rule, s.d, 1) {
        let (dual, direction) = along(&s, &group, draw);
        let outputs = apply(rule, half, &dual);
        let gradient = &gradients[group.buffer][group.range.clone()];
        compare(&what, &group, (&bar, &outputs), (gradient, &direction), STEP_TOLERANCE, report);
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

fn check_scan<R: MemoryRule>(rule: &R, s: &Stream<f64>, draw: &mut Random, report: &mut Report) {
    let (dy, dend) = stream::cotangents(s, draw);
    let gradients = backward(rule, s, &dy, &dend);
    let bar = [dy, dend].concat();
    let what = format!("{} tokens at {}x{}", s.tokens, s.d.dk, s.d.dv);
    for group in groups(rule, s.d, s.tokens) {
        let (dual, direction) = along(s, &group, draw);
        let run = forward(rule, &dual);
        let buffer = gradients.inputs.get(group.buffer).unwrap_or(&gradients.start);
        let gradient = &buffer[group.range.clone()];
        compare(&what, &group, (&bar, &[run.y, run.end].concat()), (gradient, &direction), SCAN_TOLERANCE, report);
    }
}
