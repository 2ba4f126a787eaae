//! Gate activations: from the pre-activations of a projection to the final values that a rule takes.
//!
//! Gate `g` is `max_g sigmoid(pre_g + bias_g)`, times `1 - gate_d` where `d` damps it. A damping gate is not
//! damped itself.

use super::GateSpec;
use crate::scalar::Scalar;

/// Where one value of one gate lies.
struct Place {
    /// Column in a row of `pre`, and index in `bias`.
    column: usize,
    /// The damping gate's column and maximum.
    damper: Option<(usize, f64)>,
    /// Index in `out`.
    out: usize,
}

/// `pre [T, sum_g H * width_g]` holds the gates one after the other in each row, head by head;
/// `bias [sum_g H * width_g]`; `out` holds one `[H, T, width_g]` after the other.
pub fn gates_forward<F: Scalar>(gates: &[GateSpec], tokens: usize, heads: usize, pre: &[F], bias: &[F], out: &mut [F]) {
    check(gates, tokens, heads, pre, bias, out);
    each(gates, tokens, heads, |gate, t, at| {
        let s = |column: usize| (pre[t * bias.len() + column] + bias[column]).sigmoid();
        let value = F::from_f64(gate.max) * s(at.column);
        out[at.out] = match at.damper {
            Some((damper, max)) => value * (F::one() - F::from_f64(max) * s(damper)),
            None => value,
        };
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
    each(gates, tokens, heads, |gate, t, at| {
        let row = t * bias.len();
        let s = |column: usize| (pre[row + column] + bias[column]).sigmoid();
        let mut add = |column: usize, ds: F| {
            let d = ds * s(column) * (F::one() - s(column));
            dpre[row + column] += d;
            dbias[column] += d;
        };
        let max = F::from_f64(gate.max);
        match at.damper {
            Some((damper, damper_max)) => {
                let damper_max = F::from_f64(damper_max);
                add(at.column, dout[at.out] * max * (F::one() - damper_max * s(damper)));
                add(damper, -(dout[at.out] * max * s(at.column) * damper_max));
            }
            None => add(at.column, dout[at.out] * max),
        }
    });
}

/// Calls `f` with every gate, token and place.
fn each(gates: &[GateSpec], tokens: usize, heads: usize, mut f: impl FnMut(&GateSpec, usize, Place)) {
    let first = |g: usize| heads * gates[..g].iter().map(|gate| gate.width).sum::<usize>();
    for (g, gate) in gates.iter().enumerate() {
        for h in 0..heads {
            for t in 0..tokens {
                for c in 0..gate.width {
                    let within = h * gate.width + c;
                    let place = Place {
                        column: first(g) + within,
                        damper: gate.damped_by.map(|d| (first(d) + within, gates[d].max)),
                        out: first(g) * tokens + (h * tokens + t) * gate.width + c,
                    };
                    f(gate, t, place);
                }
            }
        }
    }
}

fn check<F>(gates: &[GateSpec], tokens: usize, heads: usize, pre: &[F], bias: &[F], out: &[F]) {
    let row = heads * gates.iter().map(|gate| gate.width).sum::<usize>();
    debug_assert_eq!((pre.len(), bias.len(), out.len()), (tokens * row, row, tokens * row));
    for gate in gates {
        if let Some(damper) = gate.damped_by.map(|d| gates[d]) {
            debug_assert!(damper.width == gate.width && damper.damped_by.is_none());
        }
    }
}
