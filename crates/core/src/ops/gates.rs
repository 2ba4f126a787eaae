//! Gate activations: from the pre-activations of a projection to the final values that a rule takes.
//!
//! With `z = pre + bias`, a gate is `floor + (max - floor) sigmoid(z)`, times `1 - g` where another gate `g` damps it;
//! `floor + softplus(z)`; the softmax of `z` over its width; or a constant of its head, which has no pre-activation. A
//! damping gate is a sigmoid with floor 0 that is not damped itself, as wide as what it damps or of width 1.

use crate::rule::{Activation, Dims, HeadDecay, Input};
use crate::scalar::Scalar;

/// One gate of a rule, see [`Activation`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GateSpec {
    /// Values per head and token.
    pub width: usize,
    /// How they are made.
    pub kind: GateKind,
}

/// How a gate's values are made from its pre-activations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GateKind {
    /// `floor + (max - floor) sigmoid(z)`.
    Sigmoid {
        /// Lower end of the range.
        floor: f64,
        /// Upper end of the range.
        max: f64,
        /// Index of the gate whose complement scales this one: as wide as this one, or of width 1 for all of it.
        damped_by: Option<usize>,
    },
    /// `floor + softplus(z)`.
    Softplus {
        /// Lower end of the range.
        floor: f64,
    },
    /// Positive values that add up to one over the gate's width.
    Softmax,
    /// The decay of the head: no pre-activation, no bias.
    PerHead(HeadDecay),
}

impl GateSpec {
    /// Values of one head in a row of pre-activations: its width, and none for a constant.
    pub fn columns(&self) -> usize {
        match self.kind {
            GateKind::PerHead(_) => 0,
            GateKind::Sigmoid { .. } | GateKind::Softplus { .. } | GateKind::Softmax => self.width,
        }
    }
}

/// The gates among the inputs of a rule, in their order, and the biases that they start from, laid out as
/// `gates_forward` takes them: `[sum_g H * columns_g]`.
pub fn gate_specs(inputs: &[Input], d: Dims, heads: usize) -> (Vec<GateSpec>, Vec<f64>) {
    let convolved = |i: &&Input| i.activation.is_convolved();
    let index = |name| inputs.iter().filter(|i| !convolved(i)).position(|i| i.name == name);
    let (mut gates, mut biases) = (Vec::new(), Vec::new());
    for input in inputs {
        let kind = match input.activation {
            Activation::Unit | Activation::Silu | Activation::Share => continue,
            Activation::Sigmoid { floor, max, damped_by, .. } => {
                GateKind::Sigmoid { floor, max, damped_by: damped_by.and_then(index) }
            }
            Activation::Softplus { floor, .. } => GateKind::Softplus { floor },
            Activation::Softmax => GateKind::Softmax,
            Activation::PerHead(decay) => GateKind::PerHead(decay),
        };
        let bias = input.activation.biases(d);
        let gate = GateSpec { width: input.width.of(d), kind };
        for _ in 0..heads {
            biases.extend(bias.iter().cycle().take(gate.columns()));
        }
        gates.push(gate);
    }
    (gates, biases)
}

/// One head of one gate for one token.
struct Place {
    /// Head and token.
    head: usize,
    token: usize,
    /// First column in a row of `pre`, and index in `bias`.
    column: usize,
    /// First index in `out`.
    out: usize,
    /// The damping gate's first column, its width and its maximum.
    damper: Option<(usize, usize, f64)>,
}

impl Place {
    /// The damper of channel `c`: its column and its maximum.
    fn damper(&self, c: usize) -> Option<(usize, f64)> {
        self.damper.map(|(column, width, max)| (column + if width == 1 { 0 } else { c }, max))
    }
}

/// `pre [T, sum_g H * columns_g]` holds the gates one after the other in each row, head by head;
/// `bias [sum_g H * columns_g]`; `out` holds one `[H, T, width_g]` after the other.
pub fn gates_forward<F: Scalar>(gates: &[GateSpec], tokens: usize, heads: usize, pre: &[F], bias: &[F], out: &mut [F]) {
    check(gates, tokens, heads, pre, bias, out);
    each(gates, tokens, heads, |gate, at| {
        let z = |column: usize| pre[at.token * bias.len() + column] + bias[column];
        let out = &mut out[at.out..at.out + gate.width];
        match gate.kind {
            GateKind::Sigmoid { floor, max, .. } => {
                for (c, out) in out.iter_mut().enumerate() {
                    let value = F::from_f64(floor) + F::from_f64(max - floor) * z(at.column + c).sigmoid();
                    *out = match at.damper(c) {
                        Some((damper, max)) => value * (F::one() - F::from_f64(max) * z(damper).sigmoid()),
                        None => value,
                    };
                }
            }
            GateKind::Softplus { floor } => {
                for (c, out) in out.iter_mut().enumerate() {
                    *out = F::from_f64(floor) + z(at.column + c).softplus();
                }
            }
            GateKind::Softmax => {
                out.iter_mut().enumerate().for_each(|(c, out)| *out = z(at.column + c));
                softmax(out);
            }
            GateKind::PerHead(decay) => out.fill(F::from_f64(decay.of(at.head, heads))),
        }
    });
}

