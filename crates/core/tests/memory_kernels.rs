//! Every kernel of every rule against the `f64` reference on the same `f32` inputs.

use hecate_core::scan::{self, CHECKPOINT_TOKENS, Run, ScanShape, Write};
use hecate_core::simd::Isa;
use hecate_core::{Activation, AnyRule, Cotangents, Dims, Error, KernelChoice, Number, Scalar, Scratch, Sequence};

/// Largest error, as a share of the largest value of the tensor (promise of the design, T = 2048 included).
const TOLERANCE: f64 = 1e-5;

/// A small generator of reproducible noise (Steele, Lea and Flood's split-mix).
struct Noise(u64);

impl Noise {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
    fn normals(&mut self, n: usize, scale: f64) -> Vec<f32> {
        (0..n).map(|_| (scale * self.normal()) as f32).collect()
    }
}

/// Everything that one head's sequence takes and gives.
#[derive(Clone)]
struct Case {
    rule: AnyRule,
    dims: Dims,
    tokens: usize,
    inputs: Vec<Vec<f32>>,
    state: Vec<f32>,
    dy: Vec<f32>,
    dstate: Vec<f32>,
}

/// What comes out: reads, end state, gradient of the start state, gradients of the inputs.
type Outcome<F> = Vec<(String, Vec<F>)>;

impl Case {
    /// Inputs as a mixer makes them: unit keys and queries, gates around their biases.
    fn new(rule: &AnyRule, dims: Dims, tokens: usize, seed: u64) -> Self {
        let mut noise = Noise(seed);
        let list = rule.inputs();
        let mut inputs: Vec<Vec<f32>> = list
            .iter()
            .map(|input| {
                let (width, mut data) = (input.width.of(dims), noise.normals(tokens * input.width.of(dims), 1.0));
                match input.activation {
                    Activation::Unit => data.chunks_mut(width).for_each(unit),
                    Activation::Silu | Activation::Share | Activation::Softmax | Activation::Softplus { .. } => {}
                    Activation::PerHead(decay) => data.fill(decay.of(0, 4) as f32),
                    Activation::Sigmoid { floor, max, bias, .. } => {
                        let gate = |x: f32| floor + (max - floor) * (f64::from(x) + bias).sigmoid();
                        data.iter_mut().for_each(|x| *x = gate(*x) as f32);
                    }
                }
                data
            })
            .collect();
        for (i, input) in list.iter().enumerate() {
            if let Activation::Sigmoid { damped_by: Some(by), .. } = input.activation {
                let by = inputs[list.iter().position(|i| i.name == by).unwrap()].clone();
                inputs[i].iter_mut().zip(by).for_each(|(x, by)| *x *= 1.0 - by);
            }
        }
        let n = rule.state_len(dims);
        let state = noise.normals(n, 0.3);
        let dy = noise.normals(tokens * dims.dv, 1.0);
        Self { rule: rule.clone(), dims, tokens, inputs, state, dy, dstate: noise.normals(n, 0.3) }
    }

    fn shape(&self) -> ScanShape {
        ScanShape { heads: 1, tokens: self.tokens, dims: self.dims, pos: 0 }
    }

    fn reference<F: Number>(&self) -> Outcome<F> {
        let cast = |x: &Vec<f32>| -> Vec<F> { x.iter().map(|&x| F::from_f64(f64::from(x))).collect() };
        let (shape, n) = (self.shape(), self.state.len());
        let inputs: Vec<Vec<F>> = self.inputs.iter().map(cast).collect();
        let inputs: Vec<&[F]> = inputs.iter().map(|x| &x[..]).collect();
        let (mut state, mut dstate) = (cast(&self.state), cast(&self.dstate));
        let mut y = vec![F::zero(); self.dy.len()];
        let mut saved = vec![F::zero(); shape.checkpoints() * n];
        scan::reference_forward(&self.rule, shape, &inputs, &mut state, &mut y, Some(&mut saved), Write::Yes);
        let mut gradients: Vec<Vec<F>> = inputs.iter().map(|x| vec![F::zero(); x.len()]).collect();
        let mut views: Vec<&mut [F]> = gradients.iter_mut().map(|x| &mut x[..]).collect();
        scan::reference_backward(&self.rule, shape, &inputs, &saved, &cast(&self.dy), &mut views, &mut dstate);
        self.outcome(y, state, dstate, gradients)
    }

