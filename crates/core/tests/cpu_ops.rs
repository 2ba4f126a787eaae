//! The fast op set against the reference, and the promises about its bits, on every instruction set of this machine.

use hecate_core::Scalar;
use hecate_core::conformance::ops::{
    KERNEL_TOLERANCE, OpCase, attention_in_pieces, conv_in_pieces, large_cases, measure, measure_all,
    scan_columns_in_pieces, small_cases,
};
use hecate_core::conformance::random::Random;
use hecate_core::ops::{
    AttentionShape, ConvShape, Cpu, HeadShape, LinearShape, MlpKind, Ops, Polynomial, Prefix, Reference,
};
use hecate_core::scan::{ScanShape, Write};
use hecate_core::simd::Isa;
use hecate_core::{AnyRule, Dims};

/// One op set per instruction set that this machine has. What it lacks is named, so that a run says what it skipped.
fn cpus() -> Vec<Cpu> {
    let (here, missing): (Vec<Isa>, Vec<Isa>) = Isa::ALL.into_iter().partition(|isa| isa.is_available());
    for isa in missing {
        println!("skipped: {}", isa.name());
    }
    here.into_iter().map(|isa| Cpu::inference().with_isa(isa).with_parallel(false)).collect()
}

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    Random::new(seed).values(n).into_iter().map(|x| x as f32).collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn every_op_is_within_the_tolerance_of_the_reference() {
    for cpu in cpus() {
        for measured in measure_all(&cpu, 3) {
            assert!(measured.error <= KERNEL_TOLERANCE, "{}: {measured}", cpu.isa().name());
        }
    }
}

#[test]
fn sizes_around_every_edge_are_within_the_tolerance_of_the_reference() {
    let mut cases = Vec::new();
    for n in [0, 1, 2, 15, 16, 17, 31, 33, 47, 63, 64, 65] {
        for [inner, outer] in [[64, 64], [63, 17], [200, 48], [5, 129]] {
            let s = LinearShape { rows: n, inner, outer };
            cases.extend([OpCase::Linear(s), OpCase::LinearTransposed(s)]);
        }
        let heads = HeadShape { tokens: n, heads: 2, width: 24 };
        cases.extend([OpCase::GatedNorm(heads), OpCase::Conv(ConvShape { heads, taps: 4, silu: true, unit: true })]);
        for (window, prefix, pos, width) in
            [(1, 0, 0, 16), (40, 0, 100, 24), (1000, 0, 63, 65), (64, 0, 64, 8), (1, 1, 0, 16), (9, 17, 100, 24)]
        {
            let ring = AttentionShape::ring_for(window, n);
            let s = AttentionShape { tokens: n, heads: 2, kv_heads: 1, width, window, prefix, pos, ring };
            cases.push(OpCase::Attention(s));
        }
    }
    for width in [15, 16, 17, 63, 64, 65, 130] {
        cases.push(OpCase::RmsNorm { tokens: 9, width });
        cases.push(OpCase::CrossEntropy { tokens: 9, vocab: width });
        cases.extend([MlpKind::Gated, MlpKind::Gelu].map(|kind| OpCase::Mlp { kind, tokens: 9, hidden: width }));
        cases.push(OpCase::SigmoidGate { len: width });
    }
    for cpu in cpus() {
        for measured in cases.iter().flat_map(|case| measure(&cpu, case, 5)) {
            assert!(measured.error <= KERNEL_TOLERANCE, "{}: {measured}", cpu.isa().name());
        }
    }
}

