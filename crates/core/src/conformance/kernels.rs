//! Every kernel is the reference: outputs, end state and each gradient against the reference in f64 on the same
//! f32 inputs. What a machine or a size does not have is reported as skipped, with a count.

use super::random::Random;
use super::stream::{self, Gradients, Run, Stream, distance, scale};
use super::{Check, Report};
use crate::kernel::{Cotangents, Kernel, Scratch, Sequence};
use crate::rule::{Activation, Dims, MemoryRule};
use crate::simd::Isa;
use std::cell::LazyCell;

/// At the mixer's gate range, of the largest value of the reference.
const TOLERANCE: f64 = 1e-5;
/// Outside it, and on streams on which the sequential reference itself loses more than a quarter of [`TOLERANCE`] in
/// f32, a kernel may lose this many times what that reference loses. It is taken to lose at least one rounding, since by luck it may
/// lose nothing. A norm inside of a memory makes such streams: it brings a memory that has nearly faded, and what
/// rounding did to it, back to full size.
const OUTSIDE: f64 = 10.0;

/// Where the sequential reference loses this share of the largest value in f32, rounding decides, and nothing is learnt.
const CHAOS: f64 = 0.01;

/// Streams up to this length are run on every instruction set, and on them it is seen that a backward pass adds and
/// that reading alone is the read half.
const SHORT_TOKENS: usize = 300;

/// Sizes at the mixer's gate range: tokens, then dk and dv. Nothing, one, chunks of 16, 32, 64 and 128 give or take
/// one, vector lengths give or take one, odd widths, and the long run.
const INSIDE: [(usize, usize, usize); 22] = [
    (0, 8, 8),
    (1, 1, 1),
    (1, 8, 5),
    (2, 1, 7),
    (3, 7, 1),
    (15, 16, 16),
    (16, 16, 16),
    (17, 15, 17),
    (31, 17, 15),
    (32, 32, 32),
    (33, 31, 33),
    (63, 33, 31),
    (64, 64, 64),
    (65, 48, 80),
    (127, 9, 3),
    (128, 3, 9),
    (129, 64, 24),
    (257, 40, 40),
    (2048, 16, 16),
    (2048, 13, 21),
    (2048, 64, 64),
    (300, 128, 32),
];

/// Operations of a stream, by the rule's own formula, above which it is left out: the reference, in double precision
/// and generic, would take minutes for it. Every size up to 129 tokens and the long runs at 16 stay for every rule.
const MOST_WORK: f64 = 1e8;

fn affordable<R: MemoryRule>(rule: &R, d: Dims, tokens: usize) -> bool {
    rule.check(d).is_ok() && (tokens < SHORT_TOKENS / 2 || tokens as f64 * rule.flops(d) <= MOST_WORK)
}

pub(super) fn check<R: MemoryRule>(rule: &R, report: &mut Report) {
    if R::KERNELS.is_empty() {
        report.skipped.push("kernels: the rule has none".to_string());
        return;
    }
    let mut draw = Random::new(6);
    let mut skipped = vec![0; R::KERNELS.len()];
    for (tokens, dk, dv) in INSIDE {
        let d = Dims::new(dk, dv);
        if !affordable(rule, d, tokens) {
            continue;
        }
        let s = stream::mixed(rule, d, tokens, 1.0, &mut draw).single();
        check_stream(rule, &s, false, &mut draw, &mut skipped, report);
    }
    for (tokens, dk, dv) in [(5, 3, 4), (64, 8, 8), (100, 16, 24), (130, 33, 17)] {
        let d = Dims::new(dk, dv);
        if rule.check(d).is_err() {
            continue;
        }
        let s = outside(rule, d, tokens, &mut draw);
        check_stream(rule, &s, true, &mut draw, &mut skipped, report);
    }
    for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
        report.skipped.push(format!("kernels on {}: not an instruction set of this machine", isa.name()));
    }
    for (kernel, n) in R::KERNELS.iter().zip(skipped).filter(|(_, n)| *n > 0) {
        report.skipped.push(format!("kernel `{}`: not available at {n} of {} sizes", kernel.name, INSIDE.len() + 4));
    }
}

/// Gates anywhere in their range, keys and queries up to half as long again as they should be.
fn outside<R: MemoryRule>(rule: &R, d: Dims, tokens: usize, draw: &mut Random) -> Stream<f32> {
    let mut s = stream::mixed(rule, d, tokens, 8.0, draw);
    for (input, x) in rule.inputs().iter().zip(&mut s.inputs) {
        if matches!(input.activation, Activation::Unit) {
            for row in x.chunks_mut(input.width.of(d)) {
                let by = draw.uniform(0.0, 1.5);
                row.iter_mut().for_each(|x| *x *= by);
            }
        }
    }
    s.single()
}

