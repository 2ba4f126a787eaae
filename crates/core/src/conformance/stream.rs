//! One head's stream, how a mixer would make it, and how it runs through a rule or a kernel.

use super::random::Random;
use crate::erased::{BoundKernel, ErasedRule, Over};
use crate::kernel::{Cotangents, Scratch, Sequence};
use crate::rule::{Activation, Dims, Input, StateTensor, start_state};
use crate::scalar::Scalar;
use crate::scan::CHECKPOINT_TOKENS;

/// The inputs of a run of tokens for one head, and the state before the first.
#[derive(Clone, Debug)]
pub(super) struct Stream<F> {
    pub d: Dims,
    pub tokens: usize,
    pub pos: u64,
    /// One `[tokens, width]` per input of the rule.
    pub inputs: Vec<Vec<F>>,
    pub widths: Vec<usize>,
    pub start: Vec<F>,
}

/// What a forward pass gives.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Run<F> {
    pub y: Vec<F>,
    pub end: Vec<F>,
}

/// What a backward pass gives.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Gradients<F> {
    pub inputs: Vec<Vec<F>>,
    pub start: Vec<F>,
}

/// Tokens that a stream's start state has taken: a state as it occurs, with every tensor alive.
/// It is no multiple of a usual chunk, so that chunks are open.
const WARM_TOKENS: usize = 13;
/// Tokens between two states that a backward pass of the reference keeps.
const SEGMENT_TOKENS: usize = CHECKPOINT_TOKENS;
/// Most values of states that a run keeps so as not to write its tokens again on the way back: 32 MiB in `f64`.
const MOST_KEPT: usize = 1 << 22;

impl<F: Scalar> Stream<F> {
    /// The inputs of token `t`.
    pub fn token(&self, t: usize) -> Vec<&[F]> {
        self.inputs.iter().zip(&self.widths).map(|(x, w)| &x[t * w..(t + 1) * w]).collect()
    }

    /// Tokens `from..to`, starting at `start`.
    pub fn part(&self, from: usize, to: usize, start: Vec<F>) -> Self {
        let cut = |(x, w): (&Vec<F>, &usize)| x[from * w..to * w].to_vec();
        let inputs = self.inputs.iter().zip(&self.widths).map(cut).collect();
        Self { tokens: to - from, pos: self.pos + from as u64, inputs, start, widths: self.widths.clone(), ..*self }
    }

    /// The same stream over another number type.
    pub fn map<G: Scalar>(&self, f: impl Fn(F) -> G) -> Stream<G> {
        let all = |x: &Vec<F>| x.iter().map(|&x| f(x)).collect::<Vec<G>>();
        Stream {
            d: self.d,
            tokens: self.tokens,
            pos: self.pos,
            inputs: self.inputs.iter().map(all).collect(),
            widths: self.widths.clone(),
            start: all(&self.start),
        }
    }

    /// Rounded to `f32`.
    pub fn single(&self) -> Stream<f32> {
        self.map(|x| x.value() as f32)
    }

    /// As `f64`, exactly.
    pub fn double(&self) -> Stream<f64> {
        self.map(|x| x.value())
    }
}

/// What a mixer's activations make of pre-activations, one `[tokens, width]` per input; see [`Activation`].
pub(super) fn activate(list: &[Input], d: Dims, pre: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let mut out: Vec<Vec<f64>> = Vec::new();
    for (input, pre) in list.iter().zip(pre) {
        let silu: Vec<f64> = pre.iter().map(|x| x.silu()).collect();
        out.push(match input.activation {
            Activation::Silu | Activation::Share => silu,
            Activation::Unit => silu.chunks(input.width.of(d)).flat_map(unit).collect(),
            Activation::Softmax => pre.chunks(input.width.of(d)).flat_map(softmax).collect(),
            Activation::Sigmoid { floor, max, bias, .. } => {
                pre.iter().map(|x| floor + (max - floor) * (x + bias).sigmoid()).collect()
            }
            // One head is looked at; the first of four stands for all.
            Activation::PerHead(decay) => vec![decay.of(0, 4); pre.len()],
            Activation::Softplus { floor, .. } => {
                let bias = input.activation.biases(d);
                let bias = bias.iter().cycle().take(input.width.of(d)).cycle();
                pre.iter().zip(bias).map(|(x, b)| floor + (x + b).softplus()).collect()
            }
        });
    }
    for (i, input) in list.iter().enumerate() {
        let Activation::Sigmoid { damped_by: Some(name), .. } = input.activation else { continue };
        let gate = list.iter().position(|other| other.name == name).expect("a gate is damped by a listed gate");
        let (gate, times) = (out[gate].clone(), input.width.of(d) / list[gate].width.of(d));
        out[i].iter_mut().enumerate().for_each(|(j, x)| *x *= 1.0 - gate[j / times]);
    }
    out
}

