//! Every kernel is the reference: outputs, end state and each gradient against the reference in f64 on the same
//! f32 inputs. What a machine or a size does not have is reported as skipped, with a count.

use super::random::Random;
use super::rounding::{Bars, Passes, Rounding, TOLERANCE, Verdict, allowed, loss};
use super::stream::{self, Gradients, Stream, distance, scale};
use super::{Check, Report};
use crate::erased::{BoundKernel, ErasedRule};
use crate::kernel::{Cotangents, Scratch, Sequence};
use crate::rule::{Activation, Dims};
use crate::simd::Isa;
use std::cell::LazyCell;

/// Streams up to this length are run on every instruction set, and on them it is seen that reading alone is the read
/// half.
const SHORT_TOKENS: usize = 300;
/// Streams up to this length show that a backward pass adds. A gradient is added where a token's is stored, and which
/// stores there are depends on what chunks and vectors leave over: shorter streams have every such rest, and more tokens
/// than lie between two kept states.
const ADDED_TOKENS: usize = 130;

/// Sizes at the mixer's gate range: tokens, then dk and dv. Nothing, one, chunks of 16, 32, 64 and 128 give or take
/// one, vector lengths give or take one, odd widths, the long run (at narrow heads: rounding adds up over tokens, and
/// what a kernel does with a wide head repeats after a few chunks), and heads so small that every rule affords them.
const INSIDE: [(usize, usize, usize); 25] = [
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
    (600, 64, 64),
    (300, 128, 32),
    (37, 6, 6),
    (65, 20, 20),
    (257, 4, 4),
];

/// Sizes outside of the mixer's gate range.
const OUTSIDE: [(usize, usize, usize); 4] = [(5, 3, 4), (64, 8, 8), (100, 16, 24), (130, 33, 17)];

/// Operations of a stream, by the rule's own formula, above which it is left out: the reference, in double precision
/// and generic, would take minutes for it.
const MOST_WORK: f64 = 1e8;
/// The same for streams of up to 130 tokens, all of which but those of a few deep rules fit.
const MOST_SHORT_WORK: f64 = 4e8;
/// Values of states that a stream goes through, above which it is left out. The formula counts what a fused kernel does
/// once for all tokens of a chunk; the reference goes over its whole state at every token, so that memories over many
/// features take it ten times as long as their operations say. Three perceptrons in one memory just fit, over a chunk of
/// 64 at heads of 64. What is wider shows the ends of chunks and of vectors at heads of 16, 20 and 32, and more than one
/// kept state in 257 tokens at heads of 4.
const MOST_VALUES: f64 = 1.75e7;

/// Values of states that a stream goes through.
fn values(rule: &dyn ErasedRule, d: Dims, tokens: usize) -> f64 {
    tokens as f64 * stream::state_len(rule, d) as f64
}

fn affordable(rule: &dyn ErasedRule, d: Dims, tokens: usize) -> bool {
    let most = if tokens < SHORT_TOKENS / 2 { MOST_SHORT_WORK } else { MOST_WORK };
    tokens as f64 * rule.flops(d) <= most && values(rule, d, tokens) <= MOST_VALUES
}

/// The streams of a list that a rule takes and affords.
fn streams(rule: &dyn ErasedRule, list: &[(usize, usize, usize)]) -> impl Iterator<Item = (usize, Dims)> {
    let all = list.iter().map(|&(tokens, dk, dv)| (tokens, Dims::new(dk, dv)));
    all.filter(|&(tokens, d)| rule.check(d).is_ok() && affordable(rule, d, tokens))
}

/// About how long the references of a rule's streams take, in values of states: a value takes as long as some thirty
/// operations of the rule's formula.
pub(super) fn cost(rule: &dyn ErasedRule) -> f64 {
    streams(rule, &INSIDE).map(|(tokens, d)| values(rule, d, tokens) + tokens as f64 * rule.flops(d) / 30.0).sum()
}

/// Said of values that needed more than the tolerance.
pub(super) const EASED: &str = "values that f32 cannot give to 1e-5, held to what the reference loses in f32";
/// Said of values that were not compared.
pub(super) const CHAOTIC: &str = "values that rounding decides in f32";

/// What could not be held to the whole of a promise, by kernel.
#[derive(Clone, Copy, Default)]
struct Tally {
    /// Sizes that the kernel does not have.
    missing: usize,
    /// Values for which `f32` itself is not good enough, at the mixer's gate range.
    eased: usize,
    /// Values about which it says nothing.
    chaotic: usize,
}

