//! A block: a mixer and a channel part, each behind a norm, each added to the stream.

mod attention;
mod mag;
mod memory;
mod mlp;
mod starts;

use crate::config::{BlockConfig, ChannelConfig, MixerConfig};
use crate::error::Result;
use crate::optim::InputLayout;
use crate::params::{Init, Kind, ParamLayout};
use crate::pool::{Pool, fit};
use crate::state::StateLayout;
pub(crate) use attention::SERVE_TOKENS;
use attention::{Attention, AttentionTape};
use hecate_core::Scalar;
use hecate_core::ops::{LinearShape, Ops};
use hecate_core::scan::Write;
use mag::{Mag, MagTape};
pub use memory::MemoryInfo;
use memory::{Memory, MemoryTape};
use mlp::{Mlp, MlpTape};
use std::ops::Range;

/// What one call brings to every part.
pub(crate) struct Call<'a, O: Ops> {
    pub ops: &'a O,
    pub params: &'a [O::F],
    /// Tokens of the call.
    pub tokens: usize,
    /// Tokens that the state took before it.
    pub pos: u64,
    /// Keep what the backward pass needs.
    pub record: bool,
    /// Whether the block's memory writes.
    pub write: Write,
    /// Rotary tables of the call, one per (head width, base) that the model uses.
    pub rope: &'a [RopeTable<O::F>],
    /// Where the backward pass adds the inputs of matrices as `x^T x`, if anyone asks.
    pub inputs: Option<&'a InputLayout>,
}

impl<'a, O: Ops> Call<'a, O> {
    /// `y = x w` for the weight at `w`.
    pub fn linear(&self, w: &Range<usize>, x: &[O::F], y: &mut [O::F]) {
        let s = self.linear_shape(w, x.len() / self.tokens.max(1));
        self.ops.linear_forward(s, x, &self.params[w.clone()], y);
    }

    /// Transpose of [`Call::linear`].
    pub fn linear_backward(
        &self,
        w: &Range<usize>,
        x: &[O::F],
        dy: &[O::F],
        dx: Option<&mut [O::F]>,
        grads: &mut [O::F],
    ) {
        let s = self.linear_shape(w, x.len() / self.tokens.max(1));
        let weight = &self.params[w.clone()];
        self.ops.linear_backward(s, x, weight, dy, dx, Some(&mut grads[w.clone()]));
        if let Some(at) = self.inputs.and_then(|inputs| inputs.find(w)) {
            self.ops.add_gram(s.inner, x, &mut grads[at]);
        }
    }

    fn linear_shape(&self, w: &Range<usize>, inner: usize) -> LinearShape {
        LinearShape { rows: self.tokens, inner, outer: w.len() / inner.max(1) }
    }

    /// The rotary table for heads of `width` under `base`.
    pub fn rope_table(&self, width: usize, base: f64) -> &'a [O::F] {
        let found = self.rope.iter().find(|t| t.width == width && t.base == base);
        &found.expect("the model lists every table that its blocks use").data
    }
}

/// Cosines and sines of a call's positions, `[T, width]`.
#[derive(Debug, Default)]
pub(crate) struct RopeTable<F> {
    pub width: usize,
    pub base: f64,
    pub frequencies: Vec<f64>,
    pub data: Vec<F>,
}

/// Names, depth and width while a model is laid out.
pub(crate) struct Builder<'a> {
    pub params: &'a mut ParamLayout,
    pub state: &'a mut StateLayout,
    /// Width of the stream.
    pub width: usize,
    /// Number of blocks, for the scale of what is added to the stream.
    pub depth: usize,
    /// Prefix of the names.
    pub prefix: String,
}

