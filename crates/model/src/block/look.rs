//! Reading a memory without writing: what a mixer asks a state that stands still.
//!
//! The inputs of such a read skip the short convolution, which runs over the written stream alone; those that it does not
//! look at are not made.

use super::Call;
use super::memory::{Memory, inputs, inputs_mut};
use crate::error::{Error, Result};
use crate::pool::{Pool, fit};
use hecate_core::Scalar;
use hecate_core::ops::{ConvShape, Ops};
use hecate_core::scan::{Write, reference_read_backward};

#[derive(Debug, Default)]
pub(super) struct LookTape<F> {
    pre: Vec<Vec<F>>,    // per convolved input: [T, H * width]
    inputs: Vec<Vec<F>>, // per convolved input: [H, T, width]
    gate_pre: Vec<F>,    // [T, gates * H]
    gates: Vec<F>,       // per gate [H, T, width]
    pub y: Vec<F>,       // [H, T, dv]
}

impl<F> LookTape<F> {
    pub fn len(&self) -> usize {
        let lists = [&self.pre, &self.inputs].map(|l| l.iter().map(Vec::len).sum::<usize>());
        lists.iter().sum::<usize>() + self.gate_pre.len() + self.gates.len() + self.y.len()
    }
}

impl Memory {
    /// Reads `memory [H, state_len]`, a state of this memory as it was at some token, for every row of `x`.
    pub(super) fn look<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        memory: &mut [O::F],
        tape: &mut LookTape<O::F>,
    ) -> Result<()> {
        let tokens = call.tokens;
        for list in [&mut tape.pre, &mut tape.inputs] {
            list.resize_with(self.convolved.len(), Vec::new);
        }
        for (i, p) in self.convolved.iter().enumerate() {
            let s = ConvShape { taps: 0, ..self.conv_shape(p, tokens) };
            let input = fit(&mut tape.inputs[i], s.heads.len());
            if !p.read {
                input.fill(O::F::zero());
                continue;
            }
            let pre = fit(&mut tape.pre[i], s.heads.len());
            p.project(call, x, pre);
            call.ops.conv_forward(s, pre, &[], &[], input);
        }
        call.linear(&self.gate_weight, x, fit(&mut tape.gate_pre, tokens * self.gate_bias.len()));
        let bias = &call.params[self.gate_bias.clone()];
        let gates = fit(&mut tape.gates, tokens * self.gate_values());
        call.ops.gates_forward(&self.gates, tokens, self.heads, &tape.gate_pre, bias, gates);
        let s = self.scan_shape(tokens, call.pos);
        let y = fit(&mut tape.y, self.head_shape(tokens).len());
        let inputs = inputs(&self.slots, &self.gates, tokens * self.heads, &tape.inputs, &tape.gates);
        let result = call.ops.scan_forward(&self.rule, s, &inputs, memory, y, None, Write::No);
        result.map_err(|source| Error::Core { place: self.place.clone(), source })
    }

    /// Transpose of [`Memory::look`]; adds the gradient of the state into `dmemory`.
    pub(super) fn look_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        memory: &[O::F],
        tape: &LookTape<O::F>,
        dy: &[O::F],
        dmemory: &mut [O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) {
        let (tokens, rows) = (call.tokens, call.tokens * self.heads);
        let mut dconvolved: Vec<Vec<O::F>> = tape.inputs.iter().map(|v| pool.zeros(v.len())).collect();
        let mut dgates = pool.zeros(tape.gates.len());
        {
            let inputs = inputs(&self.slots, &self.gates, rows, &tape.inputs, &tape.gates);
            let mut dinputs = inputs_mut(&self.slots, &self.gates, rows, &mut dconvolved, &mut dgates);
            let s = self.scan_shape(tokens, call.pos);
            reference_read_backward(&self.rule, s, &inputs, memory, dy, &mut dinputs, dmemory);
        }
        self.gates_backward(call, x, &tape.gate_pre, &dgates, dx, grads, pool);
        for (i, p) in self.convolved.iter().enumerate().filter(|(_, p)| p.read) {
            let mut dpre = pool.zeros(tape.pre[i].len());
            let s = ConvShape { taps: 0, ..self.conv_shape(p, tokens) };
            call.ops.conv_backward(s, &tape.pre[i], &[], &[], &dconvolved[i], &mut dpre, &mut []);
            p.project_backward(call, x, &dpre, dx, grads);
            pool.give(dpre);
        }
        dconvolved.into_iter().chain([dgates]).for_each(|buffer| pool.give(buffer));
    }
}
