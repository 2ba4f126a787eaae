//! Streams side by side do not touch each other: heads taken in turn, on any number of threads, and with the scratch
//! that another stream left, give the bits that each gives alone.

use super::random::Random;
use super::stream::{self, Run, Stream, same_bits};
use super::{Check, Extent, Report};
use crate::erased::ErasedRule;
use crate::kernel::Scratch;

const HEADS: usize = 4;

pub(super) fn check(rule: &dyn ErasedRule, extent: Extent, report: &mut Report) {
    let mut draw = Random::new(5);
    let tokens = extent.pick(80, 12);
    for d in extent.sizes(rule, &[(5, 3), (16, 16)], &[(4, 4)]) {
        let heads: Vec<_> = (0..HEADS).map(|_| stream::mixed(rule, d, tokens, 1.0, &mut draw).single()).collect();
        let alone: Vec<_> = heads.iter().map(|s| stream::forward(rule, s)).collect();
        compare("reference, heads in turn", &alone, &in_turn(rule, &heads), report);
        for threads in [1, 2, 3] {
            let got = on_threads(threads, &heads, |s| stream::forward(rule, s));
            compare(&format!("reference, {threads} threads"), &alone, &got, report);
        }
        for kernel in extent.kernels(rule).iter().filter(|k| k.is_available(d)) {
            let run = |s: &Stream<f32>, scratch: &mut Scratch| stream::kernel_forward(&**kernel, s, scratch);
            let alone: Vec<_> = heads.iter().map(|s| run(s, &mut Scratch::new())).collect();
            let mut used = Scratch::new();
            let shared: Vec<_> = heads.iter().map(|s| run(s, poison(&mut used))).collect();
            compare(&format!("{}, used scratch", kernel.name()), &alone, &shared, report);
            for threads in [1, 2, 3] {
                let got = on_threads(threads, &heads, |s| run(s, &mut Scratch::new()));
                compare(&format!("{}, {threads} threads", kernel.name()), &alone, &got, report);
            }
        }
    }
}

/// Every head's first token, then every head's second, and so on.
fn in_turn(rule: &dyn ErasedRule, heads: &[Stream<f32>]) -> Vec<Run<f32>> {
    let mut runs: Vec<_> = heads.iter().map(|s| Run { y: Vec::new(), end: s.start.clone() }).collect();
    for t in 0..heads[0].tokens {
        for (s, run) in heads.iter().zip(&mut runs) {
            let mut y = vec![f32::NAN; s.d.dv];
            rule.step(s.d, s.pos + t as u64, &s.token(t), &mut run.end, &mut y);
            run.y.extend(y);
        }
    }
    runs
}

fn on_threads(threads: usize, heads: &[Stream<f32>], run: impl Fn(&Stream<f32>) -> Run<f32> + Sync) -> Vec<Run<f32>> {
    let share = heads.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let run = &run;
        let start = |part| scope.spawn(move || <[_]>::iter(part).map(run).collect::<Vec<_>>());
        let handles: Vec<_> = heads.chunks(share).map(start).collect();
        handles.into_iter().flat_map(|h| h.join().expect("a stream does not panic")).collect()
    })
}

/// A scratch whose contents would show in any result that read them.
fn poison(scratch: &mut Scratch) -> &mut Scratch {
    let [all] = scratch.take([1 << 16]);
    all.fill(f32::NAN);
    scratch
}

fn compare(what: &str, alone: &[Run<f32>], got: &[Run<f32>], report: &mut Report) {
    for (h, (a, b)) in alone.iter().zip(got).enumerate() {
        let holds = same_bits(&a.y, &b.y) && same_bits(&a.end, &b.end);
        report.expect(Check::Isolation, holds, || format!("{what}: head {h} differs from the same head alone"));
    }
}