impl Builder<'_> {
    /// A weight `[inner, outer]` that keeps the size of its input.
    pub fn weight(&mut self, name: &str, inner: usize, outer: usize) -> Range<usize> {
        let init = Init::Normal((inner as f64).powf(-0.5));
        self.params.add(format!("{}.{name}.weight", self.prefix), &[inner, outer], Kind::Matrix, init)
    }
    /// A weight whose output joins the stream: smaller with depth, so that the stream's size does not grow with it.
    pub fn weight_out(&mut self, name: &str, inner: usize) -> Range<usize> {
        let init = Init::Normal((inner as f64 * 2.0 * self.depth as f64).powf(-0.5));
        self.params.add(format!("{}.{name}.weight", self.prefix), &[inner, self.width], Kind::Matrix, init)
    }
    /// The scale of a norm.
    pub fn norm(&mut self, name: &str, width: usize) -> Range<usize> {
        self.params.add(format!("{}.{name}.scale", self.prefix), &[width], Kind::Norm, Init::Constant(1.0))
    }
}

enum Mixer {
    Attention(Attention),
    Memory(Memory),
    Mag(Mag),
}

/// One block of a model: places of its parameters and state, no numbers.
pub(crate) struct Block {
    mixer_norm: Range<usize>,
    mixer: Mixer,
    channel: Option<(Range<usize>, Mlp)>,
}

/// What a block's backward pass needs of its forward pass.
#[derive(Debug, Default)]
pub(crate) struct BlockTape<F> {
    x: Vec<F>,
    normed: Vec<F>,
    attention: AttentionTape<F>,
    memory: MemoryTape<F>,
    mag: MagTape<F>,
    middle: Vec<F>,
    normed_middle: Vec<F>,
    mlp: MlpTape<F>,
}

impl<F: Scalar> BlockTape<F> {
    /// Whether the stream before and inside the block is finite.
    pub fn is_finite(&self) -> bool {
        [&self.x, &self.normed, &self.middle, &self.normed_middle].iter().all(|v| v.iter().all(|x| x.is_finite()))
    }
    /// Number of values that it holds.
    pub fn len(&self) -> usize {
        let own = self.x.len() + self.normed.len() + self.middle.len() + self.normed_middle.len();
        own + self.attention.len() + self.memory.len() + self.mag.len() + self.mlp.len()
    }
}

impl Block {
    pub fn new(b: &mut Builder<'_>, config: &BlockConfig) -> Self {
        let mixer_norm = b.norm("mixer_norm", b.width);
        let mixer = match &config.mixer {
            MixerConfig::Attention(a) => Mixer::Attention(Attention::new(b, a, true)),
            MixerConfig::Memory(m) => Mixer::Memory(Memory::new(b, m, true)),
            MixerConfig::Mag(g) => Mixer::Mag(Mag::new(b, g)),
        };
        let channel = match &config.channel {
            ChannelConfig::Mlp(m) => Some((b.norm("channel_norm", b.width), Mlp::new(b, m))),
            ChannelConfig::None => None,
        };
        Self { mixer_norm, mixer, channel }
    }

    fn attention(&self) -> Option<&Attention> {
        match &self.mixer {
            Mixer::Attention(a) => Some(a),
            Mixer::Mag(g) => Some(&g.attention),
            Mixer::Memory(_) => None,
        }
    }

    fn memory(&self) -> Option<&Memory> {
        match &self.mixer {
            Mixer::Memory(m) => Some(m),
            Mixer::Mag(g) => Some(&g.memory),
            Mixer::Attention(_) => None,
        }
    }

    /// What inspection shows of the block's memory.
    pub fn memory_info(&self) -> Option<MemoryInfo> {
        self.memory().map(Memory::info)
    }

    /// Means of the memory's gates in the recorded call.
    pub fn gate_means<F: Scalar>(&self, tape: &BlockTape<F>) -> Vec<(&'static str, f64)> {
        match &self.mixer {
            Mixer::Attention(_) => Vec::new(),
            Mixer::Memory(m) => m.gate_means(&tape.memory),
            Mixer::Mag(g) => g.memory.gate_means(&tape.mag.memory),
        }
    }

