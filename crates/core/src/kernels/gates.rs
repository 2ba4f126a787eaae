//! Gate activations. A few values per token, so they run on one thread.

use super::scratch;
use super::vector::{add_to, get, kernel, put};
use crate::ops::{GateKind, GateSpec, damper};
use crate::scalar::Scalar;
use crate::simd::Simd;

/// The first column of gate `g` in a row of pre-activations.
fn first_column(gates: &[GateSpec], heads: usize, g: usize) -> usize {
    heads * gates[..g].iter().map(GateSpec::columns).sum::<usize>()
}

/// The damper of a gate: its first column, its width and its maximum.
fn damping(gates: &[GateSpec], heads: usize, gate: &GateSpec) -> Option<(usize, usize, f32)> {
    damper(gates, gate).map(|(d, max)| (first_column(gates, heads, d), gates[d].width, max as f32))
}

/// The column of the damper of head `h`, channel `c`.
fn damping_column((first, width, _): (usize, usize, f32), h: usize, c: usize) -> usize {
    if width == 1 { first + h } else { first + h * width + c }
}

/// `p` of one row: sigmoids and softmaxes final, softplus gates still `pre + bias`.
#[inline(always)]
fn activate<S: Simd>(s: S, gates: &[GateSpec], heads: usize, pre: &[f32], bias: &[f32], p: &mut [f32]) {
    for c in (0..bias.len()).step_by(S::LANES) {
        put(s, p, c, s.add(get(s, pre, c), get(s, bias, c)));
    }
    let mut rest = p;
    for gate in gates {
        let (own, tail) = rest.split_at_mut(heads * gate.columns());
        rest = tail;
        match gate.kind {
            GateKind::Sigmoid { .. } => {
                for c in (0..own.len()).step_by(S::LANES) {
                    let v = s.sigmoid(get(s, own, c));
                    put(s, own, c, v);
                }
            }
            GateKind::Softmax => own.chunks_exact_mut(gate.width.max(1)).for_each(|own| softmax(s, own)),
            GateKind::Softplus { .. } | GateKind::PerHead(_) => {}
        }
    }
}

#[inline(always)]
fn softmax<S: Simd>(s: S, z: &mut [f32]) {
    let most = z.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    for c in (0..z.len()).step_by(S::LANES) {
        let v = s.exp(s.sub(get(s, z, c), s.splat(most)));
        put(s, z, c, v);
    }
    let sum: f32 = z.iter().sum();
    z.iter_mut().for_each(|z| *z /= sum);
}

kernel! {
    /// See [`crate::ops::Ops::gates_forward`].
    pub(crate) fn forward(
        s: S,
        gates: &'a [GateSpec],
        tokens: usize,
        heads: usize,
        pre: &'a [f32],
        bias: &'a [f32],
        out: &'a mut [f32],
    ) {
        let mut scratch = scratch::borrow();
        let [p] = scratch.take([bias.len()]);
        for t in 0..tokens {
            activate(s, gates, heads, &pre[t * bias.len()..][..bias.len()], bias, p);
            let (mut column, mut first) = (0, 0);
            for gate in gates {
                let damper = damping(gates, heads, gate);
                for i in 0..heads * gate.width {
                    let (h, c) = (i / gate.width, i % gate.width);
                    out[first + (h * tokens + t) * gate.width + c] = match gate.kind {
                        GateKind::Sigmoid { floor, max, .. } => {
                            let kept = damper.map_or(1.0, |d| 1.0 - d.2 * p[damping_column(d, h, c)]);
                            (floor as f32 + (max - floor) as f32 * p[column + i]) * kept
                        }
                        GateKind::Softplus { floor } => floor as f32 + p[column + i].softplus(),
                        GateKind::Softmax => p[column + i],
                        GateKind::PerHead(decay) => decay.of(h, heads) as f32,
                    };
                }
                column += heads * gate.columns();
                first += heads * tokens * gate.width;
            }
        }
    }

    /// See [`crate::ops::Ops::gates_backward`].
    pub(crate) fn backward(
        s: S,
        gates: &'a [GateSpec],
        tokens: usize,
        heads: usize,
        inputs: [&'a [f32]; 3],
        dpre: &'a mut [f32],
        dbias: &'a mut [f32],
    ) {
        let [pre, bias, dout] = inputs;
        let mut scratch = scratch::borrow();
        let [p, dp] = scratch.take([bias.len(), bias.len()]);
        for t in 0..tokens {
            activate(s, gates, heads, &pre[t * bias.len()..][..bias.len()], bias, p);
            dp.fill(0.0);
            let (mut column, mut first) = (0, 0);
            for gate in gates {
                let damper = damping(gates, heads, gate);
                let GateKind::Sigmoid { floor, max, .. } = gate.kind else {
                    first += heads * tokens * gate.width;
                    column += heads * gate.columns();
                    continue;
                };
                for i in 0..heads * gate.width {
                    let (h, c) = (i / gate.width, i % gate.width);
                    let d = dout[first + (h * tokens + t) * gate.width + c];
                    let (floor, range) = (floor as f32, (max - floor) as f32);
                    match damper {
                        Some(damper) => {
                            let at = damping_column(damper, h, c);
                            dp[column + i] += range * d * (1.0 - damper.2 * p[at]);
                            dp[at] -= d * damper.2 * (floor + range * p[column + i]);
                        }
                        None => dp[column + i] += range * d,
                    }
                }
                first += heads * tokens * gate.width;
                column += heads * gate.columns();
            }
            through_activations(s, gates, [heads, tokens, t], p, dp, dout);
            let dpre = &mut dpre[t * bias.len()..][..bias.len()];
            for c in (0..bias.len()).step_by(S::LANES) {
                let d = get(s, dp, c);
                add_to(s, dpre, c, d);
                add_to(s, dbias, c, d);
            }
        }
    }
}

/// Turns `dp` of sigmoids into the gradient of their pre-activations, and fills in that of all other gates.
#[inline(always)]
fn through_activations<S: Simd>(
    s: S,
    gates: &[GateSpec],
    [heads, tokens, t]: [usize; 3],
    p: &[f32],
    dp: &mut [f32],
    dout: &[f32],
) {
    let (mut column, mut first) = (0, 0);
    for gate in gates {
        let n = heads * gate.columns();
        let (p, dp) = (&p[column..][..n], &mut dp[column..][..n]);
        match gate.kind {
            GateKind::Sigmoid { .. } => {
                for c in (0..n).step_by(S::LANES) {
                    let (x, d) = (get(s, p, c), get(s, dp, c));
                    put(s, dp, c, s.mul(d, s.mul(x, s.sub(s.splat(1.0), x))));
                }
            }
            GateKind::Softplus { .. } => {
                for i in 0..n {
                    let (h, c) = (i / gate.width, i % gate.width);
                    dp[i] = dout[first + (h * tokens + t) * gate.width + c] * p[i].sigmoid();
                }
            }
            GateKind::Softmax => {
                for h in 0..heads {
                    let own = h * gate.width..(h + 1) * gate.width;
                    let (p, dout) = (&p[own.clone()], &dout[first + (h * tokens + t) * gate.width..][..gate.width]);
                    let mean: f32 = p.iter().zip(dout).map(|(p, d)| p * d).sum();
                    for ((dp, p), d) in dp[own].iter_mut().zip(p).zip(dout) {
                        *dp = p * (d - mean);
                    }
                }
            }
            GateKind::PerHead(_) => {}
        }
        column += n;
        first += heads * tokens * gate.width;
    }
}
