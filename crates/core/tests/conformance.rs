//! The whole registry, held to the suite; and the suite, held to rules that are wrong.

use hecate_core::conformance::{self, Report, mutants};
use hecate_core::scan::{ScanShape, Write, reference_backward, reference_forward};
use hecate_core::{Activation, AnyRule, Dims};

/// What `f` gives for every rule, in order, rules side by side.
fn reports(f: impl Fn(&AnyRule) -> Report + Sync) -> Vec<Report> {
    conformance::side_by_side(&AnyRule::all(), |rule| conformance::cost(rule.erased()), f)
}

fn expect_passed(reports: &[Report]) {
    reports.iter().for_each(|report| print!("{report}"));
    let failed: Vec<String> = reports.iter().filter(|r| !r.passed()).map(Report::to_string).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_registered_rule_keeps_every_promise() {
    let reports = reports(|rule| conformance::check(rule.erased()));
    expect_passed(&reports);
    for (rule, report) in AnyRule::all().iter().zip(&reports) {
        let deep = rule.about().structure != "matrix";
        assert!(deep || !report.was_eased(), "a matrix memory is as good as f32:\n{report}");
    }
}

#[test]
fn the_suite_rejects_every_mutant_by_the_check_that_one_expects_and_passes_the_rule_without_a_mistake() {
    for verdict in conformance::side_by_side(mutants::ALL, |_| 1.0, |judge| judge()) {
        let by: Vec<_> = verdict.report.failures.iter().map(|f| f.check).collect();
        assert!(
            verdict.is_right(),
            "{}: expected {:?}, found {by:?}\n{}",
            verdict.name,
            verdict.expected,
            verdict.report
        );
    }
}

/// Operations per token of a head of 16 up to which a rule is taken through the whole length.
const CHEAP: f64 = 10_000.0;

#[test]
#[ignore = "slow: up to 90 streams for every rule, 100,000 tokens each (10,000 for deep memories), a quarter of an hour"]
fn every_registered_rule_stays_finite_over_long_streams() {
    let tokens = |rule: &AnyRule| if rule.flops(Dims::new(16, 16)) > CHEAP { 10_000 } else { 100_000 };
    let reports = reports(|rule| conformance::endurance(rule.erased(), tokens(rule)));
    expect_passed(&reports);
}

/// Values that repeat from run to run and look like nothing in particular, in (-0.5, 0.5).
fn wave(n: usize, phase: usize) -> Vec<f64> {
    (0..n).map(|i| (((i + 31 * phase) * 7919 % 1009) as f64 + 0.5) / 1009.0 - 0.5).collect()
}

/// The bits, of numbers that may have overflowed: gates and states here are none that a mixer makes.
fn bits(x: &[f64]) -> Vec<u64> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// The scan is longer here than the distance between its kept states, and has several heads.
#[test]
fn the_scan_gives_bit_for_bit_what_the_rule_gives_token_by_token() {
    for rule in AnyRule::all() {
        // A residual may be cut off, a share of the stream may not.
        let shares = rule.inputs().iter().any(|i| i.activation == Activation::Share);
        let dims = if shares { Dims::new(4, 4) } else { Dims::new(5, 3) };
        let s = ScanShape { heads: 3, tokens: 150, dims, pos: 7 };
        let (list, len, dv) = (rule.inputs(), rule.state_len(s.dims), s.dims.dv);
        let widths: Vec<usize> = list.iter().map(|i| i.width.of(s.dims)).collect();
        let inputs: Vec<Vec<f64>> = widths.iter().enumerate().map(|(i, w)| wave(s.heads * s.tokens * w, i)).collect();
        let refs: Vec<&[f64]> = inputs.iter().map(|x| &x[..]).collect();
        let start = wave(s.heads * len, 20);
        let (dy, dend) = (wave(s.heads * s.tokens * dv, 21), wave(s.heads * len, 22));

        let (mut y, mut end) = (vec![f64::NAN; dy.len()], start.clone());
        let mut saved = vec![f64::NAN; s.heads * s.checkpoints() * len];
        reference_forward(&rule, s, &refs, &mut end, &mut y, Some(&mut saved), Write::Yes);
        let mut dinputs: Vec<Vec<f64>> = inputs.iter().map(|x| vec![0.0; x.len()]).collect();
        let mut dstart = dend.clone();
        let mut drefs: Vec<&mut [f64]> = dinputs.iter_mut().map(|x| &mut x[..]).collect();
        reference_backward(&rule, s, &refs, &saved, &dy, &mut drefs, &mut dstart);
        let (mut looked, mut unchanged) = (vec![f64::NAN; dy.len()], start.clone());
        reference_forward(&rule, s, &refs, &mut unchanged, &mut looked, None, Write::No);
        assert_eq!(bits(&unchanged), bits(&start), "{}: reading alone changes the state", rule.name());

        let mut want: Vec<Vec<f64>> = inputs.iter().map(|x| vec![0.0; x.len()]).collect();
        for h in 0..s.heads {
            let row = |t: usize, w: usize| (h * s.tokens + t) * w..(h * s.tokens + t + 1) * w;
            let token = |t: usize| refs.iter().zip(&widths).map(|(x, &w)| &x[row(t, w)]).collect::<Vec<_>>();
            let mut states = vec![start[h * len..(h + 1) * len].to_vec()];
            for t in 0..s.tokens {
                let (mut state, mut read) = (states[t].clone(), vec![f64::NAN; dv]);
                rule.read(s.dims, s.pos + t as u64, &token(t), &states[0], &mut read);
                assert_eq!(
                    bits(&looked[row(t, dv)]),
                    bits(&read),
                    "{}: reading alone, head {h}, token {t}",
                    rule.name()
                );
                rule.step(s.dims, s.pos + t as u64, &token(t), &mut state, &mut read);
                assert_eq!(bits(&y[row(t, dv)]), bits(&read), "{}: head {h}, token {t}", rule.name());
                states.push(state);
            }
            assert_eq!(bits(&end[h * len..(h + 1) * len]), bits(&states[s.tokens]), "{}: end of head {h}", rule.name());
            let mut dstate = dend[h * len..(h + 1) * len].to_vec();
            for t in (0..s.tokens).rev() {
                let mut dx: Vec<&mut [f64]> = want.iter_mut().zip(&widths).map(|(x, &w)| &mut x[row(t, w)]).collect();
                rule.step_backward(
                    s.dims,
                    s.pos + t as u64,
                    &token(t),
                    &states[t],
                    &dy[row(t, dv)],
                    &mut dx,
                    &mut dstate,
                );
            }
            assert_eq!(
                bits(&dstart[h * len..(h + 1) * len]),
                bits(&dstate),
                "{}: gradient of the start of head {h}",
                rule.name()
            );
        }
        for (got, want) in dinputs.iter().zip(&want) {
            assert_eq!(bits(got), bits(want), "{}: gradients of the inputs", rule.name());
        }
    }
}