pub(super) fn check(rule: &dyn ErasedRule, report: &mut Report) {
    let list = rule.kernels();
    if list.is_empty() {
        report.skipped.push("kernels: the rule has none".to_string());
        return;
    }
    let mut draw = Random::new(6);
    let (mut tallies, mut sizes, mut costly) = (vec![Tally::default(); list.len()], 0, 0);
    for (all, beyond) in [(&INSIDE[..], false), (&OUTSIDE[..], true)] {
        let taken: Vec<(usize, Dims)> = streams(rule, all).collect();
        costly += all.iter().filter(|&&(_, dk, dv)| rule.check(Dims::new(dk, dv)).is_ok()).count() - taken.len();
        sizes += taken.len();
        for (tokens, d) in taken {
            let s = if beyond { outside(rule, d, tokens, &mut draw) } else { inside(rule, d, tokens, &mut draw) };
            check_stream(rule, &s, beyond, &mut draw, &mut tallies, report);
        }
    }
    for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
        report.skipped.push(format!("kernels on {}: not an instruction set of this machine", isa.name()));
    }
    if costly > 0 {
        report.skipped.push(format!("kernels: {costly} sizes take too long in the reference"));
    }
    for (kernel, tally) in list.iter().zip(tallies) {
        for (n, what) in [
            (tally.missing, format!("not available at so many of {sizes} sizes")),
            (tally.eased, EASED.to_string()),
            (tally.chaotic, CHAOTIC.to_string()),
        ] {
            if n > 0 {
                report.skipped.push(format!("kernel `{}`: {n}: {what}", kernel.name()));
            }
        }
    }
}

/// A stream as a mixer makes it.
fn inside(rule: &dyn ErasedRule, d: Dims, tokens: usize, draw: &mut Random) -> Stream<f32> {
    stream::mixed(rule, d, tokens, 1.0, draw).single()
}

/// Gates anywhere in their range, keys and queries up to half as long again as they should be.
fn outside(rule: &dyn ErasedRule, d: Dims, tokens: usize, draw: &mut Random) -> Stream<f32> {
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

fn check_stream(
    rule: &dyn ErasedRule,
    s: &Stream<f32>,
    outside: bool,
    draw: &mut Random,
    tallies: &mut [Tally],
    report: &mut Report,
) {
    let bars = Bars::draw(s, draw);
    let law = bars.law(rule, s);
    let rounding = Rounding::new(rule, s, &bars, || &law, outside);
    let reads = LazyCell::new(|| Reads::new(rule, s));
    for (kernel, tally) in rule.kernels().iter().zip(tallies) {
        if !kernel.is_available(s.d) {
            tally.missing += 1;
            continue;
        }
        // Every instruction set on the short streams, the fastest on the long ones.
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            if s.tokens <= SHORT_TOKENS || isa == Isa::best() {
                check_kernel(rule, &**kernel, isa, s, &bars, &law, &rounding, tally, report);
                if s.tokens <= SHORT_TOKENS {
                    check_read(&**kernel, isa, s, &reads, report);
                }
            }
        }
    }
}

fn check_kernel(
    rule: &dyn ErasedRule,
    kernel: &dyn BoundKernel,
    isa: Isa,
    s: &Stream<f32>,
    bars: &Bars,
    law: &Passes<f64>,
    rounding: &Rounding<'_>,
    tally: &mut Tally,
    report: &mut Report,
) {
    let mut scratch = Scratch::on(isa);
    let mut kept = vec![f32::NAN; law.kept.len()];
    let training = stream::kernel_training(kernel, s, Some(&mut kept), &mut scratch);
    let run = stream::kernel_forward(kernel, s, &mut scratch);
    let place = format!("{} on {}: {} tokens at {}x{}", kernel.name(), isa.name(), s.tokens, s.d.dk, s.d.dv);
    let same = stream::same_bits(&run.y, &training.y) && stream::same_bits(&run.end, &training.end);
    report.expect(Check::Kernels, same || !kernel.canonical(), || {
        format!("{place}: keeping states for training changes what the pass gives")
    });
    let gradients = stream::kernel_backward(kernel, s, &bars.dy, &bars.dend, &mut scratch);
    let got = Passes { run, gradients, kept };
    let also = Passes { run: training, gradients: got.gradients.clone(), kept: got.kept.clone() };
    for got in [&got, &also].into_iter().take(if same { 1 } else { 2 }) {
        judge(rule, &place, got, law, rounding, tally, report);
    }
    if s.tokens <= ADDED_TOKENS {
        check_adds(rule, kernel, isa, s, bars, &got.gradients, report);
    }
}