/// Every output and gradient of a case, in bits.
fn outcome(cpu: &Cpu, case: &OpCase) -> Vec<Vec<u32>> {
    let mut random = Random::new(11);
    let narrow = |x: Vec<f64>| -> Vec<f32> { x.into_iter().map(|x| x as f32).collect() };
    let values: Vec<Vec<f32>> = case.arguments(&mut random).into_iter().map(|a| narrow(a.values)).collect();
    let outputs = case.forward(cpu, &values);
    let dy: Vec<Vec<f32>> = outputs.iter().map(|o| narrow(random.values(o.values.len()))).collect();
    let mut gradients: Vec<Vec<f32>> = values.iter().map(|v| vec![0.0; v.len()]).collect();
    case.backward(cpu, &values, &outputs, &dy, &mut gradients);
    outputs.iter().map(|o| bits(&o.values)).chain(gradients.iter().map(|g| bits(g))).collect()
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let heads = HeadShape { tokens: 300, heads: 4, width: 64 };
    let mut cases = vec![
        OpCase::Linear(LinearShape { rows: 300, inner: 256, outer: 200 }),
        OpCase::LinearTransposed(LinearShape { rows: 300, inner: 256, outer: 200 }),
        OpCase::RmsNorm { tokens: 300, width: 256 },
        OpCase::CrossEntropy { tokens: 100, vocab: 1000 },
        OpCase::SigmoidGate { len: 100_000 },
        OpCase::Mlp { kind: MlpKind::Gated, tokens: 100, hidden: 683 },
        OpCase::Mlp { kind: MlpKind::Gelu, tokens: 100, hidden: 683 },
        OpCase::GatedNorm(heads),
        OpCase::Merge(heads),
        OpCase::Rope { shape: heads, pos: 12 },
        OpCase::Conv(ConvShape { heads, taps: 4, silu: true, unit: true }),
    ];
    let ring = AttentionShape::ring_for(100, 300);
    let shape = AttentionShape { tokens: 300, heads: 4, kv_heads: 2, width: 64, window: 100, prefix: 0, pos: 70, ring };
    cases.extend([0, 16].map(|prefix| OpCase::Attention(AttentionShape { prefix, ..shape })));
    cases.extend(large_cases().into_iter().chain(small_cases()).filter(|case| !matches!(case, OpCase::Scan { .. })));
    let pools = [1, 2, 3].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap());
    for cpu in cpus() {
        let parallel = cpu.clone().with_parallel(true);
        for case in &cases {
            let alone = outcome(&cpu, case);
            for pool in &pools {
                let together = pool.install(|| outcome(&parallel, case));
                assert!(alone == together, "{} {case} on {} threads", cpu.isa().name(), pool.current_num_threads());
            }
        }
    }
}

#[test]
fn one_row_of_a_product_has_the_bits_that_it_has_among_many() {
    type Forward = fn(&Cpu, LinearShape, &[f32], &[f32], &mut [f32]);
    for cpu in cpus() {
        for [rows, inner, outer] in [[65, 64, 256], [130, 257, 100], [20, 1000, 33]] {
            let (x, w) = (numbers(rows * inner, 1), numbers(inner * outer, 2));
            for forward in [Cpu::linear_forward as Forward, Cpu::linear_transposed_forward] {
                let mut all = vec![0.0; rows * outer];
                forward(&cpu, LinearShape { rows, inner, outer }, &x, &w, &mut all);
                for count in [1, 2, 3, 7] {
                    for r in 0..rows - count {
                        let mut some = vec![0.0; count * outer];
                        let s = LinearShape { rows: count, inner, outer };
                        forward(&cpu, s, &x[r * inner..][..count * inner], &w, &mut some);
                        assert_eq!(bits(&some), bits(&all[r * outer..][..count * outer]), "{}", cpu.isa().name());
                    }
                }
            }
        }
    }
}

#[test]
fn one_row_of_a_norm_and_of_an_mlp_has_the_bits_that_it_has_among_many() {
    let (rows, width) = (70, 77);
    let (x, g, scale) = (numbers(rows * width, 1), numbers(rows * width, 2), numbers(width, 3));
    let two: Vec<f32> = x.iter().zip(&g).flat_map(|(&a, &b)| [a, b]).collect();
    for cpu in cpus() {
        let [mut norm, mut gated, mut mlp] = [(); 3].map(|()| vec![0.0; rows * width]);
        let shape = HeadShape { tokens: rows, heads: 1, width };
        cpu.rms_norm_forward(width, &x, &scale, &mut norm);
        cpu.gated_norm_forward(shape, &x, &scale, &g, &mut gated);
        cpu.mlp_forward(MlpKind::Gated, width, &two, &mut mlp);
        for r in 0..rows {
            let at = r * width..(r + 1) * width;
            let mut y = vec![0.0; width];
            cpu.rms_norm_forward(width, &x[at.clone()], &scale, &mut y);
            assert_eq!(bits(&y), bits(&norm[at.clone()]));
            cpu.gated_norm_forward(HeadShape { tokens: 1, ..shape }, &x[at.clone()], &scale, &g[at.clone()], &mut y);
            assert_eq!(bits(&y), bits(&gated[at.clone()]));
            cpu.mlp_forward(MlpKind::Gated, width, &two[2 * at.start..2 * at.end], &mut y);
            assert_eq!(bits(&y), bits(&mlp[at]));
        }
    }
}

/// Cuts of a stream of `n` tokens.
fn cuts(n: usize) -> Vec<Vec<usize>> {
    vec![vec![n], vec![1; n], vec![n - 1, 1], vec![1, n - 1], vec![n / 3, 0, 1, n - n / 3 - 1], vec![7, n - 70, 63]]
}

