//! One scan runs any rule over heads and tokens, forward and backward, with checkpointed states.
//!
//! Layouts: each input is `[heads, tokens, width]`, a state buffer is `[heads, state_len]`, reads are
//! `[heads, tokens, dv]`, all row-major. The forward pass of training keeps the state at every
//! [`CHECKPOINT_TOKENS`]-th token; the backward pass recomputes from there, so that memory grows with the
//! number of chunks.
//!
//! [`reference_forward`], [`reference_backward`] and [`reference_column_backward`] are the slow law over any number
//! type; [`forward_f32`], [`backward_f32`] and [`column_backward_f32`] run the rule's kernels, heads side by side.

mod fused;
mod non_finite;

pub use fused::{Run, backward_f32, column_backward_f32, forward_f32};
pub use non_finite::{all_finite, first_non_finite};

use crate::erased::Number;
use crate::error::{Result, expect_len};
use crate::rule::{Dims, Input};
use crate::rules::AnyRule;
use arrayvec::ArrayVec;

/// Tokens between two kept states of a training pass.
pub const CHECKPOINT_TOKENS: usize = 64;
/// The most inputs that a rule may list: four inner steps of the generic rule bring 18.
pub const MAX_INPUTS: usize = 18;

/// A short list without allocation, one entry per input.
pub type PerInput<T> = ArrayVec<T, MAX_INPUTS>;

/// Extent of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanShape {
    /// Independent memories: heads, or batch times heads.
    pub heads: usize,
    /// Tokens of this call.
    pub tokens: usize,
    /// Size of one memory.
    pub dims: Dims,
    /// Tokens that the states took before this call.
    pub pos: u64,
}

impl ScanShape {
    /// Number of states that a training pass keeps per head.
    pub fn checkpoints(&self) -> usize {
        self.tokens.div_ceil(CHECKPOINT_TOKENS)
    }
}

/// What a call may do to the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Every token writes.
    Yes,
    /// Reads only: the state does not change.
    No,
}

/// Checks every buffer of a scan once; kernels only `debug_assert!`.
///
/// # Errors
/// [`crate::Error::Shape`] with the argument that is off.
pub fn check<F>(rule: &AnyRule, s: ScanShape, inputs: &[&[F]], state: &[F], y: &[F]) -> Result<()> {
    expect_len("scan", "state", s.heads * rule.state_len(s.dims), state.len())?;
    check_tokens(rule, s, inputs, y)
}

/// The part of [`check`] that is about tokens.
pub(crate) fn check_tokens<F>(rule: &AnyRule, s: ScanShape, inputs: &[&[F]], y: &[F]) -> Result<()> {
    let list = rule.inputs();
    expect_len("scan", "inputs", list.len(), inputs.len())?;
    for (input, data) in list.iter().zip(inputs) {
        expect_len("scan", input.name, s.heads * s.tokens * input.width.of(s.dims), data.len())?;
    }
    expect_len("scan", "y", s.heads * s.tokens * s.dims.dv, y.len())?;
    rule.check(s.dims)
}

/// The slow scan, law for every kernel: one head after the other, one token after the other.
///
/// `saved`, where given, receives the state before every [`CHECKPOINT_TOKENS`]-th token:
/// `[heads, checkpoints, state_len]`.
pub fn reference_forward<F: Number>(
    rule: &AnyRule,
    s: ScanShape,
    inputs: &[&[F]],
    state: &mut [F],
    y: &mut [F],
    mut saved: Option<&mut [F]>,
    write: Write,
) {
    let (len, list) = (rule.state_len(s.dims), rule.inputs());
    for h in 0..s.heads {
        let state = &mut state[h * len..(h + 1) * len];
        for t in 0..s.tokens {
            if let (Some(saved), 0) = (&mut saved, t % CHECKPOINT_TOKENS) {
                let at = (h * s.checkpoints() + t / CHECKPOINT_TOKENS) * len;
                saved[at..at + len].copy_from_slice(state);
            }
            let x = token(&list, s, inputs, h, t);
            let y = &mut y[(h * s.tokens + t) * s.dims.dv..][..s.dims.dv];
            match write {
                Write::Yes => rule.step(s.dims, s.pos + t as u64, &x, state, y),
                Write::No => rule.read(s.dims, s.pos + t as u64, &x, state, y),
            }
        }
    }
}