/// Transpose of [`gates_forward`]: adds into `dpre` and `dbias`, shaped like `pre` and `bias`.
pub fn gates_backward<F: Scalar>(
    gates: &[GateSpec],
    tokens: usize,
    heads: usize,
    pre: &[F],
    bias: &[F],
    dout: &[F],
    dpre: &mut [F],
    dbias: &mut [F],
) {
    check(gates, tokens, heads, pre, bias, dout);
    debug_assert_eq!((dpre.len(), dbias.len()), (pre.len(), bias.len()));
    each(gates, tokens, heads, |gate, at| {
        let row = at.token * bias.len();
        let z = |column: usize| pre[row + column] + bias[column];
        let mut add = |column: usize, dz: F| {
            dpre[row + column] += dz;
            dbias[column] += dz;
        };
        let dout = &dout[at.out..at.out + gate.width];
        match gate.kind {
            GateKind::Sigmoid { floor, max, .. } => {
                for (c, &dout) in dout.iter().enumerate() {
                    let s = z(at.column + c).sigmoid();
                    let range = F::from_f64(max - floor);
                    let kept = match at.damper(c) {
                        Some((damper, most)) => {
                            let (g, most) = (z(damper).sigmoid(), F::from_f64(most));
                            let value = F::from_f64(floor) + range * s;
                            add(damper, -(dout * value * most * g * (F::one() - g)));
                            F::one() - most * g
                        }
                        None => F::one(),
                    };
                    add(at.column + c, dout * range * kept * s * (F::one() - s));
                }
            }
            GateKind::Softplus { .. } => {
                for (c, &dout) in dout.iter().enumerate() {
                    add(at.column + c, dout * z(at.column + c).sigmoid());
                }
            }
            GateKind::Softmax => {
                let mut p: Vec<F> = (0..gate.width).map(|c| z(at.column + c)).collect();
                softmax(&mut p);
                let mean = p.iter().zip(dout).map(|(&p, &d)| p * d).sum::<F>();
                for (c, (&p, &d)) in p.iter().zip(dout).enumerate() {
                    add(at.column + c, p * (d - mean));
                }
            }
            GateKind::PerHead(_) => {}
        }
    });
}

/// In place; the largest value is taken off first, so that nothing overflows.
fn softmax<F: Scalar>(z: &mut [F]) {
    let Some(&first) = z.first() else { return };
    // The shift cancels, so that it needs no derivative of its own.
    let most = z.iter().fold(first, |a, &b| if b > a { b } else { a }).detach();
    z.iter_mut().for_each(|z| *z = (*z - most).exp());
    let sum = z.iter().copied().sum::<F>();
    z.iter_mut().for_each(|z| *z /= sum);
}

/// Calls `f` with every head of every gate for every token.
fn each(gates: &[GateSpec], tokens: usize, heads: usize, mut f: impl FnMut(&GateSpec, Place)) {
    let column = |g: usize| heads * gates[..g].iter().map(GateSpec::columns).sum::<usize>();
    let out = |g: usize| heads * tokens * gates[..g].iter().map(|gate| gate.width).sum::<usize>();
    for (g, gate) in gates.iter().enumerate() {
        for head in 0..heads {
            let damper = damper(gates, gate).map(|(d, max)| {
                let width = gates[d].width;
                (column(d) + head * width, width, max)
            });
            for token in 0..tokens {
                let place = Place {
                    head,
                    token,
                    column: column(g) + head * gate.columns(),
                    out: out(g) + (head * tokens + token) * gate.width,
                    damper,
                };
                f(gate, place);
            }
        }
    }
}

/// The index and the maximum of the gate that damps `gate`.
pub(crate) fn damper(gates: &[GateSpec], gate: &GateSpec) -> Option<(usize, f64)> {
    let GateKind::Sigmoid { damped_by: Some(d), .. } = gate.kind else { return None };
    match gates[d].kind {
        GateKind::Sigmoid { max, .. } => Some((d, max)),
        _ => None,
    }
}

fn check<F>(gates: &[GateSpec], tokens: usize, heads: usize, pre: &[F], bias: &[F], out: &[F]) {
    let row = heads * gates.iter().map(GateSpec::columns).sum::<usize>();
    let values = heads * gates.iter().map(|gate| gate.width).sum::<usize>();
    debug_assert_eq!((pre.len(), bias.len(), out.len()), (tokens * row, row, tokens * values));
    for gate in gates {
        if let GateKind::Sigmoid { damped_by: Some(d), .. } = gate.kind {
            let damper = gates[d];
            debug_assert!(damper.width == gate.width || damper.width == 1);
            debug_assert!(matches!(damper.kind, GateKind::Sigmoid { floor: 0.0, damped_by: None, .. }));
        }
    }
}