/// Cotangents of a stream, rounded to f32.
struct Bars {
    dy: Vec<f32>,
    dend: Vec<f32>,
}

fn check_stream<R: MemoryRule>(
    rule: &R,
    s: &Stream<f32>,
    outside: bool,
    draw: &mut Random,
    skipped: &mut [usize],
    report: &mut Report,
) {
    let (dy, dend) = stream::cotangents(&s.double(), draw);
    let single = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    let bars = Bars { dy: single(&dy), dend: single(&dend) };
    let double = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let wide = s.double();
    let law = (stream::forward(rule, &wide), stream::backward(rule, &wide, &double(&bars.dy), &double(&bars.dend)));
    // Slow, so it runs only where it is needed.
    let sequential = LazyCell::new(|| (stream::forward(rule, s), stream::backward(rule, s, &bars.dy, &bars.dend)));
    for (kernel, skipped) in R::KERNELS.iter().zip(skipped) {
        if !(kernel.is_available)(rule, s.d) {
            *skipped += 1;
            continue;
        }
        // Every instruction set on the short streams, the fastest on the long ones.
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            if s.tokens <= SHORT_TOKENS || isa == Isa::best() {
                check_kernel(rule, kernel, isa, s, &bars, &law, (outside, &|| LazyCell::force(&sequential)), report);
            }
        }
    }
}

/// What the reference gives, forward and backward.
type Passes<F> = (Run<F>, Gradients<F>);

fn check_kernel<'a, R: MemoryRule>(
    rule: &R,
    kernel: &Kernel<R>,
    isa: Isa,
    s: &Stream<f32>,
    bars: &Bars,
    law: &Passes<f64>,
    (outside, sequential): (bool, &dyn Fn() -> &'a Passes<f32>),
    report: &mut Report,
) {
    let mut scratch = Scratch::on(isa);
    let got = (
        stream::kernel_forward(kernel, rule, s, &mut scratch),
        stream::kernel_backward(kernel, rule, s, &bars.dy, &bars.dend, &mut scratch),
    );
    let place = format!("{} on {}: {} tokens at {}x{}", kernel.name, isa.name(), s.tokens, s.d.dk, s.d.dv);
    let want = parts(rule, &law.0, &law.1);
    for (i, (name, got)) in parts(rule, &got.0, &got.1).into_iter().enumerate() {
        let want = want[i].1;
        let (off, inside) = (distance(got, want), TOLERANCE * scale(want));
        let (mut allowed, mut lost) = (inside, String::new());
        let fits = off <= inside;
        if outside || !fits {
            let (run, gradients) = sequential();
            let loss = distance(parts(rule, run, gradients)[i].1, want);
            lost = format!("; the reference in f32 is off by {loss:.2e}");
            let sound = loss <= inside / 4.0;
            if !outside && (loss.is_nan() || loss > CHAOS * scale(want)) {
                continue;
            }
            if outside || !sound {
                allowed = OUTSIDE * loss.max(f64::from(f32::EPSILON) * scale(want));
            }
        }
        report.expect(Check::Kernels, got.len() == want.len() && off <= allowed, || {
            format!("{place}: {name} is off by {off:.2e}, {allowed:.2e} allowed, largest {:.2e}{lost}", scale(want))
        });
    }
    if s.tokens <= SHORT_TOKENS {
        check_adds(rule, kernel, isa, s, bars, &got.1, report);
        check_read(rule, kernel, isa, s, report);
    }
    if s.tokens <= SHORT_TOKENS && !outside {
        check_saved(rule, kernel, isa, s, &got.0, report);
    }
}

/// The states that a pass of training keeps: the reference's, and keeping them changes nothing else.
fn check_saved<R: MemoryRule>(
    rule: &R,
    kernel: &Kernel<R>,
    isa: Isa,
    s: &Stream<f32>,
    plain: &Run<f32>,
    report: &mut Report,
) {
    let want = stream::checkpoints(rule, &s.double()).concat();
    let mut saved = vec![f32::NAN; want.len()];
    let run = stream::kernel_training(kernel, rule, s, Some(&mut saved), &mut Scratch::on(isa));
    let place = format!("{} on {}: {} tokens at {}x{}", kernel.name, isa.name(), s.tokens, s.d.dk, s.d.dv);
    let off = distance(&saved, &want);
    report.expect(Check::Kernels, off <= TOLERANCE * scale(&want), || {
        format!("{place}: the states kept for training are off by {off:.2e}")
    });
    let same = stream::same_bits(&run.y, &plain.y) && stream::same_bits(&run.end, &plain.end);
    report.expect(Check::Kernels, same, || format!("{place}: keeping states changes what the pass computes"));
}