    fn outcome<F>(&self, y: Vec<F>, state: Vec<F>, dstate: Vec<F>, gradients: Vec<Vec<F>>) -> Outcome<F> {
        let names = self.rule.inputs().into_iter().map(|input| format!("d{}", input.name));
        let mut all = vec![("y".to_string(), y), ("state".to_string(), state), ("dstate".to_string(), dstate)];
        all.extend(names.zip(gradients));
        all
    }

    fn kernel(&self, index: usize, isa: Isa) -> Outcome<f32> {
        let kernel = &self.rule.erased().kernels()[index];
        let mut scratch = Scratch::on(isa);
        let inputs: Vec<&[f32]> = self.inputs.iter().map(|x| &x[..]).collect();
        let seq = Sequence { tokens: self.tokens, pos: 0, inputs: &inputs };
        let (mut state, mut dstate) = (self.state.clone(), self.dstate.clone());
        let mut y = vec![f32::NAN; self.tokens * self.dims.dv];
        kernel.forward(self.dims, seq, &mut state, &mut y, None, &mut scratch);
        let mut gradients: Vec<Vec<f32>> = inputs.iter().map(|x| vec![0.0; x.len()]).collect();
        let mut dinputs: Vec<&mut [f32]> = gradients.iter_mut().map(|x| &mut x[..]).collect();
        let ct = Cotangents { start: &self.state, dy: &self.dy, dinputs: &mut dinputs, dstate: &mut dstate };
        kernel.backward(self.dims, seq, ct, &mut scratch);
        self.outcome(y, state, dstate, gradients)
    }
}

fn unit(x: &mut [f32]) {
    let norm = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    x.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
}

/// Every tensor's largest error, as a share of its largest value.
fn errors(got: &Outcome<f32>, want: &Outcome<f64>) -> Vec<(String, f64)> {
    let mut shares = Vec::new();
    for ((name, got), (_, want)) in got.iter().zip(want) {
        let scale = want.iter().fold(0.0_f64, |a, x| a.max(x.abs()));
        let worst = got.iter().zip(want).fold(0.0, |a, (&g, &w)| {
            let off = (f64::from(g) - w).abs();
            // A comparison with NaN is false, and NaN must not pass.
            if off <= a { a } else { off }
        });
        shares.push((name.clone(), if worst == 0.0 { 0.0 } else { worst / scale }));
    }
    shares
}

/// The outcomes of several heads as those of one call.
fn join<F>(heads: impl Iterator<Item = Outcome<F>>) -> Outcome<F> {
    let join = |mut all: Outcome<F>, head: Outcome<F>| {
        all.iter_mut().zip(head).for_each(|((_, all), (_, head))| all.extend(head));
        all
    };
    heads.reduce(join).unwrap()
}

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Runs every kernel on every instruction set, over the heads of one call, and compares it with the reference.
fn compare(heads: &[Case], tolerance: f64) {
    let (rule, dims, tokens) = (&heads[0].rule, heads[0].dims, heads[0].tokens);
    let want = join(heads.iter().map(Case::reference::<f64>));
    for (index, kernel) in rule.kernels(dims).iter().enumerate().filter(|(_, k)| k.available) {
        for isa in isas() {
            let got = join(heads.iter().map(|case| case.kernel(index, isa)));
            for (name, error) in errors(&got, &want) {
                let place = format!("{} {} {}, T = {tokens}, {dims:?}", rule.name(), kernel.name, isa.name());
                assert!(error <= tolerance, "{place}: {name} is off by {error:e}");
            }
        }
    }
}

