//! One op at one shape: its arguments, and how it is called.

use super::super::random::Random;
use super::{EXACT_SCAN_TOLERANCE, EXACT_TOLERANCE, column};
use crate::ops::{
    AttentionShape, ConvShape, GateSpec, HeadShape, LinearShape, MlpKind, Ops, Prefix, Reference, attention,
    gate_specs, rope,
};
use crate::rule::{Activation, Start, StateTensor, start_state};
use crate::rules::AnyRule;
use crate::scalar::Scalar;
use crate::scan::{ScanShape, Write};
use std::fmt;

/// An op with everything that fixes the lengths of its buffers.
#[derive(Clone, Debug, PartialEq)]
pub enum OpCase {
    /// Rows of a table.
    Embedding {
        /// Tokens of the call.
        tokens: usize,
        /// Rows of the table.
        vocab: usize,
        /// Width of a row.
        width: usize,
    },
    /// `y = x w`.
    Linear(LinearShape),
    /// `y = x w^T`.
    LinearTransposed(LinearShape),
    /// Root-mean-square norm.
    RmsNorm {
        /// Tokens of the call.
        tokens: usize,
        /// Width of a row.
        width: usize,
    },
    /// Short convolution.
    Conv(ConvShape),
    /// Gate activations.
    Gates {
        /// The gates of one rule.
        gates: Vec<GateSpec>,
        /// Tokens of the call.
        tokens: usize,
        /// Heads.
        heads: usize,
    },
    /// Rotary positions.
    Rope {
        /// Tokens, heads, head width.
        shape: HeadShape,
        /// Position of the first token.
        pos: u64,
    },
    /// The turn from tokens to heads: rotary positions with an empty table.
    Turn(HeadShape),
    /// Attention over a prefix and a filled cache.
    Attention(AttentionShape),
    /// The turn from heads to tokens.
    Merge(HeadShape),
    /// Norm and gate on the memory's way out.
    GatedNorm(HeadShape),
    /// `a * sigmoid(b)`.
    SigmoidGate {
        /// Number of values.
        len: usize,
    },
    /// Non-linearity of an MLP.
    Mlp {
        /// Which one.
        kind: MlpKind,
        /// Tokens of the call.
        tokens: usize,
        /// Width of the output.
        hidden: usize,
    },
    /// Cross-entropy.
    CrossEntropy {
        /// Tokens of the call.
        tokens: usize,
        /// Logits of a token.
        vocab: usize,
    },
    /// A memory rule over a sequence.
    Scan {
        /// The rule, with its configuration.
        rule: AnyRule,
        /// Heads, tokens, sizes.
        shape: ScanShape,
    },
    /// Attention, a convolution or a scan, with gradients along the columns of tokens: [`OpCase::along_columns`].
    Column(Box<OpCase>),
}

/// How an op treats the gradient of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// There is none.
    Constant,
    /// Backward adds into it.
    Added,
    /// Backward turns the gradient at the end into the gradient at the start: the state of a scan.
    Carried,
}

/// One input buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Argument {
    /// Name in the op's signature.
    pub name: &'static str,
    /// What becomes of its gradient.
    pub role: Role,
    /// Seeded values, each of them an `f32`.
    pub values: Vec<f64>,
}

/// What an output is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A result that gradients come back to.
    Result,
    /// Part of the contract, without a gradient: log-sum-exp.
    Auxiliary,
    /// Between an implementation's own forward and backward passes.
    Private,
}

/// One output buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Output<F> {
    /// Name in the op's signature.
    pub name: &'static str,
    /// What it is for.
    pub kind: Kind,
    /// The values.
    pub values: Vec<F>,
}

/// A buffer that an op must overwrite.
fn unwritten<F: Scalar>(len: usize) -> Vec<F> {
    vec![F::from_f64(f64::NAN); len]
}

/// `y`, of `len` values, made by `forward`.
fn single<F: Scalar>(len: usize, forward: impl FnOnce(&mut [F])) -> Vec<Output<F>> {
    let mut values = unwritten(len);
    forward(&mut values);
    vec![Output { name: "y", kind: Kind::Result, values }]
}

/// Tokens below `vocab`, some of them repeated.
fn tokens_below(count: usize, vocab: usize) -> Vec<u32> {
    (0..count).map(|i| ((7 * i * i + 3 * i + 1) % vocab) as u32).collect()
}

