//! A memory that learns while it runs, with what makes its inputs.
//!
//! Every input of the rule is made as its [`Activation`] says: a projection with a short convolution, SiLU and
//! perhaps unit length, or a gate. What the memory holds before the first token is learned where the rule says so; see
//! [`starts`](super::starts).

use super::starts::Starts;
use super::{Builder, Call};
use crate::error::{Error, Result};
use crate::params::{Init, Kind};
use crate::pool::{Pool, fit};
use crate::state::Content;
use hecate_core::ops::{ConvShape, GateSpec, HeadShape, Ops, conv, gate_specs};
use hecate_core::rules::SurpriseGated;
use hecate_core::scan::{PerInput, ScanShape};
use hecate_core::{Activation, AnyRule, Dims, Holds, Input, Scalar, StateTensor};
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
    /// Which level of the block's memory it is, from 0.
    pub level: usize,
}

impl MemoryInfo {
    /// Of a state `[H, state_len]`: the root mean square over heads of its Euclidean norm, counts aside.
    pub(crate) fn norm<F: Scalar>(&self, state: &[F]) -> f64 {
        let tensors = self.tensors(state).filter(|(tensor, _)| tensor.holds != Holds::Counts);
        let sum: f64 = tensors.flat_map(|(_, own)| own).map(|x| x.value() * x.value()).sum();
        (sum / self.heads as f64).sqrt()
    }

    /// Of a state behind a gate: the share of late tokens that were written, the mean over heads.
    pub(crate) fn written<F: Scalar>(&self, state: &[F]) -> Option<f64> {
        let written = self
            .tensors(state)
            .filter(|(tensor, _)| tensor.holds == Holds::Counts && tensor.name == SurpriseGated::WRITTEN);
        let shares: Vec<f64> = written.map(|(_, own)| SurpriseGated::share(own)).collect();
        (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
    }

    /// Every tensor of every head.
    fn tensors<'a, F>(&self, state: &'a [F]) -> impl Iterator<Item = (StateTensor, &'a [F])> {
        let (tensors, mut rest) = (self.rule.state(self.dims), state);
        std::iter::repeat_n(tensors, self.heads).flatten().map(move |tensor| {
            let (own, tail) = rest.split_at(tensor.len());
            rest = tail;
            (tensor, own)
        })
    }
}

/// One memory as a mixer asks for it.
pub(super) struct Wanted<'a> {
    pub rule: &'a AnyRule,
    pub heads: usize,
    pub dims: Dims,
    /// Taps of the short convolution, and of that on queries.
    pub taps: usize,
    pub query_taps: usize,
    /// Level, from 0.
    pub level: usize,
    /// Names of its parameters and of its state, after the block's prefix.
    pub part: String,
    pub state: String,
}

/// The gradient of a memory's state and of its convolutions' tails: after a call on entry, before it on exit. What a
/// mixer that cuts a call into pieces hands from piece to piece, backwards.
#[derive(Debug, Default)]
pub(super) struct Flow<F> {
    /// `[H, state_len]`.
    pub state: Vec<F>,
    /// Per convolved input `[taps - 1, H * width]`.
    pub tails: Vec<Vec<F>>,
}

/// One input that is convolved.
pub(super) struct Convolved {
    width: usize,
    silu: bool,
    unit: bool,
    /// Whether a read looks at it.
    pub read: bool,
    taps: usize,
    /// Its projection; none for a share of the block's input.
    weight: Option<Range<usize>>,
    conv: Range<usize>,
    tail: Range<usize>,
}

impl Convolved {
    /// `x` through the projection, or as it is.
    pub fn project<O: Ops>(&self, call: &Call<'_, O>, x: &[O::F], pre: &mut [O::F]) {
        match &self.weight {
            Some(weight) => call.linear(weight, x, pre),
            None => pre.copy_from_slice(x),
        }
    }

    /// Transpose of [`Convolved::project`].
    pub fn project_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        dpre: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
    ) {
        match &self.weight {
            Some(weight) => call.linear_backward(weight, x, dpre, Some(dx), grads),
            None => super::add(dx, dpre),
        }
    }

    fn weight_len(&self) -> usize {
        self.weight.as_ref().map_or(0, Range::len)
    }
}

/// Where the rule's n-th input comes from.
#[derive(Clone, Copy)]
pub(super) enum Slot {
    Convolved,
    Gate,
}

