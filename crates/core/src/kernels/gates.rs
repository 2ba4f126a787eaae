//! Gate activations. A few values per token, so they run on one thread.

use super::scratch;
use super::vector::{add_to, get, kernel, put};
use crate::ops::GateSpec;

/// Columns of one gate in a row of pre-activations: `(first, its damper's first and maximum)`.
fn columns(gates: &[GateSpec], heads: usize, g: usize) -> (usize, Option<(usize, f32)>) {
    let first = |g: usize| heads * gates[..g].iter().map(|gate| gate.width).sum::<usize>();
    (first(g), gates[g].damped_by.map(|d| (first(d), gates[d].max as f32)))
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
            let pre = &pre[t * bias.len()..][..bias.len()];
            for c in (0..bias.len()).step_by(S::LANES) {
                put(s, p, c, s.sigmoid(s.add(get(s, pre, c), get(s, bias, c))));
            }
            for (g, gate) in gates.iter().enumerate() {
                let (first, damper) = columns(gates, heads, g);
                for i in 0..heads * gate.width {
                    let (h, c) = (i / gate.width, i % gate.width);
                    let kept = damper.map_or(1.0, |(damper, max)| 1.0 - max * p[damper + i]);
                    out[first * tokens + (h * tokens + t) * gate.width + c] = gate.max as f32 * p[first + i] * kept;
                }
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
            let pre = &pre[t * bias.len()..][..bias.len()];
            for c in (0..bias.len()).step_by(S::LANES) {
                put(s, p, c, s.sigmoid(s.add(get(s, pre, c), get(s, bias, c))));
            }
            dp.fill(0.0);
            for (g, gate) in gates.iter().enumerate() {
                let (first, damper) = columns(gates, heads, g);
                for i in 0..heads * gate.width {
                    let (h, c) = (i / gate.width, i % gate.width);
                    let d = gate.max as f32 * dout[first * tokens + (h * tokens + t) * gate.width + c];
                    match damper {
                        Some((damper, max)) => {
                            dp[first + i] += d * (1.0 - max * p[damper + i]);
                            dp[damper + i] -= d * max * p[first + i];
                        }
                        None => dp[first + i] += d,
                    }
                }
            }
            let dpre = &mut dpre[t * bias.len()..][..bias.len()];
            for c in (0..bias.len()).step_by(S::LANES) {
                let p = get(s, p, c);
                let d = s.mul(get(s, dp, c), s.mul(p, s.sub(s.splat(1.0), p)));
                add_to(s, dpre, c, d);
                add_to(s, dbias, c, d);
            }
        }
    }
}
