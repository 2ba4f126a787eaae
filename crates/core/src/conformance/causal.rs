//! A change at token t leaves every output before t untouched, bit for bit, and changes something from t on.
//!
//! Beyond a threshold a small change may be none: a clipped error stays clipped. Then a larger one must show.

use super::random::Random;
use super::stream::{self, Run, Stream, same_bits};
use super::{Check, Extent, Report, sizes};
use crate::erased::ErasedRule;
use crate::kernel::Scratch;

pub(super) fn check(rule: &dyn ErasedRule, extent: Extent, report: &mut Report) {
    let mut draw = Random::new(3);
    for d in extent.sizes(rule, &[(4, 4), (5, 3), (16, 16)], &[(4, 4)]) {
        let s = stream::mixed(rule, d, extent.pick(24, 12), 1.0, &mut draw).single();
        check_runs(rule, "reference", &s, |s| stream::forward(rule, s), &mut draw, report);
    }
    for kernel in extent.kernels(rule) {
        // Longer than the chunks and checkpoints that kernels are made of.
        for d in sizes(rule, &[(5, 3), (16, 16)]).into_iter().filter(|&d| kernel.is_available(d)) {
            let s = stream::mixed(rule, d, 150, 1.0, &mut draw).single();
            let mut scratch = Scratch::new();
            let run = |s: &Stream<f32>| stream::kernel_forward(&*kernel, s, &mut scratch);
            check_runs(rule, kernel.name(), &s, run, &mut draw, report);
        }
    }
}

fn check_runs(
    rule: &dyn ErasedRule,
    name: &str,
    s: &Stream<f32>,
    mut run: impl FnMut(&Stream<f32>) -> Run<f32>,
    draw: &mut Random,
    report: &mut Report,
) {
    let base = run(s);
    for (i, input) in rule.inputs().iter().enumerate() {
        for t in [0, s.tokens - 1, 1 + draw.below(s.tokens - 2), 1 + draw.below(s.tokens - 2)] {
            let mut reaches = false;
            // In turn, until one of them shows.
            for change in [|x: f32| x * 0.75 + 0.03125, |x| x * 0.015625 + 0.0078125, |x| x * -128.0, |x| x * 128.0] {
                let mut changed = s.clone();
                let width = s.widths[i];
                for x in &mut changed.inputs[i][t * width..(t + 1) * width] {
                    *x = change(*x);
                }
                let other = run(&changed);
                let before = t * s.d.dv;
                report.expect(Check::Causal, same_bits(&base.y[..before], &other.y[..before]), || {
                    format!(
                        "{name}: changing `{}` at token {t} of {} changes an output before it",
                        input.name, s.tokens
                    )
                });
                let after = same_bits(&base.y[before..], &other.y[before..]) && same_bits(&base.end, &other.end);
                reaches |= !after;
                if reaches {
                    break;
                }
            }
            report.expect(Check::Causal, reaches, || {
                format!("{name}: changing `{}` at token {t} of {} changes nothing after it", input.name, s.tokens)
            });
        }
    }
    // A run that repeats differently remembers something that is not in its state.
    let again = run(s);
    report.expect(Check::Causal, same_bits(&base.y, &again.y) && same_bits(&base.end, &again.end), || {
        format!("{name}: the same stream gives other bits after other streams ran")
    });
}
