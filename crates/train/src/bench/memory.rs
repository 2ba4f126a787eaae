//! Rows about memory scans: every rule at 8 heads of 64, and the kernels of two rules at other sizes, from which the
//! order of a rule's kernels is read.

use super::harness::{Call, Case, Fault, Work};
use super::inputs::{TOLERANCE, fault_within, numbers};
use hecate_core::conformance::rounding;
use hecate_core::ops::{Cpu, Ops, ScanKernel};
use hecate_core::scan::{self, ScanShape, Write};
use hecate_core::{Activation, AnyRule, Dims, Number, Scalar, start_state};
use serde_json::json;
use std::cell::LazyCell;

const HEADS: usize = 8;
/// Tokens of the calls that are compared with the reference, which is slow: two checkpoints and an edge.
const VERIFIED_TOKENS: usize = 130;

/// Tokens of a row without kernels, whose reference is slow.
const REFERENCE_TOKENS: usize = 8;
/// Tokens of a row about a deep memory whose kernel takes one after the other, so that no length is faster than another.
const SINGLE_TOKENS: usize = 16;
/// Operations of a token from which the reference is run on narrow heads: it would take minutes.
const MOST_FLOPS: f64 = 1e7;
const NARROW: usize = 16;
/// Operations of a token from which fewer heads and tokens are compared with the reference: one checkpoint and an edge.
const COSTLY: f64 = 1e5;
const COSTLY_HEADS: usize = 2;
const COSTLY_TOKENS: usize = 66;
/// Operations of a token from which a single head is compared, and no checkpoint.
const HEAVY: f64 = 2e6;
const HEAVY_TOKENS: usize = 20;
/// Tokens of a row about such a memory.
const HEAVY_ROW: usize = 128;

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let width = 64;
    for rule in AnyRule::all() {
        // Rows bear the name of the kernel that `auto` picks.
        match rule.kernels(Dims::new(width, width)).iter().find(|kernel| kernel.available) {
            Some(kernel) => {
                let flops = rule.flops(Dims::new(width, width));
                let tokens = match kernel.name {
                    "token" if flops > COSTLY => SINGLE_TOKENS,
                    _ if flops > HEAVY => HEAVY_ROW,
                    _ => 2048,
                };
                if flops > MOST_FLOPS {
                    // Not a token alone: the first orthogonal step has one size whatever its gates, so that their
                    // gradient is zero, and rounding.
                    all.extend(rows(&rule, kernel.name, NARROW, tokens));
                    continue;
                }
                all.extend(rows(&rule, kernel.name, width, tokens));
                all.push(forward(&rule, "auto", width, 1));
            }
            None if rule.flops(Dims::new(width, width)) > MOST_FLOPS => {
                all.push(forward(&rule, "reference", NARROW, REFERENCE_TOKENS));
            }
            None => all.push(forward(&rule, "reference", width, REFERENCE_TOKENS)),
        }
    }
    for name in ["gated_delta", "titans"] {
        let rule = AnyRule::named(name).expect("the rule is registered");
        for (width, tokens) in [16, 32, 64, 128].into_iter().flat_map(|width| [(width, 64), (width, 512)]) {
            for kernel in rule.kernels(Dims::new(width, width)) {
                all.extend(rows(&rule, kernel.name, width, tokens));
            }
        }
    }
    // What the canonical form of a frozen memory costs beside its block form.
    for name in ["titans_mlp", "titans_mlp_chunk8", "ttt_linear"] {
        let rule = AnyRule::named(name).expect("the rule is registered");
        all.extend(rows(&rule, "token", width, 512));
    }
    all.extend(orthogonal().iter().flat_map(|rule| rows(rule, "blocks", width, 2048)));
    all
}

/// Matrix and perceptron with orthogonal steps once per chunk, and the first with plain ones, to compare.
fn orthogonal() -> Vec<AnyRule> {
    let rule = |structure: &str, algorithm: serde_json::Value| {
        serde_json::from_value(json!({"name": "miras", "structure": structure, "algorithm": algorithm, "chunk": 64}))
            .expect("the settings exist")
    };
    let muon = json!({"name": "muon", "when": "chunk"});
    vec![rule("matrix", json!("momentum")), rule("matrix", muon.clone()), rule("mlp", muon)]
}

fn rows(rule: &AnyRule, kernel: &str, width: usize, tokens: usize) -> [Case; 2] {
    [forward(rule, kernel, width, tokens), both(rule, kernel, width, tokens)]
}

/// The buffers of a call.
#[derive(Clone)]
struct Scan {
    rule: AnyRule,
    kernel: ScanKernel,
    shape: ScanShape,
    inputs: Vec<Vec<f32>>,
    start: Vec<f32>,
    state: Vec<f32>,
    y: Vec<f32>,
    saved: Vec<f32>,
    dy: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    dstate: Vec<f32>,
}

