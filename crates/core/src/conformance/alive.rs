//! Every input and every state tensor matters at the default gates: moved by its own size, it moves the reads by
//! more than 1e-4 of theirs, and some gradient by more than 1e-4 of its own.
//!
//! How far it moves them is a derivative. Where that says nothing, beyond a threshold, whole steps are taken. What is
//! still zero, the start of the first chunk, has no size and is moved by numbers of size one.

use super::random::Random;
use super::stream::{self, Gradients, Run, both};
use super::{Check, Extent, Report};
use crate::erased::ErasedRule;
use crate::rule::Holds;
use crate::scalar::Dual;

const EFFECT: f64 = 1e-4;
/// Whole steps, in sizes of what is moved.
const STEPS: [f64; 6] = [1.0, -1.0, 4.0, -4.0, 32.0, -32.0];

pub(super) fn check(rule: &dyn ErasedRule, extent: Extent, report: &mut Report) {
    let mut draw = Random::new(7);
    for d in extent.sizes(rule, &[(8, 8), (8, 5)], &[(4, 4)]) {
        // Gates at their biases, without spread.
        let s = stream::mixed(rule, d, extent.pick(32, 20), 0.0, &mut draw);
        let (dy, dend) = stream::cotangents(&s, &mut draw);
        let constant = |x: &[f64]| x.iter().map(|&x| Dual::new(x, 0.0)).collect::<Vec<_>>();
        let (dy, dend) = (constant(&dy), constant(&dend));
        let plain = s.map(|x| Dual::new(x, 0.0));

        let mut moved = Vec::new();
        for (i, input) in rule.inputs().iter().enumerate() {
            let mut along = plain.clone();
            move_all(&mut along.inputs[i], &mut draw);
            moved.push((format!("input `{}`", input.name), along));
        }
        let mut at = 0;
        for tensor in rule.state(d) {
            let mut along = plain.clone();
            move_all(&mut along.start[at..at + tensor.len()], &mut draw);
            at += tensor.len();
            // Counts are looked at by people.
            if tensor.holds != Holds::Counts {
                moved.push((format!("state `{}`", tensor.name), along));
            }
        }
        for (name, along) in moved {
            let (Run { y: read, .. }, Gradients { inputs, start }, _) = both(rule, &along, &dy, &dend);
            let mut reads = effect(&read);
            let mut gradients = inputs.iter().chain([&start]).map(|g| effect(g)).fold(0.0, f64::max);
            for by in STEPS {
                if reads > EFFECT && gradients > EFFECT {
                    break;
                }
                let moved = along.map(|x| Dual::new(x.re + by * x.eps, 0.0));
                let (run, to, _) = both(rule, &moved, &dy, &dend);
                reads = reads.max(change(&read, &run.y));
                let pairs = inputs.iter().chain([&start]).zip(to.inputs.iter().chain([&to.start]));
                gradients = pairs.map(|(a, b)| change(a, b)).fold(gradients, f64::max);
            }
            report.expect(Check::Alive, reads > EFFECT, || format!("{name} moves the reads by only {reads:.1e}"));
            report.expect(Check::Alive, gradients > EFFECT, || {
                format!("{name} moves no gradient by more than {gradients:.1e}")
            });
        }
    }
}

/// Gives every value a random direction as large as itself, or of size one where all are zero.
fn move_all(x: &mut [Dual<f64>], draw: &mut Random) {
    let nothing = x.iter().all(|x| x.re == 0.0);
    for x in x {
        x.eps = if nothing { 1.0 } else { x.re } * draw.normal();
    }
}

/// Length of the derivative, relative to the value; zero if there is none.
fn effect(x: &[Dual<f64>]) -> f64 {
    let length = |f: fn(&Dual<f64>) -> f64| x.iter().map(|x| f(x) * f(x)).sum::<f64>().sqrt();
    let (value, derivative) = (length(|x| x.re), length(|x| x.eps));
    if derivative == 0.0 { 0.0 } else { derivative / value }
}

/// Length of the difference of values, relative to the first ones.
fn change(from: &[Dual<f64>], to: &[Dual<f64>]) -> f64 {
    let moved: Vec<_> = from.iter().zip(to).map(|(a, b)| Dual::new(a.re, b.re - a.re)).collect();
    effect(&moved)
}