impl fmt::Display for OpCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl OpCase {
    /// The arguments, in the order in which [`OpCase::forward`] takes them.
    pub fn arguments(&self, random: &mut Random) -> Vec<Argument> {
        let constant = |name, values| Argument { name, role: Role::Constant, values };
        let mut added = |name, len| Argument { name, role: Role::Added, values: random.values(len) };
        match self {
            Self::Embedding { vocab, width, .. } => vec![added("table", vocab * width)],
            Self::Linear(s) | Self::LinearTransposed(s) => {
                vec![added("x", s.rows * s.inner), added("w", s.inner * s.outer)]
            }
            Self::RmsNorm { tokens, width } => vec![added("x", tokens * width), added("scale", *width)],
            Self::Conv(s) => {
                let channels = s.heads.heads * s.heads.width;
                let (x, w) = (added("x", s.heads.len()), added("w", s.taps * channels));
                vec![x, w, constant("tail", random.values(s.taps.saturating_sub(1) * channels))]
            }
            Self::Gates { gates, tokens, heads } => {
                let row = heads * gates.iter().map(GateSpec::columns).sum::<usize>();
                vec![added("pre", tokens * row), added("bias", row)]
            }
            Self::Rope { shape, pos } => {
                let table = rope::table::<f32>(*pos, shape.tokens, shape.width, 10_000.0);
                vec![constant("table", table.into_iter().map(f64::from).collect()), added("x", shape.len())]
            }
            Self::Turn(s) | Self::Merge(s) => vec![added("x", s.len())],
            Self::Attention(s) => {
                let (queries, own) = (s.heads * s.tokens * s.width, s.kv_heads * s.tokens * s.width);
                let (q, k, v) = (added("q", queries), added("k", own), added("v", own));
                let old = s.kv_heads * past(s) * s.width;
                let prefix = [added("prefix_k", s.prefix_len()), added("prefix_v", s.prefix_len())];
                let old = ["old_k", "old_v"].map(|name| constant(name, random.values(old)));
                [q, k, v].into_iter().chain(prefix).chain(old).collect()
            }
            Self::GatedNorm(s) => {
                vec![added("x", s.len()), added("scale", s.heads * s.width), added("g", s.len())]
            }
            Self::SigmoidGate { len } => vec![added("a", *len), added("b", *len)],
            Self::Mlp { kind, tokens, hidden } => vec![added("x", tokens * kind.input_width(*hidden))],
            Self::CrossEntropy { tokens, vocab } => vec![added("logits", tokens * vocab)],
            Self::Scan { rule, shape } => scan_arguments(rule, *shape, random),
            Self::Column(op) => column::arguments(op, random),
        }
    }

    /// Runs the op; outputs start from NaN.
    ///
    /// # Panics
    /// If `args` are not those of [`OpCase::arguments`], or a scan refuses its rule.
    pub fn forward<O: Ops>(&self, ops: &O, args: &[Vec<O::F>]) -> Vec<Output<O::F>> {
        match (self, args) {
            (&Self::Embedding { tokens, vocab, width }, [table]) => {
                single(tokens * width, |y| ops.embedding_forward(width, &tokens_below(tokens, vocab), table, y))
            }
            (&Self::Linear(s), [x, w]) => single(s.rows * s.outer, |y| ops.linear_forward(s, x, w, y)),
            (&Self::LinearTransposed(s), [x, w]) => {
                single(s.rows * s.outer, |y| ops.linear_transposed_forward(s, x, w, y))
            }
            (&Self::RmsNorm { width, .. }, [x, scale]) => single(x.len(), |y| ops.rms_norm_forward(width, x, scale, y)),
            (&Self::Conv(s), [x, w, tail]) => single(x.len(), |y| ops.conv_forward(s, x, w, tail, y)),
            (Self::Gates { gates, tokens, heads }, [pre, bias]) => {
                let values = tokens * heads * gates.iter().map(|g| g.width).sum::<usize>();
                single(values, |y| ops.gates_forward(gates, *tokens, *heads, pre, bias, y))
            }
            (&Self::Rope { shape, .. }, [table, x]) => single(x.len(), |y| ops.rope_forward(shape, table, x, y)),
            (&Self::Turn(s), [x]) => single(x.len(), |y| ops.rope_forward(s, &[], x, y)),
            (&Self::Attention(s), [q, k, v, prefix_k, prefix_v, old_k, old_v]) => {
                let (keys, values) = rings(s, k, v, old_k, old_v);
                let prefix = Prefix { keys: &prefix_k[..], values: &prefix_v[..] };
                let mut lse = unwritten(s.heads * s.tokens);
                let mut out = single(q.len(), |y| ops.attention_forward(s, q, &keys, &values, prefix, y, &mut lse));
                out.push(Output { name: "lse", kind: Kind::Auxiliary, values: lse });
                out
            }
            (&Self::Merge(s), [x]) => single(x.len(), |y| ops.merge_forward(s, x, y)),
            (&Self::GatedNorm(s), [x, scale, g]) => single(x.len(), |y| ops.gated_norm_forward(s, x, scale, g, y)),
            (Self::SigmoidGate { .. }, [a, b]) => single(a.len(), |y| ops.sigmoid_gate_forward(a, b, y)),
            (&Self::Mlp { kind, tokens, hidden }, [x]) => {
                single(tokens * hidden, |y| ops.mlp_forward(kind, hidden, x, y))
            }
            (&Self::CrossEntropy { tokens, vocab }, [logits]) => {
                single(tokens, |y| ops.cross_entropy_forward(vocab, logits, &tokens_below(tokens, vocab), y))
            }
            (Self::Scan { rule, shape }, [inputs @ .., state]) => scan_forward(ops, rule, *shape, inputs, state),
            (Self::Column(op), args) => column::forward(op, ops, args),
            _ => panic!("{self}: {} arguments", args.len()),
        }
    }