#[test]
fn attention_has_the_same_bits_for_any_cut() {
    let tokens = 150;
    for cpu in cpus() {
        for (width, window, prefix, pos) in [
            (64, 1000, 0, 0),
            (64, 40, 0, 33),
            (33, 64, 0, 127),
            (16, 1, 0, 5),
            (8, 65, 0, 64),
            (64, 1000, 4, 0),
            (33, 20, 17, 127),
            (16, 1, 70, 5),
        ] {
            // The ring is chosen by each piece.
            let s = AttentionShape { tokens, heads: 4, kv_heads: 2, width, window, prefix, pos, ring: 64 };
            let (q, k) = (numbers(4 * tokens * width, 1), numbers(2 * tokens * width, 2));
            // Large scores, so that maxima rise and old sums are scaled down to nothing.
            let q: Vec<f32> = q.iter().map(|q| 40.0 * q).collect();
            let v = numbers(2 * tokens * width, 3);
            let fixed = [4, 5].map(|seed| numbers(2 * prefix * width, seed));
            let prefix = Prefix { keys: &fixed[0][..], values: &fixed[1][..] };
            let whole = attention_in_pieces(&cpu, s, &q, &k, &v, prefix, &[tokens]);
            for pieces in cuts(tokens) {
                let got = attention_in_pieces(&cpu, s, &q, &k, &v, prefix, &pieces);
                assert!(bits(&got) == bits(&whole), "{} {s:?} {pieces:?}", cpu.isa().name());
            }
        }
    }
}

#[test]
fn convolutions_have_the_same_bits_for_any_cut() {
    let tokens = 90;
    for cpu in cpus() {
        for (width, taps, silu, unit) in [
            (64, 4, true, true),
            (64, 4, false, true),
            (33, 4, true, false),
            (7, 2, true, true),
            (16, 1, true, true),
            (16, 0, true, true),
            (16, 0, false, false),
        ] {
            let s = ConvShape { heads: HeadShape { tokens, heads: 3, width }, taps, silu, unit };
            let channels = 3 * width;
            let (x, w) = (numbers(tokens * channels, 1), numbers(taps * channels, 2));
            let tail = numbers(taps.saturating_sub(1) * channels, 3);
            let whole = conv_in_pieces(&cpu, s, &x, &w, &tail, &[tokens]);
            for pieces in cuts(tokens) {
                let got = conv_in_pieces(&cpu, s, &x, &w, &tail, &pieces);
                assert!(bits(&got) == bits(&whole), "{} {s:?} {pieces:?}", cpu.isa().name());
            }
        }
    }
}

#[test]
fn gradients_of_scans_along_columns_are_those_of_calls_of_one_token() {
    for cpu in cpus() {
        for rule in AnyRule::all() {
            let s = ScanShape { heads: 2, tokens: 67, dims: Dims::new(8, 8), pos: 3 };
            let arguments = OpCase::Scan { rule: rule.clone(), shape: s }.arguments(&mut Random::new(8));
            let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
            let values: Vec<Vec<f32>> = arguments.iter().map(|a| narrow(&a.values)).collect();
            let inputs: Vec<&[f32]> = values[..values.len() - 1].iter().map(Vec::as_slice).collect();
            let (start, dy) = (&values[values.len() - 1], numbers(2 * 67 * 8, 9));
            let want = scan_columns_in_pieces(&cpu, &rule, s, &inputs, &mut start.clone(), &dy);

            let mut saved = vec![0.0; s.checkpoints() * start.len()];
            let (mut y, mut state) = (vec![0.0; dy.len()], start.clone());
            cpu.scan_forward(&rule, s, &inputs, &mut state, &mut y, Some(&mut saved), Write::Yes).unwrap();
            let mut got: Vec<Vec<f32>> = inputs.iter().map(|x| vec![0.0; x.len()]).collect();
            let mut dinputs: Vec<&mut [f32]> = got.iter_mut().map(Vec::as_mut_slice).collect();
            cpu.scan_column_backward(&rule, s, &inputs, &saved, &dy, &mut dinputs).unwrap();
            for (got, want) in got.iter().zip(&want) {
                // A kernel with a way of its own sums tokens side by side, the others go from token to token.
                let largest = want.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
                let near = got.iter().zip(want).all(|(a, b)| (a - b).abs() <= 1e-5 * largest);
                let own = rule.name().starts_with("self_modifying");
                assert!(bits(got) == bits(want) || own && near, "{} {}", cpu.isa().name(), rule.name());
            }
        }
    }
}