/// Holds each part of what a kernel gives to the law.
fn judge(
    rule: &dyn ErasedRule,
    place: &str,
    got: &Passes<f32>,
    law: &Passes<f64>,
    rounding: &Rounding<'_>,
    tally: &mut Tally,
    report: &mut Report,
) {
    let all = names(rule).into_iter().zip(got.parts()).zip(law.parts());
    for (i, ((name, got), want)) in all.enumerate() {
        let off = loss(got, want);
        let verdict = if got.len() == want.len() { rounding.judge(i, off) } else { Verdict::Off { allowed: 0.0 } };
        match verdict {
            Verdict::Fits => {}
            Verdict::Eased => tally.eased += 1,
            Verdict::Chaotic => tally.chaotic += 1,
            Verdict::Off { allowed } => {
                let what = format!("{place}: {name} is off by {off:.2e} of the largest value, {allowed:.2e} allowed");
                report.fail(Check::Kernels, what);
            }
        }
    }
}

/// What reading alone must give on one stream: the reference's read half at every token from one state.
struct Reads {
    want: Vec<f64>,
    /// How far from it a kernel may be, of the largest value.
    allowed: f64,
}

impl Reads {
    fn new(rule: &dyn ErasedRule, s: &Stream<f32>) -> Self {
        let (mut want, wide) = (vec![f64::NAN; s.tokens * s.d.dv], s.double());
        for (t, y) in want.chunks_mut(s.d.dv).enumerate() {
            rule.read(s.d, s.pos + t as u64, &wide.token(t), &wide.start, y);
        }
        let mut own = vec![f32::NAN; s.tokens * s.d.dv];
        for (t, y) in own.chunks_mut(s.d.dv).enumerate() {
            rule.read(s.d, s.pos + t as u64, &s.token(t), &s.start, y);
        }
        Self { allowed: allowed(loss(&own, &want)), want }
    }
}

/// Reading alone: the reference's [reads](Reads), and the same bits wherever it is cut.
fn check_read(kernel: &dyn BoundKernel, isa: Isa, s: &Stream<f32>, reads: &Reads, report: &mut Report) {
    let mut scratch = Scratch::on(isa);
    let mut read = |s: &Stream<f32>| {
        let refs: Vec<&[f32]> = s.inputs.iter().map(|x| &x[..]).collect();
        let mut y = vec![f32::NAN; s.tokens * s.d.dv];
        let seq = Sequence { tokens: s.tokens, pos: s.pos, inputs: &refs };
        kernel.read(s.d, seq, &s.start, &mut y, &mut scratch);
        y
    };
    let whole = read(s);
    let place = format!("{} on {}: {} tokens at {}x{}", kernel.name(), isa.name(), s.tokens, s.d.dk, s.d.dv);
    let off = loss(&whole, &reads.want);
    report.expect(Check::Kernels, off <= reads.allowed, || format!("{place}: reading alone is off by {off:.2e}"));
    for at in [s.tokens / 3, s.tokens / 2] {
        let pieces = [read(&s.part(0, at, s.start.clone())), read(&s.part(at, s.tokens, s.start.clone()))].concat();
        report.expect(Check::Cut, stream::same_bits(&whole, &pieces), || {
            format!("{place}: reading alone gives other bits when cut at {at}")
        });
    }
}

/// Names of the [parts](Passes::parts).
fn names(rule: &dyn ErasedRule) -> Vec<String> {
    let gradients = rule.inputs().into_iter().map(|i| format!("the gradient of `{}`", i.name));
    let (first, last) = (
        ["y", "the end state", "what is kept for training"].map(String::from),
        "the gradient of the state".to_string(),
    );
    first.into_iter().chain(gradients).chain([last]).collect()
}

/// Backward adds: what the gradients held before must still be there.
fn check_adds(
    rule: &dyn ErasedRule,
    kernel: &dyn BoundKernel,
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
    kernel.backward(s.d, seq, ct, &mut Scratch::on(isa));
    for ((input, with), without) in rule.inputs().iter().zip(&inputs).zip(&alone.inputs) {
        let want: Vec<f32> = without.iter().map(|x| x + 1.0).collect();
        report.expect(Check::Kernels, distance(with, &want) <= TOLERANCE * scale(&want), || {
            format!("{}: the gradient of `{}` is not added to what was there", kernel.name(), input.name)
        });
    }
}
