//! A stream may be cut anywhere: with the state carried over, the pieces give what the whole gives. Same bits for
//! the reference and for canonical kernels, 1e-5 of scale, or what [`super::rounding`] says, for the other kernels and
//! for every gradient.

use super::random::Random;
use super::rounding::{Bars, Passes, Rounding, Verdict, loss};
use super::stream::{self, Gradients, Run, Stream, same_bits};
use super::{Check, Extent, Report, sizes};
use crate::erased::{BoundKernel, ErasedRule};
use crate::kernel::Scratch;
use crate::simd::Isa;
use std::cell::LazyCell;

pub(super) fn check(rule: &dyn ErasedRule, extent: Extent, report: &mut Report) {
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
    let kernels = extent.kernels(rule);
    for d in if kernels.is_empty() { Vec::new() } else { sizes(rule, &[(5, 3), (16, 16), (17, 33)]) } {
        let s = stream::mixed(rule, d, 150, 1.0, &mut draw).single();
        let bars = Bars::draw(&s, &mut draw);
        // Slow, so they run only where a cut changes something, and once for all kernels and instruction sets.
        let law = LazyCell::new(|| bars.law(rule, &s));
        let rounding = Rounding::new(rule, &s, &bars, || &law, false).between_runs();
        for kernel in kernels.iter().filter(|k| k.is_available(d)) {
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                check_kernel(&**kernel, isa, &s, &bars, &rounding, &mut draw, report);
            }
        }
    }
}

fn cut_run(s: &Stream<f32>, cuts: &[usize], run: impl FnMut(&Stream<f32>) -> Run<f32>) -> Run<f32> {
    cut_pieces(s, cuts, run).0
}

/// The run of a stream that is cut, and its pieces, each behind its first token.
fn cut_pieces(
    s: &Stream<f32>,
    cuts: &[usize],
    mut run: impl FnMut(&Stream<f32>) -> Run<f32>,
) -> (Run<f32>, Vec<(usize, Stream<f32>)>) {
    let mut out = Run { y: Vec::new(), end: s.start.clone() };
    let (mut from, mut pieces) = (0, Vec::new());
    for to in cuts.iter().copied().chain([s.tokens]) {
        let piece = s.part(from, to, out.end);
        let part = run(&piece);
        out.y.extend(part.y);
        out.end = part.end;
        pieces.push((from, piece));
        from = to;
    }
    (out, pieces)
}

fn same_run(a: &Run<f32>, b: &Run<f32>) -> bool {
    same_bits(&a.y, &b.y) && same_bits(&a.end, &b.end)
}

fn check_kernel(
    kernel: &dyn BoundKernel,
    isa: Isa,
    s: &Stream<f32>,
    bars: &Bars,
    rounding: &Rounding<'_>,
    draw: &mut Random,
    report: &mut Report,
) {
    let mut scratch = Scratch::on(isa);
    let whole = stream::kernel_forward(kernel, s, &mut scratch);
    let gradients = stream::kernel_backward(kernel, s, &bars.dy, &bars.dend, &mut scratch);
    let whole = Passes { run: whole, gradients, kept: Vec::new() };

    let (n, name) = (s.tokens, format!("{} on {}", kernel.name(), isa.name()));
    let token_by_token: Vec<usize> = (1..n).collect();
    let some = [1 + draw.below(n - 1), 1 + draw.below(n - 1)];
    let twice = vec![some[0].min(some[1]), some[0].max(some[1])];
    for cuts in [vec![1], vec![n - 1], vec![16, 31, 64], vec![n / 2], twice, token_by_token] {
        let (run, pieces) = cut_pieces(s, &cuts, |s| stream::kernel_forward(kernel, s, &mut scratch));
        if kernel.canonical() {
            report.expect(Check::Cut, same_run(&whole.run, &run), || {
                format!("{name}: cutting {n} tokens at {cuts:?} changes the bits")
            });
        }
        let gradients = cut_backward(kernel, s, &pieces, bars, &mut scratch);
        let pieces = Passes { run, gradients, kept: Vec::new() };
        for (i, (whole, pieces)) in whole.parts().into_iter().zip(pieces.parts()).enumerate() {
            let off = loss(pieces, whole);
            if let Verdict::Off { allowed } = rounding.judge(i, off) {
                let what =
                    format!("{name}: {n} tokens cut at {cuts:?}: part {i} is off by {off:.2e}, {allowed:.2e} allowed");
                report.fail(Check::Cut, what);
            }
        }
    }
}

fn cut_backward(
    kernel: &dyn BoundKernel,
    s: &Stream<f32>,
    pieces: &[(usize, Stream<f32>)],
    bars: &Bars,
    scratch: &mut Scratch,
) -> Gradients<f32> {
    let mut out = Gradients { inputs: s.inputs.iter().map(|x| vec![0.0; x.len()]).collect(), start: bars.dend.clone() };
    for (from, piece) in pieces.iter().rev() {
        let dy = &bars.dy[from * s.d.dv..][..piece.tokens * s.d.dv];
        let g = stream::kernel_backward(kernel, piece, dy, &out.start, scratch);
        for ((all, part), width) in out.inputs.iter_mut().zip(g.inputs).zip(&s.widths) {
            all[from * width..][..part.len()].copy_from_slice(&part);
        }
        out.start = g.start;
    }
    out
}
