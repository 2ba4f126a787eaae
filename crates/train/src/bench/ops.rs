//! Rows about the other operations of a model, at the sizes of a small one: 512 tokens, 4 heads of 64.

use super::harness::{Call, Case, Fault, Work};
use super::inputs::numbers;
use hecate_core::conformance::ops::{KERNEL_TOLERANCE, OpCase, measure};
use hecate_core::ops::{AttentionShape, ConvShape, Cpu, HeadShape, MlpKind, Ops, Prefix};

const TOKENS: usize = 512;
const HEADS: HeadShape = HeadShape { tokens: TOKENS, heads: 4, width: 64 };
const WIDTH: usize = 256;
const HIDDEN: usize = 683;
const VOCAB: usize = 4096;
/// Tokens of the calls that are compared with the reference, which is slow: two key blocks and an edge.
const VERIFIED_TOKENS: usize = 130;

pub(super) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (tokens, window) in [(TOKENS, TOKENS), (2048, 256)] {
        all.extend(attention(tokens, window));
    }
    all.extend([decoding_attention(), rms_norm(), mlp(MlpKind::Gated), mlp(MlpKind::Gelu)]);
    all.extend([gated_norm(), convolution(), rope(), cross_entropy()]);
    all
}

/// Compares the same op with fewer tokens with the reference, forward and backward.
fn against_reference(case: OpCase) -> Fault {
    Box::new(move |cpu| {
        let wrong = measure(cpu, &case, 1).into_iter().find(|measured| measured.error > KERNEL_TOLERANCE);
        wrong.map(|measured| measured.to_string())
    })
}

fn row(
    name: &str,
    tokens: usize,
    (formula, flops): (&str, usize),
    verified: OpCase,
    call: impl FnOnce() -> Call + 'static,
) -> Case {
    Case {
        name: name.to_string(),
        formula: formula.to_string(),
        flops: flops as f64,
        bytes: None,
        tokens: Some(tokens),
        build: Box::new(move || Work { fault: against_reference(verified), call: call() }),
    }
}

/// Pairs of query and key that see each other, per head.
fn pairs(s: AttentionShape) -> usize {
    (0..s.tokens).map(|t| (s.pos + t as u64 + 1 - s.first_key(t)) as usize).sum()
}

fn attention_shape(tokens: usize, window: usize, pos: u64) -> AttentionShape {
    let ring = AttentionShape::ring_for(window, tokens);
    AttentionShape { tokens, heads: 4, kv_heads: 4, width: 64, window, prefix: 0, pos, ring }
}

/// The buffers of a call of attention.
struct Attention {
    shape: AttentionShape,
    q: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    y: Vec<f32>,
    lse: Vec<f32>,
}

impl Attention {
    fn new(shape: AttentionShape) -> Self {
        let len = shape.heads * shape.tokens * shape.width;
        let [keys, values] = [3, 4].map(|seed| numbers(shape.cache_len(), seed));
        Self { shape, q: numbers(len, 1), keys, values, y: vec![0.0; len], lse: vec![0.0; shape.heads * shape.tokens] }
    }

    fn forward(&mut self, cpu: &Cpu) {
        let Self { shape, q, keys, values, y, lse } = self;
        cpu.attention_forward(*shape, q, keys, values, Prefix::default(), y, lse);
    }
}

fn attention(tokens: usize, window: usize) -> [Case; 2] {
    let s = attention_shape(tokens, window, 0);
    let verified = || OpCase::Attention(attention_shape(VERIFIED_TOKENS, window, 0));
    let work = s.heads * s.width * pairs(s);
    let name = format!("attention T={tokens} window={window}");
    let forward = row(&format!("{name} forward"), tokens, ("4 H D pairs", 4 * work), verified(), move || {
        let mut a = Attention::new(s);
        Box::new(move |cpu| a.forward(cpu))
    });
    let both = row(&format!("{name} both ways"), tokens, ("12 H D pairs", 12 * work), verified(), move || {
        let mut a = Attention::new(s);
        let dy = numbers(a.q.len(), 2);
        let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![0.0; dy.len()]);
        Box::new(move |cpu| {
            a.forward(cpu);
            let Attention { q, keys, values, y, lse, .. } = &a;
            let none = Prefix::default();
            cpu.attention_backward(s, q, keys, values, none, y, lse, &dy, &mut dq, &mut dk, &mut dv, Prefix::default());
        })
    });
    [forward, both]
}

fn decoding_attention() -> Case {
    let s = attention_shape(1, 512, 5000);
    let flops = ("4 H D pairs", 4 * s.heads * s.width * pairs(s));
    row("attention T=1 window=512 forward", 1, flops, OpCase::Attention(s), move || {
        let mut a = Attention::new(s);
        Box::new(move |cpu| a.forward(cpu))
    })
}