pub(crate) struct Memory {
    pub(super) place: String,
    level: usize,
    pub(super) rule: AnyRule,
    pub(super) heads: usize,
    dims: Dims,
    pub(super) slots: Vec<Slot>,
    pub(super) convolved: Vec<Convolved>,
    pub(super) gates: Vec<GateSpec>,
    pub(super) gate_weight: Range<usize>,
    pub(super) gate_bias: Range<usize>,
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
}

impl<F> MemoryTape<F> {
    pub fn len(&self) -> usize {
        let lists = [&self.pre, &self.tails, &self.inputs].map(|l| l.iter().map(Vec::len).sum::<usize>());
        let rest = [&self.gate_pre, &self.gates, &self.saved, &self.y].map(|v| v.len());
        lists.iter().sum::<usize>() + rest.iter().sum::<usize>()
    }
}

impl Memory {
    pub fn new(b: &mut Builder<'_>, wanted: &Wanted<'_>) -> Self {
        let &Wanted { rule, heads, dims, level, ref part, .. } = wanted;
        let (list, tensors) = (rule.inputs(), rule.state(dims));
        let (gates, bias) = gate_specs(&list, dims, heads);
        let mut memory = Self {
            place: b.prefix.clone(),
            level,
            rule: rule.clone(),
            heads,
            dims,
            slots: Vec::new(),
            convolved: Vec::new(),
            gates,
            gate_weight: 0..0,
            gate_bias: 0..0,
            starts: Starts::default(),
            state: 0..0,
            state_len: rule.state_len(dims),
        };
        for input in &list {
            memory.add_input(b, wanted, input);
        }
        if !bias.is_empty() {
            let name = |what: &str| format!("{}.{part}.gates.{what}", b.prefix);
            // Half the size of other weights: at the start the biases rule.
            let init = Init::Normal(0.5 * (b.width as f64).powf(-0.5));
            memory.gate_weight = b.params.add(name("weight"), &[b.width, bias.len()], Kind::Gate, init);
            memory.gate_bias = b.params.add(name("bias"), &[bias.len()], Kind::Gate, Init::Row(bias));
        }
        memory.starts = Starts::new(b, part, heads, &tensors);
        let state = format!("{}.{}", b.prefix, wanted.state);
        memory.state = b.state.add(state, Content::Memory { heads, tensors });
        memory
    }

    fn add_input(&mut self, b: &mut Builder<'_>, wanted: &Wanted<'_>, input: &Input) {
        let part = &wanted.part;
        // Every other input is a gate, see `gate_specs`.
        if !input.activation.is_convolved() {
            return self.slots.push(Slot::Gate);
        }
        let (unit, share) = (input.activation == Activation::Unit, input.activation == Activation::Share);
        let width = input.width.of(self.dims);
        let inner = self.heads * width;
        self.slots.push(Slot::Convolved);
        let weight = (!share).then(|| b.weight(&format!("{part}.{}", input.name), b.width, inner));
        let conv_name = format!("{}.{part}.{}.conv", b.prefix, input.name);
        let taps = if input.name == "q" { wanted.query_taps } else { wanted.taps };
        let conv = b.params.add(conv_name, &[taps, inner], Kind::Conv, Init::NewestTap(0.2));
        let tail_name = format!("{}.{}.{}.tail", b.prefix, wanted.state, input.name);
        let tail = b.state.add(tail_name, Content::Tensor(vec![taps.saturating_sub(1), inner]));
        self.convolved.push(Convolved {
            width,
            silu: !share,
            unit,
            read: wanted.rule.erased().reads(input),
            taps,
            weight,
            conv,
            tail,
        });
    }

    pub fn info(&self) -> MemoryInfo {
        let (rule, state) = (self.rule.clone(), self.state.clone());
        MemoryInfo { rule, heads: self.heads, dims: self.dims, state, level: self.level }
    }

    /// Extent of the reads.
    pub fn head_shape(&self, tokens: usize) -> HeadShape {
        HeadShape { tokens, heads: self.heads, width: self.dims.dv }
    }

    /// Gate values of one token.
    pub(super) fn gate_values(&self) -> usize {
        self.heads * self.gates.iter().map(|g| g.width).sum::<usize>()
    }

    pub(super) fn conv_shape(&self, p: &Convolved, tokens: usize) -> ConvShape {
        let heads = HeadShape { tokens, heads: self.heads, width: p.width };
        ConvShape { heads, taps: p.taps, silu: p.silu, unit: p.unit }
    }