impl Scan {
    fn new(rule: &AnyRule, kernel: &str, heads: usize, width: usize, tokens: usize) -> Self {
        let shape = ScanShape { heads, tokens, dims: Dims::new(width, width), pos: 0 };
        let (reads, len) = (heads * tokens * width, heads * rule.state_len(shape.dims));
        let mut unit = numbers(len, 3).into_iter().cycle().map(|x| f64::from(x) * 3.0_f64.sqrt());
        let tensors = rule.state(shape.dims);
        let start = (0..heads).flat_map(|_| start_state(&tensors, &mut || unit.next().unwrap_or(0.0)));
        let start: Vec<f32> = start.map(|x| x as f32).collect();
        let inputs = inputs(rule, shape);
        Self {
            rule: rule.clone(),
            kernel: ScanKernel::Named(kernel.to_string()),
            shape,
            gradients: inputs.iter().map(|x| vec![0.0; x.len()]).collect(),
            inputs,
            state: start.clone(),
            start,
            y: vec![0.0; reads],
            saved: vec![0.0; len * shape.checkpoints()],
            dy: numbers(reads, 5),
            dstate: vec![0.0; len],
        }
    }

    /// Forward from a new memory; a pass of training keeps its checkpoints.
    fn forward(&mut self, cpu: &Cpu, training: bool) {
        let inputs: Vec<&[f32]> = self.inputs.iter().map(|x| &x[..]).collect();
        let saved = training.then_some(&mut self.saved[..]);
        self.state.copy_from_slice(&self.start);
        let cpu = cpu.clone().with_scan(self.kernel.clone());
        cpu.scan_forward(&self.rule, self.shape, &inputs, &mut self.state, &mut self.y, saved, Write::Yes)
            .expect("the kernel is in the list of its rule");
    }

    fn backward(&mut self, cpu: &Cpu) {
        let inputs: Vec<&[f32]> = self.inputs.iter().map(|x| &x[..]).collect();
        let mut gradients: Vec<&mut [f32]> = self.gradients.iter_mut().map(|x| &mut x[..]).collect();
        self.dstate.fill(0.0);
        let cpu = cpu.clone().with_scan(self.kernel.clone());
        let dstate = &mut self.dstate;
        cpu.scan_backward(&self.rule, self.shape, &inputs, &self.saved, &self.dy, &mut gradients, dstate)
            .expect("the kernel is in the list of its rule");
    }
}

/// Inputs as a mixer makes them: keys and queries of unit length, gates around their biases.
fn inputs(rule: &AnyRule, s: ScanShape) -> Vec<Vec<f32>> {
    let list = rule.inputs();
    let mut all: Vec<Vec<f32>> = Vec::new();
    for (i, input) in list.iter().enumerate() {
        let width = input.width.of(s.dims);
        let mut data = numbers(s.heads * s.tokens * width, 11 + i as u64);
        match input.activation {
            Activation::Unit => data.chunks_mut(width).for_each(|x| {
                let norm = x.iter().map(|x| x * x).sum::<f32>().sqrt();
                x.iter_mut().for_each(|x| *x /= norm);
            }),
            Activation::Silu | Activation::Share => {}
            Activation::Softmax => data.chunks_mut(width).for_each(|x| {
                x.iter_mut().for_each(|x| *x = x.exp());
                let sum = x.iter().sum::<f32>();
                x.iter_mut().for_each(|x| *x /= sum);
            }),
            Activation::Sigmoid { floor, max, bias, .. } => {
                let gate = |x: f32| floor + (max - floor) * (f64::from(x) + bias).sigmoid();
                data.iter_mut().for_each(|x| *x = gate(*x) as f32);
            }
            Activation::PerHead(decay) => data.fill(decay.of(0, s.heads) as f32),
            Activation::Softplus { floor, .. } => {
                let bias = input.activation.biases(s.dims);
                let bias = bias.iter().cycle().take(width).cycle();
                data.iter_mut().zip(bias).for_each(|(x, b)| *x = (floor + (f64::from(*x) + b).softplus()) as f32);
            }
        }
        all.push(data);
    }
    for (i, input) in list.iter().enumerate() {
        if let Activation::Sigmoid { damped_by: Some(by), .. } = input.activation {
            let by = list.iter().position(|input| input.name == by).expect("a gate damps by another gate");
            let by = all[by].clone();
            let times = all[i].len() / by.len();
            all[i].iter_mut().enumerate().for_each(|(j, x)| *x *= 1.0 - by[j / times]);
        }
    }
    all
}

