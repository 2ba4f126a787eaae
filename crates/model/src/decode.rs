//! Continuing a text token by token.

use crate::access::Access;
use crate::error::Result;
use crate::generate::Sampler;
use crate::model::{Logits, Model, Workspace};
use crate::params::Params;
use crate::state::State;
use hecate_core::ops::Ops;
use std::ops::ControlFlow;

/// The token that a new state starts from when there is no prompt: a line break in byte vocabularies.
pub const FIRST_TOKEN: u32 = 10;

/// Reads `prompt`, then draws up to `max_tokens` tokens, each handed to `each` as it comes.
///
/// The last token drawn waits in [`State::pending`] and is read first by the next call, so that generating twice is
/// generating once. Draws depend on the seed and on the token's place in the stream, so that they too go on. With
/// [`Access::Read`] all of it happens on a copy.
///
/// # Errors
/// As [`Model::forward`].
pub fn generate<O: Ops<F = f32>>(
    ops: &O,
    model: &Model,
    params: &Params<f32>,
    state: &mut State<f32>,
    prompt: &[u32],
    sampler: &mut Sampler,
    max_tokens: usize,
    access: &Access,
    ws: &mut Workspace<f32>,
    each: &mut dyn FnMut(u32) -> ControlFlow<()>,
) -> Result<()> {
    if *access == Access::Read {
        let learn = &Access::Learn;
        return generate(ops, model, params, &mut state.clone(), prompt, sampler, max_tokens, learn, ws, each);
    }
    let mut input: Vec<u32> = state.pending.take().into_iter().chain(prompt.iter().copied()).collect();
    if input.is_empty() {
        input.push(FIRST_TOKEN.min(model.config().vocab as u32 - 1));
    }
    if max_tokens == 0 {
        // Only reading: the last token waits, as a drawn one does, so that a later call has logits to draw from.
        let last = input.pop();
        model.forward(ops, params, state, &input, access, Logits::Last, ws)?;
        state.pending = last;
        return Ok(());
    }
    for drawn in 0..max_tokens {
        state.pending = None;
        let logits = match drawn {
            0 => model.forward(ops, params, state, &input, access, Logits::Last, ws)?,
            _ => model.go_on(ops, params, state, &input, access, Logits::Last, ws)?,
        };
        *sampler.counter() = state.position;
        let token = sampler.sample(logits);
        state.pending = Some(token);
        if each(token).is_break() {
            break;
        }
        input.clear();
        input.push(token);
    }
    Ok(())
}