    pub(super) fn scan_shape(&self, call_tokens: usize, pos: u64) -> ScanShape {
        ScanShape { heads: self.heads, tokens: call_tokens, dims: self.dims, pos }
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
            p.project(call, x, pre);
            let w = &call.params[p.conv.clone()];
            call.ops.conv_forward(self.conv_shape(p, tokens), pre, w, &state[p.tail.clone()], fit(input, pre.len()));
            if call.record {
                fit(&mut tape.tails[i], p.tail.len()).copy_from_slice(&state[p.tail.clone()]);
            }
            conv::push_tail(channels, p.taps, pre, &mut state[p.tail.clone()]);
        }
        call.linear(&self.gate_weight, x, fit(&mut tape.gate_pre, tokens * self.gate_bias.len()));
        let bias = &call.params[self.gate_bias.clone()];
        let out = fit(&mut tape.gates, tokens * self.gate_values());
        call.ops.gates_forward(&self.gates, tokens, self.heads, &tape.gate_pre, bias, out);

        let s = self.scan_shape(tokens, call.pos);
        let saved = if call.record { self.heads * s.checkpoints() * self.state_len } else { 0 };
        let saved = fit(&mut tape.saved, saved);
        let y = fit(&mut tape.y, self.head_shape(tokens).len());
        let inputs = inputs(&self.slots, &self.gates, tokens * self.heads, &tape.inputs, &tape.gates);
        self.begin(call, state);
        let memory = &mut state[self.state.clone()];
        let saved = call.record.then_some(saved);
        let result = call.ops.scan_forward(&self.rule, s, &inputs, memory, y, saved, call.write(self.level));
        result.map_err(|source| Error::Core { place: self.place.clone(), source })
    }

    /// Puts the starts into the state before its first token.
    pub fn begin<O: Ops>(&self, call: &Call<'_, O>, state: &mut [O::F]) {
        if call.pos == 0 && call.tokens > 0 {
            self.starts.pour(call.params, &mut state[self.state.clone()]);
        }
    }

    /// Transpose of [`Memory::begin`], from the gradient of the state before the call.
    pub fn begin_backward<O: Ops>(&self, call: &Call<'_, O>, dstate: &[O::F], grads: &mut [O::F]) {
        if call.pos == 0 && !call.column {
            self.starts.pour_backward(dstate, grads);
        }
    }

    /// A flow of zeros: nothing after the call depends on its state.
    pub fn no_flow<F: Scalar>(&self, pool: &mut Pool<F>) -> Flow<F> {
        let tail = |p: &Convolved| pool.zeros(p.tail.len());
        let tails = self.convolved.iter().map(tail).collect();
        Flow { state: pool.zeros(self.heads * self.state_len), tails }
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
        // Along columns nothing flows through the state.
        let state = if call.column { 0 } else { self.heads * self.state_len };
        let mut flow = Flow { state: pool.zeros(state), tails: Vec::new() };
        self.flow_backward(call, x, tape, dy, &mut flow, dx, grads, pool)?;
        self.begin_backward(call, &flow.state, grads);
        pool.give(flow.state);
        Ok(())
    }

    /// [`Memory::backward`] with what flows back through the state, and through the tails where `flow` has some.
    pub fn flow_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        tape: &MemoryTape<O::F>,
        dy: &[O::F],
        flow: &mut Flow<O::F>,
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let tokens = call.tokens;
        let mut dconvolved: Vec<Vec<O::F>> = tape.inputs.iter().map(|v| pool.zeros(v.len())).collect();
        let mut dgates = pool.zeros(tape.gates.len());
        {
            let rows = tokens * self.heads;
            let inputs = inputs(&self.slots, &self.gates, rows, &tape.inputs, &tape.gates);
            let mut dinputs = inputs_mut(&self.slots, &self.gates, rows, &mut dconvolved, &mut dgates);
            let s = self.scan_shape(tokens, call.pos);
            let ops = call.ops;
            match call.column {
                true => ops.scan_column_backward(&self.rule, s, &inputs, &tape.saved, dy, &mut dinputs),
                false => ops.scan_backward(&self.rule, s, &inputs, &tape.saved, dy, &mut dinputs, &mut flow.state),
            }
            .map_err(|source| Error::Core { place: self.place.clone(), source })?;
        }
        self.gates_backward(call, x, &tape.gate_pre, &dgates, dx, grads, pool);
        for (i, p) in self.convolved.iter().enumerate() {
            let mut dpre = pool.zeros(tape.pre[i].len());
            match flow.tails.get_mut(i) {
                _ if call.column => {
                    let (s, w) = (self.conv_shape(p, tokens), &call.params[p.conv.clone()]);
                    call.ops.conv_column_backward(s, &tape.pre[i], w, &tape.tails[i], &dconvolved[i], &mut dpre);
                }
                Some(dtail) if !dtail.is_empty() => {
                    self.tailed_conv_backward(call, i, tape, &dconvolved[i], dtail, &mut dpre, grads, pool);
                }
                _ => {
                    let (w, dw) = (&call.params[p.conv.clone()], &mut grads[p.conv.clone()]);
                    let s = self.conv_shape(p, tokens);
                    call.ops.conv_backward(s, &tape.pre[i], w, &tape.tails[i], &dconvolved[i], &mut dpre, dw);
                }
            }
            p.project_backward(call, x, &dpre, dx, grads);
            pool.give(dpre);
        }
        dconvolved.into_iter().chain([dgates]).for_each(|buffer| pool.give(buffer));
        Ok(())
    }

    pub(super) fn gates_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &[O::F],
        gate_pre: &[O::F],
        dgates: &[O::F],
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) {
        let mut dpre = pool.zeros(gate_pre.len());
        let bias = &call.params[self.gate_bias.clone()];
        let dbias = call.grad(grads, &self.gate_bias);
        call.ops.gates_backward(&self.gates, call.tokens, self.heads, gate_pre, bias, dgates, &mut dpre, dbias);
        call.linear_backward(&self.gate_weight, x, &dpre, Some(dx), grads);
        pool.give(dpre);
    }

    /// The convolution's transpose where later rows depend on this call's: the rows of the tail stand before those of
    /// the call and read nothing. `dtail` is the gradient of the tail after the call on entry, before it on exit.
    fn tailed_conv_backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        i: usize,
        tape: &MemoryTape<O::F>,
        dy: &[O::F],
        dtail: &mut [O::F],
        dpre: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) {
        let p = &self.convolved[i];
        let (tokens, before) = (call.tokens, p.taps - 1);
        let s = self.conv_shape(p, before + tokens);
        let mut x = pool.take(s.heads.len());
        x[..dtail.len()].copy_from_slice(&tape.tails[i]);
        x[dtail.len()..].copy_from_slice(&tape.pre[i]);
        let (mut wide, nothing) = (pool.zeros(s.heads.len()), pool.zeros(dtail.len()));
        for (wide, dy) in wide.chunks_mut((before + tokens) * p.width).zip(dy.chunks(tokens * p.width)) {
            wide[before * p.width..].copy_from_slice(dy);
        }
        let mut dx = pool.zeros(s.heads.len());
        let last = dx.len() - dtail.len();
        dx[last..].copy_from_slice(dtail);
        let (w, dw) = (&call.params[p.conv.clone()], &mut grads[p.conv.clone()]);
        call.ops.conv_backward(s, &x, w, &nothing, &wide, &mut dx, dw);
        dtail.copy_from_slice(&dx[..dtail.len()]);
        dpre.copy_from_slice(&dx[dtail.len()..]);
        [x, wide, nothing, dx].into_iter().for_each(|buffer| pool.give(buffer));
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

    /// The state that the rule moves.
    pub fn state(&self) -> Range<usize> {
        self.state.clone()
    }

    /// What its state holds.
    pub fn content(&self) -> Content {
        Content::Memory { heads: self.heads, tensors: self.rule.state(self.dims) }
    }

    /// Projections and gates, and two operations for every number of the state.
    pub fn read_flops(&self) -> f64 {
        let weights: usize = self.convolved.iter().filter(|p| p.read).map(Convolved::weight_len).sum();
        2.0 * (weights + self.gate_weight.len() + self.state.len()) as f64
    }

    /// Projections, convolutions, gates, and the rule on every head.
    pub fn flops(&self) -> f64 {
        let weights: usize = self.convolved.iter().map(|p| p.weight_len() + p.conv.len()).sum();
        2.0 * (weights + self.gate_weight.len()) as f64 + self.heads as f64 * self.rule.flops(self.dims)
    }
}

/// The rule's inputs in its own order; `rows` is `H * T`. Slots count up in each kind, so two walks suffice.
pub(super) fn inputs<'a, F>(
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
pub(super) fn inputs_mut<'a, F>(
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