/// Reading alone: the reference's read half at every token from one state, and the same bits wherever it is cut.
fn check_read<R: MemoryRule>(rule: &R, kernel: &Kernel<R>, isa: Isa, s: &Stream<f32>, report: &mut Report) {
    let mut scratch = Scratch::on(isa);
    let mut read = |s: &Stream<f32>| {
        let refs: Vec<&[f32]> = s.inputs.iter().map(|x| &x[..]).collect();
        let mut y = vec![f32::NAN; s.tokens * s.d.dv];
        let seq = Sequence { tokens: s.tokens, pos: s.pos, inputs: &refs };
        (kernel.read)(rule, s.d, seq, &s.start, &mut y, &mut scratch);
        y
    };
    let (whole, wide) = (read(s), s.double());
    let mut want = vec![f64::NAN; s.tokens * s.d.dv];
    for (t, y) in want.chunks_mut(s.d.dv).enumerate() {
        rule.read(s.d, s.pos + t as u64, &wide.token(t), &wide.start, y);
    }
    let place = format!("{} on {}: {} tokens at {}x{}", kernel.name, isa.name(), s.tokens, s.d.dk, s.d.dv);
    let mut own = vec![f32::NAN; s.tokens * s.d.dv];
    for (t, y) in own.chunks_mut(s.d.dv).enumerate() {
        rule.read(s.d, s.pos + t as u64, &s.token(t), &s.start, y);
    }
    let (inside, loss) = (TOLERANCE * scale(&want), distance(&own, &want));
    let allowed = if loss > inside / 4.0 { OUTSIDE * loss } else { inside };
    report.expect(Check::Kernels, distance(&whole, &want) <= allowed, || {
        format!("{place}: reading alone is off by {:.2e}", distance(&whole, &want))
    });
    for at in [s.tokens / 3, s.tokens / 2] {
        let pieces = [read(&s.part(0, at, s.start.clone())), read(&s.part(at, s.tokens, s.start.clone()))].concat();
        report.expect(Check::Cut, stream::same_bits(&whole, &pieces), || {
            format!("{place}: reading alone gives other bits when cut at {at}")
        });
    }
}

/// Everything that a pass gives, by name.
fn parts<'a, R: MemoryRule, F>(rule: &R, run: &'a Run<F>, g: &'a Gradients<F>) -> Vec<(String, &'a [F])> {
    let mut parts = vec![("y".to_string(), &run.y[..]), ("the end state".to_string(), &run.end[..])];
    parts.extend(rule.inputs().iter().zip(&g.inputs).map(|(i, x)| (format!("the gradient of `{}`", i.name), &x[..])));
    parts.push(("the gradient of the state".to_string(), &g.start[..]));
    parts
}

/// Backward adds: what the gradients held before must still be there.
fn check_adds<R: MemoryRule>(
    rule: &R,
    kernel: &Kernel<R>,
    isa: Isa,
    s: &Stream<f32>,
    bars: &Bars,
    alone: &Gradients<f32>,
    report: &mut Report,
) {
    let mut inputs: Vec<Vec<f32>> = s.inputs.iter().map(|x| vec![1.0; x.len()]).collect();
    let mut dinputs: Vec<&mut [f32]> = inputs.iter_mut().map(|x| &mut x[..]).collect();
    let refs: Vec<&[f32]> = s.inputs.iter().map(|x| &x[..]).collect();
    let seq = Sequence { tokens: s.tokens, pos: s.pos, inputs: &refs };
    let mut dstate = bars.dend.clone();
    let ct = Cotangents { start: &s.start, dy: &bars.dy, dinputs: &mut dinputs, dstate: &mut dstate };
    (kernel.backward)(rule, s.d, seq, ct, &mut Scratch::on(isa));
    for ((input, with), without) in rule.inputs().iter().zip(&inputs).zip(&alone.inputs) {
        let want: Vec<f32> = without.iter().map(|x| x + 1.0).collect();
        report.expect(Check::Kernels, distance(with, &want) <= TOLERANCE * scale(&want), || {
            format!("{}: the gradient of `{}` is not added to what was there", kernel.name, input.name)
        });
    }
}
