//! Decoding: a call with a single token has the bits of a call with many.

use hecate_core::scan::{self, Run, ScanShape, Write};
use hecate_core::simd::Isa;
use hecate_core::{Activation, AnyRule, Dims, KernelChoice};

/// Tokens of the long call.
const TOKENS: usize = 5;
const HEADS: usize = 2;

/// A linear congruential generator, the upper bits of which are good enough for inputs.
struct Noise(u64);

impl Noise {
    /// A number in [-1, 1).
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }
}

/// Inputs and start state of one scan.
struct Case {
    rule: AnyRule,
    dims: Dims,
    inputs: Vec<Vec<f32>>,
    state: Vec<f32>,
}

impl Case {
    fn new(rule: AnyRule, dims: Dims) -> Self {
        let mut noise = Noise((dims.dk * 1000 + dims.dv) as u64);
        let list = rule.inputs();
        let one = |activation, noise: &mut Noise| match activation {
            // Every third gate is 0 or 1.
            Activation::Sigmoid { .. } => match (3.0 * (noise.next() + 1.0)) as usize {
                0 => 0.0,
                1 => 1.0,
                _ => 0.5 * (noise.next() + 1.0),
            },
            Activation::Unit => noise.next() / (dims.dk as f32).sqrt(),
            Activation::Silu | Activation::Share | Activation::Softmax | Activation::Softplus { .. } => noise.next(),
            Activation::PerHead(decay) => decay.of(0, 4) as f32,
        };
        let all = |n: usize, activation, noise: &mut Noise| (0..n).map(|_| one(activation, noise)).collect();
        let rows = HEADS * TOKENS;
        let inputs = list.iter().map(|i| all(rows * i.width.of(dims), i.activation, &mut noise)).collect();
        let state = all(HEADS * rule.state_len(dims), Activation::Silu, &mut noise);
        Self { rule, dims, inputs, state }
    }

    /// Runs tokens `first..last` of every head; gives the reads `[HEADS, last - first, dv]`.
    fn run(&self, isa: Isa, write: Write, state: &mut [f32], first: usize, last: usize) -> Vec<f32> {
        let s = ScanShape { heads: HEADS, tokens: last - first, dims: self.dims, pos: first as u64 };
        let cut = |x: &Vec<f32>| -> Vec<f32> {
            let width = x.len() / (HEADS * TOKENS);
            x.chunks(TOKENS * width).flat_map(|head| head[first * width..last * width].to_vec()).collect()
        };
        let inputs: Vec<Vec<f32>> = self.inputs.iter().map(cut).collect();
        let inputs: Vec<&[f32]> = inputs.iter().map(|x| &x[..]).collect();
        let mut y = vec![f32::NAN; HEADS * s.tokens * self.dims.dv];
        let run = Run { kernel: KernelChoice::Canonical, parallel: false, isa };
        scan::forward_f32(&self.rule, s, run, &inputs, state, &mut y, None, write).unwrap();
        y
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Compares one call with single tokens, for every rule, instruction set and a list of sizes.
fn compare(sizes: &[(usize, usize)], write: Write) {
    for (rule, &(dk, dv)) in family().into_iter().flat_map(|rule| sizes.iter().map(move |d| (rule.clone(), d))) {
        let case = Case::new(rule, Dims::new(dk, dv));
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let place = format!("{} {} dk = {dk}, dv = {dv}", case.rule.name(), isa.name());
            let (mut whole_state, mut state) = (case.state.clone(), case.state.clone());
            let whole = case.run(isa, write, &mut whole_state, 0, TOKENS);
            assert!(whole.iter().all(|y| y.is_finite()) && whole_state != case.state || write == Write::No, "{place}");
            for t in 0..TOKENS {
                let y = case.run(isa, write, &mut state, t, t + 1);
                let want = whole.chunks(TOKENS * dv).flat_map(|head| head[t * dv..(t + 1) * dv].to_vec());
                assert_eq!(bits(&y), bits(&want.collect::<Vec<_>>()), "{place}: reads of token {t}");
            }
            assert_eq!(bits(&state), bits(&whole_state), "{place}: state");
        }
    }
}

/// Around every edge of vectors, pairs of vectors, quadruples of keys and strips, and beyond the widths at which a
/// strip must be narrower to stay in the cache.
const SIZES: [(usize, usize); 17] = [
    (1, 1),
    (2, 3),
    (3, 17),
    (4, 8),
    (5, 7),
    (8, 16),
    (16, 15),
    (17, 16),
    (18, 33),
    (31, 48),
    (32, 65),
    (64, 64),
    (67, 130),
    (130, 40),
    (200, 64),
    (260, 50),
    (600, 33),
];

#[test]
fn single_tokens_have_the_bits_of_one_call() {
    compare(&SIZES, Write::Yes);
}

#[test]
fn single_reads_have_the_bits_of_one_call() {
    compare(&SIZES, Write::No);
}

/// The rules of the family that writes a matrix of rank one per token.
fn family() -> Vec<AnyRule> {
    let has = |rule: &AnyRule| rule.kernels(Dims::new(8, 8)).iter().any(|k| k.name == "sequential" && k.available);
    let rules: Vec<AnyRule> = AnyRule::all().into_iter().filter(has).collect();
    assert!(rules.len() >= 5);
    rules
}