    /// Runs the transpose: `dy` are the gradients of `out` (those of other kinds than [`Kind::Result`] are not
    /// used), `grads` those of `args`.
    ///
    /// # Panics
    /// As [`OpCase::forward`].
    pub fn backward<O: Ops>(
        &self,
        ops: &O,
        args: &[Vec<O::F>],
        out: &[Output<O::F>],
        dy: &[Vec<O::F>],
        grads: &mut [Vec<O::F>],
    ) {
        let first = &dy[0];
        match (self, args, grads) {
            (&Self::Embedding { tokens, vocab, width }, [_], [dtable]) => {
                ops.embedding_backward(width, &tokens_below(tokens, vocab), first, dtable);
            }
            (&Self::Linear(s), [x, w], [dx, dw]) => ops.linear_backward(s, x, w, first, Some(dx), Some(dw)),
            (&Self::LinearTransposed(s), [x, w], [dx, dw]) => {
                ops.linear_transposed_backward(s, x, w, first, Some(dx), Some(dw));
            }
            (&Self::RmsNorm { width, .. }, [x, scale], [dx, dscale]) => {
                ops.rms_norm_backward(width, x, scale, first, dx, dscale);
            }
            (&Self::Conv(s), [x, w, tail], [dx, dw, _]) => ops.conv_backward(s, x, w, tail, first, dx, dw),
            (Self::Gates { gates, tokens, heads }, [pre, bias], [dpre, dbias]) => {
                ops.gates_backward(gates, *tokens, *heads, pre, bias, first, dpre, dbias);
            }
            (&Self::Rope { shape, .. }, [table, _], [_, dx]) => ops.rope_backward(shape, table, first, dx),
            (&Self::Turn(s), [_], [dx]) => ops.rope_backward(s, &[], first, dx),
            (
                &Self::Attention(s),
                [q, k, v, prefix_k, prefix_v, old_k, old_v],
                [dq, dk, dv, dprefix_k, dprefix_v, _, _],
            ) => {
                let (keys, values) = rings(s, k, v, old_k, old_v);
                let (y, lse) = (&out[0].values, &out[1].values);
                let prefix = Prefix { keys: &prefix_k[..], values: &prefix_v[..] };
                let dprefix = Prefix { keys: &mut dprefix_k[..], values: &mut dprefix_v[..] };
                ops.attention_backward(s, q, &keys, &values, prefix, y, lse, first, dq, dk, dv, dprefix);
            }
            (&Self::Merge(s), [_], [dx]) => ops.merge_backward(s, first, dx),
            (&Self::GatedNorm(s), [x, scale, g], [dx, dscale, dg]) => {
                ops.gated_norm_backward(s, x, scale, g, first, dx, dscale, dg);
            }
            (Self::SigmoidGate { .. }, [a, b], [da, db]) => ops.sigmoid_gate_backward(a, b, first, da, db),
            (&Self::Mlp { kind, hidden, .. }, [x], [dx]) => ops.mlp_backward(kind, hidden, x, first, dx),
            (&Self::CrossEntropy { tokens, vocab }, [logits], [dlogits]) => {
                ops.cross_entropy_backward(vocab, logits, &tokens_below(tokens, vocab), first, dlogits);
            }
            (Self::Scan { rule, shape }, [inputs @ .., _], [dinputs @ .., dstate]) => {
                dstate.copy_from_slice(&dy[1]);
                scan_backward(ops, rule, *shape, inputs, &out[2].values, first, dinputs, dstate);
            }
            (Self::Column(op), args, grads) => column::backward(op, ops, args, out, first, grads),
            _ => panic!("{self}: {} arguments", args.len()),
        }
    }

    /// Tolerance of the exact check.
    pub fn exact_tolerance(&self) -> f64 {
        match self {
            Self::Scan { .. } => EXACT_SCAN_TOLERANCE,
            Self::Column(op) => op.exact_tolerance(),
            _ => EXACT_TOLERANCE,
        }
    }

