//! A memory that learns while it runs, with what makes its inputs.
//!
//! Every input of the rule is made as its [`Activation`] says: a projection with a short convolution, SiLU and
//! perhaps unit length, or a gate. Alone, the read leaves through `norm * silu(x W_g)` and a projection
//! [Titans v1 sec.4.4]. What the memory holds before the first token is learned where the rule says so; see
//! [`starts`](super::starts).

use super::starts::Starts;
use super::{Builder, Call};
use crate::config::MemoryConfig;
use crate::error::{Error, Result};
use crate::params::{Init, Kind};
use crate::pool::{Pool, fit};
use crate::state::Content;
use hecate_core::ops::{ConvShape, GateSpec, HeadShape, Ops, conv, gate_specs};
use hecate_core::scan::{PerInput, ScanShape};
use hecate_core::{Activation, AnyRule, Dims, Input, Scalar};
use std::ops::Range;

/// Names in configs and errors: block, heads and rule of a memory.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryInfo {
    /// The rule.
    pub rule: AnyRule,
    /// Independent memories.
    pub heads: usize,
    /// Size of one.
    pub dims: Dims,
    /// Place of its states in the flat state.
    pub state: Range<usize>,
}

/// One input that is convolved.
struct Convolved {
    width: usize,
    unit: bool,
    /// Its projection; none for a share of the block's input.
    weight: Option<Range<usize>>,
    conv: Range<usize>,
    tail: Range<usize>,
}

/// Where the rule's n-th input comes from.
#[derive(Clone, Copy)]
enum Slot {
    Convolved,
    Gate,
}

/// The way out of a memory that stands alone.
struct WayOut {
    gate: Range<usize>,
    scale: Range<usize>,
    out: Range<usize>,
}

pub(crate) struct Memory {
    place: String,
    rule: AnyRule,
    heads: usize,
    dims: Dims,
    taps: usize,
    slots: Vec<Slot>,
    convolved: Vec<Convolved>,
    gates: Vec<GateSpec>,
    gate_weight: Range<usize>,
    gate_bias: Range<usize>,
    way_out: Option<WayOut>,
    starts: Starts,
    state: Range<usize>,
    state_len: usize,
}

#[derive(Debug, Default)]
pub(crate) struct MemoryTape<F> {
    pre: Vec<Vec<F>>,    // per convolved input: [T, H * width]
    tails: Vec<Vec<F>>,  // per convolved input: the convolution's tail before the call
    inputs: Vec<Vec<F>>, // per convolved input: [H, T, width]
    gate_pre: Vec<F>,    // [T, gates * H]
    gates: Vec<F>,       // per gate [H, T, width]
    saved: Vec<F>,       // [H, checkpoints, state_len]
    pub y: Vec<F>,       // [H, T, dv]
    g: Vec<F>,           // [T, H * dv]
    gated: Vec<F>,       // [T, H * dv]
}

impl<F> MemoryTape<F> {
    pub fn len(&self) -> usize {
        let lists = [&self.pre, &self.tails, &self.inputs].map(|l| l.iter().map(Vec::len).sum::<usize>());
        let rest = [&self.gate_pre, &self.gates, &self.saved, &self.y, &self.g, &self.gated].map(|v| v.len());
        lists.iter().sum::<usize>() + rest.iter().sum::<usize>()
    }
}

