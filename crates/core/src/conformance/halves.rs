//! A step is its write, then its read (the other way round where the rule says so), and nothing more: access rights are expressed by calling one half alone.

use super::random::Random;
use super::stream;
use super::{Check, Extent, Report};
use crate::erased::ErasedRule;

pub(super) fn check(rule: &dyn ErasedRule, extent: Extent, report: &mut Report) {
    let mut draw = Random::new(2);
    for d in extent.sizes(rule, &[(1, 1), (4, 4), (5, 3), (3, 7)], &[(5, 3), (4, 4)]) {
        let s = stream::mixed(rule, d, 6, 1.0, &mut draw).single();
        let mut state = s.start.clone();
        for t in 0..s.tokens {
            let (x, pos) = (s.token(t), s.pos + t as u64);
            let prev = state.clone();
            // Forward overwrites, so what the outputs held before must not matter.
            let mut stepped = vec![f32::NAN; d.dv];
            rule.step(d, pos, &x, &mut state, &mut stepped);
            let (mut written, mut read) = (prev.clone(), vec![1e9; d.dv]);
            rule.write(d, pos, &x, &mut written);
            let seen = if rule.reads_first() { &prev } else { &written };
            rule.read(d, pos, &x, seen, &mut read);
            let unmade: Vec<Vec<f32>> = s.widths.iter().map(|&w| vec![f32::NAN; w]).collect();
            let list = rule.inputs();
            let parts = list.iter().zip(x.iter().zip(&unmade));
            let some: Vec<&[f32]> = parts.map(|(i, (&x, unmade))| if rule.reads(i) { x } else { unmade }).collect();
            let mut alone = vec![1e9; d.dv];
            rule.read(d, pos, &some, seen, &mut alone);
            report.expect(Check::Halves, stream::same_bits(&alone, &read), || {
                format!("token {t}: the read looks at an input that it says it does not look at")
            });
            report.expect(Check::Halves, stream::same_bits(&stepped, &read), || {
                format!("token {t}: the step reads {stepped:?}, its halves read {read:?}")
            });
            report.expect(Check::Halves, stream::same_bits(&state, &written), || {
                format!("token {t}: the step and its write half leave different states")
            });
            if !rule.positional() {
                check_elsewhere(rule, &s, t, &prev, (&state, &stepped), report);
            }
            check_backward(rule, &s, t, &prev, &mut draw, report);
        }
    }
}

/// A rule that says that it does not look at positions does the same at another one.
fn check_elsewhere(
    rule: &dyn ErasedRule,
    s: &stream::Stream<f32>,
    t: usize,
    prev: &[f32],
    (state, y): (&[f32], &[f32]),
    report: &mut Report,
) {
    // Odd ones and even ones, and at their start.
    for pos in [0, 1, s.pos + t as u64 + 1] {
        let (mut there, mut read) = (prev.to_vec(), vec![f32::NAN; s.d.dv]);
        rule.step(s.d, pos, &s.token(t), &mut there, &mut read);
        report.expect(Check::Halves, stream::same_bits(&there, state) && stream::same_bits(&read, y), || {
            format!("token {t}: the rule says that it is not positional, and does something else at position {pos}")
        });
    }
}

fn check_backward(
    rule: &dyn ErasedRule,
    s: &stream::Stream<f32>,
    t: usize,
    prev: &[f32],
    draw: &mut Random,
    report: &mut Report,
) {
    let (d, x, pos) = (s.d, s.token(t), s.pos + t as u64);
    let single = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect::<Vec<f32>>();
    let (dy, dend) = (single(draw.normals(d.dv)), single(draw.normals(prev.len())));
    let zeros = || s.widths.iter().map(|&w| vec![0.0_f32; w]).collect::<Vec<_>>();

    let (mut whole, mut dwhole) = (zeros(), dend.clone());
    let mut refs: Vec<&mut [f32]> = whole.iter_mut().map(|x| &mut x[..]).collect();
    rule.step_backward(d, pos, &x, prev, &dy, &mut refs, &mut dwhole);

    let (mut parts, mut dparts) = (zeros(), dend);
    let mut refs: Vec<&mut [f32]> = parts.iter_mut().map(|x| &mut x[..]).collect();
    let mut post = prev.to_vec();
    rule.write(d, pos, &x, &mut post);
    if rule.reads_first() {
        rule.write_backward(d, pos, &x, prev, &mut refs, &mut dparts);
        rule.read_backward(d, pos, &x, prev, &dy, &mut refs, &mut dparts);
    } else {
        rule.read_backward(d, pos, &x, &post, &dy, &mut refs, &mut dparts);
        rule.write_backward(d, pos, &x, prev, &mut refs, &mut dparts);
    }

    // A rule may share work between the halves, so the sums may come in another order.
    let close = |a: &[f32], b: &[f32]| stream::distance(a, b) <= 1e-5 * stream::scale(b).max(1.0);
    let holds = close(&dwhole, &dparts) && whole.iter().zip(&parts).all(|(a, b)| close(a, b));
    report.expect(Check::Halves, holds, || format!("token {t}: step_backward is not the transpose of the two halves"));
}
