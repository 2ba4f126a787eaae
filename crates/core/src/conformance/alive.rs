//! Every input and every state tensor matters at the default gates: moved by its own size, it moves the reads by
//! more than 1e-4 of theirs, and some gradient by more than 1e-4 of its own.

use super::random::Random;
use super::stream::{self, Gradients, backward, forward};
use super::{Check, Report, sizes};
use crate::rule::MemoryRule;
use crate::scalar::Dual;

const EFFECT: f64 = 1e-4;

pub(super) fn check<R: MemoryRule>(rule: &R, report: &mut Report) {
    let mut draw = Random::new(7);
    for d in sizes(rule, &[(8, 8), (8, 5)]) {
        // Gates at their biases, without spread.
        let s = stream::mixed(rule, d, 32, 0.0, &mut draw);
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
            moved.push((format!("state `{}`", tensor.name), along));
            at += tensor.len();
        }
        for (name, along) in moved {
            let reads = effect(&forward(rule, &along).y);
            report.expect(Check::Alive, reads > EFFECT, || format!("{name} moves the reads by only {reads:.1e}"));
            let Gradients { inputs, start } = backward(rule, &along, &dy, &dend);
            let gradients = inputs.iter().chain([&start]).map(|g| effect(g)).fold(0.0, f64::max);
            report.expect(Check::Alive, gradients > EFFECT, || {
                format!("{name} moves no gradient by more than {gradients:.1e}")
            });
        }
    }
}

/// Gives every value a random direction as large as itself.
fn move_all(x: &mut [Dual<f64>], draw: &mut Random) {
    for x in x {
        x.eps = x.re * draw.normal();
    }
}

/// Length of the derivative, relative to the value; zero if there is none.
fn effect(x: &[Dual<f64>]) -> f64 {
    let length = |f: fn(&Dual<f64>) -> f64| x.iter().map(|x| f(x) * f(x)).sum::<f64>().sqrt();
    let (value, derivative) = (length(|x| x.re), length(|x| x.eps));
    if derivative == 0.0 { 0.0 } else { derivative / value }
}