impl Memory {
    pub fn new(b: &mut Builder<'_>, config: &MemoryConfig, alone: bool) -> Self {
        let (heads, dims, taps) = (config.heads, config.dims(b.width), config.conv);
        let part = if alone { "mixer" } else { "mixer.memory" };
        let state_name = format!("{}.memory", b.prefix);
        let list = config.rule.inputs();
        let tensors = config.rule.state(dims);
        let (gates, bias) = gate_specs(&list, dims, heads);
        let mut memory = Self {
            place: b.prefix.clone(),
            rule: config.rule.clone(),
            heads,
            dims,
            taps,
            slots: Vec::new(),
            convolved: Vec::new(),
            gates,
            gate_weight: 0..0,
            gate_bias: 0..0,
            way_out: None,
            starts: Starts::default(),
            state: 0..0,
            state_len: config.rule.state_len(dims),
        };
        for input in &list {
            memory.add_input(b, part, input);
        }
        if !bias.is_empty() {
            let name = |what: &str| format!("{}.{part}.gates.{what}", b.prefix);
            // Half the size of other weights: at the start the biases rule.
            let init = Init::Normal(0.5 * (b.width as f64).powf(-0.5));
            memory.gate_weight = b.params.add(name("weight"), &[b.width, bias.len()], Kind::Gate, init);
            memory.gate_bias = b.params.add(name("bias"), &[bias.len()], Kind::Gate, Init::Row(bias));
        }
        memory.starts = Starts::new(b, part, heads, &tensors);
        memory.way_out = alone.then(|| WayOut {
            gate: b.weight(&format!("{part}.out_gate"), b.width, heads * dims.dv),
            scale: b.norm(&format!("{part}.out_norm"), heads * dims.dv),
            out: b.weight_out(&format!("{part}.out"), heads * dims.dv),
        });
        memory.state = b.state.add(state_name, Content::Memory { heads, tensors });
        memory
    }

    fn add_input(&mut self, b: &mut Builder<'_>, part: &str, input: &Input) {
        // Every other input is a gate, see `gate_specs`.
        if !input.activation.is_convolved() {
            return self.slots.push(Slot::Gate);
        }
        let unit = input.activation == Activation::Unit;
        let width = input.width.of(self.dims);
        let inner = self.heads * width;
        self.slots.push(Slot::Convolved);
        let whole = input.activation != Activation::Share;
        let weight = whole.then(|| b.weight(&format!("{part}.{}", input.name), b.width, inner));
        let conv_name = format!("{}.{part}.{}.conv", b.prefix, input.name);
        let conv = b.params.add(conv_name, &[self.taps, inner], Kind::Conv, Init::NewestTap(0.2));
        let tail_name = format!("{}.memory.{}.tail", b.prefix, input.name);
        let tail = b.state.add(tail_name, Content::Tensor(vec![self.taps.saturating_sub(1), inner]));
        self.convolved.push(Convolved { width, unit, weight, conv, tail });
    }

    pub fn info(&self) -> MemoryInfo {
        MemoryInfo { rule: self.rule.clone(), heads: self.heads, dims: self.dims, state: self.state.clone() }
    }

    /// Extent of the reads.
    pub fn head_shape(&self, tokens: usize) -> HeadShape {
        HeadShape { tokens, heads: self.heads, width: self.dims.dv }
    }

    fn conv_shape(&self, p: &Convolved, tokens: usize) -> ConvShape {
        let heads = HeadShape { tokens, heads: self.heads, width: p.width };
        ConvShape { heads, taps: self.taps, unit: p.unit }
    }

    fn scan_shape(&self, call_tokens: usize, pos: u64) -> ScanShape {
        ScanShape { heads: self.heads, tokens: call_tokens, dims: self.dims, pos }
    }