fn rms_norm() -> Case {
    let n = TOKENS * WIDTH;
    let verified = OpCase::RmsNorm { tokens: VERIFIED_TOKENS, width: WIDTH };
    row("rms norm 512x256 both ways", TOKENS, ("16 T C", 16 * n), verified, move || {
        let (x, scale, dy) = (numbers(n, 1), numbers(WIDTH, 2), numbers(n, 3));
        let (mut y, mut dx, mut dscale) = (vec![0.0; n], vec![0.0; n], vec![0.0; WIDTH]);
        Box::new(move |cpu| {
            cpu.rms_norm_forward(WIDTH, &x, &scale, &mut y);
            cpu.rms_norm_backward(WIDTH, &x, &scale, &dy, &mut dx, &mut dscale);
        })
    })
}

fn mlp(kind: MlpKind) -> Case {
    let (n, m) = (TOKENS * HIDDEN, TOKENS * kind.input_width(HIDDEN));
    let verified = OpCase::Mlp { kind, tokens: VERIFIED_TOKENS, hidden: HIDDEN };
    let name = format!("{kind:?} non-linearity 512x683 both ways");
    row(&name, TOKENS, ("10 T F", 10 * n), verified, move || {
        let (x, dy) = (numbers(m, 1), numbers(n, 2));
        let (mut y, mut dx) = (vec![0.0; n], vec![0.0; m]);
        Box::new(move |cpu| {
            cpu.mlp_forward(kind, HIDDEN, &x, &mut y);
            cpu.mlp_backward(kind, HIDDEN, &x, &dy, &mut dx);
        })
    })
}

fn gated_norm() -> Case {
    let n = HEADS.len();
    let verified = OpCase::GatedNorm(HeadShape { tokens: VERIFIED_TOKENS, ..HEADS });
    row("gated norm 512x4x64 both ways", TOKENS, ("26 T C", 26 * n), verified, move || {
        let [x, g, dy] = [1, 2, 3].map(|seed| numbers(n, seed));
        let scale = numbers(WIDTH, 4);
        let [mut y, mut dx, mut dg] = [(); 3].map(|()| vec![0.0; n]);
        let mut dscale = vec![0.0; WIDTH];
        Box::new(move |cpu| {
            cpu.gated_norm_forward(HEADS, &x, &scale, &g, &mut y);
            cpu.gated_norm_backward(HEADS, &x, &scale, &g, &dy, &mut dx, &mut dscale, &mut dg);
        })
    })
}

fn convolution() -> Case {
    let s = ConvShape { heads: HEADS, taps: 4, silu: true, unit: true };
    let n = HEADS.len();
    let verified = OpCase::Conv(ConvShape { heads: HeadShape { tokens: VERIFIED_TOKENS, ..HEADS }, ..s });
    row("convolution 512x4x64 both ways", TOKENS, ("38 T C", 38 * n), verified, move || {
        let (x, w, tail, dy) = (numbers(n, 1), numbers(4 * WIDTH, 2), numbers(3 * WIDTH, 3), numbers(n, 4));
        let (mut y, mut dx, mut dw) = (vec![0.0; n], vec![0.0; n], vec![0.0; 4 * WIDTH]);
        Box::new(move |cpu| {
            cpu.conv_forward(s, &x, &w, &tail, &mut y);
            cpu.conv_backward(s, &x, &w, &tail, &dy, &mut dx, &mut dw);
        })
    })
}

fn rope() -> Case {
    let n = HEADS.len();
    let verified = OpCase::Rope { shape: HeadShape { tokens: VERIFIED_TOKENS, ..HEADS }, pos: 0 };
    row("rotary positions 512x4x64 both ways", TOKENS, ("7 T C", 7 * n), verified, move || {
        let (x, dy) = (numbers(n, 1), numbers(n, 2));
        let table = hecate_core::ops::rope::table(0, TOKENS, HEADS.width, 10_000.0);
        let (mut y, mut dx) = (vec![0.0; n], vec![0.0; n]);
        Box::new(move |cpu| {
            cpu.rope_forward(HEADS, &table, &x, &mut y);
            cpu.rope_backward(HEADS, &table, &dy, &mut dx);
        })
    })
}

fn cross_entropy() -> Case {
    let n = TOKENS * VOCAB;
    let verified = OpCase::CrossEntropy { tokens: VERIFIED_TOKENS, vocab: VOCAB };
    row("cross-entropy 512x4096 both ways", TOKENS, ("9 T V", 9 * n), verified, move || {
        let (logits, dloss) = (numbers(n, 1), numbers(TOKENS, 2));
        let targets: Vec<u32> = (0..TOKENS as u32).map(|t| t * 7 % VOCAB as u32).collect();
        let (mut loss, mut d) = (vec![0.0; TOKENS], vec![0.0; n]);
        Box::new(move |cpu| {
            cpu.cross_entropy_forward(VOCAB, &logits, &targets, &mut loss);
            cpu.cross_entropy_backward(VOCAB, &logits, &targets, &dloss, &mut d);
        })
    })
}
