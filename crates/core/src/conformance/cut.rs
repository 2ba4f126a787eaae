//! A stream may be cut anywhere: with the state carried over, the pieces give what the whole gives. Same bits for
//! the reference and for canonical kernels, 1e-5 of scale for the other kernels and for every gradient.

use super::random::Random;
use super::stream::{self, Gradients, Run, Stream, distance, same_bits, scale};
use super::{Check, Extent, Report, sizes};
use crate::kernel::{Kernel, Scratch};
use crate::rule::MemoryRule;
use crate::simd::Isa;
use std::cell::LazyCell;

/// What kernels for training may lose at a cut, of the largest value.
const TOLERANCE: f64 = 1e-5;
/// Where the reference itself loses more than a quarter of that in f32, this many times what it loses.
const OUTSIDE: f64 = 10.0;

/// What a cut may change where the reference in f32 loses `loss` of the largest value.
fn allowed(loss: f64) -> f64 {
    if loss > TOLERANCE / 4.0 || loss.is_nan() { OUTSIDE * loss.max(0.0) } else { TOLERANCE }
}

pub(super) fn check<R: MemoryRule>(rule: &R, extent: Extent, report: &mut Report) {
    let mut draw = Random::new(4);
    for d in extent.sizes(rule, &[(4, 4), (5, 3)], &[(4, 4)]) {
        let s = stream::mixed(rule, d, extent.pick(24, 12), 1.0, &mut draw).single();
        let whole = stream::forward(rule, &s);
        for at in 0..=s.tokens {
            let pieces = cut_run(&s, &[at], |s| stream::forward(rule, s));
            report.expect(Check::Cut, same_run(&whole, &pieces), || {
                format!("reference: cutting {} tokens at {at} changes the bits", s.tokens)
            });
        }
    }
    for kernel in extent.kernels::<R>() {
        for d in sizes(rule, &[(5, 3), (16, 16), (17, 33)]).into_iter().filter(|&d| (kernel.is_available)(rule, d)) {
            let s = stream::mixed(rule, d, 150, 1.0, &mut draw).single();
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                check_kernel(rule, kernel, isa, &s, &mut draw, report);
            }
        }
    }
}

fn cut_run(s: &Stream<f32>, cuts: &[usize], mut run: impl FnMut(&Stream<f32>) -> Run<f32>) -> Run<f32> {
    let mut out = Run { y: Vec::new(), end: s.start.clone() };
    let mut from = 0;
    for to in cuts.iter().copied().chain([s.tokens]) {
        let piece = run(&s.part(from, to, out.end));
        out.y.extend(piece.y);
        out.end = piece.end;
        from = to;
    }
    out
}

fn same_run(a: &Run<f32>, b: &Run<f32>) -> bool {
    same_bits(&a.y, &b.y) && same_bits(&a.end, &b.end)
}

fn check_kernel<R: MemoryRule>(
    rule: &R,
    kernel: &Kernel<R>,
    isa: Isa,
    s: &Stream<f32>,
    draw: &mut Random,
    report: &mut Report,
) {
    let mut scratch = Scratch::on(isa);
    let whole = stream::kernel_forward(kernel, rule, s, &mut scratch);
    let (dy, dend) = stream::cotangents(&s.double(), draw);
    let single = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect::<Vec<f32>>();
    let (dy, dend) = (single(dy), single(dend));
    let gradients = stream::kernel_backward(kernel, rule, s, &dy, &dend, &mut scratch);

    // Slow, so it runs only where a cut changes something.
    let losses = LazyCell::new(|| {
        let wide = s.double();
        let double = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let law = stream::backward(rule, &wide, &double(&dy), &double(&dend));
        let own = stream::backward(rule, s, &dy, &dend);
        let pairs = own.inputs.iter().chain([&own.start]).zip(law.inputs.iter().chain([&law.start]));
        pairs.map(|(own, law)| distance(own, law) / scale(law)).collect::<Vec<f64>>()
    });
    let (n, name) = (s.tokens, format!("{} on {}", kernel.name, isa.name()));
    let token_by_token: Vec<usize> = (1..n).collect();
    let some = [1 + draw.below(n - 1), 1 + draw.below(n - 1)];
    let twice = vec![some[0].min(some[1]), some[0].max(some[1])];
    for cuts in [vec![1], vec![n - 1], vec![16, 31, 64], vec![n / 2], twice, token_by_token] {
        let pieces = cut_run(s, &cuts, |s| stream::kernel_forward(kernel, rule, s, &mut scratch));
        let off = (distance(&whole.y, &pieces.y) / scale(&whole.y))
            .max(distance(&whole.end, &pieces.end) / scale(&whole.end));
        let holds = if kernel.canonical { same_run(&whole, &pieces) } else { off <= TOLERANCE };
        report.expect(Check::Cut, holds, || {
            format!("{name}: {n} tokens cut at {cuts:?} differ by {off:e} (canonical: {})", kernel.canonical)
        });
        let pieces = cut_backward(rule, kernel, s, &cuts, &dy, &dend, &mut scratch);
        let parts = gradients.inputs.iter().chain([&gradients.start]).zip(pieces.inputs.iter().chain([&pieces.start]));
        for (i, (a, b)) in parts.enumerate() {
            let off = distance(a, b) / scale(a);
            report.expect(Check::Cut, off <= TOLERANCE || off <= allowed(losses[i]), || {
                format!("{name}: gradient {i} of {n} tokens cut at {cuts:?} differs by {off:e}")
            });
        }
    }
}

fn cut_backward<R: MemoryRule>(
    rule: &R,
    kernel: &Kernel<R>,
    s: &Stream<f32>,
    cuts: &[usize],
    dy: &[f32],
    dend: &[f32],
    scratch: &mut Scratch,
) -> Gradients<f32> {
    let mut pieces = Vec::new();
    let (mut from, mut start) = (0, s.start.clone());
    for to in cuts.iter().copied().chain([s.tokens]) {
        let piece = s.part(from, to, start);
        start = stream::kernel_forward(kernel, rule, &piece, scratch).end;
        pieces.push((from, piece));
        from = to;
    }
    let mut out = Gradients { inputs: s.inputs.iter().map(|x| vec![0.0; x.len()]).collect(), start: dend.to_vec() };
    for (from, piece) in pieces.iter().rev() {
        let dy = &dy[from * s.d.dv..][..piece.tokens * s.d.dv];
        let g = stream::kernel_backward(kernel, rule, piece, dy, &out.start, scratch);
        for ((all, part), width) in out.inputs.iter_mut().zip(g.inputs).zip(&s.widths) {
            all[from * width..][..part.len()].copy_from_slice(&part);
        }
        out.start = g.start;
    }
    out
}