    /// The memory alone, with its way out: `out [T, width]` from the normed stream `x`.
    pub fn mix_forward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        state: &mut [O::F],
        tape: &mut MemoryTape<O::F>,
        out: &mut [O::F],
    ) -> Result<()> {
        self.forward(call, x, state, tape)?;
        let way = self.way_out.as_ref().expect("the memory stands alone");
        let n = tape.y.len();
        call.linear(&way.gate, x, fit(&mut tape.g, n));
        let scale = &call.params[way.scale.clone()];
        call.ops.gated_norm_forward(self.head_shape(call.tokens), &tape.y, scale, &tape.g, fit(&mut tape.gated, n));
        call.linear(&way.out, &tape.gated, out);
        Ok(())
    }

    /// Transpose of [`Memory::mix_forward`].
    pub fn mix_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        tape: &MemoryTape<O::F>,
        dout: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let way = self.way_out.as_ref().expect("the memory stands alone");
        let [mut dgated, mut dy, mut dg] = std::array::from_fn(|_| pool.zeros(tape.y.len()));
        call.linear_backward(&way.out, &tape.gated, dout, Some(&mut dgated), grads);
        let (s, scale) = (self.head_shape(call.tokens), &call.params[way.scale.clone()]);
        let dscale = &mut grads[way.scale.clone()];
        call.ops.gated_norm_backward(s, &tape.y, scale, &tape.g, &dgated, &mut dy, dscale, &mut dg);
        call.linear_backward(&way.gate, x, &dg, Some(dx), grads);
        self.backward(call, x, tape, &dy, dx, grads, pool)?;
        for buffer in [dgated, dy, dg] {
            pool.give(buffer);
        }
        Ok(())
    }

    /// Makes the inputs and runs the rule: the reads are in `tape.y [H, T, dv]`.
    pub fn forward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        state: &mut [O::F],
        tape: &mut MemoryTape<O::F>,
    ) -> Result<()> {
        let tokens = call.tokens;
        for list in [&mut tape.pre, &mut tape.tails, &mut tape.inputs] {
            list.resize_with(self.convolved.len(), Vec::new);
        }
        for (i, p) in self.convolved.iter().enumerate() {
            let channels = self.heads * p.width;
            let (pre, input) = (fit(&mut tape.pre[i], tokens * channels), &mut tape.inputs[i]);
            match &p.weight {
                Some(weight) => call.linear(weight, x, pre),
                None => pre.copy_from_slice(x),
            }
            let w = &call.params[p.conv.clone()];
            call.ops.conv_forward(self.conv_shape(p, tokens), pre, w, &state[p.tail.clone()], fit(input, pre.len()));
            if call.record {
                fit(&mut tape.tails[i], p.tail.len()).copy_from_slice(&state[p.tail.clone()]);
            }
            conv::push_tail(channels, self.taps, pre, &mut state[p.tail.clone()]);
        }
        call.linear(&self.gate_weight, x, fit(&mut tape.gate_pre, tokens * self.gate_bias.len()));
        let bias = &call.params[self.gate_bias.clone()];
        let values = self.heads * self.gates.iter().map(|g| g.width).sum::<usize>();
        let out = fit(&mut tape.gates, tokens * values);
        call.ops.gates_forward(&self.gates, tokens, self.heads, &tape.gate_pre, bias, out);

        let s = self.scan_shape(tokens, call.pos);
        let saved = if call.record { self.heads * s.checkpoints() * self.state_len } else { 0 };
        let saved = fit(&mut tape.saved, saved);
        let y = fit(&mut tape.y, self.head_shape(tokens).len());
        let inputs = inputs(&self.slots, &self.gates, tokens * self.heads, &tape.inputs, &tape.gates);
        let memory = &mut state[self.state.clone()];
        if call.pos == 0 && tokens > 0 {
            self.starts.pour(call.params, memory);
        }
        let saved = call.record.then_some(saved);
        let result = call.ops.scan_forward(&self.rule, s, &inputs, memory, y, saved, call.write);
        result.map_err(|source| Error::Core { place: self.place.clone(), source })
    }

    /// Transpose of [`Memory::forward`]; `dy [H, T, dv]`. The state at the start of the call is a constant, except
    /// before the first token, where its gradient is that of the learned starts.
    pub fn backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        tape: &MemoryTape<O::F>,
        dy: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let tokens = call.tokens;
        let mut dconvolved: Vec<Vec<O::F>> = tape.inputs.iter().map(|v| pool.zeros(v.len())).collect();
        let mut dgates = pool.zeros(tape.gates.len());
        let mut dstate = pool.zeros(self.heads * self.state_len);
        {
            let rows = tokens * self.heads;
            let inputs = inputs(&self.slots, &self.gates, rows, &tape.inputs, &tape.gates);
            let mut dinputs = inputs_mut(&self.slots, &self.gates, rows, &mut dconvolved, &mut dgates);
            let s = self.scan_shape(tokens, call.pos);
            call.ops
                .scan_backward(&self.rule, s, &inputs, &tape.saved, dy, &mut dinputs, &mut dstate)
                .map_err(|source| Error::Core { place: self.place.clone(), source })?;
        }
        if call.pos == 0 {
            self.starts.pour_backward(&dstate, grads);
        }
        let mut dpre = pool.zeros(tape.gate_pre.len());
        let bias = &call.params[self.gate_bias.clone()];
        let dbias = &mut grads[self.gate_bias.clone()];
        call.ops.gates_backward(&self.gates, tokens, self.heads, &tape.gate_pre, bias, &dgates, &mut dpre, dbias);
        call.linear_backward(&self.gate_weight, x, &dpre, Some(dx), grads);
        pool.give(dpre);
        for (i, p) in self.convolved.iter().enumerate() {
            let mut dpre = pool.zeros(tape.pre[i].len());
            let w = &call.params[p.conv.clone()];
            let dw = &mut grads[p.conv.clone()];
            let s = self.conv_shape(p, tokens);
            call.ops.conv_backward(s, &tape.pre[i], w, &tape.tails[i], &dconvolved[i], &mut dpre, dw);
            match &p.weight {
                Some(weight) => call.linear_backward(weight, x, &dpre, Some(dx), grads),
                None => dx.iter_mut().zip(&dpre).for_each(|(dx, &d)| *dx += d),
            }
            pool.give(dpre);
        }
        dconvolved.into_iter().chain([dgates, dstate]).for_each(|buffer| pool.give(buffer));
        Ok(())
    }

    /// Mean of each gate over heads and tokens of the recorded call, by the name of its input.
    pub fn gate_means<F: Scalar>(&self, tape: &MemoryTape<F>) -> Vec<(&'static str, f64)> {
        let names = self.rule.inputs();
        let gates = names.iter().filter(|i| !i.activation.is_convolved());
        let rows = tape.gates.len() / self.gates.iter().map(|g| g.width).sum::<usize>().max(1);
        let mut rest = tape.gates.as_slice();
        let mean = |(input, gate): (&Input, &GateSpec)| {
            let (part, tail) = rest.split_at(rows * gate.width);
            rest = tail;
            (input.name, part.iter().map(|x| x.value()).sum::<f64>() / part.len().max(1) as f64)
        };
        gates.zip(&self.gates).map(mean).collect()
    }

    /// Projections, convolutions, gates, the rule on every head, and the way out.
    pub fn flops(&self) -> f64 {
        let weight = |p: &Convolved| p.weight.as_ref().map_or(0, Range::len);
        let weights: usize = self.convolved.iter().map(|p| weight(p) + p.conv.len()).sum();
        let way = self.way_out.as_ref().map_or(0, |w| w.gate.len() + w.out.len());
        2.0 * (weights + self.gate_weight.len() + way) as f64 + self.heads as f64 * self.rule.flops(self.dims)
    }
}