#[test]
fn a_later_token_changes_no_earlier_attention() {
    let (tokens, width) = (100, 32);
    let s = AttentionShape { tokens, heads: 1, kv_heads: 1, width, window: 50, prefix: 0, pos: 10, ring: 64 };
    for cpu in cpus() {
        let [q, mut k, mut v] = [1, 2, 3].map(|seed| numbers(tokens * width, seed));
        let before = attention_in_pieces(&cpu, s, &q, &k, &v, Prefix::default(), &[tokens]);
        for changed in [99, 64, 55, 20] {
            k[changed * width..].fill(7.0);
            v[changed * width..].fill(-3e10);
            let after = attention_in_pieces(&cpu, s, &q, &k, &v, Prefix::default(), &[tokens]);
            assert_eq!(bits(&before[..changed * width]), bits(&after[..changed * width]));
            assert_ne!(bits(&before[changed * width..]), bits(&after[changed * width..]));
        }
    }
}

#[test]
fn scores_of_any_size_give_finite_attention() {
    let (tokens, width) = (70, 16);
    let s = AttentionShape { tokens, heads: 1, kv_heads: 1, width, window: 100, prefix: 0, pos: 0, ring: 64 };
    for cpu in cpus() {
        for size in [0.0, 1e-20, 1e3, 1e15] {
            let q: Vec<f32> = numbers(tokens * width, 1).iter().map(|x| x * size).collect();
            let (k, v) = (numbers(tokens * width, 2), numbers(tokens * width, 3));
            let y = attention_in_pieces(&cpu, s, &q, &k, &v, Prefix::default(), &[tokens]);
            assert!(y.iter().all(|y| y.is_finite() && y.abs() <= 4.0), "{} {size}", cpu.isa().name());
        }
    }
}

#[test]
fn large_logits_give_finite_losses_and_gradients() {
    for cpu in cpus() {
        let logits = [1e30, -1e30, 0.0, 88.0, -104.0, 1e4];
        let (mut loss, mut d) = ([0.0; 1], [0.0; 6]);
        cpu.cross_entropy_forward(6, &logits, &[5], &mut loss);
        cpu.cross_entropy_backward(6, &logits, &[5], &[1.0], &mut d);
        assert!(loss[0] > 9e29 && loss[0].is_finite());
        assert_eq!((d[0], d[5]), (1.0, -1.0));
        assert!(d.iter().all(|d| Scalar::is_finite(*d)));
    }
}

/// What the two ops of optimizers give on `ops`: the sum of `x^T x` on top of ones, and each polynomial's matrix.
fn for_optimizers<O: Ops>(ops: &O, rows: usize, columns: usize) -> Vec<Vec<O::F>> {
    let lift = |x: &f32| O::F::from_f64(f64::from(*x));
    let x: Vec<O::F> = numbers(rows * columns, 7).iter().map(lift).collect();
    let mut gram = vec![O::F::one(); columns * columns];
    ops.add_gram(columns, &x, &mut gram);
    let mut all = vec![gram];
    for polynomial in [Polynomial::Muon, Polynomial::Cubic, Polynomial::Quintic] {
        let mut out = vec![O::F::from_f64(f64::NAN); x.len()];
        ops.orthogonal(polynomial, 5, columns, &x, &mut out);
        all.push(out);
    }
    all
}

#[test]
fn the_ops_of_optimizers_are_the_references_with_any_number_of_threads() {
    let pools = [1, 2, 3].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap());
    for (rows, columns) in [(1, 1), (1, 7), (7, 1), (3, 5), (33, 17), (64, 64), (65, 200), (130, 31)] {
        let want = for_optimizers(&Reference::<f64>::new(), rows, columns);
        for cpu in cpus() {
            let alone = for_optimizers(&cpu, rows, columns);
            for (i, (got, want)) in alone.iter().zip(&want).enumerate() {
                let largest = want.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
                let off = got.iter().zip(want).fold(0.0_f64, |m, (&g, w)| m.max((f64::from(g) - w).abs()));
                let place = format!("{} {rows}x{columns}, {i}", cpu.isa().name());
                assert!(off <= KERNEL_TOLERANCE * largest, "{place}: off by {off:e} of {largest}");
            }
            for pool in &pools {
                let together = pool.install(|| for_optimizers(&cpu.clone().with_parallel(true), rows, columns));
                assert!(alone.iter().zip(&together).all(|(a, b)| bits(a) == bits(b)), "{rows}x{columns}");
            }
        }
    }
}