/// Compares fewer tokens with the reference in double precision, forward and backward. A difference beyond the
/// tolerance may be as large as a few times what the reference itself loses in `f32`, as in the suite that kernels must
/// pass: deep memories multiply rounding.
fn against_reference(rule: &AnyRule, kernel: &str, width: usize, tokens: usize) -> Fault {
    let (heads, most) = match rule.flops(Dims::new(width, width)) {
        flops if flops > HEAVY => (1, HEAVY_TOKENS),
        flops if flops > COSTLY => (COSTLY_HEADS, COSTLY_TOKENS),
        _ => (HEADS, VERIFIED_TOKENS),
    };
    let mut scan = Scan::new(rule, kernel, heads, width, tokens.min(most));
    Box::new(move |cpu| {
        scan.gradients.iter_mut().for_each(|x| x.fill(0.0));
        scan.forward(cpu, true);
        scan.backward(cpu);
        let data = [&scan.inputs[..], std::slice::from_ref(&scan.start)].concat();
        let want = reference::<f64>(&scan, &data);
        let law: Vec<&[f64]> = want.iter().map(|x| &x[..]).collect();
        let got = [&scan.y, &scan.state, &scan.dstate].into_iter().chain(&scan.gradients);
        let within = |tolerance: f64, got: &[f32], want: &[f64]| {
            fault_within(tolerance, got.iter().copied().zip(want.iter().copied()))
        };
        // Slow, so it runs only where it is needed.
        let losses = LazyCell::new(|| rounding::losses(&data, &law, |data| reference(&scan, data)));
        got.zip(&want).enumerate().find_map(|(i, (got, want))| {
            within(TOLERANCE, got, want).and_then(|_| within(rounding::allowed(losses[i]), got, want))
        })
    })
}

/// What the reference gives from the inputs and, as the last one, the start state of a call: reads, state, gradient of
/// the state, those of the inputs.
fn reference<F: Number>(scan: &Scan, data: &[Vec<f32>]) -> Vec<Vec<F>> {
    let (rule, s) = (&scan.rule, scan.shape);
    let lift = |x: &Vec<f32>| -> Vec<F> { x.iter().map(|&x| F::from_f64(f64::from(x))).collect() };
    let mut inputs: Vec<Vec<F>> = data.iter().map(lift).collect();
    let mut state = inputs.pop().expect("the start is the last of the data");
    let inputs: Vec<&[F]> = inputs.iter().map(|x| &x[..]).collect();
    let mut dstate = vec![F::zero(); state.len()];
    let (mut y, mut saved) = (vec![F::zero(); scan.y.len()], vec![F::zero(); scan.saved.len()]);
    scan::reference_forward(rule, s, &inputs, &mut state, &mut y, Some(&mut saved), Write::Yes);
    let mut gradients: Vec<Vec<F>> = inputs.iter().map(|x| vec![F::zero(); x.len()]).collect();
    let mut views: Vec<&mut [F]> = gradients.iter_mut().map(|x| &mut x[..]).collect();
    scan::reference_backward(rule, s, &inputs, &saved, &lift(&scan.dy), &mut views, &mut dstate);
    [y, state, dstate].into_iter().chain(gradients).collect()
}

fn forward(rule: &AnyRule, kernel: &str, width: usize, tokens: usize) -> Case {
    row(rule, kernel, (width, tokens), ("forward", 1.0), |mut scan| Box::new(move |cpu| scan.forward(cpu, false)))
}

fn both(rule: &AnyRule, kernel: &str, width: usize, tokens: usize) -> Case {
    row(rule, kernel, (width, tokens), ("both ways", 3.0), |mut scan| {
        Box::new(move |cpu| {
            scan.forward(cpu, true);
            scan.backward(cpu);
        })
    })
}

fn row(
    rule: &AnyRule,
    kernel: &str,
    (width, tokens): (usize, usize),
    (what, passes): (&str, f64),
    call: fn(Scan) -> Call,
) -> Case {
    let dims = Dims::new(width, width);
    let per_entry = rule.flops(dims) / (width * width) as f64;
    let (own, named) = (rule.clone(), kernel.to_string());
    let settings = match rule.name() {
        "miras" => format!(" {} {}", rule.about().structure, rule.about().algorithm),
        _ => String::new(),
    };
    Case {
        name: format!("{}{settings} {kernel} {HEADS}x{width} T={tokens} {what}", rule.name()),
        formula: format!("{} H T D D", passes * per_entry),
        flops: passes * rule.flops(dims) * (HEADS * tokens) as f64,
        bytes: None,
        tokens: Some(tokens),
        build: Box::new(move || Work {
            fault: against_reference(&own, &named, width, tokens),
            call: call(Scan::new(&own, &named, HEADS, width, tokens)),
        }),
    }
}