/// The heads of one call: what is measured against the largest value needs more than a value or two.
fn heads(rule: &AnyRule, dims: Dims, tokens: usize) -> Vec<Case> {
    (0..8).map(|seed| Case::new(rule, dims, tokens, 1 + seed)).collect()
}

#[test]
fn kernels_equal_the_reference_at_awkward_lengths() {
    for rule in family() {
        for tokens in [0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100] {
            compare(&heads(&rule, Dims::new(20, 12), tokens), TOLERANCE);
        }
    }
}

#[test]
fn kernels_equal_the_reference_at_awkward_widths() {
    for rule in family() {
        for (dk, dv) in [(1, 1), (3, 5), (8, 8), (16, 16), (17, 31), (64, 64), (33, 80), (7, 130), (96, 1)] {
            compare(&heads(&rule, Dims::new(dk, dv), 40), TOLERANCE);
        }
    }
}

#[test]
fn kernels_stay_within_tolerance_over_two_thousand_tokens() {
    for rule in family() {
        let case = Case::new(&rule, Dims::new(64, 64), 2048, 7);
        compare(&[case], TOLERANCE);
    }
}

/// Gates of exactly 0 and 1 among others, in runs and alone: nothing may be divided by them.
#[test]
fn gates_of_exactly_zero_and_one_are_exact() {
    for rule in family() {
        let list = rule.inputs();
        let mut cases = heads(&rule, Dims::new(16, 24), 97);
        for (seed, case) in cases.iter_mut().enumerate() {
            let mut noise = Noise(100 + seed as u64);
            for (input, data) in list.iter().zip(&mut case.inputs) {
                if matches!(input.activation, Activation::Sigmoid { .. }) {
                    for x in data.iter_mut() {
                        match (noise.uniform() * 6.0) as usize {
                            0 => *x = 0.0,
                            // A rate of 1 beside a momentum is beyond what the mixer makes, and unstable.
                            1 if rule.name() != "titans" || input.name == "retain" => *x = 1.0,
                            _ => {}
                        }
                    }
                }
            }
        }
        compare(&cases, TOLERANCE);
    }
}

/// Equal keys at rate 1 without decay: the worst case for the triangular solve.
#[test]
fn outside_the_range_of_the_mixer_kernels_are_within_ten_times_the_error_of_the_f32_reference() {
    for rule in family() {
        let list = rule.inputs();
        let mut case = Case::new(&rule, Dims::new(32, 32), 256, 3);
        let first = case.inputs[0][..32].to_vec();
        for (i, input) in list.iter().enumerate() {
            let gate = match input.name {
                "retain" => 1.0,
                "rate" if rule.name() == "titans" => 0.3,
                "rate" => 1.0,
                "momentum" => 0.7,
                _ => continue,
            };
            case.inputs[i].fill(gate);
        }
        let mut noise = Noise(5);
        for key in case.inputs[0].chunks_mut(32) {
            key.copy_from_slice(&first);
            key.iter_mut().for_each(|x| *x += 0.05 * noise.normal() as f32);
            unit(key);
        }
        let want = case.reference::<f64>();
        let allowed = errors(&case.reference::<f32>(), &want);
        for (index, kernel) in rule.kernels(case.dims).iter().enumerate().filter(|(_, k)| k.available) {
            for isa in isas() {
                for ((name, error), (_, allowed)) in errors(&case.kernel(index, isa), &want).iter().zip(&allowed) {
                    let (rule, isa) = (rule.name(), isa.name());
                    // A result that happens to be exact in the reference still has its rounding.
                    let allowed = 10.0 * allowed.max(f64::from(f32::EPSILON));
                    assert!(*error <= allowed, "{rule} {} {isa}: {name} is off by {error:e}", kernel.name);
                }
            }
        }
    }
}

/// The heads of one call side by side, as a scan takes them: `[heads, tokens, width]`.
struct Batch {
    rule: AnyRule,
    shape: ScanShape,
    inputs: Vec<Vec<f32>>,
    state: Vec<f32>,
    dy: Vec<f32>,
    dstate: Vec<f32>,
}