    /// Head width and base of its rotary table.
    pub fn rope_key(&self) -> Option<(usize, f64)> {
        self.attention().map(|a| (a.width, a.base))
    }

    /// Adds the block to the stream `x: [T, width]`.
    pub fn forward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        x: &mut [O::F],
        state: &mut [O::F],
        tape: &mut BlockTape<O::F>,
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let width = self.mixer_norm.len();
        if call.record {
            fit(&mut tape.x, x.len()).copy_from_slice(x);
        }
        let normed = fit(&mut tape.normed, x.len());
        call.ops.rms_norm_forward(width, x, &call.params[self.mixer_norm.clone()], normed);
        let mut out = pool.take(x.len());
        match &self.mixer {
            Mixer::Attention(a) => a.mix_forward(call, &tape.normed, state, &mut tape.attention, pool, &mut out),
            Mixer::Memory(m) => m.mix_forward(call, &tape.normed, state, &mut tape.memory, &mut out)?,
            Mixer::Mag(g) => g.forward(call, &tape.normed, state, &mut tape.mag, pool, &mut out)?,
        }
        add(x, &out);
        if let Some((norm, mlp)) = &self.channel {
            if call.record {
                fit(&mut tape.middle, x.len()).copy_from_slice(x);
            }
            let normed = fit(&mut tape.normed_middle, x.len());
            call.ops.rms_norm_forward(width, x, &call.params[norm.clone()], normed);
            mlp.forward(call, &tape.normed_middle, &mut tape.mlp, &mut out);
            add(x, &out);
        }
        pool.give(out);
        Ok(())
    }

    /// Transpose of [`Block::forward`]: `dx` is the gradient of the stream after the block on entry, before it on exit.
    pub fn backward<O: Ops>(
        &self,
        call: &Call<'_, O>,
        tape: &BlockTape<O::F>,
        dx: &mut [O::F],
        grads: &mut [O::F],
        pool: &mut Pool<O::F>,
    ) -> Result<()> {
        let width = self.mixer_norm.len();
        let norm_backward = |norm: &Range<usize>, x: &[O::F], dy: &[O::F], dx: &mut [O::F], grads: &mut [O::F]| {
            let scale = &call.params[norm.clone()];
            call.ops.rms_norm_backward(width, x, scale, dy, dx, &mut grads[norm.clone()]);
        };
        if let Some((norm, mlp)) = &self.channel {
            let mut dnormed = pool.zeros(dx.len());
            mlp.backward(call, &tape.normed_middle, &tape.mlp, dx, &mut dnormed, grads, pool);
            norm_backward(norm, &tape.middle, &dnormed, dx, grads);
            pool.give(dnormed);
        }
        let mut dnormed = pool.zeros(dx.len());
        match &self.mixer {
            Mixer::Attention(a) => {
                a.mix_backward(call, &tape.normed, &tape.attention, dx, &mut dnormed, grads, pool);
            }
            Mixer::Memory(m) => m.mix_backward(call, &tape.normed, &tape.memory, dx, &mut dnormed, grads, pool)?,
            Mixer::Mag(g) => g.backward(call, &tape.normed, &tape.mag, dx, &mut dnormed, grads, pool)?,
        }
        norm_backward(&self.mixer_norm, &tape.x, &dnormed, dx, grads);
        pool.give(dnormed);
        Ok(())
    }

    /// Floating-point operations of one token, forward, in a call of `tokens` tokens that starts at `pos`.
    pub fn flops(&self, tokens: usize, pos: u64) -> f64 {
        let mixer = match &self.mixer {
            Mixer::Attention(a) => a.flops(tokens, pos),
            Mixer::Memory(m) => m.flops(),
            Mixer::Mag(g) => g.flops(tokens, pos),
        };
        mixer + self.channel.as_ref().map_or(0.0, |(_, mlp)| mlp.flops())
    }
}

fn add<F: Scalar>(x: &mut [F], y: &[F]) {
    for (x, &y) in x.iter_mut().zip(y) {
        *x += y;
    }
}
