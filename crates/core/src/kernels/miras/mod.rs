//! Kernels of the generic rule [`crate::rules::Miras`].
//!
//! Gradients of a chunk are taken at one state, so inside of a block of tokens every weight tensor follows a linear
//! recurrence with known steps, and no tensor is formed per token [Titans v1 eq.16] [Miras v1 eq.28]:
//!
//! ```text
//! at the anchor   h = inputs of the layers, B = what flows back into their results      G_i = B_i h_i^T
//! state           Z_t = a_t Z_0 + m_t S_0 + (1 - a_t) target + sum_i r[t,i] G_i          see `coefficients`
//! a read          o_t = Z_t x_t = a_t Z_0 x_t + m_t S_0 x_t + .. + sum_i r[t,i] (x_t . h_i) B_i
//! ```
//!
//! layer by layer: one masked product of tokens with tokens per layer, nested in the activations. A block lies inside
//! of one chunk and starts anywhere in it, since the state has the anchor. See `transpose` for the way back, and `mapped`
//! for states that are not the weights.

mod blocks;
mod channels;
mod coefficients;
mod dual;
mod frame;
mod mapped;
mod maps;
pub(crate) mod orthogonal;
mod pairs;
pub(in crate::kernels) mod pointwise;
pub(crate) mod rank_one;
mod rows;
pub(crate) mod self_modifying;
mod shape;
mod token;
mod transpose;

use super::channels as family;
use crate::kernel::{Kernel, Scratch, Sequence};
use crate::rule::Dims;
use crate::rules::Miras;
use crate::scan::CHECKPOINT_TOKENS;

/// Shortest chunk at which products of tokens with tokens are worth their setting up.
const LEAST_CHUNK: usize = 4;

/// The kernels, in order of measured speed.
pub(crate) const KERNELS: &[Kernel<Miras>] = &[
    Kernel {
        name: "sequential",
        about: "a write of rank one per token: one pass over the state; chunk form backward",
        canonical: true,
        is_available: |rule, _| rank_one::covers(rule),
        forward: |rule, d, seq, state, y, saved, scratch| {
            keep(rank_one::forward::<0>, rule, d, seq, state, y, saved, scratch)
        },
        backward: rank_one::backward,
        read: rank_one::read,
        column: None,
    },
    Kernel {
        name: "chunk",
        about: "a write of rank one per token: many tokens at once through a triangular solve",
        canonical: false,
        is_available: |rule, _| rank_one::covers(rule),
        forward: |rule, d, seq, state, y, saved, scratch| {
            keep(rank_one::forward::<1>, rule, d, seq, state, y, saved, scratch)
        },
        backward: rank_one::backward,
        read: rank_one::read,
        column: None,
    },
    Kernel {
        name: "blocks",
        about: "frozen gradients of many tokens through nested masked products",
        canonical: false,
        is_available: |rule, _| rule.chunk >= LEAST_CHUNK && shape::shares(rule),
        forward: |rule, d, seq, state, y, saved, scratch| keep(blocks::forward, rule, d, seq, state, y, saved, scratch),
        backward: blocks::backward,
        read: token::read,
        column: None,
    },
    Kernel {
        name: "token",
        about: "frozen gradients, one token after the other; blocks backward",
        canonical: true,
        is_available: |rule, _| shape::covers(rule),
        forward: |rule, d, seq, state, y, saved, scratch| keep(token::forward, rule, d, seq, state, y, saved, scratch),
        backward: blocks::backward,
        read: token::read,
        column: None,
    },
    family::kernels::<Miras>()[0],
];

/// A forward pass that keeps no states.
type Plain = fn(&Miras, Dims, Sequence<'_, f32>, &mut [f32], &mut [f32], &mut Scratch);

/// Runs a forward pass; in training, piece by piece, with the state before each.
fn keep(
    run: Plain,
    rule: &Miras,
    d: Dims,
    seq: Sequence<'_, f32>,
    state: &mut [f32],
    y: &mut [f32],
    saved: Option<&mut [f32]>,
    scratch: &mut Scratch,
) {
    let Some(saved) = saved else { return run(rule, d, seq, state, y, scratch) };
    for (i, saved) in saved.chunks_exact_mut(state.len().max(1)).enumerate() {
        saved.copy_from_slice(state);
        let (first, last) = (i * CHECKPOINT_TOKENS, ((i + 1) * CHECKPOINT_TOKENS).min(seq.tokens));
        let inputs = seq.rows(first, last - first);
        let piece = Sequence { tokens: last - first, pos: seq.pos + first as u64, inputs: &inputs };
        run(rule, d, piece, state, &mut y[first * d.dv..last * d.dv], scratch);
    }
}