impl Batch {
    fn new(rule: &AnyRule, dims: Dims, tokens: usize) -> Self {
        let cases = heads(rule, dims, tokens);
        let all = |of: &dyn Fn(&Case) -> &Vec<f32>| cases.iter().flat_map(|case| of(case).clone()).collect();
        Self {
            rule: rule.clone(),
            shape: ScanShape { heads: cases.len(), tokens, dims, pos: 0 },
            inputs: (0..cases[0].inputs.len()).map(|i| all(&|case| &case.inputs[i])).collect(),
            state: all(&|case| &case.state),
            dy: all(&|case| &case.dy),
            dstate: all(&|case| &case.dstate),
        }
    }

    /// Tokens `first..last` of every head of a list.
    fn cut(&self, data: &[f32], first: usize, last: usize) -> Vec<f32> {
        let width = data.len() / (self.shape.heads * self.shape.tokens);
        data.chunks(self.shape.tokens * width).flat_map(|head| head[first * width..last * width].to_vec()).collect()
    }

    /// Runs tokens `first..last` from `state`, in place; gives the reads.
    fn forward(&self, run: Run<'_>, state: &mut [f32], first: usize, last: usize) -> Vec<f32> {
        let shape = ScanShape { tokens: last - first, pos: first as u64, ..self.shape };
        let inputs: Vec<Vec<f32>> = self.inputs.iter().map(|x| self.cut(x, first, last)).collect();
        let inputs: Vec<&[f32]> = inputs.iter().map(|x| &x[..]).collect();
        let mut y = vec![f32::NAN; shape.heads * shape.tokens * shape.dims.dv];
        scan::forward_f32(&self.rule, shape, run, &inputs, state, &mut y, None, Write::Yes).unwrap();
        y
    }