fn unit(x: &[f64]) -> Vec<f64> {
    let norm = (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
    x.iter().map(|x| x / norm).collect()
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let most = x.iter().fold(f64::NEG_INFINITY, |m: f64, &x| m.max(x));
    let sum: f64 = x.iter().map(|x| (x - most).exp()).sum();
    x.iter().map(|x| (x - most).exp() / sum).collect()
}

/// Number of values in a rule's state.
pub(super) fn state_len(rule: &dyn ErasedRule, d: Dims) -> usize {
    rule.state(d).iter().map(StateTensor::len).sum()
}

/// A stream that starts as the rule says, learned tensors at their own start.
pub(super) fn cold(rule: &dyn ErasedRule, d: Dims, tokens: usize, inputs: Vec<Vec<f64>>) -> Stream<f64> {
    let widths = rule.inputs().iter().map(|i| i.width.of(d)).collect();
    Stream { d, tokens, pos: 0, inputs, widths, start: starts(rule, d, &mut Random::new(100)) }
}

/// The state before the first token, learned tensors drawn.
pub(super) fn starts(rule: &dyn ErasedRule, d: Dims, draw: &mut Random) -> Vec<f64> {
    start_state(&rule.state(d), &mut || draw.normal())
}

/// A stream as a mixer makes it at the default biases: standard normal pre-activations, gates `spread` times as
/// wide, the start state warm.
pub(super) fn mixed(rule: &dyn ErasedRule, d: Dims, tokens: usize, spread: f64, draw: &mut Random) -> Stream<f64> {
    let list = rule.inputs();
    let total = WARM_TOKENS + tokens;
    let mut pre = Vec::new();
    for input in &list {
        let by = if input.activation.is_gate() { spread } else { 1.0 };
        pre.push(draw.normals(total * input.width.of(d)).iter().map(|x| by * x).collect());
    }
    let all = cold(rule, d, total, activate(&list, d, &pre));
    let warm = forward(rule, &all.part(0, WARM_TOKENS, all.start.clone())).end;
    all.part(WARM_TOKENS, total, warm)
}

/// Random cotangents of a stream's reads and end state.
pub(super) fn cotangents(s: &Stream<f64>, draw: &mut Random) -> (Vec<f64>, Vec<f64>) {
    (draw.normals(s.tokens * s.d.dv), draw.normals(s.start.len()))
}

/// The reference, token by token.
pub(super) fn forward<F: Scalar>(rule: &(impl Over<F> + ?Sized), s: &Stream<F>) -> Run<F> {
    let dv = s.d.dv;
    let (mut y, mut end) = (vec![F::zero(); s.tokens * dv], s.start.clone());
    for t in 0..s.tokens {
        rule.step(s.d, s.pos + t as u64, &s.token(t), &mut end, &mut y[t * dv..(t + 1) * dv]);
    }
    Run { y, end }
}

/// The reference, and its states before every `every`-th token.
fn forward_keeping<F: Scalar>(rule: &(impl Over<F> + ?Sized), s: &Stream<F>, every: usize) -> (Run<F>, Vec<Vec<F>>) {
    let mut run = Run { y: Vec::new(), end: s.start.clone() };
    let mut saved = Vec::new();
    for first in (0..s.tokens).step_by(every) {
        saved.push(run.end.clone());
        let part = forward(rule, &s.part(first, (first + every).min(s.tokens), run.end));
        run.y.extend(part.y);
        run.end = part.end;
    }
    (run, saved)
}

/// The reference's states before every [`SEGMENT_TOKENS`]-th token: what a pass of training keeps.
pub(super) fn checkpoints<F: Scalar>(rule: &(impl Over<F> + ?Sized), s: &Stream<F>) -> Vec<Vec<F>> {
    forward_keeping(rule, s, SEGMENT_TOKENS).1
}

/// The reference's transpose; keeps the state before every [`SEGMENT_TOKENS`]-th token and recomputes the others.
pub(super) fn backward<F: Scalar>(rule: &(impl Over<F> + ?Sized), s: &Stream<F>, dy: &[F], dend: &[F]) -> Gradients<F> {
    backward_from(rule, s, &checkpoints(rule, s), SEGMENT_TOKENS, dy, dend)
}

/// Both passes of the reference: what [`forward`], [`backward`] and [`checkpoints`] give, the tokens written once, or
/// twice where their states take too much room.
pub(super) fn both<F: Scalar>(rule: &(impl Over<F> + ?Sized), s: &Stream<F>, dy: &[F], dend: &[F]) -> Both<F> {
    let every = if s.tokens * s.start.len() <= MOST_KEPT { 1 } else { SEGMENT_TOKENS };
    let (run, saved) = forward_keeping(rule, s, every);
    let gradients = backward_from(rule, s, &saved, every, dy, dend);
    (run, gradients, saved.into_iter().step_by(SEGMENT_TOKENS / every).flatten().collect())
}

/// A run, its gradients, and its [`checkpoints`], one after the other.
type Both<F> = (Run<F>, Gradients<F>, Vec<F>);

/// The reference's transpose, from the states before every `every`-th token.
fn backward_from<F: Scalar>(
    rule: &(impl Over<F> + ?Sized),
    s: &Stream<F>,
    saved: &[Vec<F>],
    every: usize,
    dy: &[F],
    dend: &[F],
) -> Gradients<F> {
    let dv = s.d.dv;
    let mut inputs: Vec<Vec<F>> = s.inputs.iter().map(|x| vec![F::zero(); x.len()]).collect();
    let mut start = dend.to_vec();
    for (i, state) in saved.iter().enumerate().rev() {
        let first = i * every;
        let last = (first + every).min(s.tokens);
        let mut states = vec![state.clone()];
        for t in first..last - 1 {
            let mut next = states[t - first].clone();
            rule.write(s.d, s.pos + t as u64, &s.token(t), &mut next);
            states.push(next);
        }
        for t in (first..last).rev() {
            let mut dx: Vec<&mut [F]> =
                inputs.iter_mut().zip(&s.widths).map(|(x, w)| &mut x[t * w..(t + 1) * w]).collect();
            let dy = &dy[t * dv..(t + 1) * dv];
            rule.step_backward(s.d, s.pos + t as u64, &s.token(t), &states[t - first], dy, &mut dx, &mut start);
        }
    }
    Gradients { inputs, start }
}

/// A kernel's forward pass.
pub(super) fn kernel_forward(kernel: &dyn BoundKernel, s: &Stream<f32>, scratch: &mut Scratch) -> Run<f32> {
    kernel_training(kernel, s, None, scratch)
}

/// A kernel's forward pass that also keeps the states of [`checkpoints`], one after the other in `saved`.
pub(super) fn kernel_training(
    kernel: &dyn BoundKernel,
    s: &Stream<f32>,
    saved: Option<&mut [f32]>,
    scratch: &mut Scratch,
) -> Run<f32> {
    let refs: Vec<&[f32]> = s.inputs.iter().map(|x| &x[..]).collect();
    let seq = Sequence { tokens: s.tokens, pos: s.pos, inputs: &refs };
    let (mut y, mut end) = (vec![f32::NAN; s.tokens * s.d.dv], s.start.clone());
    kernel.forward(s.d, seq, &mut end, &mut y, saved, scratch);
    Run { y, end }
}

/// A kernel's backward pass.
pub(super) fn kernel_backward(
    kernel: &dyn BoundKernel,
    s: &Stream<f32>,
    dy: &[f32],
    dend: &[f32],
    scratch: &mut Scratch,
) -> Gradients<f32> {
    let refs: Vec<&[f32]> = s.inputs.iter().map(|x| &x[..]).collect();
    let seq = Sequence { tokens: s.tokens, pos: s.pos, inputs: &refs };
    let mut inputs: Vec<Vec<f32>> = s.inputs.iter().map(|x| vec![0.0; x.len()]).collect();
    let mut start = dend.to_vec();
    let mut dinputs: Vec<&mut [f32]> = inputs.iter_mut().map(|x| &mut x[..]).collect();
    let ct = Cotangents { start: &s.start, dy, dinputs: &mut dinputs, dstate: &mut start };
    kernel.backward(s.d, seq, ct, scratch);
    Gradients { inputs, start }
}

/// The largest magnitude; NaN if there is one.
pub(super) fn scale<F: Scalar>(x: &[F]) -> f64 {
    x.iter().fold(0.0, |m: f64, x| if m >= x.value().abs() { m } else { x.value().abs() })
}

/// The largest difference; NaN if there is one.
pub(super) fn distance<F: Scalar, G: Scalar>(a: &[F], b: &[G]) -> f64 {
    let off = |(a, b): (&F, &G)| (a.value() - b.value()).abs();
    scale(&a.iter().zip(b).map(off).collect::<Vec<f64>>())
}

/// True if both hold the same bits.
pub(super) fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}