/// Transpose of [`reference_forward`] with [`Write::Yes`], from its `saved` states.
///
/// `dinputs` are added into; `dstate` is dL/dstate at the end on entry, at the start on exit.
pub fn reference_backward<F: Number>(
    rule: &AnyRule,
    s: ScanShape,
    inputs: &[&[F]],
    saved: &[F],
    dy: &[F],
    dinputs: &mut [&mut [F]],
    dstate: &mut [F],
) {
    let (len, list) = (rule.state_len(s.dims), rule.inputs());
    for_each_token_back(rule, s, inputs, saved, |h, t, x, prev| {
        let dy = &dy[(h * s.tokens + t) * s.dims.dv..][..s.dims.dv];
        let mut dx = token_mut(&list, s, dinputs, h, t);
        rule.step_backward(s.dims, s.pos + t as u64, x, prev, dy, &mut dx, &mut dstate[h * len..(h + 1) * len]);
    });
}

/// [`reference_backward`] along the column of each token: what the token's inputs give to its own read, through its own
/// write. The state before the token is a constant, and what later reads see of the write does not come back.
///
/// `dinputs` are added into.
pub fn reference_column_backward<F: Number>(
    rule: &AnyRule,
    s: ScanShape,
    inputs: &[&[F]],
    saved: &[F],
    dy: &[F],
    dinputs: &mut [&mut [F]],
) {
    let (mut dstate, list) = (vec![F::zero(); rule.state_len(s.dims)], rule.inputs());
    for_each_token_back(rule, s, inputs, saved, |h, t, x, prev| {
        let dy = &dy[(h * s.tokens + t) * s.dims.dv..][..s.dims.dv];
        let mut dx = token_mut(&list, s, dinputs, h, t);
        dstate.fill(F::zero());
        rule.step_backward(s.dims, s.pos + t as u64, x, prev, dy, &mut dx, &mut dstate);
    });
}

/// Calls `each` with head, token, the token's inputs and the state before it, for the tokens of each head from the last
/// to the first; states are computed again from the `saved` ones.
fn for_each_token_back<F: Number>(
    rule: &AnyRule,
    s: ScanShape,
    inputs: &[&[F]],
    saved: &[F],
    mut each: impl FnMut(usize, usize, &[&[F]], &[F]),
) {
    let (len, list) = (rule.state_len(s.dims), rule.inputs());
    let mut unread = vec![F::zero(); s.dims.dv];
    for h in 0..s.heads {
        for c in (0..s.checkpoints()).rev() {
            let first = c * CHECKPOINT_TOKENS;
            let last = (first + CHECKPOINT_TOKENS).min(s.tokens);
            let mut states = vec![saved[(h * s.checkpoints() + c) * len..][..len].to_vec()];
            for t in first..last - 1 {
                let mut next = states[states.len() - 1].clone();
                rule.step(s.dims, s.pos + t as u64, &token(&list, s, inputs, h, t), &mut next, &mut unread);
                states.push(next);
            }
            for t in (first..last).rev() {
                each(h, t, &token(&list, s, inputs, h, t), &states[t - first]);
            }
        }
    }
}

/// Transpose of [`reference_forward`] with [`Write::No`]: adds into `dinputs` and into `dstate`.
pub fn reference_read_backward<F: Number>(
    rule: &AnyRule,
    s: ScanShape,
    inputs: &[&[F]],
    state: &[F],
    dy: &[F],
    dinputs: &mut [&mut [F]],
    dstate: &mut [F],
) {
    let (len, list, dv) = (rule.state_len(s.dims), rule.inputs(), s.dims.dv);
    for h in 0..s.heads {
        let (state, dstate) = (&state[h * len..(h + 1) * len], &mut dstate[h * len..(h + 1) * len]);
        for t in 0..s.tokens {
            let x = token(&list, s, inputs, h, t);
            let mut dx = token_mut(&list, s, dinputs, h, t);
            let dy = &dy[(h * s.tokens + t) * dv..][..dv];
            F::over(rule).read_backward(s.dims, s.pos + t as u64, &x, state, dy, &mut dx, dstate);
        }
    }
}

fn token<'a, F>(list: &[Input], s: ScanShape, inputs: &[&'a [F]], h: usize, t: usize) -> PerInput<&'a [F]> {
    let row = |(input, data): (&Input, &&'a [F])| {
        let width = input.width.of(s.dims);
        &data[(h * s.tokens + t) * width..][..width]
    };
    list.iter().zip(inputs).map(row).collect()
}

fn token_mut<'a, F>(
    list: &[Input],
    s: ScanShape,
    dinputs: &'a mut [&mut [F]],
    h: usize,
    t: usize,
) -> PerInput<&'a mut [F]> {
    let row = |(input, data): (&Input, &'a mut &mut [F])| {
        let width = input.width.of(s.dims);
        &mut data[(h * s.tokens + t) * width..][..width]
    };
    list.iter().zip(dinputs).map(row).collect()
}