    /// A training pass: reads, end state, gradients of inputs, gradient of the start state.
    fn train(&self, run: Run<'_>) -> Vec<Vec<f32>> {
        let inputs: Vec<&[f32]> = self.inputs.iter().map(|x| &x[..]).collect();
        let (mut state, mut dstate) = (self.state.clone(), self.dstate.clone());
        let mut y = vec![f32::NAN; self.dy.len()];
        let mut saved = vec![f32::NAN; self.state.len() * self.shape.checkpoints()];
        let (rule, shape) = (&self.rule, self.shape);
        scan::forward_f32(rule, shape, run, &inputs, &mut state, &mut y, Some(&mut saved), Write::Yes).unwrap();
        let mut gradients: Vec<Vec<f32>> = inputs.iter().map(|x| vec![0.0; x.len()]).collect();
        let mut views: Vec<&mut [f32]> = gradients.iter_mut().map(|x| &mut x[..]).collect();
        scan::backward_f32(rule, shape, run, &inputs, &saved, &self.dy, &mut views, &mut dstate).unwrap();
        [vec![y, state, dstate], gradients].concat()
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn the_canonical_kernel_gives_the_same_bits_for_any_cut() {
    for (rule, isa) in family().into_iter().flat_map(|rule| isas().map(move |isa| (rule.clone(), isa))) {
        let run = Run { kernel: KernelChoice::Canonical, parallel: false, isa };
        for dims in [Dims::new(16, 16), Dims::new(13, 21), Dims::new(64, 64), Dims::new(6, 40)] {
            let batch = Batch::new(&rule, dims, 70);
            let mut whole_state = batch.state.clone();
            let whole = batch.forward(run, &mut whole_state, 0, 70);
            for cuts in [vec![1, 2, 3], vec![32], vec![31, 33, 69], (1..70).collect()] {
                let ends = cuts.iter().copied().chain([70]);
                let (mut state, mut first) = (batch.state.clone(), 0);
                for last in ends {
                    let y = batch.forward(run, &mut state, first, last);
                    assert_eq!(bits(&y), bits(&batch.cut(&whole, first, last)), "{} {dims:?}", rule.name());
                    first = last;
                }
                assert_eq!(bits(&state), bits(&whole_state), "{} {dims:?}", rule.name());
            }
        }
    }
}

#[test]
fn a_scan_runs_on_the_instruction_set_that_is_asked_for() {
    let (rule, dims) = (AnyRule::named("titans").unwrap(), Dims::new(24, 32));
    let batch = Batch::new(&rule, dims, 50);
    let reads = |isa| join(heads(&rule, dims, 50).iter().map(|case| case.kernel(0, isa)))[0].1.clone();
    for isa in isas() {
        let run = Run { kernel: KernelChoice::Named("sequential"), isa, ..Run::default() };
        assert_eq!(bits(&batch.forward(run, &mut batch.state.clone(), 0, 50)), bits(&reads(isa)), "{}", isa.name());
    }
    // Widths of vectors change the order of sums, so the comparison above can tell them apart.
    assert!(isas().count() == 1 || bits(&reads(Isa::best())) != bits(&reads(Isa::Portable)));
}

#[test]
fn results_have_the_same_bits_on_any_number_of_threads() {
    for rule in family() {
        let batch = Batch::new(&rule, Dims::new(24, 32), 130);
        let chunk = has_chunk(&rule).then_some(KernelChoice::Named("chunk"));
        for kernel in [KernelChoice::Auto, KernelChoice::Canonical].into_iter().chain(chunk) {
            let alone = batch.train(Run { kernel, parallel: false, ..Run::default() });
            for threads in [1, 2, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let together = pool.install(|| batch.train(Run { kernel, parallel: true, ..Run::default() }));
                for (alone, together) in alone.iter().zip(&together) {
                    assert_eq!(bits(alone), bits(together), "{} on {threads} threads", rule.name());
                }
            }
        }
    }
}

#[test]
fn a_training_pass_equals_the_reference_across_checkpoints() {
    for rule in family() {
        for tokens in [1, CHECKPOINT_TOKENS - 1, CHECKPOINT_TOKENS, CHECKPOINT_TOKENS + 1, 2 * CHECKPOINT_TOKENS + 1] {
            let dims = Dims::new(16, 20);
            let want = join(heads(&rule, dims, tokens).iter().map(Case::reference::<f64>));
            let batch = Batch::new(&rule, dims, tokens);
            let kernels = ["auto", "sequential", "reference"].into_iter().chain(has_chunk(&rule).then_some("chunk"));
            for (kernel, isa) in kernels.flat_map(|kernel| isas().map(move |isa| (kernel, isa))) {
                let got = batch.train(Run { kernel: KernelChoice::Named(kernel), parallel: true, isa });
                let got: Outcome<f32> = want.iter().map(|(name, _)| name.clone()).zip(got).collect();
                for (name, error) in errors(&got, &want) {
                    let at = format!("{} {kernel} {}, T = {tokens}", rule.name(), isa.name());
                    assert!(error <= TOLERANCE, "{at}: {name} off by {error:e}");
                }
            }
        }
    }
}

#[test]
fn reading_alone_gives_the_reads_of_the_reference_and_leaves_the_state() {
    for rule in family() {
        let batch = Batch::new(&rule, Dims::new(20, 33), 9);
        let inputs: Vec<&[f32]> = batch.inputs.iter().map(|x| &x[..]).collect();
        let (mut state, mut want_state) = (batch.state.clone(), batch.state.clone());
        let (mut y, mut want) = (vec![f32::NAN; batch.dy.len()], vec![f32::NAN; batch.dy.len()]);
        scan::reference_forward(&rule, batch.shape, &inputs, &mut want_state, &mut want, None, Write::No);
        scan::forward_f32(&rule, batch.shape, Run::default(), &inputs, &mut state, &mut y, None, Write::No).unwrap();
        assert_eq!(bits(&state), bits(&batch.state));
        let scale = want.iter().fold(0.0_f32, |a, x| a.max(x.abs()));
        for (y, want) in y.iter().zip(&want) {
            assert!((y - want).abs() <= 1e-6 * scale, "{}: {y} is not {want}", rule.name());
        }
    }
}

#[test]
fn a_buffer_of_the_wrong_size_is_named() {
    let batch = Batch::new(&AnyRule::named("titans").unwrap(), Dims::new(4, 6), 3);
    let mut inputs: Vec<&[f32]> = batch.inputs.iter().map(|x| &x[..]).collect();
    inputs[4] = &inputs[4][1..];
    let (mut state, mut y) = (batch.state.clone(), batch.dy.clone());
    let error =
        scan::forward_f32(&batch.rule, batch.shape, Run::default(), &inputs, &mut state, &mut y, None, Write::Yes);
    assert_eq!(error, Err(Error::Shape { op: "scan", arg: "rate".to_string(), expected: 24, got: 23 }));
}

#[test]
fn an_unknown_kernel_is_refused_with_the_list() {
    let batch = Batch::new(&AnyRule::named("delta").unwrap(), Dims::new(4, 6), 3);
    let inputs: Vec<&[f32]> = batch.inputs.iter().map(|x| &x[..]).collect();
    let (mut state, mut y) = (batch.state.clone(), batch.dy.clone());
    let run = Run { kernel: KernelChoice::Named("chunky"), parallel: false, ..Run::default() };
    let error = scan::forward_f32(&batch.rule, batch.shape, run, &inputs, &mut state, &mut y, None, Write::Yes);
    let message = error.unwrap_err().to_string();
    assert!(message.contains("chunky") && message.contains("sequential"), "{message}");
}

#[test]
fn the_first_value_that_is_not_finite_is_found() {
    let mut batch = Batch::new(&AnyRule::named("gated_delta").unwrap(), Dims::new(4, 6), 12);
    // Head 2 diverges: an error of the size of the value, times a rate beyond 2, at every token.
    let rate = 4;
    batch.inputs[rate][2 * 12 + 3..3 * 12].fill(1e20);
    let find = |batch: &Batch| {
        let inputs: Vec<&[f32]> = batch.inputs.iter().map(|x| &x[..]).collect();
        let (mut state, mut y) = (batch.state.clone(), batch.dy.clone());
        let run = Run::default();
        scan::forward_f32(&batch.rule, batch.shape, run, &inputs, &mut state, &mut y, None, Write::Yes).unwrap();
        (scan::all_finite(&state), scan::first_non_finite(&batch.rule, batch.shape, &inputs, &batch.state))
    };
    let (finite, found) = find(&batch);
    assert!(!finite);
    assert!(
        matches!(&found, Err(Error::NonFinite { what, head: 2, token: 3..=6, .. }) if what == "W"),
        "found {found:?}"
    );
    batch.inputs[1][(2 * 12 + 1) * 6] = f32::NAN;
    let (_, found) = find(&batch);
    let want = Error::NonFinite { rule: "gated_delta", what: "v".to_string(), head: 2, token: 1 };
    assert_eq!(found, Err(want));
    assert_eq!(find(&Batch::new(&batch.rule, Dims::new(4, 6), 12)), (true, Ok(())));
}

/// The rules of the family that writes a matrix of rank one per token.
/// Oja's rule has no chunk form.
fn has_chunk(rule: &AnyRule) -> bool {
    let found = rule.kernels(Dims::new(8, 8)).iter().any(|k| k.name == "chunk" && k.available);
    assert!(found || rule.name() == "oja", "{} has lost its chunk kernel", rule.name());
    found
}

fn family() -> Vec<AnyRule> {
    let has = |rule: &AnyRule| rule.kernels(Dims::new(8, 8)).iter().any(|k| k.name == "sequential" && k.available);
    let rules: Vec<AnyRule> = AnyRule::all().into_iter().filter(has).collect();
    assert!(rules.len() >= 5);
    rules
}