    /// Whether the gradient of an argument is zero for every input: attention that sees a single key gives it all
    /// weight, whatever the score. Rounding is then measured against the gradient that came in.
    pub fn vanishes(&self, argument: &str) -> bool {
        let alone = |s: &AttentionShape| s.prefix == 0 && (s.window == 1 || (s.pos == 0 && s.tokens == 1));
        match self {
            Self::Attention(s) => alone(s) && ["q", "k"].contains(&argument),
            Self::Column(op) => op.vanishes(argument),
            _ => false,
        }
    }
}

/// Keys that lie before the call and can still be seen.
fn past(s: &AttentionShape) -> usize {
    s.pos.min(s.window as u64 - 1) as usize
}

/// The rings of a call. Slots that no key was written to hold a large number, which shows wherever it is read.
pub(super) fn rings<F: Scalar>(s: AttentionShape, k: &[F], v: &[F], old_k: &[F], old_v: &[F]) -> (Vec<F>, Vec<F>) {
    let mut keys = vec![F::from_f64(1e3); s.cache_len()];
    let mut values = keys.clone();
    let before = AttentionShape { tokens: past(&s), pos: s.pos - past(&s) as u64, ..s };
    attention::store(before, old_k, old_v, &mut keys, &mut values);
    attention::store(s, k, v, &mut keys, &mut values);
    (keys, values)
}

/// Inputs as a mixer makes them from pre-activations around its biases, and a state.
fn scan_arguments(rule: &AnyRule, s: ScanShape, random: &mut Random) -> Vec<Argument> {
    let list = rule.inputs();
    let (gates, bias) = gate_specs(&list, s.dims, s.heads);
    let pre = random.values(s.tokens * bias.len());
    let mut made = vec![0.0; s.tokens * s.heads * gates.iter().map(|g| g.width).sum::<usize>()];
    Reference::<f64>::new().gates_forward(&gates, s.tokens, s.heads, &pre, &bias, &mut made);
    let mut made = made.into_iter();
    let mut arguments = Vec::new();
    for input in list {
        let width = input.width.of(s.dims);
        let n = s.heads * s.tokens * width;
        let mut values: Vec<f64> = match input.activation {
            activation if activation.is_convolved() => (0..n).map(|_| random.uniform(-1.0, 1.0)).collect(),
            _ => made.by_ref().take(n).map(|x| f64::from(x as f32)).collect(),
        };
        if input.activation == Activation::Unit {
            for row in values.chunks_exact_mut(width) {
                let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
                row.iter_mut().for_each(|x| *x = f64::from((*x / length) as f32));
            }
        }
        arguments.push(Argument { name: input.name, role: Role::Added, values });
    }
    let tensors = rule.state(s.dims);
    let mut values = Vec::new();
    for _ in 0..s.heads {
        let head = start_state(&tensors, &mut || random.normal());
        let alive = |(x, t): (f64, &StateTensor)| if t.start == Start::Zero { random.uniform(-1.0, 1.0) } else { x };
        let owners = tensors.iter().flat_map(|t| std::iter::repeat_n(t, t.len()));
        values.extend(head.into_iter().zip(owners).map(alive).map(|x| f64::from(x as f32)));
    }
    arguments.push(Argument { name: "state", role: Role::Carried, values });
    arguments
}

pub(super) fn slices<F>(buffers: &[Vec<F>]) -> Vec<&[F]> {
    buffers.iter().map(Vec::as_slice).collect()
}

pub(super) fn slices_mut<F>(buffers: &mut [Vec<F>]) -> Vec<&mut [F]> {
    buffers.iter_mut().map(Vec::as_mut_slice).collect()
}

fn scan_forward<O: Ops>(
    ops: &O,
    rule: &AnyRule,
    s: ScanShape,
    inputs: &[Vec<O::F>],
    state: &[O::F],
) -> Vec<Output<O::F>> {
    let inputs = slices(inputs);
    let mut state = state.to_vec();
    let mut saved = unwritten(s.heads * s.checkpoints() * rule.state_len(s.dims));
    let mut out = single(s.heads * s.tokens * s.dims.dv, |y| {
        ops.scan_forward(rule, s, &inputs, &mut state, y, Some(&mut saved), Write::Yes).expect("the rule can run");
    });
    out.push(Output { name: "state", kind: Kind::Result, values: state });
    out.push(Output { name: "saved", kind: Kind::Private, values: saved });
    out
}

fn scan_backward<O: Ops>(
    ops: &O,
    rule: &AnyRule,
    s: ScanShape,
    inputs: &[Vec<O::F>],
    saved: &[O::F],
    dy: &[O::F],
    dinputs: &mut [Vec<O::F>],
    dstate: &mut [O::F],
) {
    let (inputs, mut dinputs) = (slices(inputs), slices_mut(dinputs));
    ops.scan_backward(rule, s, &inputs, saved, dy, &mut dinputs, dstate).expect("the rule can run");
}