/// The rule's inputs in its own order; `rows` is `H * T`. Slots count up in each kind, so two walks suffice.
fn inputs<'a, F>(
    slots: &[Slot],
    gates: &[GateSpec],
    rows: usize,
    convolved: &'a [Vec<F>],
    values: &'a [F],
) -> PerInput<&'a [F]> {
    let (mut convolved, mut gates, mut rest) = (convolved.iter(), gates.iter(), values);
    let pick = |s: &Slot| match s {
        Slot::Convolved => convolved.next().expect("one buffer per convolved input").as_slice(),
        Slot::Gate => {
            let (part, tail) = rest.split_at(rows * gates.next().expect("one spec per gate").width);
            rest = tail;
            part
        }
    };
    slots.iter().map(pick).collect()
}

/// The same for gradients.
fn inputs_mut<'a, F>(
    slots: &[Slot],
    gates: &[GateSpec],
    rows: usize,
    convolved: &'a mut [Vec<F>],
    values: &'a mut [F],
) -> PerInput<&'a mut [F]> {
    let (mut convolved, mut gates, mut rest) = (convolved.iter_mut(), gates.iter(), values);
    let pick = |s: &Slot| match s {
        Slot::Convolved => convolved.next().expect("one buffer per convolved input").as_mut_slice(),
        Slot::Gate => {
            let width = gates.next().expect("one spec per gate").width;
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(rows * width);
            rest = tail;
            part
        }
    };
    slots.iter().map(pick).collect()
}
